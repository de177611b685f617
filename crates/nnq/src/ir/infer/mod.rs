//! Element types and shapes of all values, with symbols for sizes that are known only when the network runs.
//!
//! One rule file per operator family, as in the float executor. Small integer tensors (shapes, axes, positions) are followed
//! element by element, so that a `Reshape` whose target is computed from a `Shape` keeps its symbols.
mod arrange;
mod attention;
mod binary;
mod control;
mod einsum;
pub(crate) mod fact;
mod norm;
mod pool;
mod product;
mod quantized;
mod recurrent;
mod reduce;
mod resize;
mod select;
mod shape;
mod unary;

use crate::{
    error::{At, Error, Result},
    ir::{Binding, Dim, Graph, Node, Op, Shape},
};
use fact::{Args, Fact};

/// Fills the element types and shapes of all values.
///
/// A size declared in the graph (an intermediate or output shape of the model file) completes what cannot be inferred. Where
/// both are known and differ, that is an error; where one of them is a symbol, the inferred one counts.
///
/// # Errors
/// Names the node, its operator, inputs and their shapes.
pub fn infer(graph: &mut Graph) -> Result<()> {
    let facts = facts(graph)?;
    let ids: Vec<_> = graph.values().map(|(id, _)| id).collect();
    for (id, fact) in ids.into_iter().zip(facts) {
        let value = graph.value_mut(id);
        if value.constant.is_none() {
            value.dtype = fact.dtype;
            value.shape = fact.shape;
        }
    }
    Ok(())
}

/// Replaces symbols of the graph's inputs by sizes and infers everything else again. A symbol that no input has changes nothing.
///
/// # Errors
/// When the shapes do not fit.
pub fn bind(graph: &Graph, binding: &Binding) -> Result<Graph> {
    let mut graph = graph.clone();
    let ids: Vec<_> = graph.values().map(|(id, _)| id).collect();
    for id in ids {
        let is_input = graph.inputs.contains(&id);
        let value = graph.value_mut(id);
        if is_input {
            value.shape = value.shape.as_ref().map(|s| s.bind(binding));
        } else if value.constant.is_none() {
            value.shape = None;
        }
    }
    infer(&mut graph)?;
    Ok(graph)
}

/// What is known of every value, by id.
pub(crate) fn facts(graph: &Graph) -> Result<Vec<Fact>> {
    facts_from(graph, &[])
}

/// As [`facts`], with what is known of the inputs besides.
fn facts_from(graph: &Graph, inputs: &[Fact]) -> Result<Vec<Fact>> {
    let mut facts: Vec<Fact> = graph
        .values()
        .map(|(_, v)| match &v.constant {
            Some(t) if v.quant.is_none() => Fact::of(t),
            _ => Fact { dtype: v.dtype, shape: v.shape.clone(), ..Fact::default() },
        })
        .collect();
    for (v, given) in graph.inputs.iter().zip(inputs) {
        let declared = std::mem::take(&mut facts[v.0 as usize]);
        let at = || format!("input '{}'", graph.value(*v).name);
        facts[v.0 as usize] = merge(given.clone(), &declared).at(at)?;
    }
    for (_, node) in graph.nodes() {
        let x: Vec<Option<Fact>> =
            node.inputs.iter().map(|v| v.and_then(|v| facts.get(v.0 as usize).cloned())).collect();
        let args = Args { x: &x, outputs: node.outputs.len() };
        let out = rule(&node.op, &args).at(|| place(graph, node, &x))?;
        if out.len() < node.outputs.len() {
            let e = Error::shape(format!("{} outputs, the operator has {}", node.outputs.len(), out.len()));
            return Err(e.at(place(graph, node, &x)));
        }
        for (v, inferred) in node.outputs.iter().zip(out) {
            let Some(v) = v else { continue };
            let declared = std::mem::take(&mut facts[v.0 as usize]);
            facts[v.0 as usize] = merge(inferred, &declared)
                .at(|| format!("output '{}'", graph.value(*v).name))
                .at(|| place(graph, node, &x))?;
        }
    }
    Ok(facts)
}

fn place(graph: &Graph, node: &Node, x: &[Option<Fact>]) -> String {
    let inputs: Vec<String> = node
        .inputs
        .iter()
        .zip(x)
        .map(|(v, f)| match (v, f) {
            (Some(v), Some(f)) => {
                let dtype = f.dtype.map_or("?", |d| d.name());
                let shape = f.shape.as_ref().map_or_else(|| "[..]".to_string(), ToString::to_string);
                format!("{}: {dtype}{shape}", graph.value(*v).name)
            }
            _ => "-".into(),
        })
        .collect();
    format!("node '{}' ({}; inputs {})", node.name, node.op.name(), inputs.join(", "))
}

fn merge(mut inferred: Fact, declared: &Fact) -> Result<Fact> {
    match (inferred.dtype, declared.dtype) {
        (Some(a), Some(b)) if a != b => {
            return Err(Error::shape(format!("declared as {b}, the inputs give {a}")));
        }
        (None, d) => inferred.dtype = d,
        _ => {}
    }
    let Some(d) = &declared.shape else { return Ok(inferred) };
    let Some(s) = &mut inferred.shape else {
        inferred.shape = Some(d.clone());
        return Ok(inferred);
    };
    let differ = |s: &Shape| Err(Error::shape(format!("declared shape {d}, the inputs give {s}")));
    if s.rank() != d.rank() {
        return differ(s);
    }
    for i in 0..s.rank() {
        match (&s.0[i], &d.0[i]) {
            (Dim::Fixed(a), Dim::Fixed(b)) if a != b => return differ(s),
            (Dim::Unknown, other) => s.0[i] = other.clone(),
            _ => {}
        }
    }
    Ok(inferred)
}

