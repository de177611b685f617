//! The change between the layout of models (channels first) and that of the kernels (channels last), for one
//! sample or some of its pixels, together with quantization.
use crate::{
    Isa,
    eltwise::Code,
    isa::dispatch,
    round::dequantize_f32,
    simd::{CodeBytes, MAX_LANES, Op, Simd, Vector},
};
use std::ops::Range;

/// Channels that change together: their codes are one lane of a vector.
const GROUP: usize = 4;

/// [`crate::eltwise::quantize`] of `x`, `[c][pixels]`, to `out`, `[pixels][c]`.
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
    let code = Code { scale, zero: zero.into(), lo: lo.into(), hi: hi.into() };
    quantize_pixels(isa, x, [c, pixels], 0..pixels, code, out);
}

/// The codes of the pixels `row` of `x`, `[c][pixels]`, to `out`, `[row][c]`.
///
/// # Panics
/// When a slice is too short, `row` reaches too far or this machine does not have `isa`.
pub(crate) fn quantize_pixels(
    isa: Isa,
    x: &[f32],
    [c, pixels]: [usize; 2],
    row: Range<usize>,
    code: Code,
    out: &mut [u8],
) {
    assert!(row.start <= row.end && row.end <= pixels, "pixels {row:?} of {pixels}");
    assert!(x.len() >= c * pixels && out.len() >= c * row.len(), "{c} channels of {pixels} pixels, {row:?} of them");
    let out = &mut out[..c * row.len()];
    if c == 0 || row.is_empty() {
        return;
    }
    if dispatch(isa, ToPixels { x, c, pixels, row: row.clone(), code, out: &mut *out }).is_none() {
        for (y, pixel) in out.chunks_exact_mut(c).zip(row) {
            for (channel, y) in y.iter_mut().enumerate() {
                let x = &x[channel * pixels + pixel];
                code.all(std::slice::from_ref(x), std::slice::from_mut(y));
            }
        }
    }
}

/// [`crate::eltwise::dequantize`] of `x`, `[pixels][c]`, to `out`, `[c][pixels]`.
///
/// # Panics
/// When a slice does not hold `c * pixels` elements or this machine does not have `isa`.
pub fn dequantize_nhwc_to_nchw(isa: Isa, x: &[u8], c: usize, pixels: usize, scale: f32, zero: u8, out: &mut [f32]) {
    check(c, pixels, x.len(), out.len());
    // SAFETY: `out` holds all pixels of all channels.
    unsafe { dequantize_pixels(isa, x, [c, pixels], scale, zero, out.as_mut_ptr()) };
}

/// The real numbers of some pixels `x`, `[..][c]`, to `y`, `[c][pixels]`, whose first pixel is the first of `x`.
///
/// # Panics
/// When this machine does not have `isa`.
///
/// # Safety
/// For each channel as many elements as `x` has pixels are writable at `y + channel * pixels`, and nobody else uses them.
pub(crate) unsafe fn dequantize_pixels(isa: Isa, x: &[u8], [c, pixels]: [usize; 2], scale: f32, zero: u8, y: *mut f32) {
    if c == 0 {
        return;
    }
    if dispatch(isa, ToPlanes { x, c, pixels, scale, zero: zero.into(), y }).is_none() {
        for (i, pixel) in x.chunks_exact(c).enumerate() {
            for (channel, &code) in pixel.iter().enumerate() {
                // SAFETY: the caller's.
                unsafe { *y.add(channel * pixels + i) = dequantize_f32(code.into(), scale, zero.into()) };
            }
        }
    }
}

