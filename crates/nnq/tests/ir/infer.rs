//! Shape rules against shapes worked out by hand from the ONNX operator definitions.
use nnq::ir::{Binding, DType, Graph, GraphBuilder, Op, Shape, Tensor, ValueId, bind, infer, op::*};
use std::sync::Arc;

/// The shape of the first output of one operator, or the error.
fn shape_of(op: Op, inputs: &[Arg]) -> String {
    shapes_of(op, inputs, 1).remove(0)
}

enum Arg {
    /// An input of f32.
    F(&'static str),
    /// An input of another type.
    T(DType, &'static str),
    /// A constant list of numbers.
    I(&'static [i64]),
    C(Tensor),
    /// Absent.
    No,
}
use Arg::*;

fn shapes_of(op: Op, inputs: &[Arg], outputs: usize) -> Vec<String> {
    let mut b = GraphBuilder::new("one");
    let x: Vec<Option<ValueId>> = inputs
        .iter()
        .enumerate()
        .map(|(i, a)| match a {
            F(s) => Some(b.input(&format!("x{i}"), DType::F32, s)),
            T(d, s) => Some(b.input(&format!("x{i}"), *d, s)),
            I(v) => Some(b.ints(&format!("c{i}"), v)),
            C(t) => Some(b.constant(&format!("c{i}"), t.clone())),
            No => None,
        })
        .collect();
    let y = b.ops("y", op, &x, outputs);
    y.iter().for_each(|&y| _ = b.output(y));
    match b.finish() {
        Ok(g) => y
            .iter()
            .map(|&y| {
                let v = g.value(y);
                let dtype = v.dtype.map_or("?", DType::name);
                format!("{dtype}{}", v.shape.as_ref().map_or("?".into(), Shape::to_string))
            })
            .collect(),
        Err(e) => vec![e.to_string(); outputs],
    }
}

fn conv(kernel: &[usize], strides: &[usize], pads: &[i64], auto_pad: AutoPad, group: usize) -> Op {
    let (kernel, strides, pads) = (kernel.to_vec(), strides.to_vec(), pads.to_vec());
    Op::Conv(ConvAttrs { kernel, strides, pads, auto_pad, group, ..Default::default() })
}

fn pool(kernel: &[usize], strides: &[usize], pads: &[i64], auto_pad: AutoPad, ceil_mode: bool) -> PoolAttrs {
    let (kernel, strides, pads) = (kernel.to_vec(), strides.to_vec(), pads.to_vec());
    PoolAttrs { kernel, strides, pads, auto_pad, ceil_mode, ..Default::default() }
}

/// Reports every row that differs.
fn check(rows: Vec<(&str, String, &str)>) {
    let bad: Vec<String> = rows
        .into_iter()
        .filter(|(_, got, want)| got != want && !want.strip_prefix('!').is_some_and(|w| got.contains(w)))
        .map(|(what, got, want)| format!("{what}: {got}, expected {want}"))
        .collect();
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

#[test]
fn products() {
    use AutoPad::*;
    let c = |s: &'static str, w: &'static str, op: Op| shape_of(op, &[F(s), F(w)]);
    check(vec![
        (
            "7x7/2 pad 3",
            c("N,3,224,224", "64,3,7,7", conv(&[7, 7], &[2, 2], &[3; 4], NotSet, 1)),
            "f32[N, 64, 112, 112]",
        ),
        ("3x3 valid", c("N,3,32,32", "8,3,3,3", conv(&[], &[], &[], NotSet, 1)), "f32[N, 8, 30, 30]"),
        ("VALID", c("N,3,32,31", "8,3,3,3", conv(&[], &[2, 2], &[], Valid, 1)), "f32[N, 8, 15, 15]"),
        ("SAME_UPPER", c("N,3,33,32", "8,3,3,3", conv(&[], &[2, 2], &[], SameUpper, 1)), "f32[N, 8, 17, 16]"),
        ("SAME_LOWER", c("N,3,33,32", "8,3,3,3", conv(&[], &[2, 2], &[], SameLower, 1)), "f32[N, 8, 17, 16]"),
        ("asymmetric", c("N,3,5,5", "8,3,3,3", conv(&[], &[], &[0, 1, 2, 1], NotSet, 1)), "f32[N, 8, 5, 5]"),
        ("crop", c("N,3,5,5", "8,3,1,1", conv(&[], &[], &[-1, 0, 0, -1], NotSet, 1)), "f32[N, 8, 4, 4]"),
        ("depthwise", c("N,16,9,9", "16,1,3,3", conv(&[], &[], &[1; 4], NotSet, 16)), "f32[N, 16, 9, 9]"),
        ("symbols kept", c("N,3,H,W", "8,3,3,3", conv(&[], &[], &[1; 4], NotSet, 1)), "f32[N, 8, H, W]"),
        ("symbols lost", c("N,3,H,W", "8,3,3,3", conv(&[], &[2, 1], &[1; 4], NotSet, 1)), "f32[N, 8, ?, W]"),
        ("1-D", c("N,3,9", "8,3,3", conv(&[], &[], &[], NotSet, 1)), "f32[N, 8, 7]"),
        ("channels", c("N,4,9,9", "8,3,3,3", conv(&[], &[], &[], NotSet, 1)), "!4 channels, the weight takes 3"),
        ("groups", c("N,6,9,9", "8,2,3,3", conv(&[], &[], &[], NotSet, 3)), "!8 output channels in 3 groups"),
        ("window", c("N,3,2,9", "8,3,3,3", conv(&[], &[], &[], NotSet, 1)), "!does not fit"),
        ("kernel", c("N,3,9,9", "8,3,3,3", conv(&[5, 5], &[], &[], NotSet, 1)), "!kernel_shape [5, 5]"),
        ("matmul", shape_of(Op::MatMul, &[F("N,197,768"), F("768,64")]), "f32[N, 197, 64]"),
        ("matmul broadcast", shape_of(Op::MatMul, &[F("N,12,T,64"), F("1,12,64,T")]), "f32[N, 12, T, T]"),
        ("matmul vector", shape_of(Op::MatMul, &[F("5"), F("N,5,2")]), "f32[N, 2]"),
        ("matmul inner", shape_of(Op::MatMul, &[F("N,5"), F("6,2")]), "!inner sizes 5 and 6 differ"),
    ]);
    let gemm = |ta, tb| Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: ta, trans_b: tb };
    check(vec![
        ("gemm", shape_of(gemm(false, true), &[F("N,64"), F("10,64"), F("10")]), "f32[N, 10]"),
        ("gemm transposed", shape_of(gemm(true, false), &[F("64,N"), F("64,10")]), "f32[N, 10]"),
        ("gemm C", shape_of(gemm(false, true), &[F("N,64"), F("10,64"), F("11")]), "!do not broadcast"),
        ("gemm types", shape_of(gemm(false, true), &[F("N,64"), T(DType::F64, "10,64")]), "!different element types"),
    ]);
}

#[test]
fn transposed_convolution() {
    let t = |strides: &[usize], pads: &[i64], extra: &[usize], out: &[usize], auto, group| {
        let c = ConvAttrs { strides: strides.into(), pads: pads.into(), auto_pad: auto, group, ..Default::default() };
        let op = ConvTransposeAttrs { conv: c, output_padding: extra.into(), output_shape: out.into() };
        shape_of(Op::ConvTranspose(op), &[F("N,4,5,6"), F("4,3,3,3")])
    };
    use AutoPad::*;
    check(vec![
        ("plain", t(&[], &[], &[], &[], NotSet, 1), "f32[N, 3, 7, 8]"),
        ("stride", t(&[2, 2], &[], &[], &[], NotSet, 1), "f32[N, 3, 11, 13]"),
        ("pads", t(&[2, 2], &[1; 4], &[1, 1], &[], NotSet, 2), "f32[N, 6, 10, 12]"),
        ("given", t(&[2, 2], &[], &[], &[10, 12], NotSet, 1), "f32[N, 3, 10, 12]"),
        ("SAME", t(&[3, 2], &[], &[], &[], SameUpper, 1), "f32[N, 3, 15, 12]"),
        ("group", t(&[], &[], &[], &[], NotSet, 3), "!4 input channels in 3 groups"),
    ]);
}

#[test]
fn pooling() {
    use AutoPad::*;
    let p = |s: &'static str, a: PoolAttrs| shape_of(Op::MaxPool { window: a, column_major: false }, &[F(s)]);
    check(vec![
        ("3x3/2", p("N,64,112,112", pool(&[3, 3], &[2, 2], &[1; 4], NotSet, false)), "f32[N, 64, 56, 56]"),
        ("floor", p("N,64,55,55", pool(&[3, 3], &[2, 2], &[], NotSet, false)), "f32[N, 64, 27, 27]"),
        ("ceil", p("N,64,56,56", pool(&[3, 3], &[2, 2], &[], NotSet, true)), "f32[N, 64, 28, 28]"),
        // ceil would start a third window at 4, in the padding after an input of 3 with one before: it is dropped.
        ("ceil, padding", p("N,1,3,3", pool(&[1, 1], &[2, 2], &[1; 4], NotSet, true)), "f32[N, 1, 2, 2]"),
        ("same", p("N,1,7,8", pool(&[2, 2], &[2, 2], &[], SameUpper, false)), "f32[N, 1, 4, 4]"),
        ("global", shape_of(Op::GlobalAveragePool, &[F("N,576,H,7")]), "f32[N, 576, 1, 1]"),
    ]);
    let a = pool(&[2, 2], &[2, 2], &[], NotSet, false);
    let two = shapes_of(Op::MaxPool { window: a, column_major: false }, &[F("N,4,8,8")], 2);
    assert_eq!(two, ["f32[N, 4, 4, 4]", "i64[N, 4, 4, 4]"]);
}

#[test]
fn elementwise_and_reductions() {
    let b = |x: Binary, p: &'static str, q: &'static str| shape_of(Op::Binary(x), &[F(p), F(q)]);
    let r = |axes: &'static [i64], keepdims| {
        shape_of(Op::Reduce { kind: Reduction::Mean, keepdims, noop_with_empty_axes: false }, &[F("N,4,5"), I(axes)])
    };
    check(vec![
        ("add", b(Binary::Add, "N,64,8,8", "64,1,1"), "f32[N, 64, 8, 8]"),
        ("both ways", b(Binary::Mul, "N,1,5", "4,1"), "f32[N, 4, 5]"),
        ("symbol and 1", b(Binary::Mul, "N,1", "1,T"), "f32[N, T]"),
        ("symbol and number", b(Binary::Add, "N,4", "3,4"), "f32[3, 4]"),
        ("two symbols", b(Binary::Add, "N,4", "M,4"), "f32[?, 4]"),
        ("misfit", b(Binary::Add, "N,4", "N,3"), "!do not broadcast"),
        ("compare", b(Binary::Less, "N,4", "4"), "bool[N, 4]"),
        ("prelu", b(Binary::PRelu, "N,4", "5,1,4"), "!does not broadcast"),
        ("types", shape_of(Op::Binary(Binary::Add), &[F("4"), T(DType::I64, "4")]), "!f32 and i64"),
        ("cast", shape_of(Op::Cast { to: DType::U8, saturate: true }, &[F("N,4")]), "u8[N, 4]"),
        ("where", shape_of(Op::Where, &[T(DType::Bool, "N,1"), F("4"), F("")]), "f32[N, 4]"),
        ("nan", shape_of(Op::Unary(Unary::IsNaN), &[F("N")]), "bool[N]"),
        ("mean", r(&[-1], true), "f32[N, 4, 1]"),
        ("mean, dropped", r(&[1, -1], false), "f32[N]"),
        (
            "all",
            shape_of(Op::Reduce { kind: Reduction::Max, keepdims: false, noop_with_empty_axes: false }, &[F("N,4")]),
            "f32[]",
        ),
        ("argmax", shape_of(Op::ArgMax { axis: -1, keepdims: false, select_last: false }, &[F("N,10")]), "i64[N]"),
        ("axis", r(&[3], true), "!axis 3 of a tensor of rank 3"),
        ("axis twice", r(&[2, -1], true), "!twice"),
    ]);
    let k = shapes_of(Op::TopK { axis: -1, largest: true, sorted: true }, &[F("N,10"), I(&[5])], 2);
    assert_eq!(k, ["f32[N, 5]", "i64[N, 5]"]);
}

#[test]
fn moves() {
    let slice =
        |s: &'static str, from, to, axes, steps| shape_of(Op::Slice, &[F(s), I(from), I(to), I(axes), I(steps)]);
    let reshape = |s: &'static str, to| shape_of(Op::Reshape { allowzero: false }, &[F(s), I(to)]);
    let far = &[i64::MAX];
    check(vec![
        ("reshape", reshape("N,512,7,7", &[-1, 25088]), "f32[N, 25088]"),
        ("copy", reshape("N,197,768", &[0, 0, 12, 64]), "f32[N, 197, 12, 64]"),
        ("copy and free", reshape("N,T,768", &[0, 0, -1]), "f32[N, T, 768]"),
        ("free symbol", reshape("N,T,768", &[0, -1, 12, 64]), "f32[N, T, 12, 64]"),
        ("unknown product", reshape("N,49,8", &[-1, 8]), "f32[?, 8]"),
        ("misfit", reshape("2,3", &[4]), "![2, 3] cannot take the shape [4]"),
        ("no divisor", reshape("2,3", &[-1, 4]), "!cannot take the shape"),
        ("two free", reshape("2,3", &[-1, -1]), "!two free dimensions"),
        ("flatten", shape_of(Op::Flatten { axis: 1 }, &[F("N,64,1,1")]), "f32[N, 64]"),
        ("flatten 2", shape_of(Op::Flatten { axis: 2 }, &[F("N,T,3,4")]), "f32[?, 12]"),
        ("flatten rank", shape_of(Op::Flatten { axis: 2 }, &[F("N,1")]), "f32[N, 1]"),
        ("transpose", shape_of(Op::Transpose { perm: vec![0, 2, 1] }, &[F("N,T,4")]), "f32[N, 4, T]"),
        ("reverse", shape_of(Op::Transpose { perm: vec![] }, &[F("N,T,4")]), "f32[4, T, N]"),
        ("concat", shape_of(Op::Concat { axis: 1 }, &[F("N,64,8,8"), F("?,32,8,8")]), "f32[N, 96, 8, 8]"),
        (
            "concat misfit",
            shape_of(Op::Concat { axis: 1 }, &[F("N,64,8,8"), F("N,32,7,8")]),
            "!axis 2 of input 1: sizes 8 and 7",
        ),
        ("every second", slice("N,16,32,32", &[0, 0], far_two(), &[2, 3], &[2, 2]), "f32[N, 16, 16, 16]"),
        ("to the end", slice("N,T,4", &[0], far, &[1], &[1]), "f32[N, T, 4]"),
        ("unknown part", slice("N,T,4", &[1], far, &[1], &[1]), "f32[N, ?, 4]"),
        ("from the end", slice("10", &[-3], far, &[0], &[1]), "f32[3]"),
        ("reversed", slice("10", &[-1], &[i64::MIN], &[0], &[-3]), "f32[4]"),
        ("empty", slice("10", &[5], &[2], &[0], &[1]), "f32[0]"),
        ("step 0", slice("10", &[5], &[2], &[0], &[0]), "!step of 0"),
        (
            "pad",
            shape_of(Op::Pad { mode: PadMode::Constant }, &[F("N,8,16,16"), I(&[0, 4, 0, 0, 0, 4, 0, 0])]),
            "f32[N, 16, 16, 16]",
        ),
        ("pad axes", shape_of(Op::Pad { mode: PadMode::Edge }, &[F("N,8"), I(&[1, 2]), No, I(&[-1])]), "f32[N, 11]"),
        ("squeeze", shape_of(Op::Squeeze, &[F("N,64,1,1"), I(&[2, 3])]), "f32[N, 64]"),
        ("squeeze not 1", shape_of(Op::Squeeze, &[F("N,64"), I(&[1])]), "!axis 1 has size 64"),
        ("unsqueeze", shape_of(Op::Unsqueeze, &[F("N,64"), I(&[-1, 1])]), "f32[N, 1, 64, 1]"),
        ("expand", shape_of(Op::Expand, &[F("N,1,4"), I(&[1, 3, 1])]), "f32[N, 3, 4]"),
        ("tile", shape_of(Op::Tile, &[F("N,3"), I(&[1, 2])]), "f32[N, 6]"),
        ("depth to space", shape_of(Op::DepthToSpace { block: 2, crd: false }, &[F("N,16,5,6")]), "f32[N, 4, 10, 12]"),
        ("space to depth", shape_of(Op::SpaceToDepth { block: 2 }, &[F("N,4,10,12")]), "f32[N, 16, 5, 6]"),
        ("gather", shape_of(Op::Gather { axis: 0 }, &[F("30522,384"), T(DType::I64, "N,T")]), "f32[N, T, 384]"),
        ("gather scalar", shape_of(Op::Gather { axis: 1 }, &[F("N,197,768"), C(Tensor::scalar(0i64))]), "f32[N, 768]"),
        ("gather beyond", shape_of(Op::Gather { axis: 1 }, &[F("N,3"), I(&[3])]), "!index 3 of an axis of 3"),
        ("gather nd", shape_of(Op::GatherNd { batch_dims: 1 }, &[F("N,4,5"), T(DType::I64, "N,7,1")]), "f32[N, 7, 5]"),
        ("one-hot", shape_of(Op::OneHot { axis: -1 }, &[T(DType::I64, "N"), I(&[10]), F("2")]), "f32[N, 10]"),
        (
            "range",
            shape_of(Op::Range, &[C(Tensor::scalar(0i64)), C(Tensor::scalar(10i64)), C(Tensor::scalar(3i64))]),
            "i64[4]",
        ),
    ]);
    let split = |sizes: Arg, n| shapes_of(Op::Split { axis: 1 }, &[F("N,7"), sizes], n);
    assert_eq!(split(I(&[3, 4]), 2), ["f32[N, 3]", "f32[N, 4]"]);
    assert_eq!(split(No, 3), ["f32[N, 3]", "f32[N, 3]", "f32[N, 1]"]);
    assert!(split(I(&[3, 5]), 2)[0].contains("pieces of 8 in all, the axis has 7"));
}

fn far_two() -> &'static [i64] {
    &[i64::MAX, i64::MAX]
}

#[test]
fn resize() {
    let attrs = |aspect, axes: &[i64]| ResizeAttrs {
        mode: ResizeMode::Nearest,
        coord: CoordMode::Asymmetric,
        nearest: NearestMode::Floor,
        aspect,
        cubic_a: -0.75,
        exclude_outside: false,
        extrapolation: 0.0,
        antialias: false,
        axes: axes.to_vec(),
    };
    let scales = |s: &[f32]| C(Tensor::of(&[s.len()], s.to_vec()));
    let stretch = || Op::Resize(attrs(AspectPolicy::Stretch, &[]));
    check(vec![
        ("scales", shape_of(stretch(), &[F("N,3,5,7"), No, scales(&[1., 1., 2., 1.5])]), "f32[N, 3, 10, 10]"),
        ("sizes", shape_of(stretch(), &[F("N,3,5,7"), No, No, I(&[1, 3, 9, 9])]), "f32[1, 3, 9, 9]"),
        ("none", shape_of(stretch(), &[F("N,3,5,7")]), "!neither scales nor sizes"),
        (
            "not larger",
            shape_of(Op::Resize(attrs(AspectPolicy::NotLarger, &[2, 3])), &[F("N,3,4,8"), No, No, I(&[8, 8])]),
            "f32[N, 3, 4, 8]",
        ),
        (
            "not smaller",
            shape_of(Op::Resize(attrs(AspectPolicy::NotSmaller, &[2, 3])), &[F("N,3,4,8"), No, No, I(&[6, 8])]),
            "f32[N, 3, 6, 12]",
        ),
    ]);
}

#[test]
fn quantization_operators() {
    let q = Op::QuantizeLinear { axis: 1, block: 0, saturate: true, out: DType::I8 };
    let zp = |d| C(if d == DType::I8 { Tensor::scalar(0i8) } else { Tensor::scalar(0u8) });
    let s = || C(Tensor::scalar(0.5f32));
    check(vec![
        ("by default", shape_of(q.clone(), &[F("N,4"), s()]), "i8[N, 4]"),
        ("by zero point", shape_of(q, &[F("N,4"), s(), zp(DType::U8)]), "u8[N, 4]"),
        (
            "back",
            shape_of(Op::DequantizeLinear { axis: 1, block: 0 }, &[T(DType::U8, "N,4"), s(), zp(DType::U8)]),
            "f32[N, 4]",
        ),
        (
            "QLinearConv",
            shape_of(
                Op::QLinearConv(ConvAttrs { group: 1, ..Default::default() }),
                &[
                    T(DType::U8, "N,3,8,8"),
                    s(),
                    zp(DType::U8),
                    T(DType::I8, "4,3,3,3"),
                    s(),
                    zp(DType::I8),
                    s(),
                    zp(DType::U8),
                ],
            ),
            "u8[N, 4, 6, 6]",
        ),
        ("MatMulInteger", shape_of(Op::MatMulInteger, &[T(DType::U8, "N,4"), T(DType::I8, "4,2")]), "i32[N, 2]"),
    ]);
}

/// conv - relu - conv - add - relu - pool - flatten - gemm, with a symbolic batch.
fn resnet_block() -> Graph {
    let mut b = GraphBuilder::new("block");
    let x = b.input("x", DType::F32, "N,16,32,32");
    let w1 = b.constant("w1", Tensor::of(&[32, 16, 3, 3], vec![0.5f32; 32 * 16 * 9]));
    let w2 = b.constant("w2", Tensor::of(&[32, 32, 3, 3], vec![0.5f32; 32 * 32 * 9]));
    let w3 = b.constant("w3", Tensor::of(&[32, 16, 1, 1], vec![0.5f32; 32 * 16]));
    let w4 = b.constant("w4", Tensor::of(&[10, 32], vec![0.5f32; 320]));
    let a = b.op("a", conv(&[3, 3], &[2, 2], &[1; 4], AutoPad::NotSet, 1), &[x, w1]);
    let a = b.op("r", Op::Unary(Unary::Relu), &[a]);
    let a = b.op("c", conv(&[3, 3], &[1, 1], &[1; 4], AutoPad::NotSet, 1), &[a, w2]);
    let s = b.op("s", conv(&[1, 1], &[2, 2], &[], AutoPad::NotSet, 1), &[x, w3]);
    let y = b.op("sum", Op::Binary(Binary::Add), &[a, s]);
    let p = b.op("p", Op::GlobalAveragePool, &[y]);
    let f = b.op("f", Op::Flatten { axis: 1 }, &[p]);
    let l = b.op("l", Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }, &[f, w4]);
    b.output(l);
    b.finish().unwrap()
}

