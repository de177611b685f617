//! The command line of `nnq run`.
use super::{Engine, Output, Threads, Tuning};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `nnq run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  nnq run net.onnx --input x.npy --engine float -o y.npy
  nnq run mobilenet.onnx --input cat.jpg --preprocess imagenet -o logits.npy
  nnq run stories.onnx --tokenizer tokenizer.json --prompt Once --tokens 100")]
pub struct Run {
    /// The model, ONNX
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// The input: an npy file with the tensor itself, or a picture that --preprocess turns into one. Once per model input
    #[arg(long, value_name = "FILE", required_unless_present = "prompt")]
    pub input: Vec<PathBuf>,
    #[command(flatten)]
    pub engine: Engine,
    /// How a picture becomes a tensor: imagenet, cifar10, mnist, inception, raw or a TOML file
    #[arg(long, value_name = "NAME|FILE.toml")]
    pub preprocess: Option<String>,
    #[command(flatten)]
    pub text: Text,
    #[command(flatten)]
    pub threads: Threads,
    /// The npy file to write; further outputs of the model go to OUT.1.npy, OUT.2.npy, ...
    #[arg(short, long, value_name = "OUT.npy", required_unless_present = "prompt")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub tuning: Tuning,
    #[command(flatten)]
    pub output: Output,
}

/// Text from a language model.
#[derive(Debug, Args)]
#[group(id = "text", multiple = true)]
pub struct Text {
    /// The beginning of a text: the model goes on
    #[arg(long, value_name = "TEXT", requires = "tokenizer", conflicts_with_all = ["input", "preprocess", "out", "tune"])]
    pub prompt: Option<String>,
    /// The tokenizer of the model
    #[arg(long, value_name = "tokenizer.json", requires = "prompt")]
    pub tokenizer: Option<PathBuf>,
    /// The most tokens to add
    #[arg(long, value_name = "N", default_value = "128", requires = "prompt")]
    pub tokens: u32,
    /// 0: the likeliest token always; higher: drawn, the more evenly the higher
    #[arg(long, value_name = "T", default_value = "0", requires = "prompt")]
    pub temperature: f64,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value = "0", requires = "prompt")]
    pub seed: u64,
    /// How a model with inputs past... and outputs present... keeps what tokens leave for the next: f32, f16, int8
    #[arg(long, value_name = "TYPE", default_value = "f32", requires = "prompt")]
    pub cache: nnq::text::Storage,
}
