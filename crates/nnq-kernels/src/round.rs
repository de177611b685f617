//! The one place of the project that rounds. See `docs/numerics.md`.
//!
//! The scalar functions here are the specification. `vector` holds the same formulas on vectors,
//! tested against these with tolerance 0.
//!
//! | function | formula | ties |
//! |---|---|---|
//! | [`quantize_f32`] | `rne(x / s) + z` | to even |
//! | [`requantize_onnx`] | `rne(f32(acc) * m) + z` | to even |
//! | [`dynamic_grid`] | `s = (hi - lo) / 255`, `z = rne(-lo / s)` | to even |
//! | [`requantize_dyadic`] | `(acc * m + 2^(t-1)) >> t` | toward +infinity |
//! | [`AddDyadic::apply`] | `(a * ma + b * mb + 2^(t-1)) >> t` | toward +infinity |
//! | [`requantize_gemmlowp`] | two steps: SRDHM, then a division by a power of two | +infinity, then away from zero |
//! | [`requantize_tflite_single`] | `(acc * m + 2^(30-s)) >> (31-s)` | toward +infinity |
//! | [`requantize_hawq`] | `rne(acc * m / 2^t)` in exact arithmetic | to even |
pub mod integers;
pub(crate) mod vector;
pub(crate) mod words;

use serde::{Deserialize, Serialize};

/// Round half to even.
#[inline]
pub fn rne_f32(x: f32) -> f32 {
    x.round_ties_even()
}

/// Round half to even.
#[inline]
pub fn rne_f64(x: f64) -> f64 {
    x.round_ties_even()
}

/// As [`rne_f32`] for `|x| <= 2^22`, in two additions, which every machine does on vectors. Beyond, the result is no integer next to `x`; a zero
/// comes out as +0.
#[inline]
pub fn rne_within(x: f32) -> f32 {
    // A number in [2^23, 2^24) has steps of 1: the addition rounds to them, half to even, and the subtraction is exact.
    const STEPS_OF_ONE: f32 = 12_582_912.0;
    (x + STEPS_OF_ONE) - STEPS_OF_ONE
}

/// `clamp(rne(x / scale), lo - zero, hi - zero) + zero`, with a binary32 division. NaN gives `lo`.
///
/// `lo`, `hi` and `zero` are codes of at most 16 bits, so that their differences are exact in `f32`.
#[inline]
pub fn quantize_f32(x: f32, scale: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    to_code(x / scale, zero, lo, hi)
}

/// Stochastic rounding: as [`quantize_f32`], but to the code below `x / scale` or, where the part above it is more than `draw`, to the code above.
/// With `draw` uniform in `[0, 1)` the mean is `x / scale`; what lies on the grid stays.
#[inline]
pub fn stochastic_f32(x: f32, scale: f32, zero: i32, lo: i32, hi: i32, draw: f32) -> i32 {
    let v = x / scale;
    let below = v.floor();
    to_code(if v - below > draw { below + 1.0 } else { below }, zero, lo, hi)
}

/// The grid of dynamic quantization (`docs/numerics.md` section 11): unsigned codes of 8 bits over numbers from
/// `low <= 0` to `high >= 0`. The scale is `(high - low) / 255`, or 1 where that is 0; the zero point is
/// `rne(clamp(0 - low / scale, 0, 255))`. `None` where `high - low` is no finite number.
#[inline]
pub fn dynamic_grid(low: f32, high: f32) -> Option<(f32, u8)> {
    let range = high - low;
    if !range.is_finite() {
        return None;
    }
    let scale = range / 255.0;
    let scale = if scale == 0.0 { 1.0 } else { scale };
    Some((scale, rne_f32((0.0 - low / scale).clamp(0.0, 255.0)) as u8))
}

/// The real number of an accumulator of a dynamic product: `f32(acc) * (x_scale * w_scale) + bias`, every operation
/// rounded once.
#[inline]
pub fn dynamic_real(acc: i32, x_scale: f32, w_scale: f32, bias: f32) -> f32 {
    acc as f32 * (x_scale * w_scale) + bias
}

/// `f32(q - zero) * scale`.
#[inline]
pub fn dequantize_f32(q: i32, scale: f32, zero: i32) -> f32 {
    (q - zero) as f32 * scale
}

/// `clamp(rne(f32(acc) * m), lo - zero, hi - zero) + zero`, with `m = (sx * sw) / sy` in binary32.
#[inline]
pub fn requantize_onnx(acc: i32, m: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    to_code(acc as f32 * m, zero, lo, hi)
}

