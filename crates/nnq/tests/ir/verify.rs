//! One broken graph per rule of the IR.
use nnq::ErrorKind;
use nnq::ir::{DType, Graph, GraphBuilder, NodeId, Op, QParams, QType, Shape, Tensor, ValueId, op::*, verify};
use std::sync::Arc;

fn graph() -> Graph {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "N,3,8,8");
    let w = b.constant("w", super::eval::random(&[4, 3, 3, 3], 1));
    let y = b.op("y", Op::Conv(ConvAttrs { group: 1, ..Default::default() }), &[x, w]);
    let z = b.op("z", Op::Unary(Unary::Relu), &[y]);
    b.output(z);
    b.finish().unwrap()
}

fn broken(edit: impl FnOnce(&mut Graph)) -> String {
    let mut g = graph();
    edit(&mut g);
    match verify(&g) {
        Ok(()) => "accepted".into(),
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::Internal | ErrorKind::Shape | ErrorKind::Value));
            e.to_string()
        }
    }
}

#[test]
fn each_rule() {
    verify(&graph()).unwrap();
    let (x, w, y) = (ValueId(0), ValueId(1), ValueId(2));
    let quant = |q: QParams| move |g: &mut Graph| g.value_mut(y).quant = Some(Arc::new(q));
    let rows: Vec<(&str, String)> = vec![
        ("value 99 of 4", broken(|g| g.node_mut(NodeId(0)).inputs[0] = Some(ValueId(99)))),
        ("value 99 of 4", broken(|g| g.outputs.push(ValueId(99)))),
        ("writes 'y'", broken(|g| g.node_mut(NodeId(1)).outputs[0] = Some(y))),
        ("writes 'x'", broken(|g| g.node_mut(NodeId(1)).outputs[0] = Some(x))),
        ("writes 'w'", broken(|g| g.node_mut(NodeId(1)).outputs[0] = Some(w))),
        ("before it is produced", broken(|g| g.node_mut(NodeId(0)).inputs[0] = Some(ValueId(3)))),
        ("that nothing produces", broken(|g| g.inputs.clear())),
        ("'w' is a constant or is listed twice", broken(|g| g.inputs.push(w))),
        ("output 'z' is listed twice", broken(|g| g.outputs.push(ValueId(3)))),
        ("input 1 is missing", broken(|g| g.node_mut(NodeId(0)).inputs.truncate(1))),
        ("input 0 is missing", broken(|g| g.node_mut(NodeId(0)).inputs[0] = None)),
        ("2 inputs, at most 1", broken(|g| g.node_mut(NodeId(1)).inputs.push(Some(x)))),
        (
            "quantized dynamically, but on a grid too",
            broken(|g| {
                g.value_mut(y).dynamic = Some(nnq::ir::Dynamic::Tensor);
                g.value_mut(y).quant = Some(Arc::new(QParams::tensor(QType::U8, 1.0, 0)));
            }),
        ),
        ("quantized dynamically, but a constant", broken(|g| g.value_mut(w).dynamic = Some(nnq::ir::Dynamic::Tensor))),
        (
            "quantized dynamically, but of type i64",
            broken(|g| {
                g.value_mut(y).dynamic = Some(nnq::ir::Dynamic::Tensor);
                g.value_mut(y).dtype = Some(DType::I64);
            }),
        ),
        ("2 outputs, at most 1", broken(|g| g.node_mut(NodeId(1)).outputs.push(None))),
        (
            "output 0 is missing",
            broken(|g| g.node_mut(NodeId(0)).outputs[0] = None).replace("that nothing produces", "output 0 is missing"),
        ),
        ("two nodes of one name", broken(|g| g.node_mut(NodeId(1)).name = "y".into())),
        ("a node without a name", broken(|g| g.node_mut(NodeId(1)).name.clear())),
        ("two values of one name", broken(|g| g.value_mut(y).name = "x".into())),
        (
            "the constant has shape [4, 3, 3, 3], declared is [4]",
            broken(|g| g.value_mut(w).shape = Some(Shape::fixed(&[4]))),
        ),
        ("the constant has type f32, declared is i8", broken(|g| g.value_mut(w).dtype = Some(DType::I8))),
        ("scale 0 is not finite", broken(quant(QParams::tensor(QType::U8, 0.0, 0)))),
        ("zero point 256", broken(quant(QParams::tensor(QType::U8, 1.0, 256)))),
        ("axis 7", broken(quant(QParams::channel(QType::I8, 7, vec![1.0])))),
        ("group is 0", broken(|g| g.node_mut(NodeId(0)).op = Op::Conv(ConvAttrs::default()))),
        (
            "contains 0",
            broken(|g| {
                g.node_mut(NodeId(0)).op = Op::Conv(ConvAttrs { strides: vec![0, 1], group: 1, ..Default::default() })
            }),
        ),
        ("no permutation", broken(|g| g.node_mut(NodeId(1)).op = Op::Transpose { perm: vec![0, 2, 2, 3] })),
        ("alpha is NaN", broken(|g| g.node_mut(NodeId(1)).op = Op::Unary(Unary::Elu { alpha: f32::NAN }))),
        (
            "epsilon is -1",
            broken(|g| g.node_mut(NodeId(1)).op = Op::LayerNormalization { axis: 1, epsilon: -1.0 })
                .replace("input 1 is missing", "epsilon is -1"),
        ),
    ];
    let bad: Vec<_> = rows.iter().filter(|(want, got)| !got.contains(want)).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn quantized_constants() {
    let with = |tensor: Tensor, dtype: DType, q: QParams| {
        broken(|g| {
            let w = g.value_mut(ValueId(1));
            w.shape = Some(Shape::fixed(tensor.shape()));
            w.dtype = Some(dtype);
            w.constant = Some(Arc::new(tensor));
            w.quant = Some(Arc::new(q));
        })
    };
    let codes = |c: i8| Tensor::of(&[4, 3, 3, 3], vec![c; 108]);
    let per_channel = || QParams::channel(QType::I8_NARROW, 0, vec![0.5; 4]);
    assert_eq!(with(codes(5), DType::F32, per_channel()), "accepted");
    assert_eq!(
        with(super::eval::random(&[4, 3, 3, 3], 2), DType::F32, per_channel()),
        "accepted",
        "still to be rounded"
    );
    assert!(with(codes(5), DType::I8, per_channel()).contains("quantized, but of type i8"));
    assert!(with(codes(-128), DType::F32, per_channel()).contains("code -128 is not on the grid i8n"));
    assert!(with(codes(5), DType::F32, QParams::channel(QType::I8, 1, vec![0.5; 4])).contains("4 scales"));
}
