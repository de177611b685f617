//! Element-wise operators, activations and casts.
use super::{Attrs, Fields, In, Old, Row, many, opt, plain, req, row, wrong};
use crate::{
    error::{Error, Result},
    ir::{
        DType, Op,
        op::{Binary, Unary, Variadic},
    },
};

const X: &[In] = &[req("X")];
const MANY: &[In] = &[many("data")];
const AB: &[In] = &[req("A"), req("B")];

const fn unary(name: &'static str, since: i64, make: fn() -> Op) -> Row {
    row(name, since, X, make, plain)
}

const fn unary_with(name: &'static str, since: i64, make: fn() -> Op, fields: Fields) -> Row {
    row(name, since, X, make, fields)
}

const fn binary(name: &'static str, since: i64, make: fn() -> Op) -> Row {
    row(name, since, AB, make, plain)
}

const fn variadic(name: &'static str, make: fn() -> Op) -> Row {
    row(name, 1, MANY, make, plain)
}

fn alpha(op: &mut Op, a: &mut Attrs) -> Result<()> {
    match op {
        Op::Unary(Unary::Celu { alpha } | Unary::Elu { alpha } | Unary::Swish { alpha }) => {
            a.float("alpha", 1.0, alpha)
        }
        Op::Unary(Unary::ThresholdedRelu { alpha }) => a.float("alpha", 1.0, alpha),
        Op::Unary(Unary::LeakyRelu { alpha }) => a.float("alpha", 0.01, alpha),
        Op::Unary(Unary::HardSigmoid { alpha, beta }) => {
            a.float("alpha", 0.2, alpha)?;
            a.float("beta", 0.5, beta)
        }
        Op::Unary(Unary::Selu { alpha, gamma }) => {
            a.float("alpha", 1.673_263_2, alpha)?;
            a.float("gamma", 1.050_701, gamma)
        }
        _ => wrong(op),
    }
}

fn gelu(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Unary(Unary::Gelu { tanh }) = op else { return wrong(op) };
    a.choice("approximate", false, &[("none", false), ("tanh", true)], tanh)
}

fn is_inf(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Unary(Unary::IsInf { negative, positive }) = op else { return wrong(op) };
    a.flag("detect_negative", true, negative)?;
    a.flag("detect_positive", true, positive)
}

fn bit_shift(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Binary(Binary::BitShift { left }) = op else { return wrong(op) };
    a.choice("direction", None, &[("LEFT", true), ("RIGHT", false)], left)
}

fn modulo(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Binary(Binary::Mod { fmod }) = op else { return wrong(op) };
    a.flag("fmod", false, fmod)
}

fn clip(_: &mut Op, a: &mut Attrs) -> Result<()> {
    if a.dtype_of(0).is_some_and(|d| !d.is_float()) {
        a.needs(12, "Clip of integers");
    }
    Ok(())
}

fn cast(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Cast { to, saturate } = op else { return wrong(op) };
    let mut target = Some(*to);
    a.dtype("to", &mut target)?;
    *to = target.ok_or_else(|| Error::malformed("attribute 'to' is missing"))?;
    a.flag(("saturate", 19), true, saturate)?;
    // Of meaning for 8-bit float scales only.
    a.ignore("round_mode");
    Ok(())
}

fn cast_like(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::CastLike { saturate } = op else { return wrong(op) };
    a.flag(("saturate", 19), true, saturate)?;
    a.ignore("round_mode");
    if let Some(to) = a.dtype_of(1).filter(|_| a.is_reading()) {
        *op = Op::Cast { to, saturate: *saturate };
        a.inputs.truncate(1);
    }
    Ok(())
}

/// Before opset 13 softmax runs over everything from `axis` on, afterwards over one axis.
fn softmax(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let (Op::Softmax { axis, flat } | Op::LogSoftmax { axis, flat } | Op::Hardmax { axis, flat }) = op else {
        return wrong(op);
    };
    let old = a.opset < 13;
    let rank = a.rank(0).map(|r| r as i64);
    let last = |axis: i64| axis == -1 || rank.is_some_and(|r| axis == r - 1);
    if !a.is_reading() {
        if old && !*flat && !(last(*axis) && (*axis >= 0 || a.opset >= 11)) {
            a.needs(13, format!("softmax over axis {axis} alone"));
        }
        if !old && *flat && !last(*axis) {
            return Err(Error::unsupported(format!(
                "softmax over all axes from {axis} on at once cannot be written at opset {}",
                a.opset
            ))
            .cure(
                "write the model at opset 12 or older, or infer shapes first so that the axis is known to be the last",
            ));
        }
    }
    a.int("axis", if old { 1 } else { -1 }, axis)?;
    if a.is_reading() {
        *flat = old && !last(*axis);
    }
    Ok(())
}

