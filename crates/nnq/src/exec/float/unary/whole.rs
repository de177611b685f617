//! The functions that integers and booleans have.
use super::args;
use crate::{
    error::Result,
    ir::{Data, Element, Tensor, op::Unary},
};

/// An integer, in the few operations needed here; all wrap around.
trait Whole: Element + Ord {
    fn abs(self) -> Self;
    /// `None`: unsigned.
    fn neg(self) -> Option<Self>;
    fn not(self) -> Self;
    fn sign(self) -> Self;
}

macro_rules! whole {
    ($($t:ty, $abs:expr, $neg:expr);*) => {$(
        impl Whole for $t {
            fn abs(self) -> Self { $abs(self) }
            fn neg(self) -> Option<Self> { $neg(self) }
            fn not(self) -> Self { !self }
            fn sign(self) -> Self {
                match self.cmp(&0) {
                    std::cmp::Ordering::Greater => 1,
                    std::cmp::Ordering::Equal => 0,
                    std::cmp::Ordering::Less => Self::default().wrapping_sub(1),
                }
            }
        }
    )*};
}
whole!(
    i8, i8::wrapping_abs, |x: i8| Some(x.wrapping_neg());
    i16, i16::wrapping_abs, |x: i16| Some(x.wrapping_neg());
    i32, i32::wrapping_abs, |x: i32| Some(x.wrapping_neg());
    i64, i64::wrapping_abs, |x: i64| Some(x.wrapping_neg());
    u8, |x| x, |_| None;
    u16, |x| x, |_| None;
    u32, |x| x, |_| None;
    u64, |x| x, |_| None
);

pub(super) fn run(u: Unary, t: &Tensor) -> Result<Tensor> {
    match t.data() {
        Data::I8(v) => on(u, t, v),
        Data::I16(v) => on(u, t, v),
        Data::I32(v) => on(u, t, v),
        Data::I64(v) => on(u, t, v),
        Data::U8(v) => on(u, t, v),
        Data::U16(v) => on(u, t, v),
        Data::U32(v) => on(u, t, v),
        Data::U64(v) => on(u, t, v),
        Data::Bool(v) if u == Unary::Not => {
            let flipped: Vec<u8> = v.iter().map(|&b| u8::from(b == 0)).collect();
            Tensor::new(t.shape().to_vec(), Data::Bool(flipped.into()))
        }
        _ => args::not_on(u, t.dtype()),
    }
}

fn on<T: Whole>(u: Unary, t: &Tensor, v: &[T]) -> Result<Tensor> {
    let f: fn(T) -> T = match u {
        Unary::Abs => T::abs,
        Unary::BitwiseNot => T::not,
        Unary::Neg if T::default().neg().is_some() => |x| x.neg().unwrap_or_default(),
        Unary::Relu => |x| x.max(T::default()),
        Unary::Sign => T::sign,
        // Whole numbers already.
        Unary::Ceil | Unary::Floor | Unary::Round => |x| x,
        _ => return args::not_on(u, t.dtype()),
    };
    Ok(Tensor::of(t.shape(), v.iter().map(|&x| f(x)).collect()))
}
