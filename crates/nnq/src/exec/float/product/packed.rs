//! Products with a constant right matrix, on the kernels.
use super::tile::Real;
use crate::{
    exec::float::{Ctx, ctx::each},
    ir::Tensor,
};
use nnq_kernels::float::{Epilogue, FloatIsa, PackedProduct, Place};

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