pub(super) const ROWS: &[Row] = &[
    unary("Abs", 1, || Op::Unary(Unary::Abs)),
    unary("Acos", 7, || Op::Unary(Unary::Acos)),
    unary("Acosh", 9, || Op::Unary(Unary::Acosh)),
    unary("Asin", 7, || Op::Unary(Unary::Asin)),
    unary("Asinh", 9, || Op::Unary(Unary::Asinh)),
    unary("Atan", 7, || Op::Unary(Unary::Atan)),
    unary("Atanh", 9, || Op::Unary(Unary::Atanh)),
    unary("BitwiseNot", 18, || Op::Unary(Unary::BitwiseNot)),
    unary("Ceil", 1, || Op::Unary(Unary::Ceil)),
    unary_with("Celu", 12, || Op::Unary(Unary::Celu { alpha: 1.0 }), alpha),
    unary("Cos", 7, || Op::Unary(Unary::Cos)),
    unary("Cosh", 9, || Op::Unary(Unary::Cosh)),
    unary_with("Elu", 1, || Op::Unary(Unary::Elu { alpha: 1.0 }), alpha),
    unary("Erf", 9, || Op::Unary(Unary::Erf)),
    unary("Exp", 1, || Op::Unary(Unary::Exp)),
    unary("Floor", 1, || Op::Unary(Unary::Floor)),
    unary_with("Gelu", 20, || Op::Unary(Unary::Gelu { tanh: false }), gelu),
    unary_with("HardSigmoid", 1, || Op::Unary(Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }), alpha),
    unary("HardSwish", 14, || Op::Unary(Unary::HardSwish)),
    unary_with("IsInf", 10, || Op::Unary(Unary::IsInf { negative: true, positive: true }), is_inf),
    unary("IsNaN", 9, || Op::Unary(Unary::IsNaN)),
    unary_with("LeakyRelu", 1, || Op::Unary(Unary::LeakyRelu { alpha: 0.01 }), alpha),
    unary("Log", 1, || Op::Unary(Unary::Log)),
    unary("Mish", 18, || Op::Unary(Unary::Mish)),
    unary("Neg", 1, || Op::Unary(Unary::Neg)),
    unary("Not", 1, || Op::Unary(Unary::Not)),
    unary("Reciprocal", 1, || Op::Unary(Unary::Reciprocal)),
    unary("Relu", 1, || Op::Unary(Unary::Relu)),
    unary("Round", 11, || Op::Unary(Unary::Round)),
    unary_with("Selu", 1, || Op::Unary(Unary::Selu { alpha: 1.673_263_2, gamma: 1.050_701 }), alpha),
    unary("Sigmoid", 1, || Op::Unary(Unary::Sigmoid)),
    unary("Sign", 9, || Op::Unary(Unary::Sign)),
    unary("Sin", 7, || Op::Unary(Unary::Sin)),
    unary("Sinh", 9, || Op::Unary(Unary::Sinh)),
    unary("Softplus", 1, || Op::Unary(Unary::Softplus)),
    unary("Softsign", 1, || Op::Unary(Unary::Softsign)),
    unary("Sqrt", 1, || Op::Unary(Unary::Sqrt)),
    unary_with("Swish", 24, || Op::Unary(Unary::Swish { alpha: 1.0 }), alpha),
    unary("Tan", 7, || Op::Unary(Unary::Tan)),
    unary("Tanh", 1, || Op::Unary(Unary::Tanh)),
    unary_with("ThresholdedRelu", 10, || Op::Unary(Unary::ThresholdedRelu { alpha: 1.0 }), alpha),
    binary("Add", 7, || Op::Binary(Binary::Add)),
    binary("And", 7, || Op::Binary(Binary::And)),
    row("BitShift", 11, AB, || Op::Binary(Binary::BitShift { left: true }), bit_shift),
    binary("BitwiseAnd", 18, || Op::Binary(Binary::BitwiseAnd)),
    binary("BitwiseOr", 18, || Op::Binary(Binary::BitwiseOr)),
    binary("BitwiseXor", 18, || Op::Binary(Binary::BitwiseXor)),
    binary("Div", 7, || Op::Binary(Binary::Div)),
    binary("Equal", 7, || Op::Binary(Binary::Equal)),
    binary("Greater", 7, || Op::Binary(Binary::Greater)),
    binary("GreaterOrEqual", 12, || Op::Binary(Binary::GreaterOrEqual)),
    binary("Less", 7, || Op::Binary(Binary::Less)),
    binary("LessOrEqual", 12, || Op::Binary(Binary::LessOrEqual)),
    row("Mod", 10, AB, || Op::Binary(Binary::Mod { fmod: false }), modulo),
    binary("Mul", 7, || Op::Binary(Binary::Mul)),
    binary("Or", 7, || Op::Binary(Binary::Or)),
    binary("Pow", 7, || Op::Binary(Binary::Pow)),
    binary("PRelu", 7, || Op::Binary(Binary::PRelu)),
    binary("Sub", 7, || Op::Binary(Binary::Sub)),
    binary("Xor", 7, || Op::Binary(Binary::Xor)),
    variadic("Max", || Op::Variadic(Variadic::Max)),
    variadic("Mean", || Op::Variadic(Variadic::Mean)),
    variadic("Min", || Op::Variadic(Variadic::Min)),
    variadic("Sum", || Op::Variadic(Variadic::Sum)),
    row("Clip", 6, &[req("X"), opt("min").was(11, Old::Float), opt("max").was(11, Old::Float)], || Op::Clip, clip),
    row("Where", 9, &[req("condition"), req("X"), req("Y")], || Op::Where, plain),
    row("Cast", 6, X, || Op::Cast { to: DType::F32, saturate: true }, cast),
    row("CastLike", 15, &[req("X"), req("target_type")], || Op::CastLike { saturate: true }, cast_like),
    row("Softmax", 1, X, || Op::Softmax { axis: -1, flat: false }, softmax),
    row("Hardmax", 1, X, || Op::Hardmax { axis: -1, flat: false }, softmax),
    row("LogSoftmax", 1, X, || Op::LogSoftmax { axis: -1, flat: false }, softmax),
];

