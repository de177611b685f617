//! Inception: branches of different kernels beside each other. GoogLeNet (with batch normalisation) and Inception v3, without their auxiliary classifiers.
//!
//! Published weights of both were trained on pictures of `pixel / 127.5 - 1`.
use super::net::{Conv, Net, Signal};

pub(super) const PAPER_V1: &str = "Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842";
pub(super) const PAPER_V3: &str =
    "Szegedy et al., Rethinking the Inception Architecture for Computer Vision, arXiv:1512.00567";

/// Epsilon of batch normalisation.
const EPSILON: f32 = 1e-3;

/// Convolution, batch normalisation, ReLU.
fn basic(net: &mut Net, at: &str, x: Signal, conv: Conv) -> Signal {
    let y = net.conv_bn([&format!("{at}.conv"), &format!("{at}.bn")], x, conv);
    net.relu(&format!("{at}.relu"), y)
}

/// One [`basic`] behind the other, called `at` and what stands beside them.
fn chain(net: &mut Net, at: &str, x: Signal, layers: &[(&str, Conv)]) -> Signal {
    layers.iter().fold(x, |y, (name, conv)| basic(net, &format!("{at}.{name}"), y, *conv))
}

fn square(out: usize, kernel: usize) -> Conv {
    Conv::new(out, kernel, 1)
}

/// A module of GoogLeNet: its name; output channels of the branches 1x1; 1x1, 3x3; 1x1, 3x3 (the paper's 5x5); pool. One that ends a size says name and
/// kernel of the pool behind it.
type Module = (&'static str, [usize; 6], Option<(&'static str, usize)>);

const MODULES: [Module; 9] = [
    ("3a", [64, 96, 128, 16, 32, 32], None),
    ("3b", [128, 128, 192, 32, 96, 64], Some(("maxpool3", 3))),
    ("4a", [192, 96, 208, 16, 48, 64], None),
    ("4b", [160, 112, 224, 24, 64, 64], None),
    ("4c", [128, 128, 256, 24, 64, 64], None),
    ("4d", [112, 144, 288, 32, 64, 64], None),
    ("4e", [256, 160, 320, 32, 128, 128], Some(("maxpool4", 2))),
    ("5a", [256, 160, 320, 32, 128, 128], None),
    ("5b", [384, 192, 384, 48, 128, 128], None),
];

pub(super) fn googlenet(net: &mut Net, x: Signal, classes: usize) -> Signal {
    net.epsilon = EPSILON;
    let y = basic(net, "conv1", x, Conv::new(64, 7, 2));
    let y = net.max_pool_ceil("maxpool1", y, 3, 2, 0);
    let y = basic(net, "conv2", y, square(64, 1));
    let y = basic(net, "conv3", y, square(192, 3));
    let mut y = net.max_pool_ceil("maxpool2", y, 3, 2, 0);
    for (name, channels, pool) in MODULES {
        y = module(net, &format!("inception{name}"), y, channels);
        if let Some((name, kernel)) = pool {
            y = net.max_pool_ceil(name, y, kernel, 2, 0);
        }
    }
    net.classifier("fc", y, classes)
}

fn module(net: &mut Net, at: &str, x: Signal, [a, b1, b2, c1, c2, d]: [usize; 6]) -> Signal {
    let one = chain(net, at, x, &[("branch1", square(a, 1))]);
    let two = chain(net, at, x, &[("branch2.0", square(b1, 1)), ("branch2.1", square(b2, 3))]);
    let three = chain(net, at, x, &[("branch3.0", square(c1, 1)), ("branch3.1", square(c2, 3))]);
    let pooled = net.max_pool_ceil(&format!("{at}.branch4.0"), x, 3, 1, 1);
    let four = chain(net, at, pooled, &[("branch4.1", square(d, 1))]);
    net.concat(&format!("{at}.concat"), &[one, two, three, four])
}

