//! One part of a network, learned.
use super::{BATCH, Block, Codes, Settings, cache::Cache, cache::Filling, gradients::At, learned};
use crate::{
    backend::{self, Device, Kernels, Var},
    net::{Forward, Normalize, Soft},
    optimizer::{Method, Optimizer, Schedule, Steps},
    params::{Of, Parameters},
    precision::Precision,
    qat::Plan,
};
use nnq::{Error, Result, data::mix, ir::Graph, quantize::check};
use serde::Serialize;
use std::sync::atomic::AtomicBool;

/// What became of a part.
#[derive(Clone, Debug, Serialize)]
pub struct BlockReport {
    /// The value that it makes.
    pub to: String,
    /// Its products.
    pub products: usize,
    /// Energy of the error over that of what it should make, with weights to nearest.
    pub before: f64,
    /// With what was learned.
    pub after: f64,
    /// Whether that was kept: it is the smaller one.
    pub kept: bool,
}

/// A network on its way.
pub(super) struct Work<'a, B: Kernels> {
    pub graph: &'a Graph,
    pub plan: Plan,
    /// The float network's parameters.
    pub real: Parameters<B>,
    /// The quantized network's: weights of parts that are done lie on their grids.
    pub parameters: Parameters<B>,
    pub device: &'a Device<B>,
    pub settings: Settings,
    pub cancel: Option<&'a AtomicBool>,
}

/// The energy of a sample, on average.
fn energy(x: &Cache) -> f64 {
    let one = |i: usize| x.row(i).iter().map(|z| f64::from(*z).powi(2)).sum::<f64>();
    (0..x.len()).map(one).sum::<f64>() / x.len().max(1) as f64
}

