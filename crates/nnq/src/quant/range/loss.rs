//! The expected quantization error of a histogram.
use crate::quant::observer::Segment;

/// `u^p` and its integrals, asked for millions of times. Exponents other than 2 use tables.
pub(crate) struct Power {
    p: f64,
    /// `u^p` and `u^(p+1) / (p+1)` at `u = i / (2 TABLE)`; empty for `p = 2`.
    table: Vec<[f64; 2]>,
    /// `m^p` at `m = 1 + i / TABLE`.
    mantissa: Vec<f64>,
    /// `2^(e p)` at `e + EXPONENTS`.
    exponent: Vec<f64>,
}

const TABLE: usize = 2048;
const EXPONENTS: i32 = 64;

impl Power {
    pub fn new(p: f64) -> Self {
        let row = |i: usize| {
            let u = i as f64 / (2 * TABLE) as f64;
            [libm::pow(u, p), libm::pow(u, p + 1.0) / (p + 1.0)]
        };
        if p == 2.0 {
            return Self { p, table: Vec::new(), mantissa: Vec::new(), exponent: Vec::new() };
        }
        Self {
            p,
            table: (0..=TABLE + 1).map(row).collect(),
            mantissa: (0..=TABLE).map(|i| libm::pow(1.0 + i as f64 / TABLE as f64, p)).collect(),
            exponent: (-EXPONENTS..EXPONENTS).map(|e| libm::exp2(f64::from(e) * p)).collect(),
        }
    }
    /// Linear interpolation; the error is below `p (p-1) / (8 (2 TABLE)^2)`, 3e-8 for p = 2.4.
    #[inline]
    fn look(&self, u: f64, which: usize) -> f64 {
        let at = u * (2 * TABLE) as f64;
        let i = (at as usize).min(TABLE);
        let (a, b) = (self.table[i][which], self.table[i + 1][which]);
        a + (b - a) * (at - i as f64)
    }
    /// `u^p` for `0 <= u <= 0.5`.
    #[inline]
    pub fn near(&self, u: f64) -> f64 {
        if self.table.is_empty() { u * u } else { self.look(u, 0) }
    }
    /// The integral of `t^p` from 0 to `u <= 0.5`.
    #[inline]
    fn near_integral(&self, u: f64) -> f64 {
        if self.table.is_empty() { u * u * u / 3.0 } else { self.look(u, 1) }
    }
    /// `u^p` for any `u >= 0`, within `p (p-1) / (8 TABLE^2)` relative: 1e-7 for p = 2.4.
    #[inline]
    pub fn of(&self, u: f64) -> f64 {
        if self.table.is_empty() {
            return u * u;
        }
        let bits = u.to_bits();
        let e = (bits >> 52) as i32 - 1023;
        if !(-EXPONENTS..EXPONENTS).contains(&e) {
            return libm::pow(u, self.p);
        }
        let at = (f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52) - 1.0) * TABLE as f64;
        let i = at as usize;
        let (a, b) = (self.mantissa[i], self.mantissa[i + 1]);
        (a + (b - a) * (at - i as f64)) * self.exponent[(e + EXPONENTS) as usize]
    }
    /// The integral of `t^p` from 0 to any `u >= 0`.
    fn integral(&self, u: f64) -> f64 {
        if self.table.is_empty() { u * u * u / 3.0 } else { libm::pow(u, self.p + 1.0) / (self.p + 1.0) }
    }
    /// The integral of (distance to the nearest integer)^p from 0 to `v`.
    #[inline]
    fn teeth(&self, v: f64) -> f64 {
        let k = (v + 0.5).floor();
        let d = v - k;
        k * 2.0 * self.near_integral(0.5) + self.near_integral(d.abs()).copysign(d)
    }
    /// The mean of (distance to the nearest integer)^p over `[a, b]`.
    #[inline]
    pub fn mean_rounding(&self, a: f64, b: f64) -> f64 {
        // In a narrow interval the integrals would cancel, and the middle is as good.
        if b - a < 1.0 / 64.0 {
            let v = f64::midpoint(a, b);
            let d = (v - (v + 0.5).floor()).abs();
            return self.near(d.min(0.5));
        }
        (self.teeth(b) - self.teeth(a)) / (b - a)
    }
    /// The mean of `t^p` over `[a, b]`, `0 <= a <= b`.
    #[inline]
    pub fn mean_power(&self, a: f64, b: f64) -> f64 {
        let (m, w) = (f64::midpoint(a, b), b - a);
        if w > m / 8.0 {
            return (self.integral(b) - self.integral(a)) / w;
        }
        if m == 0.0 {
            return 0.0;
        }
        // The first two terms of the series; exact for p = 2. The next is below 1e-7 here.
        let r = w / m;
        self.of(m) * (1.0 + self.p * (self.p - 1.0) / 24.0 * r * r)
    }
}

/// A histogram prepared for many evaluations of one exponent.
pub(crate) struct Loss<'a> {
    power: Power,
    /// Ascending.
    segments: &'a [Segment],
    /// Index of the first segment that is not below zero.
    zero: usize,
    /// Sum of `|x|^p` of the segments from zero outwards: what they cost while they round to zero.
    near: Vec<f64>,
}

