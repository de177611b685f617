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
    /// Rectified straight-through estimator: around each jump the slope of `sign(z)|z|^(1/o)`.
    Reste {
        /// 1 is a straight line; training goes there from 1, evenly.
        o: f32,
    },
}

/// Where the slope of [`Estimator::Reste`] no longer grows towards the jump, and where it ends (Wu et al., ICCV 2023), in half steps.
pub(super) const RESTE: [f32; 2] = [0.1, 1.5];

/// Where a value stands between the levels of its grid.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Not clipped.
    pub inside: bool,
    /// How far it lies above its level, in shares of the grid.
    pub off: f32,
    /// How far it lies above the nearest jump between two levels, in shares of the way to where the next level is exact.
    pub z: f32,
    /// The slope of a straight line through both levels.
    pub slope: f32,
}

impl Standing {
    /// On evenly spaced levels: `v` is the value in steps, `r` the step that it is rounded to, `[lo, hi]` the grid.
    #[inline]
    pub fn even(v: f32, r: f32, [lo, hi]: [f32; 2]) -> Self {
        let cell = v.floor().max(lo).min(hi - 1.0);
        Self { inside: v >= lo && v <= hi, off: (v - r) / (hi - lo), z: 2.0 * (v - cell) - 1.0, slope: 1.0 }
    }
}

impl Estimator {
    /// What it is after a share of the training.
    pub fn at(self, progress: f32) -> Self {
        match self {
            Self::Reste { o } => Self::Reste { o: 1.0 + (o - 1.0) * progress },
            other => other,
        }
    }
    /// The rule for many elements.
    pub fn passing(self) -> Passing {
        match self {
            Self::Ste => Passing::All,
            Self::Clipped => Passing::Inside,
            Self::Ewgs { delta } => Passing::Scaled { delta },
            Self::Reste { o } => {
                let (power, [flat, _]) = (1.0 / o - 1.0, RESTE);
                Passing::Root { share: 1.0 / o, power, near: flat.powf(power) }
            }
            Self::Dsq { alpha } => {
                let k = (2.0 / alpha - 1.0).ln();
                Passing::Soft { k, peak: 0.5 * k / (0.5 * k).tanh() }
            }
        }
    }
}

/// An estimator with all that does not depend on the element.
#[derive(Clone, Copy, Debug)]
pub enum Passing {
    /// [`Estimator::Ste`].
    All,
    /// [`Estimator::Clipped`].
    Inside,
    /// [`Estimator::Ewgs`].
    Scaled { delta: f32 },
    /// [`Estimator::Reste`]: the slope `share |z|^power` of `|z|^share`, and near the jump that of its secant, which it meets from above.
    Root { share: f32, power: f32, near: f32 },
    /// [`Estimator::Dsq`]: the slope of `(1 + tanh(k z / 2) / tanh(k / 2)) / 2`, in levels, which is `peak` at the jump.
    Soft { k: f32, peak: f32 },
}

impl Passing {
    /// The share of a gradient `g` that passes an element.
    #[inline]
    pub fn share(self, at: Standing, g: f32) -> f32 {
        match self {
            Self::All => 1.0,
            Self::Inside => f32::from(u8::from(at.inside)),
            Self::Root { share, power, near } => {
                let ([flat, end], far) = (RESTE, at.z.abs());
                at.slope
                    * match far {
                        _ if far <= flat => near,
                        _ if far <= end => share * far.powf(power),
                        _ => 0.0,
                    }
            }
            _ if !at.inside => 0.0,
            Self::Scaled { delta } => 1.0 + delta * sign(g) * at.off,
            Self::Soft { k, peak } => {
                // 1 - tanh(x)^2 = 4 e / (1 + e)^2 with e = exp(-2 |x|), x = k z / 2.
                let e = (-k * at.z.abs()).exp();
                at.slope * peak * 4.0 * e / ((1.0 + e) * (1.0 + e))
            }
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
            Self::Reste { o } => write!(f, "reste:{o}"),
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
            "reste" => Ok(Self::Reste { o: number(3.0, 1.0, 100.0)? }),
            _ => Err(Error::usage(format!("'{s}' is no gradient estimator"))
                .cure("use ste, clipped, ewgs[:DELTA], dsq[:ALPHA] or reste[:O]")),
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
