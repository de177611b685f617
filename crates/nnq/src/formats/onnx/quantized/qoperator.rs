//! The form that says what is computed in integers.
use super::{
    build::Build,
    codes,
    products::{Product, is_move, transposed},
};
use crate::{
    error::{At, Result},
    ir::{
        DType, Graph, Node, NodeId, Op, QParams, Tensor, ValueId,
        op::{Binary, ConvAttrs, Unary},
    },
};
use std::{collections::HashSet, sync::Arc};

/// Turns annotations into the integer operators of ONNX.
///
/// Convolutions and matrix products with quantized operands become
/// - QLinearConv or QLinearMatMul when their output is quantized too; a Relu or Clip that follows is part of the step (numerics
///   section 5), which costs nothing where the output's grid saturates at the same codes, and a Clip of codes elsewhere. A Gemm with
///   a bias is a QLinearConv over one position, since QLinearMatMul adds none;
/// - ConvInteger or MatMulInteger, Add of the integer bias, Cast, Mul by `sx * sw` when their output is real (numerics section 4).
///
/// Moves between equal parameters move codes. Everything else stands between DequantizeLinear and QuantizeLinear, and is computed in
/// float: for those operators numerics describes the integer form of nnq's own engine, which may differ in the last code.
///
/// # Errors
/// As [`super::to_qdq`].
pub fn to_qoperator(graph: &Graph) -> Result<Graph> {
    let consumers = graph.consumers();
    let mut b = Build::new(graph)?;
    let mut done: HashSet<NodeId> = HashSet::new();
    for (id, node) in graph.nodes() {
        if done.contains(&id) {
            continue;
        }
        let step = Step::of(graph, node, &consumers);
        match step {
            Some(step) => {
                done.extend(step.activation);
                step.emit(&mut b, node)
            }
            None if moves(graph, node) => move_codes(&mut b, node),
            None => b.node(node),
        }
        .at(|| format!("node '{}'", node.name))?;
    }
    b.finish()
}

/// A product together with what its last operator does.
struct Step<'a> {
    product: Product<'a>,
    /// The value it produces.
    target: ValueId,
    /// How the target is quantized; `None`: it is real.
    output: Option<(&'a QParams, i32, i32)>,
    /// The node of the fused activation.
    activation: Option<NodeId>,
}

impl<'a> Step<'a> {
    fn of(graph: &'a Graph, node: &Node, consumers: &[Vec<(NodeId, usize)>]) -> Option<Self> {
        let product = Product::of(graph, node)?;
        let y = node.output(0)?;
        // QLinearMatMul and MatMulInteger have one scale per column for matrices only.
        let stacked = matches!(node.op, Op::MatMul) && graph.constant(product.w).is_some_and(|w| w.shape().len() != 2);
        if !product.is_8_bit() || stacked && product.qw.as_tensor().is_none() {
            return None;
        }
        if let Some(q) = &graph.value(y).quant {
            let output = (&**q, q.qtype.min(), q.qtype.max());
            return quantizable(q).then_some(Self { product, target: y, output: Some(output), activation: None });
        }
        if let ([(id, 0)], false) = (&consumers[y.0 as usize][..], graph.outputs.contains(&y)) {
            let next = graph.node(*id);
            if let (Some((a, b)), Some(z)) = (activation(graph, next), next.output(0))
                && let Some(q) = graph.value(z).quant.as_deref().filter(|q| quantizable(q))
            {
                let lo = a.map_or(Some(q.qtype.min()), |a| codes::of_bound(a, q))?.max(q.qtype.min());
                let hi = b.map_or(Some(q.qtype.max()), |b| codes::of_bound(b, q))?.min(q.qtype.max());
                if lo <= hi {
                    return Some(Self { product, target: z, output: Some((q, lo, hi)), activation: Some(*id) });
                }
            }
        }
        Some(Self { product, target: y, output: None, activation: None })
    }

    fn emit(&self, b: &mut Build, node: &Node) -> Result<()> {
        match (self.output, &node.op) {
            (Some(output), Op::Conv(a)) => {
                let x = b.codes(self.product.x)?;
                let w = b.codes(self.product.w)?;
                let y = self.codes_before_clamp(b, output)?;
                self.qlinear_conv(b, node, a, (x, w, y.0), output.0)?;
                self.clamp(b, y, output)
            }
            (Some(output), Op::Gemm { trans_b, .. }) if self.product.bias.is_some() => {
                self.gemm_as_conv(b, node, *trans_b, output)
            }
            (Some(output), op) => {
                let x = b.codes(self.product.x)?;
                let w = self.columns(b, op)?;
                let y = self.codes_before_clamp(b, output)?;
                let mut inputs = self.scaled(b, (x, w))?;
                inputs.extend(scale_and_zero(b, output.0, self.target)?);
                let inputs = inputs.into_iter().map(Some).collect();
                b.out.add_node(&node.name, Op::QLinearMatMul, inputs, vec![Some(y.0)]);
                self.clamp(b, y, output)
            }
            (None, _) => self.real(b, node),
        }
    }

