//! Post-training quantization: from a simplified float graph and its statistics to an annotated graph.
mod alone;
mod trained;

pub use trained::Learned;

use crate::{
    data::mix,
    error::{At, Error, Result},
    ir::{Dynamic, Granularity, Graph, Node, NodeId, Op, QParams, QType, Tensor, ValueId},
    quant::{
        expect,
        moments::Known,
        observer::{Observer, Statistics},
        place::{self, Group, Mode, Placement},
        range,
        recipe::{ActivationMode, BiasCorrection, LayerRecipe, Logits, Position, Recipe, SumOperands},
        rounder::{Task, from_rows, to_rows},
        stats::Stats,
        streams, weights,
    },
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An annotated graph, and what a user should know about how it came about.
pub struct Quantized {
    /// Annotated values, codes in constants.
    pub graph: Graph,
    /// The float network with the nodes and values of `graph`: where a value is rounded twice, it has an `Identity` more than the one that was given.
    pub float: Arc<Graph>,
    /// Repairs and refusals.
    pub messages: Vec<String>,
}

/// Quantizes `graph` (simplified, float) with the statistics of its values (by name), every layer by itself.
///
/// # Errors
/// Names the value or node: statistics that are missing, NaN or infinities in statistics or weights, a recipe that cannot be
/// followed without samples.
pub fn quantize(graph: &Arc<Graph>, statistics: &Stats, recipe: &Recipe) -> Result<Quantized> {
    if recipe.layer_by_layer() {
        return Err(Error::usage("the recipe looks at samples layer by layer, and there are none").cure(
            "give --data, or leave out compensate, correct_bias (or make it \"analytic\"), reestimate and roundings other than nearest and stochastic",
        ));
    }
    let mut start = Start::new(graph, statistics, recipe)?;
    for id in start.products.clone() {
        let product = start.product(id)?;
        let rounded = start.round(&product, &product.real, None)?;
        start.put(&product, rounded)?;
    }
    start.finish()
}

/// A graph whose activations have their grids, and whose weights get theirs.
pub struct Start {
    out: Quantized,
    layers: Layers,
    seed: u64,
    /// Give outputs the deviation of the float network's.
    reestimate: bool,
    /// What values are on average, where biases are corrected for it.
    expected: Vec<Option<expect::Moments>>,
    /// The products that compute in integers, in order.
    pub products: Vec<NodeId>,
    /// Recurrent layers with products in integers, in order.
    recurrent: Vec<NodeId>,
    /// Tables whose rows are looked up.
    tables: Vec<NodeId>,
}

/// A product whose weights are still real.
pub struct Product {
    /// The node.
    pub id: NodeId,
    /// Its input.
    pub x: ValueId,
    /// Its weights.
    pub w: ValueId,
    /// The axis of the weights along which output channels lie.
    pub axis: usize,
    /// The weights.
    pub shape: Vec<usize>,
    /// Row-major, of `shape`.
    pub real: Vec<f32>,
    /// What holds for it.
    pub recipe: LayerRecipe,
    /// The mean of each weight's input, by row, where the bias is corrected for it.
    means: Option<Vec<f64>>,
}

impl Start {
    /// Gives activations their grids, and says which are quantized as they come.
    ///
    /// # Errors
    /// As [`quantize`].
    pub fn new(graph: &Arc<Graph>, statistics: &Stats, recipe: &Recipe) -> Result<Self> {
        let Plan { float, layers, placement } = Plan::new(graph, recipe)?;
        let graph = &*float;
        let mut out = Quantized { graph: graph.clone(), float: float.clone(), messages: Vec::new() };
        if placement.products.is_empty() && placement.recurrent.is_empty() {
            return Err(Error::usage("no layer of the model can be quantized").cure(
                "nnq quantizes Conv, Gemm and MatMul with constant weights, dynamically LSTM, GRU and RNN, too; the recipe may keep them all float, or the model has none",
            ));
        }
        let (producers, consumers) = (graph.producers(), graph.consumers());
        for group in &placement.groups {
            let name = &graph.value(group.sources.first().copied().unwrap_or(group.values[0])).name;
            let params = Wanted::of(graph, (&producers, &consumers), group, statistics, &layers)
                .and_then(|w| w.params(w.method))
                .at(|| format!("value '{name}'"))?;
            let params = Arc::new(params);
            for &v in &group.values {
                out.graph.value_mut(v).quant = Some(params.clone());
            }
        }
        let mut whole = 0;
        for &v in &placement.dynamic {
            let readers: Vec<NodeId> = layers.live(&consumers[v.0 as usize]).collect();
            let of = by_row(graph, &readers, &layers);
            whole += usize::from(of == Dynamic::Tensor && readers.iter().any(|&id| layers.by_token(id)));
            out.graph.value_mut(v).dynamic = Some(of);
        }
        if whole > 0 {
            out.messages.push(format!("{whole} values have one grid for all their numbers, although layers that read them would find one for each row: so do convolutions and layers of mode \"dynamic\" that read them too, and a value has one kind of grid"));
        }
        for id in
            placement.products.iter().filter(|id| matches!(layers.modes[id.0 as usize], Mode::Dynamic | Mode::Weights))
        {
            let (node, x) = (graph.node(*id), graph.node(*id).input(0));
            if let Some(x) = x.filter(|&x| out.graph.value(x).quant.is_some()) {
                out.messages.push(format!(
                    "'{}' reads '{}' as static codes, as other layers do: one value has one grid",
                    node.name,
                    graph.value(x).name
                ));
            }
        }
        // The network's input has overrides, too.
        let nodes = graph.nodes().map(|(_, n)| (n.name.as_str(), n.op.name())).chain([("", "Input")]);
        let nodes: Vec<(&str, &str)> = nodes.collect();
        for unused in recipe.unused(nodes.into_iter())? {
            out.messages.push(format!("the recipe's override {unused} applies to no layer of this model"));
        }
        let mut start = Self {
            out,
            layers,
            seed: recipe.seed,
            reestimate: recipe.reestimate,
            expected: Vec::new(),
            products: placement.products,
            recurrent: placement.recurrent,
            tables: placement.tables,
        };
        if recipe.correct_bias == BiasCorrection::Analytic {
            start.expected = expect::expected(graph);
            start.tell_unknown()?;
        }
        Ok(start)
    }
    /// Says which products keep their biases, since nothing tells what their inputs are on average.
    fn tell_unknown(&mut self) -> Result<()> {
        let mut kept = Vec::new();
        for &id in &self.products {
            let node = self.out.graph.node(id);
            if matches!(node.op, Op::MatMul) || self.product(id)?.means.is_none() {
                kept.push(node.name.clone());
            }
        }
        if kept.len() == self.products.len() {
            return Err(Error::usage(
                "correct_bias = \"analytic\": nothing tells what the inputs of any layer are on average",
            )
            .cure("give --data to measure it: the model holds no batch normalisation that would"));
        }
        if !kept.is_empty() {
            let (of, some) = (self.products.len(), kept[..kept.len().min(3)].join("', '"));
            let more = if kept.len() > 3 { ", ..." } else { "" };
            self.message(format!(
                "analytic correction: {} of {of} layers keep their biases, since nothing tells what their inputs are on average or they have none: '{some}'{more}",
                kept.len()
            ));
        }
        Ok(())
    }
    /// The float network, with the nodes that [`Start::graph`] has.
    pub fn float(&self) -> &Arc<Graph> {
        &self.out.float
    }
    /// The graph as far as it is quantized.
    pub fn graph(&self) -> &Graph {
        &self.out.graph
    }
    /// Something that the user should know.
    pub fn message(&mut self, text: String) {
        self.out.messages.push(text);
    }
    /// A product, before its weights are rounded.
    ///
    /// # Errors
    /// When its weights are no real numbers.
    pub fn product(&self, id: NodeId) -> Result<Product> {
        let graph = &self.out.graph;
        let node = graph.node(id);
        let (Some(x), Some(w)) = (node.input(0), node.input(1)) else {
            return Err(Error::internal("a product without weights").at(format!("node '{}'", node.name)));
        };
        let axis = match node.op {
            Op::Conv(_) | Op::Gemm { trans_b: true, .. } => 0,
            _ => 1,
        };
        let tensor = graph.constant(w).ok_or_else(|| Error::internal("weights that are no constant"))?;
        let real = weights::reals(tensor).at(|| format!("weight '{}'", graph.value(w).name))?.into_owned();
        let (shape, recipe) = (tensor.shape().to_vec(), self.layers.nodes[id.0 as usize]);
        let means = self.expected.get(x.0 as usize).and_then(|m| expect::inputs(node, &shape, axis, m.as_ref()));
        let means = means.filter(|_| !matches!(node.op, Op::MatMul));
        Ok(Product { id, x, w, axis, shape, real, recipe, means })
    }
    /// Rounds a product's weights: `target`, which may differ from those that it has. `known`: what is known of its inputs and outputs; where its
    /// moments are centred, the bias makes up for errors of the mean.
    ///
    /// # Errors
    /// Names the node: weights that are NaN or infinite, a rounding that needs data and has none.
    pub fn round(&self, product: &Product, target: &[f32], known: Option<&Known>) -> Result<Rounded> {
        let graph = &self.out.graph;
        let how = How { seed: self.seed, reestimate: self.reestimate };
        round(graph, product, target, known, how).at(|| format!("node '{}'", graph.node(product.id).name))
    }
    /// Puts the codes of a product into the graph.
    ///
    /// # Errors
    /// When they do not fit the product.
    pub fn put(&mut self, product: &Product, rounded: Rounded) -> Result<()> {
        let graph = &mut self.out.graph;
        let Rounded { params, codes, bias, messages, .. } = rounded;
        params.check(Some(&product.shape))?;
        let packed = Arc::new(weights::pack(&codes, &product.shape, params.qtype)?);
        let node = graph.node(product.id).clone();
        let name = graph.value(product.w).name.clone();
        let new_w = constant(graph, &name, product.w, packed, params);
        let mut inputs = node.inputs.clone();
        inputs[1] = Some(new_w);
        if let Some((codes, params)) = bias {
            let codes = Arc::new(Tensor::of(&[product.shape[product.axis]], codes));
            params.check(Some(codes.shape()))?;
            let new = match node.input(2).filter(|_| !matches!(node.op, Op::MatMul)) {
                Some(b) => constant(graph, &graph.value(b).name.clone(), b, codes, params),
                None => added(graph, &graph.fresh_name(&format!("{name}_bias")), codes, params),
            };
            inputs.resize(inputs.len().max(3), None);
            inputs[2] = Some(new);
        }
        graph.node_mut(product.id).inputs = inputs;
        self.out.messages.extend(messages);
        Ok(())
    }
    /// The result, with the weights of recurrent layers and tables rounded.
    ///
    /// # Errors
    /// Names the node: numbers that are NaN or infinite.
    pub fn finish(mut self) -> Result<Quantized> {
        self.round_alone()?;
        self.out.graph.compact();
        Ok(self.out)
    }
}

/// Of what a value's grid is found at run time: of each row where all who quantize it are matrix products or recurrent layers that are to find it so.
fn by_row(graph: &Graph, readers: &[NodeId], layers: &Layers) -> Dynamic {
    let rows = |&id: &NodeId| match graph.node(id).op {
        Op::Gemm { trans_a: false, .. } | Op::MatMul | Op::Recurrent(_) => layers.by_token(id),
        Op::Conv(_) | Op::Gemm { .. } => false,
        // Reads real numbers.
        _ => true,
    };
    if readers.iter().all(rows) { Dynamic::Row } else { Dynamic::Tensor }
}

/// The recipe, resolved for every node.
pub(super) struct Layers {
    nodes: Vec<LayerRecipe>,
    modes: Vec<Mode>,
    /// Which nodes are products of two values.
    pairs: Vec<bool>,
    general: LayerRecipe,
    sum_operands: SumOperands,
}

impl Layers {
    fn new(graph: &Graph, recipe: &Recipe) -> Result<Self> {
        // The first and the last layer are the first and the last product that can be quantized at all.
        let all = place::place(graph, &vec![Mode::Static; graph.node_count()], false).products;
        let position = |id: NodeId| match (all.first() == Some(&id), all.last() == Some(&id)) {
            (true, _) => Position::First,
            (_, true) => Position::Last,
            _ => Position::Middle,
        };
        let of = graph
            .nodes()
            .map(|(id, n)| recipe.resolve_at(&n.name, n.op.name(), position(id)))
            .collect::<Result<Vec<_>>>()?;
        let kept = |op: &Op| match op {
            Op::Binary(crate::ir::op::Binary::Add | crate::ir::op::Binary::Sub) => !recipe.quantize_add,
            Op::Concat { .. } => !recipe.quantize_concat,
            _ => false,
        };
        let mode = |(id, node): (NodeId, &crate::ir::Node)| match of[id.0 as usize] {
            LayerRecipe { keep_float: true, .. } => Mode::Float,
            _ if kept(&node.op) => Mode::Float,
            layer if layer.activation.mode.is_dynamic() && !recipe.dynamic_attention && place::is_pair(graph, node) => {
                Mode::Float
            }
            layer => match layer.activation.mode {
                ActivationMode::Static => Mode::Static,
                ActivationMode::Dynamic | ActivationMode::Token => Mode::Dynamic,
                ActivationMode::Float => Mode::Weights,
                ActivationMode::Integer => Mode::Integer,
            },
        };
        let modes = graph.nodes().map(mode).collect();
        Ok(Self {
            nodes: of,
            modes,
            pairs: graph.nodes().map(|(_, n)| place::is_pair(graph, n)).collect(),
            general: recipe.resolve_at("", "Input", Position::First)?,
            sum_operands: recipe.sum_operands,
        })
    }
    /// Those that may quantize a value as it comes.
    fn live(&self, readers: &[(NodeId, usize)]) -> impl Iterator<Item = NodeId> {
        readers
            .iter()
            .filter(|(id, input)| {
                (*input == 0 || self.pairs[id.0 as usize]) && self.modes[id.0 as usize] == Mode::Dynamic
            })
            .map(|(id, _)| *id)
    }
    /// Whether a node is to find a grid for each row.
    fn by_token(&self, id: NodeId) -> bool {
        self.nodes[id.0 as usize].activation.mode == ActivationMode::Token
    }
    /// What holds for what makes a value. The input of the network is the first layer's, whatever edge it has.
    fn of(&self, producers: &[Option<NodeId>], v: ValueId) -> &LayerRecipe {
        producers[v.0 as usize].map_or(&self.general, |n| &self.nodes[n.0 as usize])
    }
}

/// Which values get which kind of grid.
pub(super) struct Plan {
    /// The float network, with an `Identity` more where a value is rounded twice.
    pub float: Arc<Graph>,
    pub layers: Layers,
    pub placement: Placement,
}

impl Plan {
    /// # Errors
    /// When the recipe makes no sense for a node.
    pub fn new(graph: &Arc<Graph>, recipe: &Recipe) -> Result<Self> {
        let (mut float, mut layers) = (graph.clone(), Layers::new(graph, recipe)?);
        for edit in [Self::split, Self::narrowed, Self::parted] {
            if let Some(edited) = edit(&float, recipe, &layers)? {
                layers = Layers::new(&edited, recipe)?;
                float = Arc::new(edited);
            }
        }
        let placement = place::place(&float, &layers.modes, recipe.logits == Logits::Int8);
        Ok(Self { float, layers, placement })
    }
    fn split(graph: &Graph, recipe: &Recipe, layers: &Layers) -> Result<Option<Graph>> {
        streams::split(graph, recipe, &layers.modes, |v| layers.of(&graph.producers(), v).activation.bits)
    }
    fn narrowed(graph: &Graph, _: &Recipe, layers: &Layers) -> Result<Option<Graph>> {
        streams::narrowed(graph, &layers.modes)
    }
    fn parted(graph: &Graph, _: &Recipe, layers: &Layers) -> Result<Option<Graph>> {
        streams::part(graph, &layers.modes)
    }
}

/// The nodes that read a value, and as which input.
type Readers = Vec<(NodeId, usize)>;

/// What a group of values is to get.
pub(super) struct Wanted {
    /// How its range is chosen: by its extremes where it is an output of the network.
    pub method: range::RangeMethod,
    scheme: range::Scheme,
    /// The merged statistics of its sources.
    statistics: Statistics,
}

impl Wanted {
    /// For a group of `graph`, given who makes and who reads each value.
    pub fn of(
        graph: &Graph,
        (producers, consumers): (&[Option<NodeId>], &[Readers]),
        group: &Group,
        statistics: &Stats,
        layers: &Layers,
    ) -> Result<Self> {
        let mut sources = group.sources.iter();
        let first = *sources.next().ok_or_else(|| Error::internal("a group of values without a source"))?;
        let seen = |v: ValueId| statistics.get(&graph.value(streams::source(graph, producers, v)).name);
        let mut all = seen(first)?.clone();
        for &v in sources {
            all.merge(seen(v)?)?;
        }
        let mut wanted = layers.of(producers, streams::source(graph, producers, first)).activation;
        let wide = |node: &Node| streams::is_sum(node) || matches!(node.op, Op::Identity);
        let summed =
            group.values.iter().all(|v| consumers[v.0 as usize].iter().all(|(node, _)| wide(graph.node(*node))));
        if layers.sum_operands == SumOperands::EightBit && summed {
            wanted.bits = wanted.bits.max(8);
        }
        if let Some(bits) = group.bits {
            wanted.bits = wanted.bits.max(bits);
        }
        if group.symmetric {
            (wanted.signed, wanted.symmetric) = (true, true);
        }
        // Logits are never clipped: their order is the answer. Of more bits there are enough.
        let output = group.bits.is_some() || group.values.iter().any(|v| graph.outputs.contains(v));
        let method = if output { range::RangeMethod::MinMax } else { wanted.range };
        Ok(Self { method, scheme: wanted.scheme(), statistics: all })
    }
    /// The grid by `method`.
    pub fn params(&self, method: range::RangeMethod) -> Result<QParams> {
        let (scale, zero) = range::params(range::choose(method, self.statistics.tensor()?, self.scheme)?, self.scheme);
        Ok(QParams::tensor(self.scheme.qtype, scale, zero))
    }
}

/// What rounding a product came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rounded {
    /// The node.
    pub node: String,
    /// Scales and zero points of the weights.
    pub params: QParams,
    /// Codes of the weights, row-major.
    pub codes: Vec<i32>,
    /// Codes and scales of the bias, one for each output channel.
    pub bias: Option<(Vec<i32>, QParams)>,
    /// What a user should know.
    pub messages: Vec<String>,
}

