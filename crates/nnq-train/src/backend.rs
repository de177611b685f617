//! What training needs of a backend of burn, and the shapes and numbers of its tensors.
//!
//! The interpreter works on primitives of backends, which carry their rank at run time as the values of a graph do. A backend becomes usable with
//! one `impl` of [`Kernels`], whose bodies are composed of burn's own operations; [`Flex`], the processor, overrides them with one pass over
//! memory.
use crate::{
    conv,
    fake::{Grid, composed},
    finish::{self, Finish},
    norm::{self, Normalized, Seen},
};
use burn::{
    Tensor,
    backend::{
        Autodiff, Backend, Flex, Scalar, Shape, TensorData, TensorMetadata,
        ops::{BatchNormTrain, ConvOptions, FloatTensorOps as _},
        tensor::FloatTensor,
    },
};
use nnq::{Error, Result};

/// A value on its way through a network, with the record of how it was computed.
pub type Var<B> = FloatTensor<Autodiff<B>>;

/// The backend's device.
pub type Device<B> = burn::backend::tensor::Device<B>;

/// Operations that burn lacks.
pub trait Kernels: Backend {
    /// What the way back of a convolution wants beside what went in.
    type Kept: Clone + std::fmt::Debug + Default + Send + 'static;
    /// Rounds to a grid: `clamp(rne(x / s), lo, hi) * s`.
    fn fake(x: FloatTensor<Self>, scale: FloatTensor<Self>, grid: &Grid) -> FloatTensor<Self> {
        composed::fake::<Self>(x, scale, grid)
    }
    /// The gradients of [`Kernels::fake`] for `x` and for the scales, as the grid's rules say.
    fn fake_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        grid: &Grid,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::fake_backward::<Self>(x, scale, grad, grid)
    }
    /// The convolution of images `[samples, channels, height, width]` with a bias.
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::conv2d(x, weight, Some(bias), options)
    }
    /// [`Kernels::convolve`], to be followed by its way back.
    fn convolve_keeping(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> (FloatTensor<Self>, Self::Kept) {
        (Self::convolve(x, weight, bias, options), Self::Kept::default())
    }
    /// The gradients of [`Kernels::convolve`] that are wanted: of input, weights and bias.
    fn convolve_backward(seen: conv::Seen<Self>, grad: FloatTensor<Self>, wanted: [bool; 3]) -> conv::Gradient<Self> {
        conv::composed(seen, grad, wanted)
    }
    /// `x`, `[samples, channels, ...]`, by its own channel means and variances.
    fn normalize(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> Normalized<FloatTensor<Self>, FloatTensor<Self>> {
        let BatchNormTrain { output, mean, variance } = Self::batch_norm_train(x, gamma, beta, epsilon);
        Normalized { output, mean, variance }
    }
    /// The gradients of [`Kernels::normalize`]: of input, `gamma` and `beta`.
    fn normalize_backward(seen: Seen<Self>, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 3] {
        let Seen { x, gamma, mean, variance, epsilon } = seen;
        let out = Self::batch_norm_train_backward(x, gamma, mean, variance, epsilon, grad);
        [out.x_grad, out.gamma_grad, out.beta_grad]
    }
    /// `min(max(x, lo), hi)`; infinite ends are none.
    fn clip(x: FloatTensor<Self>, [lo, hi]: [f32; 2]) -> FloatTensor<Self> {
        let x = if lo == f32::NEG_INFINITY { x } else { Self::float_clamp_min(x, scalar(lo)) };
        if hi == f32::INFINITY { x } else { Self::float_clamp_max(x, scalar(hi)) }
    }
    /// The gradient of [`Kernels::clip`], given what it answered: 0 at the ends.
    fn clip_backward(y: FloatTensor<Self>, grad: FloatTensor<Self>, [lo, hi]: [f32; 2]) -> FloatTensor<Self> {
        let dtype = burn::backend::get_or_init_device_settings::<Self>(&y.device()).bool_dtype;
        let mut grad = grad;
        if lo != f32::NEG_INFINITY {
            let below = Self::float_lower_equal_elem(y.clone(), scalar(lo), dtype);
            grad = Self::float_mask_fill(grad, below, scalar(0.0));
        }
        if hi != f32::INFINITY {
            let above = Self::float_greater_equal_elem(y, scalar(hi), dtype);
            grad = Self::float_mask_fill(grad, above, scalar(0.0));
        }
        grad
    }
    /// What follows a product that is normalised while it learns.
    fn finish(
        parts: finish::Parts<FloatTensor<Self>>,
        how: &Finish,
    ) -> Normalized<FloatTensor<Self>, FloatTensor<Self>> {
        finish::composed::<Self>(parts, how)
    }
    /// The gradients of [`Kernels::finish`], in the order of its parts.
    fn finish_backward(seen: finish::Seen<Self>, grad: FloatTensor<Self>, how: &Finish) -> [FloatTensor<Self>; 4] {
        finish::composed_backward::<Self>(seen, grad, how)
    }
    /// A flat tensor as burn's optimizers take it.
    fn lift(x: FloatTensor<Self>) -> Tensor<1>;
    /// The reverse of [`Kernels::lift`].
    ///
    /// # Errors
    /// When the tensor lives on another backend, which is a defect.
    fn lower(x: Tensor<1>) -> Result<FloatTensor<Self>>;
}

fn elsewhere(e: burn::tensor::PrimitiveConversionError) -> Error {
    Error::internal(format!("a tensor of another backend: {e:?}"))
}

impl Kernels for Flex {
    type Kept = ();
    fn fake(x: FloatTensor<Self>, scale: FloatTensor<Self>, grid: &Grid) -> FloatTensor<Self> {
        crate::fake::flex::fake(x, scale, grid)
    }
    fn fake_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        grid: &Grid,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        crate::fake::flex::fake_backward(x, scale, grad, grid)
    }
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        conv::flex::forward(x, weight, bias, options)
    }
    fn convolve_backward(seen: conv::Seen<Self>, grad: FloatTensor<Self>, wanted: [bool; 3]) -> conv::Gradient<Self> {
        conv::flex::backward(seen, grad, wanted)
    }
    fn normalize(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> Normalized<FloatTensor<Self>, FloatTensor<Self>> {
        norm::flex::normalize(x, gamma, beta, epsilon)
    }
    fn normalize_backward(seen: Seen<Self>, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 3] {
        norm::flex::normalize_backward(seen, grad)
    }
    fn clip(x: FloatTensor<Self>, ends: [f32; 2]) -> FloatTensor<Self> {
        norm::flex::clip(x, ends)
    }
    fn clip_backward(y: FloatTensor<Self>, grad: FloatTensor<Self>, ends: [f32; 2]) -> FloatTensor<Self> {
        norm::flex::clip_backward(y, grad, ends)
    }
    fn finish(
        parts: finish::Parts<FloatTensor<Self>>,
        how: &Finish,
    ) -> Normalized<FloatTensor<Self>, FloatTensor<Self>> {
        finish::flex::finish(parts, how)
    }
    fn finish_backward(seen: finish::Seen<Self>, grad: FloatTensor<Self>, how: &Finish) -> [FloatTensor<Self>; 4] {
        finish::flex::finish_backward(seen, grad, how)
    }
    fn lift(x: FloatTensor<Self>) -> Tensor<1> {
        let n = x.shape().num_elements();
        Tensor::from_primitive::<Self>(Self::float_reshape(x, Shape::from([n])))
    }
    fn lower(x: Tensor<1>) -> Result<FloatTensor<Self>> {
        x.try_into_primitive::<Self>().map_err(elsewhere)
    }
}

