//! The quantization operators of ONNX.
use super::{
    fact::{Args, Fact, one},
    product::{conv_dims, matmul_dims},
};
use crate::{
    error::Result,
    ir::{DType, Dim, op::ConvAttrs},
};

pub(super) fn quantize(out: DType, x: &Args) -> Result<Vec<Fact>> {
    let dtype = if x.get(2).is_some() { x.dtype(2) } else { Some(out) };
    one(dtype, x.dims(0)?.map(<[Dim]>::to_vec))
}

pub(super) fn dequantize(x: &Args) -> Result<Vec<Fact>> {
    x.same_dtype([0, 2])?;
    one(x.dtype(1), x.dims(0)?.map(<[Dim]>::to_vec))
}

pub(super) fn dynamic(x: &Args) -> Result<Vec<Fact>> {
    let dims = x.dims(0)?.map(<[Dim]>::to_vec);
    Ok(vec![
        Fact::new(Some(DType::U8), dims),
        Fact::new(Some(DType::F32), Some(Vec::new())),
        Fact::new(Some(DType::U8), Some(Vec::new())),
    ])
}

pub(super) fn qlinear_conv(a: &ConvAttrs, x: &Args) -> Result<Vec<Fact>> {
    x.same_dtype([0, 2])?;
    x.same_dtype([3, 5])?;
    one(x.dtype(7), conv_dims(a, x, 0, 3, 8)?)
}

pub(super) fn qlinear_matmul(x: &Args) -> Result<Vec<Fact>> {
    x.same_dtype([0, 2])?;
    x.same_dtype([3, 5])?;
    one(x.dtype(7), matmul_dims(x, 0, 3)?)
}

pub(super) fn conv_integer(a: &ConvAttrs, x: &Args) -> Result<Vec<Fact>> {
    x.same_dtype([0, 2])?;
    x.same_dtype([1, 3])?;
    // No operand is a bias: input 4 does not exist.
    one(Some(DType::I32), conv_dims(a, x, 0, 1, 4)?)
}

pub(super) fn matmul_integer(x: &Args) -> Result<Vec<Fact>> {
    x.same_dtype([0, 2])?;
    x.same_dtype([1, 3])?;
    one(Some(DType::I32), matmul_dims(x, 0, 1)?)
}
