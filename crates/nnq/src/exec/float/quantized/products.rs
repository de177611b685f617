//! Products of codes. Sums are exact: binary64 holds every sum of products of 8-bit codes below 2^53, and the result keeps the
//! low 32 bits, as an accumulator of 32 bits does.
use super::{codes, grid, tensor};
use crate::exec::float::{
    Ctx, Inputs, args,
    product::{ConvSizes, MatMulShapes, batched, conv_run},
};
use crate::{
    error::{Error, Result},
    ir::{DType, Tensor, count, op::ConvAttrs},
};
use nnq_kernels::round::requantize_onnx;

fn low_bits(acc: f64) -> i32 {
    acc as i64 as i32
}

/// Codes of 8 bits.
fn eight(t: &Tensor) -> Result<Vec<i32>> {
    match t.dtype() {
        DType::U8 | DType::I8 => codes(t),
        other => Err(Error::unsupported(format!("a product of codes of {other}; nnq has i8 and u8"))),
    }
}

fn scalar<T: Copy>(v: &[T], what: &str) -> Result<T> {
    match v {
        [x] => Ok(*x),
        _ => Err(Error::shape(format!("{} numbers as {what}, expected one", v.len()))),
    }
}

fn same_type(zero: &Tensor, of: &Tensor) -> Result<Vec<i32>> {
    if zero.dtype() != of.dtype() {
        return Err(Error::shape(format!("codes of {}, zero points of {}", of.dtype(), zero.dtype())));
    }
    codes(zero)
}

/// Accumulators of a convolution. Padding holds the zero point, and so adds nothing.
fn conv(
    a: &ConvAttrs,
    x: &Tensor,
    zx: i32,
    w: &Tensor,
    zw: &[i32],
    bias: Option<&Tensor>,
    ctx: &Ctx,
) -> Result<(ConvSizes, Vec<i32>)> {
    let sizes = ConvSizes::new(a, x.shape(), w.shape(), bias.map(Tensor::shape))?;
    if zw.len() != 1 && zw.len() != sizes.out {
        return Err(Error::shape(format!("{} zero points for {} output channels", zw.len(), sizes.out)));
    }
    let xs: Vec<f64> = eight(x)?.iter().map(|&q| f64::from(q - zx)).collect();
    let per = (w.len() / sizes.out.max(1)).max(1);
    let ws: Vec<f64> =
        eight(w)?.iter().enumerate().map(|(i, &q)| f64::from(q - zw[(i / per).min(zw.len() - 1)])).collect();
    let start = match bias {
        Some(b) if b.dtype() != DType::I32 => {
            return Err(Error::shape(format!("a bias of {}, expected i32", b.dtype())));
        }
        Some(b) => Some(codes(b)?.into_iter().map(f64::from).collect::<Vec<_>>()),
        None => None,
    };
    let acc = conv_run::<f64>(&sizes, &xs, &ws, start.as_deref(), None, ctx)?;
    Ok((sizes, acc.into_iter().map(low_bits).collect()))
}

pub(crate) fn conv_integer(a: &ConvAttrs, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let (t, w) = (args::need(x, 0, "A")?, args::need(x, 1, "B")?);
    let optional = |i: usize| args::optional(x, i);
    let zx = optional(2).map_or(Ok(vec![0]), |z| same_type(z, t))?;
    let zw = optional(3).map_or(Ok(vec![0]), |z| same_type(z, w))?;
    let (sizes, acc) = conv(a, t, scalar(&zx, "zero point of x")?, w, &zw, None, ctx)?;
    Ok(Tensor::of(&sizes.shape(), acc))
}

/// Inputs of the QLinear operators.
const NAMES: [&str; 8] = [
    "left factor",
    "its scale",
    "its zero point",
    "right factor",
    "its scale",
    "its zero point",
    "y_scale",
    "y_zero_point",
];

pub(crate) fn qlinear_conv(a: &ConvAttrs, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let at = |i: usize| args::need(x, i, NAMES[i]);
    let (t, w, y_zero) = (at(0)?, at(3)?, at(7)?);
    let sx = scalar(at(1)?.as_slice::<f32>()?, "x_scale")?;
    let zx = scalar(&same_type(at(2)?, t)?, "x_zero_point")?;
    let sw = at(4)?.as_slice::<f32>()?;
    let zw = same_type(at(5)?, w)?;
    let sy = scalar(at(6)?.as_slice::<f32>()?, "y_scale")?;
    let zy = scalar(&codes(y_zero)?, "y_zero_point")?;
    let (lo, hi) = grid(y_zero.dtype())?;
    let (sizes, mut acc) = conv(a, t, zx, w, &zw, args::optional(x, 8), ctx)?;
    if sw.len() != 1 && sw.len() != sizes.out {
        return Err(Error::shape(format!("{} weight scales for {} output channels", sw.len(), sizes.out)));
    }
    for (i, line) in acc.chunks_mut(sizes.positions.max(1)).enumerate() {
        let m = (sx * sw[(i % sizes.out).min(sw.len() - 1)]) / sy;
        line.iter_mut().for_each(|q| *q = requantize_onnx(*q, m, zy, lo, hi));
    }
    tensor(y_zero.dtype(), &sizes.shape(), acc)
}

