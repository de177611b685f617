//! Batch normalisation, frozen or by the batch's own statistics.
use super::Values;
use crate::{
    backend::{self, Kernels, Var},
    params::STATISTICS,
};
use burn::backend::{Autodiff, ops::ModuleOps as _};
use nnq::{
    Error, Result,
    ir::{Node, ValueId},
};

pub(super) fn batch<B: Kernels>(values: &mut Values<B>, node: &Node, epsilon: f32) -> Result<Var<B>> {
    let (x, gamma, beta) = (values.input(node, 0)?, values.input(node, 1)?, values.input(node, 2)?);
    let shape = backend::dims::<B>(&x);
    let channels = shape.get(1).copied().unwrap_or(0);
    if shape.len() < 2 || [&gamma, &beta].iter().any(|t| backend::dims::<B>(t) != [channels]) {
        return Err(Error::shape(format!("an input of shape {shape:?} with {:?} scales", backend::dims::<B>(&gamma))));
    }
    let running = STATISTICS.map(|i| node.input(i));
    let [Some(mean), Some(variance)] = running else { return Err(Error::malformed("it lacks its statistics")) };
    let stored = |v: ValueId| match values.forward.parameters.statistics.get(&v) {
        Some(t) => Ok(backend::constant::<B>(t.clone())),
        None => values.value(v),
    };
    if !values.forward.live {
        let (mean, variance) = (stored(mean)?, stored(variance)?);
        return Ok(Autodiff::<B>::batch_norm(x, gamma, beta, mean, variance, f64::from(epsilon)));
    }
    let count = shape.iter().product::<usize>() / channels.max(1);
    if count < 2 {
        return Err(Error::shape(format!("batch statistics of {count} numbers for each channel"))
            .cure("train with larger batches"));
    }
    let out = Autodiff::<B>::batch_norm_train(x, gamma, beta, f64::from(epsilon));
    let unbiased = count as f64 / (count - 1) as f64;
    let spread = B::float_mul_scalar(out.variance.into_primitive(), burn::backend::Scalar::Float(unbiased));
    values.statistics.push((mean, out.mean.into_primitive()));
    values.statistics.push((variance, spread));
    Ok(out.output)
}
