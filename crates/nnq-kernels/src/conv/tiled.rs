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
    round::vector::{DyadicRule, Kind, OnnxRule, Rule, VectorRequant, WideRule},
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
/// Weights of up to this many bytes are read again for every 32 pixels.
const FEW_WEIGHTS: usize = 64 << 10;

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
            (OutPtr::U8 { .. }, Kind::Onnx, None) => walk(s, tiles, job, Codes::<OnnxRule>(PhantomData)),
            (OutPtr::U8 { .. }, Kind::Dyadic, None) => walk(s, tiles, job, Codes::<DyadicRule>(PhantomData)),
            (OutPtr::U8 { .. }, Kind::Wide, None) => walk(s, tiles, job, Codes::<WideRule>(PhantomData)),
            _ => walk(s, tiles, job, Other),
        }
    }
}

#[inline(always)]
fn walk<S: Simd, A: After>(s: S, tiles: Tiles, mut job: Job, after: A) {
    let mut sums = [const { Sums([0; PIXELS * CHANNELS]) }; 2];
    let none = Part { first: 0, pixels: 0, in_block: 0, group: 0, panel: 0 };
    let left = Left::new(&job, none, std::ptr::null_mut());
    let mut walk = Walk { tiles, after, sums: &mut sums, turn: 0, left };
    let weights = job.part.len() * job.panels.panel_bytes();
    let most = if weights <= FEW_WEIGHTS { 0 } else { BLOCK_BYTES / job.plan.patch_bytes() };
    let pixels = most.max(PIXELS) / PIXELS * PIXELS;
    let rows = job.rows.clone();
    for first in rows.clone().step_by(pixels) {
        walk.block(s, &mut job, first..(first + pixels).min(rows.end));
    }
}

/// What becomes of sums.
trait After: Copy {
    /// The outputs of the next `pixels` pixels, an even number, of what is left.
    ///
    /// # Safety
    /// They are writable, and `left` holds their sums.
    unsafe fn finish<S: Simd>(self, s: S, job: &Job, left: &mut Left, pixels: usize);
}

/// What is not finished yet of a product.
struct Left {
    /// Its pixels.
    part: Part,
    /// 32 sums for each pixel.
    sums: *mut i32,
    /// Where the first pixel's codes go.
    to: *mut u8,
    /// Channels that exist.
    channels: usize,
    /// The first column of the panel.
    column: usize,
}

impl Left {
    fn new(job: &Job, part: Part, sums: *mut i32) -> Left {
        let (channel, channels) = part.channels(job.panels);
        let to = match job.out {
            OutPtr::U8 { data, pitch } => data.wrapping_add(part.first * pitch + channel),
            _ => std::ptr::null_mut(),
        };
        Left { part, sums, to, channels, column: part.column(job.panels) }
    }

    /// Leaves the first `pixels` pixels out.
    #[inline(always)]
    fn skip(&mut self, pixels: usize) {
        self.part.first += pixels;
        self.part.in_block += pixels;
        self.part.pixels -= pixels;
        self.sums = self.sums.wrapping_add(pixels * CHANNELS);
    }
}

/// Codes by one rule.
#[derive(Clone, Copy)]
struct Codes<R>(PhantomData<R>);

impl<R: Rule> After for Codes<R> {
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, s: S, job: &Job, left: &mut Left, pixels: usize) {
        let OutPtr::U8 { pitch, .. } = job.out else { unreachable!("rules make codes") };
        let v = s.v();
        let prepared = &job.ready.prepared;
        let limits = prepared.bytes_of_code(v);
        let low = R::On::<S::V>::load(v, prepared, left.column);
        let high = R::On::<S::V>::load(v, prepared, left.column + S::V::LANES);
        let mut nowhere = [0u8; CHANNELS];
        let pixels = pixels.min(left.part.pixels);
        let (mut sums, mut to) = (left.sums, left.to);
        for i in 0..pixels.div_ceil(2) {
            let second = if 2 * i + 1 < pixels { to.wrapping_add(pitch) } else { nowhere.as_mut_ptr() };
            // SAFETY: the caller's; there is room for an even number of pixels.
            unsafe {
                let codes = [
                    [low.without_zero(v, v.load(sums)), high.without_zero(v, v.load(sums.add(16)))],
                    [low.without_zero(v, v.load(sums.add(32))), high.without_zero(v, v.load(sums.add(48)))],
                ];
                v.store_codes(codes, [to, second], limits, left.channels);
            }
            to = to.wrapping_add(2 * pitch);
            sums = sums.wrapping_add(2 * CHANNELS);
        }
        left.to = to;
        left.skip(pixels);
    }
}

