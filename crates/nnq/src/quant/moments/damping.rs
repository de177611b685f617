//! How far weights may follow what samples say.
use super::{Moments, Sums};
use crate::error::{Error, Result};
use nalgebra::{Cholesky, DMatrix};
use rayon::prelude::*;

/// The largest damping that is tried: from there on weights hardly change.
const MOST: f64 = 30.0;

/// The damping `r` of `E |t - v y|^2 + r |v - w|^2`, in units of the mean of the diagonal of `E y y^T`, with which the weights `v` that make up for one half of the
/// samples have the least error on the other half, both ways together (cross-validation of ridge regression: Hastie et al., The Elements of Statistical Learning,
/// sections 3.4.1 and 7.10). Of `least` and numbers `10^(1/2)` times as large each, the last one before the error grows; halved, but not below `least`, since the same weight
/// of `w` is half as much beside twice the samples.
///
/// Weights of many inputs follow the chance of few samples otherwise; positions of one image are alike, so that their number says little.
///
/// # Errors
/// When halves are of other sizes than the weights, and what `check`, which is asked before each trial, answers.
pub fn damping(
    halves: [Moments; 2],
    weights: &[f32],
    (centred, least): (bool, f64),
    check: &dyn Fn() -> Result<()>,
) -> Result<f64> {
    let k = halves[0].depth;
    let fits = |h: &Moments| h.groups.iter().map(|g| g.cross.len()).sum::<usize>() == weights.len();
    if !halves.iter().all(fits) {
        return Err(Error::internal(format!("moments of another layer than that of {} weights", weights.len())));
    }
    if halves.iter().any(|h| h.count == 0 || k == 0) {
        return Ok(least);
    }
    let [a, b] = halves.map(|h| h.means(centred));
    let rows = weights.len() / k / a.len().max(1);
    let error = |damping: f64| -> f64 {
        let one = |(g, (a, b)): (usize, (&Sums, &Sums))| {
            let w = &weights[g * rows * k..][..rows * k];
            let (there, back) = rayon::join(|| a.transferred(b, w, k, damping), || b.transferred(a, w, k, damping));
            there + back
        };
        a.par_iter().zip(&b).enumerate().map(one).collect::<Vec<f64>>().iter().sum()
    };
    let (mut best, mut lowest) = (least, error(least));
    loop {
        check()?;
        let next = best * 10f64.sqrt();
        let other = error(next);
        // What no damping so far made solvable has no error yet.
        let better = other < lowest || (!lowest.is_finite() && !other.is_finite());
        if next > MOST || !better {
            break;
        }
        (best, lowest) = (next, other);
    }
    Ok((0.5 * best).max(least))
}

