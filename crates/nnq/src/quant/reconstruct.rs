//! Layer by layer: each product is rounded with a look at what its inputs are in the float network and in the network as far as it is quantized.
//!
//! The quantized inputs come from the integer program itself (`exec::lower`), so that a layer makes up for exactly the errors that it will meet.
//! Samples are run again for each layer, from where `stage.rs` keeps them: memory is that of the model, of one batch and of the moments of one
//! layer, whatever the number of samples.
use super::{
    moments::{Moments, Reads, damping},
    ptq::{Product, Quantized, Rounded, Start},
    recipe::{BiasCorrection, Recipe},
    resume::Log,
    rounder::{from_rows, to_rows},
    stage::{Stage, release},
    stats::Stats,
};
use crate::{
    data::mix,
    error::{At, Error, Result},
    ir::{Graph, NodeId, Op, QParams, ValueId, op::Binary},
};
use std::sync::Arc;

pub use super::{ptq::Learned, stage::Inputs};

/// Positions that are looked at for each input of a row, and at least for each layer.
const POSITIONS: (usize, usize) = (64, 1 << 16);

/// Added to the diagonal of the moments, in units of its mean (GPTQ's default); where weights make up for errors, at least so much ([`damping`]).
const DAMPING: f64 = 0.01;

/// How to go about it.
pub struct How<'a> {
    /// 0: one per core.
    pub threads: usize,
    /// The samples.
    pub inputs: Inputs,
    /// The most bytes of samples that are kept in a temporary file at a value inside the network; 0: none, every run begins at the input.
    pub buffer: u64,
    /// Layers that an earlier run has done, and where to note those of this one.
    pub log: Option<Log>,
    /// Asked often; its error ends the work.
    pub check: Box<dyn Fn() -> Result<()> + 'a>,
}

/// Quantizes `graph` (simplified, float) with the statistics of its values and its samples. `tick` hears how many layers are done, and of how many.
///
/// # Errors
/// As [`super::ptq::quantize`], and what running the samples answers.
pub fn quantize(
    graph: &Arc<Graph>,
    statistics: &Stats,
    recipe: &Recipe,
    how: How,
    tick: &mut dyn FnMut(usize, usize),
) -> Result<Quantized> {
    let mut rounding = Layers::new(graph, statistics, recipe, how)?;
    let count = rounding.products().len();
    for i in 0..count {
        tick(i, count);
        rounding.round_next()?;
    }
    tick(count, count);
    rounding.finish()
}

/// A network whose products are rounded one after the other; in between others may change what was rounded.
pub struct Layers<'a> {
    graph: Arc<Graph>,
    start: Start,
    recipe: Recipe,
    stage: Stage,
    log: Option<Log>,
    check: Box<dyn Fn() -> Result<()> + 'a>,
    products: Vec<NodeId>,
    done: usize,
}

