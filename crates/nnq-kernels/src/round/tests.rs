use super::vector::{CodeLimits, DyadicVector, DyadicWide, Kind, OnnxVector, Prepared, VectorRequant};
use super::*;
use crate::{
    isa::{dispatch, tests::tested},
    simd::{MAX_LANES, Op, Simd, Vector},
};
use proptest::prelude::*;

/// How an exact quotient with a tie is rounded.
#[derive(Clone, Copy)]
enum Tie {
    Up,
    Away,
    Even,
}

/// `numerator / denominator`, rounded to the nearest integer; exact.
fn nearest(numerator: i128, denominator: i128, tie: Tie) -> i128 {
    let floor = numerator.div_euclid(denominator);
    let twice = 2 * numerator.rem_euclid(denominator);
    let up = match twice.cmp(&denominator) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => match tie {
            Tie::Up => true,
            Tie::Away => numerator > 0,
            Tie::Even => floor & 1 == 1,
        },
    };
    floor + i128::from(up)
}

/// A finite `f32` as `m * 2^e`.
fn parts(x: f32) -> (i128, i32) {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32;
    let fraction = i128::from(bits & 0x7f_ffff);
    let (m, e) = match exponent {
        0 => (fraction, -149),
        _ => (fraction | 1 << 23, exponent - 150),
    };
    (if x < 0.0 { -m } else { m }, e)
}

/// `m * 2^e` rounded to 24 bits half to even; no subnormals.
fn to_24_bits(m: i128, e: i32) -> (i128, i32) {
    let spare = (128 - m.unsigned_abs().leading_zeros() as i32 - 24).max(0);
    (nearest(m, 1 << spare, Tie::Even), e + spare)
}

/// Section 4, profile onnx, in integers: two roundings to 24 bits, one to an integer.
fn exact_onnx(acc: i32, factor: f32, zero: i32, lo: i32, hi: i32) -> i32 {
    let (a, a_exponent) = to_24_bits(acc.into(), 0);
    let (m, m_exponent) = parts(factor);
    let (product, exponent) = to_24_bits(a * m, a_exponent + m_exponent);
    let whole = match exponent {
        ..-100 => 0,
        -100..0 => nearest(product, 1 << -exponent, Tie::Even),
        0..60 => product << exponent,
        60.. => product.signum() << 80,
    };
    (whole + i128::from(zero)).clamp(lo.into(), hi.into()) as i32
}

/// Accumulators that lie on and beside ties for `by`, and the extremes.
fn accumulators(by: Dyadic) -> Vec<i32> {
    let mut all = vec![0, 1, -1, 2, -2, 3, -3, i32::MAX, i32::MIN, i32::MIN + 1];
    let half = 1i128 << (by.shift - 1);
    for odd in [1i128, 3, 5, 255, 257] {
        if by.mult > 0 {
            let tie = odd * half / i128::from(by.mult);
            for near in [tie - 1, tie, tie + 1] {
                all.extend(i32::try_from(near).ok().into_iter().flat_map(|n| [n, -n]));
            }
        }
    }
    all
}

#[test]
fn quantize_divides_and_clamps_before_it_converts() {
    assert_eq!(quantize_f32(f32::INFINITY, 0.1, 10, 0, 255), 255);
    assert_eq!(quantize_f32(f32::NEG_INFINITY, 0.1, 10, 0, 255), 0);
    assert_eq!(quantize_f32(3e38, 1e-3, 10, 0, 255), 255);
    assert_eq!(quantize_f32(f32::NAN, 0.1, 10, 2, 255), 2);
    for (x, want) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2)] {
        assert_eq!(quantize_f32(x, 1.0, 0, -128, 127), want);
        // The zero point is added after the rounding: it does not move a tie.
        assert_eq!(quantize_f32(x, 1.0, 3, -128, 127), want + 3);
    }
    // A division and a multiplication with the reciprocal differ here.
    let differ = (1..100).map(|i| i as f32 * 0.01).any(|scale| {
        (0..256).any(|q| {
            let x = (q as f32 + 0.5) * scale;
            rne_f32(x / scale) != rne_f32(x * (1.0 / scale))
        })
    });
    assert!(differ);
}

