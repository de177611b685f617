//! Resize.
mod line;

use super::{
    Ctx, Inputs,
    args::{self, CHUNK},
    arrange::{Axis, Plan, around, strides},
    unary,
};
use crate::{
    error::{Error, Result},
    ir::{
        DType, Data, Tensor,
        op::{AspectPolicy, CoordMode, ResizeAttrs, ResizeMode},
    },
};
use line::Line;
pub(crate) use line::Taps;
use rayon::prelude::*;

/// Nearest moves elements of any type. The other modes work on f32, one axis after the other, the last one first; other numeric types are
/// computed in f32 and cast back (integers drop the fraction).
pub(super) fn run(a: &ResizeAttrs, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "X")?;
    let lines = lines(a, t.shape(), x)?;
    let shape: Vec<usize> = lines.iter().map(|l| l.output).collect();
    if args::room(&shape)? == 0 {
        return Tensor::new(shape, args::blank(t.dtype(), 0, ctx));
    }
    if t.is_empty() {
        return Err(Error::shape(format!("Resize of an empty tensor {:?} to {shape:?}", t.shape())));
    }
    if a.mode == ResizeMode::Nearest {
        if a.antialias {
            return Err(Error::unsupported("antialias goes with the modes linear and cubic only"));
        }
        let axes = lines.iter().zip(strides(t.shape())).map(|(l, stride)| Axis::Listed(l.nearest(a, stride))).collect();
        let outside = unary::cast(t.dtype(), true, &[Some(&Tensor::scalar(a.extrapolation))], ctx)?;
        return Plan { shape, base: 0, axes }.apply(t, Some(&outside), ctx);
    }
    match t.dtype() {
        DType::F32 => {}
        DType::Bool => return args::not_on(a.mode, DType::Bool),
        other => {
            let single = Tensor::of(t.shape(), t.to_f32s());
            let mut x = x.to_vec();
            x[0] = Some(&single);
            return unary::cast(other, true, &[Some(&run(a, &x, ctx)?)], ctx);
        }
    }
    let mut now: Option<Tensor> = None;
    for (i, line) in lines.iter().enumerate().rev().filter(|(_, l)| !l.is_same(a.coord)) {
        let next = pass(now.as_ref().unwrap_or(t), i, line, a, ctx)?;
        if let Some(old) = now.replace(next) {
            ctx.recycle(old);
        }
    }
    match now {
        Some(y) => Ok(y),
        None => args::same(t, shape, ctx),
    }
}

/// Of each axis of a value of this shape that is resized by weights (`None`: it stays as it is), the samples of each element of the result. `x`
/// are the operator's inputs; the first one is not looked at.
pub(crate) fn weights(a: &ResizeAttrs, shape: &[usize], x: &Inputs) -> Result<Vec<Option<Taps>>> {
    let lines = lines(a, shape, x)?;
    let sizes: Vec<usize> = lines.iter().map(|l| l.output).collect();
    // As many taps are made as the result has elements along an axis.
    if args::room(&sizes)? == 0 || shape.contains(&0) {
        return Err(Error::shape(format!("Resize of a tensor {shape:?} to {sizes:?}, one of which is empty")));
    }
    lines.iter().map(|l| if l.is_same(a.coord) { Ok(None) } else { l.taps(a).map(Some) }).collect()
}

