//! Linear and cubic resizing of NHWC codes. See `docs/numerics.md`, section 7.
mod vector;

use crate::{
    Isa, SLACK,
    isa::dispatch,
    round::{ScalarRequant, rne_f64, vector::Prepared},
};
use serde::{Deserialize, Serialize};
use std::{ops::Range, sync::Arc};
use vector::Rows;

/// Bits behind the point of a weight.
pub const FRACTION: u32 = 11;
/// What the two axes' weights multiply sums by: `2^(2 * FRACTION)`.
pub const UNIT: usize = 1 << (2 * FRACTION);

/// One axis: which elements each element of the result is made of, with weights that sum to `2^FRACTION`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Element `i` has the taps `ends[i - 1] .. ends[i]`.
    pub ends: Vec<u32>,
    /// Index and weight.
    pub taps: Vec<(u32, i16)>,
}

impl Line {
    /// Every element as it is.
    pub fn same(size: usize) -> Line {
        Line { ends: (1..=size as u32).collect(), taps: (0..size as u32).map(|i| (i, 1 << FRACTION)).collect() }
    }

    /// From real weights that sum to 1: each becomes `rne(w * 2^FRACTION)`, and what then lacks in the sum is added to the largest, the first of
    /// several. `None` where an element has no taps, or a weight does not fit.
    pub fn of<'a>(elements: impl Iterator<Item = &'a [(usize, f32)]>) -> Option<Line> {
        let one = 1i64 << FRACTION;
        let mut line = Line { ends: vec![], taps: vec![] };
        for taps in elements {
            let mut weights: Vec<i64> = taps.iter().map(|&(_, w)| rne_f64(f64::from(w) * one as f64) as i64).collect();
            // The first of the largest: `max_by_key` would take the last.
            let largest = (0..weights.len()).rev().max_by_key(|&i| weights[i])?;
            weights[largest] += one - weights.iter().sum::<i64>();
            for (&(at, _), weight) in taps.iter().zip(weights) {
                line.taps.push((u32::try_from(at).ok()?, i16::try_from(weight).ok()?));
            }
            line.ends.push(u32::try_from(line.taps.len()).ok()?);
        }
        Some(line)
    }

    /// Elements of the result.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The taps of element `i`.
    #[inline(always)]
    pub fn taps(&self, i: usize) -> &[(u32, i16)] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.taps[start as usize..self.ends[i] as usize]
    }

    /// The largest sum of the magnitudes of an element's weights.
    fn reach(&self) -> i64 {
        let of = |i| self.taps(i).iter().map(|t| i64::from(t.1).abs()).sum();
        (0..self.len()).map(of).max().unwrap_or(0)
    }

    /// Whether the taps lie within `input` elements, each element has some, and their weights sum to `2^FRACTION`.
    fn fits(&self, input: usize) -> bool {
        let mut start = 0;
        let whole = self.ends.iter().all(|&end| {
            let taps = self.taps.get(start as usize..end as usize).unwrap_or_default();
            start = end;
            taps.iter().map(|t| i64::from(t.1)).sum::<i64>() == 1 << FRACTION
        });
        whole && start as usize == self.taps.len() && self.taps.iter().all(|t| (t.0 as usize) < input)
    }
}

/// Whether sums over both axes of differences of bytes fit 32 bits: `255 * reach * reach <= 2^31 - 1`.
pub fn fit_together(rows: &Line, columns: &Line) -> bool {
    255i64.saturating_mul(rows.reach()).saturating_mul(columns.reach()) <= i64::from(i32::MAX)
}

/// A resizing of `[batch][in_h][in_w][c]` codes:
/// `acc = sum_h sum_w rows[h] * columns[w] * (q - x_zero)`, requantized by a factor that includes `1 / UNIT`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Resize {
    pub batch: usize,
    pub in_h: usize,
    pub in_w: usize,
    pub c: usize,
    pub rows: Arc<Line>,
    pub columns: Arc<Line>,
    pub requant: ScalarRequant,
    /// Zero point of the input.
    pub x_zero: u8,
    /// Zero point of the output.
    pub zero: u8,
    /// Smallest output code.
    pub lo: u8,
    /// Largest output code.
    pub hi: u8,
}