/// Anything else, without haste.
#[derive(Clone, Copy)]
struct Other;

impl After for Other {
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, s: S, job: &Job, left: &mut Left, pixels: usize) {
        let part = Part { pixels: pixels.min(left.part.pixels), ..left.part };
        // SAFETY: the caller's.
        unsafe {
            let sums = std::slice::from_raw_parts_mut(left.sums, part.pixels * CHANNELS);
            if let Some(w_zero) = &job.ready.w_zero {
                correct_rows(job.geom, job.panels, w_zero, &job.scratch.row_sums, part, sums);
            }
            finish(s, job.panels, job.ready, part, sums, job.geom.c_out, job.out);
        }
        left.skip(part.pixels);
    }
}

/// The sums of one product.
#[repr(align(64))]
struct Sums([i32; PIXELS * CHANNELS]);

/// Goes through the products of a job.
struct Walk<'a, A> {
    tiles: Tiles,
    after: A,
    /// In turn for the product that runs and for the one before.
    sums: &'a mut [Sums; 2],
    turn: usize,
    left: Left,
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

impl<A: After> Walk<'_, A> {
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
            let patches = plan.gather(s.v(), geom, job.x, job.x_zero, channel, copied..pixels.end, 0, job.scratch);
            // Of the tile of pixels from `pixel` on.
            let place = |pixel: usize| match pixel < copied {
                true => (job.x[pixel * geom.c_in + channel..].as_ptr(), geom.c_in),
                false => (patches.wrapping_add((pixel - copied) * plan.patch_bytes()), plan.patch_bytes()),
            };
            for panel in own {
                let mut part = Part { first: 0, pixels: 0, in_block: 0, group, panel };
                let weights = panels.panel(group, panel).as_ptr().cast();
                let start = job.ready.start(part.column(panels));
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
        // The last two shares come between the stores.
        let share = self.left.part.pixels.div_ceil(x.depth + 2).next_multiple_of(2);
        let to = self.sums[self.turn].0.as_mut_ptr();
        self.turn ^= 1;
        // SAFETY: the caller's; the sums have room for 32 pixels.
        unsafe {
            self.tiles.start::<M, N>(x.start);
            let Rows { at: [mut a, mut b], pitch } = x.rows;
            let mut weights = x.weights;
            for _ in 0..x.depth {
                self.tiles.step::<M, N>(Rows { at: [a, b], pitch }, weights);
                (a, b) = (a.wrapping_add(TILE_BYTES), b.wrapping_add(TILE_BYTES));
                weights = weights.wrapping_add(TILE_BYTES / 4 * CHANNELS * 4);
                self.drain(s, job, share);
            }
            self.tiles.store::<N>(to, 0);
            self.drain(s, job, share);
            if M == 2 {
                self.tiles.store::<N>(to.add(TILE_ROWS * CHANNELS), 1);
            }
            self.drain(s, job, PIXELS);
        }
        self.left = Left::new(job, part, to);
    }

    /// Finishes `pixels` pixels, an even number, of the product before.
    #[inline(always)]
    fn drain<S: Simd>(&mut self, s: S, job: &Job, pixels: usize) {
        if self.left.part.pixels > 0 {
            // SAFETY: the outputs of a job are writable; the sums were stored.
            unsafe { self.after.finish(s, job, &mut self.left, pixels) };
        }
    }
}
