//! Drops nodes that no output needs, values that nobody mentions, and optional outputs that nobody reads.
use super::view::View;
use crate::{
    error::Result,
    ir::{Graph, Op},
};

/// Answers the number of nodes and optional outputs dropped. Ids change.
///
/// # Errors
/// None today.
pub fn run(graph: &mut Graph) -> Result<usize> {
    let before = graph.node_count();
    let view = View::new(graph);
    let mut unread = Vec::new();
    for (id, node) in graph.nodes() {
        // Which outputs an operator can do without: the verifier's list, less those that are never cheaper to leave out.
        if matches!(node.op, Op::MaxPool { .. } | Op::Dropout | Op::LayerNormalization { .. }) {
            for (i, v) in node.outputs.iter().enumerate().skip(1) {
                if v.is_some_and(|v| view.is_unused(v) && view.is_free(v)) {
                    unread.push((id, i));
                }
            }
        }
    }
    for &(id, i) in &unread {
        let outputs = &mut graph.node_mut(id).outputs;
        outputs[i] = None;
        while outputs.last().is_some_and(Option::is_none) {
            outputs.pop();
        }
    }
    graph.compact();
    Ok(before - graph.node_count() + unread.len())
}
