//! The one table between IR operators and ONNX operators, read in both directions.
//!
//! A [`Row`] per ONNX operator says which inputs it has, since when, and which of them older opsets hold as attributes; and which
//! attributes it has, by a function that both the reader and the writer call. [`name`] is the way back from an operator to its row.
mod arrange;
mod attention;
mod attrs;
mod elementwise;
mod product;
mod quantized;
mod recurrent;
mod reduce;
mod resize;
#[cfg(test)]
mod tests;

pub(super) use attrs::{Attrs, Need};

use super::proto::AttributeProto;
use crate::{
    error::{At, Error, Result},
    ir::{DType, Op, Tensor, op::Reduction},
};
use std::{collections::HashMap, sync::LazyLock};

/// The oldest opset nnq reads and writes.
pub const OLDEST: i64 = 7;
/// The newest opset nnq reads and writes.
pub const NEWEST: i64 = 28;

/// What an attribute of an older opset holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Old {
    /// Integers: an i64 vector as an input.
    Ints,
    /// One integer: an i64 vector of one element as an input.
    Int,
    /// A number: an f32 scalar as an input.
    Float,
    /// Numbers: an f32 vector as an input.
    Floats,
}

/// An input of an operator.
#[derive(Clone, Copy)]
pub(super) struct In {
    /// Its name in the specification; the attribute's name in older opsets.
    pub name: &'static str,
    /// May be absent.
    pub optional: bool,
    /// Any number of values; the last input only.
    pub many: bool,
    /// The first opset that has it.
    pub since: i64,
    /// Before opset `.0` it is an attribute.
    pub attribute: Option<(i64, &'static str, Old)>,
    /// Before this opset it must be there.
    pub required_before: i64,
    /// Before this opset an empty f32 vector stands for its absence.
    pub empty_before: i64,
}

/// An input that is always there.
const fn req(name: &'static str) -> In {
    In { name, optional: false, many: false, since: 0, attribute: None, required_before: 0, empty_before: 0 }
}

/// An input that may be absent.
const fn opt(name: &'static str) -> In {
    In { optional: true, ..req(name) }
}

/// One or more inputs.
const fn many(name: &'static str) -> In {
    In { many: true, ..req(name) }
}

impl In {
    const fn since(self, since: i64) -> Self {
        Self { since, ..self }
    }
    const fn was(self, before: i64, old: Old) -> Self {
        Self { attribute: Some((before, self.name, old)), ..self }
    }
    const fn was_called(self, before: i64, name: &'static str, old: Old) -> Self {
        Self { attribute: Some((before, name, old)), ..self }
    }
    const fn required_before(self, required_before: i64) -> Self {
        Self { required_before, ..self }
    }
    const fn empty_before(self, empty_before: i64) -> Self {
        Self { empty_before, ..self }
    }
    /// The attribute that holds it at an opset.
    pub fn attribute_at(&self, opset: i64) -> Option<(&'static str, Old)> {
        self.attribute.filter(|a| opset < a.0).map(|a| (a.1, a.2))
    }
}

type Fields = fn(&mut Op, &mut Attrs) -> Result<()>;

/// One ONNX operator.
pub(super) struct Row {
    /// `op_type`.
    pub name: &'static str,
    /// The first opset that has it.
    pub since: i64,
    /// The last opset that has it.
    pub until: i64,
    /// Inputs in the order of the IR.
    pub inputs: &'static [In],
    /// Least number of outputs in the file, greatest number of outputs.
    pub outputs: (usize, usize),
    /// Any operator of this row; `fields` fills it in.
    pub make: fn() -> Op,
    /// Reads or writes the attributes.
    pub fields: Fields,
}

const fn row(name: &'static str, since: i64, inputs: &'static [In], make: fn() -> Op, fields: Fields) -> Row {
    Row { name, since, until: i64::MAX, inputs, outputs: (1, 1), make, fields }
}

impl Row {
    const fn until(self, until: i64) -> Self {
        Self { until, ..self }
    }
    const fn outputs(self, least: usize, most: usize) -> Self {
        Self { outputs: (least, most), ..self }
    }
}

/// The description of an operator without attributes.
fn plain(_: &mut Op, _: &mut Attrs) -> Result<()> {
    Ok(())
}

/// For a row whose function met an operator of another row.
fn wrong(op: &Op) -> Result<()> {
    Err(Error::internal(format!("the ONNX table met {op:?} in a row of another operator")))
}

/// All rows.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    let families = [
        product::ROWS,
        recurrent::ROWS,
        attention::ROWS,
        elementwise::ROWS,
        reduce::ROWS,
        arrange::ROWS,
        resize::ROWS,
        quantized::ROWS,
    ];
    families.into_iter().flatten()
}

/// The row of an ONNX operator name.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    static INDEX: LazyLock<HashMap<&'static str, &'static Row>> =
        LazyLock::new(|| rows().map(|r| (r.name, r)).collect());
    INDEX.get(name).copied()
}

