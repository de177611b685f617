//! Activations.
use super::{
    Found, Input, View,
    pattern::{Part, Product, clip, near, plus, product, product_of, scaled, unary},
};
use crate::ir::{
    DType, Node, Op, Tensor, ValueId,
    op::{Unary, Variadic},
};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

/// The activation that ends in this node.
pub(super) fn find(view: &View, node: &Node) -> Option<Found> {
    let found = min_max(view, node).or_else(|| hard_sigmoid(view, node)).or_else(|| gated(view, node))?;
    // Constants of one element and a higher rank would have raised the rank of the result.
    let Some(Input::Value(x)) = found.inputs.first() else { return None };
    let y = node.output(0)?;
    (view.rank(*x)? == view.rank(y)? && view.dtype(*x) == Some(DType::F32)).then_some(found)
}

fn function(u: Unary, x: ValueId, nodes: Vec<crate::ir::NodeId>) -> Found {
    Found { op: Op::Unary(u), inputs: vec![Input::Value(x)], nodes }
}

/// min(max(x, lo), hi) and max(min(x, hi), lo) with lo <= hi: Clip. max(x, 0): Relu.
#[allow(clippy::cast_possible_truncation)]
fn min_max(view: &View, node: &Node) -> Option<Found> {
    let (outer, (x, number)) = bound(view, node)?;
    let inner = view.producer(x);
    let (lo, hi, x, id) = match (outer, inner.map(|(id, n)| (id, n, bound(view, n)))) {
        (Variadic::Min, Some((id, n, None))) if matches!(n.op, Op::Unary(Unary::Relu)) => {
            (0.0, number, n.input(0)?, id)
        }
        (Variadic::Min, Some((id, _, Some((Variadic::Max, (x, lo)))))) => (lo, number, x, id),
        (Variadic::Max, Some((id, _, Some((Variadic::Min, (x, hi)))))) => (number, hi, x, id),
        (Variadic::Max, _) if number == 0.0 => return Some(function(Unary::Relu, x, Vec::new())),
        _ => return None,
    };
    if lo > hi {
        return None;
    }
    let constant = |what, x: f64| Input::Constant(what, Tensor::scalar(x as f32));
    Some(Found {
        op: Op::Clip,
        inputs: vec![Input::Value(x), constant("min", lo), constant("max", hi)],
        nodes: vec![id],
    })
}

/// Max or Min of a tensor and a number.
fn bound(view: &View, node: &Node) -> Option<(Variadic, (ValueId, f64))> {
    let Op::Variadic(v @ (Variadic::Max | Variadic::Min)) = node.op else { return None };
    let [Some(a), Some(b)] = node.inputs[..] else { return None };
    match (view.scalar(a), view.scalar(b)) {
        (None, Some(c)) => Some((v, (a, c))),
        (Some(c), None) => Some((v, (b, c))),
        _ => None,
    }
}

/// clip(x + 3, 0, 6) / 6, or clip(alpha * x + beta, 0, 1).
#[allow(clippy::cast_possible_truncation)]
fn hard_sigmoid(view: &View, node: &Node) -> Option<Found> {
    if let Some(p) = product_of(view, node).filter(|p| p.leaves.len() == 1 && near(p.number, 1.0 / 6.0)) {
        let c = clip(view, p.leaves[0], 0.0, 6.0)?;
        let a = plus(view, c.x).filter(|a| near(a.number, 3.0))?;
        let nodes = [p.nodes, c.nodes, a.nodes].concat();
        return Some(function(Unary::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, a.x, nodes));
    }
    let c = clip(view, node.output(0)?, 0.0, 1.0)?;
    let a = plus(view, c.x)?;
    let s = scaled(view, a.x);
    if s.nodes.is_empty() {
        return None;
    }
    let u = Unary::HardSigmoid { alpha: s.number as f32, beta: a.number as f32 };
    Some(function(u, s.x, [a.nodes, s.nodes].concat()))
}

/// A product of `x` and a function of `x`.
fn gated(view: &View, node: &Node) -> Option<Found> {
    let p = product_of(view, node).filter(|p| p.leaves.len() == 2)?;
    [(0, 1), (1, 0)].into_iter().find_map(|(x, gate)| {
        let (x, gate) = (p.leaves[x], p.leaves[gate]);
        let g = hard_gate(view, x, gate, p.number)
            .or_else(|| sigmoid_gate(view, x, gate, p.number))
            .or_else(|| gelu_gate(view, x, gate, p.number))?;
        let (u, nodes) = g;
        Some(function(u, x, [p.nodes.clone(), nodes].concat()))
    })
}

