//! Changes of a float network that leave its function (nearly) as it is and make it easier to quantize.
mod equalize;

pub use equalize::{Equalized, equalize};
