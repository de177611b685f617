use super::*;
use nnq::ir::QParams;

/// Weights in rows that have a scale each.
fn grid(levels: Levels, rows: usize, columns: usize) -> Grid {
    let params = QParams::channel(levels.qtype(), 0, vec![1.0; rows]);
    Grid::new(&params, &[rows, columns], 1).unwrap()
}

fn near(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*a) - b).abs() <= tolerance * (1.0 + b.abs()), "{what}[{i}]: {a} {b}");
    }
}

#[test]
fn binary_weights_by_hand() {
    let w = [0.5, -0.25, 0.0, -1.25, 0.0, 0.0, 0.0, 0.0];
    let grid = grid(Levels::Binary, 2, 4);
    let made = Levels::Binary.apply(&w, &grid);
    // The mean of 0.5, 0.25, 0 and 1.25; zero counts as positive; a row of zeros stays.
    assert_eq!(made.values, [0.5, -0.5, 0.5, -0.5, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(made.scales, [0.5, 1.0]);
    let g = [1.0, 10.0, 100.0, 1000.0, 1.0, 2.0, 3.0, 4.0];
    // The scale's gradient is 1 - 10 + 100 - 1000 = -909, a quarter of which every weight has by its sign; -1.25 is clipped.
    let got = Levels::Binary.backward(&w, &g, &grid, Estimator::Clipped);
    let own = 909.0 / 4.0;
    near(&got, &[1.0 - own, 10.0 + own, 100.0 - own, own, 1.0, 2.0, 3.0, 4.0], 1e-6, "clipped");
    let got = Levels::Binary.backward(&w, &g, &grid, Estimator::Ste);
    near(&got[..4], &[1.0 - own, 10.0 + own, 100.0 - own, 1000.0 + own], 1e-6, "ste");
}

#[test]
fn balanced_weights_by_hand() {
    // The mean is 0.5, distances from it 1.5, -0.5, -0.5, -0.5, 0.75 their mean.
    let w = [2.0, 0.0, 0.0, 0.0];
    let grid = grid(Levels::Balanced, 1, 4);
    let made = Levels::Balanced.apply(&w, &grid);
    assert_eq!((made.values, made.scales), (vec![0.75, -0.75, -0.75, -0.75], vec![0.75]));
    // The scale's gradient is 1 - 10 - 100 - 1000 = -1109, a quarter of it by signs; then the mean goes, which is (1111 + 2 * 277.25) / 4.
    let got = Levels::Balanced.backward(&w, &[1.0, 10.0, 100.0, 1000.0], &grid, Estimator::Ste);
    let (own, mean) = (277.25, 416.375);
    near(&got, &[1.0 - own - mean, 10.0 + own - mean, 100.0 + own - mean, 1000.0 + own - mean], 1e-6, "ste");
    // Whatever all weights have in common counts for nothing.
    let moved = Levels::Balanced.apply(&w.map(|w| w + 3.0), &grid);
    assert_eq!(moved.values, [0.75, -0.75, -0.75, -0.75]);
}

#[test]
fn ternary_weights_by_hand() {
    // The mean of the magnitudes is 0.44, the threshold 0.308; 0.9 is the mean of those above it.
    let w = [1.0, -0.8, 0.1, 0.0, -0.3];
    let grid = grid(Levels::Ternary, 1, 5);
    let made = Levels::Ternary.apply(&w, &grid);
    near(&made.values, &[0.9, -0.9, 0.0, 0.0, 0.0], 1e-6, "values");
    near(&made.scales, &[0.9], 1e-6, "scale");
    let got = Levels::Ternary.backward(&w, &[3.0, 1.0, 5.0, 7.0, 9.0], &grid, Estimator::Ste);
    // The scale's gradient is 3 - 1, halved for the two weights that it is the mean of.
    near(&got, &[3.0 + 1.0, 1.0 - 1.0, 5.0, 7.0, 9.0], 1e-6, "gradient");
}

fn noise(n: usize, seed: u64, size: f32) -> Vec<f32> {
    crate::testing::noise(n, seed).into_iter().map(|x| x * size).collect()
}

/// Equation 9 of the paper in binary64, times the largest weight; codes are odd and as many as the grid has bits.
#[test]
fn dorefa_weights_are_those_of_the_formula() {
    for bits in 2..=7u8 {
        let levels = Levels::Tanh { bits };
        let (rows, columns) = (3, 200);
        let w = noise(rows * columns, u64::from(bits), 2.0);
        let grid = grid(levels, rows, columns);
        let made = levels.apply(&w, &grid);
        let steps = f64::from((1u32 << bits) - 1);
        let mut seen = std::collections::BTreeSet::new();
        for (r, row) in w.chunks(columns).enumerate() {
            let top = row.iter().fold(0.0f64, |t, w| t.max(f64::from(w.abs())));
            for (c, &x) in row.iter().enumerate() {
                let t = f64::from(x).tanh() / (2.0 * top.tanh()) + 0.5;
                let off = (t * steps).fract() - 0.5;
                let value = f64::from(made.values[r * columns + c]);
                // Beside a tie binary32 may fall on the other side.
                if off.abs() > 1e-3 {
                    let want = top * (2.0 * (t * steps + 0.5).floor() / steps - 1.0);
                    assert!((value - want).abs() < 1e-5, "{bits} bits, {x}: {value} {want}");
                }
                let code = value / f64::from(made.scales[r]);
                assert!((code - code.trunc()).abs() < 1e-3 || (code.fract().abs() - 1.0).abs() < 1e-3, "{code}");
                seen.insert((code + steps + 0.5) as i64);
            }
        }
        let q = levels.qtype();
        assert_eq!([q.min(), q.max()], [-(steps as i32), steps as i32]);
        // Both ends, and odd codes only (even ones once they are moved by an odd number of steps).
        assert!(seen.iter().all(|c| c % 2 == 0) && seen.contains(&0) && seen.contains(&(2 * steps as i64)), "{seen:?}");
    }
}

/// The sum of the values, each times a number of its own.
fn price(levels: Levels, w: &[f32], g: &[f32], grid: &Grid) -> f64 {
    levels.apply(w, grid).values.iter().zip(g).map(|(v, g)| f64::from(*v) * f64::from(*g)).sum()
}

/// Weights beyond 1 pass nothing of their own under the clipped rule: what is left is the exact derivative of the scale.
#[test]
fn gradients_of_scales_are_finite_differences() {
    for levels in [Levels::Binary, Levels::Balanced, Levels::Ternary] {
        let (rows, columns) = (2, 40);
        let w: Vec<f32> = noise(rows * columns, 5, 9.0).into_iter().map(|x| x + 1.5f32.copysign(x)).collect();
        let (g, grid) = (noise(w.len(), 6, 1.0), grid(levels, rows, columns));
        let got = levels.backward(&w, &g, &grid, Estimator::Clipped);
        let mut checked = 0;
        for i in 0..w.len() {
            let at = |d: f32| {
                let mut w = w.clone();
                w[i] += d;
                price(levels, &w, &g, &grid)
            };
            let h = 1.0 / 64.0;
            let want = (at(h) - at(-h)) / f64::from(2.0 * h);
            // A weight that crosses the threshold jumps.
            if want.abs() < 1.0 {
                assert!((f64::from(got[i]) - want).abs() < 1e-4, "{levels:?}[{i}]: {} {want}", got[i]);
                checked += 1;
            }
        }
        assert!(checked > 70, "{levels:?}: {checked}");
    }
}

/// Straight through the rounding, what is left of DoReFa is the tangent.
#[test]
fn dorefa_gradients_are_the_slope_of_the_tangent() {
    let levels = Levels::Tanh { bits: 3 };
    let w = [0.3, -1.1, 0.7, 1.6, -0.05];
    let g = [1.0, 2.0, -3.0, 0.0, 5.0];
    let got = levels.backward(&w, &g, &grid(levels, 1, 5), Estimator::Ste);
    let smooth = |x: f64| 1.6 * x.tanh() / 1.6f64.tanh();
    let want: Vec<f64> = w
        .iter()
        .zip(g)
        .map(|(&x, g)| {
            let (x, h) = (f64::from(x), 1e-5);
            f64::from(g) * (smooth(x + h) - smooth(x - h)) / (2.0 * h)
        })
        .collect();
    near(&got, &want, 1e-4, "gradient");
}

/// Around zero the estimator's slope is that of its surrogate, and nothing beyond where it ends.
#[test]
fn the_rectified_estimator_has_the_slope_of_its_surrogate() {
    let o = 3.0f64;
    let surrogate = |z: f64| z.signum() * z.abs().powf(1.0 / o);
    // The scale of both rows is 1, and nothing pulls at it: the gradients of a row add up to nothing where signs are counted.
    for z in [0.15f64, 0.5, 0.9, 1.4] {
        let w = [z as f32, (2.0 - z) as f32];
        let grid = grid(Levels::Binary, 1, 2);
        let got = Levels::Binary.backward(&w, &[1.0, -1.0], &grid, Estimator::Reste { o: o as f32 });
        let h = 1e-6;
        let want = (surrogate(z + h) - surrogate(z - h)) / (2.0 * h);
        assert!((f64::from(got[0]) - want).abs() < 1e-3, "{z}: {got:?} {want}");
    }
    let w = [0.05f32, 1.95];
    let got = Levels::Binary.backward(&w, &[1.0, -1.0], &grid(Levels::Binary, 1, 2), Estimator::Reste { o: 3.0 });
    // The secant up to 0.1; nothing from 1.5 on.
    near(&got, &[surrogate(0.1) / 0.1, 0.0], 1e-5, "ends");
    // With o = 1 it is a straight line.
    let got = Levels::Binary.backward(&w, &[1.0, -1.0], &grid(Levels::Binary, 1, 2), Estimator::Reste { o: 1.0 });
    assert_eq!(got, [1.0, 0.0]);
}

/// Every estimator on every kind of levels gives numbers, also where weights are all the same, tiny or zero.
#[test]
fn odd_weights_have_finite_gradients() {
    for levels in [Levels::Binary, Levels::Balanced, Levels::Ternary, Levels::Tanh { bits: 2 }] {
        for estimator in ["ste", "clipped", "ewgs:0.5", "dsq:0.3", "reste"] {
            let estimator: Estimator = estimator.parse().unwrap();
            for w in [[0.0f32; 4], [1e-30, 0.0, -1e-30, 1e-30], [2.0; 4], [30.0, -1e-3, 0.0, 5.0]] {
                let grid = grid(levels, 1, 4);
                let made = levels.apply(&w, &grid);
                let back = levels.backward(&w, &[1.0, -2.0, 3.0, 4.0], &grid, estimator);
                let fine = |x: &[f32]| x.iter().all(|x| x.is_finite());
                assert!(fine(&made.values) && fine(&back) && made.scales[0] > 0.0, "{levels:?} {estimator} {w:?}");
            }
        }
    }
}

/// Weights on the levels of others are on the same ones, and as many times the scale where they are stretched.
#[test]
fn levels_are_what_weights_begin_with() {
    let all = [Levels::Binary, Levels::Balanced, Levels::Ternary, Levels::Tanh { bits: 2 }, Levels::Tanh { bits: 5 }];
    // Beyond 9 a tangent is 1 in binary32.
    for (levels, size) in all.into_iter().flat_map(|l| [(l, 0.01), (l, 1.0), (l, 30.0)]) {
        let (rows, columns) = (3, 50);
        let mut w = noise(rows * columns, 7, size);
        w[columns..2 * columns].fill(0.0);
        let grid = grid(levels, rows, columns);
        let made = levels.apply(&w, &grid);
        let codes: Vec<f32> =
            made.values.iter().enumerate().map(|(i, v)| rne_f32(v / made.scales[grid.group(i)])).collect();
        let begun = levels.begin(&codes, &made.scales, &grid).unwrap();
        let again = levels.apply(&begun, &grid);
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        near(&again.values, &wide(&made.values), 1e-6, &format!("{levels:?}"));
        let mut longer = w.clone();
        longer.chunks_mut(columns).for_each(|row| levels.stretch(row, 0.25));
        let longer = levels.apply(&longer, &grid);
        let quarters: Vec<f64> = wide(&made.values).iter().map(|v| v / 4.0).collect();
        near(&longer.values, &quarters, 1e-6, &format!("{levels:?}, stretched"));
    }
}

/// Codes that no weights have.
#[test]
fn other_codes_are_no_levels() {
    let one = |levels: Levels, codes: &[f32]| levels.begin(codes, &[1.0], &grid(levels, 1, codes.len())).is_some();
    assert!(
        one(Levels::Binary, &[1.0, -1.0]) && !one(Levels::Binary, &[1.0, 0.0]) && !one(Levels::Binary, &[2.0, -2.0])
    );
    let balanced = |codes: &[f32]| one(Levels::Balanced, codes);
    assert!(balanced(&[1.0, -1.0, 1.0]) && !balanced(&[1.0, 0.0]) && !balanced(&[1.0, 1.0]));
    assert!(one(Levels::Ternary, &[1.0, 0.0]) && !one(Levels::Ternary, &[2.0, 0.0]));
    let tanh = Levels::Tanh { bits: 2 };
    assert!(one(tanh, &[3.0, -1.0]) && !one(tanh, &[3.0, 0.0]) && !one(tanh, &[1.0, -1.0]) && !one(tanh, &[5.0, 3.0]));
    assert!([Levels::Binary, Levels::Balanced, Levels::Ternary, tanh].iter().all(|l| one(*l, &[0.0, 0.0])));
}
