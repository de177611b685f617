//! The gradients of a part that is learned.
use super::{Block, Settings};
use super::{
    cache::Cache,
    part::{Learned, Work},
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

impl<B: Kernels> Work<'_, B> {
    /// The gradients of one step, in the order of what is learned.
    pub(super) fn gradients(
        &self,
        part: &Block,
        (learned, loose): (&[Learned], &Parameters<B>),
        (x, quantized, target): (&Cache, Option<&Cache>, &Cache),
        some: &[usize],
        step: u64,
        key: u64,
    ) -> Result<Vec<Option<FloatTensor<B>>>> {
        let Settings { steps, rounded, strength, .. } = self.settings;
        let drop = Drop { rounded, key };
        let mut leaves: Vec<Var<B>> =
            self.parameters.values.iter().map(|x| backend::constant::<B>(x.clone())).collect();
        let mut soft = Soft { weights: HashMap::new(), drop: Some(drop) };
        let mut variables = Vec::with_capacity(learned.len());
        for (i, l) in learned.iter().enumerate() {
            let numbers = backend::numbers::<B>(loose.values[i].clone())?;
            let shape = &self.parameters.list[l.parameter].shape;
            let values = l.rounding.as_ref().map_or_else(|| numbers.clone(), |(_, r)| r.soft(&numbers));
            let leaf = backend::tracked::<B>(backend::tensor::<B>(values, shape, self.device));
            match &l.rounding {
                Some((grid, _)) => {
                    soft.weights.insert(*grid, leaf);
                }
                None => leaves[l.parameter] = leaf,
            }
            variables.push(numbers);
        }
        let mut numbers = x.rows(some);
        if let Some(quantized) = quantized {
            // Elements of what goes in are dropped, too.
            let mask = drop.mask(INPUT, numbers.len());
            for ((x, q), m) in numbers.iter_mut().zip(quantized.rows(some)).zip(mask) {
                *x = if m > 0.0 { q } else { *x };
            }
        }
        let input = backend::constant::<B>(backend::tensor::<B>(numbers, &x.batch(some.len()), self.device));
        let forward = self.forward(Some(&soft));
        let y = forward.part((part.from, input, quantized.is_none()), &part.nodes, part.to, &leaves)?;
        let shape = backend::dims::<B>(&y);
        let count: usize = shape.iter().product();
        let channels = if shape.len() > 2 { shape[1] } else { shape.last().copied().unwrap_or(1) };
        let wanted = backend::constant::<B>(backend::tensor::<B>(target.rows(some), &shape, self.device));
        let off = Autodiff::<B>::float_sub(y, wanted);
        let square = backend::reshaped::<B>(Autodiff::<B>::float_mul(off.clone(), off), &[1, count]);
        let sum = Autodiff::<B>::float_sum_dim(square, 1);
        let loss = Autodiff::<B>::float_mul_scalar(sum, scalar(channels.max(1) as f32 / count.max(1) as f32));
        let mut grads = loss.backward();
        let along = step as f64 / steps as f64;
        let decide = (along >= FREE).then(|| {
            let way = (along - FREE) / (1.0 - FREE);
            (strength, (EXPONENT[0] + (EXPONENT[1] - EXPONENT[0]) * way) as f32)
        });
        let mut out = Vec::with_capacity(learned.len());
        for (l, variables) in learned.iter().zip(&variables) {
            let leaf = match &l.rounding {
                Some((grid, _)) => soft.weights.get(grid),
                None => leaves.get(l.parameter),
            };
            let gradient = leaf.and_then(|leaf| leaf.grad_remove(&mut grads));
            out.push(match (&l.rounding, gradient) {
                (Some((_, rounding)), Some(g)) => {
                    let g = rounding.gradient(variables, &backend::numbers::<B>(g)?, decide);
                    Some(backend::tensor::<B>(g, &self.parameters.list[l.parameter].shape, self.device))
                }
                (_, g) => g,
            });
        }
        Ok(out)
    }
}
