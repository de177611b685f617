//! Batch normalisation behind products whose weights are rounded: live while training, folded into scales and biases for the result.
//!
//! A model's batch normalisation is folded into the layer before it, so that its weights are those that will be rounded. At few bits such a network is hard
//! to train: nothing holds what channels answer in place while their weights jump from level to level. So a normalisation is put back behind the layer: with
//! `y` what the layer computes from rounded weights, without its bias,
//!
//! ```text
//! live     g (y - m) / sqrt(v + e) + b       m, v: mean and variance of the batch
//! frozen   k y + (b - m k)                   k = g / sqrt(v + e), m, v: running statistics
//! ```
//!
//! What a channel's weights are multiplied with does not matter any more then, but gradients become longer as weights become shorter: a folded network's channels, whose
//! lengths differ by orders of magnitude, would learn at rates that differ by their squares. So they are brought near length 1 first, with their scales, by powers of two:
//! codes stay what they were.
//!
//! It begins with the mean `b` and the standard deviation `g` that the float network's channels have, or those of the quantized network that training begins with. Weights have a scale for each output channel, so the frozen
//! form is one of rounded weights again, exactly: the same codes, `k` times the scales. (Jacob et al., arXiv:1712.05877, section 3.2, and Krishnamoorthi,
//! arXiv:1806.08342, section 3.2.2, fold before rounding, since theirs have one scale for the tensor.)
use super::{PlannedProduct, Quantizing};
use crate::{
    backend::{self, Device, Kernels},
    batches::Batches,
    fake::{Grid, ScaleRule},
    net::{Forward, Normalize},
    params::{Of, Parameters, Running},
    precision::Precision,
    qat::Plan,
};
use nnq::{
    Error, Result,
    ir::{Granularity, Graph, NodeId, Op, QParams, ValueId},
};
use nnq_kernels::round::{rne_f32, rne_f64};
use std::collections::BTreeMap;

/// What is added to variances.
pub const EPSILON: f32 = 1e-5;

/// Batches that the network's own means and deviations are taken of.
const BATCHES: usize = 8;

/// A product whose channels are normalised.
#[derive(Clone, Debug)]
pub struct Normal {
    /// Of its gain.
    pub name: String,
    /// Output channels.
    pub channels: usize,
    /// The constants that are its weights and its bias.
    pub constants: [ValueId; 2],
}

impl Quantizing {
    /// Puts a normalisation behind every convolution that has a bias and a scale for each output channel, and answers how many convolutions have none.
    ///
    /// # Errors
    /// When there is no such convolution.
    pub fn normalize(&mut self) -> Result<usize> {
        let graph = self.graph().clone();
        let consumers = graph.consumers();
        let mut left = 0;
        for (&id, &PlannedProduct { weight, .. }) in &self.plan.products {
            let node = graph.node(id);
            let grid = &self.plan.grids[weight].params;
            let own = |v: &ValueId| consumers[v.0 as usize].len() == 1 && graph.constant(*v).is_some();
            let constants = (node.input(1).filter(own), node.input(2).filter(own));
            match (&node.op, constants, grid.granularity) {
                (Op::Conv(_), (Some(w), Some(b)), Granularity::Channel { axis: 0 }) => {
                    let (name, channels) = (format!("{}: gain", node.name), grid.scale.len());
                    self.plan.normal.insert(id, Normal { name, channels, constants: [w, b] });
                }
                (Op::Conv(_), ..) => left += 1,
                _ => {}
            }
        }
        if self.plan.normal.is_empty() {
            return Err(Error::usage("live batch normalisation, and no convolution that can be normalised")
                .cure("it needs convolutions with biases, and --granularity channel; or use --batch-norm folded"));
        }
        Ok(left)
    }
}

/// What a normalisation's first mean and deviation are taken of.
pub struct Start<B: Kernels> {
    /// The network, before [`balance`].
    parameters: Parameters<B>,
    /// What it rounds.
    plan: Plan,
}

