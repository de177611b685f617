//! Scales that a file computes from other scales.
use crate::{
    error::Result,
    ir::{Graph, Op, Patch, Tensor, op::Binary},
};
use std::{borrow::Cow, sync::Arc};

/// Replaces products of two constants, one of them a single number, by constants: the scale of a bias is written as the product of
/// the input's and the weight's scale.
pub(super) fn scales(graph: &Graph) -> Result<Cow<'_, Graph>> {
    let mut out = Cow::Borrowed(graph);
    let mut patch = Patch::new();
    for (id, node) in graph.nodes() {
        let (Op::Binary(Binary::Mul), Some(y)) = (&node.op, node.output(0)) else { continue };
        let constant = |i: usize| node.input(i).and_then(|v| graph.constant(v));
        let (Some(a), Some(b)) = (constant(0), constant(1)) else { continue };
        let (one, many) = if a.len() == 1 && a.shape().len() <= b.shape().len() { (a, b) } else { (b, a) };
        let (Ok(s), Ok(v)) = (one.as_slice::<f32>(), many.as_slice::<f32>()) else { continue };
        if s.len() != 1 || one.shape().len() > many.shape().len() || graph.outputs.contains(&y) {
            continue;
        }
        let product = Tensor::of(many.shape(), v.iter().map(|x| s[0] * x).collect::<Vec<f32>>());
        let name = graph.value(y).name.clone();
        let constant = out.to_mut().add_constant(&format!("{name}_folded"), Arc::new(product));
        patch.replace(y, constant).remove(id);
    }
    if !patch.is_empty() {
        out.to_mut().apply(patch)?;
    }
    Ok(out)
}
