//! ResNet: basic blocks, and bottlenecks with the stride in their 3x3 convolution, in groups for ResNeXt. For ImageNet, and in the paper's narrow form
//! for CIFAR.
use super::net::{Conv, Net, Signal};

pub(super) const PAPER: &str = "He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385";
pub(super) const PAPER_RESNEXT: &str =
    "Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv:1611.05431";

/// How a block computes what it adds.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    /// 3x3, 3x3.
    Basic,
    /// 1x1, 3x3, 1x1 with four times the width.
    Bottleneck,
    /// 1x1 to twice the width, 3x3 in 32 groups, 1x1 with four times the width.
    Grouped,
}

pub(super) fn resnet18(net: &mut Net, x: Signal, classes: usize) -> Signal {
    resnet(net, x, classes, Block::Basic, [2, 2, 2, 2])
}

pub(super) fn resnet34(net: &mut Net, x: Signal, classes: usize) -> Signal {
    resnet(net, x, classes, Block::Basic, [3, 4, 6, 3])
}

pub(super) fn resnet50(net: &mut Net, x: Signal, classes: usize) -> Signal {
    resnet(net, x, classes, Block::Bottleneck, [3, 4, 6, 3])
}

pub(super) fn resnext50(net: &mut Net, x: Signal, classes: usize) -> Signal {
    resnet(net, x, classes, Block::Grouped, [3, 4, 6, 3])
}

/// ResNet-18 for small images: a 3x3 convolution at stride 1 in front, no pooling.
pub(super) fn resnet18_cifar(net: &mut Net, x: Signal, classes: usize) -> Signal {
    let y = net.conv_bn(["conv1", "bn1"], x, Conv::new(64, 3, 1));
    let y = net.relu("relu", y);
    stages(net, y, classes, Block::Basic, [2, 2, 2, 2])
}

pub(super) fn resnet8(net: &mut Net, x: Signal, classes: usize) -> Signal {
    narrow(net, x, classes, 1)
}

pub(super) fn resnet20(net: &mut Net, x: Signal, classes: usize) -> Signal {
    narrow(net, x, classes, 3)
}

pub(super) fn resnet32(net: &mut Net, x: Signal, classes: usize) -> Signal {
    narrow(net, x, classes, 5)
}

pub(super) fn resnet44(net: &mut Net, x: Signal, classes: usize) -> Signal {
    narrow(net, x, classes, 7)
}

pub(super) fn resnet56(net: &mut Net, x: Signal, classes: usize) -> Signal {
    narrow(net, x, classes, 9)
}

/// Three stages of `blocks` basic blocks each, from 16 channels on.
fn narrow(net: &mut Net, x: Signal, classes: usize, blocks: usize) -> Signal {
    let y = net.conv_bn(["conv1", "bn1"], x, Conv::new(16, 3, 1));
    let mut y = net.relu("relu", y);
    for stage in 0..3 {
        for i in 0..blocks {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            y = residual(net, &format!("layer{}.{i}", stage + 1), y, Block::Basic, 16 << stage, stride);
        }
    }
    net.classifier("fc", y, classes)
}

fn resnet(net: &mut Net, x: Signal, classes: usize, block: Block, blocks: [usize; 4]) -> Signal {
    let y = net.conv_bn(["conv1", "bn1"], x, Conv::new(64, 7, 2));
    let y = net.relu("relu", y);
    let y = net.max_pool("maxpool", y, 3, 2, 1);
    stages(net, y, classes, block, blocks)
}

/// Everything behind the stem.
fn stages(net: &mut Net, mut y: Signal, classes: usize, block: Block, blocks: [usize; 4]) -> Signal {
    for (stage, count) in blocks.into_iter().enumerate() {
        for i in 0..count {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            y = residual(net, &format!("layer{}.{i}", stage + 1), y, block, 64 << stage, stride);
        }
    }
    net.classifier("fc", y, classes)
}

fn residual(net: &mut Net, at: &str, x: Signal, block: Block, width: usize, stride: usize) -> Signal {
    let layers = match block {
        Block::Basic => vec![Conv::new(width, 3, stride), Conv::new(width, 3, 1)],
        Block::Bottleneck => vec![Conv::new(width, 1, 1), Conv::new(width, 3, stride), Conv::new(4 * width, 1, 1)],
        Block::Grouped => {
            vec![Conv::new(2 * width, 1, 1), Conv::new(2 * width, 3, stride).grouped(32), Conv::new(4 * width, 1, 1)]
        }
    };
    let mut y = x;
    for (i, conv) in layers.iter().enumerate() {
        let n = i + 1;
        y = net.conv_bn([&format!("{at}.conv{n}"), &format!("{at}.bn{n}")], y, *conv);
        if n < layers.len() {
            y = net.relu(&format!("{at}.relu{n}"), y);
        }
    }
    let shortcut = if stride == 1 && x.channels == y.channels {
        x
    } else {
        let names = [&*format!("{at}.downsample.0"), &*format!("{at}.downsample.1")];
        net.conv_bn(names, x, Conv::new(y.channels, 1, stride))
    };
    let sum = net.add(&format!("{at}.add"), y, shortcut);
    net.relu(&format!("{at}.relu"), sum)
}
