use super::*;
use crate::{
    ErrorKind,
    ir::op::{Binary, PoolAttrs},
};

fn gemm(trans_b: bool) -> Op {
    Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b }
}

/// A bias as the exporters round it.
fn bias_of(n: &mut Net, name: &str, codes: &[i32], scale: Vec<f32>) -> ValueId {
    let id = n.constant(name, Tensor::of(&[codes.len()], codes.to_vec()));
    let q = QParams::channel(QType::I32, 0, scale);
    n.quantize(id, q);
    id
}

fn product_scales(x: &QParams, w: &QParams) -> Vec<f32> {
    w.scale.iter().map(|s| x.scale[0] * s).collect()
}

/// `x -> Conv -> Relu -> y`, everything quantized.
fn conv_relu(y: QParams) -> Graph {
    let mut n = Net::new();
    let x = n.input("x", &[1, 3, 8, 8]);
    n.quantize(x, mixed(0.02));
    let w = n.weight("w", &[4, 3, 3, 3]);
    n.quantize(w, channels(0, 4));
    let b = bias_of(&mut n, "b", &[100, -7, 0, 12345], product_scales(&mixed(0.02), &channels(0, 4)));
    let c = n.conv(&[x, w, b], "c");
    let r = n.relu(c, "y");
    n.quantize(r, y);
    n.output(r)
}

#[test]
fn conv_and_relu_as_qdq() {
    let g = conv_relu(positive(0.05));
    let q = to_qdq(&g).expect("sound");
    assert_eq!(
        kinds(&q),
        [
            "QuantizeLinear",
            "DequantizeLinear",
            "DequantizeLinear",
            "DequantizeLinear",
            "Conv",
            "Relu",
            "QuantizeLinear",
            "DequantizeLinear"
        ]
    );
    // The weight is codes under its own name, without a zero point; u8 with zero point 0 needs none either.
    let w = q.constant(q.find("w").expect("there")).expect("a constant");
    assert_eq!(w.dtype(), DType::I8);
    for (_, node) in q.nodes() {
        let zero = node.input(2).map(|z| q.constant(z).is_some());
        match &node.op {
            Op::QuantizeLinear { .. } if node.input(0) == q.find("x") => assert_eq!(zero, Some(true)),
            Op::QuantizeLinear { .. } => assert_eq!(zero, None),
            Op::DequantizeLinear { axis, .. } if node.input(0) == q.find("w") => assert_eq!((*axis, zero), (0, None)),
            _ => {}
        }
    }
    assert!(q.nodes().any(|(_, n)| n.name == "c_node") && q.nodes().any(|(_, n)| n.name == "y_node"));
    come_back(&g);
}

#[test]
fn conv_and_relu_as_one_operator() {
    let q = to_qoperator(&conv_relu(positive(0.05))).expect("sound");
    assert_eq!(kinds(&q), ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]);
}

/// A symmetric grid does not cut where Relu does: the codes are clipped.
#[test]
fn relu_that_the_grid_does_not_do() {
    let g = conv_relu(QParams::tensor(QType::I8, 0.05, 0));
    let q = to_qoperator(&g).expect("sound");
    assert_eq!(kinds(&q), ["QuantizeLinear", "QLinearConv", "Clip", "DequantizeLinear"]);
    let clip = q.nodes().find(|(_, n)| matches!(n.op, Op::Clip)).expect("there").1;
    let bound = |i: usize| q.constant(clip.input(i).expect("there")).expect("a constant").to_i64s().expect("ints");
    assert_eq!((bound(1), bound(2)), (vec![0], vec![127]));
    come_back(&g);
    let back = absorb(&file(&q)).expect("sound");
    assert_eq!(kinds(&back), ["Conv", "Relu"]);
    // Integer Clip came with opset 12.
    let mut old = g;
    old.opset = 10;
    assert_eq!(file(&to_qoperator(&old).expect("sound")).opset, 12);
}

