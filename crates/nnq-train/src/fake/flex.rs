//! Fake quantization on the processor: one pass forward, one pass back.
//!
//! Sums over elements are taken in chunks of a fixed size, added in their order: results do not depend on threads.
use super::{
    Estimator, Grid, ScaleRule,
    estimator::{self, Standing},
};
use burn::backend::{
    Bytes, DType, Flex, TensorMetadata,
    flex::{FlexTensor, Layout},
    tensor::FloatTensor,
};
use nnq_kernels::round::rne_within;
use rayon::prelude::*;

/// Elements that one task works on.
const CHUNK: usize = 1 << 14;

/// The numbers of a tensor in one run.
pub fn contiguous(x: &FlexTensor) -> std::borrow::Cow<'_, [f32]> {
    match x.as_slice::<f32>() {
        Some(all) => all.into(),
        None => {
            let copy = x.to_contiguous();
            copy.as_slice::<f32>().map(<[f32]>::to_vec).unwrap_or_default().into()
        }
    }
}

/// A tensor of these numbers and the shape of another.
pub fn like(numbers: Vec<f32>, x: &FlexTensor) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(x.shape()), DType::F32)
}

/// Where the runs of equal scale in `[from, from + len)` lie: (run within the piece, group).
fn runs(grid: &Grid, from: usize, len: usize) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
    let (inner, groups) = (grid.inner.max(1), grid.groups.max(1));
    let mut at = from;
    std::iter::from_fn(move || {
        let end = from + len;
        (at < end).then(|| {
            let stop = ((at / inner + 1) * inner).min(end);
            let run = (at - from..stop - from, at / inner % groups);
            at = stop;
            run
        })
    })
}

/// As [`crate::backend::Kernels::fake`].
pub fn fake(x: FloatTensor<Flex>, scale: FloatTensor<Flex>, grid: &Grid) -> FloatTensor<Flex> {
    let (input, scale) = (contiguous(&x), contiguous(&scale));
    let mut out = vec![0.0f32; input.len()];
    out.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK)).enumerate().for_each(|(c, (out, x))| {
        for (run, group) in runs(grid, c * CHUNK, x.len()) {
            let (s, [lo, hi]) = (scale[group], grid.limit(group));
            for (y, &x) in out[run.clone()].iter_mut().zip(&x[run]) {
                *y = step(x / s, lo, hi) * s;
            }
        }
    });
    like(out, &x)
}

/// The nearest step of the grid. The ends are integers, so that clamping first changes nothing; it keeps the number within what rounds
/// quickly.
#[inline]
fn step(v: f32, lo: f32, hi: f32) -> f32 {
    // NaN becomes the lowest code, as in the engine.
    let v = if v > lo { v } else { lo };
    rne_within(if v < hi { v } else { hi })
}

/// As [`crate::backend::Kernels::fake_backward`].
pub fn fake_backward(
    x: FloatTensor<Flex>,
    scale: FloatTensor<Flex>,
    grad: FloatTensor<Flex>,
    grid: &Grid,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let (input, scales, grads) = (contiguous(&x), contiguous(&scale), contiguous(&grad));
    let mut out = vec![0.0f32; input.len()];
    let parts: Vec<Vec<(usize, f64)>> = out
        .par_chunks_mut(CHUNK)
        .zip(input.par_chunks(CHUNK))
        .zip(grads.par_chunks(CHUNK))
        .enumerate()
        .map(|(c, ((out, x), g))| {
            let each = |(run, group): (std::ops::Range<usize>, usize)| {
                let ends = grid.limit(group);
                let sum = back(&x[run.clone()], &g[run.clone()], &mut out[run], scales[group], ends, grid);
                (group, sum)
            };
            runs(grid, c * CHUNK, x.len()).map(each).collect()
        })
        .collect();
    let mut sums = vec![0.0f64; grid.groups];
    for (group, sum) in parts.into_iter().flatten() {
        sums[group] += sum;
    }
    let sums = sums.into_iter().map(|s| (s * f64::from(grid.gain)) as f32).collect();
    (like(out, &x), like(sums, &scale))
}

/// The gradients of a run of one scale; answers that of the scale.
fn back(x: &[f32], g: &[f32], out: &mut [f32], s: f32, ends: [f32; 2], grid: &Grid) -> f64 {
    let (estimator, rule) = (grid.estimator, grid.rule);
    // The usual rules without a branch in the loop.
    match (estimator, rule) {
        (Estimator::Clipped, ScaleRule::Lsq) => lsq(x, g, out, s, ends),
        _ => {
            let mut sum = 0.0;
            for ((o, &x), &g) in out.iter_mut().zip(x).zip(g) {
                let v = x / s;
                let r = step(v, ends[0], ends[1]);
                *o = g * estimator.passes(Standing::even(v, r, ends), g);
                sum += f64::from(g * estimator::by_scale(rule, v, r, ends));
            }
            sum
        }
    }
}

/// Lanes of the sum, so that the compiler vectorises it.
const LANES: usize = 16;

fn lsq(x: &[f32], g: &[f32], out: &mut [f32], s: f32, [lo, hi]: [f32; 2]) -> f64 {
    let one = |x: f32, g: f32| {
        let v = x / s;
        let r = step(v, lo, hi);
        let (on, within) = (v >= lo && v <= hi, v > lo && v < hi);
        (if on { g } else { 0.0 }, g * (if within { r - v } else { r }))
    };
    let mut total = 0.0f64;
    let blocks = x.chunks(1024).zip(g.chunks(1024)).zip(out.chunks_mut(1024));
    for ((x, g), out) in blocks {
        let mut lanes = [0.0f32; LANES];
        let whole = x.len() / LANES * LANES;
        let (xs, gs, os) = (x[..whole].chunks_exact(LANES), g[..whole].chunks_exact(LANES), &mut out[..whole]);
        for ((x, g), o) in xs.zip(gs).zip(os.chunks_exact_mut(LANES)) {
            for k in 0..LANES {
                let (value, by) = one(x[k], g[k]);
                o[k] = value;
                lanes[k] += by;
            }
        }
        for k in whole..x.len() {
            let (value, by) = one(x[k], g[k]);
            out[k] = value;
            lanes[0] += by;
        }
        total += lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
    }
    total
}
