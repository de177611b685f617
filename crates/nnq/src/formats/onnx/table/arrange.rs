//! Moves, gathers, shapes and constants.
use super::{Attrs, In, Old, Row, many, opt, plain, req, row, wrong};
use crate::{
    error::{Error, Result},
    ir::{
        Op, Tensor,
        op::{PadMode, Scatter},
    },
};
use std::sync::Arc;

const X: &[In] = &[req("X")];
const INDEXED: &[In] = &[req("data"), req("indices")];
const SCATTERED: &[In] = &[req("data"), req("indices"), req("updates")];

const REDUCTIONS: &[(&str, Scatter)] = &[
    ("none", Scatter::Replace),
    ("add", Scatter::Add),
    ("mul", Scatter::Mul),
    ("max", Scatter::Max),
    ("min", Scatter::Min),
];

const PAD: &[(&str, PadMode)] =
    &[("constant", PadMode::Constant), ("reflect", PadMode::Reflect), ("edge", PadMode::Edge), ("wrap", PadMode::Wrap)];

fn axis(op: &mut Op, a: &mut Attrs) -> Result<()> {
    match op {
        Op::Concat { axis } => a.int("axis", None, axis),
        Op::Gather { axis } | Op::GatherElements { axis } => a.int("axis", 0, axis),
        Op::Flatten { axis } => a.int("axis", 1, axis),
        Op::OneHot { axis } => a.int("axis", -1, axis),
        Op::ScatterElements { axis, reduction } => {
            a.int("axis", 0, axis)?;
            scatter(reduction, a)
        }
        Op::ScatterNd { reduction } => scatter(reduction, a),
        Op::Compress { axis } => a.maybe_int("axis", axis),
        Op::ReverseSequence { batch_axis, time_axis } => {
            a.int("batch_axis", 1, batch_axis)?;
            a.int("time_axis", 0, time_axis)
        }
        _ => wrong(op),
    }
}

fn scatter(reduction: &mut Scatter, a: &mut Attrs) -> Result<()> {
    a.choice(("reduction", 16), Scatter::Replace, REDUCTIONS, reduction)?;
    if matches!(reduction, Scatter::Max | Scatter::Min) {
        a.needs(18, "scattering extremes");
    }
    Ok(())
}

fn gather_nd(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::GatherNd { batch_dims } = op else { return wrong(op) };
    a.size(("batch_dims", 12), 0, batch_dims)
}

/// Pieces of equal size when no sizes are given; since opset 18 the file says how many, or how large.
fn split(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Split { axis } = op else { return wrong(op) };
    a.int("axis", 0, axis)?;
    let sizes = a.inputs.get(1).copied().flatten().is_some();
    let mut pieces = (a.opset >= 18 && !sizes).then_some(a.outputs as i64);
    a.maybe_int(("num_outputs", 18), &mut pieces)?;
    match pieces {
        Some(n) if n != a.outputs as i64 => {
            Err(Error::malformed(format!("attribute 'num_outputs' is {n}, the node has {} outputs", a.outputs)))
        }
        Some(_) if sizes => Err(Error::malformed("both the input 'split' and the attribute 'num_outputs' are given")),
        _ => Ok(()),
    }
}

fn pad(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Pad { mode } = op else { return wrong(op) };
    a.choice("mode", PadMode::Constant, PAD, mode)?;
    if *mode == PadMode::Wrap {
        a.needs(19, "padding by wrapping around");
    }
    Ok(())
}

fn reshape(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Reshape { allowzero } = op else { return wrong(op) };
    a.flag(("allowzero", 14), false, allowzero)
}

fn transpose(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Transpose { perm } = op else { return wrong(op) };
    a.sizes("perm", perm)
}

fn depth(op: &mut Op, a: &mut Attrs) -> Result<()> {
    match op {
        Op::DepthToSpace { block, crd } => {
            a.size("blocksize", None, block)?;
            a.choice(("mode", 11), false, &[("DCR", false), ("CRD", true)], crd)
        }
        Op::SpaceToDepth { block } => {
            a.size("blocksize", None, block)?;
            a.only_word("mode", &["DCR"])
        }
        _ => wrong(op),
    }
}

fn dropout(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Dropout = op else { return wrong(op) };
    a.ignore("seed");
    Ok(())
}

fn shape(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Shape { start, end } = op else { return wrong(op) };
    a.int(("start", 15), 0, start)?;
    a.maybe_int(("end", 15), end)
}

