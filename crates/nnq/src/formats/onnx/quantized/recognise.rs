//! The integer operators of ONNX, back into plain products of annotated values.
use super::{absorb::Absorb, dynamic};
use crate::{
    error::Result,
    ir::{
        DType, Dynamic, Granularity, Node, NodeId, Op, QParams, QType, Tensor, ValueId,
        op::{AutoPad, Binary},
    },
};
use std::sync::Arc;

/// QLinearConv and QLinearMatMul.
pub(super) fn qlinear(a: &mut Absorb, node: &Node) -> Result<bool> {
    let (Some(x), Some(w), Some(y)) = (node.input(0), node.input(3), node.output(0)) else { return Ok(false) };
    let Some(q) = zero_dtype(a, node.input(7))
        .and_then(|d| a.params(y, d, (node.input(6), node.input(7)), (1, 0)))
        .filter(|q| q.as_tensor().is_some())
    else {
        return Ok(false);
    };
    if let Some(gemm) = gemm(a, node) {
        return gemm.emit(a, node);
    }
    let Some(vx) = a.operand(x, (node.input(1), node.input(2)), (1, 0))? else { return Ok(false) };
    if a.out.value(vx).quant.as_ref().and_then(|q| q.as_tensor()).is_none() {
        return Ok(false);
    }
    let axis = match &node.op {
        Op::QLinearConv(_) => 0,
        _ => a.src.constant(w).map_or(1, |t| t.shape().len().saturating_sub(1) as i64),
    };
    let Some(vw) = a.operand(w, (node.input(4), node.input(5)), (axis, 0))? else { return Ok(false) };
    let mut inputs = vec![Some(vx), Some(vw)];
    if let Some(b) = node.input(8) {
        let Some(b) = bias(a, b, vx, vw, None)? else { return Ok(false) };
        inputs.push(Some(b));
    }
    let op = match &node.op {
        Op::QLinearConv(attrs) => Op::Conv(attrs.clone()),
        _ => Op::MatMul,
    };
    let out = a.annotated(y, q)?;
    a.out.add_node(&node.name, op, inputs, vec![Some(out)]);
    Ok(true)
}

/// An integer bias, annotated with the scale that the product gives it. `channels`: reshaped to a vector of that length.
fn bias(a: &mut Absorb, b: ValueId, x: ValueId, w: ValueId, channels: Option<usize>) -> Result<Option<ValueId>> {
    let Some(mut tensor) = a.src.constant(b).filter(|t| t.dtype() == DType::I32).cloned() else { return Ok(None) };
    if let Some(n) = channels {
        tensor = Arc::new((*tensor).clone().reshaped(vec![n])?);
    }
    let (Some(qx), Some(qw)) = (a.out.value(x).quant.clone(), a.out.value(w).quant.clone()) else { return Ok(None) };
    let scale: Vec<f32> = qw.scale.iter().map(|s| qx.scale[0] * s).collect();
    let granularity = match qw.granularity {
        Granularity::Tensor => Granularity::Tensor,
        _ => Granularity::Channel { axis: 0 },
    };
    let q = QParams { qtype: QType::I32, granularity, zero_point: vec![0; scale.len()], scale };
    if tensor.shape().len() != 1 || q.check(Some(tensor.shape())).is_err() {
        return Ok(None);
    }
    a.annotated_constant(b, &tensor, q).map(Some)
}

fn zero_dtype(a: &Absorb, zero: Option<ValueId>) -> Option<DType> {
    a.src.constant(zero?).map(|z| z.dtype())
}

/// A Gemm written as a convolution of one position: Unsqueeze, QLinearConv, Squeeze.
struct Gemm {
    x: ValueId,
    squeeze: NodeId,
    y: ValueId,
}

