//! `nnq::numbers` against the standard library, the crate half, brute force, and published values.
use half::{bf16, f16};
use nnq::numbers::{Explanation, Rounding, Stored, explain};
use proptest::prelude::*;

fn of(text: &str) -> Explanation {
    explain(text, None).unwrap()
}

fn format(text: &str, name: &str) -> Stored {
    of(text).formats.into_iter().find(|f| f.format == name).unwrap()
}

fn bits(s: &Stored) -> u64 {
    u64::from_str_radix(&format!("{}{}{}", s.sign, s.exponent, s.mantissa), 2).unwrap()
}

fn shown(text: &str, name: &str) -> String {
    let s = format(text, name);
    assert_eq!(format!("0x{:0w$X}", bits(&s), w = s.hex.len() - 2), s.hex);
    format!("{} {} {}", s.sign, s.exponent, s.mantissa)
}

#[test]
fn known_bit_patterns() {
    for (text, name, expected) in [
        ("85.125", "f32", "0 10000101 01010100100000000000000"),
        ("2.718281828459045", "f32", "0 10000000 01011011111100001010100"),
        ("-85.125", "f32", "1 10000101 01010100100000000000000"),
        ("0.1", "f32", "0 01111011 10011001100110011001101"),
        ("0.1", "f64", "0 01111111011 1001100110011001100110011001100110011001100110011010"),
        ("1", "f16", "0 01111 0000000000"),
        ("65504", "f16", "0 11110 1111111111"),
        ("-2", "bf16", "1 10000000 0000000"),
        // OCP 8-bit Floating Point Specification, tables of values.
        ("448", "fp8 e4m3", "0 1111 110"),
        ("0.015625", "fp8 e4m3", "0 0001 000"),
        ("0.001953125", "fp8 e4m3", "0 0000 001"),
        ("nan", "fp8 e4m3", "0 1111 111"),
        ("57344", "fp8 e5m2", "0 11110 11"),
        ("-inf", "fp8 e5m2", "1 11111 00"),
        ("0.0000152587890625", "fp8 e5m2", "0 00000 01"),
        ("0", "f32", "0 00000000 00000000000000000000000"),
        ("-0", "f32", "1 00000000 00000000000000000000000"),
        ("-0.000e7", "fp8 e4m3", "1 0000 000"),
        ("inf", "f32", "0 11111111 00000000000000000000000"),
        ("nan", "f32", "0 11111111 10000000000000000000000"),
    ] {
        assert_eq!(shown(text, name), expected, "{text} {name}");
    }
}

#[test]
fn the_steps_of_85_125() {
    let s = of("85.125").steps.unwrap();
    assert_eq!((s.integer.as_str(), s.integer_bits.as_str()), ("85", "1010101"));
    assert_eq!((s.fraction.as_str(), s.fraction_bits.as_str()), ("0.125", "001"));
    assert_eq!(s.halvings[0], ("85".into(), "42".into(), 1));
    assert_eq!(s.halvings[6], ("1".into(), "0".into(), 1));
    let doublings: Vec<_> = s.doublings.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), *c)).collect();
    assert_eq!(doublings, [("0.125", "0.25", 0), ("0.25", "0.5", 0), ("0.5", "0", 1)]);
    assert_eq!((s.exponent, s.normalised.as_str(), s.cut_off), (Some(6), "010101001", false));
    // Long numbers: 60 bits of 2^-140 * 1.53..., whose doublings are cut off.
    let s = of("1.1e-42").steps.unwrap();
    assert_eq!((s.exponent, s.cut_off, s.doublings.len(), s.normalised.len()), (Some(-140), true, 64, 63));
    assert!(s.normalised.starts_with("100010000111111000111100"), "{}", s.normalised);
    let text = of("85.125").to_string();
    for part in ["85 / 2 = 42 remainder 1", "1010101.001 in binary", "1.010101001 x 2^6", "exponent 6 + bias 127 = 133"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // The JSON form holds the same.
    let json: serde_json::Value = serde_json::to_value(of("85.125")).unwrap();
    assert_eq!(json["formats"][1]["exponent"], "10000101");
}

