//! The loops around the tile: blocks of pixels that stay in the cache, and within them every panel of
//! weights against every tile.
use super::{
    ConvGeom, Scratch, Way,
    epilogue::{Live, OutPtr, Ready},
    finish::{Part, correct_rows, finish, row_sums},
    pack::Panels,
    proof::Proofs,
    sources::{Inputs, Plan},
    tile::{Args, Emit, Proof, Store, full_tile, tile},
};
use crate::{
    round::vector::{DyadicRule, Kind, OnnxRule, Rule, WideRule},
    simd::{LINE, MAX_LANES, Op, Simd, TILE_VECTORS, Vector},
};
use std::{marker::PhantomData, ops::Range};

/// Bytes of inputs of one block of pixels: a part of the second-level cache.
const BLOCK_BYTES: usize = 256 << 10;
/// Most tiles in one block of pixels.
const BLOCK_TILES: usize = 16;
/// The most accumulators of a tile.
const TILE: usize = 14 * TILE_VECTORS * MAX_LANES;

/// A convolution of some output pixels and panels.
pub(super) struct Job<'a> {
    pub(super) geom: &'a ConvGeom,
    pub(super) panels: &'a Panels,
    pub(super) plan: &'a Plan,
    pub(super) ready: &'a Ready,
    pub(super) proofs: Option<&'a Proofs>,
    pub(super) x: &'a [u8],
    pub(super) x_zero: u8,
    pub(super) rows: Range<usize>,
    /// The grids of the inputs of each of `rows`, where they have grids of their own.
    pub(super) grids: Option<&'a [Live]>,
    /// Panels, counted through all groups.
    pub(super) part: Range<usize>,
    /// These outputs are writable and nobody else uses them.
    pub(super) out: OutPtr,
    pub(super) way: Way,
    pub(super) scratch: &'a mut Scratch,
}

/// The cut of some pixels into tiles of at most `size`: full ones, and at the end one or two that are
/// not much smaller.
#[derive(Clone, Copy)]
struct Cut {
    pixels: usize,
    size: usize,
    tiles: usize,
}

impl Cut {
    fn new(pixels: usize, size: usize) -> Cut {
        Cut { pixels, size, tiles: pixels.div_ceil(size) }
    }

    /// The first pixel of tile `i`.
    #[inline(always)]
    fn at(self, i: usize) -> usize {
        let full = i * self.size;
        let rest = self.pixels % self.size;
        if i == self.tiles {
            self.pixels
        } else if i > 0 && i + 1 == self.tiles && rest != 0 && rest < self.size / 2 {
            full - (self.size - rest) / 2
        } else {
            full
        }
    }
}

impl Op for Job<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let bytes = (self.panels.steps * 4 * S::TILE_PIXELS).max(1);
        let most = if self.way.block == 0 { BLOCK_TILES } else { usize::MAX };
        let most = (self.way.block(BLOCK_BYTES) / bytes).clamp(1, most);
        let cut = Cut::new(self.rows.len(), S::TILE_PIXELS);
        let blocks = cut.tiles.div_ceil(most);
        for block in 0..blocks {
            let share = |i: usize| cut.tiles * i / blocks;
            self.block(s, cut, share(block)..share(block + 1));
        }
    }
}

impl<'a> Job<'a> {
    /// The outputs of some tiles.
    #[inline(always)]
    fn block<S: Simd>(&mut self, s: S, cut: Cut, tiles: Range<usize>) {
        let (geom, panels, plan) = (self.geom, self.panels, self.plan);
        let (x, x_zero) = (self.x, self.x_zero);
        let start = self.rows.start;
        let row = |tile: usize| start + cut.at(tile);
        let pixels = row(tiles.start)..row(tiles.end);
        plan.start(geom, pixels.len(), self.scratch);
        self.scratch.acc.resize(self.scratch.acc.len().max(TILE), 0);
        if self.ready.w_zero.is_some() {
            row_sums(geom, x, x_zero, pixels.clone(), &mut self.scratch.row_sums);
        }
        for (group, own) in panels.of_groups(self.part.clone()) {
            self.scratch.table.clear();
            let from = Inputs { geom, x, x_zero, channel: group * panels.c_in };
            for t in tiles.clone() {
                let patch = row(t) - pixels.start;
                plan.find(s.v(), from, row(t)..row(t + 1), patch, self.scratch);
            }
            for panel in own {
                let weights = panels.ready(s.v(), group, panel, &mut self.scratch.room);
                for t in tiles.clone() {
                    let part = Part {
                        first: row(t),
                        pixels: row(t + 1) - row(t),
                        in_block: row(t) - pixels.start,
                        group,
                        panel,
                    };
                    // The next panel's weights, of which each tile fetches a part.
                    let at = panels.steps * LINE * (t - tiles.start);
                    let ahead = if at < panels.panel_pitch() { panels.panel_pitch() + at } else { 0 };
                    self.tile(s, plan.tile_spans(), part, weights, ahead);
                }
            }
        }
    }

