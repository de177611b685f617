//! Element-wise functions of one tensor.
use super::{Ctx, Inputs};
use crate::ir::{DType, op::Unary};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

pub(super) fn run(u: Unary, x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    let x = x[0].ok_or_else(|| Error::shape("no input"))?;
    Ok(Tensor::of(x.shape(), x.as_slice::<f32>()?.iter().map(|&v| scalar(u, v)).collect::<Vec<f32>>()))
}

pub(super) fn clip(x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    let b = |i: usize, d: f32| x.get(i).copied().flatten().map_or(d, |t| t.to_f32s()[0]);
    let (lo, hi) = (b(1, f32::NEG_INFINITY), b(2, f32::INFINITY));
    let x = x[0].ok_or_else(|| Error::shape("no input"))?;
    Ok(Tensor::of(x.shape(), x.as_slice::<f32>()?.iter().map(|&v| v.max(lo).min(hi)).collect::<Vec<f32>>()))
}

pub(super) fn cast(_to: DType, _saturate: bool, _x: &Inputs, _ctx: &Ctx) -> Result<Tensor> {
    Err(Error::unsupported("not implemented yet"))
}

/// The function on one number: what [`Unary`] does to each element, bit for bit. Look-up tables are built with it.
pub fn scalar(u: Unary, x: f32) -> f32 {
    match u {
        Unary::Relu => x.max(0.0),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        _ => f32::NAN,
    }
}
