//! Fake quantization: values are rounded to their grid and stay real numbers, and gradients pass through by a rule.
//!
//! Forward, every rule computes what `docs/numerics.md` section 2 says, `D(Q(x))`: a binary32 division, half to even, the clamp. So a value in
//! training is the value that the integer engine holds. Only gradients differ:
//!
//! | for the value | |
//! |---|---|
//! | [`Estimator::Ste`] | as if nothing were rounded or clipped (Bengio et al., arXiv:1308.3432) |
//! | [`Estimator::Clipped`] | 1 on the grid, 0 outside: the default |
//! | [`Estimator::Ewgs`] | on the grid `1 + delta * sign(gradient) * (x - rounded)`, in shares of the grid (Lee et al., arXiv:2104.00903) |
//! | [`Estimator::Dsq`] | on the grid the slope of a soft staircase (Gong et al., arXiv:1908.05033) |
//! | [`Estimator::Reste`] | the slope of `sign(z)abs(z)^(1/o)`, `z` from jump to next level, up to 1.5; `o` grows from 1 (Wu et al., ICCV 2023; there for two levels) |
//!
//! | for the scale | |
//! |---|---|
//! | [`ScaleRule::Lsq`] | `rne(v) - v` on the grid, its end outside, `v = x / s` (Esser et al., arXiv:1902.08153) |
//! | [`ScaleRule::Pact`] | 0 on the grid, its end outside: the clipping level alone is learned (Choi et al., arXiv:1805.06085) |
//! | [`ScaleRule::Fixed`] | 0: the scale stays what calibration found |
//!
//! Weights may also stand on few levels whose scale follows from them: [`levels`].
pub mod composed;
mod estimator;
pub mod flex;
pub mod levels;
mod op;

pub use estimator::{Estimator, ScaleRule};
pub use levels::Levels;
pub use op::{fake, levelled};

use nnq::{
    Error, Result,
    ir::{Granularity, QParams},
};
use std::sync::Arc;

/// A grid to round to, without its scales: these are tensors, since they are learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Lowest and highest code less the zero point, for each scale, or one pair for all.
    pub limits: Arc<[[f32; 2]]>,
    /// Number of scales.
    pub groups: usize,
    /// Consecutive elements that share a scale; those after them have the next one, in turn.
    pub inner: usize,
    /// What gradients of scales are multiplied with.
    pub gain: f32,
    /// The gradient for values.
    pub estimator: Estimator,
    /// The gradient for scales.
    pub rule: ScaleRule,
}

impl Grid {
    /// The grid of a tensor of `shape`, whose gain is that of LSQ: `1 / sqrt(n * q)` for `n` elements for each scale (of one sample, for
    /// activations) and `q` the end of the grid that is farther from zero.
    ///
    /// # Errors
    /// When the parameters do not fit the shape, or have a scale for each block.
    pub fn new(params: &QParams, shape: &[usize], samples: usize) -> Result<Self> {
        params.check(Some(shape))?;
        let total: usize = shape.iter().product();
        let (groups, inner) = match params.granularity {
            Granularity::Tensor => (1, total.max(1)),
            Granularity::Channel { axis } => (shape[axis], shape[axis + 1..].iter().product()),
            Granularity::Block { .. } => {
                return Err(Error::unsupported("training with a scale for each block of weights")
                    .cure("use --granularity tensor or channel"));
            }
        };
        let of = |zero: &i32| [params.qtype.min(), params.qtype.max()].map(|end| (end - zero) as f32);
        let mut limits: Vec<[f32; 2]> = params.zero_point.iter().map(of).collect();
        if limits.iter().all(|l| *l == limits[0]) {
            limits.truncate(1);
        }
        let far = limits.iter().flatten().fold(1.0f32, |far, end| far.max(end.abs()));
        let each = total as f64 / groups.max(1) as f64 / samples.max(1) as f64;
        let gain = (1.0 / (each.max(1.0) * f64::from(far)).sqrt()) as f32;
        Ok(Self {
            limits: limits.into(),
            groups,
            inner,
            gain,
            estimator: Estimator::default(),
            rule: ScaleRule::default(),
        })
    }
    /// The scale of the element at flat position `i`.
    pub fn group(&self, i: usize) -> usize {
        i / self.inner.max(1) % self.groups.max(1)
    }
    /// Lowest and highest code less the zero point of a scale.
    pub fn limit(&self, group: usize) -> [f32; 2] {
        self.limits[if self.limits.len() == 1 { 0 } else { group }]
    }
}

#[cfg(test)]
mod tests;
