//! Folding of batch normalisation and constants, padding, identities: what must change changes, the function stays, and what must not
//! change does not.
use super::eval::{difference, eval, random, run};
use nnq::ir::{
    DType, Graph, GraphBuilder, Op, QParams, QType, Tensor, ValueId,
    op::*,
    pass::{fold_batchnorm, fold_constants, pad_into_conv, remove_identity, simplify},
    verify,
};
use std::sync::Arc;

fn names(g: &Graph) -> Vec<&'static str> {
    g.nodes().map(|(_, n)| n.op.name()).collect()
}

/// Simplified graph; its outputs equal those of the original within f32 rounding of folded weights.
fn same_function(g: &Graph, inputs: &[Tensor]) -> Graph {
    let s = simplify(g.clone(), &eval).unwrap();
    for (a, b) in run(g, inputs).iter().zip(run(&s, inputs)) {
        let d = difference(a, &b);
        assert!(d < 2e-6, "differs by {d}\n{g}\n{s}");
    }
    let outputs = |g: &Graph| g.outputs.iter().map(|&v| g.value(v).name.clone()).collect::<Vec<_>>();
    assert_eq!(outputs(g), outputs(&s), "output names survive");
    s
}

fn positive(n: usize, seed: u64) -> Tensor {
    Tensor::of(&[n], random(&[n], seed).to_f32s().iter().map(|x| x.abs() + 0.1).collect())
}

fn batchnorm(b: &mut GraphBuilder, x: ValueId, c: usize, name: &str) -> ValueId {
    let p: Vec<ValueId> = (0..4u64)
        .map(|i| b.constant(&format!("{name}.{i}"), if i == 3 { positive(c, 9) } else { random(&[c], 5 + i) }))
        .collect();
    b.op(name, Op::BatchNormalization { epsilon: 1e-3 }, &[x, p[0], p[1], p[2], p[3]])
}

fn conv(group: usize) -> Op {
    Op::Conv(ConvAttrs { pads: vec![1; 4], group, ..Default::default() })
}

#[test]
fn batchnorm_into_every_product() {
    let gemm = |trans_b| Op::Gemm { alpha: 0.5, beta: 2.0, trans_a: false, trans_b };
    let transpose = |group| {
        Op::ConvTranspose(ConvTransposeAttrs {
            conv: ConvAttrs { strides: vec![2, 2], group, ..Default::default() },
            ..Default::default()
        })
    };
    // operator, input, weight, output channels, shape of the bias, the operator afterwards
    type Row<'a> = (Op, &'a str, &'a [usize], &'a [usize], usize, Option<&'a [usize]>, &'a str);
    let rows: [Row; 10] = [
        (conv(1), "2,4,5,5", &[2, 4, 5, 5], &[6, 4, 3, 3], 6, None, "Conv"),
        (conv(1), "2,4,5,5", &[2, 4, 5, 5], &[6, 4, 3, 3], 6, Some(&[6]), "Conv"),
        (conv(4), "2,4,5,5", &[2, 4, 5, 5], &[8, 1, 3, 3], 8, Some(&[8]), "Conv"),
        (transpose(1), "2,4,3,3", &[2, 4, 3, 3], &[4, 5, 2, 2], 5, Some(&[5]), "ConvTranspose"),
        (transpose(2), "2,4,3,3", &[2, 4, 3, 3], &[4, 3, 2, 2], 6, None, "ConvTranspose"),
        (gemm(true), "3,4", &[3, 4], &[5, 4], 5, Some(&[5]), "Gemm"),
        (gemm(false), "3,4", &[3, 4], &[4, 5], 5, Some(&[1, 5]), "Gemm"),
        (gemm(false), "3,4", &[3, 4], &[4, 5], 5, Some(&[]), "Gemm"),
        (gemm(false), "3,4", &[3, 4], &[4, 5], 5, None, "Gemm"),
        (Op::MatMul, "3,4", &[3, 4], &[4, 5], 5, None, "Gemm"),
    ];
    for (op, shape, x_shape, w_shape, c, bias, after) in rows {
        let mut b = GraphBuilder::new("g");
        let x = b.input("x", DType::F32, shape);
        let mut inputs = vec![x, b.constant("w", random(w_shape, 3))];
        if let Some(s) = bias {
            inputs.push(b.constant("b", random(s, 4)));
        }
        let y = b.op("product", op, &inputs);
        let y = batchnorm(&mut b, y, c, "bn");
        b.output(y);
        let g = b.finish().unwrap();
        let s = same_function(&g, &[random(x_shape, 1)]);
        assert_eq!(names(&s), [after], "{g}");
    }
}

