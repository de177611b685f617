//! Which layers' channels belong together, and their weights while they change.
use crate::{
    error::Result,
    ir::{
        Channels, Graph, Node, NodeId, Op, Shape, Tensor, ValueId,
        op::{Binary, Reduction, Unary},
    },
};
use nalgebra::{DMatrix, DVector};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// Values whose channels can be scaled together: made by layers, changed only by functions `f` with `f(s x) = s f(x)` for `s > 0`, one channel at a
/// time, and by sums of each other, and read by products.
pub(super) struct Link {
    /// The layers that make them, in order.
    pub firsts: Vec<NodeId>,
    /// What lies between, in order.
    pub between: Vec<NodeId>,
    /// The products that read them, in order.
    pub seconds: Vec<NodeId>,
    /// What these read.
    pub reads: Vec<ValueId>,
}

impl Link {
    /// Notes on the channels: what the firsts make was multiplied and shifted, what follows is no longer known.
    pub fn note(&self, graph: &mut Graph, scale: &[f64], shift: &[f64]) {
        let forget: Vec<ValueId> = self.between.iter().filter_map(|&id| graph.node(id).output(0)).collect();
        for v in forget {
            graph.value_mut(v).channels = None;
        }
        for &first in &self.firsts {
            if let Some(v) = graph.node(first).output(0) {
                let value = graph.value_mut(v);
                value.channels = value.channels.take().map(|c| Arc::new(c.affine(scale, shift)));
            }
        }
    }
    /// Divides what the firsts make by `scale`, which the seconds make up for.
    pub fn scale(&self, weights: &mut HashMap<NodeId, Weights>, scale: &[f64]) {
        for first in &self.firsts {
            if let Some(first) = weights.get_mut(first) {
                first.scale(true, |i| 1.0 / scale[i]);
            }
        }
        for second in &self.seconds {
            if let Some(second) = weights.get_mut(second) {
                second.scale(false, |i| scale[i]);
            }
        }
    }
    /// The only first.
    pub fn only_first(&self) -> Option<NodeId> {
        if let [first] = self.firsts[..] { Some(first) } else { None }
    }
    /// What is known of the only first's output.
    pub fn known<'g>(&self, graph: &'g Graph) -> Option<&'g Arc<Channels>> {
        graph.value(graph.node(self.only_first()?).output(0)?).channels.as_ref()
    }
    fn clips<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = NodeId> + 'a {
        self.between.iter().copied().filter(|&id| matches!(graph.node(id).op, Op::Clip))
    }
    /// Whether a clip lies between.
    pub fn has_clip(&self, graph: &Graph) -> bool {
        self.clips(graph).next().is_some()
    }
    /// The only clip between, where it makes all that the seconds read, with its bound.
    pub fn last_clip(&self, graph: &Graph) -> Option<(NodeId, f64)> {
        let clip = self.clips(graph).next().filter(|_| self.clips(graph).count() == 1)?;
        let node = graph.node(clip);
        let bound = graph.constant(node.input(2)?)?.to_f32s()[0];
        (node.output(0) == Some(self.reads[0]) && self.reads.len() == 1).then_some((clip, f64::from(bound)))
    }
    /// Makes clips between them ReLU, since their bound would differ from channel to channel; answers how many.
    pub fn open_clips(&self, graph: &mut Graph) -> usize {
        let clips: Vec<NodeId> = self.clips(graph).collect();
        for &id in &clips {
            let node = graph.node_mut(id);
            node.op = Op::Unary(Unary::Relu);
            node.inputs.truncate(1);
        }
        clips.len()
    }
}

/// The largest magnitude of each output (or input) channel in the weights of all these layers.
pub(super) fn largest(weights: &HashMap<NodeId, Weights>, layers: &[NodeId], output: bool) -> Vec<f64> {
    let each = layers.iter().filter_map(|id| weights.get(id)).map(|w| w.largest(output));
    let most = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).map(|(a, b)| a.max(*b)).collect();
    each.reduce(most).unwrap_or_default()
}

/// Gives a clip another upper bound.
pub(super) fn set_bound(graph: &mut Graph, clip: NodeId, bound: f64) {
    let name = graph.fresh_name(&format!("{}.bound", graph.node(clip).name));
    let constant = graph.add_constant(&name, Arc::new(Tensor::of(&[], vec![bound as f32])));
    graph.node_mut(clip).inputs[2] = Some(constant);
}

/// What links may contain.
#[derive(Clone, Copy, Default)]
pub(super) struct Kinds {
    /// Normalisations as firsts.
    pub norms: bool,
    /// Sums (residual connections) between: all that a stream of sums carries is one link.
    pub sums: bool,
}

/// Values that are scaled together.
struct Sets(Vec<u32>);

impl Sets {
    fn find(&mut self, v: u32) -> u32 {
        let mut root = v;
        while self.0[root as usize] != root {
            root = self.0[root as usize];
        }
        self.0[v as usize] = root;
        root
    }
    fn join(&mut self, a: ValueId, b: ValueId) {
        let (a, b) = (self.find(a.0), self.find(b.0));
        // The earliest value stands for all.
        self.0[a.max(b) as usize] = a.min(b);
    }
}

