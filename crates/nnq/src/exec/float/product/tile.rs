//! The one matrix product behind convolutions, Gemm and MatMul.
//!
//! Each output element is the chain `fma(a[k], b[k], acc)` over `k` in order, started from the bias. Registers hold a tile
//! of [`MR`] rows by one or two vectors of columns; blocks of `k` continue the chain from the stored partial result. So an
//! element depends on its row and column only: not on the tile it falls in, the batch, the thread count or the vector width.
use crate::exec::float::Ctx;
use crate::ir::Element;
use pulp::{Arch, Simd, WithSimd};
use std::ops::{Add, Div, Mul, Range, Sub};

/// Rows of a register tile.
pub const MR: usize = 8;
/// Longest run of `k` packed at once: a panel of `KC` by 32 columns of f32 is 32 KiB and stays in the first-level cache.
const KC: usize = 256;
/// Elements a packed panel may be overrun by: packing copies whole vectors and lets the next copy overwrite the excess.
pub const SLACK: usize = 16;

/// Floating-point types the product runs in.
pub trait Real:
    Element + PartialOrd + Into<f64> + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// A vector.
    type V<S: Simd>: bytemuck::Pod;
    /// Zero.
    const ZERO: Self;
    /// All lanes equal.
    fn splat<S: Simd>(s: S, x: Self) -> Self::V<S>;
    /// `a * b + c`, rounded once.
    fn fma<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S>;
    /// Whole vectors of a slice; the rest is left out.
    fn vectors<S: Simd>(x: &[Self]) -> &[Self::V<S>];
    /// From binary32.
    fn from_f32(x: f32) -> Self;
    /// From binary64, rounded.
    fn from_f64(x: f64) -> Self;
    /// The exponential.
    fn exp(self) -> Self;
    /// A buffer with unspecified content.
    fn take(ctx: &Ctx, n: usize) -> Vec<Self>;
    /// Gives it back.
    fn give(ctx: &Ctx, v: Vec<Self>);
    /// The numbers as binary32 when they are.
    fn singles(x: &[Self]) -> Option<&[f32]>;
    /// As [`Real::singles`], to change them.
    fn singles_mut(x: &mut [Self]) -> Option<&mut [f32]>;
}