/// A backend whose kernels are composed, but for those named.
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "libtorch"))]
macro_rules! composed {
    ($backend:ty { $($own:item)* }) => {
        impl Kernels for $backend {
            $($own)*
            fn lift(x: FloatTensor<Self>) -> Tensor<1> {
                let n = x.shape().num_elements();
                Tensor::from_primitive::<Self>(Self::float_reshape(x, Shape::from([n])))
            }
            fn lower(x: Tensor<1>) -> Result<FloatTensor<Self>> {
                x.try_into_primitive::<Self>().map_err(elsewhere)
            }
        }
    };
}
#[cfg(any(feature = "cuda", feature = "wgpu"))]
composed!(burn::backend::Cube {
    type Kept = ();
});
#[cfg(feature = "libtorch")]
#[allow(deprecated, reason = "burn will drop it; those who have PyTorch get its speed until then")]
mod libtorch {
    use super::*;
    use crate::norm::torch;
    composed!(burn::backend::LibTorch {
        type Kept = conv::torch::Kept;
        fn convolve_keeping(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: FloatTensor<Self>,
            options: ConvOptions<2>,
        ) -> (FloatTensor<Self>, Self::Kept) {
            conv::torch::forward([x, weight, bias], options)
        }
        fn convolve_backward(
            seen: conv::Seen<Self>,
            grad: FloatTensor<Self>,
            wanted: [bool; 3],
        ) -> conv::Gradient<Self> {
            conv::torch::backward(seen, grad, wanted)
        }
        fn normalize(
            x: FloatTensor<Self>,
            gamma: FloatTensor<Self>,
            beta: FloatTensor<Self>,
            epsilon: f64,
        ) -> Normalized<FloatTensor<Self>, FloatTensor<Self>> {
            torch::normalize(&x, &gamma, &beta, epsilon)
        }
        fn normalize_backward(seen: Seen<Self>, grad: FloatTensor<Self>) -> [FloatTensor<Self>; 3] {
            torch::normalize_backward(&seen, &grad)
        }
        fn clip(x: FloatTensor<Self>, ends: [f32; 2]) -> FloatTensor<Self> {
            torch::clip(&x, ends)
        }
        fn clip_backward(y: FloatTensor<Self>, grad: FloatTensor<Self>, ends: [f32; 2]) -> FloatTensor<Self> {
            torch::clip_backward(&y, &grad, ends)
        }
    });
}

