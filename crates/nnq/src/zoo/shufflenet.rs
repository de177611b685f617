//! ShuffleNetV2, width 1.0: half of the channels pass by, then both halves are shuffled.
use super::net::{Conv, Net, Signal};

pub(super) const PAPER: &str =
    "Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, arXiv:1807.11164";

/// Output channels and units.
const STAGES: [(usize, usize); 3] = [(116, 4), (232, 8), (464, 4)];

pub(super) fn shufflenet_v2(net: &mut Net, x: Signal, classes: usize) -> Signal {
    let y = pointwise(net, "conv1", [0, 1, 2], x, Conv::new(24, 3, 2));
    let mut y = net.max_pool("maxpool", y, 3, 2, 1);
    for (stage, (out, units)) in STAGES.into_iter().enumerate() {
        for i in 0..units {
            let at = format!("stage{}.{i}", stage + 2);
            y = if i == 0 { halving(net, &at, y, out) } else { unit(net, &at, y) };
        }
    }
    let y = pointwise(net, "conv5", [0, 1, 2], y, Conv::new(1024, 1, 1));
    net.classifier("fc", y, classes)
}

/// Convolution, batch normalisation, ReLU, at these places of their sequence.
fn pointwise(net: &mut Net, at: &str, [conv, bn, relu]: [usize; 3], x: Signal, kind: Conv) -> Signal {
    let y = net.conv_bn([&format!("{at}.{conv}"), &format!("{at}.{bn}")], x, kind);
    net.relu(&format!("{at}.{relu}"), y)
}

/// 1x1, depthwise, 1x1.
fn branch(net: &mut Net, at: &str, x: Signal, out: usize, stride: usize) -> Signal {
    let y = pointwise(net, at, [0, 1, 2], x, Conv::new(out, 1, 1));
    let y = net.conv_bn([&format!("{at}.3"), &format!("{at}.4")], y, Conv::depthwise(out, 3, stride));
    pointwise(net, at, [5, 6, 7], y, Conv::new(out, 1, 1))
}

/// Both halves are computed, at half the size.
fn halving(net: &mut Net, at: &str, x: Signal, out: usize) -> Signal {
    let first = format!("{at}.branch1");
    let a = net.conv_bn([&format!("{first}.0"), &format!("{first}.1")], x, Conv::depthwise(x.channels, 3, 2));
    let a = pointwise(net, &first, [2, 3, 4], a, Conv::new(out / 2, 1, 1));
    let b = branch(net, &format!("{at}.branch2"), x, out / 2, 2);
    joined(net, at, a, b)
}

fn unit(net: &mut Net, at: &str, x: Signal) -> Signal {
    let [a, b] = net.halves(&format!("{at}.halves"), x);
    let b = branch(net, &format!("{at}.branch2"), b, b.channels, 1);
    joined(net, at, a, b)
}

fn joined(net: &mut Net, at: &str, a: Signal, b: Signal) -> Signal {
    let y = net.concat(&format!("{at}.concat"), &[a, b]);
    net.shuffle(&format!("{at}.shuffle"), y)
}
