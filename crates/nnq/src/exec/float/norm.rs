//! Normalisations and softmax. Means and variances are taken in binary64.
use super::{
    Ctx, Inputs, args,
    product::{Real, by_type},
    unary::math,
};
use crate::{
    error::{Error, Result},
    ir::{Tensor, count},
};
use nnq_kernels::widest;
use rayon::prelude::*;

/// Sums that grow side by side.
const LANES: usize = 16;

/// Elements below which a task is not worth a second thread.
const WORK: usize = 1 << 14;

/// A vector of one number per channel.
fn per_channel<'a, T: Real>(x: &Inputs<'a>, i: usize, channels: usize, what: &str) -> Result<&'a [T]> {
    let t = args::need(x, i, what)?;
    if t.shape() != [channels] {
        return Err(Error::shape(format!("{what} of shape {:?}, expected [{channels}]", t.shape())));
    }
    t.as_slice()
}

/// Batch, channels and elements of a plane of `[N, C, ..]`. A vector is a batch of scalars with one channel.
fn planes(shape: &[usize]) -> Result<(usize, usize, usize)> {
    match shape {
        [n, c, rest @ ..] => Ok((*n, *c, count(rest)?)),
        [n] => Ok((*n, 1, 1)),
        [] => Err(Error::shape("normalisation of a scalar: expected batch and channels")),
    }
}

/// Runs `f` on runs of `len` elements of the input and of a new output of the same shape.
fn rows<T: Real>(x: &Tensor, len: usize, ctx: &Ctx, f: impl Fn(usize, &[T], &mut [T]) + Sync) -> Result<Tensor> {
    let data = x.as_slice::<T>()?;
    let mut y = T::take(ctx, data.len());
    if !y.is_empty() {
        y.par_chunks_mut(len)
            .zip(data.par_chunks(len))
            .enumerate()
            .with_min_len(WORK / len + 1)
            .for_each(|(i, (y, x))| f(i, x, y));
    }
    Tensor::new(x.shape().to_vec(), T::wrap(y.into()))
}

pub(super) fn batch(eps: f32, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| batch_of::<f32>(eps, x, ctx), |x| batch_of::<f64>(eps, x, ctx))
}

fn batch_of<T: Real>(eps: f32, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "X")?;
    let (_, channels, area) = planes(t.shape())?;
    let [scale, shift, mean, var] =
        [(1, "scale"), (2, "B"), (3, "mean"), (4, "variance")].map(|(i, what)| per_channel::<T>(x, i, channels, what));
    let (scale, shift, mean, var) = (scale?, shift?, mean?, var?);
    let factors: Vec<T> =
        scale.iter().zip(var).map(|(&s, &v)| T::from_f64(s.into() / (v.into() + f64::from(eps)).sqrt())).collect();
    rows::<T>(t, area, ctx, |i, x, y| {
        let c = i % channels;
        let (m, f, b) = (mean[c], factors[c], shift[c]);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - m) * f + b;
        }
    })
}

/// Mean and variance (of the population).
fn moments<T: Real>(x: &[T]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = sum(x, |x| x) / n;
    (mean, sum(x, |x| (x - mean) * (x - mean)) / n)
}

/// Sum of `f` in binary64, in eight interleaved chains, so that it runs on vectors.
fn sum<T: Real>(x: &[T], f: impl Fn(f64) -> f64) -> f64 {
    let mut acc = [0.0; 8];
    let (blocks, rest) = x.as_chunks::<8>();
    for b in blocks {
        for (a, &x) in acc.iter_mut().zip(b) {
            *a += f(x.into());
        }
    }
    for (a, &x) in acc.iter_mut().zip(rest) {
        *a += f(x.into());
    }
    acc.iter().sum()
}

pub(super) fn instance(eps: f32, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| instance_of::<f32>(eps, x, ctx), |x| instance_of::<f64>(eps, x, ctx))
}

fn instance_of<T: Real>(eps: f32, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "X")?;
    if t.shape().len() < 3 {
        return Err(Error::shape(format!("{:?}: expected batch, channels and spatial axes", t.shape())));
    }
    let (_, channels, area) = planes(t.shape())?;
    let (scale, shift) = (per_channel::<T>(x, 1, channels, "scale")?, per_channel::<T>(x, 2, channels, "B")?);
    rows::<T>(t, area, ctx, |i, x, y| {
        let c = i % channels;
        normalise(x, y, eps, |_| (scale[c], shift[c]));
    })
}

