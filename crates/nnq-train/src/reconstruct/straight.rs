//! Weights whose codes are learned by gradients that pass their rounding (the straight-through estimator, Bengio et al., arXiv:1308.3432).
//!
//! `w(v) = s rne(clamp(w / s + v, lo, hi))`, which begins at the code nearest to `w`, and whose gradient is taken as `s` where nothing is clamped. Weights may go to any
//! code, and every step is judged by codes: there is nothing to decide in the end.
use crate::fake::Grid;
use nnq_kernels::round::rne_f32;

/// A tensor of weights on its codes.
pub struct Straight {
    /// `w / s`.
    base: Vec<f32>,
    scale: Vec<f32>,
    limits: Vec<[f32; 2]>,
}

impl Straight {
    /// Of real weights. Variables begin at 0.
    pub fn new(weights: &[f32], scales: &[f32], grid: &Grid) -> Self {
        let scale: Vec<f32> = (0..weights.len()).map(|i| scales[grid.group(i)]).collect();
        let base = weights.iter().zip(&scale).map(|(w, s)| w / s).collect();
        let limits = (0..weights.len()).map(|i| grid.limit(grid.group(i))).collect();
        Self { base, scale, limits }
    }
    /// The weights of these variables.
    pub fn weights(&self, variables: &[f32]) -> Vec<f32> {
        let one = |(i, v): (usize, &f32)| {
            let [lo, hi] = self.limits[i];
            rne_f32((self.base[i] + v).clamp(lo, hi)) * self.scale[i]
        };
        variables.iter().enumerate().map(one).collect()
    }
    /// The gradient of the variables from that of the weights.
    pub fn gradient(&self, variables: &[f32], weights: &[f32]) -> Vec<f32> {
        let one = |(i, (v, g)): (usize, (&f32, &f32))| {
            let ([lo, hi], at) = (self.limits[i], self.base[i] + v);
            if (lo..=hi).contains(&at) { g * self.scale[i] } else { 0.0 }
        };
        variables.iter().zip(weights).enumerate().map(one).collect()
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
        let straight = Straight::new(&[0.1, -0.4, 1.3, 1.1, -2.0, 6.0], &[0.5, 2.0], &grid);
        let none = [0.0; 6];
        assert_eq!(straight.weights(&none), [0.0, -0.5, 1.5, 2.0, -2.0, 6.0]);
        // Half a step up, down, far up: to 0.7, -1.3, 3 and 1.05, -1.5 (to even), 3 (from 4).
        let moved = [0.5, -0.5, 0.4, 0.5, -0.5, 1.0];
        assert_eq!(straight.weights(&moved), [0.5, -0.5, 1.5, 2.0, -4.0, 6.0]);
        // Where it is clamped nothing passes.
        assert_eq!(straight.gradient(&moved, &[1.0; 6]), [0.5, 0.5, 0.5, 2.0, 2.0, 0.0]);
    }
}
