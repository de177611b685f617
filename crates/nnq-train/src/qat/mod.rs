//! Which values are rounded in training, on which grids, and how what was trained goes back into the graph.
pub mod normal;
mod rules;
mod stages;

pub use rules::{Activations, DOREFA_BITS, Normalization, Rules, Weights};
pub use stages::{BitsSchedule, convert};

use crate::{
    backend::{self, Kernels},
    fake::{Estimator, Grid, Levels, ScaleRule},
    params::{Of, Parameters},
};
use nnq::{
    Error, Result,
    ir::{Graph, NodeId, QParams, ValueId},
    quant::{
        ptq,
        recipe::{Recipe, WeightGranularity},
        stats::Stats,
    },
};
use normal::{Folded, Normal};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A grid whose scales are learned.
#[derive(Clone, Debug)]
pub struct PlannedGrid {
    /// Of what.
    pub name: String,
    /// As calibration found it.
    pub fitted: QParams,
    /// As it is trained: the same, where the rules do not say otherwise.
    pub params: QParams,
    /// How gradients pass its values.
    pub estimator: Estimator,
    /// How its scales learn.
    pub rule: ScaleRule,
    /// Of weights: levels that go before the scale that is learned.
    pub levels: Option<Levels>,
    /// The values on it; none for weights.
    pub values: Vec<ValueId>,
}

/// A product that will compute in integers.
#[derive(Clone, Copy, Debug)]
pub struct PlannedProduct {
    /// The grid of its weights.
    pub weight: usize,
    /// The grid of its input, where that is known.
    pub input: Option<usize>,
}

/// What a network in training rounds. The default rounds nothing.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// All grids: those of activations, then those of weights.
    pub grids: Vec<PlannedGrid>,
    /// The grid of each value that is held as codes.
    pub of_value: HashMap<ValueId, usize>,
    /// The products with codes as weights.
    pub products: HashMap<NodeId, PlannedProduct>,
    /// Those of them whose channels are normalised.
    pub normal: BTreeMap<NodeId, Normal>,
    /// How its grids were chosen.
    pub rules: Rules,
    /// The share of the training that is done.
    pub progress: f32,
}

impl Plan {
    fn push(&mut self, name: String, fitted: &QParams, choice: rules::Choice, found: &mut usize) {
        let rules::Choice { params, rule, levels, special } = choice;
        *found += usize::from(special);
        let (fitted, estimator) = (fitted.clone(), self.rules.estimator);
        self.grids.push(PlannedGrid { name, fitted, params, estimator, rule, levels, values: Vec::new() });
    }
}

/// A network that is to be trained with rounding.
pub struct Quantizing {
    start: ptq::Start,
    /// Where it rounds.
    pub plan: Plan,
}

