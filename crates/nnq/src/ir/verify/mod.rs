//! The rules of the IR. A graph that breaks one is a defect of whatever made it.
mod arity;
mod attrs;

use crate::{
    error::{At, Error, Result},
    ir::{DType, Graph, Node, Shape, Value, ValueId},
};
use std::collections::HashSet;

/// Checks every rule of the IR:
/// - ids are in range; value names and node names are unique and not empty;
/// - each value has one producer at most, inputs and constants have none, and is read only after it is produced;
/// - each operator has as many inputs and outputs as it may have, and attributes in range;
/// - a constant's tensor has the declared type and shape (a quantized one: float outside, integers or floats inside, codes on
///   the grid);
/// - quantization parameters fit their value;
/// - what is quantized dynamically is f32, computed or an input, and not quantized otherwise.
///
/// # Errors
/// Names the node or value and the rule.
pub fn verify(graph: &Graph) -> Result<()> {
    ids(graph)?;
    let mut names = HashSet::new();
    for (_, v) in graph.values() {
        if v.name.is_empty() || !names.insert(v.name.as_str()) {
            return Err(broken(if v.name.is_empty() { "a value without a name" } else { "two values of one name" })
                .at(format!("value '{}'", v.name)));
        }
        value(v).at(|| format!("value '{}'", v.name))?;
    }
    flow(graph)?;
    let mut names = HashSet::new();
    for (_, n) in graph.nodes() {
        let place = || format!("node '{}' ({})", n.name, n.op.name());
        if n.name.is_empty() || !names.insert(n.name.as_str()) {
            return Err(
                broken(if n.name.is_empty() { "a node without a name" } else { "two nodes of one name" }).at(place())
            );
        }
        arity::check(n).at(place)?;
        attrs::check(&n.op).at(place)?;
    }
    Ok(())
}

fn broken(rule: impl Into<String>) -> Error {
    Error::internal(rule)
}

fn ids(graph: &Graph) -> Result<()> {
    let n = graph.value_count();
    let mentioned = |node: &Node| node.inputs.iter().chain(&node.outputs).flatten().copied().collect::<Vec<_>>();
    let bad = |v: &ValueId| v.0 as usize >= n;
    if let Some(v) = graph.inputs.iter().chain(&graph.outputs).find(|v| bad(v)) {
        return Err(broken(format!("an input or output is value {} of {n}", v.0)));
    }
    for (_, node) in graph.nodes() {
        if let Some(v) = mentioned(node).iter().find(|v| bad(v)) {
            return Err(broken(format!("value {} of {n}", v.0)).at(format!("node '{}'", node.name)));
        }
    }
    Ok(())
}

/// Single assignment and order.
fn flow(graph: &Graph) -> Result<()> {
    let mut ready: Vec<bool> = graph.values().map(|(_, v)| v.constant.is_some()).collect();
    for &v in &graph.inputs {
        let name = &graph.value(v).name;
        if std::mem::replace(&mut ready[v.0 as usize], true) {
            return Err(broken(format!("input '{name}' is a constant or is listed twice")));
        }
    }
    let produced: HashSet<ValueId> = graph.nodes().flat_map(|(_, n)| n.outputs.iter().flatten().copied()).collect();
    for (_, node) in graph.nodes() {
        let place = || format!("node '{}' ({})", node.name, node.op.name());
        for &v in node.inputs.iter().flatten() {
            if !ready[v.0 as usize] {
                let why = if produced.contains(&v) { "before it is produced" } else { "that nothing produces" };
                return Err(broken(format!("reads '{}' {why}", graph.value(v).name)).at(place()));
            }
        }
        for &v in node.outputs.iter().flatten() {
            if std::mem::replace(&mut ready[v.0 as usize], true) {
                return Err(broken(format!(
                    "writes '{}', which is an input, a constant or produced elsewhere",
                    graph.value(v).name
                ))
                .at(place()));
            }
        }
    }
    let mut seen = HashSet::new();
    for &v in &graph.outputs {
        let name = &graph.value(v).name;
        if !ready[v.0 as usize] {
            return Err(broken(format!("nothing produces the output '{name}'")));
        }
        if !seen.insert(v) {
            return Err(broken(format!("output '{name}' is listed twice")));
        }
    }
    Ok(())
}

fn value(v: &Value) -> Result<()> {
    if let Some(q) = &v.quant {
        if let Some(d) = v.dtype.filter(|d| !d.is_float()) {
            return Err(broken(format!("quantized, but of type {d} to its readers")));
        }
        q.check(v.shape.as_ref().and_then(Shape::as_fixed).as_deref())?;
        if let crate::ir::Granularity::Channel { axis } | crate::ir::Granularity::Block { axis, .. } = q.granularity
            && let Some(s) = v.shape.as_ref().filter(|s| axis >= s.rank())
        {
            return Err(Error::shape(format!("quantized along axis {axis} of a shape {s}")));
        }
    }
    if v.dynamic.is_some() {
        if v.quant.is_some() || v.constant.is_some() {
            let what = if v.quant.is_some() { "on a grid too" } else { "a constant" };
            return Err(broken(format!("quantized dynamically, but {what}")));
        }
        if let Some(d) = v.dtype.filter(|&d| d != DType::F32) {
            return Err(broken(format!("quantized dynamically, but of type {d}")));
        }
    }
    let Some(t) = &v.constant else { return Ok(()) };
    if v.shape.as_ref().and_then(Shape::as_fixed).as_deref() != Some(t.shape()) {
        let declared = v.shape.as_ref().map_or_else(|| "none".into(), ToString::to_string);
        return Err(broken(format!("the constant has shape {:?}, declared is {declared}", t.shape())));
    }
    match &v.quant {
        Some(q) if t.dtype().is_int() => {
            if v.dtype != Some(DType::F32) {
                return Err(broken("the codes of a quantized constant stand for numbers of type f32"));
            }
            let (lo, hi) = (i64::from(q.qtype.min()), i64::from(q.qtype.max()));
            if let Some((least, most)) = t.int_range()?
                && (least < lo || most > hi)
            {
                let code = if least < lo { least } else { most };
                return Err(broken(format!("code {code} is not on the grid {}", q.qtype)));
            }
        }
        _ if v.dtype != Some(t.dtype()) => {
            let declared = v.dtype.map_or("none", DType::name);
            return Err(broken(format!("the constant has type {}, declared is {declared}", t.dtype())));
        }
        _ => {}
    }
    Ok(())
}
