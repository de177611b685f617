//! Convolution on PyTorch's library, whose own differentiation knows the way back. burn composes the gradient of weights of a convolution with a window as large as
//! images are, over tensors turned for it.
use super::{Gradient, Seen};
use burn::backend::{
    LibTorch,
    ops::{ConvOptions, ModuleOps as _},
    tensor::FloatTensor,
};
use tch::Tensor;

type Native = FloatTensor<LibTorch>;

/// The library's own record of a convolution.
#[derive(Clone, Debug, Default)]
pub struct Kept(Option<Record>);

#[derive(Clone, Debug)]
struct Record {
    /// Input, weights and bias, in the memory of those that went in.
    leaves: [Native; 3],
    output: Native,
}

/// As [`crate::backend::Kernels::convolve_keeping`].
pub fn forward(parts: [Native; 3], options: ConvOptions<2>) -> (Native, Kept) {
    let [x, weight, bias] = &parts;
    if options.is_asymmetric() {
        // burn pads first, beyond what is recorded here.
        let [x, weight, bias] = parts;
        return (LibTorch::conv2d(x, weight, Some(bias), options), Kept::default());
    }
    let leaves = [x, weight, bias].map(|t| Native::new(t.tensor.detach().set_requires_grad(true)));
    let [x, weight, bias] = leaves.clone();
    let output = LibTorch::conv2d(x, weight, Some(bias), options);
    (Native::new(output.tensor.detach()), Kept(Some(Record { leaves, output })))
}

/// As [`crate::backend::Kernels::convolve_backward`]: the gradients of `sum(output * grad)`.
pub fn backward(mut seen: Seen<LibTorch>, grad: Native, wanted: [bool; 3]) -> Gradient<LibTorch> {
    let Some(Record { leaves, output }) = seen.kept.0.take() else {
        return super::composed::<LibTorch>(seen, grad, wanted);
    };
    let sum = output.tensor.reshape(-1).dot(&grad.tensor.reshape(-1));
    let leaves: Vec<&Tensor> = leaves.iter().zip(wanted).filter_map(|(leaf, w)| w.then_some(&leaf.tensor)).collect();
    let mut grads = Tensor::run_backward(&[sum], &leaves, false, false).into_iter().map(Native::new);
    wanted.map(|w| if w { grads.next() } else { None })
}