fn gemm(a: &Absorb, node: &Node) -> Option<Gemm> {
    let Op::QLinearConv(c) = &node.op else { return None };
    let axes = |n: &Node| n.input(1).and_then(|v| a.src.constant(v)).and_then(|t| t.to_i64s().ok());
    let unsqueeze = a.src.node(a.producers[node.input(0)?.0 as usize]?);
    let image = matches!(unsqueeze.op, Op::Unsqueeze) && axes(unsqueeze)? == [2, 3];
    let y = node.output(0)?;
    let [(squeeze, 0)] = a.consumers[y.0 as usize][..] else { return None };
    let after = a.src.node(squeeze);
    let flat = matches!(after.op, Op::Squeeze) && axes(after)? == [2, 3];
    let one = matches!(a.src.constant(node.input(3)?)?.shape(), [_, _, 1, 1])
        && c.group == 1
        && c.pads.iter().all(|&p| p == 0)
        && c.strides.iter().all(|&s| s == 1)
        && matches!(c.auto_pad, AutoPad::NotSet | AutoPad::Valid);
    let x = unsqueeze.input(0)?;
    (image && flat && one && a.reads(y) == 1 && a.codes_of(x).is_some()).then_some(Gemm {
        x,
        squeeze,
        y: after.output(0)?,
    })
}

impl Gemm {
    fn emit(&self, a: &mut Absorb, node: &Node) -> Result<bool> {
        let Some(w) = node.input(3) else { return Ok(false) };
        let Some(vx) = a.operand(self.x, (node.input(1), node.input(2)), (1, 0))? else { return Ok(false) };
        let Some(tensor) = a.src.constant(w).cloned() else { return Ok(false) };
        let Some(qw) = a.params(w, tensor.dtype(), (node.input(4), node.input(5)), (0, 0)) else { return Ok(false) };
        let shape = tensor.shape()[..2].to_vec();
        let vw = a.annotated_constant(w, &Arc::new((*tensor).clone().reshaped(shape)?), qw)?;
        let mut inputs = vec![Some(vx), Some(vw)];
        if let Some(b) = node.input(8) {
            let Some(b) = bias(a, b, vx, vw, None)? else { return Ok(false) };
            inputs.push(Some(b));
        }
        let dtype = zero_dtype(a, node.input(7)).unwrap_or(DType::U8);
        let Some(q) = a.params(self.y, dtype, (node.input(6), node.input(7)), (1, 0)) else { return Ok(false) };
        let out = a.annotated(self.y, q)?;
        a.out.add_node(
            &node.name,
            Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true },
            inputs,
            vec![Some(out)],
        );
        a.done.insert(self.squeeze);
        Ok(true)
    }
}

