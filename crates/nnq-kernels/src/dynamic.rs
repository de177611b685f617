//! Dynamic quantization: the extremes of real numbers, found as the numbers come. See `docs/numerics.md`, section 11.
use crate::{
    Isa,
    isa::dispatch,
    round::dynamic_grid,
    simd::{MAX_LANES, Op, Simd, Vector},
};

/// The smallest and the largest of some numbers and 0, and the largest magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extremes {
    /// The smallest, at most 0.
    pub low: f32,
    /// The largest, at least 0.
    pub high: f32,
    /// The bits of the largest magnitude, without the sign: of NaN and infinities those of infinity or more.
    pub magnitude: i32,
}

/// The bits of an infinity.
const INFINITE: i32 = 0x7f80_0000;
/// All bits of a number but the sign.
const MAGNITUDE: i32 = 0x7fff_ffff;

impl Extremes {
    /// Those of no numbers.
    pub const NONE: Extremes = Extremes { low: 0.0, high: 0.0, magnitude: 0 };

    /// Those of two lots of numbers together.
    #[inline]
    #[must_use]
    pub fn and(self, other: Extremes) -> Extremes {
        Extremes {
            low: if other.low < self.low { other.low } else { self.low },
            high: if other.high > self.high { other.high } else { self.high },
            magnitude: self.magnitude.max(other.magnitude),
        }
    }

    /// Those of one number.
    #[inline]
    fn of(x: f32) -> Extremes {
        Extremes { low: x, high: x, magnitude: x.to_bits() as i32 & MAGNITUDE }
    }

    /// Scale and zero point of the codes for these numbers; `None` when one is NaN or infinite, or their range is beyond
    /// binary32.
    pub fn grid(self) -> Option<(f32, u8)> {
        if self.magnitude >= INFINITE { None } else { dynamic_grid(self.low, self.high) }
    }
}

/// The extremes of `x` and 0. NaN changes nothing but the magnitude.
///
/// # Panics
/// When this machine does not have `isa`.
pub fn extremes(isa: Isa, x: &[f32]) -> Extremes {
    dispatch(isa, Find(x)).unwrap_or_else(|| plain(x))
}

fn plain(x: &[f32]) -> Extremes {
    x.iter().fold(Extremes::NONE, |all, &x| all.and(Extremes::of(x)))
}

struct Find<'a>(&'a [f32]);

/// Vectors that are compared at once: as many as hide the time of a comparison.
const CHAINS: usize = 4;

impl Op for Find<'_> {
    type Out = Extremes;

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn call<S: Simd>(self, s: S) -> Extremes {
        let (v, lanes) = (s.v(), S::V::LANES);
        let step = CHAINS * lanes;
        let unsigned = v.splat(MAGNITUDE);
        let mut low = [v.splat_f(0.0); CHAINS];
        let mut high = [v.splat_f(0.0); CHAINS];
        let mut most = [v.splat(0); CHAINS];
        let whole = self.0.len() / step * step;
        for at in (0..whole).step_by(step) {
            for i in 0..CHAINS {
                // SAFETY: `whole` is a multiple of what is loaded at once, and not beyond the slice.
                unsafe {
                    let from = self.0.as_ptr().add(at + i * lanes);
                    let x = v.load_f(from);
                    // The second operand stays where the first is NaN.
                    low[i] = v.min_f(x, low[i]);
                    high[i] = v.max_f(x, high[i]);
                    most[i] = v.max(most[i], v.and(v.load(from.cast()), unsigned));
                }
            }
        }
        let mut all = plain(&self.0[whole..]);
        for i in 0..CHAINS {
            let (mut lows, mut highs, mut magnitudes) = ([0f32; MAX_LANES], [0f32; MAX_LANES], [0i32; MAX_LANES]);
            // SAFETY: the arrays hold the most lanes.
            unsafe {
                v.store_f(lows.as_mut_ptr(), low[i]);
                v.store_f(highs.as_mut_ptr(), high[i]);
                v.store(magnitudes.as_mut_ptr(), most[i]);
            }
            for lane in 0..lanes {
                all = all.and(Extremes { low: lows[lane], high: highs[lane], magnitude: magnitudes[lane] });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