impl<B: Kernels> Start<B> {
    /// The float network.
    ///
    /// # Errors
    /// As [`Parameters::new`].
    pub fn float(graph: &Graph, plan: &Plan, device: &Device<B>) -> Result<Self> {
        let parameters = Parameters::new(graph, plan, device)?;
        Ok(Self { parameters, plan: Plan { normal: plan.normal.clone(), ..Plan::default() } })
    }
    /// A network that is rounded already, with its weights and biases.
    pub fn rounded(parameters: &Parameters<B>, plan: &Plan) -> Self {
        Self { parameters: parameters.clone(), plan: plan.clone() }
    }
}

/// Begins with the means and deviations that the channels of a network have over the first of these batches, for weights as [`balance`] left them. `tick(done, of)`
/// counts batches.
///
/// # Errors
/// Names the sample that cannot be read and the node that cannot be run.
pub fn begin<B: Kernels>(
    graph: &Graph,
    Start { parameters: start, plan }: &Start<B>,
    (parameters, factors): (&mut Parameters<B>, &Factors),
    batches: Batches,
    device: &Device<B>,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let leaves: Vec<_> = start.values.iter().map(|x| backend::constant::<B>(x.clone())).collect();
    // Means, squares of means, variances.
    let mut sums: BTreeMap<NodeId, Vec<[f64; 3]>> = BTreeMap::new();
    let mut count = 0.0f64;
    for batch in batches.take(BATCHES) {
        let input = batch?.input;
        let shape = input.shape().to_vec();
        let input = backend::tensor::<B>(input.into_vec::<f32>()?, &shape, device);
        let forward = Forward {
            graph,
            plan,
            parameters: start,
            normalize: Normalize::Watched,
            gradients: None,
            precision: Precision::F32,
            soft: None,
            device,
        };
        for (key, numbers) in forward.run(input, &leaves)?.statistics {
            let (id, mean) = match key {
                Running::Mean(id) => (id, true),
                Running::Variance(id) => (id, false),
                Running::Constant(_) => continue,
            };
            let numbers = backend::numbers::<B>(numbers)?;
            let sums = sums.entry(id).or_insert_with(|| vec![[0.0; 3]; numbers.len()]);
            for (sum, x) in sums.iter_mut().zip(numbers.into_iter().map(f64::from)) {
                match mean {
                    true => (sum[0], sum[1]) = (sum[0] + x, sum[1] + x * x),
                    false => sum[2] += x,
                }
            }
        }
        count += 1.0;
        tick(count as u64, BATCHES as u64);
    }
    for (&id, normal) in &plan.normal {
        let sums = sums.get(&id).ok_or_else(|| Error::internal("a normalised product that did not run"))?;
        let [_, b] = normal.constants;
        // What channels are on average there, whatever bias makes up for rounding.
        let bias = start.numbers(Of::Constant(b))?;
        let means: Vec<f64> = sums.iter().map(|s| s[0] / count).collect();
        // That of all batches: within them, and between their means.
        let spread: Vec<f64> =
            sums.iter().zip(&means).map(|(s, m)| s[2] / count + (s[1] / count - m * m).max(0.0)).collect();
        let shifted = means.iter().zip(bias).map(|(m, b)| (m + f64::from(b)) as f32).collect();
        let gains = spread.iter().map(|v| (v + f64::from(EPSILON)).sqrt() as f32).collect();
        parameters.put(Of::Constant(b), shifted, device)?;
        parameters.put(Of::Gain(id), gains, device)?;
        let shape = [normal.channels];
        let factors = factors.get(&id).cloned().unwrap_or_else(|| vec![1.0; normal.channels]);
        let squares = factors.iter().map(|k| k * k).collect();
        for (key, of, by) in [(Running::Mean(id), means, factors), (Running::Variance(id), spread, squares)] {
            let numbers = of.iter().zip(by).map(|(x, k)| *x as f32 * k).collect();
            parameters.statistics.insert(key, backend::tensor::<B>(numbers, &shape, device));
        }
    }
    Ok(())
}

