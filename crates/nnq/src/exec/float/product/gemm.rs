//! `alpha * A * B + beta * C`.
use super::{
    matmul::{Shapes, multiply, narrow, wrapping},
    packed,
    tile::{Real, Strided},
};
use crate::exec::float::{Ctx, Inputs, args};
use crate::{
    error::{Error, Result},
    ir::{DType, Tensor},
};

/// Sizes `[m, k, n]`.
fn sizes(a: &[usize], b: &[usize], ta: bool, tb: bool) -> Result<[usize; 3]> {
    let wrong =
        || Error::shape(format!("A {a:?} (transposed: {ta}) and B {b:?} (transposed: {tb}) cannot be multiplied"));
    let (&[a0, a1], &[b0, b1]) = (a, b) else { return Err(wrong()) };
    let (m, k) = if ta { (a1, a0) } else { (a0, a1) };
    let (k2, n) = if tb { (b1, b0) } else { (b0, b1) };
    if k == k2 { Ok([m, k, n]) } else { Err(wrong()) }
}

/// Strides of C broadcast to `[m, n]`.
fn strides(c: &[usize], m: usize, n: usize) -> Result<(usize, usize)> {
    let (rows, cols) = match *c {
        [] => (1, 1),
        [n] => (1, n),
        [m, n] => (m, n),
        _ => (usize::MAX, 0),
    };
    if (rows != 1 && rows != m) || (cols != 1 && cols != n) {
        return Err(Error::shape(format!("C {c:?} does not broadcast to [{m}, {n}]")));
    }
    Ok((if rows == 1 { 0 } else { cols }, usize::from(cols != 1)))
}

/// The `[rows, cols]` matrix whose transpose is `x`.
fn turn<T: Copy>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..rows).flat_map(|i| (0..cols).map(move |j| x[j * rows + i])).collect()
}

pub(crate) fn gemm(alpha: f32, beta: f32, ta: bool, tb: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    match args::need(x, 0, "A")?.dtype() {
        DType::I32 | DType::I64 | DType::U32 | DType::U64 => integers(alpha, beta, ta, tb, x),
        _ => super::by_type(
            x,
            |x| typed::<f32>(alpha, beta, ta, tb, x, ctx),
            |x| typed::<f64>(alpha, beta, ta, tb, x, ctx),
        ),
    }
}

fn typed<T: Real>(alpha: f32, beta: f32, ta: bool, tb: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let (a, b) = (args::need(x, 0, "A")?, args::need(x, 1, "B")?);
    let [m, k, n] = sizes(a.shape(), b.shape(), ta, tb)?;
    let mut out = T::take(ctx, args::room(&[m, n])?);
    let (row, col) = if tb { (1, k) } else { (n, 1) };
    if ta || !packed::multiply(a, (b, row, col), [m, k, n], &mut out, ctx) {
        let (row, col) = if ta { (1, m) } else { (k, 1) };
        let left = Strided { data: a.as_slice()?, row, col };
        let mut right = b.as_slice()?;
        // A transposed constant is turned once, so that each run reads rows.
        let turned = tb.then(|| ctx.keep(1, || turn(right, k, n)));
        if let Some(turned) = &turned {
            right = turned;
        }
        multiply(left, Strided { data: right, row: n, col: 1 }, [m, k, n], &mut out);
    }
    if alpha != 1.0 {
        let alpha = T::from_f32(alpha);
        out.iter_mut().for_each(|y| *y = alpha * *y);
    }
    if let Some(c) = args::optional(x, 2) {
        let (row, col) = strides(c.shape(), m, n)?;
        let (c, beta) = (c.as_slice::<T>()?, T::from_f32(beta));
        for (i, line) in out.chunks_mut(n.max(1)).enumerate() {
            for (j, y) in line.iter_mut().enumerate() {
                *y = *y + beta * c[i * row + j * col];
            }
        }
    }
    Tensor::new(vec![m, n], T::wrap(out.into()))
}

fn integers(alpha: f32, beta: f32, ta: bool, tb: bool, x: &Inputs) -> Result<Tensor> {
    if alpha.fract() != 0.0 || beta.fract() != 0.0 {
        return Err(Error::unsupported(format!("Gemm of integers with alpha {alpha} and beta {beta}")));
    }
    let (a, b) = (args::need(x, 0, "A")?, args::need(x, 1, "B")?);
    let [m, k, n] = sizes(a.shape(), b.shape(), ta, tb)?;
    let (mut left, mut right) = (a.to_i64s()?, b.to_i64s()?);
    if ta {
        left = turn(&left, m, k);
    }
    if tb {
        right = turn(&right, k, n);
    }
    let mut out = vec![0; args::room(&[m, n])?];
    wrapping(&Shapes::new(&[m, k], &[k, n])?, &left, &right, &mut out);
    let c = args::optional(x, 2);
    if let Some(t) = [Some(b), c].into_iter().flatten().find(|t| t.dtype() != a.dtype()) {
        return Err(Error::shape(format!("expected a tensor of {}, found {}", a.dtype(), t.dtype())));
    }
    let (c, (row, col)) = match c {
        Some(c) => (c.to_i64s()?, strides(c.shape(), m, n)?),
        None => (vec![0], (0, 0)),
    };
    for (i, y) in out.iter_mut().enumerate() {
        let c = c[i / n * row + i % n * col];
        *y = y.wrapping_mul(alpha as i64).wrapping_add(c.wrapping_mul(beta as i64));
    }
    Ok(narrow(a.dtype(), &[m, n], out))
}
