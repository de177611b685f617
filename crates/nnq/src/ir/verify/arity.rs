//! How many inputs and outputs each operator has.
use super::broken;
use crate::{
    error::Result,
    ir::{
        Node, Op,
        op::{Cell, Control},
    },
};

const ANY: usize = usize::MAX;

/// (inputs that must be there, all inputs, outputs that must be there, all outputs)
fn arity(op: &Op) -> (usize, usize, usize, usize) {
    match op {
        Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm { .. } => (2, 3, 1, 1),
        Op::MatMul | Op::Binary(_) => (2, 2, 1, 1),
        Op::Recurrent(r) if matches!(r.cell, Cell::Lstm { .. }) => (3, 8, 0, 3),
        Op::Recurrent(_) => (3, 6, 0, 2),
        Op::Control(Control::Loop { .. }) => (0, ANY - 1, 0, ANY),
        Op::Control(_) => (1, ANY, 0, ANY),
        Op::CastLike { .. } => (2, 2, 1, 1),
        Op::Attention(_) => (3, 7, 0, 4),
        Op::RotaryEmbedding { .. } => (3, 4, 1, 1),
        Op::RmsNormalization { .. } => (2, 2, 1, 1),
        Op::BatchNormalization { .. } => (5, 5, 1, 1),
        Op::InstanceNormalization { .. } | Op::GroupNormalization { .. } => (3, 3, 1, 1),
        Op::LayerNormalization { .. } => (2, 3, 1, 3),
        Op::Unary(_)
        | Op::Lrn { .. }
        | Op::Cast { .. }
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Hardmax { .. }
        | Op::NonZero
        | Op::ArgMax { .. }
        | Op::ArgMin { .. }
        | Op::AveragePool { .. }
        | Op::LpPool { .. }
        | Op::GlobalMaxPool
        | Op::GlobalAveragePool
        | Op::GlobalLpPool { .. }
        | Op::Flatten { .. }
        | Op::Transpose { .. }
        | Op::DepthToSpace { .. }
        | Op::SpaceToDepth { .. }
        | Op::Identity
        | Op::Shape { .. }
        | Op::Size
        | Op::ConstantOfShape { .. } => (1, 1, 1, 1),
        Op::Variadic(_) | Op::Concat { .. } | Op::Einsum { .. } => (1, ANY, 1, 1),
        Op::Clip => (1, 3, 1, 1),
        Op::Where | Op::Range | Op::OneHot { .. } | Op::ScatterElements { .. } | Op::ScatterNd { .. } => (3, 3, 1, 1),
        Op::Reduce { .. } | Op::Squeeze | Op::Trilu { .. } => (1, 2, 1, 1),
        Op::CumSum { .. }
        | Op::Gather { .. }
        | Op::GatherElements { .. }
        | Op::GatherNd { .. }
        | Op::Compress { .. }
        | Op::ReverseSequence { .. }
        | Op::Reshape { .. }
        | Op::Unsqueeze
        | Op::Expand
        | Op::Tile => (2, 2, 1, 1),
        Op::TopK { .. } => (2, 2, 0, 2),
        Op::MaxPool { .. } => (1, 1, 1, 2),
        Op::Split { .. } => (1, 2, 0, ANY),
        Op::Slice => (3, 5, 1, 1),
        Op::Pad { .. } => (2, 4, 1, 1),
        Op::Resize(_) => (1, 4, 1, 1),
        Op::Dropout => (1, 3, 1, 2),
        Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } => (2, 3, 1, 1),
        Op::DynamicQuantizeLinear => (1, 1, 0, 3),
        Op::QLinearConv(_) => (8, 9, 1, 1),
        Op::QLinearMatMul => (8, 8, 1, 1),
        Op::ConvInteger(_) | Op::MatMulInteger => (2, 4, 1, 1),
    }
}

pub(super) fn check(node: &Node) -> Result<()> {
    let (need_in, all_in, need_out, all_out) = arity(&node.op);
    for (what, list, need, all) in
        [("input", &node.inputs, need_in, all_in), ("output", &node.outputs, need_out, all_out)]
    {
        if list.len() > all {
            return Err(broken(format!("{} {what}s, at most {all} are allowed", list.len())));
        }
        // Of a list without an end no entry may be left out.
        let need = if all == ANY && what == "input" { list.len().max(need) } else { need };
        if let Some(i) = (0..need).find(|&i| list.get(i).copied().flatten().is_none()) {
            return Err(broken(format!("{what} {i} is missing")));
        }
    }
    if node.outputs.iter().all(Option::is_none) {
        return Err(broken("no output is used"));
    }
    Ok(())
}
