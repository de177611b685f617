use super::*;
use nnq::{
    exec::float::{NoTap, Options, Session, Tap},
    ir::{
        DType, Dim, Granularity, Graph, QParams, QType, Shape, ValueId,
        op::{ConvAttrs, PoolAttrs, Unary},
    },
};
use std::sync::Arc;

fn conv(pad: i64) -> Op {
    Op::Conv(ConvAttrs { pads: vec![pad; 4], ..ConvAttrs::default() })
}

/// x -> conv -> a -> softmax -> b -> conv -> c; outputs c and a.
fn graph() -> Graph {
    let mut g = Graph::new("test");
    let shape = Shape(vec![Dim::sym("N"), Dim::Fixed(2), Dim::Fixed(6), Dim::sym("W")]);
    let x = g.add_value("x", Some(DType::F32), Some(shape)).unwrap();
    let w = g.add_constant("w", Arc::new(tensor(&[2, 2, 3, 3], 1)));
    let [a, b, c] = ["a", "b", "c"].map(|n| g.add_value(n, None, None).unwrap());
    g.add_node("first", conv(1), vec![Some(x), Some(w)], vec![Some(a)]);
    g.add_node("soft", Op::Softmax { axis: 1, flat: false }, vec![Some(a)], vec![Some(b)]);
    g.add_node("second", conv(1), vec![Some(b), Some(w)], vec![Some(c)]);
    g.inputs.push(x);
    g.outputs.extend([c, a]);
    g
}

fn session(g: Graph) -> Session {
    Session::new(Arc::new(g), &Options { threads: 1 }).unwrap()
}

#[test]
fn runs_like_its_operators() {
    let x = tensor(&[3, 2, 6, 5], 9);
    let w = tensor(&[2, 2, 3, 3], 1);
    let a = one(conv(1), &[&x, &w]).unwrap();
    let b = one(Op::Softmax { axis: 1, flat: false }, &[&a]).unwrap();
    let c = one(conv(1), &[&b, &w]).unwrap();
    let mut s = session(graph());
    for _ in 0..3 {
        let y = s.run(vec![x.clone()]).unwrap();
        assert_eq!(y[0].to_f32s(), c.to_f32s());
        assert_eq!(y[1].to_f32s(), a.to_f32s());
    }
    // x, a and b at once (180 numbers each), then a, b, c; and the padded planes of the convolution.
    assert!((3 * 720..3 * 720 + 4 * 400).contains(&s.peak_bytes()), "{}", s.peak_bytes());
}

struct Names(Vec<(ValueId, Vec<usize>)>);

impl Tap for Names {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> nnq::Result<()> {
        self.0.push((value, tensor.shape().to_vec()));
        Ok(())
    }
}

#[test]
fn taps_see_inputs_and_outputs() {
    let mut s = session(graph());
    let mut tap = Names(Vec::new());
    s.run_tapped(vec![tensor(&[1, 2, 6, 5], 9)], &mut tap).unwrap();
    let names: Vec<_> = tap.0.iter().map(|(v, _)| s.graph().value(*v).name.as_str()).collect();
    assert_eq!(names, ["x", "a", "b", "c"]);
    assert!(tap.0.iter().all(|(_, shape)| shape == &[1, 2, 6, 5]));
}

#[test]
fn wrong_inputs_are_named() {
    let mut s = session(graph());
    let mut says = |inputs: Vec<Tensor>, words: &[&str]| {
        let text = s.run_tapped(inputs, &mut NoTap).unwrap_err().to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
    };
    says(vec![], &["0 inputs", "1", "x"]);
    says(vec![tensor(&[1, 2, 6], 1)], &["'x'", "rank 4", "[1, 2, 6]"]);
    says(vec![tensor(&[1, 2, 7, 5], 1)], &["'x'", "[N, 2, 6, W]", "[1, 2, 7, 5]"]);
    says(vec![double(&tensor(&[1, 2, 6, 5], 1))], &["'x'", "f32", "f64"]);
    let mut g = Graph::new("two");
    let shape = Shape(vec![Dim::sym("N")]);
    let (a, b) = (g.add_value("a", None, Some(shape.clone())).unwrap(), g.add_value("b", None, Some(shape)).unwrap());
    g.inputs.extend([a, b]);
    let text = session(g).run(vec![tensor(&[2], 1), tensor(&[3], 1)]).unwrap_err().to_string();
    assert!(text.contains("N = 2 as in input 'a'") && text.contains("'b'"), "{text}");
}

