//! Layer by layer: each product is rounded with a look at what its inputs are in the float network and in the network as far as it is quantized.
//!
//! The quantized inputs come from the integer program itself (`exec::lower`), so that a layer makes up for exactly the errors that it will meet.
//! Samples are run again for each layer: memory is that of the model, of one batch and of the moments of one layer, whatever the number of
//! samples.
use super::{
    moments::{Known, Moments, Reads},
    ptq::{Product, Quantized, Start},
    recipe::Recipe,
    rounder::{from_rows, to_rows},
    stats::Stats,
};
use crate::{
    data::mix,
    error::{At, Error, Result},
    exec::{
        float, int,
        lower::{self, Profile},
        sim,
    },
    ir::{Graph, NodeId, Op, QParams, Tensor, ValueId, op::Binary},
};
use nnq_kernels::round::{dequantize_f32, quantize_f32};
use rayon::prelude::*;
use std::sync::Arc;

/// Positions that are looked at for each input of a row, and at least for each layer.
const POSITIONS: (usize, usize) = (64, 1 << 16);

/// Added to the diagonal of the moments, in units of its mean (GPTQ's default).
const DAMPING: f64 = 0.01;

/// Samples, as often as they are wanted: gives every batch to the function.
pub type Feed<'a> = dyn FnMut(&mut dyn FnMut(Tensor) -> Result<()>) -> Result<()> + 'a;

/// How to go about it.
pub struct How<'a> {
    /// 0: one per core.
    pub threads: usize,
    /// Number of samples that the feed gives.
    pub samples: usize,
    /// The samples.
    pub feed: &'a mut Feed<'a>,
    /// Hears how many layers are done, and of how many; its error ends the work.
    pub tick: &'a mut dyn FnMut(usize, usize) -> Result<()>,
}

