//! Products: convolution, transposed convolution, Gemm, MatMul.
mod columns;
mod conv;
mod conv_transpose;
mod depthwise;
mod gemm;
mod matmul;
mod packed;
mod tile;

pub(super) use conv::{Sizes as ConvSizes, conv, run as conv_run};
pub(super) use conv_transpose::conv_transpose;
pub(super) use gemm::gemm;
pub(crate) use matmul::Shapes as MatMulShapes;
pub(super) use matmul::{batched, matmul, multiply};
pub(super) use packed::Rows;
pub(super) use tile::{Real, Strided};

use super::{Inputs, args};
use crate::{
    error::Result,
    ir::{DType, Tensor},
};

/// Runs an operator in f32 or f64; half precision is computed in f32 and rounded back.
pub(super) fn by_type(
    x: &Inputs,
    single: impl Fn(&Inputs) -> Result<Tensor>,
    double: impl Fn(&Inputs) -> Result<Tensor>,
) -> Result<Tensor> {
    match args::need(x, 0, "X")?.dtype() {
        DType::F32 => single(x),
        DType::F64 => double(x),
        other => args::by_f32(x, single).unwrap_or_else(|| args::not_on("a product, pool or norm", other)),
    }
}
