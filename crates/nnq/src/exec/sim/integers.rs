//! Attention, normalisation and factors in integers (numerics section 14), from the scalar formulas.
use super::step::{broadcast, found};
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, eval},
        lower::{Grid, Live, Pair, SoftmaxStep, mask_id, no_range, too_deep, too_long},
    },
    ir::{Op, Tensor},
};
use nnq_kernels::round::{
    Dyadic, dynamic_real,
    integers::{Norm, Softmax, mask_code},
    requantize_dyadic,
};

/// `a` times `b`, both codes.
pub(super) fn pair(p: &Pair, [a, b]: [&Tensor; 2], [ga, gb, to]: [Grid; 3], ctx: &Ctx) -> Result<Tensor> {
    let centred = |t: &Tensor, g: Grid| -> Result<Tensor> {
        let wide = t.as_slice::<f32>()?.iter().map(|&q| f64::from(q) - f64::from(g.zero)).collect();
        Ok(Tensor::of::<f64>(t.shape(), wide))
    };
    let depth = a.shape().last().copied().unwrap_or(0);
    if !nnq_kernels::pair::Pair::fits(depth) {
        return Err(too_deep(depth));
    }
    let (a, b) = (centred(a, ga)?, centred(b, gb)?);
    let acc = eval(&Op::MatMul, &[Some(&a), Some(&b)], 1, ctx)?.pop().ok_or_else(|| Error::internal("no output"))?;
    let code = |&acc: &f64| requantize_dyadic(acc as i32, p.by, to.zero, p.clamp.lo, p.clamp.hi) as f32;
    Ok(Tensor::of(acc.shape(), acc.as_slice::<f64>()?.iter().map(code).collect()))
}

/// `a` times `b`, real numbers that are quantized as they come.
pub(super) fn live(of: &Live, [a, b]: [&Tensor; 2], ctx: &Ctx) -> Result<Tensor> {
    let depth = a.shape().last().copied().unwrap_or(0);
    if !nnq_kernels::pair::Pair::fits(depth) {
        return Err(too_deep(depth));
    }
    // Codes less their zero points, and the scale of each `each` numbers, in a shape that repeats along them.
    let codes = |t: &Tensor, each: usize, name: &str, shape: Vec<usize>| -> Result<(Tensor, Tensor)> {
        let (mut centred, mut scales) = (Vec::with_capacity(t.len()), Vec::new());
        for some in t.as_slice::<f32>()?.chunks(each.max(1)) {
            let grid = found(some).ok_or_else(|| no_range(name))?;
            centred.extend(some.iter().map(|&x| f64::from(grid.quantize(x) - grid.zero)));
            scales.push(grid.scale);
        }
        // No numbers have any scale.
        scales.resize(shape.iter().product(), 1.0);
        Ok((Tensor::of::<f64>(t.shape(), centred), Tensor::of(&shape, scales)))
    };
    // With the last `n` axes as one number.
    let ones = |t: &Tensor, n: usize| [&t.shape()[..t.shape().len() - n], &vec![1; n][..]].concat();
    let alone = |t: &Tensor, n: usize| {
        if of.by_row { (t.shape().iter().rev().take(n).product(), ones(t, n)) } else { (t.len(), vec![]) }
    };
    let ((each_a, shape_a), (each_b, shape_b)) = (alone(a, 1), alone(b, 2));
    let (a, sa) = codes(a, each_a, &of.names[0], shape_a)?;
    let (b, sb) = codes(b, each_b, &of.names[1], shape_b)?;
    let acc = eval(&Op::MatMul, &[Some(&a), Some(&b)], 1, ctx)?.pop().ok_or_else(|| Error::internal("no output"))?;
    // Zeros of the result's shape take the scales along.
    let whole = Tensor::of::<f32>(acc.shape(), vec![0.0; acc.len()]);
    let (sa, sb) = (broadcast(&sa, &whole, ctx)?.0, broadcast(&sb, &whole, ctx)?.0);
    let (sa, sb) = (sa.as_slice::<f32>()?, sb.as_slice::<f32>()?);
    let real = |(i, &acc): (usize, &f64)| dynamic_real(acc as i32, sa[i], sb[i], -0.0);
    Ok(Tensor::of(acc.shape(), acc.as_slice::<f64>()?.iter().enumerate().map(real).collect()))
}

/// Numbers that choose what a mask adds.
pub(super) fn ids(x: &Tensor) -> Result<Tensor> {
    let ids = x.to_i64s()?.into_iter().map(|id| Ok(f32::from(mask_id(id)?)));
    Ok(Tensor::of(x.shape(), ids.collect::<Result<Vec<f32>>>()?))
}

/// Softmax along the last axis, with a mask.
pub(super) fn softmax(
    step: &SoftmaxStep,
    x: &Tensor,
    mask: Option<&Tensor>,
    from: Grid,
    to: Grid,
    ctx: &Ctx,
) -> Result<Tensor> {
    let of = &*step.softmax;
    let n = x.shape().last().copied().unwrap_or(0);
    if n > nnq_kernels::round::integers::ROW {
        return Err(too_long(n));
    }
    let mask = match mask {
        Some(mask) => Some(broadcast(mask, x, ctx)?.0),
        None => None,
    };
    let mask = mask.as_ref().map(|m| m.as_slice::<f32>()).transpose()?;
    let codes = x.as_slice::<f32>()?;
    let mut out = Vec::with_capacity(codes.len());
    for (row, codes) in codes.chunks(n.max(1)).enumerate() {
        let added = |m: f32| match &step.mask {
            Some(table) => table[m as usize],
            None => mask_code(m, from.scale),
        };
        let moved = |i: usize| codes[i] as i32 + mask.map_or(0, |m| added(m[row * n + i]));
        let all: Vec<i32> = (0..n).map(moved).collect();
        let most = all.iter().copied().fold(i32::MIN, i32::max);
        let exps: Vec<u32> = all.iter().map(|u| of.exp(most - u)).collect();
        let factor = of.factor(exps.iter().map(|&e| u64::from(e)).sum());
        out.extend(exps.iter().map(|&e| clamped(Softmax::share(e, factor), to)));
    }
    Ok(Tensor::of(x.shape(), out))
}

/// Layer normalisation along the last axis.
pub(super) fn norm(of: &Norm, x: &Tensor, from: Grid, to: Grid) -> Result<Tensor> {
    let n = of.gain.len();
    let mut out = Vec::with_capacity(x.len());
    for codes in x.as_slice::<f32>()?.chunks(n) {
        let centred = || codes.iter().map(|&q| q as i32 - from.zero);
        let squares = centred().map(|a| (i64::from(a) * i64::from(a)) as u64).sum();
        let row = of.row(centred().map(i64::from).sum(), squares);
        out.extend(centred().enumerate().map(|(i, a)| clamped(of.element(i, a, row), to)));
    }
    Ok(Tensor::of(x.shape(), out))
}

/// Codes times factors.
pub(super) fn rescale(by: &[Dyadic], x: &Tensor, from: Grid, to: Grid) -> Result<Tensor> {
    let columns = x.shape().last().copied().unwrap_or(1);
    let code = |(i, &q): (usize, &f32)| {
        let by = by[if by.len() == 1 { 0 } else { i % columns }];
        clamped(by.apply(q as i32 - from.zero), to)
    };
    Ok(Tensor::of(x.shape(), x.as_slice::<f32>()?.iter().enumerate().map(code).collect()))
}

fn clamped(steps: i64, to: Grid) -> f32 {
    (steps + i64::from(to.zero)).clamp(to.qtype.min().into(), to.qtype.max().into()) as f32
}
