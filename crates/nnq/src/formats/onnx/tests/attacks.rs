//! One test per attack on the reader. What they share: an error that says what is wrong, and never a panic.
use super::{describe, read_vec, small};
use crate::{
    ErrorKind,
    formats::onnx::{
        WriteOptions,
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, Present, SparseTensorProto,
            StringStringEntryProto, TensorProto, ValueInfoProto, attribute,
        },
        read, read_bytes, read_tensor_bytes, to_bytes,
    },
    ir::{DType, Tensor},
};
use bytes::Bytes;
use prost::Message;
use std::{path::Path, sync::Arc};

fn base() -> ModelProto {
    ModelProto::decode(&to_bytes(&small(), &WriteOptions::default()).expect("writable")[..]).expect("decodable")
}

/// The small model with a constant added to it: `X -> Relu -> R; R + w -> Y`.
fn with_weight(weight: TensorProto) -> ModelProto {
    let mut m = base();
    let g = m.graph.as_mut().expect("a graph");
    g.node[0].output = vec!["R".into()];
    g.node.push(node("Add", &["R", "w"], &["Y"]));
    g.initializer.push(TensorProto { name: Some("w".into()), ..weight });
    m
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect();
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("the_{op}")),
        input: names(inputs),
        output: names(outputs),
        ..NodeProto::default()
    }
}

fn floats(dims: &[i64], data: &[f32]) -> TensorProto {
    TensorProto { dims: dims.to_vec(), data_type: Some(1), float_data: data.to_vec(), ..TensorProto::default() }
}

fn graph(m: &mut ModelProto) -> &mut GraphProto {
    m.graph.as_mut().expect("a graph")
}

/// The error of a model; `parts` must all stand in its text.
#[track_caller]
fn refused(m: &ModelProto, parts: &[&str]) -> ErrorKind {
    refused_in(m, None, parts)
}

#[track_caller]
fn refused_in(m: &ModelProto, dir: Option<&Path>, parts: &[&str]) -> ErrorKind {
    let e = read_bytes(Bytes::from(m.encode_to_vec()), dir).expect_err("must be refused");
    let text = e.to_string();
    for part in parts {
        assert!(text.contains(part), "'{part}' is missing in: {text}");
    }
    e.kind()
}

#[test]
fn the_base_is_sound() {
    assert!(read_vec(base().encode_to_vec()).is_ok());
    assert!(read_vec(with_weight(floats(&[3], &[1.0, 2.0, 3.0])).encode_to_vec()).is_ok());
}

#[test]
fn truncated_anywhere() {
    let mut bytes = with_weight(floats(&[3], &[1.0, 2.0, 3.0])).encode_to_vec();
    let whole = describe(&read_vec(bytes.clone()).expect("sound"));
    while bytes.pop().is_some() {
        // A cut between two fields can leave a complete, smaller message. It may not pass for the whole model.
        if let Ok(g) = read_vec(bytes.clone()) {
            assert_ne!(describe(&g), whole);
        }
    }
}

#[test]
fn flipped_bits() {
    let bytes = with_weight(floats(&[3], &[1.0, 2.0, 3.0])).encode_to_vec();
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut b = bytes.clone();
            b[i] ^= 1 << bit;
            if let Ok(g) = read_vec(b) {
                let _ = to_bytes(&g, &WriteOptions::default());
            }
        }
    }
}

#[test]
fn cyclic() {
    let mut m = base();
    graph(&mut m).node =
        vec![node("Add", &["X", "B"], &["A"]), node("Relu", &["A"], &["B"]), node("Abs", &["B"], &["Y"])];
    assert_eq!(refused(&m, &["cycle", "the_Add", "the_Relu"]), ErrorKind::Malformed);
    graph(&mut m).node = vec![node("Add", &["X", "Y"], &["Y"])];
    refused(&m, &["cycle", "the_Add"]);
}

#[test]
fn unsorted_nodes_are_sorted() {
    let mut m = base();
    graph(&mut m).node = vec![node("Abs", &["B"], &["Y"]), node("Relu", &["X"], &["B"])];
    let g = read_vec(m.encode_to_vec()).expect("sound");
    let names: Vec<_> = g.nodes().map(|(_, n)| n.name.clone()).collect();
    assert_eq!(names, ["the_Relu", "the_Abs"]);
}