impl<B: Kernels> Work<'_, B> {
    /// The grids of weights, in a fixed order.
    fn weights(&self) -> Vec<usize> {
        let mut all: Vec<usize> = self.plan.products.values().map(|p| p.weight).collect();
        all.sort_unstable();
        all
    }
    /// Every parameter as numbers; behind them the zero points of each product's weights.
    pub fn state(&self) -> Result<Vec<Vec<f32>>> {
        let mut all = self.parameters.all_numbers()?;
        for weight in self.weights() {
            all.push(self.plan.grids[weight].params.zero_point.iter().map(|&z| z as f32).collect());
        }
        Ok(all)
    }
    /// The reverse.
    pub fn resume(&mut self, state: &[Vec<f32>]) -> Result<()> {
        let weights = self.weights();
        let count = self.parameters.list.len();
        let Some((values, rest)) = state.split_at_checked(count).filter(|(_, rest)| rest.len() == weights.len()) else {
            return self.restore(&[]);
        };
        self.restore(values)?;
        for (weight, zeros) in weights.into_iter().zip(rest) {
            let scale = self.parameters.numbers(Of::Grid(weight))?;
            let params = &mut self.plan.grids[weight].params;
            (params.scale, params.zero_point) = (scale, zeros.iter().map(|&z| z as i32).collect());
        }
        Ok(())
    }
    fn restore(&mut self, values: &[Vec<f32>]) -> Result<()> {
        let fits = values.len() == self.parameters.list.len()
            && values.iter().zip(&self.parameters.list).all(|(v, p)| v.len() == p.shape.iter().product::<usize>());
        if !fits {
            return Err(
                Error::malformed("the checkpoint holds other parameters than the network has").cure("remove it")
            );
        }
        for (i, numbers) in values.iter().enumerate() {
            self.put(i, numbers.clone());
        }
        Ok(())
    }
    fn put(&mut self, parameter: usize, numbers: Vec<f32>) {
        let shape = &self.parameters.list[parameter].shape;
        self.parameters.values[parameter] = backend::tensor::<B>(numbers, shape, self.device);
    }
    /// What the float network makes of its values.
    pub fn real(&self, part: &Block, x: &Cache) -> Result<Cache> {
        let forward = Forward {
            graph: self.graph,
            plan: &Plan::default(),
            parameters: &self.real,
            normalize: Normalize::Frozen,
            gradients: None,
            precision: Precision::F32,
            soft: None,
            device: self.device,
        };
        self.run(&forward, &self.real, part, x, false)
    }
    /// What the quantized network makes: of its values, or of the network's input.
    pub fn rounded(&self, part: &Block, x: &Cache, quantized: Option<&Cache>) -> Result<Cache> {
        self.run(&self.forward(None), &self.parameters, part, quantized.unwrap_or(x), quantized.is_none())
    }
    pub(super) fn forward<'s>(&'s self, soft: Option<&'s Soft<B>>) -> Forward<'s, B> {
        let Self { graph, plan, parameters, device, .. } = self;
        Forward {
            graph,
            plan,
            parameters,
            normalize: Normalize::Frozen,
            gradients: None,
            precision: Precision::F32,
            soft,
            device,
        }
    }
    fn run(
        &self,
        forward: &Forward<B>,
        parameters: &Parameters<B>,
        part: &Block,
        x: &Cache,
        round: bool,
    ) -> Result<Cache> {
        let leaves: Vec<Var<B>> = parameters.values.iter().map(|x| backend::constant::<B>(x.clone())).collect();
        let mut filling = Filling::new()?;
        let all: Vec<usize> = (0..x.len()).collect();
        for some in all.chunks(BATCH) {
            check(self.cancel)?;
            let input = backend::constant::<B>(backend::tensor::<B>(x.rows(some), &x.batch(some.len()), self.device));
            let y = forward.part((part.from, input, round), &part.nodes, part.to, &leaves)?;
            let shape = backend::dims::<B>(&y);
            filling.add(&backend::numbers::<B>(y.into_primitive())?, &shape)?;
        }
        filling.finish()
    }
    /// Energy of the difference between what the part makes and what it should, over that of the latter.
    fn error(&self, part: &Block, x: &Cache, quantized: Option<&Cache>, target: &Cache) -> Result<f64> {
        let made = self.rounded(part, x, quantized)?;
        let off = |i: usize| made.row(i).iter().zip(target.row(i)).map(|(y, z)| f64::from(y - z).powi(2)).sum::<f64>();
        let noise: f64 = (0..target.len()).map(off).sum();
        let signal = energy(target);
        Ok(if signal > 0.0 { noise / (signal * target.len() as f64) } else { 0.0 })
    }
    /// Learns a part; `tick` hears of steps.
    pub fn learn(
        &mut self,
        index: u64,
        part: &Block,
        x: &Cache,
        quantized: Option<&Cache>,
        target: &Cache,
        tick: &mut dyn FnMut(u64),
    ) -> Result<BlockReport> {
        let before = self.error(part, x, quantized, target)?;
        let energy = energy(target);
        let old = self.parameters.all_numbers()?;
        let (learned, mut loose) = self.learned(part, quantized.is_none())?;
        let Settings { steps, batch, rate, scale_rate, seed, codes, .. } = self.settings;
        let how = Steps {
            method: Method::AdamW,
            rate,
            decay: 0.0,
            // Roundings decide in the end; codes that gradients pass have to come to rest.
            schedule: match codes {
                Codes::Sigmoid => Schedule::Constant,
                Codes::Ste => Schedule::Cosine,
            },
            warm_up: 0,
            scale_rate: if scale_rate > 0.0 { scale_rate } else { 1.0 },
            weight_rate: 1.0,
            bounded: false,
            clip: None,
        };
        let mut optimizer = Optimizer::new(how, steps)?;
        let key = mix(seed ^ 0x626c_6f63_6b00_0000, index);
        for step in 0..steps {
            check(self.cancel)?;
            let key = mix(key, step);
            let some: Vec<usize> = (0..batch as u64).map(|i| (mix(key, i) % x.len() as u64) as usize).collect();
            let at = At { some: &some, step, key, before, energy };
            let gradients = self.gradients(part, (&learned, &loose), (x, quantized, target), &at)?;
            let rate = optimizer.next_rate();
            optimizer.step(rate, &mut loose, gradients)?;
            tick(step + 1);
        }
        let variables = loose.all_numbers()?;
        for (l, numbers) in learned.iter().zip(learned::numbers(&learned, &variables, true)) {
            self.put(l.parameter, numbers);
        }
        let after = self.error(part, x, quantized, target)?;
        let kept = after <= before;
        if !kept {
            self.restore(&old)?;
        }
        let to = self.graph.value(part.to).name.clone();
        Ok(BlockReport { to, products: part.products, before, after, kept })
    }
}
