//! The specification: plain loops.
use super::{ConvGeom, Epilogue, Out, Requant};
use crate::round::{Dyadic, dynamic_real, requantize_dyadic, requantize_onnx};
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
        (Requant::Dynamic { x_scale, scale, bias }, Out::F32(data)) => {
            data[pixel * c_out + channel] = dynamic_real(acc, x_scale, scale[channel], bias[channel]);
        }
        (Requant::None, Out::I32(data)) => data[pixel * c_out + channel] = acc,
        (Requant::Words { mult, shift, to }, Out::I16(data)) => {
            let by = Dyadic { mult: mult[channel], shift: shift[channel] };
            data[pixel * c_out + channel] = requantize_dyadic(acc, by, to.zero, to.lo, to.hi) as i16;
        }
        _ => unreachable!("checked by Epilogue::check"),
    }
}

/// `w` is `[c_out][k_h][k_w][c_in / groups]`.
pub(crate) fn run(geom: &ConvGeom, w: &[i8], x: &[u8], x_zero: u8, rows: Range<usize>, epi: &Epilogue, mut out: Out) {
    if geom.groups == geom.c_in && geom.c_in == geom.c_out {
        return depthwise(geom, w, x, x_zero, rows, epi, out);
    }
    let depth = geom.depth();
    let c_group = geom.c_out / geom.groups;
    let w: Vec<i16> = w.iter().map(|&w| w.into()).collect();
    let mut window = vec![0; geom.groups * depth];
    for (pixel, row) in rows.enumerate() {
        gather(geom, x, x_zero, row, &mut window);
        for channel in 0..geom.c_out {
            let x = &window[channel / c_group * depth..][..depth];
            let w = &w[channel * depth..][..depth];
            let mut acc = epi.bias[channel].wrapping_add(dot(x, w));
            if let Some(w_zero) = epi.w_zero {
                // sum x * (w - w_zero) = sum x * w - w_zero * sum x
                let sum: i32 = x.iter().map(|&x| i32::from(x)).sum();
                acc = acc.wrapping_sub(w_zero[channel].wrapping_mul(sum));
            }
            finish(epi, geom.c_out, acc, pixel, channel, &mut out);
        }
    }
}

/// A kernel for each channel: the loop over channels is the inner one.
fn depthwise(geom: &ConvGeom, w: &[i8], x: &[u8], x_zero: u8, rows: Range<usize>, epi: &Epilogue, mut out: Out) {
    let (c, taps) = (geom.c_in, geom.k_h * geom.k_w);
    let weight = |tap: usize, channel: usize| {
        let w_zero = epi.w_zero.map_or(0, |zeros| zeros[channel]);
        i32::from(w[channel * taps + tap]).wrapping_sub(w_zero)
    };
    let w: Vec<i32> = (0..taps * c).map(|i| weight(i / c, i % c)).collect();
    let mut window = vec![0; taps * c];
    for (pixel, row) in rows.enumerate() {
        gather(&ConvGeom { groups: 1, ..*geom }, x, x_zero, row, &mut window);
        let mut acc = epi.bias.to_vec();
        for (x, w) in window.chunks_exact(c).zip(w.chunks_exact(c)) {
            for ((acc, &x), &w) in acc.iter_mut().zip(x).zip(w) {
                *acc = acc.wrapping_add(i32::from(x).wrapping_mul(w));
            }
        }
        for (channel, acc) in acc.into_iter().enumerate() {
            finish(epi, c, acc, pixel, channel, &mut out);
        }
    }
}

/// The differences `x - x_zero` in the window of output pixel `pixel`, in the order of the weights:
/// `[groups][k_h][k_w][c_in / groups]`. They are 0 in the padding.
fn gather(geom: &ConvGeom, x: &[u8], x_zero: u8, pixel: usize, to: &mut [i16]) {
    let at = geom.window(pixel);
    let (taps, c) = (geom.k_h * geom.k_w, geom.c_in / geom.groups);
    to.fill(0);
    for tap in 0..taps {
        let Some(from) = geom.offset(at, tap / geom.k_w, tap % geom.k_w) else {
            continue;
        };
        for group in 0..geom.groups {
            let to = &mut to[(group * taps + tap) * c..][..c];
            for (to, &x) in to.iter_mut().zip(&x[from + group * c..]) {
                *to = i16::from(x) - i16::from(x_zero);
            }
        }
    }
}

/// `sum x * w`, wrapping. Every machine's vectors can sum products of 16-bit integers.
fn dot(x: &[i16], w: &[i16]) -> i32 {
    let product = |(&x, &w): (&i16, &i16)| i32::from(x) * i32::from(w);
    x.iter().zip(w).map(product).fold(0, i32::wrapping_add)
}
