//! Arithmetic of two numbers of one type. Integers wrap around.
use crate::ir::Element;

/// What every numeric type can do.
pub(in crate::exec::float) trait Number: Element + PartialOrd {
    /// Integers divide by zero only after it has been ruled out.
    const WHOLE: bool;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    /// Towards zero for integers.
    fn div(self, b: Self) -> Self;
    /// The remainder with the dividend's sign.
    fn fmod(self, b: Self) -> Self;
    fn prelu(self, slope: Self) -> Self {
        if self < Self::default() { self.mul(slope) } else { self }
    }
    #[inline(always)]
    fn nan(self) -> bool {
        false
    }
    /// NaN wins.
    #[inline(always)]
    fn larger(self, b: Self) -> Self {
        if self > b || self.nan() { self } else { b }
    }
    /// NaN wins.
    #[inline(always)]
    fn smaller(self, b: Self) -> Self {
        if self < b || self.nan() { self } else { b }
    }
}

macro_rules! float {
    ($($t:ty),*) => {$(
        impl Number for $t {
            const WHOLE: bool = false;
            #[inline(always)]
            fn add(self, b: Self) -> Self { self + b }
            #[inline(always)]
            fn sub(self, b: Self) -> Self { self - b }
            #[inline(always)]
            fn mul(self, b: Self) -> Self { self * b }
            #[inline(always)]
            fn div(self, b: Self) -> Self { self / b }
            #[inline(always)]
            fn fmod(self, b: Self) -> Self { self % b }
            #[inline(always)]
            fn nan(self) -> bool { self.is_nan() }
        }
    )*};
}
float!(f32, f64);

/// What integers can do besides.
pub(super) trait Whole: Number + Eq + Ord {
    const UNSIGNED: bool;
    /// The remainder with the divisor's sign.
    fn modulo(self, b: Self) -> Self;
    fn and(self, b: Self) -> Self;
    fn or(self, b: Self) -> Self;
    fn xor(self, b: Self) -> Self;
    /// For unsigned types; shifting out everything leaves 0.
    fn left(self, by: Self) -> Self;
    fn right(self, by: Self) -> Self;
}

macro_rules! whole {
    ($($t:ty),*) => {$(
        impl Number for $t {
            const WHOLE: bool = true;
            fn add(self, b: Self) -> Self { self.wrapping_add(b) }
            fn sub(self, b: Self) -> Self { self.wrapping_sub(b) }
            fn mul(self, b: Self) -> Self { self.wrapping_mul(b) }
            fn div(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_div(b) } }
            fn fmod(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_rem(b) } }
        }
        impl Whole for $t {
            #[allow(unused_comparisons)]
            const UNSIGNED: bool = <$t>::MIN == 0;
            #[allow(unused_comparisons)]
            fn modulo(self, b: Self) -> Self {
                let r = self.fmod(b);
                if r != 0 && (r < 0) != (b < 0) { r.wrapping_add(b) } else { r }
            }
            fn and(self, b: Self) -> Self { self & b }
            fn or(self, b: Self) -> Self { self | b }
            fn xor(self, b: Self) -> Self { self ^ b }
            fn left(self, by: Self) -> Self { u32::try_from(by).ok().and_then(|n| self.checked_shl(n)).unwrap_or(0) }
            fn right(self, by: Self) -> Self { u32::try_from(by).ok().and_then(|n| self.checked_shr(n)).unwrap_or(0) }
        }
    )*};
}
whole!(i8, i16, i32, i64, u8, u16, u32, u64);
