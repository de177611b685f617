//! Codes of 16 bits, softmax and layer normalisation: `docs/numerics.md` section 14.
//!
//! A code of 9 to 16 bits is a word: signed ones as they are, unsigned ones, with their zero point, lowered by `2^15`.
mod rows;
mod vector;

pub use rows::{NormRows, RowMask, SoftmaxRows};

use crate::{
    Isa,
    isa::dispatch,
    round::{AddDyadic, Dyadic, dequantize_f32, quantize_f32},
    simd::{Op, Simd},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use vector::{Added, Made, Read, Rescaled};

/// How a code is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Width {
    /// A byte, unsigned.
    Byte,
    /// A word, signed.
    Word,
    /// A sum of 32 bits.
    Sum,
}

impl Width {
    /// Bytes of a code.
    pub fn bytes(self) -> usize {
        match self {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Sum => 4,
        }
    }

    /// Whether these are codes that are stored so.
    pub fn holds(self, lo: i32, hi: i32) -> bool {
        let (least, most) = match self {
            Width::Byte => (0, 255),
            Width::Word => (i16::MIN.into(), i16::MAX.into()),
            Width::Sum => (i32::MIN, i32::MAX),
        };
        least <= lo && lo <= hi && hi <= most
    }
}

/// Codes in memory.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Codes<'a> {
    Bytes(&'a [u8]),
    Words(&'a [i16]),
    Sums(&'a [i32]),
}

/// Codes in memory, to be written.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum CodesMut<'a> {
    Bytes(&'a mut [u8]),
    Words(&'a mut [i16]),
}

/// What is done to all of some codes, however they are stored.
trait Each {
    fn run<X: Read, Y: Made>(&self, x: &[X], y: &mut [Y]);
}

/// Does it.
fn each(x: Codes<'_>, y: CodesMut<'_>, work: &impl Each) {
    match (x, y) {
        (Codes::Bytes(x), CodesMut::Bytes(y)) => work.run(x, y),
        (Codes::Bytes(x), CodesMut::Words(y)) => work.run(x, y),
        (Codes::Words(x), CodesMut::Bytes(y)) => work.run(x, y),
        (Codes::Words(x), CodesMut::Words(y)) => work.run(x, y),
        (Codes::Sums(x), CodesMut::Bytes(y)) => work.run(x, y),
        (Codes::Sums(x), CodesMut::Words(y)) => work.run(x, y),
    }
}

/// Plain code that is compiled for an instruction set.
struct Plain<F>(F);

impl<F: FnOnce()> Op for Plain<F> {
    type Out = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        (self.0)();
    }
}

/// Runs plain code, compiled for `isa`.
fn compiled<F: FnMut()>(isa: Isa, mut work: F) {
    if dispatch(isa, Plain(&mut work)).is_none() {
        work();
    }
}

/// A zero point and bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Target {
    pub zero: i32,
    pub lo: i32,
    pub hi: i32,
    pub width: Width,
}

impl Target {
    #[inline(always)]
    fn code(self, steps: i64) -> i32 {
        (steps + i64::from(self.zero)).clamp(self.lo.into(), self.hi.into()) as i32
    }

    pub(crate) fn parts(self) -> (i32, i32, i32) {
        (self.zero, self.lo, self.hi)
    }

    /// Whether the bounds are codes of this width, and the zero point one of 17 bits.
    pub fn is_valid(self) -> bool {
        self.width != Width::Sum && self.width.holds(self.lo, self.hi) && self.zero.unsigned_abs() <= 1 << 16
    }
}

/// Codes times a factor for each column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rescale {
    /// How the operand is stored.
    pub from: Width,
    /// Its zero point.
    pub x_zero: i32,
    /// The factor of each column; multipliers may be negative.
    pub mult: Arc<[i32]>,
    /// Shifts.
    pub shift: Arc<[u8]>,
    /// The operand less its zero point is less than `2^reach` in magnitude.
    pub reach: u8,
    /// The result.
    pub to: Target,
}