/// ConvInteger or MatMulInteger, an Add of a constant, Cast to f32, Mul by the product of the scales. Where the input is quantized as it comes there is
/// no integer Add, and perhaps one of real numbers at the end.
pub(super) fn integer(a: &mut Absorb, node: &Node) -> Result<bool> {
    let Some(chain) = Chain::of(a, node) else { return Ok(false) };
    let (Some(x), Some(w)) = (node.input(0), node.input(1)) else { return Ok(false) };
    if let (Op::MatMulInteger, Some(&l), Some(&r)) = (&node.op, a.live.get(&x), a.live.get(&w)) {
        return live_pair(a, node, &chain, [l, r]);
    }
    let constant = |v: Option<ValueId>| v.and_then(|v| a.src.constant(v)).cloned();
    let live = a.live.get(&x).copied();
    let (vx, sw) = match live {
        Some(live) => {
            if node.input(2) != Some(live.zero) || chain.bias.is_some() {
                return Ok(false);
            }
            (live.x, chain.scales_beside(a, live.scale))
        }
        None => {
            let Some((vx, qx)) = a.codes_of(x) else { return Ok(false) };
            let Some((sx, zx)) = qx.as_tensor() else { return Ok(false) };
            let zero = match node.input(2) {
                None => Some(0),
                z => constant(z).filter(|t| t.len() == 1).and_then(|t| t.to_i64s().ok()?.first().copied()),
            };
            if zero != Some(i64::from(zx)) {
                return Ok(false);
            }
            (vx, chain.weight_scales(a, sx))
        }
    };
    let (Some(sw), Some(tensor)) = (sw, constant(Some(w))) else { return Ok(false) };
    // The output channel of a convolution's weight is its first axis, that of a matrix its last.
    let conv = matches!(node.op, Op::ConvInteger(_));
    let axis = if conv { 0 } else { tensor.shape().len().saturating_sub(1) };
    let channels = tensor.shape().get(axis).copied().unwrap_or(0);
    // Axes after the channel's in the result.
    let trailing = if conv { tensor.shape().len().saturating_sub(2) } else { 0 };
    if !conv && tensor.shape().len() != 2 && sw.per_channel {
        return Ok(false);
    }
    let granularity = if sw.per_channel { Granularity::Channel { axis } } else { Granularity::Tensor };
    let n = sw.scales.len();
    let zero_point = match node.input(3) {
        None => vec![0; n],
        z => match constant(z).and_then(|t| t.to_i64s().ok()) {
            Some(z) if z.len() == 1 => vec![z[0] as i32; n],
            Some(z) if z.len() == n => z.iter().map(|&z| z as i32).collect(),
            _ => return Ok(false),
        },
    };
    let Some(qtype) = a.grid(w, tensor.dtype()) else { return Ok(false) };
    let qw = QParams { qtype, granularity, scale: sw.scales, zero_point };
    if qw.check(Some(tensor.shape())).is_err() || sw.rank > 1 + trailing {
        return Ok(false);
    }
    if let Some(b) = chain.bias {
        // Added per channel: [C, 1, 1] after a convolution, [C] after a matrix product.
        let t = a.src.constant(b);
        let shape = [&[channels][..], &vec![1; trailing]].concat();
        if t.is_none_or(|t| t.dtype() != DType::I32 || t.shape() != shape) {
            return Ok(false);
        }
    }
    let matrix = tensor.shape().len() == 2 && is_matrix(a, x, 16);
    let real_bias = live.filter(|_| conv || matrix).and_then(|_| dynamic::bias(a, chain.y, channels, trailing));
    let op = match &node.op {
        Op::ConvInteger(c) => Op::Conv(c.clone()),
        _ if chain.bias.is_some() || real_bias.is_some() => {
            if !matrix {
                return Ok(false);
            }
            Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false }
        }
        _ => Op::MatMul,
    };
    let vw = a.annotated_constant(w, &tensor, qw)?;
    let mut inputs = vec![Some(vx), Some(vw)];
    if let Some(b) = chain.bias {
        let Some(b) = bias(a, b, vx, vw, Some(channels))? else { return Ok(false) };
        inputs.push(Some(b));
    }
    let mut y = chain.y;
    if let Some((add, tensor, sum)) = real_bias {
        let name = a.fresh("b");
        inputs.push(Some(a.out.add_constant(&name, tensor)));
        a.done.insert(add);
        y = sum;
    }
    if live.is_some() {
        a.out.value_mut(vx).dynamic = Some(Dynamic::Tensor);
    }
    let value = a.src.value(y);
    let out = a.out.add_value(&value.name, Some(DType::F32), value.shape.clone())?;
    a.out.add_node(&node.name, op, inputs, vec![Some(out)]);
    a.set_plain(y, out);
    a.done.extend(chain.nodes);
    Ok(true)
}

/// A product of two values that are quantized as they come, each on one grid.
fn live_pair(a: &mut Absorb, node: &Node, chain: &Chain, [l, r]: [dynamic::Live; 2]) -> Result<bool> {
    let zeros = (node.input(2), node.input(3)) == (Some(l.zero), Some(r.zero));
    let scales = |mul: &Node| {
        let of = (mul.input(0), mul.input(1));
        matches!(mul.op, Op::Binary(Binary::Mul))
            && (of == (Some(l.scale), Some(r.scale)) || of == (Some(r.scale), Some(l.scale)))
    };
    let scaled = a.producers[chain.scale.0 as usize].is_some_and(|id| scales(a.src.node(id)));
    if !zeros || !scaled || chain.bias.is_some() {
        return Ok(false);
    }
    for live in [l, r] {
        a.out.value_mut(live.x).dynamic = Some(Dynamic::Tensor);
    }
    let value = a.src.value(chain.y);
    let out = a.out.add_value(&value.name, Some(DType::F32), value.shape.clone())?;
    a.out.add_node(&node.name, Op::MatMul, vec![Some(l.x), Some(r.x)], vec![Some(out)]);
    a.set_plain(chain.y, out);
    a.done.extend(chain.nodes.iter().copied());
    Ok(true)
}

/// What follows an integer product.
struct Chain {
    bias: Option<ValueId>,
    /// The factor of the Mul at the end.
    scale: ValueId,
    y: ValueId,
    nodes: Vec<NodeId>,
}

/// Scales of a weight, in the shape the Mul uses them.
struct Scales {
    scales: Vec<f32>,
    per_channel: bool,
    rank: usize,
}

