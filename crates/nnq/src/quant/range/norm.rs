//! The range of least squared error, trying every zero point for every step.
//!
//! Zero is on the grid, so the grid points are the multiples of the step whatever the zero point is, and the error
//! separates: what negative values cost depends only on how many codes lie below zero, what positive ones cost on how
//! many lie above. For a given step both are read off prefix sums: of the rounding error for what is inside, of the
//! moments for what is clipped. One pass over the histogram prices a step, and a binary search each zero point.
use super::{
    Range, Scheme,
    loss::Power,
    search::{Effort, along},
};
use crate::quant::observer::Segment;

/// More zero points than this are thinned out first and then refined.
const ALL: i32 = 256;

pub(super) fn choose(segments: &[Segment], lo: f64, hi: f64, scheme: Scheme) -> Range {
    let zero = segments.partition_point(|s| s.mean() < 0.0);
    let mirrored =
        segments[..zero].iter().rev().map(|s| Segment { lo: -s.hi, hi: -s.lo, count: s.count }).collect::<Vec<_>>();
    let (mut below, mut above) = (Side::new(mirrored), Side::new(segments[zero..].to_vec()));
    let [n, p] = scheme.codes();
    let (lo, hi) = (lo.min(0.0), hi.max(0.0));
    // At this step everything is covered. With zero points to choose from a larger one can fit a few values by luck.
    let max = if scheme.symmetric {
        if scheme.qtype.signed { (hi / p).max(lo / n) } else { hi / p }
    } else if lo == 0.0 || hi == 0.0 {
        (hi - lo) / (p - n)
    } else {
        1.5 * (hi - lo) / (p - n - 1.0)
    };
    let zeros = scheme.zero_points(lo, hi);
    let mut price = |s: f64| {
        below.set_step(s);
        above.set_step(s);
        best_zero(zeros.clone(), |z| below.at(s, f64::from(z) - n) + above.at(s, p - f64::from(z)))
    };
    let (s, _) = along(max, Effort::statistics(segments.len()), |s| price(s).0);
    let (_, z) = price(s);
    Range::of_grid(scheme, s, z)
}

/// The least value and its argument.
fn best_zero(zeros: std::ops::RangeInclusive<i32>, f: impl Fn(i32) -> f64) -> (f64, i32) {
    let (first, last) = zeros.into_inner();
    let mut stride = ((last - first) / ALL).max(1);
    let pick = |from: i32, to: i32, stride: i32| {
        (from.max(first)..=to.min(last))
            .step_by(stride as usize)
            .map(|z| (f(z), z))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .unwrap_or((f64::INFINITY, first))
    };
    let mut best = pick(first, last, stride);
    while stride > 1 {
        let next = (stride / 8).max(1);
        let finer = pick(best.1 - stride, best.1 + stride, next);
        if finer.0 < best.0 {
            best = finer;
        }
        stride = next;
    }
    best
}

/// The values of one sign, as magnitudes.
struct Side {
    segments: Vec<Segment>,
    /// Count, sum and sum of squares of segment i and all larger ones; one more entry of zeros.
    tail: Vec<[f64; 3]>,
    /// Rounding error of the segments before i, for the current step.
    inside: Vec<f64>,
    power: Power,
}

impl Side {
    fn new(segments: Vec<Segment>) -> Self {
        let mut tail = vec![[0.0; 3]; segments.len() + 1];
        for (i, s) in segments.iter().enumerate().rev() {
            tail[i] = plus(tail[i + 1], moments(s.lo, s.hi, s.count));
        }
        Self { inside: vec![0.0; segments.len() + 1], tail, segments, power: Power::new(2.0) }
    }
    fn set_step(&mut self, s: f64) {
        let mut sum = 0.0;
        for (x, inside) in self.segments.iter().zip(&mut self.inside[1..]) {
            sum += x.count * self.power.mean_rounding(x.lo / s, x.hi / s);
            *inside = sum * s * s;
        }
    }
    /// The squared error with `codes` steps of size `s` on this side.
    fn at(&self, s: f64, codes: f64) -> f64 {
        let end = codes * s;
        let whole = self.segments.partition_point(|x| x.hi <= end);
        let mut error = self.inside[whole];
        let mut clipped = self.tail[whole];
        if let Some(x) = self.segments.get(whole).filter(|x| x.lo < end) {
            let inner = x.count * (end - x.lo) / (x.hi - x.lo);
            error += inner * self.power.mean_rounding(x.lo / s, end / s) * s * s;
            clipped = plus(self.tail[whole + 1], moments(end, x.hi, x.count - inner));
        }
        let [n, sum, squares] = clipped;
        error + (squares - 2.0 * end * sum + end * end * n).max(0.0)
    }
}

fn moments(lo: f64, hi: f64, n: f64) -> [f64; 3] {
    let m = f64::midpoint(lo, hi);
    [n, n * m, n * (m * m + (hi - lo) * (hi - lo) / 12.0)]
}

fn plus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}