#[test]
fn relu6_on_and_off_the_grid() {
    let six = |y: QParams| {
        let mut g = conv_relu(y);
        let lo = g.add_constant("lo", Arc::new(Tensor::scalar(0f32)));
        let hi = g.add_constant("hi", Arc::new(Tensor::scalar(6f32)));
        let id = g.nodes().find(|(_, n)| n.name == "y_node").expect("there").0;
        let node = g.node_mut(id);
        node.op = Op::Clip;
        node.inputs.extend([Some(lo), Some(hi)]);
        g
    };
    // 255 steps of 6 / 255 end at 6; with larger steps code 240 is 6 and those above are cut.
    let fits = six(positive(6.0 / 255.0));
    assert_eq!(kinds(&to_qoperator(&fits).expect("sound")), ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]);
    come_back(&fits);
    let beyond = six(positive(0.025));
    let q = to_qoperator(&beyond).expect("sound");
    assert_eq!(kinds(&q), ["QuantizeLinear", "QLinearConv", "Clip", "DequantizeLinear"]);
    come_back(&beyond);
    let back = absorb(&file(&q)).expect("sound");
    let clip = back.nodes().find(|(_, n)| matches!(n.op, Op::Clip)).expect("there").1;
    assert!(clip.input(1).is_none());
    assert_eq!(back.constant(clip.input(2).expect("max")).expect("constant").to_f32s(), [240.0 * 0.025]);
}

#[test]
fn real_outputs() {
    let mut n = Net::new();
    let x = n.input("x", &[2, 3, 5, 5]);
    n.quantize(x, mixed(0.02));
    let w = n.weight("w", &[4, 3, 1, 1]);
    n.quantize(w, channels(0, 4));
    let b = bias_of(&mut n, "b", &[1, 2, 3, 4], product_scales(&mixed(0.02), &channels(0, 4)));
    let y = n.conv(&[x, w, b], "y");
    let g = n.output(y);
    let q = to_qoperator(&g).expect("sound");
    assert_eq!(kinds(&q), ["QuantizeLinear", "ConvInteger", "Add", "Cast", "Mul", "Mul"]);
    let bias = q.constant(q.find("b").expect("there")).expect("a constant");
    assert_eq!((bias.dtype(), bias.shape()), (DType::I32, &[4usize, 1, 1][..]));
    come_back(&g);
    assert_eq!(kinds(&absorb(&file(&q)).expect("sound")), ["Conv"]);
}

#[test]
fn gemm_forms() {
    for trans_b in [false, true] {
        for with_bias in [false, true] {
            for quantized in [false, true] {
                let mut n = Net::new();
                let x = n.input("x", &[2, 6]);
                n.quantize(x, mixed(0.02));
                let (shape, axis) = if trans_b { ([5, 6], 0) } else { ([6, 5], 1) };
                let w = n.weight("w", &shape);
                n.quantize(w, channels(axis, 5));
                let mut inputs = vec![x, w];
                if with_bias {
                    let scale = product_scales(&mixed(0.02), &channels(axis, 5));
                    inputs.push(bias_of(&mut n, "b", &[9, -8, 7, -6, 5], scale));
                }
                let y = n.node(gemm(trans_b), &inputs, "y");
                if quantized {
                    n.quantize(y, mixed(0.1));
                }
                let g = n.output(y);
                let case = format!("trans_b {trans_b} bias {with_bias} quantized {quantized}");
                let q = to_qoperator(&g).expect("sound");
                let want: &[&str] = match (with_bias, quantized) {
                    (true, true) => &["QuantizeLinear", "Unsqueeze", "QLinearConv", "Squeeze", "DequantizeLinear"],
                    (false, true) => &["QuantizeLinear", "QLinearMatMul", "DequantizeLinear"],
                    (true, false) => &["QuantizeLinear", "MatMulInteger", "Add", "Cast", "Mul", "Mul"],
                    (false, false) => &["QuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"],
                };
                assert_eq!(kinds(&q), want, "{case}");
                let back = absorb(&file(&q)).expect("sound");
                assert_eq!(kinds(&back), [if with_bias { "Gemm" } else { "MatMul" }], "{case}");
                let qdq = absorb(&file(&to_qdq(&g).expect("sound"))).expect("sound");
                assert_eq!(annotations(&qdq), annotations(&g), "{case}");
                // The weight may come back turned over; its elements and scales are the same.
                let matrix = |g: &Graph| {
                    let node = g.nodes().next().expect("there").1;
                    let w = node.input(1).expect("there");
                    let t = g.real_constant(w).expect("sound");
                    let turned = !matches!(node.op, Op::Gemm { trans_b: true, .. });
                    let (rows, columns) = (t.shape()[0], t.shape()[1]);
                    let at = |r: usize, c: usize| t.to_f32s()[r * columns + c];
                    if turned {
                        (0..columns)
                            .flat_map(|c| (0..rows).map(move |r| (r, c)))
                            .map(|(r, c)| at(r, c))
                            .collect::<Vec<_>>()
                    } else {
                        t.to_f32s()
                    }
                };
                let rounded = absorb(&file(&to_qdq(&g).expect("sound"))).expect("sound");
                assert_eq!(matrix(&back), matrix(&rounded), "{case}");
                let rest = |g: &Graph| annotations(g).into_iter().filter(|a| !a.starts_with("w ")).collect::<Vec<_>>();
                assert_eq!(rest(&back), rest(&g), "{case}");
            }
        }
    }
}

