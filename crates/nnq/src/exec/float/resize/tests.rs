use super::*;
use crate::ir::op::NearestMode;
use half::f16;

fn attrs(mode: ResizeMode, coord: CoordMode) -> ResizeAttrs {
    ResizeAttrs { mode, coord, ..ResizeAttrs::default() }
}

fn floats(v: &[f32]) -> Tensor {
    Tensor::of(&[v.len()], v.to_vec())
}

fn ints(v: &[i64]) -> Tensor {
    Tensor::of(&[v.len()], v.to_vec())
}

fn scaled(a: &ResizeAttrs, t: &Tensor, scales: &[f32]) -> Result<Tensor> {
    run(a, &[Some(t), None, Some(&floats(scales))], &Ctx::new())
}

fn sized(a: &ResizeAttrs, t: &Tensor, sizes: &[i64]) -> Result<Tensor> {
    run(a, &[Some(t), None, None, Some(&ints(sizes))], &Ctx::new())
}

/// Interpolation at one point of one line, from the definition of the operator, for the modes in which a point has a plain
/// formula.
fn at(v: &[f32], x: f64, mode: ResizeMode, a: f64) -> f64 {
    let get = |i: i64| f64::from(v[i.clamp(0, v.len() as i64 - 1) as usize]);
    let (i, r) = (x.floor() as i64, x - x.floor());
    match mode {
        ResizeMode::Linear => (1.0 - r) * get(i) + r * get(i + 1),
        _ => {
            let near = |d: f64| (a + 2.0) * d.powi(3) - (a + 3.0) * d.powi(2) + 1.0;
            let far = |d: f64| a * d.powi(3) - 5.0 * a * d.powi(2) + 8.0 * a * d - 4.0 * a;
            far(1.0 + r) * get(i - 1) + near(r) * get(i) + near(1.0 - r) * get(i + 1) + far(2.0 - r) * get(i + 2)
        }
    }
}

#[test]
fn lines_follow_the_formulas() {
    let v: Vec<f32> = (0..11).map(|i| ((i * 37 % 17) as f32).sin() * 3.0).collect();
    let t = floats(&v);
    for mode in [ResizeMode::Linear, ResizeMode::Cubic] {
        for (coord, n) in [(0, 5i64), (0, 11), (0, 29), (1, 5), (1, 29), (2, 1), (2, 7), (2, 30), (3, 5), (3, 23)] {
            let (input, output) = (v.len() as f64, n as f64);
            let (coord, f): (_, &dyn Fn(f64) -> f64) = match coord {
                0 => (CoordMode::HalfPixel, &|x| (x + 0.5) * input / output - 0.5),
                1 => (CoordMode::AlignCorners, &|x| x * (input - 1.0) / (output - 1.0)),
                2 if n == 1 => (CoordMode::PytorchHalfPixel, &|_| 0.0),
                2 => (CoordMode::PytorchHalfPixel, &|x| (x + 0.5) * input / output - 0.5),
                _ => (CoordMode::Asymmetric, &|x| x * input / output),
            };
            let y = sized(&attrs(mode, coord), &t, &[n]).unwrap().to_f32s();
            for (x, &y) in y.iter().enumerate() {
                let e = at(&v, f(x as f64), mode, -0.75);
                assert!((f64::from(y) - e).abs() < 2e-6, "{mode:?} {coord:?} to {n} at {x}: {y} for {e}");
            }
        }
    }
}

#[test]
fn axes_are_separable_and_any_of_them_may_change() {
    let t = Tensor::of(&[2, 3, 4, 5], (0..120).map(|i| (i * 31 % 47) as f32).collect());
    let all = sized(&attrs(ResizeMode::Linear, CoordMode::HalfPixel), &t, &[2, 6, 7, 3]).unwrap();
    let mut step = t.clone();
    for (axis, n) in [(1, 6), (2, 7), (-1, 3)] {
        let mut a = attrs(ResizeMode::Linear, CoordMode::HalfPixel);
        a.axes = vec![axis];
        step = sized(&a, &step, &[n]).unwrap();
    }
    assert_eq!(all.shape(), step.shape());
    assert!(all.to_f32s().iter().zip(step.to_f32s()).all(|(a, b)| (a - b).abs() < 1e-4));
}

