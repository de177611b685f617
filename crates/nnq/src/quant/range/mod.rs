//! From statistics to a range, and from a range to scale and zero point.
//!
//! Every method reads the same [`Sketch`], for any bit width from 2 to 16, symmetric or not, signed or unsigned, narrow
//! or full: calibrate once, decide later.
//!
//! | method | chooses | good for |
//! |---|---|---|
//! | `minmax` | the extremes | 8 bits and more without outliers |
//! | `moving-average` | the average of the samples' extremes | 8 bits, few outliers |
//! | `percentile` | quantiles | 6 to 8 bits with outliers |
//! | `entropy` | least KL divergence (TensorRT) | 8 bits, signed bell shapes |
//! | `mse` | least mean `|error|^p` on the grid as deployed | any width, first choice at 6 and below |
//! | `norm` | least mean square error, every zero point tried | any width |
//! | `aciq` | closed forms for Laplace and Gauss | a fast start |
//! | `output` | for each value whichever of these does least harm to the layers that read it ([`crate::quant::outputs`]) | 6 bits and below |
mod analytic;
mod entropy;
mod loss;
mod mse;
mod norm;
mod search;
#[cfg(test)]
mod tests;

pub(crate) use search::{Effort, along, plane};

use crate::{
    error::{Error, Result},
    ir::QType,
    quant::observer::{ChannelSketch, Sketch},
};
use nnq_kernels::round::rne_f64;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How to choose a range. Written as `minmax`, `moving-average[:c]`, `percentile[:p]`, `entropy`, `mse[:p]`, `norm`,
/// `aciq`, `output`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum RangeMethod {
    /// The extremes of everything seen.
    MinMax,
    /// Exponential moving average of the samples' extremes in the order of their indices; the first is copied.
    MovingAverage {
        /// Weight of the newest sample, 0 < c <= 1. Default 0.01.
        c: f64,
    },
    /// The range that leaves out `100 - p` percent of the values: all of them on one side when the grid is symmetric
    /// (largest magnitudes) or the data does not change sign, half on each side otherwise.
    Percentile {
        /// Percent, 50 < p <= 100. Default 99.99.
        p: f64,
    },
    /// The threshold with the least Kullback-Leibler divergence between the clipped and the quantized histogram of
    /// magnitudes; 2048 bins, at least 128 of them kept, the first bin replaced by the second (TensorRT, Migacz 2017).
    Entropy,
    /// The least sum of `|x - D(Q(x))|^p`.
    Mse {
        /// Exponent, 1 <= p <= 8. Default 2.4 (a little more weight on outliers; BRECQ).
        p: f64,
    },
    /// The least sum of squared errors over every zero point and scale: [`RangeMethod::Mse`] with `p = 2` by an
    /// exhaustive algorithm. Unlike PyTorch's `HistogramObserver` it is not greedy, knows the true number of levels,
    /// and measures on the grid as deployed, zero on it.
    Norm,
    /// The clip that is optimal for a Laplace or Gauss distribution (whichever fits better) of the same mean and spread
    /// (Banner et al. 2019).
    Aciq,
    /// For each value one of the others, by the error of what the layers that read it make, on samples: [`crate::quant::outputs`] replaces it.
    Output,
}

impl fmt::Display for RangeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("minmax"),
            Self::MovingAverage { c } => write!(f, "moving-average:{c}"),
            Self::Percentile { p } => write!(f, "percentile:{p}"),
            Self::Entropy => f.write_str("entropy"),
            Self::Mse { p } => write!(f, "mse:{p}"),
            Self::Norm => f.write_str("norm"),
            Self::Aciq => f.write_str("aciq"),
            Self::Output => f.write_str("output"),
        }
    }
}

impl FromStr for RangeMethod {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let (name, argument) = s.split_once(':').map_or((s, None), |(n, a)| (n, Some(a)));
        let number = |default: f64, ok: fn(f64) -> bool, allowed: &str| match argument {
            None => Ok(default),
            Some(a) => a.trim().parse::<f64>().ok().filter(|x| ok(*x)).ok_or_else(|| {
                Error::usage(format!("range method '{s}': '{a}' is not {allowed}"))
                    .cure(format!("e.g. '{name}:{default}'"))
            }),
        };
        let plain = |m: Self| match argument {
            None => Ok(m),
            Some(_) => Err(Error::usage(format!("range method '{s}': '{name}' has no parameter"))),
        };
        match name.trim() {
            "minmax" => plain(Self::MinMax),
            "moving-average" => {
                Ok(Self::MovingAverage { c: number(0.01, |c| c > 0.0 && c <= 1.0, "a weight above 0 and up to 1")? })
            }
            "percentile" => Ok(Self::Percentile {
                p: number(99.99, |p| p > 50.0 && p <= 100.0, "a percentage above 50 and up to 100")?,
            }),
            "entropy" => plain(Self::Entropy),
            "mse" => Ok(Self::Mse { p: number(2.4, |p| (1.0..=8.0).contains(&p), "an exponent from 1 to 8")? }),
            "norm" => plain(Self::Norm),
            "aciq" => plain(Self::Aciq),
            "output" => plain(Self::Output),
            _ => Err(Error::usage(format!("'{s}' is no range method"))
                .cure("use minmax, moving-average, percentile, entropy, mse, norm, aciq or output")),
        }
    }
}

