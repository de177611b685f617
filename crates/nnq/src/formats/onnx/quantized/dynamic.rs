//! Dynamic quantization: DynamicQuantizeLinear, an integer product, Cast, Mul by the product of the scales, Add of a real bias.
use super::{
    DYNAMIC_KEY, ROWS_KEY,
    absorb::Absorb,
    build::Build,
    codes,
    products::{transposed, weight_axis},
};
use crate::{
    error::{Error, Result},
    ir::{DType, Dynamic, Granularity, Graph, Node, NodeId, Op, QParams, Tensor, ValueId, op::Binary},
};
use std::{collections::HashSet, sync::Arc};

/// What a DynamicQuantizeLinear makes of a value.
#[derive(Clone, Copy)]
pub(super) struct Live {
    /// The value, in the graph that grows.
    pub x: ValueId,
    /// Its codes, scale and zero point: on the way in those of the graph that is read, on the way out those of the graph that grows.
    pub codes: ValueId,
    pub scale: ValueId,
    pub zero: ValueId,
}

/// A product whose input is quantized as it comes.
struct Product<'a> {
    x: ValueId,
    w: ValueId,
    qw: &'a QParams,
    bias: Option<ValueId>,
}

impl<'a> Product<'a> {
    fn of(graph: &'a Graph, node: &Node) -> Option<Self> {
        let (x, w) = (node.input(0)?, node.input(1)?);
        let (value, weight) = (graph.value(w), graph.constant(w)?);
        let (qw, bias) = (value.quant.as_deref()?, node.input(2));
        if graph.value(x).dynamic != Some(Dynamic::Tensor) || !weight.dtype().is_int() || qw.qtype.bits > 16 {
            return None;
        }
        let axis = weight_axis(&node.op, weight.shape().len(), bias.is_some())?;
        let fits = match qw.granularity {
            Granularity::Tensor => true,
            Granularity::Channel { axis: a } => a == axis,
            Granularity::Block { .. } => false,
        };
        let channels = *weight.shape().get(axis)?;
        // Numbers along the last axis of a matrix, or of the only one.
        let vector = |b: ValueId| {
            graph.constant(b).is_some_and(|t| {
                (t.len() == channels || t.len() == 1) && t.shape().iter().rev().skip(1).all(|&d| d == 1)
            })
        };
        (fits && bias.is_none_or(vector)).then_some(Self { x, w, qw, bias })
    }
}

/// Writes a product whose input is quantized as it comes; `false`: the node is none.
pub(super) fn write(b: &mut Build, node: &Node) -> Result<bool> {
    let src = b.src;
    if let Some([x, y]) =
        pair(src, node).filter(|both| both.iter().all(|&v| src.value(v).dynamic == Some(Dynamic::Tensor)))
    {
        return write_pair(b, node, [x, y]);
    }
    let Some(Product { x, w, qw, bias }) = Product::of(src, node) else { return Ok(false) };
    let (Some(y), Some(weight)) = (node.output(0), src.constant(w)) else { return Ok(false) };
    if qw.qtype.bits > 8 {
        return Err(Error::unsupported(format!(
            "weights of {} bits beside inputs quantized as they come",
            qw.qtype.bits
        ))
        .at(format!("weight '{}'", src.value(w).name))
        .cure("use 8 bits or fewer: ONNX has integer products of 8 bits only"));
    }
    let live = quantized(b, x)?;
    let (op, w_codes, trailing) = match &node.op {
        Op::Conv(a) => (Op::ConvInteger(a.clone()), b.codes(w)?, weight.shape().len() - 2),
        Op::Gemm { trans_b: true, .. } => {
            let c = codes::of_constant(weight, qw)?;
            let plain = codes::tensor(weight.shape(), &c, codes::container(qw.qtype)?)?;
            (Op::MatMulInteger, b.named_weight(w, transposed(&plain)?, qw)?, 0)
        }
        _ => (Op::MatMulInteger, b.codes(w)?, 0),
    };
    let mut inputs = vec![Some(live.codes), Some(w_codes), Some(live.zero)];
    if qw.zero_point.iter().any(|&z| z != 0) {
        let dtype = codes::container(qw.qtype)?;
        let zero = match qw.as_tensor() {
            Some((_, z)) => codes::tensor(&[], &[z], dtype)?,
            None => codes::tensor(&[qw.zero_point.len()], &qw.zero_point, dtype)?,
        };
        inputs.push(Some(b.share("z", zero)));
    }
    let acc = b.temp("t", DType::I32)?;
    b.out.add_node(&node.name, op, inputs, vec![Some(acc)]);
    let cast = b.temp("t", DType::F32)?;
    b.emit(Op::Cast { to: DType::F32, saturate: true }, &[acc], cast);
    let column = |n: usize| [&[n][..], &vec![1; trailing]].concat();
    let sw = match qw.as_tensor() {
        Some((s, _)) => Tensor::scalar(s),
        None => Tensor::of(&column(qw.scale.len()), qw.scale.clone()),
    };
    let sw = b.share("s", sw);
    let scale = b.temp("t", DType::F32)?;
    b.emit(Op::Binary(Binary::Mul), &[live.scale, sw], scale);
    let Some(bias) = bias else {
        let real = b.declare(y)?;
        b.emit(Op::Binary(Binary::Mul), &[cast, scale], real);
        b.produced(y, real, None)?;
        return Ok(true);
    };
    let product = b.temp("t", DType::F32)?;
    b.emit(Op::Binary(Binary::Mul), &[cast, scale], product);
    let real = src.real_constant(bias)?.to_f32s();
    let shape = if real.len() == 1 { vec![] } else { column(real.len()) };
    let bias = b.named_constant(bias, Arc::new(Tensor::of(&shape, real)));
    let real = b.declare(y)?;
    b.emit(Op::Binary(Binary::Add), &[product, bias], real);
    b.produced(y, real, None)?;
    Ok(true)
}

