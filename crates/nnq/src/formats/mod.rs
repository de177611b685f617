//! Floor 2: file formats. Each reads and writes the IR, nothing else.
pub mod onnx;
pub mod weights;
