//! What a kernel prepares once.
use super::{
    step::{Kernel, ProductOut},
    weights::Weights,
};
use crate::{
    Isa,
    conv::BoundConv,
    depthwise::BoundDepthwise,
    pool::{AvgSpec, BoundAvg},
    resize::BoundResize,
};

/// A kernel's prepared part.
#[derive(Debug)]
pub(super) enum Bound {
    /// Nothing to prepare.
    None,
    /// A convolution; `by_panels` when members share its output channels, not its pixels.
    Conv {
        conv: BoundConv,
        by_panels: bool,
        /// Pixels that stay together.
        grain: usize,
    },
    Depthwise(BoundDepthwise),
    Average(BoundAvg),
    Resize(BoundResize),
}

impl Bound {
    pub(super) fn new(isa: Isa, kernel: &Kernel, weights: &[Weights], members: usize) -> Bound {
        match kernel {
            Kernel::Product(p) => match &weights[p.weights] {
                Weights::Conv(w) => {
                    let conv = w.bind(&p.geom, p.x_zero, &p.epilogue());
                    // By pixels every member reads all weights, by channels all inputs.
                    let inputs = p.x.len * p.geom.k_h / p.geom.stride_h.max(1);
                    // A mean is of all pixels of a sample.
                    let means = matches!(p.y, ProductOut::Means { .. });
                    let few = means && p.geom.batch < 2 * members;
                    let by_panels = p.geom.groups == 1 && (w.bytes() > inputs || few) && conv.panels() >= 2 * members;
                    let grain = if means { p.geom.out_h * p.geom.out_w } else { conv.pixel_grain().max(1) };
                    Bound::Conv { conv, by_panels, grain }
                }
                Weights::Depthwise(w) => Bound::Depthwise(w.bind(&p.geom, p.x_zero, &p.epilogue())),
            },
            Kernel::AvgPool { geom, average, .. } => {
                let spec = AvgSpec {
                    x_zero: average.x_zero,
                    count_include_pad: average.count_include_pad,
                    requants: &average.requants,
                    zero: average.zero,
                    lo: average.lo,
                    hi: average.hi,
                };
                Bound::Average(BoundAvg::new(isa, geom, &spec))
            }
            Kernel::Resize { resize, .. } => Bound::Resize(BoundResize::new(isa, resize.clone())),
            _ => Bound::None,
        }
    }

    /// Units of work and how many of them should stay together, where this differs from what the kernel says.
    pub(super) fn units(&self) -> Option<(usize, usize)> {
        match self {
            Bound::Conv { conv, by_panels: true, .. } => Some((conv.panels(), 1)),
            Bound::Conv { conv, grain, .. } => Some((conv.geom().pixels(), *grain)),
            Bound::Depthwise(d) => Some((d.geom().pixels(), 2 * d.geom().out_w.max(1))),
            _ => None,
        }
    }
}
