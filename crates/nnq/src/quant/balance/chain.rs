//! Which layers' channels belong together, and their weights while they change.
use crate::{
    error::Result,
    ir::{
        Channels, Graph, Node, NodeId, Op, Shape, Tensor, ValueId,
        op::{Binary, Reduction, Unary},
    },
};
use std::{collections::HashMap, sync::Arc};

/// A layer, and all that read its output through functions `f` with `f(s x) = s f(x)` for `s > 0`, one channel at a time.
pub(super) struct Link {
    pub first: NodeId,
    /// Between them, in order.
    pub between: Vec<NodeId>,
    /// Products.
    pub seconds: Vec<NodeId>,
}

impl Link {
    /// The value that the seconds read.
    pub fn read(&self, graph: &Graph) -> Option<ValueId> {
        graph.node(*self.between.last().unwrap_or(&self.first)).output(0)
    }
    /// Notes on the channels: the first's output was multiplied and shifted, what follows is no longer known.
    pub fn note(&self, graph: &mut Graph, scale: &[f64], shift: &[f64]) {
        let forget: Vec<ValueId> = self.between.iter().filter_map(|&id| graph.node(id).output(0)).collect();
        for v in forget {
            graph.value_mut(v).channels = None;
        }
        if let Some(v) = graph.node(self.first).output(0) {
            let value = graph.value_mut(v);
            value.channels = value.channels.take().map(|c| Arc::new(c.affine(scale, shift)));
        }
    }
    /// What is known of the first's output.
    pub fn known<'g>(&self, graph: &'g Graph) -> Option<&'g Arc<Channels>> {
        graph.value(graph.node(self.first).output(0)?).channels.as_ref()
    }
    /// The bound of the clip between them, where it is the last thing and the only clip.
    pub fn last_clip(&self, graph: &Graph) -> Option<f64> {
        let clips = self.between.iter().filter(|&&id| matches!(graph.node(id).op, Op::Clip)).count();
        let last = graph.node(*self.between.last()?);
        let bound = graph.constant(last.input(2)?)?.to_f32s()[0];
        (clips == 1 && matches!(last.op, Op::Clip)).then_some(f64::from(bound))
    }
    /// Gives the last thing between them, a clip, another bound.
    pub fn set_last_clip(&self, graph: &mut Graph, bound: f64) {
        if let Some(&id) = self.between.last() {
            let name = format!("{}.bound", graph.node(id).name);
            let constant = graph.add_constant(&name, Arc::new(Tensor::of(&[], vec![bound as f32])));
            graph.node_mut(id).inputs[2] = Some(constant);
        }
    }
    /// Makes clips between them ReLU, since their bound would differ from channel to channel; answers how many.
    pub fn open_clips(&self, graph: &mut Graph) -> usize {
        let mut clips = 0;
        for &id in &self.between {
            let node = graph.node_mut(id);
            if matches!(node.op, Op::Clip) {
                node.op = Op::Unary(Unary::Relu);
                node.inputs.truncate(1);
                clips += 1;
            }
        }
        clips
    }
}

/// The links of a graph, in order, with the weights that they mention. Layers whose output something else reads as well are left alone: a
/// sum (a residual connection), an output of the graph, a function that does not let scales through. With `norms`, normalisations are firsts too.
pub(super) fn links(graph: &Graph, norms: bool) -> (Vec<Link>, HashMap<NodeId, Weights>) {
    let consumers = graph.consumers();
    // Constants that several nodes read are no layer's own.
    let own = |v: &ValueId| consumers[v.0 as usize].len() == 1 && graph.constant(*v).is_some();
    let mut weights = HashMap::new();
    for (id, node) in graph.nodes() {
        if node.inputs.iter().skip(1).flatten().all(own)
            && let Some(w) = Weights::of(graph, node)
        {
            weights.insert(id, w);
        }
    }
    let product = |id: NodeId| weights.get(&id).is_some_and(|w| !w.norm);
    let mut links = Vec::new();
    for (first, node) in graph.nodes() {
        let Some(channels) = weights.get(&first).filter(|w| norms || !w.norm).map(Weights::outputs) else { continue };
        let (mut v, mut between) = (node.output(0), Vec::new());
        let mut rows =
            !matches!(node.op, Op::Conv(_) | Op::BatchNormalization { .. }) || v.is_some_and(|v| flat(graph, v));
        while let Some(value) = v.filter(|v| !graph.outputs.contains(v)) {
            let readers = &consumers[value.0 as usize];
            let fits = |id: NodeId| {
                product(id) && weights[&id].inputs() == channels && rows != matches!(graph.node(id).op, Op::Conv(_))
            };
            if !readers.is_empty() && readers.iter().all(|&(id, place)| place == 0 && fits(id)) {
                links.push(Link { first, between, seconds: readers.iter().map(|r| r.0).collect() });
                break;
            }
            let &[(reader, 0)] = &readers[..] else { break };
            if !lets_scales_through(graph, reader, rows) {
                break;
            }
            between.push(reader);
            v = graph.node(reader).output(0);
            rows |= v.is_some_and(|v| flat(graph, v));
        }
    }
    (links, weights)
}

