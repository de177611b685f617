//! Removes nodes that hand their input on unchanged.
use super::view::View;
use crate::{
    error::Result,
    ir::{Graph, Node, NodeId, Op, Patch, ValueId},
};

/// Answers the number of nodes removed.
///
/// A node stays when its output is annotated otherwise than its input (that is a quantization point), or when its output is a graph
/// output and its input a graph input, a constant or another output: the output's name must be somewhere.
///
/// # Errors
/// When the graph has a cycle.
pub fn run(graph: &mut Graph) -> Result<usize> {
    let mut total = 0;
    loop {
        let edits = find(graph);
        if edits.is_empty() {
            return Ok(total);
        }
        total += edits.len();
        let mut patch = Patch::new();
        for &(node, from, to) in &edits {
            patch.replace(from, to).remove(node);
            if graph.outputs.contains(&from) {
                let name = graph.value(from).name.clone();
                graph.rename(from, &format!("{name}.removed"));
                graph.rename(to, &name);
            }
        }
        graph.apply(patch)?;
    }
}

/// Nodes to remove with (output, input), last first, so that chains resolve. The replacement of a graph output ends the list: what
/// is an output changes with it.
fn find(graph: &Graph) -> Vec<(NodeId, ValueId, ValueId)> {
    let view = View::new(graph);
    let mut edits = Vec::new();
    let nodes: Vec<_> = graph.nodes().collect();
    for (id, node) in nodes.into_iter().rev() {
        let Some((from, to)) = node.output(0).zip(source(&view, node)) else { continue };
        let annotation = |v: ValueId| (&graph.value(v).quant, graph.value(v).dynamic);
        if annotation(from) != annotation(to) {
            continue;
        }
        if view.is_output(from) {
            if view.producer(to).is_none() || view.is_output(to) {
                continue;
            }
            edits.push((id, from, to));
            return edits;
        }
        edits.push((id, from, to));
    }
    edits
}

/// The input that the node's output equals.
fn source(view: &View, node: &Node) -> Option<ValueId> {
    let (x, y) = (node.input(0)?, node.output(0)?);
    let all = |i: usize, n: i64| node.input(i).and_then(|v| view.ints(v)).is_some_and(|v| v.iter().all(|&x| x == n));
    let nothing = match &node.op {
        Op::Identity => true,
        Op::Dropout => {
            let trains = node.input(2).is_some_and(|v| view.ints(v).as_deref() != Some(&[0]));
            !trains && node.output(1).is_none_or(|mask| view.is_unused(mask))
        }
        Op::Cast { to, .. } => view.dtype(x) == Some(*to),
        Op::Reshape { .. } | Op::Expand | Op::Squeeze | Op::Unsqueeze => view.same_shape(x, y),
        Op::Flatten { axis } => view.same_shape(x, y) || view.rank(x) == Some(2) && matches!(axis, 1 | -1),
        Op::Transpose { perm } if perm.is_empty() => view.rank(x).is_some_and(|r| r < 2),
        Op::Transpose { perm } => perm.iter().enumerate().all(|(i, &p)| i == p),
        Op::Pad { .. } => all(1, 0),
        Op::Slice => view.same_shape(x, y) && (node.input(4).is_none() || all(4, 1)),
        Op::Tile => all(1, 1),
        Op::Concat { .. } | Op::Variadic(_) => node.inputs.len() == 1,
        Op::Split { .. } => node.outputs.len() == 1,
        Op::Clip => node.input(1).is_none() && node.input(2).is_none(),
        _ => false,
    };
    nothing.then_some(x)
}
