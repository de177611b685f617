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
    /// Sums of each channel's weights.
    sums: Vec<i32>,
    lane_order: &'static [u8],
    k_h: usize,
    k_w: usize,
}

pub(super) struct Pack<'a> {
    pub(super) geom: &'a ConvGeom,
    pub(super) w: &'a [i8],
}

impl Op for Pack<'_> {
    type Out = Blocks;

    #[inline(always)]
    fn call<S: Simd>(self, _: S) -> Blocks {
        let (k_h, k_w) = (self.geom.k_h, self.geom.k_w);
        let weight = |channel: usize, row: usize, column: usize| self.w[(channel * k_h + row) * k_w + column];
        pack(self.geom.c_in, [k_h, k_w], S::V::LANE_ORDER, &weight)
    }
}

/// `weight` gives the weight of a channel, row and column.
fn pack(
    channels: usize,
    [k_h, k_w]: [usize; 2],
    lane_order: &'static [u8],
    weight: &dyn Fn(usize, usize, usize) -> i8,
) -> Blocks {
    let mut bytes = Vec::new();
    for block in 0..channels.div_ceil(lane_order.len()) {
        for column in 0..k_w {
            for quad in 0..k_h.div_ceil(4) {
                for &lane in lane_order {
                    let channel = block * lane_order.len() + usize::from(lane);
                    bytes.extend((quad * 4..quad * 4 + 4).map(|row| {
                        let exists = channel < channels && row < k_h;
                        if exists { weight(channel, row, column) } else { 0 }
                    }));
                }
            }
        }
    }
    let sum = |channel| (0..k_h * k_w).map(|i| i32::from(weight(channel, i / k_w, i % k_w))).sum();
    Blocks { bytes, sums: (0..channels).map(sum).collect(), lane_order, k_h, k_w }
}

impl Blocks {
    /// Channels of one block.
    pub(super) fn width(&self) -> usize {
        self.lane_order.len()
    }

    /// The channel of each lane of each block.
    pub(super) fn lanes(&self) -> impl Iterator<Item = Option<usize>> + Clone + '_ {
        let (wide, channels) = (self.width(), self.sums.len());
        (0..channels.div_ceil(wide)).flat_map(move |block| {
            self.lane_order.iter().map(move |&lane| {
                let channel = block * wide + usize::from(lane);
                (channel < channels).then_some(channel)
            })
        })
    }

    /// The sum of a channel's weights.
    pub(super) fn sum(&self, channel: usize) -> i32 {
        self.sums[channel]
    }

    /// The weights as given: `[c][k_h][k_w]`.
    pub(super) fn plain(&self) -> Vec<i8> {
        let (lanes, quads) = (self.lanes_of_channels(), self.k_h.div_ceil(4));
        let all =
            (0..self.sums.len()).flat_map(|c| (0..self.k_h * self.k_w).map(move |i| (c, i / self.k_w, i % self.k_w)));
        all.map(|(channel, row, column)| self.weight(&lanes, quads, channel, row, column)).collect()
    }

    /// The lane of each channel within its block.
    fn lanes_of_channels(&self) -> Vec<usize> {
        let lane = |channel| self.lane_order.iter().position(|&l| usize::from(l) == channel).unwrap_or(0);
        (0..self.width()).map(lane).collect()
    }

    fn weight(&self, lanes: &[usize], quads: usize, channel: usize, row: usize, column: usize) -> i8 {
        let block = channel / self.width() * self.k_w * quads;
        let vector = (block + column * quads + row / 4) * self.width();
        self.bytes[(vector + lanes[channel % self.width()]) * 4 + row % 4]
    }

    /// The channels `times` over, as if that many neighbouring pixels were one of more channels. They fit one block.
    pub(super) fn repeated(&self, times: usize) -> Blocks {
        let channels = self.sums.len();
        assert!(channels * times <= self.width(), "{times} times {channels} channels in a block of {}", self.width());
        let (lanes, quads) = (self.lanes_of_channels(), self.k_h.div_ceil(4));
        let weight =
            |channel: usize, row: usize, column: usize| self.weight(&lanes, quads, channel % channels, row, column);
        pack(channels * times, [self.k_h, self.k_w], self.lane_order, &weight)
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.bytes.len() + self.sums.len() * size_of::<i32>()
    }
}
