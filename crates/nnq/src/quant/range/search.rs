//! Derivative-free minimisation in one and two dimensions, coarse to fine, on logarithmic grids.
//!
//! The error of a quantizer as a function of its scale is smooth on average but rough in detail and may have several
//! valleys; a coarse look everywhere, then finer looks around the best places, is robust and needs few evaluations.

/// How hard to look.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Coarse grid: down to `2^-octaves` of the maximum.
    pub octaves: u32,
    /// Coarse points per octave.
    pub per_octave: u32,
    /// How many of the best coarse points are refined.
    pub starts: usize,
    /// Refinements, each four times finer.
    pub rounds: u32,
    /// The coarse search along a line ends where the value is this many times the best: what is clipped alone costs
    /// more by then.
    pub give_up: f64,
}

impl Effort {
    /// For activations, where outliers may be thousands of times the bulk. `cost` is the number of terms of one
    /// evaluation: few values make a rough function, which can be looked at more closely for the same price.
    pub fn statistics(cost: usize) -> Self {
        let per_octave = (40_000 / cost.max(1)).clamp(6, 200) as u32;
        Self { octaves: 12, per_octave, starts: 3, rounds: 5, give_up: f64::INFINITY }
    }
    /// For weights, where each evaluation reads all of them: 40 to 50 evaluations.
    pub const WEIGHTS: Self = Self { octaves: 5, per_octave: 5, starts: 1, rounds: 4, give_up: 4.0 };
}

/// The `x` in `(0, max]` that minimises `f >= 0`, and `f(x)`. Of equal values the largest `x` looked at wins.
pub(crate) fn along(max: f64, effort: Effort, mut f: impl FnMut(f64) -> f64) -> (f64, f64) {
    let step = 1.0 / f64::from(effort.per_octave);
    let mut coarse = Vec::with_capacity((effort.octaves * effort.per_octave) as usize + 1);
    let mut best = (max, f64::INFINITY);
    let better = |best: &mut (f64, f64), new: (f64, f64)| {
        if new.1 < best.1 {
            *best = new;
        }
    };
    for i in 0..=effort.octaves * effort.per_octave {
        let x = max * libm::exp2(-f64::from(i) * step);
        let point = (x, f(x));
        coarse.push(point);
        better(&mut best, point);
        if point.1 > effort.give_up * best.1 {
            break;
        }
    }
    for start in lowest(&coarse, effort.starts) {
        let mut here = start;
        let mut reach = step;
        for _ in 0..effort.rounds {
            let center = here.0;
            reach /= 4.0;
            for k in [3, 2, 1, -1, -2, -3] {
                let x = (center * libm::exp2(f64::from(k) * reach)).min(max);
                better(&mut here, (x, f(x)));
            }
        }
        better(&mut best, here);
    }
    best
}

/// The local minima of a list, best first, at most `n`. Never empty unless the list is.
fn lowest(list: &[(f64, f64)], n: usize) -> Vec<(f64, f64)> {
    let mut found: Vec<_> = (0..list.len())
        .filter(|&i| (i == 0 || list[i].1 < list[i - 1].1) && list.get(i + 1).is_none_or(|r| list[i].1 <= r.1))
        .map(|i| list[i])
        .collect();
    found.sort_by(|a, b| a.1.total_cmp(&b.1));
    found.truncate(n);
    found
}

/// The pair in `(0, max[0]] x (0, max[1]]` that minimises `f`, looking at a coarse grid and around `guess`.
pub(crate) fn plane(
    max: [f64; 2],
    effort: Effort,
    guess: Option<[f64; 2]>,
    mut f: impl FnMut([f64; 2]) -> f64,
) -> [f64; 2] {
    // The coarse grid has half octaves on each axis.
    const PER_OCTAVE: u32 = 2;
    let at = |i: [f64; 2]| [max[0] * libm::exp2(-i[0].max(0.0)), max[1] * libm::exp2(-i[1].max(0.0))];
    let side: Vec<f64> =
        (0..=(effort.octaves / 2) * PER_OCTAVE).map(|i| f64::from(i) / f64::from(PER_OCTAVE)).collect();
    let mut coarse = Vec::with_capacity(side.len() * side.len());
    for &a in &side {
        for &b in &side {
            coarse.push(([a, b], f(at([a, b]))));
        }
    }
    // The first is the whole range, which wins ties.
    coarse.sort_by(|x, y| x.1.total_cmp(&y.1));
    let mut best = coarse[0];
    let guess = guess.map(|g| {
        let i = [0, 1].map(|k| if g[k] > 0.0 { libm::log2(max[k] / g[k]).max(0.0) } else { 60.0 });
        (i, f(at(i)))
    });
    for start in guess.into_iter().chain(coarse.into_iter().take(effort.starts)) {
        let mut here = start;
        let mut step = 1.0 / f64::from(2 * PER_OCTAVE);
        // A compass search: walk while a neighbour is better, then halve the step.
        for _ in 0..2 * effort.rounds {
            for _ in 0..4 {
                let center = here.0;
                for d in [[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 1.0]] {
                    let i = [(center[0] + d[0] * step).max(0.0), (center[1] + d[1] * step).max(0.0)];
                    let value = f(at(i));
                    if value < here.1 {
                        here = (i, value);
                    }
                }
                if here.0 == center {
                    break;
                }
            }
            step /= 2.0;
        }
        if here.1 < best.1 {
            best = here;
        }
    }
    at(best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_deeper_of_two_valleys() {
        let f = |x: f64| (1.0 + (x.ln() + 1.0).powi(2)).min((x.ln() + 4.0).powi(2) + 0.9);
        let (x, _) = along(1.0, Effort::statistics(10_000), f);
        assert!((x.ln() + 4.0).abs() < 1e-3, "{x}");
        // A plain: the whole range.
        assert_eq!(along(3.0, Effort::WEIGHTS, |_| 1.0).0, 3.0);
    }
    #[test]
    fn finds_a_point_in_the_plane() {
        let f = |[x, y]: [f64; 2]| (x - 0.3).abs() + (y - 0.05).powi(2) + 0.3 * (x - 0.3) * (y - 0.05);
        let got = plane([1.0, 2.0], Effort::statistics(10_000), None, f);
        assert!((got[0] - 0.3).abs() < 1e-3 && (got[1] - 0.05).abs() < 1e-2, "{got:?}");
        assert_eq!(plane([1.0, 2.0], Effort::WEIGHTS, Some([0.5, 0.0]), |_| 0.0), [1.0, 2.0]);
    }
}
