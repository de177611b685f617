//! Half-quadratic quantization (Badri and Shaji, 2023, "Half-Quadratic Quantization of Large Machine Learning Models"): zero points that make the errors of
//! weights sparse, without data.
//!
//! The least `sum |w - (q - z) s|^0.7` is split into two steps that are each in closed form: the errors `e = shrink(w - (q - z) s)` that are let be, and the
//! grid that is nearest to `w - e`. The weight of the second step grows from round to round; the best grid by mean `|w - (q - z) s|` is kept, and the first
//! round that does not better it ends the search (both as the authors' program has it).
use super::super::range::{Range, Scheme, params, safe_scale};
use nnq_kernels::round::rne_f64;

/// Exponent of the errors.
const P: f64 = 0.7;
/// Weight of the quadratic term in the first round, and how it grows.
const BETA: f64 = 10.0;
const KAPPA: f64 = 1.01;
/// Rounds at most.
const ROUNDS: usize = 20;
/// Ranges below this are no ranges (the authors' program).
const LEAST: f64 = 1e-4;

/// A grid: codes `q` of `lo..=hi` stand for `(q - zero) scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Its step.
    pub scale: f64,
    /// The code of zero, any real number.
    pub zero: f64,
    /// The lowest code.
    pub lo: f64,
    /// The highest code.
    pub hi: f64,
}

impl Grid {
    /// The code next to `w`.
    fn code(&self, w: f64) -> f64 {
        rne_f64(w / self.scale + self.zero).clamp(self.lo, self.hi)
    }
    /// What the grid has in place of `w`.
    pub fn value(&self, w: f64) -> f64 {
        (self.code(w) - self.zero) * self.scale
    }
    fn error(&self, values: &[f32]) -> f64 {
        values.iter().map(|&w| (f64::from(w) - self.value(w.into())).abs()).sum()
    }
    /// Codes, and the weights less the errors that are let be.
    fn split<'v>(&'v self, values: &'v [f32], beta: f64) -> impl Iterator<Item = (f64, f64)> + 'v {
        values.iter().map(move |&w| {
            let w = f64::from(w);
            let q = self.code(w);
            let d = w - (q - self.zero) * self.scale;
            // 0^(p - 1) is infinite: what has no error keeps none.
            let e = if d == 0.0 { 0.0 } else { (d.abs() - libm::pow(d.abs(), P - 1.0) / beta).max(0.0).copysign(d) };
            (q, w - e)
        })
    }
}

/// Rounds of `better` from `start` on for as long as the mean error falls; answers the best grid and its error.
fn improve(values: &[f32], start: Grid, better: impl Fn(Grid, f64) -> Option<Grid>) -> (Grid, f64) {
    let mut best = (start, start.error(values));
    let mut beta = BETA;
    for _ in 0..ROUNDS {
        let Some(next) = better(best.0, beta) else { break };
        let error = next.error(values);
        if error >= best.1 {
            break;
        }
        best = (next, error);
        beta *= KAPPA;
    }
    best
}

/// The grid of `2^bits` codes from 0 on over `values`, with a real zero point: scale of the extremes, `z = mean(q - (w - e) / s)`. This is the method as
/// published; model files and integer engine want integers ([`integer`]).
pub fn real(values: &[f32], bits: u8) -> Grid {
    let (lo, hi) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &w| (lo.min(w.into()), hi.max(w.into())));
    let top = libm::exp2(f64::from(bits)) - 1.0;
    let scale = if hi - lo > LEAST { (hi - lo) / top } else { 1.0 };
    let start = Grid { scale, zero: if lo.is_finite() { -lo / scale } else { 0.0 }, lo: 0.0, hi: top };
    let better = |g: Grid, beta: f64| {
        let zero = g.split(values, beta).map(|(q, w)| q - w / g.scale).sum::<f64>() / values.len().max(1) as f64;
        Some(Grid { zero, ..g })
    };
    improve(values, start, better).0
}

