//! Values that products quantize as they come.
use super::*;
use crate::ir::op::{Binary, Cell, RecurrentAttrs};

const GEMM: Op = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };

impl Net {
    fn live(&mut self, id: ValueId) -> ValueId {
        self.0.value_mut(id).dynamic = Some(crate::ir::Dynamic::Tensor);
        id
    }
    fn codes(&mut self, name: &str, shape: &[usize], q: QParams) -> ValueId {
        let n: usize = shape.iter().product();
        let w = self.constant(name, Tensor::of(shape, (0..n).map(|i| (i * 37 % 251) as i8).collect::<Vec<i8>>()));
        self.0.value_mut(w).dtype = Some(DType::F32);
        self.quantize(w, q);
        w
    }
}

/// Two convolutions share one quantization; a matrix with a transposed weight; a static product in between.
fn net() -> Graph {
    let mut n = Net::new();
    let x = n.input("x", &[1, 3, 4, 4]);
    n.live(x);
    let any = |axis, count| QParams::channel(QType::I8, axis, (0..count).map(|i| 0.01 + i as f32 / 512.0).collect());
    let w1 = n.codes("w1", &[4, 3, 1, 1], any(0, 4));
    let b1 = n.weight("b1", &[4]);
    let a = n.conv(&[x, w1, b1], "a");
    let mut zeros = any(0, 4);
    zeros.zero_point = vec![3, 0, -7, 1];
    let w2 = n.codes("w2", &[4, 3, 1, 1], zeros);
    let c = n.conv(&[x, w2], "c");
    n.quantize(c, mixed(0.25));
    let w3 = n.codes("w3", &[4, 4, 1, 1], any(0, 4));
    let d = n.conv(&[c, w3], "d");
    let s = n.node(Op::Binary(Binary::Add), &[a, d], "s");
    let f = n.node(Op::Flatten { axis: 1 }, &[s], "f");
    n.live(f);
    let w4 = n.codes("w4", &[5, 64], QParams::tensor(QType::I8, 0.03, 0));
    let b4 = n.weight("b4", &[5]);
    let y = n.node(GEMM, &[f, w4, b4], "y");
    let mut g = n.output(y);
    crate::ir::infer::infer(&mut g).expect("sound");
    g
}

fn live(g: &Graph) -> Vec<String> {
    g.values().filter(|(_, v)| v.dynamic.is_some()).map(|(_, v)| v.name.clone()).collect()
}

#[test]
fn annotations_come_back() {
    let g = net();
    for explicit in [to_qdq(&g).expect("sound"), to_qoperator(&g).expect("sound")] {
        let count = |name: &str| kinds(&explicit).iter().filter(|k| **k == name).count();
        assert_eq!((count("DynamicQuantizeLinear"), count("MatMulInteger")), (2, 1), "{:?}", kinds(&explicit));
        assert!(count("ConvInteger") >= 2);
        crate::ir::verify(&explicit).expect("sound");
        let back = absorb(&file(&explicit)).expect("sound");
        crate::ir::verify(&back).expect("sound");
        assert_eq!(live(&back), ["x", "f"], "{}", back.to_text());
        assert!(
            !kinds(&back).iter().any(|k| ["DynamicQuantizeLinear", "Cast", "Mul"].contains(k)),
            "{:?}",
            kinds(&back)
        );
        let zero = |g: &Graph| {
            let q = g
                .values()
                .filter_map(|(_, v)| v.quant.clone())
                .find(|q| q.zero_point.len() == 4 && q.zero_point[0] == 3);
            q.expect("the weight with zero points")
        };
        assert_eq!(zero(&back), zero(&g));
        let again = absorb(&file(&to_qdq(&back).expect("sound"))).expect("sound");
        assert_eq!((live(&again), annotations(&again)), (live(&back), annotations(&back)));
    }
}

#[test]
fn weights_of_more_than_a_byte_are_refused_by_name() {
    let mut n = Net::new();
    let x = n.input("x", &[1, 3]);
    n.live(x);
    let w = n.constant("w", Tensor::of(&[3, 2], vec![1i16, 2, 300, -4, 5, 6]));
    n.0.value_mut(w).dtype = Some(DType::F32);
    n.quantize(w, QParams::tensor(QType { bits: 16, signed: true, narrow: false }, 0.5, 0));
    let y = n.node(Op::MatMul, &[x, w], "y");
    let e = to_qdq(&n.output(y)).expect_err("too wide").to_string();
    assert!(e.contains("'w'") && e.contains("16 bits") && e.contains("8 bits or fewer"), "{e}");
}