/// What a normalisation says of its output stays with the folded product, through a factor and a shift behind it.
#[test]
fn the_distribution_of_channels_survives() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "2,4,5,5");
    let w = b.constant("w", random(&[6, 4, 3, 3], 3));
    let v = b.op("product", conv(1), &[x, w]);
    let v = batchnorm(&mut b, v, 6, "bn");
    let r = b.op("r", Op::Unary(Unary::Relu), &[v]);
    let w = b.constant("w2", random(&[6, 6, 1, 1], 4));
    let v = b.op("product2", Op::Conv(ConvAttrs { group: 1, ..Default::default() }), &[r, w]);
    let v = batchnorm(&mut b, v, 6, "bn2");
    let (half, one) = (b.scalar("half", -0.5), b.scalar("one", 1.0));
    let v = b.op("times", Op::Binary(Binary::Mul), &[v, half]);
    let v = b.op("plus", Op::Binary(Binary::Add), &[v, one]);
    b.output(v);
    let g = b.finish().unwrap();
    let s = same_function(&g, &[random(&[2, 4, 5, 5], 1)]);
    assert_eq!(names(&s), ["Conv", "Relu", "Conv"]);
    let of = |name: &str| s.value(s.find(name).unwrap()).channels.clone().unwrap();
    let list = |i: usize| g.constant(g.find(&format!("bn.{i}")).unwrap()).unwrap().to_f32s();
    let (first, second) = (of("bn"), of("plus"));
    for c in 0..6 {
        let [gamma, beta, variance] = [0, 1, 3].map(|i| f64::from(list(i)[c]));
        let deviation = gamma.abs() * (variance / (variance + 1e-3)).sqrt();
        for (got, factor, shift) in [(&first, 1.0, 0.0), (&second, -0.5, 1.0)] {
            assert!((got.mean[c] - (beta * factor + shift)).abs() < 1e-6, "{got:?}");
            assert!((got.deviation[c] - deviation * factor.abs()).abs() < 1e-6, "{got:?}");
        }
    }
    assert!(s.values().filter(|(_, v)| v.channels.is_some()).count() == 2);
}

#[test]
fn matmul_bias_batchnorm_is_one_gemm() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "3,4");
    let (w, c) = (b.constant("w", random(&[4, 5], 3)), b.constant("c", random(&[5], 4)));
    let y = b.op("product", Op::MatMul, &[x, w]);
    let y = b.op("bias", Op::Binary(Binary::Add), &[c, y]);
    let y = batchnorm(&mut b, y, 5, "bn");
    b.output(y);
    assert_eq!(names(&same_function(&b.finish().unwrap(), &[random(&[3, 4], 1)])), ["Gemm"]);
}

#[test]
fn per_channel_arithmetic_into_conv() {
    use Binary::*;
    // function, constant's shape, constant on the left, folded
    let rows: [(Binary, &[usize], bool, bool); 12] = [
        (Mul, &[6, 1, 1], false, true),
        (Mul, &[1, 6, 1, 1], true, true),
        (Mul, &[], false, true),
        (Add, &[6, 1, 1], true, true),
        (Add, &[1], false, true),
        (Sub, &[6, 1, 1], false, true),
        (Sub, &[6, 1, 1], true, true),
        (Div, &[6, 1, 1], false, true),
        (Div, &[6, 1, 1], true, false),
        (Mul, &[5], false, false),
        (Add, &[1, 1, 6, 1, 1], false, false),
        (Add, &[6, 5, 5], false, false),
    ];
    for (op, shape, left, folded) in rows {
        let mut b = GraphBuilder::new("g");
        let x = b.input("x", DType::F32, "2,4,5,5");
        let w = b.constant("w", random(&[6, 4, 3, 3], 3));
        let c = b.constant("c", random(shape, 8));
        let y = b.op("conv", conv(1), &[x, w]);
        let y = b.op("y", Op::Binary(op), &if left { [c, y] } else { [y, c] });
        b.output(y);
        let g = b.finish().unwrap();
        let s = same_function(&g, &[random(&[2, 4, 5, 5], 1)]);
        assert_eq!(s.node_count(), if folded { 1 } else { 2 }, "{op:?} {shape:?} {left}");
    }
}

