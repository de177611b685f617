use super::*;
use crate::isa::tests::tested;

#[test]
fn extremes_of_every_length_and_place() {
    let numbers: Vec<f32> = (0..300).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 16.0).collect();
    for isa in tested() {
        for len in (0..=140).chain([255, 256, 257, 300]) {
            for first in [0, 1, 5] {
                let x = &numbers[first.min(numbers.len() - len)..][..len];
                let low = x.iter().copied().fold(0.0, f32::min);
                let high = x.iter().copied().fold(0.0, f32::max);
                let got = extremes(isa, x);
                let magnitude = low.abs().max(high).to_bits() as i32;
                assert_eq!(got, Extremes { low, high, magnitude }, "{isa} {len} {first}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_has_no_grid_wherever_it_stands() {
    for isa in tested() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..150 {
                let mut x = vec![1.0f32; 150];
                x[at] = bad;
                assert_eq!(extremes(isa, &x).grid(), None, "{isa} {bad} at {at}");
            }
        }
        // Finite, but not their difference.
        assert_eq!(extremes(isa, &[-2e38, 2e38]).grid(), None);
        assert!(extremes(isa, &[-1e38, 2e38]).grid().is_some());
    }
}

#[test]
fn grids_hold_zero_exactly() {
    assert_eq!(dynamic_grid(0.0, 0.0), Some((1.0, 0)));
    assert_eq!(dynamic_grid(0.0, 255.0), Some((1.0, 0)));
    assert_eq!(dynamic_grid(-255.0, 0.0), Some((1.0, 255)));
    assert_eq!(dynamic_grid(-127.5, 127.5), Some((1.0, 128)), "ties go to even");
    assert_eq!(dynamic_grid(-126.5, 128.5), Some((1.0, 126)), "ties go to even");
    // So near 0 that the scale is none.
    let tiny = f32::from_bits(1);
    assert_eq!(dynamic_grid(-tiny, tiny), Some((1.0, 0)));
    // The example of the operator's definition in ONNX.
    let x = [0.0, 2.0, -3.0, -2.5, 1.34, 0.5];
    for isa in tested() {
        let (scale, zero) = extremes(isa, &x).grid().unwrap();
        assert_eq!((scale, zero), (5.0 / 255.0, 153));
    }
}
