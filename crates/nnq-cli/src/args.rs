//! The command line. Each command's help ends with an example.
mod eval;
#[cfg(feature = "train")]
mod learning;
#[cfg(feature = "train")]
mod reconstruct;
mod run;
#[cfg(not(feature = "train"))]
#[path = "args/no_train.rs"]
mod train;
#[cfg(feature = "train")]
mod train;
mod zoo;

pub use eval::*;
#[cfg(feature = "train")]
pub use learning::*;
#[cfg(feature = "train")]
pub use reconstruct::*;
pub use run::*;
pub use train::*;
pub use zoo::*;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, time::Duration};

/// Makes trained neural networks smaller and faster by quantization, and says what that costs.
#[derive(Debug, Parser)]
#[command(name = "nnq", version, max_term_width = 110, after_help = "Start here: nnq demo")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order one meets them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Quantize a small built-in network and compare: needs no files, takes seconds
    Demo(Demo),
    /// Say what is in a model: operators, sizes, parameters, multiplications, quantization
    Inspect(Inspect),
    /// Run data through a model and keep statistics of every value in a file
    Calibrate(Calibrate),
    /// Turn a float model into an 8-bit one
    Quantize(Quantize),
    /// Train a network, with quantization in the loop or without
    #[cfg_attr(not(feature = "train"), doc = "(not built in)")]
    Train(Box<Train>),
    /// Quantize a network part by part, learning on samples without labels
    #[cfg_attr(not(feature = "train"), doc = "(not built in)")]
    Reconstruct(Box<Reconstruct>),
    /// Say where accuracy goes when a model is quantized, why, and which option repairs it
    Analyze(Analyze),
    /// Measure the accuracy of a model
    Eval(Eval),
    /// Prepare a quantized model for this machine: a file that is ready to run as soon as it is mapped
    Compile(Compile),
    /// Run a model on one input
    Run(Run),
    /// Measure how fast a model runs
    Bench(Bench),
    /// Build a well-known network with random weights, to measure speed and memory
    Zoo(Zoo),
    /// Show how a number looks in floating and fixed point, and what rounding does to it
    Explain(Explain),
}

