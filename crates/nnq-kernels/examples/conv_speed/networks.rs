//! The layers of well-known networks, without those that are alike.

/// A square convolution, padded by half its kernel.
#[derive(Clone, Copy)]
pub(crate) struct Layer {
    /// How often the network has it.
    pub(crate) count: usize,
    /// Width and height of the input.
    pub(crate) size: usize,
    pub(crate) c_in: usize,
    pub(crate) c_out: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) groups: usize,
}

/// count, size, channels in and out, kernel, stride, groups
const fn layer(row: [usize; 7]) -> Layer {
    let [count, size, c_in, c_out, kernel, stride, groups] = row;
    Layer { count, size, c_in, c_out, kernel, stride, groups }
}

/// Names and layers.
pub(crate) const NETWORKS: &[(&str, &[Layer])] = &[
    ("resnet50", RESNET50),
    ("resnet18", RESNET18),
    ("mobilenetv2", MOBILENETV2),
    ("squeezenet", SQUEEZENET),
    ("resnet20", RESNET20),
    ("others", OTHERS),
];

const RESNET50: &[Layer] = &[
    layer([1, 224, 3, 64, 7, 2, 1]),
    layer([1, 56, 64, 64, 1, 1, 1]),
    layer([3, 56, 64, 64, 3, 1, 1]),
    layer([4, 56, 64, 256, 1, 1, 1]),
    layer([2, 56, 256, 64, 1, 1, 1]),
    layer([1, 56, 256, 128, 1, 1, 1]),
    layer([1, 56, 128, 128, 3, 2, 1]),
    layer([4, 28, 128, 512, 1, 1, 1]),
    layer([1, 56, 256, 512, 1, 2, 1]),
    layer([3, 28, 512, 128, 1, 1, 1]),
    layer([3, 28, 128, 128, 3, 1, 1]),
    layer([1, 28, 512, 256, 1, 1, 1]),
    layer([1, 28, 256, 256, 3, 2, 1]),
    layer([6, 14, 256, 1024, 1, 1, 1]),
    layer([1, 28, 512, 1024, 1, 2, 1]),
    layer([5, 14, 1024, 256, 1, 1, 1]),
    layer([5, 14, 256, 256, 3, 1, 1]),
    layer([1, 14, 1024, 512, 1, 1, 1]),
    layer([1, 14, 512, 512, 3, 2, 1]),
    layer([3, 7, 512, 2048, 1, 1, 1]),
    layer([1, 14, 1024, 2048, 1, 2, 1]),
    layer([2, 7, 2048, 512, 1, 1, 1]),
    layer([2, 7, 512, 512, 3, 1, 1]),
    layer([1, 1, 2048, 1000, 1, 1, 1]),
];

const RESNET18: &[Layer] = &[
    layer([1, 224, 3, 64, 7, 2, 1]),
    layer([4, 56, 64, 64, 3, 1, 1]),
    layer([1, 56, 64, 128, 3, 2, 1]),
    layer([1, 56, 64, 128, 1, 2, 1]),
    layer([3, 28, 128, 128, 3, 1, 1]),
    layer([1, 28, 128, 256, 3, 2, 1]),
    layer([1, 28, 128, 256, 1, 2, 1]),
    layer([3, 14, 256, 256, 3, 1, 1]),
    layer([1, 14, 256, 512, 3, 2, 1]),
    layer([1, 14, 256, 512, 1, 2, 1]),
    layer([3, 7, 512, 512, 3, 1, 1]),
    layer([1, 1, 512, 1000, 1, 1, 1]),
];

const MOBILENETV2: &[Layer] = &[
    layer([1, 224, 3, 32, 3, 2, 1]),
    layer([1, 112, 32, 16, 1, 1, 1]),
    layer([1, 112, 16, 96, 1, 1, 1]),
    layer([1, 56, 96, 24, 1, 1, 1]),
    layer([2, 56, 24, 144, 1, 1, 1]),
    layer([1, 56, 144, 24, 1, 1, 1]),
    layer([1, 28, 144, 32, 1, 1, 1]),
    layer([3, 28, 32, 192, 1, 1, 1]),
    layer([2, 28, 192, 32, 1, 1, 1]),
    layer([1, 14, 192, 64, 1, 1, 1]),
    layer([4, 14, 64, 384, 1, 1, 1]),
    layer([3, 14, 384, 64, 1, 1, 1]),
    layer([1, 14, 384, 96, 1, 1, 1]),
    layer([3, 14, 96, 576, 1, 1, 1]),
    layer([2, 14, 576, 96, 1, 1, 1]),
    layer([1, 7, 576, 160, 1, 1, 1]),
    layer([3, 7, 160, 960, 1, 1, 1]),
    layer([2, 7, 960, 160, 1, 1, 1]),
    layer([1, 7, 960, 320, 1, 1, 1]),
    layer([1, 7, 320, 1280, 1, 1, 1]),
    layer([1, 1, 1280, 1000, 1, 1, 1]),
];

const SQUEEZENET: &[Layer] = &[
    layer([1, 224, 3, 64, 3, 2, 1]),
    layer([1, 55, 64, 16, 1, 1, 1]),
    layer([2, 55, 16, 64, 1, 1, 1]),
    layer([2, 55, 16, 64, 3, 1, 1]),
    layer([1, 55, 128, 16, 1, 1, 1]),
    layer([1, 27, 128, 32, 1, 1, 1]),
    layer([2, 27, 32, 128, 1, 1, 1]),
    layer([2, 27, 32, 128, 3, 1, 1]),
    layer([1, 27, 256, 32, 1, 1, 1]),
    layer([1, 13, 256, 48, 1, 1, 1]),
    layer([2, 13, 48, 192, 1, 1, 1]),
    layer([2, 13, 48, 192, 3, 1, 1]),
    layer([1, 13, 384, 48, 1, 1, 1]),
    layer([1, 13, 384, 64, 1, 1, 1]),
    layer([2, 13, 64, 256, 1, 1, 1]),
    layer([2, 13, 64, 256, 3, 1, 1]),
    layer([1, 13, 512, 64, 1, 1, 1]),
    layer([1, 13, 512, 1000, 1, 1, 1]),
];

const RESNET20: &[Layer] = &[
    layer([1, 32, 3, 16, 3, 1, 1]),
    layer([6, 32, 16, 16, 3, 1, 1]),
    layer([1, 32, 16, 32, 3, 2, 1]),
    layer([5, 16, 32, 32, 3, 1, 1]),
    layer([1, 16, 32, 64, 3, 2, 1]),
    layer([5, 8, 64, 64, 3, 1, 1]),
    layer([1, 1, 64, 10, 1, 1, 1]),
];

const OTHERS: &[Layer] = &[
    layer([1, 56, 128, 128, 3, 1, 32]),
    layer([1, 14, 512, 512, 3, 1, 32]),
    layer([1, 112, 32, 32, 3, 1, 32]),
    layer([1, 112, 96, 96, 3, 2, 96]),
    layer([1, 56, 144, 144, 3, 1, 144]),
    layer([1, 14, 384, 384, 3, 1, 384]),
    layer([1, 7, 960, 960, 3, 1, 960]),
    layer([1, 28, 240, 240, 5, 1, 240]),
];