impl<'a> Layers<'a> {
    /// Nothing is rounded yet.
    ///
    /// # Errors
    /// As [`quantize`].
    pub fn new(graph: &Arc<Graph>, statistics: &Stats, recipe: &Recipe, how: How<'a>) -> Result<Self> {
        let mut start = Start::new(graph, statistics, recipe)?;
        let graph = start.float().clone();
        let products = start.products.clone();
        let How { threads, inputs, buffer, log, check } = how;
        if let Some(done) = log.as_ref().map(Log::len).filter(|&n| n > 0) {
            start.message(format!("went on after {done} layers that an earlier run had done"));
        }
        let stage = Stage::new(&graph, inputs, buffer, threads)?;
        Ok(Self { graph, start, recipe: recipe.clone(), stage, log, check, products, done: 0 })
    }
    /// All products, in the order in which they are rounded.
    pub fn products(&self) -> &[NodeId] {
        &self.products
    }
    /// The network as far as it is quantized.
    pub fn graph(&self) -> &Graph {
        self.start.graph()
    }
    /// From now on samples are kept at no other values than these: what is before others may still change.
    pub fn keep_at(&mut self, values: &[ValueId]) {
        self.stage.keep_at(values);
    }
    /// Rounds the next product; answers it as it was before.
    ///
    /// # Errors
    /// As [`quantize`]; a defect when none is left.
    pub fn round_next(&mut self) -> Result<Product> {
        (self.check)()?;
        let open = self.products.get(self.done..).unwrap_or_default();
        let &id = open.first().ok_or_else(|| Error::internal("no product is left to be rounded"))?;
        let product = self.start.product(id)?;
        let node = self.graph.node(id);
        if let Some(done) = self.log.as_mut().and_then(|log| log.next(&node.name)) {
            self.start.put(&product, done).at(|| format!("node '{}'", node.name))?;
            self.done += 1;
            return Ok(product);
        }
        let recipe = &self.recipe;
        let empirical = recipe.correct_bias == BiasCorrection::Empirical || recipe.reestimate;
        let rounded = if recipe.compensate || empirical || product.recipe.weight.rounding.needs_data() {
            if !self.stage.advance(&self.graph, self.start.graph(), id, &self.check)? {
                let folder = std::env::temp_dir();
                self.start
                    .message(format!("no room in {} to keep samples inside the network: slower", folder.display()));
            }
            layer(&self.graph, &self.start, &product, open, recipe, &self.stage, &self.check)
                .at(|| format!("node '{}'", node.name))?
        } else {
            self.start.round(&product, &product.real, None)?
        };
        if let Some(log) = &mut self.log {
            log.push(&rounded)?;
        }
        self.start.put(&product, rounded)?;
        self.done += 1;
        Ok(product)
    }
    /// Takes the next product as it stands in `learned`, without rounding it by samples.
    ///
    /// # Errors
    /// As [`Layers::learned`].
    pub fn given(&mut self, learned: Learned) -> Result<()> {
        let &id = self.products.get(self.done).ok_or_else(|| Error::internal("no product is left to be rounded"))?;
        let product = self.start.product(id)?;
        self.start.relearn(product, learned)?;
        self.done += 1;
        Ok(())
    }
    /// Gives values, which share a grid, another scale. What reads them is to be [`Layers::learned`] again.
    ///
    /// # Errors
    /// Names a value that has no grid, or a scale that is not finite and positive.
    pub fn regrid(&mut self, values: &[ValueId], params: &Arc<QParams>) -> Result<()> {
        self.start.regrid(values, params)
    }
    /// Puts what was learned in the place of what rounding a product came to.
    ///
    /// # Errors
    /// Names the node: numbers that are NaN or infinite, scales that do not fit.
    pub fn learned(&mut self, product: Product, learned: Learned) -> Result<()> {
        self.start.relearn(product, learned)
    }
    /// The network, when all is rounded.
    ///
    /// # Errors
    /// Names the node: numbers that are NaN or infinite.
    pub fn finish(self) -> Result<Quantized> {
        self.start.finish()
    }
}

/// One product, rounded for the inputs that it has in the quantized network. `open`: products that are still to be rounded, this one first.
fn layer(
    graph: &Graph,
    start: &Start,
    product: &Product,
    open: &[NodeId],
    recipe: &Recipe,
    stage: &Stage,
    check: &dyn Fn() -> Result<()>,
) -> Result<Rounded> {
    let node = graph.node(product.id);
    let free = recipe.correct_bias == BiasCorrection::Empirical || recipe.reestimate;
    let correct_bias = free && !matches!(node.op, Op::MatMul);
    // The deviation of a layer's own output is not that of what a sum lacks.
    let target = Target::of(graph, product.id, open, !recipe.reestimate)?;
    let rows = to_rows(&product.real, &product.shape, product.axis);
    let (all, damping) = if recipe.compensate {
        let halves = look(graph, start.graph(), product, &target, recipe.seed, stage, check)?;
        (halves[0].and(&halves[1]), damping(halves, &rows, (correct_bias, DAMPING), check)?)
    } else {
        let [all] = look(graph, start.graph(), product, &target, recipe.seed, stage, check)?;
        (all, DAMPING)
    };
    let positions = all.count();
    let known = all.finish(correct_bias, damping)?;
    let depth = known.curvature.depth;
    let few = (positions < depth as u64).then(|| {
        format!(
            "'{}': {positions} positions of the samples for {depth} weights of a row: rounding sees too little; give more samples",
            node.name
        )
    });
    let rows = if recipe.compensate { known.compensated(&rows) } else { rows };
    let target = from_rows(rows, &product.shape, product.axis);
    let mut rounded = start.round(product, &target, Some(&known))?;
    rounded.messages.extend(few);
    Ok(rounded)
}

/// What a product should give: its output in the float network; or, where the output goes into a sum only, what the sum is there, less the other
/// operand as the quantized network has it, so that the layer makes up for the errors of the shortcut too.
struct Target {
    /// What is read of the float network.
    value: ValueId,
    /// What is taken off, from the quantized network, and whether the product is what is subtracted.
    other: Option<(ValueId, bool)>,
    /// The layer's bias, which is looked at apart.
    bias: Vec<f32>,
}

