//! The float executor: the reference that quantization is compared with, and the engine of calibration.
//!
//! Each operator family is one file with functions from input tensors to output tensors. They know no graph. [`eval`] is
//! the one dispatch; [`Session`] walks a graph.
mod args;
mod arrange;
mod attention;
mod binary;
mod control;
mod ctx;
mod divide;
mod einsum;
mod fuse;
mod last;
mod norm;
mod pool;
mod product;
mod quantized;
pub(super) mod recurrent;
mod reduce;
mod resize;
mod scatter;
mod select;
mod session;
mod unary;
mod walk;

pub(crate) use args::room;
pub use ctx::Ctx;
pub(crate) use ctx::each;
pub(crate) use product::MatMulShapes;
pub(crate) use resize::weights as resize_weights;
pub use session::{Options, Session};
pub use unary::scalar as unary_scalar;
pub(crate) use unary::{is_real as is_function, on_slice as function_of};
pub use walk::{Interest, NoTap, Tap};

use crate::{
    error::Result,
    ir::{Buf, Data, Op, Tensor, op::Unary},
};

/// Present inputs are `Some`; trailing absent ones may be missing.
pub type Inputs<'a> = [Option<&'a Tensor>];

/// Applies one operator. `outputs` is the number of outputs the node has (Split, TopK, MaxPool with indices).
///
/// # Errors
/// Shapes, types or values the operator does not take; never a panic, whatever the tensors.
pub fn eval(op: &Op, x: &Inputs, outputs: usize, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let one = |t: Result<Tensor>| t.map(|t| vec![t]);
    match op {
        Op::Conv(a) => one(product::conv(a, x, ctx)),
        Op::ConvTranspose(a) => one(product::conv_transpose(a, x, ctx)),
        Op::Gemm { alpha, beta, trans_a, trans_b } => one(product::gemm(*alpha, *beta, *trans_a, *trans_b, x, ctx)),
        Op::MatMul => one(product::matmul(x, ctx)),
        Op::Recurrent(a) => recurrent::run(a, x, ctx),
        Op::Attention(a) => attention::attention(a, x, outputs, ctx),
        Op::RotaryEmbedding { interleaved, heads, size } => one(attention::rotary(*interleaved, *heads, *size, x, ctx)),
        Op::Einsum { equation } => one(einsum::run(equation, x, ctx)),
        Op::RmsNormalization { axis, epsilon } => one(norm::rms(*axis, *epsilon, x, ctx)),
        Op::BatchNormalization { epsilon } => one(norm::batch(*epsilon, x, ctx)),
        Op::InstanceNormalization { epsilon } => one(norm::instance(*epsilon, x, ctx)),
        Op::GroupNormalization { epsilon, groups } => one(norm::group(*epsilon, *groups, x, ctx)),
        Op::LayerNormalization { axis, epsilon } => norm::layer(*axis, *epsilon, x, outputs, ctx),
        Op::Lrn { alpha, beta, bias, size } => one(norm::lrn(*alpha, *beta, *bias, *size, x, ctx)),
        Op::Softmax { axis, flat } => one(norm::softmax(*axis, *flat, false, x, ctx)),
        Op::LogSoftmax { axis, flat } => one(norm::softmax(*axis, *flat, true, x, ctx)),
        Op::Hardmax { axis, flat } => one(norm::hardmax(*axis, *flat, x, ctx)),
        Op::Unary(u) => one(unary::run(*u, x, ctx)),
        Op::Clip => one(unary::clip(x, ctx)),
        Op::Cast { to, saturate } => one(unary::cast(*to, *saturate, x, ctx)),
        Op::CastLike { saturate } => {
            one(args::need(x, 1, "target_type").and_then(|like| unary::cast(like.dtype(), *saturate, &x[..1], ctx)))
        }
        Op::Control(c) => control::run(c, x, ctx),
        Op::Binary(b) => one(binary::run(*b, x, ctx)),
        Op::Variadic(v) => one(binary::variadic(*v, x, ctx)),
        Op::Where => one(binary::select(x, ctx)),
        Op::Reduce { kind, keepdims, noop_with_empty_axes } => {
            one(reduce::run(*kind, *keepdims, *noop_with_empty_axes, x, ctx))
        }
        Op::ArgMax { axis, keepdims, select_last } => one(reduce::arg(true, *axis, *keepdims, *select_last, x)),
        Op::ArgMin { axis, keepdims, select_last } => one(reduce::arg(false, *axis, *keepdims, *select_last, x)),
        Op::CumSum { exclusive, reverse } => one(reduce::cumsum(*exclusive, *reverse, x)),
        Op::TopK { axis, largest, sorted } => reduce::top_k(*axis, *largest, *sorted, x),
        Op::MaxPool { window, column_major } => pool::max(window, *column_major, x, outputs, ctx),
        Op::AveragePool { window, count_include_pad } => one(pool::average(window, *count_include_pad, x, ctx)),
        Op::LpPool { window, p } => one(pool::lp(window, *p, x, ctx)),
        Op::GlobalMaxPool => one(pool::global_max(x, ctx)),
        Op::GlobalAveragePool => one(pool::global_average(x, ctx)),
        Op::GlobalLpPool { p } => one(pool::global_lp(*p, x, ctx)),
        Op::Concat { axis } => one(arrange::concat(*axis, x, ctx)),
        Op::Split { axis } => arrange::split(*axis, x, outputs, ctx),
        Op::Slice => one(arrange::slice(x, ctx)),
        Op::Pad { mode } => one(arrange::pad(*mode, x, ctx)),
        Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze | Op::Identity => {
            one(arrange::reshaped(op, x, ctx))
        }
        Op::Transpose { perm } => one(arrange::transpose(perm, x, ctx)),
        Op::Expand => one(arrange::expand(x, ctx)),
        Op::Tile => one(arrange::tile(x, ctx)),
        Op::DepthToSpace { block, crd } => one(arrange::depth_to_space(*block, *crd, x, ctx)),
        Op::SpaceToDepth { block } => one(arrange::space_to_depth(*block, x, ctx)),
        Op::Dropout => arrange::dropout(x, outputs, ctx),
        Op::Shape { start, end } => one(arrange::shape(*start, *end, x)),
        Op::Size => one(arrange::size(x)),
        Op::ConstantOfShape { value } => one(arrange::constant_of_shape(value, x)),
        Op::Range => one(arrange::range(x)),
        Op::Trilu { upper } => one(arrange::trilu(*upper, x)),
        Op::Gather { axis } => one(select::gather(*axis, x, ctx)),
        Op::GatherElements { axis } => one(select::gather_elements(*axis, x)),
        Op::GatherNd { batch_dims } => one(select::gather_nd(*batch_dims, x)),
        Op::ScatterElements { axis, reduction } => one(scatter::elements(*axis, *reduction, x)),
        Op::ScatterNd { reduction } => one(scatter::nd(*reduction, x)),
        Op::NonZero => one(select::non_zero(x)),
        Op::Compress { axis } => one(select::compress(*axis, x, ctx)),
        Op::ReverseSequence { batch_axis, time_axis } => one(select::reverse_sequence(*batch_axis, *time_axis, x)),
        Op::OneHot { axis } => one(select::one_hot(*axis, x)),
        Op::Resize(a) => one(resize::run(a, x, ctx)),
        Op::QuantizeLinear { axis, block, saturate, out } => {
            one(quantized::quantize(*axis, *block, *saturate, *out, x, ctx))
        }
        Op::DequantizeLinear { axis, block } => one(quantized::dequantize(*axis, *block, x, ctx)),
        Op::DynamicQuantizeLinear => quantized::dynamic(x, ctx),
        Op::QLinearConv(a) => one(quantized::qlinear_conv(a, x, ctx)),
        Op::QLinearMatMul => one(quantized::qlinear_matmul(x, ctx)),
        Op::ConvInteger(a) => one(quantized::conv_integer(a, x, ctx)),
        Op::MatMulInteger => one(quantized::matmul_integer(x, ctx)),
    }
}

/// What can be done in the buffer of input 0 when nobody reads it afterwards.
enum InPlace {
    /// Only the shape changes.
    Shape(Vec<usize>),
    /// An element-wise function of f32.
    Unary(Unary),
}

/// Whether an operator can keep the buffer of its first input.
///
/// # Errors
/// As [`eval`].
fn in_place(op: &Op, x: &Inputs) -> Result<Option<InPlace>> {
    if let Some(shape) = arrange::new_shape(op, x) {
        return shape.map(|s| Some(InPlace::Shape(s)));
    }
    Ok(match op {
        Op::Unary(u) if unary::is_real(*u) => {
            let owned = x.first().copied().flatten().is_some_and(|t| matches!(t.data(), Data::F32(Buf::Owned(_))));
            owned.then_some(InPlace::Unary(*u))
        }
        _ => None,
    })
}

impl InPlace {
    fn run(self, x: Tensor) -> Result<Tensor> {
        match self {
            Self::Shape(shape) => x.reshaped(shape),
            Self::Unary(u) => {
                let shape = x.shape().to_vec();
                let mut v = x.into_vec::<f32>()?;
                unary::run_in_place(u, &mut v);
                Tensor::new(shape, Data::F32(v.into()))
            }
        }
    }
}
