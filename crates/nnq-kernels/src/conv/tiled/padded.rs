//! Inputs copied with their padding, so that neighbouring windows lie the same distance apart, also from the end
//! of one row to the begin of the next.
use super::{Grid, TILE_BYTES};
use crate::conv::{ConvGeom, Scratch, pack::Panels};
use std::ops::Range;

/// The cost of copying a pixel's whole window together, in products of 16 channels: for each 64 bytes, and for each
/// row of the window.
const GATHER: f64 = 1.5;
const GATHER_ROW: f64 = 2.0;
/// Bytes of a panel up to which it stays in the first-level cache.
const PANEL_BYTES: usize = 24 << 10;

/// Rows of the input with padding before them. The padding of a row serves also as that behind the row above.
///
/// With a stride the rows are dealt to as many planes: within a plane windows that lie below each other in the output
/// are one row apart.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Padded {
    /// Positions of a row. They are a stride apart.
    row: usize,
}

/// Where the runs of inputs of a position begin, one for each row of the kernel.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    pub(super) count: usize,
    /// Rows of the input from one run to the next.
    step: usize,
    planes: usize,
    plane_bytes: usize,
    row_bytes: usize,
}

impl Runs {
    /// A single run.
    pub(super) const ONE: Runs = Runs { count: 1, step: 0, planes: 1, plane_bytes: 0, row_bytes: 0 };

    /// Bytes from the first run to run `run`.
    #[inline(always)]
    pub(super) fn offset(self, run: usize) -> usize {
        self.row(run * self.step)
    }

    /// Bytes from the first row of the input to row `row`.
    #[inline(always)]
    fn row(self, row: usize) -> usize {
        match self.planes {
            1 => row * self.row_bytes,
            planes => row % planes * self.plane_bytes + row / planes * self.row_bytes,
        }
    }
}

impl Padded {
    /// Where windows can be read from such rows, and where that costs less than copying them together.
    pub(in super::super) fn new(geom: &ConvGeom, panels: &Panels) -> Option<Padded> {
        let fits = panels.groups == 1
            && geom.dil_w == 1
            && geom.k_h > 1
            && panels.row > 0
            && panels.row.is_multiple_of(TILE_BYTES)
            && geom.pixels() > 0;
        if !fits {
            return None;
        }
        let reach = (geom.out_w - 1) * geom.stride_w + geom.k_w;
        let right = reach.saturating_sub(geom.pad_left + geom.in_w);
        let row = (geom.in_w + geom.pad_left.max(right)).div_ceil(geom.stride_w).max(geom.out_w);
        let per_image = (geom.out_h - 1) * row + geom.out_w;
        let steps = (panels.row / TILE_BYTES * geom.k_h) as f64;
        let products = panels.panels as f64 * 2.0 * steps;
        let padded = (geom.batch * per_image.div_ceil(16)) as f64 * products;
        let pixels = geom.pixels() as f64 / 16.0;
        let streams = if panels.panel_bytes() > PANEL_BYTES { 1.1 } else { 1.0 };
        let gather = GATHER * steps + GATHER_ROW * geom.k_h as f64;
        (padded < pixels * (products * streams + gather)).then_some(Padded { row })
    }

    pub(super) fn grid(&self, geom: &ConvGeom) -> Grid {
        Grid { row: self.row, real: geom.out_w }
    }

    /// Bytes of a row.
    fn row_bytes(&self, geom: &ConvGeom) -> usize {
        self.row * geom.stride_w * geom.c_in
    }

    /// Output rows whose inputs fill `bytes` bytes, at least one.
    pub(super) fn rows_of(&self, geom: &ConvGeom, bytes: usize) -> usize {
        let in_rows = (bytes / self.row_bytes(geom)).saturating_sub((geom.k_h - 1) * geom.dil_h);
        (in_rows / geom.stride_h).max(1)
    }

    /// Copies what the output rows `rows` (counted through all images, all of one image) need. Answers the place of
    /// the window of the first of them, at a multiple of 64 bytes, and where its rows lie. `beyond` positions behind
    /// the last may be read.
    pub(super) fn fill(
        &self,
        geom: &ConvGeom,
        x: &[u8],
        x_zero: u8,
        rows: Range<usize>,
        beyond: usize,
        scratch: &mut Scratch,
    ) -> (*const u8, Runs) {
        let (image, first) = (rows.start / geom.out_h, rows.start % geom.out_h * geom.stride_h);
        let in_rows = (rows.len() - 1) * geom.stride_h + (geom.k_h - 1) * geom.dil_h + 1;
        let row_bytes = self.row_bytes(geom);
        // Behind the last row of a plane there is padding too.
        let behind = geom.k_w * geom.c_in;
        let plane_bytes = in_rows.div_ceil(geom.stride_h) * row_bytes + behind;
        let planes = geom.stride_h;
        let runs = Runs { count: geom.k_h, step: geom.dil_h, planes, plane_bytes, row_bytes };
        // Whole steps may be read.
        let room = planes * plane_bytes + beyond * geom.stride_w * geom.c_in + behind + 2 * TILE_BYTES;
        if scratch.patches.len() < room {
            scratch.patches.resize(room, 0);
        }
        let skip = scratch.patches.as_ptr().align_offset(64);
        let all = &mut scratch.patches[skip..];
        let (left, bytes) = (geom.pad_left * geom.c_in, geom.in_w * geom.c_in);
        for i in 0..in_rows {
            let to = &mut all[runs.row(i)..][..row_bytes];
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
        for plane in 0..planes.min(in_rows) {
            let rows = (in_rows - plane).div_ceil(planes);
            all[plane * plane_bytes + rows * row_bytes..][..behind].fill(x_zero);
        }
        (all.as_ptr(), runs)
    }
}
