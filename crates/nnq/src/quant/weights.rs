//! Quantization of weights: scales per tensor, channel or block, and codes.
use super::{
    range::{Effort, Range, Scheme, along, params, plane, safe_scale},
    rounder::{Nearest, Rounder, Task},
};
use crate::{
    error::{At, Error, Result},
    ir::{Granularity, QParams, QType, Tensor},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How a weight's scale is chosen. Written as `absmax`, `mse[:p]` or `hqq`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum WeightRange {
    /// Clip nothing.
    AbsMax,
    /// The least sum of `|w - D(Q(w))|^p`, never worse than [`WeightRange::AbsMax`] in that measure. Some 45
    /// candidates, coarse to fine.
    Mse {
        /// Exponent, 1 <= p <= 8. Default 2.4 (GPTQ, BRECQ).
        p: f64,
    },
    /// Zero point and scale for which the errors are sparse: the least sum of `|w - D(Q(w))|^0.7` by half-quadratic splitting ([`hqq`]). Asymmetric grids
    /// only.
    Hqq,
}

impl fmt::Display for WeightRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AbsMax => f.write_str("absmax"),
            Self::Mse { p } => write!(f, "mse:{p}"),
            Self::Hqq => f.write_str("hqq"),
        }
    }
}

impl FromStr for WeightRange {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s.split_once(':') {
            None if s == "absmax" => Ok(Self::AbsMax),
            None if s == "hqq" => Ok(Self::Hqq),
            None if s == "mse" => Ok(Self::Mse { p: 2.4 }),
            Some(("mse", a)) => match a.parse() {
                Ok(p) if (1.0..=8.0).contains(&p) => Ok(Self::Mse { p }),
                _ => Err(Error::usage(format!("weight range '{s}': '{a}' is not an exponent from 1 to 8"))),
            },
            _ => Err(Error::usage(format!("'{s}' is no weight range")).cure("use absmax, mse, mse:P or hqq")),
        }
    }
}

impl TryFrom<String> for WeightRange {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<WeightRange> for String {
    fn from(w: WeightRange) -> Self {
        w.to_string()
    }
}

/// Up to this many bits the plane of both ends has a valley for each zero point, and neighbouring ones are searched on
/// their own.
const FEW_LEVELS: u8 = 4;
/// Of up to this many values every zero point is searched, also where they have one sign: the error of a block of 16 is so rough that a wider step that
/// wastes a code may be a fifth better.
const FEW_VALUES: usize = 256;

/// What weights become.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightScheme {
    /// The grid, 2 to 16 bits.
    pub qtype: QType,
    /// Zero points 0.
    pub symmetric: bool,
    /// One scale per tensor, channel or block.
    pub granularity: Granularity,
    /// Consecutive channels that share one scale, where it is one per channel; 1 otherwise.
    pub channels: usize,
    /// How scales are chosen.
    pub range: WeightRange,
}

impl WeightScheme {
    fn scheme(&self) -> Scheme {
        Scheme { qtype: self.qtype, symmetric: self.symmetric }
    }
}

/// Quantizes a weight tensor (any float type) whose output channels lie along its first axis, each weight to the nearest code: codes as an integer tensor of
/// the same shape, and their parameters.
///
/// # Errors
/// When an element is NaN or infinite (names the channel), or the scheme does not fit the shape.
pub fn quantize(weights: &Tensor, scheme: &WeightScheme) -> Result<(Tensor, QParams)> {
    let real = reals(weights)?;
    let params = fit(&real, weights.shape(), scheme)?;
    let codes = Nearest.round(&Task::new(&real, weights.shape(), 0, &params)?, None)?;
    Ok((pack(&codes, weights.shape(), params.qtype)?, params))
}

