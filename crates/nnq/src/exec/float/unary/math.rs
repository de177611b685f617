//! Functions of f32 without branches, so that loops over them become vector code: only additions, multiplications,
//! products with a sum (rounded once), divisions and selections, each as IEEE 754 says, hence the same bits everywhere. Errors
//! where the result is a normal number are a few units in the last place; the test below has the bound of each. The
//! polynomials come from `tools/float_constants.py`.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two pieces.
const LN2_HIGH: f32 = std::f32::consts::LN_2;
const LN2_LOW: f32 = -1.904_654_3e-9;
/// Adding and subtracting it leaves a small number rounded half to even.
const ROUND: f32 = 12_582_912.0;

#[inline(always)]
fn poly<const N: usize>(c: [f32; N], x: f32) -> f32 {
    let mut y = c[N - 1];
    for i in (0..N - 1).rev() {
        y = y.mul_add(x, c[i]);
    }
    y
}

/// Selections rather than `min` and `max`: NaN stays NaN.
#[inline(always)]
fn within(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// `x = n ln 2 + r` with |r| <= ln 2 / 2; answers `e^r - 1` and `n`. For |x| <= 104.
#[inline(always)]
fn split(x: f32) -> (f32, i32) {
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = (-n).mul_add(LN2_LOW, (-n).mul_add(LN2_HIGH, x));
    let c = [0.5, 0.166_666_67, 0.041_666_463, 0.008_333_361, 0.001_393_368_7, 0.000_198_578_3];
    ((r * r).mul_add(poly(c, r), r), (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
}

/// 2^n for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

#[inline(always)]
pub(in super::super) fn exp(x: f32) -> f32 {
    let (q, n) = split(within(x, -104.0, 89.0));
    // In two steps, because 2^n itself may be beyond the range of f32.
    let half = n >> 1;
    (q + 1.0) * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `e^x - 1`.
#[inline(always)]
pub(super) fn expm1(x: f32) -> f32 {
    let (q, n) = split(within(x, -30.0, 60.0));
    let scale = power_of_two(n);
    let near = q * scale + (scale - 1.0);
    if x > 20.0 { exp(x) } else { near }
}

#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let e = expm1(2.0 * within(x.abs(), 0.0, 10.0));
    (e / (e + 2.0)).copysign(x)
}

#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x * tanh(ln(1 + e^x))`, with the tangent written as a ratio of polynomials of `e^x`.
#[inline(always)]
pub(super) fn mish(x: f32) -> f32 {
    let e = exp(within(x, -104.0, 20.0));
    let p = e * (e + 2.0);
    x * (p / (p + 2.0))
}

/// erf(z) for 0 <= z <= 1.
#[inline(always)]
fn erf_near(z: f32) -> f32 {
    let c = [
        std::f32::consts::FRAC_2_SQRT_PI,
        -0.376_126_38,
        0.112_837_82,
        -0.026_865_4,
        0.005_220_945_5,
        -0.000_848_282_9,
        0.000_112_569_48,
        -9.641_516e-6,
    ];
    z * poly(c, z * z)
}

/// erfc(z) for z >= 0, with `square` = z^2: the factor that is sensitive, hence the caller's business. With one rational
/// argument for all z the polynomial is short (Shepherd and Laframboise, Math. Comp. 36, 1981).
#[inline(always)]
fn erfc(z: f32, square: f32) -> f32 {
    let z = within(z, 0.0, 10.4);
    let c = [
        1.021_582_7,
        -0.687_160_9,
        0.279_471_4,
        -0.036_435_74,
        -0.021_501_534,
        0.006_434_761,
        0.003_038_209_4,
        -0.000_727_520_6,
        -0.000_523_629_66,
        -0.000_043_360_23,
    ];
    let share = 1.0 / (z + 2.0);
    exp(-square) * poly(c, (z - 2.0) * share) * share
}

#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let z = x.abs();
    // Both, then one of them: a loop without a branch.
    let (near, far) = (erf_near(z), 1.0 - erfc(z, z * z));
    (if z < 1.0 { near } else { far }).copysign(x)
}

/// x times the normal distribution function of x, which is taken from the tail's end, so that no digits are lost left of 0.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    let tail = 0.5 * erfc(x.abs() * std::f32::consts::FRAC_1_SQRT_2, 0.5 * x * x);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// `x / 2 * (1 + tanh(u))` written as `x * sigmoid(2 u)`, which loses no digits on the negative side.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x * sigmoid(2.0 * u)
}

/// `ln(1 + e^x)`.
#[inline(always)]
pub(super) fn softplus(x: f32) -> f32 {
    let base = if x < 0.0 { 0.0 } else { x };
    base + libm::log1pf(exp(-x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error in units in the last place of f32 against f64, over all f32 with a stride, in `[low, high]`.
    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, low: f32, high: f32) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for bits in (0..u32::MAX).step_by(997) {
            let x = f32::from_bits(bits);
            if !(x >= low && x <= high) {
                continue;
            }
            let (y, e) = (f64::from(f(x)), exact(x.into()));
            if e.abs() < f64::from(f32::MIN_POSITIVE) {
                assert!((y - e).abs() <= 2.0 * 2f64.powi(-149), "{x}: {y} for {e}");
                continue;
            }
            if e.abs() > f64::from(f32::MAX) {
                assert!(y == e.signum() * f64::INFINITY || y.abs() == f64::from(f32::MAX), "{x}: {y} for {e}");
                continue;
            }
            let ulp = 2f64.powi(e.abs().log2().floor() as i32 - 23);
            let error = (y - e).abs() / ulp;
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        }
        worst
    }

    #[test]
    fn errors_stay_small() {
        let phi = |x: f64| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        let table: [(&str, (f64, f32), f64); 8] = [
            ("exp", worst(exp, f64::exp, -110.0, 100.0), 1.5),
            ("expm1", worst(expm1, f64::exp_m1, -200.0, 100.0), 2.0),
            ("tanh", worst(tanh, f64::tanh, -100.0, 100.0), 3.0),
            ("sigmoid", worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -87.0, 100.0), 2.5),
            ("mish", worst(mish, |x| x * x.exp().ln_1p().tanh(), -80.0, 100.0), 4.0),
            ("erf", worst(erf, libm::erf, -20.0, 20.0), 3.0),
            ("softplus", worst(softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), -80.0, 100.0), 2.5),
            // The argument of the exponential is x^2 / 2 = 12.5 at the left end, whose rounding counts that many times.
            ("gelu", worst(gelu, |x| x * phi(x), -5.0, 50.0), 14.0),
        ];
        for (name, (error, at), limit) in table {
            assert!(error <= limit, "{name}: {error} units at {at}");
        }
        let u = |x: f64| 0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x);
        let (error, at) = worst(gelu_tanh, |x| x / (1.0 + (-2.0 * u(x)).exp()), -4.0, 50.0);
        assert!(error <= 24.0, "gelu_tanh: {error} units at {at}");
    }

    #[test]
    fn extremes() {
        for f in [exp, expm1, tanh, sigmoid, mish, erf, gelu, gelu_tanh, softplus] {
            assert!(f(f32::NAN).is_nan());
        }
        let inf = f32::INFINITY;
        assert_eq!((exp(inf), exp(-inf), exp(0.0)), (inf, 0.0, 1.0));
        assert_eq!((expm1(inf), expm1(-inf)), (inf, -1.0));
        assert_eq!((tanh(inf), tanh(-inf), tanh(-0.0).to_bits()), (1.0, -1.0, (-0.0f32).to_bits()));
        assert_eq!((sigmoid(inf), sigmoid(-inf), sigmoid(0.0)), (1.0, 0.0, 0.5));
        assert_eq!((erf(inf), erf(-inf), erf(0.0)), (1.0, -1.0, 0.0));
        assert_eq!((gelu(inf), softplus(inf), softplus(-inf)), (inf, inf, 0.0));
    }
}