/// The ONNX name of a [`Unary`].
pub(super) fn unary_name(u: &Unary) -> &'static str {
    match u {
        Unary::Abs => "Abs",
        Unary::Acos => "Acos",
        Unary::Acosh => "Acosh",
        Unary::Asin => "Asin",
        Unary::Asinh => "Asinh",
        Unary::Atan => "Atan",
        Unary::Atanh => "Atanh",
        Unary::BitwiseNot => "BitwiseNot",
        Unary::Ceil => "Ceil",
        Unary::Celu { .. } => "Celu",
        Unary::Cos => "Cos",
        Unary::Cosh => "Cosh",
        Unary::Elu { .. } => "Elu",
        Unary::Erf => "Erf",
        Unary::Exp => "Exp",
        Unary::Floor => "Floor",
        Unary::Gelu { .. } => "Gelu",
        Unary::HardSigmoid { .. } => "HardSigmoid",
        Unary::HardSwish => "HardSwish",
        Unary::IsInf { .. } => "IsInf",
        Unary::IsNaN => "IsNaN",
        Unary::LeakyRelu { .. } => "LeakyRelu",
        Unary::Log => "Log",
        Unary::Mish => "Mish",
        Unary::Neg => "Neg",
        Unary::Not => "Not",
        Unary::Reciprocal => "Reciprocal",
        Unary::Relu => "Relu",
        Unary::Round => "Round",
        Unary::Selu { .. } => "Selu",
        Unary::Sigmoid => "Sigmoid",
        Unary::Sign => "Sign",
        Unary::Sin => "Sin",
        Unary::Sinh => "Sinh",
        Unary::Softplus => "Softplus",
        Unary::Softsign => "Softsign",
        Unary::Sqrt => "Sqrt",
        Unary::Swish { .. } => "Swish",
        Unary::Tan => "Tan",
        Unary::Tanh => "Tanh",
        Unary::ThresholdedRelu { .. } => "ThresholdedRelu",
    }
}

/// The ONNX name of a [`Binary`].
pub(super) fn binary_name(b: Binary) -> &'static str {
    match b {
        Binary::Add => "Add",
        Binary::And => "And",
        Binary::BitShift { .. } => "BitShift",
        Binary::BitwiseAnd => "BitwiseAnd",
        Binary::BitwiseOr => "BitwiseOr",
        Binary::BitwiseXor => "BitwiseXor",
        Binary::Div => "Div",
        Binary::Equal => "Equal",
        Binary::Greater => "Greater",
        Binary::GreaterOrEqual => "GreaterOrEqual",
        Binary::Less => "Less",
        Binary::LessOrEqual => "LessOrEqual",
        Binary::Mod { .. } => "Mod",
        Binary::Mul => "Mul",
        Binary::Or => "Or",
        Binary::Pow => "Pow",
        Binary::PRelu => "PRelu",
        Binary::Sub => "Sub",
        Binary::Xor => "Xor",
    }
}

/// The ONNX name of a [`Variadic`].
pub(super) fn variadic_name(v: Variadic) -> &'static str {
    match v {
        Variadic::Max => "Max",
        Variadic::Mean => "Mean",
        Variadic::Min => "Min",
        Variadic::Sum => "Sum",
    }
}
