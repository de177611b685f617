//! Puts functions that exporters wrote out in primitives back together: Clip, HardSigmoid, HardSwish, Swish, Gelu, LayerNormalization.
//!
//! Every writing is accepted that computes the same function: operands in either order, division or multiplication by the
//! reciprocal, constants of rank 0 or one element, coefficients anywhere in a product. Constants must agree to `TOLERANCE`.
mod activation;
mod layer_norm;
mod pattern;

use super::view::View;
use crate::{
    error::Result,
    ir::{Graph, Node, NodeId, Op, Patch, Tensor, ValueId},
};
use std::{collections::HashSet, sync::Arc};

/// Relative deviation of a written constant (0.16667, 1.4142) from the exact one.
const TOLERANCE: f64 = 5e-5;

/// A function found: the operator, its inputs, and the nodes that it replaces besides the root.
struct Found {
    op: Op,
    inputs: Vec<Input>,
    nodes: Vec<NodeId>,
}

enum Input {
    Value(ValueId),
    Constant(&'static str, Tensor),
}

/// Answers the number of functions put together.
///
/// Only where every intermediate value is read inside the pattern alone, is no graph output and carries no annotation. A
/// matrix product followed by a bias stays two nodes.
///
/// # Errors
/// When the graph has a cycle.
pub fn run(graph: &mut Graph) -> Result<usize> {
    let mut total = 0;
    loop {
        let n = round(graph)?;
        if n == 0 {
            return Ok(total);
        }
        total += n;
    }
}

fn round(graph: &mut Graph) -> Result<usize> {
    let view = View::new(graph);
    let mut touched = HashSet::new();
    let mut found = Vec::new();
    let nodes: Vec<_> = graph.nodes().collect();
    // Last first: the longest form of a pattern ends last.
    for (id, node) in nodes.into_iter().rev() {
        let hit = layer_norm::find(&view, node).or_else(|| activation::find(&view, node));
        let Some(hit) = hit.filter(|h| closed(&view, id, &h.nodes)) else { continue };
        if hit.nodes.iter().chain([&id]).any(|n| touched.contains(n)) {
            continue;
        }
        touched.extend(hit.nodes.iter().copied().chain([id]));
        found.push((id, node.name.clone(), node.outputs.clone(), hit));
    }
    let mut patch = Patch::new();
    let edits = found.len();
    for (id, name, outputs, hit) in found {
        patch.remove(id);
        for n in hit.nodes {
            patch.remove(n);
        }
        let inputs = hit
            .inputs
            .into_iter()
            .map(|i| match i {
                Input::Value(v) => Some(v),
                Input::Constant(what, t) => Some(graph.add_constant(&format!("{name}.{what}"), Arc::new(t))),
            })
            .collect();
        patch.add(Node { name, op: hit.op, inputs, outputs });
    }
    if edits > 0 {
        graph.apply(patch)?;
    }
    Ok(edits)
}

/// Nothing outside of the pattern reads, or rounds, what is inside.
fn closed(view: &View, root: NodeId, nodes: &[NodeId]) -> bool {
    nodes.iter().flat_map(|&n| view.graph.node(n).outputs.iter().flatten()).all(|&v| {
        view.is_free(v) && view.readers(v).iter().all(|(reader, _)| *reader == root || nodes.contains(reader))
    })
}
