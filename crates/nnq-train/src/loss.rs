//! What is minimised.
use crate::backend::{self, Device, Kernels, Var, scalar};
use burn::backend::{
    Autodiff,
    ops::{ActivationOps as _, FloatTensorOps as _},
    tensor::FloatTensor,
};
use nnq::{Error, Result, ir::Tensor};
use serde::{Deserialize, Serialize};

type A<B> = Autodiff<B>;

/// Learning from the answers of the float network (Hinton et al., arXiv:1503.02531).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distill {
    /// What logits are divided by before they become shares. Far above 1 the answers say little: 5 is too much for small networks.
    pub temperature: f32,
    /// The share of the loss that the teacher has; the labels have the rest.
    pub weight: f32,
    /// What the distance of values inside the network is multiplied with; 0: they are not looked at.
    pub features: f32,
}

impl Default for Distill {
    fn default() -> Self {
        Self { temperature: 1.0, weight: 0.5, features: 0.0 }
    }
}

/// The mean cross-entropy `-sum(targets * log softmax(logits))` over the rows of both, `[samples, classes]`.
pub fn cross_entropy<B: Kernels>(logits: Var<B>, targets: FloatTensor<B>) -> Var<B> {
    let samples = backend::dims::<B>(&logits).first().copied().unwrap_or(1).max(1);
    let log = A::<B>::log_softmax(logits, 1);
    let product = A::<B>::float_mul(log, backend::constant::<B>(targets));
    // Row by row: a sum over everything at once may be taken in any order.
    let sum = A::<B>::float_sum_dim(A::<B>::float_sum_dim(product, 1), 0);
    A::<B>::float_mul_scalar(sum, scalar(-1.0 / samples as f32))
}

/// The loss of a batch. With a teacher: `(1 - w) * CE(labels) + w * t^2 * CE(softmax(teacher / t))`.
///
/// # Errors
/// When logits, targets and the teacher's logits differ in shape.
pub fn loss<B: Kernels>(
    logits: Var<B>,
    targets: &[f32],
    teacher: Option<(&[f32], Distill)>,
    device: &Device<B>,
) -> Result<Var<B>> {
    let shape = backend::dims::<B>(&logits);
    let [samples, classes] = shape[..] else {
        return Err(Error::shape(format!("outputs of shape {shape:?}"))
            .cure("train networks with one row of outputs for each sample"));
    };
    let fits = |numbers: &[f32]| numbers.len() == samples * classes;
    if !fits(targets) || teacher.is_some_and(|(t, _)| !fits(t)) {
        return Err(Error::shape(format!("{} targets for outputs of shape {shape:?}", targets.len())));
    }
    let hard = || cross_entropy::<B>(logits.clone(), backend::tensor::<B>(targets.to_vec(), &shape, device));
    let Some((answers, Distill { temperature, weight, .. })) = teacher else { return Ok(hard()) };
    let shares = backend::tensor::<B>(softmax(answers, classes, temperature), &shape, device);
    let soft = A::<B>::float_mul_scalar(logits.clone(), scalar(1.0 / temperature));
    let soft = A::<B>::float_mul_scalar(cross_entropy::<B>(soft, shares), scalar(weight * temperature * temperature));
    Ok(A::<B>::float_add(A::<B>::float_mul_scalar(hard(), scalar(1.0 - weight)), soft))
}

/// How far values inside a network are from those of its teacher (Romero et al., arXiv:1412.6550, at the ends of all parts): the mean of `|s - t|^2 / |t|^2` over
/// the points.
///
/// # Errors
/// When a value and the teacher's differ in shape.
pub fn features<B: Kernels>(seen: Vec<Var<B>>, teacher: Vec<Tensor>, device: &Device<B>) -> Result<Var<B>> {
    let points = seen.len().max(1) as f64;
    let mut sum: Option<Var<B>> = None;
    for (s, t) in seen.into_iter().zip(teacher) {
        let shape = backend::dims::<B>(&s);
        if t.shape() != shape {
            return Err(Error::shape(format!("a value of shape {shape:?}, the teacher's {:?}", t.shape())));
        }
        let t = t.into_vec::<f32>()?;
        let size = t.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().max(f64::from(f32::MIN_POSITIVE));
        let (samples, len) = (shape.first().copied().unwrap_or(1).max(1), t.len());
        let off = A::<B>::float_sub(s, backend::constant::<B>(backend::tensor::<B>(t, &shape, device)));
        let off = backend::reshaped::<B>(off, &[samples, len / samples]);
        let squares = A::<B>::float_mul(off.clone(), off);
        // Row by row, as above.
        let all = A::<B>::float_sum_dim(A::<B>::float_sum_dim(squares, 1), 0);
        let share = A::<B>::float_mul_scalar(all, scalar((1.0 / (size * points)) as f32));
        sum = Some(match sum {
            Some(sum) => A::<B>::float_add(sum, share),
            None => share,
        });
    }
    sum.ok_or_else(|| Error::internal("no values to learn from"))
}

