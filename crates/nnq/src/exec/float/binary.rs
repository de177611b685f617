//! Element-wise functions of several tensors, with broadcasting.
use super::{Ctx, Inputs};
use crate::ir::op::{Binary, Variadic};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn run(b: Binary, x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    let (a, c) = (x[0].ok_or_else(|| Error::shape("no input"))?, x[1].ok_or_else(|| Error::shape("no input"))?);
    if a.shape() != c.shape() {
        return Err(Error::unsupported("broadcast not implemented yet"));
    }
    let f = |p: f32, q: f32| match b {
        Binary::Add => p + q,
        Binary::Sub => p - q,
        Binary::Mul => p * q,
        _ => f32::NAN,
    };
    let out = a.as_slice::<f32>()?.iter().zip(c.as_slice::<f32>()?).map(|(&p, &q)| f(p, q)).collect::<Vec<f32>>();
    Ok(Tensor::of(a.shape(), out))
}

pub(super) fn variadic(_v: Variadic, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn select(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
