//! How values and weights learn to be rounded, and on which grids.
use crate::fake::{Estimator, Levels, ScaleRule};
use nnq::{
    Error, Result,
    ir::{QParams, QType},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How values learn to be rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// How gradients pass.
    pub estimator: Estimator,
    /// For what layers exchange.
    pub activations: Activations,
    /// For weights.
    pub weights: Weights,
    /// Of what convolutions answer.
    pub normalization: Normalization,
}

/// How what convolutions answer is held in place while their weights change: [`super::normal`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Normalization {
    /// Not at all: batch normalisation is folded into weights and biases before.
    #[default]
    Folded,
    /// By the statistics of each batch.
    Live {
        /// The share of the steps, at the end, that goes by running statistics, as the network is written.
        frozen: f32,
    },
}

/// The usual share of steps by running statistics.
const FROZEN: f32 = 0.1;

impl Normalization {
    /// Whether a training that is done to this share goes by running statistics.
    pub fn is_frozen(self, done: f64) -> bool {
        matches!(self, Self::Live { frozen } if done >= 1.0 - f64::from(frozen))
    }
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folded => f.write_str("folded"),
            Self::Live { frozen } => write!(f, "live:{frozen}"),
        }
    }
}

impl FromStr for Normalization {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s.split_once(':').map_or((s, None), |(name, x)| (name, Some(x.parse::<f32>()))) {
            ("folded", None) => Ok(Self::Folded),
            ("live", None) => Ok(Self::Live { frozen: FROZEN }),
            ("live", Some(Ok(frozen))) if (0.0..=1.0).contains(&frozen) => Ok(Self::Live { frozen }),
            ("live", _) => Err(Error::usage(format!("'{s}': the share of steps lies between 0 and 1"))),
            _ => Err(Error::usage(format!("'{s}' is no way of normalisation")).cure("use folded or live[:SHARE]")),
        }
    }
}

impl TryFrom<String> for Normalization {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Normalization> for String {
    fn from(n: Normalization) -> Self {
        n.to_string()
    }
}

/// Grids of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// Scales are learned step sizes.
    #[default]
    Lsq,
    /// Scales learn from clipped values.
    Pact,
    /// Scales stay what calibration found.
    Fixed,
    /// Values that are never negative are clipped to `[0, 1]`, on as many bits as the recipe says.
    Dorefa,
    /// Values of 2 bits (or 1) become `{0, s}` where they are never negative, else `{-s, 0, s}`.
    Binary,
    /// Values of 2 bits become `{-s, 0, s}`.
    Ternary,
}

/// Grids of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Scales are learned step sizes.
    #[default]
    Lsq,
    /// Scales stay what was fitted to the weights.
    Fixed,
    /// [`Levels::Tanh`] up to [`DOREFA_BITS`] bits.
    Dorefa,
    /// [`Levels::Binary`] at 2 bits.
    Binary,
    /// [`Levels::Balanced`] at 2 bits.
    Balanced,
    /// [`Levels::Ternary`] at 2 bits.
    Ternary,
}

/// The most bits of DoReFa weights: their codes are odd numbers of one bit more, and products take 8.
pub const DOREFA_BITS: u8 = 7;

/// Few bits, which binary and ternary grids stand for.
const FEW: u8 = 2;

/// A grid to begin with.
pub(super) struct Choice {
    pub params: QParams,
    pub rule: ScaleRule,
    pub levels: Option<Levels>,
    /// The rules asked for something else than the usual learned scale, and it applies here.
    pub special: bool,
}

