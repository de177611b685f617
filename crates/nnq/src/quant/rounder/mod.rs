//! From real weights on fixed scales to codes.
//!
//! Every method sees a product's weights as rows, one for each output channel. Those that look at data see it as the second moments of
//! the product's inputs: with `d = w - D(q)` the squared error of an output channel over the calibration data is `d H d^T`, whatever the number
//! of samples, so that gradients and differences are exact and in closed form.
mod adaround;
mod descent;
mod lattice;
mod stochastic;
#[cfg(test)]
mod tests;

pub use adaround::AdaRound;
pub use descent::Descent;
pub use lattice::Gptq;
pub use stochastic::Stochastic;

use super::weights::Groups;
use crate::{
    error::{Error, Result},
    ir::QParams,
};
use nnq_kernels::round::quantize_f32;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How weights become codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Rounding {
    /// Each to the nearest code.
    #[default]
    Nearest,
    /// Up or down at random, right on average.
    Stochastic,
    /// One after the other, the rest making up for the error (GPTQ).
    Gptq,
    /// GPTQ, then single codes move for as long as the layer's error falls.
    Descent,
    /// Rounding up or down as a continuous variable that is driven to a decision (AdaRound).
    AdaRound,
}

impl Rounding {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nearest, Self::Stochastic, Self::Gptq, Self::Descent, Self::AdaRound];

    /// Whether it needs the moments of a layer's inputs.
    pub fn needs_data(self) -> bool {
        matches!(self, Self::Gptq | Self::Descent | Self::AdaRound)
    }
    /// The method; `key` is of the tensor, for what is random.
    pub fn rounder(self, key: u64) -> Box<dyn Rounder> {
        match self {
            Self::Nearest => Box::new(Nearest),
            Self::Stochastic => Box::new(Stochastic { key }),
            Self::Gptq => Box::new(Gptq::default()),
            Self::Descent => Box::new(Descent::default()),
            Self::AdaRound => Box::new(AdaRound::default()),
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Stochastic => "stochastic",
            Self::Gptq => "gptq",
            Self::Descent => "descent",
            Self::AdaRound => "adaround",
        })
    }
}

impl FromStr for Rounding {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|r| r.to_string() == s).ok_or_else(|| {
            let all = Self::ALL.map(|r| r.to_string()).join(", ");
            Error::usage(format!("no rounding is called '{s}'")).cure(format!("use one of {all}"))
        })
    }
}

/// The weights of a product on their grids: `[rows][depth]`, a row for each output channel.
#[derive(Clone, Debug)]
pub struct Task {
    /// Output channels.
    pub rows: usize,
    /// Weights of a row.
    pub depth: usize,
    /// The real weights.
    pub weights: Vec<f32>,
    /// The scale of each weight.
    pub scale: Vec<f32>,
    /// The zero point of each weight.
    pub zero: Vec<i32>,
    /// The lowest code.
    pub lo: i32,
    /// The highest.
    pub hi: i32,
}

impl Task {
    /// The weights of a tensor of `shape` whose output channels lie along `axis`: 0, or 1 of a matrix.
    ///
    /// # Errors
    /// When shape, axis, weights and parameters do not fit each other.
    pub fn new(weights: &[f32], shape: &[usize], axis: usize, params: &QParams) -> Result<Self> {
        let misfit = || Error::shape(format!("output channels along axis {axis} of weights of shape {shape:?}"));
        if !matches!((axis, shape), (0, [_, ..]) | (1, [_, _])) {
            return Err(misfit());
        }
        let rows = shape[axis];
        let groups = Groups::new(shape, params.granularity)?;
        if groups.total != weights.len() || params.scale.len() != groups.len() {
            return Err(misfit());
        }
        let depth = weights.len() / rows.max(1);
        let (mut scale, mut zero) = (vec![0.0; weights.len()], vec![0; weights.len()]);
        for (g, (&s, &z)) in params.scale.iter().zip(&params.zero_point).enumerate() {
            for run in groups.runs(g) {
                scale[run.clone()].fill(s);
                zero[run].fill(z);
            }
        }
        Ok(Self {
            rows,
            depth,
            weights: to_rows(weights, shape, axis),
            scale: to_rows(&scale, shape, axis),
            zero: to_rows(&zero, shape, axis),
            lo: params.qtype.min(),
            hi: params.qtype.max(),
        })
    }
    /// One row.
    pub fn row(&self, i: usize) -> Row<'_> {
        let all = i * self.depth..(i + 1) * self.depth;
        Row {
            weights: &self.weights[all.clone()],
            scale: &self.scale[all.clone()],
            zero: &self.zero[all],
            lo: self.lo,
            hi: self.hi,
        }
    }
    /// The real numbers that `codes` stand for.
    pub fn dequantize(&self, codes: &[i32]) -> Vec<f32> {
        codes.iter().zip(&self.scale).zip(&self.zero).map(|((&q, &s), &z)| (q - z) as f32 * s).collect()
    }
    /// `f` for every row and the number of its group, on all threads.
    fn each(&self, curvature: &Curvature, f: impl Fn(Row<'_>, usize) -> Vec<i32> + Sync) -> Result<Vec<i32>> {
        let groups = curvature.groups.len();
        if curvature.depth != self.depth || groups == 0 || !self.rows.is_multiple_of(groups) {
            return Err(Error::internal(format!(
                "{} rows of {} weights, moments of {groups} times {}",
                self.rows, self.depth, curvature.depth
            )));
        }
        let per_group = (self.rows / groups).max(1);
        let rows: Vec<Vec<i32>> = (0..self.rows).into_par_iter().map(|i| f(self.row(i), i / per_group)).collect();
        Ok(rows.concat())
    }
}

