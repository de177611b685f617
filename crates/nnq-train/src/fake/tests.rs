use super::*;
use crate::backend::{self, Device, Kernels};
use crate::testing::noise;
use burn::backend::{Flex, ops::FloatTensorOps as _};
use nnq::ir::QType;
use nnq_kernels::round;

fn tensor(x: &[f32], shape: &[usize]) -> burn::backend::flex::FlexTensor {
    backend::tensor::<Flex>(x.to_vec(), shape, &Device::<Flex>::default())
}

fn numbers(x: burn::backend::flex::FlexTensor) -> Vec<f32> {
    backend::numbers::<Flex>(x).unwrap()
}

/// Values around all steps of a grid with their ties, beyond its ends, and odd ones.
fn values(scale: f32) -> Vec<f32> {
    let mut all: Vec<f32> = (-40..40).map(|i| i as f32 * 0.25 * scale).collect();
    all.extend([0.0, -0.0, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 0.3 * scale]);
    all
}

fn grids() -> Vec<QParams> {
    vec![
        QParams::tensor(QType { bits: 2, signed: false, narrow: false }, 0.37, 0),
        QParams::tensor(QType { bits: 4, signed: false, narrow: false }, 0.1, 7),
        QParams::tensor(QType { bits: 3, signed: true, narrow: true }, 1.5, 0),
        QParams::tensor(QType { bits: 16, signed: true, narrow: false }, 1e-3, -5),
    ]
}

#[test]
fn forward_is_what_the_engine_holds() {
    for params in grids() {
        let (s, z) = params.as_tensor().unwrap();
        let x = values(s);
        let grid = Grid::new(&params, &[x.len()], 1).unwrap();
        let (n, p) = (params.qtype.min(), params.qtype.max());
        let want: Vec<f32> =
            x.iter().map(|&x| round::dequantize_f32(round::quantize_f32(x, s, z, n, p), s, z)).collect();
        let got = numbers(Flex::fake(tensor(&x, &[x.len()]), tensor(&[s], &[1]), &grid));
        assert_eq!(got, want, "{params:?}");
        let got = numbers(composed::fake::<Flex>(tensor(&x, &[x.len()]), tensor(&[s], &[1]), &grid));
        assert_eq!(got, want, "composed, {params:?}");
    }
    // What is no number becomes the lowest code.
    let params = &grids()[1];
    let grid = Grid::new(params, &[1], 1).unwrap();
    let got = numbers(Flex::fake(tensor(&[f32::NAN], &[1]), tensor(&params.scale, &[1]), &grid));
    assert_eq!(got, [-7.0f32 * 0.1]);
}

#[test]
fn burn_rounds_half_to_even() {
    let x: Vec<f32> = (-20..20).map(|i| i as f32 / 4.0).collect();
    let want: Vec<f32> = x.iter().map(|&x| round::rne_f32(x)).collect();
    assert_eq!(numbers(Flex::float_round(tensor(&x, &[x.len()]))), want);
}

#[test]
fn one_pass_equals_the_composition_for_every_rule_and_granularity() {
    let shape = [3, 4, 70];
    let n = shape.iter().product();
    let qtype = QType { bits: 3, signed: true, narrow: false };
    let (x, g) = (noise(n, 1), noise(n, 2));
    let per = |axis: usize, k: usize| QParams::channel(qtype, axis, (0..k).map(|i| 0.1 + 0.05 * i as f32).collect());
    let mut zeros = per(1, 4);
    zeros.zero_point = vec![0, -2, 1, 3];
    for params in [QParams::tensor(qtype, 0.2, -1), per(0, 3), per(1, 4), per(2, 70), zeros] {
        for estimator in ["ste", "clipped", "ewgs:0.5", "dsq:0.3", "reste:2.5"] {
            for rule in [ScaleRule::Lsq, ScaleRule::Pact, ScaleRule::Fixed] {
                let estimator = estimator.parse().unwrap();
                let grid = Grid { estimator, rule, ..Grid::new(&params, &shape, 1).unwrap() };
                let args = || (tensor(&x, &shape), tensor(&params.scale, &[params.scale.len()]), tensor(&g, &shape));
                let ((a, b, c), (d, e, f)) = (args(), args());
                let (one, composed) =
                    (Flex::fake_backward(a, b, c, &grid), composed::fake_backward::<Flex>(d, e, f, &grid));
                // Sums in another order, and a formula in binary32 in another.
                let near = |a: &[f32], b: &[f32]| {
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-5 * (1.0 + b.abs()))
                };
                assert!(
                    near(&numbers(one.0), &numbers(composed.0)),
                    "values: {estimator} {rule:?} {:?}",
                    params.granularity
                );
                assert!(
                    near(&numbers(one.1), &numbers(composed.1)),
                    "scales: {estimator} {rule:?} {:?}",
                    params.granularity
                );
            }
        }
    }
}