impl TryFrom<String> for RangeMethod {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<RangeMethod> for String {
    fn from(m: RangeMethod) -> Self {
        m.to_string()
    }
}

/// The grid to choose a range for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheme {
    /// Bits, sign, narrow.
    pub qtype: QType,
    /// Zero point 0. With an unsigned grid this holds only values that are not negative.
    pub symmetric: bool,
}

impl Scheme {
    /// Checks the grid.
    ///
    /// # Errors
    /// Outside 2 to 16 bits, or for an unsigned narrow grid.
    pub fn check(self) -> Result<()> {
        let q = self.qtype;
        if !(2..=16).contains(&q.bits) || q.narrow && !q.signed {
            return Err(Error::usage(format!("ranges cannot be chosen for the grid {q}"))
                .cure("use 2 to 16 bits; only signed grids can be narrow"));
        }
        Ok(())
    }
    /// Lowest and highest code as real numbers.
    pub(crate) fn codes(self) -> [f64; 2] {
        [self.qtype.min().into(), self.qtype.max().into()]
    }
    /// The zero points that can be useful for values in `[lo, hi]`: one when the grid is symmetric or no value lies on
    /// one side of zero.
    pub(crate) fn zero_points(self, lo: f64, hi: f64) -> std::ops::RangeInclusive<i32> {
        let (n, p) = (self.qtype.min(), self.qtype.max());
        match self {
            Self { symmetric: true, .. } => 0..=0,
            _ if lo >= 0.0 => n..=n,
            _ if hi <= 0.0 => p..=p,
            _ => n..=p,
        }
    }
}

/// The real numbers that a grid is to cover.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

impl Range {
    /// What a grid of step `s` with zero point `z` covers. [`params`] gives `s` and `z` back.
    pub(crate) fn of_grid(scheme: Scheme, s: f64, z: i32) -> Self {
        let [n, p] = scheme.codes();
        Self { lo: (n - f64::from(z)) * s, hi: (p - f64::from(z)) * s }
    }
}

/// Chooses the range of a value with the statistics `sketch` on the grid of `scheme`.
///
/// A value that is always the same gets a range in which it is represented exactly.
///
/// # Errors
/// When nothing was observed, when NaN or infinities were (the message counts them), when an unsigned symmetric grid
/// meets negative values, or when the method needs what was not recorded. The caller adds the value's name.
pub fn choose(method: RangeMethod, sketch: &Sketch, scheme: Scheme) -> Result<Range> {
    scheme.check()?;
    let [lo, hi] = usable(sketch)?.map(f64::from);
    if scheme.symmetric && !scheme.qtype.signed && lo < 0.0 {
        return Err(Error::value(format!("values down to {lo} on the unsigned symmetric grid {}", scheme.qtype))
            .cure("use a signed or an asymmetric grid"));
    }
    if lo == hi {
        return Ok(constant(lo, scheme));
    }
    let range = match method {
        RangeMethod::MinMax => Range { lo, hi },
        RangeMethod::MovingAverage { c } => {
            let [lo, hi] = sketch.samples().moving_average(c)?.ok_or_else(|| {
                Error::usage("the statistics hold no extremes of single samples").cure("use another range method")
            })?;
            Range { lo, hi }
        }
        RangeMethod::Percentile { p } => percentile(p, sketch, scheme)?,
        RangeMethod::Entropy => entropy::choose(&sketch.segments(), lo, hi, scheme),
        RangeMethod::Mse { p } => mse::choose(p, &sketch.segments(), lo, hi, scheme),
        RangeMethod::Norm => norm::choose(&sketch.segments(), lo, hi, scheme),
        RangeMethod::Aciq => analytic::choose(sketch, lo, hi, scheme),
        RangeMethod::Output => {
            return Err(Error::usage(
                "range \"output\" looks at the layers that read a value, on samples, and there are none",
            )
            .cure("give --data, or use another method, such as norm or mse"));
        }
    };
    Ok(range)
}