#[test]
fn missing_producer() {
    let mut m = base();
    graph(&mut m).node[0].input[0] = "nowhere".into();
    refused(&m, &["node 'r' (Relu)", "'nowhere'", "nothing produces"]);
    let mut m = base();
    graph(&mut m).output[0].name = Some("nowhere".into());
    refused(&m, &["graph output 'nowhere'", "nothing produces"]);
}

#[test]
fn missing_and_extra_inputs() {
    let mut m = base();
    graph(&mut m).node[0].input.clear();
    refused(&m, &["node 'r' (Relu)", "input 'X' is missing"]);
    let mut m = base();
    graph(&mut m).node[0].input[0] = String::new();
    refused(&m, &["input 'X' is missing"]);
    let mut m = base();
    graph(&mut m).node[0].input.push("X".into());
    refused(&m, &["'X' is one input more"]);
    let mut m = base();
    graph(&mut m).node[0].output.push("Z".into());
    refused(&m, &["2 outputs"]);
}

#[test]
fn duplicate_names() {
    let mut m = base();
    graph(&mut m).node.push(node("Abs", &["X"], &["Y"]));
    refused(&m, &["node 'the_Abs' (Abs)", "'Y' is produced twice"]);
    let mut m = base();
    graph(&mut m).node[0].output[0] = "X".into();
    refused(&m, &["'X' is produced twice"]);
    let mut m = base();
    let input = graph(&mut m).input[0].clone();
    graph(&mut m).input.push(input);
    refused(&m, &["graph input 'X'", "produced twice"]);
    let mut m = with_weight(floats(&[], &[1.0]));
    let w = graph(&mut m).initializer[0].clone();
    graph(&mut m).initializer.push(w);
    refused(&m, &["two initializers are called 'w'"]);
}

#[test]
fn duplicate_and_empty_node_names_are_made_unique() {
    let mut m = base();
    let mut one = node("Relu", &["X"], &["A"]);
    one.name = Some("same".into());
    let mut two = node("Relu", &["A"], &["B"]);
    two.name = Some("same".into());
    let mut three = node("Relu", &["B"], &["Y"]);
    three.name = None;
    graph(&mut m).node = vec![one, two, three];
    let g = read_vec(m.encode_to_vec()).expect("sound");
    let names: std::collections::HashSet<_> = g.nodes().map(|(_, n)| n.name.clone()).collect();
    assert_eq!(names.len(), 3);
    assert!(names.contains("same") && names.contains("Relu_2"));
}

#[test]
fn hostile_dims() {
    for dims in [&[-1][..], &[3, -3], &[i64::MIN]] {
        refused(&with_weight(floats(dims, &[1.0, 2.0, 3.0])), &["initializer 'w'", "shape"]);
    }
    for dims in [&[1 << 40, 1 << 40][..], &[i64::MAX, 2], &[i64::MAX, i64::MAX, i64::MAX]] {
        refused(&with_weight(floats(dims, &[1.0, 2.0, 3.0])), &["initializer 'w'"]);
    }
    // Large but addressable: must be refused before anything of that size is allocated.
    refused(&with_weight(floats(&[1 << 40], &[1.0])), &["initializer 'w'", "1099511627776"]);
    let raw = TensorProto {
        dims: vec![1 << 40],
        data_type: Some(1),
        raw_data: Some(Bytes::from_static(&[0; 4])),
        ..TensorProto::default()
    };
    refused(&with_weight(raw), &["initializer 'w'", "4398046511104 bytes"]);
    let packed = TensorProto {
        dims: vec![i64::MAX],
        data_type: Some(22),
        raw_data: Some(Bytes::from_static(&[0; 4])),
        ..TensorProto::default()
    };
    refused(&with_weight(packed), &["initializer 'w'"]);
}

