//! What follows the accumulators of a tile, other than in the tile itself.
use super::{
    ConvGeom,
    epilogue::{Live, OutPtr, Ready, Words},
    pack::Panels,
};
use crate::{
    round::{
        vector::{self, DyadicVector, DyadicWide, Kind, OnnxVector, Prepared, VectorRequant},
        words::Factors,
    },
    simd::{Float, Int, MAX_LANES, Simd, TILE_VECTORS, Vector},
};
use std::ops::Range;

/// A tile's place in the output.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Its first pixel.
    pub(super) first: usize,
    pub(super) pixels: usize,
    /// Its first pixel, counted from the first of the block.
    pub(super) in_block: usize,
    pub(super) group: usize,
    pub(super) panel: usize,
}

impl Part {
    /// The output channels that it writes: the first, and how many.
    #[inline(always)]
    pub(super) fn channels(&self, panels: &Panels) -> (usize, usize) {
        let within = self.panel * panels.width;
        let count = panels.width.min(panels.c_out - within);
        (self.group * panels.c_out + within, count)
    }

    /// Its first column among those of all panels.
    #[inline(always)]
    pub(super) fn column(&self, panels: &Panels) -> usize {
        (self.group * panels.panels + self.panel) * panels.width
    }
}

/// `sum (qx - zx)` of each pixel and original group: what weights with a zero point need.
#[inline(always)]
pub(super) fn row_sums(geom: &ConvGeom, x: &[u8], x_zero: u8, pixels: Range<usize>, sums: &mut Vec<i32>) {
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
pub(super) fn correct_rows(
    geom: &ConvGeom,
    panels: &Panels,
    w_zero: &[i32],
    sums: &[i32],
    part: Part,
    acc: &mut [i32],
) {
    let c_group = geom.c_out / geom.groups;
    let zeros = &w_zero[part.column(panels)..][..panels.width];
    for pixel in 0..part.pixels {
        let sums = &sums[(part.in_block + pixel) * geom.groups..][..geom.groups];
        let acc = &mut acc[pixel * panels.width..][..panels.width];
        if let &[sum] = sums {
            for (acc, zero) in acc.iter_mut().zip(zeros) {
                *acc = acc.wrapping_sub(zero.wrapping_mul(sum));
            }
            continue;
        }
        for (column, (acc, zero)) in acc.iter_mut().zip(zeros).enumerate() {
            if let Some(c) = panels.channel(part.group, part.panel, column) {
                *acc = acc.wrapping_sub(zero.wrapping_mul(sums[c / c_group]));
            }
        }
    }
}

/// Turns a tile's accumulators into outputs. `grids`: those of the inputs of its pixels, where each has one of its own.
///
/// # Safety
/// The tile's outputs are writable at `out`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn finish<S: Simd>(
    s: S,
    panels: &Panels,
    ready: &Ready,
    (part, grids): (Part, Option<&[Live]>),
    acc: &[i32],
    c_out: usize,
    out: OutPtr,
) {
    let (first, count) = part.channels(panels);
    let column = part.column(panels);
    let rows = acc.chunks_exact(panels.width).take(part.pixels).enumerate();
    let at = |i: usize| (part.first + i) * c_out + first;
    match out {
        OutPtr::I32(data) => {
            for (i, acc) in rows {
                // SAFETY: the outputs are writable.
                let to = unsafe { std::slice::from_raw_parts_mut(data.wrapping_add(at(i)), count) };
                to.copy_from_slice(&acc[..count]);
            }
        }
        OutPtr::F32(data) => {
            let v = s.v();
            let mut to_real = ToReal::<S>::new(s, ready, column);
            let by_row = grids.map(|grids| (grids, ByRow::<S>::new(s, ready, column)));
            for (i, acc) in rows {
                let mut y = [vector::load(v, acc, 0), vector::load(v, acc, S::V::LANES)];
                if let Some((grids, by_row)) = by_row {
                    let Live { scale, zero } = grids[i];
                    let (zero, scale) = (v.splat(zero.into()), v.splat_f(scale));
                    y = [v.sub(y[0], v.mul(by_row.sums[0], zero)), v.sub(y[1], v.mul(by_row.sums[1], zero))];
                    to_real.scale = [v.mul_f(by_row.scale[0], scale), v.mul_f(by_row.scale[1], scale)];
                }
                // SAFETY: the outputs are writable.
                unsafe { store_reals(s, data.wrapping_add(at(i)), y, to_real, count) };
            }
        }
        OutPtr::I16(data) => {
            let words = ready.words.as_ref().expect("the epilogue makes words");
            // SAFETY: the outputs are writable.
            unsafe { store_words(s, words, column, (data.wrapping_add(at(0)), c_out, count), rows) };
        }
        OutPtr::U8 { data, pitch } => {
            let data = data.wrapping_add(part.first * pitch + first);
            let to = Codes { data, pitch, count, column, pixels: part.pixels };
            // SAFETY: the outputs are writable.
            unsafe {
                match ready.kind() {
                    Kind::Onnx => to.write::<S, OnnxVector<S::V>>(s, &ready.prepared, acc),
                    Kind::Dyadic => to.write::<S, DyadicVector<S::V>>(s, &ready.prepared, acc),
                    Kind::Wide => to.write::<S, DyadicWide<S::V>>(s, &ready.prepared, acc),
                }
            }
        }
    }
}

