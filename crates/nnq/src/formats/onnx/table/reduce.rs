//! Reductions, arg-reductions, cumulative sums, top-k.
use super::{Attrs, In, Old, Row, opt, req, row, wrong};
use crate::{
    error::Result,
    ir::{Op, op::Reduction},
};

const SUM: &[In] = &[req("data"), opt("axes").was(13, Old::Ints)];
const OTHERS: &[In] = &[req("data"), opt("axes").was(18, Old::Ints)];

const fn make(kind: Reduction) -> Op {
    Op::Reduce { kind, keepdims: true, noop_with_empty_axes: false }
}

fn reduce(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Reduce { kind, keepdims, noop_with_empty_axes } = op else { return wrong(op) };
    a.flag("keepdims", true, keepdims)?;
    let since = if *kind == Reduction::Sum { 13 } else { 18 };
    a.flag(("noop_with_empty_axes", since), false, noop_with_empty_axes)
}

fn arg(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let (Op::ArgMax { axis, keepdims, select_last } | Op::ArgMin { axis, keepdims, select_last }) = op else {
        return wrong(op);
    };
    a.int("axis", 0, axis)?;
    a.flag("keepdims", true, keepdims)?;
    a.flag(("select_last_index", 12), false, select_last)
}

fn cum_sum(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::CumSum { exclusive, reverse } = op else { return wrong(op) };
    a.flag("exclusive", false, exclusive)?;
    a.flag("reverse", false, reverse)
}

fn top_k(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::TopK { axis, largest, sorted } = op else { return wrong(op) };
    a.int("axis", -1, axis)?;
    a.flag(("largest", 11), true, largest)?;
    a.flag(("sorted", 11), true, sorted)
}

pub(super) const ROWS: &[Row] = &[
    row("ReduceL1", 1, OTHERS, || make(Reduction::L1), reduce),
    row("ReduceL2", 1, OTHERS, || make(Reduction::L2), reduce),
    row("ReduceLogSum", 1, OTHERS, || make(Reduction::LogSum), reduce),
    row("ReduceLogSumExp", 1, OTHERS, || make(Reduction::LogSumExp), reduce),
    row("ReduceMax", 1, OTHERS, || make(Reduction::Max), reduce),
    row("ReduceMean", 1, OTHERS, || make(Reduction::Mean), reduce),
    row("ReduceMin", 1, OTHERS, || make(Reduction::Min), reduce),
    row("ReduceProd", 1, OTHERS, || make(Reduction::Prod), reduce),
    row("ReduceSum", 1, SUM, || make(Reduction::Sum), reduce),
    row("ReduceSumSquare", 1, OTHERS, || make(Reduction::SumSquare), reduce),
    row("ArgMax", 1, &[req("data")], || Op::ArgMax { axis: 0, keepdims: true, select_last: false }, arg),
    row("ArgMin", 1, &[req("data")], || Op::ArgMin { axis: 0, keepdims: true, select_last: false }, arg),
    row("CumSum", 11, &[req("x"), req("axis")], || Op::CumSum { exclusive: false, reverse: false }, cum_sum),
    row(
        "TopK",
        1,
        &[req("X"), req("K").was_called(10, "k", Old::Int)],
        || Op::TopK { axis: -1, largest: true, sorted: true },
        top_k,
    )
    .outputs(2, 2),
];
