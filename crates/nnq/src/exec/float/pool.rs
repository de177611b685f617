//! Pooling.
use super::{Ctx, Inputs};
use crate::ir::op::PoolAttrs;
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn max(
    _w: &PoolAttrs,
    _column_major: bool,
    _x: &Inputs,
    _outputs: usize,
    _ctx: &Ctx,
) -> Result<Vec<Tensor>> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn average(_w: &PoolAttrs, _include: bool, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn lp(_w: &PoolAttrs, _p: i64, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn global_max(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn global_average(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn global_lp(_p: i64, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
