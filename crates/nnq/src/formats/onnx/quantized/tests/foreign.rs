//! What other tools write.
use super::*;
use crate::ir::op::{Binary, PoolAttrs};

fn quantize(out: DType) -> Op {
    Op::QuantizeLinear { axis: 1, block: 0, saturate: true, out }
}

const DEQUANTIZE: Op = Op::DequantizeLinear { axis: 1, block: 0 };

fn scalar(n: &mut Net, name: &str, s: f32) -> ValueId {
    n.constant(name, Tensor::scalar(s))
}

fn zero_u8(n: &mut Net, name: &str, z: u8) -> ValueId {
    n.constant(name, Tensor::scalar(z))
}

fn quant(g: &Graph, name: &str) -> Option<Arc<QParams>> {
    g.value(g.find(name).unwrap_or_else(|| panic!("no '{name}'"))).quant.clone()
}

/// A pair for each reader, all with equal parameters, and scales in vectors of one element.
#[test]
fn one_pair_per_reader() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 8]);
    let r = n.relu(x, "r");
    let mut ends = Vec::new();
    for i in 0..2 {
        let s = n.constant(&format!("s{i}"), Tensor::of(&[1], vec![0.5f32]));
        let z = n.constant(&format!("z{i}"), Tensor::of(&[1], vec![-3i8]));
        let q = n.node(quantize(DType::I8), &[r, s, z], &format!("q{i}"));
        ends.push(n.node(DEQUANTIZE, &[q, s, z], &format!("d{i}")));
    }
    let y = n.node(Op::Binary(Binary::Mul), &ends, "y");
    let back = absorb(&n.output(y)).expect("sound");
    assert_eq!(kinds(&back), ["Relu", "Mul"]);
    assert_eq!(*quant(&back, "r").expect("annotated"), QParams::tensor(QType::I8, 0.5, -3));
}

/// Pairs with different parameters stay apart.
#[test]
fn two_grids_for_one_value() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 8]);
    let mut ends = Vec::new();
    for (i, s) in [0.5f32, 0.25].into_iter().enumerate() {
        let s = scalar(&mut n, &format!("s{i}"), s);
        let q = n.node(quantize(DType::U8), &[x, s], &format!("q{i}"));
        ends.push(n.node(DEQUANTIZE, &[q, s], &format!("d{i}")));
    }
    let y = n.node(Op::Binary(Binary::Mul), &ends, "y");
    let back = absorb(&n.output(y)).expect("sound");
    assert_eq!(kinds(&back), ["Identity", "Identity", "Mul"]);
    assert_eq!(*quant(&back, "d0").expect("annotated"), positive(0.5));
    assert_eq!(*quant(&back, "d1").expect("annotated"), positive(0.25));
    assert!(quant(&back, "x").is_none());
}

/// u8 weights with a zero point, a bias that is still float.
#[test]
fn asymmetric_weights_and_float_bias() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 3, 4, 4]);
    let (s, z) = (scalar(&mut n, "s", 0.5), zero_u8(&mut n, "z", 128));
    let q = n.node(quantize(DType::U8), &[x, s, z], "q");
    let d = n.node(DEQUANTIZE, &[q, s, z], "d");
    let w = n.constant("w", Tensor::of(&[2, 3, 1, 1], vec![0u8, 1, 2, 253, 254, 255]));
    let ws = n.constant("ws", Tensor::of(&[2], vec![0.1f32, 0.2]));
    let wz = n.constant("wz", Tensor::of(&[2], vec![7u8, 9]));
    let dw = n.node(Op::DequantizeLinear { axis: -4, block: 0 }, &[w, ws, wz], "dw");
    let b = n.weight("b", &[2]);
    let c = n.conv(&[d, dw, b], "y");
    let back = absorb(&n.output(c)).expect("sound");
    assert_eq!(kinds(&back), ["Conv"]);
    let q = quant(&back, "w").expect("annotated");
    assert_eq!(
        (q.qtype, q.granularity, &q.zero_point[..]),
        (QType::U8, crate::ir::Granularity::Channel { axis: 0 }, &[7, 9][..])
    );
    assert_eq!(back.value(back.find("w").expect("there")).dtype, Some(DType::F32));
    assert!(quant(&back, "b").is_none());
    assert_eq!(*quant(&back, "x").expect("annotated"), QParams::tensor(QType::U8, 0.5, 128));
}

/// An operator between the halves of a pair: moves pass, others keep their integers.
#[test]
fn operators_on_codes() {
    let build = |op: Op, constant: Option<Tensor>| {
        let mut n = Net::new();
        let x = n.input("x", &[1, 4, 4, 4]);
        let (s, z) = (scalar(&mut n, "s", 0.5), zero_u8(&mut n, "z", 1));
        let q = n.node(quantize(DType::U8), &[x, s, z], "q");
        let mut inputs = vec![q];
        inputs.extend(constant.map(|t| n.constant("k", t)));
        let m = n.node(op, &inputs, "m");
        let y = n.node(DEQUANTIZE, &[m, s, z], "y");
        absorb(&n.output(y)).expect("sound")
    };
    let pool = Op::MaxPool { window: PoolAttrs { kernel: vec![2, 2], ..PoolAttrs::default() }, column_major: false };
    for (op, constant) in [
        (pool, None),
        (Op::Transpose { perm: vec![0, 2, 3, 1] }, None),
        (Op::Reshape { allowzero: false }, Some(Tensor::of::<i64>(&[2], vec![1, -1]))),
    ] {
        let back = build(op, constant);
        assert_eq!(back.node_count(), 1);
        assert!(quant(&back, "x").is_some() && quant(&back, "y").is_some());
    }
    // Adding integers is no move: the codes are made again.
    let back = build(Op::Binary(Binary::Add), Some(Tensor::scalar(1u8)));
    assert_eq!(kinds(&back), ["QuantizeLinear", "Add", "DequantizeLinear"]);
    assert!(quant(&back, "x").is_some());
}

