//! What the command lines of `nnq train` and `nnq reconstruct` share.
use super::Writing;
use clap::Args;

/// Where to compute, and what to write.
#[derive(Debug, Args)]
pub struct Learning {
    /// Where to compute: cpu, or cuda[:N], wgpu and libtorch where they are built in
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    #[command(flatten)]
    pub writing: Writing,
}
