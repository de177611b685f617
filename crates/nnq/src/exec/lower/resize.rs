//! Weights of linear and cubic resizing in fixed point (numerics section 7).
use crate::{
    exec::float::resize_weights,
    ir::{Dim, Graph, Node, Op, Shape, op::ResizeAttrs},
};
use nnq_kernels::resize::{Line, fit_together};
use std::sync::Arc;

/// The weights of rows and columns, where integers can do it: a value `[n, c, (h,) w]` of known height and width, resized along these axes only, by
/// constants, every element from some of the input, and sums within 32 bits.
pub(super) fn lines(graph: &Graph, node: &Node, a: &ResizeAttrs) -> Option<(Arc<Line>, Arc<Line>)> {
    let shape = node.input(0).and_then(|x| graph.value(x).shape.as_ref());
    // What is empty or too large is for the float executor to refuse, or to pass on.
    let shape = shape.and_then(sizes).filter(|s| !s.contains(&0))?;
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for (i, v) in node.inputs.iter().enumerate() {
        let constant = v.filter(|_| i > 0).map(|v| graph.value(v).constant.as_deref());
        match constant {
            Some(None) => return None,
            Some(tensor) => inputs.push(tensor),
            None => inputs.push(None),
        }
    }
    let axes = resize_weights(a, &shape, &inputs).ok()?;
    if axes[..2].iter().any(Option::is_some) {
        return None;
    }
    let mut lines = axes[2..].iter().zip(&shape[2..]).map(|(taps, &size)| match taps {
        None => Some(Line::same(size)),
        Some(taps) => Line::of(taps.elements()),
    });
    let rows = if shape.len() == 4 { lines.next().flatten() } else { Some(Line::same(1)) };
    let both = rows.zip(lines.next().flatten()).filter(|(rows, columns)| fit_together(rows, columns));
    both.map(|(rows, columns)| (Arc::new(rows), Arc::new(columns)))
}

/// Whether a node is a linear or cubic Resize that integers can do.
pub(crate) fn resizes(graph: &Graph, node: &Node) -> bool {
    matches!(&node.op, Op::Resize(a) if !node.op.is_move() && lines(graph, node, a).is_some())
}

/// The sizes of `[n, c, (h,) w]`; samples and channels, which stay as they are, may be unknown.
fn sizes(shape: &Shape) -> Option<Vec<usize>> {
    if !(3..=4).contains(&shape.rank()) {
        return None;
    }
    let size = |(i, d): (usize, &Dim)| d.fixed().or_else(|| (i < 2).then_some(1));
    shape.0.iter().enumerate().map(size).collect()
}
