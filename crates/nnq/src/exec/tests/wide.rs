//! Values and weights of 9 to 16 bits.
use super::*;

#[test]
fn numbers_of_more_than_8_bits_are_rounded_and_computed_in_floating_point() {
    for (bits, signed) in [(16, false), (16, true), (12, false), (9, true)] {
        let qtype = QType { bits, signed, narrow: false };
        let zero = (qtype.min() + qtype.max()) / 3;
        let scale = 2.0 / qtype.levels() as f32;
        let mut net = Net::new(40 + u64::from(bits));
        let x = net.input("N, 3, 6, 5");
        let y = net.conv(x, 3, 4, [3, 3], 1, ConvAttrs { pads: vec![1; 4], ..Default::default() });
        let y = net.grid(y, qtype, scale, zero);
        // A move and a sum of such values.
        let t = net.b.op("transpose", Op::Transpose { perm: vec![0, 1, 3, 2] }, &[y]);
        let s = net.b.op("sum", Op::Binary(Binary::Add), &[t, t]);
        let s = net.grid(s, qtype, 2.0 * scale, zero);
        let graph = net.finish(&[y, s]);
        let (out, kinds) = agree(&graph, &[2, 3, 6, 5], 8);
        let products = kinds.iter().filter(|k| matches!(k, StepKind::Product(_))).count();
        assert_eq!(products, 1, "the first layer's input has 8 bits: {kinds:?}");
        // Every number lies on its grid, from end to end.
        let mut codes = [i32::MAX, i32::MIN];
        for &v in out[0].as_slice::<f32>().unwrap() {
            let q = (f64::from(v) / f64::from(scale)).round() as i32 + zero;
            assert_eq!((q - zero) as f32 * scale, v, "{bits} bits");
            codes = [codes[0].min(q), codes[1].max(q)];
        }
        assert_eq!(codes, [qtype.min(), qtype.max()], "{bits} bits");
        // Twice a code is a code, as far as the grid reaches.
        let plain: Vec<f32> = out[0].as_slice::<f32>().unwrap().to_vec();
        for (i, &v) in out[1].as_slice::<f32>().unwrap().iter().enumerate() {
            let (n, c, w, h) = (i / 120, i / 30 % 4, i / 6 % 5, i % 6);
            assert_eq!(v, 2.0 * plain[((n * 4 + c) * 6 + h) * 5 + w]);
        }
    }
}

#[test]
fn weights_of_16_bits_are_multiplied_as_real_numbers() {
    let mut net = Net::new(9);
    let x = net.input("N, 3, 4, 4");
    let codes: Vec<i16> = (0..30).map(|i| (i * 2171 - 30_000) as i16).collect();
    let w = net.b.constant("w", Tensor::of(&[10, 3, 1, 1], codes.clone()));
    let value = net.b.graph().value_mut(w);
    value.dtype = Some(DType::F32);
    value.quant = Some(Arc::new(QParams::tensor(QType { bits: 16, signed: true, narrow: false }, 3e-5, 0)));
    let y = net.b.op("conv", Op::Conv(ConvAttrs { group: 1, ..Default::default() }), &[x, w]);
    let graph = net.finish(&[y]);
    let (out, kinds) = agree(&graph, &[1, 3, 4, 4], 8);
    assert!(!kinds.iter().any(|k| matches!(k, StepKind::Product(_))));
    let program = lower::lower(&graph, Profile::Onnx).unwrap();
    assert!(program.notes.iter().any(|n| n.contains("'conv'") && n.contains("16 bits")), "{:?}", program.notes);
    // The numbers that `agree` feeds, on the input's grid.
    let mut n = Numbers(8 | 1);
    let x: Vec<f64> = n
        .reals(48)
        .iter()
        .map(|v| f64::from(((v * 3.0 / 0.017).round_ties_even() + 120.0).clamp(0.0, 255.0) - 120.0))
        .collect();
    for (i, &v) in out[0].as_slice::<f32>().unwrap().iter().enumerate() {
        let sum: f64 = (0..3).map(|c| x[c * 16 + i % 16] * 0.017 * f64::from(codes[i / 16 * 3 + c]) * 3e-5).sum();
        assert!((f64::from(v) - sum).abs() < 1e-5, "{i}: {v}, expected {sum}");
    }
}