/// What holds for all products.
#[derive(Clone, Copy)]
struct How {
    seed: u64,
    reestimate: bool,
}

/// Rounds the weights and the bias of a product.
fn round(graph: &Graph, product: &Product, target: &[f32], known: Option<&Known>, how: How) -> Result<Rounded> {
    let Product { id, x, w, axis, shape, recipe: layer, .. } = product;
    let node = graph.node(*id);
    let value = graph.value(*x);
    let grid = value.quant.as_ref().and_then(|q| q.as_tensor());
    // Without a grid that is known the bias stays real.
    let sx = match (grid, value.dynamic.is_some() || layer.activation.mode == ActivationMode::Float) {
        (Some((sx, _)), _) => Some(sx),
        (None, true) => None,
        (None, false) => return Err(Error::internal("a product whose input has no grid")),
    };
    let name = graph.value(*w).name.clone();
    let place = || format!("weight '{name}'");
    let params = weights::fit(target, shape, &layer.weight.scheme(*axis, 1 - axis)).at(place)?;
    let rounder = layer.weight.rounding.rounder(key(how.seed, &name));
    let curvature = known.map(|k| &k.curvature);
    let channels = shape[*axis];
    // Codes on these scales, and the scales that they stand on in the end.
    let codes = |mut params: QParams| -> Result<(Task, Vec<i32>, QParams)> {
        let mut task = Task::new(target, shape, *axis, &params)?;
        let codes = rounder.round(&task, curvature).at(place)?;
        if let Some(known) = known.filter(|_| how.reestimate) {
            rescale(&mut params, &known.deviations(&task.dequantize(&codes)), *axis);
            task = Task::new(target, shape, *axis, &params)?;
        }
        Ok((task, codes, params))
    };
    let fitted = params.clone();
    let (mut task, mut rows, mut params) = codes(params)?;
    let bias = node.input(2).filter(|_| !matches!(node.op, Op::MatMul));
    let old = bias.map(|b| graph.real_constant(b)).transpose()?;
    let for_codes = |task: &Task, rows: &[i32]| -> Option<Arc<Tensor>> {
        let measured = known.and_then(|k| k.bias(&task.dequantize(rows)));
        let analytic = |means: &Vec<f64>| {
            let float = to_rows(&product.real, shape, *axis);
            expect::correction(&task.dequantize(rows), &float, means, channels)
        };
        let Some(more) = measured.or_else(|| product.means.as_ref().map(analytic)) else { return old.clone() };
        let old = old.as_ref().map(|b| b.to_f32s());
        let old = |c: usize| old.as_ref().map_or(0.0, |b| b[if b.len() == 1 { 0 } else { c }]);
        let new = more.iter().enumerate().map(|(c, more)| (f64::from(old(c)) + more) as f32);
        Some(Arc::new(Tensor::of(&[channels], new.collect::<Vec<f32>>())))
    };
    let mut messages = Vec::new();
    let mut bias_real = for_codes(&task, &rows);
    if let (Some(b), Some(sx)) = (&bias_real, sx)
        && let Some((mut wider, changed)) = widen(&params, b, sx, channels)
    {
        messages.push(format!(
            "'{}': {changed} output channels have weights so small that their bias would overflow 32 bits; their scale was widened",
            node.name
        ));
        if how.reestimate {
            // Scales may shrink again by as much as this.
            for (i, s) in wider.scale.iter_mut().enumerate() {
                let same = s.to_bits() == params.scale[i].to_bits();
                *s = if same { fitted.scale[i] } else { *s * RATIO as f32 };
            }
        }
        (task, rows, params) = codes(wider)?;
        bias_real = for_codes(&task, &rows);
    }
    let bias = match (bias_real, sx) {
        (Some(real), Some(sx)) => {
            let name = bias.map_or_else(|| format!("{name}_bias"), |b| graph.value(b).name.clone());
            Some(bias_codes(&real, &params, sx, channels).at(|| format!("bias '{name}'"))?)
        }
        _ => None,
    };
    Ok(Rounded { node: node.name.clone(), codes: from_rows(rows, shape, *axis), params, bias, messages })
}