/// Arguments of `nnq demo`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nnq demo")]
pub struct Demo {
    /// Write the demo's pictures (CIFAR-10's binary format), model (demo.onnx) and preprocessing (demo.toml) into a folder, and stop
    #[arg(long, value_name = "DIR")]
    pub write_data: Option<PathBuf>,
    #[command(flatten)]
    pub threads: Threads,
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `nnq inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nnq inspect net.onnx --text")]
pub struct Inspect {
    /// The model, ONNX
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Print the whole graph, one line per node
    #[arg(long, conflicts_with = "json")]
    pub text: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `nnq calibrate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  nnq calibrate net.onnx --data cifar --preprocess cifar10 -o net.qstats
  nnq calibrate bert.onnx --data texts.txt --tokenizer tokenizer.json -o bert.qstats
  nnq calibrate --merge shard1.qstats shard2.qstats -o all.qstats")]
pub struct Calibrate {
    /// The model, ONNX
    #[arg(value_name = "MODEL.onnx", required_unless_present = "merge")]
    pub model: Option<PathBuf>,
    /// Statistics files to merge instead of running a model
    #[arg(long, value_name = "FILE.qstats", num_args = 2.., conflicts_with_all = ["model", "data", "tokenizer", "preprocess", "classes"])]
    pub merge: Vec<PathBuf>,
    /// Calibration data: folder of pictures, npy/npz, CIFAR-10 or IDX files; with --tokenizer texts
    #[arg(long, value_name = "DIR", required_unless_present = "merge")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub texts: Texts,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub samples: Samples,
    #[command(flatten)]
    pub threads: Threads,
    /// The statistics file to write
    #[arg(short, long, value_name = "FILE.qstats")]
    pub out: PathBuf,
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `nnq quantize`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  nnq quantize net.onnx --data cifar --eval cifar --preprocess cifar10 -o net.int8.onnx
  nnq quantize net.onnx --data cifar --bits w4a8 --rounding descent --compensate -o net.int4.onnx
  nnq quantize net.onnx --data cifar --bits w6a6 --accuracy-drop 0.5 --time-budget 10m -o net.onnx
  nnq quantize net.onnx --dynamic -o net.int8.onnx
  nnq quantize net.onnx --weight-only --bits w4 -o net.int4.onnx
  nnq quantize lstm.onnx --dynamic=token -o lstm.int8.onnx
  nnq quantize bert.onnx --data pairs.csv --tokenizer tokenizer.json --smooth=0.8 -o bert.int8.onnx")]
pub struct Quantize {
    /// The float model, ONNX
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Calibration data: folder of pictures, npy/npz, CIFAR-10 or IDX files; with --tokenizer texts
    #[arg(long, value_name = "DIR", required_unless_present_any = ["stats", "dynamic", "weight_only", "recipe"])]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub texts: Texts,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub choice: Choice,
    /// Find the ranges of what layers read at run time, from the numbers that come: needs no data; layers that are no
    /// products stay in floating point. One range for all numbers (tensor), or for each row that a matrix product or a recurrent
    /// layer reads (token): a sample's result then depends on nothing that runs with it
    #[arg(long, value_name = "RANGES", num_args = 0..=1, require_equals = true, default_missing_value = "tensor",
          conflicts_with_all = ["range", "stats"])]
    pub dynamic: Option<Ranges>,
    /// With --dynamic: find ranges of products of two values at run time, too, as attention has them
    #[arg(long, requires = "dynamic")]
    pub dynamic_attention: bool,
    /// Round weights only: what layers read stays real. Needs no data. Below 8 bits each run of 32 inputs has a scale and a zero point
    /// of its own, chosen by mean square error, unless --granularity, --weight-range or --recipe say otherwise
    #[arg(long, conflicts_with_all = ["range", "stats", "dynamic"])]
    pub weight_only: bool,
    /// Compute in integers what lies between the products of attention, too: softmax, normalisations, products of two values
    #[arg(long, conflicts_with_all = ["dynamic", "weight_only"])]
    pub integer_only: bool,
    /// Labelled data: measure the accuracy before and after on it; with --tokenizer lines of text,label
    #[arg(long, value_name = "DIR")]
    pub eval: Option<PathBuf>,
    /// Look for the cheapest recipe, from this one on, that loses at most so many points of accuracy: judged on samples of --data that
    /// calibration did not see, by their labels, or by agreement with the float model where there are none
    #[arg(long, value_name = "POINTS", value_parser = points, conflicts_with = "stats")]
    pub accuracy_drop: Option<f64>,
    /// The most time to look for it, such as 90s, 10m or 1h
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "accuracy_drop")]
    pub time_budget: Option<Duration>,
    /// Use these statistics instead of calibrating
    #[arg(long, value_name = "FILE.qstats")]
    pub stats: Option<PathBuf>,
    #[command(flatten)]
    pub writing: Writing,
}

/// How texts become tokens.
#[derive(Debug, Args)]
pub struct Texts {
    /// The tokenizer of a network of text: --data is lines of text,label or of sentence,sentence,score (csv or tsv: each sentence is a
    /// sample) or a text in each line (txt)
    #[arg(long, value_name = "tokenizer.json", requires = "data", conflicts_with_all = ["preprocess", "classes"])]
    pub tokenizer: Option<PathBuf>,
    /// The most tokens of a text; what is longer is cut
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..), requires = "tokenizer")]
    pub length: Option<u32>,
}

