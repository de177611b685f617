//! The specification: plain loops.
use super::{ConvGeom, Epilogue, Out, Requant};
use crate::round::{Dyadic, requantize_dyadic, requantize_onnx};
use std::ops::Range;

/// Writes the outputs of pixel number `pixel` (counted from the first one wanted), channel `channel`.
#[inline]
pub(crate) fn finish(epi: &Epilogue, c_out: usize, acc: i32, pixel: usize, channel: usize, out: &mut Out) {
    let (zero, lo, hi) = (epi.zero.into(), epi.lo.into(), epi.hi.into());
    match (epi.requant, out) {
        (Requant::Onnx(m), Out::U8 { data, pitch }) => {
            data[pixel * *pitch + channel] = requantize_onnx(acc, m[channel], zero, lo, hi) as u8;
        }
        (Requant::Dyadic { mult, shift }, Out::U8 { data, pitch }) => {
            let by = Dyadic { mult: mult[channel], shift: shift[channel] };
            data[pixel * *pitch + channel] = requantize_dyadic(acc, by, zero, lo, hi) as u8;
        }
        (Requant::Real(scale), Out::F32(data)) => {
            data[pixel * c_out + channel] = acc as f32 * scale[channel];
        }
        (Requant::None, Out::I32(data)) => data[pixel * c_out + channel] = acc,
        _ => unreachable!("checked by Epilogue::check"),
    }
}

/// `w` is `[c_out][k_h][k_w][c_in / groups]`.
pub(crate) fn run(geom: &ConvGeom, w: &[i8], x: &[u8], x_zero: u8, rows: Range<usize>, epi: &Epilogue, mut out: Out) {
    let depth = geom.c_in / geom.groups;
    let c_group = geom.c_out / geom.groups;
    for (pixel, row) in rows.enumerate() {
        let window = geom.window(row);
        for channel in 0..geom.c_out {
            let w_zero = epi.w_zero.map_or(0, |zeros| zeros[channel]);
            let first = channel / c_group * depth;
            let mut acc = epi.bias[channel];
            for h in 0..geom.k_h {
                for tap in 0..geom.k_w {
                    let Some(at) = geom.offset(window, h, tap) else {
                        continue;
                    };
                    let x = &x[at + first..][..depth];
                    let w = &w[((channel * geom.k_h + h) * geom.k_w + tap) * depth..][..depth];
                    for (&x, &w) in x.iter().zip(w) {
                        let x = i32::from(x) - i32::from(x_zero);
                        let w = i32::from(w).wrapping_sub(w_zero);
                        acc = acc.wrapping_add(x.wrapping_mul(w));
                    }
                }
            }
            finish(epi, geom.c_out, acc, pixel, channel, &mut out);
        }
    }
}
