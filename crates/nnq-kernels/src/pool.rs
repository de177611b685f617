//! Pooling of NHWC codes. See `docs/numerics.md`, section 7.
mod real;
mod vector;

use crate::{
    Isa, SLACK,
    isa::dispatch,
    round::{ScalarRequant, vector::Prepared},
};
pub(crate) use real::add_pixels;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use vector::{Avg, Max};

/// The sizes of a pooling; every field counts elements. What rounding up the output's size means is
/// already in `out_h` and `out_w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PoolGeom {
    pub batch: usize,
    pub in_h: usize,
    pub in_w: usize,
    pub c: usize,
    pub out_h: usize,
    pub out_w: usize,
    pub k_h: usize,
    pub k_w: usize,
    pub stride_h: usize,
    pub stride_w: usize,
    pub dil_h: usize,
    pub dil_w: usize,
    pub pad_top: usize,
    pub pad_left: usize,
    /// Rows of padding below; they only matter where padding counts in an average.
    pub pad_bottom: usize,
    /// Columns of padding on the right; they only matter where padding counts in an average.
    pub pad_right: usize,
}

impl PoolGeom {
    /// Output pixels: `batch * out_h * out_w`.
    pub fn pixels(&self) -> usize {
        self.batch * self.out_h * self.out_w
    }

    /// How many positions windows count, each number but 0 once: those inside the input, or, with `include_pad`, inside its
    /// declared padding too.
    pub fn counts(&self, include_pad: bool) -> Vec<usize> {
        let of = |side: Side| if include_pad { side.padded } else { side.inside };
        let distinct = |mut all: Vec<usize>| {
            all.retain(|&n| n > 0);
            all.sort_unstable();
            all.dedup();
            all
        };
        let rows = distinct((0..self.out_h).map(|row| of(self.side_h(row))).collect());
        let columns = distinct((0..self.out_w).map(|column| of(self.side_w(column))).collect());
        distinct(rows.iter().flat_map(|&h| columns.iter().map(move |&w| h * w)).collect())
    }

    fn check(&self, x_len: usize, rows: &Range<usize>) {
        let need = self.batch * self.in_h * self.in_w * self.c + SLACK;
        assert!(x_len >= need, "the activations hold {x_len} bytes; {need} are needed, {SLACK} of slack included");
        assert!(rows.start <= rows.end && rows.end <= self.pixels(), "pixels {rows:?} of {}", self.pixels());
        assert!(
            self.k_h > 0 && self.k_w > 0 && self.stride_h > 0 && self.stride_w > 0,
            "kernel sizes and strides are at least 1: {self:?}"
        );
        assert!(self.dil_h > 0 && self.dil_w > 0, "dilations are at least 1: {self:?}");
    }

    fn check_out(&self, rows: &Range<usize>, out_len: usize, pitch: usize) {
        assert!(pitch >= self.c, "a pitch of {pitch} for {} channels", self.c);
        let need = rows.len().saturating_sub(1) * pitch + self.c;
        assert!(rows.is_empty() || out_len >= need, "the output holds {out_len} bytes, {need} are needed");
    }

    /// The windows of output pixel `pixel` and following.
    #[inline(always)]
    fn windows(&self, pixel: usize) -> Windows<'_> {
        let (row, column) = (pixel / self.out_w, pixel % self.out_w);
        let (image, row) = (row / self.out_h, row % self.out_h);
        // Of the columns in between, the whole window lies inside the input.
        let first = self.pad_left.div_ceil(self.stride_w);
        let reach = (self.in_w + self.pad_left).checked_sub((self.k_w - 1) * self.dil_w + 1);
        let inside = first..reach.map_or(0, |reach| reach / self.stride_w + 1);
        Windows { geom: self, image, row, column, h: self.side_h(row), inside }
    }

    fn side_h(&self, row: usize) -> Side {
        Side::new(row * self.stride_h, self.k_h, self.dil_h, self.pad_top, self.in_h, self.pad_bottom)
    }

    fn side_w(&self, column: usize) -> Side {
        Side::new(column * self.stride_w, self.k_w, self.dil_w, self.pad_left, self.in_w, self.pad_right)
    }
}

