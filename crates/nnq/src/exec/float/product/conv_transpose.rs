//! Transposed convolution.
use crate::exec::float::{Ctx, Inputs};
use crate::{
    error::{Error, Result},
    ir::{Tensor, op::ConvTransposeAttrs},
};

pub(crate) fn conv_transpose(_a: &ConvTransposeAttrs, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}
