//! One function per kind of step, written from `docs/numerics.md`.
use super::integers;
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, eval},
        lower::{AddRule, Clamp, Form, Grid, Product, ProductOut, Program, Requant, Step, StepKind, no_range},
    },
    ir::{
        DType, Op, QType, Tensor,
        op::{PoolAttrs, Window},
    },
};
use nnq_kernels::{
    resize::{Line, UNIT},
    round::{AddDyadic, Dyadic, dynamic_grid, dynamic_real, requantize_dyadic, requantize_onnx},
};
use rayon::prelude::*;

/// Weights as real integers `qw - zw`: binary32 when every sum stays below 2^24 and is therefore exact, binary64 otherwise.
pub(super) struct Weights {
    tensor: Tensor,
    exact_f32: bool,
}

impl Weights {
    pub(super) fn new(p: &Product) -> Result<Self> {
        let shape = p.weight.shape();
        let axis = match p.form {
            Form::Conv(_) | Form::Matrix { transposed: true } => 0,
            Form::Matrix { transposed: false } => 1,
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let codes = p.weight.to_i64s()?;
        let zero = |i: usize| p.weight_zero.as_ref().map_or(0, |zero| zero[i / inner % shape[axis]]);
        let at = |i: usize| codes[i] - i64::from(zero(i));
        let exact_f32 = p.bound < 1 << 24;
        let tensor = if exact_f32 {
            Tensor::of::<f32>(shape, (0..codes.len()).map(|i| at(i) as f32).collect())
        } else {
            Tensor::of::<f64>(shape, (0..codes.len()).map(|i| at(i) as f64).collect())
        };
        Ok(Self { tensor, exact_f32 })
    }
}

/// Runs one step. Codes are binary32 tensors that hold whole numbers.
pub(super) fn run(
    p: &Program,
    step: &Step,
    weights: &[Weights],
    x: &[Option<&Tensor>],
    ctx: &Ctx,
) -> Result<Vec<Tensor>> {
    let input =
        |i: usize| x.get(i).copied().flatten().ok_or_else(|| Error::internal(format!("step without input {i}")));
    let slot_in = |i: usize| step.inputs.get(i).copied().flatten().ok_or_else(|| Error::internal("step without input"));
    let from = |i: usize| p.grid(slot_in(i)?);
    let to = || p.grid(step.outputs.first().copied().flatten().ok_or_else(|| Error::internal("step without output"))?);
    let one = |t: Tensor| Ok(vec![t]);
    match &step.kind {
        StepKind::Quantize => {
            let g = to()?;
            one(map(input(0)?, ctx, |v| g.quantize(v) as f32)?)
        }
        StepKind::Dequantize => {
            let g = from(0)?;
            one(map(input(0)?, ctx, |q| g.dequantize(q as i32))?)
        }
        StepKind::Pointwise(f) => {
            let (g, h) = (from(0)?, to()?);
            one(map(input(0)?, ctx, |q| h.quantize(f.apply(g.dequantize(q as i32))) as f32)?)
        }
        StepKind::Regrid(m) => {
            let (g, h) = (from(0)?, to()?);
            let full = h.full();
            one(map(input(0)?, ctx, |q| requantize_dyadic(q as i32 - g.zero, *m, h.zero, full.lo, full.hi) as f32)?)
        }
        StepKind::Product(product) => {
            let w = weights.first().ok_or_else(|| Error::internal("a product without weights"))?;
            if step.is_dynamic() {
                let x = input(0)?;
                let name = &p.graph.value(p.values[slot_in(0)?].source).name;
                return one(by_grids(product, w, x, x.len(), name, ctx)?);
            }
            let grid = match product.out {
                ProductOut::Code { .. } => Some(to()?),
                ProductOut::Real { .. } | ProductOut::Dynamic { .. } => None,
            };
            one(self::product(product, w, input(0)?, from(0)?, grid, ctx)?)
        }
        StepKind::Add { negate, rule, clamp } => {
            let (a, b) = broadcast(input(0)?, input(1)?, ctx)?;
            one(add(&a, &b, [from(0)?, from(1)?, to()?], *negate, *rule, *clamp)?)
        }
        StepKind::Mul { rule, clamp } => {
            let (a, b) = broadcast(input(0)?, input(1)?, ctx)?;
            let [ga, gb, g] = [from(0)?, from(1)?, to()?];
            one(zip(&a, &b, |qa, qb| match rule {
                Some(m) => requantize_dyadic((qa - ga.zero) * (qb - gb.zero), *m, g.zero, clamp.lo, clamp.hi),
                None => g.quantize(ga.dequantize(qa) * gb.dequantize(qb)).clamp(clamp.lo, clamp.hi),
            })?)
        }
        StepKind::MaxPool { window } => match window {
            Some(w) => eval(&Op::MaxPool { window: w.clone(), column_major: false }, &[Some(input(0)?)], 1, ctx),
            None => eval(&Op::GlobalMaxPool, &[Some(input(0)?)], 1, ctx),
        },
        StepKind::AveragePool { window, count_include_pad } => {
            one(average(p, input(0)?, window.as_ref(), *count_include_pad, from(0)?, to()?)?)
        }
        StepKind::Resize { rows, columns } => one(resize(p, input(0)?, [rows, columns], from(0)?, to()?)?),
        StepKind::Concat { axis } => eval(&Op::Concat { axis: *axis }, x, 1, ctx),
        StepKind::Move(op) => {
            let g = from(0)?;
            let fill;
            let mut x = x.to_vec();
            if let Op::Pad { .. } = op {
                let value = x.get(2).copied().flatten().map_or(0.0, |t| t.to_f32s().first().copied().unwrap_or(0.0));
                fill = Tensor::scalar(g.quantize(value) as f32);
                x.resize(x.len().max(3), None);
                x[2] = Some(&fill);
            }
            eval(op, &x, step.outputs.len(), ctx)
        }
        StepKind::Float(op) => eval(op, x, step.outputs.len(), ctx),
        StepKind::Rows(r) => {
            let w = weights.first().ok_or_else(|| Error::internal("a product without weights"))?;
            let function;
            let x = match r.function {
                Some(u) => {
                    function = eval(&Op::Unary(u), &[Some(input(0)?)], 1, ctx)?;
                    function.first().ok_or_else(|| Error::internal("a function without a result"))?
                }
                None => input(0)?,
            };
            one(by_grids(&r.product, w, x, x.shape().last().copied().unwrap_or(1), &r.name, ctx)?)
        }
        StepKind::Lookup(l) => one(super::coded::lookup(l, input(0)?, ctx)?),
        StepKind::Coded(c) => one(super::coded::run(c, input(0)?, ctx)?),
        StepKind::Recurrent(r) => super::recurrent::run(r, weights, x, ctx),
        StepKind::Live(l) => one(integers::live(l, [input(0)?, input(1)?], ctx)?),
        StepKind::Pair(p) => one(integers::pair(p, [input(0)?, input(1)?], [from(0)?, from(1)?, to()?], ctx)?),
        StepKind::Ids => one(integers::ids(input(0)?)?),
        StepKind::Softmax(s) => {
            one(integers::softmax(s, input(0)?, x.get(1).copied().flatten(), from(0)?, to()?, ctx)?)
        }
        StepKind::Norm(n) => one(integers::norm(n, input(0)?, from(0)?, to()?)?),
        StepKind::Rescale(by) => one(integers::rescale(by, input(0)?, from(0)?, to()?)?),
    }
}

const CHUNK: usize = 1 << 14;

fn map(x: &Tensor, ctx: &Ctx, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let x_data = x.as_slice::<f32>()?;
    let mut out = ctx.take(x_data.len());
    out.par_chunks_mut(CHUNK).zip(x_data.par_chunks(CHUNK)).for_each(|(o, x)| {
        for (o, &x) in o.iter_mut().zip(x) {
            *o = f(x);
        }
    });
    Ok(Tensor::of(x.shape(), out))
}

fn zip(a: &Tensor, b: &Tensor, f: impl Fn(i32, i32) -> i32 + Sync) -> Result<Tensor> {
    let (x, y) = (a.as_slice::<f32>()?, b.as_slice::<f32>()?);
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK))).for_each(|(o, (x, y))| {
        for ((o, &x), &y) in o.iter_mut().zip(x).zip(y) {
            *o = f(x as i32, y as i32) as f32;
        }
    });
    Ok(Tensor::of(a.shape(), out))
}