/// Real numbers of some pixels `x`, `[..][c]`, to `y`, `[c][pixels]`, whose first pixel is the first of `x`.
///
/// # Safety
/// As [`dequantize_pixels`].
pub(crate) unsafe fn transpose_pixels(x: &[f32], [c, pixels]: [usize; 2], y: *mut f32) {
    // Sixteen channels of a pixel are one line of the cache.
    const TOGETHER: usize = 16;
    for first in (0..c).step_by(TOGETHER) {
        for channel in first..(first + TOGETHER).min(c) {
            for (i, &x) in x[channel..].iter().step_by(c).enumerate() {
                // SAFETY: the caller's.
                unsafe { *y.add(channel * pixels + i) = x };
            }
        }
    }
}

fn check(c: usize, pixels: usize, x: usize, out: usize) {
    let need = c * pixels;
    assert!(x == need && out == need, "{x} elements in and {out} out for {c} channels of {pixels} pixels");
}

struct ToPixels<'a> {
    x: &'a [f32],
    c: usize,
    pixels: usize,
    row: Range<usize>,
    code: Code,
    out: &'a mut [u8],
}

impl Op for ToPixels<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let v = s.v();
        match self.c {
            1 => self.code.all_vectors(v, &self.x[self.row], self.out),
            3 => self.threes(v),
            _ => {
                for channel in (0..self.c).step_by(GROUP) {
                    self.group(v, channel);
                }
            }
        }
    }
}

impl ToPixels<'_> {
    /// `count` elements of a channel, `at` pixels behind the first; zeros where there are too few.
    #[inline(always)]
    fn some<const N: usize>(&self, channel: usize, at: usize, count: usize, to: &mut [f32; N]) {
        let from = &self.x[channel * self.pixels + self.row.start + at..];
        let count = count.min(N);
        to[..count].copy_from_slice(&from[..count]);
    }

    /// Three channels: the codes of a pixel lie in one lane.
    #[inline(always)]
    fn threes<V: Vector>(&mut self, v: V) {
        let (limits, scale) = (self.code.limits(v), v.splat_f(self.code.scale));
        let count = self.row.len();
        for first in (0..count).step_by(V::LANES) {
            let whole = first + V::LANES <= count;
            let mut lanes = v.splat(0);
            // The last channel first: each moves those before it up by a byte.
            for channel in [2, 1, 0] {
                let mut some = [0f32; MAX_LANES];
                let from = if whole {
                    self.x[channel * self.pixels + self.row.start + first..][..V::LANES].as_ptr()
                } else {
                    self.some(channel, first, count - first, &mut some);
                    some.as_ptr()
                };
                // SAFETY: LANES elements are readable.
                let real = unsafe { v.div_f(v.load_f(from), scale) };
                lanes = v.add(v.mul(lanes, v.splat(256)), limits.code(v, real));
            }
            let mut some = [0u8; 3 * MAX_LANES];
            if whole {
                let to = &mut self.out[3 * first..][..3 * V::LANES];
                // SAFETY: the slice holds three bytes for each lane.
                unsafe { v.store_threes(to.as_mut_ptr(), lanes) };
            } else {
                // SAFETY: as above.
                unsafe { v.store_threes(some.as_mut_ptr(), lanes) };
                let to = &mut self.out[3 * first..];
                to.copy_from_slice(&some[..to.len()]);
            }
        }
    }

    /// Up to four channels from `channel` on.
    #[inline(always)]
    fn group<V: Vector>(&mut self, v: V, channel: usize) {
        let (limits, scale) = (self.code.limits(v), v.splat_f(self.code.scale));
        let Code { zero, lo, hi, .. } = self.code;
        let bytes = CodeBytes::new(v, zero as u8, lo as u8, hi as u8);
        let (count, wide) = (self.row.len(), 4 * V::LANES);
        let channels = GROUP.min(self.c - channel);
        for first in (0..count).step_by(wide) {
            let here = wide.min(count - first);
            let mut rows = [v.splat(0); GROUP];
            for (i, row) in rows.iter_mut().enumerate().take(channels) {
                let mut some = [0f32; MAX_LANES * 4];
                let from = if here == wide {
                    self.x[(channel + i) * self.pixels + self.row.start + first..][..wide].as_ptr()
                } else {
                    self.some(channel + i, first, here, &mut some);
                    some.as_ptr()
                };
                let mut codes = [v.splat(0); 4];
                for (j, codes) in codes.iter_mut().enumerate() {
                    // SAFETY: four times LANES elements are readable.
                    let real = unsafe { v.div_f(v.load_f(from.add(j * V::LANES)), scale) };
                    *codes = limits.without_zero(v, real);
                }
                *row = v.narrow4_in_order(codes, bytes);
            }
            let mut groups = [[0u8; GROUP]; MAX_LANES * 4];
            for (i, four) in v.interleave4(rows).into_iter().enumerate() {
                // SAFETY: the array holds four vectors of four-byte groups.
                unsafe { v.store_bytes(groups[i * V::LANES..].as_mut_ptr().cast(), four) };
            }
            for (group, &pixel) in groups.iter().zip(V::LANE_ORDER) {
                let pixel = usize::from(pixel);
                if pixel < here {
                    let to = &mut self.out[(first + pixel) * self.c + channel..];
                    match channels {
                        GROUP => to[..GROUP].copy_from_slice(group),
                        _ => to[..channels].copy_from_slice(&group[..channels]),
                    }
                }
            }
        }
    }
}

