//! Optimizers and schedules of burn over the parameters of a network.
use crate::{
    backend::{self, Kernels},
    params::{Parameters, Role},
};
use burn::{
    Tensor,
    backend::{Bytes, Scalar, Shape, tensor::FloatTensor},
    lr_scheduler::{
        constant::ConstantLr, cosine::CosineAnnealingLrSchedulerConfig, linear::LinearLrSchedulerConfig,
        module_lr_scheduler::ModuleLrScheduler, sequential::SequentialLrSchedulerConfig,
    },
    module::{Module, Param, ParamId},
    optim::{
        AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig,
    },
};
use nnq::{Error, Result};
use serde::{Deserialize, Serialize};

/// How gradients become steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Method {
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// What is kept of the last step.
        momentum: f64,
    },
    /// Adam with decoupled weight decay.
    AdamW,
}

/// How the learning rate goes over the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schedule {
    /// Down to 0 along half a cosine.
    #[default]
    Cosine,
    /// Always the same.
    Constant,
}

/// What is to be known of a step's size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// Gradients into steps.
    pub method: Method,
    /// The highest learning rate.
    pub rate: f64,
    /// L2 decay of weights; scales, biases and normalisation do not decay.
    pub decay: f64,
    /// The way of the learning rate.
    pub schedule: Schedule,
    /// Steps of its linear rise at the beginning.
    pub warm_up: u64,
    /// What the rate of scales is multiplied with.
    pub scale_rate: f64,
    /// What the rate of weights is multiplied with; with 0 they stay as they are.
    pub weight_rate: f64,
    /// Whether their rate bounds the share that they change by in one step.
    pub bounded: bool,
    /// The largest norm of all gradients together.
    pub clip: Option<f64>,
}

/// Tensors in burn's form.
#[derive(Module, Debug)]
struct Bag {
    list: Vec<Param<Tensor<1>>>,
}

/// The state of an optimizer over all parameters.
pub struct Optimizer {
    /// Weights; everything else; scales.
    parts: [ModuleOptimizer; 3],
    schedule: ModuleLrScheduler,
    steps: Steps,
}

fn part(role: Role) -> usize {
    match role {
        Role::Weight => 0,
        Role::Other => 1,
        Role::Scale => 2,
    }
}

