//! The command line of `nnq train` and `nnq reconstruct` where training is not built in.
use clap::Args;

/// Arguments of `nnq train`.
#[derive(Debug, Args)]
#[command(after_help = "Training is NOT built into this nnq. Build it with: cargo build --release --features train")]
pub struct Train {
    /// Whatever was asked for
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Arguments of `nnq reconstruct`.
pub type Reconstruct = Train;
