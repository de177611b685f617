//! The text form.
use nnq::ir::{DType, GraphBuilder, Op, QParams, QType, Tensor, op::*};
use std::sync::Arc;

#[test]
fn dump() {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "N, 1, 4, 4");
    let w = b.constant("w", Tensor::of(&[2, 1, 1, 1], vec![3i8, -4]));
    let big = b.constant("big one", Tensor::of(&[2, 3, 3], (0..18).map(|i| i as f32 - 2.5).collect()));
    let attrs = ConvAttrs { strides: vec![2, 2], pads: vec![1, 1, 0, 0], group: 1, ..Default::default() };
    let y = b.op("y", Op::Conv(attrs), &[x, w]);
    let z = b.op("z", Op::Binary(Binary::Add), &[y, big]);
    let r = b.ops("r", Op::Unary(Unary::LeakyRelu { alpha: 0.1 }), &[Some(z)], 1)[0];
    b.output(r);
    let g = b.graph();
    g.value_mut(w).quant = Some(Arc::new(QParams::channel(QType::I8_NARROW, 0, vec![0.5, 0.25])));
    g.value_mut(w).dtype = Some(DType::F32);
    g.value_mut(y).quant = Some(Arc::new(QParams::tensor(QType::U8, 0.02, 128)));
    let g = b.finish().unwrap();
    // The hash is the first six bytes of SHA-256 of the 18 little-endian numbers, by Python's hashlib.
    let want = r#"graph "net" opset 21
input %x: f32[N, 1, 4, 4]
const %w: f32[2, 1, 1, 1] i8n(s=[0.5, 0.25], z=0, axis=0) = codes i8 [3, -4]
const %"big one": f32[2, 3, 3] = -2.5 .. 14.5 sha256:4b3b041bd881
%y: f32[N, 2, 3, 3] u8(s=0.02, z=128) = Conv(%x, %w) {strides=[2, 2], pads=[1, 1, 0, 0]} # y
%z: f32[N, 2, 3, 3] = Add(%y, %"big one") # z
%r: f32[N, 2, 3, 3] = LeakyRelu(%z) {alpha=0.1} # r
output %r
"#;
    assert_eq!(g.to_text(), want);
    assert_eq!(g.to_text(), g.clone().to_text());
}