/// The links of a graph, in the order of their first layers, with the weights that they mention. Values are left alone where anything else makes or reads one of
/// them: an input or output of the graph, a function that does not let scales through, a sum (unless these are wanted).
pub(super) fn links(graph: &Graph, kinds: Kinds) -> (Vec<Link>, HashMap<NodeId, Weights>) {
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
    let count = consumers.len();
    let mut sets = Sets((0..count as u32).collect());
    let (mut rows, mut alone) = (vec![false; count], vec![false; count]);
    graph.inputs.iter().chain(&graph.outputs).for_each(|v| alone[v.0 as usize] = true);
    for (id, node) in graph.nodes() {
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { continue };
        let flat = flat(graph, y);
        let w = weights.get(&id);
        if let Some(w) = w {
            rows[y.0 as usize] = flat || !matches!(node.op, Op::Conv(_) | Op::BatchNormalization { .. });
            alone[y.0 as usize] |= w.norm && !kinds.norms;
            let read = !w.norm && rows[x.0 as usize] != matches!(node.op, Op::Conv(_));
            alone[x.0 as usize] |= !read;
            continue;
        }
        rows[y.0 as usize] = rows[x.0 as usize] || flat;
        let other = node.input(1).filter(|_| kinds.sums && sums_alike(graph, node));
        if let Some(other) = other.filter(|o| rows[o.0 as usize] == rows[x.0 as usize]) {
            sets.join(x, other);
            sets.join(x, y);
        } else if lets_scales_through(graph, id, rows[x.0 as usize]) {
            sets.join(x, y);
        } else {
            node.inputs.iter().chain(&node.outputs).flatten().for_each(|v| alone[v.0 as usize] = true);
        }
    }
    let mut by_root: BTreeMap<u32, Link> = BTreeMap::new();
    let mut left: HashSet<u32> = (0..count as u32).filter(|&v| alone[v as usize]).map(|v| sets.find(v)).collect();
    let empty = || Link { firsts: Vec::new(), between: Vec::new(), seconds: Vec::new(), reads: Vec::new() };
    for (id, node) in graph.nodes() {
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { continue };
        let (from, to) = (sets.find(x.0), sets.find(y.0));
        let Some(w) = weights.get(&id) else {
            if from == to {
                by_root.entry(to).or_insert_with(empty).between.push(id);
            }
            continue;
        };
        by_root.entry(to).or_insert_with(empty).firsts.push(id);
        if !w.norm {
            let link = by_root.entry(from).or_insert_with(empty);
            link.seconds.push(id);
            if !link.reads.contains(&x) {
                link.reads.push(x);
            }
        }
    }
    for (&root, link) in &by_root {
        let channels = link.firsts.first().map(|id| weights[id].outputs());
        let fits = link.firsts.iter().all(|id| Some(weights[id].outputs()) == channels)
            && link.seconds.iter().all(|id| Some(weights[id].inputs()) == channels);
        if !fits || link.firsts.is_empty() || link.seconds.is_empty() {
            left.insert(root);
        }
    }
    let mut links: Vec<Link> = by_root.into_iter().filter(|(root, _)| !left.contains(root)).map(|l| l.1).collect();
    links.sort_by_key(|l| l.firsts[0]);
    (links, weights)
}

/// A sum or difference of two values of the same shape.
fn sums_alike(graph: &Graph, node: &Node) -> bool {
    let computed = |v: &ValueId| graph.constant(*v).is_none();
    let same = shape(graph, node.input(0)).is_some() && shape(graph, node.input(0)) == shape(graph, node.input(1));
    matches!(node.op, Op::Binary(Binary::Add | Binary::Sub)) && same && node.inputs.iter().flatten().all(computed)
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
    /// Whether every output can depend on every input channel.
    pub fn mixes(&self) -> bool {
        self.group == 1 && !self.norm
    }
    /// Where the weight of an output, an input channel and a place in the window lies; their numbers.
    fn layout(&self) -> (impl Fn(usize, usize, usize) -> usize + use<>, [usize; 3]) {
        let (inner, columns, rows_out) = (self.shape[2..].iter().product::<usize>(), self.shape[1], self.axis == 0);
        let at = move |o: usize, i: usize, k: usize| {
            let (row, column) = if rows_out { (o, i) } else { (i, o) };
            (row * columns + column) * inner + k
        };
        (at, [self.outputs(), self.shape[1 - self.axis], inner])
    }
    /// `W^T W` over input channels, all outputs and places in the window together.
    pub fn gram(&self) -> DMatrix<f64> {
        let (at, [outputs, inputs, inner]) = self.layout();
        let w = DMatrix::from_fn(outputs * inner, inputs, |r, i| self.w[at(r / inner, i, r % inner)]);
        w.transpose() * w
    }
    /// `W` and bias become `T W`, `T b`.
    pub fn mix_outputs(&mut self, t: &DMatrix<f64>) {
        let (at, [outputs, inputs, inner]) = self.layout();
        let w = DMatrix::from_fn(outputs, inputs * inner, |o, c| self.w[at(o, c / inner, c % inner)]);
        let w = t * w;
        for o in 0..outputs {
            for c in 0..inputs * inner {
                self.w[at(o, c / inner, c % inner)] = w[(o, c)];
            }
        }
        if let Some(bias) = &mut self.bias {
            *bias = (t * DVector::from_column_slice(bias)).as_slice().to_vec();
        }
    }
    /// `W` becomes `W T`.
    pub fn mix_inputs(&mut self, t: &DMatrix<f64>) {
        let (at, [outputs, inputs, inner]) = self.layout();
        let w = DMatrix::from_fn(outputs * inner, inputs, |r, i| self.w[at(r / inner, i, r % inner)]);
        let w = w * t;
        for r in 0..outputs * inner {
            for i in 0..inputs {
                self.w[at(r / inner, i, r % inner)] = w[(r, i)];
            }
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
