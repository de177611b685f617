//! Training in few bits: gradients of products, and updates of weights, rounded to grids.
//!
//! A gradient of the output of a convolution or matrix product becomes `s q` with integers `abs(q) <= p = 2^(bits-1) - 1` and one scale `s = max abs(g) / p` for the
//! tensor, before the gradients of input, weights and bias are computed from it (Gupta et al., arXiv:1502.02551; Zhou et al., arXiv:1606.06160, section 2.4). Weights, between steps,
//! are multiples of a power of two that is fixed for each tensor as the training begins, so that twice the largest weight fits.
//!
//! Rounding is to nearest or stochastic, `floor(g / s + u)` with `u` uniform in `[0, 1)`, which is right on average. `u` comes from a counter: from seed, step, tensor and
//! place alone, so that the same numbers come of any number of threads.
use crate::{
    backend::{self, Kernels, Var},
    params::{Parameters, Role},
};
use burn::backend::{
    TensorMetadata as _,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
        grads::Gradients as Grads,
        ops::{Backward, Ops, OpsKind},
    },
};
use nnq::{Error, Result, data::mix};
use nnq_kernels::round::{quantize_f32, stochastic_f32};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What is rounded in training besides the network's own grids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Low {
    /// Bits of gradients.
    pub gradients: Option<u8>,
    /// Bits of weights between steps.
    pub updates: Option<u8>,
    /// How both are rounded.
    pub rounding: Rounding,
}

/// How numbers are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Up or down so that the mean is right.
    #[default]
    Stochastic,
    /// To the nearest, half to even.
    Nearest,
}

/// Streams of draws, apart from all others of a seed.
const GRADIENTS: u64 = 0x6772_6164_0000_0000;
const UPDATES: u64 = 0x7570_6461_7465_0000;

/// How the gradients of one step are rounded.
#[derive(Clone, Copy, Debug)]
pub struct Gradients {
    bits: u8,
    rounding: Rounding,
    key: u64,
}

impl Low {
    /// Refuses bits that make no sense.
    ///
    /// # Errors
    /// Says which.
    pub fn check(&self) -> Result<()> {
        for (what, bits, from) in [("gradients", self.gradients, 2), ("weights between steps", self.updates, 4)] {
            if bits.is_some_and(|b| !(from..=16).contains(&b)) {
                return Err(Error::usage(format!("{} bits for {what}", bits.unwrap_or(0)))
                    .cure(format!("use {from} to 16, or leave it out: they are real numbers then")));
            }
        }
        Ok(())
    }
    /// For the gradients of a step.
    pub fn of_step(&self, seed: u64, step: u64) -> Option<Gradients> {
        let key = mix(seed ^ GRADIENTS, step);
        self.gradients.map(|bits| Gradients { bits, rounding: self.rounding, key })
    }
    /// The steps of the grids that weights lie on, by parameter.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn grids<B: Kernels>(&self, parameters: &Parameters<B>) -> Result<Vec<Option<f32>>> {
        let Some(bits) = self.updates else { return Ok(vec![None; parameters.list.len()]) };
        let each = parameters.list.iter().zip(&parameters.values).map(|(p, value)| {
            if p.role != Role::Weight {
                return Ok(None);
            }
            let top = largest(&backend::numbers::<B>(value.clone())?);
            let mut step = f32::MIN_POSITIVE;
            while step * end(bits) < 2.0 * top {
                step *= 2.0;
            }
            Ok(Some(step))
        });
        each.collect()
    }
    /// Puts weights that were just updated on their grids.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn settle<B: Kernels>(
        &self,
        parameters: &mut Parameters<B>,
        grids: &[Option<f32>],
        (seed, step): (u64, u64),
    ) -> Result<()> {
        let Some(bits) = self.updates else { return Ok(()) };
        for (i, grid) in grids.iter().enumerate() {
            let Some(scale) = grid else { continue };
            let key = mix(mix(seed ^ UPDATES, step), i as u64);
            let (value, shape) = (&mut parameters.values[i], &parameters.list[i].shape);
            let numbers = backend::numbers::<B>(value.clone())?;
            let device = backend::device_of::<B>(value);
            *value = backend::tensor::<B>(round(&numbers, *scale, bits, self.rounding, key), shape, &device);
        }
        Ok(())
    }
}

/// The largest code of a grid.
fn end(bits: u8) -> f32 {
    ((1u32 << (bits - 1)) - 1) as f32
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |top, x| top.max(x.abs()))
}

