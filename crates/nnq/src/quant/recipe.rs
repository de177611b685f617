//! Recipes: every choice of a quantization as plain data, in TOML.
//!
//! A recipe has defaults for the whole network, what is special about the first and the last layer, and a list of
//! overrides that apply in order, later ones over earlier ones:
//!
//! ```toml
//! version = 1
//! samples = 512
//! seed = 0
//! first = "same"
//! last = "same"
//! logits = "real"
//!
//! [activation]
//! mode = "static"
//! bits = 8
//! range = "percentile:99.99"
//!
//! [weight]
//! bits = 4
//! granularity = "block:32"
//! range = "mse"
//!
//! [[layer]]
//! match = "blocks.*/attn*"
//! activation.bits = 8
//!
//! [[layer]]
//! op = "Softmax"
//! keep_float = true
//! ```
//!
//! What is left out has the default. [`Recipe::to_toml`] writes everything, so that a result that carries its recipe
//! can be reproduced whatever the defaults become.
mod bias;
mod mode;
mod modes;

pub use bias::BiasCorrection;
pub use mode::ActivationMode;

use super::{
    balance::Smoothing,
    range::{RangeMethod, Scheme},
    rounder::Rounding,
    weights::{WeightRange, WeightScheme},
};
use crate::{
    error::{At, Error, ErrorKind, Result},
    ir::{Granularity, QType},
};
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path, str::FromStr};

/// The version of the recipe's form.
pub const VERSION: u32 = 1;

/// All choices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Form of the file; [`VERSION`].
    pub version: u32,
    /// Number of calibration samples.
    pub samples: u64,
    /// Seed of everything random, the choice of samples first of all.
    pub seed: u64,
    /// The first layer with weights (and its input).
    pub first: Edge,
    /// The last layer with weights.
    pub last: Edge,
    /// The network's outputs.
    pub logits: Logits,
    /// Balance the weights of layers that follow each other before anything else (cross-layer equalization).
    pub equalize: bool,
    /// Move what is hard to quantize from activations into weights (SmoothQuant): an exponent, 0 to 1, usually 0.5, or `"ALPHA:REACH"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smooth: Option<Smoothing>,
    /// Change the basis of what layers exchange with nothing but sums between (linear bottlenecks) to one in which rounding costs least.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub basis: bool,
    /// Move what is always there of a layer's output into the biases of the layers that read it (high-bias absorption).
    pub absorb: bool,
    /// Let weights make up for what quantization did to the layer's inputs: layer by layer, on calibration samples.
    pub compensate: bool,
    /// Correct biases so that each layer's output is right on average.
    pub correct_bias: BiasCorrection,
    /// Give each output channel of a layer the mean and deviation that it has in the float network, by its weight scale and its bias: layer by layer,
    /// on calibration samples. What batch normalisation re-estimated after quantization does, with the normalisation folded.
    pub reestimate: bool,
    /// What additions read.
    pub sum_operands: SumOperands,
    /// Quantize additions of feature maps (residual connections); otherwise they are real.
    pub quantize_add: bool,
    /// Quantize concatenations; otherwise they are real.
    pub quantize_concat: bool,
    /// Where grids are found at run time, quantize products of two values, too (those of attention); otherwise they are real.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dynamic_attention: bool,
    /// Values that layers exchange.
    pub activation: Activation,
    /// Constants that layers multiply with.
    pub weight: Weight,
    /// Exceptions, applied in order.
    #[serde(rename = "layer", skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Override>,
}

/// What happens to the first or last layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edge {
    /// Nothing special.
    Same,
    /// At least 8 bits for weights and activations.
    #[serde(rename = "8bit")]
    EightBit,
    /// Not quantized.
    Float,
}

/// The type of values that additions (or subtractions) read: partial results and residual streams. What products read keeps the type of activations: where
/// both read a value, products read a copy that is rounded once more ([`super::streams`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SumOperands {
    /// That of activations.
    Same,
    /// At least 8 bits.
    #[serde(rename = "8bit")]
    EightBit,
}

/// The type of the network's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Logits {
    /// Real numbers, straight from the accumulators.
    Real,
    /// Quantized to 8 bits by their extremes, never clipped.
    Int8,
}

/// How activations are quantized; one scale per tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Activation {
    /// Of a product: when the grid of its input is found.
    pub mode: ActivationMode,
    /// 2 to 16.
    pub bits: u8,
    /// Two's complement or unsigned codes.
    pub signed: bool,
    /// Zero point 0; unsigned symmetric grids hold only values that are not negative.
    pub symmetric: bool,
    /// How the range is chosen.
    pub range: RangeMethod,
}