#[test]
fn matmul_of_computed_values() {
    for quantized in [false, true] {
        let mut n = Net::new();
        let a = n.input("a", &[2, 4, 6]);
        let b = n.input("b", &[2, 6, 5]);
        n.quantize(a, mixed(0.02));
        n.quantize(b, QParams::tensor(QType::I8, 0.03, 0));
        let y = n.node(Op::MatMul, &[a, b], "y");
        if quantized {
            n.quantize(y, mixed(0.1));
        }
        let g = n.output(y);
        let q = to_qoperator(&g).expect("sound");
        assert!(kinds(&q).contains(&if quantized { "QLinearMatMul" } else { "MatMulInteger" }));
        if quantized {
            come_back(&g);
        }
    }
}

/// A bias that is still real is rounded by the exporter: `rne(b / (sx * sw))` in binary64.
#[test]
fn real_bias() {
    let mut g = conv_relu(positive(0.05));
    let b = g.find("b").expect("there");
    let real = [0.123f32, -4.5, 0.0, 1e-7];
    let v = g.value_mut(b);
    v.constant = Some(Arc::new(Tensor::of(&[4], real.to_vec())));
    v.quant = None;
    let scales: Vec<f64> = channels(0, 4).scale.iter().map(|&s| f64::from(0.02f32) * f64::from(s)).collect();
    let want: Vec<i32> = real.iter().zip(&scales).map(|(&b, s)| (f64::from(b) / s).round_ties_even() as i32).collect();
    for q in [to_qdq(&g), to_qoperator(&g)] {
        let q = q.expect("sound");
        assert_eq!(q.constant(q.find("b").expect("there")).expect("constant").as_slice::<i32>().expect("i32"), want);
    }
    // One that does not fit is refused and named.
    g.value_mut(b).constant = Some(Arc::new(Tensor::of(&[4], vec![1e9f32; 4])));
    let e = to_qdq(&g).expect_err("too large");
    assert!(e.to_string().contains("'b'") && e.to_string().contains("32 bits"), "{e}");
}

/// A value that one reader takes quantized and another in float.
#[test]
fn quantization_point_beside_a_float_reader() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 3, 8, 8]);
    let p = n.node(Op::Identity, &[x], "p");
    n.quantize(p, mixed(0.02));
    let w = n.weight("w", &[3, 3, 1, 1]);
    n.quantize(w, channels(0, 3));
    let c = n.conv(&[p, w], "c");
    n.quantize(c, mixed(0.04));
    let y = n.node(Op::Binary(Binary::Add), &[c, x], "y");
    let g = n.output(y);
    let q = to_qdq(&g).expect("sound");
    assert!(!kinds(&q).contains(&"Identity"));
    assert!(q.nodes().any(|(_, n)| n.name == "p_node" && matches!(n.op, Op::QuantizeLinear { .. })));
    come_back(&g);
    let back = absorb(&file(&q)).expect("sound");
    assert_eq!(kinds(&back), ["Identity", "Conv", "Add"]);
    assert!(back.nodes().any(|(_, n)| n.name == "p_node"));
    assert!(back.value(back.find("x").expect("there")).quant.is_none());
}

