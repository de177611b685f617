//! nnq: neural-network quantization. ONNX in, integers out.
#![forbid(unsafe_code)]

pub mod analyze;
pub mod bench;
pub mod data;
pub mod demo;
pub mod engine;
pub mod error;
pub mod eval;
pub mod exec;
pub mod formats;
pub mod inspect;
pub mod ir;
pub mod judge;
mod machine;
pub mod numbers;
pub mod quant;
pub mod quantize;
pub mod run;
pub mod search;
pub mod staging;
pub mod text;
pub mod tune;
pub mod zoo;

pub use error::{Error, ErrorKind, Result};
