//! Sums of real numbers over pixels.
use crate::{
    Isa,
    float::clamp,
    isa::dispatch,
    simd::{Op, Simd},
};
use std::ops::Range;

/// Adds some pixels of `x`, `[pixels][pitch]`, in their order to `sums`, one binary64 sum for each of `channels`. Numbers below `lo` count as
/// `lo`, then those above `hi` as `hi`.
///
/// # Panics
/// When `channels` reach beyond a pixel, there are not as many sums, or this machine does not have `isa`.
pub(crate) fn add_pixels(
    isa: Isa,
    x: &[f32],
    pitch: usize,
    channels: Range<usize>,
    [lo, hi]: [f32; 2],
    sums: &mut [f64],
) {
    assert!(channels.end <= pitch && sums.len() == channels.len(), "{channels:?} of {pitch}, {} sums", sums.len());
    if channels.is_empty() {
        return;
    }
    let add = Add { x, pitch, channels: channels.clone(), lo, hi, sums: &mut *sums };
    if dispatch(isa, add).is_none() {
        Add { x, pitch, channels, lo, hi, sums }.all();
    }
}

struct Add<'a> {
    x: &'a [f32],
    pitch: usize,
    channels: Range<usize>,
    lo: f32,
    hi: f32,
    sums: &'a mut [f64],
}

impl Op for Add<'_> {
    type Out = ();

    /// The compiler makes vectors of the loops.
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        self.all();
    }
}

/// Pixels that are added at once: sums are loaded and stored once for all of them.
const TOGETHER: usize = 4;

impl Add<'_> {
    #[inline(always)]
    fn all(self) {
        let Add { x, pitch, channels, lo, hi, sums } = self;
        let (first, count) = (channels.start, channels.len());
        let mut fours = x.chunks_exact(TOGETHER * pitch);
        for four in &mut fours {
            let (a, b) = (&four[first..][..count], &four[pitch + first..][..count]);
            let (c, d) = (&four[2 * pitch + first..][..count], &four[3 * pitch + first..][..count]);
            for i in 0..count {
                let sum = sums[i] + within(a[i], lo, hi) + within(b[i], lo, hi);
                sums[i] = sum + within(c[i], lo, hi) + within(d[i], lo, hi);
            }
        }
        for pixel in fours.remainder().chunks_exact(pitch) {
            for (sum, &x) in sums.iter_mut().zip(&pixel[first..][..count]) {
                *sum += within(x, lo, hi);
            }
        }
    }
}

#[inline(always)]
fn within(x: f32, lo: f32, hi: f32) -> f64 {
    f64::from(clamp(x, lo, hi))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::tests::tested;

    #[test]
    fn sums_are_those_of_one_pixel_after_another() {
        for isa in tested() {
            for (pixels, pitch, channels) in
                [(0, 5, 0..5), (1, 1, 0..1), (7, 40, 3..37), (169, 70, 0..70), (12, 9, 4..4)]
            {
                let x: Vec<f32> = (0..pixels * pitch)
                    .map(|i| match i % 97 {
                        3 => -0.0,
                        5 => f32::NAN,
                        7 => f32::INFINITY,
                        _ => (i as u32).wrapping_mul(0x9e37_79b1) as i32 as f32 * 1e-7,
                    })
                    .collect();
                for [lo, hi] in [[f32::NEG_INFINITY, f32::INFINITY], [0.0, f32::INFINITY], [0.0, 6.0], [2.0, 1.0]] {
                    let mut expected = vec![-0.0f64; channels.len()];
                    for pixel in 0..pixels {
                        for (sum, channel) in expected.iter_mut().zip(channels.clone()) {
                            let mut x = x[pixel * pitch + channel];
                            x = if x < lo { lo } else { x };
                            x = if x > hi { hi } else { x };
                            *sum += f64::from(x);
                        }
                    }
                    let mut sums = vec![-0.0f64; channels.len()];
                    add_pixels(isa, &x, pitch, channels.clone(), [lo, hi], &mut sums);
                    let bits =
                        |v: &[f64]| v.iter().map(|s| if s.is_nan() { 0 } else { s.to_bits() }).collect::<Vec<_>>();
                    assert_eq!(bits(&sums), bits(&expected), "{isa} {pixels} x {pitch}, {channels:?} in {lo}..{hi}");
                }
            }
        }
    }
}