/// A point between two grids.
#[test]
fn quantization_point_between_grids() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 8]);
    n.quantize(x, mixed(0.02));
    let p = n.node(Op::Identity, &[x], "p");
    n.quantize(p, mixed(0.03));
    let y = n.node(Op::Binary(Binary::Add), &[p, x], "y");
    n.quantize(y, mixed(0.05));
    let g = n.output(y);
    come_back(&g);
}

#[test]
fn residual_add_pool_and_moves() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 4, 8, 8]);
    n.quantize(x, positive(0.02));
    let w = n.weight("w", &[4, 4, 1, 1]);
    n.quantize(w, channels(0, 4));
    let c = n.conv(&[x, w], "c");
    n.quantize(c, mixed(0.04));
    let s = n.node(Op::Binary(Binary::Add), &[c, x], "s");
    let r = n.relu(s, "r");
    n.quantize(r, positive(0.05));
    let window = PoolAttrs { kernel: vec![2, 2], strides: vec![2, 2], ..PoolAttrs::default() };
    let m = n.node(Op::MaxPool { window, column_major: false }, &[r], "m");
    n.quantize(m, positive(0.05));
    let f = n.node(Op::Flatten { axis: 1 }, &[m], "f");
    n.quantize(f, positive(0.05));
    let v = n.weight("v", &[10, 64]);
    n.quantize(v, channels(0, 10));
    let y = n.node(gemm(true), &[f, v], "y");
    let g = n.output(y);
    let q = to_qoperator(&g).expect("sound");
    assert_eq!(
        kinds(&q),
        [
            "QuantizeLinear",
            "QLinearConv",
            "DequantizeLinear",
            "DequantizeLinear",
            "Add",
            "Relu",
            "QuantizeLinear",
            "MaxPool",
            "Flatten",
            "MatMulInteger",
            "Cast",
            "Mul",
            "Mul"
        ]
    );
    let back = absorb(&file(&q)).expect("sound");
    assert_eq!(kinds(&back), ["Conv", "Add", "Relu", "MaxPool", "Flatten", "MatMul"]);
    let qdq = absorb(&file(&to_qdq(&g).expect("sound"))).expect("sound");
    assert_eq!(annotations(&qdq), annotations(&g));
}

/// Fewer than 8 bits: the next larger type, a Clip where values are computed, the grid in the metadata.
#[test]
fn small_grids() {
    let i4 = QType { bits: 4, signed: true, narrow: true };
    let u4 = QType { bits: 4, signed: false, narrow: false };
    let mut n = Net::new();
    let x = n.input("x", &[1, 3, 8, 8]);
    n.quantize(x, QParams::tensor(u4, 0.1, 3));
    let w = n.weight("w", &[4, 3, 1, 1]);
    n.quantize(w, QParams::channel(i4, 0, vec![0.1, 0.2, 0.3, 0.4]));
    let c = n.conv(&[x, w], "c");
    n.quantize(c, QParams::tensor(u4, 0.2, 0));
    let y = n.relu(c, "y");
    n.quantize(y, QParams::tensor(QType::I8_NARROW, 0.2, 0));
    let g = n.output(y);
    let q = to_qdq(&g).expect("sound");
    assert_eq!(
        q.metadata.iter().map(|m| m.0.as_str()).collect::<Vec<_>>(),
        ["nnq.grid.i4n", "nnq.grid.i8n", "nnq.grid.u4"]
    );
    let w = q.constant(q.find("w").expect("there")).expect("constant");
    assert!(w.dtype() == DType::I8 && w.to_i64s().expect("ints").iter().all(|c| (-7..=7).contains(c)));
    // x is cut at (0 - 3) * 0.1 and (15 - 3) * 0.1 before it is quantized.
    let clip = q.nodes().find(|(_, n)| matches!(n.op, Op::Clip)).expect("there").1;
    let bound = |i: usize| q.constant(clip.input(i).expect("there")).expect("a constant").to_f32s()[0];
    assert_eq!((bound(1), bound(2)), (-3.0 * 0.1f32, 12.0 * 0.1f32));
    come_back(&g);
}