impl Target {
    /// `open`: products that are still to be rounded, this one among them; `sums`: whether what a sum should be is looked at.
    fn of(graph: &Graph, id: NodeId, open: &[NodeId], sums: bool) -> Result<Self> {
        let node = graph.node(id);
        let own = node.output(0).ok_or_else(|| Error::internal("a product without output"))?;
        let bias = match node.input(2).filter(|_| !matches!(node.op, Op::MatMul)) {
            Some(b) => graph.real_constant(b)?.to_f32s(),
            None => Vec::new(),
        };
        let plain = Self { value: own, other: None, bias };
        let readers = &graph.consumers()[own.0 as usize];
        let (&[(reader, place)], false) = (&readers[..], !sums || graph.outputs.contains(&own)) else {
            return Ok(plain);
        };
        let sum = graph.node(reader);
        let negate = match sum.op {
            Op::Binary(Binary::Add) => false,
            Op::Binary(Binary::Sub) => true,
            _ => return Ok(plain),
        };
        let (Some(other), Some(value)) = (sum.input(1 - place), sum.output(0)) else { return Ok(plain) };
        let shape = |v: ValueId| graph.value(v).shape.clone();
        let ready = graph.value(other).constant.is_none() && !depends(graph, other, open);
        // x - product: the product should give x less the difference.
        let turned = negate && place == 1;
        if !ready || turned || shape(other) != shape(own) || shape(own).is_none() {
            return Ok(plain);
        }
        Ok(Self { value, other: Some((other, negate)), ..plain })
    }
}

/// The moments of a product's inputs and outputs; in `PARTS` parts, one batch for each in turn.
fn look<const PARTS: usize>(
    float: &Graph,
    quantized: &Graph,
    product: &Product,
    target: &Target,
    seed: u64,
    stage: &Stage,
    check: &dyn Fn() -> Result<()>,
) -> Result<[Moments; PARTS]> {
    let reads = match &float.node(product.id).op {
        Op::Conv(a) => Reads::Conv(a, &product.shape),
        _ => Reads::Rows,
    };
    let (groups, depth) = reads.sizes(&product.shape, product.axis);
    let most = (POSITIONS.0 * depth).max(POSITIONS.1).div_ceil(stage.count().max(1));
    let mut before = stage.float(float, target.value)?;
    let mut behind = stage.quantized(quantized, product.x)?;
    let mut beside = target.other.map(|(v, _)| stage.quantized(quantized, v)).transpose()?;
    let mut parts = [(); PARTS].map(|()| Moments::new(groups, depth, product.shape[product.axis]));
    for batch in 0..stage.batches() {
        check()?;
        let draw = mix(seed, batch as u64);
        let [x, y] = stage.inputs(batch)?;
        let (inputs, count) = reads.inputs(&behind.run(&y)?, most, draw)?;
        let (mut outputs, _) = reads.outputs(&before.run(&x)?, most, draw)?;
        if let (Some(beside), Some((_, negate))) = (&mut beside, target.other) {
            let (other, _) = reads.outputs(&beside.run(&y)?, most, draw)?;
            let sign = if negate { 1.0 } else { -1.0 };
            outputs.iter_mut().zip(other).for_each(|(t, other)| *t += sign * other);
        }
        let one = target.bias.len() == 1;
        for (row, line) in outputs.chunks_mut(count.max(1)).enumerate() {
            let bias = target.bias.get(if one { 0 } else { row }).copied().unwrap_or(0.0);
            line.iter_mut().for_each(|t| *t -= bias);
        }
        parts[batch % PARTS].add(&inputs, &outputs, count)?;
        // Memory does not grow with the number of samples.
        release(&x);
        release(&y);
    }
    Ok(parts)
}

/// Whether `v` is computed from the result of one of these nodes.
fn depends(graph: &Graph, v: ValueId, on: &[NodeId]) -> bool {
    let producers = graph.producers();
    let (mut stack, mut seen) = (vec![v], vec![false; graph.value_count()]);
    while let Some(v) = stack.pop() {
        if std::mem::replace(&mut seen[v.0 as usize], true) {
            continue;
        }
        if let Some(node) = producers[v.0 as usize] {
            if on.contains(&node) {
                return true;
            }
            stack.extend(graph.node(node).inputs.iter().flatten());
        }
    }
    false
}
