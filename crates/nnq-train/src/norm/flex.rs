//! On the processor: two passes over memory each way, on all cores. Sums are taken sample by sample and added in their order, in binary64: no result depends on threads.
use super::{Normalized, Seen};
use crate::fake::flex::{contiguous, like, own};
use burn::backend::{
    Bytes, DType, Flex, Shape, TensorMetadata,
    flex::{FlexTensor, Layout},
};
use nnq_kernels::widest;
use rayon::prelude::*;
use std::ops::Range;

/// Elements that one task works on.
const CHUNK: usize = 1 << 14;

/// Lanes of sums, so that the compiler vectorises them.
pub(crate) const LANES: usize = 16;

/// Elements that are summed in binary32 before they are added to a sum of binary64.
pub(crate) const RUN: usize = 256;

/// A number for each channel.
pub(crate) fn channels(numbers: Vec<f32>) -> FlexTensor {
    let shape = Shape::from([numbers.len()]);
    FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(shape), DType::F32)
}

/// Sizes of `[samples, channels, ...]`: channels, elements of a plane, elements of a sample.
pub(crate) fn sizes(x: &FlexTensor) -> [usize; 3] {
    let shape = x.shape().to_vec();
    let channels = shape.get(1).copied().unwrap_or(1).max(1);
    let plane = shape.iter().skip(2).product::<usize>().max(1);
    [channels, plane, channels * plane]
}

/// The sums of two functions of pairs, over a plane.
fn pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> [f32; 2]) -> [f64; 2] {
    widest(
        #[inline(always)]
        || sums_of_pairs(a, b, &f),
    )
}

#[inline(always)]
fn sums_of_pairs(a: &[f32], b: &[f32], f: &impl Fn(f32, f32) -> [f32; 2]) -> [f64; 2] {
    let mut total = [0.0f64; 2];
    for (a, b) in a.chunks(RUN).zip(b.chunks(RUN)) {
        let mut lanes = [[0.0f32; LANES]; 2];
        let whole = a.len() / LANES * LANES;
        for (a, b) in a[..whole].chunks_exact(LANES).zip(b[..whole].chunks_exact(LANES)) {
            for k in 0..LANES {
                let [u, v] = f(a[k], b[k]);
                lanes[0][k] += u;
                lanes[1][k] += v;
            }
        }
        for (a, b) in a[whole..].iter().zip(&b[whole..]) {
            let [u, v] = f(*a, *b);
            lanes[0][0] += u;
            lanes[1][0] += v;
        }
        for (total, lanes) in total.iter_mut().zip(lanes) {
            *total += lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
        }
    }
    total
}

/// The sums of two functions over each channel: `of` answers those of a plane, given its channel.
fn summed(
    [channels, plane, sample]: [usize; 3],
    count: usize,
    of: impl Fn(usize, Range<usize>) -> [f64; 2] + Sync,
) -> Vec<[f64; 2]> {
    let one = |n: usize| -> Vec<[f64; 2]> {
        (0..channels).map(|c| of(c, n * sample + c * plane..n * sample + (c + 1) * plane)).collect()
    };
    let parts: Vec<Vec<[f64; 2]>> = (0..count).into_par_iter().map(one).collect();
    let mut sums = vec![[0.0; 2]; channels];
    for part in parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            (sum[0], sum[1]) = (sum[0] + part[0], sum[1] + part[1]);
        }
    }
    sums
}

/// What a normalisation does to each channel: `(x - mean) * factor + beta`.
pub(crate) struct Channels {
    /// Of each channel.
    pub means: Vec<f32>,
    /// Of each channel, by the number of its elements.
    pub variances: Vec<f32>,
    /// `gamma / sqrt(variance + epsilon)`
    pub factors: Vec<f32>,
}

impl Channels {
    /// By the channels' own means and variances. `size` as [`sizes`] answers it.
    pub fn of(input: &[f32], size: [usize; 3], gamma: &[f32], epsilon: f64) -> Self {
        let [_, plane, sample] = size;
        let count = input.len() / sample;
        let elements = (count * plane).max(1) as f64;
        // About the mean of the first sample, which lies near that of all: what is far from 0 keeps its digits.
        let first: Vec<f32> = (0..gamma.len())
            .map(|c| {
                let x = input.get(c * plane..(c + 1) * plane).unwrap_or_default();
                (pairs(x, x, |x, _| [x, 0.0])[0] / plane as f64) as f32
            })
            .collect();
        let about = |c: usize, range: Range<usize>| {
            let m = first[c];
            pairs(&input[range.clone()], &input[range], |x, _| [(x - m) * (x - m), x - m])
        };
        let sums = summed(size, count, about);
        let means = sums.iter().zip(&first).map(|(s, m)| (f64::from(*m) + s[1] / elements) as f32).collect();
        let variance = |s: &[f64; 2]| ((s[0] - s[1] * s[1] / elements) / elements).max(0.0) as f32;
        let variances: Vec<f32> = sums.iter().map(variance).collect();
        let factors = factors(gamma, &variances, epsilon);
        Self { means, variances, factors }
    }
    /// What `then` makes of each normalised number of `x`, whose numbers are `input`.
    pub fn normalized(
        self,
        x: &FlexTensor,
        input: &[f32],
        beta: &[f32],
        then: impl Fn(f32) -> f32 + Sync,
    ) -> Normalized<FlexTensor, FlexTensor> {
        let ([_, plane, sample], Self { means, variances, factors }) = (sizes(x), self);
        let mut out = vec![0.0f32; input.len()];
        out.par_chunks_mut(sample).zip(input.par_chunks(sample)).for_each(|(out, x)| {
            widest(
                #[inline(always)]
                || {
                    for (c, (out, x)) in out.chunks_mut(plane).zip(x.chunks(plane)).enumerate() {
                        let (m, k, b) = (means[c], factors[c], beta[c]);
                        out.iter_mut().zip(x).for_each(|(y, x)| *y = then((x - m) * k + b));
                    }
                },
            );
        });
        Normalized { output: like(out, x), mean: channels(means), variance: channels(variances) }
    }
}

