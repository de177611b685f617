//! Normalisations and softmax.
use super::{Ctx, Inputs};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn batch(_eps: f32, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn instance(_eps: f32, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn group(_eps: f32, _groups: usize, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn layer(_axis: i64, _eps: f32, _x: &Inputs, _outputs: usize, _ctx: &Ctx) -> Result<Vec<Tensor>> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn lrn(_alpha: f32, _beta: f32, _bias: f32, _size: usize, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn softmax(_axis: i64, _flat: bool, _log: bool, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
