//! Products with a constant right matrix, on the kernels.
use super::tile::Real;
use crate::{
    exec::float::{Ctx, ctx::each},
    ir::Tensor,
};
use nnq_kernels::float::{Epilogue, FloatIsa, PackedProduct, Place, in_turn};

/// Rows from which on packing the other matrix pays.
const FEW_ROWS: usize = 4;

/// `out = left * right` for a row-major left matrix of sizes `[m, k]` and input 1 of the running node, whose element `(k, n)` is
/// at `k * row + n * col`. The chains are those of [`super::tile`]. Answers false, and does nothing, where the right matrix is
/// no constant or the elements are not binary32.
pub fn multiply<T: Real>(
    left: &Tensor,
    (right, row, col): (&Tensor, usize, usize),
    [m, k, n]: [usize; 3],
    out: &mut [T],
    ctx: &Ctx,
) -> bool {
    let (Ok(x), Ok(w)) = (left.as_slice::<f32>(), right.as_slice::<f32>()) else { return false };
    let Ok(out) = bytemuck::try_cast_slice_mut::<T, f32>(out) else { return false };
    if !ctx.keeps(1) {
        return false;
    }
    let packed = ctx.keep(1, || PackedProduct::pack(FloatIsa::best(), w, [n, 1, k], [col, 0, row]));
    packed.run(&Place::matrix(m, k, n), x, &Epilogue::default(), out, ctx.tasks(m * k * n), &each);
    true
}

/// As [`multiply`], of matrices that are both used once, on this thread.
pub fn multiply_once<T: Real>(left: &[T], right: &[T], [m, k, n]: [usize; 3], out: &mut [T]) -> bool {
    let (Some(x), Some(w), Some(out)) = (T::singles(left), T::singles(right), T::singles_mut(out)) else {
        return false;
    };
    // Packing costs as much as a few rows.
    if k == 0 || m < FEW_ROWS {
        return false;
    }
    let packed = PackedProduct::pack(FloatIsa::best(), w, [n, 1, k], [1, 0, n]);
    packed.run(&Place::matrix(m, k, n), x, &Epilogue::default(), out, 1, &in_turn);
    true
}

/// A matrix whose rows are multiplied with the rows of another: weights as recurrent layers have them.
pub enum Rows<T> {
    /// Binary32, for the kernels.
    Kernel(PackedProduct),
    /// As it stands.
    Plain(Vec<T>),
}

impl<T: Real> Rows<T> {
    /// `n` rows of `k` numbers.
    pub fn pack(w: &[T], n: usize, k: usize) -> Self {
        match T::singles(w) {
            Some(w) => Self::Kernel(PackedProduct::pack(FloatIsa::best(), w, [n, 1, k], [k, 0, 1])),
            None => Self::Plain(w.to_vec()),
        }
    }
    /// `out[i, j] = start[j] + sum of x[i, ..] * row j`, for sizes `[m, k, n]`; each sum is one chain, in order.
    pub fn run(&self, x: &[T], start: Option<&[T]>, out: &mut [T], [m, k, n]: [usize; 3], ctx: &Ctx) {
        match self {
            Self::Kernel(packed) if k > 0 => {
                let (Some(x), Some(out)) = (T::singles(x), T::singles_mut(out)) else { return };
                let epilogue = Epilogue { bias: start.and_then(T::singles), ..Epilogue::default() };
                packed.run(&Place::matrix(m, k, n), x, &epilogue, out, ctx.tasks(m * k * n), &each);
            }
            Self::Kernel(_) => {
                for row in out.chunks_mut(n.max(1)) {
                    match start {
                        Some(start) => row.copy_from_slice(start),
                        None => row.fill(T::ZERO),
                    }
                }
            }
            Self::Plain(w) => {
                for (i, row) in out.chunks_mut(n.max(1)).enumerate() {
                    for (j, y) in row.iter_mut().enumerate() {
                        let first = start.map_or(T::ZERO, |s| s[j]);
                        let pairs = x[i * k..][..k].iter().zip(&w[j * k..][..k]);
                        *y = pairs.fold(first, |sum, (&x, &w)| sum + x * w);
                    }
                }
            }
        }
    }
}
