//! SqueezeNet 1.1: few channels, from which 1x1 and 3x3 convolutions widen again.
use super::net::{Conv, Net, Signal};

pub(super) const PAPER: &str = "Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size, arXiv:1602.07360";

/// Narrow and wide channels of the fires, by the place among the features; what is left out is a pool.
const FIRES: [(usize, usize, usize); 8] =
    [(3, 16, 64), (4, 16, 64), (6, 32, 128), (7, 32, 128), (9, 48, 192), (10, 48, 192), (11, 64, 256), (12, 64, 256)];

pub(super) fn squeezenet(net: &mut Net, x: Signal, classes: usize) -> Signal {
    let y = net.conv_bias("features.0", x, Conv::new(64, 3, 2).valid());
    let mut y = net.relu("features.1", y);
    let mut place = 2;
    for (at, narrow, wide) in FIRES {
        if place < at {
            y = net.max_pool_ceil(&format!("features.{place}"), y, 3, 2, 0);
        }
        y = fire(net, &format!("features.{at}"), y, narrow, wide);
        place = at + 1;
    }
    let y = net.conv_bias("classifier.1", y, Conv::new(classes, 1, 1));
    let y = net.relu("classifier.2", y);
    let y = net.global_average("classifier.3", y);
    net.flatten("flatten", y)
}

fn fire(net: &mut Net, at: &str, x: Signal, narrow: usize, wide: usize) -> Signal {
    let mut layer = |x, name, act, conv| {
        let y = net.conv_bias(&format!("{at}.{name}"), x, conv);
        net.relu(&format!("{at}.{act}"), y)
    };
    let y = layer(x, "squeeze", "squeeze_activation", Conv::new(narrow, 1, 1));
    let a = layer(y, "expand1x1", "expand1x1_activation", Conv::new(wide, 1, 1));
    let b = layer(y, "expand3x3", "expand3x3_activation", Conv::new(wide, 3, 1));
    net.concat(&format!("{at}.concat"), &[a, b])
}