/// A `[rows][cols]` matrix as `[cols][rows]`.
fn turn<T: Copy>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| x[r * cols + c])).collect()
}

/// The weights of one output channel.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    weights: &'a [f32],
    scale: &'a [f32],
    zero: &'a [i32],
    lo: i32,
    hi: i32,
}

impl Row<'_> {
    /// The code next to `x`, which stands at place `i`.
    fn code(&self, i: usize, x: f32) -> i32 {
        quantize_f32(x, self.scale[i], self.zero[i], self.lo, self.hi)
    }
    /// What code `q` at place `i` lacks of the weight.
    fn rest(&self, i: usize, q: i32) -> f32 {
        self.weights[i] - (q - self.zero[i]) as f32 * self.scale[i]
    }
    fn nearest(&self) -> Vec<i32> {
        self.weights.iter().enumerate().map(|(i, &w)| self.code(i, w)).collect()
    }
    /// `d H d^T` of what codes lack.
    fn error(&self, group: &Group, codes: &[i32]) -> f64 {
        let d: Vec<f32> = codes.iter().enumerate().map(|(i, &q)| self.rest(i, q)).collect();
        let k = d.len();
        let of = |i: usize| -> f64 {
            let line: f32 = group.h[i * k..][..k].iter().zip(&d).map(|(h, d)| h * d).sum();
            f64::from(d[i]) * f64::from(line)
        };
        (0..k).map(of).sum()
    }
}

/// Second moments of what the weights of a product are multiplied with, one matrix for each group of channels.
#[derive(Clone, Debug)]
pub struct Curvature {
    /// Weights of a row.
    pub depth: usize,
    /// One for each group; rows of a group share it.
    pub groups: Vec<Group>,
}

/// Second moments of one group of channels.
#[derive(Clone, Debug)]
pub struct Group {
    /// `H`, `[depth][depth]`, symmetric and (by its damping) positive definite.
    pub h: Vec<f32>,
}

impl Curvature {
    /// The error of codes: the sum of `d H d^T` over all rows.
    ///
    /// # Errors
    /// When the moments are of other weights.
    pub fn error(&self, task: &Task, codes: &[i32]) -> Result<f64> {
        if codes.len() != task.weights.len() || self.depth != task.depth || self.groups.is_empty() {
            return Err(Error::internal("codes, weights and moments of different sizes"));
        }
        let per_group = (task.rows / self.groups.len()).max(1);
        let of = |i: usize| task.row(i).error(&self.groups[i / per_group], &codes[i * task.depth..][..task.depth]);
        Ok((0..task.rows).into_par_iter().map(of).collect::<Vec<f64>>().iter().sum())
    }
}

/// Turns real weights into codes on given scales and zero points.
pub trait Rounder: Sync {
    /// One code for each weight of the task, in its order, within its limits. `curvature`: the moments of the layer's inputs, where they
    /// are known.
    ///
    /// # Errors
    /// Whatever keeps the method from rounding these weights.
    fn round(&self, task: &Task, curvature: Option<&Curvature>) -> Result<Vec<i32>>;
}

/// Each weight to its nearest code, ties to even: `Q` of the numerics page.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nearest;

impl Rounder for Nearest {
    fn round(&self, task: &Task, _: Option<&Curvature>) -> Result<Vec<i32>> {
        Ok((0..task.rows).into_par_iter().flat_map_iter(|i| task.row(i).nearest()).collect())
    }
}

/// The moments, for a method that cannot do without.
fn needed(curvature: Option<&Curvature>) -> Result<&Curvature> {
    curvature.ok_or_else(|| {
        Error::usage("this rounding looks at what the layer's inputs are, and there are no samples")
            .cure("give --data, or use weight.rounding = \"nearest\"")
    })
}

/// Weights of a tensor of `shape` as rows, one for each output channel along `axis`.
pub fn to_rows<T: Copy>(weights: &[T], shape: &[usize], axis: usize) -> Vec<T> {
    if axis == 0 { weights.to_vec() } else { turn(weights, shape[0], shape[1]) }
}

/// The inverse of [`to_rows`].
pub fn from_rows<T: Copy>(rows: Vec<T>, shape: &[usize], axis: usize) -> Vec<T> {
    if axis == 0 { rows } else { turn(&rows, shape[1], shape[0]) }
}
