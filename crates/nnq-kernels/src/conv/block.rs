//! The loops around the tile: blocks of pixels that stay in the cache, where each pixel's inputs lie,
//! and what follows the accumulators.
use super::{
    ConvGeom, Epilogue, Out, Requant, Scratch,
    geometry::Window,
    pack::Panels,
    tile::{Args, Source, tile},
};
use crate::{
    SLACK,
    round::vector::{self, DyadicVector, DyadicWide, Kind, OnnxVector, Prepared, VectorRequant},
    simd::{MAX_LANES, Op, Simd, TILE_VECTORS, Vector},
};
use std::ops::Range;

/// Bytes of inputs of one block of pixels: a part of the second-level cache.
const BLOCK_BYTES: usize = 256 << 10;
/// Most tiles in one block of pixels.
const BLOCK_TILES: usize = 16;
/// Spans shorter than this many steps are gathered: the loop around them would cost more.
const SHORT_SPAN: usize = 8;
/// Inputs of neighbouring pixels that are this many bytes apart fall into one set of the first-level
/// cache.
const ALIASED: usize = 4096;

/// A convolution of some output pixels.
pub(super) struct Job<'a, 'o> {
    pub(super) geom: &'a ConvGeom,
    pub(super) panels: &'a Panels,
    pub(super) x: &'a [u8],
    pub(super) x_zero: u8,
    pub(super) rows: Range<usize>,
    pub(super) epi: &'a Epilogue<'a>,
    pub(super) out: Out<'o>,
    pub(super) scratch: &'a mut Scratch,
}

/// How a pixel's inputs are found.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Runs of neighbouring bytes of the input that make up a pixel's inputs.
    spans: usize,
    span_bytes: usize,
    /// Positions of the kernel in one span.
    span_taps: usize,
    /// Every pixel is copied together, also those whose window lies inside.
    gather: bool,
    /// Bytes of a gathered pixel.
    patch: usize,
}

impl Plan {
    fn new(geom: &ConvGeom, panels: &Panels) -> Plan {
        let whole_rows = panels.groups == 1 && geom.dil_w == 1;
        let span_taps = if whole_rows { geom.k_w } else { 1 };
        let spans = geom.k_h * geom.k_w / span_taps.max(1);
        let span_bytes = span_taps * panels.c_in;
        let splittable = span_bytes.is_multiple_of(4) && span_bytes / 4 >= SHORT_SPAN;
        let apart = geom.stride_w * geom.c_in;
        let aliased = apart.is_multiple_of(ALIASED) && geom.pixels() > 4;
        Plan {
            spans,
            span_bytes,
            span_taps,
            gather: (spans > 1 && !splittable) || aliased,
            patch: (panels.steps * 4).next_multiple_of(64) + 64,
        }
    }

    /// The spans that the tile sees, and its steps in each.
    fn tile_spans(&self, panels: &Panels) -> (usize, usize) {
        match self.gather {
            true => (1, panels.steps),
            false => (self.spans, panels.steps / self.spans),
        }
    }
}

impl Op for Job<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let (geom, panels) = (self.geom, self.panels);
        let scratch = &mut *self.scratch;
        self.epi
            .prepare(&mut scratch.prepared, &mut scratch.scale, panels.columns());
        scratch.correction.clear();
        scratch.correction.extend(panels.columns().map(|channel| {
            channel.map_or(0, |c| {
                let shift = panels.sums[c].wrapping_mul(self.x_zero.into());
                self.epi.bias[c].wrapping_sub(shift)
            })
        }));
        let plan = Plan::new(geom, panels);
        let (spans, steps) = plan.tile_spans(panels);
        let tile_pixels = S::TILE_PIXELS;
        let tiles = (BLOCK_BYTES / (panels.steps * 4).max(1) / tile_pixels).clamp(1, BLOCK_TILES);
        let width = TILE_VECTORS * S::V::LANES;
        debug_assert!(panels.width == width);
        let rows = self.rows.clone();
        let blocks = rows.len().div_ceil(tiles * tile_pixels);
        for block in 0..blocks {
            let share = |i: usize| rows.start + rows.len() * i / blocks;
            let pixels = share(block)..share(block + 1);
            let tiles = pixels.len().div_ceil(tile_pixels);
            let cut = |i: usize| pixels.len() * i / tiles;
            let scratch = &mut *self.scratch;
            scratch.patches.resize(pixels.len() * plan.patch + SLACK, 0);
            if self.epi.w_zero.is_some() {
                row_sums(
                    geom,
                    self.x,
                    self.x_zero,
                    pixels.clone(),
                    &mut scratch.row_sums,
                );
            }
            for group in 0..panels.groups {
                scratch.table.clear();
                for t in 0..tiles {
                    let tile = pixels.start + cut(t)..pixels.start + cut(t + 1);
                    let at = cut(t);
                    find_sources(
                        &plan,
                        geom,
                        panels,
                        self.x,
                        self.x_zero,
                        group,
                        tile,
                        at,
                        scratch,
                    );
                }
                let scratch = &*scratch;
                for panel in 0..panels.panels {
                    let column = (group * panels.panels + panel) * width;
                    let mut acc = [0i32; 14 * TILE_VECTORS * MAX_LANES];
                    for t in 0..tiles {
                        let here = cut(t)..cut(t + 1);
                        let args = Args {
                            sources: scratch.table[here.start * spans..][..here.len() * spans]
                                .as_ptr(),
                            spans,
                            steps,
                            weights: panels.panel(group, panel).as_ptr().cast(),
                            start: scratch.correction[column..][..width].as_ptr(),
                            acc: acc.as_mut_ptr(),
                        };
                        // SAFETY: the table holds an address of `steps * 4` readable bytes for each span and
                        // pixel (see `find_sources`), a panel `spans * steps` steps of weights, and `acc` has
                        // room for the largest tile.
                        unsafe { tile(s, here.len(), args) };
                        let part = Part {
                            first: pixels.start - rows.start + here.start,
                            pixels: here.len(),
                            in_block: here.start,
                            group,
                            panel,
                        };
                        if self.epi.w_zero.is_some() {
                            correct_rows(geom, panels, self.epi, &scratch.row_sums, part, &mut acc);
                        }
                        finish(
                            s,
                            panels,
                            self.epi,
                            scratch,
                            part,
                            &acc,
                            geom.c_out,
                            &mut self.out,
                        );
                    }
                }
            }
        }
    }
}

