//! Softmax, layer normalisation and wide codes in integers: `docs/numerics.md` section 14.
//!
//! All of it in 64 bits, nothing overflows within the limits that the constructors check.
use super::{AddDyadic, Dyadic, frexp, rne_f32, rne_f64};
use serde::{Deserialize, Serialize};

/// What `exp(0)` is in a table of exponentials: `2^16`.
const ONE: f64 = 65536.0;
/// Entries of a table of exponentials at the most.
const ENTRIES: usize = 1 << 16;
/// Elements of a row that a softmax or a normalisation takes: sums of their codes fit.
pub const ROW: usize = 1 << 15;
/// Bits of a share behind the point: 16 of the exponential, 20 of `K`.
pub(super) const SHARE: u32 = 36;
/// Codes are this far from each other at the most where a mask moves them.
const FAR: f32 = 16_777_216.0;

impl AddDyadic {
    /// `(a * ma + b * mb + 2^(t-1)) >> t` in 64 bits, for codes of up to 16 bits.
    #[inline(always)]
    pub fn apply_wide(self, a: i32, b: i32) -> i64 {
        let sum = i64::from(a) * i64::from(self.ma) + i64::from(b) * i64::from(self.mb);
        (sum + (1i64 << (self.shift - 1))) >> self.shift
    }
}

/// The softmax of codes along a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// `E(d) = rne(2^16 * exp(-d * s))` for `d` from 0 to the last that is not 0.
    pub table: Vec<u32>,
    /// `K = rne(2^20 / sy)`.
    pub per: u64,
}

impl Softmax {
    /// For codes of the scale `from`, to codes of the scale `to`. `None` where the exponentials of more than `2^16` codes are not 0, or `to` is less
    /// than `2^-16`.
    pub fn new(from: f32, to: f32) -> Option<Softmax> {
        let fits = |s: f32| s.is_finite() && s > 0.0;
        if !fits(from) || !fits(to) || f64::from(to) * ONE < 1.0 {
            return None;
        }
        let mut table = Vec::new();
        loop {
            let e = rne_f64(ONE * libm::exp(-(table.len() as f64) * f64::from(from))) as u32;
            if e == 0 {
                break;
            }
            if table.len() == ENTRIES {
                return None;
            }
            table.push(e);
        }
        Some(Softmax { table, per: rne_f64(1_048_576.0 / f64::from(to)) as u64 })
    }

    /// Whether the table is one: entries between 1 and `2^16`, the first of them `2^16`, and a factor that fits.
    pub fn is_valid(&self) -> bool {
        let entries = self.table.len() <= ENTRIES && self.table.first() == Some(&65536);
        entries && self.table.iter().all(|e| (1..=65536).contains(e)) && self.per <= 1 << 36
    }

    /// `E(d)`.
    #[inline(always)]
    pub fn exp(&self, d: i32) -> u32 {
        self.table.get(d as usize).copied().unwrap_or(0)
    }

    /// `R = floor(K * 2^16 / S)` of a row whose exponentials sum to `S`: at least `2^16`, of at most [`ROW`] elements.
    #[inline(always)]
    pub fn factor(&self, sum: u64) -> u64 {
        (self.per << 16) / sum.max(1)
    }

    /// `(E * R + 2^35) >> 36`: the share in steps of the result, without its zero point.
    #[inline(always)]
    pub fn share(e: u32, factor: u64) -> i64 {
        ((u64::from(e) * factor + (1 << (SHARE - 1))) >> SHARE) as i64
    }
}

/// What a mask adds to a code: `clamp(rne(m / s), -2^24, 2^24)`; NaN counts as `-2^24`.
#[inline(always)]
pub fn mask_code(mask: f32, scale: f32) -> i32 {
    let steps = rne_f32(mask / scale);
    if steps.is_nan() { -FAR as i32 } else { steps.clamp(-FAR, FAR) as i32 }
}

/// Layer normalisation of a row of codes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// `rne(n^2 * epsilon / s^2)`.
    pub epsilon: u64,
    /// `g = rne(gamma / sy * 2^(t + 12))`.
    pub gain: Vec<i32>,
    /// `b = rne(beta / sy * 2^t)`.
    pub offset: Vec<i32>,
    /// `t`.
    pub shift: u8,
}

/// What all elements of a row share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// `A`, the sum of its codes less their zero point.
    sum: i64,
    /// `h`: the variance is shifted by twice as much.
    shift: u32,
    /// The reciprocal of the deviation: `floor((2^62 - 1) / isqrt(V << 2h))`.
    reciprocal: i32,
}

