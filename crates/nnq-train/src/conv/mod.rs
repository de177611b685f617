//! Convolution as one operation of burn's automatic differentiation, so that a backend may bring its own way forward and back.
mod depthwise;
pub mod flex;
mod images;
mod pointwise;
mod sizes;
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
    ops::ConvOptions,
    tensor::FloatTensor,
};
use rayon::prelude::*;

/// Gradients of a convolution: of input, weights and bias, where they are wanted.
pub type Gradient<B> = [Option<FloatTensor<B>>; 3];

/// What the way back needs.
#[derive(Clone, Debug)]
pub struct Seen<B: Kernels> {
    /// The images.
    pub x: FloatTensor<B>,
    /// `[outputs, channels / groups, ...]`
    pub weight: FloatTensor<B>,
    /// `[outputs]`
    pub bias: FloatTensor<B>,
    /// Strides, pads, dilations and groups.
    pub options: ConvOptions<2>,
    /// The backend's own.
    pub kept: B::Kept,
}

#[derive(Debug)]
struct Conv;

impl<B: Kernels> Backward<B, 3> for Conv {
    type State = Seen<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let each = B::convolve_backward(ops.state, grad, wanted);
        for (node, grad) in ops.parents.into_iter().zip(each) {
            if let (Some(node), Some(grad)) = (node, grad) {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

/// The convolution of images `[samples, channels, height, width]`. Shapes must fit.
pub fn conv<B: Kernels>(x: Var<B>, weight: Var<B>, bias: Var<B>, options: ConvOptions<2>) -> Var<B> {
    let nodes = [x.node(), weight.node(), bias.node()];
    let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
    match Conv.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (y, kept) = B::convolve_keeping(x.clone(), weight.clone(), bias.clone(), options.clone());
            prep.finish(Seen { x, weight, bias, options, kept }, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::convolve(x, weight, bias, options)),
    }
}

/// The sum of each channel of `[samples, channels, plane]`: the gradient of a bias.
fn sums(all: &[f32], channels: usize, plane: usize) -> Vec<f32> {
    let of = |x: &[f32]| x.chunks(64).map(|run| f64::from(run.iter().sum::<f32>())).sum::<f64>();
    let one = |c: usize| all.chunks_exact(plane).skip(c).step_by(channels).map(of).sum::<f64>() as f32;
    (0..channels).into_par_iter().map(one).collect()
}

/// The gradients by burn's own operations, for every backend.
pub fn composed<B: Kernels>(seen: Seen<B>, grad: FloatTensor<B>, wanted: [bool; 3]) -> Gradient<B> {
    let Seen { x, weight, bias, options, .. } = seen;
    let to_x = wanted[0].then(|| B::conv2d_x_backward(x.clone(), weight.clone(), grad.clone(), options.clone()));
    let to_w = wanted[1].then(|| B::conv2d_weight_backward(x.clone(), weight, grad.clone(), options));
    let to_b = wanted[2].then(|| B::conv2d_bias_backward(x, bias, grad));
    [to_x, to_w, to_b]
}