impl Optimizer {
    /// For `total` steps.
    ///
    /// # Errors
    /// When the learning rate is not positive, or above 1; when the largest norm is not positive, or a factor of rates negative.
    pub fn new(steps: Steps, total: u64) -> Result<Self> {
        if steps.clip.is_some_and(|most| most.is_nan() || most <= 0.0) {
            return Err(Error::usage("gradients of a norm that is not positive").cure("use a --clip-norm above 0"));
        }
        if [steps.scale_rate, steps.weight_rate].iter().any(|x| !(0.0..f64::INFINITY).contains(x)) {
            return Err(Error::usage("a learning rate times a negative number, or one that is none")
                .cure("use 0 or more for --scale-lr and --weight-lr"));
        }
        let of = |decay: f64| match steps.method {
            Method::Sgd { momentum } => {
                let momentum = (momentum > 0.0)
                    .then(|| MomentumConfig::new().with_momentum(momentum).with_dampening(0.0).with_nesterov(false));
                let decay = (decay > 0.0).then(|| WeightDecayConfig::new(decay as f32));
                SgdConfig::new().with_momentum(momentum).with_weight_decay(decay).init()
            }
            Method::AdamW => AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(decay as f32).init(),
        };
        let schedule = schedule(steps, total).map_err(|e| {
            Error::usage(format!("learning rate {} over {total} steps: {e}", steps.rate))
                .cure("use a rate above 0 and at most 1")
        })?;
        Ok(Self { parts: [of(steps.decay), of(0.0), of(0.0)], schedule, steps })
    }
    /// The learning rate of the next step.
    pub fn next_rate(&mut self) -> f64 {
        self.schedule.step().base()
    }
    /// Takes one step against the gradients, which are in the order of the parameters; `None` for what got none.
    ///
    /// # Errors
    /// A defect of burn.
    pub fn step<B: Kernels>(
        &mut self,
        rate: f64,
        parameters: &mut Parameters<B>,
        gradients: Vec<Option<FloatTensor<B>>>,
    ) -> Result<()> {
        for (p, optimizer) in self.parts.iter_mut().enumerate() {
            let mine: Vec<usize> = (0..parameters.list.len())
                .filter(|&i| part(parameters.list[i].role) == p && gradients[i].is_some())
                .collect();
            let mut grads = GradientsParams::new();
            let mut list = Vec::with_capacity(mine.len());
            for &i in &mine {
                // Names of parameters in checkpoints: their place in the list.
                let id = ParamId::from(i as u64);
                if let Some(g) = &gradients[i] {
                    grads.register(id, B::lift(g.clone()));
                }
                // burn's optimizers take parameters as its automatic differentiation has them.
                list.push(Param::initialized(id, Tensor::from_inner(B::lift(parameters.values[i].clone()))));
            }
            if mine.is_empty() {
                continue;
            }
            let rate = match parameters.list[mine[0]].role {
                Role::Scale => rate * self.steps.scale_rate,
                Role::Weight => rate * self.steps.weight_rate,
                Role::Other => rate,
            };
            if rate == 0.0 {
                continue;
            }
            let bag = optimizer.step(rate, Bag { list }, grads);
            for (&i, param) in mine.iter().zip(bag.list) {
                let shape = Shape::from(parameters.list[i].shape.clone());
                let new = B::float_reshape(B::lower(param.into_value().inner())?, shape);
                let new = match (parameters.list[i].role, self.steps.bounded) {
                    (Role::Weight | Role::Other, _) => new,
                    (Role::Scale, true) => {
                        let share = rate.min(0.5);
                        within::<B>(new, parameters.values[i].clone(), [1.0 - share, 1.0 + share])
                    }
                    // Scales stay positive: one step halves them at most.
                    (Role::Scale, false) => within::<B>(new, parameters.values[i].clone(), [0.5, f64::INFINITY]),
                };
                parameters.values[i] = new;
            }
        }
        Ok(())
    }
    /// The state, for a checkpoint.
    ///
    /// # Errors
    /// A defect of burn.
    pub fn to_bytes(&self) -> Result<Vec<Vec<u8>>> {
        let one = |o: &ModuleOptimizer| o.into_bytes().map(|b| b.to_vec());
        self.parts
            .iter()
            .map(|o| one(o).map_err(|e| Error::internal(format!("state of the optimizer: {e:?}"))))
            .collect()
    }
    /// Takes over the state of a checkpoint after `done` steps.
    ///
    /// # Errors
    /// When the bytes are no state.
    pub fn resume(mut self, state: &[Vec<u8>], done: u64) -> Result<Self> {
        if state.len() != self.parts.len() {
            return Err(Error::malformed(format!("a state of {} parts", state.len())));
        }
        for (part, bytes) in self.parts.iter_mut().zip(state) {
            let bytes = Bytes::from_bytes_vec(bytes.clone());
            let loaded = part.clone().from_bytes(bytes);
            *part = loaded.map_err(|e| Error::malformed(format!("state of the optimizer: {e:?}")))?;
        }
        for _ in 0..done {
            self.schedule.step();
        }
        Ok(self)
    }
}

/// Makes all gradients together shorter where their norm is above `most` (Pascanu et al., arXiv:1211.5063, algorithm 1), and answers the norm that they
/// had. burn's own clipping looks at each tensor alone, which turns the step away from the gradient; and its sum has no fixed order.
///
/// # Errors
/// When a gradient is no number.
pub fn clip<B: Kernels>(gradients: &mut [Option<FloatTensor<B>>], most: Option<f64>) -> Result<f64> {
    let mut square = 0.0f64;
    for gradient in gradients.iter().flatten() {
        square += backend::numbers::<B>(gradient.clone())?.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    }
    let norm = square.sqrt();
    if !norm.is_finite() {
        return Err(Error::value(format!("the norm of the gradients is {norm}"))
            .cure("train with a smaller learning rate, or a longer --warm-up"));
    }
    if let Some(most) = most.filter(|most| norm > *most) {
        for gradient in gradients.iter_mut().flatten() {
            *gradient = B::float_mul_scalar(gradient.clone(), Scalar::Float(most / norm));
        }
    }
    Ok(norm)
}

/// Scales that are at least and at most so many times what they were. A scale is small beside what its gradient sums up, above all at 8 bits, where the largest
/// weight lies on the last of 127 levels: LSQ's gain, made for few levels, leaves steps of many times the scale there, and what oscillates so keeps weights from
/// learning.
fn within<B: Kernels>(new: FloatTensor<B>, old: FloatTensor<B>, ends: [f64; 2]) -> FloatTensor<B> {
    let [low, high] = ends.map(|k| B::float_mul_scalar(old.clone(), Scalar::Float(k)));
    let bools = burn::backend::get_or_init_device_settings::<B>(&backend::device_of::<B>(&low)).bool_dtype;
    // What is no number fails the comparison, too.
    let above = B::float_greater(new.clone(), low.clone(), bools);
    let new = B::float_mask_where(low, above, new);
    let below = B::float_lower(new.clone(), high.clone(), bools);
    B::float_clamp_min(B::float_mask_where(high, below, new), Scalar::Float(1e-12))
}

