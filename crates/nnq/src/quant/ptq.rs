//! Post-training quantization: from a simplified float graph and its statistics to an annotated graph.
use crate::{
    data::mix,
    error::{At, Error, Result},
    ir::{Granularity, Graph, NodeId, Op, QParams, QType, Tensor, ValueId, op::Binary},
    quant::{
        moments::Known,
        observer::Observer,
        place::{self, Group},
        range,
        recipe::{LayerRecipe, Logits, Position, Recipe, SumOperands},
        rounder::Task,
        stats::Stats,
        weights,
    },
};
use std::sync::Arc;

/// An annotated graph, and what a user should know about how it came about.
pub struct Quantized {
    /// Annotated values, codes in constants.
    pub graph: Graph,
    /// Repairs and refusals.
    pub messages: Vec<String>,
}

/// Quantizes `graph` (simplified, float) with the statistics of its values (by name), every layer by itself.
///
/// # Errors
/// Names the value or node: statistics that are missing, NaN or infinities in statistics or weights, a recipe that cannot be
/// followed without samples.
pub fn quantize(graph: &Graph, statistics: &Stats, recipe: &Recipe) -> Result<Quantized> {
    if recipe.layer_by_layer() {
        return Err(Error::usage("the recipe looks at samples layer by layer, and there are none").cure(
            "give --data, or leave out compensate, correct_bias and roundings other than nearest and stochastic",
        ));
    }
    let mut start = Start::new(graph, statistics, recipe)?;
    for id in start.products.clone() {
        let product = start.product(id)?;
        start.round(&product, &product.real, None)?;
    }
    Ok(start.finish())
}

/// A graph whose activations have their grids, and whose weights get theirs.
pub struct Start {
    out: Quantized,
    layers: Layers,
    seed: u64,
    /// The products that compute in integers, in order.
    pub products: Vec<NodeId>,
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
}

impl Start {
    /// Gives activations their grids.
    ///
    /// # Errors
    /// As [`quantize`].
    pub fn new(graph: &Graph, statistics: &Stats, recipe: &Recipe) -> Result<Self> {
        let mut out = Quantized { graph: graph.clone(), messages: Vec::new() };
        let layers = Layers::new(graph, recipe)?;
        let placement = place::place(graph, &layers.float, recipe.logits == Logits::Int8);
        if placement.products.is_empty() {
            return Err(Error::usage("no layer of the model can be quantized").cure(
                "nnq quantizes Conv, Gemm and MatMul with constant weights; the recipe may keep them all float, or the model has none",
            ));
        }
        let (producers, consumers) = (graph.producers(), graph.consumers());
        for group in &placement.groups {
            let name = &graph.value(group.sources.first().copied().unwrap_or(group.values[0])).name;
            let params = activation(graph, &producers, &consumers, group, statistics, &layers)
                .at(|| format!("value '{name}'"))?;
            let params = Arc::new(params);
            for &v in &group.values {
                out.graph.value_mut(v).quant = Some(params.clone());
            }
        }
        let nodes: Vec<(&str, &str)> = graph.nodes().map(|(_, n)| (n.name.as_str(), n.op.name())).collect();
        for unused in recipe.unused(nodes.into_iter())? {
            out.messages.push(format!("the recipe's override {unused} applies to no layer of this model"));
        }
        Ok(Self { out, layers, seed: recipe.seed, products: placement.products })
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
        let (shape, recipe) = (tensor.shape().to_vec(), self.layers.of[id.0 as usize]);
        Ok(Product { id, x, w, axis, shape, real, recipe })
    }
    /// Rounds a product's weights: `target`, which may differ from those that it has. `known`: what is known of its inputs and outputs; where its
    /// moments are centred, the bias makes up for errors of the mean.
    ///
    /// # Errors
    /// Names the node: weights that are NaN or infinite, a rounding that needs data and has none.
    pub fn round(&mut self, product: &Product, target: &[f32], known: Option<&Known>) -> Result<()> {
        let name = self.out.graph.node(product.id).name.clone();
        round(&mut self.out, product, target, known, self.seed).at(|| format!("node '{name}'"))
    }
    /// The result.
    pub fn finish(mut self) -> Quantized {
        self.out.graph.compact();
        self.out
    }
}

/// The recipe, resolved for every node.
struct Layers {
    of: Vec<LayerRecipe>,
    float: Vec<bool>,
    general: LayerRecipe,
    sum_operands: SumOperands,
}

impl Layers {
    fn new(graph: &Graph, recipe: &Recipe) -> Result<Self> {
        // The first and the last layer are the first and the last product that can be quantized at all.
        let all = place::place(graph, &vec![false; graph.node_count()], false).products;
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
        let float = graph.nodes().map(|(id, n)| of[id.0 as usize].keep_float || kept(&n.op)).collect();
        Ok(Self {
            of,
            float,
            general: recipe.resolve_at("", "Input", Position::First)?,
            sum_operands: recipe.sum_operands,
        })
    }
}