#[test]
fn large_images_are_the_same_as_their_lines() {
    let (h, w) = (150, 170);
    let t = Tensor::of(&[1, 2, h, w], (0..2 * h * w).map(|i| (i * 7919 % 1009) as f32 * 0.01).collect());
    let mut a = attrs(ResizeMode::Cubic, CoordMode::HalfPixel);
    a.axes = vec![2];
    let tall = sized(&a, &t, &[333]).unwrap();
    a.axes = vec![0];
    for (c, x) in [(0, 0), (0, 77), (1, 169)] {
        let line: Vec<f32> = (0..h).map(|y| t.to_f32s()[(c * h + y) * w + x]).collect();
        let e = sized(&a, &floats(&line), &[333]).unwrap().to_f32s();
        let got: Vec<f32> = (0..333).map(|y| tall.to_f32s()[(c * 333 + y) * w + x]).collect();
        assert_eq!(got, e);
    }
}

#[test]
fn nearest_moves_any_type() {
    let t = Tensor::of(&[1, 4], vec![1u8, 2, 3, 4]);
    let mut a = attrs(ResizeMode::Nearest, CoordMode::Asymmetric);
    a.nearest = NearestMode::Floor;
    let y = scaled(&a, &t, &[2.0, 2.0]).unwrap();
    assert_eq!(y.into_vec::<u8>().unwrap(), [1, 1, 2, 2, 3, 3, 4, 4, 1, 1, 2, 2, 3, 3, 4, 4]);
    // Points 0, 2/3, 4/3, 2, 8/3, 10/3: only the whole one is the same for all modes.
    for (nearest, e) in [
        (NearestMode::Floor, [1, 1, 2, 3, 3, 4]),
        (NearestMode::Ceil, [1, 2, 3, 3, 4, 4]),
        (NearestMode::RoundPreferFloor, [1, 2, 2, 3, 4, 4]),
    ] {
        a.nearest = nearest;
        assert_eq!(sized(&a, &t, &[1, 6]).unwrap().into_vec::<u8>().unwrap(), e, "{nearest:?}");
    }
    // Half-way points: 0.5 and 2.5.
    a.coord = CoordMode::HalfPixel;
    a.nearest = NearestMode::RoundPreferFloor;
    assert_eq!(sized(&a, &t, &[1, 2]).unwrap().into_vec::<u8>().unwrap(), [1, 3]);
    a.nearest = NearestMode::RoundPreferCeil;
    assert_eq!(sized(&a, &t, &[1, 2]).unwrap().into_vec::<u8>().unwrap(), [2, 4]);
    assert_eq!(sized(&a, &Tensor::from_bools(&[1], &[true]), &[3]).unwrap().to_f32s(), [1.0; 3]);
}

#[test]
fn outside_of_the_region_comes_the_extrapolation() {
    let mut a = attrs(ResizeMode::Linear, CoordMode::TfCropAndResize);
    a.extrapolation = 9.0;
    let t = floats(&[0.0, 1.0, 2.0, 3.0]);
    let crop = |a: &ResizeAttrs, roi: &[f32]| {
        run(a, &[Some(&t), Some(&floats(roi)), None, Some(&ints(&[3]))], &Ctx::new()).map(|y| y.to_f32s())
    };
    assert_eq!(crop(&a, &[0.0, 1.0]).unwrap(), [0.0, 1.5, 3.0]);
    assert_eq!(crop(&a, &[0.5, 1.5]).unwrap(), [1.5, 3.0, 9.0]);
    a.mode = ResizeMode::Nearest;
    assert_eq!(crop(&a, &[-0.5, 0.5]).unwrap(), [9.0, 0.0, 1.0]);
    assert_eq!(crop(&a, &[f32::NAN, 1.0]).unwrap()[0], 9.0);
    assert!(crop(&a, &[0.0]).is_err() && crop(&a, &[0.0, 1.0, 1.0]).is_err());
    assert!(scaled(&a, &t, &[1.0]).is_err());
}

