//! Matrix products of real numbers with weights in codes (numerics section 13).
use super::product::{codes, is_vector};
use crate::{
    error::Result,
    ir::{Data, Granularity, Graph, Node, Op, Tensor},
};
use std::sync::Arc;

/// A matrix product whose input stays real and whose weights are codes.
#[derive(Clone, Debug)]
pub struct Coded {
    /// `[k, n]`, or `[n, k]` when transposed: i8 or u8.
    pub weight: Arc<Tensor>,
    /// See there.
    pub transposed: bool,
    /// Numbers of a row of the input, and of the output.
    pub sizes: [usize; 2],
    /// How many `k` share a scale; the last block may be shorter.
    pub block: usize,
    /// Scales `[blocks, n]`.
    pub scale: Vec<f32>,
    /// Zero points `[blocks, n]`.
    pub zero: Vec<i32>,
    /// One number for each channel.
    pub bias: Option<Vec<f32>>,
}

impl Coded {
    /// The weight codes, of `(k, n)`.
    pub fn codes(&self) -> impl Fn(usize, usize) -> i32 + '_ {
        let [k, n] = self.sizes;
        let [row, column] = if self.transposed { [1, k] } else { [n, 1] };
        let at = move |i: usize, c: usize| i * row + c * column;
        move |i, c| match self.weight.data() {
            Data::I8(w) => w[at(i, c)].into(),
            Data::U8(w) => w[at(i, c)].into(),
            // What `build` does not let in.
            _ => 0,
        }
    }
}

/// The product of `node`, whose input is real; `None` where its weights are not held as codes of at most 8 bits, one scale for all, for each output channel or
/// for each block of a channel, or where it is no plain matrix product.
pub(super) fn build(graph: &Graph, node: &Node) -> Result<Option<Coded>> {
    let Some((w, (weight, params))) = node.input(1).and_then(|w| Some((w, codes(graph, w)?))) else { return Ok(None) };
    let input_rank = node.input(0).and_then(|x| graph.value(x).shape.as_ref().map(crate::ir::Shape::rank));
    let (transposed, bias) = match &node.op {
        Op::Gemm { alpha, beta, trans_a: false, trans_b }
            if *alpha == 1.0 && (*beta == 1.0 || node.input(2).is_none()) =>
        {
            (*trans_b, node.input(2))
        }
        Op::MatMul if input_rank.is_some_and(|r| r >= 2) => (false, None),
        _ => return Ok(None),
    };
    let &[rows, columns] = weight.shape() else { return Ok(None) };
    if !matches!(weight.data(), Data::I8(_) | Data::U8(_)) || graph.value(w).constant.is_none() {
        return Ok(None);
    }
    let sizes @ [k, n] = if transposed { [columns, rows] } else { [rows, columns] };
    let (along, across) = if transposed { (1, 0) } else { (0, 1) };
    let block = match params.granularity {
        Granularity::Tensor => k,
        Granularity::Channel { axis } if axis == across => k,
        Granularity::Block { axis, size } if axis == along => size,
        _ => return Ok(None),
    }
    .max(1);
    let bias = match bias {
        None => None,
        Some(b) => {
            let Some(t) = graph.constant(b).filter(|t| is_vector(t, n)) else { return Ok(None) };
            let real = if graph.value(b).quant.is_some() { graph.real_constant(b)? } else { t.clone() }.to_f32s();
            Some((0..n).map(|c| real[if real.len() == 1 { 0 } else { c }]).collect())
        }
    };
    let blocks = k.div_ceil(block);
    // The order of the parameters is that of the weights with `k` cut into blocks.
    let index = |i: usize| {
        let (b, c) = (i / n.max(1), i % n.max(1));
        match params.granularity {
            Granularity::Tensor => 0,
            Granularity::Channel { .. } => c,
            Granularity::Block { .. } if transposed => c * blocks + b,
            Granularity::Block { .. } => b * n + c,
        }
    };
    Ok(Some(Coded {
        scale: (0..blocks * n).map(|i| params.scale[index(i)]).collect(),
        zero: (0..blocks * n).map(|i| params.zero_point[index(i)]).collect(),
        weight,
        transposed,
        sizes,
        block,
        bias,
    }))
}
