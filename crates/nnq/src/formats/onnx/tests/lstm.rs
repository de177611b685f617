//! DynamicQuantizeLSTM that is not what ONNX Runtime writes.
use crate::formats::onnx::{
    proto::{GraphProto, ModelProto, TensorProto},
    read_bytes,
};
use prost::Message;

const FILE: &[u8] = include_bytes!("../../../../testdata/dynamic/lstm.s8.pc.onnx");

fn tensor<'a>(g: &'a mut GraphProto, name: &str) -> &'a mut TensorProto {
    g.initializer.iter_mut().find(|t| t.name.as_deref() == Some(name)).expect("in the file")
}

#[track_caller]
fn refused(change: impl FnOnce(&mut GraphProto), parts: &[&str]) {
    let mut m = ModelProto::decode(FILE).expect("a model");
    change(m.graph.as_mut().expect("a graph"));
    let e = read_bytes(m.encode_to_vec().into(), None).expect_err("must be refused").to_string();
    assert!(e.contains("node 'lstm_quant'"), "{e}");
    parts.iter().for_each(|part| assert!(e.contains(part), "'{part}' is missing in: {e}"));
}

#[test]
fn the_file_is_sound() {
    assert!(read_bytes(FILE.into(), None).is_ok());
}

#[test]
fn other_shapes() {
    refused(|g| tensor(g, "w_quantized").dims = vec![9, 24], &["input 'W'", "[9, 24]", "columns, rows"]);
    let short = |g: &mut GraphProto| {
        let scale = tensor(g, "r_scale");
        (scale.dims, scale.raw_data, scale.float_data) = (vec![5], None, vec![0.1; 5]);
    };
    refused(short, &["input 'R'", "scales of shape [5]", "1 directions of 24 rows"]);
    let none = |g: &mut GraphProto| {
        let codes = tensor(g, "w_quantized");
        (codes.dims, codes.raw_data) = (vec![1, 0, 24], Some(Vec::new().into()));
    };
    refused(none, &["input 'W'", "no weights", "[1, 0, 24]"]);
}

#[test]
fn other_types() {
    let unsigned = |g: &mut GraphProto| tensor(g, "w_zero_point").data_type = Some(2);
    refused(unsigned, &["input 'W'", "zero points u8", "codes of i8"]);
    let wide = |g: &mut GraphProto| {
        let codes = tensor(g, "r_quantized");
        (codes.data_type, codes.raw_data, codes.int32_data) = (Some(6), None, vec![1; 6 * 24]);
    };
    refused(wide, &["input 'R'", "i32", "expected bytes"]);
}

#[test]
fn weights_that_are_computed() {
    let computed = |g: &mut GraphProto| g.node[0].input[1] = "x".into();
    refused(computed, &["input 'W'", "no constants", "initializers"]);
    refused(|g| g.node[0].input.truncate(8), &["8 inputs, expected 12"]);
    refused(|g| g.node[0].input[9] = String::new(), &["12"]);
}