impl Chain {
    fn of(a: &Absorb, node: &Node) -> Option<Self> {
        // The only reader of the only output of a node.
        let next = |n: &Node| -> Option<(NodeId, usize)> {
            let y = n.output(0)?;
            match a.consumers[y.0 as usize][..] {
                [reader] if a.reads(y) == 1 => Some(reader),
                _ => None,
            }
        };
        let mut nodes = Vec::new();
        let (mut id, mut at) = next(node)?;
        let mut bias = None;
        if matches!(a.src.node(id).op, Op::Binary(Binary::Add)) {
            let other = a.src.node(id).input(1 - at.min(1))?;
            a.src.constant(other)?;
            bias = Some(other);
            nodes.push(id);
            (id, at) = next(a.src.node(id))?;
        }
        if !matches!(a.src.node(id).op, Op::Cast { to: DType::F32, .. }) || at != 0 {
            return None;
        }
        nodes.push(id);
        (id, at) = next(a.src.node(id))?;
        let mul = a.src.node(id);
        if !matches!(mul.op, Op::Binary(Binary::Mul)) {
            return None;
        }
        nodes.push(id);
        Some(Self { bias, scale: mul.input(1 - at.min(1))?, y: mul.output(0)?, nodes })
    }

    /// The weight's scales where the file multiplies them by the scale `sx`, which is computed.
    fn scales_beside(&self, a: &Absorb, sx: ValueId) -> Option<Scales> {
        let mul = a.src.node(a.producers[self.scale.0 as usize]?);
        let (l, r) = (mul.input(0)?, mul.input(1)?);
        let other = if l == sx { r } else { l };
        if !matches!(mul.op, Op::Binary(Binary::Mul)) || (l != sx && r != sx) {
            return None;
        }
        let t = a.src.constant(other)?;
        Some(shaped(t, t.as_slice::<f32>().ok()?.to_vec()))
    }

    /// The weight's scales `sw` with `sx * sw` in binary32 equal to the factor: read off where the file multiplies them, found
    /// among the neighbours of `factor / sx` where it holds the product.
    fn weight_scales(&self, a: &Absorb, sx: f32) -> Option<Scales> {
        if let Some(t) = a.src.constant(self.scale) {
            let scales = t.as_slice::<f32>().ok()?.iter().map(|&m| quotient(m, sx)).collect::<Option<_>>()?;
            return Some(shaped(t, scales));
        }
        let mul = a.src.node(a.producers[self.scale.0 as usize]?);
        if !matches!(mul.op, Op::Binary(Binary::Mul)) {
            return None;
        }
        let (l, r) = (a.src.constant(mul.input(0)?)?, a.src.constant(mul.input(1)?)?);
        let (one, sw) = if is(l, sx) { (l, r) } else { (r, l) };
        is(one, sx).then_some(())?;
        Some(shaped(sw, sw.as_slice::<f32>().ok()?.to_vec()))
    }
}

fn shaped(t: &Tensor, scales: Vec<f32>) -> Scales {
    Scales { per_channel: !t.shape().is_empty() && t.shape() != [1], rank: t.shape().len(), scales }
}

fn is(t: &Tensor, x: f32) -> bool {
    t.len() == 1 && t.shape().len() <= 1 && t.as_slice::<f32>().is_ok_and(|s| s[0] == x)
}

/// A number whose binary32 product with `sx` is `m`.
fn quotient(m: f32, sx: f32) -> Option<f32> {
    let q = m / sx;
    [q, q.next_up(), q.next_down()].into_iter().find(|&q| q.is_finite() && q > 0.0 && sx * q == m)
}

/// The value has two axes: its shape says so, or what produces it.
fn is_matrix(a: &Absorb, id: ValueId, depth: u32) -> bool {
    let v = a.src.value(id);
    if let Some(shape) = &v.shape {
        return shape.rank() == 2;
    }
    let Some(producer) = a.producers[id.0 as usize].map(|p| a.src.node(p)) else { return false };
    match &producer.op {
        Op::Flatten { .. } | Op::Gemm { .. } => true,
        Op::Unary(_) | Op::Clip | Op::Identity | Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. }
            if depth > 0 =>
        {
            producer.input(0).is_some_and(|x| is_matrix(a, x, depth - 1))
        }
        _ => false,
    }
}
