//! The ONNX name of each operator, for messages and dumps.
use super::{Binary, Control, Op, Reduction, Unary, Variadic};

impl Unary {
    /// The ONNX operator name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Abs => "Abs",
            Self::Acos => "Acos",
            Self::Acosh => "Acosh",
            Self::Asin => "Asin",
            Self::Asinh => "Asinh",
            Self::Atan => "Atan",
            Self::Atanh => "Atanh",
            Self::BitwiseNot => "BitwiseNot",
            Self::Ceil => "Ceil",
            Self::Celu { .. } => "Celu",
            Self::Cos => "Cos",
            Self::Cosh => "Cosh",
            Self::Elu { .. } => "Elu",
            Self::Erf => "Erf",
            Self::Exp => "Exp",
            Self::Floor => "Floor",
            Self::Gelu { .. } => "Gelu",
            Self::HardSigmoid { .. } => "HardSigmoid",
            Self::HardSwish => "HardSwish",
            Self::IsInf { .. } => "IsInf",
            Self::IsNaN => "IsNaN",
            Self::LeakyRelu { .. } => "LeakyRelu",
            Self::Log => "Log",
            Self::Mish => "Mish",
            Self::Neg => "Neg",
            Self::Not => "Not",
            Self::Reciprocal => "Reciprocal",
            Self::Relu => "Relu",
            Self::Round => "Round",
            Self::Selu { .. } => "Selu",
            Self::Sigmoid => "Sigmoid",
            Self::Sign => "Sign",
            Self::Sin => "Sin",
            Self::Sinh => "Sinh",
            Self::Softplus => "Softplus",
            Self::Softsign => "Softsign",
            Self::Sqrt => "Sqrt",
            Self::Swish { .. } => "Swish",
            Self::Tan => "Tan",
            Self::Tanh => "Tanh",
            Self::ThresholdedRelu { .. } => "ThresholdedRelu",
        }
    }
}

impl Binary {
    /// The ONNX operator name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "Add",
            Self::And => "And",
            Self::BitShift { .. } => "BitShift",
            Self::BitwiseAnd => "BitwiseAnd",
            Self::BitwiseOr => "BitwiseOr",
            Self::BitwiseXor => "BitwiseXor",
            Self::Div => "Div",
            Self::Equal => "Equal",
            Self::Greater => "Greater",
            Self::GreaterOrEqual => "GreaterOrEqual",
            Self::Less => "Less",
            Self::LessOrEqual => "LessOrEqual",
            Self::Mod { .. } => "Mod",
            Self::Mul => "Mul",
            Self::Or => "Or",
            Self::Pow => "Pow",
            Self::PRelu => "PRelu",
            Self::Sub => "Sub",
            Self::Xor => "Xor",
        }
    }
}

impl Variadic {
    /// The ONNX operator name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Max => "Max",
            Self::Mean => "Mean",
            Self::Min => "Min",
            Self::Sum => "Sum",
        }
    }
}

impl Reduction {
    /// The ONNX operator name.
    pub fn name(self) -> &'static str {
        match self {
            Self::L1 => "ReduceL1",
            Self::L2 => "ReduceL2",
            Self::LogSum => "ReduceLogSum",
            Self::LogSumExp => "ReduceLogSumExp",
            Self::Max => "ReduceMax",
            Self::Mean => "ReduceMean",
            Self::Min => "ReduceMin",
            Self::Prod => "ReduceProd",
            Self::Sum => "ReduceSum",
            Self::SumSquare => "ReduceSumSquare",
        }
    }
}

impl Op {
    /// The ONNX operator name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Conv(_) => "Conv",
            Self::ConvTranspose(_) => "ConvTranspose",
            Self::Gemm { .. } => "Gemm",
            Self::MatMul => "MatMul",
            Self::Recurrent(a) => a.cell.name(),
            Self::BatchNormalization { .. } => "BatchNormalization",
            Self::InstanceNormalization { .. } => "InstanceNormalization",
            Self::GroupNormalization { .. } => "GroupNormalization",
            Self::Attention(_) => "Attention",
            Self::RotaryEmbedding { .. } => "RotaryEmbedding",
            Self::Einsum { .. } => "Einsum",
            Self::RmsNormalization { .. } => "RMSNormalization",
            Self::LayerNormalization { .. } => "LayerNormalization",
            Self::Lrn { .. } => "LRN",
            Self::Unary(u) => u.name(),
            Self::Binary(b) => b.name(),
            Self::Variadic(v) => v.name(),
            Self::Clip => "Clip",
            Self::Where => "Where",
            Self::Cast { .. } => "Cast",
            Self::CastLike { .. } => "CastLike",
            Self::Control(c) => match c {
                Control::If { .. } => "If",
                Control::Loop { .. } => "Loop",
                Control::Scan { .. } => "Scan",
            },
            Self::Softmax { .. } => "Softmax",
            Self::LogSoftmax { .. } => "LogSoftmax",
            Self::Hardmax { .. } => "Hardmax",
            Self::Reduce { kind, .. } => kind.name(),
            Self::ArgMax { .. } => "ArgMax",
            Self::ArgMin { .. } => "ArgMin",
            Self::CumSum { .. } => "CumSum",
            Self::TopK { .. } => "TopK",
            Self::MaxPool { .. } => "MaxPool",
            Self::AveragePool { .. } => "AveragePool",
            Self::LpPool { .. } => "LpPool",
            Self::GlobalMaxPool => "GlobalMaxPool",
            Self::GlobalAveragePool => "GlobalAveragePool",
            Self::GlobalLpPool { .. } => "GlobalLpPool",
            Self::Concat { .. } => "Concat",
            Self::Split { .. } => "Split",
            Self::Slice => "Slice",
            Self::Gather { .. } => "Gather",
            Self::GatherElements { .. } => "GatherElements",
            Self::GatherNd { .. } => "GatherND",
            Self::ScatterElements { .. } => "ScatterElements",
            Self::ScatterNd { .. } => "ScatterND",
            Self::NonZero => "NonZero",
            Self::Compress { .. } => "Compress",
            Self::ReverseSequence { .. } => "ReverseSequence",
            Self::Pad { .. } => "Pad",
            Self::Resize(_) => "Resize",
            Self::Reshape { .. } => "Reshape",
            Self::Flatten { .. } => "Flatten",
            Self::Transpose { .. } => "Transpose",
            Self::Squeeze => "Squeeze",
            Self::Unsqueeze => "Unsqueeze",
            Self::Expand => "Expand",
            Self::Tile => "Tile",
            Self::DepthToSpace { .. } => "DepthToSpace",
            Self::SpaceToDepth { .. } => "SpaceToDepth",
            Self::Identity => "Identity",
            Self::Dropout => "Dropout",
            Self::Shape { .. } => "Shape",
            Self::Size => "Size",
            Self::ConstantOfShape { .. } => "ConstantOfShape",
            Self::Range => "Range",
            Self::OneHot { .. } => "OneHot",
            Self::Trilu { .. } => "Trilu",
            Self::QuantizeLinear { .. } => "QuantizeLinear",
            Self::DequantizeLinear { .. } => "DequantizeLinear",
            Self::DynamicQuantizeLinear => "DynamicQuantizeLinear",
            Self::QLinearConv(_) => "QLinearConv",
            Self::QLinearMatMul => "QLinearMatMul",
            Self::ConvInteger(_) => "ConvInteger",
            Self::MatMulInteger => "MatMulInteger",
        }
    }
}
