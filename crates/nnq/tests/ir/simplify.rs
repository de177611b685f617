//! The whole pipeline.
use super::eval::eval;
use nnq::ir::{DType, GraphBuilder, Op, op::*, pass::simplify};

#[test]
fn a_broken_graph_is_refused_before_any_pass() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "N,4");
    let y = b.op("y", Op::Unary(Unary::Relu), &[x]);
    b.output(y);
    let mut g = b.finish().unwrap();
    g.inputs.clear();
    let e = simplify(g, &eval).unwrap_err().to_string();
    assert!(e.contains("nothing produces"), "{e}");
}

#[test]
fn unread_optional_outputs_go() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "N,4,8,8");
    let window = PoolAttrs { kernel: vec![2, 2], ..Default::default() };
    let y = b.ops("y", Op::MaxPool { window, column_major: false }, &[Some(x)], 2);
    b.output(y[0]);
    let s = simplify(b.finish().unwrap(), &eval).unwrap();
    assert_eq!(s.nodes().next().unwrap().1.outputs.len(), 1);
    assert_eq!(s.value_count(), 2);
}