pub(super) fn broadcast(a: &Tensor, b: &Tensor, ctx: &Ctx) -> Result<(Tensor, Tensor)> {
    if a.shape() == b.shape() {
        return Ok((a.clone(), b.clone()));
    }
    let expand = |t: &Tensor, other: &[usize]| -> Result<Tensor> {
        let shape = Tensor::of::<i64>(&[other.len()], other.iter().map(|&d| d as i64).collect());
        let mut out = eval(&Op::Expand, &[Some(t), Some(&shape)], 1, ctx)?;
        out.pop().ok_or_else(|| Error::internal("Expand without output"))
    };
    let a2 = expand(a, b.shape())?;
    let b2 = expand(b, a2.shape())?;
    Ok((a2, b2))
}

fn add(a: &Tensor, b: &Tensor, [ga, gb, g]: [Grid; 3], negate: bool, rule: AddRule, clamp: Clamp) -> Result<Tensor> {
    zip(a, b, |qa, qb| match rule {
        AddRule::Onnx => {
            let (x, y) = (ga.dequantize(qa), gb.dequantize(qb));
            g.quantize(if negate { x - y } else { x + y }).clamp(clamp.lo, clamp.hi)
        }
        AddRule::Dyadic(m) => {
            let m = if negate { AddDyadic { mb: -m.mb, ..m } } else { m };
            (m.apply_wide(qa - ga.zero, qb - gb.zero) + i64::from(g.zero)).clamp(clamp.lo.into(), clamp.hi.into())
                as i32
        }
    })
}

