//! Matrix products with NumPy's rules.
use super::packed;
use super::tile::{Block, Left, MR, Out, Real, Strided};
use crate::exec::float::{Ctx, Inputs, args};
use crate::{
    error::{Error, Result},
    ir::{DType, Tensor, count},
};
use rayon::prelude::*;

/// Sizes of a batch of products `[m, k] x [k, n]`.
pub struct Shapes {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// Which left and right matrix each product takes.
    pub pairs: Vec<(usize, usize)>,
    /// Shape of the result.
    pub out: Vec<usize>,
    /// Products follow each other on the left and share the right matrix, so that they are one.
    merge: bool,
}

impl Shapes {
    /// Broadcasts batches; a vector on the left is a row, on the right a column, and its axis is dropped from the result.
    ///
    /// # Errors
    /// Scalars, unequal inner sizes, batches that do not broadcast.
    pub fn new(a: &[usize], b: &[usize]) -> Result<Self> {
        let wrong = || Error::shape(format!("{a:?} and {b:?} cannot be multiplied"));
        let row = |a: &[usize]| if let [k] = *a { vec![1, k] } else { a.to_vec() };
        let col = |b: &[usize]| if let [k] = *b { vec![k, 1] } else { b.to_vec() };
        let (wide_a, wide_b) = (row(a), col(b));
        let ([batch_a @ .., m, k], [batch_b @ .., k2, n]) = (&*wide_a, &*wide_b) else { return Err(wrong()) };
        if k != k2 {
            return Err(wrong());
        }
        let rank = batch_a.len().max(batch_b.len());
        let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
        let mut batch = Vec::with_capacity(rank);
        for i in 0..rank {
            batch.push(match (at(batch_a, i), at(batch_b, i)) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                _ => return Err(wrong()),
            });
        }
        let mut out = batch.clone();
        if a.len() > 1 {
            out.push(*m);
        }
        if b.len() > 1 {
            out.push(*n);
        }
        args::room(&out)?;
        let total = args::room(&batch)?;
        let index = |s: &[usize], mut flat: usize| {
            let (mut index, mut stride) = (0, 1);
            for i in (0..rank).rev() {
                let (size, here) = (at(s, i), flat % batch[i]);
                flat /= batch[i];
                index += if size == 1 { 0 } else { here * stride };
                stride *= size;
            }
            index
        };
        let pairs: Vec<_> = (0..total).map(|i| (index(batch_a, i), index(batch_b, i))).collect();
        let merge = total > 1 && pairs.iter().enumerate().all(|(i, &(x, y))| x == i && y == 0);
        Ok(Self { m: *m, k: *k, n: *n, pairs, out, merge })
    }
}

pub(crate) fn matmul(x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    match args::need(x, 0, "A")?.dtype() {
        DType::I32 | DType::I64 | DType::U32 | DType::U64 => integers(x),
        _ => super::by_type(x, |x| typed::<f32>(x, ctx), |x| typed::<f64>(x, ctx)),
    }
}

fn typed<T: Real>(x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let (a, b) = (args::need(x, 0, "A")?, args::need(x, 1, "B")?);
    let shapes = Shapes::new(a.shape(), b.shape())?;
    let mut out = T::take(ctx, count(&shapes.out)?);
    let rows = shapes.m * shapes.pairs.len();
    let one = shapes.merge || shapes.pairs.len() == 1;
    if !one || !packed::multiply(a, (b, shapes.n, 1), [rows, shapes.k, shapes.n], &mut out, ctx) {
        batched(&shapes, a.as_slice()?, b.as_slice()?, &mut out);
    }
    Tensor::new(shapes.out, T::wrap(out.into()))
}

/// All products of `shapes` on contiguous matrices.
pub fn batched<T: Real>(s: &Shapes, a: &[T], b: &[T], out: &mut [T]) {
    let right = |i: usize| Strided { data: &b[i * s.k * s.n..][..s.k * s.n], row: s.n, col: 1 };
    if s.merge {
        multiply(Strided { data: a, row: s.k, col: 1 }, right(0), [s.m * s.pairs.len(), s.k, s.n], out);
        return;
    }
    // Fewer than threads: each is cut instead.
    let many = s.pairs.len() >= rayon::current_num_threads();
    let one = |(&(i, j), out): (&(usize, usize), &mut [T])| {
        let (x, w) = (&a[i * s.m * s.k..][..s.m * s.k], &b[j * s.k * s.n..][..s.k * s.n]);
        if many && packed::multiply_once(x, w, [s.m, s.k, s.n], out) {
            return;
        }
        let left = Strided { data: &a[i * s.m * s.k..][..s.m * s.k], row: s.k, col: 1 };
        multiply(left, right(j), [s.m, s.k, s.n], out);
    };
    if s.m * s.n > 0 {
        s.pairs.par_iter().zip(out.par_chunks_mut(s.m * s.n)).for_each(one);
    }
}

