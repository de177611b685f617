//! Exact decimal numbers, and their binary digits by the two methods that people use: halving and doubling.
use crate::error::{Error, Result};

/// Longer texts are refused.
const MAX_DIGITS: usize = 1000;
/// Larger exponents are refused: far beyond every format.
const MAX_EXPONENT: i64 = 5000;
/// Decimal digits per limb.
const DIGITS: usize = 9;
const LIMB: u32 = 1_000_000_000;

/// A finite decimal number, exactly: limbs of nine decimal digits, the most significant first.
#[derive(Clone, Debug)]
pub(super) struct Decimal {
    pub negative: bool,
    integer: Vec<u32>,
    fraction: Vec<u32>,
}

/// What a text says.
pub(super) enum Parsed {
    Finite(Decimal),
    Infinite { negative: bool },
    Nan,
}

pub(super) fn parse(text: &str) -> Result<Parsed> {
    let wrong = || {
        Error::usage(format!("{text:?} is no number"))
            .cure("write a decimal number such as 85.125 or -1.5e-3, inf or nan")
    };
    let text = text.trim();
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    match rest.to_ascii_lowercase().as_str() {
        "inf" | "infinity" => return Ok(Parsed::Infinite { negative }),
        "nan" => return Ok(Parsed::Nan),
        _ => {}
    }
    let (digits, exponent) = match rest.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent),
        None => (rest, "0"),
    };
    let (before, after) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let bare = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if before.len() + after.len() == 0
        || bare.is_empty()
        || !all_digits(before)
        || !all_digits(after)
        || !all_digits(bare)
    {
        return Err(wrong());
    }
    if before.len() + after.len() > MAX_DIGITS {
        return Err(Error::value(format!("a number of {} digits (at most {MAX_DIGITS})", before.len() + after.len())));
    }
    let exponent = exponent.parse::<i64>().ok().filter(|e| e.abs() <= MAX_EXPONENT).ok_or_else(|| {
        Error::value(format!("an exponent of {exponent}"))
            .cure(format!("use one between -{MAX_EXPONENT} and {MAX_EXPONENT}"))
    })?;
    let mut digits = format!("{before}{after}");
    // Where the point is, counted from the start of the digits.
    let mut point = before.len() as i64 + exponent;
    if point < 0 {
        digits.insert_str(0, &"0".repeat(point.unsigned_abs() as usize));
        point = 0;
    }
    let point = point as usize;
    if point > digits.len() {
        digits.push_str(&"0".repeat(point - digits.len()));
    }
    let (integer, fraction) = digits.split_at(point);
    let pad = |n: usize| "0".repeat(n.next_multiple_of(DIGITS) - n);
    let mut this = Decimal {
        negative,
        integer: limbs(&format!("{}{integer}", pad(integer.len()))),
        fraction: limbs(&format!("{fraction}{}", pad(fraction.len()))),
    };
    this.trim();
    Ok(Parsed::Finite(this))
}

fn limbs(digits: &str) -> Vec<u32> {
    digits.as_bytes().chunks(DIGITS).map(|c| c.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0'))).collect()
}

impl Decimal {
    fn trim(&mut self) {
        let zeros = self.integer.iter().take_while(|&&l| l == 0).count();
        self.integer.drain(..zeros);
        while self.fraction.last() == Some(&0) {
            self.fraction.pop();
        }
    }
    pub fn integer_is_zero(&self) -> bool {
        self.integer.is_empty()
    }
    pub fn fraction_is_zero(&self) -> bool {
        self.fraction.is_empty()
    }
    /// Divides the integer part by two and gives the remainder.
    pub fn halve_integer(&mut self) -> bool {
        let mut odd = 0;
        for limb in &mut self.integer {
            let value = *limb + odd * LIMB;
            (*limb, odd) = (value / 2, value % 2);
        }
        self.trim();
        odd == 1
    }
    /// Doubles the fraction and gives what becomes an integer.
    pub fn double_fraction(&mut self) -> bool {
        let mut carry = 0;
        for limb in self.fraction.iter_mut().rev() {
            let value = *limb * 2 + carry;
            (*limb, carry) = (value % LIMB, value / LIMB);
        }
        self.trim();
        carry == 1
    }
    pub fn integer_text(&self) -> String {
        let digits: String = self.integer.iter().map(|l| format!("{l:09}")).collect();
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() { "0".into() } else { digits.into() }
    }
    /// With the leading `0.`.
    pub fn fraction_text(&self) -> String {
        let digits: String = self.fraction.iter().map(|l| format!("{l:09}")).collect();
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { "0".into() } else { format!("0.{digits}") }
    }
}

/// A positive number in binary: `significand * 2^(exponent - 119)`, the leading one at bit 119.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binary {
    pub exponent: i64,
    pub significand: u128,
    /// Ones follow beyond the significand.
    pub more: bool,
}

/// Bits of [`Binary::significand`]: more than twice those of the widest format, so that rounding has all it needs.
pub(super) const WIDTH: u32 = 120;

impl Binary {
    /// `None` for zero.
    pub fn of(mut x: Decimal) -> Option<Self> {
        let mut bits = Vec::new();
        while !x.integer_is_zero() {
            bits.push(x.halve_integer());
        }
        bits.reverse();
        let mut exponent = bits.len() as i64 - 1;
        while bits.is_empty() && !x.fraction_is_zero() {
            if x.double_fraction() {
                bits.push(true);
            } else {
                exponent -= 1;
            }
        }
        if bits.is_empty() {
            return None;
        }
        while bits.len() < WIDTH as usize && !x.fraction_is_zero() {
            bits.push(x.double_fraction());
        }
        let (kept, rest) = bits.split_at(bits.len().min(WIDTH as usize));
        let significand = kept.iter().fold(0u128, |n, &b| n << 1 | u128::from(b)) << (WIDTH as usize - kept.len());
        Some(Self { exponent, significand, more: rest.contains(&true) || !x.fraction_is_zero() })
    }
    /// The bits after the leading one without zeros at the end, at most `n` and then `...`.
    pub fn after_point(self, n: usize) -> String {
        let all = format!("{:b}", self.significand);
        let bits = if self.more { &all[1..] } else { all[1..].trim_end_matches('0') };
        match bits.len() {
            0 => "0".into(),
            found if found > n => format!("{}...", &bits[..n]),
            _ => bits.into(),
        }
    }
}
