//! A graph of nnq, run forward on burn so that it can be differentiated.
//!
//! The walk keeps to the graph: a value is computed by its node, and where the plan says that the lowering will hold it as codes, a fake
//! quantizer follows. Weights and biases of products are rounded as they are read. So the numbers are those of the integer engine up to the
//! order of binary32 sums.
mod ahead;
mod arrange;
mod elementwise;
mod normalize;
mod pool;
mod product;
mod recurrent;
mod shape;
mod soft;
#[cfg(test)]
mod tests;

pub use soft::{Drop, Soft};

use ahead::Ahead;

use crate::{
    backend::{self, Device, Kernels, Var},
    fake::{self, Grid},
    low::{self, Gradients},
    params::{Parameters, Running},
    precision::Precision,
    qat::{Plan, PlannedGrid},
};
use burn::backend::{Autodiff, ops::FloatTensorOps as _, tensor::FloatTensor};
use nnq::{
    Error, Result,
    error::At as _,
    ir::{Graph, Node, NodeId, Op, ValueId},
};
use std::collections::HashMap;

/// How a network is run forward.
pub struct Forward<'a, B: Kernels> {
    /// The network.
    pub graph: &'a Graph,
    /// What is rounded.
    pub plan: &'a Plan,
    /// Which constants are parameters.
    pub parameters: &'a Parameters<B>,
    /// What channels are normalised by.
    pub normalize: Normalize,
    /// How gradients of products are rounded.
    pub gradients: Option<Gradients>,
    /// What products are computed of.
    pub precision: Precision,
    /// What is rounded otherwise, while it is reconstructed.
    pub soft: Option<&'a Soft<B>>,
    /// Where to compute.
    pub device: &'a Device<B>,
}

/// What a run answers.
pub struct Run<B: Kernels> {
    /// The graph's first output.
    pub output: Var<B>,
    /// Means and variances (of all samples, unbiased) of the batch where they were looked at.
    pub statistics: Vec<(Running, FloatTensor<B>)>,
    /// What was asked for.
    pub seen: Vec<Var<B>>,
}

/// What channels are normalised by, in batch normalisations and where [`Plan::normal`] puts one behind a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// Running statistics: as the network will be written.
    Frozen,
    /// The batch's own.
    Live,
    /// As frozen, but what products of the plan answer stays as it is, and is looked at.
    Watched,
}

/// The values of a run that are still needed.
struct Values<'a, B: Kernels> {
    forward: &'a Forward<'a, B>,
    leaves: &'a [Var<B>],
    at: Vec<Option<Var<B>>>,
    statistics: Vec<(Running, FloatTensor<B>)>,
    samples: usize,
    /// What products are finished with at once.
    ahead: HashMap<NodeId, Ahead>,
}

impl<B: Kernels> Forward<'_, B> {
    /// Runs a batch. `leaves` are those of the parameters.
    ///
    /// # Errors
    /// Names the node that has no gradient, or whose shapes do not fit.
    pub fn run(&self, input: FloatTensor<B>, leaves: &[Var<B>]) -> Result<Run<B>> {
        self.run_seeing(input, leaves, &[])
    }
    /// Runs a batch, and keeps some values.
    ///
    /// # Errors
    /// As [`Forward::run`].
    pub fn run_seeing(&self, input: FloatTensor<B>, leaves: &[Var<B>], points: &[ValueId]) -> Result<Run<B>> {
        let (&[x], Some(&y)) = (&self.graph.inputs[..], self.graph.outputs.first()) else {
            return Err(Error::unsupported(format!("training a network of {} inputs", self.graph.inputs.len()))
                .cure("train networks of one input"));
        };
        let input = backend::constant::<B>(input);
        let samples = backend::dims::<B>(&input).first().copied().unwrap_or(1);
        let mut readers: Vec<usize> = self.graph.consumers().iter().map(Vec::len).collect();
        for v in points.iter().chain([&y]) {
            readers[v.0 as usize] += 1;
        }
        let at = vec![None; self.graph.value_count()];
        let seen: Vec<ValueId> = points.iter().copied().chain([y]).collect();
        let ahead = self.ahead(&seen);
        let mut values = Values { forward: self, leaves, at, statistics: Vec::new(), samples, ahead };
        let input = values.on_grid(x, input)?;
        values.at[x.0 as usize] = Some(input);
        for (id, node) in self.graph.nodes() {
            values.node(id, node).at(|| format!("node '{}' ({})", node.name, node.op.name()))?;
            // What nobody reads any more is only kept by the gradients that need it.
            for v in node.inputs.iter().flatten() {
                readers[v.0 as usize] -= 1;
                if readers[v.0 as usize] == 0 {
                    values.at[v.0 as usize] = None;
                }
            }
        }
        let seen = points.iter().map(|&v| values.value(v)).collect::<Result<_>>()?;
        let output = values.take(y)?;
        Ok(Run { output, statistics: values.statistics, seen })
    }
}

