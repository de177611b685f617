//! Pooling of NHWC codes. See `docs/numerics.md`, section 7.
use crate::{
    Isa, SLACK,
    isa::dispatch,
    round::{
        ScalarRequant,
        vector::{DyadicVector, DyadicWide, Kind, OnnxVector, Prepared, VectorRequant},
    },
    simd::{MAX_LANES, Op, Simd, Vector},
};
use std::ops::Range;

/// The sizes of a pooling; every field counts elements. What rounding up the output's size means is
/// already in `out_h` and `out_w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    fn check(&self, x_len: usize, rows: &Range<usize>, out_len: usize, pitch: usize) {
        let need = self.batch * self.in_h * self.in_w * self.c + SLACK;
        assert!(x_len >= need, "the activations hold {x_len} bytes; {need} are needed, {SLACK} of slack included");
        assert!(rows.start <= rows.end && rows.end <= self.pixels(), "pixels {rows:?} of {}", self.pixels());
        assert!(
            self.k_h > 0 && self.k_w > 0 && self.stride_h > 0 && self.stride_w > 0,
            "kernel sizes and strides are at least 1: {self:?}"
        );
        assert!(self.dil_h > 0 && self.dil_w > 0, "dilations are at least 1: {self:?}");
        assert!(pitch >= self.c, "a pitch of {pitch} for {} channels", self.c);
        let need = rows.len().saturating_sub(1) * pitch + self.c;
        assert!(rows.is_empty() || out_len >= need, "the output holds {out_len} bytes, {need} are needed");
    }

    /// The first input pixel of the window's valid part and its extent; and the number of positions
    /// that lie in the padding as declared.
    fn window(&self, pixel: usize) -> Window {
        let (row, column) = (pixel / self.out_w, pixel % self.out_w);
        let (image, row) = (row / self.out_h, row % self.out_h);
        let h = Side::new(row * self.stride_h, self.k_h, self.dil_h, self.pad_top, self.in_h, self.pad_bottom);
        let w = Side::new(column * self.stride_w, self.k_w, self.dil_w, self.pad_left, self.in_w, self.pad_right);
        Window { start: (image * self.in_h + h.start) * self.in_w + w.start, h, w }
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
    geom.check(x.len(), &rows, out.len(), pitch);
    let job = Max { geom, x, rows: rows.clone(), out, pitch };
    if dispatch(isa, job).is_some() {
        return;
    }
    for (i, row) in rows.enumerate() {
        let window = geom.window(row);
        let y = &mut out[i * pitch..][..geom.c];
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

impl AvgSpec<'_> {
    fn requant(&self, count: usize) -> usize {
        let found = self.requants.iter().position(|(of, _)| *of == count);
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

/// The mean of each window, for the output pixels `rows`.
///
/// # Panics
/// When a slice is too short, `spec` lacks a count, or this machine does not have `isa`.
pub fn avg_pool(isa: Isa, geom: &PoolGeom, x: &[u8], spec: &AvgSpec, rows: Range<usize>, out: &mut [u8], pitch: usize) {
    geom.check(x.len(), &rows, out.len(), pitch);
    assert!(!spec.requants.is_empty(), "no requantization is given");
    let job = Avg { geom, x, spec, rows: rows.clone(), out, pitch };
    if dispatch(isa, job).is_some() {
        return;
    }
    for (i, row) in rows.enumerate() {
        let window = geom.window(row);
        let (_, by) = spec.requants[spec.requant(spec.count(window))];
        for channel in 0..geom.c {
            let mut acc = 0;
            for pixel in positions(geom, window) {
                acc += i32::from(x[pixel * geom.c + channel]) - i32::from(spec.x_zero);
            }
            let code = by.apply(acc, spec.zero.into(), spec.lo.into(), spec.hi.into());
            out[i * pitch + channel] = code as u8;
        }
    }
}

/// The mean of each channel over all pixels of a sample: `x` is `[batch][pixels][c]` and [`SLACK`]
/// bytes, `out` is `[batch][c]`.
///
/// # Panics
/// As [`avg_pool`].
pub fn global_avg_pool(isa: Isa, batch: usize, pixels: usize, c: usize, x: &[u8], spec: &AvgSpec, out: &mut [u8]) {
    let geom = PoolGeom {
        batch,
        in_h: 1,
        in_w: pixels,
        c,
        out_h: 1,
        out_w: 1,
        k_h: 1,
        k_w: pixels,
        stride_h: 1,
        stride_w: 1,
        dil_h: 1,
        dil_w: 1,
        pad_top: 0,
        pad_left: 0,
        pad_bottom: 0,
        pad_right: 0,
    };
    avg_pool(isa, &geom, x, spec, 0..batch, out, c);
}

/// The input pixels of a window.
#[inline(always)]
fn positions(geom: &PoolGeom, window: Window) -> impl Iterator<Item = usize> {
    let (down, right) = (geom.dil_h * geom.in_w, geom.dil_w);
    (0..window.h.inside).flat_map(move |h| (0..window.w.inside).map(move |w| window.start + h * down + w * right))
}

struct Max<'a> {
    geom: &'a PoolGeom,
    x: &'a [u8],
    rows: Range<usize>,
    out: &'a mut [u8],
    pitch: usize,
}

impl Op for Max<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (v, geom) = (s.v(), self.geom);
        let width = S::V::LANES * 4;
        for (i, row) in self.rows.enumerate() {
            let window = geom.window(row);
            for first in (0..geom.c).step_by(width) {
                let count = width.min(geom.c - first);
                let mut best = v.splat(0);
                for h in 0..window.h.inside {
                    let line = window.start + h * geom.dil_h * geom.in_w;
                    for w in 0..window.w.inside {
                        let at = (line + w * geom.dil_w) * geom.c + first;
                        // A vector runs over the end of the input by less than the slack.
                        let bytes = &self.x[at..at + width];
                        // SAFETY: the slice holds a vector.
                        best = v.max_u8(best, unsafe { v.load_bytes(bytes.as_ptr()) });
                    }
                }
                let y = &mut self.out[i * self.pitch + first..][..count];
                if count == width {
                    // SAFETY: the slice holds a vector.
                    unsafe { v.store_bytes(y.as_mut_ptr(), best) };
                } else {
                    // SAFETY: the slice holds `count` bytes.
                    unsafe { v.store_some_bytes(y.as_mut_ptr(), best, count) };
                }
            }
        }
    }
}

