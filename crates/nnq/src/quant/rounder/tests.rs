use super::*;
use crate::ir::{Granularity, QType};
use proptest::prelude::*;

const I4: QType = QType { bits: 4, signed: true, narrow: false };

fn channels(scale: &[f32], qtype: QType) -> QParams {
    QParams::channel(qtype, 0, scale.to_vec())
}

#[derive(serde::Deserialize)]
struct Golden {
    rows: usize,
    depth: usize,
    h: Vec<f32>,
    w: Vec<f32>,
    scale: Vec<f32>,
    in_order: Vec<i32>,
    largest_first: Vec<i32>,
}

#[test]
fn gptq_is_that_of_the_paper() {
    let all: Vec<Golden> = serde_json::from_str(include_str!("../../../testdata/gptq.json")).unwrap();
    for g in all {
        let task = Task::new(&g.w, &[g.rows, g.depth], 0, &channels(&g.scale, I4)).unwrap();
        for (largest_first, want) in [(false, &g.in_order), (true, &g.largest_first)] {
            let group = Group { h: g.h.clone() };
            let basis = lattice::Basis::new(&group, g.depth, largest_first).unwrap();
            let got: Vec<i32> = (0..g.rows).flat_map(|i| basis.round(task.row(i))).collect();
            assert_eq!(&got, want, "{} x {}, largest first: {largest_first}", g.rows, g.depth);
        }
    }
}

/// Moments of inputs that lean on each other, from some numbers.
fn moments(depth: usize, numbers: &[f32]) -> Group {
    let samples = numbers.len() / depth;
    let mut h = vec![0.0; depth * depth];
    for s in 0..samples {
        let x: Vec<f32> =
            (0..depth).map(|i| numbers[s * depth + i] + 0.5 * numbers[(s * depth + i + 1) % numbers.len()]).collect();
        for i in 0..depth {
            for j in 0..depth {
                h[i * depth + j] += x[i] * x[j] / samples as f32;
            }
        }
    }
    let mean = (0..depth).map(|i| h[i * depth + i]).sum::<f32>() / depth as f32;
    (0..depth).for_each(|i| h[i * depth + i] += 0.01 * mean + 1e-6);
    Group { h }
}