#[test]
fn dyadic_from_real_normalises_and_refuses() {
    let make = |mult, shift| Some(Dyadic { mult, shift });
    assert_eq!(Dyadic::from_real(0.5), make(1 << 30, 31));
    assert_eq!(Dyadic::from_real(1.0), make(1 << 30, 30));
    // Rounds up to 2^31, which is halved.
    assert_eq!(Dyadic::from_real(1.0 - 2f64.powi(-40)), make(1 << 30, 30));
    assert_eq!(Dyadic::from_real(2f64.powi(29)), make(1 << 30, 1));
    assert_eq!(Dyadic::from_real(2f64.powi(30)), None);
    assert_eq!(Dyadic::from_real(2f64.powi(30) - 1e-3), None);
    assert_eq!(Dyadic::from_real(2f64.powi(-32)), make(1 << 30, 62));
    assert_eq!(Dyadic::from_real(2f64.powi(-33)), make(0, 1));
    assert_eq!(Dyadic::from_real(0.0), make(0, 1));
    assert_eq!(Dyadic::from_real(f64::from_bits(1)), make(0, 1));
    for refused in [-1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(Dyadic::from_real(refused), None);
        assert_eq!(AddDyadic::from_real(refused, 1.0), None);
        assert_eq!(AddDyadic::from_real(1.0, refused), None);
    }
    // The tie of the multiplier itself goes to even: 2^30 + 0.5.
    assert_eq!(Dyadic::from_real((2f64.powi(30) + 0.5) / 2f64.powi(31)), make(1 << 30, 31));
    assert_eq!(hawq_multiplier((2f64.powi(30) + 0.5) / 2f64.powi(31)), make((1 << 30) + 1, 31));
}

#[test]
fn frexp_is_exact_for_every_exponent() {
    for exponent in -1074..1024 {
        for fraction in [1.0, 1.25, 1.999] {
            let x = fraction * 2f64.powi(exponent / 2) * 2f64.powi(exponent - exponent / 2);
            if x == 0.0 || !x.is_finite() {
                continue;
            }
            let (f, e) = frexp(x);
            assert!((0.5..1.0).contains(&f), "{x:e}");
            assert_eq!(f * 2f64.powi(e / 2) * 2f64.powi(e - e / 2), x, "{x:e}");
        }
    }
}

#[test]
fn add_dyadic_shifts() {
    let sum = AddDyadic::from_real(1.0, 0.5).unwrap();
    assert_eq!((sum.ma, sum.mb, sum.shift), (1 << 19, 1 << 18, 19));
    let small = AddDyadic::from_real(2f64.powi(-20), 0.0).unwrap();
    assert_eq!((small.ma, small.mb, small.shift), (1 << 11, 0, 31));
    assert_eq!(AddDyadic::from_real(2f64.powi(19), 0.0), None);
    assert_eq!(AddDyadic::from_real(2f64.powi(18), 0.0).unwrap().shift, 1);
    assert_eq!(AddDyadic::from_real(0.0, 0.0).unwrap().apply(255, -255), 0);
}

#[test]
fn gemmlowp_rounds_twice_and_its_ties_go_up_then_away() {
    assert_eq!(srdhm(i32::MIN, i32::MIN), i32::MAX);
    // 1 * 2^30 / 2^31 = 0.5 and its negative.
    assert_eq!((srdhm(1, 1 << 30), srdhm(-1, 1 << 30)), (1, 0));
    let halves: Vec<i32> = [1, 3, -1, -3].iter().map(|&x| rounding_divide_by_pot(x, 1)).collect();
    assert_eq!(halves, [1, 2, -1, -2]);
    // One exact rounding gives another result than two.
    let differ = (-100_000..100_000).any(|acc| {
        let twice = requantize_gemmlowp(acc, 1_518_500_250, -4);
        i64::from(twice) != requantize_tflite_single(acc, 1_518_500_250, -4)
    });
    assert!(differ);
}

