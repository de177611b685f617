//! Computes what depends on constants and known shapes only.
use super::{Eval, view::View};
use crate::{
    error::{At, Error, ErrorKind, Result},
    ir::{
        DType, Graph, Node, Op, Patch, Shape, Tensor, ValueId, count,
        infer::{fact::Fact, facts},
        op::Control,
    },
};
use std::{collections::HashMap, sync::Arc};

/// A result this many times larger than its inputs ...
const MAX_GROWTH: usize = 16;
/// ... and larger than this many bytes stays a computation.
const MAX_BYTES: usize = 1 << 20;

/// Answers the number of nodes folded. Values keep their names and become constants. Graph outputs stay computed, and
/// operators of quantization stay visible.
///
/// # Errors
/// What `eval` refuses for constants, except an unsupported operator, which stays.
pub fn run(graph: &mut Graph, eval: &Eval) -> Result<usize> {
    let mut total = 0;
    loop {
        let n = round(graph, eval)?;
        if n == 0 {
            return Ok(total);
        }
        total += n;
    }
}

fn round(graph: &mut Graph, eval: &Eval) -> Result<usize> {
    let facts = facts(graph)?;
    let view = View::new(graph);
    let mut folded: HashMap<ValueId, Arc<Tensor>> = HashMap::new();
    let mut patch = Patch::new();
    let mut edits = 0;
    for (id, node) in graph.nodes() {
        let free = node.outputs.iter().flatten().all(|&v| view.is_free(v));
        if !free || keeps(&node.op) {
            continue;
        }
        let result = match from_shapes(node, &facts) {
            Some(t) => Some(vec![t]),
            None => evaluate(&view, node, &facts, &folded, eval)
                .at(|| format!("node '{}' ({}), which has constant inputs", node.name, node.op.name()))?,
        };
        let Some(result) = result else { continue };
        for (v, t) in node.outputs.iter().zip(result) {
            if let Some(v) = v {
                folded.insert(*v, Arc::new(t));
            }
        }
        patch.remove(id);
        edits += 1;
    }
    for (v, t) in folded {
        let value = graph.value_mut(v);
        value.dtype = Some(t.dtype());
        value.shape = Some(Shape::fixed(t.shape()));
        value.constant = Some(t);
    }
    graph.apply(patch)?;
    Ok(edits)
}

/// Quantization must stay visible to whoever reads the graph; what takes unknown time is left to those who run it.
fn keeps(op: &Op) -> bool {
    matches!(
        op,
        Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::DynamicQuantizeLinear
            | Op::Control(Control::Loop { .. } | Control::Scan { .. })
    )
}

/// Whole numbers that inference knows already, mostly parts of shapes.
fn from_shapes(node: &Node, facts: &[Fact]) -> Option<Tensor> {
    let [Some(v)] = node.outputs[..] else { return None };
    let fact = &facts[v.0 as usize];
    let ints = fact.known_ints()?;
    let shape = fact.shape.as_ref()?.as_fixed()?;
    match fact.dtype? {
        DType::I64 => Some(Tensor::of(&shape, ints)),
        DType::I32 => {
            Some(Tensor::of(&shape, ints.iter().map(|&x| i32::try_from(x).ok()).collect::<Option<Vec<_>>>()?))
        }
        _ => None,
    }
}

fn bytes(fact: &Fact) -> Option<usize> {
    let n = count(&fact.shape.as_ref()?.as_fixed()?).ok()?;
    n.checked_mul(fact.dtype?.size())
}

fn evaluate(
    view: &View,
    node: &Node,
    facts: &[Fact],
    folded: &HashMap<ValueId, Arc<Tensor>>,
    eval: &Eval,
) -> Result<Option<Vec<Tensor>>> {
    let mut x = Vec::with_capacity(node.inputs.len());
    for v in &node.inputs {
        match v {
            None => x.push(None),
            Some(v) => match folded.get(v).or_else(|| view.tensor(*v)) {
                Some(t) => x.push(Some(&**t)),
                None => return Ok(None),
            },
        }
    }
    let given: usize = x.iter().flatten().map(|t| t.len() * t.dtype().size()).sum();
    if x.iter().all(Option::is_none) {
        return Ok(None);
    }
    // The size is known before anything is allocated, or nothing is evaluated.
    let sizes: Option<Vec<usize>> = node.outputs.iter().flatten().map(|v| bytes(&facts[v.0 as usize])).collect();
    let Some(sizes) = sizes else { return Ok(None) };
    let total = sizes.iter().fold(0usize, |s, &n| s.saturating_add(n));
    if total > MAX_BYTES && total > given.saturating_mul(MAX_GROWTH) {
        return Ok(None);
    }
    match eval(&node.op, &x, node.outputs.len()) {
        Ok(out) if out.len() < node.outputs.len() => {
            Err(Error::internal(format!("{} outputs instead of {}", out.len(), node.outputs.len())))
        }
        Ok(out) => Ok(Some(out)),
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
        Err(e) => Err(e),
    }
}