fn drawn() -> impl Strategy<Value = (Vec<f32>, Vec<f32>, usize, usize, u8)> {
    (1usize..4, 2usize..12, 2u8..6).prop_flat_map(|(rows, depth, bits)| {
        let weights = prop::collection::vec(-1.0f32..1.0, rows * depth);
        let inputs = prop::collection::vec(-2.0f32..2.0, depth * 9);
        (weights, inputs, Just(rows), Just(depth), Just(bits))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn never_worse_than_what_it_starts_from((w, x, rows, depth, bits) in drawn()) {
        let qtype = QType { bits, signed: true, narrow: false };
        let scale: Vec<f32> = (0..rows).map(|r| w[r * depth..][..depth].iter().fold(1e-3f32, |m, v| m.max(v.abs())) / qtype.max() as f32).collect();
        let task = Task::new(&w, &[rows, depth], 0, &channels(&scale, qtype)).unwrap();
        let curvature = Curvature { depth, groups: vec![moments(depth, &x)] };
        let error = |r: &dyn Rounder| curvature.error(&task, &r.round(&task, Some(&curvature)).unwrap()).unwrap();
        let (nearest, gptq, descent) = (error(&Nearest), error(&Gptq::default()), error(&Descent::default()));
        let adaround = error(&AdaRound { iterations: 60, ..AdaRound::default() });
        let slack = 1.0 + 1e-5;
        prop_assert!(gptq <= nearest * slack, "gptq {gptq}, nearest {nearest}");
        prop_assert!(descent <= gptq * slack, "descent {descent}, gptq {gptq}");
        prop_assert!(adaround <= nearest * slack, "adaround {adaround}, nearest {nearest}");
        // No single code can move without loss.
        let codes = Descent::default().round(&task, Some(&curvature)).unwrap();
        for i in 0..codes.len() {
            for step in [-1, 1] {
                let mut other = codes.clone();
                other[i] += step;
                if (task.lo..=task.hi).contains(&other[i]) {
                    let moved = curvature.error(&task, &other).unwrap();
                    prop_assert!(moved >= descent * (1.0 - 1e-4) - 1e-7, "code {i} by {step}: {moved} < {descent}");
                }
            }
        }
    }
}

/// Every combination of codes, for a few weights of few bits.
fn best(task: &Task, curvature: &Curvature) -> f64 {
    let levels = (task.hi - task.lo + 1) as usize;
    let all = levels.pow(task.depth as u32);
    let codes = |mut n: usize| -> Vec<i32> {
        (0..task.depth)
            .map(|_| {
                let code = task.lo + (n % levels) as i32;
                n /= levels;
                code
            })
            .collect()
    };
    (0..all).map(|n| curvature.error(task, &codes(n)).unwrap()).fold(f64::INFINITY, f64::min)
}

#[test]
fn near_the_best_there_is() {
    let (mut nearest, mut descent, mut adaround, mut least) = (0.0, 0.0, 0.0, 0.0);
    for seed in 0..40 {
        let number = |i: u64| (crate::data::mix(seed, i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        let (depth, qtype) = (5, QType { bits: 2, signed: true, narrow: false });
        let w: Vec<f32> = (0..depth as u64).map(number).collect();
        let x: Vec<f32> = (100..100 + 8 * depth as u64).map(number).collect();
        let task = Task::new(&w, &[1, depth], 0, &channels(&[0.6], qtype)).unwrap();
        let curvature = Curvature { depth, groups: vec![moments(depth, &x)] };
        let error = |r: &dyn Rounder| curvature.error(&task, &r.round(&task, Some(&curvature)).unwrap()).unwrap();
        let floor = best(&task, &curvature);
        let (n, d, a) = (error(&Nearest), error(&Descent::default()), error(&AdaRound::default()));
        for e in [n, d, a] {
            assert!(e >= floor * (1.0 - 1e-5), "{e} is below the least, {floor}");
        }
        (nearest, descent, adaround, least) = (nearest + n, descent + d, adaround + a, least + floor);
    }
    // Most of what rounding to nearest loses beyond the least comes back.
    assert!(descent - least < 0.25 * (nearest - least), "{descent} of {nearest}, least {least}");
    assert!(adaround - least < 0.6 * (nearest - least), "{adaround} of {nearest}, least {least}");
}

#[test]
fn stochastic_is_right_on_average_and_keeps_the_grid() {
    let n = 20_000;
    let w = vec![0.3f32; n];
    let task = Task::new(&w, &[1, n], 0, &channels(&[1.0], I4)).unwrap();
    let codes = Stochastic { key: 5 }.round(&task, None).unwrap();
    assert!(codes.iter().all(|c| [0, 1].contains(c)));
    let mean = codes.iter().sum::<i32>() as f64 / n as f64;
    // Five standard deviations.
    assert!((mean - 0.3).abs() < 5.0 * (0.21 / n as f64).sqrt(), "{mean}");
    assert_ne!(codes, Stochastic { key: 6 }.round(&task, None).unwrap());
    let grid: Vec<f32> = (-8..8).map(|q| q as f32 * 0.25).collect();
    let task = Task::new(&grid, &[1, 16], 0, &channels(&[0.25], I4)).unwrap();
    assert_eq!(Stochastic { key: 1 }.round(&task, None).unwrap(), (-8..8).collect::<Vec<i32>>());
}

#[test]
fn matrices_of_columns_are_turned() {
    // Two inputs, three output channels along the second axis.
    let w = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let params = QParams {
        qtype: I4,
        granularity: Granularity::Channel { axis: 1 },
        scale: vec![1.0, 2.0, 3.0],
        zero_point: vec![0, 1, 0],
    };
    let task = Task::new(&w, &[2, 3], 1, &params).unwrap();
    assert_eq!((task.rows, task.depth), (3, 2));
    assert_eq!(task.weights, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(task.scale, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    let codes = Nearest.round(&task, None).unwrap();
    // 5 / 2 is a tie: to even.
    assert_eq!(codes, [1, 4, 2, 3, 1, 2]);
    assert_eq!(from_rows(codes.clone(), &[2, 3], 1), [1, 2, 1, 4, 3, 2]);
    assert_eq!(from_rows(to_rows(&w, &[2, 3], 1), &[2, 3], 1), w);
    assert!(Task::new(&w, &[2, 3], 2, &params).is_err() && Task::new(&w, &[6], 1, &params).is_err());
}

#[test]
fn methods_that_look_at_data_say_so() {
    let task = Task::new(&[0.5], &[1, 1], 0, &channels(&[1.0], I4)).unwrap();
    for rounding in Rounding::ALL {
        assert_eq!(rounding.rounder(0).round(&task, None).is_err(), rounding.needs_data(), "{rounding}");
        assert_eq!(rounding.to_string().parse::<Rounding>().unwrap(), rounding);
    }
    assert!("best".parse::<Rounding>().is_err());
}