/// Walks through output pixels, without dividing where windows lie wholly inside the input.
struct Windows<'a> {
    geom: &'a PoolGeom,
    image: usize,
    row: usize,
    column: usize,
    h: Side,
    inside: Range<usize>,
}

impl Windows<'_> {
    /// The next pixel's window.
    #[inline(always)]
    fn next_window(&mut self) -> Window {
        let geom = self.geom;
        let w = if self.column >= self.inside.start && self.column < self.inside.end {
            Side { start: self.column * geom.stride_w - geom.pad_left, inside: geom.k_w, padded: geom.k_w }
        } else {
            geom.side_w(self.column)
        };
        let window = Window { start: (self.image * geom.in_h + self.h.start) * geom.in_w + w.start, h: self.h, w };
        self.column += 1;
        if self.column == geom.out_w {
            self.column = 0;
            self.row += 1;
            if self.row == geom.out_h {
                (self.row, self.image) = (0, self.image + 1);
            }
            self.h = geom.side_h(self.row);
        }
        window
    }
}

/// One dimension of a window.
#[derive(Clone, Copy)]
struct Side {
    /// The first position inside the input.
    start: usize,
    /// Positions inside the input.
    inside: usize,
    /// Positions inside the input or its declared padding.
    padded: usize,
}

impl Side {
    /// `from` is the window's start, counted from the start of the padding.
    fn new(from: usize, kernel: usize, dilation: usize, before: usize, size: usize, after: usize) -> Side {
        // Positions below a limit, both counted from the start of the padding.
        let below = |limit: usize| limit.saturating_sub(from).div_ceil(dilation).min(kernel);
        let skipped = below(before);
        Side {
            start: (from + skipped * dilation).saturating_sub(before),
            inside: below(before + size) - skipped,
            padded: below(before + size + after),
        }
    }
}

/// The part of a window that lies inside the input.
#[derive(Clone, Copy)]
struct Window {
    /// The first input pixel, flattened.
    start: usize,
    h: Side,
    w: Side,
}

/// The largest code of each window, for the output pixels `rows`; padding never wins, and a window that
/// holds nothing else gives 0. `pitch` is the number of bytes from one output pixel to the next.
///
/// # Panics
/// When a slice is too short, or this machine does not have `isa`.
pub fn max_pool(isa: Isa, geom: &PoolGeom, x: &[u8], rows: Range<usize>, out: &mut [u8], pitch: usize) {
    geom.check_out(&rows, out.len(), pitch);
    let out = out.as_mut_ptr().wrapping_sub(rows.start * pitch);
    // SAFETY: the slice holds every output of `rows`, as was checked.
    unsafe { max_pool_part(isa, geom, x, rows, out, pitch) };
}

/// The same to an address, that of output pixel 0.
///
/// # Panics
/// When `x` is too short, `rows` reaches too far, or this machine does not have `isa`.
///
/// # Safety
/// `c` bytes are writable at `out + pixel * pitch` for every pixel of `rows`, and nobody else uses them.
pub(crate) unsafe fn max_pool_part(
    isa: Isa,
    geom: &PoolGeom,
    x: &[u8],
    rows: Range<usize>,
    out: *mut u8,
    pitch: usize,
) {
    geom.check(x.len(), &rows);
    if rows.is_empty() || geom.c == 0 {
        return;
    }
    if dispatch(isa, Max { geom, x, rows: rows.clone(), out, pitch }).is_some() {
        return;
    }
    let mut windows = geom.windows(rows.start);
    for row in rows {
        let window = windows.next_window();
        // SAFETY: the caller's.
        let y = unsafe { std::slice::from_raw_parts_mut(out.wrapping_add(row * pitch), geom.c) };
        y.fill(0);
        for pixel in positions(geom, window) {
            for (y, &x) in y.iter_mut().zip(&x[pixel * geom.c..]) {
                *y = x.max(*y);
            }
        }
    }
}

/// How averages become codes.
#[derive(Clone, Copy, Debug)]
pub struct AvgSpec<'a> {
    /// Zero point of the input.
    pub x_zero: u8,
    /// Whether positions in the padding count.
    pub count_include_pad: bool,
    /// For each number of counted positions that occurs, the requantization of the sum of the
    /// differences to the zero point; it includes the division.
    pub requants: &'a [(usize, ScalarRequant)],
    /// Zero point of the output.
    pub zero: u8,
    /// Smallest output code.
    pub lo: u8,
    /// Largest output code.
    pub hi: u8,
}