impl Resize {
    /// Rows of the output, of all samples.
    pub fn lines(&self) -> usize {
        self.batch * self.rows.len()
    }

    /// Whether the parts fit each other.
    pub fn is_whole(&self) -> bool {
        let fits = self.rows.fits(self.in_h) && self.columns.fits(self.in_w) && self.lo <= self.hi;
        // The taps were checked before they are asked for.
        fits && self.requant.is_valid() && fit_together(&self.rows, &self.columns)
    }
}

/// A resizing with everything prepared.
#[derive(Clone, Debug)]
pub struct BoundResize {
    isa: Isa,
    of: Arc<Resize>,
    by: Prepared,
}

impl BoundResize {
    /// Prepares what does not depend on the inputs.
    ///
    /// # Panics
    /// When parts do not fit each other.
    pub fn new(isa: Isa, of: Arc<Resize>) -> BoundResize {
        assert!(of.is_whole(), "a resizing whose parts do not fit each other");
        let by = Prepared::splat(of.requant, of.zero, of.lo, of.hi);
        BoundResize { isa, of, by }
    }

    /// The output rows `lines`, counted over all samples. `pitch` is the number of bytes from one pixel to the next; `sums` is memory to work in.
    ///
    /// # Panics
    /// When a slice is too short, or this machine does not have the instruction set.
    pub fn run(&self, x: &[u8], lines: Range<usize>, out: &mut [u8], pitch: usize, sums: &mut Vec<i32>) {
        let (width, c) = (self.of.columns.len(), self.of.c);
        assert!(pitch >= c, "a pitch of {pitch} for {c} channels");
        let need = (lines.len() * width).saturating_sub(1) * pitch + c;
        assert!(
            lines.is_empty() || width == 0 || out.len() >= need,
            "the output holds {} bytes, not {need}",
            out.len()
        );
        let out = out.as_mut_ptr().wrapping_sub(lines.start * width * pitch);
        // SAFETY: the slice holds all pixels of the lines, as was checked.
        unsafe { self.run_part(x, lines, out, pitch, sums) };
    }

    /// The same to an address, that of output pixel 0.
    ///
    /// # Panics
    /// When `x` is too short, `lines` reaches too far, or this machine does not have the instruction set.
    ///
    /// # Safety
    /// `c` bytes are writable at `out + pixel * pitch` for every pixel of `lines`, and nobody else uses them.
    pub(crate) unsafe fn run_part(
        &self,
        x: &[u8],
        lines: Range<usize>,
        out: *mut u8,
        pitch: usize,
        sums: &mut Vec<i32>,
    ) {
        let of = &*self.of;
        let row = of.in_w * of.c;
        assert!(x.len() >= of.batch * of.in_h * row + SLACK, "{} bytes of activations are too few", x.len());
        assert!(lines.start <= lines.end && lines.end <= of.lines(), "rows {lines:?} of {}", of.lines());
        if row == 0 {
            return;
        }
        // Vectors run over the end of a row.
        if sums.len() < row + SLACK {
            sums.resize(row + SLACK, 0);
        }
        let work = Rows { spec: self, x, lines: lines.clone(), out, pitch, sums };
        if dispatch(self.isa, work).is_some() {
            return;
        }
        let zero = i32::from(of.x_zero);
        for line in lines {
            let (sample, y) = (line / of.rows.len(), line % of.rows.len());
            for column in 0..of.columns.len() {
                for channel in 0..of.c {
                    let mut acc = 0;
                    for &(h, wh) in of.rows.taps(y) {
                        let from = (sample * of.in_h + h as usize) * row + channel;
                        for &(w, ww) in of.columns.taps(column) {
                            let code = i32::from(x[from + w as usize * of.c]);
                            acc += i32::from(wh) * i32::from(ww) * (code - zero);
                        }
                    }
                    let code = of.requant.apply(acc, of.zero.into(), of.lo.into(), of.hi.into());
                    // SAFETY: the caller's.
                    unsafe { *out.wrapping_add((line * of.columns.len() + column) * pitch + channel) = code as u8 };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