/// The rule of each operator.
fn rule(op: &Op, x: &Args) -> Result<Vec<Fact>> {
    match op {
        Op::Conv(a) => product::conv(a, x),
        Op::ConvTranspose(a) => product::conv_transpose(a, x),
        Op::Gemm { trans_a, trans_b, .. } => product::gemm(*trans_a, *trans_b, x),
        Op::MatMul => product::matmul(x),
        Op::Recurrent(a) => recurrent::run(a, x),
        Op::Attention(a) => attention::attention(a, x),
        Op::RotaryEmbedding { heads, .. } => attention::rotary(*heads, x),
        Op::Einsum { equation } => einsum::run(equation, x),
        Op::BatchNormalization { .. } | Op::InstanceNormalization { .. } | Op::GroupNormalization { .. } => {
            norm::per_channel(x)
        }
        Op::LayerNormalization { axis, .. } => norm::layer(*axis, x),
        Op::RmsNormalization { axis, .. } => norm::rms(*axis, x),
        Op::Lrn { .. } => norm::lrn(x),
        Op::Softmax { axis, flat } | Op::LogSoftmax { axis, flat } | Op::Hardmax { axis, flat } => {
            norm::softmax(*axis, *flat, x)
        }
        Op::Unary(u) => unary::run(*u, x),
        Op::Clip => unary::clip(x),
        Op::Cast { to, .. } => unary::cast(*to, x),
        Op::CastLike { .. } => unary::cast_like(x),
        Op::Control(c) => control::run(c, x),
        Op::Binary(b) => binary::run(*b, x),
        Op::Variadic(v) => binary::variadic(*v, x),
        Op::Where => binary::select(x),
        Op::Reduce { kind, keepdims, noop_with_empty_axes } => reduce::run(*kind, *keepdims, *noop_with_empty_axes, x),
        Op::ArgMax { axis, keepdims, .. } | Op::ArgMin { axis, keepdims, .. } => reduce::arg(*axis, *keepdims, x),
        Op::CumSum { .. } => reduce::cumsum(x),
        Op::TopK { axis, .. } => reduce::top_k(*axis, x),
        Op::MaxPool { window, .. } => pool::max(window, x),
        Op::AveragePool { window, .. } | Op::LpPool { window, .. } => pool::average(window, x),
        Op::GlobalMaxPool | Op::GlobalAveragePool | Op::GlobalLpPool { .. } => pool::global(x),
        Op::Concat { axis } => arrange::concat(*axis, x),
        Op::Split { axis } => arrange::split(*axis, x),
        Op::Slice => arrange::slice(x),
        Op::Pad { .. } => arrange::pad(x),
        Op::Transpose { perm } => arrange::transpose(perm, x),
        Op::Expand => arrange::expand(x),
        Op::Tile => arrange::tile(x),
        Op::DepthToSpace { block, .. } => arrange::depth_to_space(*block, x),
        Op::SpaceToDepth { block } => arrange::space_to_depth(*block, x),
        Op::Identity => arrange::identity(x),
        Op::Dropout => arrange::dropout(x),
        Op::Trilu { .. } => arrange::trilu(x),
        Op::Reshape { allowzero } => shape::reshape(*allowzero, x),
        Op::Flatten { axis } => shape::flatten(*axis, x),
        Op::Squeeze => shape::squeeze(x),
        Op::Unsqueeze => shape::unsqueeze(x),
        Op::Shape { start, end } => shape::shape(*start, *end, x),
        Op::Size => shape::size(x),
        Op::ConstantOfShape { value } => shape::constant_of_shape(value, x),
        Op::Range => shape::range(x),
        Op::Gather { axis } => select::gather(*axis, x),
        Op::GatherElements { axis } => select::gather_elements(*axis, x),
        Op::GatherNd { batch_dims } => select::gather_nd(*batch_dims, x),
        Op::ScatterElements { axis, .. } => select::scatter_elements(*axis, x),
        Op::ScatterNd { .. } => select::scatter_nd(x),
        Op::NonZero => select::non_zero(x),
        Op::Compress { axis } => select::compress(*axis, x),
        Op::ReverseSequence { batch_axis, time_axis } => select::reverse_sequence(*batch_axis, *time_axis, x),
        Op::OneHot { axis } => select::one_hot(*axis, x),
        Op::Resize(a) => resize::run(a, x),
        Op::QuantizeLinear { out, .. } => quantized::quantize(*out, x),
        Op::DequantizeLinear { .. } => quantized::dequantize(x),
        Op::DynamicQuantizeLinear => quantized::dynamic(x),
        Op::QLinearConv(a) => quantized::qlinear_conv(a, x),
        Op::QLinearMatMul => quantized::qlinear_matmul(x),
        Op::ConvInteger(a) => quantized::conv_integer(a, x),
        Op::MatMulInteger => quantized::matmul_integer(x),
    }
}
