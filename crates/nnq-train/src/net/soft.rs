//! How a part of a network is rounded while it is reconstructed.
use crate::backend::{Kernels, Var};
use nnq::data::mix;
use std::collections::HashMap;

/// How values are rounded while a part of a network is reconstructed.
pub struct Soft<B: Kernels> {
    /// Weights, by their grid: as they are given.
    pub weights: HashMap<usize, Var<B>>,
    /// Values: some elements are left real.
    pub drop: Option<Drop>,
}

/// Elements of values are left real at random (Wei et al., 2022, "QDrop", arXiv:2203.05740).
#[derive(Clone, Copy, Debug)]
pub struct Drop {
    /// The share that is rounded.
    pub rounded: f32,
    /// Stands for seed, part and step.
    pub key: u64,
}

impl Drop {
    /// 1 for each element that is rounded, 0 for the others; `value` has a stream of its own.
    pub fn mask(&self, value: u64, elements: usize) -> Vec<f32> {
        let key = mix(self.key, value);
        let limit = (f64::from(self.rounded) * f64::from(1u32 << 16)) as u64;
        let mut all = Vec::with_capacity(elements + 4);
        for i in 0..elements.div_ceil(4) as u64 {
            // Four elements from each number.
            let bits = mix(key, i);
            all.extend((0..4).map(|k| if (bits >> (16 * k)) & 0xffff < limit { 1.0 } else { 0.0 }));
        }
        all.truncate(elements);
        all
    }
}