/// How weights are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Weight {
    /// 2 to 16.
    pub bits: u8,
    /// Two's complement or unsigned codes.
    pub signed: bool,
    /// Zero points 0.
    pub symmetric: bool,
    /// Whether to leave out the lowest code, so that the negative of each code exists.
    pub narrow: Narrow,
    /// One scale per tensor, output channel or block of input channels.
    pub granularity: WeightGranularity,
    /// How scales are chosen.
    pub range: WeightRange,
    /// How they become codes.
    pub rounding: Rounding,
}

/// When weights leave out the lowest code of a signed grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Narrow {
    /// With 8 bits or more and symmetric, where it costs 0.03 dB and suits every kernel; below, a sixteenth of the
    /// codes and more is too much.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How many scales a weight tensor has. Written as `tensor`, `group:CHANNELS`, `channel` or `block:SIZE`. Which axis is the channel is
/// the layer's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WeightGranularity {
    /// One.
    Tensor,
    /// One per this many consecutive output channels: written to the model as scales per channel, with equal values.
    Group(usize),
    /// One per output channel.
    Channel,
    /// One per output channel and run of this many input channels.
    Block(usize),
}

impl fmt::Display for WeightGranularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => f.write_str("tensor"),
            Self::Group(n) => write!(f, "group:{n}"),
            Self::Channel => f.write_str("channel"),
            Self::Block(n) => write!(f, "block:{n}"),
        }
    }
}

impl FromStr for WeightGranularity {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let size = |prefix| s.strip_prefix(prefix).and_then(|n: &str| n.parse().ok()).filter(|&n| n > 0);
        match (s, size("group:"), size("block:")) {
            ("tensor", ..) => Ok(Self::Tensor),
            ("channel", ..) => Ok(Self::Channel),
            (_, Some(n), _) => Ok(Self::Group(n)),
            (_, _, Some(n)) => Ok(Self::Block(n)),
            _ => Err(Error::usage(format!("'{s}' is no granularity"))
                .cure("use tensor, group:CHANNELS, channel or block:SIZE")),
        }
    }
}

impl TryFrom<String> for WeightGranularity {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<WeightGranularity> for String {
    fn from(g: WeightGranularity) -> Self {
        g.to_string()
    }
}

impl WeightGranularity {
    /// Over a tensor whose output channels lie along `output` and input channels along `input`.
    pub fn on(self, output: usize, input: usize) -> Granularity {
        match self {
            Self::Tensor => Granularity::Tensor,
            Self::Channel | Self::Group(_) => Granularity::Channel { axis: output },
            Self::Block(size) => Granularity::Block { axis: input, size },
        }
    }
}

/// An exception for some layers: those whose name matches `match` and whose operator is `op`, where given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    /// A node's name, or a pattern with `*` (anything), `?`, `[ab]` and `{a,b}`.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// An ONNX operator, such as `Conv`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Do not quantize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_float: Option<bool>,
    /// Changes to the activations that the layer makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationChange>,
    /// Changes to the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightChange>,
}

/// The fields of [`Activation`] that an override changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct ActivationChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ActivationMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<RangeMethod>,
}

/// The fields of [`Weight`] that an override changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct WeightChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub narrow: Option<Narrow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granularity: Option<WeightGranularity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<WeightRange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
}

/// Where a layer with weights stands in the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Position {
    /// The first.
    First,
    /// Neither.
    #[default]
    Middle,
    /// The last.
    Last,
}

/// What the recipe says about one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerRecipe {
    /// Not quantized: what follows does not apply.
    pub keep_float: bool,
    /// What it makes.
    pub activation: Activation,
    /// Its weights.
    pub weight: Weight,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            version: VERSION,
            samples: 512,
            seed: 0,
            first: Edge::Same,
            last: Edge::Same,
            logits: Logits::Real,
            equalize: false,
            smooth: None,
            basis: false,
            absorb: false,
            compensate: false,
            correct_bias: BiasCorrection::Off,
            reestimate: false,
            sum_operands: SumOperands::Same,
            quantize_add: true,
            quantize_concat: true,
            dynamic_attention: false,
            activation: Activation::default(),
            weight: Weight::default(),
            layers: Vec::new(),
        }
    }
}

