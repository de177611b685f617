//! Convolution, matrix products, pooling and normalisation.
use super::{Attrs, In, Row, opt, plain, req, row, wrong};
use crate::{
    error::{Error, Result},
    ir::{
        Op,
        op::{AutoPad, ConvAttrs, ConvTransposeAttrs, PoolAttrs},
    },
};

const XW: &[In] = &[req("X"), req("W"), opt("B")];
const X: &[In] = &[req("X")];

const AUTO_PAD: &[(&str, AutoPad)] = &[
    ("NOTSET", AutoPad::NotSet),
    ("SAME_UPPER", AutoPad::SameUpper),
    ("SAME_LOWER", AutoPad::SameLower),
    ("VALID", AutoPad::Valid),
];

/// The attributes of a convolution.
pub(super) fn window(c: &mut ConvAttrs, a: &mut Attrs) -> Result<()> {
    a.choice("auto_pad", AutoPad::NotSet, AUTO_PAD, &mut c.auto_pad)?;
    a.sizes("dilations", &mut c.dilations)?;
    a.size("group", 1, &mut c.group)?;
    a.sizes("kernel_shape", &mut c.kernel)?;
    a.ints("pads", &mut c.pads)?;
    a.sizes("strides", &mut c.strides)
}

fn conv(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Conv(c) = op else { return wrong(op) };
    window(c, a)
}

fn conv_transpose(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::ConvTranspose(c) = op else { return wrong(op) };
    window(&mut c.conv, a)?;
    a.sizes("output_padding", &mut c.output_padding)?;
    a.sizes("output_shape", &mut c.output_shape)
}

fn gemm(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Gemm { alpha, beta, trans_a, trans_b } = op else { return wrong(op) };
    a.float("alpha", 1.0, alpha)?;
    a.float("beta", 1.0, beta)?;
    a.flag("transA", false, trans_a)?;
    a.flag("transB", false, trans_b)
}

fn pool(p: &mut PoolAttrs, a: &mut Attrs, dilations: i64, ceil: i64) -> Result<()> {
    a.choice("auto_pad", AutoPad::NotSet, AUTO_PAD, &mut p.auto_pad)?;
    a.flag(("ceil_mode", ceil), false, &mut p.ceil_mode)?;
    a.sizes(("dilations", dilations), &mut p.dilations)?;
    a.sizes("kernel_shape", &mut p.kernel)?;
    a.ints("pads", &mut p.pads)?;
    a.sizes("strides", &mut p.strides)?;
    if p.kernel.is_empty() {
        return Err(Error::malformed("attribute 'kernel_shape' is missing"));
    }
    Ok(())
}

fn max_pool(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::MaxPool { window, column_major } = op else { return wrong(op) };
    pool(window, a, 10, 10)?;
    a.flag(("storage_order", 8), false, column_major)?;
    if a.outputs > 1 {
        a.needs(8, "the indices of MaxPool");
    }
    if a.dtype_of(0).is_some_and(|d| !d.is_float()) {
        a.needs(12, "MaxPool of integers");
    }
    Ok(())
}

fn average_pool(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::AveragePool { window, count_include_pad } = op else { return wrong(op) };
    pool(window, a, 19, 10)?;
    a.flag("count_include_pad", false, count_include_pad)
}

fn lp_pool(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::LpPool { window, p } = op else { return wrong(op) };
    pool(window, a, 18, 18)?;
    a.int("p", 2, p)
}

fn global_lp_pool(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::GlobalLpPool { p } = op else { return wrong(op) };
    a.int("p", 2, p)
}

/// The inference forms of normalisation.
fn norm(op: &mut Op, a: &mut Attrs) -> Result<()> {
    match op {
        Op::BatchNormalization { epsilon } => {
            a.float("epsilon", 1e-5, epsilon)?;
            a.ignore("momentum");
            a.only("training_mode", &[0])?;
            a.only("spatial", &[1])
        }
        Op::InstanceNormalization { epsilon } => a.float("epsilon", 1e-5, epsilon),
        Op::GroupNormalization { epsilon, groups } => {
            if a.opset < 21 && a.is_reading() {
                return Err(Error::unsupported(
                    "GroupNormalization before opset 21, which scales groups and not channels",
                )
                .cure("export the model at opset 21 or newer"));
            }
            a.needs(21, "scales per channel");
            a.float("epsilon", 1e-5, epsilon)?;
            a.size("num_groups", None, groups)?;
            a.only("stash_type", &[1])
        }
        Op::LayerNormalization { axis, epsilon } | Op::RmsNormalization { axis, epsilon } => {
            a.int("axis", -1, axis)?;
            a.float("epsilon", 1e-5, epsilon)?;
            a.only("stash_type", &[1])
        }
        Op::Lrn { alpha, beta, bias, size } => {
            a.float("alpha", 1e-4, alpha)?;
            a.float("beta", 0.75, beta)?;
            a.float("bias", 1.0, bias)?;
            a.size("size", None, size)
        }
        _ => wrong(op),
    }
}

pub(super) const ROWS: &[Row] = &[
    row("Conv", 1, XW, || Op::Conv(ConvAttrs::default()), conv),
    row("ConvTranspose", 1, XW, || Op::ConvTranspose(ConvTransposeAttrs::default()), conv_transpose),
    row(
        "Gemm",
        7,
        &[req("A"), req("B"), opt("C").required_before(11)],
        || Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false },
        gemm,
    ),
    row("MatMul", 1, &[req("A"), req("B")], || Op::MatMul, plain),
    row("MaxPool", 1, X, || Op::MaxPool { window: PoolAttrs::default(), column_major: false }, max_pool).outputs(1, 2),
    row(
        "AveragePool",
        7,
        X,
        || Op::AveragePool { window: PoolAttrs::default(), count_include_pad: false },
        average_pool,
    ),
    row("LpPool", 2, X, || Op::LpPool { window: PoolAttrs::default(), p: 2 }, lp_pool),
    row("GlobalMaxPool", 1, X, || Op::GlobalMaxPool, plain),
    row("GlobalAveragePool", 1, X, || Op::GlobalAveragePool, plain),
    row("GlobalLpPool", 2, X, || Op::GlobalLpPool { p: 2 }, global_lp_pool),
    row(
        "BatchNormalization",
        7,
        &[req("X"), req("scale"), req("B"), req("input_mean"), req("input_var")],
        || Op::BatchNormalization { epsilon: 1e-5 },
        norm,
    ),
    row(
        "InstanceNormalization",
        6,
        &[req("X"), req("scale"), req("B")],
        || Op::InstanceNormalization { epsilon: 1e-5 },
        norm,
    ),
    row(
        "GroupNormalization",
        18,
        &[req("X"), req("scale"), req("bias")],
        || Op::GroupNormalization { epsilon: 1e-5, groups: 1 },
        norm,
    ),
    row(
        "LayerNormalization",
        17,
        &[req("X"), req("Scale"), opt("B")],
        || Op::LayerNormalization { axis: -1, epsilon: 1e-5 },
        norm,
    )
    .outputs(1, 3),
    row("RMSNormalization", 23, &[req("X"), req("scale")], || Op::RmsNormalization { axis: -1, epsilon: 1e-5 }, norm),
    row("LRN", 1, X, || Op::Lrn { alpha: 1e-4, beta: 0.75, bias: 1.0, size: 1 }, norm),
];
