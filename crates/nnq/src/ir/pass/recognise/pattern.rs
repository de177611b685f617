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
    let mut p = Product { number: 1.0, leaves: Vec::new(), nodes: Vec::new() };
    let mut stack = vec![view.producer(v)?];
    while let Some((id, node)) = stack.pop() {
        let (operands, number) = factors(view, node)?;
        p.number *= number;
        p.nodes.push(id);
        let power = matches!(node.op, Op::Binary(Binary::Pow));
        for v in operands {
            let next = view.producer(v).filter(|(_, n)| view.is_link(v) && factors(view, n).is_some());
            match (view.scalar(v), next) {
                (Some(c), _) => p.number *= c,
                (None, Some(next)) if !power => stack.push(next),
                _ => p.leaves.push(v),
            }
        }
    }
    Some(p)
}

/// The product that ends in a node, which is not among its nodes.
pub(super) fn product_of(view: &View, node: &Node) -> Option<Product> {
    let mut p = product(view, node.output(0)?)?;
    p.nodes.remove(0);
    Some(p)
}

/// The factors of a Mul, of a Div by a number or of a small power, and a number to multiply them with.
fn factors(view: &View, node: &Node) -> Option<(Vec<ValueId>, f64)> {
    let Op::Binary(op) = node.op else { return None };
    let (x, y) = (node.input(0)?, node.input(1)?);
    match (op, view.scalar(y)) {
        (Binary::Mul, _) => Some((vec![x, y], 1.0)),
        (Binary::Div, Some(d)) => Some((vec![x], 1.0 / d)),
        (Binary::Pow, Some(2.0)) => Some((vec![x; 2], 1.0)),
        (Binary::Pow, Some(3.0)) => Some((vec![x; 3], 1.0)),
        _ => None,
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