impl Default for Activation {
    fn default() -> Self {
        Self { mode: ActivationMode::Static, bits: 8, signed: false, symmetric: false, range: RangeMethod::Norm }
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self {
            bits: 8,
            signed: true,
            symmetric: true,
            narrow: Narrow::Auto,
            granularity: WeightGranularity::Channel,
            range: WeightRange::AbsMax,
            rounding: Rounding::Nearest,
        }
    }
}

impl Activation {
    /// The grid.
    pub fn scheme(&self) -> Scheme {
        let qtype = QType { bits: self.bits, signed: self.signed, narrow: false };
        Scheme { qtype, symmetric: self.symmetric }
    }
    fn change(&mut self, c: &ActivationChange) {
        set(&mut self.mode, c.mode);
        set(&mut self.bits, c.bits);
        set(&mut self.signed, c.signed);
        set(&mut self.symmetric, c.symmetric);
        set(&mut self.range, c.range);
    }
}

impl Weight {
    /// The grid and scales, for output channels along `output` and input channels along `input`.
    pub fn scheme(&self, output: usize, input: usize) -> WeightScheme {
        let narrow = match self.narrow {
            Narrow::Auto => self.signed && self.symmetric && self.bits >= 8,
            Narrow::Always => true,
            Narrow::Never => false,
        };
        let qtype = QType { bits: self.bits, signed: self.signed, narrow };
        let granularity = self.granularity.on(output, input);
        let channels = if let WeightGranularity::Group(n) = self.granularity { n } else { 1 };
        WeightScheme { qtype, symmetric: self.symmetric, granularity, channels, range: self.range }
    }
    fn change(&mut self, c: &WeightChange) {
        set(&mut self.bits, c.bits);
        set(&mut self.signed, c.signed);
        set(&mut self.symmetric, c.symmetric);
        set(&mut self.narrow, c.narrow);
        set(&mut self.granularity, c.granularity);
        set(&mut self.range, c.range);
        set(&mut self.rounding, c.rounding);
    }
}

fn set<T>(to: &mut T, from: Option<T>) {
    if let Some(x) = from {
        *to = x;
    }
}

