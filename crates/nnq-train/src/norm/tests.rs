use super::*;
use crate::backend::{self, Kernels};
use crate::testing::{noise, numbers, tensor};
use burn::backend::{Autodiff, Flex, flex::FlexTensor, ops::FloatTensorOps as _, ops::ModuleOps as _};

/// Near each other for sums in another order.
fn close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let most = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= 2e-5 * most.max(1.0), "{what}[{i}]: {a} {b}");
    }
}

/// Forward and back as burn composes them on the processor, for images, rows and sequences, also far from 0.
fn normalisation_is_burns<B: Kernels>() {
    let place = |numbers: &[f32], shape: &[usize]| {
        backend::tensor::<B>(numbers.to_vec(), shape, &backend::Device::<B>::default())
    };
    let close = |ours: FloatTensor<B>, burns: FlexTensor, what: &str| {
        close(&backend::numbers::<B>(ours).unwrap(), &numbers(burns), what)
    };
    for (shape, offset) in
        [(vec![4, 3, 7, 5], 0.0), (vec![9, 6], 0.5), (vec![2, 5, 300], 3.0), (vec![3, 2, 16, 17], -20.0)]
    {
        let n: usize = shape.iter().product();
        let c = shape[1];
        let x: Vec<f32> = noise(n, 1).iter().map(|v| v + offset).collect();
        let (gamma, beta, grad) = (noise(c, 2), noise(c, 3), noise(n, 4));
        let ours = B::normalize(place(&x, &shape), place(&gamma, &[c]), place(&beta, &[c]), 1e-5);
        let [fx, fgrad] = [&x, &grad].map(|all| tensor(all.clone(), &shape));
        let [fgamma, fbeta] = [&gamma, &beta].map(|all| tensor(all.clone(), &[c]));
        let burns = Flex::batch_norm_train(fx.clone(), fgamma.clone(), fbeta, 1e-5);
        close(ours.output, burns.output, "output");
        close(ours.mean.clone(), burns.mean.clone(), "mean");
        close(ours.variance.clone(), burns.variance.clone(), "variance");
        let (x, gamma) = (place(&x, &shape), place(&gamma, &[c]));
        let seen = Seen::<B> { x, gamma, mean: ours.mean, variance: ours.variance, epsilon: 1e-5 };
        let [to_x, to_gamma, to_beta] = B::normalize_backward(seen, place(&grad, &shape));
        let want = Flex::batch_norm_train_backward(fx, fgamma, burns.mean, burns.variance, 1e-5, fgrad);
        close(to_x, want.x_grad, "gradient of x");
        close(to_gamma, want.gamma_grad, "gradient of gamma");
        close(to_beta, want.beta_grad, "gradient of beta");
    }
}

#[test]
fn normalisation_on_the_processor() {
    normalisation_is_burns::<Flex>();
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

/// Values and gradients by hand, 0 at both ends.
fn clipping_is_exact<B: Kernels>() {
    let place =
        |numbers: &[f32]| backend::tensor::<B>(numbers.to_vec(), &[numbers.len()], &backend::Device::<B>::default());
    let read = |x| backend::numbers::<B>(x).unwrap();
    let gradients = |x: &[f32], ends: [f32; 2]| {
        let leaf = backend::tracked::<B>(place(x));
        let y = clip::<B>(leaf.clone(), ends);
        let values = read(y.primitive().clone());
        let g = backend::constant::<B>(place(&vec![3.0; x.len()]));
        let mut grads = Autodiff::<B>::float_sum(Autodiff::<B>::float_mul(y, g)).backward();
        (values, read(leaf.grad_remove(&mut grads).unwrap()))
    };
    let (y, to_x) = gradients(&[-1.0, -0.0, 0.0, 2.0, 1e-30], [0.0, f32::INFINITY]);
    assert_eq!((y, to_x), (vec![0.0, 0.0, 0.0, 2.0, 1e-30], vec![0.0, 0.0, 0.0, 3.0, 3.0]));
    let (y, to_x) = gradients(&[-7.0, -1.0, 0.5, 6.0, 8.0], [-1.0, 6.0]);
    assert_eq!((y, to_x), (vec![-1.0, -1.0, 0.5, 6.0, 6.0], vec![0.0, 0.0, 3.0, 0.0, 0.0]));
    assert!(read(B::clip(place(&[f32::NAN]), [0.0, 6.0]))[0].is_nan());
}

#[test]
fn clipping_on_the_processor() {
    clipping_is_exact::<Flex>();
}

#[cfg(feature = "libtorch")]
#[test]
#[allow(deprecated, reason = "burn will drop it; those who have PyTorch get its speed until then")]
fn by_pytorchs_library() {
    normalisation_is_burns::<burn::backend::LibTorch>();
    clipping_is_exact::<burn::backend::LibTorch>();
}