type Gate = Option<(Unary, Vec<crate::ir::NodeId>)>;

/// x * clip(x + 3, 0, 6) / 6, or x * hard_sigmoid(x).
fn hard_gate(view: &View, x: ValueId, gate: ValueId, number: f64) -> Gate {
    if near(number, 1.0) {
        let usual = |u| match u {
            Unary::HardSigmoid { alpha, beta } => near(alpha.into(), 1.0 / 6.0) && near(beta.into(), 0.5),
            _ => false,
        };
        let h = unary(view, gate, usual).filter(|h| h.x == x)?;
        return Some((Unary::HardSwish, h.nodes));
    }
    let c = clip(view, gate, 0.0, 6.0).filter(|_| near(number, 1.0 / 6.0))?;
    let a = plus(view, c.x).filter(|a| a.x == x && near(a.number, 3.0))?;
    Some((Unary::HardSwish, [c.nodes, a.nodes].concat()))
}

/// x * sigmoid(alpha * x)
#[allow(clippy::cast_possible_truncation)]
fn sigmoid_gate(view: &View, x: ValueId, gate: ValueId, number: f64) -> Gate {
    if number != 1.0 {
        return None;
    }
    let s = unary(view, gate, |u| u == Unary::Sigmoid)?;
    if s.x == x {
        return Some((Unary::Swish { alpha: 1.0 }, s.nodes));
    }
    let inner = scaled(view, s.x);
    (inner.x == x).then(|| (Unary::Swish { alpha: inner.number as f32 }, [s.nodes, inner.nodes].concat()))
}

/// 0.5 * x * (1 + erf(x / sqrt 2)), or with tanh(sqrt(2 / pi) * (x + 0.044715 x^3)).
fn gelu_gate(view: &View, x: ValueId, gate: ValueId, number: f64) -> Gate {
    let (f, half) = one_plus(view, gate)?;
    if !near(number * half, 0.5) {
        return None;
    }
    if let Some(e) = unary(view, f.x, |u| u == Unary::Erf) {
        let s = scaled(view, e.x);
        let fits = s.x == x && near(s.number, FRAC_1_SQRT_2);
        return fits.then(|| (Unary::Gelu { tanh: false }, [f.nodes, e.nodes, s.nodes].concat()));
    }
    let t = unary(view, f.x, |u| u == Unary::Tanh)?;
    let nodes = cubic(view, t.x, x)?;
    Some((Unary::Gelu { tanh: true }, [f.nodes, t.nodes, nodes].concat()))
}

/// `1 + f` with 1, or `0.5 + 0.5 f` with 0.5.
fn one_plus(view: &View, v: ValueId) -> Option<(Part, f64)> {
    let a = plus(view, v)?;
    let s = scaled(view, a.x);
    let part = |number| Part { x: s.x, number, nodes: [a.nodes.clone(), s.nodes.clone()].concat() };
    (near(s.number, a.number) && (near(a.number, 1.0) || near(a.number, 0.5))).then(|| (part(0.0), a.number))
}

const CUBE: f64 = 0.044_715;

/// sqrt(2 / pi) * (x + 0.044715 x^3), also as sqrt(2 / pi) * x * (1 + 0.044715 x^2).
fn cubic(view: &View, v: ValueId, x: ValueId) -> Option<Vec<crate::ir::NodeId>> {
    let outer = product(view, v).filter(|p| near(p.number, FRAC_2_PI.sqrt()))?;
    match outer.leaves[..] {
        [sum] => {
            let (id, node) = view.producer(sum)?;
            let (a, b) = super::pattern::operands(node, crate::ir::op::Binary::Add)?;
            let power = |x_side: ValueId, other: ValueId| (x_side == x).then(|| power(view, other, x, 3)).flatten();
            let inner = power(a, b).or_else(|| power(b, a))?;
            Some([outer.nodes, vec![id], inner.nodes].concat())
        }
        [a, b] => {
            let other = if a == x { b } else { a };
            if a != x && b != x {
                return None;
            }
            let sum = plus(view, other).filter(|s| near(s.number, 1.0))?;
            let inner = power(view, sum.x, x, 2)?;
            Some([outer.nodes, sum.nodes, inner.nodes].concat())
        }
        _ => None,
    }
}

/// 0.044715 x^n
fn power(view: &View, v: ValueId, x: ValueId, n: usize) -> Option<Product> {
    product(view, v).filter(|p| near(p.number, CUBE) && p.leaves.len() == n && p.leaves.iter().all(|&l| l == x))
}
