//! A Pad with zeros before a convolution becomes pads of the convolution.
use super::view::View;
use crate::{
    error::Result,
    ir::{
        Graph, Node, NodeId, Op, Patch,
        infer::fact::axes,
        op::{AutoPad, PadMode},
    },
};

/// Answers the number of Pad nodes merged.
///
/// # Errors
/// When the graph has a cycle.
pub fn run(graph: &mut Graph) -> Result<usize> {
    let view = View::new(graph);
    let mut patch = Patch::new();
    let mut edits = 0;
    for (id, node) in graph.nodes() {
        if let Some((pad, new)) = merged(&view, node) {
            patch.remove(pad).remove(id).add(new);
            edits += 1;
        }
    }
    graph.apply(patch)?;
    Ok(edits)
}

fn merged(view: &View, conv: &Node) -> Option<(NodeId, Node)> {
    let Op::Conv(a) = &conv.op else { return None };
    let padded = conv.input(0)?;
    let (id, pad) = view.producer(padded)?;
    if !matches!(pad.op, Op::Pad { mode: PadMode::Constant }) || !view.is_link(padded) || a.auto_pad != AutoPad::NotSet
    {
        return None;
    }
    if pad.input(2).is_some_and(|v| view.scalar(v) != Some(0.0)) {
        return None;
    }
    let rank = view.rank(conv.input(1)?)?;
    let n = rank.checked_sub(2)?;
    let given = view.ints(pad.input(1)?)?;
    let which = match pad.input(3) {
        Some(v) => axes(&view.ints(v)?, rank).ok()?,
        None => (0..rank).collect(),
    };
    if given.len() != 2 * which.len() {
        return None;
    }
    let mut pads = if a.pads.is_empty() { vec![0; 2 * n] } else { a.pads.clone() };
    if pads.len() != 2 * n || pads.iter().chain(&given).any(|&p| p < 0) {
        return None;
    }
    for (i, &axis) in which.iter().enumerate() {
        let (begin, end) = (given[i], given[which.len() + i]);
        if axis < 2 {
            if begin != 0 || end != 0 {
                return None;
            }
            continue;
        }
        pads[axis - 2] = pads[axis - 2].checked_add(begin)?;
        pads[n + axis - 2] = pads[n + axis - 2].checked_add(end)?;
    }
    let mut new = conv.clone();
    let mut attrs = a.clone();
    attrs.pads = pads;
    new.op = Op::Conv(attrs);
    new.inputs[0] = pad.input(0);
    Some((id, new))
}
