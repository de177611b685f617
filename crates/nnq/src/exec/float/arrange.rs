//! Operators that move elements and never compute on them.
use super::{Ctx, Inputs};
use crate::ir::op::PadMode;
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn concat(_axis: i64, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn split(_axis: i64, _x: &Inputs, _outputs: usize, _ctx: &Ctx) -> Result<Vec<Tensor>> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn slice(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn pad(_mode: PadMode, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn reshape(_allowzero: bool, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn flatten(_axis: i64, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn transpose(_perm: &[usize], _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn squeeze(_x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn unsqueeze(_x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn expand(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn tile(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn depth_to_space(_block: usize, _crd: bool, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn space_to_depth(_block: usize, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn identity(_x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn dropout(_x: &Inputs, _outputs: usize) -> Result<Vec<Tensor>> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn shape(_start: i64, _end: Option<i64>, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn size(_x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn constant_of_shape(_value: &Tensor, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn range(_x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn trilu(_upper: bool, _x: &Inputs) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
