//! Which operators run within the convolution before them.
use crate::ir::{Graph, NodeId, Op, ValueId, op::Binary, op::Unary};

/// What may follow a convolution whose output nobody else reads.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// An addition: its node, its other operand and its output.
    pub add: Option<(NodeId, ValueId, ValueId)>,
    /// A clamp after that: its node, its bounds and its output.
    pub clamp: Option<(NodeId, [f32; 2], ValueId)>,
}

/// By node.
pub fn chains(graph: &Graph) -> Vec<Chain> {
    let (consumers, producers) = (graph.consumers(), graph.producers());
    let next = |v: ValueId| match consumers[v.0 as usize][..] {
        [(node, _)] if !graph.outputs.contains(&v) => Some(node),
        _ => None,
    };
    let one = |(id, node): (NodeId, &crate::ir::Node)| {
        let mut chain = Chain::default();
        if !matches!(node.op, Op::Conv(_)) {
            return chain;
        }
        let Some(mut value) = node.outputs.first().copied().flatten() else { return chain };
        if let Some(follower) = next(value)
            && let Op::Binary(Binary::Add) = graph.node(follower).op
            && let [Some(a), Some(b)] = graph.node(follower).inputs[..]
            && let Some(sum) = graph.node(follower).outputs.first().copied().flatten()
        {
            let other = if a == value { b } else { a };
            // It must be there when the convolution runs.
            let before = producers[other.0 as usize].is_none_or(|p| p.0 < id.0);
            if before && graph.constant(other).is_none() {
                chain.add = Some((follower, other, sum));
                value = sum;
            }
        }
        if let Some(follower) = next(value)
            && let Some(bounds) = clamp(graph, follower)
            && let Some(out) = graph.node(follower).outputs.first().copied().flatten()
        {
            chain.clamp = Some((follower, bounds, out));
        }
        chain
    };
    graph.nodes().map(one).collect()
}

/// The bounds of a Relu or a Clip with constant bounds.
fn clamp(graph: &Graph, id: NodeId) -> Option<[f32; 2]> {
    let node = graph.node(id);
    let bound = |i: usize, absent: f32| match node.input(i) {
        None => Some(absent),
        Some(v) => match *graph.constant(v)?.as_slice::<f32>().ok()? {
            [x] => Some(x),
            _ => None,
        },
    };
    match node.op {
        Op::Unary(Unary::Relu) => Some([0.0, f32::INFINITY]),
        Op::Clip => Some([bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?]),
        _ => None,
    }
}
