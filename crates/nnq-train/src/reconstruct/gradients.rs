//! The gradients of a part that is learned.
use super::{Block, Settings};
use super::{
    cache::Cache,
    learned::{self, How, Learned},
    part::Work,
};
use crate::{
    backend::{self, Kernels, Var, scalar},
    net::{Drop, Soft},
    params::Parameters,
};
use burn::backend::{Autodiff, ops::FloatTensorOps as _, tensor::FloatTensor};
use nnq::Result;
use std::collections::HashMap;

/// The share of steps before roundings are made to decide.
const FREE: f64 = 0.2;
/// The exponent of the deciding term, from and to.
const EXPONENT: [f64; 2] = [20.0, 2.0];

/// The stream of what goes in, apart from those of values.
const INPUT: u64 = 1 << 40;

/// A step of learning a part.
pub(super) struct At<'a> {
    /// The samples.
    pub some: &'a [usize],
    /// Which step.
    pub step: u64,
    /// Of everything random in it.
    pub key: u64,
    /// The part's error before learning, as a share.
    pub before: f64,
    /// The energy of what the part should make, for each sample.
    pub energy: f64,
}

impl<B: Kernels> Work<'_, B> {
    /// The gradients of one step, in the order of what is learned.
    pub(super) fn gradients(
        &self,
        part: &Block,
        (learned, loose): (&[Learned], &Parameters<B>),
        (x, quantized, target): (&Cache, Option<&Cache>, &Cache),
        at: &At,
    ) -> Result<Vec<Option<FloatTensor<B>>>> {
        let Settings { steps, rounded, strength, .. } = self.settings;
        let At { some, step, key, before, energy } = *at;
        let drop = (rounded < 1.0).then_some(Drop { rounded, key });
        let mut leaves: Vec<Var<B>> =
            self.parameters.values.iter().map(|x| backend::constant::<B>(x.clone())).collect();
        let mut soft = Soft { weights: HashMap::new(), drop };
        let variables = loose.all_numbers()?;
        let mut roundings = 0;
        for (l, numbers) in learned.iter().zip(learned::numbers(learned, &variables, false)) {
            let (count, shape) = (numbers.len(), &self.parameters.list[l.parameter].shape);
            let leaf = backend::tracked::<B>(backend::tensor::<B>(numbers, shape, self.device));
            match &l.how {
                How::Rounded(grid, _) | How::Straight { grid, .. } => {
                    soft.weights.insert(*grid, leaf);
                    roundings += count;
                }
                How::Line { .. } => leaves[l.parameter] = leaf,
            }
        }
        let mut numbers = quantized.unwrap_or(x).rows(some);
        if let (Some(_), Some(drop)) = (quantized, drop) {
            // Elements of what goes in are dropped, too.
            let mask = drop.mask(INPUT, numbers.len());
            for ((number, x), rounded) in numbers.iter_mut().zip(x.rows(some)).zip(mask) {
                *number = if rounded > 0.0 { *number } else { x };
            }
        }
        let input = backend::constant::<B>(backend::tensor::<B>(numbers, &x.batch(some.len()), self.device));
        let forward = self.forward(Some(&soft));
        let y = forward.part((part.from, input, quantized.is_none()), &part.nodes, part.to, &leaves)?;
        let shape = backend::dims::<B>(&y);
        let count: usize = shape.iter().product();
        let wanted = backend::constant::<B>(backend::tensor::<B>(target.rows(some), &shape, self.device));
        let off = Autodiff::<B>::float_sub(y, wanted);
        let square = backend::reshaped::<B>(Autodiff::<B>::float_mul(off.clone(), off), &[1, count]);
        let sum = Autodiff::<B>::float_sum_dim(square, 1);
        // Times the roundings: their gradients should not vanish beside Adam's epsilon.
        let times = roundings.max(1) as f64;
        let share = if energy > 0.0 { times / (energy * some.len() as f64) } else { 1.0 };
        let loss = Autodiff::<B>::float_mul_scalar(sum, scalar(share as f32));
        let mut grads = loss.backward();
        let along = step as f64 / steps as f64;
        let decide = (along >= FREE).then(|| {
            let way = (along - FREE) / (1.0 - FREE);
            // Where nothing is decided, it costs `strength` times the error that there was.
            ((f64::from(strength) * before) as f32, (EXPONENT[0] + (EXPONENT[1] - EXPONENT[0]) * way) as f32)
        });
        let mut of = Vec::with_capacity(learned.len());
        for l in learned {
            let leaf = match &l.how {
                How::Rounded(grid, _) | How::Straight { grid, .. } => soft.weights.get(grid),
                How::Line { .. } => leaves.get(l.parameter),
            };
            of.push(leaf.and_then(|leaf| leaf.grad_remove(&mut grads)).map(|g| backend::numbers::<B>(g)).transpose()?);
        }
        let gradients = learned::gradients(learned, &variables, of, decide);
        let tensor = |(l, g): (&Learned, Option<Vec<f32>>)| {
            g.map(|g| backend::tensor::<B>(g, &self.parameters.list[l.parameter].shape, self.device))
        };
        Ok(learned.iter().zip(gradients).map(tensor).collect())
    }
}
