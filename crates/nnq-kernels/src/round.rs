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