impl<'a> Loss<'a> {
    pub fn new(segments: &'a [Segment], p: f64) -> Self {
        let power = Power::new(p);
        let zero = segments.partition_point(|s| s.mean() < 0.0);
        let mut near: Vec<f64> = segments
            .iter()
            .map(|s| {
                let (a, b) = (s.lo.abs().min(s.hi.abs()), s.lo.abs().max(s.hi.abs()));
                s.count * power.mean_power(a, b)
            })
            .collect();
        for i in zero + 1..near.len() {
            near[i] += near[i - 1];
        }
        for i in (0..zero.saturating_sub(1)).rev() {
            near[i] += near[i + 1];
        }
        Self { power, segments, zero, near }
    }
    /// The sum of `|x - D(Q(x))|^p` on the grid of step `s` whose codes lie between `low <= 0` and `high >= 0` from
    /// the zero point.
    pub fn at(&self, s: f64, low: f64, high: f64) -> f64 {
        // Everything below half a step rounds to zero.
        let first = self.segments[..self.zero].partition_point(|x| x.lo < -0.5 * s);
        let last = self.zero + self.segments[self.zero..].partition_point(|x| x.hi <= 0.5 * s);
        let mut zeros = 0.0;
        if first < self.zero {
            zeros += self.near[first];
        }
        if last > self.zero {
            zeros += self.near[last - 1];
        }
        let outer: f64 = self.segments[..first]
            .iter()
            .chain(&self.segments[last..])
            .map(|x| x.count * self.one(x, s, low, high))
            .sum();
        zeros + outer * libm::pow(s, self.power.p)
    }
    /// The mean of the error of one segment in units of the step.
    #[inline]
    fn one(&self, x: &Segment, s: f64, low: f64, high: f64) -> f64 {
        let (a, b) = (x.lo / s, x.hi / s);
        if a >= low && b <= high {
            return self.power.mean_rounding(a, b);
        }
        if a >= high {
            return self.power.mean_power(a - high, b - high);
        }
        if b <= low {
            return self.power.mean_power(low - b, low - a);
        }
        // Across an end, or both.
        let (c, d) = (a.max(low), b.min(high));
        let mut sum = self.power.mean_rounding(c, d) * (d - c);
        if a < low {
            sum += self.power.mean_power(0.0, low - a) * (low - a);
        }
        if b > high {
            sum += self.power.mean_power(0.0, b - high) * (b - high);
        }
        sum / (b - a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_against_powers() {
        for p in [1.0, 2.0, 2.4, 4.0] {
            let t = Power::new(p);
            for i in 0..=1000 {
                let u = f64::from(i) / 2000.0;
                assert!((t.near(u) - u.powf(p)).abs() < 3e-7, "{u}^{p}");
                let v = u * 1e3;
                assert!((t.of(v) - v.powf(p)).abs() <= 4e-7 * v.powf(p), "{v}^{p}");
            }
            assert_eq!(t.of(0.0), 0.0);
            assert!((t.of(1e30) / 1e30f64.powf(p) - 1.0).abs() < 1e-12);
        }
    }
    #[test]
    fn means_against_sums() {
        let mean = |a: f64, b: f64, f: &dyn Fn(f64) -> f64| {
            const N: i32 = 20_000;
            (0..N).map(|i| f(a + (b - a) * (f64::from(i) + 0.5) / f64::from(N))).sum::<f64>() / f64::from(N)
        };
        for p in [1.0, 2.0, 2.4] {
            let t = Power::new(p);
            for (a, b) in [(0.2, 0.2), (0.49, 0.5), (-0.3, 0.1), (0.4, 0.7), (-3.2, 5.6), (99.99, 100.3), (7.1, 7.6)] {
                let want = mean(a, b, &|v| (v - v.round()).abs().powf(p));
                let got = t.mean_rounding(a, b);
                // The middle of an interval of 1/64 stands for its mean.
                assert!((got - want).abs() < 2e-5, "{p} [{a}, {b}]: {got} {want}");
            }
            for (a, b) in [(0.0, 0.0), (0.0, 1e-3), (0.0, 2.0), (1.0, 1.01), (1.0, 1.1), (3.0, 9.0), (1e5, 1.001e5)] {
                let want = mean(a, b, &|v| v.powf(p));
                let got = t.mean_power(a, b);
                assert!((got - want).abs() <= 1e-6 * want, "{p} [{a}, {b}]: {got} {want}");
            }
        }
    }
    #[test]
    fn loss_against_values() {
        let x = [-2.6, -0.9, -0.2, 0.0, 0.01, 0.3, 1.4, 2.5, 40.0];
        let atoms: Vec<Segment> = x.iter().map(|&x| Segment { lo: x, hi: x, count: 3.0 }).collect();
        for p in [1.0, 2.0, 2.4] {
            let loss = Loss::new(&atoms, p);
            for (s, low, high) in
                [(0.1, -8.0, 7.0), (0.7, -3.0, 4.0), (1.0, 0.0, 15.0), (3.0, -2.0, 0.0), (100.0, -2.0, 1.0)]
            {
                let want: f64 =
                    x.iter().map(|&x: &f64| 3.0 * (x - (x / s).round().clamp(low, high) * s).abs().powf(p)).sum();
                let got = loss.at(s, low, high);
                assert!((got - want).abs() <= 1e-6 * want, "{p} {s} {low} {high}: {got} {want}");
            }
        }
    }
}