/// Parameters that are computed, a scale of 0, half-precision scales: explicit nodes stay.
#[test]
fn what_cannot_be_an_annotation_stays() {
    let cases: [fn(&mut Net) -> ValueId; 3] = [
        |n| n.input("s", &[]),
        |n| n.constant("s", Tensor::scalar(0f32)),
        |n| n.constant("s", Tensor::scalar(half::f16::ONE)),
    ];
    for scale in cases {
        let mut n = Net::new();
        let x = n.input("x", &[1, 8]);
        let s = scale(&mut n);
        let q = n.node(quantize(DType::U8), &[x, s], "q");
        let y = n.node(DEQUANTIZE, &[q, s], "y");
        let back = absorb(&n.output(y)).expect("sound");
        assert_eq!(kinds(&back), ["QuantizeLinear", "DequantizeLinear"]);
        assert!(annotations(&back).is_empty());
    }
}

/// Codes that are read with other parameters than they were made with.
#[test]
fn reinterpreted_codes() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 8]);
    let (s, t) = (scalar(&mut n, "s", 0.5), scalar(&mut n, "t", 2.0));
    let q = n.node(quantize(DType::U8), &[x, s], "q");
    let y = n.node(DEQUANTIZE, &[q, t], "y");
    let back = absorb(&n.output(y)).expect("sound");
    assert_eq!(kinds(&back), ["QuantizeLinear", "DequantizeLinear"]);
}

/// A model that takes and gives integers.
#[test]
fn integer_inputs_and_outputs() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 8]);
    n.0.value_mut(x).dtype = Some(DType::U8);
    let s = scalar(&mut n, "s", 0.5);
    let d = n.node(DEQUANTIZE, &[x, s], "d");
    let r = n.relu(d, "r");
    let y = n.node(quantize(DType::U8), &[r, s], "y");
    let back = absorb(&n.output(y)).expect("sound");
    assert_eq!(kinds(&back), ["DequantizeLinear", "Relu", "QuantizeLinear"]);
    assert_eq!(back.value(back.outputs[0]).name, "y");
}

/// A Mul by the finished product of the scales instead of the scales themselves.
#[test]
fn folded_scale_of_an_integer_product() {
    let (sx, sw) = (0.017_f32, [0.003_1f32, 0.1, 7.7e-4]);
    let mut n = Net::new();
    let x = n.input("x", &[2, 4]);
    let (s, z) = (scalar(&mut n, "s", sx), zero_u8(&mut n, "z", 4));
    let q = n.node(quantize(DType::U8), &[x, s, z], "q");
    let w = n.constant("w", Tensor::of(&[4, 3], (0..12).map(|i| i as i8 - 6).collect()));
    let acc = n.node(Op::MatMulInteger, &[q, w, z], "acc");
    let cast = n.node(Op::Cast { to: DType::F32, saturate: true }, &[acc], "cast");
    let m = n.constant("m", Tensor::of(&[3], sw.iter().map(|s| sx * s).collect()));
    let y = n.node(Op::Binary(Binary::Mul), &[cast, m], "y");
    let back = absorb(&n.output(y)).expect("sound");
    assert_eq!(kinds(&back), ["MatMul"]);
    let found = quant(&back, "w").expect("annotated");
    for (f, s) in found.scale.iter().zip(sw) {
        assert_eq!((sx * f).to_bits(), (sx * s).to_bits());
    }
}

/// Dynamic quantization stays explicit: its parameters are computed.
#[test]
fn dynamic_quantization_stays() {
    let mut n = Net::new();
    let x = n.input("x", &[2, 4]);
    let ids: Vec<_> = ["q", "s", "z"].iter().map(|name| n.0.add_value(name, None, None).expect("fresh")).collect();
    n.0.add_node("dyn", Op::DynamicQuantizeLinear, vec![Some(x)], ids.iter().map(|&i| Some(i)).collect());
    let w = n.constant("w", Tensor::of(&[4, 3], vec![1i8; 12]));
    let acc = n.node(Op::MatMulInteger, &[ids[0], w, ids[2]], "acc");
    let cast = n.node(Op::Cast { to: DType::F32, saturate: true }, &[acc], "cast");
    let y = n.node(Op::Binary(Binary::Mul), &[cast, ids[1]], "y");
    let back = absorb(&n.output(y)).expect("sound");
    assert_eq!(kinds(&back), ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul"]);
}

/// Metadata that name a grid which does not exist, and one that the codes leave.
#[test]
fn lying_metadata() {
    let mut n = Net::new();
    let w = n.constant("w", Tensor::of(&[3], vec![-100i8, 0, 100]));
    let s = scalar(&mut n, "s", 0.5);
    let y = n.node(DEQUANTIZE, &[w, s], "y");
    n.0.metadata.push(("nnq.grid.i4".into(), "w".into()));
    let mut g = n.output(y);
    let back = absorb(&g).expect("sound");
    assert_eq!(back.value(back.outputs[0]).quant.as_ref().expect("annotated").qtype, QType::I8);
    g.metadata[0].0 = "nnq.grid.x9".into();
    assert!(absorb(&g).expect_err("no grid").to_string().contains("x9"));
}
