//! Which nodes are integer products, and what they need.
use super::codes;
use crate::{
    error::{Error, Result},
    ir::{Granularity, Graph, Node, Op, QParams, QType, Tensor, ValueId},
};
use std::sync::Arc;

/// A convolution or matrix product whose operands are quantized (numerics section 3).
pub(super) struct Product<'a> {
    /// The input.
    pub x: ValueId,
    /// Its parameters, per tensor.
    pub qx: &'a Arc<QParams>,
    /// The weight; for MatMul possibly computed.
    pub w: ValueId,
    /// Its parameters, per tensor or per output channel.
    pub qw: &'a Arc<QParams>,
    /// The constant bias.
    pub bias: Option<ValueId>,
}

impl<'a> Product<'a> {
    /// The product that a node is; `None`: it is none, or not one of integers.
    pub fn of(graph: &'a Graph, node: &Node) -> Option<Self> {
        let (x, w) = (node.input(0)?, node.input(1)?);
        let (qx, qw) = (graph.value(x).quant.as_ref()?, graph.value(w).quant.as_ref()?);
        let weight = graph.constant(w).map(|t| t.shape().len());
        let bias = node.input(2);
        let channel = match (&node.op, weight) {
            // Anything but columns of the second operand would need a sum per scale.
            (Op::MatMul, rank) => rank.map_or(usize::MAX, |r| r.wrapping_sub(1)),
            (op, rank) => weight_axis(op, rank?, bias.is_some())?,
        };
        let fits = match qw.granularity {
            Granularity::Tensor => true,
            Granularity::Channel { axis } => axis == channel,
            Granularity::Block { .. } => false,
        };
        qx.as_tensor()?;
        if !fits || [qx, qw].iter().any(|q| q.qtype.bits > 16) {
            return None;
        }
        if let Some(b) = bias {
            // One number per output channel; anything else is added in float.
            let shape = graph.constant(b)?.shape();
            let channels = *graph.constant(w)?.shape().get(channel)?;
            if shape != [channels] {
                return None;
            }
            if let Some(q) = &graph.value(b).quant {
                let channels = matches!(q.granularity, Granularity::Tensor | Granularity::Channel { axis: 0 });
                if q.qtype != QType::I32 || q.zero_point.iter().any(|&z| z != 0) || !channels {
                    return None;
                }
            } else if graph.constant(b)?.dtype().is_int() {
                return None;
            }
        }
        Some(Self { x, qx, w, qw, bias })
    }

    /// `sx * sw` in binary32, as many as the weight has scales.
    pub fn scales(&self) -> Vec<f32> {
        self.qw.scale.iter().map(|sw| self.qx.scale[0] * sw).collect()
    }

    /// The bias as integers, with their parameters.
    pub fn bias_codes(&self, graph: &Graph, bias: ValueId) -> Result<(Vec<i32>, QParams)> {
        let v = graph.value(bias);
        let tensor = v.constant.as_ref().ok_or_else(|| Error::internal("a bias that is no constant"))?;
        let own = v.quant.as_deref();
        let codes = codes::of_bias(tensor, own, self.qx.scale[0], &self.qw.scale)?;
        let q = match own {
            Some(q) => q.clone(),
            None => {
                let scale = self.scales();
                let granularity =
                    if self.qw.scale.len() == 1 { Granularity::Tensor } else { Granularity::Channel { axis: 0 } };
                QParams { qtype: QType::I32, granularity, zero_point: vec![0; scale.len()], scale }
            }
        };
        q.check(Some(tensor.shape()))?;
        Ok((codes, q))
    }

    /// Both operands are stored in 8 bits: what the integer operators of ONNX take.
    pub fn is_8_bit(&self) -> bool {
        self.qx.qtype.bits <= 8 && self.qw.qtype.bits <= 8
    }
}

/// The axis of the output channels in the constant weight, of `rank` axes, of a product that integers can compute.
pub(super) fn weight_axis(op: &Op, rank: usize, bias: bool) -> Option<usize> {
    match op {
        Op::Conv(_) => Some(0),
        Op::Gemm { alpha, beta, trans_a: false, trans_b } if *alpha == 1.0 && (*beta == 1.0 || !bias) && rank == 2 => {
            Some(usize::from(!trans_b))
        }
        Op::MatMul if rank == 2 => Some(1),
        _ => None,
    }
}

/// A tensor of two axes turned over.
pub(super) fn transposed(t: &Tensor) -> Result<Tensor> {
    let [rows, columns] = t.shape() else { return Err(Error::internal("a matrix of other than two axes")) };
    let (rows, columns) = (*rows, *columns);
    let c: Vec<i64> = t.to_i64s()?;
    let turned: Vec<i32> = (0..rows * columns).map(|i| c[i % rows * columns + i / rows] as i32).collect();
    codes::tensor(&[columns, rows], &turned, t.dtype())
}

/// An operator that moves elements of its first input and computes nothing; integers of 8 bits are among its types in ONNX.
pub(super) fn is_move(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape { .. }
            | Op::Flatten { .. }
            | Op::Transpose { .. }
            | Op::Squeeze
            | Op::Unsqueeze
            | Op::Slice
            | Op::Gather { .. }
            | Op::Expand
            | Op::DepthToSpace { .. }
            | Op::SpaceToDepth { .. }
            | Op::MaxPool { .. }
    )
}
