//! Cast, between every two element types.
use super::args;
use crate::{
    error::Result,
    exec::float::{Ctx, Inputs},
    ir::{DType, Data, Element, Tensor},
};
use half::{bf16, f16};

/// Floating point to integer drops the fraction and saturates (NaN becomes 0); integer to a narrower integer drops the
/// high bits; everything to a floating-point type rounds half to even. Only zero is false. The attribute `saturate`
/// speaks of 8-bit floats, which the IR does not have.
pub(in crate::exec::float) fn cast(to: DType, _saturate: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "input")?;
    if t.dtype() == to {
        return args::same(t, t.shape().to_vec(), ctx);
    }
    let data = match t.data() {
        Data::F32(v) => from(v, to),
        Data::F64(v) => from(v, to),
        Data::F16(v) => from(v, to),
        Data::BF16(v) => from(v, to),
        Data::I8(v) => from(v, to),
        Data::I16(v) => from(v, to),
        Data::I32(v) => from(v, to),
        Data::I64(v) => from(v, to),
        Data::U8(v) => from(v, to),
        Data::U16(v) => from(v, to),
        Data::U32(v) => from(v, to),
        Data::U64(v) => from(v, to),
        Data::Bool(v) => from(&v.iter().map(|&b| u8::from(b != 0)).collect::<Vec<_>>(), to),
    };
    Tensor::new(t.shape().to_vec(), data)
}

fn from<S: Number>(v: &[S], to: DType) -> Data {
    match to {
        DType::F32 => into::<S, f32>(v),
        DType::F64 => into::<S, f64>(v),
        DType::F16 => into::<S, f16>(v),
        DType::BF16 => into::<S, bf16>(v),
        DType::I8 => into::<S, i8>(v),
        DType::I16 => into::<S, i16>(v),
        DType::I32 => into::<S, i32>(v),
        DType::I64 => into::<S, i64>(v),
        DType::U8 => into::<S, u8>(v),
        DType::U16 => into::<S, u16>(v),
        DType::U32 => into::<S, u32>(v),
        DType::U64 => into::<S, u64>(v),
        DType::Bool => Data::Bool(v.iter().map(|&x| u8::from(x.truth())).collect::<Vec<_>>().into()),
    }
}

fn into<S: Number, D: Number>(v: &[S]) -> Data {
    D::wrap(v.iter().map(|&x| D::narrow(x.wide())).collect::<Vec<_>>().into())
}

/// A number without loss: every element type fits one of these. Known when compiled, so that no branch is left.
enum Wide {
    Real(f64),
    Signed(i64),
    Unsigned(u64),
}

trait Number: Element {
    fn wide(self) -> Wide;
    fn narrow(w: Wide) -> Self;
    fn truth(self) -> bool {
        match self.wide() {
            Wide::Real(x) => x != 0.0,
            Wide::Signed(x) => x != 0,
            Wide::Unsigned(x) => x != 0,
        }
    }
}

macro_rules! number {
    ($($t:ty => $v:ident),*) => {$(
        impl Number for $t {
            #[inline(always)]
            fn wide(self) -> Wide { Wide::$v(self.into()) }
            #[inline(always)]
            fn narrow(w: Wide) -> Self {
                match w {
                    Wide::Real(x) => x as $t,
                    Wide::Signed(x) => x as $t,
                    Wide::Unsigned(x) => x as $t,
                }
            }
        }
    )*};
}
number!(f32 => Real, f64 => Real, i8 => Signed, i16 => Signed, i32 => Signed, i64 => Signed,
    u8 => Unsigned, u16 => Unsigned, u32 => Unsigned, u64 => Unsigned);

macro_rules! half_number {
    ($($t:ty),*) => {$(
        impl Number for $t {
            #[inline(always)]
            fn wide(self) -> Wide { Wide::Real(self.to_f64()) }
            #[inline(always)]
            fn narrow(w: Wide) -> Self {
                match w {
                    Wide::Real(x) => <$t>::from_f32(odd_f32(x)),
                    Wide::Signed(x) => <$t>::from_f32(odd_f32(odd(x.unsigned_abs()).copysign(x as f64))),
                    Wide::Unsigned(x) => <$t>::from_f32(odd_f32(odd(x))),
                }
            }
        }
    )*};
}
half_number!(f16, bf16);

/// An integer as f64, rounded to odd: digits that are cut off leave the last kept one odd. Rounding once more to fewer
/// digits then gives what rounding the integer itself would.
fn odd(x: u64) -> f64 {
    let cut = 11u32.saturating_sub(x.leading_zeros());
    let kept = x >> cut << cut;
    let sticky = if kept == x { 0 } else { 1u64 << cut };
    (kept | sticky) as f64
}

/// As f32, rounded to odd. (Half precision is not made from f64 directly: that conversion forgets the low half of the digits.)
fn odd_f32(x: f64) -> f32 {
    let y = x as f32;
    let (exact, bits) = (f64::from(y), y.to_bits());
    if exact == x || x.is_nan() {
        y
    } else if exact.abs() > x.abs() {
        f32::from_bits((bits - 1) | 1)
    } else {
        f32::from_bits(bits | 1)
    }
}