fn gradients(x: &[f32], g: &[f32], params: &QParams, estimator: Estimator, rule: ScaleRule) -> (Vec<f32>, f32) {
    let grid = Grid { estimator, rule, gain: 1.0, ..Grid::new(params, &[x.len()], 1).unwrap() };
    let (to_x, to_s) =
        Flex::fake_backward(tensor(x, &[x.len()]), tensor(&params.scale, &[1]), tensor(g, &[x.len()]), &grid);
    (numbers(to_x), numbers(to_s)[0])
}

#[test]
fn learned_steps_by_hand() {
    // Codes 0 to 3 of step 0.5: 0.6 is 1.2 steps, rounded to 1; 0.8 is 1.6, rounded to 2; 2 is 4 steps, clipped; -1 is clipped.
    let params = QParams::tensor(QType { bits: 2, signed: false, narrow: false }, 0.5, 0);
    let (x, g) = ([0.6, 0.8, 2.0, -1.0], [1.0, 10.0, 100.0, 1000.0]);
    let (to_x, to_s) = gradients(&x, &g, &params, Estimator::Clipped, ScaleRule::Lsq);
    assert_eq!(to_x, [1.0, 10.0, 0.0, 0.0]);
    // (1 - 1.2) * 1 + (2 - 1.6) * 10 + 3 * 100 + 0 * 1000, in binary32.
    assert!((to_s - 303.8).abs() < 1e-4, "{to_s}");
    let (to_x, to_s) = gradients(&x, &g, &params, Estimator::Ste, ScaleRule::Pact);
    assert_eq!((to_x, to_s), (g.to_vec(), 300.0));
    let (to_x, to_s) = gradients(&x, &g, &params, Estimator::Ewgs { delta: 0.3 }, ScaleRule::Fixed);
    // 1 + 0.3 * 0.2 / 3, 10 * (1 - 0.3 * 0.4 / 3).
    assert!((to_x[0] - 1.02).abs() < 1e-6 && (to_x[1] - 9.6).abs() < 1e-5 && to_x[2..] == [0.0; 2], "{to_x:?}");
    assert_eq!(to_s, 0.0);
}

#[test]
fn the_soft_staircase_has_the_slope_of_its_surrogate() {
    let alpha = 0.2f64;
    let k = (2.0 / alpha - 1.0).ln();
    let stairs = |v: f64| v.floor() + 0.5 * (1.0 + (k * (v - v.floor() - 0.5)).tanh() / (0.5 * k).tanh());
    let params = QParams::tensor(QType { bits: 4, signed: true, narrow: false }, 0.25, 0);
    for v in [-6.9, -3.3, -0.45, 0.1, 0.5, 0.77, 2.2, 6.6] {
        let h = 1e-5;
        let want = (stairs(v + h) - stairs(v - h)) / (2.0 * h);
        let x = [(v * 0.25) as f32];
        let (got, _) = gradients(&x, &[1.0], &params, Estimator::Dsq { alpha: alpha as f32 }, ScaleRule::Fixed);
        // The value is binary32, the slope steep.
        assert!((f64::from(got[0]) - want).abs() < 1e-4 * (1.0 + want), "{v}: {got:?} {want}");
    }
}

