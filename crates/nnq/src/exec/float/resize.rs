//! Resize.
use super::{Ctx, Inputs};
use crate::ir::op::ResizeAttrs;
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn run(_a: &ResizeAttrs, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
