//! ONNX models written field by field, so that they can be wrong in any way. Numbers are those of `onnx.proto`.

/// Element types.
pub const F32: u64 = 1;
pub const I64: u64 = 7;
pub const F16: u64 = 10;

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A field of a whole number.
pub fn int(tag: u64, n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(tag << 3, &mut out);
    varint(n, &mut out);
    out
}

/// A field of bytes, text or a message.
pub fn bytes(tag: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(tag << 3 | 2, &mut out);
    varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

/// `TensorProto` of binary32 numbers in `raw_data`.
pub fn tensor(name: &str, dims: &[u64], values: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor_of(F32, name, dims, &raw)
}

/// `TensorProto` of whole numbers.
pub fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor_of(I64, name, &[values.len() as u64], &raw)
}

/// `TensorProto` of any element type, in `raw_data`.
pub fn tensor_of(kind: u64, name: &str, dims: &[u64], raw: &[u8]) -> Vec<u8> {
    [header(kind, name, dims), bytes(9, raw)].concat()
}

fn header(kind: u64, name: &str, dims: &[u64]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|&d| int(1, d)).collect();
    [dims, int(2, kind), bytes(8, name.as_bytes())].concat()
}

/// `TensorProto` whose numbers lie in another file.
pub fn external(name: &str, dims: &[u64], location: &str, offset: u64) -> Vec<u8> {
    let entry = |k: &str, v: &str| bytes(13, &[bytes(1, k.as_bytes()), bytes(2, v.as_bytes())].concat());
    [header(F32, name, dims), entry("location", location), entry("offset", &offset.to_string()), int(14, 1)].concat()
}

/// `ValueInfoProto`. A dimension is a number, or a name where it does not parse as one; `?` is an unknown shape.
pub fn value(name: &str, kind: u64, shape: &str) -> Vec<u8> {
    let dim = |d: &str| match d.parse() {
        Ok(n) => bytes(1, &int(1, n)),
        Err(_) => bytes(1, &bytes(2, d.as_bytes())),
    };
    let dims: Vec<u8> = shape.split(' ').filter(|d| !d.is_empty()).flat_map(dim).collect();
    let shape = if shape == "?" { Vec::new() } else { bytes(2, &dims) };
    let tensor_type = [int(1, kind), shape].concat();
    [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor_type))].concat()
}

/// `NodeProto` without attributes; its name is that of its output with `n_` before it.
pub fn node(op: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    node_with(op, inputs, output, &[])
}

/// `NodeProto` with attributes that are lists of integers.
pub fn node_with(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, &[u64])]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|i| bytes(1, i.as_bytes())).collect();
    let list = |&(name, values): &(&str, &[u64])| {
        let values: Vec<u8> = values.iter().flat_map(|&v| int(8, v)).collect();
        bytes(5, &[bytes(1, name.as_bytes()), values, int(20, 7)].concat())
    };
    let attributes: Vec<u8> = attributes.iter().flat_map(list).collect();
    let name = format!("n_{output}");
    [inputs, bytes(2, output.as_bytes()), bytes(3, name.as_bytes()), bytes(4, op.as_bytes()), attributes].concat()
}

/// `NodeProto` with attributes that are integers.
pub fn node_ints(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, u64)]) -> Vec<u8> {
    let one = |&(name, v): &(&str, u64)| bytes(5, &[bytes(1, name.as_bytes()), int(3, v), int(20, 2)].concat());
    [node(op, inputs, output), attributes.iter().flat_map(one).collect()].concat()
}

/// A model in the making.
pub struct Model {
    pub opset: u64,
    pub nodes: Vec<Vec<u8>>,
    pub constants: Vec<Vec<u8>>,
    pub inputs: Vec<Vec<u8>>,
    pub outputs: Vec<Vec<u8>>,
}

impl Model {
    /// `ModelProto`.
    pub fn build(&self) -> Vec<u8> {
        let all = |tag: u64, parts: &[Vec<u8>]| parts.iter().flat_map(|p| bytes(tag, p)).collect::<Vec<u8>>();
        let (nodes, constants) = (all(1, &self.nodes), all(5, &self.constants));
        let (inputs, outputs) = (all(11, &self.inputs), all(12, &self.outputs));
        let graph = [nodes, bytes(2, b"net"), constants, inputs, outputs].concat();
        [int(1, 8), bytes(8, &int(2, self.opset)), bytes(7, &graph)].concat()
    }
}

/// Numbers that look like weights.
pub fn weights(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + 13) % 101) as f32 / 101.0 - 0.47).collect()
}

/// Two convolutions and a classifier of 10 classes over pictures of 32 x 32: `x`, `c1` (weight `w1`), `r1`, `c2` (`w2`), `p`, `f`, `y` (`w3`).
pub fn net() -> Model {
    Model {
        opset: 13,
        nodes: vec![
            node_with("Conv", &["x", "w1", "b1"], "c1", &[("pads", &[1, 1, 1, 1]), ("strides", &[2, 2])]),
            node("Relu", &["c1"], "r1"),
            node_with("Conv", &["r1", "w2", "b2"], "c2", &[("pads", &[1, 1, 1, 1]), ("strides", &[2, 2])]),
            node("GlobalAveragePool", &["c2"], "p"),
            node("Flatten", &["p"], "f"),
            node("Gemm", &["f", "w3", "b3"], "y"),
        ],
        constants: vec![
            tensor("w1", &[4, 3, 3, 3], &weights(108)),
            tensor("b1", &[4], &weights(4)),
            tensor("w2", &[8, 4, 3, 3], &weights(288)),
            tensor("b2", &[8], &weights(8)),
            tensor("w3", &[8, 10], &weights(80)),
            tensor("b3", &[10], &weights(10)),
        ],
        inputs: vec![value("x", F32, "N 3 32 32")],
        outputs: vec![value("y", F32, "N 10")],
    }
}

/// [`net`] with one constant replaced.
pub fn net_with(i: usize, constant: Vec<u8>) -> Vec<u8> {
    let mut m = net();
    m.constants[i] = constant;
    m.build()
}

/// [`net`] with another input.
pub fn net_of(input: Vec<u8>) -> Vec<u8> {
    let mut m = net();
    m.inputs = vec![input];
    m.build()
}
