//! Products: convolution, transposed convolution, Gemm, MatMul.
mod columns;
mod conv;
mod conv_transpose;
mod depthwise;
mod gemm;
mod matmul;
mod tile;

pub(super) use conv::{Sizes as ConvSizes, conv, run as conv_run};
pub(super) use conv_transpose::conv_transpose;
pub(super) use gemm::gemm;
pub(super) use matmul::{Shapes as MatMulShapes, batched, matmul};
pub(super) use tile::Real;

use super::{Inputs, input};
use crate::{
    error::{Error, Result},
    ir::{DType, Tensor},
};
use half::{bf16, f16};

/// Runs an operator in f32 or f64; half precision is computed in f32 and rounded back.
pub(super) fn by_type(
    x: &Inputs,
    single: impl Fn(&Inputs) -> Result<Tensor>,
    double: impl Fn(&Inputs) -> Result<Tensor>,
) -> Result<Tensor> {
    match input(x, 0)?.dtype() {
        DType::F32 => single(x),
        DType::F64 => double(x),
        half @ (DType::F16 | DType::BF16) => {
            let wide: Vec<Option<Tensor>> = x
                .iter()
                .map(|t| {
                    t.map(|t| match t.dtype() {
                        d if d == half => Ok(Tensor::of::<f32>(t.shape(), t.to_f32s())),
                        d => Err(Error::shape(format!("expected a tensor of {half}, found {d}"))),
                    })
                    .transpose()
                })
                .collect::<Result<_>>()?;
            halve(half, single(&wide.iter().map(Option::as_ref).collect::<Vec<_>>())?)
        }
        other => Err(Error::unsupported(format!("not defined on {other}"))),
    }
}

/// Rounds a tensor of f32 to F16 or BF16.
pub(super) fn halve(half: DType, y: Tensor) -> Result<Tensor> {
    let shape = y.shape().to_vec();
    let y = y.into_vec::<f32>()?;
    Ok(if half == DType::F16 {
        Tensor::of::<f16>(&shape, y.into_iter().map(f16::from_f32).collect())
    } else {
        Tensor::of::<bf16>(&shape, y.into_iter().map(bf16::from_f32).collect())
    })
}