#[test]
fn matmul_takes_a_scale_and_leaves_a_bias() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "2,3,4");
    let (w, s, c) = (b.constant("w", random(&[4, 5], 3)), b.scalar("s", 0.3), b.constant("c", random(&[5], 4)));
    let y = b.op("product", Op::MatMul, &[x, w]);
    let y = b.op("scaled", Op::Binary(Binary::Mul), &[y, s]);
    let y = b.op("biased", Op::Binary(Binary::Add), &[y, c]);
    b.output(y);
    assert_eq!(names(&same_function(&b.finish().unwrap(), &[random(&[2, 3, 4], 1)])), ["MatMul", "Add"]);
}

/// Each edit makes the one fold impossible.
#[test]
fn batchnorm_that_must_stay() {
    type Edit = fn(&mut GraphBuilder, ValueId, ValueId, ValueId);
    let edits: [(&str, Edit); 5] = [
        ("nothing", |_, _, _, _| {}),
        ("another reader", |b, _, y, _| {
            let r = b.op("other", Op::Unary(Unary::Relu), &[y]);
            b.output(r);
        }),
        ("a graph output", |b, _, y, _| _ = b.output(y)),
        ("an annotation", |b, _, y, _| {
            b.graph().value_mut(y).quant = Some(Arc::new(QParams::tensor(QType::U8, 0.1, 3)));
        }),
        ("a quantized weight", |b, w, _, _| {
            b.graph().value_mut(w).quant = Some(Arc::new(QParams::tensor(QType::I8, 0.1, 0)));
        }),
    ];
    for (what, edit) in edits {
        let mut b = GraphBuilder::new("g");
        let x = b.input("x", DType::F32, "2,4,5,5");
        let w = b.constant("w", random(&[6, 4, 3, 3], 3));
        let y = b.op("conv", conv(1), &[x, w]);
        let z = batchnorm(&mut b, y, 6, "bn");
        b.output(z);
        edit(&mut b, w, y, z);
        let g = b.finish().unwrap();
        let s = simplify(g.clone(), &eval).unwrap();
        let stays = names(&s).contains(&"BatchNormalization");
        assert_eq!(stays, what != "nothing", "{what}\n{s}");
        assert_eq!(
            s.values().filter(|v| v.1.quant.is_some()).count(),
            g.values().filter(|v| v.1.quant.is_some()).count()
        );
    }
    // After an input or an addition there is nothing to fold into.
    let mut b = GraphBuilder::new("g");
    let (x, y) = (b.input("x", DType::F32, "2,4,5,5"), b.input("y", DType::F32, "2,4,5,5"));
    let a = batchnorm(&mut b, x, 4, "bn1");
    let s = b.op("sum", Op::Binary(Binary::Add), &[a, y]);
    let z = batchnorm(&mut b, s, 4, "bn2");
    b.output(z);
    let s = same_function(&b.finish().unwrap(), &[random(&[2, 4, 5, 5], 1), random(&[2, 4, 5, 5], 2)]);
    assert_eq!(names(&s), ["BatchNormalization", "Add", "BatchNormalization"]);
}

#[test]
fn shared_weights_are_copied() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "2,4,5,5");
    let w = b.constant("w", random(&[4, 4, 3, 3], 3));
    let y = b.op("conv1", conv(1), &[x, w]);
    let y = batchnorm(&mut b, y, 4, "bn");
    let z = b.op("conv2", conv(1), &[y, w]);
    b.output(z);
    let s = same_function(&b.finish().unwrap(), &[random(&[2, 4, 5, 5], 1)]);
    assert_eq!(names(&s), ["Conv", "Conv"]);
    let untouched = s.find("w").unwrap();
    assert_eq!(s.constant(untouched).unwrap().to_f32s(), random(&[4, 4, 3, 3], 3).to_f32s());
}