    /// x, its scale and zero point, w, its scale and zero point.
    fn scaled(&self, b: &mut Build, (x, w): (ValueId, ValueId)) -> Result<Vec<ValueId>> {
        let p = &self.product;
        let mut inputs = vec![x];
        inputs.extend(scale_and_zero(b, p.qx, p.x)?);
        inputs.push(w);
        inputs.extend(scale_and_zero(b, p.qw, p.w)?);
        Ok(inputs)
    }

    fn qlinear_conv(
        &self,
        b: &mut Build,
        node: &Node,
        attrs: &ConvAttrs,
        (x, w, y): (ValueId, ValueId, ValueId),
        q: &QParams,
    ) -> Result<()> {
        let mut inputs = self.scaled(b, (x, w))?;
        inputs.extend(scale_and_zero(b, q, self.target)?);
        if let Some(bias) = self.product.bias {
            let (codes, _) = self.product.bias_codes(b.src, bias)?;
            inputs.push(b.named_constant(bias, Arc::new(Tensor::of(&[codes.len()], codes))));
        }
        let inputs = inputs.into_iter().map(Some).collect();
        b.out.add_node(&node.name, Op::QLinearConv(attrs.clone()), inputs, vec![Some(y)]);
        Ok(())
    }

    /// `[M, K]` as an image of one position, the weight as a window of one position.
    fn gemm_as_conv(&self, b: &mut Build, node: &Node, trans_b: bool, output: (&QParams, i32, i32)) -> Result<()> {
        let x = b.codes(self.product.x)?;
        let w = self.weight(b, !trans_b)?;
        let shape = [w.shape(), &[1, 1]].concat();
        let w = b.named_weight(self.product.w, w.reshaped(shape)?, self.product.qw)?;
        let axes = b.share("a", Tensor::of::<i64>(&[2], vec![2, 3]));
        let dtype = |b: &Build, v: ValueId| b.out.value(v).dtype.unwrap_or(DType::U8);
        let image = b.temp("t", dtype(b, x))?;
        b.emit(Op::Unsqueeze, &[x, axes], image);
        let wide = b.temp("t", codes::container(output.0.qtype)?)?;
        let attrs = ConvAttrs { group: 1, ..ConvAttrs::default() };
        self.qlinear_conv(b, node, &attrs, (image, w, wide), output.0)?;
        let y = self.codes_before_clamp(b, output)?;
        b.emit(Op::Squeeze, &[wide, axes], y.0);
        self.clamp(b, y, output)
    }

    /// The real output: `f32(acc) * (sx * sw)`.
    fn real(&self, b: &mut Build, node: &Node) -> Result<()> {
        let p = &self.product;
        let x = b.codes(p.x)?;
        let (op, w, trailing) = match &node.op {
            Op::Conv(a) => {
                let spatial = b.src.constant(p.w).map_or(0, |w| w.shape().len().saturating_sub(2));
                (Op::ConvInteger(a.clone()), b.codes(p.w)?, spatial)
            }
            op => (Op::MatMulInteger, self.columns(b, op)?, 0),
        };
        let mut inputs = vec![Some(x), Some(w)];
        let zero = |b: &mut Build, q: &QParams, v: ValueId| {
            if q.zero_point.iter().all(|&z| z == 0) { Ok(None) } else { narrow_zero(b, q, v).map(Some) }
        };
        inputs.push(zero(b, p.qx, p.x)?);
        inputs.push(zero(b, p.qw, p.w)?);
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let mut acc = b.temp("t", DType::I32)?;
        b.out.add_node(&node.name, op, inputs, vec![Some(acc)]);
        let column = |n: usize| [&[n][..], &vec![1; trailing]].concat();
        if let Some(bias) = p.bias {
            let (codes, _) = p.bias_codes(b.src, bias)?;
            let bias = b.named_constant(bias, Arc::new(Tensor::of(&column(codes.len()), codes)));
            let sum = b.temp("t", DType::I32)?;
            b.emit(Op::Binary(Binary::Add), &[acc, bias], sum);
            acc = sum;
        }
        let cast = b.temp("t", DType::F32)?;
        b.emit(Op::Cast { to: DType::F32, saturate: true }, &[acc], cast);
        // The product of the scales is a node, so that both of them can be read from the file.
        let sx = b.scale(p.qx, p.x)?;
        let sw = match p.qw.as_tensor() {
            Some((s, _)) => b.share("s", Tensor::scalar(s)),
            None => b.share("s", Tensor::of(&column(p.qw.scale.len()), p.qw.scale.clone())),
        };
        let scale = b.temp("t", DType::F32)?;
        b.emit(Op::Binary(Binary::Mul), &[sx, sw], scale);
        let y = b.declare(self.target)?;
        b.emit(Op::Binary(Binary::Mul), &[cast, scale], y);
        b.produced(self.target, y, None)
    }

