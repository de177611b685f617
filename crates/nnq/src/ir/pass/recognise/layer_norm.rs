//! Layer normalisation written as means, differences and a square root.
use super::{
    Found, Input, View,
    pattern::{operands, plus},
};
use crate::ir::{
    DType, Dim, Node, NodeId, Op, Tensor, ValueId,
    op::{Binary, Reduction, Unary},
};

/// (x - mean) / sqrt(variance + epsilon), and the nodes below the one that ends it.
struct Normal {
    x: ValueId,
    axes: usize,
    epsilon: f64,
    nodes: Vec<NodeId>,
}

/// The normalisation that ends in this node: with scale and bias, with a scale, or with neither.
pub(super) fn find(view: &View, node: &Node) -> Option<Found> {
    let found = with_bias(view, node).or_else(|| with_scale(view, node)).or_else(|| plain(view, node))?;
    // Constants of one element and a higher rank would have raised the rank of the result.
    let Some(Input::Value(x)) = found.inputs.first() else { return None };
    (view.rank(*x)? == view.rank(node.output(0)?)? && view.dtype(*x) == Some(DType::F32)).then_some(found)
}

fn with_bias(view: &View, node: &Node) -> Option<Found> {
    let (a, b) = operands(node, Binary::Add)?;
    [(a, b), (b, a)].into_iter().find_map(|(inner, bias)| {
        view.tensor(bias)?;
        let (id, mul) = view.producer(inner)?;
        let (n, scale) = scaled_normal(view, mul)?;
        let inputs = vec![Input::Value(n.x), weight(view, scale, &n, "scale")?, weight(view, bias, &n, "bias")?];
        found(n, inputs, Some(id))
    })
}

fn with_scale(view: &View, node: &Node) -> Option<Found> {
    let (n, scale) = scaled_normal(view, node)?;
    let inputs = vec![Input::Value(n.x), weight(view, scale, &n, "scale")?];
    found(n, inputs, None)
}

fn plain(view: &View, node: &Node) -> Option<Found> {
    let n = normal(view, node)?;
    let sizes = sizes(view, &n)?;
    let ones = Tensor::of(&sizes, vec![1.0f32; sizes.iter().product()]);
    let inputs = vec![Input::Value(n.x), Input::Constant("scale", ones)];
    found(n, inputs, None)
}

#[allow(clippy::cast_possible_truncation)]
fn found(n: Normal, inputs: Vec<Input>, last: Option<NodeId>) -> Option<Found> {
    let axis = -i64::try_from(n.axes).ok()?;
    let op = Op::LayerNormalization { axis, epsilon: n.epsilon as f32 };
    Some(Found { op, inputs, nodes: n.nodes.into_iter().chain(last).collect() })
}

/// normal * constant
fn scaled_normal(view: &View, node: &Node) -> Option<(Normal, ValueId)> {
    let (a, b) = operands(node, Binary::Mul)?;
    [(a, b), (b, a)].into_iter().find_map(|(inner, scale)| {
        view.tensor(scale)?;
        let (id, node) = view.producer(inner)?;
        let mut n = normal(view, node)?;
        n.nodes.push(id);
        Some((n, scale))
    })
}

/// d / sqrt(v), or d * reciprocal(sqrt(v)); the node itself is not among the nodes.
fn normal(view: &View, node: &Node) -> Option<Normal> {
    if let Some((d, root)) = operands(node, Binary::Div) {
        return deviation(view, d, root, Vec::new());
    }
    let (a, b) = operands(node, Binary::Mul)?;
    [(a, b), (b, a)].into_iter().find_map(|(d, inverse)| {
        let (id, n) = view.producer(inverse)?;
        match n.op {
            Op::Unary(Unary::Reciprocal) => deviation(view, d, n.input(0)?, vec![id]),
            Op::Binary(Binary::Div) if view.scalar(n.input(0)?) == Some(1.0) => {
                deviation(view, d, n.input(1)?, vec![id])
            }
            _ => None,
        }
    })
}

/// `d` is centred, and `root` the square root of its mean square plus epsilon.
fn deviation(view: &View, d: ValueId, root: ValueId, mut nodes: Vec<NodeId>) -> Option<Normal> {
    let (x, axes) = centred(view, d, &mut nodes)?;
    let (id, node) = view.producer(root)?;
    let inner = match node.op {
        Op::Unary(Unary::Sqrt) => node.input(0)?,
        Op::Binary(Binary::Pow) if view.scalar(node.input(1)?) == Some(0.5) => node.input(0)?,
        _ => return None,
    };
    nodes.push(id);
    let sum = plus(view, inner).filter(|s| s.number >= 0.0)?;
    nodes.extend(sum.nodes);
    let (square, axes_again) = mean(view, sum.x, &mut nodes)?;
    let (id, node) = view.producer(square)?;
    nodes.push(id);
    let base = match node.op {
        Op::Binary(Binary::Pow) if view.scalar(node.input(1)?) == Some(2.0) => node.input(0)?,
        Op::Binary(Binary::Mul) if node.input(0) == node.input(1) => node.input(0)?,
        _ => return None,
    };
    // Some exporters write the difference twice.
    let same = base == d || centred(view, base, &mut nodes)? == (x, axes);
    (same && axes == axes_again).then_some(Normal { x, axes, epsilon: sum.number, nodes })
}

/// x - mean(x)
fn centred(view: &View, v: ValueId, nodes: &mut Vec<NodeId>) -> Option<(ValueId, usize)> {
    let (id, node) = view.producer(v)?;
    let (x, m) = operands(node, Binary::Sub)?;
    nodes.push(id);
    let (of, axes) = mean(view, m, nodes)?;
    (of == x).then_some((x, axes))
}

/// The mean over the last axes, kept: of what, and over how many.
fn mean(view: &View, v: ValueId, nodes: &mut Vec<NodeId>) -> Option<(ValueId, usize)> {
    let (id, node) = view.producer(v)?;
    let Op::Reduce { kind: Reduction::Mean, keepdims: true, .. } = node.op else { return None };
    let (x, list) = (node.input(0)?, view.ints(node.input(1)?)?);
    let rank = view.rank(x)?;
    let mut which = crate::ir::infer::fact::axes(&list, rank).ok()?;
    which.sort_unstable();
    let n = which.len();
    let last = n > 0 && which.iter().enumerate().all(|(i, &a)| a + n == rank + i);
    nodes.push(id);
    last.then_some((x, n))
}

/// The normalised sizes, when they are known.
fn sizes(view: &View, n: &Normal) -> Option<Vec<usize>> {
    let dims = &view.shape(n.x)?.0;
    dims[dims.len().checked_sub(n.axes)?..].iter().map(Dim::fixed).collect()
}

/// A constant of exactly the normalised sizes, as it is or without leading ones.
fn weight(view: &View, v: ValueId, n: &Normal, name: &'static str) -> Option<Input> {
    let (shape, data) = view.floats(v)?;
    let want = sizes(view, n)?;
    if shape == want {
        return Some(Input::Value(v));
    }
    let lead = shape.len().checked_sub(want.len())?;
    let fits = shape[lead..] == want && shape[..lead].iter().all(|&d| d == 1) && Some(shape.len()) <= view.rank(n.x);
    fits.then(|| Input::Constant(name, Tensor::of(&want, data.to_vec())))
}