/// The grid for numbers that are quantized as they come (numerics section 11).
pub(super) fn found(x: &[f32]) -> Option<Grid> {
    if x.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let low = x.iter().copied().fold(0.0, f32::min);
    let high = x.iter().copied().fold(0.0, f32::max);
    let (scale, zero) = dynamic_grid(low, high)?;
    Some(Grid { qtype: QType::U8, scale, zero: zero.into() })
}

/// The product of real numbers that are quantized as they come, with a grid for each `each` numbers: all, or those of a row.
pub(super) fn by_grids(p: &Product, w: &Weights, x: &Tensor, each: usize, name: &str, ctx: &Ctx) -> Result<Tensor> {
    let (numbers, each) = (x.as_slice::<f32>()?, each.max(1));
    let grids = numbers.chunks(each).map(|row| found(row).ok_or_else(|| no_range(name))).collect::<Result<Vec<_>>>()?;
    on_grids(p, w, x, each, &grids, ctx)
}

/// The product of real numbers that are quantized on the next of `grids` for each `each` numbers.
pub(super) fn on_grids(p: &Product, w: &Weights, x: &Tensor, each: usize, grids: &[Grid], ctx: &Ctx) -> Result<Tensor> {
    let numbers = x.as_slice::<f32>()?;
    let mut centred = ctx.take(numbers.len());
    for ((row, x), from) in centred.chunks_mut(each).zip(numbers.chunks(each)).zip(grids) {
        row.iter_mut().zip(x).for_each(|(q, &x)| *q = (from.quantize(x) - from.zero) as f32);
    }
    // No numbers have any scale.
    let scales: Vec<f32> = if grids.is_empty() { vec![1.0] } else { grids.iter().map(|g| g.scale).collect() };
    sums(p, w, Tensor::of(x.shape(), centred), &scales, None, ctx)
}

fn product(p: &Product, w: &Weights, x: &Tensor, from: Grid, to: Option<Grid>, ctx: &Ctx) -> Result<Tensor> {
    let zero = from.zero as f32;
    let centred = map(x, ctx, |q| q - zero)?;
    sums(p, w, centred, &[from.scale], to, ctx)
}

/// The product of codes less their zero points; `scales`: that of the codes, or those of each row.
fn sums(p: &Product, w: &Weights, centred: Tensor, scales: &[f32], to: Option<Grid>, ctx: &Ctx) -> Result<Tensor> {
    let centred = if w.exact_f32 {
        centred
    } else {
        let wide: Vec<f64> = centred.as_slice::<f32>()?.iter().map(|&v| f64::from(v)).collect();
        let shape = centred.shape().to_vec();
        ctx.recycle(centred);
        Tensor::of(&shape, wide)
    };
    let (op, per_plane) = match &p.form {
        Form::Conv(a) => (Op::Conv(a.clone()), true),
        Form::Matrix { transposed: true } => (Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }, false),
        Form::Matrix { transposed: false } => (Op::MatMul, false),
    };
    let acc =
        eval(&op, &[Some(&centred), Some(&w.tensor)], 1, ctx)?.pop().ok_or_else(|| Error::internal("no output"))?;
    ctx.recycle(centred);
    let shape = acc.shape().to_vec();
    let channels = p.bias.len();
    let plane: usize = if per_plane { shape[2..].iter().product() } else { 1 };
    let finish = |acc: i32, c: usize, row: usize| -> f32 {
        match &p.out {
            ProductOut::Real { scale } => acc as f32 * scale[c],
            ProductOut::Dynamic { scale, bias } => {
                dynamic_real(acc, scales[if scales.len() == 1 { 0 } else { row }], scale[c], bias[c])
            }
            ProductOut::Code { requant, clamp } => {
                let zero = to.map_or(0, |g| g.zero);
                (match requant {
                    Requant::Onnx(m) => requantize_onnx(acc, m[c], zero, clamp.lo, clamp.hi),
                    Requant::Dyadic { mult, shift } => {
                        let by = Dyadic { mult: mult[c], shift: shift[c] };
                        requantize_dyadic(acc, by, zero, clamp.lo, clamp.hi)
                    }
                }) as f32
            }
        }
    };
    let mut out = ctx.take(acc.len());
    // The sums are whole numbers below 2^31 in magnitude: the conversions are exact.
    let at = |i: usize, v: i64| {
        let c = i / plane % channels;
        // Rows are asked for only where there are no planes.
        finish((v + i64::from(p.bias[c])) as i32, c, i / channels)
    };
    let fill = |start: usize, o: &mut [f32], get: &dyn Fn(usize) -> i64| {
        for (k, o) in o.iter_mut().enumerate() {
            *o = at(start + k, get(start + k));
        }
    };
    if acc.dtype() == DType::F64 {
        let a = acc.as_slice::<f64>()?;
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(n, o)| fill(n * CHUNK, o, &|i| a[i] as i64));
    } else {
        let a = acc.as_slice::<f32>()?;
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(n, o)| fill(n * CHUNK, o, &|i| a[i] as i64));
    }
    ctx.recycle(acc);
    Ok(Tensor::of(&shape, out))
}