/// Whether a value is a matrix: one row of channels for each sample.
fn flat(graph: &Graph, v: ValueId) -> bool {
    graph.value(v).shape.as_ref().is_some_and(|s| s.rank() == 2)
}

fn lets_scales_through(graph: &Graph, id: NodeId, rows: bool) -> bool {
    let node = graph.node(id);
    match &node.op {
        Op::Unary(Unary::Relu | Unary::LeakyRelu { .. }) | Op::Identity => true,
        Op::Binary(Binary::PRelu) => node.input(1).is_some_and(|v| graph.constant(v).is_some()),
        Op::Clip => from_zero(graph, id),
        Op::AveragePool { .. } | Op::GlobalAveragePool | Op::GlobalMaxPool => !rows,
        Op::MaxPool { .. } => !rows && node.output(1).is_none(),
        Op::Reduce { kind: Reduction::Mean | Reduction::Max, .. } => !rows && over_space(graph, node),
        Op::Flatten { .. } | Op::Reshape { .. } | Op::Squeeze => !rows && drops_space(graph, node),
        _ => false,
    }
}

/// Whether a clip is from 0 to a constant bound.
fn from_zero(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let bound =
        |i: usize| node.input(i).and_then(|v| graph.constant(v)).filter(|t| t.len() == 1).map(|t| t.to_f32s()[0]);
    bound(1) == Some(0.0) && (node.input(2).is_none() || bound(2).is_some_and(|b| b > 0.0))
}

fn shape(graph: &Graph, v: Option<ValueId>) -> Option<&Shape> {
    graph.value(v?).shape.as_ref()
}

/// A reduction over all axes behind the channels.
pub(crate) fn over_space(graph: &Graph, node: &Node) -> bool {
    let rank = shape(graph, node.input(0)).map_or(0, Shape::rank) as i64;
    let axes = node.input(1).and_then(|v| graph.constant(v)).and_then(|t| t.to_i64s().ok());
    let Some(mut axes) = axes else { return false };
    axes.iter_mut().for_each(|a| *a += if *a < 0 { rank } else { 0 });
    axes.sort_unstable();
    rank > 2 && axes.iter().copied().eq(2..rank)
}

/// `[N, C, 1, ...]` to `[N, C]`.
pub(crate) fn drops_space(graph: &Graph, node: &Node) -> bool {
    let (Some(from), Some(to)) = (shape(graph, node.input(0)), shape(graph, node.output(0))) else { return false };
    let fixed = |s: &Shape, i: usize| s.0.get(i).and_then(crate::ir::Dim::fixed);
    to.rank() == 2
        && from.rank() > 2
        && fixed(from, 1).is_some_and(|c| fixed(to, 1) == Some(c))
        && (2..from.rank()).all(|i| fixed(from, i) == Some(1))
}

/// Weights (or the factors of a normalisation) and bias of a layer while they change.
pub(super) struct Weights {
    stored: Vec<usize>,
    /// With two axes at least.
    shape: Vec<usize>,
    pub w: Vec<f64>,
    pub bias: Option<Vec<f64>>,
    /// Output channels lie along this axis.
    axis: usize,
    /// Groups of channels of a convolution.
    group: usize,
    /// A normalisation.
    pub norm: bool,
}