/// Scales and zero points for weights, without rounding them.
///
/// A channel or block of zeros gets the largest scale of the others (1 when all are zero): its codes are the zero
/// point in any case, and a bias, whose step is the product of the input's and the weight's scale, keeps its
/// precision.
///
/// # Errors
/// Like [`quantize`].
pub fn fit(weights: &[f32], shape: &[usize], scheme: &WeightScheme) -> Result<QParams> {
    let grid = scheme.scheme();
    grid.check()?;
    let mut groups = Groups::new(shape, scheme.granularity)?;
    if let Granularity::Channel { .. } = scheme.granularity {
        groups = groups.joined(scheme.channels.max(1));
    }
    if groups.total != weights.len() {
        return Err(Error::shape(format!("shape {shape:?} and {} weights", weights.len())));
    }
    let fitted = (0..groups.len())
        .into_par_iter()
        .map_init(Vec::new, |values, g| {
            values.clear();
            groups.runs(g).for_each(|run| values.extend_from_slice(&weights[run]));
            one(values, grid, scheme.range).at(|| groups.name(g, scheme.granularity))
        })
        .collect::<Result<Vec<_>>>()?;
    let largest = fitted.iter().flatten().map(|x| x.0).fold(0.0f32, f32::max);
    let zeros = (safe_scale(largest.into()), 0);
    let each = fitted.into_iter().map(|x| x.unwrap_or(zeros));
    let (scale, zero_point) = match scheme.granularity {
        // Channels of a group have scales of their own, which are equal.
        Granularity::Channel { axis } => {
            each.flat_map(|x| std::iter::repeat_n(x, scheme.channels.max(1))).take(shape[axis]).unzip()
        }
        _ => each.unzip(),
    };
    let params = QParams { qtype: scheme.qtype, granularity: scheme.granularity, scale, zero_point };
    params.check(Some(shape))?;
    Ok(params)
}

/// Scale and zero point of one group; `None` when all of it is zero.
fn one(values: &[f32], grid: Scheme, range: WeightRange) -> Result<Option<(f32, i32)>> {
    let (mut lo, mut hi, mut bad) = (0.0f32, 0.0f32, 0usize);
    for &x in values {
        lo = if x < lo { x } else { lo };
        hi = if x > hi { x } else { hi };
        bad += usize::from(!x.is_finite());
    }
    if bad > 0 {
        let nan = values.iter().filter(|x| x.is_nan()).count();
        return Err(Error::value(format!("{nan} NaN and {} infinities among {} weights", bad - nan, values.len()))
            .cure("the model's weights are damaged: export it again, or keep this layer in float"));
    }
    if lo < 0.0 && grid.symmetric && !grid.qtype.signed {
        return Err(Error::value(format!("weights down to {lo} on the unsigned symmetric grid {}", grid.qtype))
            .cure("use a signed or an asymmetric grid"));
    }
    if lo == 0.0 && hi == 0.0 {
        return Ok(None);
    }
    let all = Range { lo: lo.into(), hi: hi.into() };
    let power = match range {
        WeightRange::AbsMax => return Ok(Some(params(all, grid))),
        WeightRange::Hqq => return Ok(Some(hqq::integer(values, grid))),
        WeightRange::Mse { p } => p,
    };
    let price = |r: Range| {
        let (s, z) = params(r, grid);
        loss(values, s, z, grid.qtype, power)
    };
    let shrink = |r: Range| {
        let (t, value) = along(1.0, Effort::WEIGHTS, |t| price(Range { lo: r.lo * t, hi: r.hi * t }));
        (value, Range { lo: r.lo * t, hi: r.hi * t })
    };
    let few = values.len() <= FEW_VALUES && grid.qtype.bits <= FEW_LEVELS;
    let best = if grid.symmetric || (lo == 0.0 || hi == 0.0) && !few {
        shrink(all).1
    } else {
        let [below, above] = plane([-all.lo, all.hi], Effort::WEIGHTS, None, |[b, a]| price(Range { lo: -b, hi: a }));
        let found = Range { lo: -below, hi: above };
        if grid.qtype.bits > FEW_LEVELS {
            found
        } else {
            // Each neighbouring zero point, from the step that clips nothing on the sides that have codes.
            let [n, p] = grid.codes();
            let near = params(found, grid).1;
            let from = |z: i32| {
                let cover = |end: f64, code: f64| {
                    let codes = code - f64::from(z);
                    if codes == 0.0 { 0.0 } else { end / codes }
                };
                shrink(Range::of_grid(grid, cover(all.hi, p).max(cover(all.lo, n)), z))
            };
            let reach = if few { grid.qtype.max() - grid.qtype.min() } else { 1 };
            let zeros = (near - reach).max(grid.qtype.min())..=(near + reach).min(grid.qtype.max());
            let all = zeros.map(from).chain([(price(found), found)]);
            all.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(found, |x| x.1)
        }
    };
    Ok(Some(params(best, grid)))
}

