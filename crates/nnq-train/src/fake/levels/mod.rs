//! Weights on few levels whose scale follows from the weights themselves, and is no parameter of its own.
//!
//! | | level of a weight `w` | scale |
//! |---|---|---|
//! | [`Levels::Binary`] | `sign(w)`, 1 for 0 | `a = mean abs(w)` (Rastegari et al., arXiv:1603.05279, equations 2 to 7) |
//! | [`Levels::Balanced`] | `sign(w - m)`, `m = mean w` | `a = mean abs(w - m)` (Qin et al., arXiv:1909.10788, section 3.2) |
//! | [`Levels::Ternary`] | `sign(w)` where `abs(w) > 0.7 mean abs(w)`, else 0 | `a = mean abs(w)` over those (Li et al., arXiv:1605.04711, section 2.2) |
//! | [`Levels::Tanh`] | `2 rne(t N) - N`, `t = tanh(w) / (2 max abs(tanh w)) + 1/2`, `N = 2^bits - 1` | `max abs(w) / N` (Zhou et al., arXiv:1606.06160, equation 9) |
//!
//! Means and maxima are those of the weights that share a scale. DoReFa has no factor `max abs(w)`: what multiplies its weights is the batch normalisation
//! behind them, which is folded into weights here. Balanced weights have both signs about equally often, so that they carry the most information that one bit can;
//! the paper divides them by their deviation, too, and takes a power of two for `a`: neither changes which sign a weight has, and a scale here may be any number.
//!
//! Backward, each element has `gradient * passes` (by the estimator, which sees the weight in units of the levels) and, for binary and ternary weights, what it
//! does to their scale: `sign(w) / n` of the scale's gradient, for the `n` weights that it is the mean of. Of balanced weights these are the gradients by `w - m`, of which their mean is subtracted. The largest weight of a DoReFa grid is held fixed, as its scale.
//! Estimators that clip let weights up to 1 pass, as XNOR-Net does.
use super::{
    Grid,
    estimator::{Estimator, Standing},
};
use nnq::ir::QType;
use nnq_kernels::round::rne_f32;
use serde::{Deserialize, Serialize};

/// Which levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Levels {
    /// -1 and 1.
    Binary,
    /// -1 and 1, by the side of the mean.
    Balanced,
    /// -1, 0 and 1.
    Ternary,
    /// Evenly spaced for the hyperbolic tangent, none of them zero.
    Tanh {
        /// For so many bits there are `2^bits` levels.
        bits: u8,
    },
}

/// What the threshold of ternary weights is of their mean.
const THRESHOLD: f64 = 0.7;

/// The largest weight that estimators that clip let pass.
const CLIP: f32 = 1.0;

/// Weights on their levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Levelled {
    /// Level times scale.
    pub values: Vec<f32>,
    /// For each group.
    pub scales: Vec<f32>,
}

/// What the levels of a group follow from.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    scale: f32,
    /// Balanced: what signs are taken around.
    mean: f32,
    /// Ternary: from where on a weight counts.
    threshold: f32,
    /// How many weights the scale is the mean of.
    count: u32,
    /// Tanh: the largest of all.
    top: f32,
}

