//! Floor 3: quantization.
pub mod calibrate;
pub mod observer;
pub mod place;
pub mod ptq;
pub mod range;
pub mod recipe;
pub mod report;
pub mod stats;
pub mod weights;
