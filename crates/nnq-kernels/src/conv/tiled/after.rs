//! What becomes of the sums of a product.
use super::{CHANNELS, Grid};
use crate::{
    conv::{
        block::Job,
        epilogue::OutPtr,
        finish::{Part, correct_rows, finish},
    },
    round::vector::{Rule, VectorRequant},
    simd::{CodeBytes, Int, Simd, Vector},
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
    pub(super) sums: *mut i32,
    /// Where the codes or real numbers of the next pixel go.
    to: *mut u8,
    /// Bytes from one pixel to the next.
    pitch: usize,
    /// Channels that exist.
    pub(super) channels: usize,
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
            OutPtr::F32(data) => {
                let c_out = job.geom.c_out;
                (data.wrapping_add((origin + pixel) * c_out + channel).cast(), c_out * size_of::<f32>())
            }
            OutPtr::I32(_) | OutPtr::I16(_) => (std::ptr::null_mut(), 0),
        };
        Left { part, sums, to, pitch, channels, grid, place }
    }

    /// Positions that are finished together: four vectors of sums.
    #[inline(always)]
    pub(super) fn together(&self) -> usize {
        if self.channels <= CHANNELS / 2 { 4 } else { 2 }
    }

    /// How often [`After::some`] has to be called.
    #[inline(always)]
    pub(super) fn calls(&self) -> usize {
        self.part.pixels.div_ceil(self.together())
    }

    /// The place of the next position's outputs: `nowhere` when it is no pixel.
    #[inline(always)]
    pub(super) fn next(&mut self, nowhere: *mut u8) -> *mut u8 {
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
            finish(s, job.panels, job.ready, (part, job.grids_of(part)), sums, job.geom.c_out, job.out);
        }
        left.part.first += part.pixels;
        left.part.in_block += part.pixels;
        left.part.pixels -= part.pixels;
        left.sums = left.sums.wrapping_add(part.pixels * CHANNELS);
    }
}
