use super::*;
use crate::backend::{self, Kernels};
use crate::testing::{noise, numbers, tensor};
use burn::backend::{Autodiff, Flex, ops::FloatTensorOps as _, ops::ModuleOps as _};

/// Near each other for sums in another order.
fn close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let most = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= 2e-5 * most.max(1.0), "{what}[{i}]: {a} {b}");
    }
}

/// Forward and back as burn composes them, for images, rows and sequences, also far from 0 and laid out otherwise.
#[test]
fn normalisation_is_burns() {
    for (shape, offset) in
        [(vec![4, 3, 7, 5], 0.0), (vec![9, 6], 0.5), (vec![2, 5, 300], 3.0), (vec![3, 2, 16, 17], -20.0)]
    {
        let n: usize = shape.iter().product();
        let c = shape[1];
        let x = tensor(noise(n, 1).iter().map(|v| v + offset).collect(), &shape);
        let (gamma, beta) = (tensor(noise(c, 2), &[c]), tensor(noise(c, 3), &[c]));
        let grad = tensor(noise(n, 4), &shape);
        let ours = Flex::normalize(x.clone(), gamma.clone(), beta.clone(), 1e-5);
        let theirs = Flex::batch_norm_train(x.clone(), gamma.clone(), beta, 1e-5);
        close(&numbers(ours.output), &numbers(theirs.output), "output");
        close(&numbers(ours.mean.clone()), &numbers(theirs.mean.clone()), "mean");
        close(&numbers(ours.variance.clone()), &numbers(theirs.variance.clone()), "variance");
        let seen = Seen { x: x.clone(), gamma: gamma.clone(), mean: ours.mean, variance: ours.variance, epsilon: 1e-5 };
        let [to_x, to_gamma, to_beta] = Flex::normalize_backward(seen, grad.clone());
        let want = Flex::batch_norm_train_backward(x, gamma, theirs.mean, theirs.variance, 1e-5, grad);
        close(&numbers(to_x), &numbers(want.x_grad), "gradient of x");
        close(&numbers(to_gamma), &numbers(want.gamma_grad), "gradient of gamma");
        close(&numbers(to_beta), &numbers(want.beta_grad), "gradient of beta");
    }
    // Turned in memory only.
    let turned = Flex::float_swap_dims(tensor(noise(24, 5), &[2, 4, 3]), 1, 2);
    let straight = tensor(numbers(turned.clone()), &[2, 3, 4]);
    let one = || tensor(vec![1.0; 3], &[3]);
    let [a, b] = [turned, straight].map(|x| numbers(Flex::normalize(x, one(), one(), 1e-5).output));
    assert_eq!(a, b);
}

#[test]
fn threads_change_nothing() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let shape = [13, 5, 33, 9];
            let n = shape.iter().product();
            let x = tensor(noise(n, 1), &shape);
            let gamma = tensor(noise(5, 2), &[5]);
            let out = Flex::normalize(x.clone(), gamma.clone(), tensor(noise(5, 3), &[5]), 1e-5);
            let seen = Seen { x, gamma, mean: out.mean, variance: out.variance, epsilon: 1e-5 };
            let [a, b, c] = Flex::normalize_backward(seen, tensor(noise(n, 4), &shape)).map(numbers);
            [numbers(out.output), a, b, c]
        })
    };
    let one = run(1);
    assert!([2, 3, 7].into_iter().all(|n| run(n) == one));
}

#[test]
fn clipping_and_its_gradient() {
    let gradients = |x: &[f32], ends: [f32; 2]| {
        let leaf = backend::tracked::<Flex>(tensor(x.to_vec(), &[x.len()]));
        let y = clip::<Flex>(leaf.clone(), ends);
        let values = numbers(y.primitive().clone());
        let g = backend::constant::<Flex>(tensor(vec![3.0; x.len()], &[x.len()]));
        let mut grads = Autodiff::<Flex>::float_sum(Autodiff::<Flex>::float_mul(y, g)).backward();
        (values, numbers(leaf.grad_remove(&mut grads).unwrap()))
    };
    let (y, to_x) = gradients(&[-1.0, -0.0, 0.0, 2.0, 1e-30], [0.0, f32::INFINITY]);
    assert_eq!((y, to_x), (vec![0.0, 0.0, 0.0, 2.0, 1e-30], vec![0.0, 0.0, 0.0, 3.0, 3.0]));
    let (y, to_x) = gradients(&[-7.0, -1.0, 0.5, 6.0, 8.0], [-1.0, 6.0]);
    assert_eq!((y, to_x), (vec![-1.0, -1.0, 0.5, 6.0, 6.0], vec![0.0, 0.0, 3.0, 0.0, 0.0]));
    assert!(numbers(<Flex as Kernels>::clip(tensor(vec![f32::NAN], &[1]), [0.0, 6.0]))[0].is_nan());
}