/// The network that a command writes, and by what means.
#[derive(Debug, Args)]
pub struct Writing {
    /// How a quantized network is written
    #[arg(long, value_name = "FORMAT", default_value = "qdq")]
    pub format: Format,
    /// The narrowest element type of weights of few bits: int4 (opset 21), int2 (opset 25), or never less than a byte
    #[arg(long, value_name = "TYPE", default_value = "int4")]
    pub pack: Pack,
    #[command(flatten)]
    pub threads: Threads,
    /// The network to write
    #[arg(short, long, value_name = "OUT.onnx")]
    pub out: PathBuf,
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `nnq analyze`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  nnq analyze net.onnx --data cifar --eval cifar --preprocess cifar10 --bits w4a4
  nnq analyze net.onnx --data cifar --preprocess cifar10 --bits w4a8 --no-sensitivity --no-trials --hessian=16
  nnq analyze bert.onnx --data train.tsv --eval test.tsv --tokenizer tokenizer.json

The model is quantized in memory as 'nnq quantize' with the same options would. See docs/analyze.md for what the columns mean.")]
pub struct Analyze {
    /// The float model, ONNX
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Calibration data: folder of pictures, npy/npz, CIFAR-10 or IDX files, texts
    #[arg(long, value_name = "DIR", required_unless_present = "stats")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub texts: Texts,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub choice: Choice,
    /// Data to measure on, labelled [default: the calibration data, with its labels if it has some]
    #[arg(long, value_name = "DIR", required_unless_present = "data")]
    pub eval: Option<PathBuf>,
    /// Samples that layers are measured on, at most
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u32).range(1..))]
    pub measure: u32,
    /// Do not measure each layer alone and left out: faster
    #[arg(long)]
    pub no_sensitivity: bool,
    /// Do not try the options that are named: faster
    #[arg(long)]
    pub no_trials: bool,
    /// Measure each layer's curvature too: trace and largest eigenvalue of the loss's Hessian, by so many random draws [default: 32]
    #[arg(long, value_name = "DRAWS", num_args = 0..=1, require_equals = true, default_missing_value = "32", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub hessian: Option<u32>,
    /// Use these statistics instead of calibrating
    #[arg(long, value_name = "FILE.qstats")]
    pub stats: Option<PathBuf>,
    #[command(flatten)]
    pub threads: Threads,
    #[command(flatten)]
    pub output: Output,
}

/// `--dynamic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Ranges {
    Tensor,
    Token,
}

/// Arguments of `nnq bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  nnq bench net.int8.onnx --engine int --threads 1
  nnq bench net.int8.onnx --peers --float net.onnx --batches 1,32 --thread-counts 1,2
  nnq bench bert.int8.onnx --size T=128 --threads 1")]
pub struct Bench {
    /// The model, ONNX
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// What runs it [default: int where the model is quantized, else float]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<BenchEngine>,
    /// The rounding rules of int: see docs/numerics.md
    #[arg(long, value_name = "PROFILE", default_value = "dyadic")]
    pub profile: Profile,
    /// Samples that run at once
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    #[command(flatten)]
    pub threads: Threads,
    /// A size that the model leaves open, besides the batch: its name and how large it is, such as T=128. Once per size
    #[arg(long = "size", value_name = "NAME=N", value_parser = size)]
    pub sizes: Vec<(String, usize)>,
    /// Compare with ONNX Runtime and OpenVINO on the same model, in turns, each in a process of its own
    #[arg(long, conflicts_with_all = ["engine", "batch", "threads", "tune"])]
    pub peers: bool,
    #[command(flatten)]
    pub comparison: Comparison,
    /// Run the model as often as standard input says: what --peers starts
    #[arg(long, hide = true, conflicts_with_all = ["peers", "json"])]
    pub worker: bool,
    #[command(flatten)]
    pub tuning: Tuning,
    #[command(flatten)]
    pub output: Output,
}

/// How `nnq bench --peers` compares.
#[derive(Debug, Args)]
#[group(id = "comparison", requires = "peers", multiple = true)]
pub struct Comparison {
    /// The float model that MODEL.onnx was made from: compared too, and quantized by the peers' own tools
    #[arg(long, value_name = "FLOAT.onnx")]
    pub float: Option<PathBuf>,
    /// Data that the peers' tools calibrate on [default: random numbers]
    #[arg(long, value_name = "DIR", requires = "float")]
    pub calibration: Option<PathBuf>,
    /// How a picture of the calibration data becomes a tensor: imagenet, cifar10, mnist, inception, raw or a TOML file
    #[arg(long, value_name = "NAME|FILE.toml", requires = "calibration")]
    pub preprocess: Option<String>,
    /// Numbers of samples per run [default: 1,32]
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub batches: Vec<u32>,
    /// Numbers of threads [default: 1 and, where there are more cores, 2]
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub thread_counts: Vec<u32>,
    /// The newest instruction set that engines may use, where they can be limited: avx2, avx-vnni, avx512-vnni
    #[arg(long, value_name = "ISA")]
    pub isa: Option<String>,
    /// Measured seconds per engine, batch and number of threads [default: 2]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Python with onnxruntime, openvino, nncf and onnx [default: what NNQ_PYTHON says]
    #[arg(long, value_name = "PROGRAM")]
    pub python: Option<PathBuf>,
    /// Print the table as Markdown
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
}

