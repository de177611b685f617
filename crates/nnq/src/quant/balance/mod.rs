//! Changes of a float network that leave its function (nearly) as it is and make it easier to quantize.
mod absorb;
mod basis;
mod chain;
mod equalize;
mod factors;
mod smooth;

pub(crate) use absorb::unknown as unknown_to_absorb;
pub use absorb::{Absorbed, absorb};
pub use basis::Based;
pub(crate) use basis::{Moments, change_basis, wanted as wanted_for_basis};
pub(crate) use chain::{drops_space, over_space};
pub use equalize::{Equalized, equalize};
pub(crate) use smooth::unknown as unknown_to_smooth;
pub use smooth::{Reach, Smoothed, Smoothing, smooth};

#[cfg(test)]
mod tests;
