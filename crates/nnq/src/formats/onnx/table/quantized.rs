//! The quantization operators.
use super::{Attrs, In, Row, opt, plain, product::window, req, row, wrong};
use crate::{
    error::Result,
    ir::{DType, Op, op::ConvAttrs},
};

const SCALED: &[In] = &[req("x"), req("scale"), opt("zero_point")];

/// The axis is of meaning since opset 13, when scales may be per channel.
fn axis(a: &mut Attrs, axis: &mut i64) -> Result<()> {
    let scales = a.constant(1).map(|s| s.len());
    if scales.is_some_and(|n| n > 1) {
        a.needs(13, "one scale per channel");
    } else if !a.is_reading() && a.opset < 13 && (scales == Some(1) || a.rank(1) == Some(0)) {
        return Ok(());
    }
    a.int(("axis", 13), 1, axis)
}

fn quantize(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::QuantizeLinear { axis: at, block, saturate, out } = op else { return wrong(op) };
    axis(a, at)?;
    a.size(("block_size", 21), 0, block)?;
    a.flag(("saturate", 19), true, saturate)?;
    // The zero point's type wins; without one the attribute says it, and without either it is u8.
    let zero = a.inputs.get(2).copied().flatten().is_some();
    let mut said = (!zero && *out != DType::U8).then_some(*out);
    a.dtype(("output_dtype", 21), &mut said)?;
    *out = a.dtype_of(2).or(said).unwrap_or(DType::U8);
    if matches!(out, DType::I16 | DType::U16) {
        a.needs(21, "quantization to 16 bits");
    }
    a.only("precision", &[0, 1])
}

fn dequantize(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::DequantizeLinear { axis: at, block } = op else { return wrong(op) };
    axis(a, at)?;
    a.size(("block_size", 21), 0, block)?;
    if matches!(a.dtype_of(0), Some(DType::I16 | DType::U16)) {
        a.needs(21, "dequantization of 16 bits");
    }
    a.only("output_dtype", &[0, 1])
}

fn conv(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let (Op::QLinearConv(c) | Op::ConvInteger(c)) = op else { return wrong(op) };
    window(c, a)
}

pub(super) const ROWS: &[Row] = &[
    row(
        "QuantizeLinear",
        10,
        SCALED,
        || Op::QuantizeLinear { axis: 1, block: 0, saturate: true, out: DType::U8 },
        quantize,
    ),
    row("DequantizeLinear", 10, SCALED, || Op::DequantizeLinear { axis: 1, block: 0 }, dequantize),
    row("DynamicQuantizeLinear", 11, &[req("x")], || Op::DynamicQuantizeLinear, plain).outputs(3, 3),
    row(
        "QLinearConv",
        10,
        &[
            req("x"),
            req("x_scale"),
            req("x_zero_point"),
            req("w"),
            req("w_scale"),
            req("w_zero_point"),
            req("y_scale"),
            req("y_zero_point"),
            opt("B"),
        ],
        || Op::QLinearConv(ConvAttrs::default()),
        conv,
    ),
    row(
        "QLinearMatMul",
        10,
        &[
            req("a"),
            req("a_scale"),
            req("a_zero_point"),
            req("b"),
            req("b_scale"),
            req("b_zero_point"),
            req("y_scale"),
            req("y_zero_point"),
        ],
        || Op::QLinearMatMul,
        plain,
    ),
    row(
        "ConvInteger",
        10,
        &[req("x"), req("w"), opt("x_zero_point"), opt("w_zero_point")],
        || Op::ConvInteger(ConvAttrs::default()),
        conv,
    ),
    row(
        "MatMulInteger",
        10,
        &[req("A"), req("B"), opt("a_zero_point"), opt("b_zero_point")],
        || Op::MatMulInteger,
        plain,
    ),
];
