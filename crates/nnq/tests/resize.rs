//! A network that shrinks a picture and lets it grow again: everything between its input and its last product runs in integers.
use crate::networks::{Job, Network, bits, ort_values, program, python, scratch, simulate};
use nnq::{
    demo::{self, Stream},
    engine,
    exec::{
        int,
        lower::{Profile, StepKind},
    },
    ir::{
        DType, Graph, GraphBuilder, Op, Tensor, ValueId,
        op::{Binary, ConvAttrs, CoordMode, ResizeAttrs, ResizeMode, Unary},
    },
    quant::recipe::Recipe,
    quantize::{self, Format, Samples, annotate},
};
use nnq_kernels::Isa;
use std::sync::Arc;

fn conv(b: &mut GraphBuilder, x: ValueId, name: &str, [c_out, c_in, k]: [usize; 3], stride: usize) -> ValueId {
    let n = c_out * c_in * k * k;
    let w =
        (0..n).map(|i| ((i * 7919 + c_out) % 211) as f32 / 211.0 - 0.5).map(|w| w / (n as f32).sqrt() * 4.0).collect();
    let w = b.constant(&format!("{name}.w"), Tensor::of(&[c_out, c_in, k, k], w));
    let attrs = ConvAttrs { pads: vec![k as i64 / 2; 4], strides: vec![stride; 2], group: 1, ..Default::default() };
    b.op(name, Op::Conv(attrs), &[x, w])
}

fn network(mode: ResizeMode, coord: CoordMode) -> Arc<Graph> {
    let side = demo::SIDE;
    let mut b = GraphBuilder::new("grows");
    let x = b.input("x", DType::F32, &format!("N, 3, {side}, {side}"));
    let a = conv(&mut b, x, "first", [8, 3, 3], 1);
    let a = b.op("relu1", Op::Unary(Unary::Relu), &[a]);
    let d = conv(&mut b, a, "down", [8, 8, 3], 2);
    let d = b.op("relu2", Op::Unary(Unary::Relu), &[d]);
    let attrs = ResizeAttrs { mode, coord, axes: vec![2, 3], ..ResizeAttrs::default() };
    let sizes = b.ints("sizes", &[side as i64, side as i64]);
    let none = b.constant("none", Tensor::of::<f32>(&[0], vec![]));
    let up = b.op("up", Op::Resize(attrs), &[d, none, none, sizes]);
    let s = b.op("sum", Op::Binary(Binary::Add), &[up, a]);
    let y = conv(&mut b, s, "last", [5, 8, 1], 1);
    b.output(y);
    Arc::new(b.finish().unwrap())
}

#[test]
fn everything_before_the_last_product_runs_in_integers() {
    let samples =
        Samples { dataset: Arc::new(demo::dataset(Stream::Train, 64).unwrap()), preprocess: demo::preprocess() };
    let recipe = Recipe { samples: 64, ..Recipe::default() };
    let x = Network::demo().batch(3);
    for (mode, coord) in [(ResizeMode::Linear, CoordMode::HalfPixel), (ResizeMode::Cubic, CoordMode::AlignCorners)] {
        let graph = network(mode, coord);
        let stats = quantize::calibrate(&graph, [0; 32], &samples, &recipe, 2, None, &mut |_, _, _| {}).unwrap();
        let q = annotate(&graph, &stats, &recipe).unwrap().graph;
        for profile in [Profile::Onnx, Profile::Dyadic] {
            let program = program(&q, profile);
            assert!(program.steps.iter().any(|s| matches!(s.kind, StepKind::Resize { .. })), "{:?}", program.notes);
            assert_eq!(program.integer_share().1, 0, "{:?}", program.notes);
            let want = bits(&simulate(&program, &x));
            for &isa in Isa::all().iter().filter(|isa| isa.is_supported()) {
                for threads in [1, 2] {
                    let options = int::Options { threads, isa: Some(isa), ..Default::default() };
                    let mut session = int::Session::new(program.clone(), &options).unwrap();
                    let got = session.run(vec![x.clone()]).unwrap().remove(0);
                    assert!(bits(&got) == want, "{mode:?} {profile} {isa} {threads} threads");
                }
            }
        }
        // The file gives the same program again, and another engine nearly the same numbers.
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let path = dir.path().join("net.onnx");
        quantize::export(&q, Format::Qdq, Default::default(), &path).unwrap();
        let program = program(&engine::load(&path).unwrap(), Profile::Onnx);
        let got = simulate(&program, &x);
        let Some(python) = python() else { continue };
        let values = ort_values(&python, &[Job { model: &path, optimize: false }], &x).remove(0);
        let want = &values[&graph.value(graph.outputs[0]).name];
        let (got, want) = (got.as_slice::<f32>().unwrap(), want.as_slice::<f32>().unwrap());
        let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let noise = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let signal = want.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        // A step here and there: 1 of 255 in a hundredth of the elements is 68 dB.
        assert!(10.0 * (signal / noise.max(1e-30)).log10() > 55.0, "{noise} of {signal}, largest {largest}");
    }
}
