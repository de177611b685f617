//! The quantization operators of ONNX, by their own definition (`docs/numerics.md`, profile onnx).
mod linear;
mod products;

pub(super) use linear::{dequantize, dynamic, quantize};
pub(super) use products::{conv_integer, matmul_integer, qlinear_conv, qlinear_matmul};

use crate::{
    error::{Error, Result},
    ir::{DType, Data, Tensor},
};

/// Lowest and highest code of a type of up to 16 bits.
fn grid(t: DType) -> Result<(i32, i32)> {
    Ok(match t {
        DType::U8 => (0, 255),
        DType::I8 => (-128, 127),
        DType::U16 => (0, 65535),
        DType::I16 => (-32768, 32767),
        other => return Err(Error::unsupported(format!("codes of {other}; nnq has i8, u8, i16 and u16"))),
    })
}

/// Codes (or a bias) as i32.
fn codes(t: &Tensor) -> Result<Vec<i32>> {
    Ok(match t.data() {
        Data::U8(b) => b.iter().map(|&q| q.into()).collect(),
        Data::I8(b) => b.iter().map(|&q| q.into()).collect(),
        Data::U16(b) => b.iter().map(|&q| q.into()).collect(),
        Data::I16(b) => b.iter().map(|&q| q.into()).collect(),
        Data::I32(b) => b.to_vec(),
        _ => return Err(Error::unsupported(format!("codes of {}; nnq has i8, u8, i16, u16 and i32", t.dtype()))),
    })
}

/// Codes that are on the grid of `t` as a tensor of that type.
fn tensor(t: DType, shape: &[usize], q: Vec<i32>) -> Result<Tensor> {
    Ok(match t {
        DType::U8 => Tensor::of(shape, q.into_iter().map(|q| q as u8).collect()),
        DType::I8 => Tensor::of(shape, q.into_iter().map(|q| q as i8).collect()),
        DType::U16 => Tensor::of(shape, q.into_iter().map(|q| q as u16).collect()),
        DType::I16 => Tensor::of(shape, q.into_iter().map(|q| q as i16).collect()),
        DType::I32 => Tensor::of(shape, q),
        other => return Err(Error::unsupported(format!("codes of {other}"))),
    })
}
