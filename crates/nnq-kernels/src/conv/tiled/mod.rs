//! The loops around AMX's tiles: 32 positions times the 32 channels of a panel.
//!
//! What becomes of the sums of one product is computed between the steps of the next one: the tiles work by
//! themselves meanwhile.
mod after;
mod padded;
mod real;

use super::{
    FEW_WEIGHTS,
    block::Job,
    epilogue::OutPtr,
    finish::{Part, row_sums},
    sources::Inputs,
};
use crate::{
    round::vector::{DyadicRule, Kind, OnnxRule, WideRule},
    simd::{
        LINE, Op, Simd, Vector,
        amx::{Amx, Rows, TILE_BYTES, TILE_ROWS, Tiles},
        fetch,
    },
};
use after::{After, Codes, Left, Other};
pub(super) use padded::Padded;
use padded::Runs;
use std::{marker::PhantomData, ops::Range};

/// Positions of one product.
const POSITIONS: usize = 2 * TILE_ROWS;
/// Output channels of a panel.
const CHANNELS: usize = 32;
/// Bytes of inputs of one block: a part of the second-level cache.
const BLOCK_BYTES: usize = 768 << 10;
/// Bytes of inputs that stay in the first-level cache beside everything else.
const NEAR_BYTES: usize = 8 << 10;

/// Positions in rows, of which the first ones of each row are pixels of the output.
#[derive(Clone, Copy)]
struct Grid {
    row: usize,
    real: usize,
}

impl Grid {
    /// Every position is a pixel.
    const PIXELS: Grid = Grid { row: usize::MAX, real: usize::MAX };

    /// The first pixel that is not before the position, and the place of the position in its row.
    #[inline(always)]
    fn pixel(self, position: usize) -> (usize, usize) {
        if self.row == usize::MAX {
            return (position, 0);
        }
        let (row, place) = (position / self.row, position % self.row);
        (row * self.real + place.min(self.real), place)
    }

    /// The position of a pixel.
    fn position(self, pixel: usize) -> usize {
        pixel / self.real * self.row + pixel % self.real
    }
}

/// A [`Job`] for tiles.
pub(super) struct Tiled<'a> {
    pub(super) job: Job<'a>,
    pub(super) padded: Option<Padded>,
    pub(super) amx: Amx,
}

impl Op for Tiled<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        assert!(S::V::LANES == 16 && self.job.panels.width == CHANNELS);
        let Tiled { job, padded, amx } = self;
        let tiles = amx.configure();
        match (job.out, job.ready.kind(), &job.ready.w_zero) {
            (OutPtr::U8 { .. }, Kind::Onnx, None) => walk(s, tiles, job, padded, Codes::<OnnxRule>(PhantomData)),
            (OutPtr::U8 { .. }, Kind::Dyadic, None) => walk(s, tiles, job, padded, Codes::<DyadicRule>(PhantomData)),
            (OutPtr::U8 { .. }, Kind::Wide, None) => walk(s, tiles, job, padded, Codes::<WideRule>(PhantomData)),
            (OutPtr::F32(_), _, None) if job.grids.is_none() => walk(s, tiles, job, padded, real::Reals),
            _ => walk(s, tiles, job, None, Other),
        }
    }
}

#[inline(always)]
fn walk<S: Simd, A: After>(s: S, tiles: Tiles, mut job: Job, padded: Option<Padded>, after: A) {
    let mut sums = [const { Sums([0; POSITIONS * CHANNELS]) }; 2];
    let mut walk = Walk { tiles, after, sums: &mut sums, turn: 0, left: Left::none() };
    let rows = job.rows.clone();
    let mut first = rows.start;
    if let Some(padded) = padded {
        let (out_w, out_h) = (job.geom.out_w, job.geom.out_h);
        let most = padded.rows_of(job.geom, job.way.block(BLOCK_BYTES));
        while first < rows.end {
            let row = first / out_w;
            let end = (row + most).min((row / out_h + 1) * out_h);
            let end = (end * out_w).min(rows.end);
            walk.padded(s, &mut job, padded, first..end);
            first = end;
        }
    } else {
        let weights = job.part.len() * job.panels.panel_bytes();
        let bytes = match (weights <= FEW_WEIGHTS, job.plan.is_uniform()) {
            (false, _) => BLOCK_BYTES,
            // Copied together, then used by every panel while they are near.
            (true, false) => NEAR_BYTES,
            (true, true) => 0,
        };
        let most = job.way.block(bytes) / job.plan.patch_bytes();
        let most = most.max(POSITIONS) / POSITIONS * POSITIONS;
        while first < rows.end {
            let end = (first + most).min(rows.end);
            walk.pixels(s, &mut job, first..end);
            first = end;
        }
    }
}