impl Activations {
    /// The grid of values that calibration put on `params`.
    pub(super) fn choose(self, params: &QParams) -> Choice {
        let usual = |rule| Choice { params: params.clone(), rule, levels: None, special: false };
        // No code stands for less than zero.
        let positive = params.zero_point.iter().all(|&z| z == params.qtype.min());
        let bits = params.qtype.bits;
        // Half of the calibrated range becomes the step: the middle of the range is rounded up from three quarters of it on.
        let half = |qtype: QType| {
            let far = |z: &i32| (params.qtype.max() - z).max(z - params.qtype.min()) as f32;
            let scale = params.scale.iter().zip(&params.zero_point).map(|(s, z)| 0.5 * s * far(z)).collect();
            let params = QParams { qtype, scale, zero_point: vec![0; params.zero_point.len()], ..params.clone() };
            Choice { params, rule: ScaleRule::Lsq, levels: None, special: true }
        };
        match self {
            Self::Lsq => usual(ScaleRule::Lsq),
            Self::Pact => usual(ScaleRule::Pact),
            Self::Fixed => usual(ScaleRule::Fixed),
            Self::Dorefa if positive => {
                let qtype = QType { bits, signed: false, narrow: false };
                let scale = vec![1.0 / qtype.max() as f32; params.scale.len()];
                let params = QParams { qtype, scale, zero_point: vec![0; params.zero_point.len()], ..params.clone() };
                Choice { params, rule: ScaleRule::Fixed, levels: None, special: true }
            }
            Self::Binary if bits <= FEW && positive => half(QType { bits: 1, signed: false, narrow: false }),
            Self::Binary | Self::Ternary if bits <= FEW => half(QType { bits: 2, signed: true, narrow: true }),
            Self::Dorefa | Self::Binary | Self::Ternary => usual(ScaleRule::Lsq),
        }
    }
    /// The error of a rule that applies to nothing.
    pub(super) fn nowhere(self) -> Error {
        match self {
            Self::Dorefa => {
                Error::usage("DoReFa clips activations to [0, 1], and all of this network's can be negative")
                    .cure("train a network with ReLU before its layers, or use --quantizer lsq")
            }
            _ => Error::usage("binary or ternary activations, and no activation of 2 bits")
                .cure("give those that are meant 2 bits, as --bits w2a2 or an override of the recipe do"),
        }
    }
}

impl Weights {
    /// The grid of weights that were fitted to `params`.
    pub(super) fn choose(self, params: &QParams) -> Choice {
        let params = params.clone();
        let bits = params.qtype.bits;
        let levels = match self {
            Self::Binary if bits <= FEW => Some(Levels::Binary),
            Self::Balanced if bits <= FEW => Some(Levels::Balanced),
            Self::Ternary if bits <= FEW => Some(Levels::Ternary),
            Self::Dorefa if bits <= DOREFA_BITS => Some(Levels::Tanh { bits }),
            _ => None,
        };
        match levels {
            Some(levels) => {
                let zero_point = vec![0; params.zero_point.len()];
                let params = QParams { qtype: levels.qtype(), zero_point, ..params };
                Choice { params, rule: ScaleRule::Fixed, levels: Some(levels), special: true }
            }
            None => {
                let rule = if self == Self::Fixed { ScaleRule::Fixed } else { ScaleRule::Lsq };
                Choice { params, rule, levels: None, special: false }
            }
        }
    }
    /// The error of a rule that applies to nothing.
    pub(super) fn nowhere(self) -> Error {
        match self {
            Self::Dorefa => Error::usage(format!(
                "DoReFa weights of more than {DOREFA_BITS} bits: none of their 2^bits levels is zero, so that their codes are odd numbers of one bit more"
            ))
            .cure("use fewer bits, such as --bits w4a4, or --weight-quantizer lsq"),
            _ => Error::usage("binary, balanced or ternary weights, and no layer with weights of 2 bits")
                .cure("give those that are meant 2 bits, as --bits w2a8 or an override of the recipe do"),
        }
    }
}

impl Rules {
    /// Whether a rule other than for scales was asked for.
    pub(super) fn wants(self) -> [bool; 2] {
        let a = !matches!(self.activations, Activations::Lsq | Activations::Pact | Activations::Fixed);
        let w = !matches!(self.weights, Weights::Lsq | Weights::Fixed);
        [a, w]
    }
    /// Refuses a rule that applies to nothing; `found`: grids of activations and of weights that it applies to.
    pub(super) fn check(self, found: [usize; 2]) -> Result<()> {
        match (self.wants(), found) {
            ([true, _], [0, _]) => Err(self.activations.nowhere()),
            ([_, true], [_, 0]) => Err(self.weights.nowhere()),
            _ => Ok(()),
        }
    }
    /// Says to how many of `all` grids a rule applies, where these are not all.
    pub(super) fn notes(self, found: [usize; 2], all: [usize; 2]) -> Vec<String> {
        let each = self.wants().into_iter().zip(found).zip(all).zip(["activations", "weights"]);
        let some = each.filter(|(((wanted, found), all), _)| *wanted && found < all);
        some.map(|(((_, found), all), what)| {
            format!("{found} of {all} grids of {what} are as the quantizer says; the others learn as with lsq")
        })
        .collect()
    }
}
