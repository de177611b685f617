//! What becomes of the sums of a product.
use super::{CHANNELS, Grid};
use crate::{
    conv::{
        block::Job,
        epilogue::{Addend, OutPtr},
        finish::{Part, correct_rows, finish},
    },
    eltwise::{Function, SumRule},
    round::vector::{Rule, VectorRequant},
    simd::{CodeBytes, Int, MAX_LANES, Simd, Vector},
};
use std::marker::PhantomData;

/// What becomes of sums.
pub(super) trait After: Copy {
    /// What is the same for a whole product.
    type Same<S: Simd>: Copy;

    fn same<S: Simd>(self, s: S, job: &Job, left: &Left) -> Self::Same<S>;

    /// The outputs of the next [`Left::together`] positions, or of those that are left.
    ///
    /// # Safety
    /// They are writable, and `left` has their sums.
    unsafe fn some<S: Simd>(self, s: S, job: &Job, same: &Self::Same<S>, left: &mut Left);
}

/// What is not finished yet of a product.
#[derive(Clone, Copy)]
pub(super) struct Left {
    /// Its positions; the pixels of the part are counted as if every position were one.
    pub(super) part: Part,
    /// 32 sums for each position, and room for a multiple of four positions.
    sums: *mut i32,
    /// Where the codes of the next pixel go.
    to: *mut u8,
    pitch: usize,
    /// Where the next pixel of what is added lies, and the bytes from one pixel to the next.
    from: *const u8,
    from_pitch: usize,
    /// Channels that exist.
    channels: usize,
    grid: Grid,
    /// The position in its row.
    place: usize,
}

impl Left {
    /// Nothing.
    pub(super) fn none() -> Left {
        Left {
            part: Part { first: 0, pixels: 0, in_block: 0, group: 0, panel: 0 },
            sums: std::ptr::null_mut(),
            to: std::ptr::null_mut(),
            pitch: 0,
            from: std::ptr::null(),
            from_pitch: 0,
            channels: 0,
            grid: Grid::PIXELS,
            place: 0,
        }
    }

    /// All of `part`, whose first position is number `position` of the grid that begins with pixel `origin`.
    #[inline(always)]
    pub(super) fn new(job: &Job, part: Part, sums: *mut i32, grid: Grid, origin: usize, position: usize) -> Left {
        let (channel, channels) = part.channels(job.panels);
        let (pixel, place) = grid.pixel(position);
        let (to, pitch) = match job.out {
            OutPtr::U8 { data, pitch } => (data.wrapping_add((origin + pixel) * pitch + channel), pitch),
            _ => (std::ptr::null_mut(), 0),
        };
        let from_pitch = job.geom.c_out;
        let from = match job.addend {
            Some(addend) => addend.data.wrapping_add((origin + pixel) * from_pitch + channel),
            None => std::ptr::null(),
        };
        Left { part, sums, to, pitch, from, from_pitch, channels, grid, place }
    }

    /// Positions that are finished together: four vectors of sums.
    #[inline(always)]
    fn together(&self) -> usize {
        if self.channels <= CHANNELS / 2 { 4 } else { 2 }
    }

    /// How often [`After::some`] has to be called.
    #[inline(always)]
    pub(super) fn calls(&self) -> usize {
        self.part.pixels.div_ceil(self.together())
    }

    /// The places of the next position's codes and of what is added to them: `nowhere` when it is no pixel.
    #[inline(always)]
    fn next_sum(&mut self, nowhere: *mut u8) -> (*mut u8, *const u8) {
        let from = self.from;
        let to = self.next(nowhere);
        let real = to != nowhere;
        self.from = from.wrapping_add(if real { self.from_pitch } else { 0 });
        (to, if real { from } else { nowhere })
    }

    /// The place of the next position's codes: `nowhere` when it is no pixel.
    #[inline(always)]
    fn next(&mut self, nowhere: *mut u8) -> *mut u8 {
        let real = self.part.pixels > 0 && self.place < self.grid.real;
        let to = if real { self.to } else { nowhere };
        self.to = self.to.wrapping_add(if real { self.pitch } else { 0 });
        self.place += 1;
        self.place = if self.place == self.grid.row { 0 } else { self.place };
        self.part.pixels = self.part.pixels.saturating_sub(1);
        to
    }
}

/// Codes by one rule.
#[derive(Clone, Copy)]
pub(super) struct Codes<R>(pub(super) PhantomData<R>);

/// The multipliers of two vectors of channels, and the limits.
#[derive(Clone, Copy)]
pub(super) struct Multipliers<S: Simd, R: Rule> {
    low: R::On<S::V>,
    high: R::On<S::V>,
    limits: CodeBytes<Int<S>>,
}

impl<R: Rule> After for Codes<R> {
    type Same<S: Simd> = Multipliers<S, R>;

    #[inline(always)]
    fn same<S: Simd>(self, s: S, job: &Job, left: &Left) -> Multipliers<S, R> {
        let (v, prepared) = (s.v(), &job.ready.prepared);
        let column = left.part.column(job.panels);
        Multipliers {
            low: R::On::load(v, prepared, column),
            high: R::On::load(v, prepared, column + S::V::LANES),
            limits: prepared.bytes_of_code(v),
        }
    }