fn size(text: &str) -> Result<(String, usize), String> {
    let parts = text.split_once('=').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
    parts.filter(|(name, _)| !name.is_empty()).ok_or_else(|| format!("'{text}' is no size such as T=128"))
}

fn points(text: &str) -> Result<f64, String> {
    let x: f64 = text.parse().map_err(|e: std::num::ParseFloatError| e.to_string())?;
    if (0.0..=100.0).contains(&x) { Ok(x) } else { Err("between 0 and 100".into()) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("'{text}' is no time such as 90s, 10m or 1h")),
    };
    let x: f64 = number.parse().map_err(|e: std::num::ParseFloatError| e.to_string())?;
    Duration::try_from_secs_f64(x * unit).map_err(|e| e.to_string())
}

fn seconds(text: &str) -> Result<f64, String> {
    let s: f64 = text.parse().map_err(|e: std::num::ParseFloatError| e.to_string())?;
    if (0.01..=3600.0).contains(&s) { Ok(s) } else { Err("between 0.01 and 3600".into()) }
}

/// Arguments of `nnq compile`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  nnq compile net.int8.onnx -o net.plan
  nnq bench net.plan

The file holds the weights as this machine's instructions read them (NNQ_ISA chooses others) and every step with its place in
memory, for one batch size. eval, run and bench take it like an ONNX file.")]
pub struct Compile {
    /// The quantized model, ONNX
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Samples that run at once; several numbers make a plan for each, with the same weights
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: Vec<u32>,
    /// The rounding rules: see docs/numerics.md
    #[arg(long, value_enum, default_value_t = Profile::Dyadic)]
    pub profile: Profile,
    /// The file to write
    #[arg(short, long, value_name = "OUT.plan")]
    pub out: PathBuf,
    #[command(flatten)]
    pub tuning: Tuning,
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `nnq explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nnq explain 85.125\n  nnq explain -0.3 --range -1:1")]
pub struct Explain {
    /// The number
    #[arg(value_name = "NUMBER", allow_hyphen_values = true)]
    pub number: String,
    /// Also quantize it to 8 bits over this range
    #[arg(long, value_name = "LOW:HIGH", allow_hyphen_values = true)]
    pub range: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

/// How to quantize: a recipe, and what overrules it.
#[derive(Debug, Args)]
pub struct Choice {
    #[command(flatten)]
    pub samples: Samples,
    /// How a value's range follows from its statistics: minmax, moving-average[:C], percentile[:P], entropy, mse[:P],
    /// norm, aciq, output (for each value the one that harms the layers behind it least) [default: as the recipe says]
    #[arg(long, value_name = "METHOD")]
    pub range: Option<nnq::quant::range::RangeMethod>,
    #[command(flatten)]
    pub method: Method,
    /// Choices and per-layer overrides [default: the built-in recipe]
    #[arg(long, value_name = "FILE.toml")]
    pub recipe: Option<PathBuf>,
}

impl Choice {
    /// The recipe with everything that was asked for.
    ///
    /// # Errors
    /// When the file cannot be read or a choice makes no sense.
    pub fn recipe(&self) -> nnq::Result<nnq::quant::recipe::Recipe> {
        use nnq::quant::recipe::Recipe;
        let mut recipe = self.recipe.as_deref().map_or_else(|| Ok(Recipe::default()), Recipe::load)?;
        self.samples.apply(&mut recipe);
        self.method.apply(&mut recipe);
        recipe.activation.range = self.range.unwrap_or(recipe.activation.range);
        recipe.check()?;
        Ok(recipe)
    }
}

/// Choices of `nnq quantize` that overrule the recipe.
#[derive(Clone, Debug, Args)]
pub struct Method {
    /// Bits of weights and activations, such as w4a8, or of weights alone, such as w4 [default: as the recipe says, w8a8]
    #[arg(long, value_name = "wNaN", value_parser = some_bits)]
    pub bits: Option<(u8, Option<u8>)>,
    /// One scale for a layer's weights, for N output channels, for each, or for each run of N inputs: tensor, group:N, channel, block:N
    #[arg(long, value_name = "WHAT")]
    pub granularity: Option<nnq::quant::recipe::WeightGranularity>,
    /// How scales of weights are chosen: absmax, mse[:P], hqq (fits zero points: asymmetric)
    #[arg(long, value_name = "METHOD")]
    pub weight_range: Option<nnq::quant::weights::WeightRange>,
    /// Give weights zero points: their largest and smallest need not be equally far from 0
    #[arg(long)]
    pub asymmetric: bool,
    /// How weights become codes: nearest, stochastic, gptq, descent, adaround
    #[arg(long, value_name = "METHOD")]
    pub rounding: Option<nnq::quant::rounder::Rounding>,
    /// Balance the weights of layers that follow each other (cross-layer equalization); needs no data
    #[arg(long)]
    pub equalize: bool,
    /// Move what is hard to quantize from activations into weights (SmoothQuant); 0 to 1, more moves more; with REACH, such as 1:6, a channel counts
    /// as no larger than so many of its root mean squares, or with 1:4bit than 4 bits of its own would reach at least error
    #[arg(long, value_name = "ALPHA[:REACH]", num_args = 0..=1, require_equals = true, default_missing_value = "0.5", conflicts_with = "equalize")]
    pub smooth: Option<nnq::quant::balance::Smoothing>,
    /// Change the basis of what layers exchange with nothing but sums between (linear bottlenecks): rounding costs less, the function stays
    #[arg(long)]
    pub basis: bool,
    /// Move what is always there of an activation into the biases behind it (high-bias absorption): smaller ranges
    #[arg(long)]
    pub absorb: bool,
    /// Let weights make up for the errors of their layer's inputs
    #[arg(long)]
    pub compensate: bool,
    /// Correct biases so that each layer is right on average: empirical (on samples, layer by layer) or analytic (from batch
    /// normalisation, without data; measured where there is none)
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "empirical")]
    pub correct_bias: Option<nnq::quant::recipe::BiasCorrection>,
    /// Give each output channel the mean and deviation of the float network, on samples (batch normalisation re-estimated)
    #[arg(long)]
    pub reestimate: bool,
}

fn bits(text: &str) -> Result<(u8, u8), String> {
    let wrong = || format!("'{text}' names no bits of weights and activations, as w4a8 does");
    let (w, a) = text.strip_prefix('w').and_then(|rest| rest.split_once('a')).ok_or_else(wrong)?;
    Ok((w.parse().map_err(|_| wrong())?, a.parse().map_err(|_| wrong())?))
}

/// [`bits`], those of activations left out at will.
fn some_bits(text: &str) -> Result<(u8, Option<u8>), String> {
    match text.strip_prefix('w').and_then(|w| w.parse().ok()) {
        Some(w) => Ok((w, None)),
        None => bits(text).map(|(w, a)| (w, Some(a))),
    }
}

impl Method {
    /// What was asked for overrules the recipe.
    pub fn apply(&self, recipe: &mut nnq::quant::recipe::Recipe) {
        if let Some((weight, activation)) = self.bits {
            recipe.weight.bits = weight;
            recipe.activation.bits = activation.unwrap_or(recipe.activation.bits);
        }
        recipe.weight.symmetric &= !self.asymmetric;
        recipe.weight.granularity = self.granularity.unwrap_or(recipe.weight.granularity);
        recipe.weight.range = self.weight_range.unwrap_or(recipe.weight.range);
        recipe.weight.rounding = self.rounding.unwrap_or(recipe.weight.rounding);
        recipe.equalize |= self.equalize;
        recipe.compensate |= self.compensate;
        recipe.correct_bias = self.correct_bias.unwrap_or(recipe.correct_bias);
        recipe.smooth = self.smooth.or(recipe.smooth);
        recipe.basis |= self.basis;
        recipe.absorb |= self.absorb;
        recipe.reestimate |= self.reestimate;
        if self.weight_range == Some(nnq::quant::weights::WeightRange::Hqq) {
            recipe.weight.symmetric = false;
        }
    }
}

/// How data files become tensors and labels.
#[derive(Debug, Args)]
pub struct Reading {
    /// How a picture becomes a tensor: imagenet, cifar10, mnist, inception, raw or a TOML file
    #[arg(long, value_name = "NAME|FILE.toml")]
    pub preprocess: Option<String>,
    /// Which model output each class folder stands for: lines of folder, index, name
    #[arg(long, value_name = "FILE.tsv")]
    pub classes: Option<PathBuf>,
}

/// What calibration looks at.
#[derive(Debug, Args)]
pub struct Samples {
    /// How many samples calibration looks at, drawn at random [default: as the recipe says, 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: Option<u64>,
    /// Seed of the draw [default: as the recipe says, 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl Samples {
    /// What was asked for overrules the recipe.
    pub fn apply(&self, recipe: &mut nnq::quant::recipe::Recipe) {
        recipe.samples = self.samples.unwrap_or(recipe.samples);
        recipe.seed = self.seed.unwrap_or(recipe.seed);
    }
}

/// What runs a model.
#[derive(Debug, Args)]
pub struct Engine {
    /// What runs the model: float does not round activations, sim simulates the integers, int computes with them
    /// [default: int where the model is quantized, else float]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineKind>,
    /// The rounding rules of sim and int: see docs/numerics.md
    #[arg(long, value_name = "PROFILE", default_value = "dyadic")]
    pub profile: Profile,
}

/// Whether the integer engine tries what is fastest.
#[derive(Clone, Copy, Debug, Args)]
pub struct Tuning {
    /// Try on this machine what is fastest for each layer, once: it is kept in the user's cache folder (or the folder that NNQ_CACHE
    /// names). Results do not depend on it
    #[arg(long)]
    pub tune: bool,
}

/// How many threads.
#[derive(Clone, Copy, Debug, Args)]
pub struct Threads {
    /// How many threads compute; 0: one per core. Results do not depend on it
    #[arg(long, value_name = "N", default_value = "0", value_parser = threads)]
    pub threads: usize,
}

/// More threads than this are a slip of the hand, and would fill the memory before they help.
const MOST_THREADS: usize = 1024;

fn threads(text: &str) -> Result<usize, String> {
    let n: usize = text.parse().map_err(|e: std::num::ParseIntError| e.to_string())?;
    if n > MOST_THREADS { Err(format!("at most {MOST_THREADS}")) } else { Ok(n) }
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// `--engine` of `nnq eval` and `nnq run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum EngineKind {
    Float,
    Sim,
    Int,
}

/// `--engine` of `nnq bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum BenchEngine {
    Float,
    Int,
}

