use super::*;
use crate::backend::{self, Device};
use crate::testing::noise;
use burn::backend::{Flex, ops::ModuleOps as _};

fn tensor(shape: [usize; 4], seed: u64) -> burn::backend::flex::FlexTensor {
    backend::tensor::<Flex>(noise(shape.iter().product(), seed), &shape, &Device::<Flex>::default())
}

fn near(a: burn::backend::flex::FlexTensor, b: burn::backend::flex::FlexTensor, what: &str) {
    use burn::backend::TensorMetadata as _;
    assert_eq!(a.shape(), b.shape(), "{what}");
    let (a, b) = (backend::numbers::<Flex>(a).unwrap(), backend::numbers::<Flex>(b).unwrap());
    let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max);
    // Sums of a few thousand products in another order.
    assert!(far < 1e-4, "{what}: {far}");
}

/// Every way of the kernels against burn's own, over strides, pads, dilations, odd sizes and groups.
#[test]
fn kernels_equal_burn() {
    let padding = [[(0, 0), (0, 0)], [(1, 1), (1, 1)], [(0, 2), (1, 0)]];
    let mut cases = 0;
    for (channels, outputs, groups) in [(1, 1, 1), (3, 5, 1), (16, 16, 1), (17, 33, 1), (4, 6, 2), (5, 5, 5), (3, 6, 3)]
    {
        for kernel in [[1, 1], [3, 3], [2, 3]] {
            for stride in [[1, 1], [2, 2], [1, 3]] {
                for dilation in [[1, 1], [2, 1]] {
                    for padding in padding {
                        let mut options = ConvOptions::new(stride, [0, 0], dilation, groups);
                        options.padding = padding;
                        let (x, w) = (
                            tensor([11, channels, 9, 7], 1),
                            tensor([outputs, channels / groups, kernel[0], kernel[1]], 2),
                        );
                        let b = backend::tensor::<Flex>(noise(outputs, 3), &[outputs], &Default::default());
                        let what =
                            format!("{channels} {outputs} {groups} {kernel:?} {stride:?} {dilation:?} {padding:?}");
                        let want = Flex::conv2d(x.clone(), w.clone(), Some(b.clone()), options.clone());
                        use burn::backend::TensorMetadata as _;
                        let g = tensor(want.shape().dims(), 4);
                        near(flex::forward(x.clone(), w.clone(), b.clone(), options.clone()), want, &what);
                        let all = [true; 3];
                        let seen = Seen::<Flex> { x, weight: w, bias: b, options, kept: () };
                        let got = flex::backward(seen.clone(), g.clone(), all);
                        let want = composed(seen, g, all);
                        for (i, (a, b)) in got.into_iter().zip(want).enumerate() {
                            near(a.unwrap(), b.unwrap(), &format!("gradient {i}: {what}"));
                        }
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 378);
}

#[test]
fn results_do_not_depend_on_threads() {
    for (channels, outputs, groups) in [(3, 5, 1), (4, 4, 4)] {
        let options = || ConvOptions::new([1, 1], [1, 1], [1, 1], groups);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (x, w) = (tensor([21, channels, 8, 8], 1), tensor([outputs, channels / groups, 3, 3], 2));
                let g = tensor([21, outputs, 8, 8], 3);
                let b = backend::tensor::<Flex>(noise(outputs, 3), &[outputs], &Default::default());
                let seen = Seen { x, weight: w, bias: b, options: options(), kept: () };
                flex::backward(seen, g, [true; 3]).map(|t| backend::numbers::<Flex>(t.unwrap()).unwrap())
            })
        };
        let one = run(1);
        assert!([2, 3, 5].into_iter().all(|n| run(n) == one));
    }
}

/// With pads on one side only, too, and with some gradients alone.
#[cfg(feature = "libtorch")]
#[test]
#[allow(deprecated, reason = "burn will drop it; those who have PyTorch get its speed until then")]
fn pytorchs_library_equals_burn() {
    use burn::backend::{LibTorch, TensorMetadata as _};
    let numbers = |t: FloatTensor<LibTorch>| backend::numbers::<LibTorch>(t).unwrap();
    let place = |t: &burn::backend::flex::FlexTensor| {
        let shape = t.shape().to_vec();
        backend::tensor::<LibTorch>(backend::numbers::<Flex>(t.clone()).unwrap(), &shape, &Default::default())
    };
    let close = |ours: FloatTensor<LibTorch>, burns: burn::backend::flex::FlexTensor, what: &str| {
        near(tensor_of(numbers(ours), burns.shape().to_vec()), burns, what);
    };
    fn tensor_of(numbers: Vec<f32>, shape: Vec<usize>) -> burn::backend::flex::FlexTensor {
        backend::tensor::<Flex>(numbers, &shape, &Default::default())
    }
    for (groups, stride, padding) in
        [(1, [1, 1], [(1, 1), (1, 1)]), (1, [2, 1], [(0, 2), (1, 0)]), (3, [2, 2], [(1, 1), (0, 0)])]
    {
        for wanted in [[true; 3], [false, true, true], [true, false, false]] {
            let mut options = ConvOptions::new(stride, [0, 0], [1, 1], groups);
            options.padding = padding;
            let (x, weight) = (tensor([5, 6, 9, 7], 1), tensor([9, 6 / groups, 3, 3], 2));
            let bias = backend::tensor::<Flex>(noise(9, 3), &[9], &Default::default());
            let what = format!("{groups} {stride:?} {padding:?} {wanted:?}");
            let want = Flex::conv2d(x.clone(), weight.clone(), Some(bias.clone()), options.clone());
            let grad = tensor(want.shape().dims(), 4);
            let (tx, tw, tb) = (place(&x), place(&weight), place(&bias));
            let (y, kept) = torch::forward([tx.clone(), tw.clone(), tb.clone()], options.clone());
            close(y, want, &what);
            let seen = Seen::<LibTorch> { x: tx, weight: tw, bias: tb, options: options.clone(), kept };
            let got = torch::backward(seen, place(&grad), wanted);
            let want = composed(Seen::<Flex> { x, weight, bias, options, kept: () }, grad, wanted);
            for (i, (a, b)) in got.into_iter().zip(want).enumerate() {
                assert_eq!((a.is_some(), b.is_some()), (wanted[i], wanted[i]), "gradient {i}: {what}");
                if let (Some(a), Some(b)) = (a, b) {
                    close(a, b, &format!("gradient {i}: {what}"));
                }
            }
        }
    }
}
