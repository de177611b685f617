//! On the processor: means and variances, then one pass forward; one pass back that makes each gradient what it was before rounding and clipping and sums it by
//! channels, and one through the normalisation, both in place. Sums are taken sample by sample and added in their order: no result depends on threads.
use super::{Finish, Parts, Seen};
use crate::{
    fake::{
        Estimator, ScaleRule,
        flex::{by_rules, contiguous, like, lsq, own, step},
    },
    norm::{
        Normalized,
        flex::{Channels, Given, LANES, RUN, clipped, factors, sizes},
    },
};
use burn::backend::{Flex, flex::FlexTensor};
use nnq_kernels::widest;
use rayon::prelude::*;

/// As [`crate::backend::Kernels::finish`].
pub fn finish(parts: Parts<FlexTensor>, how: &Finish) -> Normalized<FlexTensor, FlexTensor> {
    let Parts { x, gamma, beta, scale } = &parts;
    let (input, gamma, beta) = (contiguous(x), contiguous(gamma), contiguous(beta));
    let (s, [lo, hi]) = (contiguous(scale)[0], how.grid.limit(0));
    let channels = Channels::of(&input, sizes(x), &gamma, how.epsilon);
    channels.normalized(x, &input, &beta, |y| step(clipped(y, how.ends) / s, lo, hi) * s)
}

/// The sums of a plane: of gradients, of gradients times `x - mean`, and of what the scale learns.
type Sums = [f64; 3];

/// A channel's numbers, on their way to codes.
#[derive(Clone, Copy)]
struct Channel {
    mean: f32,
    factor: f32,
    beta: f32,
    ends: [f32; 2],
    scale: f32,
}

impl Channel {
    /// Gives each gradient what it is before rounding and clipping. `one`: a gradient and the scale's share, for a number in steps.
    #[inline(always)]
    fn back(self, x: &[f32], g: &mut [f32], one: impl Fn(f32, f32) -> (f32, f32)) -> Sums {
        let [lo, hi] = self.ends;
        let each = |x: f32, g: f32| {
            let y = clipped((x - self.mean) * self.factor + self.beta, self.ends);
            let (g, by) = one(y / self.scale, g);
            (if y > lo && y < hi { g } else { 0.0 }, by)
        };
        let mut total = [0.0f64; 3];
        for (x, g) in x.chunks(RUN).zip(g.chunks_mut(RUN)) {
            let mut lanes = [[0.0f32; LANES]; 3];
            let whole = x.len() / LANES * LANES;
            for (x, g) in x[..whole].chunks_exact(LANES).zip(g[..whole].chunks_exact_mut(LANES)) {
                for k in 0..LANES {
                    let (to_x, by) = each(x[k], g[k]);
                    g[k] = to_x;
                    lanes[0][k] += to_x;
                    lanes[1][k] += to_x * (x[k] - self.mean);
                    lanes[2][k] += by;
                }
            }
            for (x, g) in x[whole..].iter().zip(&mut g[whole..]) {
                let (to_x, by) = each(*x, *g);
                *g = to_x;
                lanes[0][0] += to_x;
                lanes[1][0] += to_x * (x - self.mean);
                lanes[2][0] += by;
            }
            for (total, lanes) in total.iter_mut().zip(lanes) {
                *total += lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
            }
        }
        total
    }
}

/// As [`crate::backend::Kernels::finish_backward`].
pub fn finish_backward(seen: Seen<Flex>, grad: FlexTensor, how: &Finish) -> [FlexTensor; 4] {
    let Seen { parts: Parts { x, gamma, beta, scale }, mean, variance } = &seen;
    let size @ [count, plane, sample] = sizes(x);
    let [input, gamma, beta, means, variances] = [x, gamma, beta, mean, variance].map(contiguous);
    let factors = factors(&gamma, &variances, how.epsilon);
    let (grid, s) = (&how.grid, contiguous(scale)[0]);
    let limit = grid.limit(0);
    let usual = matches!((grid.estimator, grid.rule), (Estimator::Clipped, ScaleRule::Lsq));
    let rules = (grid.estimator.passing(), grid.rule);
    let mut grad = own(grad);
    let grads = grad.storage_mut::<f32>();
    let parts: Vec<Vec<Sums>> = grads
        .par_chunks_mut(sample)
        .zip(input.par_chunks(sample))
        .map(|(g, x)| {
            let planes = x.chunks(plane).zip(g.chunks_mut(plane)).enumerate();
            let one = |(c, (x, g)): (usize, (&[f32], &mut [f32]))| {
                let channel = Channel { mean: means[c], factor: factors[c], beta: beta[c], ends: how.ends, scale: s };
                if usual {
                    widest(
                        #[inline(always)]
                        || channel.back(x, g, |v, g| lsq(v, g, limit)),
                    )
                } else {
                    channel.back(x, g, |v, g| by_rules(v, g, limit, rules))
                }
            };
            planes.map(one).collect()
        })
        .collect();
    let (mut sums, mut by_scale) = (vec![[0.0f64; 2]; count], 0.0f64);
    for part in parts {
        for (sum, [g, p, by]) in sums.iter_mut().zip(part) {
            *sum = [sum[0] + g, sum[1] + p];
            by_scale += by;
        }
    }
    let given =
        Given { size, input: &input, means: &means, gamma: &gamma, variances: &variances, epsilon: how.epsilon };
    let [to_gamma, to_beta] = given.through(grads, &sums);
    [grad, to_gamma, to_beta, like(vec![(by_scale * f64::from(grid.gain)) as f32], scale)]
}
