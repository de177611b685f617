//! What nodes cost.
use crate::ir::{Graph, Node, Op, Shape};

/// Multiply-accumulates of a node for one run, when the shapes are known: products only, everything else counts 0.
pub fn macs(graph: &Graph, node: &Node) -> Option<u64> {
    let dims = |v: Option<crate::ir::ValueId>| v.and_then(|v| graph.value(v).shape.as_ref().and_then(Shape::as_fixed));
    let product = |d: &[usize]| d.iter().map(|&n| n as u64).product::<u64>();
    match &node.op {
        Op::Conv(_) | Op::ConvInteger(_) => {
            let (w, y) = (dims(node.input(1))?, dims(node.output(0))?);
            Some(product(&y) * product(w.get(1..)?))
        }
        Op::QLinearConv(_) => {
            let (w, y) = (dims(node.input(3))?, dims(node.output(0))?);
            Some(product(&y) * product(w.get(1..)?))
        }
        Op::ConvTranspose(_) => {
            let (x, w) = (dims(node.input(0))?, dims(node.input(1))?);
            Some(product(&x) * product(w.get(1..)?))
        }
        Op::Gemm { trans_a, .. } => {
            let (a, y) = (dims(node.input(0))?, dims(node.output(0))?);
            Some(product(&y) * *a.get(usize::from(!trans_a))? as u64)
        }
        Op::MatMul | Op::MatMulInteger | Op::QLinearMatMul => {
            let (a, y) = (dims(node.input(0))?, dims(node.output(0))?);
            Some(product(&y) * *a.last()? as u64)
        }
        _ => Some(0),
    }
}
