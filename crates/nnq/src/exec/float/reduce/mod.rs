//! Reductions, arg-reductions, cumulative sums, top-k.
mod fold;
mod order;
mod running;

pub(super) use order::{arg, top_k};
pub(super) use running::cumsum;

use super::{
    Ctx, Inputs,
    args::{self, CHUNK},
    arrange::{Axis, Plan, strides},
};
use crate::{
    error::Result,
    ir::{Data, Element, Tensor, op::Reduction},
};
use fold::{Real, Whole};
use rayon::prelude::*;

pub(super) fn run(kind: Reduction, keepdims: bool, noop: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    if let Some(y) = args::by_f32(x, |x| run(kind, keepdims, noop, x, ctx)) {
        return y;
    }
    let t = args::need(x, 0, "data")?;
    let rank = t.shape().len();
    let axes = args::optional(x, 1).map_or(Ok(vec![]), |a| args::axes(&args::list(a, "axes")?, rank))?;
    if axes.is_empty() && noop {
        return args::same(t, t.shape().to_vec(), ctx);
    }
    let gone = |i: &usize| axes.is_empty() || axes.contains(i);
    let (kept, reduced): (Vec<usize>, Vec<usize>) = (0..rank).partition(|i| !gone(i));
    let mut shape = t.shape().to_vec();
    reduced.iter().for_each(|&i| shape[i] = 1);
    if !keepdims {
        shape = kept.iter().map(|&i| shape[i]).collect();
    }
    args::room(&shape)?;
    let n = reduced.iter().map(|&i| t.shape()[i]).fold(1usize, usize::saturating_mul);
    let moved;
    let t = if kept.iter().chain(&reduced).copied().eq(0..rank) {
        t
    } else {
        moved = last(t, &kept, &reduced, ctx)?;
        &moved
    };
    match t.data() {
        Data::F32(v) => real(kind, v, n, shape),
        Data::F64(v) => real(kind, v, n, shape),
        Data::I8(v) => whole(kind, v, n, shape),
        Data::I16(v) => whole(kind, v, n, shape),
        Data::I32(v) => whole(kind, v, n, shape),
        Data::I64(v) => whole(kind, v, n, shape),
        Data::U8(v) => whole(kind, v, n, shape),
        Data::U16(v) => whole(kind, v, n, shape),
        Data::U32(v) => whole(kind, v, n, shape),
        Data::U64(v) => whole(kind, v, n, shape),
        Data::Bool(v) if matches!(kind, Reduction::Max | Reduction::Min) => {
            // Bytes that are 0 or 1: of an empty set, the largest is false and the smallest true.
            let bits: Vec<u8> = v.iter().map(|&b| u8::from(b != 0)).collect();
            let y = whole(kind, &bits, n, shape)?;
            let shape = y.shape().to_vec();
            let bits: Vec<u8> = y.into_vec::<u8>()?.into_iter().map(|b| u8::from(b != 0)).collect();
            Tensor::new(shape, Data::Bool(bits.into()))
        }
        _ => args::not_on(kind, t.dtype()),
    }
}

/// The tensor with the axes `kept`, then the axes `reduced`: each group of elements to reduce in one run.
fn last(t: &Tensor, kept: &[usize], reduced: &[usize], ctx: &Ctx) -> Result<Tensor> {
    let (shape, strides) = (t.shape(), strides(t.shape()));
    let order = || kept.iter().chain(reduced);
    let axes = order().map(|&i| Axis::even(shape[i], strides[i])).collect();
    Plan { shape: order().map(|&i| shape[i]).collect(), base: 0, axes }.apply(t, None, ctx)
}

/// `f` of each run of `n` elements, in parallel when that pays.
fn rows<T: Sync, O: Send + Default + Clone>(v: &[T], n: usize, rows: usize, f: impl Fn(&[T]) -> O + Sync) -> Vec<O> {
    if n == 0 {
        return vec![f(&[]); rows];
    }
    let mut out = vec![O::default(); rows];
    if v.len() <= CHUNK {
        out.iter_mut().zip(v.chunks(n)).for_each(|(o, v)| *o = f(v));
    } else {
        let least = (CHUNK / n).max(1);
        out.par_iter_mut().zip(v.par_chunks(n)).with_min_len(least).for_each(|(o, v)| *o = f(v));
    }
    out
}

fn real<T: Real>(kind: Reduction, v: &[T], n: usize, shape: Vec<usize>) -> Result<Tensor> {
    let count = crate::ir::count(&shape)?;
    let out = rows(v, n, count, |v| fold::real(kind, v));
    Tensor::new(shape, T::wrap(out.into()))
}

fn whole<T: Whole + Element>(kind: Reduction, v: &[T], n: usize, shape: Vec<usize>) -> Result<Tensor> {
    let count = crate::ir::count(&shape)?;
    if n == 0 && count > 0 && kind == Reduction::Mean {
        return Err(crate::error::Error::value("the mean of no integers"));
    }
    let out = rows(v, n, count, |v| fold::whole(kind, v));
    Tensor::new(shape, T::wrap(out.into()))
}

#[cfg(test)]
mod tests;
