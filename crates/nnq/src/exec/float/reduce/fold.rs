//! One run of elements to one element.
//!
//! Sums are taken in f64, in lanes and blocks that depend on the length alone: the result is the same on any machine, and
//! for f32 it is the exact sum rounded once in all but contrived cases (an f64 carries 29 bits more; squares of f32 are exact in it). Long
//! runs are summed pairwise by blocks, so that sums of f64 lose little either.
use crate::ir::{Element, op::Reduction};

/// f32 and f64.
pub(super) trait Real: Element + Into<f64> {
    fn narrow(x: f64) -> Self;
}
impl Real for f32 {
    fn narrow(x: f64) -> Self {
        x as f32
    }
}
impl Real for f64 {
    fn narrow(x: f64) -> Self {
        x
    }
}

const LANES: usize = 8;
const BLOCK: usize = 1024;

fn sum<T: Real>(v: &[T], f: impl Fn(f64) -> f64 + Copy) -> f64 {
    if v.len() > BLOCK {
        let half = v.len().div_ceil(BLOCK) / 2 * BLOCK;
        return sum(&v[..half], f) + sum(&v[half..], f);
    }
    let mut lanes = [0.0; LANES];
    let (whole, rest) = v.as_chunks::<LANES>();
    for c in whole {
        for (lane, &x) in lanes.iter_mut().zip(c) {
            *lane += f(x.into());
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x.into());
    }
    let [a, b, c, d, e, g, h, i] = lanes;
    ((a + e) + (c + h)) + ((b + g) + (d + i))
}

/// The largest; NaN wins. Of nothing: minus infinity.
fn largest<T: Real>(v: &[T]) -> f64 {
    v.iter().fold(f64::NEG_INFINITY, |m, &x| {
        let x: f64 = x.into();
        if x > m || x.is_nan() { x } else { m }
    })
}

pub(super) fn real<T: Real>(kind: Reduction, v: &[T]) -> T {
    T::narrow(match kind {
        Reduction::Sum => sum(v, |x| x),
        Reduction::Mean => sum(v, |x| x) / v.len() as f64,
        Reduction::L1 => sum(v, f64::abs),
        Reduction::L2 => sum(v, |x| x * x).sqrt(),
        Reduction::SumSquare => sum(v, |x| x * x),
        Reduction::LogSum => libm::log(sum(v, |x| x)),
        Reduction::LogSumExp => {
            let m = largest(v);
            // With the largest taken out, no term overflows. An infinite one is the answer itself.
            if m.is_finite() { m + libm::log(sum(v, |x| libm::exp(x - m))) } else { m }
        }
        Reduction::Prod => v.iter().fold(1.0, |p, &x| p * x.into()),
        Reduction::Max => largest(v),
        Reduction::Min => v.iter().fold(f64::INFINITY, |m, &x| {
            let x: f64 = x.into();
            if x < m || x.is_nan() { x } else { m }
        }),
    })
}

/// An integer.
pub(super) trait Whole: Copy + Default + Send + Sync + Into<i128> {
    const LOW: Self;
    const HIGH: Self;
    /// Wraps around.
    fn wrapped(x: i128) -> Self;
    /// Drops the fraction and saturates.
    fn truncated(x: f64) -> Self;
}

macro_rules! whole {
    ($($t:ty),*) => {$(
        impl Whole for $t {
            const LOW: Self = <$t>::MIN;
            const HIGH: Self = <$t>::MAX;
            fn wrapped(x: i128) -> Self { x as $t }
            fn truncated(x: f64) -> Self { x as $t }
        }
    )*};
}
whole!(i8, i16, i32, i64, u8, u16, u32, u64);

pub(super) fn whole<T: Whole>(kind: Reduction, v: &[T]) -> T {
    let wide = || v.iter().map(|&x| -> i128 { x.into() });
    let sum = |f: fn(i128) -> i128| wide().fold(0i128, |s, x| s.wrapping_add(f(x)));
    match kind {
        Reduction::Sum => T::wrapped(sum(|x| x)),
        Reduction::Mean => T::wrapped(sum(|x| x) / (v.len() as i128).max(1)),
        Reduction::L1 => T::wrapped(sum(i128::abs)),
        Reduction::SumSquare => T::wrapped(sum(|x| x.wrapping_mul(x))),
        // Squares of 64-bit integers fill 128 bits, so their sum is taken in f64.
        Reduction::L2 => T::truncated(wide().fold(0.0, |s, x| s + x as f64 * x as f64).sqrt()),
        Reduction::LogSum => T::truncated(libm::log(sum(|x| x) as f64)),
        Reduction::LogSumExp => {
            let m = wide().max().unwrap_or(0);
            let rest: f64 = wide().map(|x| libm::exp((x - m) as f64)).sum();
            T::truncated(m as f64 + libm::log(rest))
        }
        Reduction::Prod => T::wrapped(wide().fold(1i128, i128::wrapping_mul)),
        Reduction::Max => T::wrapped(wide().max().unwrap_or(T::LOW.into())),
        Reduction::Min => T::wrapped(wide().min().unwrap_or(T::HIGH.into())),
    }
}
