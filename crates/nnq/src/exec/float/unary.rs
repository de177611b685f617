//! Element-wise functions of one tensor.
use super::{Ctx, Inputs};
use crate::ir::{DType, op::Unary};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn run(_u: Unary, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn clip(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn cast(_to: DType, _saturate: bool, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

/// The function on one number: what [`Unary`] does to each element, bit for bit. Look-up tables are built with it.
pub fn scalar(_u: Unary, _x: f32) -> f32 {
    f32::NAN
}