#[test]
fn stored_values_and_errors() {
    let e = format("2.718281828459045", "f32");
    assert_eq!(e.decimal, "2.71828174591064453125");
    assert!((e.error - -8.254_840_046_875e-8).abs() < 1e-22, "{}", e.error);
    assert_eq!(e.rounding, Some(Rounding::Down));
    let tenth = format("0.1", "f64");
    assert_eq!(tenth.decimal, "0.1000000000000000055511151231257827021181583404541015625");
    // The same digits again, as they follow 0.1.
    assert_eq!(tenth.error, 5.551_115_123_125_783e-18);
    assert_eq!((format("85.125", "f16").error, format("85.125", "f16").rounding), (0.0, Some(Rounding::Exact)));
    // bfloat16 keeps 8 bits: 85.
    assert_eq!((format("85.125", "bf16").value, format("85.125", "bf16").error), (85.0, -0.125));
    assert_eq!(format("-85.125", "bf16").error, 0.125);
}

#[test]
fn ties_subnormals_and_overflow() {
    let way = |t: &str, n: &str| (format(t, n).value, format(t, n).rounding.unwrap());
    // 2^24 + 1 and 2^24 + 3 lie between two numbers; a digit far behind decides.
    assert_eq!(way("16777217", "f32"), (16_777_216.0, Rounding::TieDown));
    assert_eq!(way("16777219", "f32"), (16_777_220.0, Rounding::TieUp));
    assert_eq!(way(&format!("16777217.{}1", "0".repeat(300)), "f32"), (16_777_218.0, Rounding::Up));
    assert_eq!(way("1.0625", "fp8 e4m3"), (1.0, Rounding::TieDown));
    assert_eq!(way("1.1875", "fp8 e4m3"), (1.25, Rounding::TieUp));
    // A carry through all bits.
    assert_eq!(way("1.9999999999", "f16"), (2.0, Rounding::Up));
    // Subnormals.
    let s = format("1e-45", "f32");
    assert!(s.subnormal && s.value == f64::from(f32::from_bits(1)) && s.power == Some(-126));
    assert_eq!(way("5e-324", "f64"), (5e-324, Rounding::Down));
    // Half of the smallest number is a tie with zero; a little more is not.
    assert_eq!(way("0.0009765625", "fp8 e4m3"), (0.0, Rounding::TieDown));
    assert_eq!(way("0.00097656250001", "fp8 e4m3"), (0.001_953_125, Rounding::Up));
    assert_eq!(way("1e-400", "f64"), (0.0, Rounding::Down));
    assert_eq!(way("1e-5000", "fp8 e5m2"), (0.0, Rounding::Down));
    // The largest subnormal rounds up to the smallest normal number.
    assert_eq!(shown("0.0146484375", "fp8 e4m3"), "0 0001 000");
    // Overflow: half a step beyond the largest number.
    assert_eq!(way("65519.999", "f16"), (65_504.0, Rounding::Down));
    assert_eq!(way("65520", "f16"), (f64::INFINITY, Rounding::Overflow));
    assert_eq!(way("-65520", "f16").0, f64::NEG_INFINITY);
    assert_eq!(way("1e400", "f64"), (f64::INFINITY, Rounding::Overflow));
    assert_eq!(way("1e5000", "f32"), (f64::INFINITY, Rounding::Overflow));
    assert_eq!(way("1e400", "fp8 e4m3"), (448.0, Rounding::Saturated));
    assert_eq!(way("464", "fp8 e4m3"), (448.0, Rounding::TieDown));
    assert_eq!(way("465", "fp8 e4m3"), (448.0, Rounding::Saturated));
    assert_eq!(way("-1e9", "fp8 e5m2"), (-57_344.0, Rounding::Saturated));
    assert_eq!(format("500", "fp8 e4m3").error, -52.0);
    assert_eq!(format("inf", "fp8 e4m3").value, 448.0);
}

#[test]
fn what_is_no_number_is_refused() {
    for bad in [
        "abc",
        "",
        "-",
        ".",
        "1e",
        "1e+",
        "1.2.3",
        "1,5",
        "0x10",
        "1e5.0",
        "--1",
        "1 2",
        "e5",
        "٣",
        "1e99999999999999999999",
    ] {
        let e = explain(bad, None).unwrap_err().to_string();
        assert!(e.contains("85.125") || e.contains("exponent"), "{bad}: {e}");
    }
    assert!(explain(&"1".repeat(1001), None).is_err());
    assert!(explain("1e5001", None).is_err());
    for good in [" 1 ", "+1", "1.", ".5", "1E3", "1e+3", "Infinity", "NaN", "00012", &"9".repeat(1000)] {
        assert!(explain(good, None).is_ok(), "{good}");
        assert!(!of(good).to_string().is_empty());
    }
    assert!(of("1e5000").to_string().len() < 20_000);
}

