//! Pieces of patterns. A match carries the nodes it went through, so that the whole can be replaced.
use super::{TOLERANCE, View};
use crate::ir::{
    Node, NodeId, Op, ValueId,
    op::{Binary, Unary},
};

/// A value found below some nodes, with a number that goes with it.
#[derive(Clone)]
pub(super) struct Part {
    pub x: ValueId,
    pub number: f64,
    pub nodes: Vec<NodeId>,
}

/// `number * leaves[0] * leaves[1] * ..`
pub(super) struct Product {
    pub number: f64,
    pub leaves: Vec<ValueId>,
    pub nodes: Vec<NodeId>,
}

pub(super) fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= TOLERANCE * b.abs()
}

/// The two operands, when the node is this function of two tensors.
pub(super) fn operands(node: &Node, op: Binary) -> Option<(ValueId, ValueId)> {
    match node.op {
        Op::Binary(b) if b == op => node.input(0).zip(node.input(1)),
        _ => None,
    }
}

/// `x + c` or `x - c`.
pub(super) fn plus(view: &View, v: ValueId) -> Option<Part> {
    let (id, node) = view.producer(v)?;
    let part = |x: ValueId, number: f64| Some(Part { x, number, nodes: vec![id] });
    if let Some((a, b)) = operands(node, Binary::Add) {
        return match (view.scalar(a), view.scalar(b)) {
            (None, Some(c)) => part(a, c),
            (Some(c), None) => part(b, c),
            _ => None,
        };
    }
    let (a, b) = operands(node, Binary::Sub)?;
    part(a, -view.scalar(b)?)
}

/// The product that ends in `v`. It is followed through values that are read once; powers 2 and 3 count as factors.
pub(super) fn product(view: &View, v: ValueId) -> Option<Product> {
    let (id, node) = view.producer(v)?;
    let mut p = Product { number: 1.0, leaves: Vec::new(), nodes: Vec::new() };
    factors_of(view, id, node, &mut p).then_some(p)
}

/// The product that ends in a node.
pub(super) fn product_of(view: &View, node: &Node) -> Option<Product> {
    let (id, _) = view.producer(node.output(0)?)?;
    let mut p = product(view, node.output(0)?)?;
    p.nodes.retain(|&n| n != id);
    Some(p)
}

/// Adds the factors of a Mul, of a Div by a number or of a power; false for any other node.
fn factors_of(view: &View, id: NodeId, node: &Node, p: &mut Product) -> bool {
    let mut stack = vec![(id, node)];
    let mut first = true;
    while let Some((id, node)) = stack.pop() {
        let operands: Vec<ValueId> = match &node.op {
            Op::Binary(Binary::Mul) => node.inputs.iter().flatten().copied().collect(),
            Op::Binary(Binary::Div) => {
                let Some(d) = node.input(1).and_then(|v| view.scalar(v)) else { return false };
                p.number /= d;
                node.input(0).into_iter().collect()
            }
            Op::Binary(Binary::Pow) => match (node.input(0), node.input(1).and_then(|v| view.scalar(v))) {
                (Some(x), Some(e)) if e == 2.0 => vec![x; 2],
                (Some(x), Some(e)) if e == 3.0 => vec![x; 3],
                _ => return false,
            },
            _ => return false,
        };
        if first && matches!(node.op, Op::Binary(Binary::Pow)) {
            // A power alone is a leaf's business.
            p.leaves.extend(operands);
            p.nodes.push(id);
            return true;
        }
        first = false;
        p.nodes.push(id);
        for v in operands {
            if let Some(c) = view.scalar(v) {
                p.number *= c;
            } else if let Some(next) = view.producer(v).filter(|(_, n)| view.is_link(v) && is_factor(view, n)) {
                if let (Op::Binary(Binary::Pow), Some(x)) = (&next.1.op, next.1.input(0)) {
                    let e = next.1.input(1).and_then(|v| view.scalar(v));
                    p.leaves.extend(vec![x; if e == Some(2.0) { 2 } else { 3 }]);
                    p.nodes.push(next.0);
                } else {
                    stack.push(next);
                }
            } else {
                p.leaves.push(v);
            }
        }
    }
    true
}

fn is_factor(view: &View, node: &Node) -> bool {
    let number = node.input(1).and_then(|v| view.scalar(v));
    match node.op {
        Op::Binary(Binary::Mul) => true,
        Op::Binary(Binary::Div) => number.is_some(),
        Op::Binary(Binary::Pow) => number == Some(2.0) || number == Some(3.0),
        _ => false,
    }
}

/// `c * x` or `x / c`, or `x` itself with 1.
pub(super) fn scaled(view: &View, v: ValueId) -> Part {
    match product(view, v) {
        Some(p) if p.leaves.len() == 1 => Part { x: p.leaves[0], number: p.number, nodes: p.nodes },
        _ => Part { x: v, number: 1.0, nodes: Vec::new() },
    }
}

/// A function of one tensor; the part's number is unused.
pub(super) fn unary(view: &View, v: ValueId, test: impl Fn(Unary) -> bool) -> Option<Part> {
    let (id, node) = view.producer(v)?;
    match node.op {
        Op::Unary(u) if test(u) => Some(Part { x: node.input(0)?, number: 0.0, nodes: vec![id] }),
        _ => None,
    }
}

/// Clip with both bounds.
pub(super) fn clip(view: &View, v: ValueId, lo: f64, hi: f64) -> Option<Part> {
    let (id, node) = view.producer(v)?;
    let bound = |i: usize| node.input(i).and_then(|v| view.scalar(v));
    let fits = matches!(node.op, Op::Clip) && bound(1) == Some(lo) && bound(2) == Some(hi);
    fits.then_some(Part { x: node.input(0)?, number: 0.0, nodes: vec![id] })
}
