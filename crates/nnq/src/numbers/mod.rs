//! How numbers are stored: bits, steps, rounding, errors. Behind the command `nnq explain`.
//!
//! ```
//! let e = nnq::numbers::explain("85.125", None)?;
//! let f32 = &e.formats[1];
//! assert_eq!((f32.sign.as_str(), f32.exponent.as_str()), ("0", "10000101"));
//! assert_eq!(f32.mantissa, "01010100100000000000000");
//! # Ok::<(), nnq::Error>(())
//! ```
mod decimal;
mod format;
mod render;

use crate::error::{Error, Result};
use decimal::{Binary, Decimal, Parsed};
use format::FORMATS;
use nnq_kernels::round::{dequantize_f32, rne_f32, rne_f64};
use serde::Serialize;

pub use format::{Rounding, Stored};

/// Steps of one kind that are listed at most; [`Steps`] says when there are more.
const LISTED: usize = 64;

/// Bits of [`Steps::normalised`]: those of a binary64 and some that are rounded away.
pub const NORMALISED: usize = 60;

/// Everything about one number.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The number as it was given.
    pub text: String,
    /// From decimal to binary; absent for infinities and NaN.
    pub steps: Option<Steps>,
    /// The number in each floating-point format, the widest first.
    pub formats: Vec<Stored>,
    /// The number as 8-bit integers; empty without a range.
    pub int8: Vec<Int8>,
}

/// The way from decimal to binary.
#[derive(Clone, Debug, Serialize)]
pub struct Steps {
    /// Less than zero (or minus zero).
    pub negative: bool,
    /// The integer part, in decimal.
    pub integer: String,
    /// Its division by two again and again: the number, half of it without the rest, and the rest.
    pub halvings: Vec<(String, String, u8)>,
    /// The integer part in binary: the rests from the last to the first.
    pub integer_bits: String,
    /// The fraction, in decimal.
    pub fraction: String,
    /// Its doubling: the fraction, twice the fraction without the integer, and the integer.
    pub doublings: Vec<(String, String, u8)>,
    /// The fraction in binary: the integers from the first to the last.
    pub fraction_bits: String,
    /// The lists of steps or bits are cut off after [`Steps::halvings`]' and [`Steps::doublings`]' last.
    pub cut_off: bool,
    /// The exponent of two after moving the point behind the leading one; absent for zero.
    pub exponent: Option<i64>,
    /// The bits after the point then, at most [`NORMALISED`] of them (`...` when there are more); empty for zero.
    pub normalised: String,
}

/// The number on an 8-bit grid (numerics, section 2).
#[derive(Clone, Debug, Serialize)]
pub struct Int8 {
    /// `symmetric i8` or `asymmetric u8`.
    pub kind: &'static str,
    /// The range of real numbers that the grid is made for, with zero in it.
    pub range: (f64, f64),
    /// The step.
    pub scale: f32,
    /// The code of zero.
    pub zero_point: i32,
    /// The number's code.
    pub code: i32,
    /// The number was outside the grid.
    pub clamped: bool,
    /// What the code stands for.
    pub value: f32,
    /// That less the given number.
    pub error: f64,
}

/// Explains a decimal number (or `inf`, `nan`). With a `range` (low, high) also its 8-bit codes.
///
/// Formats round to nearest, ties to even, from the exact decimal number (not by way of another format). The two 8-bit
/// floats saturate, as quantizers do.
///
/// # Errors
/// When the text is no number, is longer than a thousand digits, has an exponent beyond 5000, or the range is empty,
/// infinite, or too narrow or wide for a binary32 scale.
pub fn explain(text: &str, range: Option<(f64, f64)>) -> Result<Explanation> {
    let parsed = decimal::parse(text)?;
    let (steps, formats) = match parsed {
        Parsed::Nan => (None, FORMATS.iter().map(|f| f.nan()).collect()),
        Parsed::Infinite { negative } => (None, FORMATS.iter().map(|f| f.infinite(negative)).collect()),
        Parsed::Finite(x) => {
            let binary = Binary::of(x.clone());
            let formats: Vec<Stored> = FORMATS.iter().map(|f| f.store(x.negative, binary)).collect();
            (Some(steps(x, binary)), formats)
        }
    };
    let int8 = match range {
        None => Vec::new(),
        Some(range) => {
            let (wide, single) = (formats[0].value, formats[1].value as f32);
            vec![symmetric(range, wide, single)?, asymmetric(range, wide, single)?]
        }
    };
    Ok(Explanation { text: text.trim().to_owned(), steps, formats, int8 })
}

