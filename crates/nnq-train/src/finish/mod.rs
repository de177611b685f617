//! What follows a product while a network learns whose products are normalised: its channels are normalised by the batch, clipped and rounded to a grid. Together they
//! are one operation of burn's automatic differentiation, so that a backend may keep one tensor instead of three, in one pass over memory forward and two back.
pub mod flex;
#[cfg(test)]
mod tests;

use crate::{
    backend::{Kernels, Var},
    fake::Grid,
    norm::{self, Normalized},
};
use burn::backend::{
    Autodiff,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

/// How it ends.
#[derive(Clone, Debug)]
pub struct Finish {
    /// What is added to variances.
    pub epsilon: f64,
    /// What normalised numbers are clipped to; infinite ends are none.
    pub ends: [f32; 2],
    /// What they are rounded to then, with one scale.
    pub grid: Grid,
}

/// The tensors that go in.
#[derive(Clone, Debug)]
pub struct Parts<V> {
    /// `[samples, channels, ...]`
    pub x: V,
    /// What normalised channels are multiplied with.
    pub gamma: V,
    /// What is added to them.
    pub beta: V,
    /// Of the grid.
    pub scale: V,
}

/// What the way back needs.
#[derive(Clone, Debug)]
pub struct Seen<B: Kernels> {
    /// What went in.
    pub parts: Parts<FloatTensor<B>>,
    /// Of each channel.
    pub mean: FloatTensor<B>,
    /// Of each channel, by the number of its elements.
    pub variance: FloatTensor<B>,
}

/// By the backend's own normalisation, clipping and rounding.
pub fn composed<B: Kernels>(parts: Parts<FloatTensor<B>>, how: &Finish) -> Normalized<FloatTensor<B>, FloatTensor<B>> {
    let Parts { x, gamma, beta, scale } = parts;
    let Normalized { output, mean, variance } = B::normalize(x, gamma, beta, how.epsilon);
    Normalized { output: B::fake(B::clip(output, how.ends), scale, &how.grid), mean, variance }
}

/// The gradients of [`composed`], in the order of [`Parts`].
pub fn composed_backward<B: Kernels>(seen: Seen<B>, grad: FloatTensor<B>, how: &Finish) -> [FloatTensor<B>; 4] {
    let Seen { parts: Parts { x, gamma, beta, scale }, mean, variance } = seen;
    let normalized = B::normalize(x.clone(), gamma.clone(), beta, how.epsilon).output;
    let clipped = B::clip(normalized, how.ends);
    let (grad, to_scale) = B::fake_backward(clipped.clone(), scale, grad, &how.grid);
    let grad = B::clip_backward(clipped, grad, how.ends);
    let seen = norm::Seen { x, gamma, mean, variance, epsilon: how.epsilon };
    let [to_x, to_gamma, to_beta] = B::normalize_backward(seen, grad);
    [to_x, to_gamma, to_beta, to_scale]
}

#[derive(Debug)]
struct Finished;

impl<B: Kernels> Backward<B, 4> for Finished {
    type State = (Seen<B>, Finish);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (seen, how) = ops.state;
        let each = B::finish_backward(seen, grad, &how);
        for (node, grad) in ops.parents.into_iter().zip(each) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// `round(clip(normalize(x)))`.
pub fn finish<B: Kernels>(parts: Parts<Var<B>>, how: Finish) -> Normalized<Var<B>, FloatTensor<B>> {
    let Parts { x, gamma, beta, scale } = parts;
    let nodes = [x.node(), gamma.node(), beta.node(), scale.node()];
    let [x, gamma, beta, scale] = [x, gamma, beta, scale].map(|t: FloatTensor<Autodiff<B>>| t.into_primitive());
    let parts = Parts { x, gamma, beta, scale };
    let Normalized { output, mean, variance } = B::finish(parts.clone(), &how);
    let output = match Finished.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            prep.finish((Seen { parts, mean: mean.clone(), variance: variance.clone() }, how), output)
        }
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Normalized { output, mean, variance }
}