/// The words of the accumulators of some pixels, to `count` of each `pitch` words.
///
/// # Safety
/// They are writable.
#[inline(always)]
unsafe fn store_words<'a, S: Simd>(
    s: S,
    words: &Words,
    column: usize,
    (to, pitch, count): (*mut i16, usize, usize),
    rows: impl Iterator<Item = (usize, &'a [i32])>,
) {
    let (v, lanes) = (s.v(), S::V::LANES);
    let factors = Factors::new(v, words.to.parts());
    let of = (&words.mult[column..][..TILE_VECTORS * lanes], &words.shift[column..][..TILE_VECTORS * lanes]);
    // SAFETY: the slices hold as many.
    let (mult, shift) = unsafe {
        let (mult, shift) = (of.0.as_ptr(), of.1.as_ptr());
        ([v.load(mult), v.load(mult.add(lanes))], [v.widen(shift), v.widen(shift.add(lanes))])
    };
    for (i, acc) in rows {
        let low = factors.apply(v, vector::load(v, acc, 0), mult[0], shift[0]);
        let high = factors.apply(v, vector::load(v, acc, lanes), mult[1], shift[1]);
        let to = to.wrapping_add(i * pitch);
        let mut all = [0i16; TILE_VECTORS * MAX_LANES];
        let whole = count == TILE_VECTORS * lanes;
        let at = if whole { to } else { all.as_mut_ptr() };
        // SAFETY: the caller's; the array holds the most lanes.
        unsafe {
            v.narrow_words(at, low);
            v.narrow_words(at.wrapping_add(lanes), high);
            if !whole {
                to.copy_from_nonoverlapping(all.as_ptr(), count);
            }
        }
    }
}

/// What inputs on a grid of their own add to accumulators that began without a zero point, and the scales of the weights.
#[derive(Clone, Copy)]
struct ByRow<S: Simd> {
    sums: [Int<S>; TILE_VECTORS],
    scale: [Float<S>; TILE_VECTORS],
}

impl<S: Simd> ByRow<S> {
    #[inline(always)]
    fn new(s: S, ready: &Ready, column: usize) -> Self {
        let (v, lanes) = (s.v(), S::V::LANES);
        let (sums, scale) = ready.by_row(column);
        let scale = &scale[..TILE_VECTORS * lanes];
        // SAFETY: the slice holds as many, and sums lie by whole panels.
        unsafe {
            ByRow {
                sums: [v.load(sums), v.load(sums.add(lanes))],
                scale: [v.load_f(scale.as_ptr()), v.load_f(scale[lanes..].as_ptr())],
            }
        }
    }
}

/// What makes real numbers of the accumulators of a tile.
#[derive(Clone, Copy)]
pub(super) struct ToReal<S: Simd> {
    scale: [Float<S>; TILE_VECTORS],
    /// Only where something is added: -0 would not stay -0.
    bias: Option<[Float<S>; TILE_VECTORS]>,
}

impl<S: Simd> ToReal<S> {
    /// For the channels of a tile whose first column is `column`.
    #[inline(always)]
    pub(super) fn new(s: S, ready: &Ready, column: usize) -> Self {
        let v = s.v();
        let two = |from: &[f32]| {
            let from = &from[column..][..TILE_VECTORS * S::V::LANES];
            // SAFETY: the slice holds as many.
            unsafe { [v.load_f(from.as_ptr()), v.load_f(from[S::V::LANES..].as_ptr())] }
        };
        let bias = if ready.real_bias.is_empty() { None } else { Some(two(&ready.real_bias)) };
        ToReal { scale: two(&ready.scale), bias }
    }
}

/// `f32(acc) * scale`, plus the bias if there is one, of the first `count` channels of a pixel.
///
/// # Safety
/// As many are writable at `to`.
#[inline(always)]
pub(super) unsafe fn store_reals<S: Simd>(
    s: S,
    to: *mut f32,
    acc: [Int<S>; TILE_VECTORS],
    by: ToReal<S>,
    count: usize,
) {
    let (v, lanes) = (s.v(), S::V::LANES);
    let mut all = [0f32; TILE_VECTORS * MAX_LANES];
    let whole = count == TILE_VECTORS * lanes;
    let at = if whole { to } else { all.as_mut_ptr() };
    let mut y = [v.mul_f(v.to_float(acc[0]), by.scale[0]), v.mul_f(v.to_float(acc[1]), by.scale[1])];
    if let Some(bias) = by.bias {
        y = [v.add_f(y[0], bias[0]), v.add_f(y[1], bias[1])];
    }
    // SAFETY: the caller's; the array holds the most lanes.
    unsafe {
        v.store_f(at, y[0]);
        v.store_f(at.wrapping_add(lanes), y[1]);
        if !whole {
            to.copy_from_nonoverlapping(all.as_ptr(), count);
        }
    }
}

/// Where a tile's codes go.
struct Codes {
    data: *mut u8,
    pitch: usize,
    count: usize,
    column: usize,
    pixels: usize,
}

impl Codes {
    /// # Safety
    /// `count` bytes are writable at `data` and at each `pitch` behind it, for every pixel.
    #[inline(always)]
    unsafe fn write<S: Simd, R: VectorRequant<S::V>>(self, s: S, prepared: &Prepared, acc: &[i32]) {
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
                let to = self.data.wrapping_add(i * self.pitch + j * lanes);
                if count == lanes {
                    // SAFETY: LANES bytes are writable.
                    unsafe { v.narrow(to, codes) };
                } else {
                    let mut all = [0u8; MAX_LANES];
                    // SAFETY: the array holds LANES bytes; `count` bytes are writable.
                    unsafe {
                        v.narrow(all.as_mut_ptr(), codes);
                        to.copy_from_nonoverlapping(all.as_ptr(), count);
                    }
                }
            }
        }
    }
}
