//! Fake quantization on the processor: one pass forward, one pass back.
//!
//! Sums over elements are taken in chunks of a fixed size, added in their order: results do not depend on threads.
use super::{
    Estimator, Grid, ScaleRule,
    estimator::{self, Passing, Standing},
};
use burn::backend::{
    Bytes, DType, Flex, TensorMetadata,
    flex::{FlexTensor, Layout},
    tensor::FloatTensor,
};
use nnq_kernels::{round::rne_within, widest};
use rayon::prelude::*;
use std::ops::Range;

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

/// A tensor whose numbers lie in one run, of its own unless somebody shares them.
pub fn own(x: FlexTensor) -> FlexTensor {
    let n = x.shape().num_elements();
    let whole = x.dtype() == DType::F32 && x.layout().contiguous_offsets() == Some((0, n)) && x.bytes().len() == 4 * n;
    if whole { x } else { like(contiguous(&x).into_owned(), &x) }
}

/// Where the runs of equal scale in `[from, from + len)` lie: (run within the piece, group).
fn runs(grid: &Grid, from: usize, len: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
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
            widest(
                #[inline(always)]
                || {
                    for (y, &x) in out[run.clone()].iter_mut().zip(&x[run.clone()]) {
                        *y = step(x / s, lo, hi) * s;
                    }
                },
            );
        }
    });
    like(out, &x)
}

/// The nearest step of the grid. The ends are integers, so that clamping first changes nothing; it keeps the number within what rounds
/// quickly.
#[inline(always)]
pub(crate) fn step(v: f32, lo: f32, hi: f32) -> f32 {
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
    let (input, scales, mut grad) = (contiguous(&x), contiguous(&scale), own(grad));
    let parts: Vec<Vec<(usize, f64)>> = grad
        .storage_mut::<f32>()
        .par_chunks_mut(CHUNK)
        .zip(input.par_chunks(CHUNK))
        .enumerate()
        .map(|(c, (g, x))| {
            let each = |(run, group): (Range<usize>, usize)| {
                (group, back(&x[run.clone()], &mut g[run], scales[group], grid.limit(group), grid))
            };
            runs(grid, c * CHUNK, x.len()).map(each).collect()
        })
        .collect();
    let mut sums = vec![0.0f64; grid.groups];
    for (group, sum) in parts.into_iter().flatten() {
        sums[group] += sum;
    }
    let sums = sums.into_iter().map(|s| (s * f64::from(grid.gain)) as f32).collect();
    (grad, like(sums, &scale))
}

/// The gradients of a run of one scale, in place of those of what was answered; answers that of the scale.
fn back(x: &[f32], g: &mut [f32], s: f32, ends: [f32; 2], grid: &Grid) -> f64 {
    match (grid.estimator, grid.rule) {
        // The usual rules without a branch in the loop.
        (Estimator::Clipped, ScaleRule::Lsq) => widest(
            #[inline(always)]
            || summed(x, g, |x, g| lsq(x / s, g, ends)),
        ),
        _ => {
            let (passing, mut sum) = (grid.estimator.passing(), 0.0);
            for (g, &x) in g.iter_mut().zip(x) {
                let (to_x, by) = by_rules(x / s, *g, ends, (passing, grid.rule));
                *g = to_x;
                sum += f64::from(by);
            }
            sum
        }
    }
}

/// What a gradient `g` of a value of `v` steps becomes, and its share in the scale's, by the usual rules.
#[inline(always)]
pub(crate) fn lsq(v: f32, g: f32, [lo, hi]: [f32; 2]) -> (f32, f32) {
    let r = step(v, lo, hi);
    let (on, within) = (v >= lo && v <= hi, v > lo && v < hi);
    (if on { g } else { 0.0 }, g * (if within { r - v } else { r }))
}

/// The same by any rules.
#[inline]
pub(crate) fn by_rules(v: f32, g: f32, ends: [f32; 2], (passing, rule): (Passing, ScaleRule)) -> (f32, f32) {
    let r = step(v, ends[0], ends[1]);
    let to_x = g * passing.share(Standing::even(v, r, ends), g);
    (to_x, g * estimator::by_scale(rule, v, r, ends))
}

/// Lanes of the sum, so that the compiler vectorises it.
const LANES: usize = 16;

/// Gives each gradient what `one` makes of it, and answers the sum of what it says besides.
#[inline(always)]
fn summed(x: &[f32], g: &mut [f32], one: impl Fn(f32, f32) -> (f32, f32)) -> f64 {
    let mut total = 0.0f64;
    for (x, g) in x.chunks(1024).zip(g.chunks_mut(1024)) {
        let mut lanes = [0.0f32; LANES];
        let whole = x.len() / LANES * LANES;
        for (x, g) in x[..whole].chunks_exact(LANES).zip(g[..whole].chunks_exact_mut(LANES)) {
            for k in 0..LANES {
                let (value, by) = one(x[k], g[k]);
                g[k] = value;
                lanes[k] += by;
            }
        }
        for (x, g) in x[whole..].iter().zip(&mut g[whole..]) {
            let (value, by) = one(*x, *g);
            *g = value;
            lanes[0] += by;
        }
        total += lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
    }
    total
}