/// The sums of one product.
#[repr(align(64))]
struct Sums([i32; POSITIONS * CHANNELS]);

/// Goes through the products of a job.
struct Walk<'a, A> {
    tiles: Tiles,
    after: A,
    /// In turn for the product that runs and for the one before.
    sums: &'a mut [Sums; 2],
    turn: usize,
    /// What is not finished of the product before.
    left: Left,
}

/// A block of positions.
struct Block<F> {
    grid: Grid,
    /// The pixel at position 0.
    origin: usize,
    positions: Range<usize>,
    /// The place of the inputs of 16 positions from this one on, and the bytes from one to the next.
    place: F,
    runs: Runs,
}

/// A product's operands.
#[derive(Clone, Copy)]
struct Operands {
    rows: Rows,
    runs: Runs,
    /// Steps of 64 inputs of each run.
    depth: usize,
    weights: *const u8,
    start: *const i32,
    /// Cache lines that are fetched with each step, from here on.
    lines: usize,
    ahead: *const u8,
}

/// Panels from so many bytes on are fetched ahead: smaller ones are soon read, and stay near.
const FETCHED: usize = 24 << 10;
/// Cache lines of the weights of one step.
const LINES: usize = TILE_BYTES * CHANNELS / LINE;

impl<A: After> Walk<'_, A> {
    /// The outputs of some pixels of one image, from a copy of its rows with their padding.
    #[inline(always)]
    fn padded<S: Simd>(&mut self, s: S, job: &mut Job, padded: Padded, pixels: Range<usize>) {
        let geom = job.geom;
        let rows = pixels.start / geom.out_w..(pixels.end - 1) / geom.out_w + 1;
        let origin = rows.start * geom.out_w;
        let (x, runs) = padded.fill(geom, job.x, job.x_zero, rows, POSITIONS, job.scratch);
        let pitch = geom.stride_w * geom.c_in;
        let grid = padded.grid(geom);
        let positions = grid.position(pixels.start - origin)..grid.position(pixels.end - 1 - origin) + 1;
        let block =
            Block { grid, origin, positions, place: |position: usize| (x.wrapping_add(position * pitch), pitch), runs };
        // SAFETY: the copy has the inputs of every position, and of 32 behind the last.
        unsafe { self.block(s, job, 0, job.part.clone(), block) };
        self.drain(s, job);
    }

    /// The outputs of some pixels, from their inputs as they lie or copied together.
    #[inline(always)]
    fn pixels<S: Simd>(&mut self, s: S, job: &mut Job, pixels: Range<usize>) {
        let (geom, panels, plan) = (job.geom, job.panels, job.plan);
        // The inputs of pixels from here on are copied together.
        let copied = if plan.is_uniform() { pixels.end - pixels.len() % TILE_ROWS } else { pixels.start };
        plan.start(geom, (pixels.end - copied).next_multiple_of(POSITIONS), job.scratch);
        if job.ready.w_zero.is_some() {
            row_sums(geom, job.x, job.x_zero, pixels.clone(), &mut job.scratch.row_sums);
        }
        for (group, own) in panels.of_groups(job.part.clone()) {
            let channel = group * panels.c_in;
            let from = Inputs { geom, x: job.x, x_zero: job.x_zero, channel };
            let patches = plan.gather(s.v(), from, copied..pixels.end, 0, job.scratch);
            let x = job.x;
            let block = Block {
                grid: Grid::PIXELS,
                origin: 0,
                positions: pixels.clone(),
                place: |pixel: usize| match pixel < copied {
                    true => (x[pixel * geom.c_in + channel..].as_ptr(), geom.c_in),
                    false => (patches.wrapping_add((pixel - copied) * plan.patch_bytes()), plan.patch_bytes()),
                },
                runs: Runs::ONE,
            };
            // SAFETY: 16 rows are readable at each place, by whole steps: those of a pixel's inputs reach less
            // than the slack over its end, patches have room for them.
            unsafe { self.block(s, job, group, own, block) };
        }
        self.drain(s, job);
    }

    /// The products of a block with some panels of a group.
    ///
    /// # Safety
    /// 16 rows are readable at each of the block's places, by whole steps.
    #[inline(always)]
    unsafe fn block<S: Simd, F: Fn(usize) -> (*const u8, usize)>(
        &mut self,
        s: S,
        job: &mut Job,
        group: usize,
        own: Range<usize>,
        block: Block<F>,
    ) {
        let panels = job.panels;
        let Block { grid, origin, positions, place, runs } = block;
        let depth = panels.room * 4 / TILE_BYTES / runs.count;
        for panel in own {
            let mut part = Part { first: 0, pixels: 0, in_block: 0, group, panel };
            let lies: *const u8 = panels.panel(group, panel).as_ptr().cast();
            let weights = panels.ready(s.v(), group, panel, &mut job.scratch.room);
            // Each product fetches a share of the next panel.
            let step_lines = LINES / panels.fields.count();
            let share = step_lines.div_ceil(positions.len().div_ceil(POSITIONS)).max(1);
            let mut fetched = if panels.panel_bytes() < FETCHED { step_lines } else { 0 };
            let start = job.ready.start(part.column(panels));
            let narrow = part.channels(panels).1 <= CHANNELS / 2;
            for first in positions.clone().step_by(POSITIONS) {
                part.first = first;
                part.pixels = POSITIONS.min(positions.end - first);
                part.in_block = first - positions.start;
                let one = part.pixels <= TILE_ROWS;
                let (a, b) = (place(first), if one { place(first) } else { place(first + TILE_ROWS) });
                let rows = Rows { at: [a.0, b.0], pitch: [a.1, b.1] };
                let lines = share.min(step_lines - fetched);
                let ahead = lies.wrapping_add(panels.panel_pitch() + fetched * depth * runs.count * LINE);
                fetched += lines;
                let x = Operands { rows, runs, depth, weights, start, lines, ahead };
                // SAFETY: the caller's; a panel holds `runs * depth` steps of weights.
                let sums = unsafe {
                    match (one, narrow, lines > 0) {
                        (false, false, false) => self.product::<S, 2, 2, false>(s, job, x),
                        (true, false, false) => self.product::<S, 1, 2, false>(s, job, x),
                        (false, false, true) => self.product::<S, 2, 2, true>(s, job, x),
                        (true, false, true) => self.product::<S, 1, 2, true>(s, job, x),
                        // Narrow panels are few.
                        (false, true, _) => self.product::<S, 2, 1, false>(s, job, x),
                        (true, true, _) => self.product::<S, 1, 1, false>(s, job, x),
                    }
                };
                self.left = Left::new(job, part, sums, grid, origin, first);
            }
        }
    }

    /// One product, and meanwhile what is left of the one before. Answers the sums.
    ///
    /// # Safety
    /// The operands are readable.
    #[inline(always)]
    unsafe fn product<S: Simd, const M: usize, const N: usize, const FETCH: bool>(
        &mut self,
        s: S,
        job: &Job,
        x: Operands,
    ) -> *mut i32 {
        let mut left = self.left;
        let same = self.after.same(s, job, &left);
        // The last two shares come between the stores.
        let share = left.calls().div_ceil(x.runs.count * x.depth + 2);
        let to = self.sums[self.turn].0.as_mut_ptr();
        self.turn ^= 1;
        let (mut weights, mut ahead) = (x.weights, x.ahead);
        // SAFETY: the caller's; the sums have room for 32 positions.
        unsafe {
            self.tiles.start::<M, N>(x.start);
            for run in 0..x.runs.count {
                let offset = x.runs.offset(run);
                let [mut a, mut b] = x.rows.at.map(|at| at.wrapping_add(offset));
                for _ in 0..x.depth {
                    self.tiles.step::<M, N>(Rows { at: [a, b], pitch: x.rows.pitch }, weights);
                    (a, b) = (a.wrapping_add(TILE_BYTES), b.wrapping_add(TILE_BYTES));
                    weights = weights.wrapping_add(TILE_BYTES / 4 * CHANNELS * 4);
                    for _ in 0..if FETCH { x.lines } else { 0 } {
                        fetch(ahead);
                        ahead = ahead.wrapping_add(LINE);
                    }
                    self.finish(s, job, &same, &mut left, share);
                }
            }
            self.tiles.store::<N>(to, 0);
            self.finish(s, job, &same, &mut left, share);
            if M == 2 {
                self.tiles.store::<N>(to.add(TILE_ROWS * CHANNELS), 1);
            }
            self.finish(s, job, &same, &mut left, POSITIONS);
        }
        to
    }

    /// Calls [`After::some`] up to `calls` times. (Vector code must not be in a closure: it would be compiled
    /// without the instruction set.)
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, job: &Job, same: &A::Same<S>, left: &mut Left, calls: usize) {
        for _ in 0..calls.min(left.calls()) {
            // SAFETY: the outputs of a job are writable; the sums were stored.
            unsafe { self.after.some(s, job, same, left) };
        }
    }

    /// Finishes all that is left.
    #[inline(always)]
    fn drain<S: Simd>(&mut self, s: S, job: &Job) {
        if self.left.calls() > 0 {
            let mut left = self.left;
            let same = self.after.same(s, job, &left);
            self.finish(s, job, &same, &mut left, POSITIONS);
            self.left = left;
        }
    }
}