impl Rescale {
    /// Whether the numbers fit each other.
    pub fn is_whole(&self) -> bool {
        let shifts = self.shift.iter().all(|s| (1..=62).contains(s));
        let zero = self.from != Width::Sum || self.x_zero == 0;
        let near = self.x_zero.unsigned_abs() <= 1 << 16 && self.reach <= 31;
        !self.mult.is_empty() && self.mult.len() == self.shift.len() && shifts && zero && near && self.to.is_valid()
    }

    /// Whole rows: `clamp((((x - x_zero) * mult + 2^(t-1)) >> t) + zero, lo, hi)`.
    ///
    /// # Panics
    /// When the lengths differ or the widths are not those that were said.
    pub fn run(&self, isa: Isa, x: Codes<'_>, y: CodesMut<'_>) {
        assert!(self.is_whole(), "a scaling whose parts do not fit each other");
        each(x, y, &OnVectors(self, isa));
    }
}

/// Whether 32 bits hold all that vectors compute of a number of at most `2^reach` in magnitude times these factors: what has fewer than 33 bits to go is
/// multiplied by a power of two before.
pub fn are_near(mult: &[i32], shift: &[u8], reach: u8) -> bool {
    mult.iter().zip(shift).all(|(&mult, &shift)| mult == 0 || 33u8.saturating_sub(shift) + reach <= 31)
}

/// A piece of work, and the instruction set that it is compiled for.
struct OnVectors<'a, W>(&'a W, Isa);

impl Each for OnVectors<'_, Rescale> {
    fn run<X: Read, Y: Made>(&self, x: &[X], y: &mut [Y]) {
        let &Self(spec, isa) = self;
        let (columns, zero, to) = (spec.mult.len(), spec.x_zero, spec.to);
        assert!(x.len() == y.len() && x.len().is_multiple_of(columns), "{} codes of rows of {columns}", x.len());
        let by = |j: usize| Dyadic { mult: spec.mult[j], shift: spec.shift[j] };
        let done = if are_near(&spec.mult, &spec.shift, spec.reach) {
            let (mult, shift) = (&*spec.mult, &*spec.shift);
            dispatch(isa, Rescaled { x, y: &mut *y, zero, mult, shift, to }).unwrap_or(0)
        } else {
            0
        };
        for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)) {
            for j in done..columns {
                y[j] = Y::of(to.code(by(j).apply(x[j].into() - zero)));
            }
        }
    }
}

/// A sum of codes of which some are words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddWide {
    /// Multipliers, the second negative for a difference.
    pub by: AddDyadic,
    /// How the operands are stored, and their zero points.
    pub from: [(Width, i32); 2],
    /// The result.
    pub to: Target,
}

impl AddWide {
    /// Whether the numbers fit each other.
    pub fn is_whole(&self) -> bool {
        let AddDyadic { ma, mb, shift } = self.by;
        let small = ma.unsigned_abs() <= 1 << 20 && mb.unsigned_abs() <= 1 << 20 && (1..=31).contains(&shift);
        small && self.to.is_valid() && self.from.iter().all(|(w, z)| *w != Width::Sum && z.unsigned_abs() <= 1 << 16)
    }

    /// Element by element.
    ///
    /// # Panics
    /// When the lengths differ or the widths are not those that were said.
    pub fn run(&self, isa: Isa, a: Codes<'_>, b: Codes<'_>, y: CodesMut<'_>) {
        assert!(self.is_whole(), "a sum whose parts do not fit each other");
        match a {
            Codes::Bytes(a) => each(b, y, &To { spec: self, isa, a }),
            Codes::Words(a) => each(b, y, &To { spec: self, isa, a }),
            Codes::Sums(a) => each(b, y, &To { spec: self, isa, a }),
        }
    }
}

/// A sum whose first operand is known.
struct To<'a, A> {
    spec: &'a AddWide,
    isa: Isa,
    a: &'a [A],
}

