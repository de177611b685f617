//! Training with quantization in the loop, on the framework [burn](https://burn.dev).
//!
//! burn brings tensors, automatic differentiation, optimizers and schedules; graphs, grids, data and export are nnq's. A training run walks
//! nnq's graph ([`net`]) with a fake quantizer ([`fake`]) behind every value that the lowering will hold as codes, on the same grid. What was
//! trained goes back into the graph as annotations, so that exporter and integer engine see nothing new.
//!
//! [`job::run`] is the whole flow behind `nnq train`, [`reconstruct::run`] that behind `nnq reconstruct`.
#![forbid(unsafe_code)]

pub mod augment;
pub mod backend;
pub mod batches;
pub mod begin;
pub mod checkpoint;
pub mod conv;
pub mod fake;
pub mod finish;
pub mod hessian;
pub mod job;
pub mod loss;
pub mod low;
pub mod net;
pub mod norm;
pub mod optimizer;
pub mod output;
pub mod params;
pub mod place;
pub mod precision;
pub mod qat;
pub mod reconstruct;
mod report;
#[cfg(test)]
mod testing;
mod trainer;
mod weights;

pub use nnq::{Error, ErrorKind, Result};
pub use nnq_kernels::mmap::keep_freed;
pub use report::{EpochReport, Event, Outcome, StepReport};