/// The operands of a product of two values that are both quantized as they come.
fn pair(graph: &Graph, node: &Node) -> Option<[ValueId; 2]> {
    let both = [node.input(0)?, node.input(1)?];
    let live = both.iter().all(|&v| graph.value(v).dynamic.is_some());
    (matches!(node.op, Op::MatMul) && live).then_some(both)
}

/// Writes a product of two values that are quantized as they come, each on one grid.
fn write_pair(b: &mut Build, node: &Node, both: [ValueId; 2]) -> Result<bool> {
    let Some(y) = node.output(0) else { return Ok(false) };
    let [l, r] = [quantized(b, both[0])?, quantized(b, both[1])?];
    let acc = b.temp("t", DType::I32)?;
    let inputs = [l.codes, r.codes, l.zero, r.zero].map(Some).to_vec();
    b.out.add_node(&node.name, Op::MatMulInteger, inputs, vec![Some(acc)]);
    let (cast, scale) = (b.temp("t", DType::F32)?, b.temp("t", DType::F32)?);
    b.emit(Op::Cast { to: DType::F32, saturate: true }, &[acc], cast);
    b.emit(Op::Binary(Binary::Mul), &[l.scale, r.scale], scale);
    let real = b.declare(y)?;
    b.emit(Op::Binary(Binary::Mul), &[cast, scale], real);
    b.produced(y, real, None)?;
    Ok(true)
}

/// The codes of a value, its scale and zero point: one DynamicQuantizeLinear for all products that read it.
fn quantized(b: &mut Build, x: ValueId) -> Result<Live> {
    if let Some(live) = b.live.get(&x) {
        return Ok(*live);
    }
    let real = b.real(x)?;
    let shape = b.src.value(x).shape.clone();
    let name = b.fresh("q");
    let codes = b.out.add_value(&name, Some(DType::U8), shape)?;
    let (scale, zero) = (b.temp("s", DType::F32)?, b.temp("z", DType::U8)?);
    let node = b.node_name("Q");
    b.out.add_node(&node, Op::DynamicQuantizeLinear, vec![Some(real)], vec![Some(codes), Some(scale), Some(zero)]);
    let live = Live { x: real, codes, scale, zero };
    b.live.insert(x, live);
    Ok(live)
}

/// Notes what a DynamicQuantizeLinear quantizes. The node itself stays for readers that are no products; without any it is dropped.
pub(super) fn note(a: &mut Absorb, node: &Node) -> Result<()> {
    let (Some(x), Some(codes), Some(scale), Some(zero)) =
        (node.input(0), node.output(0), node.output(1), node.output(2))
    else {
        return Ok(());
    };
    let x = a.plain(x)?;
    let value = a.out.value(x);
    if value.quant.is_none() && value.constant.is_none() && value.dtype.is_none_or(|d| d == DType::F32) {
        a.live.insert(codes, Live { x, codes, scale, zero });
    }
    Ok(())
}

