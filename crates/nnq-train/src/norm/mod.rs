//! Batch normalisation by the batch's own statistics, and clipping, each as one operation of burn's automatic differentiation, so that a backend may bring its own way
//! forward and back. burn's own composes normalisation of a dozen passes over memory, on one core.
pub mod flex;
#[cfg(test)]
mod tests;
#[cfg(feature = "libtorch")]
#[allow(deprecated, reason = "burn will drop it; those who have PyTorch get its speed until then")]
pub mod torch;

use crate::backend::{Kernels, Var};
use burn::backend::{
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

/// What normalisation answers.
pub struct Normalized<V, T> {
    /// `gamma (x - mean) / sqrt(variance + epsilon) + beta`
    pub output: V,
    /// Of each channel.
    pub mean: T,
    /// Of each channel, by the number of its elements.
    pub variance: T,
}

/// What the way back needs.
#[derive(Clone, Debug)]
pub struct Seen<B: Kernels> {
    /// The input.
    pub x: FloatTensor<B>,
    /// What channels are multiplied with.
    pub gamma: FloatTensor<B>,
    /// Of each channel.
    pub mean: FloatTensor<B>,
    /// Of each channel, by the number of its elements.
    pub variance: FloatTensor<B>,
    /// What is added to variances.
    pub epsilon: f64,
}

#[derive(Debug)]
struct Normalize;

impl<B: Kernels> Backward<B, 3> for Normalize {
    type State = Seen<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let each = B::normalize_backward(ops.state, grad);
        for (node, grad) in ops.parents.into_iter().zip(each) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// `x`, `[samples, channels, ...]`, normalised by its own channel means and variances.
pub fn normalize<B: Kernels>(
    x: Var<B>,
    gamma: Var<B>,
    beta: Var<B>,
    epsilon: f64,
) -> Normalized<Var<B>, FloatTensor<B>> {
    let nodes = [x.node(), gamma.node(), beta.node()];
    let (x, gamma, beta) = (x.into_primitive(), gamma.into_primitive(), beta.into_primitive());
    let Normalized { output, mean, variance } = B::normalize(x.clone(), gamma.clone(), beta, epsilon);
    let output = match Normalize.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let seen = Seen::<B> { x, gamma, mean: mean.clone(), variance: variance.clone(), epsilon };
            prep.finish(seen, output)
        }
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Normalized { output, mean, variance }
}

#[derive(Debug)]
struct Clip;

impl<B: Kernels> Backward<B, 1> for Clip {
    type State = (FloatTensor<B>, [f32; 2]);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [of_x] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (y, ends) = ops.state;
        if let Some(node) = of_x {
            grads.register::<B>(node.id, B::clip_backward(y, grad, ends));
        }
    }
}

/// `min(max(x, lo), hi)`; its gradient is 0 at both ends. Infinite ends are none: ReLU ends at 0 only.
pub fn clip<B: Kernels>(x: Var<B>, ends: [f32; 2]) -> Var<B> {
    let nodes = [x.node()];
    let y = B::clip(x.into_primitive(), ends);
    match Clip.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((y.clone(), ends), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    }
}
