//! Matrix products of real numbers with weights in codes, by the formulas of `docs/numerics.md`, section 13.
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, eval},
        lower::{Coded, Lookup},
    },
    ir::{Op, Tensor},
};
use nnq_kernels::{round::dequantize_f32, widest};
use rayon::prelude::*;

/// Rows of the real numbers that a table stands for, or of codes on another grid.
pub(super) fn lookup(of: &Lookup, ids: &Tensor, ctx: &Ctx) -> Result<Tensor> {
    let (shape, params) = (of.codes.shape(), &of.params);
    let real = |(i, &code): (usize, &i64)| {
        let k = params.index(shape, i);
        let real = dequantize_f32(code as i32, params.scale[k], params.zero_point[k]);
        of.to.map_or(real, |grid| grid.quantize(real) as f32)
    };
    let table = Tensor::of::<f32>(shape, of.codes.to_i64s()?.iter().enumerate().map(real).collect());
    eval(&Op::Gather { axis: 0 }, &[Some(&table), Some(ids)], 1, ctx)?
        .pop()
        .ok_or_else(|| Error::internal("a lookup without a result"))
}

/// The product of `x`, `[..., k]`.
pub(super) fn run(of: &Coded, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
    let [k, n] = of.sizes;
    let Some((_, outer)) = x.shape().split_last().filter(|(last, _)| **last == k) else {
        return Err(Error::shape(format!("an input of shape {:?} for weights of {k} rows", x.shape())));
    };
    let (numbers, shape) = (x.as_slice::<f32>()?, [outer, &[n]].concat());
    let mut out = ctx.take(outer.iter().product::<usize>() * n);
    let code = of.codes();
    // Codes less their zero points, as real numbers.
    let at = |i: usize| (i / n.max(1), i % n.max(1));
    let less_zero = |(i, c): (usize, usize)| (code(i, c) - of.zero[i / of.block * n + c]) as f32;
    let real: Vec<f32> = (0..k * n).map(|i| less_zero(at(i))).collect();
    out.par_chunks_mut(n.max(1)).enumerate().for_each(|(row, y)| {
        let x = &numbers[row * k..][..k];
        match &of.bias {
            Some(bias) => y.copy_from_slice(bias),
            None => y.fill(0.0),
        }
        let mut sums = vec![0.0f32; n];
        widest(
            #[inline(always)]
            || {
                for (b, scale) in of.scale.chunks_exact(n.max(1)).enumerate() {
                    sums.fill(0.0);
                    for i in b * of.block..k.min((b + 1) * of.block) {
                        for (sum, &w) in sums.iter_mut().zip(&real[i * n..][..n]) {
                            *sum = x[i].mul_add(w, *sum);
                        }
                    }
                    for ((y, &sum), &scale) in y.iter_mut().zip(&sums).zip(scale) {
                        *y = sum.mul_add(scale, *y);
                    }
                }
            },
        );
    });
    Ok(Tensor::of(&shape, out))
}