/// The real bias that is added to `y`, the result of a product of `channels` with so many axes behind that of the channels: the node that adds it,
/// the constant, and the sum.
pub(super) fn bias(a: &Absorb, y: ValueId, channels: usize, trailing: usize) -> Option<(NodeId, Arc<Tensor>, ValueId)> {
    let [(id, at)] = a.consumers[y.0 as usize][..] else { return None };
    let node = a.src.node(id);
    if !matches!(node.op, Op::Binary(Binary::Add)) || a.reads(y) != 1 {
        return None;
    }
    let other = node.input(1 - at.min(1))?;
    let (tensor, shape) = constant(a, other)?;
    let per_channel: Vec<usize> = shape.iter().copied().skip_while(|&d| d == 1).collect();
    let column = [&[channels][..], &vec![1; trailing]].concat();
    // Leading ones do not matter; a single channel is all ones.
    let fits = shape.len() <= trailing + 2 && (per_channel == column || channels == 1 && per_channel.is_empty());
    if !fits || shape.len() < column.len() || tensor.dtype() != DType::F32 {
        return None;
    }
    let tensor = (*tensor).clone().reshaped(vec![channels]).ok()?;
    Some((id, Arc::new(tensor), node.output(0)?))
}

/// A constant, perhaps in another shape: the numbers, and the shape that the reader sees.
fn constant(a: &Absorb, v: ValueId) -> Option<(Arc<Tensor>, Vec<usize>)> {
    if let Some(t) = a.src.constant(v) {
        return Some((t.clone(), t.shape().to_vec()));
    }
    let node = a.src.node(a.producers[v.0 as usize]?);
    let Op::Reshape { .. } = node.op else { return None };
    let t = a.src.constant(node.input(0)?)?;
    let shape = a.src.constant(node.input(1)?)?.to_i64s().ok()?;
    let known: i64 = shape.iter().filter(|&&d| d > 0).product();
    let of = |d: i64| usize::try_from(if d == -1 { t.len() as i64 / known.max(1) } else { d }).ok();
    let shape: Vec<usize> = shape.into_iter().map(of).collect::<Option<_>>()?;
    (shape.iter().product::<usize>() == t.len()).then(|| (t.clone(), shape))
}

/// The metadata key that names a node which quantizes what it reads as it comes, but is written with real inputs: a recurrent layer, whose input and states
/// are quantized, on one grid or each row on its own, or a matrix product that reads each row on a grid of its own.
pub(super) fn key(graph: &Graph, node: &Node) -> Option<&'static str> {
    let codes = |i: usize| node.input(i).is_some_and(|w| graph.value(w).quant.is_some());
    let live = node.input(0).and_then(|x| graph.value(x).dynamic)?;
    match &node.op {
        Op::Recurrent(_) => (codes(1) && codes(2)).then_some(if live == Dynamic::Row { ROWS_KEY } else { DYNAMIC_KEY }),
        Op::Gemm { .. } | Op::MatMul => {
            let rows = || pair(graph, node).is_some_and(|both| graph.value(both[1]).dynamic == Some(Dynamic::Row));
            (live == Dynamic::Row && (codes(1) || rows())).then_some(ROWS_KEY)
        }
        _ => None,
    }
}

/// Marks what named nodes read as quantized as it comes: recurrent layers, and by row both these and products.
///
/// # Errors
/// Names a value that is to have one grid for all its numbers and one for each row.
pub(super) fn mark(graph: &mut Graph, layers: &HashSet<String>, rows: &HashSet<String>) -> Result<()> {
    let named = |node: &Node| match &node.op {
        Op::Recurrent(_) | Op::Gemm { .. } | Op::MatMul if rows.contains(&node.name) => Some(Dynamic::Row),
        Op::Recurrent(_) if layers.contains(&node.name) => Some(Dynamic::Tensor),
        _ => None,
    };
    let both = |n: &Node| [n.input(0), n.input(1).filter(|_| matches!(n.op, Op::MatMul))];
    let read = graph.nodes().filter_map(|(_, n)| named(n).map(|live| both(n).map(|x| (x, live))));
    let read = read.flatten().filter_map(|(x, live)| Some((x?, live)));
    for (x, live) in read.collect::<Vec<(ValueId, Dynamic)>>() {
        let value = graph.value_mut(x);
        if value.quant.is_none() && value.constant.is_none() && value.dtype.is_none_or(|d| d == DType::F32) {
            if value.dynamic.is_some_and(|other| other != live) {
                return Err(Error::malformed(
                    "layers that read it find one grid for all its numbers and one for each row",
                )
                .at(format!("value '{}'", value.name))
                .cure(format!("name all or none of them in the metadata entry {ROWS_KEY}")));
            }
            value.dynamic = Some(live);
        }
    }
    Ok(())
}