impl Real for f32 {
    type V<S: Simd> = S::f32s;
    const ZERO: Self = 0.0;
    #[inline(always)]
    fn splat<S: Simd>(s: S, x: Self) -> S::f32s {
        s.splat_f32s(x)
    }
    #[inline(always)]
    fn fma<S: Simd>(s: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        s.mul_add_f32s(a, b, c)
    }
    #[inline(always)]
    fn vectors<S: Simd>(x: &[Self]) -> &[S::f32s] {
        S::as_simd_f32s(x).0
    }
    fn from_f32(x: f32) -> Self {
        x
    }
    fn from_f64(x: f64) -> Self {
        x as Self
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn take(ctx: &Ctx, n: usize) -> Vec<Self> {
        ctx.take(n)
    }
    fn give(ctx: &Ctx, v: Vec<Self>) {
        ctx.give(v);
    }
    fn singles(x: &[Self]) -> Option<&[f32]> {
        Some(x)
    }
    fn singles_mut(x: &mut [Self]) -> Option<&mut [f32]> {
        Some(x)
    }
}

impl Real for f64 {
    type V<S: Simd> = S::f64s;
    const ZERO: Self = 0.0;
    #[inline(always)]
    fn splat<S: Simd>(s: S, x: Self) -> S::f64s {
        s.splat_f64s(x)
    }
    #[inline(always)]
    fn fma<S: Simd>(s: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
        s.mul_add_f64s(a, b, c)
    }
    #[inline(always)]
    fn vectors<S: Simd>(x: &[Self]) -> &[S::f64s] {
        S::as_simd_f64s(x).0
    }
    fn from_f32(x: f32) -> Self {
        x.into()
    }
    fn from_f64(x: f64) -> Self {
        x
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn take(_: &Ctx, n: usize) -> Vec<Self> {
        vec![0.0; n]
    }
    fn give(_: &Ctx, _: Vec<Self>) {}
    fn singles(_: &[Self]) -> Option<&[f32]> {
        None
    }
    fn singles_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}

/// The left matrix, repacked: panels of [`MR`] rows, within a panel `k` outermost; missing rows are zero.
pub struct Left<T> {
    panels: Vec<T>,
    k: usize,
}

impl<T: Real> Left<T> {
    /// Packs `m` rows of `k` elements; element `(i, k)` is `data[i * row + k * col]`.
    pub fn pack(data: &[T], m: usize, k: usize, row: usize, col: usize) -> Self {
        let mut panels = vec![T::ZERO; m.div_ceil(MR) * MR * k];
        if k > 0 {
            for (p, panel) in panels.chunks_exact_mut(MR * k).enumerate() {
                for r in 0..MR.min(m - p * MR) {
                    let at = (p * MR + r) * row;
                    for (i, group) in panel.chunks_exact_mut(MR).enumerate() {
                        group[r] = data[at + i * col];
                    }
                }
            }
        }
        Self { panels, k }
    }
}

/// The right matrix, packed panel by panel while it is used.
pub trait Right<T>: Sync {
    /// Writes rows `k` of columns `col..col + width` to `to`, `nr` elements a row; what is in a row beyond `width` does not
    /// matter. `to` is [`SLACK`] longer than the panel.
    fn pack(&self, k: Range<usize>, col: usize, width: usize, nr: usize, to: &mut [T]);
}

/// A strided matrix.
#[derive(Clone, Copy)]
pub struct Strided<'a, T> {
    pub data: &'a [T],
    pub row: usize,
    pub col: usize,
}

impl<T: Real> Right<T> for Strided<'_, T> {
    #[inline(always)]
    fn pack(&self, k: Range<usize>, col: usize, width: usize, nr: usize, to: &mut [T]) {
        if self.col == 1 {
            for (k, to) in k.zip(to.chunks_exact_mut(nr)) {
                let from = &self.data[k * self.row + col..][..width];
                to[..width].copy_from_slice(from);
            }
        } else {
            for j in 0..width {
                let from = &self.data[(col + j) * self.col..];
                for (i, k) in k.clone().enumerate() {
                    to[i * nr + j] = from[k * self.row];
                }
            }
        }
    }
}

/// Where a block of the product goes: for each run of `len` columns one slice per row (`height` of them).
pub struct Out<'a, T> {
    pub slices: Vec<&'a mut [T]>,
    pub height: usize,
    pub len: usize,
}

impl<T: Real> Out<'_, T> {
    #[inline(always)]
    fn load(&self, row: usize, col: usize, to: &mut [T]) {
        if self.slices.len() == self.height {
            to.copy_from_slice(&self.slices[row][col..][..to.len()]);
        } else {
            let (mut s, mut at, mut to) = (col / self.len, col % self.len, to);
            while !to.is_empty() {
                let n = to.len().min(self.len - at);
                let (now, later) = to.split_at_mut(n);
                now.copy_from_slice(&self.slices[s * self.height + row][at..at + n]);
                (s, at, to) = (s + 1, 0, later);
            }
        }
    }
    #[inline(always)]
    fn store(&mut self, row: usize, col: usize, from: &[T]) {
        if self.slices.len() == self.height {
            self.slices[row][col..][..from.len()].copy_from_slice(from);
        } else {
            let (mut s, mut at, mut from) = (col / self.len, col % self.len, from);
            while !from.is_empty() {
                let n = from.len().min(self.len - at);
                self.slices[s * self.height + row][at..at + n].copy_from_slice(&from[..n]);
                (s, at, from) = (s + 1, 0, &from[n..]);
            }
        }
    }
}

/// A block of `left * right (+ bias per row)`: rows `rows` (the first a multiple of [`MR`]), columns `cols` of the right matrix.
pub struct Block<'a, 'o, T: Real, R: Right<T>> {
    pub left: &'a Left<T>,
    pub rows: Range<usize>,
    pub right: &'a R,
    pub cols: Range<usize>,
    /// One start value per row of `left`; zero without.
    pub bias: Option<&'a [T]>,
    /// Its row 0 is `rows.start`, its column 0 `cols.start`.
    pub out: Out<'o, T>,
    pub scratch: &'a mut Vec<T>,
}

