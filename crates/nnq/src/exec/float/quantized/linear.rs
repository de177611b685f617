//! QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear.
use super::{codes, grid, tensor};
use crate::exec::float::{Ctx, Inputs, args};
use crate::{
    error::{Error, Result},
    ir::{DType, Tensor},
};
use nnq_kernels::round::{dequantize_f32, dynamic_grid, quantize_f32};
use rayon::prelude::*;

/// How scales lie over a tensor, seen as `[.., n, inner]` with the axis in the middle.
struct Layout {
    n: usize,
    inner: usize,
    /// Consecutive indices of the axis that share a scale.
    block: usize,
}

impl Layout {
    /// One scale for the whole tensor, one per index of `axis`, or one per block of it.
    fn new(x: &[usize], scale: &[usize], axis: i64, block: usize) -> Result<Self> {
        // Only empty tensors can have sizes whose product overflows.
        let size = |d: &[usize]| d.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        let total = size(x);
        if scale.iter().product::<usize>() == 1 && scale.len() <= 1 && block == 0 {
            // A single scale suits any axis.
            return Ok(Self { n: 1, inner: total.max(1), block: 1 });
        }
        let wrong =
            |e: &str| Error::shape(format!("scales {scale:?} for a tensor {x:?}, axis {axis}, block {block}: {e}"));
        let at = if axis < 0 { axis + x.len() as i64 } else { axis };
        let at = usize::try_from(at).ok().filter(|&a| a < x.len()).ok_or_else(|| wrong("no such axis"))?;
        let (n, inner) = (x[at], size(&x[at + 1..]));
        if block == 0 {
            return if scale == [n] {
                Ok(Self { n, inner, block: 1 })
            } else {
                Err(wrong("expected one scale per index of the axis"))
            };
        }
        let fits = scale.len() == x.len()
            && scale.iter().zip(x).enumerate().all(|(i, (&s, &d))| s == if i == at { d.div_ceil(block) } else { d });
        if fits { Ok(Self { n, inner, block }) } else { Err(wrong("expected one scale per block of the axis")) }
    }
    /// Where the scales of line `line` (`inner` elements) start, and whether each element of it has its own.
    fn line(&self, line: usize, blocked: bool) -> usize {
        if blocked {
            let blocks = self.n.div_ceil(self.block);
            (line / self.n * blocks + line % self.n / self.block) * self.inner
        } else {
            line % self.n
        }
    }
}

/// Applies `f(element, scale, zero)`.
fn each<A: Sync, B: Send + Copy + Default>(
    layout: &Layout,
    blocked: bool,
    x: &[A],
    scale: &[f32],
    zero: &[i32],
    f: impl Fn(&A, f32, i32) -> B + Sync,
) -> Vec<B> {
    let mut y = vec![B::default(); x.len()];
    let inner = layout.inner.max(1);
    // Long lines are cut, so that a per-tensor scale uses all threads too.
    const PIECE: usize = 1 << 14;
    let lines = y.chunks_mut(inner).zip(x.chunks(inner)).enumerate();
    let pieces: Vec<_> = lines
        .flat_map(|(i, (y, x))| {
            let pieces = y.chunks_mut(PIECE).zip(x.chunks(PIECE)).enumerate();
            pieces.map(move |(j, (y, x))| (i, j * PIECE, y, x))
        })
        .collect();
    pieces.into_par_iter().with_min_len(PIECE / inner.min(PIECE)).for_each(|(line, at, y, x)| {
        let k = layout.line(line, blocked);
        if blocked {
            for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
                *y = f(x, scale[k + at + i], zero[k + at + i]);
            }
        } else {
            let (scale, zero) = (scale[k], zero[k]);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = f(x, scale, zero));
        }
    });
    y
}

/// Zero points beside scales: absent ones are 0.
fn zeros(zero: Option<&Tensor>, scale: &Tensor) -> Result<Vec<i32>> {
    let Some(zero) = zero else { return Ok(vec![0; scale.len()]) };
    if zero.len() != scale.len() {
        return Err(Error::shape(format!("scales {:?}, zero points {:?}", scale.shape(), zero.shape())));
    }
    codes(zero)
}

