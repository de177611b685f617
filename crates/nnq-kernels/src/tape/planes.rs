//! The change between planes of real numbers and pixels of codes, for some pixels of one sample.
use super::step::{Code, Planes};
use crate::{Isa, eltwise};
use std::ops::Range;

/// Pixels that change together; they stay in the first-level cache.
const PIXELS: usize = 64;

/// The codes of the pixels `row` of the sample `x`, `[channels][pixels]`, to `y`, `[row][channels]`.
pub(super) fn quantize(isa: Isa, x: &[f32], planes: Planes, row: Range<usize>, code: Code, y: &mut [u8]) {
    let c = planes.channels;
    if c == 1 {
        return eltwise::quantize(isa, &x[row], code.scale, code.zero, code.lo, code.hi, y);
    }
    let mut codes = [0u8; PIXELS];
    for first in row.clone().step_by(PIXELS) {
        let count = PIXELS.min(row.end - first);
        let y = &mut y[(first - row.start) * c..][..count * c];
        for channel in 0..c {
            let x = &x[channel * planes.pixels + first..][..count];
            eltwise::quantize(isa, x, code.scale, code.zero, code.lo, code.hi, &mut codes[..count]);
            for (y, &code) in y[channel..].iter_mut().step_by(c).zip(&codes) {
                *y = code;
            }
        }
    }
}

/// The real numbers of `count` pixels `x`, `[count][channels]`, to `y`, `[channels][pixels]`, whose first pixel is the first
/// of `x`.
///
/// # Safety
/// For each channel `count` elements are writable at `y + channel * planes.pixels`.
pub(super) unsafe fn dequantize(isa: Isa, x: &[u8], planes: Planes, count: usize, scale: f32, zero: u8, y: *mut f32) {
    let c = planes.channels;
    let mut codes = [0u8; PIXELS];
    for first in (0..count).step_by(PIXELS) {
        let some = PIXELS.min(count - first);
        for channel in 0..c {
            for (code, &x) in codes[..some].iter_mut().zip(x[first * c + channel..].iter().step_by(c)) {
                *code = x;
            }
            // SAFETY: the caller's.
            let y = unsafe { std::slice::from_raw_parts_mut(y.add(channel * planes.pixels + first), some) };
            eltwise::dequantize(isa, &codes[..some], scale, zero, y);
        }
    }
}

/// `count` pixels `x`, `[count][channels]`, to `y`, `[channels][pixels]`, whose first pixel is the first of `x`.
///
/// # Safety
/// As [`dequantize`].
pub(super) unsafe fn transpose(x: &[f32], planes: Planes, count: usize, y: *mut f32) {
    let c = planes.channels;
    // Sixteen channels of a pixel are one line of the cache.
    for first in (0..c).step_by(16) {
        for channel in first..(first + 16).min(c) {
            // SAFETY: the caller's.
            let y = unsafe { std::slice::from_raw_parts_mut(y.add(channel * planes.pixels), count) };
            for (y, &x) in y.iter_mut().zip(x[channel..].iter().step_by(c)) {
                *y = x;
            }
        }
    }
}
