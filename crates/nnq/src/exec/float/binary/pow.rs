//! Pow: the one function whose operands may have different types. The result has the type of the base.
use super::{Zip, wide};
use crate::{
    error::{Error, Result},
    exec::float::{Ctx, args::not_on, unary::cast},
    ir::{DType, Data, Element, Tensor},
};

pub(super) fn run(base: &Tensor, exponent: &Tensor, ctx: &Ctx) -> Result<Tensor> {
    let dtype = base.dtype();
    if exponent.dtype() == DType::Bool {
        return not_on("Pow with an exponent", DType::Bool);
    }
    let zip = Zip::new([base.shape(), exponent.shape()])?;
    match (base.data(), exponent.data()) {
        (Data::F32(a), Data::F32(b)) => {
            // Squares are what networks take powers for, and x * x rounds correctly.
            let f = |a: f32, b: f32| if b == 2.0 { a * a } else { libm::powf(a, b) };
            let out = wide(&zip, a, b, ctx, f);
            Tensor::new(zip.shape, Data::F32(out.into()))
        }
        (Data::I32(a), _) if exponent.dtype().is_int() => whole(zip, a, exponent, |v| v as i32),
        (Data::I64(a), _) if exponent.dtype().is_int() => whole(zip, a, exponent, |v| v),
        (Data::F32(_) | Data::F64(_) | Data::F16(_) | Data::BF16(_) | Data::I32(_) | Data::I64(_), _) => {
            // Every other pair by way of f64.
            let as_f64 = |t: &Tensor| cast(DType::F64, true, &[Some(t)], ctx).and_then(Tensor::into_vec::<f64>);
            let (a, b) = (as_f64(base)?, as_f64(exponent)?);
            let mut out = vec![0.0; zip.len];
            zip.chunks(&mut out, |start, out| zip.pairs(&a, &b, start, out, libm::pow));
            let y = Tensor::new(zip.shape, Data::F64(out.into()))?;
            cast(dtype, true, &[Some(&y)], ctx)
        }
        _ => not_on("Pow with a base", dtype),
    }
}

/// Whole powers of whole numbers, wrapping around; 1/x is dropped to a whole number.
fn whole<T: Element + Into<i64>>(zip: Zip<2>, a: &[T], exponent: &Tensor, narrow: fn(i64) -> T) -> Result<Tensor> {
    let b = match exponent.data() {
        Data::U64(b) => b.iter().map(|&b| i128::from(b)).collect::<Vec<_>>(),
        _ => exponent.to_i64s()?.into_iter().map(i128::from).collect(),
    };
    if a.iter().any(|&a| a.into() == 0) && b.iter().any(|&b| b < 0) {
        return Err(Error::value("zero to a negative power"));
    }
    let mut out = vec![T::default(); zip.len];
    zip.chunks(&mut out, |start, out| zip.pairs(a, &b, start, out, |a, b| narrow(power(a.into(), b))));
    Tensor::new(zip.shape, T::wrap(out.into()))
}

fn power(base: i64, exponent: i128) -> i64 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 if exponent % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        };
    }
    let (mut y, mut square, mut left) = (1i64, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            y = y.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        left >>= 1;
    }
    y
}