/// Sizes and scales of all axes, from the inputs roi, scales and sizes.
fn lines(a: &ResizeAttrs, shape: &[usize], x: &Inputs) -> Result<Vec<Line>> {
    let axes = match a.axes.is_empty() {
        true => (0..shape.len()).collect(),
        false => args::axes(&a.axes, shape.len())?,
    };
    let given = |i: usize| args::optional(x, i).filter(|t| !t.is_empty());
    let fits = |n: usize, what: &str| match n == axes.len() {
        true => Ok(()),
        false => Err(Error::shape(format!("{n} {what} for {} axes of shape {shape:?}", axes.len()))),
    };
    let mut lines: Vec<Line> =
        shape.iter().map(|&d| Line { input: d, output: d, scale: (1.0, 1.0), roi: (0.0, 1.0) }).collect();
    match (given(2), given(3)) {
        (Some(scales), None) => {
            let scales = scales.as_slice::<f32>().map_err(|e| e.at("scales"))?;
            fits(scales.len(), "scales")?;
            for (&i, &scale) in axes.iter().zip(scales) {
                if !(scale > 0.0 && scale.is_finite()) {
                    return Err(Error::value(format!("a scale of {scale}")));
                }
                // In f32, as shape inference does it. The region does not enter the size.
                lines[i].output = (shape[i] as f32 * scale).floor() as usize;
                lines[i].scale = (scale.into(), 1.0);
            }
        }
        (None, Some(sizes)) => {
            let sizes = args::sizes(&args::list(sizes, "sizes")?, "sizes")?;
            fits(sizes.len(), "sizes")?;
            let mut scale = vec![(1.0, 1.0); axes.len()];
            for (s, (&i, &size)) in scale.iter_mut().zip(axes.iter().zip(&sizes)) {
                *s = (size as f64, shape[i] as f64);
                lines[i].output = size;
            }
            let smaller = |a: &(f64, f64), b: &(f64, f64)| (a.0 * b.1).total_cmp(&(b.0 * a.1));
            let one = match a.aspect {
                AspectPolicy::Stretch => None,
                AspectPolicy::NotLarger => scale.iter().copied().min_by(smaller),
                AspectPolicy::NotSmaller => scale.iter().copied().max_by(smaller),
            };
            for (&i, scale) in axes.iter().zip(scale) {
                lines[i].scale = one.unwrap_or(scale);
                if let Some((up, down)) = one {
                    lines[i].output = (shape[i] as f64 * up / down + 0.5).floor() as usize;
                }
            }
        }
        (None, None) => return Err(Error::shape("Resize needs scales or sizes")),
        (Some(_), Some(_)) => return Err(Error::shape("Resize takes scales or sizes, not both")),
    }
    if a.coord == CoordMode::TfCropAndResize {
        let roi = given(1).ok_or_else(|| Error::shape("tf_crop_and_resize needs the input roi"))?;
        let roi = unary::cast(DType::F64, true, &[Some(roi)], &Ctx::new())?.into_vec::<f64>()?;
        fits(roi.len() / 2, "starts and ends of a region")?;
        fits(roi.len().div_ceil(2), "starts and ends of a region")?;
        for (k, &i) in axes.iter().enumerate() {
            lines[i].roi = (roi[k], roi[axes.len() + k]);
        }
    }
    Ok(lines)
}

/// Resizes one axis.
fn pass(t: &Tensor, axis: usize, line: &Line, a: &ResizeAttrs, ctx: &Ctx) -> Result<Tensor> {
    let src = t.as_slice::<f32>()?;
    let (_, n, inner) = around(t.shape(), axis);
    let mut shape = t.shape().to_vec();
    shape[axis] = line.output;
    let mut out = ctx.take(args::room(&shape)?);
    let taps = line.taps(a)?;
    // One task: whole lines along the axis, in number not depending on the threads.
    let size = line.output * inner;
    let lines = (CHUNK / size).max(1);
    let task = |(k, out): (usize, &mut [f32])| {
        for (i, out) in out.chunks_mut(size).enumerate() {
            one(&src[(k * lines + i) * n * inner..][..n * inner], out, inner, &taps, a.extrapolation);
        }
    };
    if out.len() <= CHUNK {
        out.chunks_mut(lines * size).enumerate().for_each(task);
    } else {
        out.par_chunks_mut(lines * size).enumerate().for_each(task);
    }
    Tensor::new(shape, Data::F32(out.into()))
}

/// One line of rows of `inner` elements.
fn one(src: &[f32], out: &mut [f32], inner: usize, taps: &Taps, outside: f32) {
    for (row, samples) in out.chunks_mut(inner).zip(taps.elements()) {
        match samples {
            [] => row.fill(outside),
            _ if inner == 1 => {
                row[0] = samples[1..].iter().fold(samples[0].1 * src[samples[0].0], |s, &(i, w)| s + w * src[i])
            }
            [(i, w), rest @ ..] => {
                for (r, &x) in row.iter_mut().zip(&src[i * inner..]) {
                    *r = w * x;
                }
                for (i, w) in rest {
                    for (r, &x) in row.iter_mut().zip(&src[i * inner..]) {
                        *r += w * x;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