#[test]
fn antialiasing_averages_and_weights_outside_are_left_out() {
    let mut a = attrs(ResizeMode::Linear, CoordMode::HalfPixel);
    a.antialias = true;
    let t = floats(&[0.0, 4.0, 8.0, 0.0]);
    // Samples 0..4 around 0.5 with triangle weights 1 - |d| / 2: 1/4 (twice the first, by repetition), 3/4, 3/4, 1/4.
    let y = sized(&a, &t, &[2]).unwrap().to_f32s();
    assert_eq!(y, [(0.25 * 0.0 + 0.75 * 0.0 + 0.75 * 4.0 + 0.25 * 8.0) / 2.0, (0.25 * 4.0 + 0.75 * 8.0) / 2.0]);
    a.exclude_outside = true;
    let y = sized(&a, &t, &[2]).unwrap().to_f32s();
    assert!((y[0] - (0.75 * 4.0 + 0.25 * 8.0) / 1.75).abs() < 1e-6);
    // Enlarging is not filtered.
    a.exclude_outside = false;
    let up = sized(&a, &t, &[7]).unwrap().to_f32s();
    a.antialias = false;
    assert_eq!(up, sized(&a, &t, &[7]).unwrap().to_f32s());
    // A sample without weight does not count, even when it is infinite.
    let t = floats(&[1.0, 2.0, f32::INFINITY]);
    let y = sized(&attrs(ResizeMode::Linear, CoordMode::AlignCorners), &t, &[5]).unwrap().to_f32s();
    assert_eq!(y[..3], [1.0, 1.5, 2.0]);
}

#[test]
fn sizes_scales_and_policies() {
    let t = Tensor::of(&[1, 1, 4, 6], vec![1f32; 24]);
    let mut a = attrs(ResizeMode::Linear, CoordMode::HalfPixel);
    assert_eq!(scaled(&a, &t, &[1.0, 1.0, 0.7, 0.7]).unwrap().shape(), [1, 1, 2, 4]);
    // 10 times 0.7 is 7, although 0.7 in f32 lies below.
    assert_eq!(scaled(&a, &floats(&[0.0; 10]), &[0.7]).unwrap().shape(), [7]);
    a.axes = vec![2, 3];
    a.aspect = AspectPolicy::NotLarger;
    assert_eq!(sized(&a, &t, &[6, 6]).unwrap().shape(), [1, 1, 4, 6]);
    assert_eq!(sized(&a, &t, &[7, 15]).unwrap().shape(), [1, 1, 7, 11]);
    a.aspect = AspectPolicy::NotSmaller;
    assert_eq!(sized(&a, &t, &[7, 15]).unwrap().shape(), [1, 1, 10, 15]);
    let h = Tensor::of(&[2], vec![f16::from_f32(0.0), f16::from_f32(1.0)]);
    let y = sized(&attrs(ResizeMode::Linear, CoordMode::AlignCorners), &h, &[3]).unwrap();
    assert_eq!(y.into_vec::<f16>().unwrap(), [0.0, 0.5, 1.0].map(f16::from_f32));
    let bytes = Tensor::of(&[2], vec![0u8, 255]);
    let y = sized(&attrs(ResizeMode::Linear, CoordMode::AlignCorners), &bytes, &[3]).unwrap();
    assert_eq!(y.into_vec::<u8>().unwrap(), [0, 127, 255]);
}

#[test]
fn hostile_requests_are_errors() {
    let t = floats(&[1.0, 2.0]);
    for mode in [ResizeMode::Nearest, ResizeMode::Linear, ResizeMode::Cubic] {
        let a = attrs(mode, CoordMode::HalfPixel);
        for s in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e30] {
            assert!(scaled(&a, &t, &[s]).is_err(), "{mode:?} by {s}");
        }
        assert!(scaled(&a, &t, &[1.0, 1.0]).is_err());
        assert!(sized(&a, &t, &[-1]).is_err() && sized(&a, &t, &[i64::MAX]).is_err());
        assert!(sized(&a, &t, &[1, 1]).is_err());
        assert!(sized(&a, &floats(&[]), &[1]).is_err());
        assert_eq!(sized(&a, &t, &[0]).unwrap().shape(), [0]);
        assert!(run(&a, &[Some(&t)], &Ctx::new()).is_err());
        assert!(run(&a, &[Some(&t), None, Some(&floats(&[1.0])), Some(&ints(&[2]))], &Ctx::new()).is_err());
        let mut a = a;
        a.axes = vec![0, 0];
        assert!(sized(&a, &t, &[1, 1]).is_err());
    }
    let mut a = attrs(ResizeMode::Nearest, CoordMode::HalfPixel);
    a.antialias = true;
    assert!(sized(&a, &t, &[1]).is_err());
    assert!(sized(&attrs(ResizeMode::Linear, CoordMode::HalfPixel), &Tensor::from_bools(&[1], &[true]), &[2]).is_err());
}