/// `clamp(((acc * m + 2^(t-1)) >> t) + zero, lo, hi)`: round half up.
#[inline]
pub fn requantize_dyadic(acc: i32, by: Dyadic, zero: i32, lo: i32, hi: i32) -> i32 {
    (by.apply(acc) + i64::from(zero)).clamp(i64::from(lo), i64::from(hi)) as i32
}

/// The clamp comes before the conversion, so that infinities saturate; `max` turns NaN into `lo`.
#[inline]
fn to_code(real: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    let code = rne_f32(real).max((lo - zero) as f32).min((hi - zero) as f32);
    code as i32 + zero
}

/// A positive real number as `mult * 2^-shift`, `2^30 <= mult < 2^31` and `1 <= shift <= 62`, or
/// `mult = 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dyadic {
    /// The multiplier `m`.
    pub mult: i32,
    /// The shift `t`.
    pub shift: u8,
}

impl Dyadic {
    /// `m = f * 2^e` with `0.5 <= f < 1` becomes `mult = rne(f * 2^31)`, `shift = 31 - e`; a
    /// multiplier of `2^31` is halved. A shift beyond 62 becomes `mult = 0, shift = 1`: everything
    /// would round to 0. `None` when the shift would be below 1 (`m >= 2^30`) or `m` is negative or
    /// not finite.
    pub fn from_real(m: f64) -> Option<Dyadic> {
        const ZERO: Dyadic = Dyadic { mult: 0, shift: 1 };
        if !m.is_finite() || m < 0.0 {
            return None;
        }
        if m == 0.0 {
            return Some(ZERO);
        }
        let (fraction, mut exponent) = frexp(m);
        let mut mult = rne_f64(fraction * 2f64.powi(31)) as i64;
        if mult == 1 << 31 {
            mult = 1 << 30;
            exponent += 1;
        }
        match 31 - exponent {
            ..1 => None,
            shift @ 1..=62 => Some(Dyadic { mult: mult as i32, shift: shift as u8 }),
            _ => Some(ZERO),
        }
    }

    /// `(acc * mult + 2^(shift-1)) >> shift` in 64 bits: round half up.
    #[inline]
    pub fn apply(self, acc: i32) -> i64 {
        let product = i64::from(acc) * i64::from(self.mult);
        (product + (1i64 << (self.shift - 1))) >> self.shift
    }
}

/// Two positive real numbers over one power of two, for the sum of two tensors: `ma * 2^-shift` and
/// `mb * 2^-shift` with `ma, mb <= 2^20` and `1 <= shift <= 31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddDyadic {
    /// Multiplier of the first operand.
    pub ma: i32,
    /// Multiplier of the second operand.
    pub mb: i32,
    /// The common shift `t`.
    pub shift: u8,
}

impl AddDyadic {
    /// `max(ma, mb) = f * 2^e` with `0.5 <= f < 1` gives `t = min(20 - e, 31)`; the multipliers are
    /// `rne(ma * 2^t)` and `rne(mb * 2^t)`. `None` when `t < 1` (a factor of `2^19` or more) or a factor is
    /// negative or not finite.
    pub fn from_real(ma: f64, mb: f64) -> Option<AddDyadic> {
        let usable = |m: f64| m.is_finite() && m >= 0.0;
        if !usable(ma) || !usable(mb) {
            return None;
        }
        let (_, exponent) = frexp(ma.max(mb));
        let shift = (20 - exponent).min(31);
        if shift < 1 {
            return None;
        }
        let scaled = |m: f64| rne_f64(m * 2f64.powi(shift)) as i32;
        Some(AddDyadic { ma: scaled(ma), mb: scaled(mb), shift: shift as u8 })
    }

    /// `(a * ma + b * mb + 2^(t-1)) >> t`: round half up. For `|a|, |b| <= 255` everything fits
    /// 32 bits.
    #[inline]
    pub fn apply(self, a: i32, b: i32) -> i32 {
        (a * self.ma + b * self.mb + (1 << (self.shift - 1))) >> self.shift
    }
}

/// `x = fraction * 2^exponent` with `0.5 <= fraction < 1`. Zero gives a very small exponent.
fn frexp(x: f64) -> (f64, i32) {
    if x == 0.0 {
        return (0.0, -2000);
    }
    const FRACTION: u64 = (1 << 52) - 1;
    let normal = x.abs() >= f64::MIN_POSITIVE;
    let (bits, offset) = match normal {
        true => (x.to_bits(), 0),
        false => ((x * 2f64.powi(54)).to_bits(), -54),
    };
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1022 + offset;
    (f64::from_bits((bits & FRACTION) | (1022 << 52)), exponent)
}

