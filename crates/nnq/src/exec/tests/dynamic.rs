//! Products of values that are quantized as they come.
use super::*;
use crate::ErrorKind;

impl Net {
    /// A real input that products quantize as it comes.
    fn live_input(&mut self, shape: &str) -> ValueId {
        let x = self.b.input("x", DType::F32, shape);
        self.live(x)
    }
    fn live(&mut self, v: ValueId) -> ValueId {
        self.b.graph().value_mut(v).dynamic = Some(crate::ir::Dynamic::Tensor);
        v
    }
}

fn products(kinds: &[StepKind]) -> usize {
    kinds
        .iter()
        .filter(|k| matches!(k, StepKind::Product(p) if matches!(p.out, lower::ProductOut::Dynamic { .. })))
        .count()
}

#[test]
fn convolutions() {
    let attrs = |pads: [i64; 4], strides: [usize; 2], dilations: [usize; 2]| ConvAttrs {
        pads: pads.to_vec(),
        strides: strides.to_vec(),
        dilations: dilations.to_vec(),
        ..Default::default()
    };
    let cases: &[(usize, usize, [usize; 2], usize, ConvAttrs)] = &[
        (3, 16, [3, 3], 1, attrs([1, 1, 1, 1], [1, 1], [1, 1])),
        (3, 7, [7, 7], 1, attrs([3, 3, 3, 3], [2, 2], [1, 1])),
        (1, 5, [5, 3], 1, attrs([2, 1, 0, 1], [1, 1], [1, 1])),
        (17, 33, [1, 1], 1, ConvAttrs::default()),
        (16, 8, [1, 1], 1, attrs([0, 0, 0, 0], [2, 2], [1, 1])),
        (64, 70, [3, 3], 1, attrs([1, 1, 1, 1], [2, 1], [1, 1])),
        (24, 24, [3, 3], 24, attrs([1, 1, 1, 1], [1, 1], [1, 1])),
        (40, 40, [5, 5], 40, attrs([2, 2, 2, 2], [2, 2], [1, 1])),
        (12, 18, [3, 3], 3, attrs([1, 0, 1, 2], [1, 2], [2, 1])),
    ];
    for (i, (c_in, c_out, kernel, group, attrs)) in cases.iter().enumerate() {
        for (batch, h, w) in [(1, 9, 11), (3, 8, 7)] {
            let mut net = Net::new(90 + i as u64);
            let x = net.live_input(&format!("N,{c_in},H,W"));
            let y = net.conv(x, *c_in, *c_out, *kernel, *group, attrs.clone());
            let (_, kinds) = agree(&net.finish(&[y]), &[batch, *c_in, h, w], 5 + i as u64);
            assert_eq!((products(&kinds), kinds.len()), (1, 1), "{c_in} {c_out} {kernel:?}");
        }
    }
}

#[test]
fn rows_of_numbers() {
    // One-dimensional convolutions; matrices with the output channel last and first; stacks of matrices.
    let mut net = Net::new(7);
    let x = net.live_input("N,6,T");
    let w = net.weight(&[10, 6, 5], 0);
    let b = net.bias(10);
    let y = net.b.op("conv", Op::Conv(ConvAttrs { pads: vec![2, 2], group: 1, ..Default::default() }), &[x, w, b]);
    agree(&net.finish(&[y]), &[2, 6, 31], 3);
    for (trans_b, k, n, rows) in [(true, 37, 19, 5), (false, 64, 33, 1), (false, 1, 1, 4), (true, 300, 10, 17)] {
        let mut net = Net::new(70 + k as u64);
        let x = net.live_input(&format!("N,{k}"));
        let w = if trans_b { net.weight(&[n, k], 0) } else { net.weight(&[k, n], 1) };
        let b = net.bias(n);
        let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b };
        let y = net.b.op("gemm", gemm, &[x, w, b]);
        let (_, kinds) = agree(&net.finish(&[y]), &[rows, k], 9);
        assert_eq!((products(&kinds), kinds.len()), (1, 1));
    }
    let mut net = Net::new(31);
    let x = net.live_input("N,T,20");
    let w = net.weight(&[20, 13], 1);
    let y = net.b.op("matmul", Op::MatMul, &[x, w]);
    agree(&net.finish(&[y]), &[3, 4, 20], 1);
}