#[test]
fn dyadic_is_exact_at_ties_and_extremes() {
    for mult in [1 << 30, (1 << 30) + 1, 1_518_500_249, i32::MAX] {
        for shift in 1..=62u8 {
            let by = Dyadic { mult, shift };
            for acc in accumulators(by) {
                let product = i128::from(acc) * i128::from(mult);
                let want = nearest(product, 1 << shift, Tie::Up);
                assert_eq!(i128::from(by.apply(acc)), want, "{acc} {by:?}");
                let even = nearest(product, 1 << shift, Tie::Even);
                assert_eq!(i128::from(requantize_hawq(acc, by)), even, "{acc} {by:?}");
                for (zero, lo, hi) in [(0, 0, 255), (128, 3, 250), (-7, -128, 127)] {
                    let code = (want + i128::from(zero)).clamp(lo.into(), hi.into());
                    assert_eq!(i128::from(requantize_dyadic(acc, by, zero, lo, hi)), code);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn dyadic_from_real_is_the_nearest(m in 1e-9f64..1e9) {
        let by = Dyadic::from_real(m).unwrap();
        prop_assert!(by.mult >= 1 << 30 && (1..=62).contains(&by.shift));
        // m * 2^shift is exact in binary64.
        let scaled = m * 2f64.powi(by.shift.into());
        prop_assert!((scaled - f64::from(by.mult)).abs() <= 0.5);
    }

    #[test]
    fn onnx_equals_exact_arithmetic(acc: i32, bits in 0x2000_0000u32..0x5000_0000, zero in 0i32..256) {
        let factor = f32::from_bits(bits);
        prop_assert_eq!(requantize_onnx(acc, factor, zero, 0, 255), exact_onnx(acc, factor, zero, 0, 255));
    }

    #[test]
    fn onnx_ties_go_to_even(half in -2000i32..2000, power in 1i32..12, zero in 0i32..256) {
        let acc = (2 * half + 1) << (power - 1);
        let factor = 2f32.powi(-power);
        let want = nearest((2 * half + 1).into(), 2, Tie::Even) + i128::from(zero);
        prop_assert_eq!(i128::from(requantize_onnx(acc, factor, zero, -30000, 30000)), want);
        prop_assert_eq!(exact_onnx(acc, factor, zero, -30000, 30000), want as i32);
    }

    #[test]
    fn add_equals_exact_arithmetic(ma in 0f64..600.0, mb in 0f64..600.0, a in -255i32..=255, b in -255i32..=255) {
        let by = AddDyadic::from_real(ma, mb).unwrap();
        let exact = i128::from(a) * i128::from(by.ma) + i128::from(b) * i128::from(by.mb);
        prop_assert_eq!(i128::from(by.apply(a, b)), nearest(exact, 1 << by.shift, Tie::Up));
        prop_assert!((f64::from(by.ma) - ma * 2f64.powi(by.shift.into())).abs() <= 0.5);
    }

    #[test]
    fn gemmlowp_equals_its_two_steps(acc: i32, mult in 1 << 30..i32::MAX, right in 0i8..31) {
        let high = nearest(i128::from(acc) * i128::from(mult), 1 << 31, Tie::Up);
        let want = nearest(high, 1 << right, Tie::Away);
        prop_assert_eq!(i128::from(requantize_gemmlowp(acc, mult, -right)), want);
        let single = nearest(i128::from(acc) * i128::from(mult), 1 << (31 + i32::from(right)), Tie::Up);
        prop_assert_eq!(i128::from(requantize_tflite_single(acc, mult, -right)), single);
    }
}

/// The codes of vector code, for 64 accumulators.
struct Codes<'a> {
    prepared: &'a Prepared,
    acc: &'a [i32; 64],
}

impl Op for Codes<'_> {
    type Out = Vec<i32>;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Vec<i32> {
        let v = s.v();
        let mut codes = vec![0; 64];
        for at in (0..64).step_by(S::V::LANES) {
            let acc = vector::load(v, self.acc, at);
            let code = match self.prepared.kind() {
                Kind::Onnx => OnnxVector::load(v, self.prepared, at).apply(v, acc),
                Kind::Dyadic => DyadicVector::load(v, self.prepared, at).apply(v, acc),
                Kind::Wide => <DyadicWide<S::V> as VectorRequant<S::V>>::load(v, self.prepared, at).apply(v, acc),
            };
            // SAFETY: `at + LANES <= 64`.
            unsafe { v.store(codes.as_mut_ptr().add(at), code) };
        }
        codes
    }
}

#[test]
fn vectors_equal_scalars() {
    let limits = [(0u8, 0u8, 255u8), (128, 0, 255), (255, 7, 9), (1, 1, 254), (127, 200, 200)];
    for isa in tested() {
        for first in [1u8, 2, 30, 31, 32, 33, 34, 40, 61, 62] {
            for (zero, lo, hi) in limits {
                // Shifts on both sides of `first`, and a multiplier of 0.
                let mut by = [Dyadic { mult: 0, shift: 1 }; 64];
                for (i, by) in by.iter_mut().enumerate().skip(1) {
                    by.mult = (1 << 30) + i as i32 * 17_000_003;
                    by.shift = (first + i as u8 % 2).min(62);
                }
                let mut prepared = Prepared::default();
                prepared.limits(zero, lo, hi);
                prepared.set_dyadic(by.into_iter());
                for round in 0..20 {
                    let acc = std::array::from_fn(|i| {
                        let all = accumulators(by[i]);
                        all[(round + i) % all.len()]
                    });
                    let Some(codes) = dispatch(isa, Codes { prepared: &prepared, acc: &acc }) else {
                        continue;
                    };
                    for i in 0..64 {
                        let want = requantize_dyadic(acc[i], by[i], zero.into(), lo.into(), hi.into());
                        assert_eq!(codes[i], want, "{isa} {} {:?}", acc[i], by[i]);
                    }
                }
            }
        }
        for (zero, lo, hi) in limits {
            for scale in [1e-30f32, 2f32.powi(-9), 0.003_906_25, 0.017, 0.5, 1.0, 1e9, 3e38] {
                let factor: [f32; 64] = std::array::from_fn(|i| scale * (1.0 + i as f32 / 70.0).min(1.1));
                let mut prepared = Prepared::default();
                prepared.limits(zero, lo, hi);
                prepared.set_onnx(factor.into_iter());
                for round in 0..30i32 {
                    let acc = std::array::from_fn(|i| {
                        let i = i as i32;
                        let ends = [i32::MAX - i, i32::MIN + i, 128 * i + 256 * round, -128 * i - 256 * round];
                        ends[(i + round) as usize % 4]
                    });
                    let Some(codes) = dispatch(isa, Codes { prepared: &prepared, acc: &acc }) else {
                        continue;
                    };
                    for i in 0..64 {
                        let want = requantize_onnx(acc[i], factor[i], zero.into(), lo.into(), hi.into());
                        assert_eq!(codes[i], want, "{isa} {} {}", acc[i], factor[i]);
                    }
                }
            }
        }
    }
}

/// [`CodeLimits::code`] of one vector.
struct Limit([f32; MAX_LANES]);

impl Op for Limit {
    type Out = Vec<i32>;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Vec<i32> {
        let v = s.v();
        let mut codes = vec![0; MAX_LANES];
        for at in (0..MAX_LANES).step_by(S::V::LANES) {
            let code = CodeLimits::new(v, 5, 2, 250).code(v, vector::load_f(v, &self.0, at));
            // SAFETY: `at + LANES <= MAX_LANES`.
            unsafe { v.store(codes.as_mut_ptr().add(at), code) };
        }
        codes
    }
}

#[test]
fn vector_codes_of_special_reals_equal_scalars() {
    let special = [
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        3e9,
        -3e9,
        0.0,
        -0.0,
        0.5,
        1.5,
        -0.5,
        -2.5,
        -3.0,
        -3.5,
        245.0,
        244.5,
    ];
    for isa in tested() {
        if let Some(codes) = dispatch(isa, Limit(special)) {
            let want = special.map(|x| quantize_f32(x, 1.0, 5, 2, 250));
            assert_eq!(codes, want, "{isa}");
        }
    }
}