impl<B: Kernels> Forward<'_, B> {
    /// Runs some nodes, from the one value that they are computed from (the batch first) to the one that is wanted. `round`: the value that
    /// they begin with is still to be rounded.
    ///
    /// # Errors
    /// As [`Forward::run`].
    pub fn part(
        &self,
        (from, input, round): (ValueId, Var<B>, bool),
        nodes: &[NodeId],
        to: ValueId,
        leaves: &[Var<B>],
    ) -> Result<Var<B>> {
        let samples = backend::dims::<B>(&input).first().copied().unwrap_or(1);
        let at = vec![None; self.graph.value_count()];
        let mut values = Values { forward: self, leaves, at, statistics: Vec::new(), samples, ahead: HashMap::new() };
        let input = if round { values.on_grid(from, input)? } else { input };
        values.at[from.0 as usize] = Some(input);
        for &id in nodes {
            let node = self.graph.node(id);
            values.node(id, node).at(|| format!("node '{}' ({})", node.name, node.op.name()))?;
        }
        values.take(to)
    }
}

impl<B: Kernels> Values<'_, B> {
    fn node(&mut self, id: NodeId, node: &Node) -> Result<()> {
        let several = match &node.op {
            Op::Split { axis } => Some(arrange::split(self, node, *axis)?),
            Op::Recurrent(attrs) => Some(recurrent::run(self, node, attrs)?),
            _ if node.outputs.iter().skip(1).flatten().next().is_some() => return Err(no_gradient(node)),
            _ => None,
        };
        match several {
            Some(all) => {
                for (v, y) in node.outputs.iter().zip(all) {
                    if let Some(v) = *v {
                        self.give(node, v, y)?;
                    }
                }
                Ok(())
            }
            None => {
                let Some(v) = node.output(0) else { return Ok(()) };
                if self.at[v.0 as usize].is_some() {
                    // With the product before it.
                    return Ok(());
                }
                if let (Op::Conv(attrs), Some(ahead)) = (&node.op, self.ahead.get(&id).copied()) {
                    self.at[ahead.to.0 as usize] = Some(product::finished(self, id, node, attrs, ahead)?);
                    return Ok(());
                }
                // What is computed from constants alone is no matter of samples.
                let y = self.compute(id, node)?;
                self.give(node, v, y)
            }
        }
    }
    fn compute(&mut self, id: NodeId, node: &Node) -> Result<Var<B>> {
        match &node.op {
            Op::Conv(attrs) => product::conv(self, id, node, attrs),
            Op::Gemm { .. } | Op::MatMul => product::matrix(self, id, node),
            Op::BatchNormalization { epsilon } => normalize::batch(self, node, *epsilon),
            Op::Unary(f) => elementwise::unary(self.input(node, 0)?, *f).ok_or_else(|| no_gradient(node)),
            Op::Binary(f) => {
                elementwise::binary(self.input(node, 0)?, self.input(node, 1)?, *f)?.ok_or_else(|| no_gradient(node))
            }
            Op::Variadic(_) => elementwise::variadic(self, node),
            Op::Clip => elementwise::clip(self, node),
            Op::Softmax { axis, flat: false } => elementwise::softmax(self.input(node, 0)?, *axis, false),
            Op::LogSoftmax { axis, flat: false } => elementwise::softmax(self.input(node, 0)?, *axis, true),
            Op::MaxPool { window, .. } => pool::max(self.input(node, 0)?, window),
            Op::AveragePool { window, count_include_pad } => {
                pool::average(self.input(node, 0)?, window, *count_include_pad)
            }
            Op::GlobalAveragePool => pool::global_average(self.input(node, 0)?),
            Op::Reduce { .. } => pool::reduce(self, node),
            Op::Identity => self.input(node, 0),
            Op::Dropout => self.input(node, 0),
            _ => arrange::arrange(self, node),
        }
    }
    /// Keeps a node's output, rounded where the plan says so.
    fn give(&mut self, node: &Node, v: ValueId, y: Var<B>) -> Result<()> {
        // What was moved from the same grid lies on it.
        let plan = self.forward.plan;
        let own = plan.of_value.get(&v);
        let moved = node.op.is_move() || matches!(node.op, Op::MaxPool { .. } | Op::Concat { .. });
        let from = node.inputs.iter().flatten().filter(|x| self.forward.graph.constant(**x).is_none());
        let same = moved && own.is_some() && from.clone().all(|x| plan.of_value.get(x) == own);
        let y = if same { y } else { self.on_grid(v, y)? };
        self.at[v.0 as usize] = Some(y);
        Ok(())
    }
    /// `y` on the grid of the value `v`, where it has one.
    fn on_grid(&self, v: ValueId, y: Var<B>) -> Result<Var<B>> {
        let Some(&grid) = self.forward.plan.of_value.get(&v) else { return Ok(y) };
        let rounded = self.rounded(y.clone(), grid, self.samples)?;
        let Some(drop) = self.forward.soft.and_then(|s| s.drop) else { return Ok(rounded) };
        let shape = backend::dims::<B>(&y);
        let mask = drop.mask(v.0.into(), shape.iter().product());
        let mask = backend::constant::<B>(backend::tensor::<B>(mask, &shape, self.forward.device));
        let difference = Autodiff::<B>::float_mul(Autodiff::<B>::float_sub(rounded, y.clone()), mask);
        Ok(Autodiff::<B>::float_add(y, difference))
    }
    /// `x` on a grid of the plan; `samples`: 1 for weights.
    fn rounded(&self, x: Var<B>, grid: usize, samples: usize) -> Result<Var<B>> {
        let planned = &self.forward.plan.grids[grid];
        let shape = backend::dims::<B>(&x);
        let grid_of_shape = self.grid(planned, &shape, samples)?;
        Ok(fake::fake::<B>(x, self.scale(grid)?, &grid_of_shape))
    }
    /// Weights on a grid of the plan, and its scales.
    fn weights(&self, w: Var<B>, grid: usize) -> Result<(Var<B>, FloatTensor<B>)> {
        let planned = &self.forward.plan.grids[grid];
        match planned.levels {
            Some(levels) => {
                let grid = self.grid(planned, &backend::dims::<B>(&w), 1)?;
                fake::levelled::<B>(w, levels, &grid)
            }
            None => Ok((self.rounded(w, grid, 1)?, self.scale(grid)?.into_primitive())),
        }
    }
    /// The output of a product: its gradient is rounded where that is wanted.
    fn product(&self, id: NodeId, y: Var<B>) -> Var<B> {
        let y = self.forward.precision.cast::<B>(y);
        match self.forward.gradients {
            Some(how) => low::rounded_back::<B>(y, how, id.0.into()),
            None => y,
        }
    }
    fn grid(&self, planned: &PlannedGrid, shape: &[usize], samples: usize) -> Result<Grid> {
        let grid = Grid::new(&planned.params, shape, samples).at(|| planned.name.clone())?;
        Ok(Grid { estimator: planned.estimator.at(self.forward.plan.progress), rule: planned.rule, ..grid })
    }
    /// The scales of a grid.
    fn scale(&self, grid: usize) -> Result<Var<B>> {
        let parameter = self.forward.parameters.of_grid(grid);
        let leaf = parameter.and_then(|p| self.leaves.get(p)).cloned();
        leaf.ok_or_else(|| Error::internal("a grid without scales"))
    }
    /// Input `i` of a node.
    fn input(&self, node: &Node, i: usize) -> Result<Var<B>> {
        let v = node.input(i).ok_or_else(|| Error::malformed(format!("input {i} is missing")))?;
        self.value(v)
    }
    /// Input `i` of a node where it has one.
    fn optional(&self, node: &Node, i: usize) -> Result<Option<Var<B>>> {
        node.input(i).map(|v| self.value(v)).transpose()
    }
    fn value(&self, v: ValueId) -> Result<Var<B>> {
        if let Some(x) = &self.at[v.0 as usize] {
            return Ok(x.clone());
        }
        if let Some(leaf) = self.forward.parameters.of_value(v).and_then(|p| self.leaves.get(p)) {
            return Ok(leaf.clone());
        }
        let value = self.forward.graph.value(v);
        match self.forward.graph.constant(v) {
            Some(t) if t.dtype().is_float() => {
                Ok(backend::constant::<B>(backend::tensor::<B>(t.to_f32s(), t.shape(), self.forward.device)))
            }
            _ => Err(Error::unsupported(format!("'{}' holds no real numbers", value.name))
                .cure("shapes and indices must be constants to train")),
        }
    }
    fn take(&mut self, v: ValueId) -> Result<Var<B>> {
        match self.at[v.0 as usize].take() {
            Some(x) => Ok(x),
            None => self.value(v),
        }
    }
    /// The integers of a constant input.
    fn integers(&self, node: &Node, i: usize) -> Result<Option<Vec<i64>>> {
        let Some(v) = node.input(i) else { return Ok(None) };
        let t = self.forward.graph.constant(v).ok_or_else(|| {
            Error::unsupported(format!("input {i} is no constant")).cure("shapes must be constants to train")
        })?;
        t.to_i64s().map(Some)
    }
}

/// The error of an operator that cannot be differentiated here.
fn no_gradient(node: &Node) -> Error {
    Error::unsupported(format!("{} has no gradient here", node.op.name()))
        .cure("quantize the network without training: nnq quantize")
}
