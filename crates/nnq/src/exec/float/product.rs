//! Products: convolution, transposed convolution, Gemm, MatMul.
use super::{Ctx, Inputs};
use crate::ir::op::{ConvAttrs, ConvTransposeAttrs};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn conv(_a: &ConvAttrs, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn conv_transpose(_a: &ConvTransposeAttrs, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn gemm(_alpha: f32, _beta: f32, _trans_a: bool, _trans_b: bool, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn matmul(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