impl Levels {
    /// The narrowest grid that holds the levels as its codes.
    pub fn qtype(self) -> QType {
        let bits = match self {
            // -1, 0, 1; binary weights never have code 0.
            Self::Binary | Self::Balanced | Self::Ternary => 2,
            // Odd codes only: half of the levels lie on each side of zero.
            Self::Tanh { bits } => bits + 1,
        };
        QType { bits, signed: true, narrow: true }
    }
    /// Weights on their levels: `grid` says which share a scale. Sums are taken in binary64 in the order of the weights.
    pub fn apply(self, w: &[f32], grid: &Grid) -> Levelled {
        let groups = self.groups(w, grid);
        let each = w.iter().enumerate();
        let values = each.map(|(i, &w)| self.level(w, &groups[grid.group(i)]) * groups[grid.group(i)].scale).collect();
        // A group of zeros has only zeros, on any scale.
        let scales = groups.iter().map(|g| if g.scale > 0.0 { g.scale } else { 1.0 }).collect();
        Levelled { values, scales }
    }
    /// Weights that these codes are the levels of, on scales of the grid's groups: [`Levels::apply`] answers the codes times the scales. None where no weights have
    /// such codes.
    pub fn begin(self, codes: &[f32], scales: &[f32], grid: &Grid) -> Option<Vec<f32>> {
        let mut tops = vec![0.0f32; grid.groups.max(1)];
        let (mut sums, mut counts) = (vec![0.0f32; tops.len()], vec![0.0f32; tops.len()]);
        for (i, c) in codes.iter().enumerate() {
            let k = grid.group(i);
            tops[k] = tops[k].max(c.abs());
            sums[k] += c;
            counts[k] += 1.0;
        }
        let top = match self {
            Self::Binary | Self::Balanced | Self::Ternary => 1.0,
            Self::Tanh { bits } => steps(bits),
        };
        let one = |(i, &code): (usize, &f32)| {
            let k = grid.group(i);
            let level = match self {
                // A group of zeros, which has no levels.
                _ if tops[k] == 0.0 => true,
                // The largest weight has the outermost level.
                _ if tops[k] != top => false,
                Self::Binary => code != 0.0,
                // Weights that all lie on one side of their mean do not exist.
                Self::Balanced => code != 0.0 && sums[k].abs() < counts[k],
                Self::Ternary => true,
                // Steps of two from the outermost.
                Self::Tanh { .. } => ((top - code) / 2.0).fract() == 0.0,
            };
            let largest = tops[k] * scales[k];
            let weight = match self {
                Self::Binary | Self::Ternary => code * scales[k],
                // With codes of mean c, the mean distance from the mean is 1 - c^2.
                Self::Balanced if tops[k] > 0.0 => {
                    let c = sums[k] / counts[k];
                    code * scales[k] / (1.0 - c * c)
                }
                Self::Balanced => 0.0,
                Self::Tanh { .. } => untanh(code / top, largest),
            };
            level.then_some(weight)
        };
        codes.iter().enumerate().map(one).collect()
    }
    /// Weights on the same levels, `factor` times the scale, in place of those of one group.
    pub fn stretch(self, group: &mut [f32], factor: f32) {
        let top = group.iter().fold(0.0f32, |t, w| t.max(w.abs()));
        match self {
            Self::Tanh { .. } if factor != 1.0 && top > 0.0 => {
                group.iter_mut().for_each(|w| *w = untanh(w.tanh() / top.tanh(), top * factor));
            }
            _ => group.iter_mut().for_each(|w| *w *= factor),
        }
    }
    /// The gradient of the weights, given that of [`Levels::apply`]'s values.
    pub fn backward(self, w: &[f32], gradient: &[f32], grid: &Grid, estimator: Estimator) -> Vec<f32> {
        let groups = self.groups(w, grid);
        let passing = estimator.passing();
        let mut pull = vec![0.0f64; groups.len()];
        if !matches!(self, Self::Tanh { .. }) {
            for (i, (&w, &g)) in w.iter().zip(gradient).enumerate() {
                let k = grid.group(i);
                pull[k] += f64::from(g * self.level(w, &groups[k]));
            }
        }
        let one = |(i, (&w, &g)): (usize, (&f32, &f32))| {
            let k = grid.group(i);
            let group = &groups[k];
            if group.scale == 0.0 {
                return g;
            }
            let (standing, slope) = self.standing(w, group);
            let passed = g * slope * passing.share(standing, g);
            let counts = match self {
                Self::Binary | Self::Balanced => true,
                Self::Ternary => w.abs() > group.threshold,
                Self::Tanh { .. } => false,
            };
            let own =
                if counts { sign(w - group.mean) * (pull[k] / f64::from(group.count.max(1))) as f32 } else { 0.0 };
            passed + own
        };
        let mut all: Vec<f32> = w.iter().zip(gradient).enumerate().map(one).collect();
        if self == Self::Balanced {
            let mut sums = vec![0.0f64; groups.len()];
            all.iter().enumerate().for_each(|(i, g)| sums[grid.group(i)] += f64::from(*g));
            for (i, g) in all.iter_mut().enumerate() {
                let k = grid.group(i);
                *g -= (sums[k] / f64::from(groups[k].count.max(1))) as f32;
            }
        }
        all
    }
    fn groups(self, w: &[f32], grid: &Grid) -> Vec<Group> {
        let (mut sums, mut counts) = (vec![0.0f64; grid.groups.max(1)], vec![0u32; grid.groups.max(1)]);
        let mut tops = vec![0.0f32; sums.len()];
        for (i, w) in w.iter().enumerate() {
            let k = grid.group(i);
            sums[k] += f64::from(w.abs());
            counts[k] += 1;
            tops[k] = tops[k].max(w.abs());
        }
        let mean = |sum: f64, n: u32| sum / f64::from(n.max(1));
        let mut means = vec![0.0f32; sums.len()];
        if self == Self::Balanced {
            let mut totals = vec![0.0f64; sums.len()];
            w.iter().enumerate().for_each(|(i, w)| totals[grid.group(i)] += f64::from(*w));
            means = totals.iter().zip(&counts).map(|(t, n)| mean(*t, *n) as f32).collect();
            sums.fill(0.0);
            w.iter().enumerate().for_each(|(i, w)| sums[grid.group(i)] += f64::from((w - means[grid.group(i)]).abs()));
        }
        let of = |k: usize| match self {
            Self::Binary | Self::Balanced => {
                Group { scale: mean(sums[k], counts[k]) as f32, mean: means[k], count: counts[k], ..Group::default() }
            }
            Self::Ternary => Group { threshold: (THRESHOLD * mean(sums[k], counts[k])) as f32, ..Group::default() },
            Self::Tanh { bits } => Group { scale: tops[k] / steps(bits), top: tops[k].tanh(), ..Group::default() },
        };
        let mut groups: Vec<Group> = (0..sums.len()).map(of).collect();
        if self == Self::Ternary {
            sums.fill(0.0);
            for (i, w) in w.iter().enumerate() {
                let k = grid.group(i);
                if w.abs() > groups[k].threshold {
                    sums[k] += f64::from(w.abs());
                    groups[k].count += 1;
                }
            }
            for (group, sum) in groups.iter_mut().zip(sums) {
                group.scale = mean(sum, group.count) as f32;
            }
        }
        groups
    }
    /// The level of a weight, as a code.
    fn level(self, w: f32, group: &Group) -> f32 {
        match self {
            _ if group.scale == 0.0 => 0.0,
            Self::Binary | Self::Balanced => sign(w - group.mean),
            Self::Ternary if w.abs() > group.threshold => sign(w),
            Self::Ternary => 0.0,
            Self::Tanh { bits } => 2.0 * rne_f32(place(w, bits, group)) - steps(bits),
        }
    }
    /// Where a weight stands between its levels, and the slope of what its level is taken of.
    fn standing(self, w: f32, group: &Group) -> (Standing, f32) {
        let v = (w - group.mean) / group.scale;
        let inside = w.abs() <= CLIP;
        let level = self.level(w, group);
        match self {
            // One jump, at 0, between levels that are 2 apart.
            Self::Binary | Self::Balanced => (Standing { inside, off: off(v, level), z: v, slope: 1.0 }, 1.0),
            // One jump on each side, at the threshold, between 0 and what is as far beyond it.
            Self::Ternary => {
                let jump = group.threshold / group.scale;
                let z = v.abs() / jump - 1.0;
                (Standing { inside, off: off(v, level), z, slope: 0.5 / jump }, 1.0)
            }
            Self::Tanh { bits } => {
                let v = place(w, bits, group);
                // Of max abs(w) (2 t - 1) by w.
                let slope = group.scale * steps(bits) * (1.0 - w.tanh() * w.tanh()) / group.top;
                (Standing::even(v, rne_f32(v), [0.0, steps(bits)]), slope)
            }
        }
    }
}

/// How far above its level, within the levels -1 to 1.
fn off(v: f32, level: f32) -> f32 {
    (v.clamp(-1.0, 1.0) - level) / 2.0
}

/// The steps between the levels of a DoReFa grid.
fn steps(bits: u8) -> f32 {
    ((1u32 << bits) - 1) as f32
}

/// `t N` of a DoReFa grid.
fn place(w: f32, bits: u8, group: &Group) -> f32 {
    (w.tanh() / (2.0 * group.top) + 0.5).clamp(0.0, 1.0) * steps(bits)
}

/// The number whose hyperbolic tangent is this share of that of the largest one.
fn untanh(share: f32, largest: f32) -> f32 {
    let x = (f64::from(share) * f64::from(largest).tanh()).atanh() as f32;
    if share.abs() >= 1.0 { largest.copysign(share) } else { x.clamp(-largest, largest) }
}

/// 1 for 0.
fn sign(w: f32) -> f32 {
    if w < 0.0 { -1.0 } else { 1.0 }
}

#[cfg(test)]
mod tests;