fn schedule(steps: Steps, total: u64) -> std::result::Result<ModuleLrScheduler, String> {
    let length = |n: u64| usize::try_from(n.max(1)).unwrap_or(usize::MAX);
    let rise = steps.warm_up.min(total.saturating_sub(1));
    let cosine = CosineAnnealingLrSchedulerConfig::new(steps.rate, length(total - rise));
    match (steps.schedule, rise) {
        _ if !(steps.rate > 0.0 && steps.rate <= 1.0) => Err("the rate is out of range".into()),
        (Schedule::Cosine, 0) => cosine.init(),
        (Schedule::Constant, 0) => Ok(ModuleLrScheduler::new(ConstantLr::from(steps.rate))),
        (schedule, rise) => {
            let first = steps.rate / rise as f64;
            let up = LinearLrSchedulerConfig::new(first.min(steps.rate), steps.rate, length(rise));
            let then = match schedule {
                Schedule::Cosine => cosine.into(),
                Schedule::Constant => LinearLrSchedulerConfig::new(steps.rate, steps.rate, 1).into(),
            };
            SequentialLrSchedulerConfig::new(vec![up.into(), then], vec![length(rise)]).init()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Of, Parameter};
    use burn::backend::Flex;

    fn gradients(all: &[&[f32]]) -> Vec<Option<FloatTensor<Flex>>> {
        let one =
            |x: &&[f32]| (!x.is_empty()).then(|| backend::tensor::<Flex>(x.to_vec(), &[x.len()], &Default::default()));
        all.iter().map(one).collect()
    }

    fn numbers(all: Vec<Option<FloatTensor<Flex>>>) -> Vec<f32> {
        all.into_iter().flatten().flat_map(|x| backend::numbers::<Flex>(x).unwrap()).collect()
    }

    /// A gradient of any length changes a scale by the rate at most, as a share; weights go where it leads.
    #[test]
    fn steps_of_scales_are_bounded() {
        let device = Default::default();
        let one = |role, x: f32| {
            let parameter = Parameter { name: String::new(), role, of: Of::Grid(0), shape: vec![2] };
            (parameter, backend::tensor::<Flex>(vec![x, x], &[2], &device))
        };
        for (bounded, want) in [(true, [0.01 * 0.9, 0.01 * 1.1]), (false, [0.005, 0.01 + 0.1 * 3.0])] {
            let steps = Steps {
                method: Method::Sgd { momentum: 0.0 },
                rate: 0.1,
                decay: 0.0,
                schedule: Schedule::Constant,
                warm_up: 0,
                scale_rate: 1.0,
                weight_rate: 1.0,
                bounded,
                clip: None,
            };
            let mut optimizer = Optimizer::new(steps, 1).unwrap();
            let mut all = Parameters::<Flex>::loose([one(Role::Scale, 0.01), one(Role::Weight, 0.01)].into_iter());
            optimizer.step(0.1, &mut all, gradients(&[&[5.0, -3.0], &[5.0, -3.0]])).unwrap();
            let [scales, weights] = [0, 1].map(|i| backend::numbers::<Flex>(all.values[i].clone()).unwrap());
            assert!(scales.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{scales:?} {want:?}");
            assert!(weights.iter().zip([-0.49, 0.31]).all(|(a, b)| (a - b).abs() < 1e-6), "{weights:?}");
            // A tenth of the way, and none.
            for (weight_rate, want) in [(0.1, [-0.04, 0.04]), (0.0, [0.01, 0.01])] {
                let mut optimizer = Optimizer::new(Steps { weight_rate, ..steps }, 1).unwrap();
                let mut all = Parameters::<Flex>::loose([one(Role::Weight, 0.01)].into_iter());
                optimizer.step(0.1, &mut all, gradients(&[&[5.0, -3.0]])).unwrap();
                let weights = backend::numbers::<Flex>(all.values[0].clone()).unwrap();
                assert!(weights.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{weights:?}");
            }
            assert!(Optimizer::new(Steps { weight_rate: -1.0, ..steps }, 1).is_err());
        }
    }

    #[test]
    fn gradients_are_shortened_together() {
        let mut all = gradients(&[&[3.0], &[], &[0.0, -4.0]]);
        assert_eq!(clip::<Flex>(&mut all, Some(1.0)).unwrap(), 5.0);
        assert!(numbers(all).iter().zip([0.6, 0.0, -0.8]).all(|(a, b)| (a - b).abs() < 1e-6));
        for most in [Some(5.0), Some(7.0), None] {
            let mut all = gradients(&[&[3.0], &[0.0, -4.0]]);
            assert_eq!(clip::<Flex>(&mut all, most).unwrap(), 5.0);
            assert_eq!(numbers(all), [3.0, 0.0, -4.0]);
        }
        let mut bad = gradients(&[&[3.0, f32::NAN]]);
        assert!(clip::<Flex>(&mut bad, Some(1.0)).unwrap_err().to_string().contains("smaller learning rate"));
    }
}
