//! Attention as exporters write it, in one node.
//!
//! ```text
//! softmax(q k' * number + mask) v      q, k, v: [b, l, heads * size] -> [b, l, heads, size] -> [b, heads, l, size]; the result likewise back
//! ```
//!
//! Not a part of [`super::simplify`]: products within attention can be quantized one by one, and not every runtime knows the
//! operator. What computes between quantized products in floating point is looked for when a graph is lowered.
use super::view::View;
use crate::{
    error::Result,
    ir::{
        DType, Dim, Graph, Node, NodeId, Op, Patch, ValueId,
        op::{AttentionAttrs, Binary},
    },
};

/// The axes of heads and rows, swapped.
const SWAP: [usize; 4] = [0, 2, 1, 3];

/// Answers how many were found. Within one, no value is read by others, is a graph output or rounds; the result may be rounded, on one grid throughout.
///
/// A query all of whose keys the mask hides (by minus infinity) is answered with zeros, as the operator has it, not with NaN.
///
/// # Errors
/// When the graph has a cycle.
pub fn run(graph: &mut Graph) -> Result<usize> {
    let view = View::new(graph);
    let found: Vec<(Node, Vec<NodeId>)> = graph.nodes().filter_map(|(id, node)| find(&view, id, node)).collect();
    let (mut patch, n) = (Patch::new(), found.len());
    for (node, replaced) in found {
        for id in replaced {
            patch.remove(id);
        }
        patch.add(node);
    }
    if n > 0 {
        graph.apply(patch)?;
    }
    Ok(n)
}

/// A walk from a value to those that it is made of.
struct Walk<'v, 'g> {
    view: &'v View<'g>,
    nodes: Vec<NodeId>,
}

impl<'g> Walk<'_, 'g> {
    /// The producer of a value that nobody else reads.
    fn back(&mut self, v: ValueId, is: impl Fn(&Op) -> bool) -> Option<&'g Node> {
        let (id, node) = self.view.producer(v).filter(|(_, node)| self.view.is_link(v) && is(&node.op))?;
        self.nodes.push(id);
        Some(node)
    }
    fn transposed(&mut self, v: ValueId, by: [usize; 4]) -> Option<ValueId> {
        self.back(v, |op| matches!(op, Op::Transpose { perm } if perm[..] == by))?.input(0)
    }
    /// `[b, l, heads * size]` below `[b, l, heads, size]`, and the sizes of the latter.
    fn joined(&mut self, v: ValueId) -> Option<(ValueId, [Dim; 4])> {
        let x = self.back(v, |op| matches!(op, Op::Reshape { .. }))?.input(0)?;
        let split = sizes(self.view, v)?;
        (flat(self.view, x)? == together(&split)?).then_some((x, split))
    }
    /// As it was before it was multiplied with numbers, and their product.
    fn plain(&mut self, mut v: ValueId) -> (ValueId, f64) {
        let mut number = 1.0;
        while let Some((id, node)) = self.view.producer(v).filter(|_| self.view.is_link(v)) {
            let (Some(a), Some(b)) = (node.input(0), node.input(1)) else { break };
            let (scalar_a, scalar_b) = (self.view.scalar(a), self.view.scalar(b));
            let (next, by) = match (&node.op, scalar_a, scalar_b) {
                (Op::Binary(Binary::Mul), None, Some(by)) => (a, by),
                (Op::Binary(Binary::Mul), Some(by), None) => (b, by),
                (Op::Binary(Binary::Div), None, Some(by)) => (a, 1.0 / by),
                _ => break,
            };
            self.nodes.push(id);
            (v, number) = (next, number * by);
        }
        (v, number)
    }
    /// Queries and keys below their products, with the sizes of both and the number.
    fn scores(&mut self, v: ValueId) -> Option<([ValueId; 2], [[Dim; 4]; 2], f64)> {
        let (v, behind) = self.plain(v);
        let product = self.back(v, |op| matches!(op, Op::MatMul))?;
        let (q, of_q) = self.plain(product.input(0)?);
        let (k, of_k) = self.plain(product.input(1)?);
        let q = self.transposed(q, SWAP)?;
        let k = match self.transposed(k, [0, 2, 3, 1]) {
            Some(k) => k,
            None => {
                let k = self.transposed(k, [0, 1, 3, 2])?;
                self.transposed(k, SWAP)?
            }
        };
        let ((q, q_sizes), (k, k_sizes)) = (self.joined(q)?, self.joined(k)?);
        Some(([q, k], [q_sizes, k_sizes], behind * of_q * of_k))
    }
}

