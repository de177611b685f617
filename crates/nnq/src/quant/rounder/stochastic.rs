//! Stochastic rounding.
use super::{Curvature, Rounder, Task};
use crate::{data::mix, error::Result};
use nnq_kernels::round::stochastic_f32;

/// Up with the probability that makes the mean right: `floor(w / s + u)`, `u` uniform in `[0, 1)`. A weight on the grid stays there.
///
/// `u` depends on the key and on the weight's place alone: the codes are the same for any number of threads.
#[derive(Clone, Copy, Debug)]
pub struct Stochastic {
    /// Of seed and tensor.
    pub key: u64,
}

impl Rounder for Stochastic {
    fn round(&self, task: &Task, _: Option<&Curvature>) -> Result<Vec<i32>> {
        let one = |i: usize| {
            // 24 bits: as many as binary32 holds.
            let u = (mix(self.key, i as u64) >> 40) as f32 / (1u64 << 24) as f32;
            stochastic_f32(task.weights[i], task.scale[i], task.zero[i], task.lo, task.hi, u)
        };
        Ok((0..task.weights.len()).map(one).collect())
    }
}
