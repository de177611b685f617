//! Gather, scatter, one-hot.
use super::{Ctx, Inputs};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn gather(_axis: i64, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn gather_elements(_axis: i64, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn gather_nd(_batch: usize, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn scatter_elements(_axis: i64, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn one_hot(_axis: i64, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
