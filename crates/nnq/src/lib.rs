//! nnq: neural-network quantization. ONNX in, integers out.
#![forbid(unsafe_code)]

pub mod data;
pub mod error;
pub mod exec;
pub mod formats;
pub mod ir;
pub mod numbers;
pub mod quant;

pub use error::{Error, ErrorKind, Result};
