//! Structure by structure: what the files look like, and that annotations come back.
#![allow(clippy::print_stdout, reason = "tests say what they skip")]
mod dynamic;
mod foreign;
mod forms;
mod packed;
mod real;

use super::{absorb, to_qdq, to_qoperator};
use crate::{
    formats::onnx::{WriteOptions, read_bytes, to_bytes},
    ir::{
        DType, Graph, Op, QParams, QType, Shape, Tensor, ValueId,
        op::{ConvAttrs, Unary},
    },
};
use std::sync::Arc;

/// Adds nodes one after the other; each answers the value it produces.
pub(super) struct Net(pub Graph);

impl Net {
    pub fn new() -> Self {
        let mut g = Graph::new("net");
        g.opset = 13;
        Self(g)
    }
    pub fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let id = self.0.add_value(name, Some(DType::F32), Some(Shape::fixed(shape))).expect("fresh");
        self.0.inputs.push(id);
        id
    }
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.0.add_constant(name, Arc::new(tensor))
    }
    /// A float constant with a little of everything in it.
    pub fn weight(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let n: usize = shape.iter().product();
        self.constant(name, Tensor::of(shape, (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect()))
    }
    pub fn node(&mut self, op: Op, inputs: &[ValueId], output: &str) -> ValueId {
        let y = self.0.add_value(output, Some(DType::F32), None).expect("fresh");
        self.0.add_node(&format!("{output}_node"), op, inputs.iter().map(|&i| Some(i)).collect(), vec![Some(y)]);
        y
    }
    pub fn conv(&mut self, inputs: &[ValueId], output: &str) -> ValueId {
        self.node(Op::Conv(ConvAttrs { group: 1, ..ConvAttrs::default() }), inputs, output)
    }
    pub fn relu(&mut self, x: ValueId, output: &str) -> ValueId {
        self.node(Op::Unary(Unary::Relu), &[x], output)
    }
    pub fn quantize(&mut self, id: ValueId, q: QParams) {
        self.0.value_mut(id).quant = Some(Arc::new(q));
    }
    pub fn output(mut self, id: ValueId) -> Graph {
        self.0.outputs.push(id);
        self.0
    }
}

/// Unsigned 8 bits, the lowest code is 0.
pub(super) fn positive(scale: f32) -> QParams {
    QParams::tensor(QType::U8, scale, 0)
}

/// Unsigned 8 bits with a zero point in the middle.
pub(super) fn mixed(scale: f32) -> QParams {
    QParams::tensor(QType::U8, scale, 121)
}

/// Signed 8 bits without -128, one scale per channel.
pub(super) fn channels(axis: usize, n: usize) -> QParams {
    QParams::channel(QType::I8_NARROW, axis, (0..n).map(|i| 0.01 + i as f32 / 512.0).collect())
}

/// Through the bytes of a file.
pub(super) fn file(g: &Graph) -> Graph {
    let bytes = to_bytes(g, &WriteOptions::default()).expect("writable");
    let back = read_bytes(bytes.into(), None).expect("readable");
    assert_eq!(back.inputs.len(), g.inputs.len());
    back
}

/// ONNX names of the nodes in order.
pub(super) fn kinds(g: &Graph) -> Vec<&'static str> {
    g.nodes().map(|(_, n)| crate::formats::onnx::table::name(&n.op, 21)).collect()
}

/// Annotations by value: parameters, and the codes of constants. Real constants are left out.
pub(super) fn annotations(g: &Graph) -> Vec<String> {
    let mut all: Vec<String> = g
        .values()
        .filter_map(|(_, v)| {
            let q = v.quant.as_ref()?;
            let codes = v.constant.as_ref().map(|t| super::codes::of_constant(t, q).expect("codes"));
            Some(format!("{} {:?} {codes:?}", v.name, q))
        })
        .collect();
    all.sort();
    all
}

/// Both forms, through a file, give the annotations back.
#[track_caller]
pub(super) fn come_back(g: &Graph) {
    for (form, explicit) in [("QDQ", to_qdq(g)), ("QOperator", to_qoperator(g))] {
        let explicit = explicit.unwrap_or_else(|e| panic!("{form}: {e}"));
        let back = absorb(&file(&explicit)).unwrap_or_else(|e| panic!("{form}: {e}"));
        assert_eq!(annotations(&back), annotations(g), "{form}: {:?} -> {:?}", kinds(&explicit), kinds(&back));
        let names = |g: &Graph, ids: &[ValueId]| ids.iter().map(|&i| g.value(i).name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&back, &back.inputs), names(g, &g.inputs), "{form}");
        assert_eq!(names(&back, &back.outputs), names(g, &g.outputs), "{form}");
        assert!(back.metadata.iter().all(|m| !m.0.starts_with("nnq.grid")), "{form}");
        // What comes back is a fixed point.
        let again = absorb(&file(&to_qdq(&back).expect("sound"))).expect("sound");
        assert_eq!(annotations(&again), annotations(&back), "{form}");
    }
}

/// Names are whatever an exporter made of them.
#[test]
fn lists_of_names_come_back() {
    let all = ["plain", "a\nb", "c:\\net\\n", "\\", "", "\\\n\\n"];
    let list = all.map(super::line).join("\n");
    assert!(super::names(&list).eq(all.map(str::to_owned)));
    // As they were written before.
    assert!(super::names("a\\b\nc\\").eq(["a\\b".to_owned(), "c\\".to_owned()]));
}
