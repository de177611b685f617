//! What the command lines of `nnq train` and `nnq reconstruct` share.
use super::{Format, Output, Pack, Threads};
use clap::Args;
use std::path::PathBuf;

/// The network to write, and by what means.
#[derive(Debug, Args)]
pub struct Writing {
    /// How a quantized network is written
    #[arg(long, value_name = "FORMAT", default_value = "qdq")]
    pub format: Format,
    /// The narrowest element type of weights of few bits: int4 (opset 21), int2 (opset 25), or never less than a byte
    #[arg(long, value_name = "TYPE", default_value = "int4")]
    pub pack: Pack,
    /// Where to compute: cpu, or cuda[:N] and wgpu where they are built in
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    #[command(flatten)]
    pub threads: Threads,
    /// The network to write
    #[arg(short, long, value_name = "OUT.onnx")]
    pub out: PathBuf,
    #[command(flatten)]
    pub output: Output,
}
