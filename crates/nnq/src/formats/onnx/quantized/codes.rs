//! Integer codes of constants.
use crate::{
    error::{Error, Result},
    ir::{DType, Data, QParams, QType, Tensor},
};
use nnq_kernels::round::{quantize_f32, rne_f64};

/// The element type of a file that holds a grid.
pub(super) fn container(q: QType) -> Result<DType> {
    Ok(match (q.bits, q.signed) {
        (1..=8, true) => DType::I8,
        (1..=8, false) => DType::U8,
        (9..=16, true) => DType::I16,
        (9..=16, false) => DType::U16,
        (32, true) => DType::I32,
        _ => return Err(Error::unsupported(format!("ONNX has no element type for the grid {q}"))),
    })
}

/// The grid that is all of an element type.
pub(super) fn whole(dtype: DType) -> Option<QType> {
    let (bits, signed) = match dtype {
        DType::U8 => (8, false),
        DType::I8 => (8, true),
        DType::U16 => (16, false),
        DType::I16 => (16, true),
        DType::I32 => (32, true),
        _ => return None,
    };
    Some(QType { bits, signed, narrow: false })
}

/// The codes of an annotated constant: its own, or its real numbers rounded (numerics section 2; biases section 3).
pub(super) fn of_constant(tensor: &Tensor, q: &QParams) -> Result<Vec<i32>> {
    q.check(Some(tensor.shape()))?;
    let (min, max) = (q.qtype.min(), q.qtype.max());
    if tensor.dtype().is_int() {
        let off = |c: i64| Error::value(format!("code {c} is not on the grid {}", q.qtype));
        return tensor
            .to_i64s()?
            .into_iter()
            .map(|c| i32::try_from(c).ok().filter(|c| (min..=max).contains(c)).ok_or_else(|| off(c)))
            .collect();
    }
    let real = tensor.to_f32s();
    finite(&real)?;
    let shape = tensor.shape();
    if q.qtype.bits == 32 {
        return real
            .iter()
            .enumerate()
            .map(|(i, &x)| wide(f64::from(x), f64::from(q.scale[q.index(shape, i)])))
            .collect();
    }
    Ok(real
        .iter()
        .enumerate()
        .map(|(i, &x)| {
            let k = q.index(shape, i);
            quantize_f32(x, q.scale[k], q.zero_point[k], min, max)
        })
        .collect())
}

/// The bias of a product: its own codes, or `rne(b / (sx * sw))` in binary64 (numerics section 3).
pub(super) fn of_bias(bias: &Tensor, own: Option<&QParams>, sx: f32, sw: &[f32]) -> Result<Vec<i32>> {
    if bias.dtype().is_int() {
        let own = own.ok_or_else(|| Error::shape("an integer bias without a scale"))?;
        return of_constant(bias, own);
    }
    let real = bias.to_f32s();
    finite(&real)?;
    real.iter()
        .enumerate()
        .map(|(i, &b)| wide(f64::from(b), f64::from(sx) * f64::from(sw[if sw.len() == 1 { 0 } else { i }])))
        .collect()
}

fn wide(x: f64, scale: f64) -> Result<i32> {
    let q = rne_f64(x / scale);
    if q.abs() <= f64::from(i32::MAX) {
        Ok(q as i32)
    } else {
        Err(Error::value(format!("the bias {x} at scale {scale:e} does not fit 32 bits"))
            .cure("the input or the weight of this layer has a range close to 0: leave the layer in float"))
    }
}

fn finite(real: &[f32]) -> Result<()> {
    match real.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(Error::value(format!("element {i} of a constant to be quantized is {}", real[i]))),
        None => Ok(()),
    }
}

/// Codes as a tensor of an element type that holds them.
pub(super) fn tensor(shape: &[usize], codes: &[i32], dtype: DType) -> Result<Tensor> {
    fn to<T: TryFrom<i32>>(codes: &[i32]) -> Result<Vec<T>> {
        codes
            .iter()
            .map(|&c| T::try_from(c).map_err(|_| Error::internal(format!("code {c} beyond its element type"))))
            .collect()
    }
    let data = match dtype {
        DType::U8 => Data::U8(to::<u8>(codes)?.into()),
        DType::I8 => Data::I8(to::<i8>(codes)?.into()),
        DType::U16 => Data::U16(to::<u16>(codes)?.into()),
        DType::I16 => Data::I16(to::<i16>(codes)?.into()),
        DType::I32 => Data::I32(codes.to_vec().into()),
        _ => return Err(Error::internal(format!("codes as {dtype}"))),
    };
    Tensor::new(shape.to_vec(), data)
}

/// The code of a real bound on a per-tensor grid, as numerics section 5 wants it; infinities saturate.
pub(super) fn of_bound(x: f32, q: &QParams) -> Option<i32> {
    let (s, z) = q.as_tensor()?;
    Some(quantize_f32(x, s, z, q.qtype.min(), q.qtype.max()))
}
