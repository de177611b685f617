use super::*;
use crate::isa::tests::tested;

#[test]
fn layouts_change_as_indices_say() {
    for isa in tested() {
        for (c, pixels) in [(0, 5), (3, 0), (1, 1), (3, 7), (3, 64), (5, 65), (17, 200)] {
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
