//! Where each pixel's inputs lie: in the activations themselves, or copied together.
use super::{ConvGeom, Scratch, pack::Panels, tile::Source};
use crate::{
    SLACK,
    simd::{MAX_LANES, Vector},
};
use std::ops::Range;

/// Spans shorter than this many steps are gathered: the loop around them would cost more.
const SHORT_SPAN: usize = 8;
/// Inputs of neighbouring pixels that are this many bytes apart fall into one set of the first-level
/// cache.
const ALIASED: usize = 4096;
/// Bytes copied at once where a span is not longer; half of it where that is enough. What is behind the end of a span is overwritten by the next, or
/// does not matter.
const CHUNK: usize = 32;

/// How a pixel's inputs are found.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Runs of neighbouring bytes of the input that make up a pixel's inputs.
    spans: usize,
    span_bytes: usize,
    /// Bytes of a gathered pixel from one row of the kernel to the next.
    row: usize,
    /// Positions of the kernel in one span.
    span_taps: usize,
    /// Every pixel is copied together, also those whose window lies inside.
    gather: bool,
    /// Output and input pixels are the same.
    pointwise: bool,
    /// Bytes of a gathered pixel.
    patch: usize,
    /// Input channels of a (merged) group.
    c_in: usize,
    /// The first rows and columns of windows that lie inside the input are below these.
    first_inside: (usize, usize),
}

/// What pixels' inputs are read from.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) geom: &'a ConvGeom,
    /// The activations.
    pub(super) x: &'a [u8],
    /// What stands in the padding.
    pub(super) x_zero: u8,
    /// The first input channel.
    pub(super) channel: usize,
}

impl Plan {
    pub(super) fn new(geom: &ConvGeom, panels: &Panels) -> Plan {
        let whole_rows = panels.groups == 1 && geom.dil_w == 1;
        let span_taps = if whole_rows { geom.k_w } else { 1 };
        let spans = geom.k_h * geom.k_w / span_taps;
        let span_bytes = span_taps * panels.c_in;
        let splittable = span_bytes.is_multiple_of(4) && span_bytes / 4 >= SHORT_SPAN;
        let apart = geom.stride_w * geom.c_in;
        let aliased = apart.is_multiple_of(ALIASED) && geom.pixels() > 4;
        let gather = (spans > 1 && !splittable) || aliased || panels.spaced(geom);
        Plan {
            spans,
            span_bytes,
            row: panels.row,
            span_taps,
            gather,
            pointwise: !gather && geom.is_pointwise(),
            patch: (panels.steps * 4).next_multiple_of(64) + 64,
            c_in: panels.c_in,
            first_inside: (
                geom.in_h.saturating_sub((geom.k_h - 1) * geom.dil_h),
                geom.in_w.saturating_sub((geom.k_w - 1) * geom.dil_w),
            ),
        }
    }

    /// The spans that the tile sees.
    pub(super) fn tile_spans(&self) -> usize {
        if self.gather { 1 } else { self.spans }
    }

    /// Readies the memory for a block of `pixels` pixels.
    pub(super) fn start(&self, geom: &ConvGeom, pixels: usize, scratch: &mut Scratch) {
        let room = pixels * self.patch + SLACK;
        if scratch.patches.len() < room {
            scratch.patches.resize(room, 0);
        }
        scratch.offsets.clear();
        scratch.offsets.extend((0..self.spans).map(|span| {
            let tap = span * self.span_taps;
            let (h, w) = (tap / geom.k_w, tap % geom.k_w);
            (h * geom.dil_h * geom.in_w + w * geom.dil_w) * geom.c_in
        }));
        scratch.table.clear();
    }

