//! Inputs copied with their padding, so that neighbouring windows lie the same distance apart, also from the end
//! of one row to the begin of the next.
use super::Grid;
use crate::conv::{ConvGeom, Scratch, pack::Panels};
use std::ops::Range;

/// The cost of copying a pixel's whole window together, for each 64 bytes, in products of 16 channels.
const GATHER: f64 = 1.5;
/// Bytes of a panel up to which it stays in the first-level cache.
const PANEL_BYTES: usize = 24 << 10;

/// Rows of the input with padding before them. The padding of a row serves also as that behind the row above.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Padded {
    /// Pixels of a row.
    row: usize,
}

impl Padded {
    /// Where windows can be read from such rows, and where that costs less than copying them together.
    pub(in super::super) fn new(geom: &ConvGeom, panels: &Panels) -> Option<Padded> {
        let span = geom.k_w * geom.c_in;
        let fits = panels.groups == 1
            && (geom.stride_h, geom.stride_w, geom.dil_w) == (1, 1, 1)
            && geom.k_h > 1
            && span > 0
            && span.is_multiple_of(64)
            && geom.pixels() > 0;
        if !fits {
            return None;
        }
        let right = (geom.out_w + geom.k_w - 1).saturating_sub(geom.pad_left + geom.in_w);
        let row = (geom.in_w + geom.pad_left.max(right)).max(geom.out_w);
        let per_image = (geom.out_h - 1) * row + geom.out_w;
        let products = panels.panels as f64 * 2.0;
        let padded = (geom.batch * per_image.div_ceil(16)) as f64 * products;
        let pixels = geom.pixels() as f64 / 16.0;
        let streams = if panels.panel_bytes() > PANEL_BYTES { 1.1 } else { 1.0 };
        (padded < pixels * (products * streams + GATHER)).then_some(Padded { row })
    }

    pub(super) fn grid(&self, geom: &ConvGeom) -> Grid {
        Grid { row: self.row, real: geom.out_w }
    }

    /// Output rows whose inputs fill `bytes` bytes, at least one.
    pub(super) fn rows_of(&self, geom: &ConvGeom, bytes: usize) -> usize {
        (bytes / (self.row * geom.c_in)).saturating_sub((geom.k_h - 1) * geom.dil_h).max(1)
    }

    /// Bytes from the inputs of one row of the kernel to the next.
    pub(super) fn span_pitch(&self, geom: &ConvGeom) -> usize {
        geom.dil_h * self.row * geom.c_in
    }

    /// Copies what the output rows `rows` (counted through all images, all of one image) need. Answers the place of
    /// the window of the first of them, at a multiple of 64 bytes. `beyond` positions behind the last may be read.
    pub(super) fn fill(
        &self,
        geom: &ConvGeom,
        x: &[u8],
        x_zero: u8,
        rows: Range<usize>,
        beyond: usize,
        scratch: &mut Scratch,
    ) -> *const u8 {
        let (image, first) = (rows.start / geom.out_h, rows.start % geom.out_h);
        let in_rows = rows.len() + (geom.k_h - 1) * geom.dil_h;
        let room = (in_rows * self.row + geom.k_w + beyond) * geom.c_in + 64;
        if scratch.patches.len() < room {
            scratch.patches.resize(room, 0);
        }
        let skip = scratch.patches.as_ptr().align_offset(64);
        let all = &mut scratch.patches[skip..];
        let (left, bytes) = (geom.pad_left * geom.c_in, geom.in_w * geom.c_in);
        for (i, to) in all.chunks_exact_mut(self.row * geom.c_in).take(in_rows).enumerate() {
            let Some(in_row) = (first + i).checked_sub(geom.pad_top).filter(|&row| row < geom.in_h) else {
                to.fill(x_zero);
                continue;
            };
            let from = &x[(image * geom.in_h + in_row) * bytes..][..bytes];
            let end = (left + bytes).min(to.len());
            to[..left].fill(x_zero);
            to[left..end].copy_from_slice(&from[..end - left]);
            to[end..].fill(x_zero);
        }
        all[in_rows * self.row * geom.c_in..][..geom.k_w * geom.c_in].fill(x_zero);
        all.as_ptr()
    }
}
