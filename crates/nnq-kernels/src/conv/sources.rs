//! Where each pixel's inputs lie: in the activations themselves, or copied together.
use super::{ConvGeom, Scratch, geometry::Window, pack::Panels, tile::Source};
use crate::SLACK;
use std::ops::Range;

/// Spans shorter than this many steps are gathered: the loop around them would cost more.
const SHORT_SPAN: usize = 8;
/// Inputs of neighbouring pixels that are this many bytes apart fall into one set of the first-level
/// cache.
const ALIASED: usize = 4096;
/// Bytes copied at once: what is behind the end of a span is overwritten by the next, or does not matter.
const CHUNK: usize = 32;

/// How a pixel's inputs are found.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Runs of neighbouring bytes of the input that make up a pixel's inputs.
    spans: usize,
    span_bytes: usize,
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
    inside: (usize, usize),
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
        let gather = (spans > 1 && !splittable) || aliased;
        Plan {
            spans,
            span_bytes,
            span_taps,
            gather,
            pointwise: !gather && geom.is_pointwise(),
            patch: (panels.steps * 4).next_multiple_of(64) + 64,
            c_in: panels.c_in,
            inside: (
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

    /// Appends the addresses of the inputs of `pixels`, span by span, from input channel `channel` on. A
    /// pixel whose window reaches into the padding (or every pixel, as the plan says) is first copied
    /// together, into the patch number `patch` and following.
    ///
    /// At each address `span_bytes` bytes are readable, rounded up to a multiple of four.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn find(
        &self,
        geom: &ConvGeom,
        x: &[u8],
        x_zero: u8,
        channel: usize,
        pixels: Range<usize>,
        patch: usize,
        scratch: &mut Scratch,
    ) {
        let count = pixels.len();
        if self.pointwise {
            let x = &x[channel..];
            let sources = pixels.map(|pixel| Source(x[pixel * geom.c_in..].as_ptr()));
            scratch.table.extend(sources);
            return;
        }
        let base = scratch.table.len();
        let spans = self.tile_spans();
        scratch.table.resize(base + count * spans, Source(x.as_ptr()));
        let table = &mut scratch.table[base..];
        let mut windows = geom.windows(pixels.start);
        for i in 0..count {
            let window = windows.next_window();
            let inside = (window.top as usize) < self.inside.0 && (window.left as usize) < self.inside.1;
            if inside && !self.gather {
                let corner = geom.corner(window) + channel;
                for (span, offset) in scratch.offsets.iter().enumerate() {
                    table[span * count + i] = Source(x[corner + offset..].as_ptr());
                }
                continue;
            }
            let to = &mut scratch.patches[(patch + i) * self.patch..][..self.patch];
            self.copy(geom, x, x_zero, channel, window, &scratch.offsets, to);
            for span in 0..spans {
                table[span * count + i] = Source(to[span * self.span_bytes..].as_ptr());
            }
        }
    }

    /// Copies the inputs of the pixel with this window together. `to` holds a patch.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn copy(
        &self,
        geom: &ConvGeom,
        x: &[u8],
        x_zero: u8,
        channel: usize,
        window: Window,
        offsets: &[usize],
        to: &mut [u8],
    ) {
        let inside = (window.top as usize) < self.inside.0 && (window.left as usize) < self.inside.1;
        if !inside {
            return self.gather_at_border(geom, x, x_zero, channel, window, to);
        }
        let corner = geom.corner(window) + channel;
        debug_assert!(corner + offsets[self.spans - 1] + self.span_bytes + SLACK <= x.len());
        let chunks = self.span_bytes.div_ceil(CHUNK);
        let mut to = to.as_mut_ptr();
        for offset in offsets {
            // SAFETY: the window lies inside, so that each of its spans does; whole chunks run over
            // the end of a span by less than the slack, which input and patch have.
            unsafe {
                let from = x.as_ptr().add(corner + offset);
                for chunk in 0..chunks {
                    let at = chunk * CHUNK;
                    std::ptr::copy_nonoverlapping(from.add(at), to.add(at), CHUNK);
                }
                to = to.add(self.span_bytes);
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

    /// Copies the inputs of `pixels` together, from input channel `channel` on, one patch after the other.
    /// Answers the first patch, at a multiple of 64 bytes; bytes behind the inputs of a pixel may be anything.
    #[inline(always)]
    pub(super) fn gather(
        &self,
        geom: &ConvGeom,
        x: &[u8],
        x_zero: u8,
        channel: usize,
        pixels: Range<usize>,
        scratch: &mut Scratch,
    ) -> *const u8 {
        let skip = scratch.patches.as_ptr().align_offset(64);
        let patches = &mut scratch.patches[skip..];
        let mut windows = geom.windows(pixels.start);
        for to in patches.chunks_exact_mut(self.patch).take(pixels.len()) {
            self.copy(geom, x, x_zero, channel, windows.next_window(), &scratch.offsets, to);
        }
        patches.as_ptr()
    }

    /// Copies the inputs of one pixel together, with `x_zero` in the padding. Bytes behind the last input
    /// are left as they are: they meet weights of 0.
    fn gather_at_border(&self, geom: &ConvGeom, x: &[u8], x_zero: u8, channel: usize, window: Window, to: &mut [u8]) {
        for span in 0..self.spans {
            let tap = span * self.span_taps;
            let (h, w) = (tap / geom.k_w, tap % geom.k_w);
            // The positions of the span that lie inside are neighbours.
            let (mut first, mut end) = (self.span_taps, 0);
            for t in 0..self.span_taps {
                if geom.offset(window, h, w + t).is_some() {
                    first = first.min(t);
                    end = t + 1;
                }
            }
            let start = span * self.span_bytes;
            if first >= end {
                to[start..start + self.span_bytes].fill(x_zero);
                continue;
            }
            to[start..start + first * self.c_in].fill(x_zero);
            let at = geom.offset(window, h, w + first).expect("inside") + channel;
            let bytes = (end - first) * self.c_in;
            to[start + first * self.c_in..][..bytes].copy_from_slice(&x[at..at + bytes]);
            to[start + end * self.c_in..start + self.span_bytes].fill(x_zero);
        }
    }
}

/// A chunk fits into the slack.
const _: () = assert!(CHUNK <= SLACK);