/// `--profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Profile {
    Dyadic,
    Onnx,
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Format {
    Qdq,
    Qoperator,
}

/// `--pack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Pack {
    Int4,
    Int2,
    Never,
}

impl From<Pack> for nnq::formats::onnx::Pack {
    fn from(pack: Pack) -> Self {
        match pack {
            Pack::Int4 => Self::Int4,
            Pack::Int2 => Self::Int2,
            Pack::Never => Self::Never,
        }
    }
}

impl From<Format> for nnq::quantize::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Qdq => Self::Qdq,
            Format::Qoperator => Self::Qoperator,
        }
    }
}

impl From<EngineKind> for nnq::engine::Kind {
    fn from(kind: EngineKind) -> Self {
        match kind {
            EngineKind::Float => Self::Float,
            EngineKind::Sim => Self::Sim,
            EngineKind::Int => Self::Int,
        }
    }
}

impl From<BenchEngine> for nnq::engine::Kind {
    fn from(kind: BenchEngine) -> Self {
        match kind {
            BenchEngine::Float => Self::Float,
            BenchEngine::Int => Self::Int,
        }
    }
}

impl From<Profile> for nnq::exec::lower::Profile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Dyadic => Self::Dyadic,
            Profile::Onnx => Self::Onnx,
        }
    }
}
