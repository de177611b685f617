//! What lies between products of networks with attention, where it is to compute in integers (numerics section 14).
use super::{Mode, Role};
use crate::{
    exec::lower::forms::{Vector, is_last, norm_parts, repeats, with_vector},
    ir::{
        Graph, Node, NodeId, Op, ValueId,
        op::{Binary, Unary},
    },
};
use std::collections::HashMap;

type Readers = [(NodeId, usize)];

/// Whether a node is a product of two values.
pub(in crate::quant) fn is_pair(graph: &Graph, node: &Node) -> bool {
    let real = |i: usize| node.input(i).is_some_and(|v| graph.constant(v).is_none());
    matches!(node.op, Op::MatMul) && real(0) && real(1)
}

/// What a node of mode `Integer`, which is nothing of other modes, can do with codes.
pub(super) fn role(graph: &Graph, node: &Node) -> Role {
    let real = node.input(0).is_some_and(|v| graph.value(v).dtype == Some(crate::ir::DType::F32));
    match node.op {
        _ if !real => Role::Float,
        Op::LayerNormalization { .. } if norm_parts(graph, node).is_some() => Role::Integer,
        Op::Softmax { axis, .. } if is_last(graph, node, axis) => Role::Integer,
        Op::MatMul if is_pair(graph, node) => Role::Integer,
        Op::Binary(Binary::Add | Binary::Mul | Binary::Div) if with_vector(graph, node).is_some() => Role::Compute,
        _ => Role::Float,
    }
}

/// Whether `reader`, the only one of what `node` makes, is a bias or a factor that its product takes along.
pub(super) fn folds(graph: &Graph, node: &Node, reader: &Node) -> bool {
    let Some(Vector { by, .. }) = with_vector(graph, reader).filter(|v| Some(v.x) == node.output(0)) else {
        return false;
    };
    match reader.op {
        Op::Binary(Binary::Add) => !is_pair(graph, node) && matches!(node.op, Op::MatMul | Op::Gemm { .. }),
        Op::Binary(Binary::Mul | Binary::Div) => is_pair(graph, node) && by.len() == 1,
        _ => false,
    }
}

/// Sums that only a softmax reads, of scores and a mask: the mask is the softmax's.
pub(super) struct Masks {
    /// For each of them, and for what it makes, the scores.
    scores: HashMap<NodeId, ValueId>,
    sums: HashMap<ValueId, NodeId>,
}

impl Masks {
    pub(super) fn of(
        graph: &Graph,
        modes: &[Mode],
        consumers: &[Vec<(NodeId, usize)>],
        producers: &[Option<NodeId>],
    ) -> Self {
        let mut masks = Self { scores: HashMap::new(), sums: HashMap::new() };
        for (id, node) in graph.nodes() {
            let (Op::Binary(Binary::Add), Some(y)) = (&node.op, node.output(0)) else { continue };
            let [(reader, _)] = consumers[y.0 as usize][..] else { continue };
            let softmax =
                matches!(graph.node(reader).op, Op::Softmax { axis, .. } if is_last(graph, graph.node(reader), axis));
            if !softmax || modes[reader.0 as usize] != Mode::Integer || graph.outputs.contains(&y) {
                continue;
            }
            let makes = |v: ValueId| producers[v.0 as usize].map(|id| graph.node(id));
            let scores = |v: &ValueId| {
                let whole = graph.value(*v).shape.is_some() && graph.value(*v).shape == graph.value(y).shape;
                let factor = makes(*v).filter(|n| matches!(n.op, Op::Binary(Binary::Mul | Binary::Div)));
                let product = factor.and_then(|n| with_vector(graph, n)).and_then(|v| makes(v.x)).or(makes(*v));
                whole && product.is_some_and(|n| is_pair(graph, n))
            };
            if let Some(of) = (0..2).filter_map(|i| node.input(i)).find(scores) {
                masks.scores.insert(id, of);
                masks.sums.insert(y, id);
            }
        }
        masks
    }
    /// The scores that the sum `id` adds a mask to.
    pub(super) fn codes_of(&self, id: NodeId) -> Option<ValueId> {
        self.scores.get(&id).copied()
    }
    pub(super) fn is_masked(&self, v: ValueId) -> bool {
        self.sums.contains_key(&v)
    }
}

/// Whether a node reads codes of 16 bits.
pub(in crate::quant) fn reads_words(graph: &Graph, modes: &[Mode], id: NodeId) -> bool {
    let node = graph.node(id);
    let real = |i: usize| node.input(i).is_some_and(|v| graph.constant(v).is_none());
    modes[id.0 as usize] == Mode::Integer
        && match node.op {
            Op::LayerNormalization { .. } => role(graph, node) == Role::Integer,
            Op::Binary(Binary::Add | Binary::Sub) => real(0) && real(1) && repeats(graph, node),
            Op::Binary(Binary::Mul | Binary::Div) => with_vector(graph, node).is_some(),
            _ => is_curve(&node.op),
        }
}

/// Bits of what normalisations, sums and factors read.
const WIDE: u8 = 16;
/// Bits of what a function of one number reads: a table of as many entries stays in a near cache.
const TABLE: u8 = 12;

/// The bits of a value that is to have more than others: what a normalisation makes or reads, and what sums, factors and functions of one number read of what
/// can make words.
pub(super) fn bits(
    graph: &Graph,
    modes: &[Mode],
    v: ValueId,
    (producer, readers): (Option<NodeId>, &Readers),
    masks: &Masks,
) -> Option<u8> {
    let made = producer?;
    let node = graph.node(made);
    // Images are made by convolutions, and those make bytes.
    let image = graph.value(v).shape.as_ref().is_none_or(|s| s.rank() > 3);
    if modes[made.0 as usize] != Mode::Integer || masks.is_masked(v) || image {
        return None;
    }
    let (word, function) = match &node.op {
        // Whoever reads it.
        Op::LayerNormalization { .. } => return (role(graph, node) == Role::Integer).then_some(WIDE),
        Op::Gemm { .. } => (true, true),
        Op::MatMul => (!is_pair(graph, node), !is_pair(graph, node)),
        Op::Binary(Binary::Add | Binary::Sub) => (true, true),
        Op::Gather { .. } | Op::Binary(Binary::Mul | Binary::Div) => (true, false),
        Op::Unary(Unary::Gelu { .. } | Unary::Relu) => (true, false),
        _ => (false, false),
    };
    let words = |&(id, _): &(NodeId, usize)| reads_words(graph, modes, id) && masks.codes_of(id).is_none();
    let curve = |&(id, _): &(NodeId, usize)| modes[id.0 as usize] == Mode::Integer && is_curve(&graph.node(id).op);
    if word && readers.iter().any(words) {
        return Some(WIDE);
    }
    (function && !readers.is_empty() && readers.iter().all(curve)).then_some(TABLE)
}

/// A function of one number that 8 bits spoil: steep here, flat there.
fn is_curve(op: &Op) -> bool {
    matches!(op, Op::Unary(u) if !matches!(u, Unary::Relu | Unary::Neg | Unary::Abs))
}