/// Shares by row of logits over a temperature.
pub fn softmax(logits: &[f32], classes: usize, temperature: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks(classes.max(1)) {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = row.iter().map(|x| f64::from((x - top) / temperature).exp()).collect();
        let sum: f64 = powers.iter().sum();
        out.extend(powers.iter().map(|p| (p / sum) as f32));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    fn value(logits: &[f32], targets: &[f32], teacher: Option<(&[f32], Distill)>) -> (f32, Vec<f32>) {
        let device = Device::<Flex>::default();
        let x = backend::tracked::<Flex>(backend::tensor::<Flex>(logits.to_vec(), &[2, 3], &device));
        let loss = loss::<Flex>(x.clone(), targets, teacher, &device).unwrap();
        let value = backend::numbers::<Flex>(loss.primitive().clone()).unwrap()[0];
        let mut grads = loss.backward();
        (value, backend::numbers::<Flex>(x.grad_remove(&mut grads).unwrap()).unwrap())
    }

    #[test]
    fn cross_entropy_by_hand() {
        // Equal logits: log 3 for each row, and the gradient (1/3 - target) / 2.
        let (loss, grad) = value(&[1.0; 6], &[1.0, 0.0, 0.0, 0.0, 0.5, 0.5], None);
        assert!((loss - 3f32.ln()).abs() < 1e-6, "{loss}");
        let want = [-2.0, 1.0, 1.0, 1.0, -0.5, -0.5].map(|x: f32| x / 6.0);
        assert!(grad.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{grad:?}");
    }

    #[test]
    fn a_student_that_answers_like_its_teacher_learns_nothing_from_it() {
        let logits = [0.3, -1.0, 2.0, 0.0, 0.5, -0.5];
        let distill = Distill { temperature: 2.0, weight: 1.0, features: 0.0 };
        let (_, grad) = value(&logits, &[0.0; 6], Some((&logits, distill)));
        // Binary32 rounding of shares.
        assert!(grad.iter().all(|g| g.abs() < 1e-6), "{grad:?}");
        let (_, grad) = value(&logits, &[0.0; 6], Some((&[0.0; 6], distill)));
        assert!(grad.iter().any(|g| g.abs() > 1e-2), "{grad:?}");
    }

    #[test]
    fn features_by_hand() {
        let device = Device::<Flex>::default();
        let leaf = |numbers: &[f32]| {
            backend::tracked::<Flex>(backend::tensor::<Flex>(numbers.to_vec(), &[2, numbers.len() / 2], &device))
        };
        let (a, b) = (leaf(&[1.0, 2.0, 0.0, -1.0]), leaf(&[3.0, 1.0]));
        let teacher = || vec![Tensor::of(&[2, 2], vec![2f32, 2.0, 0.0, 0.0]), Tensor::of(&[2, 1], vec![1f32, 1.0])];
        let far = features::<Flex>(vec![a.clone(), b.clone()], teacher(), &device).unwrap();
        // (1 + 1) / 8 and 4 / 2, and the mean of both; gradients 2 (s - t) / |t|^2 / 2.
        assert_eq!(backend::numbers::<Flex>(far.primitive().clone()).unwrap(), [1.125]);
        let mut grads = far.backward();
        let mut of = |x: Var<Flex>| backend::numbers::<Flex>(x.grad_remove(&mut grads).unwrap()).unwrap();
        assert_eq!(of(a.clone()), [-0.125, 0.0, 0.0, -0.125]);
        assert_eq!(of(b), [1.0, 0.0]);
        assert!(features::<Flex>(vec![a], vec![Tensor::of(&[4], vec![0f32; 4])], &device).is_err());
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let device = Device::<Flex>::default();
        let x = backend::tracked::<Flex>(backend::tensor::<Flex>(vec![0.0; 6], &[2, 3], &device));
        assert!(loss::<Flex>(x.clone(), &[0.0; 5], None, &device).is_err());
        assert!(loss::<Flex>(x, &[0.0; 6], Some((&[0.0; 3], Distill::default())), &device).is_err());
    }
}
