//! Functions of one number before products whose rows are quantized as they come: computed row by row, where the row is quantized.
use super::{Program, Slot, StepKind};
use crate::{
    exec::float::is_function,
    ir::{DType, Op},
};
use std::sync::Arc;

/// Puts such functions into the products, where nobody else reads what they answer.
pub(super) fn functions(p: &mut Program) {
    let mut readers = vec![0usize; p.values.len()];
    for &slot in p.steps.iter().flat_map(|s| s.inputs.iter().flatten()).chain(&p.outputs) {
        readers[slot] += 1;
    }
    let mut producers: Vec<Option<usize>> = vec![None; p.values.len()];
    for (i, step) in p.steps.iter().enumerate() {
        step.outputs.iter().flatten().for_each(|&slot: &Slot| producers[slot] = Some(i));
    }
    let mut kept = vec![true; p.steps.len()];
    for i in 0..p.steps.len() {
        let (StepKind::Rows(rows), Some(&Some(x))) = (&p.steps[i].kind, p.steps[i].inputs.first()) else { continue };
        let Some(before) = producers[x].filter(|_| readers[x] == 1) else { continue };
        let single = p.graph.value(p.values[x].source).dtype == Some(DType::F32);
        let StepKind::Float(Op::Unary(u)) = p.steps[before].kind else { continue };
        if !single || !is_function(u) {
            continue;
        }
        let mut rows = (**rows).clone();
        rows.function = Some(u);
        kept[before] = false;
        let (nodes, inputs) = (p.steps[before].nodes.clone(), p.steps[before].inputs.clone());
        let step = &mut p.steps[i];
        step.nodes.splice(0..0, nodes);
        (step.kind, step.inputs) = (StepKind::Rows(Arc::new(rows)), inputs);
    }
    let mut kept = kept.into_iter();
    p.steps.retain(|_| kept.next().unwrap_or(true));
}
