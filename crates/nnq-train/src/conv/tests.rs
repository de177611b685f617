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
                        let got = flex::backward(x.clone(), w.clone(), b.clone(), g.clone(), options.clone(), all);
                        let want = composed::<Flex>(x, w, b, g, options, all);
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
                flex::backward(x, w, b, g, options(), [true; 3]).map(|t| backend::numbers::<Flex>(t.unwrap()).unwrap())
            })
        };
        let one = run(1);
        assert!([2, 3, 5].into_iter().all(|n| run(n) == one));
    }
}