    #[inline(always)]
    unsafe fn some<S: Simd>(self, s: S, _: &Job, same: &Multipliers<S, R>, left: &mut Left) {
        let (v, sums) = (s.v(), left.sums);
        let Multipliers { low, high, limits } = *same;
        let mut nowhere = [0u8; CHANNELS];
        let nowhere = nowhere.as_mut_ptr();
        if left.channels <= CHANNELS / 2 {
            // SAFETY: the caller's.
            unsafe {
                let codes = [
                    low.without_zero(v, v.load(sums)),
                    low.without_zero(v, v.load(sums.add(CHANNELS))),
                    low.without_zero(v, v.load(sums.add(2 * CHANNELS))),
                    low.without_zero(v, v.load(sums.add(3 * CHANNELS))),
                ];
                let to = [left.next(nowhere), left.next(nowhere), left.next(nowhere), left.next(nowhere)];
                v.store_four_codes(codes, to, limits, left.channels);
            }
            left.sums = sums.wrapping_add(4 * CHANNELS);
            return;
        }
        let to = [left.next(nowhere), left.next(nowhere)];
        // SAFETY: the caller's.
        unsafe {
            let codes = [
                [low.without_zero(v, v.load(sums)), high.without_zero(v, v.load(sums.add(16)))],
                [low.without_zero(v, v.load(sums.add(32))), high.without_zero(v, v.load(sums.add(48)))],
            ];
            v.store_codes(codes, to, limits, left.channels);
        }
        left.sums = sums.wrapping_add(2 * CHANNELS);
    }
}

/// Codes by one rule, added to another tensor's.
#[derive(Clone, Copy)]
pub(super) struct Sums<R>(pub(super) PhantomData<R>);

/// What is the same for a whole product with a sum.
#[derive(Clone, Copy)]
pub(super) struct Summands<S: Simd, R: SumRule> {
    low: R::On<S::V>,
    high: R::On<S::V>,
    sum: R::Sum<S::V>,
    limits: CodeBytes<Int<S>>,
}

impl<R: SumRule> After for Sums<R> {
    type Same<S: Simd> = Summands<S, R>;

    #[inline(always)]
    fn same<S: Simd>(self, s: S, job: &Job, left: &Left) -> Summands<S, R> {
        let (v, prepared) = (s.v(), &job.ready.prepared);
        let Addend { spec, swapped, .. } = job.addend.expect("there is a sum");
        let column = left.part.column(job.panels);
        Summands {
            low: R::On::load(v, prepared, column),
            high: R::On::load(v, prepared, column + S::V::LANES),
            sum: R::sum(v, spec, swapped),
            limits: CodeBytes::new(v, spec.zero, spec.lo, spec.hi),
        }
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn some<S: Simd>(self, s: S, _: &Job, same: &Summands<S, R>, left: &mut Left) {
        let (v, sums, channels) = (s.v(), left.sums, left.channels);
        let Summands { low, high, sum, limits } = *same;
        let mut nowhere = [0u8; CHANNELS];
        let nowhere = nowhere.as_mut_ptr();
        let mut codes = [v.splat(0); 4];
        // SAFETY: the caller's; what is added is readable where the outputs are writable.
        unsafe {
            if channels <= CHANNELS / 2 {
                let mut to = [nowhere; 4];
                for i in 0..4 {
                    let (place, from) = left.next_sum(nowhere);
                    to[i] = place;
                    let product = low.apply(v, v.load(sums.add(i * CHANNELS)));
                    codes[i] = sum.call(v, product, some_codes(v, from, channels));
                }
                v.store_four_codes(codes, to, limits, channels);
                left.sums = sums.wrapping_add(4 * CHANNELS);
                return;
            }
            let mut to = [nowhere; 2];
            for i in 0..2 {
                let (place, from) = left.next_sum(nowhere);
                to[i] = place;
                let sums = sums.add(i * CHANNELS);
                let product = low.apply(v, v.load(sums));
                codes[2 * i] = sum.call(v, product, v.widen(from));
                let product = high.apply(v, v.load(sums.add(S::V::LANES)));
                let other = some_codes(v, from.add(S::V::LANES), channels - S::V::LANES);
                codes[2 * i + 1] = sum.call(v, product, other);
            }
            let [a, b, c, d] = codes;
            v.store_codes([[a, b], [c, d]], to, limits, channels);
            left.sums = sums.wrapping_add(2 * CHANNELS);
        }
    }
}

/// `count` codes, at most a vector of them.
///
/// # Safety
/// They are readable at `from`.
#[inline(always)]
unsafe fn some_codes<V: Vector>(v: V, from: *const u8, count: usize) -> V::I {
    // SAFETY: the caller's.
    unsafe {
        if count == V::LANES {
            return v.widen(from);
        }
        let mut codes = [0; MAX_LANES];
        codes.as_mut_ptr().copy_from_nonoverlapping(from, count);
        v.widen(codes.as_ptr())
    }
}

/// Anything else, without haste. Every position is a pixel.
#[derive(Clone, Copy)]
pub(super) struct Other;

impl After for Other {
    type Same<S: Simd> = ();

    #[inline(always)]
    fn same<S: Simd>(self, _: S, _: &Job, _: &Left) {}

    #[inline(always)]
    unsafe fn some<S: Simd>(self, s: S, job: &Job, _: &(), left: &mut Left) {
        let part = Part { pixels: left.part.pixels.min(left.together()), ..left.part };
        // SAFETY: the caller's.
        unsafe {
            let sums = std::slice::from_raw_parts_mut(left.sums, part.pixels * CHANNELS);
            if let Some(w_zero) = &job.ready.w_zero {
                correct_rows(job.geom, job.panels, w_zero, &job.scratch.row_sums, part, sums);
            }
            finish(s, job.panels, job.ready, part, sums, job.geom.c_out, job.out);
        }
        left.part.first += part.pixels;
        left.part.in_block += part.pixels;
        left.part.pixels -= part.pixels;
        left.sums = left.sums.wrapping_add(part.pixels * CHANNELS);
    }
}