#[test]
fn sixteen_bits_and_blocks() {
    let mut n = Net::new();
    let x = n.input("x", &[4, 6]);
    n.quantize(x, QParams::tensor(QType { bits: 16, signed: false, narrow: false }, 0.001, 40000));
    let w = n.weight("w", &[6, 4]);
    let blocks = QParams {
        qtype: QType::I8,
        granularity: crate::ir::Granularity::Block { axis: 0, size: 4 },
        scale: (1..=8).map(|i| i as f32 / 100.0).collect(),
        zero_point: vec![0, 1, 0, 0, 0, 0, 0, -3],
    };
    n.quantize(w, blocks);
    let y = n.node(Op::MatMul, &[x, w], "y");
    n.quantize(y, QParams::tensor(QType { bits: 16, signed: true, narrow: false }, 0.01, 0));
    let g = n.output(y);
    come_back(&g);
    // Both came with opset 21.
    assert_eq!(file(&to_qdq(&g).expect("sound")).opset, 21);
    assert!(kinds(&to_qoperator(&g).expect("sound")).contains(&"MatMul"));
}

#[test]
fn per_channel_needs_opset_13() {
    let mut g = conv_relu(positive(0.05));
    g.opset = 11;
    assert_eq!(file(&to_qdq(&g).expect("sound")).opset, 13);
    assert_eq!(file(&to_qoperator(&g).expect("sound")).opset, 11);
}

#[test]
fn scales_are_shared() {
    let mut n = Net::new();
    let mut x = n.input("x", &[1, 8]);
    n.quantize(x, mixed(0.02));
    for i in 0..5 {
        x = n.node(Op::Unary(Unary::Sigmoid), &[x], &format!("v{i}"));
        n.quantize(x, mixed(0.02));
    }
    let q = to_qdq(&n.output(x)).expect("sound");
    assert_eq!(
        q.values().filter(|(_, v)| v.constant.is_some()).count(),
        2,
        "one scale and one zero point for six values"
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut g = conv_relu(positive(0.05));
    let w = g.find("w").expect("there");
    g.value_mut(w).quant = Some(Arc::new(channels(0, 3)));
    let e = to_qdq(&g).expect_err("three scales for four channels");
    assert!(e.to_string().contains("'w'") && e.kind() == ErrorKind::Shape, "{e}");
    g.value_mut(w).quant = Some(Arc::new(channels(0, 4)));
    g.value_mut(w).constant = Some(Arc::new(Tensor::of(&[4, 3, 3, 3], vec![f32::NAN; 108])));
    let e = to_qdq(&g).expect_err("NaN");
    assert!(e.to_string().contains("'w'") && e.to_string().contains("NaN"), "{e}");
    g.value_mut(w).constant = Some(Arc::new(Tensor::of(&[4, 3, 3, 3], vec![-128i8; 108])));
    let e = to_qoperator(&g).expect_err("off the grid");
    assert!(e.to_string().contains("'w'") && e.to_string().contains("-128"), "{e}");
}

#[test]
fn constants_and_inputs_as_outputs() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 8]);
    n.quantize(x, mixed(0.02));
    let w = n.weight("w", &[4]);
    n.quantize(w, QParams::tensor(QType::I8, 0.01, 0));
    let y = n.node(Op::Identity, &[x], "y");
    n.0.outputs.push(w);
    let g = n.output(y);
    let q = to_qdq(&g).expect("sound");
    let names: Vec<_> = q.outputs.iter().map(|&o| q.value(o).name.clone()).collect();
    assert_eq!(names, ["w", "y"]);
    let back = absorb(&file(&q)).expect("sound");
    assert_eq!(annotations(&back), annotations(&g));
}
