//! Resizing with vectors: a line of the input's width first, then across it.
use super::{BoundResize, FRACTION};
use crate::{
    round::vector::{DyadicVector, DyadicWide, Kind, OnnxVector, VectorRequant},
    simd::{Op, Simd, Vector, store},
};
use std::ops::Range;

/// Output rows. The pixels of `lines` are writable at `out`, as [`BoundResize::run_part`] says, and `x` was checked; `sums` holds a row of the
/// input and the slack.
pub(super) struct Rows<'a> {
    pub(super) spec: &'a BoundResize,
    pub(super) x: &'a [u8],
    pub(super) lines: Range<usize>,
    pub(super) out: *mut u8,
    pub(super) pitch: usize,
    pub(super) sums: &'a mut [i32],
}

impl Op for Rows<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let of = &self.spec.of;
        let mut before: Option<(usize, usize)> = None;
        for line in self.lines.clone() {
            let (sample, y) = (line / of.rows.len(), line % of.rows.len());
            // Rows that are made alike stand side by side where a picture grows.
            let same = before.is_some_and(|(last, y_)| last == sample && of.rows.taps(y_) == of.rows.taps(y));
            if !same {
                self.down(s, sample, y);
            }
            before = Some((sample, y));
            match self.spec.by.kind() {
                Kind::Onnx => self.across::<S, OnnxVector<S::V>>(s, line),
                Kind::Dyadic => self.across::<S, DyadicVector<S::V>>(s, line),
                Kind::Wide => self.across::<S, DyadicWide<S::V>>(s, line),
            }
        }
    }
}

impl Rows<'_> {
    /// `sums[w][c] = sum_h rows[y][h] * x[sample][h][w][c]`.
    #[inline(always)]
    fn down<S: Simd>(&mut self, s: S, sample: usize, y: usize) {
        let (v, of) = (s.v(), &self.spec.of);
        let row = of.in_w * of.c;
        let start = self.x.as_ptr().wrapping_add(sample * of.in_h * row);
        let taps = of.rows.taps(y);
        for at in (0..row).step_by(S::V::LANES) {
            let mut sum = v.splat(0);
            for &(h, weight) in taps {
                // SAFETY: the row lies inside the input, over whose end a vector runs by less than the slack.
                let codes = unsafe { v.widen(start.wrapping_add(h as usize * row + at)) };
                sum = v.add(sum, v.mul(codes, v.splat(weight.into())));
            }
            // SAFETY: `sums` holds a row and the slack.
            unsafe { v.store(self.sums.as_mut_ptr().wrapping_add(at), sum) };
        }
    }

    /// The pixels of output row `line` from `sums`.
    #[inline(always)]
    fn across<S: Simd, R: VectorRequant<S::V>>(&mut self, s: S, line: usize) {
        let (v, of) = (s.v(), &self.spec.of);
        let (by, limits) = (R::load(v, &self.spec.by, 0), self.spec.by.bytes_of_code(v));
        // The zero point counts as often as all weights together.
        let start = v.splat(-(i32::from(of.x_zero) << (2 * FRACTION)));
        let (lanes, width) = (S::V::LANES, of.columns.len());
        let mut to = self.out.wrapping_add(line * width * self.pitch);
        for column in 0..width {
            let taps = of.columns.taps(column);
            for first in (0..of.c).step_by(4 * lanes) {
                let mut acc = [start; 4];
                for &(w, weight) in taps {
                    let from = self.sums.as_ptr().wrapping_add(w as usize * of.c + first);
                    let weight = v.splat(weight.into());
                    for (i, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: the pixel lies inside the row, over whose end four vectors run by at most the slack.
                        let sums = unsafe { v.load(from.wrapping_add(i * lanes)) };
                        *acc = v.add(*acc, v.mul(sums, weight));
                    }
                }
                for acc in &mut acc {
                    *acc = by.without_zero(v, *acc);
                }
                let bytes = v.narrow4_in_order(acc, limits);
                // SAFETY: the channels of the pixel are writable.
                unsafe { store(v, to.wrapping_add(first), bytes, of.c - first) };
            }
            to = to.wrapping_add(self.pitch);
        }
    }
}
