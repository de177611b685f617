//! Codes of 16 bits, softmax and layer normalisation: `docs/numerics.md` section 14.
//!
//! A code of 9 to 16 bits is a word: signed ones as they are, unsigned ones, with their zero point, lowered by `2^15`.
use crate::{
    Isa,
    isa::dispatch,
    round::{
        AddDyadic, Dyadic, dequantize_f32,
        integers::{NEAR, Norm, Softmax, mask_code},
        quantize_f32,
    },
    simd::{Op, Simd},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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

/// A type of codes in memory.
trait Code: Copy {
    fn get(self) -> i32;
    /// A code that this type holds.
    fn set(code: i64) -> Self;
}

impl Code for u8 {
    #[inline(always)]
    fn get(self) -> i32 {
        self.into()
    }
    #[inline(always)]
    fn set(code: i64) -> u8 {
        code as u8
    }
}

impl Code for i16 {
    #[inline(always)]
    fn get(self) -> i32 {
        self.into()
    }
    #[inline(always)]
    fn set(code: i64) -> i16 {
        code as i16
    }
}

impl Code for i32 {
    #[inline(always)]
    fn get(self) -> i32 {
        self
    }
    #[inline(always)]
    fn set(code: i64) -> i32 {
        code as i32
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
    fn code(self, steps: i64) -> i64 {
        (steps + i64::from(self.zero)).clamp(self.lo.into(), self.hi.into())
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
        match (x, y) {
            (Codes::Bytes(x), CodesMut::Bytes(y)) => self.rows(isa, x, y),
            (Codes::Bytes(x), CodesMut::Words(y)) => self.rows(isa, x, y),
            (Codes::Words(x), CodesMut::Bytes(y)) => self.rows(isa, x, y),
            (Codes::Words(x), CodesMut::Words(y)) => self.rows(isa, x, y),
            (Codes::Sums(x), CodesMut::Bytes(y)) => self.rows(isa, x, y),
            (Codes::Sums(x), CodesMut::Words(y)) => self.rows(isa, x, y),
        }
    }

    fn rows<X: Code, Y: Code>(&self, isa: Isa, x: &[X], y: &mut [Y]) {
        let (columns, zero, to) = (self.mult.len(), self.x_zero, self.to);
        assert!(x.len() == y.len() && x.len().is_multiple_of(columns), "{} codes of rows of {columns}", x.len());
        let all = || self.mult.iter().zip(self.shift.iter()).map(|(&mult, &shift)| Dyadic { mult, shift });
        // With 33 bits to go the rounding is added to the high half of the product, and all else fits 32 bits; what has fewer is multiplied by a power of two
        // before, where that fits.
        let missing = |by: Dyadic| if by.mult == 0 { 0 } else { 33u8.saturating_sub(by.shift) };
        if all().any(|by| missing(by) + self.reach > 31) {
            for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)) {
                for ((x, y), by) in x.iter().zip(y).zip(all()) {
                    *y = Y::set(to.code(by.apply(x.get() - zero)));
                }
            }
            return;
        }
        let far = |by: Dyadic| if by.mult == 0 { 33 } else { by.shift.max(33) };
        let lift: Vec<u32> = all().map(|by| missing(by).into()).collect();
        let round: Vec<i32> = all().map(|by| 1 << (far(by) - 33)).collect();
        let shift: Vec<u32> = all().map(|by| u32::from(far(by)) - 32).collect();
        let (mult, lift) = (&self.mult[..columns], &lift[..columns]);
        let (round, shift) = (&round[..columns], &shift[..columns]);
        let (lo, hi) = (to.lo - to.zero, to.hi - to.zero);
        compiled(
            isa,
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)) {
                    for j in 0..columns {
                        let lifted = (x[j].get() - zero).wrapping_shl(lift[j]);
                        let steps = (high(lifted, mult[j]) + round[j]).wrapping_shr(shift[j]);
                        y[j] = Y::set((steps.clamp(lo, hi) + to.zero).into());
                    }
                }
            },
        );
    }
}