/// Two convolutions of different padding and a float reader of one value, a sum, and a static product behind a dynamic one.
fn mixed() -> Graph {
    let mut net = Net::new(11);
    let x = net.live_input("N,3,H,W");
    let same = |n| ConvAttrs { pads: vec![n; 4], ..Default::default() };
    let c = net.conv(x, 3, 16, [3, 3], 1, same(1));
    let r = net.b.op("relu", Op::Unary(Unary::Relu), &[c]);
    net.live(r);
    let strided = |pads: i64| ConvAttrs { strides: vec![2, 2], ..same(pads) };
    let a = net.conv(r, 16, 24, [3, 3], 1, strided(1));
    let b = net.conv(r, 16, 24, [1, 1], 1, strided(0));
    let sum = net.b.op("sum", Op::Binary(Binary::Add), &[a, b]);
    let relu = net.b.op("relu", Op::Unary(Unary::Relu), &[sum]);
    net.any_grid(relu);
    let d = net.conv(relu, 24, 8, [3, 3], 1, same(1));
    net.live(d);
    let e = net.conv(d, 8, 5, [3, 3], 1, same(1));
    let pooled = net.b.op("pool", Op::GlobalAveragePool, &[e]);
    let real = net.b.op("mean", Op::GlobalAveragePool, &[r]);
    net.finish(&[pooled, real])
}

#[test]
fn readers_share_codes_and_others_read_real_numbers() {
    let graph = mixed();
    for batch in [1, 4] {
        let (_, kinds) = agree(&graph, &[batch, 3, 10, 13], 4);
        assert_eq!(products(&kinds), 4);
    }
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let mut session = int::Session::new(program, &int::Options { threads: 1, ..Default::default() }).unwrap();
    let x = Tensor::of(&[1, 3, 10, 13], Numbers(77).reads_of(390));
    let (_, times) = session.run_timed(vec![x]).unwrap();
    assert!(times.iter().filter(|t| t.kind.starts_with("dynamic conv")).count() >= 4, "{times:?}");
}

impl Numbers {
    fn reads_of(mut self, n: usize) -> Vec<f32> {
        self.reals(n)
    }
}

#[test]
fn samples_of_a_batch_share_one_grid() {
    // Alone, the small sample is quantized on a grid of its own.
    let mut net = Net::new(5);
    let x = net.live_input("N,8");
    let w = net.weight(&[8, 4], 1);
    let y = net.b.op("matmul", Op::MatMul, &[x, w]);
    let program = Arc::new(lower::lower(&net.finish(&[y]), Profile::Dyadic).unwrap());
    let mut session = int::Session::new(program, &int::Options { threads: 2, ..Default::default() }).unwrap();
    let small: Vec<f32> = (0..8).map(|i| 0.001 * i as f32).collect();
    let alone = session.run(vec![Tensor::of(&[1, 8], small.clone())]).unwrap();
    let both: Vec<f32> = small.into_iter().chain([100.0; 8]).collect();
    let together = session.run(vec![Tensor::of(&[2, 8], both)]).unwrap();
    assert!(alone[0].as_slice::<f32>().unwrap().iter().any(|&y| y != 0.0));
    assert_eq!(together[0].as_slice::<f32>().unwrap()[..4], [0.0; 4]);
}

#[test]
fn numbers_without_a_range_are_refused_by_name() {
    let graph = mixed();
    let program = Arc::new(lower::lower(&graph, Profile::Dyadic).unwrap());
    let options = int::Options { threads: 2, ..Default::default() };
    let mut int = int::Session::new(program.clone(), &options).unwrap();
    let mut sim = sim::Session::new(program, 1).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = Numbers(3).reads_of(390);
        x[200] = bad;
        let x = Tensor::of(&[1, 3, 10, 13], x);
        let e = int.run(vec![x.clone()]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Value);
        let text = e.to_string();
        assert!(text.contains("node 'conv'") && text.contains("value 'x'") && text.contains("NaN"), "{text}");
        assert_eq!(text, sim.run(vec![x]).unwrap_err().to_string());
    }
    // Nothing is left of it.
    let x = Tensor::of(&[1, 3, 10, 13], Numbers(3).reads_of(390));
    assert!(int.run(vec![x]).is_ok());
}

#[test]
fn constant_and_zero_inputs() {
    let mut net = Net::new(15);
    let x = net.live_input("N,5,6,6");
    let y = net.conv(x, 5, 9, [3, 3], 1, ConvAttrs { pads: vec![1; 4], ..Default::default() });
    let program = Arc::new(lower::lower(&net.finish(&[y]), Profile::Dyadic).unwrap());
    let mut int = int::Session::new(program.clone(), &int::Options { threads: 1, ..Default::default() }).unwrap();
    let mut sim = sim::Session::new(program, 1).unwrap();
    for number in [0.0, -0.0, 3.5, -3.5, f32::from_bits(1), 1e38] {
        let x = Tensor::of(&[1, 5, 6, 6], vec![number; 180]);
        let (got, want) = (int.run(vec![x.clone()]).unwrap(), sim.run(vec![x]).unwrap());
        assert_eq!(got[0].as_slice::<f32>().unwrap(), want[0].as_slice::<f32>().unwrap(), "{number}");
    }
}
