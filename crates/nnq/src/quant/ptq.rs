//! Post-training quantization: from a simplified float graph and its statistics to an annotated graph.
use crate::{
    error::{At, Error, Result},
    ir::{Granularity, Graph, NodeId, Op, QParams, QType, Tensor, ValueId},
    quant::{
        observer::Observer,
        place::{self, Group},
        range,
        recipe::{LayerRecipe, Logits, Position, Recipe},
        stats::Stats,
        weights::{self, Nearest, Rounder},
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

/// Quantizes `graph` (simplified, float) with the statistics of its values (by name).
///
/// # Errors
/// Names the value or node: statistics that are missing, NaN or infinities in statistics or weights, a recipe that cannot be
/// followed.
pub fn quantize(graph: &Graph, statistics: &Stats, recipe: &Recipe) -> Result<Quantized> {
    let mut out = Quantized { graph: graph.clone(), messages: Vec::new() };
    let layers = Layers::new(graph, recipe)?;
    let placement = place::place(graph, &layers.float, recipe.logits == Logits::Int8);
    if placement.products.is_empty() {
        return Err(Error::usage("no layer of the model can be quantized").cure(
            "nnq quantizes Conv, Gemm and MatMul with constant weights; the recipe may keep them all float, or the model has none",
        ));
    }
    let producers = graph.producers();
    for group in &placement.groups {
        let name = &graph.value(group.sources.first().copied().unwrap_or(group.values[0])).name;
        let params = activation(graph, &producers, group, statistics, &layers).at(|| format!("value '{name}'"))?;
        let params = Arc::new(params);
        for &v in &group.values {
            out.graph.value_mut(v).quant = Some(params.clone());
        }
    }
    for &id in &placement.products {
        let name = graph.node(id).name.clone();
        product(&mut out, id, &layers.of[id.0 as usize]).at(|| format!("node '{name}'"))?;
    }
    let nodes: Vec<(&str, &str)> = graph.nodes().map(|(_, n)| (n.name.as_str(), n.op.name())).collect();
    for unused in recipe.unused(nodes.into_iter())? {
        out.messages.push(format!("the recipe's override {unused} applies to no layer of this model"));
    }
    out.graph.compact();
    Ok(out)
}

/// The recipe, resolved for every node.
struct Layers {
    of: Vec<LayerRecipe>,
    float: Vec<bool>,
    general: LayerRecipe,
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
        Ok(Self { of, float, general: recipe.resolve("", "Input")? })
    }
}

/// The grid of a group of values, from the merged statistics of its sources.
fn activation(
    graph: &Graph,
    producers: &[Option<NodeId>],
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
    // Logits are never clipped: their order is the answer.
    let output = group.values.iter().any(|v| graph.outputs.contains(v));
    let method = if output { range::RangeMethod::MinMax } else { layer.activation.range };
    let scheme = layer.activation.scheme();
    let (scale, zero) = range::params(range::choose(method, all.tensor()?, scheme)?, scheme);
    Ok(QParams::tensor(scheme.qtype, scale, zero))
}

/// Rounds the weights and the bias of a product.
fn product(out: &mut Quantized, id: NodeId, layer: &LayerRecipe) -> Result<()> {
    let node = out.graph.node(id).clone();
    let (x, w) = match (node.input(0), node.input(1)) {
        (Some(x), Some(w)) => (x, w),
        _ => return Err(Error::internal("a product without weights")),
    };
    let (sx, _) = out
        .graph
        .value(x)
        .quant
        .as_ref()
        .and_then(|q| q.as_tensor())
        .ok_or_else(|| Error::internal("a product whose input has no grid"))?;
    let axis = match node.op {
        Op::Conv(_) | Op::Gemm { trans_b: true, .. } => 0,
        _ => 1,
    };
    let real = out.graph.constant(w).cloned().ok_or_else(|| Error::internal("weights that are no constant"))?;
    let name = out.graph.value(w).name.clone();
    let scheme = layer.weight.scheme(axis, 1 - axis);
    let (codes, mut params) = weights::quantize(&real, &scheme, &Nearest).at(|| format!("weight '{name}'"))?;
    let mut codes = Arc::new(codes);
    let bias = node.input(2).filter(|_| !matches!(node.op, Op::MatMul));
    let bias_real = match bias {
        Some(b) => Some(out.graph.real_constant(b)?),
        None => None,
    };
    if let Some(b) = &bias_real
        && let Some((wider, channels)) = widen(&params, b, sx, codes.shape()[axis])
    {
        out.messages.push(format!(
                "'{}': {channels} output channels have weights so small that their bias would overflow 32 bits; their scale was widened",
                node.name
            ));
        let rounded = Nearest.round(&real.to_f32s(), real.shape(), &wider)?;
        codes = Arc::new(weights::pack(&rounded, real.shape(), wider.qtype)?);
        params = wider;
    }
    let new_w = constant(&mut out.graph, &name, w, codes, params.clone());
    let mut inputs = node.inputs.clone();
    inputs[1] = Some(new_w);
    if let (Some(b), Some(real)) = (bias, bias_real) {
        let (codes, bias_params) =
            bias_codes(&real, &params, sx, out.graph.constant(new_w).map_or(0, |t| t.shape()[axis]))
                .at(|| format!("bias '{}'", out.graph.value(b).name))?;
        let name = out.graph.value(b).name.clone();
        inputs[2] = Some(constant(&mut out.graph, &name, b, Arc::new(codes), bias_params));
    }
    out.graph.node_mut(id).inputs = inputs;
    Ok(())
}

/// Puts codes into the graph as a constant that takes over the name of `old` (which stays for other readers, renamed).
fn constant(graph: &mut Graph, name: &str, old: ValueId, codes: Arc<Tensor>, params: QParams) -> ValueId {
    graph.rename(old, &format!("{name}_float"));
    let v = graph.add_constant(name, codes);
    let value = graph.value_mut(v);
    value.dtype = Some(crate::ir::DType::F32);
    value.quant = Some(Arc::new(params));
    v
}

/// The largest bias code that leaves the accumulator room for the products.
const BIAS_LIMIT: f64 = (1u64 << 30) as f64;

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