/// A mean over windows with everything prepared.
#[derive(Clone, Debug)]
pub struct BoundAvg {
    isa: Isa,
    geom: PoolGeom,
    x_zero: u8,
    count_include_pad: bool,
    /// For each number of counted positions: its requantization, and the same laid out for vectors.
    requants: Vec<(usize, ScalarRequant, Prepared)>,
    zero: u8,
    lo: u8,
    hi: u8,
}

impl BoundAvg {
    /// Prepares everything that does not depend on the inputs.
    ///
    /// # Panics
    /// When `spec` has no requantization.
    pub fn new(isa: Isa, geom: &PoolGeom, spec: &AvgSpec) -> BoundAvg {
        assert!(!spec.requants.is_empty(), "no requantization is given");
        let &AvgSpec { x_zero, count_include_pad, zero, lo, hi, .. } = spec;
        let prepared = spec.requants.iter().map(|&(count, by)| (count, by, Prepared::splat(by, zero, lo, hi)));
        BoundAvg { isa, geom: *geom, x_zero, count_include_pad, requants: prepared.collect(), zero, lo, hi }
    }

    /// The mean of each window, for the output pixels `rows`.
    ///
    /// # Panics
    /// When a slice is too short, a count lacks its requantization, or this machine does not have the
    /// instruction set.
    pub fn run(&self, x: &[u8], rows: Range<usize>, out: &mut [u8], pitch: usize) {
        self.geom.check_out(&rows, out.len(), pitch);
        let out = out.as_mut_ptr().wrapping_sub(rows.start * pitch);
        // SAFETY: the slice holds every output of `rows`, as was checked.
        unsafe { self.run_part(x, rows, out, pitch) };
    }

    /// The same to an address, that of output pixel 0.
    ///
    /// # Panics
    /// As [`BoundAvg::run`].
    ///
    /// # Safety
    /// `c` bytes are writable at `out + pixel * pitch` for every pixel of `rows`, and nobody else uses them.
    pub(crate) unsafe fn run_part(&self, x: &[u8], rows: Range<usize>, out: *mut u8, pitch: usize) {
        let geom = &self.geom;
        geom.check(x.len(), &rows);
        if rows.is_empty() || geom.c == 0 {
            return;
        }
        if dispatch(self.isa, Avg { spec: self, x, rows: rows.clone(), out, pitch }).is_some() {
            return;
        }
        let mut windows = geom.windows(rows.start);
        for row in rows {
            let window = windows.next_window();
            let (_, by, _) = self.requants[self.requant(self.count(window))];
            for channel in 0..geom.c {
                let mut acc = 0;
                for pixel in positions(geom, window) {
                    acc += i32::from(x[pixel * geom.c + channel]) - i32::from(self.x_zero);
                }
                let code = by.apply(acc, self.zero.into(), self.lo.into(), self.hi.into());
                // SAFETY: the caller's.
                unsafe { *out.wrapping_add(row * pitch + channel) = code as u8 };
            }
        }
    }

    fn requant(&self, count: usize) -> usize {
        let found = self.requants.iter().position(|(of, ..)| *of == count);
        // A window of nothing sums to 0, which every requantization keeps.
        let found = if count == 0 { found.or(Some(0)) } else { found };
        found.unwrap_or_else(|| panic!("no requantization for windows of {count} positions"))
    }

    fn count(&self, window: Window) -> usize {
        match self.count_include_pad {
            true => window.h.padded * window.w.padded,
            false => window.h.inside * window.w.inside,
        }
    }
}

/// The input pixels of a window.
#[inline(always)]
fn positions(geom: &PoolGeom, window: Window) -> impl Iterator<Item = usize> {
    let (down, right) = (geom.dil_h * geom.in_w, geom.dil_w);
    (0..window.h.inside).flat_map(move |h| (0..window.w.inside).map(move |w| window.start + h * down + w * right))
}

#[cfg(test)]
mod tests;