/// `(x - mean) / sqrt(var + eps) * scale + shift` with `(scale, shift) = affine(index)`; answers mean and 1/deviation.
fn normalise<T: Real>(x: &[T], y: &mut [T], eps: f32, affine: impl Fn(usize) -> (T, T)) -> (f64, f64) {
    let (mean, var) = moments(x);
    let inverse = 1.0 / (var + f64::from(eps)).sqrt();
    let (m, f) = (T::from_f64(mean), T::from_f64(inverse));
    for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
        let (scale, shift) = affine(i);
        *y = (x - m) * f * scale + shift;
    }
    (mean, inverse)
}

pub(super) fn group(eps: f32, groups: usize, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| group_of::<f32>(eps, groups, x, ctx), |x| group_of::<f64>(eps, groups, x, ctx))
}

fn group_of<T: Real>(eps: f32, groups: usize, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "X")?;
    let (_, channels, area) = planes(t.shape())?;
    if groups == 0 || channels % groups != 0 {
        return Err(Error::shape(format!("{channels} channels in {groups} groups")));
    }
    let (scale, shift) = (per_channel::<T>(x, 1, channels, "scale")?, per_channel::<T>(x, 2, channels, "bias")?);
    let together = channels / groups;
    rows::<T>(t, together * area, ctx, |i, x, y| {
        let first = i % groups * together;
        normalise(x, y, eps, |i| (scale[first + i / area], shift[first + i / area]));
    })
}

pub(super) fn layer(axis: i64, eps: f32, x: &Inputs, outputs: usize, ctx: &Ctx) -> Result<Vec<Tensor>> {
    use crate::ir::DType;
    match args::need(x, 0, "X")?.dtype() {
        DType::F32 => layer_of::<f32>(axis, eps, x, outputs, ctx),
        DType::F64 => layer_of::<f64>(axis, eps, x, outputs, ctx),
        half if outputs <= 1 && half.is_float() => {
            let first = |mut v: Vec<Tensor>| v.swap_remove(0);
            let single = |x: &Inputs| layer_of::<f32>(axis, eps, x, 1, ctx).map(first);
            Ok(vec![by_type(x, single, |x| layer_of::<f64>(axis, eps, x, 1, ctx).map(first))?])
        }
        other => Err(Error::unsupported(format!("LayerNormalization of {other} with {outputs} outputs"))),
    }
}

fn layer_of<T: Real>(axis: i64, eps: f32, x: &Inputs, outputs: usize, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let t = args::need(x, 0, "X")?;
    let at = args::axis(axis, t.shape().len())?;
    let (outer, inner) = t.shape().split_at(at);
    let n = args::room(inner)?;
    let full = |t: &Tensor| -> Result<Vec<T>> { expand(t, inner) };
    let scale = full(args::need(x, 1, "Scale")?)?;
    let shift = match args::optional(x, 2) {
        Some(b) => full(b)?,
        None => vec![T::ZERO; n],
    };
    let y = rows::<T>(t, n.max(1), ctx, |_, x, y| {
        normalise(x, y, eps, |i| (scale[i], shift[i]));
    })?;
    let mut results = vec![y];
    if outputs > 1 {
        let data = t.as_slice::<T>()?;
        let stats: Vec<(f64, f64)> = data.chunks(n.max(1)).map(moments).collect();
        let shape: Vec<usize> = outer.iter().copied().chain(inner.iter().map(|_| 1)).collect();
        // The specification computes the statistics in binary32 (`stash_type` 1).
        let mean = stats.iter().map(|s| s.0 as f32).collect::<Vec<f32>>();
        let inverse = stats.iter().map(|s| (1.0 / (s.1 + f64::from(eps)).sqrt()) as f32).collect::<Vec<f32>>();
        for (v, name) in [(mean, "mean"), (inverse, "inverse deviation")] {
            if v.len() != count(&shape)? {
                return Err(Error::shape(format!("{name}: normalisation over axes without elements")));
            }
            results.push(Tensor::of(&shape, v));
        }
        results.truncate(outputs);
    }
    Ok(results)
}

