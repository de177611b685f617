//! Floor 3: quantization.
pub mod place;
pub mod report;