/// Adding and subtracting 1.5 * 2^23 leaves the integer next to a value below 2^22. Which way a tie goes does not
/// matter where this is used.
const NEAREST: f32 = 12_582_912.0;

/// The sum of `|x - D(Q(x))|^p` over `values`. Evaluated with `x * (1/s)` in binary32, which is good to 1e-6 of a step:
/// enough to choose `s`, not to round.
fn loss(values: &[f32], s: f32, z: i32, q: QType, p: f64) -> f64 {
    let inverse = 1.0 / s;
    let (low, high) = ((q.min() - z) as f32, (q.max() - z) as f32);
    let error = |x: f32| {
        let v = x * inverse;
        let c = if v < low { low } else { v };
        let c = if c > high { high } else { c };
        v - ((c + NEAREST) - NEAREST)
    };
    let step = f64::from(s);
    if p == 2.0 {
        step * step * sum(values, |x| error(x) * error(x))
    } else {
        libm::pow(step, p) * sum(values, |x| power(error(x), p as f32))
    }
}

/// The sum of `f` over `values`: short binary32 sums in lanes, so that the compiler vectorises them and nothing gets
/// lost.
#[inline]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    const WIDTH: usize = 8;
    let mut total = 0.0f64;
    for chunk in values.chunks(256) {
        let mut lanes = [0.0f32; WIDTH];
        let mut eights = chunk.chunks_exact(WIDTH);
        for e in &mut eights {
            for (lane, &x) in lanes.iter_mut().zip(e) {
                *lane += f(x);
            }
        }
        total += eights.remainder().iter().map(|&x| f64::from(f(x))).sum::<f64>();
        total += lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
    }
    total
}

/// `|u|^p` within 1e-4, without branches: the same operations on every machine, and the compiler vectorises them.
#[inline]
fn power(u: f32, p: f32) -> f32 {
    // log2 of 1 + t on [0, 1) as t times a polynomial (Chebyshev fit, error 9e-6), and 2^t on [-0.5, 0.5] by its
    // series.
    const LOG: [f32; 6] = [1.442_683_3, -0.720_442_4, 0.469_301_7, -0.303_389_67, 0.146_433_6, -0.034_595_21];
    const EXP: [f32; 6] = [1.0, std::f32::consts::LN_2, 0.240_226_5, 0.055_504_11, 0.009_618_13, 0.001_333_36];
    let horner = |c: &[f32; 6], t: f32| c.iter().rev().fold(0.0, |y, c| y * t + c);
    let bits = u.to_bits() & 0x7fff_ffff;
    let exponent = (bits >> 23) as i32 - 127;
    let t = f32::from_bits(bits & 0x7f_ffff | 127 << 23) - 1.0;
    let y = p * (exponent as f32 + t * horner(&LOG, t));
    // Zero becomes 2^-126, which nobody notices; nothing that matters is above 2^126.
    let y = if y > -126.0 { y } else { -126.0 };
    let y = if y < 126.0 { y } else { 126.0 };
    let whole = y + NEAREST;
    let scale = f32::from_bits((whole.to_bits().wrapping_sub(NEAREST.to_bits()).wrapping_add(127)) << 23);
    scale * horner(&EXP, y - (whole - NEAREST))
}

/// Codes as a tensor: i8 or u8 up to 8 bits, i16 or u16 above.
///
/// # Errors
/// When a code is not on the grid or the count does not fit the shape: a defect of the rounder.
pub fn pack(codes: &[i32], shape: &[usize], q: QType) -> Result<Tensor> {
    fn cast<T: TryFrom<i32> + crate::ir::Element>(codes: &[i32], shape: &[usize], q: QType) -> Result<Tensor> {
        let on_grid = |&c: &i32| (q.min()..=q.max()).contains(&c).then(|| T::try_from(c).ok()).flatten();
        let cast: Option<Vec<T>> = codes.iter().map(on_grid).collect();
        let cast = cast.ok_or_else(|| Error::internal(format!("a rounded weight is not on the grid {q}")))?;
        Tensor::new(shape.to_vec(), T::wrap(cast.into()))
    }
    match (q.signed, q.bits) {
        (true, ..=8) => cast::<i8>(codes, shape, q),
        (false, ..=8) => cast::<u8>(codes, shape, q),
        (true, 9..=16) => cast::<i16>(codes, shape, q),
        (false, 9..=16) => cast::<u16>(codes, shape, q),
        _ => Err(Error::usage(format!("weights of grid {q}")).cure("use 2 to 16 bits")),
    }
}

