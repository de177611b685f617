//! MobileNetV3: inverted residuals with squeeze-and-excitation and hard-swish.
use super::net::{Conv, Net, Signal};

pub(super) const PAPER: &str = "Howard et al., Searching for MobileNetV3, arXiv:1905.02244";

/// Epsilon of batch normalisation.
const EPSILON: f32 = 1e-3;

/// Kernel, expanded channels, output channels, squeeze-and-excitation, hard-swish in place of ReLU, stride.
type Block = (usize, usize, usize, bool, bool, usize);

const LARGE: [Block; 15] = [
    (3, 16, 16, false, false, 1),
    (3, 64, 24, false, false, 2),
    (3, 72, 24, false, false, 1),
    (5, 72, 40, true, false, 2),
    (5, 120, 40, true, false, 1),
    (5, 120, 40, true, false, 1),
    (3, 240, 80, false, true, 2),
    (3, 200, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 480, 112, true, true, 1),
    (3, 672, 112, true, true, 1),
    (5, 672, 160, true, true, 2),
    (5, 960, 160, true, true, 1),
    (5, 960, 160, true, true, 1),
];

const SMALL: [Block; 11] = [
    (3, 16, 16, true, false, 2),
    (3, 72, 24, false, false, 2),
    (3, 88, 24, false, false, 1),
    (5, 96, 40, true, true, 2),
    (5, 240, 40, true, true, 1),
    (5, 240, 40, true, true, 1),
    (5, 120, 48, true, true, 1),
    (5, 144, 48, true, true, 1),
    (5, 288, 96, true, true, 2),
    (5, 576, 96, true, true, 1),
    (5, 576, 96, true, true, 1),
];

pub(super) fn large(net: &mut Net, x: Signal, classes: usize) -> Signal {
    network(net, x, classes, &LARGE, 1280)
}

pub(super) fn small(net: &mut Net, x: Signal, classes: usize) -> Signal {
    network(net, x, classes, &SMALL, 1024)
}

fn network(net: &mut Net, x: Signal, classes: usize, blocks: &[Block], wide: usize) -> Signal {
    net.epsilon = EPSILON;
    let mut y = layer(net, "features.0", x, Conv::new(16, 3, 2), Some(true));
    for (i, block) in blocks.iter().enumerate() {
        y = inverted_residual(net, &format!("features.{}", i + 1), y, *block);
    }
    y = layer(net, &format!("features.{}", blocks.len() + 1), y, Conv::new(6 * y.channels, 1, 1), Some(true));
    let y = net.global_average("avgpool", y);
    let y = net.flatten("flatten", y);
    let y = net.linear("classifier.0", y, wide);
    let y = net.hard_swish("classifier.1", y);
    net.linear("classifier.3", y, classes)
}

/// Convolution, batch normalisation and, where one is wanted, an activation: hard-swish or ReLU.
fn layer(net: &mut Net, at: &str, x: Signal, conv: Conv, swish: Option<bool>) -> Signal {
    let y = net.conv_bn([&format!("{at}.0"), &format!("{at}.1")], x, conv);
    match swish {
        Some(true) => net.hard_swish(&format!("{at}.2"), y),
        Some(false) => net.relu(&format!("{at}.2"), y),
        None => y,
    }
}

fn inverted_residual(net: &mut Net, at: &str, x: Signal, block: Block) -> Signal {
    let (kernel, expanded, out, squeeze, swish, stride) = block;
    let mut n = 0;
    let mut next = || {
        n += 1;
        format!("{at}.block.{}", n - 1)
    };
    let mut y = x;
    if expanded != x.channels {
        y = layer(net, &next(), y, Conv::new(expanded, 1, 1), Some(swish));
    }
    y = layer(net, &next(), y, Conv::depthwise(expanded, kernel, stride), Some(swish));
    if squeeze {
        y = squeeze_and_excite(net, &next(), y);
    }
    y = layer(net, &next(), y, Conv::new(out, 1, 1), None);
    if stride == 1 && x.channels == out { net.add(&format!("{at}.add"), y, x) } else { y }
}

/// Each channel times a number that all channels' means decide together.
fn squeeze_and_excite(net: &mut Net, at: &str, x: Signal) -> Signal {
    let gate = net.global_average(&format!("{at}.avgpool"), x);
    let gate = net.conv_bias(&format!("{at}.fc1"), gate, Conv::new(eights(x.channels / 4), 1, 1));
    let gate = net.relu(&format!("{at}.activation"), gate);
    let gate = net.conv_bias(&format!("{at}.fc2"), gate, Conv::new(x.channels, 1, 1));
    let gate = net.hard_sigmoid(&format!("{at}.scale_activation"), gate);
    net.mul(&format!("{at}.mul"), x, gate)
}

/// The nearest multiple of 8, at least 8, which is not below 90 % of `n`.
fn eights(n: usize) -> usize {
    let near = ((n + 4) / 8 * 8).max(8);
    if near * 10 < n * 9 { near + 8 } else { near }
}
