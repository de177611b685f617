//! The closed set of operators. A new one makes the compiler list what to fill in: shape rule (`ir/infer`), float
//! executor (`exec/float`), integer lowering or "float only" (`exec/lower`), ONNX row (`formats/onnx/table`).
//!
//! Operators are kept in the form of the newest ONNX opset: what older opsets hold in attributes (axes of Squeeze, bounds
//! of Clip, pads of Pad, ...) is an input here, usually a constant. Optional inputs that are absent are `None`.
mod attention;
mod control;
mod einsum;
mod kind;
mod name;
mod recurrent;
mod window;

pub use attention::{AttentionAttrs, Scores};
pub use control::Control;
pub use einsum::{Equation, Label};
pub use recurrent::{Cell, Direction, Gate, RecurrentAttrs};
pub use window::{AutoPad, ConvAttrs, ConvTransposeAttrs, PoolAttrs, Window};

use crate::ir::{DType, Tensor};
use std::sync::Arc;

/// Element-wise functions of one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Unary {
    Abs,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    BitwiseNot,
    Ceil,
    Celu {
        alpha: f32,
    },
    Cos,
    Cosh,
    Elu {
        alpha: f32,
    },
    Erf,
    Exp,
    Floor,
    /// `tanh` selects the tanh approximation, otherwise by erf.
    Gelu {
        tanh: bool,
    },
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    IsInf {
        negative: bool,
        positive: bool,
    },
    IsNaN,
    LeakyRelu {
        alpha: f32,
    },
    Log,
    Mish,
    Neg,
    Not,
    Reciprocal,
    Relu,
    /// Half to even.
    Round,
    Selu {
        alpha: f32,
        gamma: f32,
    },
    Sigmoid,
    Sign,
    Sin,
    Sinh,
    Softplus,
    Softsign,
    Sqrt,
    /// `x * sigmoid(alpha * x)`; SiLU for alpha 1.
    Swish {
        alpha: f32,
    },
    Tan,
    Tanh,
    ThresholdedRelu {
        alpha: f32,
    },
}

/// Element-wise functions of two tensors, with NumPy broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    And,
    BitShift {
        left: bool,
    },
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    Div,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    /// `fmod`: C's sign rule (of the dividend) instead of Python's.
    Mod {
        fmod: bool,
    },
    Mul,
    Or,
    Pow,
    /// Slope is the second input.
    PRelu,
    Sub,
    Xor,
}

/// Element-wise functions of any number of tensors, with broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Variadic {
    Max,
    Mean,
    Min,
    Sum,
}

/// Reductions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduction {
    L1,
    L2,
    LogSum,
    LogSumExp,
    Max,
    Mean,
    Min,
    Prod,
    Sum,
    SumSquare,
}

/// What becomes of the element that an update meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scatter {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

/// How Pad fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PadMode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

/// Interpolation of Resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ResizeMode {
    Nearest,
    Linear,
    Cubic,
}

/// `coordinate_transformation_mode` of Resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CoordMode {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfCropAndResize,
}

/// `nearest_mode` of Resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NearestMode {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// `keep_aspect_ratio_policy` of Resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AspectPolicy {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// Attributes of Resize. Inputs: X, roi?, scales?, sizes?.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ResizeAttrs {
    pub mode: ResizeMode,
    pub coord: CoordMode,
    pub nearest: NearestMode,
    pub aspect: AspectPolicy,
    pub cubic_a: f32,
    pub exclude_outside: bool,
    pub extrapolation: f32,
    pub antialias: bool,
    /// Empty: all axes.
    pub axes: Vec<i64>,
}

impl Default for ResizeAttrs {
    /// What the newest opset does when no attribute is given.
    fn default() -> Self {
        Self {
            mode: ResizeMode::Nearest,
            coord: CoordMode::HalfPixel,
            nearest: NearestMode::RoundPreferFloor,
            aspect: AspectPolicy::Stretch,
            cubic_a: -0.75,
            exclude_outside: false,
            extrapolation: 0.0,
            antialias: false,
            axes: Vec::new(),
        }
    }
}

