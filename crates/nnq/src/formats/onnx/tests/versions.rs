//! What changed between opsets, against what the specification says about each.
use super::{at_opset, describe, read_vec, small};
use crate::{
    formats::onnx::{
        WriteOptions,
        proto::{AttributeProto, ModelProto, NodeProto, TensorProto, attribute},
        to_bytes,
    },
    ir::{
        Graph, Op, Tensor,
        op::{CoordMode, NearestMode, ResizeMode, Unary},
    },
};
use prost::Message;
use std::sync::Arc;

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        kind: Some(attribute::INTS),
        ints: ints.to_vec(),
        ..AttributeProto::default()
    }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: Some(name.into()), kind: Some(attribute::FLOAT), f: Some(f), ..AttributeProto::default() }
}

/// `X -> op -> Y` at an opset; `consts` are further inputs.
fn model(opset: i64, op: &str, attributes: Vec<AttributeProto>, consts: &[TensorProto]) -> ModelProto {
    let mut m =
        ModelProto::decode(&to_bytes(&small(), &WriteOptions::default()).expect("writable")[..]).expect("sound");
    m.opset_import[0].version = Some(opset);
    let g = m.graph.as_mut().expect("a graph");
    let mut input = vec!["X".to_owned()];
    for (i, t) in consts.iter().enumerate() {
        let name = format!("c{i}");
        g.initializer.push(TensorProto { name: Some(name.clone()), ..t.clone() });
        input.push(name);
    }
    g.node = vec![NodeProto {
        op_type: Some(op.into()),
        input,
        output: vec!["Y".into()],
        name: Some("n".into()),
        attribute: attributes,
        ..NodeProto::default()
    }];
    m
}

fn read(m: &ModelProto) -> crate::Result<Graph> {
    read_vec(m.encode_to_vec())
}

fn constant(g: &Graph, input: usize) -> Option<Arc<Tensor>> {
    let node = g.nodes().next().expect("a node").1;
    node.input(input).and_then(|v| g.constant(v).cloned())
}

fn only_op(g: &Graph) -> &Op {
    &g.nodes().next().expect("a node").1.op
}

#[test]
fn axes_become_inputs() {
    for (op, opset) in [("Squeeze", 12), ("Unsqueeze", 12), ("ReduceSum", 12), ("ReduceMean", 17), ("Squeeze", 7)] {
        let g = read(&model(opset, op, vec![ints("axes", &[0, -1])], &[])).expect("sound");
        assert_eq!(constant(&g, 1).expect("axes").as_slice::<i64>().expect("i64"), [0, -1], "{op}");
        // At a newer opset it is an initializer, and reads the same.
        let newer = read_vec(to_bytes(&g, &at_opset(18)).expect("writable")).expect("sound");
        assert_eq!(
            describe(&newer).replace("small 18", "small 7"),
            describe(&g).replace(&format!("small {opset}"), "small 7")
        );
    }
    // At newer opsets the attribute is none of the operator's.
    assert!(read(&model(13, "Squeeze", vec![ints("axes", &[0])], &[])).is_err());
    let e = read(&model(12, "Unsqueeze", vec![], &[])).expect_err("axes are required");
    assert!(e.to_string().contains("attribute 'axes' is missing"), "{e}");
}

#[test]
fn clip_bounds() {
    let g = read(&model(7, "Clip", vec![float("max", 6.0)], &[])).expect("sound");
    assert!(constant(&g, 1).is_none());
    assert_eq!(constant(&g, 2).expect("max").as_slice::<f32>().expect("f32"), [6.0]);
    assert_eq!(constant(&g, 2).expect("max").shape(), [0usize; 0]);
}

