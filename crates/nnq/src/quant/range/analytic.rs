//! Closed forms: the clip of least squared error for a Laplace or Gauss distribution (ACIQ; Banner, Nahshan, Soudry
//! 2019).
use super::{Range, Scheme};
use crate::quant::observer::Sketch;

/// The optimal clip of a Laplace distribution of scale 1 (mean absolute deviation 1) with `2^bits` levels: the root of
/// `x e^x = 3 * 4^bits`.
pub(super) fn laplace(bits: u32) -> f64 {
    let target = libm::log(3.0 * libm::exp2(2.0 * f64::from(bits)));
    root(|x| x + libm::log(x) - target)
}

/// The optimal clip of a standard normal distribution with `2^bits` levels: where the derivative of
/// `2 * integral from x of (t - x)^2 phi(t) + x^2 / (3 * 4^bits)` vanishes.
pub(super) fn gauss(bits: u32) -> f64 {
    let noise = 2.0 / (3.0 * libm::exp2(2.0 * f64::from(bits)));
    let phi = |x: f64| libm::exp(-x * x / 2.0) / (2.0 * std::f64::consts::PI).sqrt();
    let beyond = |x: f64| libm::erfc(x / std::f64::consts::SQRT_2) / 2.0;
    root(|x| noise * x - 4.0 * (phi(x) - x * beyond(x)))
}

/// The root of an increasing function on (0, 64).
fn root(f: impl Fn(f64) -> f64) -> f64 {
    let (mut lo, mut hi) = (1e-9, 64.0);
    for _ in 0..100 {
        let mid = f64::midpoint(lo, hi);
        if f(mid) < 0.0 { lo = mid } else { hi = mid }
    }
    f64::midpoint(lo, hi)
}

/// `lo < hi` are the exact extremes; the result stays within them.
pub(super) fn choose(sketch: &Sketch, lo: f64, hi: f64, scheme: Scheme) -> Range {
    let n = sketch.finite() as f64;
    let bits = u32::from(scheme.qtype.bits);
    let one_sided = lo >= 0.0 || hi <= 0.0;
    // One-sided data is taken for half of a symmetric distribution around zero, with one more bit for the whole.
    let center = if one_sided || scheme.symmetric { 0.0 } else { sketch.mean() };
    let halves = if one_sided { 2.0 } else { 1.0 };
    let moments = sketch.segments().iter().fold([0.0; 2], |m, s| {
        let d = s.mean() - center;
        [m[0] + s.count * d.abs(), m[1] + s.count * (d * d + (s.hi - s.lo).powi(2) / 12.0)]
    });
    let (b, sigma) = (halves * moments[0] / n, (halves * moments[1] / n).sqrt());
    // E|x| / sigma is 0.7071 for Laplace and 0.7979 for Gauss: the middle decides.
    let doubled = bits + u32::from(one_sided && !(scheme.symmetric && scheme.qtype.signed));
    let clip = if b / sigma < 0.7525 { b * laplace(doubled) } else { sigma * gauss(doubled) };
    let top = hi.max(-lo);
    if scheme.symmetric {
        let t = clip.min(top);
        return Range { lo: -t, hi: t };
    }
    Range { lo: (center - clip).max(lo), hi: (center + clip).min(hi) }
}