/// What channels are multiplied with.
pub(crate) fn factors(gamma: &[f32], variances: &[f32], epsilon: f64) -> Vec<f32> {
    gamma.iter().zip(variances).map(|(g, v)| (f64::from(*g) / (f64::from(*v) + epsilon).sqrt()) as f32).collect()
}

/// As [`crate::backend::Kernels::normalize`].
pub fn normalize(
    x: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    epsilon: f64,
) -> Normalized<FlexTensor, FlexTensor> {
    let (input, gamma, beta) = (contiguous(&x), contiguous(&gamma), contiguous(&beta));
    Channels::of(&input, sizes(&x), &gamma, epsilon).normalized(&x, &input, &beta, |y| y)
}

/// As [`crate::backend::Kernels::normalize_backward`].
pub fn normalize_backward(seen: Seen<Flex>, grad: FlexTensor) -> [FlexTensor; 3] {
    let Seen { x, gamma, mean, variance, epsilon } = seen;
    let size @ [_, _, sample] = sizes(&x);
    let (input, mut grad) = (contiguous(&x), own(grad));
    let (gamma, mean, variance) = (contiguous(&gamma), contiguous(&mean), contiguous(&variance));
    // Of gradients, and of gradients times what is about the mean.
    let grads = grad.storage_mut::<f32>();
    let about = |c: usize, range: Range<usize>| {
        let m = mean[c];
        pairs(&grads[range.clone()], &input[range], |g, x| [g, g * (x - m)])
    };
    let sums = summed(size, input.len() / sample, about);
    let given = Given { size, input: &input, means: &mean, gamma: &gamma, variances: &variance, epsilon };
    let [to_gamma, to_beta] = given.through(grads, &sums);
    [grad, to_gamma, to_beta]
}

/// What gradients pass on their way through a normalisation.
pub(crate) struct Given<'a> {
    /// As [`sizes`] answers it.
    pub size: [usize; 3],
    /// What was normalised.
    pub input: &'a [f32],
    pub means: &'a [f32],
    pub gamma: &'a [f32],
    pub variances: &'a [f32],
    pub epsilon: f64,
}

impl Given<'_> {
    /// `grads`, of what was answered, become those of the input; answers those of `gamma` and `beta`. `sums`: for each channel that of the gradients, and that of
    /// gradients times `x - mean`.
    pub fn through(&self, grads: &mut [f32], sums: &[[f64; 2]]) -> [FlexTensor; 2] {
        let Given { size: [_, plane, sample], input, means, gamma, variances, epsilon } = *self;
        let elements = (input.len() / sample * plane).max(1) as f64;
        let inverse: Vec<f64> = variances.iter().map(|v| 1.0 / (f64::from(*v) + epsilon).sqrt()).collect();
        // gamma r (g - mean(g) - (x - m) r^2 mean(g (x - m)))
        let parts = |c: usize| {
            let (r, [g, p]) = (inverse[c], sums[c]);
            let k = f64::from(gamma[c]) * r;
            [k as f32, (k * g / elements) as f32, (k * r * r * p / elements) as f32]
        };
        let parts: Vec<[f32; 3]> = (0..sums.len()).map(parts).collect();
        grads.par_chunks_mut(sample).zip(input.par_chunks(sample)).for_each(|(g, x)| {
            widest(
                #[inline(always)]
                || {
                    for (c, (g, x)) in g.chunks_mut(plane).zip(x.chunks(plane)).enumerate() {
                        let ([k, a, b], m) = (parts[c], means[c]);
                        g.iter_mut().zip(x).for_each(|(g, x)| *g = k * *g - a - b * (x - m));
                    }
                },
            );
        });
        let to_gamma = sums.iter().zip(&inverse).map(|([_, p], r)| (p * r) as f32).collect();
        let to_beta = sums.iter().map(|[g, _]| *g as f32).collect();
        [channels(to_gamma), channels(to_beta)]
    }
}

/// The nearest number between two ends. What is no number stays so, that the loss shows it.
#[inline(always)]
pub(crate) fn clipped(x: f32, [lo, hi]: [f32; 2]) -> f32 {
    let low = if x < lo { lo } else { x };
    if low > hi { hi } else { low }
}

/// As [`crate::backend::Kernels::clip`].
pub fn clip(x: FlexTensor, ends: [f32; 2]) -> FlexTensor {
    let mut x = own(x);
    x.storage_mut::<f32>().par_chunks_mut(CHUNK).for_each(|all| {
        widest(
            #[inline(always)]
            || all.iter_mut().for_each(|x| *x = clipped(*x, ends)),
        );
    });
    x
}

/// As [`crate::backend::Kernels::clip_backward`].
pub fn clip_backward(y: FlexTensor, grad: FlexTensor, [lo, hi]: [f32; 2]) -> FlexTensor {
    let (output, mut grad) = (contiguous(&y), own(grad));
    grad.storage_mut::<f32>().par_chunks_mut(CHUNK).zip(output.par_chunks(CHUNK)).for_each(|(g, y)| {
        widest(
            #[inline(always)]
            || g.iter_mut().zip(y).for_each(|(g, &y)| *g = if y > lo && y < hi { *g } else { 0.0 }),
        );
    });
    grad
}
