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

/// `D(q) = f32(q - z) * s` (numerics section 2).
#[inline]
pub fn dequantize_f32(q: i32, scale: f32, zero: i32) -> f32 {
    (q - zero) as f32 * scale
}
