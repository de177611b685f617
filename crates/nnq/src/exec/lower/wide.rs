//! Values of 9 to 16 bits: real numbers on their grid (numerics section 9).
use super::{Grid, ProgValue, Program, Repr, Slot, Step, StepKind};
use crate::{
    error::Result,
    ir::{DType, Op, Tensor, ValueId},
};
use std::sync::Arc;

/// Steps that make of the real numbers in `slot` those that their codes on `grid` stand for, `D(Q(x))`: the operators of ONNX, and a Clip before them
/// where the grid is smaller than its element type.
pub(super) fn round(p: &mut Program, v: ValueId, grid: Grid, mut slot: Slot) -> Result<Slot> {
    let push = |p: &mut Program, repr: Repr| {
        p.values.push(ProgValue { source: v, repr });
        p.values.len() - 1
    };
    let constant = |t: Tensor| Repr::Constant(Arc::new(t));
    let qtype = grid.qtype;
    let (lo, hi) = (qtype.min(), qtype.max());
    let whole = if qtype.signed { (i32::from(i16::MIN), i32::from(i16::MAX)) } else { (0, i32::from(u16::MAX)) };
    let (zero, out) = match qtype.signed {
        true => (Tensor::scalar(grid.zero as i16), DType::I16),
        false => (Tensor::scalar(grid.zero as u16), DType::U16),
    };
    let mut ops = Vec::new();
    let scale = push(p, constant(Tensor::scalar(grid.scale)));
    let zero = push(p, constant(zero));
    if (lo, hi) != whole {
        // Real bounds come back as their codes: `f32(q - z) * s / s` is off by less than a two hundredth of a step.
        let bounds = [lo, hi].map(|q| push(p, constant(Tensor::scalar(grid.dequantize(q)))));
        ops.push((Op::Clip, bounds));
    }
    ops.push((Op::QuantizeLinear { axis: 1, block: 0, saturate: true, out }, [scale, zero]));
    ops.push((Op::DequantizeLinear { axis: 1, block: 0 }, [scale, zero]));
    for (op, [a, b]) in ops {
        let to = push(p, Repr::Real);
        let inputs = vec![Some(slot), Some(a), Some(b)];
        p.steps.push(Step { nodes: Vec::new(), kind: StepKind::Float(op), inputs, outputs: vec![Some(to)] });
        slot = to;
    }
    Ok(slot)
}
