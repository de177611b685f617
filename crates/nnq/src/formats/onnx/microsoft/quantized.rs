//! The quantized operators of ONNX Runtime, as the standard ones between DequantizeLinear and QuantizeLinear. What reads the graph afterwards finds codes
//! there as in any other file (onnxruntime, docs/ContribOperators.md). Sums and products of codes add the zero point before they round there, and behind it here, as the
//! standard says: a tie can be rounded to the other side where the zero point is odd.
use super::{
    super::{external::External, proto::NodeProto, table},
    Maker,
};
use crate::{
    error::{Error, Result},
    ir::{
        DType, Data, Op, Tensor, ValueId,
        op::{AttentionAttrs, Binary, Unary},
    },
};
use std::sync::Arc;

/// What the attributes of all of them say.
#[derive(Default)]
struct Said {
    alpha: f32,
    turned: [bool; 2],
    axis: i64,
    opset: i64,
    k: usize,
    n: usize,
    bits: usize,
    block: usize,
    heads: usize,
    causal: bool,
    scale: f32,
    filler: f32,
    /// The pool of QLinearAveragePool.
    pool: Option<Op>,
}

/// Whether this file adds a node.
pub(super) fn knows(name: &str) -> bool {
    name.starts_with('Q') && name != "QuickGelu"
        || matches!(name, "MatMulNBits" | "DequantizeLinear" | "DynamicQuantizeMatMul" | "MatMulIntegerToFloat")
}

/// Adds what the node stands for.
///
/// # Errors
/// Attributes and inputs that mean something else than the standard operators can say.
pub(super) fn add(p: &NodeProto, mut make: Maker<'_, '_>) -> Result<()> {
    let kind = p.op_type.as_deref().unwrap_or_default();
    if make.reader.depth > 0 && kind == "MatMulNBits" {
        return Err(Error::unsupported("weights of few bits within If, Loop or Scan")
            .cure("leave this layer out of the quantization (nodes_to_exclude)"));
    }
    let opset = make.reader.opset;
    let mut external = External::none();
    let attributes = p.attribute.iter().collect();
    let (inputs, outputs) = (make.inputs.clone(), make.outputs.len());
    let mut a = table::Attrs::reading(&make.reader.graph, opset, inputs.clone(), outputs, attributes, &mut external);
    if matches!(kind, "QuantizeLinear" | "DequantizeLinear") {
        let row = table::find(kind).ok_or_else(|| Error::internal(format!("{kind} is no operator")))?;
        let mut op = (row.make)();
        (row.fields)(&mut op, &mut a)?;
        a.finish()?;
        let outputs = std::mem::take(&mut make.outputs);
        make.reader.graph.add_node(make.name, op, inputs, outputs);
        return Ok(());
    }
    let said = attributes_of(kind, &mut a)?;
    a.finish()?;
    let to = make.output(0);
    match kind {
        "QLinearAdd" | "QLinearMul" => {
            let op = if kind == "QLinearAdd" { Binary::Add } else { Binary::Mul };
            let (x, y) = (make.real([0, 1, 2], 1)?, make.real([3, 4, 5], 1)?);
            let z = make.add(Op::Binary(op), vec![Some(x), Some(y)], None)?;
            make.codes(z, [6, 7], to)?;
        }
        "QLinearConcat" => {
            if make.inputs.len() % 3 != 2 {
                return Err(Error::malformed(format!(
                    "{} inputs, expected 2 and 3 for each part: codes, scale, zero point",
                    make.inputs.len()
                )));
            }
            let parts = (2..make.inputs.len()).step_by(3).map(|i| make.real([i, i + 1, i + 2], 1).map(Some));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let y = make.add(Op::Concat { axis: said.axis }, parts, None)?;
            make.codes(y, [0, 1], to)?;
        }
        "QGemm" => gemm(&said, &mut make, to)?,
        "QAttention" => attention(&said, &mut make, to)?,
        "MatMulNBits" => few_bits(&said, &mut make, to)?,
        "DynamicQuantizeMatMul" => {
            let outputs = ["codes", "scale", "zero"].map(|part| make.value(part).map(Some));
            let outputs = outputs.into_iter().collect::<Result<Vec<_>>>()?;
            let name = format!("{}/DynamicQuantizeLinear", make.name);
            let x = make.input(0);
            make.reader.graph.add_node(&name, Op::DynamicQuantizeLinear, vec![x], outputs.clone());
            let factors = vec![outputs[0], make.input(1), outputs[2], make.input(3)];
            let (scales, bias) = ([outputs[1], make.input(2)], make.input(4));
            integers(&mut make, factors, scales, bias, to)?;
        }
        "MatMulIntegerToFloat" => {
            let factors = vec![make.input(0), make.input(1), make.input(4), make.input(5)];
            let (scales, bias) = ([make.input(2), make.input(3)], make.input(6));
            integers(&mut make, factors, scales, bias, to)?;
        }
        _ => {
            let op = match kind {
                "QLinearSigmoid" => Op::Unary(Unary::Sigmoid),
                "QLinearLeakyRelu" => Op::Unary(Unary::LeakyRelu { alpha: said.alpha }),
                "QLinearGlobalAveragePool" => Op::GlobalAveragePool,
                "QLinearSoftmax" => Op::Softmax { axis: said.axis, flat: said.opset < 13 },
                _ => said.pool.ok_or_else(|| Error::internal(format!("'{kind}' is not known")))?,
            };
            let x = make.real([0, 1, 2], 1)?;
            let y = make.add(op, vec![Some(x)], None)?;
            make.codes(y, [3, 4], to)?;
        }
    }
    Ok(())
}