impl Override {
    /// About the node called so, and no other.
    pub fn named(name: &str) -> Self {
        let escaped = name.chars().flat_map(|c| if "*?[]{}\\".contains(c) { vec!['\\', c] } else { vec![c] });
        Self { name: Some(escaped.collect()), ..Self::default() }
    }
    fn matcher(&self) -> Result<Option<GlobMatcher>> {
        let Some(pattern) = &self.name else { return Ok(None) };
        // A separator is a character like any other: node names have slashes and dots at will.
        let glob = GlobBuilder::new(pattern).literal_separator(false).backslash_escape(true).build();
        let glob = glob.map_err(|e| Error::usage(format!("match = \"{pattern}\": {}", e.kind())))?;
        Ok(Some(glob.compile_matcher()))
    }
    /// Whether the override is about this node.
    ///
    /// # Errors
    /// When the pattern is malformed.
    pub fn applies(&self, name: &str, op: &str) -> Result<bool> {
        // A name with special characters (`conv[0]`) is found literally, too.
        let named = self.name.as_deref() == Some(name) || self.matcher()?.is_none_or(|m| m.is_match(name));
        Ok(named && self.op.as_deref().is_none_or(|o| o == op))
    }
    fn describe(&self) -> String {
        match (&self.name, &self.op) {
            (Some(n), Some(o)) => format!("layer with match = \"{n}\", op = \"{o}\""),
            (Some(n), None) => format!("layer with match = \"{n}\""),
            (None, Some(o)) => format!("layer with op = \"{o}\""),
            (None, None) => "layer".into(),
        }
    }
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// Names line and column of what is malformed or unknown, and the choice that makes no sense.
    pub fn from_toml(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|e| Error::usage(e.to_string().trim_end().to_owned()))?;
        recipe.check()?;
        Ok(recipe)
    }
    /// Reads a recipe file.
    ///
    /// # Errors
    /// Names the file; otherwise like [`Recipe::from_toml`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::from_toml(&text).at(|| path.display())
    }
    /// The whole recipe, defaults included; the same recipe gives the same text.
    ///
    /// # Errors
    /// When a number does not fit TOML (a seed above 2^63 - 1).
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::usage(format!("the recipe cannot be written: {e}")))
    }
    /// Checks that every choice makes sense, in every combination that an override can make.
    ///
    /// # Errors
    /// Names the choice.
    pub fn check(&self) -> Result<()> {
        if self.version != VERSION {
            return Err(Error::new(ErrorKind::Unsupported, format!("recipe of version {}", self.version))
                .cure(format!("this nnq reads version {VERSION}")));
        }
        if self.samples == 0 {
            return Err(Error::usage("samples = 0: nothing to calibrate with").cure("use 100 or more"));
        }
        i64::try_from(self.seed).map_err(|_| Error::usage(format!("seed {} is above 2^63 - 1", self.seed)))?;
        check_pair(&self.activation, &self.weight)?;
        let corrected = self.correct_bias != BiasCorrection::Off;
        if self.is_dynamic() && (self.layer_by_layer() || corrected) {
            return Err(Error::usage(
                "activation.mode = \"dynamic\" or \"token\" beside methods that look at samples layer by layer or correct biases",
            )
            .cure("leave out compensate, correct_bias and roundings other than nearest and stochastic"));
        }
        if self.weight_only() && (self.reestimate || corrected) {
            return Err(Error::usage("activation.mode = \"float\" beside methods that correct biases")
                .cure("leave out correct_bias and reestimate: compensate and rounding look at samples, too"));
        }
        self.check_methods()?;
        for o in &self.layers {
            let fault = |cause: &str| Err(Error::usage(cause).at(o.describe()));
            if o.name.is_none() && o.op.is_none() {
                return fault("an override needs match or op").at(|| "[[layer]]");
            }
            let nothing = Override { name: o.name.clone(), op: o.op.clone(), ..Override::default() };
            if *o == nothing {
                return fault("an override that changes nothing");
            }
            o.matcher()?;
            let (mut a, mut w) = (self.activation, self.weight);
            a.change(&o.activation.unwrap_or_default());
            w.change(&o.weight.unwrap_or_default());
            check_pair(&a, &w).at(|| o.describe())?;
            self.check_scales(&w).at(|| o.describe())?;
        }
        Ok(())
    }
    /// Methods that do not go together.
    fn check_methods(&self) -> Result<()> {
        if let Some(smooth) = &self.smooth {
            smooth.check()?;
            if self.equalize {
                return Err(Error::usage("equalize and smooth both choose the scale of each channel")
                    .cure("use equalize for weights with one scale per tensor, smooth where activations lose more"));
            }
        }
        if self.reestimate && self.compensate {
            return Err(Error::usage("reestimate and compensate both fit a layer's scale to its inputs")
                .cure("leave out reestimate: compensate does more"));
        }
        if self.reestimate && self.correct_bias == BiasCorrection::Analytic {
            return Err(Error::usage("reestimate corrects biases on samples, correct_bias = \"analytic\" without any")
                .cure("use one of them"));
        }
        self.check_scales(&self.weight)
    }
    /// What re-estimation needs of weights' scales.
    fn check_scales(&self, w: &Weight) -> Result<()> {
        if self.reestimate && matches!(w.granularity, WeightGranularity::Tensor | WeightGranularity::Group(_)) {
            return Err(Error::usage(format!(
                "reestimate changes the scale of each output channel, granularity {} shares one",
                w.granularity
            ))
            .cure("use granularity channel or block:SIZE, or correct_bias alone"));
        }
        Ok(())
    }
    /// Whether layers are quantized one after the other, with samples.
    pub fn layer_by_layer(&self) -> bool {
        let change = |o: &Override| o.weight.and_then(|w| w.rounding).is_some_and(Rounding::needs_data);
        self.compensate
            || self.correct_bias == BiasCorrection::Empirical
            || self.reestimate
            || self.weight.rounding.needs_data()
            || self.layers.iter().any(change)
    }
    /// Whether the range of any value is to be chosen by the error of the layers that read it.
    pub fn by_output(&self) -> bool {
        let change = |o: &Override| o.activation.and_then(|a| a.range) == Some(RangeMethod::Output);
        self.activation.range == RangeMethod::Output || self.layers.iter().any(change)
    }
    /// Whether only the weights of some layer become codes.
    fn weight_only(&self) -> bool {
        let change = |o: &Override| o.activation.and_then(|a| a.mode) == Some(ActivationMode::Float);
        self.activation.mode == ActivationMode::Float || self.layers.iter().any(change)
    }
    /// Whether anything between products is to compute in integers.
    pub fn integers(&self) -> bool {
        let change = |o: &Override| o.activation.and_then(|a| a.mode) == Some(ActivationMode::Integer);
        self.activation.mode == ActivationMode::Integer || self.layers.iter().any(change)
    }
    /// Whether any layer finds the grid of its input at run time.
    pub fn is_dynamic(&self) -> bool {
        let change = |o: &Override| o.activation.and_then(|a| a.mode).is_some_and(ActivationMode::is_dynamic);
        self.activation.mode.is_dynamic() || self.layers.iter().any(change)
    }
    /// Whether any grid may have to be found by calibration.
    pub fn needs_statistics(&self) -> bool {
        let change = |o: &Override| o.activation.and_then(|a| a.mode).is_some_and(ActivationMode::is_calibrated);
        self.activation.mode.is_calibrated() || self.logits == Logits::Int8 || self.layers.iter().any(change)
    }
    /// What holds for the node `name` with ONNX operator `op` in the middle of the network.
    ///
    /// # Errors
    /// Like [`Recipe::resolve_at`].
    pub fn resolve(&self, name: &str, op: &str) -> Result<LayerRecipe> {
        self.resolve_at(name, op, Position::Middle)
    }
    /// What holds for a node: the defaults, then the rule for the first or last layer and for tables (`Gather`: at least 8 bits), then each override that applies.
    ///
    /// # Errors
    /// When overrides that apply together make no sense; names the node.
    pub fn resolve_at(&self, name: &str, op: &str, position: Position) -> Result<LayerRecipe> {
        let mut layer = LayerRecipe { keep_float: false, activation: self.activation, weight: self.weight };
        let edge = match position {
            Position::First => self.first,
            Position::Middle => Edge::Same,
            Position::Last => self.last,
        };
        match edge {
            Edge::Same => {}
            Edge::EightBit => {
                layer.activation.bits = layer.activation.bits.max(8);
                layer.weight.bits = layer.weight.bits.max(8);
            }
            Edge::Float => layer.keep_float = true,
        }
        // Tables of embeddings: what is wrong with a row reaches everything behind it, and only the rows that are looked up are read at all.
        if op == "Gather" {
            layer.weight.bits = layer.weight.bits.max(8);
        }
        for o in &self.layers {
            if o.applies(name, op)? {
                set(&mut layer.keep_float, o.keep_float);
                layer.activation.change(&o.activation.unwrap_or_default());
                layer.weight.change(&o.weight.unwrap_or_default());
            }
        }
        check_pair(&layer.activation, &layer.weight).at(|| format!("node '{name}'"))?;
        Ok(layer)
    }
    /// The overrides that apply to none of these nodes (name, operator): most likely typing errors, to be shown to the
    /// user.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn unused<'a>(&self, nodes: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for o in &self.layers {
            let mut any = false;
            for (name, op) in nodes.clone() {
                any |= o.applies(name, op)?;
            }
            if !any {
                out.push(o.describe());
            }
        }
        Ok(out)
    }
}

