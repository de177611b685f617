//! Scales of channels where no layer can take them: a multiplication of its own.
//!
//! What an operator in floating point makes is real until products round it, so that one more multiplication before the products costs a pass over numbers that are
//! there anyway, and who else reads the value sees nothing of it. In transformers these are normalisations that a residual sum reads too,
//! activations such as GELU, and what attention answers.
use super::chain::{Link, Weights};
use crate::{
    error::Result,
    ir::{Graph, Node, NodeId, Op, Patch, Tensor, ValueId, op::Binary},
    quant::place::{self, Mode},
};
use std::{collections::HashMap, sync::Arc};

/// A value, and the products that read it.
pub(super) struct Site {
    pub value: ValueId,
    pub readers: Vec<NodeId>,
}

/// The values that operators in floating point make, or moves of such values, with matrix products that read them along their last axis; none that a link has.
pub(super) fn sites(graph: &Graph, links: &[Link], weights: &HashMap<NodeId, Weights>) -> Vec<Site> {
    let placement = place::place(graph, &vec![Mode::Static; graph.node_count()], false);
    let (producers, consumers) = (graph.producers(), graph.consumers());
    let real = |v: &ValueId| {
        let made = producers[v.0 as usize];
        made.is_some_and(|id| !placement.on_codes[id.0 as usize] && !placement.products.contains(&id))
    };
    let linked = |v: &ValueId| links.iter().any(|l| l.reads.contains(v));
    let mut sites = Vec::new();
    for group in placement.groups.iter().filter(|g| g.sources.iter().all(real)) {
        for &value in group.values.iter().filter(|v| !linked(v)) {
            let products = consumers[value.0 as usize].iter().filter(|(id, _)| placement.products.contains(id));
            let readers: Vec<NodeId> = products.map(|(id, _)| *id).collect();
            let takes = |id: &NodeId| {
                let rows = matches!(graph.node(*id).op, Op::MatMul | Op::Gemm { .. });
                rows && weights.get(id).map(Weights::inputs) == weights.get(&readers[0]).map(Weights::inputs)
                    && weights.contains_key(id)
            };
            if !readers.is_empty() && readers.iter().all(takes) {
                sites.push(Site { value, readers });
            }
        }
    }
    sites
}

/// The graph with `value * (1 / scale)` before the readers of each site.
///
/// # Errors
/// When the edit fails, which is a defect.
pub(super) fn multiply(mut graph: Graph, sites: &[(Site, Vec<f64>)]) -> Result<Graph> {
    let mut patch = Patch::new();
    for (Site { value, readers }, scale) in sites {
        let (name, dtype, shape) = {
            let v = graph.value(*value);
            (v.name.clone(), v.dtype, v.shape.clone())
        };
        let inverse: Vec<f32> = scale.iter().map(|s| (1.0 / s) as f32).collect();
        let factor = graph.fresh_name(&format!("{name}_factor"));
        let factor = graph.add_constant(&factor, Arc::new(Tensor::of(&[inverse.len()], inverse)));
        let smooth = graph.fresh_name(&format!("{name}_smooth"));
        let smooth = graph.add_value(&smooth, dtype, shape)?;
        for &id in readers {
            graph.node_mut(id).inputs[0] = Some(smooth);
        }
        let (name, inputs) = (graph.value(smooth).name.clone(), vec![Some(*value), Some(factor)]);
        patch.add(Node { name, op: Op::Binary(Binary::Mul), inputs, outputs: vec![Some(smooth)] });
    }
    if !patch.is_empty() {
        graph.apply(patch)?;
    }
    Ok(graph)
}
