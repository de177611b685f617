//! The command line of `nnq train`.
use super::{Choice, Format, Output, Pack, Reading, Threads};
use clap::{Args, ValueEnum};
use nnq_train::{augment::Augment, fake::Estimator};
use std::path::PathBuf;

/// Arguments of `nnq train`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  nnq train net.onnx --data cifar --eval cifar --preprocess cifar10 --bits w4a4 -o int4.onnx
  nnq train net.onnx --data cifar --eval cifar --preprocess cifar10 -o tuned.onnx
  nnq train --zoo resnet20 --data cifar --preprocess cifar10 --epochs 30 -o net.onnx

With --bits or --recipe values are rounded in training as they will be in the quantized network, which is written; without, the network is
trained in floating point. Stop it at any time: with --checkpoint it goes on where it stopped, and ends with the same bytes.")]
pub struct Train {
    /// The float network, ONNX
    #[arg(value_name = "MODEL.onnx", required_unless_present = "zoo", conflicts_with = "zoo")]
    pub model: Option<PathBuf>,
    /// Train a network of the zoo from random weights instead
    #[arg(long, value_name = "NAME")]
    pub zoo: Option<String>,
    /// Labelled training data: folder of pictures, npy/npz, CIFAR-10 or IDX files
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Labelled data to measure accuracy on; nothing is chosen by it
    #[arg(long, value_name = "DIR")]
    pub eval: Option<PathBuf>,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub choice: Choice,
    /// Passes over the training data
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub epochs: u64,
    /// Samples of a step
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch: u32,
    /// The highest learning rate [default: 0.001, which suits trained networks with folded normalisation; 0.1 with --zoo]
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// What the learning rate of the grids' scales is multiplied with
    #[arg(long, value_name = "FACTOR", default_value = "1")]
    pub scale_lr: f64,
    /// How gradients become steps
    #[arg(long, value_name = "METHOD", default_value = "sgd")]
    pub optimizer: Optimizer,
    /// What sgd keeps of the last step
    #[arg(long, value_name = "SHARE", default_value = "0.9")]
    pub momentum: f64,
    /// Decay of weights; biases, normalisation and scales do not decay
    #[arg(long, value_name = "RATE", default_value = "1e-4")]
    pub weight_decay: f64,
    /// How the learning rate goes
    #[arg(long, value_name = "WAY", default_value = "cosine")]
    pub schedule: Schedule,
    /// Steps in which the learning rate rises at the beginning
    #[arg(long, value_name = "STEPS", default_value = "0")]
    pub warm_up: u64,
    /// Random changes of training images: a list of crop[:PIXELS], flip, cutout[:PIXELS], or none
    #[arg(long, value_name = "LIST", default_value = "none")]
    pub augment: Augment,
    /// The share of each label that is spread over all classes
    #[arg(long, value_name = "SHARE", default_value = "0")]
    pub smoothing: f32,
    /// Also learn from the float network's answers; the number is its share of the loss
    #[arg(long, value_name = "SHARE", num_args = 0..=1, require_equals = true, default_missing_value = "0.5")]
    pub distill: Option<f32>,
    /// What the answers are softened by for --distill
    #[arg(long, value_name = "T", default_value = "1")]
    pub temperature: f32,
    /// How gradients pass a rounding: ste, clipped, ewgs[:DELTA] or dsq[:ALPHA]
    #[arg(long, value_name = "RULE", default_value = "clipped")]
    pub estimator: Estimator,
    /// How the scales of grids learn
    #[arg(long, value_name = "RULE", default_value = "lsq")]
    pub quantizer: Quantizer,
    /// Keep the state of the run in this file, and go on from it where it is there
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Steps between two checkpoints
    #[arg(long, value_name = "STEPS", default_value = "100", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_every: u64,
    /// Measure accuracy after each so many epochs; 0: at the end only
    #[arg(long, value_name = "N", default_value = "1")]
    pub eval_every: u64,
    /// A file that gets a line of JSON for each epoch and every tenth step
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
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

/// `--optimizer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Optimizer {
    Sgd,
    Adamw,
}

/// `--schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Schedule {
    Cosine,
    Constant,
}

/// `--quantizer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quantizer {
    /// Learned step sizes
    Lsq,
    /// Learned clipping levels of activations
    Pact,
    /// As calibration found them
    Fixed,
}