fn steps(mut x: Decimal, binary: Option<Binary>) -> Steps {
    let mut cut_off = false;
    let (integer, fraction) = (x.integer_text(), x.fraction_text());
    let (mut halvings, mut integer_bits) = (Vec::new(), String::new());
    while !x.integer_is_zero() {
        let before = if halvings.len() < LISTED { x.integer_text() } else { String::new() };
        let rest = u8::from(x.halve_integer());
        integer_bits.insert(0, char::from(b'0' + rest));
        if halvings.len() < LISTED {
            halvings.push((before, x.integer_text(), rest));
        } else {
            cut_off = true;
        }
    }
    let (mut doublings, mut fraction_bits) = (Vec::new(), String::new());
    while !x.fraction_is_zero() {
        if doublings.len() == LISTED {
            cut_off = true;
            break;
        }
        let before = x.fraction_text();
        let one = u8::from(x.double_fraction());
        fraction_bits.push(char::from(b'0' + one));
        doublings.push((before, x.fraction_text(), one));
    }
    if integer_bits.is_empty() {
        integer_bits.push('0');
    }
    Steps {
        negative: x.negative,
        integer,
        halvings,
        integer_bits,
        fraction,
        doublings,
        fraction_bits,
        cut_off,
        exponent: binary.map(|b| b.exponent),
        normalised: binary.map_or_else(String::new, |b| b.after_point(NORMALISED)),
    }
}

/// The range with zero in it.
fn with_zero((low, high): (f64, f64)) -> Result<(f64, f64)> {
    if !(low.is_finite() && high.is_finite() && low <= high) {
        return Err(Error::usage(format!("a range from {low} to {high}")).cure("give a finite low and high, low first"));
    }
    Ok((low.min(0.0), high.max(0.0)))
}

fn scale(width: f64, levels: f64) -> Result<f32> {
    let scale = (width / levels) as f32;
    if scale.is_normal() {
        return Ok(scale);
    }
    Err(Error::value(format!("a range of width {width} has no binary32 scale"))
        .cure("give a wider or a narrower range"))
}

fn symmetric(range: (f64, f64), wide: f64, x: f32) -> Result<Int8> {
    let range = with_zero(range)?;
    let scale = scale(range.1.max(-range.0), 127.0)?;
    Ok(on_grid("symmetric i8", range, scale, 0, (-128, 127), wide, x))
}

fn asymmetric(range: (f64, f64), wide: f64, x: f32) -> Result<Int8> {
    let range = with_zero(range)?;
    let scale = scale(range.1 - range.0, 255.0)?;
    let zero = rne_f64(-range.0 / f64::from(scale)).clamp(0.0, 255.0) as i32;
    Ok(on_grid("asymmetric u8", range, scale, zero, (0, 255), wide, x))
}

fn on_grid(kind: &'static str, range: (f64, f64), scale: f32, zero: i32, grid: (i32, i32), wide: f64, x: f32) -> Int8 {
    let (low, high) = ((grid.0 - zero) as f32, (grid.1 - zero) as f32);
    let rounded = rne_f32(x / scale);
    let code = if x.is_nan() { grid.0 } else { rounded.clamp(low, high) as i32 + zero };
    let value = dequantize_f32(code, scale, zero);
    let clamped = !(low..=high).contains(&rounded);
    Int8 { kind, range, scale, zero_point: zero, code, clamped, value, error: f64::from(value) - wide }
}