/// The grid of a group of values, from the merged statistics of its sources.
fn activation(
    graph: &Graph,
    producers: &[Option<NodeId>],
    consumers: &[Vec<(NodeId, usize)>],
    group: &Group,
    statistics: &Stats,
    layers: &Layers,
) -> Result<QParams> {
    let mut sources = group.sources.iter();
    let first = *sources.next().ok_or_else(|| Error::internal("a group of values without a source"))?;
    let mut all = statistics.get(&graph.value(first).name)?.clone();
    for &v in sources {
        all.merge(statistics.get(&graph.value(v).name)?)?;
    }
    let layer = producers[first.0 as usize].map_or(&layers.general, |n| &layers.of[n.0 as usize]);
    // The input of the network is the first layer's, whatever edge it has.
    let mut wanted = layer.activation;
    let sum = |node: NodeId| matches!(graph.node(node).op, Op::Binary(Binary::Add | Binary::Sub));
    let summed = group.values.iter().all(|v| consumers[v.0 as usize].iter().all(|(node, _)| sum(*node)));
    if layers.sum_operands == SumOperands::EightBit && summed {
        wanted.bits = wanted.bits.max(8);
    }
    // Logits are never clipped: their order is the answer.
    let output = group.values.iter().any(|v| graph.outputs.contains(v));
    let method = if output { range::RangeMethod::MinMax } else { wanted.range };
    let scheme = wanted.scheme();
    let (scale, zero) = range::params(range::choose(method, all.tensor()?, scheme)?, scheme);
    Ok(QParams::tensor(scheme.qtype, scale, zero))
}

/// Rounds the weights and the bias of a product.
fn round(out: &mut Quantized, product: &Product, target: &[f32], known: Option<&Known>, seed: u64) -> Result<()> {
    let Product { id, x, w, axis, shape, recipe: layer, .. } = product;
    let node = out.graph.node(*id).clone();
    let grid = out.graph.value(*x).quant.as_ref().and_then(|q| q.as_tensor());
    let (sx, _) = grid.ok_or_else(|| Error::internal("a product whose input has no grid"))?;
    let name = out.graph.value(*w).name.clone();
    let place = || format!("weight '{name}'");
    let mut params = weights::fit(target, shape, &layer.weight.scheme(*axis, 1 - axis)).at(place)?;
    let rounder = layer.weight.rounding.rounder(key(seed, &name));
    let curvature = known.map(|k| &k.curvature);
    let codes = |params: &QParams| -> Result<(Task, Vec<i32>)> {
        let task = Task::new(target, shape, *axis, params)?;
        let codes = rounder.round(&task, curvature).at(place)?;
        Ok((task, codes))
    };
    let (mut task, mut rows) = codes(&params)?;
    let channels = shape[*axis];
    let bias = node.input(2).filter(|_| !matches!(node.op, Op::MatMul));
    let old = bias.map(|b| out.graph.real_constant(b)).transpose()?;
    let for_codes = |task: &Task, rows: &[i32]| -> Option<Arc<Tensor>> {
        let Some(more) = known.and_then(|k| k.bias(&task.dequantize(rows))) else { return old.clone() };
        let old = old.as_ref().map(|b| b.to_f32s());
        let old = |c: usize| old.as_ref().map_or(0.0, |b| b[if b.len() == 1 { 0 } else { c }]);
        let new = more.iter().enumerate().map(|(c, more)| (f64::from(old(c)) + more) as f32);
        Some(Arc::new(Tensor::of(&[channels], new.collect::<Vec<f32>>())))
    };
    let mut bias_real = for_codes(&task, &rows);
    if let Some(b) = &bias_real
        && let Some((wider, changed)) = widen(&params, b, sx, channels)
    {
        out.messages.push(format!(
                "'{}': {changed} output channels have weights so small that their bias would overflow 32 bits; their scale was widened",
                node.name
            ));
        (task, rows) = codes(&wider)?;
        bias_real = for_codes(&task, &rows);
        params = wider;
    }
    let packed = Arc::new(weights::pack(&task.in_order(rows), shape, params.qtype)?);
    let new_w = constant(&mut out.graph, &name, *w, packed, params.clone());
    let mut inputs = node.inputs.clone();
    inputs[1] = Some(new_w);
    if let Some(real) = bias_real {
        let fresh = || out.graph.fresh_name(&format!("{name}_bias"));
        let name = bias.map_or_else(fresh, |b| out.graph.value(b).name.clone());
        let (codes, bias_params) = bias_codes(&real, &params, sx, channels).at(|| format!("bias '{name}'"))?;
        let codes = Arc::new(codes);
        let new = match bias {
            Some(b) => constant(&mut out.graph, &name, b, codes, bias_params),
            None => added(&mut out.graph, &name, codes, bias_params),
        };
        inputs.resize(inputs.len().max(3), None);
        inputs[2] = Some(new);
    }
    out.graph.node_mut(*id).inputs = inputs;
    Ok(())
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
fn bias_codes(bias: &Tensor, weight: &QParams, sx: f32, channels: usize) -> Result<(Tensor, QParams)> {
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
    Ok((Tensor::of(&[channels], codes), QParams::channel(QType::I32, 0, scale)))
}
