//! MobileNetV1, width 1.0: depthwise and pointwise convolutions in turn.
use super::net::{Conv, Net, Signal};

pub(super) const PAPER: &str = "Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, arXiv:1704.04861";

/// Output channels and stride of each pair.
const PAIRS: [(usize, usize); 13] = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
];

pub(super) fn mobilenet_v1(net: &mut Net, x: Signal, classes: usize) -> Signal {
    let mut y = layer(net, "features.0", x, Conv::new(32, 3, 2));
    for (i, (out, stride)) in PAIRS.into_iter().enumerate() {
        let at = format!("features.{}", i + 1);
        y = layer(net, &format!("{at}.depthwise"), y, Conv::depthwise(y.channels, 3, stride));
        y = layer(net, &format!("{at}.pointwise"), y, Conv::new(out, 1, 1));
    }
    net.classifier("classifier", y, classes)
}

fn layer(net: &mut Net, at: &str, x: Signal, conv: Conv) -> Signal {
    let y = net.conv_bn([&format!("{at}.0"), &format!("{at}.1")], x, conv);
    net.relu6(&format!("{at}.2"), y)
}
