//! Reading and writing as a whole.
#![allow(clippy::print_stdout, reason = "tests say what they skip")]

mod attacks;
mod lstm;
mod models;
mod versions;

use super::*;
use crate::ir::{Dim, Graph, Op, Shape, ValueId};
use bytes::Bytes;

/// A graph as text: everything that a file keeps. Tensors by type, shape and bytes.
pub(super) fn describe(g: &Graph) -> String {
    use std::fmt::Write;
    let mut out = format!("{} {} {:?}\n", g.name, g.opset, g.metadata);
    let name = |v: &Option<ValueId>| v.map_or_else(|| "-".to_owned(), |v| g.value(v).name.clone());
    let list = |v: &[Option<ValueId>]| v.iter().map(name).collect::<Vec<_>>().join(", ");
    let used: std::collections::HashSet<ValueId> =
        g.nodes().flat_map(|(_, n)| n.inputs.iter().flatten().copied()).chain(g.outputs.iter().copied()).collect();
    let mut values: Vec<String> = g
        .values()
        .filter(|(id, v)| v.constant.is_none() || used.contains(id))
        .map(|(_, v)| {
            let c = v.constant.as_ref().map(|t| {
                let bytes = t.data().as_bytes();
                let sum = bytes
                    .iter()
                    .fold(14_695_981_039_346_656_037u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(1_099_511_628_211));
                format!("{t:?} {} {sum:x}", bytes.len())
            });
            format!("{} {:?} {:?} {c:?} {:?}\n", v.name, v.dtype, v.shape, v.quant)
        })
        .collect();
    values.sort();
    out.extend(values);
    for (_, n) in g.nodes() {
        if let Op::Control(c) = &n.op {
            let inner: Vec<String> = c.graphs().iter().map(|(name, g)| format!("{name}: {}", describe(g))).collect();
            let (inputs, outputs) = (list(&n.inputs), list(&n.outputs));
            let _ = writeln!(out, "{}: {} ({inputs}) -> ({outputs})\n{}", n.name, n.op.name(), inner.concat());
            continue;
        }
        let _ = writeln!(out, "{}: {:?} ({}) -> ({})", n.name, n.op, list(&n.inputs), list(&n.outputs));
    }
    let some = |v: &[ValueId]| v.iter().map(|&v| Some(v)).collect::<Vec<_>>();
    let _ = writeln!(out, "in {} out {}", list(&some(&g.inputs)), list(&some(&g.outputs)));
    out
}

pub(super) fn read_vec(bytes: Vec<u8>) -> crate::Result<Graph> {
    read_bytes(Bytes::from(bytes), None)
}

pub(super) fn at_opset(opset: i64) -> WriteOptions {
    WriteOptions { opset: Some(opset), ..WriteOptions::default() }
}

/// `X -> Relu -> Y`, X of shape [N, 3].
pub(super) fn small() -> Graph {
    let mut g = Graph::new("small");
    let shape = Shape(vec![Dim::sym("N"), Dim::Fixed(3)]);
    let x = g.add_value("X", Some(crate::ir::DType::F32), Some(shape.clone())).expect("fresh");
    let y = g.add_value("Y", Some(crate::ir::DType::F32), Some(shape)).expect("fresh");
    g.add_node("r", Op::Unary(crate::ir::op::Unary::Relu), vec![Some(x)], vec![Some(y)]);
    g.inputs.push(x);
    g.outputs.push(y);
    g
}
