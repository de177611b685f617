//! The loops around the tile: blocks of pixels that stay in the cache, and within them every panel of
//! weights against every tile.
use super::{
    ConvGeom, Epilogue, Out, Scratch,
    finish::{Part, correct_rows, finish, row_sums},
    pack::Panels,
    sources::Plan,
    tile::{Args, Emit, Store, full_tile, tile},
};
use crate::{
    round::vector::{DyadicRule, Kind, OnnxRule, Rule},
    simd::{MAX_LANES, Op, Simd, TILE_VECTORS, Vector},
};
use std::{marker::PhantomData, ops::Range};

/// Bytes of inputs of one block of pixels: a part of the second-level cache.
const BLOCK_BYTES: usize = 256 << 10;
/// Most tiles in one block of pixels.
const BLOCK_TILES: usize = 16;
/// The most accumulators of a tile.
const TILE: usize = 14 * TILE_VECTORS * MAX_LANES;

/// A convolution of some output pixels.
pub(super) struct Job<'a, 'o> {
    pub(super) geom: &'a ConvGeom,
    pub(super) panels: &'a Panels,
    pub(super) x: &'a [u8],
    pub(super) x_zero: u8,
    pub(super) rows: Range<usize>,
    pub(super) epi: &'a Epilogue<'a>,
    pub(super) out: Out<'o>,
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

impl Op for Job<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        self.prepare();
        let plan = Plan::new(self.geom, self.panels);
        let bytes = (self.panels.steps * 4 * S::TILE_PIXELS).max(1);
        let most = (BLOCK_BYTES / bytes).clamp(1, BLOCK_TILES);
        let cut = Cut::new(self.rows.len(), S::TILE_PIXELS);
        let blocks = cut.tiles.div_ceil(most);
        for block in 0..blocks {
            let share = |i: usize| cut.tiles * i / blocks;
            self.block(s, &plan, cut, share(block)..share(block + 1));
        }
    }
}

impl Job<'_, '_> {
    /// Lays the epilogue out for vectors.
    fn prepare(&mut self) {
        let (panels, scratch) = (self.panels, &mut *self.scratch);
        let columns = || panels.columns();
        self.epi.prepare(&mut scratch.prepared, &mut scratch.scale, columns());
        scratch.correction.clear();
        scratch.correction.extend(columns().map(|channel| {
            channel.map_or(0, |c| {
                let shift = panels.sums[c].wrapping_mul(self.x_zero.into());
                self.epi.bias[c].wrapping_sub(shift)
            })
        }));
    }

    /// The outputs of some tiles.
    #[inline(always)]
    fn block<S: Simd>(&mut self, s: S, plan: &Plan, cut: Cut, tiles: Range<usize>) {
        let (geom, panels) = (self.geom, self.panels);
        let (x, x_zero) = (self.x, self.x_zero);
        let first = cut.at(tiles.start);
        let pixels = first..cut.at(tiles.end);
        let start = self.rows.start;
        let row = |pixel: usize| start + pixel;
        plan.start(geom, pixels.len(), self.scratch);
        if self.epi.w_zero.is_some() {
            let rows = row(pixels.start)..row(pixels.end);
            row_sums(geom, x, x_zero, rows, &mut self.scratch.row_sums);
        }
        for group in 0..panels.groups {
            self.scratch.table.clear();
            for t in tiles.clone() {
                let (from, to) = (cut.at(t), cut.at(t + 1));
                let channel = group * panels.c_in;
                let scratch = &mut *self.scratch;
                plan.find(geom, x, x_zero, channel, row(from)..row(to), from - first, scratch);
            }
            for panel in 0..panels.panels {
                for t in tiles.clone() {
                    let part = Part {
                        first: cut.at(t),
                        pixels: cut.at(t + 1) - cut.at(t),
                        in_block: cut.at(t) - first,
                        group,
                        panel,
                    };
                    self.tile(s, plan.tile_spans(), part);
                }
            }
        }
    }

    /// One tile and one panel.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, s: S, spans: usize, part: Part) {
        let panels = self.panels;
        let scratch = &*self.scratch;
        let sources = &scratch.table[part.in_block * spans..][..part.pixels * spans];
        let args = Args {
            sources: sources.as_ptr(),
            spans,
            steps: panels.steps / spans,
            weights: panels.panel(part.group, part.panel).as_ptr().cast(),
            start: scratch.correction[part.column(panels)..][..panels.width].as_ptr(),
        };
        debug_assert!(panels.width == TILE_VECTORS * S::V::LANES);
        let whole = part.pixels == S::TILE_PIXELS && part.channels(panels).1 == panels.width;
        if whole && self.epi.w_zero.is_none() {
            let kind = scratch.prepared.kind();
            // SAFETY: `args` is as the tile wants it: the table holds for each span and pixel an address of
            // `steps * 4` readable bytes, the panel `spans * steps` steps of weights.
            unsafe {
                match (kind, &mut self.out) {
                    (Kind::Onnx, Out::U8 { data, pitch }) => {
                        let to = emit::<OnnxRule>(panels, scratch, part, data, *pitch);
                        return full_tile(s, args, to);
                    }
                    (Kind::Dyadic, Out::U8 { data, pitch }) => {
                        let to = emit::<DyadicRule>(panels, scratch, part, data, *pitch);
                        return full_tile(s, args, to);
                    }
                    _ => {}
                }
            }
        }
        let mut acc = [0i32; TILE];
        let to = Store { to: acc.as_mut_ptr() };
        // SAFETY: as above; `acc` has room for the largest tile.
        unsafe { tile(s, part.pixels, args, to) };
        if self.epi.w_zero.is_some() {
            let sums = &scratch.row_sums;
            correct_rows(self.geom, panels, self.epi, sums, part, &mut acc);
        }
        let c_out = self.geom.c_out;
        finish(s, panels, self.epi, scratch, part, &acc, c_out, &mut self.out);
    }
}

/// The place of a whole panel's codes.
#[inline(always)]
fn emit<'a, R: Rule>(panels: &Panels, scratch: &'a Scratch, part: Part, data: &mut [u8], pitch: usize) -> Emit<'a, R> {
    let (channel, width) = part.channels(panels);
    let bytes = (part.pixels - 1) * pitch + width;
    let to = &mut data[part.first * pitch + channel..][..bytes];
    Emit { prepared: &scratch.prepared, column: part.column(panels), to: to.as_mut_ptr(), pitch, rule: PhantomData }
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
