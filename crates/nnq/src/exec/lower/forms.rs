//! Forms of nodes that placement, which decides on grids, and lowering, which decides on steps, have to see alike.
use super::product::is_vector;
use crate::ir::{DType, Graph, Node, Op, Tensor, ValueId, op::Binary};
use nnq_kernels::round::integers::ROW;
use std::sync::Arc;

fn rank(graph: &Graph, v: ValueId) -> Option<usize> {
    graph.value(v).shape.as_ref().map(crate::ir::Shape::rank)
}

/// The length of the last axis, where it is fixed.
fn columns(graph: &Graph, v: ValueId) -> Option<usize> {
    graph.value(v).shape.as_ref()?.0.last()?.fixed()
}

/// A value and a constant: one number, or one for each index of the value's last axis.
pub(crate) struct Vector<'g> {
    pub(crate) x: ValueId,
    pub(crate) by: &'g Arc<Tensor>,
}

/// The operands of a sum, product or quotient of a value and such a constant, the divisor of a quotient.
pub(crate) fn with_vector<'g>(graph: &'g Graph, node: &Node) -> Option<Vector<'g>> {
    let commutes = match node.op {
        Op::Binary(Binary::Add | Binary::Mul) => true,
        Op::Binary(Binary::Div) => false,
        _ => return None,
    };
    let (a, b) = (node.input(0)?, node.input(1)?);
    let fits = |x: ValueId, v: ValueId| {
        // One number is for rows of any length.
        let by =
            graph.constant(v).filter(|t| t.dtype() == DType::F32 && is_vector(t, columns(graph, x).unwrap_or(1)))?;
        let plain = graph.value(v).quant.is_none() && graph.constant(x).is_none() && rank(graph, v) <= rank(graph, x);
        plain.then_some(Vector { x, by })
    };
    fits(a, b).or_else(|| fits(b, a).filter(|_| commutes))
}

/// What each column of a value is multiplied with by `node`, where that is constant: one factor, or one for each.
pub(super) fn factors(graph: &Graph, node: &Node) -> Option<(ValueId, Vec<f64>)> {
    let divides = match node.op {
        Op::Binary(Binary::Mul) => false,
        Op::Binary(Binary::Div) => true,
        _ => return None,
    };
    let Vector { x, by } = with_vector(graph, node)?;
    let all = by.to_f32s().into_iter().map(|c| if divides { 1.0 / f64::from(c) } else { f64::from(c) });
    let all: Vec<f64> = all.collect();
    all.iter().all(|c| c.is_finite()).then_some((x, all))
}

/// What `sum` adds to each channel of `y`, which is what it reads: the bias of the product before it.
pub(super) fn bias_of(graph: &Graph, sum: &Node, y: ValueId) -> Option<Vec<f32>> {
    let Vector { x, by } = with_vector(graph, sum).filter(|_| matches!(sum.op, Op::Binary(Binary::Add)))?;
    let (n, real) = (columns(graph, y).filter(|_| x == y)?, by.to_f32s());
    Some((0..n).map(|c| real[if real.len() == 1 { 0 } else { c }]).collect())
}

/// Whether a softmax or a normalisation over `axis` goes along the last axis of what it reads.
pub(crate) fn is_last(graph: &Graph, node: &Node, axis: i64) -> bool {
    axis == -1 || node.input(0).and_then(|x| rank(graph, x)).is_some_and(|rank| axis + 1 == rank as i64)
}

/// Whether the operands of a sum are as large as the result, or repeated along its first axes.
pub(crate) fn repeats(graph: &Graph, node: &Node) -> bool {
    let shape = |v: Option<ValueId>| v.and_then(|v| graph.value(v).shape.as_ref());
    let Some(y) = shape(node.output(0)) else { return false };
    (0..2).all(|i| shape(node.input(i)).is_some_and(|x| y.0.ends_with(&x.0)))
}

/// Gain and offset of a layer normalisation of the last axis that integers can compute.
pub(crate) fn norm_parts(graph: &Graph, node: &Node) -> Option<(Vec<f32>, Vec<f32>)> {
    let Op::LayerNormalization { axis, .. } = node.op else { return None };
    let n = columns(graph, node.input(0)?).filter(|&n| n <= ROW)?;
    if !is_last(graph, node, axis) || node.outputs.iter().skip(1).any(Option::is_some) {
        return None;
    }
    let part = |v: ValueId| {
        let t = graph.constant(v).filter(|t| t.dtype() == DType::F32 && t.len() == n && graph.value(v).quant.is_none());
        Some(t?.to_f32s())
    };
    let offset = match node.input(2) {
        None => vec![0.0; n],
        Some(v) => part(v)?,
    };
    Some((part(node.input(1)?)?, offset))
}