#[test]
fn pad_slice_and_top_k() {
    let g = read(&model(10, "Pad", vec![ints("pads", &[0, 1, 0, 2]), float("value", 3.0)], &[])).expect("sound");
    assert_eq!(constant(&g, 1).expect("pads").to_i64s().expect("ints"), [0, 1, 0, 2]);
    assert_eq!(constant(&g, 2).expect("value").to_f32s(), [3.0]);
    let g = read(&model(9, "Slice", vec![ints("starts", &[1]), ints("ends", &[9]), ints("axes", &[1])], &[]))
        .expect("sound");
    assert_eq!(constant(&g, 1).expect("starts").to_i64s().expect("ints"), [1]);
    assert_eq!(constant(&g, 2).expect("ends").to_i64s().expect("ints"), [9]);
    assert_eq!(constant(&g, 3).expect("axes").to_i64s().expect("ints"), [1]);
    let k =
        AttributeProto { name: Some("k".into()), kind: Some(attribute::INT), i: Some(2), ..AttributeProto::default() };
    let g = read(&model(9, "TopK", vec![k], &[])).expect("sound");
    assert_eq!(constant(&g, 1).expect("k").to_i64s().expect("ints"), [2]);
}

#[test]
fn softmax_semantics() {
    let axis = |i: i64| {
        vec![AttributeProto {
            name: Some("axis".into()),
            kind: Some(attribute::INT),
            i: Some(i),
            ..AttributeProto::default()
        }]
    };
    let read_at = |opset, attributes| read(&model(opset, "Softmax", attributes, &[])).expect("sound");
    // X has two axes, so axis 1 is the last one and both rules agree.
    assert!(matches!(only_op(&read_at(12, vec![])), Op::Softmax { axis: 1, flat: false }));
    assert!(matches!(only_op(&read_at(12, axis(0))), Op::Softmax { axis: 0, flat: true }));
    assert!(matches!(only_op(&read_at(13, axis(0))), Op::Softmax { axis: 0, flat: false }));
    assert!(matches!(only_op(&read_at(13, vec![])), Op::Softmax { axis: -1, flat: false }));
    let e = to_bytes(&read_at(12, axis(0)), &at_opset(13)).expect_err("another function there");
    assert!(e.to_string().contains("node 'n'") && e.to_string().contains("opset 12 or older"), "{e}");
    let e = to_bytes(&read_at(13, axis(0)), &at_opset(12)).expect_err("another function there");
    assert!(e.to_string().contains("node 'n'") && e.to_string().contains("opset 13 or newer"), "{e}");
}

#[test]
fn upsample_and_the_first_resize() {
    let scales = |s: &[f32]| TensorProto {
        dims: vec![s.len() as i64],
        data_type: Some(1),
        float_data: s.to_vec(),
        ..TensorProto::default()
    };
    let attr = AttributeProto {
        name: Some("scales".into()),
        kind: Some(attribute::FLOATS),
        floats: vec![1.0, 2.0],
        ..AttributeProto::default()
    };
    for m in [
        model(7, "Upsample", vec![attr], &[]),
        model(9, "Upsample", vec![], &[scales(&[1.0, 2.0])]),
        model(10, "Resize", vec![], &[scales(&[1.0, 2.0])]),
    ] {
        let g = read(&m).expect("sound");
        let Op::Resize(r) = only_op(&g) else { panic!("no Resize") };
        assert_eq!((r.mode, r.coord, r.nearest), (ResizeMode::Nearest, CoordMode::Asymmetric, NearestMode::Floor));
        assert!(constant(&g, 1).is_none());
        assert_eq!(constant(&g, 2).expect("scales").to_f32s(), [1.0, 2.0]);
        for opset in [7, 9, 10, 11, 12, 13, 18] {
            let back = read_vec(to_bytes(&g, &at_opset(opset)).expect("writable")).expect("sound");
            assert_eq!(format!("{:?}", only_op(&back)), format!("{:?}", only_op(&g)), "{opset}");
            assert_eq!(constant(&back, 2).expect("scales").to_f32s(), [1.0, 2.0], "{opset}");
        }
    }
    // The published test of Resize at opset 10 (0.6 times a row of four gives its elements 0 and 2) rounds up when it shrinks.
    let g = read(&model(10, "Resize", vec![], &[scales(&[1.0, 0.6])])).expect("sound");
    assert!(matches!(only_op(&g), Op::Resize(r) if r.nearest == NearestMode::Ceil));
    let e = read(&model(10, "Resize", vec![], &[scales(&[2.0, 0.5])])).expect_err("two rules");
    assert!(e.to_string().contains("opset 11"), "{e}");
}