fn shape(g: &Graph, name: &str) -> String {
    g.value(g.find(name).unwrap()).shape.as_ref().unwrap().to_string()
}

#[test]
fn symbolic_batch_through_a_residual_block() {
    let g = resnet_block();
    let want = [("a", "[N, 32, 16, 16]"), ("sum", "[N, 32, 16, 16]"), ("f", "[N, 32]"), ("l", "[N, 10]")];
    for (name, s) in want {
        assert_eq!(shape(&g, name), s, "{name}");
    }
    let bound = bind(&g, &Binding::from([("N".to_string(), 7)])).unwrap();
    assert_eq!(shape(&bound, "sum"), "[7, 32, 16, 16]");
    assert_eq!(shape(&bound, "l"), "[7, 10]");
    assert_eq!(shape(&g, "l"), "[N, 10]", "bind leaves the graph it is given alone");
}

/// What PyTorch writes for `x.view(x.size(0), -1, 64)`: the batch comes from a Shape.
#[test]
fn computed_reshape_keeps_the_batch() {
    for through_float in [false, true] {
        let mut b = GraphBuilder::new("view");
        let x = b.input("x", DType::F32, "N,8,T,64");
        let s = b.op("shape", Op::Shape { start: 0, end: None }, &[x]);
        let zero = b.constant("zero", Tensor::scalar(0i64));
        let mut n = b.op("n", Op::Gather { axis: 0 }, &[s, zero]);
        if through_float {
            n = b.op("float", Op::Cast { to: DType::F32, saturate: true }, &[n]);
            let one = b.scalar("one", 1.0);
            n = b.op("mul", Op::Binary(Binary::Mul), &[one, n]);
            n = b.op("div", Op::Binary(Binary::Div), &[n, one]);
            n = b.op("floor", Op::Unary(Unary::Floor), &[n]);
            n = b.op("int", Op::Cast { to: DType::I64, saturate: true }, &[n]);
        }
        let at0 = b.ints("at0", &[0]);
        let n = b.op("n1", Op::Unsqueeze, &[n, at0]);
        let from = b.ints("from", &[2]);
        let to = b.ints("to", &[3]);
        let t = b.op("t", Op::Slice, &[s, from, to, at0]);
        let eight = b.ints("eight", &[8]);
        let ten = b.ints("sixty-four", &[64]);
        let rest = b.op("rest", Op::Binary(Binary::Mul), &[eight, ten]);
        let target = b.op("target", Op::Concat { axis: 0 }, &[n, t, rest]);
        let perm = b.op("perm", Op::Transpose { perm: vec![0, 2, 1, 3] }, &[x]);
        let y = b.op("y", Op::Reshape { allowzero: false }, &[perm, target]);
        // Expand as exporters write it: where(target == -1, ones, target).
        let three = b.ints("three", &[3]);
        let ones = b.op("ones", Op::ConstantOfShape { value: Arc::new(Tensor::of(&[1], vec![1i64])) }, &[three]);
        let minus = b.ints("minus", &[-1]);
        let m = b.op("m", Op::Binary(Binary::Mul), &[ones, minus]);
        let eq = b.op("eq", Op::Binary(Binary::Equal), &[target, m]);
        let e = b.op("e", Op::Where, &[eq, ones, target]);
        let one = b.scalar("one_value", 1.0);
        let z = b.op("z", Op::Expand, &[one, e]);
        b.output(y).output(z);
        let g = b.finish().unwrap();
        assert_eq!(shape(&g, "y"), "[N, T, 512]");
        assert_eq!(shape(&g, "z"), "[N, T, 512]");
    }
}