#[test]
fn constants() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "N,4,6");
    let (p, q) = (b.constant("p", random(&[4, 1], 1)), b.constant("q", random(&[6], 2)));
    let c = b.op("c", Op::Binary(Binary::Mul), &[p, q]);
    let c = b.op("c2", Op::Unary(Unary::Neg), &[c]);
    let y = b.op("y", Op::Binary(Binary::Add), &[x, c]);
    // The batch is a symbol, the rest of the shape is known.
    let s = b.op("s", Op::Shape { start: 0, end: None }, &[x]);
    let at = b.ints("at", &[2, 1]);
    let d = b.op("d", Op::Gather { axis: 0 }, &[s, at]);
    let free = b.ints("free", &[-1]);
    let t = b.op("t", Op::Concat { axis: 0 }, &[free, d]);
    let y = b.op("z", Op::Reshape { allowzero: false }, &[y, t]);
    // Large results stay computations.
    let n = b.ints("n", &[1 << 19]);
    let big = b.op("big", Op::ConstantOfShape { value: Arc::new(Tensor::scalar(2f32)) }, &[n]);
    // A constant graph output stays computed, so that it is produced by a node.
    let out = b.op("out", Op::Unary(Unary::Neg), &[q]);
    b.output(y).output(big).output(out);
    let big = b.op("big2", Op::Unary(Unary::Relu), &[big]);
    b.output(big);
    let mut g = b.finish().unwrap();
    let before = run_without_shape(&g);
    fold_constants::run(&mut g, &eval).unwrap();
    verify(&g).unwrap();
    let s = simplify(g, &eval).unwrap();
    assert_eq!(names(&s), ["Add", "Reshape", "ConstantOfShape", "Neg", "Relu"]);
    let t = s.constant(s.find("t").unwrap()).unwrap();
    assert_eq!(t.to_i64s().unwrap(), [-1, 6, 4]);
    let c = s.constant(s.find("c2").unwrap()).unwrap();
    assert!(difference(c, &before) < 1e-7);
}

fn run_without_shape(g: &Graph) -> Tensor {
    let get = |n: &str| g.constant(g.find(n).unwrap()).unwrap().clone();
    let c = eval(&Op::Binary(Binary::Mul), &[Some(&get("p")), Some(&get("q"))], 1).unwrap().remove(0);
    eval(&Op::Unary(Unary::Neg), &[Some(&c)], 1).unwrap().remove(0)
}

#[test]
fn quantized_constants_are_not_folded() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "4");
    let w = b.constant("w", random(&[4], 1));
    let v = b.op("v", Op::Unary(Unary::Neg), &[w]);
    let y = b.op("y", Op::Binary(Binary::Add), &[x, v]);
    b.output(y).graph().value_mut(w).quant = Some(Arc::new(QParams::tensor(QType::I8, 0.1, 0)));
    assert_eq!(names(&simplify(b.finish().unwrap(), &eval).unwrap()), ["Neg", "Add"]);
}

#[test]
fn identities_go() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "N,4");
    let mut y = b.op("first", Op::Identity, &[x]);
    y = b.op("relu", Op::Unary(Unary::Relu), &[y]);
    y = b.op("cast", Op::Cast { to: DType::F32, saturate: true }, &[y]);
    y = b.op("flat", Op::Flatten { axis: 1 }, &[y]);
    let shape = b.ints("shape", &[0, 4]);
    y = b.op("reshape", Op::Reshape { allowzero: false }, &[y, shape]);
    y = b.op("transpose", Op::Transpose { perm: vec![0, 1] }, &[y]);
    let pads = b.ints("pads", &[0; 4]);
    y = b.op("pad", Op::Pad { mode: PadMode::Constant }, &[y, pads]);
    let (from, to) = (b.ints("from", &[0]), b.ints("to", &[i64::MAX]));
    let axis = b.ints("axis", &[0]);
    y = b.op("slice", Op::Slice, &[y, from, to, axis]);
    y = b.op("concat", Op::Concat { axis: 1 }, &[y]);
    y = b.op("sum", Op::Variadic(Variadic::Sum), &[y]);
    y = b.ops("dropout", Op::Dropout, &[Some(y)], 2)[0];
    y = b.op("last", Op::Identity, &[y]);
    b.output(y);
    let g = b.finish().unwrap();
    let s = simplify(g, &eval).unwrap();
    assert_eq!(names(&s), ["Relu"]);
    assert_eq!(s.value(s.outputs[0]).name, "last");
    assert_eq!(s.value(s.inputs[0]).name, "x");
}