impl Norm {
    /// For rows of `gamma.len()` codes of the scale `from`, to codes of the scale `to`. `None` where numbers do not fit: more than [`ROW`] elements, scales
    /// that are far apart.
    pub fn new(from: f32, epsilon: f32, gamma: &[f32], beta: &[f32], to: f32) -> Option<Norm> {
        let n = gamma.len();
        if n == 0 || n > ROW || beta.len() != n || !(from > 0.0 && to > 0.0 && epsilon >= 0.0) {
            return None;
        }
        let wide = |x: f32| f64::from(x);
        let epsilon = rne_f64(n as f64 * n as f64 * wide(epsilon) / (wide(from) * wide(from)));
        let largest = |all: &[f32]| all.iter().fold(0.0, |m: f64, &x| m.max(wide(x).abs())) / wide(to);
        let (gain, offset) = (largest(gamma), largest(beta));
        if !gain.is_finite() || !offset.is_finite() || epsilon >= 2f64.powi(61) {
            return None;
        }
        let shift = (18 - frexp(gain).1).min(30 - frexp(offset).1).min(14);
        if shift < 1 {
            return None;
        }
        let power = |e: i32| 2f64.powi(e) / wide(to);
        Some(Norm {
            epsilon: epsilon as u64,
            gain: gamma.iter().map(|&g| rne_f64(wide(g) * power(shift + 12)) as i32).collect(),
            offset: beta.iter().map(|&b| rne_f64(wide(b) * power(shift)) as i32).collect(),
            shift: shift as u8,
        })
    }

    /// Whether nothing overflows.
    pub fn is_valid(&self) -> bool {
        let n = self.gain.len();
        let lens = (1..=ROW).contains(&n) && self.offset.len() == n;
        let gain = self.gain.iter().all(|g| g.unsigned_abs() <= 1 << 30);
        let offset = self.offset.iter().all(|b| b.unsigned_abs() <= 1 << 30);
        lens && gain && offset && (1..=14).contains(&self.shift) && self.epsilon < 1 << 61
    }

    /// Of a row whose codes less their zero point sum to `sum`, and their squares to `squares`.
    #[inline(always)]
    pub fn row(&self, sum: i64, squares: u64) -> Row {
        let n = self.gain.len() as u64;
        // n * squares - sum^2 is at least 0 and below 2^62.
        let variance = n * squares - (sum * sum) as u64 + self.epsilon;
        if variance == 0 {
            return Row { sum, shift: 0, reciprocal: 0 };
        }
        let shift = variance.leading_zeros() / 2;
        let root = (variance << (2 * shift)).isqrt();
        Row { sum, shift, reciprocal: (((1u64 << 62) - 1) / root) as i32 }
    }

    /// Element `i` of a row, a code less its zero point, normalised, in steps of the result, without its zero point.
    #[inline(always)]
    pub fn element(&self, i: usize, code: i32, row: Row) -> i64 {
        let centred = self.gain.len() as i64 * i64::from(code) - row.sum;
        let scaled = ((centred << row.shift) >> 9) as i32;
        let normal = (i64::from(scaled) * i64::from(row.reciprocal) + (1i64 << 32)) >> 33;
        let product = (normal * i64::from(self.gain[i])) >> 32;
        (product + i64::from(self.offset[i]) + (1i64 << (self.shift - 1))) >> self.shift
    }

    /// [`Norm::element`] in 32 bits, for rows of at most [`NEAR`] elements.
    #[inline(always)]
    pub fn near(&self, row: Row) -> Near {
        let shift = u32::from(self.shift);
        Near {
            count: self.gain.len() as i32,
            sum: row.sum as i32,
            left: row.shift.saturating_sub(9),
            right: 9u32.saturating_sub(row.shift),
            reciprocal: row.reciprocal,
            round: 1 << (shift - 1),
            shift,
        }
    }
}

/// Elements of a row whose codes less their mean, times their number, fit 32 bits.
pub const NEAR: usize = 1 << 12;

/// What the elements of a short row share.
#[derive(Clone, Copy, Debug)]
pub struct Near {
    pub(super) count: i32,
    pub(super) sum: i32,
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) reciprocal: i32,
    pub(super) round: i32,
    pub(super) shift: u32,
}

impl Near {
    /// As [`Norm::element`], of an element with this gain and offset.
    #[inline(always)]
    pub fn element(self, gain: i32, offset: i32, code: i32) -> i32 {
        let high = |a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32;
        // Of the two shifts one is by nothing.
        let scaled = ((self.count * code - self.sum) << self.left) >> self.right;
        let normal = (high(scaled, self.reciprocal) + 1) >> 1;
        (high(normal, gain) + offset + self.round) >> self.shift
    }
}

