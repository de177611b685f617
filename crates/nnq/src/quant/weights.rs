//! Quantization of weights: scales per tensor, channel or block, and codes.
use super::range::{Effort, Range, Scheme, along, params, plane, safe_scale};
use crate::{
    error::{At, Error, Result},
    ir::{Granularity, QParams, QType, Tensor},
};
use nnq_kernels::round::rne_f32;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How a weight's scale is chosen. Written as `absmax` or `mse[:p]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum WeightRange {
    /// Clip nothing.
    AbsMax,
    /// The least sum of `|w - D(Q(w))|^p`, never worse than [`WeightRange::AbsMax`] in that measure. About 60 candidates, coarse to fine.
    Mse {
        /// Exponent, 1 <= p <= 8. Default 2.4 (GPTQ, BRECQ).
        p: f64,
    },
}

impl fmt::Display for WeightRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AbsMax => f.write_str("absmax"),
            Self::Mse { p } => write!(f, "mse:{p}"),
        }
    }
}

impl FromStr for WeightRange {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s.split_once(':') {
            None if s == "absmax" => Ok(Self::AbsMax),
            None if s == "mse" => Ok(Self::Mse { p: 2.4 }),
            Some(("mse", a)) => match a.parse() {
                Ok(p) if (1.0..=8.0).contains(&p) => Ok(Self::Mse { p }),
                _ => Err(Error::usage(format!("weight range '{s}': '{a}' is not an exponent from 1 to 8"))),
            },
            _ => Err(Error::usage(format!("'{s}' is no weight range")).cure("use absmax, mse or mse:P")),
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

/// Up to this many bits each zero point is searched on its own.
const EACH_ZERO_POINT: u8 = 3;

/// What weights become.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightScheme {
    /// The grid, 2 to 16 bits.
    pub qtype: QType,
    /// Zero points 0.
    pub symmetric: bool,
    /// One scale per tensor, channel or block.
    pub granularity: Granularity,
    /// How scales are chosen.
    pub range: WeightRange,
}

impl WeightScheme {
    fn scheme(&self) -> Scheme {
        Scheme { qtype: self.qtype, symmetric: self.symmetric }
    }
}

/// Turns real weights into codes on given scales and zero points.
pub trait Rounder: Sync {
    /// One code per element of `weights` (row-major, of `shape`), each within `params.qtype`.
    ///
    /// # Errors
    /// Whatever keeps the method from rounding these weights.
    fn round(&self, weights: &[f32], shape: &[usize], params: &QParams) -> Result<Vec<i32>>;
}

/// Each weight to its nearest code, ties to even: `Q` of the numerics page.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nearest;

impl Rounder for Nearest {
    fn round(&self, weights: &[f32], shape: &[usize], params: &QParams) -> Result<Vec<i32>> {
        let groups = Groups::new(shape, params.granularity)?;
        let (n, p) = (params.qtype.min(), params.qtype.max());
        let mut codes = vec![0; weights.len()];
        for g in 0..groups.len() {
            let (Some(&s), Some(&z)) = (params.scale.get(g), params.zero_point.get(g)) else {
                return Err(Error::shape(format!("{} scales for {} groups", params.scale.len(), groups.len())));
            };
            for i in groups.of(g) {
                codes[i] = code(weights[i], s, z, n, p);
            }
        }
        Ok(codes)
    }
}

/// `Q(x)` of the numerics page, section 2.
fn code(x: f32, s: f32, z: i32, n: i32, p: i32) -> i32 {
    rne_f32(x / s).max((n - z) as f32).min((p - z) as f32) as i32 + z
}

/// Quantizes a weight tensor (any float type): codes as an integer tensor of the same shape, and their parameters.
///
/// # Errors
/// When an element is NaN or infinite (names the channel), the scheme does not fit the shape, or the rounder fails.
pub fn quantize(weights: &Tensor, scheme: &WeightScheme, rounder: &dyn Rounder) -> Result<(Tensor, QParams)> {
    let real = reals(weights)?;
    let params = fit(&real, weights.shape(), scheme)?;
    let codes = rounder.round(&real, weights.shape(), &params)?;
    Ok((pack(&codes, weights.shape(), params.qtype)?, params))
}

/// Scales and zero points for weights, without rounding them.
///
/// A channel or block of zeros gets the largest scale of the others (1 when all are zero): its codes are the zero point in any case, and a
/// bias, whose step is the product of the input's and the weight's scale, keeps its precision.
///
/// # Errors
/// Like [`quantize`].
pub fn fit(weights: &[f32], shape: &[usize], scheme: &WeightScheme) -> Result<QParams> {
    let grid = scheme.scheme();
    grid.check()?;
    let groups = Groups::new(shape, scheme.granularity)?;
    if groups.total != weights.len() {
        return Err(Error::shape(format!("shape {shape:?} and {} weights", weights.len())));
    }
    let power = match scheme.range {
        WeightRange::Mse { p } => Some(Distance::new(p)),
        WeightRange::AbsMax => None,
    };
    let fitted = (0..groups.len())
        .into_par_iter()
        .map_init(Vec::new, |values, g| {
            values.clear();
            values.extend(groups.of(g).map(|i| weights[i]));
            one(values, grid, power.as_ref()).at(|| groups.name(g, scheme.granularity))
        })
        .collect::<Result<Vec<_>>>()?;
    let largest = fitted.iter().flatten().map(|x| x.0).fold(0.0f32, f32::max);
    let zeros = (safe_scale(largest.into()), 0);
    let (scale, zero_point) = fitted.into_iter().map(|x| x.unwrap_or(zeros)).unzip();
    let params = QParams { qtype: scheme.qtype, granularity: scheme.granularity, scale, zero_point };
    params.check(Some(shape))?;
    Ok(params)
}

/// Scale and zero point of one group; `None` when all of it is zero.
fn one(values: &[f32], grid: Scheme, power: Option<&Distance>) -> Result<Option<(f32, i32)>> {
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
    let Some(power) = power else { return Ok(Some(params(all, grid))) };
    let price = |r: Range| {
        let (s, z) = params(r, grid);
        power.sum(values, s, z, grid.qtype)
    };
    let shrink = |r: Range| {
        let (t, value) = along(1.0, Effort::WEIGHTS, |t| price(Range { lo: r.lo * t, hi: r.hi * t }));
        (value, Range { lo: r.lo * t, hi: r.hi * t })
    };
    let best = if grid.symmetric || lo == 0.0 || hi == 0.0 {
        shrink(all).1
    } else if grid.qtype.bits <= EACH_ZERO_POINT {
        // Each zero point from the step that clips nothing on the sides that have codes.
        let [n, p] = grid.codes();
        let from = |z: i32| {
            let cover = |end: f64, code: f64| {
                let codes = code - f64::from(z);
                if codes == 0.0 { 0.0 } else { end / codes }
            };
            shrink(Range::of_grid(grid, cover(all.hi, p).max(cover(all.lo, n)), z))
        };
        let zeros = grid.zero_points(all.lo, all.hi).map(from);
        zeros.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(all, |x| x.1)
    } else {
        let [below, above] = plane([-all.lo, all.hi], Effort::WEIGHTS, None, |[b, a]| price(Range { lo: -b, hi: a }));
        Range { lo: -below, hi: above }
    };
    Ok(Some(params(best, grid)))
}

/// `|error|^p` of many values. Which way a tie rounds does not matter for its distance.
struct Distance {
    p: f64,
    /// `u^p` at `u = i / (2 TABLE)`, for other exponents than 2.
    table: Vec<f32>,
}

const TABLE: usize = 1024;

impl Distance {
    fn new(p: f64) -> Self {
        let at = |i: usize| libm::pow(i as f64 / (2 * TABLE) as f64, p) as f32;
        Self { p, table: if p == 2.0 { Vec::new() } else { (0..TABLE + 2).map(at).collect() } }
    }
    /// The sum over `values`, in units of `s^p`, times `s^p`. Evaluated with `x * (1/s)` in binary32, which is good to 1e-6
    /// of a step: enough to choose `s`, not to round.
    fn sum(&self, values: &[f32], s: f32, z: i32, q: QType) -> f64 {
        const WIDTH: usize = 8;
        // Adding and subtracting 1.5 * 2^23 leaves an integer next to a value below 2^22.
        const NEAREST: f32 = 12_582_912.0;
        let inverse = 1.0 / s;
        let (low, high) = ((q.min() - z) as f32, (q.max() - z) as f32);
        let error = |x: f32| {
            let v = x * inverse;
            let c = if v < low { low } else { v };
            let c = if c > high { high } else { c };
            v - ((c + NEAREST) - NEAREST)
        };
        let mut sum = 0.0f64;
        // Short binary32 sums, so that the compiler vectorises them and nothing gets lost.
        for chunk in values.chunks(256) {
            if self.table.is_empty() {
                let mut lanes = [0.0f32; WIDTH];
                let mut eights = chunk.chunks_exact(WIDTH);
                for e in &mut eights {
                    for (lane, &x) in lanes.iter_mut().zip(e) {
                        let d = error(x);
                        *lane += d * d;
                    }
                }
                sum += eights.remainder().iter().map(|&x| f64::from(error(x)).powi(2)).sum::<f64>();
                sum += lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
            } else {
                sum += chunk.iter().map(|&x| f64::from(self.look(error(x).abs()))).sum::<f64>();
            }
        }
        sum * libm::pow(s.into(), self.p)
    }
    #[inline]
    fn look(&self, u: f32) -> f32 {
        if u > 0.5 {
            return libm::pow(u.into(), self.p) as f32;
        }
        let at = u * (2 * TABLE) as f32;
        let i = at as usize;
        let (a, b) = (self.table[i], self.table[i + 1]);
        a + (b - a) * (at - i as f32)
    }
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

fn reals(weights: &Tensor) -> Result<std::borrow::Cow<'_, [f32]>> {
    if let Ok(x) = weights.as_slice::<f32>() {
        return Ok(x.into());
    }
    if !weights.dtype().is_float() {
        return Err(Error::shape(format!("weights of type {} cannot be quantized", weights.dtype())));
    }
    Ok(weights.to_f32s().into())
}

/// The elements that share a scale, in the order of [`QParams::scale`].
struct Groups {
    total: usize,
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
    fn new(shape: &[usize], granularity: Granularity) -> Result<Self> {
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
    fn len(&self) -> usize {
        if self.whole { self.along } else { self.outer * self.along * self.inner }
    }
    /// Flat positions of group `g`, ascending.
    fn of(&self, g: usize) -> impl Iterator<Item = usize> + use<> {
        let &Self { size, axis, along, inner, outer, whole, .. } = self;
        let (first_outer, block, rest) =
            if whole { (0, g, 0) } else { (g / (along * inner), g / inner % along, g % inner) };
        let outers = if whole { 0..outer } else { first_outer..first_outer + 1 };
        let inners = if whole { 0..inner } else { rest..rest + 1 };
        let ks = block * size..((block + 1) * size).min(axis);
        outers.flat_map(move |o| {
            let inners = inners.clone();
            ks.clone().flat_map(move |k| inners.clone().map(move |i| (o * axis + k) * inner + i))
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

#[cfg(test)]
mod tests;