fn attributes_of(kind: &str, a: &mut table::Attrs) -> Result<Said> {
    let mut s = Said { alpha: 1.0, axis: -1, opset: 13, bits: 4, filler: -10_000.0, ..Said::default() };
    match kind {
        "QLinearLeakyRelu" => a.float("alpha", 0.01, &mut s.alpha)?,
        "QLinearConcat" => a.int("axis", None, &mut s.axis)?,
        "QLinearGlobalAveragePool" => a.only("channels_last", &[0])?,
        "QLinearAveragePool" => {
            a.only("channels_last", &[0])?;
            let row = table::find("AveragePool").ok_or_else(|| Error::internal("no AveragePool"))?;
            let mut op = (row.make)();
            (row.fields)(&mut op, a)?;
            s.pool = Some(op);
        }
        "QLinearSoftmax" => {
            a.int("axis", -1, &mut s.axis)?;
            a.int("opset", None, &mut s.opset)?;
        }
        "QGemm" => {
            a.float("alpha", 1.0, &mut s.alpha)?;
            a.flag("transA", false, &mut s.turned[0])?;
            a.flag("transB", false, &mut s.turned[1])?;
        }
        "MatMulNBits" => {
            a.size("K", None, &mut s.k)?;
            a.size("N", None, &mut s.n)?;
            a.size("bits", 4, &mut s.bits)?;
            a.size("block_size", None, &mut s.block)?;
            // How exactly others compute; here in binary32.
            a.ignore("accuracy_level");
            a.only("weight_prepacked", &[0])?;
        }
        "QAttention" => {
            a.size("num_heads", None, &mut s.heads)?;
            a.flag("unidirectional", false, &mut s.causal)?;
            a.float("scale", 0.0, &mut s.scale)?;
            a.float("mask_filter_value", -10_000.0, &mut s.filler)?;
            a.only("do_rotary", &[0])?;
            a.only("past_present_share_buffer", &[0])?;
        }
        _ => {}
    }
    Ok(s)
}

impl Maker<'_, '_> {
    /// The real numbers of which inputs `[codes, scale, zero point]` speak.
    fn real(&mut self, at: [usize; 3], axis: i64) -> Result<ValueId> {
        let inputs = at.map(|i| self.input(i)).to_vec();
        self.add(Op::DequantizeLinear { axis, block: 0 }, inputs, None)
    }
    /// Codes by the inputs `[scale, zero point]`.
    fn codes(&mut self, x: ValueId, [scale, zero]: [usize; 2], to: Option<ValueId>) -> Result<ValueId> {
        let zero = self.input(zero);
        let out = zero.and_then(|z| self.reader.graph.value(z).dtype).unwrap_or(DType::U8);
        let op = Op::QuantizeLinear { axis: 1, block: 0, saturate: true, out };
        self.add(op, vec![Some(x), self.input(scale), zero], to)
    }
    /// A constant input.
    fn constant(&self, i: usize, what: &str) -> Result<Arc<Tensor>> {
        self.input(i).and_then(|v| self.reader.graph.constant(v)).cloned().ok_or_else(|| {
            Error::unsupported(format!("{what} (input {i}) that is no constant")).cure("fold it into an initializer")
        })
    }
    /// A new constant.
    fn new_constant(&mut self, part: &str, t: Tensor) -> ValueId {
        let name = self.reader.graph.fresh_name(&format!("{}/{part}", self.name));
        self.reader.graph.add_constant(&name, Arc::new(t))
    }
}