/// A channel's scale is changed by this factor at most: more would be no rounding error.
const RATIO: f64 = 2.0;

/// Multiplies the scales of each output channel, which lie along `axis`.
fn rescale(params: &mut QParams, ratio: &[f64], axis: usize) {
    let each = params.scale.len() / ratio.len().max(1);
    for (i, s) in params.scale.iter_mut().enumerate() {
        let row = if axis == 0 { i / each.max(1) } else { i % ratio.len() };
        *s = (f64::from(*s) * ratio[row].clamp(1.0 / RATIO, RATIO)) as f32;
    }
}

/// The key of a tensor, for what is random.
fn key(seed: u64, name: &str) -> u64 {
    name.bytes().fold(mix(seed, 0), |key, byte| mix(key, byte.into()))
}

/// Puts codes into the graph as a new constant.
fn added(graph: &mut Graph, name: &str, codes: Arc<Tensor>, params: QParams) -> ValueId {
    let v = graph.add_constant(name, codes);
    let value = graph.value_mut(v);
    value.dtype = Some(crate::ir::DType::F32);
    value.quant = Some(Arc::new(params));
    v
}

/// Puts codes into the graph as a constant that takes over the name of `old` (which stays for other readers, renamed).
fn constant(graph: &mut Graph, name: &str, old: ValueId, codes: Arc<Tensor>, params: QParams) -> ValueId {
    graph.rename(old, &format!("{name}_float"));
    added(graph, name, codes, params)
}

