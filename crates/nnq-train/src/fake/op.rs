//! Fake quantization as one operation of burn's automatic differentiation.
use super::{Grid, Levels};
use crate::backend::{self, Kernels, Var};
use burn::backend::{
    TensorMetadata as _,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};
use nnq::Result;

#[derive(Debug)]
struct Fake;

impl<B: Kernels> Backward<B, 2> for Fake {
    type State = (FloatTensor<B>, FloatTensor<B>, Grid);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [of_x, of_scale] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, scale, grid) = ops.state;
        let (x, scale) = B::fake_backward(x, scale, grad, &grid);
        if let Some(node) = of_x {
            grads.register::<B>(node.id, x);
        }
        if let Some(node) = of_scale {
            grads.register::<B>(node.id, scale);
        }
    }
}

/// `x` on a grid with these scales. The number of elements and scales are those that the grid was made for.
pub fn fake<B: Kernels>(x: Var<B>, scale: Var<B>, grid: &Grid) -> Var<B> {
    let nodes = [x.node(), scale.node()];
    let (x, scale) = (x.into_primitive(), scale.into_primitive());
    match Fake.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let y = B::fake(x.clone(), scale.clone(), grid);
            prep.finish((x, scale, grid.clone()), y)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::fake(x, scale, grid)),
    }
}

#[derive(Debug)]
struct OnLevels;

impl<B: Kernels> Backward<B, 1> for OnLevels {
    type State = (Vec<f32>, Levels, Grid);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [of_w] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (w, levels, grid) = ops.state;
        if let Some(node) = of_w {
            let (shape, device) = (grad.shape().to_vec(), backend::device_of::<B>(&grad));
            // What cannot be read back gives no numbers, which the loss shows.
            let grad = backend::numbers::<B>(grad).unwrap_or_else(|_| vec![f32::NAN; w.len()]);
            let to_w = levels.backward(&w, &grad, &grid, grid.estimator);
            grads.register::<B>(node.id, backend::tensor::<B>(to_w, &shape, &device));
        }
    }
}

/// Weights on [`Levels`], and the scale of each group. Weights are few: this is computed on the processor for every backend, so that training and export
/// find the same scales.
///
/// # Errors
/// When the device cannot be read.
pub fn levelled<B: Kernels>(w: Var<B>, levels: Levels, grid: &Grid) -> Result<(Var<B>, FloatTensor<B>)> {
    let nodes = [w.node()];
    let w = w.into_primitive();
    let (shape, device) = (w.shape().to_vec(), backend::device_of::<B>(&w));
    let numbers = backend::numbers::<B>(w)?;
    let made = levels.apply(&numbers, grid);
    let y = backend::tensor::<B>(made.values, &shape, &device);
    let scales = backend::tensor::<B>(made.scales, &[grid.groups], &device);
    let y = match OnLevels.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((numbers, levels, grid.clone()), y),
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    Ok((y, scales))
}