    /// One tile and one panel.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, s: S, spans: usize, part: Part, weights: *const u8, ahead: usize) {
        let (panels, ready) = (self.panels, self.ready);
        let grids = self.grids_of(part);
        let sources = &self.scratch.table[part.in_block * spans..][..part.pixels * spans];
        let own: *const u8 = panels.panel(part.group, part.panel).as_ptr().cast();
        let args = Args {
            sources: sources.as_ptr(),
            spans,
            steps: panels.steps / spans,
            weights,
            ahead: own.wrapping_add(ahead),
            start: ready.start(part.column(panels)),
            proof: self.proofs.map_or(Proof::None, |proofs| proofs.of(part.group * panels.panels + part.panel)),
        };
        debug_assert!(panels.width == TILE_VECTORS * S::V::LANES);
        if part.pixels == S::TILE_PIXELS && ready.w_zero.is_none() {
            // SAFETY: `args` is as the tile wants it: the table holds for each span and pixel an address of
            // `steps * 4` readable bytes, the panel `spans * steps` steps of weights. The tile's outputs are
            // writable.
            unsafe {
                match (ready.kind(), self.out) {
                    (Kind::Onnx, OutPtr::U8 { data, pitch }) => {
                        return full_tile(s, args, emit::<OnnxRule>(panels, ready, part, data, pitch));
                    }
                    (Kind::Dyadic, OutPtr::U8 { data, pitch }) => {
                        return full_tile(s, args, emit::<DyadicRule>(panels, ready, part, data, pitch));
                    }
                    (Kind::Wide, OutPtr::U8 { data, pitch }) => {
                        return full_tile(s, args, emit::<WideRule>(panels, ready, part, data, pitch));
                    }
                    _ => {}
                }
            }
        }
        // Written before it is read: to set it to zero for each tile would take as long as some of the steps.
        let acc = &mut self.scratch.acc[..TILE];
        let to = Store { to: acc.as_mut_ptr() };
        // SAFETY: as above; `acc` has room for the largest tile.
        unsafe { tile(s, part.pixels, args, to) };
        if let Some(w_zero) = &ready.w_zero {
            correct_rows(self.geom, panels, w_zero, &self.scratch.row_sums, part, acc);
        }
        // SAFETY: the tile's outputs are writable.
        unsafe { finish(s, panels, ready, (part, grids), acc, self.geom.c_out, self.out) };
    }

    /// The grids of a part's inputs.
    #[inline(always)]
    pub(super) fn grids_of(&self, part: Part) -> Option<&'a [Live]> {
        self.grids.map(|grids| &grids[part.first - self.rows.start..][..part.pixels])
    }
}

/// The place of a panel's codes.
#[inline(always)]
fn emit<'a, R: Rule>(panels: &Panels, ready: &'a Ready, part: Part, data: *mut u8, pitch: usize) -> Emit<'a, R> {
    let (channel, count) = part.channels(panels);
    let to = data.wrapping_add(part.first * pitch + channel);
    Emit { prepared: &ready.prepared, column: part.column(panels), count, to, pitch, rule: PhantomData }
}

#[cfg(test)]
mod tests {
    use super::Cut;

    #[test]
    fn cuts_cover_every_pixel_once() {
        for size in [4, 6, 14] {
            for pixels in 0..100 {
                let cut = Cut::new(pixels, size);
                assert_eq!((cut.at(0), cut.at(cut.tiles)), (0, pixels));
                for i in 0..cut.tiles {
                    let count = cut.at(i + 1) - cut.at(i);
                    assert!((1..=size).contains(&count), "{pixels} {size} {i}");
                }
            }
        }
    }
}