fn constant_of_shape(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::ConstantOfShape { value } = op else { return wrong(op) };
    a.tensor("value", &Tensor::of(&[1], vec![0f32]), value)?;
    if value.len() != 1 {
        return Err(Error::malformed(format!("attribute 'value' has {} elements, expected 1", value.len())));
    }
    Ok(())
}

fn range(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Range = op else { return wrong(op) };
    a.only("stash_type", &[1])
}

fn trilu(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Trilu { upper } = op else { return wrong(op) };
    a.flag("upper", true, upper)
}

pub(super) const ROWS: &[Row] = &[
    row("Concat", 4, &[many("inputs")], || Op::Concat { axis: 0 }, axis),
    row("Split", 2, &[req("X"), opt("split").was(13, Old::Ints)], || Op::Split { axis: 0 }, split)
        .outputs(1, usize::MAX),
    row(
        "Slice",
        1,
        &[
            req("data"),
            req("starts").was(10, Old::Ints),
            req("ends").was(10, Old::Ints),
            opt("axes").was(10, Old::Ints),
            opt("steps").since(10),
        ],
        || Op::Slice,
        plain,
    ),
    row("Gather", 1, INDEXED, || Op::Gather { axis: 0 }, axis),
    row("GatherElements", 11, INDEXED, || Op::GatherElements { axis: 0 }, axis),
    row("GatherND", 11, INDEXED, || Op::GatherNd { batch_dims: 0 }, gather_nd),
    row("Scatter", 9, SCATTERED, || Op::ScatterElements { axis: 0, reduction: Scatter::Replace }, axis).until(10),
    row("ScatterElements", 11, SCATTERED, || Op::ScatterElements { axis: 0, reduction: Scatter::Replace }, axis),
    row("ScatterND", 11, SCATTERED, || Op::ScatterNd { reduction: Scatter::Replace }, axis),
    row("NonZero", 9, X, || Op::NonZero, plain),
    row("Compress", 9, &[req("input"), req("condition")], || Op::Compress { axis: None }, axis),
    row(
        "ReverseSequence",
        10,
        &[req("input"), req("sequence_lens")],
        || Op::ReverseSequence { batch_axis: 1, time_axis: 0 },
        axis,
    ),
    row(
        "Pad",
        2,
        &[
            req("data"),
            req("pads").was(11, Old::Ints),
            opt("constant_value").was_called(11, "value", Old::Float),
            opt("axes").since(18),
        ],
        || Op::Pad { mode: PadMode::Constant },
        pad,
    ),
    row("Reshape", 5, &[req("data"), req("shape")], || Op::Reshape { allowzero: false }, reshape),
    row("Flatten", 1, X, || Op::Flatten { axis: 1 }, axis),
    row("Transpose", 1, X, || Op::Transpose { perm: Vec::new() }, transpose),
    row("Squeeze", 1, &[req("data"), opt("axes").was(13, Old::Ints)], || Op::Squeeze, plain),
    row("Unsqueeze", 1, &[req("data"), req("axes").was(13, Old::Ints)], || Op::Unsqueeze, plain),
    row("Expand", 8, &[req("input"), req("shape")], || Op::Expand, plain),
    row("Tile", 6, &[req("input"), req("repeats")], || Op::Tile, plain),
    row("DepthToSpace", 1, X, || Op::DepthToSpace { block: 1, crd: false }, depth),
    row("SpaceToDepth", 1, X, || Op::SpaceToDepth { block: 1 }, depth),
    row("Identity", 1, X, || Op::Identity, plain),
    row(
        "Dropout",
        7,
        &[req("data"), opt("ratio").was(12, Old::Float), opt("training_mode").since(12)],
        || Op::Dropout,
        dropout,
    )
    .outputs(1, 2),
    row("Shape", 1, X, || Op::Shape { start: 0, end: None }, shape),
    row("Size", 1, X, || Op::Size, plain),
    row(
        "ConstantOfShape",
        9,
        &[req("shape")],
        || Op::ConstantOfShape { value: Arc::new(Tensor::of(&[1], vec![0f32])) },
        constant_of_shape,
    ),
    row("Range", 11, &[req("start"), req("limit"), req("delta")], || Op::Range, range),
    row("OneHot", 9, &[req("indices"), req("depth"), req("values")], || Op::OneHot { axis: -1 }, axis),
    row("Trilu", 14, &[req("input"), opt("k")], || Op::Trilu { upper: true }, trilu),
];
