//! Operators that move elements and never compute on them.
mod cut;
mod make;
mod pad;
mod plan;
mod turn;

pub(super) use cut::{concat, slice, split};
pub(super) use make::{constant_of_shape, range, trilu};
pub(super) use pad::pad;
pub(super) use plan::{Axis, HOLE, Plan, strides};
pub(super) use turn::{depth_to_space, expand, space_to_depth, tile, transpose};

use super::{Ctx, Inputs, args};
use crate::{
    error::{Error, Result},
    ir::{Op, Tensor},
};

/// The shape of the result of an operator that changes the shape and nothing else; `None` for any other operator.
pub(in crate::exec) fn new_shape(op: &Op, x: &Inputs) -> Option<Result<Vec<usize>>> {
    Some(match op {
        Op::Reshape { allowzero } => reshape(*allowzero, x),
        Op::Flatten { axis } => flatten(*axis, x),
        Op::Squeeze => squeeze(x),
        Op::Unsqueeze => unsqueeze(x),
        Op::Identity => args::need(x, 0, "input").map(|t| t.shape().to_vec()),
        _ => return None,
    })
}

/// Runs an operator that changes the shape and nothing else, on a copy.
pub(super) fn reshaped(op: &Op, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let shape = new_shape(op, x).unwrap_or_else(|| Err(Error::internal(format!("{op:?} does more than reshape"))))?;
    args::same(args::need(x, 0, "data")?, shape, ctx)
}

fn reshape(allowzero: bool, x: &Inputs) -> Result<Vec<usize>> {
    let (t, wanted) = (args::need(x, 0, "data")?, args::list(args::need(x, 1, "shape")?, "shape")?);
    let wrong = |why: &str| Err(Error::shape(format!("shape {:?} cannot become {wanted:?}: {why}", t.shape())));
    if allowzero && wanted.contains(&0) && wanted.contains(&-1) {
        return wrong("0 and -1 together leave it open");
    }
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, &d) in wanted.iter().enumerate() {
        shape.push(match d {
            0 if !allowzero => match t.shape().get(i) {
                Some(&d) => d,
                None => return wrong("a 0 that copies a dimension which is not there"),
            },
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            -1 => return wrong("more than one -1"),
            d => match usize::try_from(d) {
                Ok(d) => d,
                Err(_) => return wrong("a negative dimension"),
            },
        });
    }
    let n = crate::ir::count(&shape)?;
    if let Some(i) = open {
        match t.len().checked_div(n) {
            Some(d) if d * n == t.len() => shape[i] = d,
            None if t.is_empty() => shape[i] = 0,
            _ => return wrong("the elements do not divide"),
        }
    } else if n != t.len() {
        return wrong("the number of elements differs");
    }
    Ok(shape)
}

fn flatten(axis: i64, x: &Inputs) -> Result<Vec<usize>> {
    let t = args::need(x, 0, "input")?;
    let rank = t.shape().len();
    // The one operator where the axis after the last is allowed.
    let axis = if axis == rank as i64 { rank } else { args::axis(axis, rank)? };
    Ok(vec![crate::ir::count(&t.shape()[..axis])?, crate::ir::count(&t.shape()[axis..])?])
}

fn squeeze(x: &Inputs) -> Result<Vec<usize>> {
    let t = args::need(x, 0, "data")?;
    let shape = t.shape();
    let gone = match args::optional(x, 1) {
        Some(a) => args::axes(&args::list(a, "axes")?, shape.len())?,
        None => (0..shape.len()).filter(|&i| shape[i] == 1).collect(),
    };
    if let Some(&a) = gone.iter().find(|&&a| shape[a] != 1) {
        return Err(Error::shape(format!("axis {a} of shape {shape:?} is not 1")));
    }
    let left = (0..shape.len()).filter(|i| !gone.contains(i)).map(|i| shape[i]).collect();
    Ok(left)
}

fn unsqueeze(x: &Inputs) -> Result<Vec<usize>> {
    let (t, list) = (args::need(x, 0, "data")?, args::list(args::need(x, 1, "axes")?, "axes")?);
    let rank = t.shape().len() + list.len();
    let new = args::axes(&list, rank)?;
    let mut old = t.shape().iter();
    let shape = (0..rank).map(|i| if new.contains(&i) { 1 } else { old.next().copied().unwrap_or(1) }).collect();
    Ok(shape)
}

pub(super) fn dropout(x: &Inputs, outputs: usize, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let t = args::need(x, 0, "data")?;
    if let Some(training) = args::optional(x, 2)
        && args::integer(training, "training_mode")? != 0
    {
        return Err(Error::unsupported("Dropout in training mode").cure("export the model for inference"));
    }
    let mut out = vec![args::same(t, t.shape().to_vec(), ctx)?];
    if outputs > 1 {
        out.push(Tensor::from_bools(t.shape(), &vec![true; t.len()]));
    }
    Ok(out)
}

pub(super) fn shape(start: i64, end: Option<i64>, x: &Inputs) -> Result<Tensor> {
    let dims = args::need(x, 0, "data")?.shape();
    let r = dims.len() as i64;
    let clamp = |i: i64| (if i < 0 { i.saturating_add(r) } else { i }).clamp(0, r) as usize;
    let (start, end) = (clamp(start), clamp(end.unwrap_or(r)));
    let dims: Vec<i64> = dims[start..end.max(start)].iter().map(|&d| d as i64).collect();
    Ok(Tensor::of(&[dims.len()], dims))
}

pub(super) fn size(x: &Inputs) -> Result<Tensor> {
    Ok(Tensor::scalar(args::need(x, 0, "data")?.len() as i64))
}

/// The sizes before, of and after an axis (of no meaning when the tensor is empty).
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    let product = |d: &[usize]| d.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    (product(&shape[..axis]), shape[axis], product(&shape[axis + 1..]))
}