/// Of each normalised product, what [`balance`] multiplied the weights of its channels with.
pub type Factors = BTreeMap<NodeId, Vec<f32>>;

/// Brings the weights of each channel of normalised products near length 1, with the scales of their grid. Scales that do not learn stay, and their weights.
///
/// # Errors
/// When the device cannot be read.
pub fn balance<B: Kernels>(plan: &Plan, parameters: &mut Parameters<B>, device: &Device<B>) -> Result<Factors> {
    let mut all = Factors::new();
    for (&id, normal) in &plan.normal {
        let Some(product) = plan.products.get(&id) else { continue };
        let grid = &plan.grids[product.weight];
        if grid.rule == ScaleRule::Fixed && grid.levels.is_none() {
            continue;
        }
        let [w, s] = [Of::Constant(normal.constants[0]), Of::Grid(product.weight)];
        let (mut weights, mut scales) = (parameters.numbers(w)?, parameters.numbers(s)?);
        let each = (weights.len() / normal.channels).max(1);
        let one = |row: &[f32]| {
            let length = row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
            // A channel without weights has no length.
            if length > 0.0 { rne_f64(-length.log2()).clamp(-60.0, 60.0).exp2() as f32 } else { 1.0 }
        };
        let factors: Vec<f32> = weights.chunks(each).map(one).collect();
        weights.chunks_mut(each).zip(&factors).for_each(|(row, &k)| match grid.levels {
            Some(levels) => levels.stretch(row, k),
            None => row.iter_mut().for_each(|w| *w *= k),
        });
        scales.iter_mut().zip(&factors).for_each(|(s, k)| *s *= k);
        parameters.put(w, weights, device)?;
        parameters.put(s, scales, device)?;
        all.insert(id, factors);
    }
    Ok(all)
}

/// A normalisation in its frozen form, for each output channel.
pub(super) struct Folded {
    /// What weights are multiplied with.
    pub factors: Vec<f32>,
    /// What is added to biases.
    pub shifts: Vec<f32>,
}

/// The frozen form of a product's normalisation.
///
/// # Errors
/// When the device cannot be read.
pub(super) fn folded<B: Kernels>(id: NodeId, parameters: &Parameters<B>) -> Result<Folded> {
    let running = |key| {
        let t = parameters.statistics.get(&key).ok_or_else(|| Error::internal("no running statistics"))?;
        backend::numbers::<B>(t.clone())
    };
    let (means, variances) = (running(Running::Mean(id))?, running(Running::Variance(id))?);
    let gains = parameters.numbers(Of::Gain(id))?;
    // As frozen training computes it.
    let factors: Vec<f32> = gains.iter().zip(variances).map(|(g, v)| g / (v + EPSILON).sqrt()).collect();
    let shifts = means.iter().zip(&factors).map(|(m, k)| -(m * k)).collect();
    Ok(Folded { factors, shifts })
}

impl Folded {
    /// Weights on their grid times the factors, and the grid that holds them with the same codes.
    ///
    /// # Errors
    /// When the grid does not fit.
    pub fn weights(&self, real: &[f32], shape: &[usize], params: QParams) -> Result<(Vec<f32>, QParams)> {
        let grid = Grid::new(&params, shape, 1)?;
        let scale: Vec<f32> = params.scale.iter().zip(&self.factors).map(|(s, k)| s * k).collect();
        let one = |(i, w): (usize, &f32)| {
            let c = grid.group(i);
            let [lo, hi] = grid.limit(c);
            rne_f32((w / params.scale[c]).clamp(lo, hi)) * scale[c]
        };
        let values = real.iter().enumerate().map(one).collect();
        Ok((values, QParams { scale, ..params }))
    }
}