    /// Appends the addresses of the inputs of `pixels`, span by span. A pixel whose window reaches into the
    /// padding (or every pixel, as the plan says) is first copied together, into the patch number `patch` and
    /// following.
    ///
    /// At each address `span_bytes` bytes are readable, rounded up to a multiple of four.
    #[inline(always)]
    pub(super) fn find<V: Vector>(
        &self,
        v: V,
        from: Inputs,
        pixels: Range<usize>,
        patch: usize,
        scratch: &mut Scratch,
    ) {
        let Inputs { geom, x, channel, .. } = from;
        let count = pixels.len();
        if self.pointwise {
            let x = &x[channel..];
            let sources = pixels.map(|pixel| Source(x[pixel * geom.c_in..].as_ptr()));
            scratch.table.extend(sources);
            return;
        }
        if self.gather {
            let first = self.gather(v, from, pixels, patch, scratch);
            scratch.table.extend((0..count).map(|i| Source(first.wrapping_add(i * self.patch))));
            return;
        }
        let base = scratch.table.len();
        scratch.table.resize(base + count * self.spans, Source(x.as_ptr()));
        let table = &mut scratch.table[base..];
        let mut windows = geom.windows(pixels.start);
        for i in 0..count {
            let pixel = pixels.start + i;
            let window = windows.next_window();
            if (window.top as usize) < self.first_inside.0 && (window.left as usize) < self.first_inside.1 {
                let corner = geom.corner(window) + channel;
                for (span, offset) in scratch.offsets.iter().enumerate() {
                    table[span * count + i] = Source(x[corner + offset..].as_ptr());
                }
                continue;
            }
            let to = &mut scratch.patches[(patch + i) * self.patch..][..self.patch];
            let column = pixel % geom.out_w;
            self.gather_row(v, from, pixel / geom.out_w, column..column + 1, to);
            for span in 0..self.spans {
                table[span * count + i] = Source(to[span * self.span_bytes..].as_ptr());
            }
        }
    }

    /// Whether a tile of pixels can be read where they lie: their inputs are the same distance apart.
    pub(super) fn is_uniform(&self) -> bool {
        self.pointwise
    }

    /// Bytes from one patch to the next, a multiple of 64.
    pub(super) fn patch_bytes(&self) -> usize {
        self.patch
    }

