//! The command line of `nnq reconstruct`.
use super::{Choice, Learning, Reading};
use clap::Args;
use nnq_train::reconstruct::{Codes, Unit};
use std::path::PathBuf;

/// Arguments of `nnq reconstruct`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  nnq reconstruct net.onnx --data pictures --samples 1024 --bits w4a4 --range mse -o net.int4.onnx

Rounding of weights, biases and scales are learned part by part, so that each answers as in the float network (BRECQ, QDrop). Labels are not looked
at. A run that is stopped goes on after the last part that was done (OUT.onnx.unfinished), with the same bytes.")]
pub struct Reconstruct {
    /// The float network, ONNX
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Samples: folder of pictures, npy/npz, CIFAR-10 or IDX files
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Labelled data to measure accuracy on; nothing is chosen by it
    #[arg(long, value_name = "DIR")]
    pub eval: Option<PathBuf>,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub choice: Choice,
    /// How much is learned at once: part (single layers, residual blocks), block (up to three layers in a row) or network
    #[arg(long, value_name = "WHAT", default_value = "block")]
    pub unit: Unit,
    /// Steps for each of them: more is better and slower
    #[arg(long, value_name = "N", default_value = "2000", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub steps: u64,
    /// Samples of a step
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch: u32,
    /// Learn from each image mirrored, too, left to right: for networks to which a mirrored picture shows the same
    #[arg(long)]
    pub mirror: bool,
    /// Learning rate of roundings and biases [default: 8 over the number of steps, 0.001 to 0.02; with --codes ste 6 over it, 0.001 to 0.006]
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// What the learning rate of scales is multiplied with (of activations; with --codes ste of weights, too); 0: they stay as they were [default: 0.04; 0.5 with --codes ste]
    #[arg(long, value_name = "FACTOR")]
    pub scale_lr: Option<f64>,
    /// The share of elements that are rounded while learning (QDrop); 1: all of them (BRECQ) [default: 0.5; 1 where layers are
    /// rounded one by one first]
    #[arg(long, value_name = "SHARE")]
    pub rounded: Option<f32>,
    /// How weights learn their codes: sigmoid (up or down, by a variable that is made to decide) or ste (any code, by gradients that pass the rounding; from layers that
    /// were rounded one by one)
    #[arg(long, value_name = "WAY", default_value = "sigmoid")]
    pub codes: Codes,
    /// How much roundings are made to decide: what undecided ones cost, in errors before learning
    #[arg(long, value_name = "LAMBDA", default_value = "1")]
    pub strength: f32,
    #[command(flatten)]
    pub learning: Learning,
}
