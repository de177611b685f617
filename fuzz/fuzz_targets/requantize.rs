//! Every rounding rule of `nnq_kernels::round` against exact integer arithmetic.
#![no_main]
use libfuzzer_sys::fuzz_target;
use nnq_kernels::round::{self, AddDyadic, Dyadic};
use std::cmp::Ordering;

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    acc: i32,
    real: f64,
    other: f64,
    factor: f32,
    shift: u8,
    zero: u8,
    lo: u8,
    hi: u8,
    a: u8,
    b: u8,
    za: u8,
    zb: u8,
}

enum Tie {
    Up,
    Away,
    Even,
}

/// `numerator / denominator`, rounded to the nearest integer.
fn nearest(numerator: i128, denominator: i128, tie: Tie) -> i128 {
    let floor = numerator.div_euclid(denominator);
    let twice = 2 * numerator.rem_euclid(denominator);
    floor
        + match (twice.cmp(&denominator), tie) {
            (Ordering::Less, _) => 0,
            (Ordering::Greater, _) | (_, Tie::Up) => 1,
            (_, Tie::Away) => i128::from(numerator > 0),
            (_, Tie::Even) => floor & 1,
        }
}

/// A finite float as `m * 2^e`, from its bits.
fn parts(x: f64) -> (i128, i32) {
    let bits = x.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let fraction = i128::from(bits & ((1 << 52) - 1));
    let (m, e) = match exponent {
        0 => (fraction, -1074),
        _ => (fraction | 1 << 52, exponent - 1075),
    };
    (if x < 0.0 { -m } else { m }, e)
}

/// `m * 2^e`, rounded half to even to `bits` bits.
fn to_bits(m: i128, e: i32, bits: i32) -> (i128, i32) {
    let spare = (128 - m.unsigned_abs().leading_zeros() as i32 - bits).max(0);
    (nearest(m, 1 << spare, Tie::Even), e + spare)
}

/// `m * 2^e` rounded half to even to an integer; large values saturate far outside of `i32`.
fn to_whole(m: i128, e: i32) -> i128 {
    match e {
        ..-120 => 0,
        -120..0 => nearest(m, 1 << -e, Tie::Even),
        0..60 => m << e,
        60.. => m.signum() << 90,
    }
}

fuzz_target!(|input: Input| {
    let acc = i128::from(input.acc);
    let (zero, lo, hi) = (i32::from(input.zero), i32::from(input.lo), i32::from(input.hi));
    let (lo, hi) = (lo.min(hi), lo.max(hi));
    let code = |whole: i128| (whole + i128::from(zero)).clamp(lo.into(), hi.into()) as i32;

    dyadic(&input, acc, &code, (zero, lo, hi));

    if let Some(by) = AddDyadic::from_real(input.real, input.other) {
        let a = i32::from(input.a) - i32::from(input.za);
        let b = i32::from(input.b) - i32::from(input.zb);
        let sum = i128::from(a) * i128::from(by.ma) + i128::from(b) * i128::from(by.mb);
        let want = nearest(sum, 1 << by.shift, Tie::Up);
        assert_eq!(i128::from(by.apply(a, b)), want);
        for (m, mult) in [(input.real, by.ma), (input.other, by.mb)] {
            let (m, e) = parts(m);
            assert_eq!(to_whole(m, e + i32::from(by.shift)), mult.into());
        }
    }

    let factor = input.factor;
    if factor.is_normal() && factor > 0.0 {
        let (a, a_exponent) = to_bits(acc, 0, 24);
        let (m, m_exponent) = parts(factor.into());
        let (product, exponent) = to_bits(a * m, a_exponent + m_exponent, 24);
        let want = code(to_whole(product, exponent));
        assert_eq!(round::requantize_onnx(input.acc, factor, zero, lo, hi), want);
    }
});

fn dyadic(input: &Input, acc: i128, code: &dyn Fn(i128) -> i32, limits: (i32, i32, i32)) {
    let (zero, lo, hi) = limits;
    let Some(by) = Dyadic::from_real(input.real) else {
        let refused = !input.real.is_finite() || input.real < 0.0 || input.real > 2f64.powi(30) - 1.0;
        assert!(refused, "{}", input.real);
        return;
    };
    let product = acc * i128::from(by.mult);
    let want = nearest(product, 1 << by.shift, Tie::Up);
    assert_eq!(i128::from(by.apply(input.acc)), want);
    assert_eq!(round::requantize_dyadic(input.acc, by, zero, lo, hi), code(want));
    let even = nearest(product, 1 << by.shift, Tie::Even);
    assert_eq!(i128::from(round::requantize_hawq(input.acc, by)), even);

    if by.mult == 0 {
        return;
    }
    let (m, e) = parts(input.real);
    assert_eq!(to_whole(m, e + i32::from(by.shift)), by.mult.into());
    let right = (input.shift % 32) as i8;
    let high = nearest(product, 1 << 31, Tie::Up);
    let twice = nearest(high, 1 << right, Tie::Away);
    let gemmlowp = round::requantize_gemmlowp(input.acc, by.mult, -right);
    assert_eq!(i128::from(gemmlowp), twice);
    let once = nearest(product, 1 << (31 + i32::from(right)), Tie::Up);
    let single = round::requantize_tflite_single(input.acc, by.mult, -right);
    assert_eq!(i128::from(single), once);
}
