//! Models that are broken, foreign, or unusual.
use super::{
    files::{model, pictures, put, sound},
    onnx::{self, F16, F32, I64, Model, net, net_of, net_with, node, tensor, value, weights},
    table::{Row, fails, works},
};
use std::path::Path;

const QUANTIZE: &str = "quantize m.onnx --data data -o q.onnx";

/// `y = op(...)` over a small `x`, nothing else.
fn small(nodes: Vec<Vec<u8>>, constants: Vec<Vec<u8>>) -> Model {
    Model { opset: 13, nodes, constants, inputs: vec![value("x", F32, "N 4")], outputs: vec![value("y", F32, "?")] }
}

/// `y = x * d`, where `d` is `q` dequantized by 4 scales.
fn narrow(opset: u64, q: Vec<u8>, attributes: &[(&str, u64)]) -> Vec<u8> {
    let dequantize = onnx::node_ints("DequantizeLinear", &["q", "s"], "d", attributes);
    Model { opset, ..small(vec![dequantize, node("MatMul", &["x", "d"], "y")], vec![q, tensor("s", &[4], &[0.1; 4])]) }
        .build()
}

fn cut(f: &Path, keep: impl Fn(usize) -> usize) {
    let whole = net().build();
    put(f, "m.onnx", &whole[..keep(whole.len())]);
}