/// Every operator. Inputs in the order of the ONNX specification.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Op {
    // products
    Conv(ConvAttrs),
    ConvTranspose(ConvTransposeAttrs),
    Gemm {
        alpha: f32,
        beta: f32,
        trans_a: bool,
        trans_b: bool,
    },
    MatMul,
    // recurrent layers
    Recurrent(RecurrentAttrs),
    // attention
    Attention(AttentionAttrs),
    /// Turns pairs of numbers by angles whose cosines and sines are given. Inputs X, cos, sin, positions?.
    RotaryEmbedding {
        /// Pairs are neighbours, not halves.
        interleaved: bool,
        /// Heads of an input of 3 axes.
        heads: usize,
        /// So many numbers of a head are turned; 0: all.
        size: usize,
    },
    Einsum {
        equation: String,
    },
    // normalisation (inference forms)
    BatchNormalization {
        epsilon: f32,
    },
    InstanceNormalization {
        epsilon: f32,
    },
    GroupNormalization {
        epsilon: f32,
        groups: usize,
    },
    LayerNormalization {
        axis: i64,
        epsilon: f32,
    },
    /// Inputs X, scale.
    RmsNormalization {
        axis: i64,
        epsilon: f32,
    },
    Lrn {
        alpha: f32,
        beta: f32,
        bias: f32,
        size: usize,
    },
    // element-wise
    Unary(Unary),
    Binary(Binary),
    Variadic(Variadic),
    /// Inputs X, min?, max?.
    Clip,
    Where,
    Cast {
        to: DType,
        saturate: bool,
    },
    /// To the element type of the second input, where that was not known when the model was read.
    CastLike {
        saturate: bool,
    },
    /// Exponential normalisation along `axis`; `flat` is the rule before opset 13: everything from `axis` on at once.
    Softmax {
        axis: i64,
        flat: bool,
    },
    LogSoftmax {
        axis: i64,
        flat: bool,
    },
    /// 1 at the first of the largest along `axis`, 0 elsewhere; `flat` as for softmax.
    Hardmax {
        axis: i64,
        flat: bool,
    },
    // reductions
    /// Inputs X, axes?.
    Reduce {
        kind: Reduction,
        keepdims: bool,
        noop_with_empty_axes: bool,
    },
    ArgMax {
        axis: i64,
        keepdims: bool,
        select_last: bool,
    },
    ArgMin {
        axis: i64,
        keepdims: bool,
        select_last: bool,
    },
    CumSum {
        exclusive: bool,
        reverse: bool,
    },
    /// Inputs X, K. Outputs values, indices.
    TopK {
        axis: i64,
        largest: bool,
        sorted: bool,
    },
    // pooling
    /// Outputs Y, indices?.
    MaxPool {
        window: PoolAttrs,
        column_major: bool,
    },
    AveragePool {
        window: PoolAttrs,
        count_include_pad: bool,
    },
    LpPool {
        window: PoolAttrs,
        p: i64,
    },
    GlobalMaxPool,
    GlobalAveragePool,
    GlobalLpPool {
        p: i64,
    },
    // moves
    Concat {
        axis: i64,
    },
    /// Inputs X, split?. As many outputs as pieces.
    Split {
        axis: i64,
    },
    /// Inputs X, starts, ends, axes?, steps?.
    Slice,
    Gather {
        axis: i64,
    },
    GatherElements {
        axis: i64,
    },
    GatherNd {
        batch_dims: usize,
    },
    ScatterElements {
        axis: i64,
        reduction: Scatter,
    },
    ScatterNd {
        reduction: Scatter,
    },
    /// Positions of what is not 0, one column each.
    NonZero,
    /// Inputs X, condition. Without an axis X is flat.
    Compress {
        axis: Option<i64>,
    },
    /// Inputs X, lengths.
    ReverseSequence {
        batch_axis: i64,
        time_axis: i64,
    },
    /// Inputs X, pads, value?, axes?.
    Pad {
        mode: PadMode,
    },
    Resize(ResizeAttrs),
    /// Inputs X, shape.
    Reshape {
        allowzero: bool,
    },
    Flatten {
        axis: i64,
    },
    /// Empty: reverses the axes.
    Transpose {
        perm: Vec<usize>,
    },
    /// Inputs X, axes?.
    Squeeze,
    /// Inputs X, axes.
    Unsqueeze,
    Expand,
    Tile,
    DepthToSpace {
        block: usize,
        crd: bool,
    },
    SpaceToDepth {
        block: usize,
    },
    Identity,
    /// Inference: the identity. Inputs X, ratio?, training_mode?. Outputs Y, mask?.
    Dropout,
    // shapes and constants
    Shape {
        start: i64,
        end: Option<i64>,
    },
    Size,
    ConstantOfShape {
        value: Arc<Tensor>,
    },
    Range,
    OneHot {
        axis: i64,
    },
    Trilu {
        upper: bool,
    },
    // control flow
    Control(Control),
    // quantization
    /// Inputs X, scale, zero_point?. `out` holds the element type when no zero point gives it.
    QuantizeLinear {
        axis: i64,
        block: usize,
        saturate: bool,
        out: DType,
    },
    /// Inputs X, scale, zero_point?.
    DequantizeLinear {
        axis: i64,
        block: usize,
    },
    /// Outputs Y (u8), scale, zero_point.
    DynamicQuantizeLinear,
    /// Inputs x, x_scale, x_zp, w, w_scale, w_zp, y_scale, y_zp, B?.
    QLinearConv(ConvAttrs),
    /// Inputs a, a_scale, a_zp, b, b_scale, b_zp, y_scale, y_zp.
    QLinearMatMul,
    /// Inputs x, w, x_zp?, w_zp?.
    ConvInteger(ConvAttrs),
    /// Inputs A, B, a_zp?, b_zp?.
    MatMulInteger,
}