fn average(
    p: &Program,
    x: &Tensor,
    window: Option<&PoolAttrs>,
    include_pad: bool,
    from: Grid,
    to: Grid,
) -> Result<Tensor> {
    let shape = x.shape();
    if shape.len() < 3 {
        return Err(Error::shape(format!("pooling over a shape {shape:?}")));
    }
    let spatial = &shape[2..];
    let w = match window {
        Some(w) => w.resolve(spatial)?,
        None => PoolAttrs { kernel: spatial.to_vec(), ..PoolAttrs::default() }.resolve(spatial)?,
    };
    let data = x.as_slice::<f32>()?;
    let (plane, out_plane): (usize, usize) = (spatial.iter().product(), w.output.iter().product());
    let full = to.full();
    let mut out = vec![0.0; shape[0] * shape[1] * out_plane];
    for (input, output) in data.chunks(plane.max(1)).zip(out.chunks_mut(out_plane.max(1))) {
        for (i, o) in output.iter_mut().enumerate() {
            let (sum, count) = window_sum(input, &w, i, include_pad, from.zero);
            *o = p.mean_rule(from, to, count.max(1))?.apply(sum, to.zero, full.lo, full.hi) as f32;
        }
    }
    let mut dims = shape[..2].to_vec();
    dims.extend(&w.output);
    Ok(Tensor::of(&dims, out))
}

/// `rows` and `columns` over the last two axes, or the last one (numerics section 7).
fn resize(p: &Program, x: &Tensor, [rows, columns]: [&Line; 2], from: Grid, to: Grid) -> Result<Tensor> {
    let (shape, data) = (x.shape(), x.as_slice::<f32>()?);
    let (w, h) = (shape[shape.len() - 1], if shape.len() == 4 { shape[2] } else { 1 });
    let rule = p.mean_rule(from, to, UNIT)?;
    let full = to.full();
    let mut out = Vec::with_capacity(shape[0] * shape[1] * rows.len() * columns.len());
    for plane in data.chunks(h * w) {
        for i in 0..rows.len() {
            for j in 0..columns.len() {
                let mut acc = 0i64;
                for &(y, a) in rows.taps(i) {
                    for &(x, b) in columns.taps(j) {
                        acc += i64::from(a)
                            * i64::from(b)
                            * (plane[y as usize * w + x as usize] as i64 - i64::from(from.zero));
                    }
                }
                let acc = i32::try_from(acc).map_err(|_| Error::internal("a resizing beyond 32 bits"))?;
                out.push(rule.apply(acc, to.zero, full.lo, full.hi) as f32);
            }
        }
    }
    let spatial = if shape.len() == 4 { vec![rows.len(), columns.len()] } else { vec![columns.len()] };
    Ok(Tensor::of(&[&shape[..2], &spatial].concat(), out))
}

/// The sum of `q - z` over the window of output position `i`, and how many positions count: those inside the input, and with
/// `include_pad` those inside the padding, but never those beyond it (`ceil_mode`).
fn window_sum(input: &[f32], w: &Window, mut i: usize, include_pad: bool, zero: i32) -> (i32, usize) {
    let n = w.kernel.len();
    let mut origin = vec![0i64; n];
    for d in (0..n).rev() {
        origin[d] = (i % w.output[d] * w.strides[d]) as i64 - w.begin[d];
        i /= w.output[d];
    }
    let (mut sum, mut count) = (0, 0);
    for k in 0..w.kernel.iter().product::<usize>() {
        let (mut k, mut index, mut stride) = (k, 0usize, 1usize);
        let (mut inside, mut padded) = (true, true);
        for d in (0..n).rev() {
            let pos = origin[d] + (k % w.kernel[d] * w.dilations[d]) as i64;
            k /= w.kernel[d];
            let size = w.input[d] as i64;
            inside &= (0..size).contains(&pos);
            padded &= pos < size + w.end[d].max(0);
            index += pos.max(0) as usize * stride;
            stride *= w.input[d];
        }
        if inside {
            sum += input[index] as i32 - zero;
            count += 1;
        } else if include_pad && padded {
            count += 1;
        }
    }
    (sum, count)
}
