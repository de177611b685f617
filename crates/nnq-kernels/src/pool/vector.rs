//! Pooling with vectors.
use super::{BoundAvg, PoolGeom, Window};
use crate::{
    round::vector::{DyadicVector, DyadicWide, Kind, OnnxVector, VectorRequant},
    simd::{Int, MAX_LANES, Op, Simd, Vector, store},
};
use std::ops::Range;

/// Maxima. The outputs of `rows` are writable at `out`, as [`super::max_pool_part`] says, and `x` was checked.
pub(super) struct Max<'a> {
    pub(super) geom: &'a PoolGeom,
    pub(super) x: &'a [u8],
    pub(super) rows: Range<usize>,
    pub(super) out: *mut u8,
    pub(super) pitch: usize,
}

impl Op for Max<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (v, c) = (s.v(), self.geom.c);
        let width = S::V::LANES * 4;
        let mut windows = self.geom.windows(self.rows.start);
        for row in self.rows {
            let window = Bytes::new(self.geom, self.x, windows.next_window());
            let to = self.out.wrapping_add(row * self.pitch);
            for first in (0..c).step_by(width) {
                let mut best = v.splat(0);
                for h in 0..window.down {
                    let mut from = window.row(h, first);
                    for _ in 0..window.right {
                        // SAFETY: the window lies inside the input, over whose end a vector runs by less than the slack.
                        best = v.max_u8(best, unsafe { v.load_bytes(from) });
                        from = from.wrapping_add(window.column_pitch);
                    }
                }
                // SAFETY: the channels of the pixel are writable.
                unsafe { store(v, to.wrapping_add(first), best, c - first) };
            }
        }
    }
}

/// Means. As [`Max`].
pub(super) struct Avg<'a> {
    pub(super) spec: &'a BoundAvg,
    pub(super) x: &'a [u8],
    pub(super) rows: Range<usize>,
    pub(super) out: *mut u8,
    pub(super) pitch: usize,
}

impl Op for Avg<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let spec = self.spec;
        let mut windows = spec.geom.windows(self.rows.start);
        let (mut count, mut index) = (usize::MAX, 0);
        for row in self.rows.clone() {
            let window = windows.next_window();
            // Mostly as many as before.
            if spec.count(window) != count {
                count = spec.count(window);
                index = spec.requant(count);
            }
            let window = Bytes::new(&spec.geom, self.x, window);
            match spec.requants[index].2.kind() {
                Kind::Onnx => self.pixel::<S, OnnxVector<S::V>>(s, row, &window, index),
                Kind::Dyadic => self.pixel::<S, DyadicVector<S::V>>(s, row, &window, index),
                Kind::Wide => self.pixel::<S, DyadicWide<S::V>>(s, row, &window, index),
            }
        }
    }
}

impl Avg<'_> {
    #[inline(always)]
    fn pixel<S: Simd, R: VectorRequant<S::V>>(&self, s: S, row: usize, window: &Bytes, index: usize) {
        let (v, c) = (s.v(), self.spec.geom.c);
        let prepared = &self.spec.requants[index].2;
        let (by, limits) = (R::load(v, prepared, 0), prepared.bytes_of_code(v));
        let inside = (window.down * window.right) as i32;
        let start = v.splat(inside.wrapping_mul(-i32::from(self.spec.x_zero)));
        let to = self.out.wrapping_add(row * self.pitch);
        for first in (0..c).step_by(4 * S::V::LANES) {
            // SAFETY: the window lies inside the input, over whose end a vector runs by less than the slack.
            let mut sums = unsafe { window.sum(s, first, start) };
            for sum in &mut sums {
                *sum = by.without_zero(v, *sum);
            }
            let bytes = v.narrow4(sums, limits);
            // SAFETY: the channels of the pixel are writable.
            unsafe { store(v, to.wrapping_add(first), bytes, c - first) };
        }
    }
}

/// Where the part of a window inside the input lies.
struct Bytes {
    start: *const u8,
    row_pitch: usize,
    column_pitch: usize,
    down: usize,
    right: usize,
}

impl Bytes {
    #[inline(always)]
    fn new(geom: &PoolGeom, x: &[u8], window: Window) -> Bytes {
        Bytes {
            start: x.as_ptr().wrapping_add(window.start * geom.c),
            row_pitch: geom.dil_h * geom.in_w * geom.c,
            column_pitch: geom.dil_w * geom.c,
            down: window.h.inside,
            right: window.w.inside,
        }
    }

    /// The first position of row `h`, channel `first`.
    #[inline(always)]
    fn row(&self, h: usize, first: usize) -> *const u8 {
        self.start.wrapping_add(h * self.row_pitch + first)
    }

    /// The sums, beginning with `start`, of the channels from `first` on, in the `LANE_ORDER`. Four positions are brought together
    /// and summed as a product with ones.
    ///
    /// # Safety
    /// A vector is readable at each position.
    #[inline(always)]
    unsafe fn sum<S: Simd>(&self, s: S, first: usize, start: Int<S>) -> [Int<S>; 4] {
        let v = s.v();
        let ones = s.weight(v.splat(0x0101_0101));
        let nothing = [0u8; MAX_LANES * 4];
        let mut acc = [start; 4];
        let mut rest = [nothing.as_ptr(); 4];
        let mut waiting = 0;
        for h in 0..self.down {
            let mut from = self.row(h, first);
            let step = self.column_pitch;
            for _ in 0..self.right / 4 {
                let four = [0, step, 2 * step, 3 * step].map(|offset| from.wrapping_add(offset));
                // SAFETY: the caller's.
                unsafe { add_four(s, &mut acc, four, ones) };
                from = from.wrapping_add(4 * step);
            }
            for _ in 0..self.right % 4 {
                rest[waiting] = from;
                waiting += 1;
                from = from.wrapping_add(step);
                if waiting == 4 {
                    // SAFETY: the caller's.
                    unsafe { add_four(s, &mut acc, rest, ones) };
                    (rest, waiting) = ([nothing.as_ptr(); 4], 0);
                }
            }
        }
        if waiting > 0 {
            // SAFETY: the caller's; the array of zeros holds the widest vector.
            unsafe { add_four(s, &mut acc, rest, ones) };
        }
        acc
    }
}

/// Adds four vectors of bytes.
///
/// # Safety
/// They are readable at `from`.
#[inline(always)]
unsafe fn add_four<S: Simd>(s: S, acc: &mut [Int<S>; 4], from: [*const u8; 4], ones: S::Weight) {
    let v = s.v();
    // SAFETY: the caller's.
    let rows = unsafe { [v.load_bytes(from[0]), v.load_bytes(from[1]), v.load_bytes(from[2]), v.load_bytes(from[3])] };
    let mixed = v.interleave4(rows);
    for i in 0..4 {
        acc[i] = s.dot(acc[i], s.act(mixed[i]), ones);
    }
}