/// Quantizes `graph` (simplified, float) with the statistics of its values and its samples.
///
/// # Errors
/// As [`super::ptq::quantize`], and what running the samples answers.
pub fn quantize(graph: &Arc<Graph>, statistics: &Stats, recipe: &Recipe, how: &mut How) -> Result<Quantized> {
    let mut start = Start::new(graph, statistics, recipe)?;
    let products = start.products.clone();
    for (i, &id) in products.iter().enumerate() {
        (how.tick)(i, products.len())?;
        let product = start.product(id)?;
        let node = graph.node(id);
        if !(recipe.compensate || recipe.correct_bias || product.recipe.weight.rounding.needs_data()) {
            start.round(&product, &product.real, None)?;
            continue;
        }
        let place = || format!("node '{}'", node.name);
        let correct_bias = recipe.correct_bias && !matches!(node.op, Op::MatMul);
        let target = Target::of(graph, id, &products[i..]).at(place)?;
        let (known, positions) =
            look(graph, start.graph(), &product, &target, correct_bias, recipe.seed, how).at(place)?;
        let depth = known.curvature.depth;
        if positions < depth as u64 {
            start.message(format!(
                "'{}': {positions} positions of the samples for {depth} weights of a row: rounding sees too little; give more samples",
                node.name
            ));
        }
        let rows = to_rows(&product.real, &product.shape, product.axis);
        let rows = if recipe.compensate { known.compensated(&rows).at(place)? } else { rows };
        let target = from_rows(rows, &product.shape, product.axis);
        start.round(&product, &target, Some(&known))?;
    }
    (how.tick)(products.len(), products.len())?;
    Ok(start.finish())
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
    /// `open`: products that are still to be rounded, this one among them.
    fn of(graph: &Graph, id: NodeId, open: &[NodeId]) -> Result<Self> {
        let node = graph.node(id);
        let own = node.output(0).ok_or_else(|| Error::internal("a product without output"))?;
        let bias = match node.input(2).filter(|_| !matches!(node.op, Op::MatMul)) {
            Some(b) => graph.real_constant(b)?.to_f32s(),
            None => Vec::new(),
        };
        let plain = Self { value: own, other: None, bias };
        let readers = &graph.consumers()[own.0 as usize];
        let (&[(reader, place)], false) = (&readers[..], graph.outputs.contains(&own)) else { return Ok(plain) };
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

/// The moments of a product's inputs and outputs, and the positions that they are of.
fn look(
    float: &Arc<Graph>,
    quantized: &Graph,
    product: &Product,
    target: &Target,
    centred: bool,
    seed: u64,
    how: &mut How,
) -> Result<(Known, u64)> {
    let reads = match &float.node(product.id).op {
        Op::Conv(a) => Reads::Conv(a, &product.shape),
        _ => Reads::Rows,
    };
    let (groups, depth) = reads.sizes(&product.shape, product.axis);
    let most = (POSITIONS.0 * depth).max(POSITIONS.1).div_ceil(how.samples.max(1));
    let mut before = Prefix::float(float, target.value, how.threads)?;
    let mut behind = Prefix::quantized(quantized, product.x, how.threads)?;
    let mut beside = target.other.map(|(v, _)| Prefix::quantized(quantized, v, how.threads)).transpose()?;
    let mut moments = Moments::new(groups, depth, product.shape[product.axis]);
    let mut batch = 0;
    (how.feed)(&mut |input| {
        let draw = mix(seed, batch);
        batch += 1;
        let (inputs, count) = reads.inputs(&behind.run(&input)?, most, draw)?;
        let (mut outputs, _) = reads.outputs(&before.run(&input)?, most, draw)?;
        if let (Some(beside), Some((_, negate))) = (&mut beside, target.other) {
            let (other, _) = reads.outputs(&beside.run(&input)?, most, draw)?;
            let sign = if negate { 1.0 } else { -1.0 };
            outputs.iter_mut().zip(other).for_each(|(t, other)| *t += sign * other);
        }
        let one = target.bias.len() == 1;
        for (row, line) in outputs.chunks_mut(count.max(1)).enumerate() {
            let bias = target.bias.get(if one { 0 } else { row }).copied().unwrap_or(0.0);
            line.iter_mut().for_each(|t| *t -= bias);
        }
        moments.add(&inputs, &outputs, count)
    })?;
    let positions = moments.count();
    Ok((moments.finish(centred, DAMPING)?, positions))
}

/// A network up to one value.
enum Prefix {
    /// The value is the network's input, on this grid.
    Input(Option<Arc<QParams>>),
    Float(Box<float::Session>),
    Int(Box<int::Session>),
    Sim(Box<sim::Session>),
}

impl Prefix {
    fn float(graph: &Graph, v: ValueId, threads: usize) -> Result<Self> {
        if graph.inputs.contains(&v) {
            return Ok(Self::Input(None));
        }
        let session = float::Session::new(Arc::new(until(graph, v)), &float::Options { threads })?;
        Ok(Self::Float(Box::new(session)))
    }
    fn quantized(graph: &Graph, v: ValueId, threads: usize) -> Result<Self> {
        if graph.inputs.contains(&v) {
            return Ok(Self::Input(graph.value(v).quant.clone()));
        }
        let program = Arc::new(lower::lower(&until(graph, v), Profile::default())?);
        if !program.fits_bytes() {
            return Ok(Self::Sim(Box::new(sim::Session::new(program, threads)?)));
        }
        let options = int::Options { threads, ..int::Options::default() };
        Ok(Self::Int(Box::new(int::Session::new(program, &options)?)))
    }
    fn run(&mut self, input: &Tensor) -> Result<Tensor> {
        let mut all = match self {
            Self::Input(None) => vec![input.clone()],
            Self::Input(Some(q)) => {
                let (s, z) = q.as_tensor().ok_or_else(|| Error::internal("an input with several scales"))?;
                let (lo, hi) = (q.qtype.min(), q.qtype.max());
                let round = |&x: &f32| dequantize_f32(quantize_f32(x, s, z, lo, hi), s, z);
                let rounded: Vec<f32> = input.as_slice::<f32>()?.par_iter().map(round).collect();
                vec![Tensor::of(input.shape(), rounded)]
            }
            Self::Float(session) => session.run(vec![input.clone()])?,
            Self::Int(session) => session.run(vec![input.clone()])?,
            Self::Sim(session) => session.run(vec![input.clone()])?,
        };
        all.pop().ok_or_else(|| Error::internal("a network without output"))
    }
}

/// The part of a graph that computes one value.
fn until(graph: &Graph, v: ValueId) -> Graph {
    let mut part = graph.clone();
    part.outputs = vec![v];
    part.compact();
    part
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