/// `out = left * right` for one pair of matrices of sizes `[m, k, n]`.
pub fn multiply<T: Real>(left: Strided<'_, T>, right: Strided<'_, T>, [m, k, n]: [usize; 3], out: &mut [T]) {
    if m == 0 || n == 0 {
        return;
    }
    // Small products are not worth a second thread.
    let threads = if m * n * k < 1 << 16 { 1 } else { 2 * rayon::current_num_threads() };
    let packed = Left::pack(left.data, m, k, left.row, left.col);
    let cut = |size: usize, most: usize| size.div_ceil(size.div_ceil(most).max(threads.min(size.div_ceil(64))));
    // Cutting rows keeps the output of a task in one piece, cutting columns keeps it from packing the right matrix again.
    let (rows, cols) = if m >= n { (cut(m, 512), n) } else { (m, cut(n, 1024)) };
    let rows = rows.next_multiple_of(MR);
    let mut tasks: Vec<Out<'_, T>> = (0..m.div_ceil(rows) * n.div_ceil(cols))
        .map(|i| {
            let height = rows.min(m - i / n.div_ceil(cols) * rows);
            Out { slices: Vec::with_capacity(height), height, len: cols }
        })
        .collect();
    for (i, line) in out.chunks_mut(n).enumerate() {
        for (j, slice) in line.chunks_mut(cols).enumerate() {
            tasks[i / rows * n.div_ceil(cols) + j].slices.push(slice);
        }
    }
    tasks.into_par_iter().enumerate().for_each_init(Vec::new, |scratch, (i, out)| {
        let (row, col) = (i / n.div_ceil(cols) * rows, i % n.div_ceil(cols) * cols);
        Block {
            left: &packed,
            rows: row..m.min(row + rows),
            right: &right,
            cols: col..n.min(col + cols),
            bias: None,
            out,
            scratch,
        }
        .run();
    });
}

/// Integers wrap around, as in C and NumPy.
fn integers(x: &Inputs) -> Result<Tensor> {
    let (a, b) = (args::need(x, 0, "A")?, args::need(x, 1, "B")?);
    if a.dtype() != b.dtype() {
        return Err(Error::shape(format!("a matrix of {} times one of {}", a.dtype(), b.dtype())));
    }
    let s = Shapes::new(a.shape(), b.shape())?;
    let mut out = vec![0i64; count(&s.out)?];
    wrapping(&s, &a.to_i64s()?, &b.to_i64s()?, &mut out);
    Ok(narrow(a.dtype(), &s.out, out))
}

/// Products modulo 2^64; narrower types keep the low bits.
pub fn wrapping(s: &Shapes, a: &[i64], b: &[i64], out: &mut [i64]) {
    for (&(i, j), out) in s.pairs.iter().zip(out.chunks_mut((s.m * s.n).max(1))) {
        for (row, out) in out.chunks_mut(s.n.max(1)).enumerate() {
            for k in 0..s.k {
                let x = a[(i * s.m + row) * s.k + k];
                for (y, &b) in out.iter_mut().zip(&b[(j * s.k + k) * s.n..][..s.n]) {
                    *y = y.wrapping_add(x.wrapping_mul(b));
                }
            }
        }
    }
}

/// The low bits as a tensor of `dtype`.
pub fn narrow(dtype: DType, shape: &[usize], x: Vec<i64>) -> Tensor {
    match dtype {
        DType::I32 => Tensor::of(shape, x.iter().map(|&x| x as i32).collect()),
        DType::U32 => Tensor::of(shape, x.iter().map(|&x| x as u32).collect()),
        DType::U64 => Tensor::of(shape, x.iter().map(|&x| x as u64).collect()),
        _ => Tensor::of(shape, x),
    }
}