/// The high half of a product.
#[inline(always)]
fn high(a: i32, b: i32) -> i32 {
    ((i64::from(a) * i64::from(b)) >> 32) as i32
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
        match (a, b) {
            (Codes::Bytes(a), Codes::Bytes(b)) => self.to(isa, a, b, y),
            (Codes::Bytes(a), Codes::Words(b)) => self.to(isa, a, b, y),
            (Codes::Words(a), Codes::Bytes(b)) => self.to(isa, a, b, y),
            (Codes::Words(a), Codes::Words(b)) => self.to(isa, a, b, y),
            _ => panic!("a sum of sums"),
        }
    }

    fn to<A: Code, B: Code>(&self, isa: Isa, a: &[A], b: &[B], y: CodesMut<'_>) {
        match y {
            CodesMut::Bytes(y) => self.all(isa, a, b, y),
            CodesMut::Words(y) => self.all(isa, a, b, y),
        }
    }

    fn all<A: Code, B: Code, Y: Code>(&self, isa: Isa, a: &[A], b: &[B], y: &mut [Y]) {
        let n = y.len();
        assert!(a.len() == n && b.len() == n, "sums of {} and {} codes to {n}", a.len(), b.len());
        let ([(_, za), (_, zb)], by, to) = (self.from, self.by, self.to);
        compiled(
            isa,
            #[inline(always)]
            || {
                for i in 0..n {
                    y[i] = Y::set(to.code(by.apply_wide(a[i].get() - za, b[i].get() - zb)));
                }
            },
        );
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
    pub fn run(&self, x: Codes<'_>, y: CodesMut<'_>) {
        match (x, y) {
            (Codes::Bytes(x), CodesMut::Bytes(y)) => self.all(x, y),
            (Codes::Bytes(x), CodesMut::Words(y)) => self.all(x, y),
            (Codes::Words(x), CodesMut::Bytes(y)) => self.all(x, y),
            (Codes::Words(x), CodesMut::Words(y)) => self.all(x, y),
            _ => panic!("a table of sums"),
        }
    }

    fn all<X: Code, Y: Code>(&self, x: &[X], y: &mut [Y]) {
        assert_eq!(x.len(), y.len());
        let last = self.table.len() - 1;
        for (y, x) in y.iter_mut().zip(x) {
            *y = Y::set(self.table[((x.get() - self.least).max(0) as usize).min(last)].into());
        }
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

/// A layer normalisation along the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormRows {
    /// The numbers.
    pub norm: Arc<Norm>,
    /// How the operand is stored.
    pub from: Width,
    /// Its zero point.
    pub x_zero: i32,
    /// The result.
    pub to: Target,
}

impl NormRows {
    /// Whether the numbers fit each other.
    pub fn is_whole(&self) -> bool {
        self.norm.is_valid() && self.from != Width::Sum && self.x_zero.unsigned_abs() <= 1 << 15 && self.to.is_valid()
    }

    /// Whole rows.
    ///
    /// # Panics
    /// When the lengths differ or the widths are not those that were said.
    pub fn run(&self, isa: Isa, x: Codes<'_>, y: CodesMut<'_>) {
        match (x, y) {
            (Codes::Bytes(x), CodesMut::Bytes(y)) => self.rows(isa, x, y),
            (Codes::Bytes(x), CodesMut::Words(y)) => self.rows(isa, x, y),
            (Codes::Words(x), CodesMut::Bytes(y)) => self.rows(isa, x, y),
            (Codes::Words(x), CodesMut::Words(y)) => self.rows(isa, x, y),
            _ => panic!("a normalisation of sums"),
        }
    }

    fn rows<X: Code, Y: Code>(&self, isa: Isa, x: &[X], y: &mut [Y]) {
        let (norm, zero, to) = (&*self.norm, self.x_zero, self.to);
        let columns = norm.gain.len();
        let (gain, offset) = (&norm.gain[..columns], &norm.offset[..columns]);
        let near = columns <= NEAR;
        let (lo, hi) = (to.lo - to.zero, to.hi - to.zero);
        assert!(x.len() == y.len() && x.len().is_multiple_of(columns), "{} codes of rows of {columns}", x.len());
        compiled(
            isa,
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)) {
                    let (mut sum, mut squares) = (0i64, 0u64);
                    for x in x {
                        let a = i64::from(x.get() - zero);
                        sum += a;
                        squares += (a * a) as u64;
                    }
                    let row = norm.row(sum, squares);
                    if near {
                        let part = norm.near(row);
                        for i in 0..columns {
                            let steps = part.element(gain[i], offset[i], x[i].get() - zero);
                            y[i] = Y::set((steps.clamp(lo, hi) + to.zero).into());
                        }
                    } else {
                        for i in 0..columns {
                            y[i] = Y::set(to.code(norm.element(i, x[i].get() - zero, row)));
                        }
                    }
                }
            },
        );
    }
}

/// A softmax along the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoftmaxRows {
    /// The numbers.
    pub softmax: Arc<Softmax>,
    /// The scale of the operand: what a mask is divided by.
    pub scale: f32,
    /// Codes of a row.
    pub columns: usize,
    /// The result; bytes.
    pub to: Target,
}

impl SoftmaxRows {
    /// Whether the numbers fit each other.
    pub fn is_whole(&self) -> bool {
        let row = self.columns <= crate::round::integers::ROW;
        row && self.softmax.is_valid() && self.to.is_valid() && self.to.width == Width::Byte
    }

