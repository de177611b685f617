//! Element-wise functions of several tensors, with broadcasting.
use super::{Ctx, Inputs};
use crate::ir::op::{Binary, Variadic};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn run(_b: Binary, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn variadic(_v: Variadic, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn select(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
