//! Every pair of codes, every instruction set, against the formulas written out.
use super::*;
use crate::{conv::tests::Numbers, isa::tests::tested, round::rne_f32};

/// Zero points of the operands and the output, and limits of the code.
const POINTS: [(u8, u8, u8, u8, u8); 4] =
    [(0, 0, 0, 0, 255), (128, 128, 128, 0, 255), (255, 1, 127, 13, 240), (3, 250, 255, 0, 255)];

/// All pairs of codes, and how many elements of them to use.
fn pairs() -> (Vec<u8>, Vec<u8>) {
    let all = (0..=255u8).flat_map(|a| (0..=255u8).map(move |b| (a, b)));
    all.unzip()
}

fn clamp(real: f32, zero: u8, lo: u8, hi: u8) -> u8 {
    let (zero, lo, hi) = (f32::from(zero), f32::from(lo), f32::from(hi));
    (rne_f32(real) + zero).max(lo).min(hi) as u8
}

#[test]
fn sums_of_all_pairs() {
    let (a, b) = pairs();
    let scales = [(0.1f32, 0.1f32, 0.2f32), (0.037, 0.0011, 0.05), (2.0, 1.0, 4.0), (1e-6, 1.0, 0.5)];
    for isa in tested() {
        for (za, zb, zero, lo, hi) in POINTS {
            for (sa, sb, sy) in scales {
                for subtract in [false, true] {
                    let mode = AddMode::Onnx { sa, sb, sy };
                    let mut spec = AddSpec { za, zb, zero, lo, hi, subtract, mode };
                    let sign = if subtract { -1 } else { 1 };
                    let mut out = vec![0; a.len()];
                    add(isa, &a, &b, &mut out, &spec);
                    for ((&a, &b), &y) in a.iter().zip(&b).zip(&out) {
                        let a = (f32::from(a) - f32::from(za)) * sa;
                        let b = (f32::from(b) - f32::from(zb)) * sb;
                        let sum = a + b * sign as f32;
                        assert_eq!(y, clamp(sum / sy, zero, lo, hi), "{isa} {a} {b} {spec:?}");
                    }
                    let (ma, mb) = (f64::from(sa) / f64::from(sy), f64::from(sb) / f64::from(sy));
                    let by = AddDyadic::from_real(ma, mb).unwrap();
                    spec.mode = AddMode::Dyadic(by);
                    add(isa, &a, &b, &mut out, &spec);
                    for ((&a, &b), &y) in a.iter().zip(&b).zip(&out) {
                        let a = (i64::from(a) - i64::from(za)) * i64::from(by.ma);
                        let b = (i64::from(b) - i64::from(zb)) * i64::from(by.mb);
                        let sum = (a + sign * b + (1 << (by.shift - 1))) >> by.shift;
                        let want = (sum + i64::from(zero)).clamp(lo.into(), hi.into());
                        assert_eq!(i64::from(y), want, "{isa} {a} {b} {spec:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_all_pairs() {
    let (a, b) = pairs();
    let scales = [(0.1f32, 0.1f32, 0.2f32), (0.037, 0.0011, 0.05), (2.0, 1.0, 4.0), (1.0, 1.0, 0.25), (0.5, 0.5, 0.5)];
    for isa in tested() {
        for (za, zb, zero, lo, hi) in POINTS {
            for (sa, sb, sy) in scales {
                let mode = MulMode::Onnx { sa, sb, sy };
                let mut spec = MulSpec { za, zb, zero, lo, hi, mode };
                let mut out = vec![0; a.len()];
                mul(isa, &a, &b, &mut out, &spec);
                for ((&a, &b), &y) in a.iter().zip(&b).zip(&out) {
                    let a = (f32::from(a) - f32::from(za)) * sa;
                    let b = (f32::from(b) - f32::from(zb)) * sb;
                    assert_eq!(y, clamp(a * b / sy, zero, lo, hi), "{isa} {a} {b} {spec:?}");
                }
                let by = Dyadic::from_real(f64::from(sa) * f64::from(sb) / f64::from(sy)).unwrap();
                spec.mode = MulMode::Dyadic(by);
                mul(isa, &a, &b, &mut out, &spec);
                for ((&a, &b), &y) in a.iter().zip(&b).zip(&out) {
                    let acc = (i64::from(a) - i64::from(za)) * (i64::from(b) - i64::from(zb));
                    let scaled = (acc * i64::from(by.mult) + (1 << (by.shift - 1))) >> by.shift;
                    let want = (scaled + i64::from(zero)).clamp(lo.into(), hi.into());
                    assert_eq!(i64::from(y), want, "{isa} {a} {b} {spec:?}");
                }
            }
        }
    }
}

#[test]
fn lengths_around_the_vector() {
    let mut numbers = Numbers::new(1);
    let by = AddDyadic::from_real(0.7, 0.9).unwrap();
    let (za, zb, zero, lo, hi) = POINTS[2];
    let spec = AddSpec { za, zb, zero, lo, hi, subtract: false, mode: AddMode::Dyadic(by) };
    let product = MulSpec { za, zb, zero, lo, hi, mode: MulMode::Dyadic(Dyadic::from_real(0.011).unwrap()) };
    for len in [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200] {
        let (a, b) = (numbers.bytes(len), numbers.bytes(len));
        let x: Vec<f32> = numbers.bytes(len).iter().map(|&x| (f32::from(x) - 99.0) * 0.25).collect();
        let table: [u8; 256] = std::array::from_fn(|i| (i * 7 + 3) as u8);
        let run = |isa| {
            let mut codes = vec![0; 4 * len];
            let (first, rest) = codes.split_at_mut(len);
            let (second, rest) = rest.split_at_mut(len);
            let (third, fourth) = rest.split_at_mut(len);
            add(isa, &a, &b, first, &spec);
            quantize(isa, &x, 0.1, 100, 3, 222, second);
            lut(isa, &a, &table, third);
            mul(isa, &a, &b, fourth, &product);
            let mut real = vec![0f32; len];
            dequantize(isa, &a, 0.3, 77, &mut real);
            (codes, real)
        };
        for isa in tested() {
            assert_eq!(run(isa), run(Isa::Scalar), "{isa} {len}");
        }
    }
}

#[test]
fn quantize_divides_ties_and_special_values() {
    let mut x: Vec<f32> = (-600..600).map(|i| i as f32 * 0.05).collect();
    x.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e9, -3e9, -0.0, f32::MIN_POSITIVE]);
    for isa in tested() {
        for zero in [0u8, 1, 127, 128, 255] {
            let mut out = vec![0; x.len()];
            quantize(isa, &x, 0.1, zero, 0, 255, &mut out);
            for (&x, &y) in x.iter().zip(&out) {
                let want = if x.is_nan() { 0 } else { clamp(x / 0.1, zero, 0, 255) };
                assert_eq!(y, want, "{isa} {x} {zero}");
            }
        }
    }
}

#[test]
fn dequantize_of_every_code() {
    let codes: Vec<u8> = (0..=255).collect();
    for isa in tested() {
        for zero in [0u8, 128, 255] {
            let mut out = vec![0f32; 256];
            dequantize(isa, &codes, 0.1, zero, &mut out);
            for (&q, &y) in codes.iter().zip(&out) {
                assert_eq!(y, (f32::from(q) - f32::from(zero)) * 0.1, "{isa} {q} {zero}");
            }
        }
    }
}