/// The ONNX operator that an operator is at an opset.
pub(super) fn name(op: &Op, opset: i64) -> &'static str {
    match op {
        Op::Conv(_) => "Conv",
        Op::ConvTranspose(_) => "ConvTranspose",
        Op::Gemm { .. } => "Gemm",
        Op::MatMul => "MatMul",
        Op::Recurrent(_)
        | Op::Attention(_)
        | Op::RotaryEmbedding { .. }
        | Op::Einsum { .. }
        | Op::RmsNormalization { .. }
        | Op::Hardmax { .. }
        | Op::ScatterNd { .. }
        | Op::NonZero
        | Op::Compress { .. }
        | Op::ReverseSequence { .. }
        | Op::CastLike { .. }
        | Op::Control(_) => op.name(),
        Op::BatchNormalization { .. } => "BatchNormalization",
        Op::InstanceNormalization { .. } => "InstanceNormalization",
        Op::GroupNormalization { .. } => "GroupNormalization",
        Op::LayerNormalization { .. } => "LayerNormalization",
        Op::Lrn { .. } => "LRN",
        Op::Unary(u) => elementwise::unary_name(u),
        Op::Binary(b) => elementwise::binary_name(*b),
        Op::Variadic(v) => elementwise::variadic_name(*v),
        Op::Clip => "Clip",
        Op::Where => "Where",
        Op::Cast { .. } => "Cast",
        Op::Softmax { .. } => "Softmax",
        Op::LogSoftmax { .. } => "LogSoftmax",
        Op::Reduce { kind, .. } => match kind {
            Reduction::L1 => "ReduceL1",
            Reduction::L2 => "ReduceL2",
            Reduction::LogSum => "ReduceLogSum",
            Reduction::LogSumExp => "ReduceLogSumExp",
            Reduction::Max => "ReduceMax",
            Reduction::Mean => "ReduceMean",
            Reduction::Min => "ReduceMin",
            Reduction::Prod => "ReduceProd",
            Reduction::Sum => "ReduceSum",
            Reduction::SumSquare => "ReduceSumSquare",
        },
        Op::ArgMax { .. } => "ArgMax",
        Op::ArgMin { .. } => "ArgMin",
        Op::CumSum { .. } => "CumSum",
        Op::TopK { .. } => "TopK",
        Op::MaxPool { .. } => "MaxPool",
        Op::AveragePool { .. } => "AveragePool",
        Op::LpPool { .. } => "LpPool",
        Op::GlobalMaxPool => "GlobalMaxPool",
        Op::GlobalAveragePool => "GlobalAveragePool",
        Op::GlobalLpPool { .. } => "GlobalLpPool",
        Op::Concat { .. } => "Concat",
        Op::Split { .. } => "Split",
        Op::Slice => "Slice",
        Op::Gather { .. } => "Gather",
        Op::GatherElements { .. } => "GatherElements",
        Op::GatherNd { .. } => "GatherND",
        Op::ScatterElements { .. } if opset < 11 => "Scatter",
        Op::ScatterElements { .. } => "ScatterElements",
        Op::Pad { .. } => "Pad",
        Op::Resize(_) if opset < 10 => "Upsample",
        Op::Resize(_) => "Resize",
        Op::Reshape { .. } => "Reshape",
        Op::Flatten { .. } => "Flatten",
        Op::Transpose { .. } => "Transpose",
        Op::Squeeze => "Squeeze",
        Op::Unsqueeze => "Unsqueeze",
        Op::Expand => "Expand",
        Op::Tile => "Tile",
        Op::DepthToSpace { .. } => "DepthToSpace",
        Op::SpaceToDepth { .. } => "SpaceToDepth",
        Op::Identity => "Identity",
        Op::Dropout => "Dropout",
        Op::Shape { .. } => "Shape",
        Op::Size => "Size",
        Op::ConstantOfShape { .. } => "ConstantOfShape",
        Op::Range => "Range",
        Op::OneHot { .. } => "OneHot",
        Op::Trilu { .. } => "Trilu",
        Op::QuantizeLinear { .. } => "QuantizeLinear",
        Op::DequantizeLinear { .. } => "DequantizeLinear",
        Op::DynamicQuantizeLinear => "DynamicQuantizeLinear",
        Op::QLinearConv(_) => "QLinearConv",
        Op::QLinearMatMul => "QLinearMatMul",
        Op::ConvInteger(_) => "ConvInteger",
        Op::MatMulInteger => "MatMulInteger",
    }
}

/// The constant input that an attribute of an older opset becomes.
pub(super) fn upgrade(a: &AttributeProto, old: Old) -> Result<Tensor> {
    let name = a.name.as_deref().unwrap_or_default();
    let vector = |v: &[i64]| Tensor::of(&[v.len()], v.to_vec());
    match old {
        Old::Ints => attrs::ints(a).map(vector),
        Old::Int => attrs::int(a).map(|i| vector(&[i])),
        Old::Float => attrs::float(a).map(Tensor::scalar),
        Old::Floats => attrs::floats(a).map(|v| Tensor::of(&[v.len()], v.to_vec())),
    }
    .at(|| format!("attribute '{name}'"))
}

/// The attribute of an older opset that a constant input becomes; `None` when an attribute cannot hold it.
pub(super) fn downgrade(name: &str, tensor: &Tensor, old: Old) -> Option<AttributeProto> {
    let one = |n: usize| (n == 1).then_some(());
    let attribute = match old {
        Old::Ints => attrs::ints_attr(tensor.to_i64s().ok()?),
        Old::Int => attrs::int_attr(*one(tensor.len()).and(tensor.to_i64s().ok()?.first())?),
        Old::Float => {
            one(tensor.len())?;
            let exact = matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16);
            attrs::float_attr(*exact.then(|| tensor.to_f32s())?.first()?)
        }
        Old::Floats => attrs::floats_attr(tensor.as_slice::<f32>().ok()?.to_vec()),
    };
    Some(AttributeProto { name: Some(name.to_owned()), ..attribute })
}
