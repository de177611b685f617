//! Weights whose codes are learned by gradients that pass their rounding (the straight-through estimator, Bengio et al., arXiv:1308.3432).
//!
//! `w(v, s) = s rne(clamp(w / s0 + v, lo, hi))`, `s0` the scale to begin with: at first the code nearest to `w`. The gradient by `v` is taken as `s` where nothing is
//! clamped, that by `s` is the code. Weights may go to any code, and every step is judged by codes: there is nothing to decide in the end.
use crate::fake::Grid;
use nnq_kernels::round::rne_f32;

/// A tensor of weights on its codes.
pub struct Straight {
    /// `w / s0`.
    base: Vec<f32>,
    /// `s0`.
    pub scales: Vec<f32>,
    grid: Grid,
}

impl Straight {
    /// Of real weights. Variables begin at 0.
    pub fn new(weights: &[f32], scales: &[f32], grid: Grid) -> Self {
        let base = weights.iter().enumerate().map(|(i, w)| w / scales[grid.group(i)]).collect();
        Self { base, scales: scales.to_vec(), grid }
    }
    fn code(&self, i: usize, variable: f32) -> f32 {
        let [lo, hi] = self.grid.limit(self.grid.group(i));
        rne_f32((self.base[i] + variable).clamp(lo, hi))
    }
    /// The weights of these variables, on grids of these scales.
    pub fn weights(&self, variables: &[f32], scales: &[f32]) -> Vec<f32> {
        variables.iter().enumerate().map(|(i, &v)| self.code(i, v) * scales[self.grid.group(i)]).collect()
    }
    /// The gradient of the variables from that of the weights.
    pub fn gradient(&self, variables: &[f32], scales: &[f32], weights: &[f32]) -> Vec<f32> {
        let one = |(i, (v, g)): (usize, (&f32, &f32))| {
            let (group, at) = (self.grid.group(i), self.base[i] + v);
            let [lo, hi] = self.grid.limit(group);
            if (lo..=hi).contains(&at) { g * scales[group] } else { 0.0 }
        };
        variables.iter().zip(weights).enumerate().map(one).collect()
    }
    /// That of the scales.
    pub fn of_scales(&self, variables: &[f32], weights: &[f32]) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.grid.groups];
        for (i, (&v, &g)) in variables.iter().zip(weights).enumerate() {
            sums[self.grid.group(i)] += f64::from(g) * f64::from(self.code(i, v));
        }
        sums.into_iter().map(|x| x as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnq::ir::{QParams, QType};

    #[test]
    fn codes_follow_their_variables() {
        let qtype = QType { bits: 3, signed: true, narrow: false };
        let grid = Grid::new(&QParams::channel(qtype, 0, vec![0.5, 2.0]), &[2, 3], 1).unwrap();
        // 0.2, -0.8, 2.6 and 0.55, -1, 3 steps of each channel's.
        let straight = Straight::new(&[0.1, -0.4, 1.3, 1.1, -2.0, 6.0], &[0.5, 2.0], grid);
        let scales = [0.5, 2.0];
        let none = [0.0; 6];
        assert_eq!(straight.weights(&none, &scales), [0.0, -0.5, 1.5, 2.0, -2.0, 6.0]);
        // Half a step up, down, far up: to 0.7, -1.3, 3 and 1.05, -1.5 (to even), 3 (from 4).
        let moved = [0.5, -0.5, 0.4, 0.5, -0.5, 1.0];
        assert_eq!(straight.weights(&moved, &scales), [0.5, -0.5, 1.5, 2.0, -4.0, 6.0]);
        // Where it is clamped nothing passes.
        assert_eq!(straight.gradient(&moved, &scales, &[1.0; 6]), [0.5, 0.5, 0.5, 2.0, 2.0, 0.0]);
        // Codes are 1, -1, 3 and 1, -2, 3: weights are linear in their scales.
        assert_eq!(straight.weights(&moved, &[1.0, 3.0]), [1.0, -1.0, 3.0, 3.0, -6.0, 9.0]);
        assert_eq!(straight.of_scales(&moved, &[1.0, 2.0, 1.0, -1.0, 1.0, 2.0]), [2.0, 3.0]);
    }
}
