//! Floor 3: quantization.
pub mod balance;
pub mod calibrate;
pub mod channels;
pub mod expect;
pub mod moments;
pub mod observer;
pub mod place;
pub mod ptq;
pub mod range;
pub mod recipe;
pub mod reconstruct;
pub mod report;
pub mod resume;
pub mod rounder;
mod stage;
pub mod stats;
pub mod streams;
pub mod weights;