/// A tile's place in the output.
#[derive(Clone, Copy)]
struct Part {
    /// Its first pixel, counted from the first one wanted.
    first: usize,
    pixels: usize,
    /// Its first pixel, counted from the first of the block.
    in_block: usize,
    group: usize,
    panel: usize,
}

/// Appends the addresses of the inputs of `pixels`, span by span. A pixel whose window reaches into the
/// padding (or every pixel, as the plan says) is first copied together, into the patch number `patch` and
/// following.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn find_sources(
    plan: &Plan,
    geom: &ConvGeom,
    panels: &Panels,
    x: &[u8],
    x_zero: u8,
    group: usize,
    pixels: Range<usize>,
    patch: usize,
    scratch: &mut Scratch,
) {
    let count = pixels.len();
    let spans = if plan.gather { 1 } else { plan.spans };
    let base = scratch.table.len();
    scratch
        .table
        .resize(base + count * spans, Source(x.as_ptr()));
    let channel = group * panels.c_in;
    for (i, pixel) in pixels.enumerate() {
        let window = geom.window(pixel);
        if !plan.gather && geom.is_inside(window) {
            for span in 0..spans {
                let tap = span * plan.span_taps;
                let at = geom.offset(window, tap / geom.k_w, tap % geom.k_w);
                let at = at.expect("inside") + channel;
                // A step of four bytes and the rounding up of the last step stay within the slack.
                scratch.table[base + span * count + i] = Source(x[at..].as_ptr());
            }
        } else {
            let copy = &mut scratch.patches[(patch + i) * plan.patch..][..plan.patch];
            gather(plan, geom, panels.c_in, x, x_zero, channel, window, copy);
            for span in 0..spans {
                let from = &copy[span * plan.span_bytes..];
                scratch.table[base + span * count + i] = Source(from.as_ptr());
            }
        }
    }
}

/// Copies the inputs of one pixel together. Bytes behind the last input are left as they are: they meet
/// weights of 0.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn gather(
    plan: &Plan,
    geom: &ConvGeom,
    c_in: usize,
    x: &[u8],
    x_zero: u8,
    channel: usize,
    window: Window,
    to: &mut [u8],
) {
    let inside = geom.is_inside(window);
    for span in 0..plan.spans {
        let tap = span * plan.span_taps;
        let (h, w) = (tap / geom.k_w, tap % geom.k_w);
        if inside {
            let at = geom.offset(window, h, w).expect("inside") + channel;
            copy(x, at, to, span * plan.span_bytes, plan.span_bytes);
            continue;
        }
        // The positions of the span that lie inside are neighbours.
        let (mut first, mut end) = (plan.span_taps, 0);
        for t in 0..plan.span_taps {
            if geom.offset(window, h, w + t).is_some() {
                first = first.min(t);
                end = t + 1;
            }
        }
        let start = span * plan.span_bytes;
        if first >= end {
            to[start..start + plan.span_bytes].fill(x_zero);
            continue;
        }
        to[start..start + first * c_in].fill(x_zero);
        let at = geom.offset(window, h, w + first).expect("inside") + channel;
        copy(x, at, to, start + first * c_in, (end - first) * c_in);
        to[start + end * c_in..start + plan.span_bytes].fill(x_zero);
    }
}

/// Copies `bytes` bytes, up to 63 more than that when source and target have the room: whole vectors
/// are faster than exact ends, and what is behind the end is overwritten by the next span.
#[inline(always)]
fn copy(x: &[u8], at: usize, to: &mut [u8], start: usize, bytes: usize) {
    let whole = bytes.next_multiple_of(32);
    if at + whole <= x.len() && start + whole <= to.len() {
        for i in (0..whole).step_by(32) {
            let from: &[u8; 32] = x[at + i..at + i + 32].try_into().expect("32 bytes");
            to[start + i..start + i + 32].copy_from_slice(from);
        }
    } else {
        to[start..start + bytes].copy_from_slice(&x[at..at + bytes]);
    }
}