/// Scale and zero point of finite values that are not all zero, on an asymmetric grid of integers that holds zero: starting from the extremes, the zero point is
/// found as in [`real`] and tried rounded both ways; as it cannot move by less than a step, the scale is fitted instead, `s = sum (q - z)(w - e) / sum
/// (q - z)^2`.
pub fn integer(values: &[f32], grid: Scheme) -> (f32, i32) {
    let (mut range_lo, mut range_hi) = (0.0f64, 0.0f64);
    for &w in values {
        range_lo = range_lo.min(w.into());
        range_hi = range_hi.max(w.into());
    }
    let [lo, hi] = grid.codes();
    let (scale, zero) = params(Range { lo: range_lo, hi: range_hi }, grid);
    let start = Grid { scale: scale.into(), zero: zero.into(), lo, hi };
    let moved = improve(values, start, |g, beta| {
        let zero = g.split(values, beta).map(|(q, w)| q - w / g.scale).sum::<f64>() / values.len().max(1) as f64;
        Some(Grid { zero, ..g })
    });
    let mut best = (start, start.error(values));
    for zero in [start.zero, moved.0.zero.floor(), moved.0.zero.ceil()] {
        let from = Grid { zero: zero.clamp(lo, hi), ..start };
        let found = improve(values, from, |g, beta| {
            let (mut cross, mut square) = (0.0, 0.0);
            for (q, w) in g.split(values, beta) {
                cross += (q - g.zero) * w;
                square += (q - g.zero) * (q - g.zero);
            }
            let scale = f64::from(safe_scale(cross / square));
            (square > 0.0 && cross > 0.0).then_some(Grid { scale, ..g })
        });
        if found.1 < best.1 {
            best = found;
        }
    }
    (safe_scale(best.0.scale), best.0.zero as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::mix, ir::QType};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Group {
        bits: u8,
        scale: f64,
        zero: f64,
        w: Vec<f32>,
    }
    #[derive(Deserialize)]
    struct Golden {
        hqq: Vec<Group>,
    }

    #[test]
    fn zero_points_are_those_of_the_paper() {
        let golden: Golden = serde_json::from_str(include_str!("../../../testdata/balance.json")).unwrap();
        for g in golden.hqq {
            let got = real(&g.w, g.bits);
            assert!((got.scale / g.scale - 1.0).abs() < 1e-12, "{} bits: {got:?}", g.bits);
            assert!((got.zero - g.zero).abs() < 1e-9, "{} bits: {got:?}, {}", g.bits, g.zero);
        }
    }

    /// Numbers of a normal distribution (Box and Muller).
    fn normal(n: usize) -> Vec<f32> {
        let uniform = |i: u64| ((mix(17, i) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let one = |i: u64| {
            let (a, b) = (uniform(2 * i), uniform(2 * i + 1));
            ((-2.0 * libm::log(a)).sqrt() * libm::cos(2.0 * std::f64::consts::PI * b)) as f32
        };
        (0..n as u64).map(one).collect()
    }

    fn mean_square(values: &[f32], group: usize, grid: impl Fn(&[f32]) -> Grid) -> f64 {
        let of = |v: &[f32]| {
            let g = grid(v);
            v.iter().map(|&w| (f64::from(w) - g.value(w.into())).powi(2)).sum::<f64>()
        };
        values.chunks(group).map(of).sum::<f64>() / values.len() as f64
    }

    /// Mean square errors on a normal distribution, 4 bits, groups of 32, 64, 128, as another program of the published method gave them.
    #[test]
    fn errors_on_a_normal_distribution() {
        let values = normal(128 * 3000);
        let scheme = Scheme { qtype: QType { bits: 4, signed: false, narrow: false }, symmetric: false };
        let on_integers = |v: &[f32]| {
            let (scale, zero) = integer(v, scheme);
            Grid { scale: scale.into(), zero: zero.into(), lo: 0.0, hi: 15.0 }
        };
        let extremes = |v: &[f32]| {
            let (lo, hi) = v.iter().fold((0.0f64, 0.0f64), |(lo, hi), &w| (lo.min(w.into()), hi.max(w.into())));
            let (scale, zero) = params(Range { lo, hi }, scheme);
            Grid { scale: scale.into(), zero: zero.into(), lo: 0.0, hi: 15.0 }
        };
        for (group, published, plain) in [(32, 0.0055, 0.0065), (64, 0.0074, 0.0083), (128, 0.0094, 0.0101)] {
            let got = mean_square(&values, group, |v| real(v, 4));
            let plainly = mean_square(&values, group, extremes);
            let integers = mean_square(&values, group, on_integers);
            // Four digits were published; 3,000 groups and more leave a few per mille.
            assert!((got - published).abs() < 1.2e-4, "{group}: {got}, published {published}");
            assert!((plainly - plain).abs() < 1.2e-4, "{group}: {plainly}, published {plain}");
            // An integer zero costs something, fitting it is worth something.
            assert!(integers < plainly, "{group}: {integers} {plainly}");
        }
    }
}