fn check_pair(a: &Activation, w: &Weight) -> Result<()> {
    for (what, bits) in [("activation", a.bits), ("weight", w.bits)] {
        if !(2..=16).contains(&bits) {
            return Err(Error::usage(format!("{what}.bits = {bits}")).cure("use 2 to 16 bits"));
        }
    }
    if !a.mode.is_calibrated() {
        let mode = a.mode.name();
        if a.mode.is_dynamic() && (a.bits, a.signed, a.symmetric) != (8, false, false) {
            return Err(Error::usage(format!(
                "activation.mode = \"{mode}\" with another grid than unsigned codes of 8 bits"
            ))
            .cure("leave out activation.bits, signed and symmetric: what is found at run time has 8 bits"));
        }
        if w.bits > 8 {
            return Err(Error::usage(format!("weight.bits = {} with activation.mode = \"{mode}\"", w.bits))
                .cure("use 8 bits or fewer"));
        }
    }
    if w.narrow == Narrow::Always && !w.signed {
        return Err(
            Error::usage("weight.narrow = \"always\" with unsigned weights").cure("leave weight.narrow at \"auto\"")
        );
    }
    if w.range == WeightRange::Hqq && w.symmetric {
        return Err(Error::usage("weight.range = \"hqq\" fits zero points, and symmetric weights have none")
            .cure("set weight.symmetric = false (--weight-range hqq does it)"));
    }
    if w.symmetric && !w.signed {
        return Err(Error::usage("weight.symmetric with unsigned weights: negative weights would have no codes")
            .cure("set weight.signed = true or weight.symmetric = false"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
