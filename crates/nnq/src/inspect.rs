//! What is in a model.
use crate::{
    error::Result,
    ir::{Binding, DType, Dim, Dynamic, Graph, Node, Op, QParams, ValueId, infer},
};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// Figures of a model. Multiply-accumulates are those of one sample: symbolic sizes count as 1.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Name of the graph in the file.
    pub graph: String,
    /// Opset of the default domain.
    pub opset: i64,
    /// Number of nodes.
    pub nodes: usize,
    /// Inputs in order.
    pub inputs: Vec<Port>,
    /// Outputs in order.
    pub outputs: Vec<Port>,
    /// Numbers in weights, biases and other floating-point or quantized constants.
    pub parameters: u64,
    /// What these take at their bit widths.
    pub parameter_bytes: u64,
    /// Multiply-accumulates of products (convolutions, Gemm, MatMul).
    pub macs: u64,
    /// Products whose shapes are not known without input; they are missing in `macs`.
    pub macs_unknown: usize,
    /// By operator, most work first.
    pub operators: Vec<OperatorRow>,
    /// What is quantized.
    pub quantization: Quantization,
    /// Quantized constants as the file stores them.
    pub weights: Vec<WeightRow>,
    /// `metadata_props` of the file.
    pub metadata: BTreeMap<String, String>,
}

/// An input or output of a graph.
#[derive(Clone, Debug, Serialize)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Element type, `?` when unknown.
    pub dtype: String,
    /// Shape with symbols, `?` when unknown.
    pub shape: String,
}

/// All nodes of one operator.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OperatorRow {
    /// ONNX name.
    pub operator: String,
    /// Nodes.
    pub count: usize,
    /// Parameters they read (a shared constant counts where it is read first).
    pub parameters: u64,
    /// Multiply-accumulates.
    pub macs: u64,
}

/// Quantized constants of one grid and one element type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WeightRow {
    /// The grid, granularity included: `i4n per channel`.
    pub grid: String,
    /// Element type in the file: `int4`.
    pub stored: String,
    /// Constants.
    pub tensors: usize,
    /// Numbers in them.
    pub numbers: u64,
    /// Bytes of these in the file; scales and zero points are not counted.
    pub bytes: u64,
}

/// Annotations by kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Quantization {
    /// Annotated values that are computed, of all of them.
    pub activations: usize,
    /// Values that are computed, graph inputs included.
    pub of_activations: usize,
    /// Annotated constants.
    pub constants: usize,
    /// How many annotations have each type, granularity included: `u8 per tensor`.
    pub types: BTreeMap<String, usize>,
}

/// Looks at a graph.
///
/// # Errors
/// When shape inference finds a contradiction.
pub fn inspect(graph: &Graph) -> Result<Inspection> {
    let bound = infer::bind(graph, &one_sample(graph))?;
    let mut seen = HashSet::new();
    let mut rows: BTreeMap<&str, OperatorRow> = BTreeMap::new();
    let (mut parameters, mut bits, mut macs, mut unknown) = (0, 0, 0u64, 0);
    for (_, node) in bound.nodes() {
        let row = rows.entry(node.op.name()).or_default();
        row.count += 1;
        for id in node.inputs.iter().flatten().filter(|id| seen.insert(**id)) {
            let (n, b) = parameter(&bound, *id);
            row.parameters += n;
            parameters += n;
            bits += n * b;
        }
        match work(&bound, node) {
            Some(n) => {
                row.macs = row.macs.saturating_add(n);
                macs = macs.saturating_add(n);
            }
            None => unknown += 1,
        }
    }
    let mut operators: Vec<OperatorRow> =
        rows.into_iter().map(|(name, row)| OperatorRow { operator: name.into(), ..row }).collect();
    operators.sort_by_key(|r| (std::cmp::Reverse((r.macs, r.count)), r.operator.clone()));
    let port = |id: &ValueId| port(graph, *id);
    Ok(Inspection {
        graph: graph.name.clone(),
        opset: graph.opset,
        nodes: graph.node_count(),
        inputs: graph.inputs.iter().map(port).collect(),
        outputs: graph.outputs.iter().map(port).collect(),
        parameters,
        parameter_bytes: bits.div_ceil(8),
        macs,
        macs_unknown: unknown,
        operators,
        quantization: quantization(graph),
        weights: weights(graph),
        metadata: graph.metadata.iter().cloned().collect(),
    })
}

/// Every symbol of the inputs at 1.
fn one_sample(graph: &Graph) -> Binding {
    let dims = graph.inputs.iter().filter_map(|id| graph.value(*id).shape.as_ref()).flat_map(|s| &s.0);
    dims.filter_map(|d| if let Dim::Sym(s) = d { Some((s.to_string(), 1)) } else { None }).collect()
}