/// [`choose`] for each channel.
///
/// # Errors
/// Like [`choose`], naming the channel.
pub fn choose_channels(method: RangeMethod, sketch: &ChannelSketch, scheme: Scheme) -> Result<Vec<Range>> {
    let one = |(c, s)| choose(method, s, scheme).map_err(|e: Error| e.at(format!("channel {c}")));
    sketch.channels().iter().enumerate().map(one).collect()
}

fn usable(sketch: &Sketch) -> Result<[f32; 2]> {
    let (nan, [neg, pos]) = (sketch.nan(), sketch.infinities());
    if nan + neg + pos > 0 {
        return Err(Error::value(format!(
            "{nan} NaN, {neg} -inf and {pos} +inf among {} values seen in calibration",
            sketch.count()
        ))
        .cure("find the samples or the layer that make them, or keep this layer in float"));
    }
    sketch
        .extremes()
        .ok_or_else(|| Error::value("no value was seen in calibration").cure("calibrate with samples that reach it"))
}

/// The range in which `c` is the power of two that is the largest code distance from zero, times a scale: `c` divided
/// by a power of two is exact in binary32.
fn constant(c: f64, scheme: Scheme) -> Range {
    if c == 0.0 {
        return Range { lo: 0.0, hi: 0.0 };
    }
    let [n, p] = scheme.codes();
    let z = if scheme.symmetric {
        0.0
    } else if c > 0.0 {
        n
    } else {
        p
    };
    let reach = if c > 0.0 { p - z } else { z - n };
    let mut code = 1.0;
    while code * 2.0 <= reach {
        code *= 2.0;
    }
    let s = c.abs() / code;
    Range { lo: (n - z) * s, hi: (p - z) * s }
}

fn percentile(p: f64, sketch: &Sketch, scheme: Scheme) -> Result<Range> {
    let cut = (100.0 - p) / 100.0;
    let none = || Error::internal("quantile of an empty sketch");
    let [lo, hi] = usable(sketch)?;
    if scheme.symmetric {
        let t = sketch.quantile_abs(1.0 - cut).ok_or_else(none)?;
        return Ok(Range { lo: -t, hi: t });
    }
    let (below, above) = if lo >= 0.0 {
        (0.0, cut)
    } else if hi <= 0.0 {
        (cut, 0.0)
    } else {
        (cut / 2.0, cut / 2.0)
    };
    Ok(Range { lo: sketch.quantile(below).ok_or_else(none)?, hi: sketch.quantile(1.0 - above).ok_or_else(none)? })
}

/// Scale and zero point for a range.
///
/// The range is widened to hold zero, which is thereby represented exactly. Then
///
/// - asymmetric: `s = (hi - lo) / (p - n)`, `z = clamp(rne(n - lo / s), n, p)`;
/// - symmetric: `z = 0` and the least `s` that clips neither end, `s = max(hi / p, lo / n)`;
///
/// in binary64, `s` rounded down to binary32 before it is used for `z`. Always finite and normal: an empty range gives
/// 1, smaller ones than the smallest normal number that number, and what would overflow the largest finite number.
pub fn params(range: Range, scheme: Scheme) -> (f32, i32) {
    let [n, p] = scheme.codes();
    let (lo, hi) = (range.lo.min(0.0), range.hi.max(0.0));
    let real = if !scheme.symmetric {
        (hi - lo) / (p - n)
    } else if scheme.qtype.signed {
        (hi / p).max(lo / n)
    } else {
        hi / p
    };
    let s = safe_scale(real);
    let z = if scheme.symmetric { 0 } else { rne_f64(n - lo / f64::from(s)).clamp(n, p) as i32 };
    (s, z)
}

/// The fixed rule for scales: see [`params`].
///
/// Rounded down, not to nearest: a value that lies exactly between two codes in real arithmetic, such as half of the
/// largest magnitude, then does not fall below the middle by the rounding of the scale. The largest magnitude itself
/// is 1e-7 above the last code, which rounding and clamping absorb.
pub(crate) fn safe_scale(real: f64) -> f32 {
    if real > 0.0 {
        let nearest = real as f32;
        let down = if f64::from(nearest) > real { nearest.next_down() } else { nearest };
        down.clamp(f32::MIN_POSITIVE, f32::MAX)
    } else {
        1.0
    }
}