    /// `E` of all differences of bytes.
    pub fn near(&self) -> [u32; 256] {
        let mut near = [0; 256];
        let last = self.softmax.table.len().min(256);
        near[..last].copy_from_slice(&self.softmax.table[..last]);
        near
    }

    /// One row; `mask` is added to the numbers that its codes stand for. `near` is that of [`SoftmaxRows::near`], `room` memory to work in.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn row(
        &self,
        isa: Isa,
        x: &[u8],
        mask: Option<&[f32]>,
        y: &mut [u8],
        (near, room): (&[u32; 256], &mut Vec<i32>),
    ) {
        let n = self.columns;
        assert!(x.len() == n && y.len() == n && mask.is_none_or(|m| m.len() == n), "rows of other sizes than {n}");
        if n == 0 {
            return;
        }
        let (softmax, to) = (&*self.softmax, self.to);
        room.resize(n, 0);
        let room = &mut room[..n];
        // A mask that hides nothing is none.
        let hides = |m: &&[f32]| m.iter().fold(0, |all, m| all | (m.to_bits() << 1)) != 0;
        let sum = match mask.filter(hides) {
            None => {
                let most = x.iter().copied().fold(0, u8::max);
                room.iter_mut().zip(x).for_each(|(e, &q)| *e = near[usize::from(most - q)].cast_signed());
                // At most 2^15 times 2^16.
                room.iter().fold(0u32, |sum, e| sum + e.cast_unsigned())
            }
            Some(mask) => {
                compiled(
                    isa,
                    #[inline(always)]
                    || {
                        for ((u, &q), &m) in room.iter_mut().zip(x).zip(mask) {
                            *u = i32::from(q) + mask_code(m, self.scale);
                        }
                    },
                );
                let most = room.iter().copied().fold(i32::MIN, i32::max);
                room.iter_mut().for_each(|u| *u = softmax.exp(most - *u).cast_signed());
                room.iter().fold(0u32, |sum, e| sum + e.cast_unsigned())
            }
        };
        let factor = softmax.factor(sum.into());
        match u32::try_from(factor) {
            // Shares of at most 2^12: 32 bits hold what follows.
            Ok(factor) => compiled(
                isa,
                #[inline(always)]
                || {
                    for (y, &e) in y.iter_mut().zip(room.iter()) {
                        let share = (u64::from(e.cast_unsigned()) * u64::from(factor) + (1 << 35)) >> 36;
                        *y = (share as i32 + to.zero).clamp(to.lo, to.hi) as u8;
                    }
                },
            ),
            Err(_) => {
                for (y, &e) in y.iter_mut().zip(room.iter()) {
                    *y = to.code(Softmax::share(e.cast_unsigned(), factor)) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{isa::tests::tested, round::requantize_dyadic};

    fn numbers(n: usize, seed: u32) -> Vec<i32> {
        (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b1) >> 7).cast_signed()).collect()
    }
    fn words(n: usize, seed: u32) -> Vec<i16> {
        numbers(n, seed).into_iter().map(|x| x as i16).collect()
    }
    fn bytes(n: usize, seed: u32) -> Vec<u8> {
        numbers(n, seed).into_iter().map(|x| x as u8).collect()
    }
    const WORD: Target = Target { zero: -300, lo: -30_000, hi: 32_767, width: Width::Word };
    const BYTE: Target = Target { zero: 120, lo: 3, hi: 250, width: Width::Byte };

    #[test]
    fn factors_are_the_requantization_of_section_4() {
        let columns = 37;
        let rules: Vec<Dyadic> =
            (0..columns).map(|i| Dyadic::from_real(0.0001 * 1.5f64.powi(i as i32 % 25)).unwrap()).collect();
        let mult: Arc<[i32]> =
            rules.iter().enumerate().map(|(i, r)| if i % 5 == 3 { -r.mult } else { r.mult }).collect();
        let shift: Arc<[u8]> = rules.iter().map(|r| r.shift).collect();
        let sums: Vec<i32> = numbers(3 * columns, 5).into_iter().map(|x| (x - (1 << 24)).wrapping_mul(97)).collect();
        for isa in tested() {
            for (to, reach) in [(WORD, 31), (BYTE, 31), (WORD, 20), (BYTE, 20)] {
                // Some factors are as large as 1/4: these sums are lifted where they are near enough.
                let sums: Vec<i32> = sums.iter().map(|x| if reach == 20 { x >> 11 } else { *x }).collect();
                let spec = Rescale { from: Width::Sum, x_zero: 0, mult: mult.clone(), shift: shift.clone(), reach, to };
                let want = |i: usize| {
                    let by = Dyadic { mult: mult[i % columns], shift: shift[i % columns] };
                    requantize_dyadic(sums[i], by, to.zero, to.lo, to.hi)
                };
                let (mut w, mut b) = (vec![0i16; sums.len()], vec![0u8; sums.len()]);
                match to.width {
                    Width::Word => spec.run(isa, Codes::Sums(&sums), CodesMut::Words(&mut w)),
                    _ => spec.run(isa, Codes::Sums(&sums), CodesMut::Bytes(&mut b)),
                }
                for i in 0..sums.len() {
                    let got = if to.width == Width::Word { i32::from(w[i]) } else { i32::from(b[i]) };
                    assert_eq!(got, want(i), "{isa} {i}");
                }
            }
        }
    }

    #[test]
    fn sums_of_all_widths() {
        let n = 301;
        let (b, w) = (bytes(n, 1), words(n, 2));
        for isa in tested() {
            for (by, negative) in
                [(AddDyadic::from_real(0.01, 0.7).unwrap(), false), (AddDyadic::from_real(3.0, 0.2).unwrap(), true)]
            {
                let by = AddDyadic { mb: if negative { -by.mb } else { by.mb }, ..by };
                let spec = AddWide { by, from: [(Width::Byte, 100), (Width::Word, -7)], to: WORD };
                let mut y = vec![0i16; n];
                spec.run(isa, Codes::Bytes(&b), Codes::Words(&w), CodesMut::Words(&mut y));
                for i in 0..n {
                    let sum = i128::from(i32::from(b[i]) - 100) * i128::from(by.ma)
                        + i128::from(i32::from(w[i]) + 7) * i128::from(by.mb);
                    let want = ((sum + (1 << (by.shift - 1))) >> by.shift) - 300;
                    assert_eq!(i128::from(y[i]), want.clamp(-30_000, 32_767), "{isa} {i}");
                }
            }
        }
    }

    #[test]
    fn vectors_normalise_as_the_scalar_code() {
        for n in [1usize, 5, 64, 385] {
            let gamma: Vec<f32> = numbers(n, 3).iter().map(|x| (x % 100) as f32 / 30.0).collect();
            let norm = Arc::new(Norm::new(0.001, 1e-6, &gamma, &gamma, 0.0005).unwrap());
            let x = words(4 * n, 9);
            for isa in tested() {
                let spec = NormRows { norm: norm.clone(), from: Width::Word, x_zero: 55, to: WORD };
                let mut y = vec![0i16; x.len()];
                spec.run(isa, Codes::Words(&x), CodesMut::Words(&mut y));
                for (x, y) in x.chunks(n).zip(y.chunks(n)) {
                    let codes: Vec<i64> = x.iter().map(|&x| i64::from(x) - 55).collect();
                    let row = norm.row(codes.iter().sum(), codes.iter().map(|a| (a * a) as u64).sum());
                    for i in 0..n {
                        let want = (norm.element(i, codes[i] as i32, row) - 300).clamp(-30_000, 32_767);
                        assert_eq!(i64::from(y[i]), want, "{isa} {n} {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn vectors_share_as_the_scalar_code() {
        for (n, scale) in [(1usize, 0.1f32), (7, 0.004), (128, 0.06), (600, 0.3)] {
            let softmax = Arc::new(Softmax::new(scale, 1.0 / 255.0).unwrap());
            let to = Target { zero: 2, lo: 2, hi: 255, width: Width::Byte };
            let spec = SoftmaxRows { softmax: softmax.clone(), scale, columns: n, to };
            let (x, mut y, mut room) = (bytes(n, 6), vec![0; n], Vec::new());
            let mask: Vec<f32> = (0..n).map(|i| [0.0, -3.7, f32::NEG_INFINITY, 0.3][i % 4]).collect();
            for isa in tested() {
                for mask in [None, Some(&mask[..])] {
                    spec.row(isa, &x, mask, &mut y, (&spec.near(), &mut room));
                    let moved = |i: usize| i32::from(x[i]) + mask.map_or(0, |m| mask_code(m[i], scale));
                    let most = (0..n).map(moved).max().unwrap();
                    let factor = softmax.factor((0..n).map(|i| u64::from(softmax.exp(most - moved(i)))).sum());
                    for (i, &y) in y.iter().enumerate() {
                        let want = (Softmax::share(softmax.exp(most - moved(i)), factor) + 2).clamp(2, 255);
                        assert_eq!(i64::from(y), want, "{isa} {n} {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn tables_hold_beyond_their_ends() {
        let table: Arc<[i16]> = (0..100).map(|i| i * 3 - 20).collect();
        let spec = Lut { from: Width::Word, least: -40, table, to: Width::Word };
        let mut y = [0i16; 4];
        spec.run(Codes::Words(&[-50, -40, 59, 3000]), CodesMut::Words(&mut y));
        assert_eq!(y, [-20, -20, 277, 277]);
        assert!(spec.is_whole() && !Lut { to: Width::Byte, ..spec }.is_whole());
    }
}
