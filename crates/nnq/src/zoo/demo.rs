//! The network behind `nnq demo` ([`crate::demo`]): small, with one of each thing that quantization has to cope with.
use super::net::{Conv, Net, Signal};

pub(super) const PAPER: &str =
    "none: what quantization has to cope with, put together for nnq demo from the networks above";

/// An inverted residual with ReLU6 around a depthwise convolution, residual additions, two branches of different ranges that are joined, a global
/// average. The size halves at the depthwise convolution and at the fork.
pub(super) fn demo(net: &mut Net, x: Signal, classes: usize) -> Signal {
    // What many exporters write: files of few bits have to ask for a newer one.
    net.opset(17);
    let y = rectified(net, "stem", x, Conv::new(16, 3, 1));
    let y = conv_bn(net, "expand", y, Conv::new(48, 1, 1));
    let y = net.relu6("expand.relu6", y);
    let y = conv_bn(net, "depthwise", y, Conv::depthwise(48, 3, 2));
    let y = net.relu6("depthwise.relu6", y);
    let y = conv_bn(net, "project", y, Conv::new(24, 1, 1));
    let y = residual(net, "residual1", y);
    let y = fork(net, "fork", y, 48);
    let y = residual(net, "residual2", y);
    let y = rectified(net, "head", y, Conv::new(64, 1, 1));
    net.classifier("fc", y, classes)
}

fn conv_bn(net: &mut Net, at: &str, x: Signal, conv: Conv) -> Signal {
    net.conv_bn([&format!("{at}.conv"), &format!("{at}.bn")], x, conv)
}

fn rectified(net: &mut Net, at: &str, x: Signal, conv: Conv) -> Signal {
    let y = conv_bn(net, at, x, conv);
    net.relu(&format!("{at}.relu"), y)
}

fn residual(net: &mut Net, at: &str, x: Signal) -> Signal {
    let conv = Conv::new(x.channels, 3, 1);
    let y = rectified(net, &format!("{at}.first"), x, conv);
    let y = conv_bn(net, &format!("{at}.second"), y, conv);
    let sum = net.add(&format!("{at}.add"), x, y);
    net.relu(&format!("{at}.relu"), sum)
}

/// Halves the size on two paths and joins them: a strided convolution, and a maximum pool before a pointwise one.
fn fork(net: &mut Net, at: &str, x: Signal, out: usize) -> Signal {
    let strided = rectified(net, &format!("{at}.strided"), x, Conv::new(out / 2, 3, 2));
    let pooled = net.max_pool(&format!("{at}.pooled.pool"), x, 2, 2, 0);
    let pooled = rectified(net, &format!("{at}.pooled"), pooled, Conv::new(out - out / 2, 1, 1));
    net.concat(&format!("{at}.concat"), &[strided, pooled])
}
