//! The loops around AMX's tiles: 32 pixels times the 32 channels of a panel.
//!
//! What becomes of the sums of one product is computed between the steps of the next one: the tiles work by
//! themselves meanwhile.
use super::{
    block::Job,
    epilogue::OutPtr,
    finish::{Part, correct_rows, finish, row_sums},
};
use crate::{
    round::vector::{self, DyadicRule, Kind, OnnxRule, Rule, VectorRequant, WideRule},
    simd::{
        Op, Simd, Vector,
        amx::{Amx, Rows, TILE_BYTES, TILE_ROWS, Tiles},
    },
};
use std::{marker::PhantomData, ops::Range};

/// Pixels of one product.
const PIXELS: usize = 2 * TILE_ROWS;
/// Output channels of a panel.
const CHANNELS: usize = 32;
/// Bytes of inputs of one block of pixels: a part of the second-level cache.
const BLOCK_BYTES: usize = 768 << 10;

/// A [`Job`] for tiles.
pub(super) struct Tiled<'a> {
    pub(super) job: Job<'a>,
    pub(super) amx: Amx,
}

impl Op for Tiled<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        assert!(S::V::LANES == 16 && self.job.panels.width == CHANNELS);
        let job = self.job;
        let tiles = self.amx.configure();
        match (job.out, job.ready.kind(), &job.ready.w_zero) {
            (OutPtr::U8 { .. }, Kind::Onnx, None) => Walk::new(tiles, Codes::<OnnxRule>(PhantomData)).run(s, job),
            (OutPtr::U8 { .. }, Kind::Dyadic, None) => Walk::new(tiles, Codes::<DyadicRule>(PhantomData)).run(s, job),
            (OutPtr::U8 { .. }, Kind::Wide, None) => Walk::new(tiles, Codes::<WideRule>(PhantomData)).run(s, job),
            _ => Walk::new(tiles, Other).run(s, job),
        }
    }
}

/// What becomes of sums.
trait After: Copy {
    /// The outputs of a part. `sums` holds 32 for each pixel, and room for an even number of pixels.
    ///
    /// # Safety
    /// The part's outputs are writable.
    unsafe fn finish<S: Simd>(self, s: S, job: &Job, sums: &mut [i32], part: Part);
}

/// Codes by one rule.
#[derive(Clone, Copy)]
struct Codes<R>(PhantomData<R>);

impl<R: Rule> After for Codes<R> {
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, s: S, job: &Job, sums: &mut [i32], part: Part) {
        let OutPtr::U8 { data, pitch } = job.out else { unreachable!("rules make codes") };
        let v = s.v();
        let (channel, count) = part.channels(job.panels);
        let column = part.column(job.panels);
        let prepared = &job.ready.prepared;
        let limits = prepared.bytes_of_code(v);
        let low = R::On::<S::V>::load(v, prepared, column);
        let high = R::On::<S::V>::load(v, prepared, column + S::V::LANES);
        let mut nowhere = [0u8; CHANNELS];
        let mut to = data.wrapping_add(part.first * pitch + channel);
        for (i, sums) in sums.chunks_exact(2 * CHANNELS).take(part.pixels.div_ceil(2)).enumerate() {
            let lanes = |at: usize| vector::load(v, sums, at);
            let codes = [
                [low.without_zero(v, lanes(0)), high.without_zero(v, lanes(16))],
                [low.without_zero(v, lanes(32)), high.without_zero(v, lanes(48))],
            ];
            let second = if 2 * i + 1 < part.pixels { to.wrapping_add(pitch) } else { nowhere.as_mut_ptr() };
            // SAFETY: the outputs are writable.
            unsafe { v.store_codes(codes, [to, second], limits, count) };
            to = to.wrapping_add(2 * pitch);
        }
    }
}

/// Anything else, without haste.
#[derive(Clone, Copy)]
struct Other;

impl After for Other {
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, s: S, job: &Job, sums: &mut [i32], part: Part) {
        if let Some(w_zero) = &job.ready.w_zero {
            correct_rows(job.geom, job.panels, w_zero, &job.scratch.row_sums, part, sums);
        }
        // SAFETY: the caller's.
        unsafe { finish(s, job.panels, job.ready, part, sums, job.geom.c_out, job.out) };
    }
}

/// The sums of one product.
#[repr(align(64))]
struct Sums([i32; PIXELS * CHANNELS]);

/// Goes through the products of a job.
struct Walk<A> {
    tiles: Tiles,
    after: A,
    /// In turn for the product that runs and for the one before.
    sums: [Sums; 2],
    turn: usize,
    /// What is not finished yet of the product before.
    left: Part,
    /// Its pixels that are finished.
    finished: usize,
}

/// A product's operands.
#[derive(Clone, Copy)]
struct Operands {
    rows: Rows,
    weights: *const u8,
    start: *const i32,
    /// Steps of 64 inputs.
    depth: usize,
}

