//! Floating-point formats and rounding to them.
use super::decimal::{Binary, WIDTH};
use serde::Serialize;

/// What lies beyond a format's largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Top {
    /// IEEE 754: the largest exponent is for infinity and NaN; overflow gives infinity.
    Infinity,
    /// As IEEE 754, but a conversion saturates, as quantizers do (OCP: the saturating mode).
    Saturate,
    /// OCP E4M3: no infinity; only all ones is NaN; a conversion saturates.
    NoInfinity,
}

/// A binary floating-point format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub name: &'static str,
    exponent_bits: u32,
    mantissa_bits: u32,
    top: Top,
}

/// IEEE 754-2019 binary64, binary32, binary16; bfloat16; OCP 8-bit Floating Point Specification 1.0.
pub(super) const FORMATS: [Format; 6] = [
    Format { name: "f64", exponent_bits: 11, mantissa_bits: 52, top: Top::Infinity },
    Format { name: "f32", exponent_bits: 8, mantissa_bits: 23, top: Top::Infinity },
    Format { name: "f16", exponent_bits: 5, mantissa_bits: 10, top: Top::Infinity },
    Format { name: "bf16", exponent_bits: 8, mantissa_bits: 7, top: Top::Infinity },
    Format { name: "fp8 e4m3", exponent_bits: 4, mantissa_bits: 3, top: Top::NoInfinity },
    Format { name: "fp8 e5m2", exponent_bits: 5, mantissa_bits: 2, top: Top::Saturate },
];

/// How a number became one of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// Nothing was lost.
    Exact,
    /// Towards zero: the rest was less than half of the last bit.
    Down,
    /// Away from zero: the rest was more than half of the last bit.
    Up,
    /// Exactly half: the last bit was 0 and stays.
    TieDown,
    /// Exactly half: the last bit was 1 and is raised to an even one.
    TieUp,
    /// Too large: infinity.
    Overflow,
    /// Too large: the format's largest number.
    Saturated,
}

/// A number as a format stores it.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// `f64`, `f32`, `f16`, `bf16`, `fp8 e4m3` or `fp8 e5m2`.
    pub format: &'static str,
    /// One bit.
    pub sign: String,
    /// The biased exponent's bits.
    pub exponent: String,
    /// The bits after the point.
    pub mantissa: String,
    /// All bits as a hexadecimal number.
    pub hex: String,
    /// The exponent of two that the bits mean (without bias), for finite numbers other than zero.
    pub power: Option<i64>,
    /// What is added to the exponent.
    pub bias: i64,
    /// The exponent's bits are all 0 and the number is not: no leading one is implied.
    pub subnormal: bool,
    /// How it was rounded; absent for infinities and NaN.
    pub rounding: Option<Rounding>,
    /// The number that is really stored (JSON has null for infinity and NaN).
    pub value: f64,
    /// The stored number in decimal, all digits.
    pub decimal: String,
    /// Stored less given, accurate to 2^-119 of the given number; null when infinite.
    pub error: f64,
}

impl Format {
    fn bias(self) -> i64 {
        (1 << (self.exponent_bits - 1)) - 1
    }
    fn ones(bits: u32) -> u64 {
        (1 << bits) - 1
    }
    fn infinity(self) -> u64 {
        Self::ones(self.exponent_bits) << self.mantissa_bits
    }
    /// The code of the largest finite number.
    fn largest(self) -> u64 {
        match self.top {
            Top::Infinity | Top::Saturate => self.infinity() - 1,
            Top::NoInfinity => Self::ones(self.exponent_bits + self.mantissa_bits) - 1,
        }
    }
    /// The value of a finite code without sign; exact, as every format is part of binary64.
    fn value(self, code: u64) -> f64 {
        let mantissa = code & Self::ones(self.mantissa_bits);
        let field = (code >> self.mantissa_bits) as i64;
        let (mantissa, field) = if field == 0 { (mantissa, 1) } else { (mantissa | 1 << self.mantissa_bits, field) };
        libm::ldexp(mantissa as f64, (field - self.bias() - i64::from(self.mantissa_bits)) as i32)
    }