/// `x / sqrt(mean(x^2) + eps) * scale` over the axes from `axis` on (Zhang and Sennrich 2019).
pub(super) fn rms(axis: i64, eps: f32, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| rms_of::<f32>(axis, eps, x, ctx), |x| rms_of::<f64>(axis, eps, x, ctx))
}

fn rms_of<T: Real>(axis: i64, eps: f32, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "X")?;
    let inner = &t.shape()[args::axis(axis, t.shape().len())?..];
    let (n, scale) = (args::room(inner)?, expand::<T>(args::need(x, 1, "scale")?, inner)?);
    rows::<T>(t, n.max(1), ctx, |_, x, y| {
        let inverse = T::from_f64(1.0 / (sum(x, |x| x * x) / n as f64 + f64::from(eps)).sqrt());
        for ((y, &x), &scale) in y.iter_mut().zip(x).zip(&scale) {
            *y = x * inverse * scale;
        }
    })
}

/// `t` broadcast to `to`.
fn expand<T: Real>(t: &Tensor, to: &[usize]) -> Result<Vec<T>> {
    if args::broadcast(&[t.shape(), to])? != to {
        return Err(Error::shape(format!("{:?} does not broadcast to {to:?}", t.shape())));
    }
    let (x, strides) = (t.as_slice::<T>()?, args::spread(t.shape(), to));
    Ok((0..count(to)?)
        .map(|mut flat| {
            let mut index = 0;
            for (&n, &stride) in to.iter().zip(&strides).rev() {
                index += flat % n * stride;
                flat /= n;
            }
            x[index]
        })
        .collect())
}

pub(super) fn lrn(alpha: f32, beta: f32, bias: f32, size: usize, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    if size == 0 {
        return Err(Error::value("LRN over 0 channels"));
    }
    by_type(
        x,
        |x| lrn_of::<f32>([alpha, beta, bias], size, x, ctx),
        |x| lrn_of::<f64>([alpha, beta, bias], size, x, ctx),
    )
}

fn lrn_of<T: Real>(p: [f32; 3], size: usize, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "X")?;
    let (_, channels, area) = planes(t.shape())?;
    let [alpha, beta, bias] = p.map(f64::from);
    rows::<T>(t, channels * area, ctx, |_, x, y| {
        let mut sums = vec![0.0f64; area];
        for c in 0..channels {
            let (first, end) = (c.saturating_sub((size - 1) / 2), channels.min(c + size / 2 + 1));
            sums.fill(0.0);
            for x in x[first * area..end * area].chunks_exact(area) {
                for (s, &x) in sums.iter_mut().zip(x) {
                    let x: f64 = x.into();
                    *s += x * x;
                }
            }
            for ((y, &x), s) in y[c * area..].iter_mut().zip(&x[c * area..]).zip(&sums) {
                *y = T::from_f64(x.into() / (bias + alpha / size as f64 * s).powf(beta));
            }
        }
    })
}

/// `exp(x - max) / sum`, or its logarithm, along `axis`.
pub(super) fn softmax(axis: i64, flat: bool, log: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| softmax_of::<f32>(axis, flat, log, x, ctx), |x| softmax_of::<f64>(axis, flat, log, x, ctx))
}

/// How many numbers go together, and how many such groups lie interleaved.
fn groups(axis: i64, flat: bool, shape: &[usize]) -> Result<(usize, usize)> {
    let tail = &shape[args::axis(axis, shape.len())?..];
    let all = args::room(tail)?;
    Ok(match tail {
        [] => (1, 1),
        _ if flat => (all, 1),
        [n, rest @ ..] => (*n, count(rest)?),
    })
}

/// 1 at the first of the largest, 0 elsewhere.
pub(super) fn hardmax(axis: i64, flat: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| hardmax_of::<f32>(axis, flat, x, ctx), |x| hardmax_of::<f64>(axis, flat, x, ctx))
}

fn hardmax_of<T: Real>(axis: i64, flat: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "X")?;
    let (n, inner) = groups(axis, flat, t.shape())?;
    rows::<T>(t, (n * inner).max(1), ctx, |_, x, y| {
        y.fill(T::ZERO);
        for i in 0..inner {
            let mut top = i;
            for at in (i..x.len()).step_by(inner) {
                if x[at] > x[top] {
                    top = at;
                }
            }
            y[top] = T::from_f32(1.0);
        }
    })
}

