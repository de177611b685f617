//! Attributes that are wrong whatever the inputs are. What depends on shapes is checked by inference.
use super::broken;
use crate::{
    error::{At, Result},
    ir::{
        Op,
        op::{ConvAttrs, Gate, PoolAttrs, Unary},
    },
};

fn rule(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(broken(message())) }
}

fn finite(list: &[(&str, f32)]) -> Result<()> {
    list.iter().try_for_each(|(name, x)| rule(x.is_finite(), || format!("{name} is {x}")))
}

/// Lists of one entry per spatial axis: equally long where given; pads twice as long; nothing 0.
fn lists(kernel: &[usize], strides: &[usize], dilations: &[usize], pads: &[i64]) -> Result<()> {
    let n = [kernel.len(), strides.len(), dilations.len(), pads.len() / 2].into_iter().max().unwrap_or(0);
    for (what, list) in [("kernel", kernel), ("strides", strides), ("dilations", dilations)] {
        rule(list.is_empty() || list.len() == n, || format!("{what} has {} entries, others {n}", list.len()))?;
        rule(!list.contains(&0), || format!("{what} {list:?} contains 0"))?;
    }
    rule(pads.is_empty() || pads.len() == 2 * n, || format!("pads has {} entries, expected {}", pads.len(), 2 * n))
}

fn conv(a: &ConvAttrs) -> Result<()> {
    rule(a.group > 0, || "group is 0".into())?;
    lists(&a.kernel, &a.strides, &a.dilations, &a.pads)
}

fn pool(w: &PoolAttrs) -> Result<()> {
    rule(!w.kernel.is_empty(), || "a pooling window without a kernel size".into())?;
    lists(&w.kernel, &w.strides, &w.dilations, &w.pads)
}

fn epsilon(e: f32) -> Result<()> {
    rule(e.is_finite() && e >= 0.0, || format!("epsilon is {e}"))
}

fn unary(u: Unary) -> Result<()> {
    match u {
        Unary::Celu { alpha } => {
            finite(&[("alpha", alpha)])?;
            rule(alpha != 0.0, || "alpha is 0".into())
        }
        Unary::Elu { alpha }
        | Unary::LeakyRelu { alpha }
        | Unary::Swish { alpha }
        | Unary::ThresholdedRelu { alpha } => finite(&[("alpha", alpha)]),
        Unary::HardSigmoid { alpha, beta } => finite(&[("alpha", alpha), ("beta", beta)]),
        Unary::Selu { alpha, gamma } => finite(&[("alpha", alpha), ("gamma", gamma)]),
        Unary::Abs
        | Unary::Acos
        | Unary::Acosh
        | Unary::Asin
        | Unary::Asinh
        | Unary::Atan
        | Unary::Atanh
        | Unary::BitwiseNot
        | Unary::Ceil
        | Unary::Cos
        | Unary::Cosh
        | Unary::Erf
        | Unary::Exp
        | Unary::Floor
        | Unary::Gelu { .. }
        | Unary::HardSwish
        | Unary::IsInf { .. }
        | Unary::IsNaN
        | Unary::Log
        | Unary::Mish
        | Unary::Neg
        | Unary::Not
        | Unary::Reciprocal
        | Unary::Relu
        | Unary::Round
        | Unary::Sigmoid
        | Unary::Sign
        | Unary::Sin
        | Unary::Sinh
        | Unary::Softplus
        | Unary::Softsign
        | Unary::Sqrt
        | Unary::Tan
        | Unary::Tanh => Ok(()),
    }
}