#[test]
fn batch_normalization_forms() {
    let vector = TensorProto { dims: vec![3], data_type: Some(1), float_data: vec![1.0; 3], ..TensorProto::default() };
    let int = |name: &str, i: i64| AttributeProto {
        name: Some(name.into()),
        kind: Some(attribute::INT),
        i: Some(i),
        ..AttributeProto::default()
    };
    let stats = [vector.clone(), vector.clone(), vector.clone(), vector];
    assert!(read(&model(7, "BatchNormalization", vec![int("spatial", 1), float("momentum", 0.9)], &stats)).is_ok());
    let e = read(&model(7, "BatchNormalization", vec![int("spatial", 0)], &stats)).expect_err("per element");
    assert!(e.to_string().contains("spatial"), "{e}");
    let e = read(&model(15, "BatchNormalization", vec![int("training_mode", 1)], &stats)).expect_err("training");
    assert!(e.to_string().contains("training_mode"), "{e}");
}

#[test]
fn constants_of_every_form() {
    let tensor = TensorProto { dims: vec![1], data_type: Some(6), int32_data: vec![5], ..TensorProto::default() };
    let forms = [
        (
            AttributeProto {
                name: Some("value".into()),
                kind: Some(attribute::TENSOR),
                t: Some(tensor.into()),
                ..Default::default()
            },
            "[1]",
            "i32",
        ),
        (float("value_float", 2.0), "[]", "f32"),
        (
            AttributeProto { kind: Some(attribute::FLOATS), floats: vec![1.0, 2.0], ..float("value_floats", 0.0) },
            "[2]",
            "f32",
        ),
        (ints("value_ints", &[1, 2, 3]), "[3]", "i64"),
        (
            AttributeProto {
                kind: Some(attribute::INT),
                i: Some(4),
                name: Some("value_int".into()),
                ..Default::default()
            },
            "[]",
            "i64",
        ),
    ];
    for (a, shape, dtype) in forms {
        let mut m = model(13, "Identity", vec![], &[]);
        let node = &mut m.graph.as_mut().expect("a graph").node[0];
        (node.op_type, node.input, node.attribute) = (Some("Constant".into()), vec![], vec![a]);
        m.graph.as_mut().expect("a graph").output[0].r#type = None;
        let g = read(&m).expect("sound");
        assert_eq!(g.node_count(), 0);
        let t = g.constant(g.outputs[0]).expect("a constant");
        assert_eq!((format!("{:?}", t.shape()).as_str(), t.dtype().name()), (shape, dtype));
    }
}

/// Without a wish the writer takes the graph's opset, or the oldest newer one that has everything.
#[test]
fn the_opset_rises_when_it_must() {
    let mut g = small();
    g.opset = 9;
    let version = |g: &Graph| {
        let bytes = to_bytes(g, &WriteOptions::default()).expect("writable");
        ModelProto::decode(&bytes[..]).expect("sound").opset_import[0].version
    };
    assert_eq!(version(&g), Some(9));
    let id = g.nodes().next().expect("a node").0;
    g.node_mut(id).op = Op::Unary(Unary::HardSwish);
    assert_eq!(version(&g), Some(14));
    let e = to_bytes(&g, &at_opset(13)).expect_err("too old");
    assert!(e.to_string().contains("HardSwish") && e.to_string().contains("opset 14"), "{e}");
    assert!(to_bytes(&g, &at_opset(6)).is_err() && to_bytes(&g, &at_opset(99)).is_err());
}

#[test]
fn int4_zero_points_are_refused_where_they_would_change_the_grid() {
    let t = |code: i32, v: i32| TensorProto {
        dims: vec![],
        data_type: Some(code),
        int32_data: vec![v],
        ..TensorProto::default()
    };
    let scale = TensorProto { dims: vec![], data_type: Some(1), float_data: vec![0.5], ..TensorProto::default() };
    let mut m = model(21, "QuantizeLinear", vec![], &[scale, t(22, 1)]);
    m.graph.as_mut().expect("a graph").output[0].r#type = None;
    let e = read(&m).expect_err("another grid");
    assert!(e.to_string().contains("fewer than 8 bits"), "{e}");
}