/// Numbers on a grid.
fn round(x: &[f32], scale: f32, bits: u8, rounding: Rounding, key: u64) -> Vec<f32> {
    let p = end(bits) as i32;
    let one = |(i, &x): (usize, &f32)| {
        let code = match rounding {
            Rounding::Nearest => quantize_f32(x, scale, 0, -p, p),
            Rounding::Stochastic => {
                // 24 bits: as many as binary32 holds.
                let u = (mix(key, i as u64) >> 40) as f32 / (1u64 << 24) as f32;
                stochastic_f32(x, scale, 0, -p, p, u)
            }
        };
        code as f32 * scale
    };
    x.par_iter().enumerate().with_min_len(1 << 14).map(one).collect()
}

impl Gradients {
    /// A gradient on its grid; `tensor` stands for the tensor that it is of.
    pub(crate) fn round(&self, g: &[f32], tensor: u64) -> Vec<f32> {
        let scale = largest(g) / end(self.bits);
        // Nothing but zeros stays, and so does what is no number: the norm of the gradients shows it.
        if scale < f32::MIN_POSITIVE || g.iter().any(|x| !x.is_finite()) {
            return g.to_vec();
        }
        round(g, scale, self.bits, self.rounding, mix(self.key, tensor))
    }
}

#[derive(Debug)]
struct Round;

impl<B: Kernels> Backward<B, 1> for Round {
    type State = (Gradients, u64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Grads, _: &mut Checkpointer) {
        let [of_x] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (how, tensor) = ops.state;
        if let Some(node) = of_x {
            let (shape, device) = (grad.shape().to_vec(), backend::device_of::<B>(&grad));
            // What cannot be read back gives no numbers, which the norm of the gradients shows.
            let n = shape.iter().product();
            let rounded = backend::numbers::<B>(grad).map_or_else(|_| vec![f32::NAN; n], |g| how.round(&g, tensor));
            grads.register::<B>(node.id, backend::tensor::<B>(rounded, &shape, &device));
        }
    }
}

