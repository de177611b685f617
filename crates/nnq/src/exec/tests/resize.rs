//! Linear and cubic resizing.
use super::*;
use crate::ir::op::{CoordMode, ResizeAttrs, ResizeMode};

fn attrs(mode: ResizeMode, coord: CoordMode) -> ResizeAttrs {
    ResizeAttrs { mode, coord, ..ResizeAttrs::default() }
}

/// A resizing to `sizes` between a convolution and a sum, where the convolution's grid is `same` as that of the result or another.
fn net(a: &ResizeAttrs, spatial: &[usize], sizes: &[usize], c: usize, same: bool, seed: u64) -> Graph {
    let mut net = Net::new(seed);
    let shape = spatial.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let x = net.input(&format!("N, {c}, {shape}"));
    let r = net.b.op("relu", Op::Unary(Unary::Relu), &[x]);
    let r = net.grid(r, QType::U8, 0.013, 3);
    let scales: Vec<f32> = sizes.iter().zip(spatial).map(|(&to, &from)| to as f32 / from as f32).collect();
    let scales = net.b.constant("scales", Tensor::of(&[2 + scales.len()], [&[1.0, 1.0], &scales[..]].concat()));
    let none = net.b.constant("roi", Tensor::of::<f32>(&[0], vec![]));
    let y = net.b.op("resize", Op::Resize(a.clone()), &[r, none, scales]);
    let y = if same { net.grid(y, QType::U8, 0.013, 3) } else { net.any_grid(y) };
    let z = net.b.op("sum", Op::Binary(Binary::Add), &[y, y]);
    let z = net.any_grid(z);
    net.finish(&[z, y])
}

#[test]
fn every_executor_resizes_alike_and_in_integers() {
    let antialias = ResizeAttrs { antialias: true, ..attrs(ResizeMode::Linear, CoordMode::HalfPixel) };
    let cubic = ResizeAttrs { exclude_outside: true, ..attrs(ResizeMode::Cubic, CoordMode::HalfPixel) };
    let cases: Vec<(ResizeAttrs, Vec<usize>, Vec<usize>, usize)> = vec![
        (attrs(ResizeMode::Linear, CoordMode::HalfPixel), vec![7, 5], vec![14, 10], 21),
        (attrs(ResizeMode::Linear, CoordMode::AlignCorners), vec![6, 9], vec![24, 36], 70),
        (attrs(ResizeMode::Linear, CoordMode::Asymmetric), vec![5, 4], vec![7, 6], 3),
        (attrs(ResizeMode::Linear, CoordMode::PytorchHalfPixel), vec![8, 8], vec![3, 16], 16),
        (attrs(ResizeMode::Linear, CoordMode::HalfPixel), vec![11], vec![29], 33),
        (antialias, vec![16, 12], vec![5, 7], 8),
        (cubic, vec![6, 6], vec![12, 9], 5),
    ];
    for (i, (a, from, to, c)) in cases.into_iter().enumerate() {
        for same in [true, false] {
            let graph = net(&a, &from, &to, c, same, 31 + i as u64);
            let shape = [&[3, c], &from[..]].concat();
            let (out, kinds) = agree(&graph, &shape, 17 + i as u64);
            assert!(kinds.iter().any(|k| matches!(k, StepKind::Resize { .. })), "case {i}: {kinds:?}");
            assert!(!kinds.iter().any(|k| matches!(k, StepKind::Float(_))), "case {i}: {kinds:?}");
            assert_eq!(out[1].shape(), [&[3, c], &to[..]].concat());
        }
    }
}