    /// Copies the inputs of `pixels` together, into the patch number `patch` and following. Answers the first, at a multiple of 64 bytes; bytes behind the inputs of a pixel may be anything.
    #[inline(always)]
    pub(super) fn gather<V: Vector>(
        &self,
        v: V,
        from: Inputs,
        pixels: Range<usize>,
        patch: usize,
        scratch: &mut Scratch,
    ) -> *const u8 {
        let geom = from.geom;
        let skip = scratch.patches.as_ptr().align_offset(64) + patch * self.patch;
        let mut patches = &mut scratch.patches[skip..][..pixels.len() * self.patch];
        let first = patches.as_ptr();
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let column = pixel % geom.out_w;
            let count = (geom.out_w - column).min(pixels.end - pixel);
            let (row, rest) = patches.split_at_mut(count * self.patch);
            self.gather_row(v, from, pixel / geom.out_w, column..column + count, row);
            (patches, pixel) = (rest, pixel + count);
        }
        first
    }

    /// Some pixels of one row of the output, `row` counted through all images.
    #[inline(always)]
    fn gather_row<V: Vector>(&self, v: V, from: Inputs, row: usize, columns: Range<usize>, patches: &mut [u8]) {
        let Inputs { geom, x, x_zero, channel } = from;
        let (image, row) = (row / geom.out_h, row % geom.out_h);
        let top = (row * geom.stride_h) as isize - geom.pad_top as isize;
        let (mut h, mut w) = (0, 0);
        let at = |column: usize| (column - columns.start) * self.patch;
        // Copies run over the end of a span; the spans that follow repair that.
        for _ in 0..self.spans {
            let to = &mut patches[h * self.row + w * self.c_in..];
            let in_row = top + (h * geom.dil_h) as isize;
            // The column of the input where the span of output column 0 begins.
            let left = (w * geom.dil_w) as isize - geom.pad_left as isize;
            w += self.span_taps;
            if w == geom.k_w {
                (h, w) = (h + 1, 0);
            }
            if !(0..geom.in_h as isize).contains(&in_row) {
                for column in columns.clone() {
                    to[at(column)..][..self.span_bytes].fill(x_zero);
                }
                continue;
            }
            let in_row = image * geom.in_h + in_row as usize;
            let x = &x[in_row * geom.in_w * geom.c_in + channel..];
            let inside = self.inside(geom, left, &columns);
            for column in (columns.start..inside.start).chain(inside.end..columns.end) {
                let left = left + (column * geom.stride_w) as isize;
                let to = &mut to[at(column)..][..self.span_bytes];
                to.fill(x_zero);
                let (first, end) = ((-left).max(0), (geom.in_w as isize - left).min(self.span_taps as isize));
                if first < end {
                    let from = &x[(left + first) as usize * geom.c_in..][..(end - first) as usize * self.c_in];
                    to[first as usize * self.c_in..][..from.len()].copy_from_slice(from);
                }
            }
            if !inside.is_empty() {
                let first = (left + (inside.start * geom.stride_w) as isize) as usize;
                let last = first + (inside.len() - 1) * geom.stride_w;
                let x = &x[first * geom.c_in..];
                assert!((last - first) * geom.c_in + self.span_bytes + SLACK <= x.len());
                let to = &mut to[at(inside.start)..];
                debug_assert!((inside.len() - 1) * self.patch + self.span_bytes + SLACK <= to.len());
                let run = Run {
                    from: x.as_ptr(),
                    from_step: geom.stride_w * geom.c_in,
                    to: to.as_mut_ptr(),
                    to_step: self.patch,
                    count: inside.len(),
                };
                // SAFETY: whole copies run over the end of a span by less than the slack, which input and patch
                // have, as was checked.
                unsafe { run.copy(v, self.span_bytes) };
            }
        }
    }

    /// Those of the output columns `columns` whose span lies inside, where that of column 0 begins at `left`.
    fn inside(&self, geom: &ConvGeom, left: isize, columns: &Range<usize>) -> Range<usize> {
        let first = (-left).max(0) as usize;
        // Divisions by the usual strides are cheap.
        let divide = |x: usize| match geom.stride_w {
            1 => x,
            2 => x / 2,
            stride => x / stride,
        };
        let start = divide(first + geom.stride_w - 1).clamp(columns.start, columns.end);
        let last = geom.in_w as isize - self.span_taps as isize - left;
        let end = if last < 0 { 0 } else { divide(last as usize) + 1 };
        start..end.clamp(start, columns.end)
    }
}

/// Spans a constant distance apart.
struct Run {
    from: *const u8,
    from_step: usize,
    to: *mut u8,
    to_step: usize,
    count: usize,
}

impl Run {
    /// Copies `bytes` bytes of each.
    ///
    /// # Safety
    /// As many are readable and writable, rounded up to whole vectors or to [`CHUNK`].
    #[inline(always)]
    unsafe fn copy<V: Vector>(self, v: V, bytes: usize) {
        let vector = 4 * V::LANES;
        let vectors = bytes.div_ceil(vector);
        let Run { mut from, from_step, mut to, to_step, count } = self;
        // SAFETY: the caller's.
        unsafe {
            for _ in 0..count {
                if bytes <= CHUNK / 2 {
                    std::ptr::copy_nonoverlapping(from, to, CHUNK / 2);
                } else if bytes <= CHUNK {
                    std::ptr::copy_nonoverlapping(from, to, CHUNK);
                } else {
                    for i in 0..vectors {
                        v.store_bytes(to.add(i * vector), v.load_bytes(from.add(i * vector)));
                    }
                }
                (from, to) = (from.wrapping_add(from_step), to.wrapping_add(to_step));
            }
        }
    }
}

/// A copy fits into the slack.
const _: () = assert!(CHUNK <= SLACK && 4 * MAX_LANES <= SLACK);
