//! What follows the accumulators of a tile, other than in the tile itself.
use super::{ConvGeom, Epilogue, Out, Requant, Scratch, pack::Panels};
use crate::{
    round::vector::{self, DyadicVector, DyadicWide, Kind, OnnxVector, Prepared, VectorRequant},
    simd::{MAX_LANES, Simd, TILE_VECTORS, Vector},
};
use std::ops::Range;

/// A tile's place in the output.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Its first pixel, counted from the first one wanted.
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
pub(super) fn finish<S: Simd>(
    s: S,
    panels: &Panels,
    epi: &Epilogue,
    scratch: &Scratch,
    part: Part,
    acc: &[i32],
    c_out: usize,
    out: &mut Out,
) {
    let (first, count) = part.channels(panels);
    let column = part.column(panels);
    let rows = acc.chunks_exact(panels.width).take(part.pixels).enumerate();
    match (epi.requant, out) {
        (Requant::None, Out::I32(data)) => {
            for (i, acc) in rows {
                let at = (part.first + i) * c_out + first;
                data[at..at + count].copy_from_slice(&acc[..count]);
            }
        }
        (Requant::Real(_), Out::F32(data)) => {
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
                column,
                pixels: part.pixels,
            };
            match scratch.prepared.kind() {
                Kind::Onnx => to.write::<S, OnnxVector<S::V>>(s, &scratch.prepared, acc),
                Kind::Dyadic => to.write::<S, DyadicVector<S::V>>(s, &scratch.prepared, acc),
                Kind::Wide => to.write::<S, DyadicWide<S::V>>(s, &scratch.prepared, acc),
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