impl<A: After> Walk<A> {
    fn new(tiles: Tiles, after: A) -> Walk<A> {
        let left = Part { first: 0, pixels: 0, in_block: 0, group: 0, panel: 0 };
        let sums = [const { Sums([0; PIXELS * CHANNELS]) }; 2];
        Walk { tiles, after, sums, turn: 0, left, finished: 0 }
    }

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S, mut job: Job) {
        let pixels = (BLOCK_BYTES / job.plan.patch_bytes()).max(PIXELS) / PIXELS * PIXELS;
        let rows = job.rows.clone();
        let mut first = rows.start;
        while first < rows.end {
            let end = (first + pixels).min(rows.end);
            self.block(s, &mut job, first..end);
            first = end;
        }
    }

    /// The outputs of some pixels.
    #[inline(always)]
    fn block<S: Simd>(&mut self, s: S, job: &mut Job, pixels: Range<usize>) {
        let (geom, panels, plan) = (job.geom, job.panels, job.plan);
        let uniform = plan.is_uniform();
        // The inputs of pixels from here on are copied together.
        let copied = if uniform { pixels.end - pixels.len() % TILE_ROWS } else { pixels.start };
        plan.start(geom, (pixels.end - copied).next_multiple_of(PIXELS), job.scratch);
        if job.ready.w_zero.is_some() {
            row_sums(geom, job.x, job.x_zero, pixels.clone(), &mut job.scratch.row_sums);
        }
        for (group, own) in panels.of_groups(job.part.clone()) {
            let channel = group * panels.c_in;
            let patches = plan.gather(geom, job.x, job.x_zero, channel, copied..pixels.end, job.scratch);
            // Of the tile of pixels from `pixel` on.
            let place = |pixel: usize| match pixel < copied {
                true => (job.x[pixel * geom.c_in + channel..].as_ptr(), geom.c_in),
                false => (patches.wrapping_add((pixel - copied) * plan.patch_bytes()), plan.patch_bytes()),
            };
            for panel in own {
                let mut part = Part { first: 0, pixels: 0, in_block: 0, group, panel };
                let weights = panels.panel(group, panel).as_ptr().cast();
                let start = job.ready.start[part.column(panels)..][..CHANNELS].as_ptr();
                let narrow = part.channels(panels).1 <= CHANNELS / 2;
                for first in pixels.clone().step_by(PIXELS) {
                    part.first = first;
                    part.pixels = PIXELS.min(pixels.end - first);
                    part.in_block = first - pixels.start;
                    let one = part.pixels <= TILE_ROWS;
                    let (a, b) = (place(first), if one { place(first) } else { place(first + TILE_ROWS) });
                    let rows = Rows { at: [a.0, b.0], pitch: [a.1, b.1] };
                    let operands = Operands { rows, weights, start, depth: panels.room * 4 / TILE_BYTES };
                    // SAFETY: 16 rows are readable at each of `rows`, by whole steps: those of a pixel's inputs
                    // reach less than the slack over its end, patches have room for them. A panel holds
                    // `depth` steps of weights.
                    unsafe {
                        match (one, narrow) {
                            (false, false) => self.product::<S, 2, 2>(s, job, operands, part),
                            (false, true) => self.product::<S, 2, 1>(s, job, operands, part),
                            (true, false) => self.product::<S, 1, 2>(s, job, operands, part),
                            (true, true) => self.product::<S, 1, 1>(s, job, operands, part),
                        }
                    }
                }
            }
        }
        self.drain(s, job, PIXELS);
    }

    /// One product, and meanwhile what is left of the one before.
    ///
    /// # Safety
    /// `operands` are as [`Tiles`] wants them.
    #[inline(always)]
    unsafe fn product<S: Simd, const M: usize, const N: usize>(&mut self, s: S, job: &Job, x: Operands, part: Part) {
        let each = self.left.pixels.div_ceil(x.depth.max(1)).next_multiple_of(2);
        // SAFETY: the caller's; the sums have room for 32 pixels.
        unsafe {
            self.tiles.start::<M, N>(x.start);
            let Rows { at: [mut a, mut b], pitch } = x.rows;
            let mut weights = x.weights;
            for _ in 0..x.depth {
                self.tiles.step::<M, N>(Rows { at: [a, b], pitch }, weights);
                (a, b) = (a.wrapping_add(TILE_BYTES), b.wrapping_add(TILE_BYTES));
                weights = weights.wrapping_add(TILE_BYTES / 4 * CHANNELS * 4);
                self.drain(s, job, each);
            }
            self.drain(s, job, PIXELS);
            self.turn ^= 1;
            self.tiles.store::<M, N>(self.sums[self.turn].0.as_mut_ptr());
        }
        (self.left, self.finished) = (part, 0);
    }

    /// Finishes `pixels` pixels, an even number, of the product before.
    #[inline(always)]
    fn drain<S: Simd>(&mut self, s: S, job: &Job, pixels: usize) {
        let all = self.left;
        if all.pixels == 0 {
            return;
        }
        let now = all.pixels.min(pixels);
        let sums = &mut self.sums[self.turn].0[self.finished * CHANNELS..];
        // SAFETY: the outputs of a job are writable.
        unsafe { self.after.finish(s, job, sums, Part { pixels: now, ..all }) };
        self.left = Part { first: all.first + now, pixels: all.pixels - now, in_block: all.in_block + now, ..all };
        self.finished += now;
    }
}