/// The largest bias code that leaves the accumulator room for the products.
pub(crate) const BIAS_LIMIT: f64 = (1u64 << 30) as f64;

/// Wider weight scales where a bias would not fit its 32 bits; `None` when all fit.
fn widen(params: &QParams, bias: &Tensor, sx: f32, channels: usize) -> Option<(QParams, usize)> {
    let bias = bias.to_f32s();
    let per_channel = params.scale.len() == channels && params.granularity != Granularity::Tensor;
    let mut wider = params.clone();
    let mut changed = 0;
    for c in 0..channels {
        let b = f64::from(bias.get(if bias.len() == 1 { 0 } else { c }).copied()?.abs());
        let s = if per_channel { c } else { 0 };
        let need = b / (f64::from(sx) * BIAS_LIMIT);
        if f64::from(wider.scale[s]) < need {
            wider.scale[s] = (need * 1.0001) as f32;
            changed += 1;
        }
    }
    (changed > 0).then_some((wider, changed))
}

/// Bias codes at scale `sx * sw` (numerics section 3).
fn bias_codes(bias: &Tensor, weight: &QParams, sx: f32, channels: usize) -> Result<(Vec<i32>, QParams)> {
    let real = bias.to_f32s();
    let sw = |c: usize| if weight.granularity == Granularity::Tensor { weight.scale[0] } else { weight.scale[c] };
    let codes = (0..channels)
        .map(|c| {
            let b = real[if real.len() == 1 { 0 } else { c }];
            if !b.is_finite() {
                return Err(
                    Error::value(format!("element {c} is {b}")).cure("the model is broken: retrain or repair it")
                );
            }
            crate::exec::lower::bias_code(f64::from(b), sx, sw(c))
                .ok_or_else(|| Error::internal(format!("bias {b} of channel {c} overflows after widening")))
        })
        .collect::<Result<Vec<i32>>>()?;
    let scale = (0..channels).map(|c| sx * sw(c)).collect();
    Ok((codes, QParams::channel(QType::I32, 0, scale)))
}