/// Numbers for the rows or the columns of a batch of matrices: one for all, one per row (column), or one per row (column) of
/// each matrix.
struct Lines<T> {
    values: Vec<T>,
    /// Rows (columns) of a matrix.
    n: usize,
}

impl<T: Copy> Lines<T> {
    fn new(values: Vec<T>, n: usize, matrices: usize, what: &str) -> Result<Self> {
        if values.len() == 1 || values.len() == n || values.len() == n * matrices {
            return Ok(Self { values, n });
        }
        Err(Error::shape(format!("{} numbers as {what}, expected 1, {n} or {}", values.len(), n * matrices)))
    }
    fn at(&self, matrix: usize, line: usize) -> T {
        match self.values.len() {
            1 => self.values[0],
            len => self.values[(matrix * self.n + line) % len],
        }
    }
}

/// Accumulators of `(a - za) (b - zb)`.
fn matmul(a: &Tensor, za: Vec<i32>, b: &Tensor, zb: Vec<i32>) -> Result<(MatMulShapes, Vec<i32>)> {
    let s = MatMulShapes::new(a.shape(), b.shape())?;
    let matrices = |t: &Tensor, size: usize| t.len() / size.max(1);
    let za = Lines::new(za, s.m, matrices(a, s.m * s.k), "zero points of the left matrix")?;
    let zb = Lines::new(zb, s.n, matrices(b, s.k * s.n), "zero points of the right matrix")?;
    let left: Vec<f64> =
        eight(a)?.iter().enumerate().map(|(i, &q)| f64::from(q - za.at(i / (s.m * s.k), i / s.k % s.m))).collect();
    let right: Vec<f64> =
        eight(b)?.iter().enumerate().map(|(i, &q)| f64::from(q - zb.at(i / (s.k * s.n), i % s.n))).collect();
    let mut acc = vec![0.0; count(&s.out)?];
    batched(&s, &left, &right, &mut acc);
    Ok((s, acc.into_iter().map(low_bits).collect()))
}

pub(crate) fn matmul_integer(x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    let (a, b) = (args::need(x, 0, "A")?, args::need(x, 1, "B")?);
    let zero = |i: usize, of: &Tensor| args::optional(x, i).map_or(Ok(vec![0]), |z| same_type(z, of));
    let (s, acc) = matmul(a, zero(2, a)?, b, zero(3, b)?)?;
    Ok(Tensor::of(&s.out, acc))
}

pub(crate) fn qlinear_matmul(x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    let at = |i: usize| args::need(x, i, NAMES[i]);
    let (a, b, y_zero) = (at(0)?, at(3)?, at(7)?);
    let (lo, hi) = grid(y_zero.dtype())?;
    let (s, mut acc) = matmul(a, same_type(at(2)?, a)?, b, same_type(at(5)?, b)?)?;
    let scales = |i: usize| -> Result<Vec<f32>> {
        let t = at(i)?;
        match t.dtype() {
            DType::F32 | DType::F16 | DType::BF16 => Ok(t.to_f32s()),
            other => Err(Error::unsupported(format!("scales of {other}"))),
        }
    };
    let all = s.pairs.len();
    let (in_a, in_b) = (a.len() / (s.m * s.k).max(1), b.len() / (s.k * s.n).max(1));
    let sa = Lines::new(scales(1)?, s.m, in_a, "a_scale")?;
    let sb = Lines::new(scales(4)?, s.n, in_b, "b_scale")?;
    let sy = Lines::new(scales(6)?, s.m, all, "y_scale")?;
    let zy = Lines::new(codes(y_zero)?, s.m, all, "y_zero_point")?;
    for (i, (&(ia, ib), acc)) in s.pairs.iter().zip(acc.chunks_mut((s.m * s.n).max(1))).enumerate() {
        for (j, q) in acc.iter_mut().enumerate() {
            let (row, col) = (j / s.n, j % s.n);
            let m = (sa.at(ia, row) * sb.at(ib, col)) / sy.at(i, row);
            *q = requantize_onnx(*q, m, zy.at(i, row), lo, hi);
        }
    }
    tensor(y_zero.dtype(), &s.out, acc)
}