fn float_scale(scale: &Tensor) -> Result<Vec<f32>> {
    match scale.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => Ok(scale.to_f32s()),
        other => Err(Error::unsupported(format!("scales of {other}"))),
    }
}

/// `saturate` concerns 8-bit floats only, which nnq has not.
pub(crate) fn quantize(axis: i64, block: usize, _saturate: bool, out: DType, x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    let (t, scale, zero) = (args::need(x, 0, "x")?, args::need(x, 1, "scale")?, args::optional(x, 2));
    if !matches!(t.dtype(), DType::F32 | DType::F16 | DType::BF16 | DType::I32) {
        return Err(Error::unsupported(format!("QuantizeLinear of {}", t.dtype())));
    }
    let out = zero.map_or(out, Tensor::dtype);
    let (lo, hi) = grid(out)?;
    let layout = Layout::new(t.shape(), scale.shape(), axis, block)?;
    let (scales, zeros) = (float_scale(scale)?, zeros(zero, scale)?);
    let wide;
    let data = match t.as_slice::<f32>() {
        Ok(data) => data,
        Err(_) => {
            wide = t.to_f32s();
            &wide
        }
    };
    let blocked = block > 0;
    let shape = t.shape();
    Ok(match out {
        DType::U8 => Tensor::of(
            shape,
            each(&layout, blocked, data, &scales, &zeros, |&x, s, z| quantize_f32(x, s, z, lo, hi) as u8),
        ),
        DType::I8 => Tensor::of(
            shape,
            each(&layout, blocked, data, &scales, &zeros, |&x, s, z| quantize_f32(x, s, z, lo, hi) as i8),
        ),
        _ => {
            let q = each(&layout, blocked, data, &scales, &zeros, |&x, s, z| quantize_f32(x, s, z, lo, hi));
            tensor(out, shape, q)?
        }
    })
}

pub(crate) fn dequantize(axis: i64, block: usize, x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    let (t, scale, zero) = (args::need(x, 0, "x")?, args::need(x, 1, "scale")?, args::optional(x, 2));
    if let Some(z) = zero.filter(|z| z.dtype() != t.dtype()) {
        return Err(Error::shape(format!("codes of {}, zero points of {}", t.dtype(), z.dtype())));
    }
    let layout = Layout::new(t.shape(), scale.shape(), axis, block)?;
    let (scales, zeros) = (float_scale(scale)?, zeros(zero, scale)?);
    if t.dtype() == DType::I32 && zeros.iter().any(|&z| z != 0) {
        return Err(Error::value("32-bit codes with a zero point other than 0"));
    }
    let blocked = block > 0;
    let real = match t.data() {
        crate::ir::Data::U8(q) => each(&layout, blocked, q, &scales, &zeros, |&q, s, z| dequantize_f32(q.into(), s, z)),
        crate::ir::Data::I8(q) => each(&layout, blocked, q, &scales, &zeros, |&q, s, z| dequantize_f32(q.into(), s, z)),
        _ => each(&layout, blocked, &codes(t)?, &scales, &zeros, |&q, s, z| dequantize_f32(q, s, z)),
    };
    let y = Tensor::of::<f32>(t.shape(), real);
    Ok(if scale.dtype() == DType::F32 { y } else { args::narrow(y, scale.dtype()) })
}

/// u8 codes over the range of the tensor, extended to contain 0.
pub(crate) fn dynamic(x: &Inputs, _ctx: &Ctx) -> Result<Vec<Tensor>> {
    let t = args::need(x, 0, "x")?;
    let data = t.as_slice::<f32>()?;
    if data.iter().any(|x| !x.is_finite()) {
        return Err(Error::value("some numbers are NaN or infinite: no codes can stand for them"));
    }
    let low = data.iter().copied().fold(0.0, f32::min);
    let high = data.iter().copied().fold(0.0, f32::max);
    let (scale, zero) = dynamic_grid(low, high)
        .ok_or_else(|| Error::value(format!("the range from {low:e} to {high:e} is beyond binary32")))?;
    let zero = i32::from(zero);
    let q = data.iter().map(|&x| quantize_f32(x, scale, zero, 0, 255) as u8).collect();
    Ok(vec![Tensor::of::<u8>(t.shape(), q), Tensor::scalar(scale), Tensor::scalar(zero as u8)])
}
