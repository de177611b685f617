//! The command line of `nnq eval`.
use super::{Engine, Output, Reading, Threads, Tuning};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `nnq eval`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  nnq eval net.int8.onnx --data cifar --preprocess cifar10 --engine int
  nnq eval bert.int8.onnx --data reviews.tsv --tokenizer tokenizer.json --reference bert.onnx
  nnq eval bert.int8.onnx --data pairs.csv --tokenizer tokenizer.json --reference bert.onnx
  nnq eval stories.int4.onnx --data stories.txt --tokenizer tokenizer.json --length 512")]
pub struct Eval {
    /// The model, ONNX
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Labelled data: folder of pictures, npy/npz, CIFAR-10 or IDX files; with --tokenizer lines of text,label, of text,text,label
    /// (under that heading) or of sentence,sentence,score (csv or tsv), or texts (txt): lines, or what lies between lines of <|endoftext|>
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The tokenizer of a network of text: right classes of texts are counted, or how well cosines of its sentence embeddings follow the
    /// scores is measured, or how well it foretells the next token of texts
    #[arg(long, value_name = "tokenizer.json")]
    pub tokenizer: Option<PathBuf>,
    /// The float network that this one was made from: its embeddings or its right classes are compared with
    #[arg(long, value_name = "MODEL.onnx", requires = "tokenizer")]
    pub reference: Option<PathBuf>,
    #[command(flatten)]
    pub engine: Engine,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub threads: Threads,
    /// Samples that run at once [default: 32, or 1 for models quantized dynamically, whose results depend on it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Only the first N samples
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// The most tokens of a text; what is longer is cut
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..), requires = "tokenizer")]
    pub length: Option<u32>,
    #[command(flatten)]
    pub tuning: Tuning,
    #[command(flatten)]
    pub output: Output,
}
