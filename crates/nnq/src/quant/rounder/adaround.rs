//! AdaRound (Nagel et al., 2020) on second moments.
use super::{Curvature, Rounder, Task, lattice::better, needed};
use crate::{
    error::{Error, Result},
    exec::float,
    ir::{Op, Tensor},
};
use rayon::prelude::*;

/// `floor(w / s) + h(V)` with the rectified sigmoid `h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1)`: minimises the layer's error and
/// `lambda sum(1 - |2 h - 1|^beta)`, which drives every `h` to 0 or 1 as `beta` falls from 20 to 2 (paper, equations 21 to 25), by Adam on the
/// exact gradient. The error counts in units of the mean of `H_ii s^2`. A row keeps the nearest codes where these are better.
#[derive(Clone, Copy, Debug)]
pub struct AdaRound {
    /// Steps.
    pub iterations: usize,
    /// Step size of Adam.
    pub rate: f32,
    /// Weight of the regulariser.
    pub lambda: f32,
    /// Share of the steps without it.
    pub warm_up: f32,
}

impl Default for AdaRound {
    fn default() -> Self {
        Self { iterations: 1000, rate: 0.02, lambda: 0.05, warm_up: 0.2 }
    }
}

const ZETA: f32 = 1.1;
const GAMMA: f32 = -0.1;

/// What moves for one weight.
#[derive(Clone, Copy, Default)]
struct Variable {
    v: f32,
    mean: f32,
    square: f32,
}

impl Variable {
    /// `h` and its derivative.
    fn h(self) -> (f32, f32) {
        let sigmoid = 1.0 / (1.0 + libm::expf(-self.v));
        let h = sigmoid * (ZETA - GAMMA) + GAMMA;
        if h <= 0.0 || h >= 1.0 { (h.clamp(0.0, 1.0), 0.0) } else { (h, sigmoid * (1.0 - sigmoid) * (ZETA - GAMMA)) }
    }
}

impl AdaRound {
    /// The rows of one group.
    fn group(&self, task: &Task, rows: std::ops::Range<usize>, h: &[f32]) -> Result<Vec<i32>> {
        let k = task.depth;
        let all = rows.start * k..rows.end * k;
        let (w, s) = (&task.weights[all.clone()], &task.scale[all.clone()]);
        let zero = &task.zero[all];
        let base: Vec<f32> = w.iter().zip(s).map(|(w, s)| (w / s).floor()).collect();
        let start = |i: usize| {
            let part = (w[i] / s[i] - base[i]).clamp(1e-4, 1.0 - 1e-4);
            Variable { v: -libm::logf((ZETA - GAMMA) / (part - GAMMA) - 1.0), ..Variable::default() }
        };
        let mut variables: Vec<Variable> = (0..w.len()).map(start).collect();
        let diagonal = (0..k).map(|i| f64::from(h[i * k + i])).sum::<f64>() / k as f64;
        let matrix = Tensor::of(&[k, k], h.to_vec());
        let ctx = float::Ctx::new();
        let code = |i: usize, up: f32| (base[i] + up + zero[i] as f32).clamp(task.lo as f32, task.hi as f32);
        for t in 1..=self.iterations {
            let rest = |i: usize| w[i] - (code(i, variables[i].h().0) - zero[i] as f32) * s[i];
            let rest = Tensor::of(&[rows.len(), k], (0..w.len()).into_par_iter().map(rest).collect::<Vec<f32>>());
            let slope = float::eval(&Op::MatMul, &[Some(&rest), Some(&matrix)], 1, &ctx)?.pop();
            let slope = slope.ok_or_else(|| Error::internal("a product without a result"))?;
            let slope = slope.as_slice::<f32>()?;
            let progress = (t as f32 / self.iterations as f32 - self.warm_up) / (1.0 - self.warm_up);
            let (beta, lambda) = (20.0 + (2.0 - 20.0) * progress, if progress > 0.0 { self.lambda } else { 0.0 });
            let (first, second) = (0.9f32, 0.999f32);
            let (unbias1, unbias2) = (1.0 - libm::powf(first, t as f32), 1.0 - libm::powf(second, t as f32));
            variables.par_iter_mut().enumerate().for_each(|(i, x)| {
                let (up, derivative) = x.h();
                let unit = (diagonal * f64::from(s[i])) as f32;
                let side = 2.0 * up - 1.0;
                let push = if lambda > 0.0 {
                    2.0 * lambda * beta * libm::powf(side.abs(), beta - 1.0) * side.signum()
                } else {
                    0.0
                };
                let gradient = (-2.0 * slope[i] / unit - push) * derivative;
                x.mean = first * x.mean + (1.0 - first) * gradient;
                x.square = second * x.square + (1.0 - second) * gradient * gradient;
                x.v -= self.rate * (x.mean / unbias1) / ((x.square / unbias2).sqrt() + 1e-8);
            });
        }
        let decided = |i: usize| code(i, if variables[i].v >= 0.0 { 1.0 } else { 0.0 }) as i32;
        Ok((0..w.len()).map(decided).collect())
    }
}

impl Rounder for AdaRound {
    fn round(&self, task: &Task, curvature: Option<&Curvature>) -> Result<Vec<i32>> {
        let curvature = needed(curvature)?;
        let per_group = (task.rows / curvature.groups.len().max(1)).max(1);
        let mut codes = Vec::with_capacity(task.weights.len());
        for (g, group) in curvature.groups.iter().enumerate() {
            codes.extend(self.group(task, g * per_group..(g + 1) * per_group, &group.h)?);
        }
        let rows: Vec<Vec<i32>> = codes
            .par_chunks(task.depth.max(1))
            .enumerate()
            .map(|(i, codes)| better(task.row(i), &curvature.groups[i / per_group], codes.to_vec()))
            .collect();
        Ok(rows.concat())
    }
}
