//! The command line of `nnq train`.
use super::{Choice, Learning, Reading, Start};
use clap::{Args, ValueEnum};
use nnq_train::{
    augment::Augment,
    fake::Estimator,
    qat::{BitsSchedule, Normalization},
};
use std::path::PathBuf;

/// Arguments of `nnq train`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  nnq train net.onnx --data cifar --bits w4a4 --epochs 10 --augment crop,flip -o net.int4.onnx
  nnq train net.onnx --data cifar --eval cifar --preprocess cifar10 --epochs 10 -o tuned.onnx
  nnq train net.onnx --begin net.int4.onnx --data cifar --bits w4a4 --lr 1e-4 -o better.int4.onnx
  nnq train --zoo resnet20 --data cifar --epochs 30 --augment crop,flip -o resnet20.onnx
  nnq train --zoo resnet18 --weights resnet18.pth --outputs 10 --data pictures -o tuned.onnx
  nnq train net.onnx --data cifar --bits-schedule w8a8,w2a4 --weight-quantizer ternary -o net.onnx

With --bits or --recipe values are rounded in training as they will be in the quantized network, which is written; without, the network is
trained in floating point. Stop it at any time: with --checkpoint it goes on where it stopped, and ends with the same bytes.")]
pub struct Train {
    /// The float network, ONNX
    #[arg(value_name = "MODEL.onnx", required_unless_present = "zoo", conflicts_with = "zoo")]
    pub model: Option<PathBuf>,
    /// Train a network of the zoo instead, from random weights or those of --weights
    #[arg(long, value_name = "NAME")]
    pub zoo: Option<String>,
    #[command(flatten)]
    pub start: Start,
    /// Begin with the codes and grids of this quantized network, made from MODEL.onnx by nnq quantize, reconstruct or train with the same
    /// choices
    #[arg(long, value_name = "QUANTIZED.onnx", conflicts_with = "zoo")]
    pub begin: Option<PathBuf>,
    /// Labelled training data: folder of pictures, npy/npz, CIFAR-10 or IDX files
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Labelled data to measure accuracy on; nothing is chosen by it
    #[arg(long, value_name = "DIR")]
    pub eval: Option<PathBuf>,
    /// Train on so many of the samples only, as many of each class
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub balanced: Option<u64>,
    /// Hold out this share of the training data, of each class alike, and measure accuracy on it between epochs; in the end, too, without --eval
    #[arg(long, value_name = "SHARE")]
    pub validation: Option<f64>,
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
    /// Compute each batch in so many parts, side by side on the cores. Live batch normalisation goes by the statistics of a part. Results depend on the parts, not on threads
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub parts: u32,
    /// The highest learning rate [default: 0.001, which suits trained networks with folded normalisation; 0.1 with --zoo, 0.01 with its --weights]
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// What the learning rate of the grids' scales is multiplied with
    #[arg(long, value_name = "FACTOR", default_value = "1")]
    pub scale_lr: f64,
    /// What the learning rate of weights is multiplied with; 0: they keep their codes, with --weight-quantizer fixed
    #[arg(long, value_name = "FACTOR", default_value = "1")]
    pub weight_lr: f64,
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
    /// Write a moving average of what is trained instead of the last step's, which keeps DECAY of itself at each step (less of it in the first steps)
    #[arg(long, value_name = "DECAY", num_args = 0..=1, require_equals = true, default_missing_value = "0.99")]
    pub average: Option<f64>,
    /// The largest norm of all gradients together, longer ones are shortened; 0: none is [default: 1; 0 with --zoo]
    #[arg(long, value_name = "NORM")]
    pub clip_norm: Option<f64>,
    /// Random changes of training images: a list of color[:SHARE], zoom[:SHARE] (a part of at least that share of the area, 0.35, as large as the image), crop[:PIXELS], flip, cutout[:PIXELS], mixup[:ALPHA[:SHARE]] (the last SHARE of the epochs without), shrink:PIXELS[:SHARE] (the shorter side so long, but for the last SHARE, a quarter, of the epochs), or none
    #[arg(long, value_name = "LIST", default_value = "none")]
    pub augment: Augment,
    /// The share of each label that is spread over all classes
    #[arg(long, value_name = "SHARE", default_value = "0")]
    pub smoothing: f32,
    /// Also learn from the float network's answers; the number is its share of the loss
    #[arg(long, value_name = "SHARE", num_args = 0..=1, require_equals = true, default_missing_value = "0.5")]
    pub distill: Option<f32>,
    /// Also learn what the float network has inside: the squared distance at the ends of its parts, in shares of its size, times the number
    #[arg(long, value_name = "WEIGHT", num_args = 0..=1, require_equals = true, default_missing_value = "1", requires = "distill")]
    pub distill_features: Option<f32>,
    /// What the answers are softened by for --distill
    #[arg(long, value_name = "T", default_value = "1")]
    pub temperature: f32,
    /// How gradients pass a rounding: ste, clipped, ewgs[:DELTA], dsq[:ALPHA] or reste[:O]
    #[arg(long, value_name = "RULE", default_value = "clipped")]
    pub estimator: Estimator,
    /// How activations are rounded: how their scales learn, or on which levels they lie
    #[arg(long, value_name = "RULE", default_value = "lsq")]
    pub quantizer: Quantizer,
    /// How weights are rounded [default: as activations; lsq for pact]
    #[arg(long, value_name = "RULE")]
    pub weight_quantizer: Option<WeightQuantizer>,
    /// What convolutions answer while their weights are rounded: as it comes (folded), or normalised by the batch, the last SHARE of the steps by
    /// running statistics (live[:SHARE])
    #[arg(long, value_name = "HOW", default_value = "folded")]
    pub batch_norm: Normalization,
    /// Bits in stages of as many steps, such as w8a8,w4a4,w2a2; the last ones are those of the result
    #[arg(long, value_name = "LIST", conflicts_with = "bits")]
    pub bits_schedule: Option<BitsSchedule>,
    /// Round the gradients of convolutions and matrix products to so many bits on their way back
    #[arg(long, value_name = "BITS")]
    pub gradient_bits: Option<u8>,
    /// Keep weights between steps on a grid of so many bits
    #[arg(long, value_name = "BITS")]
    pub update_bits: Option<u8>,
    /// How --gradient-bits and --update-bits round
    #[arg(long, value_name = "HOW", default_value = "stochastic")]
    pub gradient_rounding: GradientRounding,
    /// What convolutions and matrix products are computed of; f16 scales the loss
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    pub precision: Precision,
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
    #[command(flatten)]
    pub learning: Learning,
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

/// `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Precision {
    F32,
    Bf16,
    F16,
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
    /// Clipped to [0, 1] (DoReFa)
    Dorefa,
    /// What has 2 bits: {0, s}, or {-s, 0, s} where it can be negative
    Binary,
    /// What has 2 bits: {-s, 0, s}
    Ternary,
}

/// `--weight-quantizer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightQuantizer {
    /// Learned step sizes
    Lsq,
    /// As they were fitted
    Fixed,
    /// Evenly spaced for tanh, without a zero (DoReFa), up to 7 bits
    Dorefa,
    /// What has 2 bits: {-a, a}, a the mean of each channel's magnitudes (XNOR-Net)
    Binary,
    /// The same by the side of each channel's mean, so that signs are in balance (IR-Net)
    Balanced,
    /// What has 2 bits: {-a, 0, a} (ternary weight networks)
    Ternary,
}

/// `--gradient-rounding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GradientRounding {
    /// Up or down so that the mean is right
    Stochastic,
    /// To the nearest
    Nearest,
}