#[test]
fn identities_that_mean_something_stay() {
    // A quantization point; an input that is an output under another name; two names for one value; real slices.
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "N,4");
    let q = b.op("q", Op::Identity, &[x]);
    let d = b.op("d", Op::Identity, &[q]);
    let direct = b.op("direct", Op::Identity, &[x]);
    let r = b.op("r", Op::Unary(Unary::Relu), &[d]);
    let again = b.op("again", Op::Identity, &[r]);
    let (from, to) = (b.ints("from", &[3]), b.ints("to", &[i64::MIN]));
    let (axis, step) = (b.ints("axis", &[1]), b.ints("step", &[-1]));
    let back = b.op("back", Op::Slice, &[r, from, to, axis, step]);
    b.output(direct).output(r).output(again).output(back);
    b.graph().value_mut(q).quant = Some(Arc::new(QParams::tensor(QType::U8, 0.1, 3)));
    let mut g = b.finish().unwrap();
    assert_eq!(remove_identity::run(&mut g).unwrap(), 0, "{g}");
    // The same annotation on both sides is no quantization point.
    let (q, d) = (g.find("q").unwrap(), g.find("d").unwrap());
    g.value_mut(d).quant = g.value(q).quant.clone();
    assert_eq!(remove_identity::run(&mut g).unwrap(), 1);
    assert!(g.value(g.node(g.producers()[g.outputs[1].0 as usize].unwrap()).inputs[0].unwrap()).quant.is_some());
}

#[test]
fn padding_into_conv() {
    let with = |pads: &[i64], value: Option<f32>, auto_pad: AutoPad, quant: bool| {
        let mut b = GraphBuilder::new("g");
        let x = b.input("x", DType::F32, "1,2,5,5");
        let p = b.ints("p", pads);
        let v = value.map(|v| b.scalar("v", v));
        let w = b.constant("w", random(&[3, pads[1] as usize + 2, 3, 3], 3));
        let y = b.ops("pad", Op::Pad { mode: PadMode::Constant }, &[Some(x), Some(p), v], 1)[0];
        let attrs = ConvAttrs {
            pads: if auto_pad == AutoPad::NotSet { vec![1, 0, 0, 2] } else { vec![] },
            auto_pad,
            group: 1,
            ..Default::default()
        };
        let z = b.op("z", Op::Conv(attrs), &[y, w]);
        b.output(z);
        if quant {
            b.graph().value_mut(y).quant = Some(Arc::new(QParams::tensor(QType::U8, 0.1, 3)));
        }
        let mut g = b.finish().unwrap();
        let old = g.clone();
        let n = pad_into_conv::run(&mut g).unwrap();
        verify(&g).unwrap();
        if auto_pad == AutoPad::NotSet {
            let x = random(&[1, 2, 5, 5], 1);
            assert!(difference(&run(&old, std::slice::from_ref(&x))[0], &run(&g, &[x])[0]) < 1e-6);
        }
        n
    };
    let pads = [0, 0, 1, 2, 0, 0, 3, 0];
    assert_eq!(with(&pads, None, AutoPad::NotSet, false), 1);
    assert_eq!(with(&pads, Some(0.0), AutoPad::NotSet, false), 1);
    assert_eq!(with(&pads, Some(1.0), AutoPad::NotSet, false), 0);
    assert_eq!(with(&[0, 1, 1, 2, 0, 0, 3, 0], None, AutoPad::NotSet, false), 0, "channels");
    assert_eq!(with(&pads, None, AutoPad::SameUpper, false), 0);
    assert_eq!(with(&pads, None, AutoPad::NotSet, true), 0);
}

#[test]
fn folding_twice_changes_nothing_more() {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "2,4,5,5");
    let w = b.constant("w", random(&[6, 4, 3, 3], 3));
    let y = b.op("conv", conv(1), &[x, w]);
    let y = batchnorm(&mut b, y, 6, "bn");
    b.output(y);
    let mut s = simplify(b.finish().unwrap(), &eval).unwrap();
    let text = s.to_text();
    assert_eq!(fold_batchnorm::run(&mut s).unwrap(), 0);
    assert_eq!(simplify(s, &eval).unwrap().to_text(), text);
}
