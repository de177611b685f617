//! Quantization together with the change between the layout of models (channels first) and that of the
//! kernels (channels last), for one sample.
use crate::{
    Isa,
    eltwise::{dequantize, quantize},
};

/// Pixels that change their layout together; they stay in the first-level cache.
const PIXELS: usize = 64;

/// [`quantize`] of `x`, `[c][pixels]`, to `out`, `[pixels][c]`.
///
/// # Panics
/// When a slice does not hold `c * pixels` elements or this machine does not have `isa`.
#[allow(clippy::too_many_arguments)]
pub fn quantize_nchw_to_nhwc(
    isa: Isa,
    x: &[f32],
    c: usize,
    pixels: usize,
    scale: f32,
    zero: u8,
    lo: u8,
    hi: u8,
    out: &mut [u8],
) {
    check(c, pixels, x.len(), out.len());
    let mut row = [0u8; PIXELS];
    for first in (0..pixels).step_by(PIXELS) {
        let count = PIXELS.min(pixels - first);
        let out = &mut out[first * c..][..count * c];
        for channel in 0..c {
            let x = &x[channel * pixels + first..][..count];
            quantize(isa, x, scale, zero, lo, hi, &mut row[..count]);
            for (y, &code) in out[channel..].iter_mut().step_by(c).zip(&row) {
                *y = code;
            }
        }
    }
}

/// [`dequantize`] of `x`, `[pixels][c]`, to `out`, `[c][pixels]`.
///
/// # Panics
/// When a slice does not hold `c * pixels` elements or this machine does not have `isa`.
pub fn dequantize_nhwc_to_nchw(isa: Isa, x: &[u8], c: usize, pixels: usize, scale: f32, zero: u8, out: &mut [f32]) {
    check(c, pixels, x.len(), out.len());
    let mut row = [0u8; PIXELS];
    for first in (0..pixels).step_by(PIXELS) {
        let count = PIXELS.min(pixels - first);
        let x = &x[first * c..][..count * c];
        for channel in 0..c {
            for (code, &x) in row[..count].iter_mut().zip(x[channel..].iter().step_by(c)) {
                *code = x;
            }
            let y = &mut out[channel * pixels + first..][..count];
            dequantize(isa, &row[..count], scale, zero, y);
        }
    }
}

fn check(c: usize, pixels: usize, x: usize, out: usize) {
    let need = c * pixels;
    assert!(x == need && out == need, "{x} elements in and {out} out for {c} channels of {pixels} pixels");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::tests::tested;

    #[test]
    fn layouts_change_as_indices_say() {
        for isa in tested() {
            for (c, pixels) in [(0, 5), (3, 0), (1, 1), (3, 7), (3, 64), (5, 65), (17, 200)] {
                let x: Vec<f32> = (0..c * pixels).map(|i| (i * 7919 % 511) as f32 * 0.3 - 70.0).collect();
                let mut codes = vec![0; c * pixels];
                quantize_nchw_to_nhwc(isa, &x, c, pixels, 0.5, 128, 3, 250, &mut codes);
                let mut back = vec![0.0; c * pixels];
                dequantize_nhwc_to_nchw(isa, &codes, c, pixels, 0.5, 128, &mut back);
                for channel in 0..c {
                    for pixel in 0..pixels {
                        let (first, last) = (channel * pixels + pixel, pixel * c + channel);
                        let want = crate::round::quantize_f32(x[first], 0.5, 128, 3, 250);
                        assert_eq!(i32::from(codes[last]), want, "{isa} {c} {pixels}");
                        assert_eq!(back[first], (want - 128) as f32 * 0.5, "{isa} {c} {pixels}");
                    }
                }
            }
        }
    }
}