#[test]
fn packed_integers_of_the_wrong_length() {
    let tensor = |code: i32, n: i64, raw: Option<usize>, ints: &[i32]| TensorProto {
        dims: vec![n],
        data_type: Some(code),
        raw_data: raw.map(|len| vec![0x11; len].into()),
        int32_data: ints.to_vec(),
        ..TensorProto::default()
    };
    let narrow = |t: TensorProto, opset: i64| {
        let mut m = with_weight(t);
        m.opset_import[0].version = Some(opset);
        m
    };
    // 5 elements: 3 bytes of 4 bits, 2 of 2.
    for (code, good, opset) in [(21, 3, 21), (22, 3, 21), (25, 2, 25), (26, 2, 25)] {
        for len in [1, good - 1, good + 1, 5, 20] {
            refused(&narrow(tensor(code, 5, Some(len), &[]), opset), &["initializer 'w'", "[5]"]);
            refused(&narrow(tensor(code, 5, None, &vec![1; len]), opset), &["initializer 'w'", "[5]"]);
        }
        refused(&narrow(tensor(code, 5, None, &vec![256; good]), opset), &["initializer 'w'", "256"]);
        refused(&narrow(tensor(code, i64::MAX, Some(good), &[]), opset), &["initializer 'w'"]);
        assert!(read_vec(narrow(tensor(code, 5, Some(good), &[]), opset).encode_to_vec()).is_ok());
        assert!(read_vec(narrow(tensor(code, 5, None, &vec![1; good]), opset).encode_to_vec()).is_ok());
        // The type is newer than the file.
        refused(
            &narrow(tensor(code, 5, Some(good), &[]), opset - 1),
            &["initializer 'w'", &format!("opset {}", opset - 1), &format!("since opset {opset}")],
        );
    }
}

#[test]
fn data_of_the_wrong_length() {
    refused(&with_weight(floats(&[3], &[1.0, 2.0])), &["initializer 'w'", "3", "2"]);
    refused(&with_weight(floats(&[1], &[1.0, 2.0])), &["initializer 'w'"]);
    for n in [0usize, 11, 13, 16] {
        let raw = TensorProto {
            dims: vec![3],
            data_type: Some(1),
            raw_data: Some(Bytes::from(vec![0; n])),
            ..TensorProto::default()
        };
        refused(&with_weight(raw), &["initializer 'w'"]);
    }
    let out_of_range =
        TensorProto { dims: vec![1], data_type: Some(3), int32_data: vec![200], ..TensorProto::default() };
    refused(&with_weight(out_of_range), &["200 among the elements of a i8 tensor"]);
    let not_bool = TensorProto { dims: vec![1], data_type: Some(9), int32_data: vec![2], ..TensorProto::default() };
    refused(&with_weight(not_bool), &["boolean"]);
}

#[test]
fn foreign_element_types() {
    for (code, name) in
        [(8, "string"), (14, "complex64"), (17, "float8e4m3fn"), (20, "float8e5m2fnuz"), (24, "float8e8m0"), (99, "99")]
    {
        let t = TensorProto { data_type: Some(code), ..floats(&[1], &[1.0]) };
        assert_eq!(refused(&with_weight(t), &["initializer 'w'", name]), ErrorKind::Unsupported);
        let mut m = base();
        tensor_type(&mut graph(&mut m).input[0]).elem_type = Some(code);
        refused(&m, &["graph input 'X'", name]);
    }
}

fn tensor_type(v: &mut ValueInfoProto) -> &mut crate::formats::onnx::proto::TensorTypeProto {
    v.r#type.as_mut().expect("a type").tensor_type.as_mut().expect("a tensor")
}

#[test]
fn wrong_declared_type() {
    let mut m = base();
    graph(&mut m).output[0].name = Some("X".into());
    tensor_type(&mut graph(&mut m).output[0]).elem_type = Some(7);
    refused(&m, &["graph output 'X'", "i64", "f32"]);
    let mut m = base();
    graph(&mut m).input[0].r#type = None;
    refused(&m, &["graph input 'X'", "no element type"]);
    let mut m = base();
    let t = graph(&mut m).input[0].r#type.as_mut().expect("a type");
    t.sequence_type = Some(Present {});
    refused(&m, &["graph input 'X'", "sequence"]);
}

#[test]
fn unknown_operators_and_domains() {
    let mut m = base();
    graph(&mut m).node[0].op_type = Some("Frobnicate".into());
    assert_eq!(refused(&m, &["node 'r' (Frobnicate)", "'Frobnicate'"]), ErrorKind::Unsupported);
    let mut m = base();
    graph(&mut m).node[0].op_type = Some("FusedConv".into());
    graph(&mut m).node[0].domain = Some("com.microsoft".into());
    refused(&m, &["'FusedConv' of domain 'com.microsoft'", "fusions"]);
}

