//! Floor 0 of nnq: low-precision kernels. Slices in, slices out; the only unsafe code of the
//! project; knows no tensor and no graph.
pub mod mmap;
pub mod round;