#[test]
fn declared_shapes() {
    let with = |declared: &str| {
        let mut g = resnet_block();
        let v = g.find("sum").unwrap();
        g.value_mut(v).shape = Some(declared.parse().unwrap());
        infer(&mut g).map(|()| shape(&g, "sum"))
    };
    assert_eq!(with("batch,32,16,16").unwrap(), "[N, 32, 16, 16]", "another symbol is tolerated");
    assert_eq!(with("1,32,?,16").unwrap(), "[N, 32, 16, 16]", "the inferred symbol counts");
    let e = with("N,32,15,16").unwrap_err().to_string();
    for part in ["node 'sum' (Add", "c: f32[N, 32, 16, 16]", "declared shape [N, 32, 15, 16]"] {
        assert!(e.contains(part), "{e}");
    }
    // What inference cannot know is completed by the declaration.
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", DType::F32, "N,3,H,W");
    let y = b.op(
        "y",
        Op::MaxPool { window: pool(&[2, 2], &[2, 2], &[], AutoPad::NotSet, false), column_major: false },
        &[x],
    );
    b.output(y).graph().value_mut(y).shape = Some("N,3,H2,?".parse().unwrap());
    assert_eq!(shape(&b.finish().unwrap(), "y"), "[N, 3, H2, ?]");
}