#[test]
fn failing_nodes_are_named() {
    let mut g = graph();
    let c = g.find("c").unwrap();
    let d = g.add_value("d", None, None).unwrap();
    let window = PoolAttrs { kernel: vec![9, 9], ..PoolAttrs::default() };
    g.add_node("pool", Op::MaxPool { window, column_major: false }, vec![Some(c)], vec![Some(d)]);
    g.outputs.push(d);
    let text = session(g).run(vec![tensor(&[1, 2, 6, 5], 9)]).unwrap_err().to_string();
    assert!(["node 'pool'", "MaxPool", "f32 [1, 2, 6, 5]"].iter().all(|w| text.contains(w)), "{text}");
    let mut g = Graph::new("hole");
    let (a, b) = (g.add_value("a", None, None).unwrap(), g.add_value("b", None, None).unwrap());
    g.add_node("n", Op::GlobalMaxPool, vec![Some(a)], vec![Some(b)]);
    let text = Session::new(Arc::new(g), &Options::default()).err().unwrap().to_string();
    assert!(text.contains("'n'") && text.contains("'a'"), "{text}");
}

#[test]
fn codes_of_constants_become_real() {
    let mut g = Graph::new("codes");
    let x = g.add_value("x", None, None).unwrap();
    let w = g.add_constant("w", Arc::new(Tensor::of(&[2, 2], vec![1i8, 2, 3, -4])));
    g.value_mut(w).quant = Some(Arc::new(QParams {
        qtype: QType::I8,
        granularity: Granularity::Channel { axis: 1 },
        scale: vec![0.5, 2.0],
        zero_point: vec![0, 1],
    }));
    let y = g.add_value("y", None, None).unwrap();
    g.add_node("product", Op::MatMul, vec![Some(x), Some(w)], vec![Some(y)]);
    g.inputs.push(x);
    g.outputs.extend([y, w]);
    let out = session(g).run(vec![Tensor::of(&[1, 2], vec![1.0f32, 10.0])]).unwrap();
    assert_eq!(out[1].to_f32s(), [0.5, 2.0, 1.5, -10.0]);
    assert_eq!(out[0].to_f32s(), [15.5, -98.0]);
}

/// Inputs that are outputs, a value that is an output twice, an output nobody reads.
#[test]
fn odd_graphs() {
    let mut g = Graph::new("odd");
    let x = g.add_value("x", None, None).unwrap();
    let [a, unused] = ["a", "unused"].map(|n| g.add_value(n, None, None).unwrap());
    let window = PoolAttrs { kernel: vec![2], ..PoolAttrs::default() };
    let op = Op::MaxPool { window, column_major: false };
    g.add_node("pool", op, vec![Some(x)], vec![Some(a), Some(unused)]);
    g.inputs.push(x);
    g.outputs.extend([a, x, a]);
    let y = session(g).run(vec![Tensor::of(&[1, 1, 3], vec![1.0f32, 3.0, 2.0])]).unwrap();
    assert_eq!(
        y.iter().map(Tensor::to_f32s).collect::<Vec<_>>(),
        [vec![3.0, 3.0], vec![1.0, 3.0, 2.0], vec![3.0, 3.0]]
    );
}

struct Numbers(Vec<Vec<f32>>);

impl Tap for Numbers {
    fn see(&mut self, _: ValueId, tensor: &Tensor) -> nnq::Result<()> {
        self.0.push(tensor.to_f32s());
        Ok(())
    }
}

/// Relu and Reshape work in the buffer of a value that dies there, and in no other.
#[test]
fn buffers_are_kept_only_when_they_die() {
    let mut g = Graph::new("in place");
    let x = g.add_value("x", None, None).unwrap();
    let shape = g.add_constant("shape", Arc::new(Tensor::of(&[1], vec![-1i64])));
    let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(|n| g.add_value(n, None, None).unwrap());
    let relu = || Op::Unary(Unary::Relu);
    g.add_node("neg", Op::Unary(Unary::Neg), vec![Some(x)], vec![Some(a)]);
    g.add_node("one", relu(), vec![Some(a)], vec![Some(b)]);
    g.add_node("two", Op::Reshape { allowzero: false }, vec![Some(a), Some(shape)], vec![Some(c)]);
    g.add_node("three", relu(), vec![Some(c)], vec![Some(d)]);
    g.add_node("four", Op::Unary(Unary::Neg), vec![Some(x)], vec![Some(e)]);
    g.inputs.push(x);
    g.outputs.extend([b, d, e, c]);
    let mut s = session(g);
    let mut tap = Numbers(Vec::new());
    let y = s.run_tapped(vec![Tensor::of(&[1, 3], vec![1.0f32, -2.0, 3.0])], &mut tap).unwrap();
    let (real, negative, clamped) = (vec![1.0, -2.0, 3.0], vec![-1.0, 2.0, -3.0], vec![0.0, 2.0, 0.0]);
    let (r, n, c) = (&real, &negative, &clamped);
    assert_eq!(tap.0.iter().collect::<Vec<_>>(), [r, n, c, n, c, n]);
    assert_eq!(y.iter().map(Tensor::to_f32s).collect::<Vec<_>>(), [c.clone(), c.clone(), n.clone(), n.clone()]);
    assert_eq!((y[0].shape(), y[1].shape()), (&[1, 3][..], &[3][..]));
    // Five values of three numbers live at the end; x and a gave their buffers away.
    assert!(s.peak_bytes() <= 5 * 12, "{}", s.peak_bytes());
}