/// Puts `m.onnx` beside sound data.
fn with(f: &Path, bytes: Vec<u8>) {
    put(f, "m.onnx", bytes);
    pictures(f);
}

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    vec![
        // Files that are no models.
        fails("truncated to half", |f| cut(f, |n| n / 2), "inspect m.onnx", 1, &["m.onnx", "truncated", "get the file again"]),
        fails("truncated by one byte", |f| cut(f, |n| n - 1), "inspect m.onnx", 1, &["m.onnx", "truncated"]),
        fails("truncated to a few bytes", |f| cut(f, |_| 5), "inspect m.onnx", 1, &["m.onnx", "no ONNX model"]),
        fails("empty file", |f| put(f, "m.onnx", ""), "inspect m.onnx", 1, &["m.onnx", "empty file", "get the file again"]),
        fails("text file", |f| put(f, "m.onnx", "The weather is nice today.\n"), "inspect m.onnx", 1, &["m.onnx", "no ONNX model"]),
        fails("LFS pointer inspected", |f| put(f, "m.onnx", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"), "inspect m.onnx", 1, &["m.onnx", "Git LFS pointer", "git lfs pull"]),
        fails("folder for a model", |f| put(f, "m.onnx/x", ""), "inspect m.onnx", 2, &["m.onnx", "folder"]),
        fails("missing model", |_| {}, "inspect m.onnx", 1, &["m.onnx", "No such file"]),
        fails("device for a model", |_| {}, "inspect /dev/zero", 2, &["/dev/zero", "no regular file"]),
        fails("picture for a model", |f| put(f, "m.onnx", super::files::bmp(8, 8, 1)), "inspect m.onnx", 1, &["m.onnx", "no ONNX model"]),
        // Graphs that hang together badly.
        fails("cycle", |f| put(f, "m.onnx", small(vec![node("Add", &["x", "b"], "a"), node("Relu", &["a"], "b"), node("Abs", &["b"], "y")], vec![]).build()), "inspect m.onnx", 1, &["m.onnx", "cycle", "n_a", "n_b"]),
        fails("missing value", |f| put(f, "m.onnx", small(vec![node("Relu", &["nowhere"], "y")], vec![]).build()), "inspect m.onnx", 1, &["m.onnx", "node 'n_y' (Relu)", "'nowhere'", "nothing produces"]),
        fails("value produced twice", |f| put(f, "m.onnx", small(vec![node("Relu", &["x"], "y"), node("Abs", &["x"], "y")], vec![]).build()), "inspect m.onnx", 1, &["m.onnx", "'y' is produced twice"]),
        fails("constant given twice", |f| put(f, "m.onnx", small(vec![node("Add", &["x", "w"], "y")], vec![tensor("w", &[4], &[0.0; 4]), tensor("w", &[4], &[1.0; 4])]).build()), "inspect m.onnx", 1, &["m.onnx", "two initializers are called 'w'"]),
        fails("unknown operator", |f| put(f, "m.onnx", small(vec![node("Frobnicate", &["x"], "y")], vec![]).build()), "inspect m.onnx", 1, &["m.onnx", "node 'n_y' (Frobnicate)", "'Frobnicate'", "nnq knows"]),
        fails("future opset", |f| put(f, "m.onnx", Model { opset: 99, ..net() }.build()), "inspect m.onnx", 1, &["m.onnx", "opset 99", "older opset"]),
        fails("ancient opset", |f| put(f, "m.onnx", Model { opset: 5, ..net() }.build()), "inspect m.onnx", 1, &["m.onnx", "opset 5", "version_converter"]),
        fails("shapes that do not fit", |f| put(f, "m.onnx", net_with(2, tensor("w2", &[8, 5, 3, 3], &weights(360)))), "inspect m.onnx", 1, &["m.onnx", "n_c2", "4", "5"]),
        fails("no outputs", |f| put(f, "m.onnx", Model { outputs: vec![], ..net() }.build()), "inspect m.onnx", 1, &["m.onnx", "no outputs"]),
        // Constants that lie or are damaged.
        fails("dims of a petabyte", |f| put(f, "m.onnx", net_with(0, tensor("w1", &[1 << 40, 3, 3, 3], &weights(108)))), "inspect m.onnx", 1, &["m.onnx", "initializer 'w1'", "1099511627776"]),
        fails("dims beyond 64 bits", |f| put(f, "m.onnx", net_with(0, tensor("w1", &[1 << 62, 1 << 62], &weights(108)))), "inspect m.onnx", 1, &["m.onnx", "initializer 'w1'"]),
        fails("negative dims", |f| put(f, "m.onnx", net_with(0, tensor("w1", &[4, 3, 3, -3i64 as u64], &weights(108)))), "inspect m.onnx", 1, &["m.onnx", "initializer 'w1'", "-3"]),
        fails("NaN weights", |f| with(f, net_with(2, { let mut w = weights(288); w[40] = f32::NAN; tensor("w2", &[8, 4, 3, 3], &w) })), QUANTIZE, 1, &["m.onnx", "n_c2", "'w2'", "NaN"]),
        fails("infinite weights", |f| with(f, net_with(2, { let mut w = weights(288); w[40] = f32::INFINITY; tensor("w2", &[8, 4, 3, 3], &w) })), QUANTIZE, 1, &["m.onnx", "n_c2", "'w2'", "infinit"]),
        fails("NaN bias", |f| with(f, net_with(1, tensor("b1", &[4], &[0.0, f32::NAN, 0.0, 0.0]))), QUANTIZE, 1, &["m.onnx", "n_c1", "'b1'", "NaN"]),
        works("denormal weights", |f| with(f, net_with(0, tensor("w1", &[4, 3, 3, 3], &[1e-42; 108]))), QUANTIZE, &["q.onnx"]),
        fails("weights of nothing", |f| with(f, net_with(0, tensor("w1", &[4, 0, 3, 3], &[]))), QUANTIZE, 1, &["m.onnx", "n_c1"]),
        fails("convolution without outputs", |f| with(f, net_with(0, tensor("w1", &[0, 3, 3, 3], &[]))), QUANTIZE, 1, &["m.onnx", "n_c1"]),
        // Codes that share bytes.
        fails("int4 of too few bytes", |f| put(f, "m.onnx", narrow(21, onnx::tensor_of(22, "q", &[4, 4], &[0x17; 7]), &[])), "inspect m.onnx", 1, &["m.onnx", "initializer 'q'", "[4, 4]", "8 bytes", "7"]),
        fails("int4 of a byte each", |f| put(f, "m.onnx", narrow(21, onnx::tensor_of(22, "q", &[4, 4], &[0x17; 16]), &[])), "inspect m.onnx", 1, &["m.onnx", "initializer 'q'", "8 bytes", "16"]),
        fails("int4 before its time", |f| put(f, "m.onnx", narrow(20, onnx::tensor_of(22, "q", &[4, 4], &[0x17; 8]), &[])), "inspect m.onnx", 1, &["m.onnx", "initializer 'q'", "int4", "opset 20", "since opset 21"]),
        fails("int2 before its time", |f| put(f, "m.onnx", narrow(24, onnx::tensor_of(26, "q", &[4, 4], &[0x17; 4]), &[])), "inspect m.onnx", 1, &["m.onnx", "initializer 'q'", "int2", "opset 24", "since opset 25"]),
        fails("blocks that do not fit", |f| { put(f, "m.onnx", narrow(21, onnx::tensor_of(22, "q", &[4, 4], &[0x17; 8]), &[("axis", 0), ("block_size", 3)])); put(f, "x.npy", super::files::floats("(1, 4)", &[0.5; 4])); }, "run m.onnx --input x.npy --engine float -o y.npy", 1, &["m.onnx", "n_d", "[4, 4]"]),
        fails("a zero point off the grid", |f| put(f, "m.onnx", { let n = onnx::node_ints("DequantizeLinear", &["q", "s", "z"], "d", &[("axis", 1)]); Model { opset: 21, ..small(vec![n, node("MatMul", &["x", "d"], "y")], vec![onnx::tensor_of(22, "q", &[4, 4], &[0x17; 8]), tensor("s", &[4], &[0.1; 4]), onnx::tensor_of(3, "z", &[4], &[9, 0, 0, 0])]) }.build() }), "inspect m.onnx", 1, &["m.onnx", "n_d", "zero points of i8", "int4", "one type"]),
        fails("int4 that is computed with", |f| put(f, "m.onnx", Model { opset: 21, inputs: vec![value("x", 22, "N 4")], ..small(vec![node("Relu", &["x"], "y")], vec![]) }.build()), "inspect m.onnx", 1, &["m.onnx", "'x'", "int4", "DequantizeLinear"]),
        // Constants in other files.
        fails("external data missing", |f| put(f, "m.onnx", net_with(0, onnx::external("w1", &[4, 3, 3, 3], "w.bin", 0))), "inspect m.onnx", 1, &["m.onnx", "initializer 'w1'", "w.bin", "No such file"]),
        fails("external data too short", |f| { put(f, "m.onnx", net_with(0, onnx::external("w1", &[4, 3, 3, 3], "w.bin", 4))); put(f, "w.bin", [0; 432]); }, "inspect m.onnx", 1, &["m.onnx", "initializer 'w1'", "'w.bin' of 432 bytes", "truncated"]),
        fails("external data at an absurd offset", |f| { put(f, "m.onnx", net_with(0, onnx::external("w1", &[4, 3, 3, 3], "w.bin", u64::MAX))); put(f, "w.bin", [0; 432]); }, "inspect m.onnx", 1, &["m.onnx", "initializer 'w1'", "do not fit"]),
        fails("external data at an absolute path", |f| put(f, "m.onnx", net_with(0, onnx::external("w1", &[4, 3, 3, 3], "/etc/passwd", 0))), "inspect m.onnx", 1, &["m.onnx", "initializer 'w1'", "/etc/passwd", "outside"]),
        fails("external data above the folder", |f| { put(f, "in/m.onnx", net_with(0, onnx::external("w1", &[4, 3, 3, 3], "../w.bin", 0))); put(f, "w.bin", [0; 432]); }, "inspect in/m.onnx", 1, &["m.onnx", "initializer 'w1'", "../w.bin", "outside"]),
        // Models that ask for too much.
        fails("a picture of a terapixel", |f| put(f, "m.onnx", net_of(value("x", F32, "N 3 1000000 1000000"))), "bench m.onnx", 1, &["m.onnx", "1000000"]),
        fails("a constant of 256 gigabytes", |f| put(f, "m.onnx", Model { outputs: vec![value("y", F32, "?")], ..small(vec![node("ConstantOfShape", &["s"], "c"), node("Add", &["x", "c"], "y")], vec![onnx::ints("s", &[1 << 36, 1])]) }.build()), "bench m.onnx", 1, &["m.onnx", "n_c"]),
        fails("a padding of a few gigapixels", |f| with(f, { let mut m = net(); m.nodes[0] = onnx::node_with("Conv", &["x", "w1", "b1"], "c1", &[("pads", &[300_000; 4]), ("strides", &[1, 1])]); m.build() }), QUANTIZE, 1, &["m.onnx", "n_c1"]),
        fails("a padding of a terapixel", |f| with(f, { let mut m = net(); m.nodes[0] = onnx::node_with("Conv", &["x", "w1", "b1"], "c1", &[("pads", &[1 << 40; 4]), ("strides", &[1, 1])]); m.build() }), QUANTIZE, 1, &["m.onnx", "n_c1"]),
        fails("a stride of 0", |f| with(f, { let mut m = net(); m.nodes[0] = onnx::node_with("Conv", &["x", "w1", "b1"], "c1", &[("strides", &[0, 0])]); m.build() }), QUANTIZE, 1, &["m.onnx", "n_c1", "stride", "0"]),
        // Models that are sound, but not for this.
        fails("wrong type of input", |f| with(f, net_of(value("x", I64, "N 3 32 32"))), QUANTIZE, 1, &["m.onnx", "n_c1", "i64"]),
        fails("input of half precision", |f| with(f, Model { inputs: vec![value("x", F16, "N 3 32 32")], outputs: vec![value("y", F16, "?")], ..small(vec![node("Relu", &["x"], "y")], vec![]) }.build()), QUANTIZE, 1, &["m.onnx", "input 'x'", "f16", "f32"]),
        fails("input whose batch is 0", |f| with(f, net_of(value("x", F32, "0 3 32 32"))), QUANTIZE, 2, &["m.onnx", "'x'", "[0, 3, 32, 32]"]),
        fails("two inputs", |f| with(f, { let mut m = net(); m.inputs.push(value("z", F32, "N 10")); m.nodes.push(node("Add", &["y", "z"], "s")); m.outputs = vec![value("s", F32, "N 10")]; m.build() }), QUANTIZE, 1, &["m.onnx", "2 inputs", "one input"]),
        fails("two inputs evaluated", |f| with(f, { let mut m = net(); m.inputs.push(value("z", F32, "N 10")); m.nodes.push(node("Add", &["y", "z"], "s")); m.outputs = vec![value("s", F32, "N 10")]; m.build() }), "eval m.onnx --data data", 1, &["m.onnx", "2 inputs", "one input"]),
        fails("one file for two inputs", |f| { with(f, { let mut m = net(); m.inputs.push(value("z", F32, "N 10")); m.nodes.push(node("Add", &["y", "z"], "s")); m.outputs = vec![value("s", F32, "N 10")]; m.build() }); put(f, "x.npy", super::files::floats("(1, 3, 32, 32)", &[0.5; 3072])); }, "run m.onnx --input x.npy -o y.npy", 2, &["m.onnx", "2 inputs (x, z)", "one file per input"]),
        fails("no layer to quantize", |f| with(f, Model { inputs: vec![value("x", F32, "N 3 32 32")], ..small(vec![node("Relu", &["x"], "y")], vec![]) }.build()), QUANTIZE, 2, &["m.onnx", "no layer", "Conv, Gemm and MatMul"]),
        fails("no layer at all", |f| with(f, Model { inputs: vec![value("x", F32, "N 3 32 32")], outputs: vec![value("x", F32, "N 3 32 32")], ..small(vec![], vec![]) }.build()), QUANTIZE, 2, &["m.onnx", "no layer"]),
        fails("integers of a float model", sound, "eval m.onnx --data data --engine int", 2, &["m.onnx", "not quantized", "nnq quantize"]),
        works("fixed batch", |f| with(f, net_of(value("x", F32, "4 3 32 32"))), "quantize m.onnx --data data --eval data -o q.onnx", &["q.onnx"]),
        fails("fixed batch larger than the data", |f| with(f, net_of(value("x", F32, "16 3 32 32"))), QUANTIZE, 2, &["m.onnx", "16 samples at once", "has 8", "free batch"]),
        works("activations of zeros", |f| with(f, { let mut m = net(); m.constants[0] = tensor("w1", &[4, 3, 3, 3], &[0.0; 108]); m.constants[1] = tensor("b1", &[4], &[0.0; 4]); m.constants[3] = tensor("b2", &[8], &[0.0; 8]); m.build() }), "quantize m.onnx --data data --eval data -o q.onnx", &["q.onnx"]),
        works("everything zero", |f| with(f, Model { constants: vec![tensor("w1", &[4, 3, 3, 3], &[0.0; 108]), tensor("b1", &[4], &[0.0; 4]), tensor("w2", &[8, 4, 3, 3], &[0.0; 288]), tensor("b2", &[8], &[0.0; 8]), tensor("w3", &[8, 10], &[0.0; 80]), tensor("b3", &[10], &[0.0; 10])], ..net() }.build()), "quantize m.onnx --data data --eval data -o q.onnx", &["q.onnx"]),
        works("activations that are constant", |f| { model(f); put(f, "data/data_batch_1.bin", [7; 3073 * 4]); put(f, "data/test_batch.bin", [7; 3073 * 4]); }, "quantize m.onnx --data data --eval data -o q.onnx", &["q.onnx"]),
        works("a huge bias beside small weights", |f| with(f, net_with(1, tensor("b1", &[4], &[1e30, -1e30, 0.0, 1.0]))), QUANTIZE, &["q.onnx"]),
        fails("activations that overflow", |f| with(f, net_with(0, tensor("w1", &[4, 3, 3, 3], &[3e38; 108]))), QUANTIZE, 1, &["m.onnx", "'r1'", "+inf", "calibration"]),
    ]
}