#[test]
fn unknown_attributes_and_wrong_types() {
    let mut m = base();
    let mut a = AttributeProto { name: Some("speed".into()), kind: Some(attribute::INT), ..AttributeProto::default() };
    graph(&mut m).node[0].attribute.push(a.clone());
    refused(&m, &["node 'r' (Relu)", "attribute 'speed'"]);
    let mut m = base();
    graph(&mut m).node[0].op_type = Some("LeakyRelu".into());
    a.name = Some("alpha".into());
    graph(&mut m).node[0].attribute.push(a.clone());
    refused(&m, &["attribute 'alpha'", "type 2, expected 1"]);
    let mut m = base();
    graph(&mut m).node[0].op_type = Some("Concat".into());
    refused(&m, &["attribute 'axis' is missing"]);
    a = AttributeProto {
        name: Some("strides".into()),
        kind: Some(attribute::INTS),
        ints: vec![-1, 1],
        ..AttributeProto::default()
    };
    graph(&mut m).node[0] = NodeProto { attribute: vec![a], ..node("MaxPool", &["X"], &["Y"]) };
    refused(&m, &["strides", "-1"]);
}

#[test]
fn subgraphs_functions_and_sparse_tensors() {
    let mut m = base();
    let a = AttributeProto {
        name: Some("then_branch".into()),
        kind: Some(attribute::GRAPH),
        g: Some(GraphProto::default().into()),
        ..AttributeProto::default()
    };
    graph(&mut m).node[0] = NodeProto { attribute: vec![a.clone()], ..node("Relu", &["X"], &["Y"]) };
    assert_eq!(refused(&m, &["node 'the_Relu' (Relu)", "graph", "then_branch"]), ErrorKind::Unsupported);
    graph(&mut m).node[0] = NodeProto { attribute: vec![a], ..node("If", &["X"], &["Y"]) };
    assert_eq!(refused(&m, &["node 'the_If' (If)", "'else_branch' is missing"]), ErrorKind::Malformed);
    let mut m = base();
    m.functions.push(crate::formats::onnx::proto::FunctionProto { name: Some("f".into()) });
    refused(&m, &["local function 'f'"]);
    let mut m = base();
    graph(&mut m).sparse_initializer.push(SparseTensorProto { values: Some(floats(&[1], &[1.0])) });
    refused(&m, &["sparse"]);
}

/// `Y = If(X) { f } else { f }` with `f` a graph of one node.
fn branches(inner: NodeProto) -> ModelProto {
    let mut m = base();
    let output = graph(&mut m).output[0].clone();
    let of = |name: &str| AttributeProto {
        name: Some(name.into()),
        kind: Some(attribute::GRAPH),
        g: Some(Box::new(GraphProto {
            name: Some("inside".into()),
            node: vec![inner.clone()],
            output: vec![ValueInfoProto { name: Some("inside".into()), ..output.clone() }],
            ..GraphProto::default()
        })),
        ..AttributeProto::default()
    };
    let attribute = vec![of("then_branch"), of("else_branch")];
    graph(&mut m).node[0] = NodeProto { attribute, ..node("If", &["X"], &["Y"]) };
    m
}

#[test]
fn graphs_within_nodes() {
    let inner = |input: &str| node("Relu", &[input], &["inside"]);
    let g = read_vec(branches(inner("X")).encode_to_vec()).expect("sound");
    let (_, n) = g.nodes().next().expect("a node");
    // The condition, and what the branches read.
    assert_eq!(n.inputs.len(), 2);
    assert_eq!(
        describe(&read_vec(to_bytes(&g, &WriteOptions::default()).expect("writable")).expect("sound")),
        describe(&g)
    );
    refused(&branches(inner("nowhere")), &["node 'the_If' (If)", "'nowhere', which nothing produces"]);
    refused(&branches(node("Relu", &["inside"], &["inside"])), &["in 'then_branch'", "cycle"]);
    refused(&branches(node("Magic", &["X"], &["inside"])), &["in 'then_branch'", "node 'the_Magic' (Magic)"]);
    let mut deep = inner("X");
    for _ in 0..8 {
        let mut m = branches(deep);
        deep = NodeProto { output: vec!["inside".into()], ..graph(&mut m).node[0].clone() };
    }
    assert_eq!(refused(&branches(deep), &["control flow within control flow"]), ErrorKind::Unsupported);
}

#[test]
fn no_outputs_no_graph_no_opset() {
    let mut m = base();
    graph(&mut m).output.clear();
    refused(&m, &["no outputs"]);
    let mut m = base();
    m.graph = None;
    refused(&m, &["no graph"]);
    let mut m = base();
    m.opset_import.clear();
    refused(&m, &["no opset"]);
}