/// `m` of either sign as a sign and a [`Dyadic`].
pub fn signed_dyadic(m: f64) -> Option<Dyadic> {
    let by = Dyadic::from_real(m.abs())?;
    Some(Dyadic { mult: if m < 0.0 { -by.mult } else { by.mult }, ..by })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_within_half_a_step_of_the_real_ones() {
        for s in [0.001f32, 0.013, 0.1, 0.7, 3.0] {
            let of = Softmax::new(s, 1.0 / 255.0).unwrap();
            assert!(of.is_valid());
            for d in 0..of.table.len() + 300 {
                let real = (-(d as f64) * f64::from(s)).exp() * ONE;
                assert!((f64::from(of.exp(d as i32)) - real).abs() <= 0.5 + 1e-9, "{s} {d}");
            }
        }
        assert_eq!(Softmax::new(1e-6, 0.004), None);
        assert_eq!(Softmax::new(0.1, 1e-6), None);
    }

    /// Every pair of a code and a sum that rows of two and three codes can have: the share is within the bound that section 14 states.
    #[test]
    fn shares_are_within_the_stated_bound_over_all_codes() {
        for (s, to) in [(0.05f32, 1.0f32 / 255.0), (0.2, 1.0 / 256.0), (0.011, 0.003)] {
            let of = Softmax::new(s, to).unwrap();
            for d in 0..256 {
                for e in 0..256i32 {
                    for more in [None, Some(e / 2)] {
                        let row = [0, d, e].into_iter().take(2 + usize::from(more.is_some())).collect::<Vec<i32>>();
                        let sum = row.iter().map(|&d| u64::from(of.exp(d))).sum();
                        let exact: f64 = row.iter().map(|&d| (-f64::from(d) * f64::from(s)).exp()).sum();
                        let factor = of.factor(sum);
                        for &d in &row {
                            let share = Softmax::share(of.exp(d), factor) as f64;
                            let real = (-f64::from(d) * f64::from(s)).exp() / exact / f64::from(to);
                            let bound = 0.5 + (row.len() as f64 + 1.0) / ONE / f64::from(to);
                            assert!((share - real).abs() <= bound, "{row:?} {d}: {share} {real}");
                        }
                    }
                }
            }
        }
    }

    fn row_of(of: &Norm, codes: &[i32]) -> Vec<i64> {
        let sum = codes.iter().map(|&a| i64::from(a)).sum();
        let squares = codes.iter().map(|&a| (i64::from(a) * i64::from(a)) as u64).sum();
        let row = of.row(sum, squares);
        let near = of.near(row);
        let all: Vec<i64> = codes.iter().enumerate().map(|(i, &a)| of.element(i, a, row)).collect();
        if codes.len() <= NEAR {
            let of_near = |i: usize| i64::from(near.element(of.gain[i], of.offset[i], codes[i]));
            assert!((0..codes.len()).all(|i| of_near(i) == all[i]), "{codes:?}");
        }
        all
    }

    /// Of every code of 16 bits in turn, beside ones that make the deviation small or large: within the bound of section 14 of the real normalisation.
    #[test]
    fn normalisation_is_within_the_stated_bound_over_all_codes() {
        let n = 8;
        let gamma: Vec<f32> = (0..n).map(|i| [1.0, -0.3, 2.5, 0.01][i % 4]).collect();
        let beta: Vec<f32> = (0..n).map(|i| [0.0, 0.7, -1.5][i % 3]).collect();
        for (from, eps, to) in [(0.001f32, 1e-12f32, 0.0002f32), (0.1, 1e-5, 0.03), (1.0, 1.0, 0.5)] {
            let of = Norm::new(from, eps, &gamma, &beta, to).unwrap();
            assert!(of.is_valid());
            for code in (-65_535..=65_535).step_by(if cfg!(miri) { 20_011 } else { 1 }) {
                let codes = [code, 5, -3, 40, code / 3, -7, 11, 2];
                let mean = codes.iter().map(|&a| f64::from(a)).sum::<f64>() / n as f64;
                let variance = codes.iter().map(|&a| (f64::from(a) - mean).powi(2)).sum::<f64>() / n as f64;
                let s = f64::from(from);
                let deviation = (variance * s * s + f64::from(eps)).sqrt();
                for (i, got) in row_of(&of, &codes).into_iter().enumerate() {
                    let x = (f64::from(codes[i]) - mean) * s / deviation;
                    let real = (x * f64::from(gamma[i]) + f64::from(beta[i])) / f64::from(to);
                    let bound =
                        0.5 + 2f64.powi(1 - i32::from(of.shift)) + 4e-6 * f64::from(gamma[i].abs()) / f64::from(to);
                    assert!((got as f64 - real).abs() <= bound, "{codes:?} {i}: {got} {real}");
                }
            }
        }
    }

    #[test]
    fn the_largest_rows_do_not_overflow() {
        let of = Norm::new(1.0, 0.0, &vec![1.0; ROW], &vec![0.5; ROW], 1.0 / 4096.0).unwrap();
        assert_eq!(of.shift, 5);
        let codes: Vec<i32> = (0..ROW).map(|i| if i == 0 { 65_535 } else { -65_535 }).collect();
        let got = row_of(&of, &codes);
        assert!((got[0] as f64 - ((ROW as f64 - 1.0).sqrt() * 4096.0 + 2048.0)).abs() < 1.0);
        // All alike: nothing is left but the offset.
        assert!(row_of(&of, &vec![65_535; ROW]).iter().all(|&y| y == 2048));
        assert_eq!(Norm::new(1.0, 0.0, &vec![1.0; ROW + 1], &vec![0.5; ROW + 1], 1.0), None);
        assert_eq!(Norm::new(1e-12, 1.0, &[1.0], &[0.0], 1.0), None);
    }

    #[test]
    fn masks_saturate() {
        assert_eq!(
            [0.0, -1e4, f32::NEG_INFINITY, f32::NAN, 0.26].map(|m| mask_code(m, 0.1)),
            [0, -100_000, -(1 << 24), -(1 << 24), 3]
        );
    }
}