pub(crate) fn reals(weights: &Tensor) -> Result<std::borrow::Cow<'_, [f32]>> {
    if let Ok(x) = weights.as_slice::<f32>() {
        return Ok(x.into());
    }
    if !weights.dtype().is_float() {
        return Err(Error::shape(format!("weights of type {} cannot be quantized", weights.dtype())));
    }
    Ok(weights.to_f32s().into())
}

type Run = std::ops::Range<usize>;

/// The elements that share a scale, in the order of [`QParams::scale`].
pub(super) struct Groups {
    pub(super) total: usize,
    /// Elements of the axis per group, length of the axis, groups along it.
    size: usize,
    axis: usize,
    along: usize,
    inner: usize,
    outer: usize,
    /// Whether a group takes all outer and inner indices (tensor, channel) or a single one of each (block).
    whole: bool,
}

impl Groups {
    pub(super) fn new(shape: &[usize], granularity: Granularity) -> Result<Self> {
        let total = crate::ir::count(shape)?;
        let (axis, size, whole) = match granularity {
            Granularity::Tensor => {
                return Ok(Self { total, size: total, axis: total, along: 1, inner: 1, outer: 1, whole: true });
            }
            Granularity::Channel { axis } => (axis, 1, true),
            Granularity::Block { axis, size } => (axis, size, false),
        };
        let Some(&length) = shape.get(axis).filter(|_| size > 0) else {
            return Err(Error::shape(format!("{granularity:?} of weights of shape {shape:?}")));
        };
        let inner = shape[axis + 1..].iter().product();
        let outer = shape[..axis].iter().product();
        Ok(Self { total, size, axis: length, along: length.div_ceil(size), inner, outer, whole })
    }
    /// This many neighbours on the axis together.
    fn joined(self, n: usize) -> Self {
        let size = self.size.saturating_mul(n);
        Self { size, along: self.axis.div_ceil(size), ..self }
    }
    pub(super) fn len(&self) -> usize {
        if self.whole { self.along } else { self.outer * self.along * self.inner }
    }
    /// Runs of flat positions of group `g`, ascending.
    pub(super) fn runs(&self, g: usize) -> impl Iterator<Item = Run> + use<> {
        let &Self { size, axis, along, inner, outer, whole, .. } = self;
        let (first_outer, block, rest) =
            if whole { (0, g, 0) } else { (g / (along * inner), g / inner % along, g % inner) };
        let outers = if whole { 0..outer } else { first_outer..first_outer + 1 };
        let (from, to) = (block * size, ((block + 1) * size).min(axis));
        // With all inner indices, or only one there is, neighbours on the axis are neighbours in memory.
        let pieces = if whole || inner == 1 { from..from + 1 } else { from..to };
        let length = if whole {
            (to - from) * inner
        } else if inner == 1 {
            to - from
        } else {
            1
        };
        outers.flat_map(move |o| {
            pieces.clone().map(move |k| {
                let start = (o * axis + k) * inner + rest;
                start..start + length
            })
        })
    }
    fn name(&self, g: usize, granularity: Granularity) -> String {
        match granularity {
            Granularity::Tensor => "weights".into(),
            Granularity::Channel { axis } => format!("channel {g} of axis {axis}"),
            Granularity::Block { axis, .. } => {
                let block = g / self.inner % self.along;
                format!(
                    "block {block} of axis {axis} (outer index {}, inner {})",
                    g / (self.along * self.inner),
                    g % self.inner
                )
            }
        }
    }
}

pub mod hqq;
#[cfg(test)]
mod tests;