impl<T: Real, R: Right<T>> Block<'_, '_, T, R> {
    /// Computes it on this thread.
    pub fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl<T: Real, R: Right<T>> WithSimd for Block<'_, '_, T, R> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        // 16 accumulators of 64 bytes need the 32 registers that machines with such vectors have.
        if size_of::<T::V<S>>() == 64 { nest::<S, T, R, 2>(s, self) } else { nest::<S, T, R, 1>(s, self) }
    }
}

#[inline(always)]
fn nest<S: Simd, T: Real, R: Right<T>, const NV: usize>(s: S, mut b: Block<'_, '_, T, R>) {
    let lanes = size_of::<T::V<S>>() / size_of::<T>();
    let nr = NV * lanes;
    let k = b.left.k;
    let blocks = k.div_ceil(KC).max(1);
    let kc = k.div_ceil(blocks);
    b.scratch.resize(kc * nr + SLACK, T::ZERO);
    let mut tile = [[T::splat(s, T::ZERO); NV]; MR];
    for block in 0..blocks {
        let ks = block * kc..k.min((block + 1) * kc);
        for col in b.cols.clone().step_by(nr) {
            let width = nr.min(b.cols.end - col);
            let at = col - b.cols.start;
            b.right.pack(ks.clone(), col, width, nr, b.scratch);
            let right = T::vectors::<S>(&b.scratch[..ks.len() * nr]).as_chunks::<NV>().0;
            for row in b.rows.clone().step_by(MR) {
                let height = MR.min(b.rows.end - row);
                let left = &b.left.panels[row / MR * MR * k..][ks.start * MR..ks.end * MR].as_chunks::<MR>().0;
                for (r, line) in tile[..height].iter_mut().enumerate() {
                    if block == 0 {
                        *line = [T::splat(s, b.bias.map_or(T::ZERO, |x| x[row + r])); NV];
                    } else {
                        let line = bytemuck::cast_slice_mut::<T::V<S>, T>(line);
                        b.out.load(row - b.rows.start + r, at, &mut line[..width]);
                    }
                }
                match (height, NV > 1 && width <= lanes) {
                    (1, false) => kernel::<S, T, 1, NV, NV>(s, left, right, &mut tile),
                    (1, true) => kernel::<S, T, 1, 1, NV>(s, left, right, &mut tile),
                    (2..=4, false) => kernel::<S, T, 4, NV, NV>(s, left, right, &mut tile),
                    (2..=4, true) => kernel::<S, T, 4, 1, NV>(s, left, right, &mut tile),
                    (_, false) => kernel::<S, T, MR, NV, NV>(s, left, right, &mut tile),
                    (_, true) => kernel::<S, T, MR, 1, NV>(s, left, right, &mut tile),
                }
                for (r, line) in tile[..height].iter().enumerate() {
                    let line = bytemuck::cast_slice::<T::V<S>, T>(line);
                    b.out.store(row - b.rows.start + r, at, &line[..width]);
                }
            }
        }
    }
}

/// Continues the chains of `R` rows by `N` vectors over all `k` of the panels.
#[inline(always)]
fn kernel<S: Simd, T: Real, const R: usize, const N: usize, const NV: usize>(
    s: S,
    left: &[[T; MR]],
    right: &[[T::V<S>; NV]],
    tile: &mut [[T::V<S>; NV]; MR],
) {
    let mut acc = [[T::splat(s, T::ZERO); N]; R];
    for r in 0..R {
        acc[r].copy_from_slice(&tile[r][..N]);
    }
    for (a, b) in left.iter().zip(right) {
        for r in 0..R {
            let x = T::splat(s, a[r]);
            for n in 0..N {
                acc[r][n] = T::fma(s, x, b[n], acc[r][n]);
            }
        }
    }
    for r in 0..R {
        tile[r][..N].copy_from_slice(&acc[r]);
    }
}