impl Quantizing {
    /// Places quantization as [`ptq::quantize`] does, for the same recipe.
    ///
    /// # Errors
    /// As [`ptq::Start::new`]; and when the recipe has choices that training makes itself.
    pub fn new(graph: &Arc<Graph>, stats: &Stats, recipe: &Recipe, rules: Rules) -> Result<Self> {
        if recipe.layer_by_layer() {
            // Who wants it does that before, and begins with what came of it.
            return Err(Error::internal("rounding layer by layer while training"));
        }
        if recipe.is_dynamic() {
            return Err(
                Error::usage("training with grids that are found at run time").cure("leave out the dynamic mode")
            );
        }
        let mut start = ptq::Start::new(graph, stats, recipe)?;
        let mut plan = Plan { rules, ..Plan::default() };
        let mut found = [0; 2];
        // Values that share a grid share its parameters.
        let mut seen: BTreeMap<*const QParams, usize> = BTreeMap::new();
        for (v, value) in start.graph().values() {
            let Some(params) = &value.quant else { continue };
            let grid = *seen.entry(Arc::as_ptr(params)).or_insert_with(|| {
                plan.push(value.name.clone(), params, rules.activations.choose(params), &mut found[0]);
                plan.grids.len() - 1
            });
            plan.grids[grid].values.push(v);
            plan.of_value.insert(v, grid);
        }
        for id in &start.products {
            let product = start.product(*id)?;
            let params = start.fit(&product)?;
            if let WeightGranularity::Block(_) | WeightGranularity::Group(_) = product.recipe.weight.granularity {
                return Err(Error::unsupported("training with scales for blocks of weights or groups of channels")
                    .cure("use --granularity tensor or channel"));
            }
            let name = start.graph().value(product.w).name.clone();
            let input = plan.of_value.get(&product.x).copied();
            plan.products.insert(*id, PlannedProduct { weight: plan.grids.len(), input });
            plan.push(name, &params, rules.weights.choose(&params), &mut found[1]);
        }
        rules.check(found)?;
        let activations = plan.grids.len() - plan.products.len();
        for note in rules.notes(found, [activations, plan.products.len()]) {
            start.message(note);
        }
        let mut all = Self { start, plan };
        if let Normalization::Live { .. } = rules.normalization {
            let left = all.normalize()?;
            if left > 0 {
                all.start.message(format!("{left} convolutions are trained without normalisation: they have no bias or constants that others read, too"));
            }
        }
        Ok(all)
    }
    /// The float network with the nodes that the quantized one has: what is trained.
    pub fn graph(&self) -> &Arc<Graph> {
        self.start.float()
    }
    /// The quantized network with what was trained.
    ///
    /// # Errors
    /// Names a weight or scale that is no number.
    pub fn finish<B: Kernels>(mut self, parameters: &Parameters<B>) -> Result<ptq::Quantized> {
        let mut scales: HashMap<usize, Vec<f32>> = HashMap::new();
        let folded = self.plan.normal.keys().map(|&id| Ok((id, normal::folded(id, parameters)?)));
        let folded: HashMap<NodeId, Folded> = folded.collect::<Result<_>>()?;
        let biases = self.plan.normal.iter().map(|(id, normal)| (normal.constants[1], *id));
        let biases: HashMap<ValueId, NodeId> = biases.collect();
        for (parameter, numbers) in parameters.list.iter().zip(&parameters.values) {
            let mut numbers = backend::numbers::<B>(numbers.clone())?;
            if let Some(x) = numbers.iter().find(|x| !x.is_finite()) {
                return Err(
                    Error::value(format!("'{}' became {x}", parameter.name)).cure("train with a smaller learning rate")
                );
            }
            match parameter.of {
                Of::Constant(v) => {
                    if let Some(folded) = biases.get(&v).and_then(|id| folded.get(id)) {
                        numbers.iter_mut().zip(&folded.shifts).for_each(|(b, shift)| *b += shift);
                    }
                    self.start.retrain(v, numbers)?;
                }
                Of::Grid(g) => {
                    scales.insert(g, numbers);
                }
                Of::Gain(_) => {}
            }
        }
        let trained = |g: usize| -> Result<QParams> {
            let grid = self.plan.grids.get(g).ok_or_else(|| Error::internal("no such grid"))?;
            let scale = scales.get(&g).cloned().ok_or_else(|| Error::internal("a grid without scales"))?;
            Ok(QParams { scale, ..grid.params.clone() })
        };
        for g in 0..self.plan.grids.len() {
            if !self.plan.grids[g].values.is_empty() {
                self.start.regrid(&self.plan.grids[g].values, &Arc::new(trained(g)?))?;
            }
        }
        for id in self.start.products.clone() {
            let mut product = self.start.product(id)?;
            let planned = self.plan.products.get(&id).ok_or_else(|| Error::internal("a product without a plan"))?;
            let mut params = trained(planned.weight)?;
            if let Some(levels) = self.plan.grids[planned.weight].levels {
                let made = levels.apply(&product.real, &Grid::new(&params, &product.shape, 1)?);
                (product.real, params.scale) = (made.values, made.scales);
            }
            if let Some(folded) = folded.get(&id) {
                (product.real, params) = folded.weights(&product.real, &product.shape, params)?;
            }
            let rounded = self.start.round_on(&product, params)?;
            self.start.put(&product, rounded)?;
        }
        self.start.finish()
    }
}