pub(super) fn check(op: &Op) -> Result<()> {
    match op {
        Op::Conv(a) | Op::QLinearConv(a) | Op::ConvInteger(a) => conv(a),
        Op::ConvTranspose(t) => {
            conv(&t.conv)?;
            let n = [t.conv.kernel.len(), t.conv.strides.len(), t.conv.dilations.len(), t.conv.pads.len() / 2];
            let n = n.into_iter().max().unwrap_or(0);
            for (what, list) in [("output_padding", &t.output_padding), ("output_shape", &t.output_shape)] {
                rule(list.is_empty() || n == 0 || list.len() == n, || {
                    format!("{what} has {} entries, others {n}", list.len())
                })?;
            }
            Ok(())
        }
        Op::Gemm { alpha, beta, .. } => finite(&[("alpha", *alpha), ("beta", *beta)]),
        Op::BatchNormalization { epsilon: e }
        | Op::InstanceNormalization { epsilon: e }
        | Op::RmsNormalization { epsilon: e, .. }
        | Op::LayerNormalization { epsilon: e, .. } => epsilon(*e),
        Op::GroupNormalization { epsilon: e, groups } => {
            epsilon(*e)?;
            rule(*groups > 0, || "0 groups".into())
        }
        Op::Lrn { alpha, beta, bias, size } => {
            finite(&[("alpha", *alpha), ("beta", *beta), ("bias", *bias)])?;
            rule(*size > 0, || "a window of 0 channels".into())
        }
        Op::Unary(u) => unary(*u),
        Op::Recurrent(r) => {
            let want = r.cell.default_functions().len() * r.direction.count();
            let have = r.functions.len();
            rule(have == 0 || have == want, || format!("{have} functions, expected {want}"))?;
            rule(r.clip.is_none_or(|c| c >= 0.0), || format!("clip is {:?}", r.clip))?;
            r.functions.iter().try_for_each(|f| match *f {
                Gate::Unary(u) => unary(u),
                Gate::Affine { alpha, beta } | Gate::ScaledTanh { alpha, beta } => {
                    finite(&[("alpha", alpha), ("beta", beta)])
                }
            })
        }
        Op::MaxPool { window, .. } | Op::AveragePool { window, .. } => pool(window),
        Op::LpPool { window, p } => {
            pool(window)?;
            rule(*p > 0, || format!("p is {p}"))
        }
        Op::GlobalLpPool { p } => rule(*p > 0, || format!("p is {p}")),
        Op::Transpose { perm } => {
            let mut seen = vec![false; perm.len()];
            let ok = perm.iter().all(|&p| seen.get_mut(p).is_some_and(|s| !std::mem::replace(s, true)));
            rule(ok, || format!("{perm:?} is no permutation"))
        }
        Op::DepthToSpace { block, .. } | Op::SpaceToDepth { block } => rule(*block > 0, || "block size 0".into()),
        Op::ConstantOfShape { value } => rule(value.len() == 1, || format!("a fill value of {} elements", value.len())),
        Op::Control(c) => {
            c.graphs().into_iter().try_for_each(|(name, g)| super::verify(g).at(|| format!("in '{name}'")))
        }
        Op::Attention(t) => {
            finite(&[("scale", t.scale.unwrap_or(1.0)), ("softcap", t.softcap)])?;
            let float = t.precision.is_none_or(crate::ir::DType::is_float);
            rule(float, || format!("softmax in {:?}", t.precision))
        }
        Op::RotaryEmbedding { size, .. } => rule(size % 2 == 0, || format!("pairs of {size} numbers")),
        Op::Shape { .. }
        | Op::Resize(_)
        | Op::MatMul
        | Op::Binary(_)
        | Op::Variadic(_)
        | Op::Clip
        | Op::Where
        | Op::Cast { .. }
        | Op::CastLike { .. }
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Hardmax { .. }
        | Op::Einsum { .. }
        | Op::Reduce { .. }
        | Op::ArgMax { .. }
        | Op::ArgMin { .. }
        | Op::CumSum { .. }
        | Op::TopK { .. }
        | Op::GlobalMaxPool
        | Op::GlobalAveragePool
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice
        | Op::Gather { .. }
        | Op::GatherElements { .. }
        | Op::GatherNd { .. }
        | Op::ScatterElements { .. }
        | Op::ScatterNd { .. }
        | Op::NonZero
        | Op::Compress { .. }
        | Op::ReverseSequence { .. }
        | Op::Pad { .. }
        | Op::Reshape { .. }
        | Op::Flatten { .. }
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Expand
        | Op::Tile
        | Op::Identity
        | Op::Dropout
        | Op::Size
        | Op::Range
        | Op::OneHot { .. }
        | Op::Trilu { .. }
        | Op::QuantizeLinear { .. }
        | Op::DequantizeLinear { .. }
        | Op::DynamicQuantizeLinear
        | Op::QLinearMatMul
        | Op::MatMulInteger => Ok(()),
    }
}