fn port(graph: &Graph, id: ValueId) -> Port {
    let value = graph.value(id);
    Port {
        name: value.name.clone(),
        dtype: value.dtype.map_or_else(|| "?".into(), |d| d.to_string()),
        shape: value.shape.as_ref().map_or_else(|| "?".into(), ToString::to_string),
    }
}

/// How many parameters a value holds, and their bits each. Integer constants that are not codes are shapes, axes and the like.
fn parameter(graph: &Graph, id: ValueId) -> (u64, u64) {
    let value = graph.value(id);
    match (&value.constant, &value.quant) {
        (Some(t), Some(q)) => (t.len() as u64, q.qtype.bits.into()),
        (Some(t), None) if t.dtype().is_float() => (t.len() as u64, 8 * t.dtype().size() as u64),
        _ => (0, 0),
    }
}

/// Multiply-accumulates of a node: 0 where it is no product, `None` where shapes are unknown.
pub(crate) fn work(graph: &Graph, node: &Node) -> Option<u64> {
    let elements = |dims: &[usize]| dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let input = |i: usize| graph.value(node.input(i)?).shape.as_ref()?.as_fixed();
    let output = || elements(&graph.value(node.output(0)?).shape.as_ref()?.as_fixed()?);
    // Per output element, a convolution sums over its weight without the leading axis.
    let conv = |weight: usize| output()?.checked_mul(elements(input(weight)?.get(1..)?)?);
    let matrix = |i: usize| output()?.checked_mul(*input(i)?.last()? as u64);
    match &node.op {
        Op::Conv(_) | Op::ConvInteger(_) => conv(1),
        Op::QLinearConv(_) => conv(3),
        Op::ConvTranspose(_) => elements(&input(0)?)?.checked_mul(elements(input(1)?.get(1..)?)?),
        Op::Gemm { trans_a, .. } => output()?.checked_mul(*input(0)?.get(usize::from(!*trans_a))? as u64),
        // Each step of each sample takes all weights of input and state once.
        Op::Recurrent(_) => {
            let steps = elements(input(0)?.get(..2)?)?;
            steps.checked_mul(elements(&input(1)?)?.checked_add(elements(&input(2)?)?)?)
        }
        Op::MatMul | Op::MatMulInteger | Op::QLinearMatMul => matrix(0),
        _ => Some(0),
    }
}

fn quantization(graph: &Graph) -> Quantization {
    let mut q = Quantization::default();
    let produced: HashSet<ValueId> = graph
        .nodes()
        .flat_map(|(_, n)| n.outputs.iter().flatten().copied())
        .chain(graph.inputs.iter().copied())
        .collect();
    q.of_activations = produced.len();
    for (id, value) in graph.values() {
        if let Some(live) = value.dynamic.filter(|_| produced.contains(&id)) {
            q.activations += 1;
            let kind = if live == Dynamic::Row { "u8 dynamic by row" } else { "u8 dynamic" };
            *q.types.entry(kind.into()).or_default() += 1;
        }
        let Some(params) = &value.quant else { continue };
        if value.constant.is_some() {
            q.constants += 1;
        } else if produced.contains(&id) {
            q.activations += 1;
        }
        *q.types.entry(describe(params)).or_default() += 1;
    }
    q
}

/// Quantized constants as the file stores them, most bytes first.
pub fn weights(graph: &Graph) -> Vec<WeightRow> {
    let mut rows: BTreeMap<(String, String), (usize, u64, u64)> = BTreeMap::new();
    for (_, value) in graph.values() {
        let (Some(t), Some(q)) = (&value.constant, &value.quant) else { continue };
        let bits = value.packed.map_or(8 * t.dtype().size(), usize::from);
        let kind = match t.dtype() {
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => "uint",
            dtype if dtype.is_float() => "float",
            _ => "int",
        };
        let row = rows.entry((describe(q), format!("{kind}{bits}"))).or_default();
        *row = (row.0 + 1, row.1 + t.len() as u64, row.2 + (t.len() * bits).div_ceil(8) as u64);
    }
    let row = |((grid, stored), (tensors, numbers, bytes))| WeightRow { grid, stored, tensors, numbers, bytes };
    let mut rows: Vec<WeightRow> = rows.into_iter().map(row).collect();
    rows.sort_by_key(|r| std::cmp::Reverse(r.bytes));
    rows
}

/// `i8n per channel`.
pub fn describe(params: &QParams) -> String {
    use crate::ir::Granularity::{Block, Channel, Tensor};
    match params.granularity {
        Tensor => format!("{} per tensor", params.qtype),
        Channel { .. } => format!("{} per channel", params.qtype),
        Block { size, .. } => format!("{} per block of {size}", params.qtype),
    }
}