/// A tensor of these numbers.
pub fn tensor<B: Backend>(numbers: Vec<f32>, shape: &[usize], device: &Device<B>) -> FloatTensor<B> {
    B::float_from_data(TensorData::new(numbers, shape.to_vec()), device)
}

/// The numbers of a tensor, row-major.
///
/// # Errors
/// When the device cannot be read, or holds another element type.
pub fn numbers<B: Kernels>(x: FloatTensor<B>) -> Result<Vec<f32>> {
    let data = B::lift(x).into_data();
    let all = data.as_slice::<f32>().map_err(|e| Error::internal(format!("numbers of a tensor: {e:?}")))?;
    Ok(all.to_vec())
}

/// Something to differentiate by.
pub fn tracked<B: Backend>(x: FloatTensor<B>) -> Var<B> {
    Autodiff::<B>::float_set_require_grad(constant::<B>(x), true)
}

/// Something that is not differentiated by.
pub fn constant<B: Backend>(x: FloatTensor<B>) -> Var<B> {
    <Autodiff<B> as burn::backend::AutodiffBackend>::from_inner(x)
}

/// Sizes of all axes.
pub fn dims<B: Backend>(x: &Var<B>) -> Vec<usize> {
    x.shape().to_vec()
}

/// The same elements under another shape of as many elements.
pub fn reshaped<B: Backend>(x: Var<B>, shape: &[usize]) -> Var<B> {
    if x.shape().as_slice() == shape {
        return x;
    }
    Autodiff::<B>::float_reshape(x, Shape::from(shape.to_vec()))
}

/// A number for burn's scalar operations.
pub fn scalar(x: f32) -> Scalar {
    Scalar::Float(f64::from(x))
}

/// Where a tensor lives.
pub fn device_of<B: Backend>(x: &FloatTensor<B>) -> Device<B> {
    x.device()
}
