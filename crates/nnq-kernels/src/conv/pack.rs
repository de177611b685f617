//! Weights in the order in which a tile reads them.
use super::Shape;
use crate::simd::{Op, Simd, TILE_VECTORS, Vector};
use std::ops::Range;

/// Packed weights: for each group, each panel of `width` output channels, each step of four inputs:
/// `[width][4]` bytes. What does not exist is 0.
///
/// Groups with few channels are merged: `merge` of them make one group with zeros off the diagonal, so
/// that a panel is full and the inputs of a position lie together.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    pub(super) width: usize,
    /// Pixels of a tile.
    pub(super) grain: usize,
    pub(super) groups: usize,
    /// Input channels of a merged group.
    pub(super) c_in: usize,
    /// Output channels of a merged group.
    pub(super) c_out: usize,
    /// Panels of a merged group.
    pub(super) panels: usize,
    /// Steps of four inputs.
    pub(super) steps: usize,
    lines: Vec<Line>,
    /// Sum of the weights of each output channel.
    pub(super) sums: Vec<i32>,
}

/// One line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line([i8; 64]);

impl Panels {
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>() + self.sums.len() * size_of::<i32>()
    }

    /// The `steps * width * 4` bytes of one panel.
    #[inline(always)]
    pub(super) fn panel(&self, group: usize, panel: usize) -> &[Line] {
        let lines = self.steps * self.width * 4 / size_of::<Line>();
        &self.lines[(group * self.panels + panel) * lines..][..lines]
    }

    /// Each group that has some of the panels `part` (counted through all groups), and which of its panels.
    pub(super) fn of_groups(&self, part: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let panels = self.panels;
        (part.start / panels..part.end.div_ceil(panels)).map(move |group| {
            let first = group * panels;
            (group, part.start.max(first) - first..part.end.min(first + panels) - first)
        })
    }

    /// The output channel in column `column` of a panel.
    #[inline(always)]
    pub(super) fn channel(&self, group: usize, panel: usize, column: usize) -> Option<usize> {
        let within = panel * self.width + column;
        (within < self.c_out).then(|| group * self.c_out + within)
    }

    /// [`Panels::channel`] of every column of every panel, in order.
    pub(super) fn columns(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        (0..self.groups)
            .flat_map(move |group| (0..self.panels * self.width).map(move |column| self.channel(group, 0, column)))
    }
}

/// Packs weights for the instruction set that it is called with.
pub(super) struct Pack<'a> {
    pub(super) shape: Shape,
    pub(super) w: &'a [i8],
}

impl Op for Pack<'_> {
    type Out = Panels;

    #[inline(always)]
    fn call<S: Simd>(self, _: S) -> Panels {
        pack(&self.shape, self.w, TILE_VECTORS * S::V::LANES, S::TILE_PIXELS)
    }
}

fn pack(shape: &Shape, w: &[i8], width: usize, grain: usize) -> Panels {
    let (in_one, out_one) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
    let taps = shape.k_h * shape.k_w;
    let merge =
        (1..=shape.groups).filter(|n| shape.groups.is_multiple_of(*n) && n * out_one <= width).max().unwrap_or(1);
    let (c_in, c_out, groups) = (in_one * merge, out_one * merge, shape.groups / merge);
    let panels = c_out.div_ceil(width);
    let steps = (taps * c_in).div_ceil(4);
    let panel_bytes = steps * width * 4;
    let mut lines = vec![Line([0; 64]); (groups * panels * panel_bytes).div_ceil(64)];
    let mut sums = vec![0; shape.c_out];
    for (channel, sum) in sums.iter_mut().enumerate() {
        let (group, within) = (channel / c_out, channel % c_out);
        let (panel, column) = (within / width, within % width);
        let base = (group * panels + panel) * panel_bytes + column * 4;
        for tap in 0..taps {
            let from = &w[(channel * taps + tap) * in_one..][..in_one];
            let first = tap * c_in + within / out_one * in_one;
            for (i, &value) in from.iter().enumerate() {
                let k = first + i;
                let at = base + k / 4 * width * 4 + k % 4;
                lines[at / 64].0[at % 64] = value;
                *sum += i32::from(value);
            }
        }
    }
    Panels { width, grain, groups, c_in, c_out, panels, steps, lines, sums }
}
