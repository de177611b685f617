//! Batch normalisation, frozen or by the batch's own statistics.
use super::{Normalize, Values, ahead::Ahead};
use crate::{
    backend::{self, Kernels, Var},
    finish::{self, Finish},
    norm::{self, Normalized},
    params::{Of, Running, STATISTICS},
    qat::normal::EPSILON,
};
use burn::backend::{
    Autodiff, Scalar,
    ops::{FloatTensorOps as _, ModuleOps as _},
    tensor::FloatTensor,
};
use nnq::{
    Error, Result,
    ir::{Node, NodeId, ValueId},
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
    let stored = |v: ValueId| match values.forward.parameters.statistics.get(&Running::Constant(v)) {
        Some(t) => Ok(backend::constant::<B>(t.clone())),
        None => values.value(v),
    };
    if values.forward.normalize != Normalize::Live {
        let (mean, variance) = (stored(mean)?, stored(variance)?);
        return Ok(Autodiff::<B>::batch_norm(x, gamma, beta, mean, variance, f64::from(epsilon)));
    }
    let parts = Parts { x, gamma, beta, epsilon };
    live(values, parts, [Running::Constant(mean), Running::Constant(variance)])
}

/// What is normalised, multiplied and added to.
pub(super) struct Parts<B: Kernels> {
    pub x: Var<B>,
    pub gamma: Var<B>,
    pub beta: Var<B>,
    pub epsilon: f32,
}

/// Normalised by the batch's own statistics, which are kept.
pub(super) fn live<B: Kernels>(values: &mut Values<B>, parts: Parts<B>, keys: [Running; 2]) -> Result<Var<B>> {
    let Parts { x, gamma, beta, epsilon } = parts;
    let unbiased = unbiased(&backend::dims::<B>(&x))?;
    let out = norm::normalize::<B>(x, gamma, beta, f64::from(epsilon));
    Ok(kept(values, out, keys, unbiased))
}

/// Keeps the statistics of a batch.
fn kept<B: Kernels, V>(
    values: &mut Values<B>,
    out: Normalized<V, FloatTensor<B>>,
    keys: [Running; 2],
    unbiased: f64,
) -> V {
    let spread = B::float_mul_scalar(out.variance, Scalar::Float(unbiased));
    values.statistics.push((keys[0], out.mean));
    values.statistics.push((keys[1], spread));
    out.output
}

/// What is multiplied with channels of a product once they are normalised, and whether shapes fit.
fn gain<B: Kernels>(values: &Values<B>, id: NodeId, y: &Var<B>, bias: &Var<B>) -> Result<Var<B>> {
    let channels = backend::dims::<B>(bias);
    if backend::dims::<B>(y).get(1) != channels.first() {
        return Err(Error::shape(format!("{:?} and a bias of {channels:?}", backend::dims::<B>(y))));
    }
    let gain = values.forward.parameters.of(Of::Gain(id)).and_then(|p| values.leaves.get(p)).cloned();
    gain.ok_or_else(|| Error::internal("a product without a gain"))
}

/// What a product that is normalised, clipped and rounded answers for `y` (its bias left out) and its bias.
pub(super) fn finished<B: Kernels>(
    values: &mut Values<B>,
    id: NodeId,
    y: Var<B>,
    bias: Var<B>,
    ahead: Ahead,
) -> Result<Var<B>> {
    let gamma = gain(values, id, &y, &bias)?;
    let shape = backend::dims::<B>(&y);
    let unbiased = unbiased(&shape)?;
    let grid = values.grid(&values.forward.plan.grids[ahead.grid], &shape, values.samples)?;
    let how = Finish { epsilon: f64::from(EPSILON), ends: ahead.ends, grid };
    let scale = values.scale(ahead.grid)?;
    let out = finish::finish::<B>(finish::Parts { x: y, gamma, beta: bias, scale }, how);
    Ok(kept(values, out, [Running::Mean(id), Running::Variance(id)], unbiased))
}

/// What the variance of the elements of each channel is multiplied with for that of all samples.
fn unbiased(shape: &[usize]) -> Result<f64> {
    let count = shape.iter().product::<usize>() / shape.get(1).copied().unwrap_or(0).max(1);
    if count < 2 {
        return Err(Error::shape(format!("batch statistics of {count} numbers for each channel"))
            .cure("train with larger batches"));
    }
    Ok(count as f64 / (count - 1) as f64)
}

/// What a product that is normalised answers for `y` (its bias left out) and its bias: see [`crate::qat::normal`]. `scale` is that of its accumulators.
pub(super) fn product<B: Kernels>(
    values: &mut Values<B>,
    id: NodeId,
    y: Var<B>,
    bias: Var<B>,
    scale: Option<FloatTensor<B>>,
) -> Result<Var<B>> {
    let keys = [Running::Mean(id), Running::Variance(id)];
    let gamma = gain(values, id, &y, &bias)?;
    let parameters = values.forward.parameters;
    let running =
        |key| parameters.statistics.get(&key).cloned().ok_or_else(|| Error::internal("no running statistics"));
    match values.forward.normalize {
        Normalize::Live => live(values, Parts { x: y, gamma, beta: bias, epsilon: EPSILON }, keys),
        Normalize::Frozen => {
            let (mean, variance) = (running(keys[0])?, running(keys[1])?);
            // The bias that will be written, on its grid: what rounding moves it by is added to what stands for it here.
            let factor = B::float_div(
                gamma.primitive().clone(),
                B::float_sqrt(B::float_add_scalar(variance.clone(), Scalar::Float(f64::from(EPSILON)))),
            );
            let beta = match scale {
                Some(scale) => {
                    let moved = B::float_mul(mean.clone(), factor.clone());
                    let real = B::float_sub(bias.primitive().clone(), moved);
                    let rounded = super::product::bias_on_grid::<B>(real.clone(), B::float_mul(scale, factor));
                    Autodiff::<B>::float_add(bias, backend::constant::<B>(B::float_sub(rounded, real)))
                }
                None => bias,
            };
            let [mean, variance] = [mean, variance].map(backend::constant::<B>);
            Ok(Autodiff::<B>::batch_norm(y, gamma, beta, mean, variance, f64::from(EPSILON)))
        }
        Normalize::Watched => {
            let unbiased = unbiased(&backend::dims::<B>(&y))?;
            let x = y.primitive().clone();
            let (device, channels) = (backend::device_of::<B>(&x), backend::dims::<B>(&bias));
            let [ones, zeros] = [1.0, 0.0].map(|v| backend::tensor::<B>(vec![v; channels[0]], &channels, &device));
            let out = B::normalize(x, ones, zeros, f64::from(EPSILON));
            kept(values, out, keys, unbiased);
            let spread_over: Vec<usize> =
                (0..backend::dims::<B>(&y).len()).map(|a| if a == 1 { channels[0] } else { 1 }).collect();
            Ok(Autodiff::<B>::float_add(y, backend::reshaped::<B>(bias, &spread_over)))
        }
    }
}
