//! Floor 0 of nnq: low-precision kernels. Slices in, slices out; the only unsafe code of the
//! project; knows no tensor and no graph.
//!
//! Every kernel takes the instruction set to use as a value ([`Isa`]). The scalar code is the
//! specification; the vector code gives the same bits, for every shape and every input.
pub mod conv;
pub mod depthwise;
pub mod eltwise;
pub mod isa;
pub mod layout;
pub mod mmap;
pub mod peak;
pub mod pool;
pub mod round;
mod simd;

pub use conv::SLACK;
pub use isa::Isa;
