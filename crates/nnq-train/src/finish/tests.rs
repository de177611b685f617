use super::*;
use crate::fake::{Estimator, ScaleRule};
use crate::testing::{noise, numbers, tensor};
use burn::backend::Flex;

/// One pass is what three operations are: the same numbers forward, and the same gradients but for the order of sums.
#[test]
fn one_pass_is_three_operations() {
    let rules = [
        (Estimator::Clipped, ScaleRule::Lsq),
        (Estimator::Ste, ScaleRule::Pact),
        (Estimator::Ewgs { delta: 0.1 }, ScaleRule::Lsq),
        (Estimator::Dsq { alpha: 0.3 }, ScaleRule::Fixed),
    ];
    for shape in [vec![3, 5, 9, 7], vec![2, 3, 40, 20], vec![6, 4]] {
        for ends in [[f32::NEG_INFINITY, f32::INFINITY], [0.0, f32::INFINITY], [0.0, 1.2]] {
            for (estimator, rule) in rules {
                let (n, c): (usize, usize) = (shape.iter().product(), shape[1]);
                let limits = [[if ends[0] == 0.0 { 0.0 } else { -8.0 }, 7.0]].into();
                let grid = Grid { limits, groups: 1, inner: n, gain: 0.25, estimator, rule };
                let how = Finish { epsilon: 1e-5, ends, grid };
                let parts = Parts {
                    x: tensor(noise(n, 1).iter().map(|x| 3.0 * x + 0.5).collect(), &shape),
                    gamma: tensor(noise(c, 2), &[c]),
                    beta: tensor(noise(c, 3), &[c]),
                    scale: tensor(vec![0.14], &[1]),
                };
                let grad = tensor(noise(n, 4), &shape);
                let (ours, theirs) = (Flex::finish(parts.clone(), &how), composed::<Flex>(parts.clone(), &how));
                assert_eq!(numbers(ours.output), numbers(theirs.output), "{shape:?} {ends:?}");
                assert_eq!(numbers(ours.mean.clone()), numbers(theirs.mean));
                assert_eq!(numbers(ours.variance.clone()), numbers(theirs.variance));
                let seen = Seen::<Flex> { parts, mean: ours.mean, variance: ours.variance };
                let ours = Flex::finish_backward(seen.clone(), grad.clone(), &how);
                let theirs = composed_backward::<Flex>(seen, grad, &how);
                for (i, (a, b)) in ours.into_iter().zip(theirs).enumerate() {
                    let (a, b) = (numbers(a), numbers(b));
                    let most = b.iter().fold(1f32, |m, x| m.max(x.abs()));
                    assert_eq!(a.len(), b.len());
                    for (a, b) in a.iter().zip(&b) {
                        assert!((a - b).abs() <= 2e-5 * most, "{shape:?} {ends:?} {estimator} {rule:?} [{i}]: {a} {b}");
                    }
                }
            }
        }
    }
}