/// `x` itself, whose gradient is rounded on its way back; `tensor` stands for it among those of a step.
pub fn rounded_back<B: Kernels>(x: Var<B>, how: Gradients, tensor: u64) -> Var<B> {
    let nodes = [x.node()];
    let x = x.into_primitive();
    match Round.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((how, tensor), x),
        OpsKind::UnTracked(prep) => prep.finish(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Device;
    use crate::testing::noise;
    use burn::backend::{Autodiff, Flex, ops::FloatTensorOps as _};

    fn low(bits: u8, rounding: Rounding) -> Low {
        Low { gradients: Some(bits), updates: Some(8), rounding }
    }

    #[test]
    fn to_nearest_by_hand() {
        // Three bits: codes -3 to 3, scale 0.5.
        let how = low(3, Rounding::Nearest).of_step(0, 0).unwrap();
        assert_eq!(how.round(&[1.5, -1.5, 0.2, 0.3, -0.25, 0.75, 0.0], 0), [1.5, -1.5, 0.0, 0.5, 0.0, 1.0, 0.0]);
        assert_eq!(how.round(&[0.0, 0.0], 0), [0.0, 0.0]);
        // What is no number is not made one.
        assert!(how.round(&[1.0, f32::NAN], 0)[1].is_nan() && how.round(&[1.0, f32::INFINITY], 0)[1].is_infinite());
    }

    /// The mean over many draws is the number itself: within six deviations of the mean of so many draws.
    #[test]
    fn stochastic_rounding_is_right_on_average_and_keeps_what_is_on_the_grid() {
        let g = [1.5f32, 0.1, -0.37, 0.5, -1.0, 1.4999];
        let draws = 20_000;
        let mut sums = [0.0f64; 6];
        for step in 0..draws {
            let r = low(3, Rounding::Stochastic).of_step(9, step).unwrap().round(&g, 5);
            for (k, r) in r.iter().enumerate() {
                assert!((r / 0.5).fract() == 0.0 && (r - g[k]).abs() < 0.5, "{} {r}", g[k]);
                sums[k] += f64::from(*r);
            }
        }
        for (k, sum) in sums.iter().enumerate() {
            let (mean, f) = (sum / draws as f64, f64::from(g[k] / 0.5).rem_euclid(1.0));
            let deviation = 0.5 * (f * (1.0 - f) / draws as f64).sqrt();
            assert!((mean - f64::from(g[k])).abs() <= 6.0 * deviation + 1e-12, "{}: {mean}", g[k]);
        }
    }

    #[test]
    fn draws_depend_on_seed_step_tensor_and_place_and_not_on_threads() {
        let g = noise(100_000, 3);
        let run = |threads: usize, seed: u64, step: u64, tensor: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| low(4, Rounding::Stochastic).of_step(seed, step).unwrap().round(&g, tensor))
        };
        let one = run(1, 1, 2, 3);
        assert!([2, 3, 5].into_iter().all(|n| run(n, 1, 2, 3) == one));
        assert!([(2, 2, 3), (1, 3, 3), (1, 2, 4)].into_iter().all(|(a, b, c)| run(1, a, b, c) != one));
        // Neighbours with the same number go different ways.
        let same = low(4, Rounding::Stochastic).of_step(1, 2).unwrap().round(&[&[1.0f32][..], &[0.07; 64]].concat(), 3);
        assert!(same[1..].iter().any(|x| *x != same[1]));
    }

    #[test]
    fn only_the_way_back_is_rounded() {
        let device = Device::<Flex>::default();
        let (x, g) = (noise(24, 1), noise(24, 2));
        let leaf = backend::tracked::<Flex>(backend::tensor::<Flex>(x.clone(), &[4, 6], &device));
        let how = low(5, Rounding::Stochastic).of_step(1, 1).unwrap();
        let y = rounded_back::<Flex>(leaf.clone(), how, 7);
        assert_eq!(backend::numbers::<Flex>(y.primitive().clone()).unwrap(), x);
        let weights = backend::constant::<Flex>(backend::tensor::<Flex>(g.clone(), &[4, 6], &device));
        let mut grads = Autodiff::<Flex>::float_sum(Autodiff::<Flex>::float_mul(y, weights)).backward();
        let got = backend::numbers::<Flex>(leaf.grad_remove(&mut grads).unwrap()).unwrap();
        assert_eq!(got, how.round(&g, 7));
        assert_ne!(got, g);
    }

    /// Updates far below a step of the grid: to nearest nothing ever moves, stochastic rounding moves as far as it should on average.
    #[test]
    fn small_updates_are_lost_to_nearest_and_kept_on_average() {
        use crate::params::{Of, Parameter};
        let of = |role| Parameter { name: "w".into(), role, of: Of::Grid(0), shape: vec![500] };
        let start = [vec![1.0f32], vec![0.25; 499]].concat();
        let tensor = |x: Vec<f32>| backend::tensor::<Flex>(x, &[500], &Device::<Flex>::default());
        let both = [of(Role::Weight), of(Role::Other)].map(|p| (p, tensor(start.clone())));
        for (rounding, moved) in [(Rounding::Nearest, 0.0), (Rounding::Stochastic, 0.2)] {
            let how = low(8, rounding);
            let mut all = Parameters::<Flex>::loose(both.clone().into_iter());
            let grids = how.grids(&all).unwrap();
            // The smallest power of two of which 127 hold twice the largest weight.
            assert_eq!(grids, [Some(1.0 / 32.0), None]);
            for step in 0..100 {
                let old = backend::numbers::<Flex>(all.values[0].clone()).unwrap();
                all.values[0] = tensor(old.iter().map(|x| x - 0.002).collect());
                how.settle(&mut all, &grids, (3, step)).unwrap();
            }
            let new = backend::numbers::<Flex>(all.values[0].clone()).unwrap();
            assert!(new.iter().all(|x| (x * 32.0).fract() == 0.0));
            let mean = start.iter().zip(&new).map(|(a, b)| f64::from(a - b)).sum::<f64>() / 500.0;
            // 100 steps of deviation at most 1/128 each, over 500 weights: six of them.
            assert!((mean - moved).abs() < 6.0 * 0.0079 * 10.0 / 500f64.sqrt(), "{rounding:?}: {mean}");
            assert!(rounding == Rounding::Stochastic || new == start);
            assert_eq!(backend::numbers::<Flex>(all.values[1].clone()).unwrap(), start);
        }
    }

    #[test]
    fn bits_that_make_no_sense_are_errors() {
        assert!(Low::default().check().is_ok() && low(8, Rounding::Nearest).check().is_ok());
        assert!(low(1, Rounding::Nearest).check().unwrap_err().to_string().contains("1 bits for gradients"));
        assert!(Low { updates: Some(17), ..Low::default() }.check().is_err());
    }
}
