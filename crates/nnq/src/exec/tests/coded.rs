//! Matrix products of real numbers with weights in codes.
use super::*;
use crate::ir::{Granularity, Shape};

/// A product of real `[.., k]` with weights on a grid of so many bits.
fn product(shape: &str, [k, n]: [usize; 2], gemm: Option<bool>, granularity: Granularity, qtype: QType) -> Graph {
    let mut net = Net::new(90 + k as u64);
    let x = net.b.input("x", DType::F32, shape);
    let sizes = if gemm == Some(true) { [n, k] } else { [k, n] };
    let codes = |net: &mut Net| qtype.min() + net.n.below(qtype.levels()) as i32;
    let w = if qtype.signed {
        let codes = (0..k * n).map(|_| codes(&mut net) as i8).collect::<Vec<i8>>();
        net.b.constant("w", Tensor::of(&sizes, codes))
    } else {
        let codes = (0..k * n).map(|_| codes(&mut net) as u8).collect::<Vec<u8>>();
        net.b.constant("w", Tensor::of(&sizes, codes))
    };
    let scales = match granularity {
        Granularity::Tensor => 1,
        Granularity::Channel { axis } => sizes[axis],
        Granularity::Block { axis, size } => sizes[axis].div_ceil(size) * sizes[1 - axis],
    };
    let scale = (0..scales).map(|_| 0.0005 + net.n.below(1000) as f32 * 3e-6).collect();
    let zero_point = (0..scales).map(|_| if qtype.signed { 0 } else { codes(&mut net) }).collect();
    let value = net.b.graph().value_mut(w);
    value.dtype = Some(DType::F32);
    value.quant = Some(Arc::new(QParams { qtype, granularity, scale, zero_point }));
    let y = match gemm {
        Some(trans_b) => {
            let b = net.bias(n);
            net.b.op("gemm", Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b }, &[x, w, b])
        }
        None => net.b.op("matmul", Op::MatMul, &[x, w]),
    };
    net.finish(&[y])
}

/// What the graph means: real weights, sums in binary64.
fn meant(graph: &Graph, x: &Tensor) -> Vec<f64> {
    let node = graph.nodes().next().unwrap().1;
    let w = graph.real_constant(node.input(1).unwrap()).unwrap();
    let transposed = matches!(node.op, Op::Gemm { trans_b: true, .. });
    let [k, n] = if transposed { [w.shape()[1], w.shape()[0]] } else { [w.shape()[0], w.shape()[1]] };
    let bias = node.input(2).map(|b| graph.real_constant(b).unwrap().to_f32s().to_vec());
    let (x, w) = (x.to_f32s(), w.to_f32s());
    let at = |i: usize, c: usize| f64::from(w[if transposed { c * k + i } else { i * n + c }]);
    let element = |row: &[f32], c: usize| {
        bias.as_ref().map_or(0.0, |b| f64::from(b[c])) + (0..k).map(|i| f64::from(row[i]) * at(i, c)).sum::<f64>()
    };
    x.chunks(k).flat_map(|row| (0..n).map(move |c| (row, c))).map(|(row, c)| element(row, c)).collect()
}

fn check(graph: &Graph, shape: &[usize]) {
    let (y, kinds) = agree(graph, shape, 11);
    assert!(matches!(kinds[..], [StepKind::Coded(_)]), "{kinds:?}");
    // `agree` makes the same numbers.
    let x = Tensor::of(shape, Numbers(11).reals(shape.iter().product()).iter().map(|v| v * 3.0).collect::<Vec<f32>>());
    let want = meant(graph, &x);
    let most = want.iter().fold(0.0f64, |m, y| m.max(y.abs()));
    for (y, want) in y[0].to_f32s().iter().zip(&want) {
        // Sums of binary32 of at most 300 terms.
        assert!((f64::from(*y) - want).abs() < 1e-5 * most, "{y}, meant {want}");
    }
}

#[test]
fn simulator_and_engine_agree_and_give_what_is_meant() {
    let grid = |bits, signed| QType { bits, signed, narrow: false };
    for (gemm, k, n, rows) in [(Some(true), 37, 19, 5), (Some(false), 64, 130, 1), (None, 300, 10, 33), (None, 1, 1, 2)]
    {
        let (along, across) = if gemm == Some(true) { (1, 0) } else { (0, 1) };
        for qtype in [grid(2, true), grid(3, true), grid(4, true), grid(4, false), grid(8, true), grid(8, false)] {
            for granularity in [
                Granularity::Tensor,
                Granularity::Channel { axis: across },
                Granularity::Block { axis: along, size: 32 },
                Granularity::Block { axis: along, size: 7 },
            ] {
                check(&product(&format!("N,{k}"), [k, n], gemm, granularity, qtype), &[rows, k]);
            }
        }
    }
    check(&product("N,T,20", [20, 13], None, Granularity::Block { axis: 0, size: 8 }, grid(4, true)), &[3, 4, 20]);
}

/// Scales along other axes have no such step: the product runs in floating point.
#[test]
fn other_scales_run_in_floating_point() {
    let graph = product("N,8", [8, 6], None, Granularity::Block { axis: 1, size: 3 }, QType::I8);
    let program = lower::lower(&graph, Profile::Dyadic).unwrap();
    assert!(matches!(program.steps[0].kind, StepKind::Float(Op::MatMul)));
    let mut sim = sim::Session::new(Arc::new(program), 1).unwrap();
    let x = Tensor::of(&[1, 8], vec![1.0f32; 8]);
    let y = sim.run(vec![x.clone()]).unwrap().remove(0);
    for (y, want) in y.to_f32s().iter().zip(meant(&graph, &x)) {
        assert!((f64::from(*y) - want).abs() < 1e-4, "{y}, meant {want}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let mut graph = product("N,8", [8, 6], None, Granularity::Channel { axis: 1 }, QType::I8);
    let x = graph.inputs[0];
    graph.value_mut(x).shape = Some(Shape::fixed(&[2, 8]));
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let mut session = int::Session::new(program, &int::Options { threads: 1, ..Default::default() }).unwrap();
    let e = session.run(vec![Tensor::of(&[2, 7], vec![0.0f32; 14])]).unwrap_err().to_string();
    assert!(e.contains("[2, 7]"), "{e}");
}
