//! Whether a batch can be run in parts: no operator mixes samples.
use super::args;
use crate::ir::{Dim, Graph, Node, Op, Shape, ValueId, infer};

/// The graph has one input, whose first axis is the free batch, and every output holds for each sample what a run of that
/// sample alone would give.
pub fn divides(graph: &Graph) -> bool {
    if graph.is_dynamic() {
        return false;
    }
    let ([input], Ok(facts)) = (&graph.inputs[..], infer::facts(graph)) else { return false };
    let shape = |v: ValueId| facts.get(v.0 as usize).and_then(|f| f.shape.as_ref());
    let Some(Dim::Sym(batch)) = shape(*input).and_then(|s| s.0.first()) else { return false };
    let leads = |v: ValueId| matches!(shape(v).and_then(|s| s.0.first()), Some(Dim::Sym(s)) if s == batch);
    // Values whose first axis is the batch and whose samples depend on the same sample of the input only.
    let mut apart = vec![false; graph.value_count()];
    apart[input.0 as usize] = true;
    for (_, node) in graph.nodes() {
        let varying = |v: &&ValueId| graph.constant(**v).is_none();
        let good = node.inputs.iter().flatten().filter(varying).all(|v| apart[v.0 as usize])
            && node.input(0).is_some()
            && node.outputs.iter().flatten().all(|v| leads(*v))
            && keeps(graph, node, &shape);
        for v in node.outputs.iter().flatten() {
            apart[v.0 as usize] = good;
        }
    }
    graph.outputs.iter().all(|v| apart[v.0 as usize])
}

/// Given inputs of separate samples, the outputs are separate, too. What is not known is not.
fn keeps<'a>(graph: &Graph, node: &Node, shape: &impl Fn(ValueId) -> Option<&'a Shape>) -> bool {
    let rank = |v: ValueId| shape(v).map(Shape::rank);
    let first = node.input(0).and_then(rank);
    let inner = |axis: i64| first.and_then(|r| args::axis(axis, r).ok()).is_some_and(|a| a > 0);
    // Everything but input 0 is constant.
    let alone =
        || node.inputs.iter().enumerate().all(|(i, v)| v.is_none_or(|v| (i == 0) == graph.constant(v).is_none()));
    // Constants are the same for all samples.
    let flat = |v: &ValueId, out: usize| match shape(*v) {
        Some(s) if graph.constant(*v).is_some() => s.rank() < out || s.0.first() == Some(&Dim::Fixed(1)),
        Some(s) => s.rank() == out,
        None => false,
    };
    let broadcast = || {
        let out = node.output(0).and_then(rank);
        out.is_some_and(|out| node.inputs.iter().flatten().all(|v| flat(v, out)))
    };
    match &node.op {
        Op::Conv(_)
        | Op::ConvTranspose(_)
        | Op::BatchNormalization { .. }
        | Op::InstanceNormalization { .. }
        | Op::GroupNormalization { .. }
        | Op::Lrn { .. }
        | Op::Unary(_)
        | Op::Clip
        | Op::Cast { .. }
        | Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::LpPool { .. }
        | Op::GlobalMaxPool
        | Op::GlobalAveragePool
        | Op::GlobalLpPool { .. }
        | Op::Identity
        | Op::DepthToSpace { .. }
        | Op::SpaceToDepth { .. } => alone() && node.outputs.len() == 1,
        Op::Gemm { trans_a, .. } => {
            let start = node.input(2).is_none_or(|c| flat(&c, 2));
            alone() && !trans_a && start
        }
        Op::Recurrent(a) => a.batch_first && alone(),
        Op::MatMul => alone() && first.is_some_and(|r| r > 1) && node.input(1).and_then(rank).is_some_and(|r| r <= 2),
        Op::Binary(_) | Op::Variadic(_) => broadcast(),
        Op::Concat { axis } => inner(*axis) && node.inputs.iter().flatten().all(|v| graph.constant(*v).is_none()),
        Op::Split { axis } => alone() && inner(*axis),
        Op::Softmax { axis, .. } | Op::LogSoftmax { axis, .. } => inner(*axis),
        Op::Transpose { perm } => perm.first() == Some(&0),
        Op::Flatten { axis } => first.and_then(|r| args::axis(*axis, r + 1).ok()) == Some(1),
        // Elements keep their order, so with equal first axes each sample keeps its own.
        Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze => alone(),
        Op::Reduce { .. } => {
            let axes = node.input(1).and_then(|v| graph.constant(v)).and_then(|t| t.to_i64s().ok());
            alone() && axes.is_some_and(|a| !a.is_empty() && a.iter().all(|&a| inner(a)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Tensor, op::Binary, op::ConvAttrs};
    use std::sync::Arc;

    /// x [N, 2, 4, 4] through one operator with constants of these shapes.
    fn through(op: Op, constants: &[&[usize]]) -> bool {
        let mut g = Graph::new("g");
        let shape = Shape(vec![Dim::sym("N"), Dim::Fixed(2), Dim::Fixed(4), Dim::Fixed(4)]);
        let x = g.add_value("x", Some(DType::F32), Some(shape)).unwrap();
        let y = g.add_value("y", None, None).unwrap();
        let mut inputs = vec![Some(x)];
        for s in constants {
            inputs.push(Some(g.add_constant("c", Arc::new(Tensor::of(s, vec![1f32; s.iter().product()])))));
        }
        g.add_node("n", op, inputs, vec![Some(y)]);
        g.inputs.push(x);
        g.outputs.push(y);
        divides(&g)
    }

    #[test]
    fn operators_within_a_sample_divide_and_others_do_not() {
        let conv = || Op::Conv(ConvAttrs { group: 1, ..Default::default() });
        assert!(through(conv(), &[&[3, 2, 1, 1]]));
        assert!(through(Op::Flatten { axis: 1 }, &[]));
        assert!(!through(Op::Flatten { axis: 2 }, &[]));
        assert!(!through(Op::Flatten { axis: 0 }, &[]));
        assert!(through(Op::Softmax { axis: -1, flat: false }, &[]));
        assert!(!through(Op::Softmax { axis: -4, flat: false }, &[]));
        assert!(through(Op::Binary(Binary::Add), &[&[2, 1, 1]]));
        assert!(through(Op::Binary(Binary::Add), &[&[1, 2, 4, 4]]));
        assert!(!through(Op::Binary(Binary::Add), &[&[3, 2, 4, 4]]));
        assert!(!through(Op::Binary(Binary::Add), &[&[1, 1, 2, 4, 4]]));
        assert!(!through(Op::Transpose { perm: vec![1, 0, 2, 3] }, &[]));
        assert!(!through(Op::CumSum { exclusive: false, reverse: false }, &[]));
    }

    #[test]
    fn a_fixed_batch_is_not_divided() {
        let mut g = Graph::new("g");
        let x = g.add_value("x", Some(DType::F32), Some(Shape::fixed(&[8, 2]))).unwrap();
        let y = g.add_value("y", None, None).unwrap();
        g.add_node("n", Op::Identity, vec![Some(x)], vec![Some(y)]);
        g.inputs.push(x);
        g.outputs.push(y);
        assert!(!divides(&g));
    }
}
