//! One part of a network, learned.
use super::{BATCH, Block, Settings, cache::Cache, cache::Filling, rounding::Rounding};
use crate::{
    backend::{self, Device, Kernels, Var},
    fake::Grid,
    net::{Forward, Normalize, Soft},
    optimizer::{Method, Optimizer, Schedule, Steps},
    params::{Parameter, Parameters, Role},
    precision::Precision,
    qat::Plan,
};
use burn::backend::tensor::FloatTensor;
use nnq::{
    Error, Result,
    data::mix,
    ir::{Graph, ValueId},
    quantize::check,
};
use serde::Serialize;
use std::{collections::BTreeSet, sync::atomic::AtomicBool};

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
    pub plan: &'a Plan,
    /// The float network's parameters.
    pub real: Parameters<B>,
    /// The quantized network's: weights of parts that are done lie on their grids.
    pub parameters: Parameters<B>,
    pub device: &'a Device<B>,
    pub settings: Settings,
    pub cancel: Option<&'a AtomicBool>,
}

/// Something that is learned.
pub(super) struct Learned {
    /// Its place among the network's parameters.
    pub parameter: usize,
    /// Of weights: their grid and how they round.
    pub rounding: Option<(usize, Rounding)>,
}

impl<B: Kernels> Work<'_, B> {
    /// Every parameter as numbers.
    pub fn numbers(&self) -> Result<Vec<Vec<f32>>> {
        self.parameters.values.iter().map(|x| backend::numbers::<B>(x.clone())).collect()
    }
    /// The reverse.
    pub fn restore(&mut self, values: &[Vec<f32>]) -> Result<()> {
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
        let (mut noise, mut signal) = (0.0, 0.0);
        for i in 0..target.len() {
            for (y, z) in made.row(i).iter().zip(target.row(i)) {
                noise += f64::from(y - z).powi(2);
                signal += f64::from(*z).powi(2);
            }
        }
        Ok(if signal > 0.0 { noise / signal } else { 0.0 })
    }
    /// What of a part is learned, with the variables to begin with.
    fn learned(&self, part: &Block, first: bool) -> Result<(Vec<Learned>, Parameters<B>)> {
        let made: BTreeSet<ValueId> =
            part.nodes.iter().flat_map(|&id| self.graph.node(id).outputs.iter().flatten().copied()).collect();
        let (mut learned, mut loose) = (Vec::new(), Vec::new());
        let mut add = |parameter: usize, role: Role, rounding, numbers: FloatTensor<B>, shape: Vec<usize>| {
            let Parameter { name, of, .. } = self.parameters.list[parameter].clone();
            learned.push(Learned { parameter, rounding });
            loose.push((Parameter { name, role, of, shape }, numbers));
        };
        for &id in &part.nodes {
            let Some(planned) = self.plan.products.get(&id) else { continue };
            let node = self.graph.node(id);
            let find = |i: usize| node.input(i).and_then(|v| self.parameters.of_value(v));
            let weight = find(1).ok_or_else(|| Error::internal("weights that are no parameter"))?;
            let shape = self.parameters.list[weight].shape.clone();
            let numbers = backend::numbers::<B>(self.parameters.values[weight].clone())?;
            let params = &self.plan.grids[planned.weight].params;
            let grid = Grid::new(params, &shape, 1)?;
            let (rounding, variables) = Rounding::new(&numbers, &params.scale, &grid);
            let variables = backend::tensor::<B>(variables, &shape, self.device);
            add(weight, Role::Weight, Some((planned.weight, rounding)), variables, shape);
            if let Some(bias) = find(2) {
                let (values, shape) = (&self.parameters.values[bias], &self.parameters.list[bias].shape);
                add(bias, Role::Other, None, values.clone(), shape.clone());
            }
        }
        for (g, grid) in self.plan.grids.iter().enumerate() {
            // A grid that another part rounds to, too, stays.
            let own = |v: &ValueId| made.contains(v) || first && *v == part.from;
            if self.settings.scale_rate > 0.0
                && !grid.values.is_empty()
                && grid.values.iter().all(own)
                && let Some(p) = self.parameters.of_grid(g)
            {
                let shape = self.parameters.list[p].shape.clone();
                add(p, Role::Scale, None, self.parameters.values[p].clone(), shape);
            }
        }
        Ok((learned, Parameters::loose(loose.into_iter())))
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
        let old = self.numbers()?;
        let (learned, mut loose) = self.learned(part, quantized.is_none())?;
        let Settings { steps, batch, rate, scale_rate, seed, .. } = self.settings;
        let how = Steps {
            method: Method::AdamW,
            rate,
            decay: 0.0,
            schedule: Schedule::Constant,
            warm_up: 0,
            scale_rate: if scale_rate > 0.0 { scale_rate } else { 1.0 },
            bounded: false,
            clip: None,
        };
        let mut optimizer = Optimizer::new(how, steps)?;
        let key = mix(seed ^ 0x626c_6f63_6b00_0000, index);
        for step in 0..steps {
            check(self.cancel)?;
            let key = mix(key, step);
            let some: Vec<usize> = (0..batch as u64).map(|i| (mix(key, i) % x.len() as u64) as usize).collect();
            let gradients = self.gradients(part, (&learned, &loose), (x, quantized, target), &some, step, key)?;
            let rate = optimizer.next_rate();
            optimizer.step(rate, &mut loose, gradients)?;
            tick(step + 1);
        }
        for (i, l) in learned.iter().enumerate() {
            let numbers = backend::numbers::<B>(loose.values[i].clone())?;
            let numbers = l.rounding.as_ref().map_or_else(|| numbers.clone(), |(_, r)| r.hard(&numbers));
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