struct ToPlanes<'a> {
    x: &'a [u8],
    c: usize,
    pixels: usize,
    scale: f32,
    zero: i32,
    y: *mut f32,
}

impl Op for ToPlanes<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (v, c) = (s.v(), self.c);
        let lanes = S::V::LANES;
        let (zero, scale, low) = (v.splat(self.zero), v.splat_f(self.scale), v.splat(0xff));
        let count = self.x.len() / c;
        if c == 1 {
            // What has no channels lies as it will.
            let whole = count / lanes * lanes;
            for first in (0..whole).step_by(lanes) {
                // SAFETY: so many codes are readable; the caller of `dequantize_pixels` vouches for as many numbers.
                unsafe {
                    let codes = v.widen(self.x[first..].as_ptr());
                    v.store_f(self.y.add(first), v.mul_f(v.to_float(v.sub(codes, zero)), scale));
                }
            }
            for (i, &code) in self.x.iter().enumerate().skip(whole) {
                // SAFETY: as above.
                unsafe { *self.y.add(i) = dequantize_f32(code.into(), self.scale, self.zero) };
            }
            return;
        }
        for first in (0..count).step_by(lanes) {
            let here = lanes.min(count - first);
            for channel in (0..c).step_by(GROUP) {
                let channels = GROUP.min(c - channel);
                let mut groups = [0i32; MAX_LANES];
                for (i, group) in groups[..here].iter_mut().enumerate() {
                    let from = &self.x[(first + i) * c + channel..];
                    let mut bytes = [0u8; GROUP];
                    match channels {
                        GROUP => bytes.copy_from_slice(&from[..GROUP]),
                        _ => bytes[..channels].copy_from_slice(&from[..channels]),
                    }
                    *group = i32::from_le_bytes(bytes);
                }
                // SAFETY: the array holds the most lanes.
                let groups = unsafe { v.load(groups.as_ptr()) };
                for i in 0..channels {
                    let codes = v.and(v.shr(groups, v.splat(8 * i as i32)), low);
                    let real = v.mul_f(v.to_float(v.sub(codes, zero)), scale);
                    let mut some = [0f32; MAX_LANES];
                    // SAFETY: the caller of `dequantize_pixels` vouches for the pixels of each channel; the array holds the
                    // most lanes.
                    unsafe {
                        let to = self.y.add((channel + i) * self.pixels + first);
                        if here == lanes {
                            v.store_f(to, real);
                        } else {
                            v.store_f(some.as_mut_ptr(), real);
                            to.copy_from_nonoverlapping(some.as_ptr(), here);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
