//! The command line of `nnq zoo`, and what other commands take of a network of the zoo.
use super::Output;
use clap::Args;
use nnq::zoo::Wanted;
use std::path::PathBuf;

/// Arguments of `nnq zoo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  nnq zoo
  nnq zoo resnet50 -o resnet50.onnx
  nnq zoo resnet18 --weights resnet18.pth -o resnet18.onnx")]
pub struct Zoo {
    /// The network to build; without it, the networks that there are
    #[arg(value_name = "NAME", requires = "out")]
    pub name: Option<String>,
    /// Seed of the random weights
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
    #[command(flatten)]
    pub start: Start,
    /// The model to write
    #[arg(short, long, value_name = "OUT.onnx", requires = "name")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// What a network of the zoo begins with.
#[derive(Debug, Args)]
pub struct Start {
    /// Weights to begin with, of torchvision's names: safetensors, or a state_dict by torch.save
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Outputs of the network; a last layer of another size than the weights' stays random
    #[arg(long, value_name = "N")]
    pub outputs: Option<usize>,
}

impl Start {
    /// The network of this name.
    pub fn wanted(&self, name: &str, seed: u64) -> Wanted {
        Wanted { name: name.into(), outputs: self.outputs, weights: self.weights.clone(), seed }
    }
}
