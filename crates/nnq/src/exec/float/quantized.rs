//! The quantization operators of ONNX, by their own definition.
use super::{Ctx, Inputs};
use crate::ir::{DType, op::ConvAttrs};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn quantize(
    _axis: i64,
    _block: usize,
    _saturate: bool,
    _out: DType,
    _x: &Inputs,
    _ctx: &Ctx,
) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn dequantize(_axis: i64, _block: usize, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn dynamic(_x: &Inputs, _ctx: &Ctx) -> Result<Vec<Tensor>> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn qlinear_conv(_a: &ConvAttrs, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn qlinear_matmul(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn conv_integer(_a: &ConvAttrs, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

pub(super) fn matmul_integer(_x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
