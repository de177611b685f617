//! One layer behind the other.
use super::net::{Conv, Net, Signal};
use crate::ir::op::Cell;

pub(super) const PAPER_VGG: &str =
    "Zhang et al., LQ-Nets, arXiv:1807.10029 (a small VGG of Simonyan and Zisserman, arXiv:1409.1556)";
pub(super) const PAPER_MLP: &str = "LeCun et al., Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 86(11), 1998 (the 300-100 network)";

pub(super) const PAPER_LSTM: &str = "Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997";
pub(super) const PAPER_GRU: &str = "Cho et al., arXiv:1406.1078";

/// Six convolutions with batch normalisation, a pool behind each second, one product.
pub(super) fn vgg_small(net: &mut Net, x: Signal, classes: usize) -> Signal {
    let mut y = x;
    for (i, out) in [128, 128, 256, 256, 512, 512].into_iter().enumerate() {
        y = net.conv_bn([&format!("conv{i}"), &format!("bn{i}")], y, Conv::new(out, 3, 1));
        y = net.relu(&format!("relu{i}"), y);
        if i % 2 == 1 {
            y = net.max_pool(&format!("pool{}", i / 2), y, 2, 2, 0);
        }
    }
    let y = net.flatten("flatten", y);
    net.linear("fc", y, classes)
}

/// 300 and 100 hidden numbers.
pub(super) fn mlp(net: &mut Net, x: Signal, classes: usize) -> Signal {
    let mut y = net.flatten("flatten", x);
    for (i, out) in [300, 100].into_iter().enumerate() {
        y = net.linear(&format!("fc{i}"), y, out);
        y = net.relu(&format!("relu{i}"), y);
    }
    net.linear("fc2", y, classes)
}

/// A long short-term memory of 128 numbers that reads an image row by row.
pub(super) fn lstm(net: &mut Net, x: Signal, classes: usize) -> Signal {
    let y = net.last_state("lstm", x, Cell::Lstm { input_forget: false }, 128);
    net.linear("fc", y, classes)
}

/// A gated recurrent unit of 128 numbers that reads an image row by row.
pub(super) fn gru(net: &mut Net, x: Signal, classes: usize) -> Signal {
    let y = net.last_state("gru", x, Cell::Gru { linear_before_reset: true }, 128);
    net.linear("fc", y, classes)
}
