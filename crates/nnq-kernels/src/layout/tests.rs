use super::*;
use crate::isa::tests::tested;

#[test]
fn layouts_change_as_indices_say() {
    for isa in tested() {
        let small = [(0, 5), (3, 0), (1, 1), (5, 65), (17, 200)];
        let threes = [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64].map(|pixels| (3, pixels));
        let groups = [2, 4, 6, 7, 8].into_iter().flat_map(|c| [1, 8, 16, 31, 32, 33, 64, 65, 129].map(|n| (c, n)));
        for (c, pixels) in small.into_iter().chain(threes).chain(groups) {
            let x: Vec<f32> = (0..c * pixels).map(|i| (i * 7919 % 511) as f32 * 0.3 - 70.0).collect();
            let mut codes = vec![0; c * pixels];
            quantize_nchw_to_nhwc(isa, &x, c, pixels, 0.5, 128, 3, 250, &mut codes);
            let mut back = vec![0.0; c * pixels];
            dequantize_nhwc_to_nchw(isa, &codes, c, pixels, 0.5, 128, &mut back);
            for channel in 0..c {
                for pixel in 0..pixels {
                    let (first, last) = (channel * pixels + pixel, pixel * c + channel);
                    let want = crate::round::quantize_f32(x[first], 0.5, 128, 3, 250);
                    assert_eq!(i32::from(codes[last]), want, "{isa} {c} {pixels}");
                    assert_eq!(back[first], (want - 128) as f32 * 0.5, "{isa} {c} {pixels}");
                }
            }
        }
    }
}

#[test]
fn some_pixels_of_a_sample() {
    let pixels = 100;
    for isa in tested() {
        for c in [1, 3, 6] {
            let x: Vec<f32> = (0..c * pixels).map(|i| (i * 7919 % 511) as f32 * 0.3 - 70.0).collect();
            let code = Code { scale: 0.5, zero: 128, lo: 3, hi: 250 };
            let mut all = vec![0; c * pixels];
            quantize_pixels(Isa::Scalar, &x, [c, pixels], 0..pixels, code, &mut all);
            let mut back = vec![0.0; c * pixels];
            for row in [0..33, 33..97, 97..100] {
                let codes = &mut all[row.start * c..row.end * c];
                let mut some = vec![7; codes.len() + 2];
                quantize_pixels(isa, &x, [c, pixels], row.clone(), code, &mut some);
                assert_eq!(some[..codes.len()], *codes, "{isa} {c} {row:?}");
                assert_eq!(some[codes.len()..], [7, 7], "{isa} {c} {row:?}");
                // SAFETY: the pixels of `row` lie within `back`.
                unsafe {
                    dequantize_pixels(isa, codes, [c, pixels], 0.5, 128, back.as_mut_ptr().add(row.start));
                }
            }
            for (i, &y) in back.iter().enumerate() {
                let code = all[i % pixels * c + i / pixels];
                assert_eq!(y, (f32::from(code) - 128.0) * 0.5, "{isa} {c} {i}");
            }
        }
    }
}