/// MatMulInteger, and what makes real numbers of it: `f32(acc) * (sx * sw) + bias`.
fn integers(
    make: &mut Maker<'_, '_>,
    factors: Vec<Option<ValueId>>,
    scales: [Option<ValueId>; 2],
    bias: Option<ValueId>,
    to: Option<ValueId>,
) -> Result<()> {
    let acc = make.add(Op::MatMulInteger, factors, None)?;
    let real = make.add(Op::Cast { to: DType::F32, saturate: true }, vec![Some(acc)], None)?;
    let scale = make.add(Op::Binary(Binary::Mul), scales.to_vec(), None)?;
    let y = make.add(Op::Binary(Binary::Mul), vec![Some(real), Some(scale)], to.filter(|_| bias.is_none()))?;
    if bias.is_some() {
        make.add(Op::Binary(Binary::Add), vec![Some(y), bias], to)?;
    }
    Ok(())
}

/// `alpha A B + C`, of codes; the bias has the scale of the product. Real where no scale of the result is given.
fn gemm(s: &Said, make: &mut Maker<'_, '_>, to: Option<ValueId>) -> Result<()> {
    if s.alpha != 1.0 {
        return Err(Error::unsupported(format!("alpha = {}", s.alpha)).cure("fold it into the scale of the weights"));
    }
    let axis = i64::from(!s.turned[1]);
    let mut inputs = vec![Some(make.real([0, 1, 2], 1)?), Some(make.real([3, 4, 5], axis)?)];
    if let Some(c) = make.input(6) {
        let (sx, sw) = (make.constant(1, "the scale of A")?, make.constant(4, "the scale of B")?);
        let (sx, sw) = (sx.to_f32s(), sw.to_f32s());
        let &[sx] = &sx[..] else {
            return Err(Error::shape(format!("{} scales of A", sx.len())).cure("quantize A with one scale"));
        };
        let scale: Vec<f32> = sw.iter().map(|sw| sx * sw).collect();
        let shape = if scale.len() == 1 { vec![] } else { vec![scale.len()] };
        let scale = make.new_constant("bias_scale", Tensor::of(&shape, scale));
        inputs.push(Some(make.add(
            Op::DequantizeLinear { axis: 0, block: 0 },
            vec![Some(c), Some(scale), None],
            None,
        )?));
    }
    let op = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: s.turned[0], trans_b: s.turned[1] };
    if make.input(7).is_none() {
        make.add(op, inputs, to)?;
        return Ok(());
    }
    let y = make.add(op, inputs, None)?;
    make.codes(y, [7, 8], to)?;
    Ok(())
}