#[test]
fn opsets_out_of_range() {
    let mut m = base();
    m.opset_import = vec![OperatorSetIdProto { domain: None, version: Some(99) }];
    assert_eq!(refused(&m, &["opset 99", "newest", "older opset"]), ErrorKind::Unsupported);
    m.opset_import[0].version = Some(6);
    refused(&m, &["opset 6", "oldest", "version_converter"]);
    m.opset_import[0].version = Some(i64::MIN);
    refused(&m, &["oldest"]);
}

#[test]
fn not_a_model() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"<HTML><body>", "web page"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"hello", "no ONNX model"),
        (&[0xff; 64], "no ONNX model"),
    ];
    for (bytes, part) in cases {
        let e = read_vec(bytes.to_vec()).expect_err("no model");
        assert!(e.to_string().contains(part), "{e}");
        assert_eq!(e.kind(), ErrorKind::Malformed);
    }
    let e = read(Path::new("/nonexistent/m.onnx")).expect_err("no file");
    assert!(e.kind() == ErrorKind::Io && e.to_string().contains("/nonexistent/m.onnx"), "{e}");
    let dir = tempfile::tempdir().expect("a folder");
    let e = read(dir.path()).expect_err("a folder");
    assert!(e.to_string().contains("a folder"), "{e}");
}

fn external(entries: &[(&str, &str)], dims: &[i64]) -> ModelProto {
    let entry = |(k, v): &(&str, &str)| StringStringEntryProto { key: Some((*k).into()), value: Some((*v).into()) };
    with_weight(TensorProto {
        dims: dims.to_vec(),
        data_type: Some(1),
        data_location: Some(1),
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    })
}

#[test]
fn external_paths_that_leave_the_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("in")).expect("a folder");
    std::fs::write(dir.path().join("secret"), [0; 12]).expect("a file");
    let inside = dir.path().join("in");
    let absolute = dir.path().join("secret").display().to_string();
    for location in [absolute.as_str(), "../secret", "a/../../secret", "..\\secret", "", "/dev/zero", "a\0b"] {
        let kind =
            refused_in(&external(&[("location", location)], &[3]), Some(&inside), &["initializer 'w'", "outside"]);
        assert_eq!(kind, ErrorKind::Malformed);
    }
    refused_in(&external(&[], &[3]), Some(&inside), &["without the name of its file"]);
    refused_in(&external(&[("location", "w.bin")], &[3]), None, &["another file", "w.bin"]);
    refused_in(&external(&[("location", "w.bin")], &[3]), Some(&inside), &["w.bin"]);
}

#[test]
fn external_offsets_beyond_the_file() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("w.bin"), [0; 16]).expect("a file");
    let d = Some(dir.path());
    let with = |more: &[(&str, &str)], dims: &[i64]| {
        let mut entries = vec![("location", "w.bin")];
        entries.extend_from_slice(more);
        external(&entries, dims)
    };
    assert!(read_bytes(Bytes::from(with(&[("offset", "4")], &[3]).encode_to_vec()), d).is_ok());
    for offset in ["5", "16", "18446744073709551615", "9223372036854775808"] {
        refused_in(&with(&[("offset", offset)], &[3]), d, &["initializer 'w'", "do not fit"]);
    }
    for offset in ["-1", "18446744073709551616", "1e3", ""] {
        refused_in(&with(&[("offset", offset)], &[3]), d, &["offset is"]);
    }
    refused_in(&with(&[("length", "8")], &[3]), d, &["8 bytes", "12"]);
    refused_in(&with(&[("length", "18446744073709551615")], &[3]), d, &["12"]);
    refused_in(&with(&[], &[1 << 61]), d, &["initializer 'w'"]);
    refused_in(&with(&[], &[1 << 40]), d, &["do not fit"]);
}

/// More than 2 GB in another file: mapped, not read. The file is sparse, so it takes no room on the disk either.
#[test]
fn two_gigabytes_of_external_data() {
    let dir = tempfile::tempdir().expect("a folder");
    let count = 600_000_000i64;
    let data = std::fs::File::create(dir.path().join("w.bin")).expect("a file");
    if data.set_len(count as u64 * 4).is_err() {
        println!("skipped: no sparse files in {}", dir.path().display());
        return;
    }
    use std::io::{Seek, Write};
    let mut data = data;
    data.seek(std::io::SeekFrom::End(-4)).expect("seekable");
    data.write_all(&1.5f32.to_le_bytes()).expect("writable");
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, external(&[("location", "w.bin")], &[count]).encode_to_vec()).expect("writable");
    let g = read(&path).expect("sound");
    let w = g.constant(g.find("w").expect("there")).expect("a constant");
    assert_eq!(w.shape(), [600_000_000]);
    let w = w.as_slice::<f32>().expect("f32");
    assert_eq!((w[0], w[w.len() - 1]), (0.0, 1.5));
    assert!(matches!(
        g.constant(g.find("w").expect("there")).expect("a constant").data(),
        crate::ir::Data::F32(crate::ir::Buf::Mapped(_))
    ));
    let e = to_bytes(&g, &WriteOptions::default()).expect_err("too large for one piece");
    assert!(e.to_string().contains("2 GB"), "{e}");
}

