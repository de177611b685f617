//! On the processor: two passes over memory each way, on all cores. Sums are taken sample by sample and added in their order, in binary64: no result depends on threads.
use super::{Normalized, Seen};
use crate::fake::flex::{contiguous, like};
use burn::backend::{
    Bytes, DType, Flex, Shape, TensorMetadata,
    flex::{FlexTensor, Layout},
};
use rayon::prelude::*;

/// Elements that one task works on.
const CHUNK: usize = 1 << 14;

/// Lanes of sums, so that the compiler vectorises them.
const LANES: usize = 16;

/// Elements that are summed in binary32 before they are added to a sum of binary64.
const RUN: usize = 256;

fn channels(numbers: Vec<f32>) -> FlexTensor {
    let shape = Shape::from([numbers.len()]);
    FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(shape), DType::F32)
}

/// Sizes of `[samples, channels, ...]`: channels, elements of a plane, elements of a sample.
fn sizes(x: &FlexTensor) -> [usize; 3] {
    let shape = x.shape().to_vec();
    let channels = shape.get(1).copied().unwrap_or(1).max(1);
    let plane = shape.iter().skip(2).product::<usize>().max(1);
    [channels, plane, channels * plane]
}

/// The sums of two functions of pairs, over a plane.
fn pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> [f32; 2]) -> [f64; 2] {
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
    of: impl Fn(usize, std::ops::Range<usize>) -> [f64; 2] + Sync,
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

/// As [`crate::backend::Kernels::normalize`].
pub fn normalize(
    x: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    epsilon: f64,
) -> Normalized<FlexTensor, FlexTensor> {
    let size @ [_, plane, sample] = sizes(&x);
    let (input, gamma, beta) = (contiguous(&x), contiguous(&gamma), contiguous(&beta));
    let count = input.len() / sample;
    let elements = (count * plane).max(1) as f64;
    // About the mean of the first sample, which lies near that of all: what is far from 0 keeps its digits.
    let first: Vec<f32> = (0..beta.len())
        .map(|c| {
            let x = input.get(c * plane..(c + 1) * plane).unwrap_or_default();
            (pairs(x, x, |x, _| [x, 0.0])[0] / plane as f64) as f32
        })
        .collect();
    let about = |c: usize, range: std::ops::Range<usize>| {
        let m = first[c];
        pairs(&input[range.clone()], &input[range], |x, _| [(x - m) * (x - m), x - m])
    };
    let sums = summed(size, count, about);
    let means: Vec<f32> = sums.iter().zip(&first).map(|(s, m)| (f64::from(*m) + s[1] / elements) as f32).collect();
    let variance = |s: &[f64; 2]| ((s[0] - s[1] * s[1] / elements) / elements).max(0.0) as f32;
    let variances: Vec<f32> = sums.iter().map(variance).collect();
    let factor = |c: usize| (f64::from(gamma[c]) / (f64::from(variances[c]) + epsilon).sqrt()) as f32;
    let factors: Vec<f32> = (0..means.len()).map(factor).collect();
    let mut out = vec![0.0f32; input.len()];
    out.par_chunks_mut(sample).zip(input.par_chunks(sample)).for_each(|(out, x)| {
        for (c, (out, x)) in out.chunks_mut(plane).zip(x.chunks(plane)).enumerate() {
            let (m, k, b) = (means[c], factors[c], beta[c]);
            out.iter_mut().zip(x).for_each(|(y, x)| *y = (x - m) * k + b);
        }
    });
    Normalized { output: like(out, &x), mean: channels(means), variance: channels(variances) }
}

/// As [`crate::backend::Kernels::normalize_backward`].
pub fn normalize_backward(seen: Seen<Flex>, grad: FlexTensor) -> [FlexTensor; 3] {
    let Seen { x, gamma, mean, variance, epsilon } = seen;
    let size @ [_, plane, sample] = sizes(&x);
    let (input, grads) = (contiguous(&x), contiguous(&grad));
    let (gamma, mean, variance) = (contiguous(&gamma), contiguous(&mean), contiguous(&variance));
    let count = input.len() / sample;
    let elements = (count * plane).max(1) as f64;
    let inverse: Vec<f64> = variance.iter().map(|v| 1.0 / (f64::from(*v) + epsilon).sqrt()).collect();
    // Of gradients, and of gradients times what is about the mean.
    let about = |c: usize, range: std::ops::Range<usize>| {
        let m = mean[c];
        pairs(&grads[range.clone()], &input[range], |g, x| [g, g * (x - m)])
    };
    let sums = summed(size, count, about);
    // gamma r (g - mean(g) - (x - m) r^2 mean(g (x - m)))
    let parts = |c: usize| {
        let (r, [g, p]) = (inverse[c], sums[c]);
        let k = f64::from(gamma[c]) * r;
        [k as f32, (k * g / elements) as f32, (k * r * r * p / elements) as f32]
    };
    let parts: Vec<[f32; 3]> = (0..sums.len()).map(parts).collect();
    let mut out = vec![0.0f32; input.len()];
    let rows = out.par_chunks_mut(sample).zip(input.par_chunks(sample)).zip(grads.par_chunks(sample));
    rows.for_each(|((out, x), g)| {
        let planes = out.chunks_mut(plane).zip(x.chunks(plane)).zip(g.chunks(plane));
        for (c, ((out, x), g)) in planes.enumerate() {
            let ([k, a, b], m) = (parts[c], mean[c]);
            for ((y, x), g) in out.iter_mut().zip(x).zip(g) {
                *y = k * g - a - b * (x - m);
            }
        }
    });
    let to_gamma = sums.iter().zip(&inverse).map(|([_, p], r)| (p * r) as f32).collect();
    let to_beta = sums.iter().map(|[g, _]| *g as f32).collect();
    [like(out, &x), channels(to_gamma), channels(to_beta)]
}

/// As [`crate::backend::Kernels::clip`].
pub fn clip(x: FlexTensor, [lo, hi]: [f32; 2]) -> FlexTensor {
    let input = contiguous(&x);
    let mut out = vec![0.0f32; input.len()];
    out.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK)).for_each(|(out, x)| {
        // What is no number stays so, that the loss shows it.
        for (y, &x) in out.iter_mut().zip(x) {
            let low = if x < lo { lo } else { x };
            *y = if low > hi { hi } else { low };
        }
    });
    like(out, &x)
}

/// As [`crate::backend::Kernels::clip_backward`].
pub fn clip_backward(y: FlexTensor, grad: FlexTensor, [lo, hi]: [f32; 2]) -> FlexTensor {
    let (output, grads) = (contiguous(&y), contiguous(&grad));
    let mut out = vec![0.0f32; output.len()];
    out.par_chunks_mut(CHUNK).zip(output.par_chunks(CHUNK)).zip(grads.par_chunks(CHUNK)).for_each(|((out, y), g)| {
        out.iter_mut().zip(y).zip(g).for_each(|((o, &y), &g)| *o = if y > lo && y < hi { g } else { 0.0 });
    });
    like(out, &y)
}
