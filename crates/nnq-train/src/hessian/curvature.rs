//! Products of the Hessian with vectors, and what they tell: traces and largest eigenvalues of its blocks.
use super::objective::Objective;
use crate::backend::Kernels;
use nalgebra::{DMatrix, SymmetricEigen};
use nnq::{Result, data::mix};

/// The length of a difference's step in that of the weights. Rounding of binary32 gradients costs about `2^-24 / STEP` of the product, curvature that changes
/// along the step and kinks that it crosses about `STEP^2` and `STEP`: a thousandth keeps all of them below a per cent.
pub const STEP: f64 = 1e-3;
/// An eigenvalue is settled when what its vector leaves, which bounds its error, is below this share of it: what differences are good for ...
const SETTLED: f64 = 1e-3;
/// ... or after so many products.
const MOST: usize = 40;
/// The stream of starts, apart from those of draws.
const STARTS: u64 = 1 << 40;

/// The Hessian of a loss by the weights of its layers, as an operator.
pub struct Curvature<'a, B: Kernels> {
    objective: &'a Objective<'a, B>,
    weights: Vec<Vec<f32>>,
    seed: u64,
}

/// An estimate of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trace {
    /// The mean over draws.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
}

/// The eigenvalue of the largest magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eigenvalue {
    /// As the products show it.
    pub value: f64,
    /// Products that were taken.
    pub products: u32,
    /// Whether its error is known to be small.
    pub settled: bool,
}

impl<'a, B: Kernels> Curvature<'a, B> {
    /// The curvature where the weights are.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn new(objective: &'a Objective<'a, B>, seed: u64) -> Result<Self> {
        Ok(Self { objective, weights: objective.weights()?, seed })
    }
    /// `(g(w + e v) - g(w - e v)) / 2e` with `e = STEP |w| / |v|`, for the layers where `v` is given: `v` is 0 elsewhere, and so are the rows that come back.
    ///
    /// # Errors
    /// As [`Objective::gradients`].
    pub fn product(&self, v: &[Option<Vec<f64>>]) -> Result<Vec<Vec<f64>>> {
        let wanted: Vec<bool> = v.iter().map(Option::is_some).collect();
        let here = self.weights.iter().zip(&wanted).filter(|(_, on)| **on).flat_map(|(w, _)| w);
        let w = here.map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let length = v.iter().flatten().flatten().map(|x| x * x).sum::<f64>().sqrt();
        // Weights that are all 0 say nothing of their scale.
        let step = if w > 0.0 { STEP * w } else { STEP } / length.max(f64::MIN_POSITIVE);
        let at = |e: f64| -> Result<Vec<Vec<f64>>> {
            let moved = self.weights.iter().zip(v).map(|(w, v)| match v {
                Some(v) => w.iter().zip(v).map(|(&w, v)| (f64::from(w) + e * v) as f32).collect(),
                None => w.clone(),
            });
            Ok(self.objective.gradients(&moved.collect::<Vec<Vec<f32>>>(), &wanted)?.1)
        };
        let (mut up, down) = (at(step)?, at(-step)?);
        for (up, down) in up.iter_mut().zip(&down) {
            up.iter_mut().zip(down).for_each(|(u, d)| *u = (*u - d) / (2.0 * step));
        }
        Ok(up)
    }
    /// Signs, each with a probability of one half.
    fn signs(&self, stream: u64, layer: usize) -> Vec<f64> {
        let key = mix(mix(self.seed, stream), layer as u64);
        let bit = |i: usize| mix(key, i as u64 / 64) >> (i % 64) & 1;
        (0..self.weights[layer].len()).map(|i| if bit(i) == 1 { 1.0 } else { -1.0 }).collect()
    }
    /// The trace of each layer's block: the mean of `v_l . (H v)_l` over draws of signs for all layers at once.
    ///
    /// # Errors
    /// As [`Objective::gradients`].
    pub fn traces(&self, draws: u32, tick: &mut dyn FnMut(u64)) -> Result<Vec<Trace>> {
        let layers = self.weights.len();
        let mut seen: Vec<Vec<f64>> = vec![Vec::new(); layers];
        for draw in 0..draws {
            let v: Vec<_> = (0..layers).map(|l| Some(self.signs(draw.into(), l))).collect();
            for ((seen, h), v) in seen.iter_mut().zip(self.product(&v)?).zip(v.iter().flatten()) {
                seen.push(dot(&h, v));
            }
            tick(u64::from(draw) + 1);
        }
        let n = f64::from(draws);
        let of = |seen: &Vec<f64>| {
            let mean = seen.iter().sum::<f64>() / n;
            let variance = seen.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
            Trace { mean, error: (variance / n).sqrt() }
        };
        Ok(seen.iter().map(of).collect())
    }
    /// The eigenvalue of the largest magnitude of a layer's block, by Lanczos' method (1950) from random signs: the largest of the block as seen within the space of
    /// its products. Every new direction is made orthogonal to all before, so that what differences get wrong does not add up.
    ///
    /// # Errors
    /// As [`Objective::gradients`].
    pub fn eigenvalue(&self, layer: usize) -> Result<Eigenvalue> {
        let mut next = self.signs(STARTS, layer);
        let mut length = dot(&next, &next).sqrt();
        let (mut basis, mut seen): (Vec<Vec<f64>>, Vec<[f64; 2]>) = (Vec::new(), Vec::new());
        let mut found = Eigenvalue { value: 0.0, products: 0, settled: true };
        while basis.len() < MOST.min(next.len()) && length > 0.0 {
            next.iter_mut().for_each(|x| *x /= length);
            let mut all = vec![None; self.weights.len()];
            all[layer] = Some(next.clone());
            let mut h = self.product(&all)?.swap_remove(layer);
            let along = dot(&next, &h);
            basis.push(next);
            // Twice: once leaves what rounding makes of large parts.
            for _ in 0..2 {
                for v in &basis {
                    let part = dot(v, &h);
                    h.iter_mut().zip(v).for_each(|(h, v)| *h -= part * v);
                }
            }
            (length, next) = (dot(&h, &h).sqrt(), h);
            seen.push([along, length]);
            let (value, last) = largest(&seen);
            let whole = basis.len() == next.len();
            let settled = whole || length * last <= SETTLED * value.abs();
            found = Eigenvalue { value, products: found.products + 1, settled };
            if settled {
                break;
            }
        }
        Ok(found)
    }
}

/// Of the symmetric matrix with these diagonals (the last number beside the diagonal is not part of it): the eigenvalue of the largest magnitude, and the magnitude of the last
/// element of its vector.
fn largest(seen: &[[f64; 2]]) -> (f64, f64) {
    let n = seen.len();
    let at = |i: usize, j: usize| match i.abs_diff(j) {
        0 => seen[i][0],
        1 => seen[i.min(j)][1],
        _ => 0.0,
    };
    let all = SymmetricEigen::new(DMatrix::from_fn(n, n, at));
    let k = all.eigenvalues.iamax();
    (all.eigenvalues[k], all.eigenvectors[(n - 1, k)].abs())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
