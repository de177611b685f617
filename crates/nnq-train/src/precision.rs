//! Mixed precision (Micikevicius et al., arXiv:1710.03740): products of 16-bit numbers, everything else and the weights themselves in binary32.
//!
//! Inputs, weights and outputs of convolutions and matrix products are rounded to the format, half to even, and so are their gradients on the way back. Sums
//! are binary32: what matrix units of accelerators compute. A processor without such units saves no time; it finds what a training on one gives.
//!
//! Gradients that binary16 would lose are kept by scaling the loss: by 65536 at first, half of it after gradients that overflow (such a step is left out), twice as much
//! after [`PATIENCE`] steps without. bfloat16 has the range of binary32, and needs none.
use crate::backend::{self, Kernels, Var};
use burn::backend::{
    Scalar, TensorMetadata as _,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
        grads::Gradients as Grads,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};
use half::{bf16, f16};
use nnq::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What products are computed of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// binary32.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// binary16.
    F16,
}

impl Precision {
    /// Numbers in the format.
    fn round(self, x: &[f32]) -> Vec<f32> {
        let one: fn(f32) -> f32 = match self {
            Self::F32 => return x.to_vec(),
            Self::Bf16 => |x| bf16::from_f32(x).to_f32(),
            Self::F16 => |x| f16::from_f32(x).to_f32(),
        };
        x.par_iter().with_min_len(1 << 14).map(|&x| one(x)).collect()
    }
    fn tensor<B: Kernels>(self, x: FloatTensor<B>) -> FloatTensor<B> {
        let (shape, device) = (x.shape().to_vec(), backend::device_of::<B>(&x));
        let n = shape.iter().product();
        // What cannot be read back gives no numbers, which the norm of the gradients shows.
        let rounded = backend::numbers::<B>(x).map_or_else(|_| vec![f32::NAN; n], |x| self.round(&x));
        backend::tensor::<B>(rounded, &shape, &device)
    }
    /// `x` in the format, whose gradient is rounded likewise.
    pub fn cast<B: Kernels>(self, x: Var<B>) -> Var<B> {
        if self == Self::F32 {
            return x;
        }
        let nodes = [x.node()];
        let y = self.tensor::<B>(x.into_primitive());
        match Cast.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(self, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
    /// What a loss is scaled by, where it is.
    pub fn scaler(self) -> Option<Scaler> {
        (self == Self::F16).then(Scaler::default)
    }
}

#[derive(Debug)]
struct Cast;

impl<B: Kernels> Backward<B, 1> for Cast {
    type State = Precision;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Grads, _: &mut Checkpointer) {
        let [of_x] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        if let Some(node) = of_x {
            grads.register::<B>(node.id, ops.state.tensor::<B>(grad));
        }
    }
}

/// Steps without overflow after which the scale is doubled.
pub const PATIENCE: u32 = 2000;

/// The scale of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaler {
    /// What the loss is multiplied with.
    pub scale: f32,
    /// Steps since it was changed.
    pub good: u32,
}

impl Default for Scaler {
    fn default() -> Self {
        Self { scale: 65536.0, good: 0 }
    }
}

impl Scaler {
    /// Gradients of the loss from those of the scaled loss, and the scale of the next step; false where they overflowed, and there is nothing to step by.
    ///
    /// # Errors
    /// When they overflow without a scale, too.
    pub fn unscale<B: Kernels>(&mut self, gradients: &mut [Option<FloatTensor<B>>]) -> Result<bool> {
        let mut finite = true;
        for gradient in gradients.iter().flatten() {
            finite &= backend::numbers::<B>(gradient.clone())?.iter().all(|x| x.is_finite());
        }
        if !finite {
            if self.scale <= 1.0 {
                return Err(Error::value("gradients overflow binary16, whatever the loss is scaled by")
                    .cure("train with --precision bf16, or a smaller learning rate"));
            }
            (self.scale, self.good) = (0.5 * self.scale, 0);
            return Ok(false);
        }
        for gradient in gradients.iter_mut().flatten() {
            *gradient = B::float_mul_scalar(gradient.clone(), Scalar::Float(1.0 / f64::from(self.scale)));
        }
        self.good += 1;
        if self.good == PATIENCE {
            (self.scale, self.good) = (2.0 * self.scale, 0);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Device;
    use burn::backend::{Autodiff, Flex, ops::FloatTensorOps as _};

    #[test]
    fn formats_by_hand() {
        // 8 bits of bfloat16's significand, 11 of binary16's, half to even; beyond 65504 there is nothing.
        let x = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.0 / 2048.0, 65519.0, 65520.0, 1e-8, -3.0];
        let bf = [1.0, 1.015_625, 1.0, 65536.0, 65536.0, 1.001_171_8e-8, -3.0];
        let f = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0, 65504.0, f32::INFINITY, 0.0, -3.0];
        assert_eq!(Precision::F16.round(&x), f);
        for (a, b) in Precision::Bf16.round(&x).iter().zip(bf) {
            assert!((a - b).abs() <= 1e-5 * b.abs(), "{a} {b}");
        }
        assert_eq!(Precision::F32.round(&x), x);
    }

    #[test]
    fn gradients_are_rounded_on_their_way_back() {
        let device = Device::<Flex>::default();
        let leaf = backend::tracked::<Flex>(backend::tensor::<Flex>(vec![1.0, 2.0], &[2], &device));
        let weights = vec![1.0 + 1.0 / 256.0, 1e-8];
        let w = backend::constant::<Flex>(backend::tensor::<Flex>(weights, &[2], &device));
        let y = Precision::F16.cast::<Flex>(leaf.clone());
        let mut grads = Autodiff::<Flex>::float_sum(Autodiff::<Flex>::float_mul(y, w)).backward();
        let got = backend::numbers::<Flex>(leaf.grad_remove(&mut grads).unwrap()).unwrap();
        assert_eq!(got, [1.0 + 1.0 / 256.0, 0.0]);
    }

    #[test]
    fn the_scale_follows_the_gradients() {
        let device = Device::<Flex>::default();
        let of = |x: f32| vec![None, Some(backend::tensor::<Flex>(vec![x], &[1], &device))];
        let mut scaler = Scaler::default();
        let mut over = of(f32::INFINITY);
        assert!(!scaler.unscale::<Flex>(&mut over).unwrap());
        assert_eq!(scaler, Scaler { scale: 32768.0, good: 0 });
        let mut fine = of(65536.0);
        assert!(scaler.unscale::<Flex>(&mut fine).unwrap());
        assert_eq!(backend::numbers::<Flex>(fine[1].clone().unwrap()).unwrap(), [2.0]);
        scaler.good = PATIENCE - 1;
        assert!(scaler.unscale::<Flex>(&mut of(1.0)).unwrap());
        assert_eq!(scaler, Scaler::default());
        let mut last = Scaler { scale: 1.0, good: 5 };
        assert!(last.unscale::<Flex>(&mut of(f32::NAN)).unwrap_err().to_string().contains("bf16"));
    }
}
