//! Weights whose rounding is learned (Nagel et al., 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", section 3).
//!
//! `w(v) = s clamp(floor(w / s) + h(v), lo, hi)` with the rectified sigmoid `h(v) = clamp(1.2 sigmoid(v) - 0.1, 0, 1)`, which begins where `w(v) = w`. A
//! term `1 - |2 h - 1|^b` with falling `b` drives each `h` to 0 or 1. Gradients are written out: of `w(v)` by the network, of the rest here.
use crate::fake::Grid;

const STRETCH: [f32; 2] = [-0.1, 1.1];

/// A tensor of weights on its way to codes.
pub struct Rounding {
    /// `floor(w / s)`.
    base: Vec<f32>,
    scale: Vec<f32>,
    lo: Vec<f32>,
    hi: Vec<f32>,
}

fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + (-v).exp())
}

/// The rectified sigmoid and its slope.
fn h(v: f32) -> (f32, f32) {
    let s = sigmoid(v);
    let x = s * (STRETCH[1] - STRETCH[0]) + STRETCH[0];
    if (0.0..=1.0).contains(&x) { (x, s * (1.0 - s) * (STRETCH[1] - STRETCH[0])) } else { (x.clamp(0.0, 1.0), 0.0) }
}

impl Rounding {
    /// Of real weights, and the variables to begin with.
    pub fn new(weights: &[f32], scales: &[f32], grid: &Grid) -> (Self, Vec<f32>) {
        let mut this = Self { base: Vec::new(), scale: Vec::new(), lo: Vec::new(), hi: Vec::new() };
        let mut variables = Vec::with_capacity(weights.len());
        for (i, &w) in weights.iter().enumerate() {
            let group = grid.group(i);
            let (s, [lo, hi]) = (scales[group], grid.limit(group));
            let steps = w / s;
            this.base.push(steps.floor());
            this.scale.push(s);
            this.lo.push(lo);
            this.hi.push(hi);
            let share = ((steps - steps.floor() - STRETCH[0]) / (STRETCH[1] - STRETCH[0])).clamp(0.01, 0.99);
            variables.push((share / (1.0 - share)).ln());
        }
        (this, variables)
    }
    fn clamped(&self, i: usize, share: f32) -> f32 {
        (self.base[i] + share).clamp(self.lo[i], self.hi[i])
    }
    /// The weights of these variables.
    pub fn soft(&self, variables: &[f32]) -> Vec<f32> {
        variables.iter().enumerate().map(|(i, &v)| self.clamped(i, h(v).0) * self.scale[i]).collect()
    }
    /// The weights with all decisions made.
    pub fn hard(&self, variables: &[f32]) -> Vec<f32> {
        let up = |v: f32| if v >= 0.0 { 1.0 } else { 0.0 };
        variables.iter().enumerate().map(|(i, &v)| self.clamped(i, up(v)) * self.scale[i]).collect()
    }
    /// The gradient of the variables from that of the weights, and from `strength * sum(1 - |2 h - 1|^b)` where given.
    pub fn gradient(&self, variables: &[f32], weights: &[f32], decide: Option<(f32, f32)>) -> Vec<f32> {
        let one = |(i, (&v, &g)): (usize, (&f32, &f32))| {
            let (share, slope) = h(v);
            let raw = self.base[i] + share;
            let mut sum = if raw >= self.lo[i] && raw <= self.hi[i] { g * self.scale[i] } else { 0.0 };
            if let Some((strength, b)) = decide {
                let off = 2.0 * share - 1.0;
                sum -= strength * b * off.abs().powf(b - 1.0) * 2.0 * off.signum();
            }
            sum * slope
        };
        variables.iter().zip(weights).enumerate().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Estimator, ScaleRule};

    fn case() -> (Rounding, Vec<f32>, Vec<f32>) {
        let limits: std::sync::Arc<[[f32; 2]]> = [[-8.0, 7.0]].into();
        let grid =
            Grid { limits, groups: 2, inner: 3, gain: 1.0, estimator: Estimator::default(), rule: ScaleRule::Lsq };
        let weights = vec![0.11, -0.26, 0.55, 0.4, -0.9, 0.33];
        let (rounding, variables) = Rounding::new(&weights, &[0.1, 0.25], &grid);
        (rounding, variables, weights)
    }

    #[test]
    fn it_begins_at_the_weights_and_ends_on_the_grid() {
        let (rounding, variables, weights) = case();
        for (soft, w) in rounding.soft(&variables).iter().zip(&weights) {
            assert!((soft - w).abs() < 1e-6, "{soft} {w}");
        }
        let codes: Vec<f32> =
            rounding.hard(&variables).iter().zip([0.1, 0.1, 0.1, 0.25, 0.25, 0.25]).map(|(w, s)| w / s).collect();
        // To nearest, as long as nothing was learned.
        for (code, want) in codes.iter().zip([1.0, -3.0, 6.0, 2.0, -4.0, 1.0]) {
            assert!((code - want).abs() < 1e-5, "{codes:?}");
        }
    }

    #[test]
    fn gradients_are_finite_differences() {
        let (rounding, variables, _) = case();
        let toward: Vec<f32> = (0..6).map(|i| i as f32 - 2.5).collect();
        let decide = (0.3, 2.5);
        let objective = |v: &[f32]| -> f64 {
            let linear: f64 = rounding.soft(v).iter().zip(&toward).map(|(w, t)| f64::from(w * t)).sum();
            let apart: f64 = v.iter().map(|&v| 1.0 - f64::from((2.0 * h(v).0 - 1.0).abs().powf(decide.1))).sum();
            linear + f64::from(decide.0) * apart
        };
        let got = rounding.gradient(&variables, &toward, Some(decide));
        for i in 0..6 {
            let step = 1e-2f32;
            let (mut up, mut down) = (variables.clone(), variables.clone());
            up[i] += step;
            down[i] -= step;
            let want = (objective(&up) - objective(&down)) / (2.0 * f64::from(step));
            assert!((f64::from(got[i]) - want).abs() < 2e-3, "{i}: {} {want}", got[i]);
        }
    }
}
