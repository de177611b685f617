//! The one place of the project that rounds. See `docs/numerics.md`.

/// Round half to even.
#[inline]
pub fn rne_f32(x: f32) -> f32 {
    x.round_ties_even()
}

/// Round half to even.
#[inline]
pub fn rne_f64(x: f64) -> f64 {
    x.round_ties_even()
}

/// `clamp(rne(x / scale), lo - zero, hi - zero) + zero`, with a binary32 division. NaN gives `lo`.
///
/// `lo`, `hi` and `zero` are codes of at most 16 bits, so that their differences are exact in `f32`.
#[inline]
pub fn quantize_f32(x: f32, scale: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    to_code(x / scale, zero, lo, hi)
}

/// `clamp(rne(f32(acc) * m), lo - zero, hi - zero) + zero`, with `m = (sx * sw) / sy` in binary32.
#[inline]
pub fn requantize_onnx(acc: i32, m: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    to_code(acc as f32 * m, zero, lo, hi)
}

/// The clamp comes before the conversion, so that infinities saturate; `max` turns NaN into `lo`.
#[inline]
fn to_code(real: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    let code = rne_f32(real).max((lo - zero) as f32).min((hi - zero) as f32);
    code as i32 + zero
}

/// `D(q) = f32(q - z) * s` (numerics section 2).
#[inline]
pub fn dequantize_f32(q: i32, scale: f32, zero: i32) -> f32 {
    (q - zero) as f32 * scale
}