    /// The weight of a matrix product with outputs in columns.
    fn columns(&self, b: &mut Build, op: &Op) -> Result<ValueId> {
        match op {
            Op::Gemm { trans_b: true, .. } => {
                let w = self.weight(b, true)?;
                b.named_weight(self.product.w, w, self.product.qw)
            }
            _ => b.codes(self.product.w),
        }
    }

    /// The codes of a Gemm's weight, turned over when `turn`.
    fn weight(&self, b: &Build, turn: bool) -> Result<Tensor> {
        let p = &self.product;
        let v = b.src.value(p.w);
        let t = v.constant.as_ref().ok_or_else(|| crate::Error::internal("a Gemm weight that is computed"))?;
        let c = codes::of_constant(t, p.qw).at(|| format!("constant '{}'", v.name))?;
        let t = codes::tensor(t.shape(), &c, codes::container(p.qw.qtype)?)?;
        if turn { transposed(&t) } else { Ok(t) }
    }

    /// Where the product writes: the target itself, or a value that a Clip of codes reads.
    fn codes_before_clamp(&self, b: &mut Build, (q, lo, hi): (&QParams, i32, i32)) -> Result<(ValueId, bool)> {
        let dtype = codes::container(q.qtype)?;
        let saturates = codes::whole(dtype).is_some_and(|w| (w.min(), w.max()) == (lo, hi));
        let id = if saturates { b.declare_codes(self.target, q)? } else { b.temp("t", dtype)? };
        Ok((id, saturates))
    }

    fn clamp(&self, b: &mut Build, (y, saturates): (ValueId, bool), (q, lo, hi): (&QParams, i32, i32)) -> Result<()> {
        let mut code = y;
        if !saturates {
            let dtype = codes::container(q.qtype)?;
            let mut bound = |c: i32| codes::tensor(&[], &[c], dtype).map(|t| b.share("c", t));
            let (lo, hi) = (bound(lo)?, bound(hi)?);
            code = b.declare_codes(self.target, q)?;
            b.emit(Op::Clip, &[y, lo, hi], code);
        }
        b.produced_codes(self.target, code);
        Ok(())
    }
}

/// Bounds of an activation that can be part of a product's requantization.
fn activation(graph: &Graph, node: &Node) -> Option<(Option<f32>, Option<f32>)> {
    let bound = |i: usize| match node.input(i) {
        None => Some(None),
        Some(v) => {
            let t: &Arc<Tensor> = graph.constant(v).filter(|t| t.dtype() == DType::F32 && t.len() == 1)?;
            t.to_f32s().first().copied().filter(|b| !b.is_nan()).map(Some)
        }
    };
    match node.op {
        Op::Unary(Unary::Relu) => Some((Some(0.0), None)),
        Op::Clip => Some((bound(1)?, bound(2)?)),
        _ => None,
    }
}

/// What QLinear operators can produce.
fn quantizable(q: &QParams) -> bool {
    q.qtype.bits <= 8 && q.as_tensor().is_some()
}

fn scale_and_zero(b: &mut Build, q: &QParams, v: ValueId) -> Result<[ValueId; 2]> {
    Ok([b.scale(q, v)?, narrow_zero(b, q, v)?])
}

/// The zero point, one number when all are equal.
fn narrow_zero(b: &mut Build, q: &QParams, v: ValueId) -> Result<ValueId> {
    if let Some(&first) = q.zero_point.first()
        && q.zero_point.iter().all(|&z| z == first)
    {
        let t = codes::tensor(&[], &[first], codes::container(q.qtype)?)?;
        return Ok(b.share("z", t));
    }
    b.zero(q, v)
}

/// A node that moves elements between values of equal parameters.
fn moves(graph: &Graph, node: &Node) -> bool {
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return false };
    let (Some(qx), Some(qy)) = (&graph.value(x).quant, &graph.value(y).quant) else { return false };
    is_move(&node.op) && node.outputs.len() == 1 && quantizable(qx) && qx == qy && graph.constant(x).is_none()
}

fn move_codes(b: &mut Build, node: &Node) -> Result<()> {
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(()) };
    let mut inputs = vec![Some(b.codes(x)?)];
    for i in node.inputs.iter().skip(1) {
        inputs.push(i.map(|i| b.real(i)).transpose()?);
    }
    let Some(q) = b.src.value(y).quant.clone() else { return Ok(()) };
    let code = b.declare_codes(y, &q)?;
    b.out.add_node(&node.name, node.op.clone(), inputs, vec![Some(code)]);
    b.produced_codes(y, code);
    Ok(())
}