impl Sums {
    /// The square error, on what `other` has seen, of the weights that make up for what this has seen; of means, not of sums. Infinite where they do not exist.
    fn transferred(&self, other: &Self, weights: &[f32], k: usize, damping: f64) -> f64 {
        let ridge = self.ridge(k, damping);
        let mut square = DMatrix::from_row_slice(k, k, &self.square);
        (0..k).for_each(|i| square[(i, i)] += ridge);
        let Some(factor) = Cholesky::new(square) else { return f64::INFINITY };
        let v = self.nearest(&factor, ridge, weights);
        let reached = DMatrix::from_row_slice(k, k, &other.square) * &v;
        let cross = other.cross.iter().zip(v.iter()).map(|(c, v)| c * v).sum::<f64>();
        let square = reached.iter().zip(v.iter()).map(|(r, v)| r * v).sum::<f64>();
        let power = other.power.iter().sum::<f64>();
        power - 2.0 * cross + square
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::mix;

    /// Normal to the eye: sums of four, deviation 1.
    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let one = |i: u64| (mix(seed, i) >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        (0..n as u64).map(|i| (0..4).map(|j| one(4 * i + j)).sum::<f32>() * 3f32.sqrt()).collect()
    }

    /// Inputs, outputs of `w` on them, and inputs as they are seen.
    struct Seen {
        positions: usize,
        y: Vec<f32>,
        t: Vec<f32>,
    }

    fn seen(w: &[f32], k: usize, positions: usize, seed: u64) -> Seen {
        let x = noise(k * positions, seed);
        let off = noise(k * positions, seed + 1000);
        let rows = w.len() / k;
        let t = (0..rows * positions)
            .map(|i| (0..k).map(|j| w[i / positions * k + j] * x[j * positions + i % positions]).sum())
            .collect();
        let y = x.iter().zip(off).map(|(x, n)| x + 0.4 * n + 0.3).collect();
        Seen { positions, y, t }
    }

    fn moments(s: &Seen, k: usize, rows: usize) -> Moments {
        let mut m = Moments::new(1, k, rows);
        m.add(&s.y, &s.t, s.positions).unwrap();
        m
    }

    /// The square error of weights and of the best bias, or none, position by position.
    fn error(s: &Seen, v: &DMatrix<f64>, centred: bool) -> f64 {
        let (y, t) = matrices(s, v.ncols(), centred);
        (t - v * y).norm_squared() / s.positions as f64
    }

    fn matrices(s: &Seen, k: usize, centred: bool) -> (DMatrix<f64>, DMatrix<f64>) {
        let matrix = |v: &[f32]| {
            let mut m = DMatrix::from_row_iterator(v.len() / s.positions, s.positions, v.iter().map(|v| f64::from(*v)));
            for mut row in m.row_iter_mut().filter(|_| centred) {
                let mean = row.mean();
                row.add_scalar_mut(-mean);
            }
            m
        };
        debug_assert_eq!(s.y.len(), k * s.positions);
        (matrix(&s.y), matrix(&s.t))
    }

    /// The weights of one half by the normal equations.
    fn fitted(s: &Seen, w: &DMatrix<f64>, centred: bool, damping: f64) -> DMatrix<f64> {
        let k = w.ncols();
        let (y, t) = matrices(s, k, centred);
        let n = s.positions as f64;
        let square = &y * y.transpose() / n;
        let r = damping * square.trace() / k as f64;
        let left = square + DMatrix::identity(k, k) * r;
        (t * y.transpose() / n + w * r) * left.try_inverse().unwrap()
    }

    /// Beside weights and errors from the positions themselves.
    #[test]
    fn it_is_what_serves_the_other_half() {
        let (k, rows, least) = (24, 5, 0.01);
        let w = noise(k * rows, 1);
        let wide = DMatrix::from_row_iterator(rows, k, w.iter().map(|w| f64::from(*w)));
        let mut found = Vec::new();
        for (positions, centred) in [(30, false), (30, true), (100, true), (20_000, false), (20_000, true)] {
            let halves = [seen(&w, k, positions, 2), seen(&w, k, positions, 3)];
            let both = |d: f64| -> f64 {
                let each = [(0, 1), (1, 0)];
                each.iter().map(|&(a, b)| error(&halves[b], &fitted(&halves[a], &wide, centred, d), centred)).sum()
            };
            let tried: Vec<f64> = (0..7).map(|i| least * 10f64.powf(0.5 * f64::from(i))).collect();
            let errors: Vec<f64> = tried.iter().map(|d| both(*d)).collect();
            let last = (1..7).find(|&i| errors[i] >= errors[i - 1]).unwrap() - 1;
            let got = damping([0, 1].map(|i| moments(&halves[i], k, rows)), &w, (centred, least), &|| Ok(())).unwrap();
            let want = (0.5 * tried[last]).max(least);
            assert!((got / want - 1.0).abs() < 1e-9, "{positions} {centred}: {got} {want} {errors:?}");
            // New samples are served better by it, where it is not the least one.
            let all = halves[0].positions + halves[1].positions;
            let (one, other) = (moments(&halves[0], k, rows), moments(&halves[1], k, rows));
            let fresh = seen(&w, k, 5_000, 9);
            let served = |d: f64| {
                let v = one.and(&other).finish(centred, d).unwrap().compensated(&w);
                error(&fresh, &DMatrix::from_row_iterator(rows, k, v.iter().map(|v| f64::from(*v))), centred)
            };
            assert_eq!(one.and(&other).count(), all as u64);
            assert!(got == least || served(got) < served(least), "{positions} {centred}");
            found.push(got);
        }
        assert!(found[0] > 10.0 * least && found[3] == least, "{found:?}");
    }

    #[test]
    fn half_a_sample_says_nothing() {
        let w = noise(6, 1);
        let some = || moments(&seen(&w, 3, 50, 2), 3, 2);
        assert_eq!(damping([some(), Moments::new(1, 3, 2)], &w, (false, 0.02), &|| Ok(())).unwrap(), 0.02);
        assert!(damping([some(), some()], &w[..3], (false, 0.02), &|| Ok(())).is_err());
        // What is always the same makes up for nothing.
        let flat = |s: u64| {
            let mut m = Moments::new(1, 3, 2);
            m.add(&[0.0; 150], &seen(&w, 3, 50, s).t, 50).unwrap();
            m
        };
        assert!(damping([flat(2), flat(3)], &w, (true, 0.02), &|| Ok(())).unwrap() >= 0.02);
    }
}
