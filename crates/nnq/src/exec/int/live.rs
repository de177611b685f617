//! Products of two values that are quantized as they come (numerics section 11).
use super::between::Between;
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, MatMulShapes as Shapes},
        lower::{self, no_range, too_deep},
    },
    ir::{Tensor, count},
};
use nnq_kernels::{
    Isa,
    conv::{SLACK, Scratch},
    dynamic::extremes,
    eltwise::quantize,
    pair::{self, Pair},
    round::dynamic_real,
    widest,
};
use rayon::prelude::*;
use std::sync::Arc;

/// The least rows that are worth packing the second operand once more.
const ROWS: usize = 16;

/// A product, for operands of any size.
pub(super) struct Live {
    of: Arc<lower::Live>,
    isa: Isa,
}

/// Codes of an operand, with a grid for each `each` of them.
struct Codes {
    bytes: Vec<f32>,
    grids: Vec<(f32, u8)>,
    each: usize,
}

impl Codes {
    /// The codes from number `i` on, and the grid of that one.
    fn at(&self, i: usize) -> (&[u8], (f32, u8)) {
        let grid = self.grids.get(i / self.each).copied().unwrap_or((1.0, 0));
        (&bytemuck::cast_slice(&self.bytes)[i..], grid)
    }
}

impl Live {
    pub(super) fn new(of: &Arc<lower::Live>, isa: Isa) -> Self {
        Self { of: of.clone(), isa }
    }

    fn codes(&self, x: &[f32], each: usize, name: &str, ctx: &Ctx) -> Result<Codes> {
        let each = each.max(1);
        let mut bytes = ctx.take((x.len() + SLACK).div_ceil(size_of::<f32>()));
        let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut bytes);
        let code = |(codes, x): (&mut [u8], &[f32])| {
            let grid = extremes(self.isa, x).grid().ok_or_else(|| no_range(name))?;
            quantize(self.isa, x, grid.0, grid.1, 0, 255, codes);
            Ok(grid)
        };
        let grids = codes[..x.len()].chunks_mut(each).zip(x.chunks(each)).map(code).collect::<Result<_>>()?;
        Ok(Codes { bytes, grids, each })
    }

    /// Some rows of one product, of codes that begin at `a` and `b`.
    fn multiply(&self, [a, b]: [&Codes; 2], (i, j): (usize, usize), [depth, columns]: [usize; 2], out: &mut [f32]) {
        let (left, _) = a.at(i);
        let (right, (b_scale, b_zero)) = b.at(j);
        let sizes = [out.len() / columns, depth, columns];
        let work = (&mut Vec::new(), &mut Scratch::new());
        // Accumulators lie where the real numbers will.
        pair::sums(self.isa, sizes, left, (right, b_zero), bytemuck::cast_slice_mut(&mut *out), work);
        // What a zero point of a row takes off each column.
        let mut taken = vec![0; columns];
        for row in right[..depth * columns].chunks(columns) {
            taken.iter_mut().zip(row).for_each(|(sum, &q)| *sum += i32::from(q) - i32::from(b_zero));
        }
        for (r, row) in out.chunks_mut(columns).enumerate() {
            let (_, (scale, zero)) = a.at(i + r * depth);
            let (zero, taken) = (i32::from(zero), &taken[..columns]);
            widest(
                #[inline(always)]
                || {
                    for (y, &taken) in row.iter_mut().zip(taken) {
                        // The sum of codes less their zero points fits; so does the way there, around the corner.
                        let acc = y.to_bits().cast_signed().wrapping_sub(zero.wrapping_mul(taken));
                        *y = dynamic_real(acc, scale, b_scale, -0.0);
                    }
                },
            );
        }
    }
}

impl Between for Live {
    fn macs(&self, x: &[Vec<usize>]) -> usize {
        let of = |[a, b]: [&Vec<usize>; 2]| Shapes::new(a, b).map_or(0, |s| s.pairs.len() * s.m * s.k * s.n);
        x.first_chunk::<2>().map_or(0, |[a, b]| of([a, b]))
    }

    fn bytes(&self) -> usize {
        0
    }

    fn name(&self) -> &'static str {
        "a product of two values"
    }

    fn run(&self, x: &[Option<&Tensor>], ctx: &Ctx) -> Result<Vec<Tensor>> {
        let operand = |i: usize| x.get(i).copied().flatten().ok_or_else(|| Error::internal("a product of one value"));
        let (a, b) = (operand(0)?, operand(1)?);
        let shapes = Shapes::new(a.shape(), b.shape())?;
        let &Shapes { m, k, n, .. } = &shapes;
        if !Pair::fits(k) {
            return Err(too_deep(k));
        }
        let (a_numbers, b_numbers) = (a.as_slice::<f32>()?, b.as_slice::<f32>()?);
        let grids = if self.of.by_row { [k, k * n] } else { [a.len(), b.len()] };
        let left = self.codes(a_numbers, grids[0], &self.of.names[0], ctx)?;
        let right = self.codes(b_numbers, grids[1], &self.of.names[1], ctx)?;
        let mut out = ctx.take(count(&shapes.out)?);
        if !out.is_empty() {
            let tasks = ctx.tasks(shapes.pairs.len() * m * k * n);
            // Fewer products than threads: their rows are shared out.
            let parts = tasks.div_ceil(shapes.pairs.len()).clamp(1, m.div_ceil(ROWS));
            let some = m.div_ceil(parts);
            let part = |product: usize, part: usize, out: &mut [f32]| {
                let (i, j) = shapes.pairs[product];
                self.multiply([&left, &right], (i * m * k + part * some * k, j * k * n), [k, n], out);
            };
            if tasks == 1 {
                let of = |(i, out): (usize, &mut [f32])| {
                    out.chunks_mut(some * n).enumerate().for_each(|(at, out)| part(i, at, out));
                };
                out.chunks_mut(m * n).enumerate().for_each(of);
            } else {
                let of = |(i, out): (usize, &mut [f32])| {
                    out.par_chunks_mut(some * n).enumerate().for_each(|(at, out)| part(i, at, out));
                };
                out.par_chunks_mut(m * n).enumerate().for_each(of);
            }
        }
        ctx.give(left.bytes);
        ctx.give(right.bytes);
        Ok(vec![Tensor::of(&shapes.out, out)])
    }
}
