//! Floor 3: quantization.
pub mod observer;
pub mod range;
pub mod recipe;
pub mod stats;
pub mod weights;