pub(super) fn inception_v3(net: &mut Net, x: Signal, classes: usize) -> Signal {
    net.epsilon = EPSILON;
    let y = basic(net, "Conv2d_1a_3x3", x, Conv::new(32, 3, 2).valid());
    let y = basic(net, "Conv2d_2a_3x3", y, square(32, 3).valid());
    let y = basic(net, "Conv2d_2b_3x3", y, square(64, 3));
    let y = net.max_pool("maxpool1", y, 3, 2, 0);
    let y = basic(net, "Conv2d_3b_1x1", y, square(80, 1));
    let y = basic(net, "Conv2d_4a_3x3", y, square(192, 3).valid());
    let mut y = net.max_pool("maxpool2", y, 3, 2, 0);
    for (name, pool) in [("5b", 32), ("5c", 64), ("5d", 64)] {
        y = fine(net, &format!("Mixed_{name}"), y, pool);
    }
    y = reduce_fine(net, "Mixed_6a", y);
    for (name, narrow) in [("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)] {
        y = long(net, &format!("Mixed_{name}"), y, narrow);
    }
    y = reduce_long(net, "Mixed_7a", y);
    for name in ["7b", "7c"] {
        y = wide(net, &format!("Mixed_{name}"), y);
    }
    net.classifier("fc", y, classes)
}

/// The average pool beside the other branches, and its 1x1 convolution.
fn pooled(net: &mut Net, at: &str, x: Signal, out: usize) -> Signal {
    let y = net.average_pool(&format!("{at}.pool"), x);
    chain(net, at, y, &[("branch_pool", square(out, 1))])
}

fn fine(net: &mut Net, at: &str, x: Signal, pool: usize) -> Signal {
    let one = chain(net, at, x, &[("branch1x1", square(64, 1))]);
    let five = chain(net, at, x, &[("branch5x5_1", square(48, 1)), ("branch5x5_2", square(64, 5))]);
    let layers =
        [("branch3x3dbl_1", square(64, 1)), ("branch3x3dbl_2", square(96, 3)), ("branch3x3dbl_3", square(96, 3))];
    let double = chain(net, at, x, &layers);
    let pool = pooled(net, at, x, pool);
    net.concat(&format!("{at}.concat"), &[one, five, double, pool])
}

fn reduce_fine(net: &mut Net, at: &str, x: Signal) -> Signal {
    let half = |out| Conv::new(out, 3, 2).valid();
    let three = chain(net, at, x, &[("branch3x3", half(384))]);
    let layers = [("branch3x3dbl_1", square(64, 1)), ("branch3x3dbl_2", square(96, 3)), ("branch3x3dbl_3", half(96))];
    let double = chain(net, at, x, &layers);
    let pool = net.max_pool(&format!("{at}.pool"), x, 3, 2, 0);
    net.concat(&format!("{at}.concat"), &[three, double, pool])
}

/// Kernels of 7 in one axis after the other.
fn long(net: &mut Net, at: &str, x: Signal, narrow: usize) -> Signal {
    let (row, column) = (|out| Conv::oblong(out, [1, 7]), |out| Conv::oblong(out, [7, 1]));
    let one = chain(net, at, x, &[("branch1x1", square(192, 1))]);
    let layers = [("branch7x7_1", square(narrow, 1)), ("branch7x7_2", row(narrow)), ("branch7x7_3", column(192))];
    let seven = chain(net, at, x, &layers);
    let layers = [
        ("branch7x7dbl_1", square(narrow, 1)),
        ("branch7x7dbl_2", column(narrow)),
        ("branch7x7dbl_3", row(narrow)),
        ("branch7x7dbl_4", column(narrow)),
        ("branch7x7dbl_5", row(192)),
    ];
    let double = chain(net, at, x, &layers);
    let pool = pooled(net, at, x, 192);
    net.concat(&format!("{at}.concat"), &[one, seven, double, pool])
}

fn reduce_long(net: &mut Net, at: &str, x: Signal) -> Signal {
    let half = |out| Conv::new(out, 3, 2).valid();
    let three = chain(net, at, x, &[("branch3x3_1", square(192, 1)), ("branch3x3_2", half(320))]);
    let layers = [
        ("branch7x7x3_1", square(192, 1)),
        ("branch7x7x3_2", Conv::oblong(192, [1, 7])),
        ("branch7x7x3_3", Conv::oblong(192, [7, 1])),
        ("branch7x7x3_4", half(192)),
    ];
    let seven = chain(net, at, x, &layers);
    let pool = net.max_pool(&format!("{at}.pool"), x, 3, 2, 0);
    net.concat(&format!("{at}.concat"), &[three, seven, pool])
}

/// Kernels of 3 in both axes, side by side.
fn wide(net: &mut Net, at: &str, x: Signal) -> Signal {
    let one = chain(net, at, x, &[("branch1x1", square(320, 1))]);
    let y = chain(net, at, x, &[("branch3x3_1", square(384, 1))]);
    let three = crossed(net, at, y, ["branch3x3_2a", "branch3x3_2b"]);
    let y = chain(net, at, x, &[("branch3x3dbl_1", square(448, 1)), ("branch3x3dbl_2", square(384, 3))]);
    let double = crossed(net, at, y, ["branch3x3dbl_3a", "branch3x3dbl_3b"]);
    let pool = pooled(net, at, x, 192);
    net.concat(&format!("{at}.concat"), &[one, three, double, pool])
}

/// A row of 3 and a column of 3, joined.
fn crossed(net: &mut Net, at: &str, x: Signal, [row, column]: [&str; 2]) -> Signal {
    let a = chain(net, at, x, &[(row, Conv::oblong(384, [1, 3]))]);
    let b = chain(net, at, x, &[(column, Conv::oblong(384, [3, 1]))]);
    net.concat(&format!("{at}.{row}_cat"), &[a, b])
}
