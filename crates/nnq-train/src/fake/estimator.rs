//! The rules by which gradients pass a rounding.
use nnq::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How the gradient of a rounded value becomes that of the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Estimator {
    /// Unchanged everywhere.
    Ste,
    /// Unchanged where the value lies on the grid, nothing outside.
    #[default]
    Clipped,
    /// Element-wise gradient scaling.
    Ewgs {
        /// 0 is [`Estimator::Clipped`].
        delta: f32,
    },
    /// Differentiable soft quantization.
    Dsq {
        /// How far the staircase is from a step, between 0 (a step) and 1 (a line).
        alpha: f32,
    },
}

/// The share of a gradient that passes an element: `v` is the value in steps, `r` the step that it is rounded to, `[lo, hi]` the grid, `g` the
/// gradient.
#[inline]
pub fn passes(estimator: Estimator, v: f32, r: f32, [lo, hi]: [f32; 2], g: f32) -> f32 {
    let inside = v >= lo && v <= hi;
    match estimator {
        Estimator::Ste => 1.0,
        Estimator::Clipped => f32::from(u8::from(inside)),
        _ if !inside => 0.0,
        Estimator::Ewgs { delta } => 1.0 + delta * sign(g) * (v - r) / (hi - lo),
        Estimator::Dsq { alpha } => {
            // The staircase between two steps, with the middle m: (m - 1/2) + (1 + tanh(k (v - m)) / tanh(k / 2)) / 2.
            let k = (2.0 / alpha - 1.0).ln();
            let t = (k * (v - v.floor() - 0.5)).tanh();
            0.5 * k * (1.0 - t * t) / (0.5 * k).tanh()
        }
    }
}

/// -1, 0 or 1.
fn sign(g: f32) -> f32 {
    f32::from(i8::from(g > 0.0) - i8::from(g < 0.0))
}

/// How scales learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleRule {
    /// Learned step size quantization.
    #[default]
    Lsq,
    /// Parametrized clipping activation.
    Pact,
    /// Not at all.
    Fixed,
}

/// The derivative of a rounded value by its scale.
#[inline]
pub fn by_scale(rule: ScaleRule, v: f32, r: f32, [lo, hi]: [f32; 2]) -> f32 {
    match rule {
        ScaleRule::Fixed => 0.0,
        _ if v <= lo => lo,
        _ if v >= hi => hi,
        ScaleRule::Lsq => r - v,
        ScaleRule::Pact => 0.0,
    }
}

impl fmt::Display for Estimator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ste => f.write_str("ste"),
            Self::Clipped => f.write_str("clipped"),
            Self::Ewgs { delta } => write!(f, "ewgs:{delta}"),
            Self::Dsq { alpha } => write!(f, "dsq:{alpha}"),
        }
    }
}

impl FromStr for Estimator {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let (name, number) = s.split_once(':').map_or((s, None), |(name, x)| (name, Some(x)));
        let number = |usual: f32, from: f32, to: f32| match number.map(str::parse::<f32>) {
            None => Ok(usual),
            Some(Ok(x)) if x > from && x < to => Ok(x),
            _ => Err(Error::usage(format!("estimator '{s}': the number lies between {from} and {to}"))),
        };
        match name {
            "ste" if s == name => Ok(Self::Ste),
            "clipped" if s == name => Ok(Self::Clipped),
            "ewgs" => Ok(Self::Ewgs { delta: number(1e-3, 0.0, 2.0)? }),
            "dsq" => Ok(Self::Dsq { alpha: number(0.2, 0.0, 1.0)? }),
            _ => Err(Error::usage(format!("'{s}' is no gradient estimator"))
                .cure("use ste, clipped, ewgs[:DELTA] or dsq[:ALPHA]")),
        }
    }
}

impl TryFrom<String> for Estimator {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Estimator> for String {
    fn from(e: Estimator) -> Self {
        e.to_string()
    }
}