#[test]
fn integers_of_eight_bits() {
    let e = explain("85.125", Some((-100.0, 127.0))).unwrap();
    let [s, a] = &e.int8[..] else { panic!() };
    assert_eq!((s.scale, s.zero_point, s.code, s.value, s.error, s.clamped), (1.0, 0, 85, 85.0, -0.125, false));
    // 227 / 255; -100 / that = -112.3.
    assert_eq!((a.zero_point, a.code, a.clamped), (112, 96 + 112, false));
    assert!(
        (f64::from(a.scale) - 227.0 / 255.0).abs() < 1e-7 && (a.error - (96.0 * 227.0 / 255.0 - 85.125)).abs() < 1e-4
    );
    // Outside; zero is always part of the range.
    let e = explain("1e30", Some((3.0, 255.0))).unwrap();
    assert_eq!((e.int8[1].range, e.int8[1].code, e.int8[1].value, e.int8[1].clamped), ((0.0, 255.0), 255, 255.0, true));
    assert_eq!(explain("-inf", Some((-1.0, 1.0))).unwrap().int8[0].code, -128);
    assert_eq!(explain("nan", Some((-1.0, 1.0))).unwrap().int8[1].code, 0);
    for bad in [(1.0, -1.0), (0.0, 0.0), (f64::NAN, 1.0), (0.0, f64::INFINITY), (0.0, 1e-300), (-1e300, 1e300)] {
        assert!(explain("1", Some(bad)).is_err(), "{bad:?}");
    }
}

/// The nearest of all finite codes of a format, by search; ties to the even code.
fn brute(x: f64, values: &[(f64, u64)]) -> u64 {
    let mut best = (f64::INFINITY, 0);
    for &(v, code) in values {
        let distance = (v - x.abs()).abs();
        if distance < best.0 || distance == best.0 && code % 2 == 0 {
            best = (distance, code);
        }
    }
    best.1
}

fn small_floats(mantissa: u32, bias: i32, largest: u64) -> Vec<(f64, u64)> {
    let value = |code: u64| {
        let (field, m) = ((code >> mantissa) as i32, (code & ((1 << mantissa) - 1)) as f64 / f64::from(1 << mantissa));
        if field == 0 { m * 2f64.powi(1 - bias) } else { (1.0 + m) * 2f64.powi(field - bias) }
    };
    (0..=largest).map(|c| (value(c), c)).collect()
}

proptest! {
    #[test]
    fn equals_the_standard_library(pattern in any::<u64>(), digits in 1usize..25) {
        let x = f64::from_bits(pattern);
        prop_assume!(x.is_finite());
        let text = format!("{x:.digits$e}");
        let formats = of(&text).formats;
        prop_assert_eq!(bits(&formats[0]), text.parse::<f64>().unwrap().to_bits());
        prop_assert_eq!(bits(&formats[1]), u64::from(text.parse::<f32>().unwrap().to_bits()));
    }
    #[test]
    fn equals_half(x in any::<f32>().prop_filter("finite", |x| x.is_finite()), small in -20i32..20) {
        for x in [f64::from(x), f64::from(x.signum()) * 2f64.powi(small) * (1.0 + f64::from(x.to_bits() & 0xFFFF) / 65536.0)] {
            // Both are binary32 numbers, of at most 112 significant digits. The shortest decimal number that reads back as `x` is another
            // number, on one side of a tie.
            let formats = of(&format!("{x:.120e}")).formats;
            let x = x as f32;
            prop_assert_eq!(bits(&formats[2]), u64::from(f16::from_f32(x).to_bits()));
            prop_assert_eq!(bits(&formats[3]), u64::from(bf16::from_f32(x).to_bits()));
        }
    }
    #[test]
    fn equals_the_nearest_of_all_codes(m in -4096i32..4096, e in -30i32..12) {
        let x = f64::from(m) * 2f64.powi(e);
        let formats = of(&format!("{x:.60e}")).formats;
        let sign = u64::from(x.is_sign_negative()) << 7;
        prop_assert_eq!(bits(&formats[4]), sign | brute(x, &small_floats(3, 7, 0x7E)));
        prop_assert_eq!(bits(&formats[5]), sign | brute(x, &small_floats(2, 15, 0x7B)));
    }
}