impl<A: Read> Each for To<'_, A> {
    fn run<X: Read, Y: Made>(&self, b: &[X], y: &mut [Y]) {
        let (a, n) = (self.a, y.len());
        assert!(a.len() == n && b.len() == n, "sums of {} and {} codes to {n}", a.len(), b.len());
        let AddWide { from: [(_, za), (_, zb)], by, to } = *self.spec;
        // Codes less their zero points are at most 2^17 in magnitude.
        let most = (i64::from(by.ma.unsigned_abs()) + i64::from(by.mb.unsigned_abs())) << 17;
        let done = if (most + (1 << by.shift)) >> by.shift < i32::MAX.into() {
            dispatch(self.isa, Added { a, b, y: &mut *y, zeros: [za, zb], by, to }).unwrap_or(0)
        } else {
            0
        };
        for i in done..n {
            y[i] = Y::of(to.code(by.apply_wide(a[i].into() - za, b[i].into() - zb)));
        }
    }
}

/// A code for each code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lut {
    /// How the operand is stored, a byte or a word.
    pub from: Width,
    /// The code that the first entry is for.
    pub least: i32,
    /// An entry for each code from there on; what lies beyond has the last one's.
    pub table: Arc<[i16]>,
    /// How the result is stored.
    pub to: Width,
}

impl Lut {
    /// Whether the numbers fit each other.
    pub fn is_whole(&self) -> bool {
        let codes = self.from != Width::Sum && self.to != Width::Sum && self.least.unsigned_abs() <= 1 << 16;
        let entries = self.table.iter().all(|&e| self.to.holds(e.into(), e.into()));
        codes && entries && (1..=1 << 16).contains(&self.table.len())
    }

    /// Element by element.
    ///
    /// # Panics
    /// When the lengths differ or the widths are not those that were said.
    pub fn run(&self, isa: Isa, x: Codes<'_>, y: CodesMut<'_>) {
        assert!(!self.table.is_empty(), "a table without entries");
        each(x, y, &OnVectors(self, isa));
    }
}

/// Codes whose places in a table are found at once.
const RUN: usize = 64;

impl Each for OnVectors<'_, Lut> {
    fn run<X: Read, Y: Made>(&self, x: &[X], y: &mut [Y]) {
        let &Self(Lut { least, table, .. }, isa) = self;
        assert_eq!(x.len(), y.len());
        let last = table.len() as i32 - 1;
        compiled(
            isa,
            #[inline(always)]
            || {
                for (x, y) in x.chunks(RUN).zip(y.chunks_mut(RUN)) {
                    let mut at = [0; RUN];
                    for (at, &x) in at.iter_mut().zip(x) {
                        *at = (x.into() - least).clamp(0, last);
                    }
                    for (y, &at) in y.iter_mut().zip(&at) {
                        // SAFETY: the table has an entry for each number from 0 to `last`.
                        *y = Y::of(unsafe { *table.get_unchecked(at as usize) }.into());
                    }
                }
            },
        );
    }
}

/// Real numbers to words: [`quantize_f32`].
///
/// # Panics
/// When the lengths differ.
pub fn quantize(isa: Isa, x: &[f32], scale: f32, to: Target, y: &mut [i16]) {
    assert_eq!(x.len(), y.len());
    compiled(
        isa,
        #[inline(always)]
        || {
            for i in 0..x.len() {
                y[i] = quantize_f32(x[i], scale, to.zero, to.lo, to.hi) as i16;
            }
        },
    );
}

/// Words to real numbers: [`dequantize_f32`].
///
/// # Panics
/// When the lengths differ.
pub fn dequantize(isa: Isa, x: &[i16], scale: f32, zero: i32, y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    compiled(
        isa,
        #[inline(always)]
        || {
            for i in 0..x.len() {
                y[i] = dequantize_f32(x[i].into(), scale, zero);
            }
        },
    );
}

#[cfg(test)]
mod tests;