/// Requantization of one accumulator, in either profile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum ScalarRequant {
    /// [`requantize_onnx`] with this multiplier.
    Onnx(f32),
    /// [`requantize_dyadic`] with this multiplier.
    Dyadic(Dyadic),
}

impl ScalarRequant {
    /// Whether it is one that the formulas allow: of a dyadic one, `mult >= 0` and `1 <= shift <= 62`.
    pub(crate) fn is_valid(self) -> bool {
        match self {
            ScalarRequant::Dyadic(by) => by.mult >= 0 && (1..=62).contains(&by.shift),
            ScalarRequant::Onnx(_) => true,
        }
    }

    /// The output code of `acc`.
    #[inline]
    pub fn apply(self, acc: i32, zero: i32, lo: i32, hi: i32) -> i32 {
        match self {
            ScalarRequant::Onnx(m) => requantize_onnx(acc, m, zero, lo, hi),
            ScalarRequant::Dyadic(by) => requantize_dyadic(acc, by, zero, lo, hi),
        }
    }
}

/// gemmlowp's saturating rounding doubling high multiplication: `a * b / 2^31`, rounded half toward
/// +infinity; `i32::MIN * i32::MIN` saturates to `i32::MAX`.
///
/// The nudge is `2^30` for a product `>= 0` and `1 - 2^30` otherwise, and the division truncates; the
/// two together put every tie, of either sign, upward.
#[inline]
pub fn srdhm(a: i32, b: i32) -> i32 {
    if a == i32::MIN && b == i32::MIN {
        return i32::MAX;
    }
    let product = i64::from(a) * i64::from(b);
    let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
    ((product + nudge) / (1 << 31)) as i32
}

/// gemmlowp's division by `2^exponent`, `0 <= exponent <= 31`, rounded half away from zero.
#[inline]
pub fn rounding_divide_by_pot(x: i32, exponent: u8) -> i32 {
    let mask = ((1i64 << exponent) - 1) as i32;
    let remainder = x & mask;
    let threshold = (mask >> 1) + i32::from(x < 0);
    (x >> exponent) + i32::from(remainder > threshold)
}

/// The double rounding of gemmlowp and older TFLite kernels for the factor `mult * 2^(shift - 31)`:
/// `rounding_divide_by_pot(srdhm(acc << max(shift, 0), mult), max(-shift, 0))`, the left shift
/// wrapping as there. Differs from one exact rounding in about 2 of 1000 accumulators.
#[inline]
pub fn requantize_gemmlowp(acc: i32, mult: i32, shift: i8) -> i32 {
    let left = shift.max(0) as u32;
    let right = (-shift.min(0)) as u8;
    rounding_divide_by_pot(srdhm(acc.wrapping_shl(left), mult), right)
}

/// The single rounding of newer TFLite kernels for the factor `mult * 2^(shift - 31)`:
/// `(acc * mult + 2^(30-shift)) >> (31-shift)`, half toward +infinity. `-31 <= shift <= 30`.
#[inline]
pub fn requantize_tflite_single(acc: i32, mult: i32, shift: i8) -> i64 {
    let total = 31 - i32::from(shift);
    let product = i64::from(acc) * i64::from(mult);
    (product + (1i64 << (total - 1))) >> total
}

/// The dyadic requantization of HAWQ, in exact arithmetic: `rne(acc * by.mult / 2^by.shift)`, half to
/// even. HAWQ itself rounds its multiplier half up ([`hawq_multiplier`]).
#[inline]
pub fn requantize_hawq(acc: i32, by: Dyadic) -> i64 {
    let product = i64::from(acc) * i64::from(by.mult);
    let floor = product >> by.shift;
    let remainder = product - (floor << by.shift);
    let half = 1i64 << (by.shift - 1);
    floor + i64::from(remainder > half || (remainder == half && floor & 1 == 1))
}

/// HAWQ's multiplier: as [`Dyadic::from_real`], but `mult = floor(f * 2^31 + 0.5)`, half up.
pub fn hawq_multiplier(m: f64) -> Option<Dyadic> {
    if !m.is_finite() || m <= 0.0 {
        return None;
    }
    let (fraction, mut exponent) = frexp(m);
    let mut mult = (fraction * 2f64.powi(31) + 0.5).floor() as i64;
    if mult == 1 << 31 {
        mult = 1 << 30;
        exponent += 1;
    }
    let shift = 31 - exponent;
    (1..=62).contains(&shift).then_some(Dyadic { mult: mult as i32, shift: shift as u8 })
}

#[cfg(test)]
mod tests;