/// The largest; a NaN never is.
#[inline(always)]
fn top(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (groups, rest) = x.as_chunks::<LANES>();
    let mut tops = [f32::NEG_INFINITY; LANES];
    for group in groups {
        for i in 0..LANES {
            tops[i] = larger(tops[i], group[i]);
        }
    }
    tops.iter().chain(rest).fold(f32::NEG_INFINITY, |top, &x| larger(top, x))
}

/// Softmax of numbers that lie together, in their place, given the largest. The exponentials are summed in [`LANES`] sums, and these in order, whatever vectors the
/// machine has; a NaN poisons the sum.
#[inline(always)]
fn shares(y: &mut [f32], top: f32, log: bool) {
    // Logarithms keep their numbers.
    let exp = |y: &mut f32| {
        let e = math::exp(*y - top);
        if !log {
            *y = e;
        }
        f64::from(e)
    };
    let (groups, rest) = y.as_chunks_mut::<LANES>();
    let mut sums = [0.0f64; LANES];
    for group in groups {
        for i in 0..LANES {
            sums[i] += exp(&mut group[i]);
        }
    }
    let sum = sums.into_iter().chain(rest.iter_mut().map(exp)).fold(0.0, |a: f64, b| a + b);
    if log {
        let log_sum = libm::log(sum) as f32;
        y.iter_mut().for_each(|y| *y = *y - top - log_sum);
    } else {
        let sum = sum as f32;
        y.iter_mut().for_each(|y| *y /= sum);
    }
}

/// Softmax of one line, in its place.
pub(super) fn softmax_in_place<T: Real>(y: &mut [T]) {
    match T::singles_mut(y) {
        Some(y) => widest(
            #[inline(always)]
            || shares(y, top(y), false),
        ),
        None => {
            let x = y.to_vec();
            softmax_group(&x, y, 1, false);
        }
    }
}

/// Softmax of `y * scale + mask`, in the place of `y`. What the mask has minus infinity for gets nothing, whatever it is; all get 0 where that is everything.
pub(super) fn softmax_masked(y: &mut [f32], scale: f32, mask: Option<&[f32]>) {
    const HIDDEN: f32 = f32::NEG_INFINITY;
    widest(
        #[inline(always)]
        || {
            match mask {
                Some(mask) => {
                    y.iter_mut().zip(mask).for_each(|(y, &m)| *y = if m == HIDDEN { m } else { *y * scale + m })
                }
                None => y.iter_mut().for_each(|y| *y *= scale),
            }
            let top = top(y);
            if top == HIDDEN && mask.is_some_and(|mask| mask.iter().all(|&m| m == HIDDEN)) {
                y.fill(0.0);
            } else {
                shares(y, top, false);
            }
        },
    );
}

fn softmax_of<T: Real>(axis: i64, flat: bool, log: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "X")?;
    let (n, inner) = groups(axis, flat, t.shape())?;
    rows::<T>(t, (n * inner).max(1), ctx, |_, x, y| softmax_group(x, y, inner, log))
}

/// Softmax of `inner` lines that lie interleaved.
pub(super) fn softmax_group<T: Real>(x: &[T], y: &mut [T], inner: usize, log: bool) {
    if let (1, Some(x), Some(y)) = (inner, T::singles(x), T::singles_mut(y)) {
        y.copy_from_slice(x);
        widest(
            #[inline(always)]
            || shares(y, top(y), log),
        );
        return;
    }
    for i in 0..inner {
        let line = || x[i..].iter().step_by(inner);
        let mut top = line().next().copied().unwrap_or(T::ZERO);
        for &x in line() {
            // A NaN is never the top; it poisons the sum below.
            if x > top {
                top = x;
            }
        }
        let mut sum = 0.0f64;
        for (y, &x) in y[i..].iter_mut().step_by(inner).zip(line()) {
            let e = (x - top).exp();
            sum += e.into();
            *y = e;
        }
        let (log_sum, sum) = (T::from_f64(sum.ln()), T::from_f64(sum));
        for (y, &x) in y[i..].iter_mut().step_by(inner).zip(line()) {
            *y = if log { x - top - log_sum } else { *y / sum };
        }
    }
}
