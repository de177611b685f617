//! Normalisation and clipping by PyTorch's library, in few passes over memory in the order of memory, on all cores. What burn composes walks through channels
//! that lie apart, a dozen times.
use super::{Normalized, Seen};
use burn::backend::{LibTorch, tensor::FloatTensor};

type Native = FloatTensor<LibTorch>;

/// As [`crate::backend::Kernels::normalize`].
pub fn normalize(x: &Native, gamma: &Native, beta: &Native, epsilon: f64) -> Normalized<Native, Native> {
    let (gamma, beta) = (Some(&gamma.tensor), Some(&beta.tensor));
    let (output, mean, inverse) = x.tensor.internal_native_batch_norm_legit_no_stats(gamma, beta, true, 0.0, epsilon);
    // The library answers `1 / sqrt(variance + epsilon)`.
    let variance = (inverse.pow_tensor_scalar(-2.0) - epsilon).clamp_min(0.0);
    Normalized { output: Native::new(output), mean: Native::new(mean), variance: Native::new(variance) }
}

/// As [`crate::backend::Kernels::normalize_backward`]. With `u` the input at mean 0 and variance 1, the gradient `g` of the output, and means over each channel:
/// `gamma / sqrt(variance + epsilon) (g - mean(g) - u mean(g u))`. As `mean(u)` is 0, `mean(g)` is the mean of `g - u mean(g u)`, too: the
/// library's normalisation by given statistics does the rest.
pub fn normalize_backward(seen: &Seen<LibTorch>, grad: &Native) -> [Native; 3] {
    let Seen { x, gamma, mean, variance, epsilon } = seen;
    let (x, g, variance) = (&x.tensor, &grad.tensor, Some(&variance.tensor));
    let channels = gamma.tensor.numel();
    let count = (g.numel() / channels) as f64;
    let rank = g.dim();
    let others: Vec<i64> = (0..rank as i64).filter(|&axis| axis != 1).collect();
    let mut shape = vec![1; rank];
    shape[1] = channels as i64;

    let unit = x.batch_norm(None, None, Some(&mean.tensor), variance, false, 0.0, *epsilon, false);
    let to_beta = g.sum_dim_intlist(others.as_slice(), false, g.kind());
    let to_gamma = (g * &unit).sum_dim_intlist(others.as_slice(), false, g.kind());
    let least = g.addcmul(&unit, &(&to_gamma / -count).view(shape.as_slice()));
    let to_x =
        least.batch_norm(Some(&gamma.tensor), None, Some(&(&to_beta / count)), variance, false, 0.0, *epsilon, false);
    [to_x, to_gamma, to_beta].map(Native::new)
}

/// As [`crate::backend::Kernels::clip`].
pub fn clip(x: &Native, [lo, hi]: [f32; 2]) -> Native {
    Native::new(x.tensor.clamp(f64::from(lo), f64::from(hi)))
}

/// As [`crate::backend::Kernels::clip_backward`].
pub fn clip_backward(y: &Native, grad: &Native, [lo, hi]: [f32; 2]) -> Native {
    Native::new(y.tensor.hardtanh_backward(&grad.tensor, f64::from(lo), f64::from(hi)))
}