/// Of a line of the input, the errors of an element's weights sum to 2^-11 at most with two taps and to 2^-9 with four (that of the largest makes up for
/// the others), so that both axes move a code by less than `2 * 255 * 2^-11` and `2 * 255 * 1.375 * 2^-9` (1.375: the sum of the magnitudes of
/// cubic weights), and rounding moves it by half a step.
#[test]
fn integers_are_close_to_the_float_operator() {
    let cases =
        [(ResizeMode::Linear, [17, 10], 0.75), (ResizeMode::Cubic, [9, 13], 1.87), (ResizeMode::Linear, [14, 12], 0.5)];
    for (mode, to, bound) in cases {
        let a = attrs(mode, CoordMode::HalfPixel);
        let mut net = Net::new(3);
        let x = net.input("N, 4, 7, 6");
        let sizes = net.b.ints("sizes", &[2, 4, to[0], to[1]]);
        let none = net.b.constant("none", Tensor::of::<f32>(&[0], vec![]));
        let y = net.b.op("resize", Op::Resize(a.clone()), &[x, none, none, sizes]);
        let y = net.grid(y, QType::U8, 0.017, 120);
        let graph = net.finish(&[y]);
        let program = Arc::new(lower::lower(&graph, Profile::Onnx).unwrap());
        let codes: Vec<f32> = (0..2 * 4 * 42).map(|i| ((i * 37 % 256) as f32 - 120.0) * 0.017).collect();
        let x = Tensor::of(&[2, 4, 7, 6], codes);
        let got = int::Session::new(program, &int::Options::default()).unwrap().run(vec![x.clone()]).unwrap().remove(0);
        let sizes = Tensor::of::<i64>(&[4], vec![2, 4, to[0], to[1]]);
        let inputs = [Some(&x), None, None, Some(&sizes)];
        let want =
            crate::exec::float::eval(&Op::Resize(a), &inputs, 1, &crate::exec::float::Ctx::new()).unwrap().remove(0);
        assert_eq!(got.shape(), want.shape());
        // What is beyond the grid saturates (cubic).
        let (low, high) = (-120.0 * 0.017, 135.0 * 0.017);
        let pairs = got.as_slice::<f32>().unwrap().iter().zip(want.as_slice::<f32>().unwrap());
        let worst = pairs.map(|(g, w)| (g - w.clamp(low, high)).abs() / 0.017).fold(0.0, f32::max);
        assert!(worst < bound + 1e-3, "{mode:?} {to:?}: {worst} steps");
        assert!(worst > 0.1, "{mode:?} {to:?}: {worst} steps, which is too good for roundings");
    }
}

#[test]
fn what_integers_cannot_resize_runs_in_floating_point() {
    let outside = ResizeAttrs { extrapolation: 7.0, ..attrs(ResizeMode::Linear, CoordMode::TfCropAndResize) };
    // Weights whose magnitudes sum to more than 1.41 on both axes.
    let steep = ResizeAttrs { cubic_a: -2.0, ..attrs(ResizeMode::Cubic, CoordMode::HalfPixel) };
    let half = attrs(ResizeMode::Linear, CoordMode::HalfPixel);
    let mut cases = vec![(outside, vec![1.0f32, 1.0, 2.0, 2.0]), (steep, vec![1.0, 1.0, 2.0, 2.0])];
    cases.push((half, vec![1.0, 2.0, 2.0, 2.0]));
    for (a, scales) in cases {
        let mut net = Net::new(3);
        let x = net.input("N, 4, 7, 6");
        let scales = net.b.constant("scales", Tensor::of(&[4], scales));
        let roi = net.b.constant("roi", Tensor::of::<f32>(&[8], vec![0.0, 0.0, -0.5, 0.0, 1.0, 1.0, 1.5, 1.0]));
        let y = net.b.op("resize", Op::Resize(a), &[x, roi, scales]);
        let y = net.grid(y, QType::U8, 0.017, 120);
        let graph = net.finish(&[y]);
        let (_, kinds) = agree(&graph, &[2, 4, 7, 6], 9);
        assert!(kinds.iter().any(|k| matches!(k, StepKind::Float(Op::Resize(_)))), "{kinds:?}");
        let program = lower::lower(&graph, Profile::Onnx).unwrap();
        assert!(program.notes.iter().any(|n| n.contains("'resize' runs in floating point")), "{:?}", program.notes);
    }
}

#[test]
fn empty_and_huge_sizes_are_refused_when_they_run() {
    for (shape, scale) in [("N, 4, 0, 6", 2.0f32), ("N, 4, 7, 6", 1e9)] {
        let mut net = Net::new(3);
        let x = net.input(shape);
        let scales = net.b.constant("scales", Tensor::of(&[4], vec![1.0, 1.0, scale, scale]));
        let none = net.b.constant("none", Tensor::of::<f32>(&[0], vec![]));
        let y = net.b.op("resize", Op::Resize(attrs(ResizeMode::Linear, CoordMode::HalfPixel)), &[x, none, scales]);
        let y = net.grid(y, QType::U8, 0.017, 120);
        let graph = net.finish(&[y]);
        let kinds: Vec<StepKind> =
            lower::lower(&graph, Profile::Onnx).unwrap().steps.into_iter().map(|s| s.kind).collect();
        assert!(kinds.iter().any(|k| matches!(k, StepKind::Float(Op::Resize(_)))), "{shape}: {kinds:?}");
    }
}
