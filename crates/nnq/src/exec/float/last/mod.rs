//! Channels last: how images lie in memory between convolutions.
//!
//! A tensor `[N, C, H, W]` of binary32 may be held as `[N, H, W, C]`. Convolutions turn what they are given and answer
//! channels last; what follows them keeps the layout as long as it can. The rest sees rows. No result depends on
//! the layout: each function here adds in the order of its counterpart in rows.
mod conv;
mod pool;

pub(super) use conv::rows as conv_rows;
pub use conv::{Tail, Watch};

use super::{Ctx, args, arrange, eval, unary};
use crate::{
    error::{Error, Result},
    ir::{DType, Op, Tensor},
};
use std::borrow::Cow;

/// A tensor and how it lies.
#[derive(Clone, Debug)]
pub struct Held<T> {
    pub tensor: T,
    /// `[N, H, W, C]` for `[N, C, H, W]`.
    pub last: bool,
}

/// An input of an operator.
pub type Item<'a> = Held<&'a Tensor>;

impl Item<'_> {
    /// The shape that the graph knows.
    pub fn shape(&self) -> Vec<usize> {
        match *self.tensor.shape() {
            [n, h, w, c] if self.last => vec![n, c, h, w],
            ref shape => shape.to_vec(),
        }
    }
    fn is_real(&self) -> bool {
        self.tensor.dtype() == DType::F32
    }
}

/// Whether the operator runs on these inputs as they lie, or on others of them turned.
pub fn supports(op: &Op, x: &[Option<Item<'_>>], outputs: usize) -> bool {
    let Some(Some(first)) = x.first() else { return false };
    if let Op::Conv(a) = op {
        return conv::supports(a, x);
    }
    let present = || x.iter().flatten();
    if outputs != 1 || !present().any(|i| i.last) {
        return false;
    }
    match op {
        Op::Unary(u) => unary::is_real(*u),
        Op::Clip | Op::MaxPool { .. } | Op::AveragePool { .. } | Op::GlobalAveragePool => first.last,
        Op::Binary(_) | Op::Variadic(_) => present().all(|i| i.is_real() && i.tensor.shape().len() <= 4),
        Op::Concat { .. } => present().all(|i| i.is_real() && i.tensor.shape().len() == 4),
        _ => false,
    }
}

/// The shape of a convolution's output, channels last. For what [`supports`].
pub fn conv_shape(op: &Op, x: &[Option<Item<'_>>]) -> Option<Vec<usize>> {
    if let Op::Conv(a) = op { conv::shape(a, x) } else { None }
}

/// The operator's one output, channels last. For what [`supports`].
///
/// # Errors
/// As [`eval`].
pub fn run(op: &Op, x: &[Option<Item<'_>>], tail: &Tail<'_>, ctx: &Ctx) -> Result<Tensor> {
    let one = |op: &Op, x: &[Cow<'_, Tensor>]| {
        let x: Vec<Option<&Tensor>> = x.iter().map(|t| Some(&**t)).collect();
        let y = eval(op, &x, 1, ctx)?.pop();
        y.ok_or_else(|| Error::internal("an operator without an output"))
    };
    let input = || x.first().and_then(Option::as_ref).ok_or_else(|| Error::shape("input 0 is missing"));
    match op {
        Op::Conv(a) => conv::run(a, x, tail, ctx),
        Op::MaxPool { window, .. } => pool::max(window, input()?.tensor, ctx),
        Op::AveragePool { window, count_include_pad } => {
            pool::average(window, *count_include_pad, input()?.tensor, ctx)
        }
        Op::GlobalAveragePool => pool::global_average(input()?.tensor, ctx),
        Op::Unary(_) | Op::Clip => {
            let x: Vec<Option<&Tensor>> = x.iter().map(|i| i.as_ref().map(|i| i.tensor)).collect();
            let y = eval(op, &x, 1, ctx)?.pop();
            y.ok_or_else(|| Error::internal("an operator without an output"))
        }
        _ => {
            let turned = x.iter().flatten().map(|i| turned(i, ctx)).collect::<Result<Vec<_>>>()?;
            let y = match op {
                Op::Concat { axis } => {
                    let axis = [0, 3, 1, 2][args::axis(*axis, 4)?];
                    one(&Op::Concat { axis }, &turned)
                }
                op => one(op, &turned),
            };
            recycle(turned, ctx);
            y
        }
    }
}

fn recycle(tensors: Vec<Cow<'_, Tensor>>, ctx: &Ctx) {
    for t in tensors {
        if let Cow::Owned(t) = t {
            ctx.recycle(t);
        }
    }
}

/// Channels last; axes that broadcasting adds in front are there.
fn turned<'a>(x: &Item<'a>, ctx: &Ctx) -> Result<Cow<'a, Tensor>> {
    if x.last {
        return Ok(Cow::Borrowed(x.tensor));
    }
    if let [n, c, h, w] = *x.tensor.shape()
        && (c == 1 || h * w == 1)
    {
        return Ok(Cow::Owned(x.tensor.clone().reshaped(vec![n, h, w, c])?));
    }
    let missing = 4usize.saturating_sub(x.tensor.shape().len());
    let y = if missing == 0 {
        arrange::transpose(&[0, 2, 3, 1], &[Some(x.tensor)], ctx)?
    } else {
        let shape = [&vec![1; missing][..], x.tensor.shape()].concat();
        arrange::transpose(&[0, 2, 3, 1], &[Some(&x.tensor.clone().reshaped(shape)?)], ctx)?
    };
    Ok(Cow::Owned(y))
}

/// As the graph knows it.
///
/// # Errors
/// When memory for it cannot be had.
pub fn put_in_rows(t: Tensor, ctx: &Ctx) -> Result<Tensor> {
    let &[n, h, w, c] = t.shape() else { return Ok(t) };
    if c == 1 || h * w == 1 {
        return t.reshaped(vec![n, c, h, w]);
    }
    let y = arrange::transpose(&[0, 3, 1, 2], &[Some(&t)], ctx)?;
    ctx.recycle(t);
    Ok(y)
}
