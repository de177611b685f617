//! Floor 3: quantization.
pub mod observer;
pub mod place;
pub mod range;
pub mod report;