    /// Rounds a positive number to nearest, ties to even: code, way, and stored less given.
    fn nearest(self, x: Binary) -> (u64, Rounding, f64) {
        let lowest = 1 - self.bias();
        // Below the smallest normal number the last bit stays where it is.
        let below = (lowest - x.exponent).max(0);
        let shift = i64::from(WIDTH - 1 - self.mantissa_bits) + below;
        let unit = |n: f64| libm::ldexp(n, (x.exponent - i64::from(WIDTH - 1)) as i32);
        if shift > i64::from(WIDTH) {
            // Less than half of the smallest number.
            return (0, Rounding::Down, -unit(x.significand as f64));
        }
        let shift = shift as u32;
        let kept = x.significand >> shift;
        let (rest, half) = (x.significand - (kept << shift), 1u128 << (shift - 1));
        let way = match rest.cmp(&half) {
            _ if rest == 0 && !x.more => Rounding::Exact,
            std::cmp::Ordering::Less => Rounding::Down,
            std::cmp::Ordering::Equal if !x.more && kept.is_multiple_of(2) => Rounding::TieDown,
            std::cmp::Ordering::Equal if !x.more => Rounding::TieUp,
            _ => Rounding::Up,
        };
        let kept = kept + u128::from(matches!(way, Rounding::Up | Rounding::TieUp));
        // A carry out of the mantissa raises the exponent by itself.
        let field = if below > 0 { 0 } else { (x.exponent - lowest).max(0) as u128 };
        let code = (field << self.mantissa_bits) + kept;
        if field > 1 << 20 || code > u128::from(self.largest()) {
            let way = if self.top == Top::Infinity { Rounding::Overflow } else { Rounding::Saturated };
            let code = if self.top == Top::Infinity { self.infinity() } else { self.largest() };
            let error = match way {
                Rounding::Overflow => f64::INFINITY,
                _ => self.value(code) - unit(x.significand as f64),
            };
            return (code, way, error);
        }
        let difference = (kept << shift) as i128 - x.significand as i128;
        (code as u64, way, unit(difference as f64))
    }

    pub fn store(self, negative: bool, x: Option<Binary>) -> Stored {
        let (code, way, error) = x.map_or((0, Rounding::Exact, 0.0), |x| self.nearest(x));
        let value = if way == Rounding::Overflow { f64::INFINITY } else { self.value(code) };
        let mut stored = self.describe(negative, code, if negative { -value } else { value }, Some(way));
        stored.error = if negative { -error } else { error };
        stored
    }
    pub fn infinite(self, negative: bool) -> Stored {
        let (code, value) = match self.top {
            Top::Infinity | Top::Saturate => (self.infinity(), f64::INFINITY),
            Top::NoInfinity => (self.largest(), self.value(self.largest())),
        };
        let way = (self.top == Top::NoInfinity).then_some(Rounding::Saturated);
        let mut stored = self.describe(negative, code, if negative { -value } else { value }, way);
        stored.error = if value.is_finite() { f64::NEG_INFINITY } else { f64::NAN };
        stored
    }
    pub fn nan(self) -> Stored {
        let quiet = match self.top {
            Top::NoInfinity => self.largest() + 1,
            _ => self.infinity() | 1 << (self.mantissa_bits - 1),
        };
        self.describe(false, quiet, f64::NAN, None)
    }

    fn describe(self, negative: bool, code: u64, value: f64, rounding: Option<Rounding>) -> Stored {
        let (e, m) = (self.exponent_bits as usize, self.mantissa_bits as usize);
        let field = code >> m;
        let subnormal = field == 0 && code != 0;
        let bits = u64::from(negative) << (e + m) | code;
        let finite = value.is_finite() && code != 0;
        Stored {
            format: self.name,
            sign: u8::from(negative).to_string(),
            exponent: format!("{field:0e$b}"),
            mantissa: format!("{:0m$b}", code & Self::ones(self.mantissa_bits)),
            hex: format!("0x{bits:0w$X}", w = (1 + e + m) / 4),
            power: finite.then(|| (field as i64).max(1) - self.bias()),
            bias: self.bias(),
            subnormal,
            rounding,
            value,
            decimal: exact_decimal(value),
            error: f64::NAN,
        }
    }
}

/// All digits of a binary64 number. The smallest has 1074 after the point.
pub(super) fn exact_decimal(x: f64) -> String {
    if !x.is_finite() {
        return x.to_string();
    }
    let text = format!("{x:.1074}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