#[test]
fn hostile_sizes_are_errors_or_unknown() {
    let big = i64::MAX;
    let leak: &'static [i64] = Box::leak(vec![big, big, big].into_boxed_slice());
    for (op, inputs) in [
        (Op::Tile, vec![F("9223372036854775807,3,4"), I(leak)]),
        (Op::Reshape { allowzero: true }, vec![F("9223372036854775807,9223372036854775807"), I(leak)]),
        (Op::Reshape { allowzero: false }, vec![F("4"), I(&[-2, 2])]),
        (Op::Pad { mode: PadMode::Constant }, vec![F("4,4"), I(&[i64::MAX, 0, 1, -9])]),
        (Op::Pad { mode: PadMode::Constant }, vec![F("4,4"), I(&[-5, 0, 0, 0])]),
        (Op::Slice, vec![F("4"), I(&[i64::MIN]), I(&[i64::MAX]), I(&[0]), I(&[i64::MIN])]),
        (Op::Concat { axis: i64::MIN }, vec![F("4"), F("4")]),
        (Op::Squeeze, vec![F("4"), I(&[i64::MAX])]),
        (Op::DepthToSpace { block: usize::MAX, crd: true }, vec![F("1,4,4,4")]),
        (
            Op::ConvTranspose(ConvTransposeAttrs {
                conv: ConvAttrs {
                    strides: vec![usize::MAX],
                    group: 1,
                    dilations: vec![usize::MAX],
                    ..Default::default()
                },
                ..Default::default()
            }),
            vec![F("1,4,9223372036854775807"), F("4,2,9223372036854775807")],
        ),
        (
            conv(&[], &[usize::MAX, 1], &[i64::MAX, 0, i64::MAX, 0], AutoPad::NotSet, 1),
            vec![F("1,3,4,4"), F("2,3,3,3")],
        ),
        (Op::Gather { axis: 0 }, vec![F(""), I(&[0])]),
        (Op::Range, vec![C(Tensor::scalar(i64::MIN)), C(Tensor::scalar(i64::MAX)), C(Tensor::scalar(1i64))]),
        (Op::GatherNd { batch_dims: usize::MAX }, vec![F("3,4"), T(DType::I64, "2,2")]),
    ] {
        let text = shape_of(op, &inputs);
        assert!(!text.is_empty());
    }
}
