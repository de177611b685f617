//! What runs between tapes: steps on real numbers with weights of their own.
use super::{coded, ids::Ids, live::Live, lookup::Lookup, recurrent::Recurrent, rows::Rows};
use crate::{
    error::Result,
    exec::{
        float::Ctx,
        lower::{Step, StepKind},
    },
    ir::Tensor,
};
use nnq_kernels::Isa;
use std::sync::Arc;

/// A step with packed weights that takes real numbers, or indices, of all samples at once and gives real numbers, or words as memory holds them.
pub(super) trait Between: Send + Sync {
    /// With the inputs `x` of the step.
    fn run(&self, x: &[Option<&Tensor>], ctx: &Ctx) -> Result<Vec<Tensor>>;
    /// Multiply-accumulates for inputs whose first two have these shapes; an empty one is none.
    fn macs(&self, x: &[Vec<usize>]) -> usize;
    /// Bytes of the packed weights.
    fn bytes(&self) -> usize;
    /// What messages call it.
    fn name(&self) -> &'static str;
}

/// The packed form of a step; `None` for one of another kind.
pub(super) fn pack(step: &Step, isa: Isa) -> Result<Option<Arc<dyn Between>>> {
    Ok(Some(match &step.kind {
        StepKind::Rows(r) => Arc::new(Rows::pack(r, isa)?),
        StepKind::Recurrent(r) => Arc::new(Recurrent::pack(r, isa)?),
        StepKind::Lookup(l) => Arc::new(Lookup::pack(l)),
        StepKind::Ids => Arc::new(Ids),
        StepKind::Live(l) => Arc::new(Live::new(l, isa)),
        StepKind::Coded(c) => Arc::new(coded::Coded::pack(c)),
        _ => return Ok(None),
    }))
}