#[test]
fn annotated_graphs_are_not_written_silently() {
    let mut g = small();
    let y = g.find("Y").expect("there");
    g.value_mut(y).quant = Some(Arc::new(crate::ir::QParams::tensor(crate::ir::QType::U8, 1.0, 0)));
    let e = to_bytes(&g, &WriteOptions::default()).expect_err("has no place");
    assert!(e.to_string().contains("'Y'") && e.to_string().contains("QDQ"), "{e}");
}

#[test]
fn an_initializer_that_is_an_input_is_a_constant() {
    let mut m = with_weight(floats(&[3], &[1.0, f32::NAN, f32::INFINITY]));
    let mut input = graph(&mut m).input[0].clone();
    input.name = Some("w".into());
    graph(&mut m).input.push(input);
    let g = read_vec(m.encode_to_vec()).expect("sound");
    assert_eq!(g.inputs.len(), 1);
    let w = g.constant(g.find("w").expect("there")).expect("a constant");
    assert!(w.as_slice::<f32>().expect("f32")[1].is_nan());
}

#[test]
fn typed_fields_and_packed_integers() {
    let read = |t: TensorProto| read_tensor_bytes(Bytes::from(t.encode_to_vec())).expect("sound");
    let ints = |code: i32, dims: &[i64], data: &[i32]| TensorProto {
        dims: dims.to_vec(),
        data_type: Some(code),
        int32_data: data.to_vec(),
        ..TensorProto::default()
    };
    let same = |a: Tensor, b: Tensor| {
        assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
        assert_eq!(a.data().as_bytes(), b.data().as_bytes());
    };
    same(read(ints(3, &[2], &[-128, 127])), Tensor::of(&[2], vec![-128i8, 127]));
    same(read(ints(2, &[2], &[0, 255])), Tensor::of(&[2], vec![0u8, 255]));
    same(read(ints(4, &[1], &[65535])), Tensor::of(&[1], vec![65535u16]));
    same(read(ints(9, &[2], &[0, 1])), Tensor::from_bools(&[2], &[false, true]));
    same(read(ints(10, &[1], &[0x3c00])), Tensor::of(&[1], vec![half::f16::ONE]));
    same(read(ints(16, &[1], &[0x3f80])), Tensor::of(&[1], vec![half::bf16::ONE]));
    // Two 4-bit elements per byte, the first in the low half; the odd one alone.
    same(read(ints(22, &[3], &[0x8f, 0x07])), Tensor::of(&[3], vec![-1i8, -8, 7]));
    same(read(ints(21, &[3], &[0x8f, 0x07])), Tensor::of(&[3], vec![15u8, 8, 7]));
    let raw = |code: i32, dims: &[i64], bytes: &'static [u8]| TensorProto {
        dims: dims.to_vec(),
        data_type: Some(code),
        raw_data: Some(Bytes::from_static(bytes)),
        ..TensorProto::default()
    };
    same(read(raw(22, &[2, 2], &[0x21, 0xfe])), Tensor::of(&[2, 2], vec![1i8, 2, -2, -1]));
    // 2 bits: 0b11_10_01_00.
    same(read(raw(25, &[5], &[0xe4, 0x02])), Tensor::of(&[5], vec![0u8, 1, 2, 3, 2]));
    same(read(raw(26, &[4], &[0xe4])), Tensor::of(&[4], vec![0i8, 1, -2, -1]));
    let wide =
        TensorProto { dims: vec![1], data_type: Some(12), uint64_data: vec![u64::MAX], ..TensorProto::default() };
    assert!(read_tensor_bytes(Bytes::from(wide.encode_to_vec())).is_err());
    assert_eq!(read(raw(1, &[0, 5], &[])).shape(), [0, 5]);
    assert_eq!(read(raw(7, &[], &[1, 0, 0, 0, 0, 0, 0, 0])).dtype(), DType::I64);
}