/// `sum (qx - zx)` of each pixel and original group: what weights with a zero point need.
fn row_sums(geom: &ConvGeom, x: &[u8], x_zero: u8, pixels: Range<usize>, sums: &mut Vec<i32>) {
    sums.clear();
    let depth = geom.c_in / geom.groups;
    for pixel in pixels {
        let window = geom.window(pixel);
        for group in 0..geom.groups {
            let mut sum = 0i32;
            for h in 0..geom.k_h {
                for w in 0..geom.k_w {
                    if let Some(at) = geom.offset(window, h, w) {
                        let x = &x[at + group * depth..][..depth];
                        let total: i32 = x.iter().map(|&x| i32::from(x)).sum();
                        sum += total - depth as i32 * i32::from(x_zero);
                    }
                }
            }
            sums.push(sum);
        }
    }
}

/// Subtracts `zw * sum (qx - zx)`.
#[inline(always)]
fn correct_rows(
    geom: &ConvGeom,
    panels: &Panels,
    epi: &Epilogue,
    sums: &[i32],
    part: Part,
    acc: &mut [i32],
) {
    let Some(w_zero) = epi.w_zero else { return };
    let c_group = geom.c_out / geom.groups;
    for pixel in 0..part.pixels {
        let sums = &sums[(part.in_block + pixel) * geom.groups..][..geom.groups];
        let acc = &mut acc[pixel * panels.width..][..panels.width];
        for (column, acc) in acc.iter_mut().enumerate() {
            if let Some(c) = panels.channel(part.group, part.panel, column) {
                *acc = acc.wrapping_sub(w_zero[c].wrapping_mul(sums[c / c_group]));
            }
        }
    }
}

/// Turns a tile's accumulators into outputs.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn finish<S: Simd>(
    s: S,
    panels: &Panels,
    epi: &Epilogue,
    scratch: &Scratch,
    part: Part,
    acc: &[i32],
    c_out: usize,
    out: &mut Out,
) {
    let first = panels
        .channel(part.group, part.panel, 0)
        .expect("a panel has a column");
    let count = panels.width.min((part.group + 1) * panels.c_out - first);
    let rows = acc.chunks_exact(panels.width).take(part.pixels).enumerate();
    match (epi.requant, out) {
        (Requant::None, Out::I32(data)) => {
            for (i, acc) in rows {
                let at = (part.first + i) * c_out + first;
                data[at..at + count].copy_from_slice(&acc[..count]);
            }
        }
        (Requant::Real(_), Out::F32(data)) => {
            let column = (part.group * panels.panels + part.panel) * panels.width;
            let scale = &scratch.scale[column..][..count];
            for (i, acc) in rows {
                let at = (part.first + i) * c_out + first;
                for ((y, &acc), &scale) in data[at..at + count].iter_mut().zip(acc).zip(scale) {
                    *y = acc as f32 * scale;
                }
            }
        }
        (_, Out::U8 { data, pitch }) => {
            let to = Codes {
                data: &mut data[part.first * *pitch + first..],
                pitch: *pitch,
                count,
                column: (part.group * panels.panels + part.panel) * panels.width,
                pixels: part.pixels,
            };
            match scratch.prepared.kind() {
                Kind::Onnx => to.write::<S, OnnxVector<S::V>>(s, &scratch.prepared, acc),
                Kind::Dyadic => to.write::<S, DyadicVector<S::V>>(s, &scratch.prepared, acc),
                Kind::Wide => to.write::<S, DyadicWide>(s, &scratch.prepared, acc),
            }
        }
        _ => unreachable!("checked by Epilogue::check"),
    }
}

/// Where a tile's codes go.
struct Codes<'a> {
    data: &'a mut [u8],
    pitch: usize,
    count: usize,
    column: usize,
    pixels: usize,
}

impl Codes<'_> {
    #[inline(always)]
    fn write<S: Simd, R: VectorRequant<S::V>>(self, s: S, prepared: &Prepared, acc: &[i32]) {
        let v = s.v();
        let lanes = S::V::LANES;
        for j in 0..TILE_VECTORS {
            if j * lanes >= self.count {
                break;
            }
            let count = lanes.min(self.count - j * lanes);
            let requant = R::load(v, prepared, self.column + j * lanes);
            for i in 0..self.pixels {
                let sums = vector::load(v, acc, (i * TILE_VECTORS + j) * lanes);
                let codes = requant.apply(v, sums);
                let to = &mut self.data[i * self.pitch + j * lanes..][..count];
                if count == lanes {
                    // SAFETY: the slice holds LANES bytes.
                    unsafe { v.narrow(to.as_mut_ptr(), codes) };
                } else {
                    let mut all = [0u8; MAX_LANES];
                    // SAFETY: the array holds LANES bytes.
                    unsafe { v.narrow(all.as_mut_ptr(), codes) };
                    to.copy_from_slice(&all[..count]);
                }
            }
        }
    }
}
