//! nnq: neural-network quantization.
#![forbid(unsafe_code)]