/// Known sizes of a value of 4 axes.
fn sizes(view: &View, v: ValueId) -> Option<[Dim; 4]> {
    <[Dim; 4]>::try_from(view.shape(v)?.0.clone()).ok().filter(|d| !d.contains(&Dim::Unknown))
}

/// Those of a value of 3.
fn flat(view: &View, v: ValueId) -> Option<[Dim; 3]> {
    <[Dim; 3]>::try_from(view.shape(v)?.0.clone()).ok().filter(|d| !d.contains(&Dim::Unknown))
}

/// `[b, l, heads, size]` as `[b, l, heads * size]`.
fn together([b, l, heads, size]: &[Dim; 4]) -> Option<[Dim; 3]> {
    let (Dim::Fixed(heads), Dim::Fixed(size)) = (heads, size) else { return None };
    Some([b.clone(), l.clone(), Dim::Fixed(heads * size)])
}

/// The attention that ends in this node, and the nodes that it replaces.
fn find(view: &View, id: NodeId, root: &Node) -> Option<(Node, Vec<NodeId>)> {
    if !matches!(root.op, Op::Reshape { .. }) {
        return None;
    }
    let (turned, y) = (root.input(0)?, root.output(0)?);
    let mut walk = Walk { view, nodes: vec![id] };
    // The result may be codes, which only move.
    let (turn, transpose) = view.producer(turned)?;
    let product = transpose.input(0)?;
    let (last, matmul) = view.producer(product)?;
    let rounded = &view.graph.value(y).quant;
    let moves = [turned, product].into_iter().all(|v| {
        let value = view.graph.value(v);
        value.quant == *rounded && value.dynamic.is_none() && view.readers(v).len() == 1 && !view.is_output(v)
    });
    let is = matches!(&transpose.op, Op::Transpose { perm } if perm[..] == SWAP) && matches!(matmul.op, Op::MatMul);
    if !moves || !is {
        return None;
    }
    walk.nodes.extend([turn, last]);
    let weights = matmul.input(0)?;
    let softmax = walk.back(weights, |op| matches!(op, Op::Softmax { axis: -1 | 3, flat: false }))?;
    let v = walk.transposed(matmul.input(1)?, SWAP)?;
    let (v, v_sizes) = walk.joined(v)?;
    let row = softmax.input(0)?;
    // With a mask or without.
    let masked = view.producer(row).filter(|_| view.is_link(row)).and_then(|(add, node)| match node.op {
        Op::Binary(Binary::Add) => Some((add, node.input(0)?, node.input(1)?)),
        _ => None,
    });
    let mut found = None;
    for (scores, mask) in masked.iter().flat_map(|&(_, a, b)| [(a, Some(b)), (b, Some(a))]).chain([(row, None)]) {
        let mut further = Walk { view, nodes: walk.nodes.clone() };
        if let Some(of) = further.scores(scores) {
            further.nodes.extend(mask.and(masked).map(|(add, ..)| add));
            found = Some((of, mask, further.nodes));
            break;
        }
    }
    let (([q, k], [q_sizes, k_sizes], number), mask, nodes) = found?;
    let ([b, l, heads, _], [k_b, t, k_heads, _], [v_b, v_t, v_heads, v_size]) = (&q_sizes, &k_sizes, &v_sizes);
    if [k_b, v_b] != [b; 2] || [k_heads, v_heads] != [heads; 2] || v_t != t {
        return None;
    }
    if flat(view, y)? != together(&[b.clone(), l.clone(), heads.clone(), v_size.clone()])? {
        return None;
    }
    if let Some(mask) = mask {
        // As many keys as there are, and no more of anything else than there is.
        let own = view.shape(mask)?.0.iter().rev();
        let mut axes = own.zip([t, l, heads, b].into_iter().map(Some).chain(std::iter::repeat(None))).enumerate();
        let fits = |(i, (own, of)): (usize, (&Dim, Option<&Dim>))| {
            Some(own) == of && *own != Dim::Unknown || i > 0 && of.is_some() && *own == Dim::Fixed(1)
        };
        if view.rank(mask)? == 0 || !axes.all(fits) {
            return None;
        }
    }
    let reals = [Some(q), Some(k), Some(v), mask].into_iter().flatten().all(|v| view.dtype(v) == Some(DType::F32));
    let (Dim::Fixed(n), true) = (heads, reals && number.is_finite()) else { return None };
    #[allow(clippy::cast_possible_truncation)]
    let scale = Some(number as f32);
    let op = Op::Attention(AttentionAttrs { q_heads: *n, kv_heads: *n, scale, ..AttentionAttrs::default() });
    let inputs = [q, k, v].into_iter().chain(mask).map(Some).collect();
    Some((Node { name: softmax.name.clone(), op, inputs, outputs: vec![Some(y)] }, nodes))
}