/// Weights `[n, blocks, bytes]`, several codes in a byte, the first lowest, become `[k, n]`.
fn few_bits(s: &Said, make: &mut Maker<'_, '_>, to: Option<ValueId>) -> Result<()> {
    let &Said { k, n, bits, block, .. } = s;
    if !matches!(bits, 2 | 4 | 8) || block < 16 || !block.is_power_of_two() || k == 0 || n == 0 {
        return Err(Error::unsupported(format!("K = {k}, N = {n}, bits = {bits}, block_size = {block}"))
            .cure("nnq reads 2, 4 and 8 bits in blocks of a power of two from 16 on"));
    }
    if make.input(4).is_some() {
        return Err(Error::unsupported("an order of groups (g_idx)").cure("quantize without act_order"));
    }
    let blocks = k.div_ceil(block);
    let (codes, scale) = (make.constant(1, "the weights")?, make.constant(2, "the scales")?);
    let zeros = if make.input(3).is_some() { Some(make.constant(3, "the zero points")?) } else { None };
    let bytes = |t: &Tensor, row: usize, what: &str| -> Result<Vec<u8>> {
        let want = n.checked_mul(row).filter(|&want| want == t.len());
        match (t.data(), want) {
            (Data::U8(b), Some(_)) => Ok(b.to_vec()),
            _ => Err(Error::shape(format!(
                "{what} of {} {:?} for {n} x {k} of {bits} bits in blocks of {block}",
                t.dtype(),
                t.shape()
            ))),
        }
    };
    let each = 8 / bits;
    let mask = (0xffu16 >> (8 - bits)) as u8;
    let packed = bytes(&codes, blocks * (block / each), "weights")?;
    let row = blocks * (block / each);
    let mut turned = vec![0u8; k * n];
    for (c, packed) in packed.chunks_exact(row).enumerate() {
        for i in 0..k {
            turned[i * n + c] = packed[i / each] >> (bits * (i % each)) & mask;
        }
    }
    let numbers = scale.as_slice::<f32>()?;
    if numbers.len() != n * blocks {
        return Err(Error::shape(format!("scales of shape {:?} for {n} x {blocks} blocks", scale.shape())));
    }
    let across = |of: &dyn Fn(usize, usize) -> u8| -> Vec<u8> { (0..blocks * n).map(|i| of(i / n, i % n)).collect() };
    let zero = match &zeros {
        None => vec![1u8 << (bits - 1); blocks * n],
        Some(z) => {
            let row = blocks.div_ceil(each);
            let z = bytes(z, row, "zero points")?;
            across(&|b, c| z[c * row + b / each] >> (bits * (b % each)) & mask)
        }
    };
    let scale: Vec<f32> = (0..blocks * n).map(|i| numbers[i % n * blocks + i / n]).collect();
    let codes = make.new_constant("codes", Tensor::of(&[k, n], turned));
    let scale = make.new_constant("scale", Tensor::of(&[blocks, n], scale));
    let zero = make.new_constant("zero_point", Tensor::of(&[blocks, n], zero));
    let op = Op::DequantizeLinear { axis: 0, block };
    let w = make.add(op, vec![Some(codes), Some(scale), Some(zero)], None)?;
    let (x, bias) = (make.input(0), make.input(5));
    let y = make.add(Op::MatMul, vec![x, Some(w)], to.filter(|_| bias.is_none()))?;
    if bias.is_some() {
        make.add(Op::Binary(Binary::Add), vec![Some(y), bias], to)?;
    }
    Ok(())
}

/// Queries, keys and values by one product of codes, then attention in floating point.
fn attention(s: &Said, make: &mut Maker<'_, '_>, to: Option<ValueId>) -> Result<()> {
    make.none_from(1, usize::MAX)?;
    if make.input(8).is_some() {
        return Err(Error::unsupported("past keys and values of QAttention")
            .cure("export the model with attention as standard operators"));
    }
    let mask = match make.input(5) {
        None => None,
        Some(m) => {
            let rank = make.reader.graph.value(m).shape.as_ref().map(crate::ir::Shape::rank);
            if rank != Some(2) {
                return Err(Error::unsupported("a mask that is not [samples, keys]")
                    .cure("export the model with attention as standard operators"));
            }
            // 0 where the mask is 1, the filler where it is 0.
            let real = make.add(Op::Cast { to: DType::F32, saturate: true }, vec![Some(m)], None)?;
            let one = make.new_constant("one", Tensor::scalar(1.0f32));
            let hidden = make.add(Op::Binary(Binary::Sub), vec![Some(one), Some(real)], None)?;
            let filler = make.new_constant("filler", Tensor::scalar(s.filler));
            let bias = make.add(Op::Binary(Binary::Mul), vec![Some(hidden), Some(filler)], None)?;
            let axes = make.new_constant("axes", Tensor::of(&[2], vec![1i64, 2]));
            Some(make.add(Op::Unsqueeze, vec![Some(bias), Some(axes)], None)?)
        }
    };
    let (x, w) = (make.real([0, 3, 6], 1)?, make.real([1, 4, 7], 1)?);
    let product = make.add(Op::MatMul, vec![Some(x), Some(w)], None)?;
    let sum = make.add(Op::Binary(Binary::Add), vec![Some(product), make.input(2)], None)?;
    let parts = ["query", "key", "value"].map(|part| make.value(part).map(Some));
    let mut parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
    let name = format!("{}/Split", make.name);
    make.reader.graph.add_node(&name, Op::Split { axis: -1 }, vec![Some(sum)], parts.clone());
    let op = Op::Attention(AttentionAttrs {
        causal: s.causal,
        q_heads: s.heads,
        kv_heads: s.heads,
        scale: (s.scale != 0.0).then_some(s.scale),
        ..AttentionAttrs::default()
    });
    parts.push(mask);
    make.add(op, parts, to)?;
    Ok(())
}
