//! Fake quantization as one operation of burn's automatic differentiation.
use super::Grid;
use crate::backend::{Kernels, Var};
use burn::backend::{
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

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