/// What is not exactly this stays as it is: the graph means what it meant.
#[test]
fn other_forms_stay_nodes() {
    for case in ["scale twice", "other zero point", "bias elsewhere", "codes are an output"] {
        let mut n = Net::new();
        let x = n.input("x", &[2, 3]);
        let value = |n: &mut Net, name: &str, dtype| n.0.add_value(name, Some(dtype), None).expect("fresh");
        let (q, s, z) = (value(&mut n, "q", DType::U8), value(&mut n, "s", DType::F32), value(&mut n, "z", DType::U8));
        n.0.add_node("dql", Op::DynamicQuantizeLinear, vec![Some(x)], vec![Some(q), Some(s), Some(z)]);
        let w = n.constant("w", Tensor::of(&[3, 2], vec![1i8, -2, 3, -4, 5, -6]));
        let zero = if case == "other zero point" { n.constant("z0", Tensor::scalar(3u8)) } else { z };
        let acc = value(&mut n, "acc", DType::I32);
        n.0.add_node("mm", Op::MatMulInteger, vec![Some(q), Some(w), Some(zero)], vec![Some(acc)]);
        let cast = n.node(Op::Cast { to: DType::F32, saturate: true }, &[acc], "cast");
        let sw = n.constant("sw", Tensor::scalar(0.5f32));
        let mut y = if case == "scale twice" {
            // The order of the multiplications decides the last bit.
            let half = n.node(Op::Binary(Binary::Mul), &[cast, s], "half");
            n.node(Op::Binary(Binary::Mul), &[half, sw], "y")
        } else {
            let scale = n.node(Op::Binary(Binary::Mul), &[s, sw], "scale");
            n.node(Op::Binary(Binary::Mul), &[cast, scale], "y")
        };
        if case == "bias elsewhere" {
            let b = n.weight("b", &[2, 1]);
            y = n.node(Op::Binary(Binary::Add), &[y, b], "sum");
        }
        let mut g = n.output(y);
        if case == "codes are an output" {
            g.outputs.push(q);
        }
        let back = absorb(&file(&g)).expect("sound");
        match case {
            // Rows of a bias are no channels: the product is recognised without it.
            "bias elsewhere" => assert_eq!(kinds(&back), ["MatMul", "Add"]),
            // Whoever wants the codes gets them.
            "codes are an output" => assert!(kinds(&back).contains(&"DynamicQuantizeLinear") && live(&back) == ["x"]),
            _ => assert_eq!((kinds(&back), live(&back)), (kinds(&g), vec![]), "{case}"),
        }
    }
}

/// Products by row are written with real inputs, and known again by their names.
#[test]
fn rows_come_back() {
    let mut n = Net::new();
    let x = n.input("x", &[2, 3, 8]);
    n.0.value_mut(x).dynamic = Some(crate::ir::Dynamic::Row);
    let grid = QParams::channel(QType::I8, 1, (0..5).map(|i| 0.01 + i as f32 / 512.0).collect());
    let w = n.codes("w", &[8, 5], grid);
    let y = n.node(Op::MatMul, &[x, w], "y");
    let mut g = n.output(y);
    crate::ir::infer::infer(&mut g).expect("sound");
    for explicit in [to_qdq(&g).expect("sound"), to_qoperator(&g).expect("sound")] {
        assert_eq!(kinds(&explicit), ["DequantizeLinear", "MatMul"]);
        let back = absorb(&file(&explicit)).expect("sound");
        assert_eq!(annotations(&back), annotations(&g));
        let dynamic: Vec<_> = back.values().filter_map(|(_, v)| v.dynamic).collect();
        assert_eq!(dynamic, [crate::ir::Dynamic::Row]);
    }
}

/// Products of two values: on one grid each as MatMulInteger, by row with real operands and known again by name.
#[test]
fn products_of_two_values_come_back() {
    for (of, explicit_kinds) in [
        (
            crate::ir::Dynamic::Tensor,
            &["DynamicQuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"][..],
        ),
        (crate::ir::Dynamic::Row, &["MatMul"]),
    ] {
        let mut n = Net::new();
        let (x, w) = (n.input("x", &[2, 3, 8]), n.input("z", &[2, 8, 5]));
        for v in [x, w] {
            n.0.value_mut(v).dynamic = Some(of);
        }
        let y = n.node(Op::MatMul, &[x, w], "y");
        let mut g = n.output(y);
        crate::ir::infer::infer(&mut g).expect("sound");
        for explicit in [to_qdq(&g).expect("sound"), to_qoperator(&g).expect("sound")] {
            assert_eq!(kinds(&explicit), explicit_kinds);
            let back = absorb(&file(&explicit)).expect("sound");
            assert_eq!(kinds(&back), ["MatMul"]);
            let dynamic: Vec<_> = back.values().filter_map(|(_, v)| v.dynamic).collect();
            assert_eq!(dynamic, [of; 2]);
        }
    }
}

/// A value has one kind of grid: a file that asks for two is refused.
#[test]
fn two_kinds_of_grids_for_one_value_are_refused() {
    let mut n = Net::new();
    let x = n.input("x", &[2, 3, 8]);
    n.0.value_mut(x).dynamic = Some(crate::ir::Dynamic::Row);
    let w = n.codes("w", &[8, 5], QParams::tensor(QType::I8, 0.01, 0));
    let y = n.node(Op::MatMul, &[x, w], "y");
    let w = n.codes("w2", &[1, 4, 8], QParams::tensor(QType::I8, 0.01, 0));
    let r = n.codes("r2", &[1, 4, 4], QParams::tensor(QType::I8, 0.01, 0));
    let z = n.node(Op::Recurrent(RecurrentAttrs::new(Cell::Rnn)), &[x, w, r], "z");
    let mut g = n.output(y);
    g.outputs.push(z);
    crate::ir::infer::infer(&mut g).expect("sound");
    let mut explicit = to_qdq(&g).expect("sound");
    assert!(absorb(&file(&explicit)).is_ok());
    let rows = explicit.metadata.iter_mut().find(|(key, _)| key == "nnq.rows").expect("by row");
    let (product, layer) = rows.1.split_once('\n').expect("two names");
    let (product, layer) = (product.to_owned(), layer.to_owned());
    rows.1 = product;
    explicit.metadata.push(("nnq.dynamic".into(), layer));
    let e = absorb(&file(&explicit)).unwrap_err().to_string();
    assert!(e.contains("value 'x'") && e.contains("one for each row") && e.contains("nnq.rows"), "{e}");
}
