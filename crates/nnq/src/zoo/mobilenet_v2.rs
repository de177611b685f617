//! MobileNetV2, width 1.0: inverted residuals with depthwise convolutions.
use super::net::{Conv, Net, Signal};

pub(super) const PAPER: &str =
    "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv:1801.04381";

/// Expansion, output channels, blocks, stride of the first block.
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

pub(super) fn mobilenet_v2(net: &mut Net, x: Signal, classes: usize) -> Signal {
    let mut y = conv_bn_relu6(net, "features.0", x, Conv::new(32, 3, 2));
    let mut block = 0;
    for (expansion, out, count, stride) in STAGES {
        for i in 0..count {
            block += 1;
            let stride = if i == 0 { stride } else { 1 };
            y = inverted_residual(net, &format!("features.{block}"), y, expansion, out, stride);
        }
    }
    y = conv_bn_relu6(net, &format!("features.{}", block + 1), y, Conv::new(1280, 1, 1));
    net.classifier("classifier.1", y, classes)
}

fn conv_bn_relu6(net: &mut Net, at: &str, x: Signal, conv: Conv) -> Signal {
    let y = net.conv_bn([&format!("{at}.0"), &format!("{at}.1")], x, conv);
    net.relu6(&format!("{at}.2"), y)
}

fn inverted_residual(net: &mut Net, at: &str, x: Signal, expansion: usize, out: usize, stride: usize) -> Signal {
    let mut y = x;
    let mut n = 0;
    if expansion > 1 {
        y = conv_bn_relu6(net, &format!("{at}.conv.{n}"), y, Conv::new(expansion * x.channels, 1, 1));
        n += 1;
    }
    y = conv_bn_relu6(net, &format!("{at}.conv.{n}"), y, Conv::depthwise(y.channels, 3, stride));
    n += 1;
    y = net.conv_bn([&format!("{at}.conv.{n}"), &format!("{at}.conv.{}", n + 1)], y, Conv::new(out, 1, 1));
    if stride == 1 && x.channels == out { net.add(&format!("{at}.add"), x, y) } else { y }
}
