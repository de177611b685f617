//! Weights of a depthwise convolution in the order in which the tile reads them.
use crate::{
    conv::ConvGeom,
    simd::{Op, Simd, Vector},
};

/// For each block of `4 * lanes` channels, column of the kernel, four rows of the kernel: four vectors with the
/// channels in the vectors' `LANE_ORDER`, a lane the four rows of one channel.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    pub(super) bytes: Vec<i8>,
    pub(super) sums: Vec<i32>,
    lane_order: &'static [u8],
}

pub(super) struct Pack<'a> {
    pub(super) geom: &'a ConvGeom,
    pub(super) w: &'a [i8],
}

impl Op for Pack<'_> {
    type Out = Blocks;

    #[inline(always)]
    fn call<S: Simd>(self, _: S) -> Blocks {
        pack(self.geom, self.w, S::V::LANE_ORDER)
    }
}

fn pack(geom: &ConvGeom, w: &[i8], lane_order: &'static [u8]) -> Blocks {
    let (k_h, k_w) = (geom.k_h, geom.k_w);
    let mut bytes = Vec::new();
    for block in 0..geom.c_in.div_ceil(lane_order.len()) {
        for column in 0..k_w {
            for quad in 0..k_h.div_ceil(4) {
                for &lane in lane_order {
                    let channel = block * lane_order.len() + usize::from(lane);
                    bytes.extend((quad * 4..quad * 4 + 4).map(|row| {
                        let exists = channel < geom.c_in && row < k_h;
                        if exists { w[(channel * k_h + row) * k_w + column] } else { 0 }
                    }));
                }
            }
        }
    }
    let sum = |kernel: &[i8]| kernel.iter().map(|&w| i32::from(w)).sum();
    Blocks { bytes, sums: w.chunks_exact(k_h * k_w).map(sum).collect(), lane_order }
}

impl Blocks {
    /// The channel of each lane of each block.
    pub(super) fn lanes(&self, channels: usize) -> impl Iterator<Item = Option<usize>> + '_ {
        let wide = self.lane_order.len();
        (0..channels.div_ceil(wide)).flat_map(move |block| {
            self.lane_order.iter().map(move |&lane| {
                let channel = block * wide + usize::from(lane);
                (channel < channels).then_some(channel)
            })
        })
    }
}
