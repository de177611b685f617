//! What follows a normalised product, so that both are computed at once: see [`crate::finish`].
use super::{Forward, Normalize, elementwise};
use crate::backend::Kernels;
use nnq::ir::{Granularity, NodeId, Op, ValueId, op::Unary};
use std::collections::HashMap;

/// Where a product ends that is normalised by the batch, clipped and rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ahead {
    /// The value that it makes.
    pub to: ValueId,
    /// What it is clipped to; infinite ends are none.
    pub ends: [f32; 2],
    /// The plan's grid that it is rounded to.
    pub grid: usize,
}

impl<B: Kernels> Forward<'_, B> {
    /// The products of which nothing is seen before they are rounded. `seen`: values that somebody looks at.
    pub(super) fn ahead(&self, seen: &[ValueId]) -> HashMap<NodeId, Ahead> {
        if self.normalize != Normalize::Live || self.plan.normal.is_empty() || self.soft.is_some() {
            return HashMap::new();
        }
        let consumers = self.graph.consumers();
        let one = |&id: &NodeId| {
            let v = self.graph.node(id).output(0)?;
            let of = |to: ValueId, ends| {
                let grid = *self.plan.of_value.get(&to)?;
                let whole = self.plan.grids[grid].params.granularity == Granularity::Tensor;
                whole.then_some((id, Ahead { to, ends, grid }))
            };
            if self.plan.of_value.contains_key(&v) {
                return of(v, [f32::NEG_INFINITY, f32::INFINITY]);
            }
            let &[(reader, 0)] = &consumers[v.0 as usize][..] else { return None };
            let node = self.graph.node(reader);
            let ends = match node.op {
                Op::Unary(Unary::Relu) => [0.0, f32::INFINITY],
                Op::Clip => elementwise::ends(self.graph, node).ok()?,
                _ => return None,
            };
            if seen.contains(&v) { None } else { of(node.output(0)?, ends) }
        };
        self.plan.normal.keys().filter_map(one).collect()
    }
}