struct Avg<'a> {
    geom: &'a PoolGeom,
    x: &'a [u8],
    spec: &'a AvgSpec<'a>,
    rows: Range<usize>,
    out: &'a mut [u8],
    pitch: usize,
}

impl Op for Avg<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let (geom, spec) = (self.geom, self.spec);
        let splat = |by: ScalarRequant| Prepared::splat(by, spec.zero, spec.lo, spec.hi);
        let prepared: Vec<Prepared> = spec.requants.iter().map(|&(_, by)| splat(by)).collect();
        for (i, row) in self.rows.clone().enumerate() {
            let window = geom.window(row);
            let by = &prepared[spec.requant(spec.count(window))];
            match by.kind() {
                Kind::Onnx => self.pixel::<S, OnnxVector<S::V>>(s, i, window, by),
                Kind::Dyadic => self.pixel::<S, DyadicVector<S::V>>(s, i, window, by),
                Kind::Wide => self.pixel::<S, DyadicWide<S::V>>(s, i, window, by),
            }
        }
    }
}

impl Avg<'_> {
    #[inline(always)]
    fn pixel<S: Simd, R: VectorRequant<S::V>>(&mut self, s: S, pixel: usize, window: Window, by: &Prepared) {
        let (v, geom) = (s.v(), self.geom);
        let lanes = S::V::LANES;
        let by = R::load(v, by, 0);
        let inside = (window.h.inside * window.w.inside) as i32;
        let start = v.splat(inside.wrapping_mul(-i32::from(self.spec.x_zero)));
        for first in (0..geom.c).step_by(lanes * 4) {
            let count = (lanes * 4).min(geom.c - first);
            let mut acc = [start; 4];
            for h in 0..window.h.inside {
                let line = window.start + h * geom.dil_h * geom.in_w;
                for w in 0..window.w.inside {
                    let at = (line + w * geom.dil_w) * geom.c + first;
                    // Four vectors run over the end of the input by less than the slack.
                    let bytes = &self.x[at..at + lanes * 4];
                    for (i, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: the slice holds four times LANES bytes.
                        *acc = v.add(*acc, unsafe { v.widen(bytes.as_ptr().add(i * lanes)) });
                    }
                }
            }
            let mut all = [0u8; MAX_LANES * 4];
            for (i, acc) in acc.into_iter().enumerate() {
                // SAFETY: the array holds four times the most lanes.
                unsafe { v.narrow(all.as_mut_ptr().add(i * lanes), by.apply(v, acc)) };
            }
            self.out[pixel * self.pitch + first..][..count].copy_from_slice(&all[..count]);
        }
    }
}

#[cfg(test)]
mod tests;
