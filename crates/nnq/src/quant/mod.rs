//! Floor 3: quantization.
pub mod analysis;
pub mod balance;
pub mod calibrate;
pub mod moments;
pub mod observer;
pub mod place;
pub mod ptq;
pub mod range;
pub mod recipe;
pub mod reconstruct;
pub mod report;
pub mod rounder;
pub mod stats;
pub mod weights;
