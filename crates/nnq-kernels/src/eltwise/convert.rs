//! Real numbers to codes and back.
use super::check;
use crate::{
    Isa,
    isa::dispatch,
    round::{dequantize_f32, quantize_f32, vector::CodeLimits},
    simd::{Op, Simd, Vector},
};

/// [`quantize_f32`] of every element, to codes in `lo..=hi`.
///
/// # Panics
/// When the slices differ in length or this machine does not have `isa`.
pub fn quantize(isa: Isa, x: &[f32], scale: f32, zero: u8, lo: u8, hi: u8, out: &mut [u8]) {
    check(x.len(), out.len());
    let to = Code { scale, zero: zero.into(), lo: lo.into(), hi: hi.into() };
    let done = dispatch(isa, Quantize { x, to, out });
    if done.is_none() {
        to.all(x, out);
    }
}

/// [`dequantize_f32`] of every element.
///
/// # Panics
/// When the slices differ in length or this machine does not have `isa`.
pub fn dequantize(isa: Isa, x: &[u8], scale: f32, zero: u8, out: &mut [f32]) {
    check(x.len(), out.len());
    let done = dispatch(isa, Dequantize { x, scale, zero, out });
    if done.is_none() {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = dequantize_f32(x.into(), scale, zero.into());
        }
    }
}

/// Parameters of a quantization.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code {
    pub(crate) scale: f32,
    pub(crate) zero: i32,
    pub(crate) lo: i32,
    pub(crate) hi: i32,
}

impl Code {
    #[inline(always)]
    pub(crate) fn limits<V: Vector>(self, v: V) -> CodeLimits<V> {
        CodeLimits::new(v, self.zero, self.lo, self.hi)
    }

    /// [`quantize_f32`] of every element.
    #[inline(always)]
    pub(crate) fn all(self, x: &[f32], out: &mut [u8]) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = quantize_f32(x, self.scale, self.zero, self.lo, self.hi) as u8;
        }
    }

    /// The same with vectors.
    #[inline(always)]
    pub(crate) fn all_vectors<V: Vector>(self, v: V, x: &[f32], out: &mut [u8]) {
        let limits = self.limits(v);
        let scale = v.splat_f(self.scale);
        let (whole, rest) = x.split_at(x.len() / V::LANES * V::LANES);
        let (y_whole, y_rest) = out.split_at_mut(whole.len());
        let pairs = whole.chunks_exact(V::LANES).zip(y_whole.chunks_exact_mut(V::LANES));
        for (x, y) in pairs {
            // SAFETY: both slices hold LANES elements.
            unsafe {
                let real = v.div_f(v.load_f(x.as_ptr()), scale);
                v.narrow(y.as_mut_ptr(), limits.code(v, real));
            }
        }
        self.all(rest, y_rest);
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    to: Code,
    out: &'a mut [u8],
}

impl Op for Quantize<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        self.to.all_vectors(s.v(), self.x, self.out);
    }
}

struct Dequantize<'a> {
    x: &'a [u8],
    scale: f32,
    zero: u8,
    out: &'a mut [f32],
}

impl Op for Dequantize<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let v = s.v();
        let (zero, scale) = (v.splat(self.zero.into()), v.splat_f(self.scale));
        let (whole, rest) = self.x.split_at(self.x.len() / S::V::LANES * S::V::LANES);
        let (y_whole, y_rest) = self.out.split_at_mut(whole.len());
        let pairs = whole.chunks_exact(S::V::LANES).zip(y_whole.chunks_exact_mut(S::V::LANES));
        for (x, y) in pairs {
            // SAFETY: both slices hold LANES elements.
            unsafe {
                let codes = v.sub(v.widen(x.as_ptr()), zero);
                v.store_f(y.as_mut_ptr(), v.mul_f(v.to_float(codes), scale));
            }
        }
        for (y, &x) in y_rest.iter_mut().zip(rest) {
            *y = dequantize_f32(x.into(), self.scale, self.zero.into());
        }
    }
}
