//! Reductions, arg-reductions, cumulative sums, top-k.
use super::{Ctx, Inputs};
use crate::ir::op::Reduction;
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn run(_kind: Reduction, _keepdims: bool, _noop: bool, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn arg(_max: bool, _axis: i64, _keepdims: bool, _last: bool, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn cumsum(_exclusive: bool, _reverse: bool, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn top_k(_axis: i64, _largest: bool, _sorted: bool, _x: &Inputs) -> Result<Vec<Tensor>> {
    Err(Error::unsupported("not implemented yet"))
}
