//! ScatterElements, ScatterND.
use super::{
    Inputs,
    args::{self, by_width, bytes_mut, not_on},
    binary::Number,
    select::{pointed, spots},
};
use crate::{
    error::{Error, Result},
    ir::{Buf, Data, Element, Tensor, op::Scatter},
};

pub(super) fn elements(axis: i64, reduction: Scatter, x: &Inputs) -> Result<Tensor> {
    let (t, at) = (args::need(x, 0, "data")?, args::need(x, 1, "indices")?);
    let updates = args::need(x, 2, "updates")?;
    args::same_type(&[t, updates])?;
    if at.shape() != updates.shape() {
        return Err(Error::shape(format!("{:?} indices for {:?} updates", at.shape(), updates.shape())));
    }
    put(t, &pointed(t, at, axis)?, 1, updates, reduction)
}

pub(super) fn nd(reduction: Scatter, x: &Inputs) -> Result<Tensor> {
    let (t, at) = (args::need(x, 0, "data")?, args::need(x, 1, "indices")?);
    let updates = args::need(x, 2, "updates")?;
    args::same_type(&[t, updates])?;
    let (shape, ashape) = (t.shape(), at.shape());
    let depth = ashape.last().copied().filter(|&d| d > 0 && d <= shape.len());
    let want = depth.map(|depth| [&ashape[..ashape.len() - 1], &shape[depth..]].concat());
    let (Some(depth), true) = (depth, want.as_deref() == Some(updates.shape())) else {
        return Err(Error::shape(format!(
            "ScatterND of shape {shape:?} by indices {ashape:?} with updates {:?}",
            updates.shape()
        )));
    };
    let slice = shape[depth..].iter().product();
    if updates.is_empty() {
        return Tensor::new(shape.to_vec(), t.data().clone());
    }
    put(t, &spots(shape, at, 0)?, slice, updates, reduction)
}

/// Update `i`, of `slice` elements, goes to `to[i]`, in order.
fn put(t: &Tensor, to: &[usize], slice: usize, updates: &Tensor, reduction: Scatter) -> Result<Tensor> {
    if reduction != Scatter::Replace {
        let x = [Some(t), Some(updates)];
        let half =
            args::by_f32(&x, |x| put(args::need(x, 0, "data")?, to, slice, args::need(x, 1, "updates")?, reduction));
        return half.unwrap_or_else(|| combine(t, to, slice, updates, reduction));
    }
    let mut data = t.data().clone();
    by_width!(t.dtype(), T => {
        let data: &mut [T] = bytemuck::cast_slice_mut(bytes_mut(&mut data));
        let updates: &[T] = bytemuck::cast_slice(updates.data().as_bytes());
        // Of two updates of one place the later stays.
        for (&to, update) in to.iter().zip(updates.chunks(slice.max(1))) {
            data[to..to + slice].copy_from_slice(update);
        }
    });
    Tensor::new(t.shape().to_vec(), data)
}

fn combine(t: &Tensor, to: &[usize], slice: usize, updates: &Tensor, reduction: Scatter) -> Result<Tensor> {
    macro_rules! types {
        ($($d:ident),*) => {
            match (t.data(), updates.data()) {
                $((Data::$d(a), Data::$d(b)) => merge(t.shape(), a, to, slice, b, reduction),)*
                _ => not_on(reduction, t.dtype()),
            }
        };
    }
    types!(F32, F64, I8, I16, I32, I64, U8, U16, U32, U64)
}

fn merge<T: Number + Element>(
    shape: &[usize],
    data: &Buf<T>,
    to: &[usize],
    slice: usize,
    updates: &[T],
    reduction: Scatter,
) -> Result<Tensor> {
    let f: fn(T, T) -> T = match reduction {
        Scatter::Replace => |_, b| b,
        Scatter::Add => T::add,
        Scatter::Mul => T::mul,
        Scatter::Max => T::larger,
        Scatter::Min => T::smaller,
    };
    let mut out = data.to_vec();
    for (&to, update) in to.iter().zip(updates.chunks(slice.max(1))) {
        out[to..to + slice].iter_mut().zip(update).for_each(|(x, &u)| *x = f(*x, u));
    }
    Ok(Tensor::of(shape, out))
}