/// Between two steps the slope of `sign(z)|z|^(1/o)` around the tie, and up to a quarter of a step beyond the ends.
#[test]
fn the_rectified_estimator_has_the_slope_of_its_surrogate() {
    let o = 2.0f64;
    let stairs = |v: f64| {
        let cell = v.floor().clamp(-4.0, 2.0);
        let z = 2.0 * (v - cell) - 1.0;
        cell + 0.5 * (1.0 + z.signum() * z.abs().powf(1.0 / o))
    };
    let params = QParams::tensor(QType { bits: 3, signed: true, narrow: false }, 0.25, 0);
    for v in [-4.2, -3.3, -0.9, 0.1, 0.7, 2.2, 3.2] {
        let h = 1e-5;
        let want = (stairs(v + h) - stairs(v - h)) / (2.0 * h);
        let x = [(v * 0.25) as f32];
        let (got, _) = gradients(&x, &[1.0], &params, Estimator::Reste { o: o as f32 }, ScaleRule::Fixed);
        assert!((f64::from(got[0]) - want).abs() < 1e-3 * (1.0 + want), "{v}: {got:?} {want}");
    }
    let (got, _) = gradients(&[0.125, 0.85, -1.2], &[1.0; 3], &params, Estimator::Reste { o: 2.0 }, ScaleRule::Fixed);
    // On the tie: the secant up to 0.1; too far beyond both ends: nothing.
    assert!((got[0] - 0.1f32.powf(-0.5)).abs() < 1e-5 && got[1..] == [0.0; 2], "{got:?}");
    assert_eq!(Estimator::Reste { o: 3.0 }.at(0.5), Estimator::Reste { o: 2.0 });
}

#[test]
fn learned_steps_agree_with_finite_differences_between_the_jumps() {
    // The rounded value moves with the scale as its code says while no code changes; LSQ adds -v, the pull of the scale's change on the value.
    let params = QParams::tensor(QType { bits: 3, signed: false, narrow: false }, 0.3, 0);
    for x in [0.11f32, 0.5, 0.77, 1.4, 9.0] {
        let (_, by) = gradients(&[x], &[1.0], &params, Estimator::Clipped, ScaleRule::Lsq);
        let at = |s: f32| {
            let grid = Grid::new(&params, &[1], 1).unwrap();
            f64::from(numbers(Flex::fake(tensor(&[x], &[1]), tensor(&[s], &[1]), &grid))[0])
        };
        let h = 1e-4;
        let jumpless = (at(0.3 + h) - at(0.3 - h)) / f64::from(2.0 * h);
        let clipped = x / 0.3 > 7.0;
        let want = jumpless - if clipped { 0.0 } else { f64::from(x / 0.3) };
        // Differences of binary32 numbers over 2e-4.
        assert!((f64::from(by) - want).abs() < 5e-3, "{x}: {by} {want}");
    }
}

#[test]
fn grids_that_do_not_fit_are_errors_and_names_are_read() {
    let params = QParams::channel(QType::I8, 0, vec![0.1; 3]);
    assert!(Grid::new(&params, &[4, 2], 1).is_err());
    let block = QParams { granularity: nnq::ir::Granularity::Block { axis: 1, size: 2 }, ..params };
    assert!(Grid::new(&block, &[3, 2], 1).unwrap_err().to_string().contains("--granularity"));
    for text in ["ste", "clipped", "ewgs:0.01", "dsq:0.3", "reste:4"] {
        assert_eq!(text.parse::<Estimator>().unwrap().to_string(), text);
    }
    for text in ["ste:1", "ewgs:x", "dsq:2", "reste:0.5", "soft"] {
        assert!(text.parse::<Estimator>().is_err(), "{text}");
    }
}