impl Weights {
    fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let tensor = graph.constant(node.input(1)?)?;
        if !tensor.dtype().is_float() {
            return None;
        }
        let reals = |t: &Tensor| t.to_f32s().iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let stored = tensor.shape().to_vec();
        let mut shape = stored.clone();
        let rank = graph.value(node.input(0)?).shape.as_ref().map_or(0, Shape::rank) as i64;
        let (axis, group, norm) = match &node.op {
            Op::Conv(a) if shape.len() > 2 && shape[0] % a.group.max(1) == 0 => (0, a.group.max(1), false),
            Op::Gemm { trans_a: false, trans_b, alpha, beta } if *alpha == 1.0 && *beta == 1.0 && shape.len() == 2 => {
                (usize::from(!trans_b), 1, false)
            }
            Op::MatMul if shape.len() == 2 => (1, 1, false),
            Op::LayerNormalization { axis, .. } if *axis == -1 || *axis == rank - 1 => (0, 1, true),
            Op::BatchNormalization { .. } => (0, 1, true),
            _ => return None,
        };
        if norm {
            shape.push(1);
        }
        if shape.len() < 2 || tensor.is_empty() || norm && shape.len() > 2 {
            return None;
        }
        let bias = match node.input(2) {
            Some(b) => Some(reals(graph.constant(b)?)),
            None => None,
        };
        if bias.as_ref().is_some_and(|b| b.len() != shape[axis]) {
            return None;
        }
        Some(Self { w: reals(tensor), stored, shape, bias, axis, group, norm })
    }
    pub fn outputs(&self) -> usize {
        self.shape[self.axis]
    }
    pub fn inputs(&self) -> usize {
        self.shape[1 - self.axis] * self.group
    }
    /// The output (or input) channel of the weight at flat position `i`.
    pub fn channel(&self, i: usize, output: bool) -> usize {
        let inner: usize = self.shape[2..].iter().product();
        let (row, column) = (i / inner / self.shape[1], i / inner % self.shape[1]);
        match (output, self.axis) {
            (true, 0) | (false, 1) => row,
            (true, _) => column,
            (false, _) => row / (self.shape[0] / self.group) * self.shape[1] + column,
        }
    }
    /// The largest magnitude of each output (or input) channel.
    pub fn largest(&self, output: bool) -> Vec<f64> {
        let mut most = vec![0.0f64; if output { self.outputs() } else { self.inputs() }];
        for (i, w) in self.w.iter().enumerate() {
            let c = self.channel(i, output);
            most[c] = most[c].max(w.abs());
        }
        most
    }
    /// Multiplies each output (or input) channel.
    pub fn scale(&mut self, output: bool, by: impl Fn(usize) -> f64) {
        for i in 0..self.w.len() {
            self.w[i] *= by(self.channel(i, output));
        }
        if output && let Some(bias) = &mut self.bias {
            bias.iter_mut().enumerate().for_each(|(c, b)| *b *= by(c));
        }
    }
    /// Puts them into the graph in place of those that were there.
    ///
    /// # Errors
    /// When a number does not fit binary32.
    pub fn put(&self, graph: &mut Graph, id: NodeId) -> Result<()> {
        let mut node = graph.node(id).clone();
        for (i, shape, values) in [(1, &self.stored[..], Some(&self.w)), (2, &[self.outputs()], self.bias.as_ref())] {
            let Some(values) = values else { continue };
            let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            if narrow.iter().any(|v| !v.is_finite()) {
                return Err(crate::Error::value("balancing makes weights that are no numbers")
                    .at(format!("node '{}'", node.name))
                    .cure("the model's weights are damaged: export it again, or do not balance its layers"));
            }
            let name = match node.input(i) {
                Some(old) => {
                    let name = graph.value(old).name.clone();
                    graph.rename(old, &format!("{name}_before"));
                    name
                }
                None => format!("{}.bias", node.name),
            };
            node.inputs.resize(node.inputs.len().max(i + 1), None);
            node.inputs[i] = Some(graph.add_constant(&name, Arc::new(Tensor::of(shape, narrow))));
        }
        graph.node_mut(id).inputs = node.inputs;
        Ok(())
    }
}
