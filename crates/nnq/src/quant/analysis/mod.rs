//! Where accuracy goes, and why: the mathematics of `nnq analyze`.
//!
//! A *unit* ([`mod@unit`]) is a step of the integer program that rounds. For each, [`layers`] recomputes the float layer with one cause of error
//! switched on at a time (local counterfactuals) and compares with the float output. [`mix`] makes networks of which only some units are
//! quantized, for measurements on a true metric ([`score`]). [`channels`] keeps the extremes and moments of the channels of values.
pub mod channels;
mod energy;
pub mod layers;
pub mod mix;
pub mod score;
pub mod unit;

pub use energy::Energy;
pub use layers::{Cause, Layers, UnitLoss};
pub use unit::{Operand, Unit, units};
