//! Codes that need less than a byte.
use super::*;
use crate::formats::onnx::{
    Pack,
    proto::{ModelProto, TensorProto},
};
use prost::Message;

/// Codes of 4 bits and fewer share bytes of the file, with their zero points; what the file cannot say, or is not to, has bytes.
#[test]
fn narrow_codes_are_packed() {
    let grid = |bits: u8, signed: bool| QType { bits, signed, narrow: false };
    let build = |qtype: QType, zero: i32, block: bool| {
        let mut n = Net::new();
        let x = n.input("x", &[4, 6]);
        n.quantize(x, positive(0.05));
        let w = n.weight("w", &[6, 3]);
        let mut q = QParams::channel(qtype, 1, vec![0.1, 0.2, 0.3]);
        if block {
            q.granularity = crate::ir::Granularity::Block { axis: 0, size: 4 };
            q.scale = vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
        }
        q.zero_point = vec![zero; q.scale.len()];
        n.quantize(w, q);
        let y = n.node(Op::MatMul, &[x, w], "y");
        n.output(y)
    };
    // 18 codes.
    for (bits, signed, zero, code, bytes, opset) in [
        (4, true, 0, 22, 9, 21),
        (4, false, 8, 21, 9, 21),
        (3, true, -1, 22, 9, 21),
        (2, true, 0, 26, 5, 25),
        (2, false, 1, 25, 5, 25),
        (1, false, 0, 25, 5, 25),
        (5, true, 0, 3, 18, 13),
        (7, false, 64, 2, 18, 13),
    ] {
        for block in [false, true] {
            let g = build(grid(bits, signed), zero, block);
            let back = absorb(&file(&to_qdq(&g).expect("sound"))).expect("sound");
            assert_eq!(annotations(&back), annotations(&g));
            let m = message(&to_qdq(&g).expect("sound"), &WriteOptions { pack: Pack::Int2, ..WriteOptions::default() });
            // Blocks came with opset 21; the graph is of opset 13.
            let opset = if block { opset.max(21) } else { opset };
            assert_eq!(m.opset_import[0].version, Some(opset), "{bits} {signed}");
            let w = initializer(&m, "w");
            let have = (w.data_type, w.raw_data.as_ref().map(|b| b.len()), &w.dims[..]);
            assert_eq!(have, (Some(code), Some(bytes), &[6, 3][..]), "{bits} {signed}");
            let dequantize = m.graph.as_ref().unwrap().node.iter().find(|n| n.input[0] == "w").unwrap();
            assert_eq!(dequantize.attribute.iter().any(|a| a.name.as_deref() == Some("block_size")), block);
            if zero != 0 {
                assert_eq!(initializer(&m, &dequantize.input[2]).data_type, Some(code));
            }
        }
    }
    // Not narrower than asked for, and not newer.
    let q = to_qdq(&build(grid(2, true), 0, false)).expect("sound");
    let narrowed = |pack, opset| {
        let m = message(&q, &WriteOptions { pack, opset, ..WriteOptions::default() });
        let same = absorb(&read_bytes(m.encode_to_vec().into(), None).expect("readable")).expect("sound");
        assert_eq!(annotations(&same), annotations(&build(grid(2, true), 0, false)));
        (initializer(&m, "w").data_type.unwrap(), m.opset_import[0].version.unwrap())
    };
    assert_eq!(narrowed(Pack::Int4, None), (22, 21));
    assert_eq!(narrowed(Pack::Int2, None), (26, 25));
    assert_eq!(narrowed(Pack::Never, None), (3, 13));
    assert_eq!(narrowed(Pack::Int2, Some(20)), (3, 20));
    assert_eq!(narrowed(Pack::Int2, Some(24)), (22, 24));
    // The integer operators have bytes only.
    let m = message(&to_qoperator(&build(grid(4, true), 0, false)).expect("sound"), &WriteOptions::default());
    assert_eq!(initializer(&m, "w").data_type, Some(3));
}

/// One weight that two layers read, and a zero point that stands for both.
#[test]
fn packed_codes_that_others_read_too_have_bytes() {
    let mut g = Graph::new("g");
    let w = g.add_constant("w", Arc::new(Tensor::of(&[4], vec![-8i8, 7, 0, 1])));
    let s = g.add_constant("s", Arc::new(Tensor::scalar(0.5f32)));
    let z = g.add_constant("z", Arc::new(Tensor::scalar(1i8)));
    let v = g.add_constant("v", Arc::new(Tensor::of(&[2], vec![100i8, 1])));
    for id in [w, z, v] {
        g.value_mut(id).packed = Some(4);
    }
    let dequantize = |g: &mut Graph, x: ValueId, name: &str| {
        let y = g.add_value(name, Some(DType::F32), None).expect("free");
        let op = Op::DequantizeLinear { axis: 1, block: 0 };
        g.add_node(&format!("D{name}"), op, vec![Some(x), Some(s), Some(z)], vec![Some(y)]);
        g.outputs.push(y);
    };
    dequantize(&mut g, w, "a");
    let types = |g: &Graph| {
        let m = message(g, &WriteOptions::default());
        ["w", "z"].map(|name| initializer(&m, name).data_type.unwrap())
    };
    assert_eq!(types(&g), [22, 22]);
    // 100 is no number of 4 bits: its zero point has a byte, and so has the other weight.
    let mut wide = g.clone();
    dequantize(&mut wide, v, "b");
    assert_eq!(types(&wide), [3, 3]);
    // Codes that are an output.
    g.outputs.push(w);
    assert_eq!(types(&g), [3, 3]);
}

fn message(g: &Graph, options: &WriteOptions) -> ModelProto {
    ModelProto::decode(&to_bytes(g, options).expect("writable")[..]).expect("sound")
}

fn initializer<'a>(m: &'a ModelProto, name: &str) -> &'a TensorProto {
    let all = &m.graph.as_ref().expect("there").initializer;
    all.iter().find(|t| t.name.as_deref() == Some(name)).expect("there")
}
