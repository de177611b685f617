//! Real trained networks: simplification keeps what they compute.
use super::eval::{difference, random};
use nnq::exec::float::{Ctx, Options, Session, Tap, eval};
use nnq::formats::onnx;
use nnq::ir::{Binding, Graph, Shape, Tensor, ValueId, bind, infer, pass::simplify, verify};
use nnq::{Error, Result};
use std::{path::PathBuf, sync::Arc};

fn models() -> PathBuf {
    let data = std::env::var_os("NNQ_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    data.join("models")
}

fn run(graph: &Graph, input: Tensor) -> Tensor {
    Session::new(Arc::new(graph.clone()), &Options::default()).unwrap().run(vec![input]).unwrap().remove(0)
}

/// Compares the type and shape of every value that the executor makes with the inferred ones.
struct Inferred<'g>(&'g Graph, usize);

impl Tap for Inferred<'_> {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        let v = self.0.value(value);
        self.1 += 1;
        let shape = v.shape.as_ref().and_then(Shape::as_fixed);
        if shape.as_deref() != Some(tensor.shape()) || v.dtype != Some(tensor.dtype()) {
            return Err(Error::internal(format!("'{}': inferred {:?} {shape:?}, is {tensor:?}", v.name, v.dtype)));
        }
        Ok(())
    }
}

/// Name of the file, nodes afterwards by kind.
const MODELS: &[(&str, &[(&str, usize)])] = &[
    // 19 convolutions with their normalisation folded; the shortcuts pad channels, so Slice and Pad stay.
    (
        "resnet20_cifar10_fp32.onnx",
        &[
            ("Conv", 19),
            ("Relu", 19),
            ("Add", 9),
            ("Slice", 2),
            ("Pad", 2),
            ("GlobalAveragePool", 1),
            ("Flatten", 1),
            ("Gemm", 1),
        ],
    ),
    (
        "mobilenetv1_0.75_224_imagenet_fp32.onnx",
        &[("Conv", 28), ("Clip", 27), ("GlobalAveragePool", 1), ("Flatten", 1)],
    ),
    (
        "mobilenetv2_tv_imagenette10_fp32.onnx",
        &[("Conv", 52), ("Clip", 35), ("Add", 10), ("GlobalAveragePool", 1), ("Flatten", 1), ("Gemm", 1)],
    ),
    (
        "squeezenet1.1_imagenet_fp32.onnx",
        &[("Conv", 26), ("Relu", 26), ("MaxPool", 3), ("Concat", 8), ("GlobalAveragePool", 1), ("Flatten", 1)],
    ),
    ("kws_dscnn_fp32.onnx", &[("Conv", 9), ("Relu", 9), ("GlobalAveragePool", 1), ("Flatten", 1), ("Gemm", 1)]),
    (
        "resnet8_cifar10_fp32.onnx",
        &[("Conv", 9), ("Relu", 7), ("Add", 3), ("AveragePool", 1), ("Flatten", 1), ("Gemm", 1)],
    ),
];

#[test]
fn simplified_models_compute_the_same() {
    let ctx = Ctx::new();
    for (name, kinds) in MODELS {
        let path = models().join(name);
        if !path.exists() {
            println!("skipped: {} is not there", path.display());
            continue;
        }
        let graph = onnx::read(&path).unwrap();
        verify(&graph).unwrap();
        let simple = simplify(graph.clone(), &|op, x, outputs| eval(op, x, outputs, &ctx)).unwrap();
        for (kind, count) in *kinds {
            assert_eq!(simple.nodes().filter(|(_, n)| n.op.name() == *kind).count(), *count, "{name}: {kind}");
        }
        assert_eq!(simple.node_count(), kinds.iter().map(|k| k.1).sum::<usize>(), "{name}\n{simple}");

        // Every shape is known but for the batch, and fixed once that is bound.
        let bound = bind(&simple, &Binding::from([("N".to_string(), 2)])).unwrap();
        for (_, v) in bound.values() {
            assert!(v.shape.as_ref().and_then(Shape::as_fixed).is_some(), "{name}: {}", v.name);
        }
        let mut again = simple.clone();
        infer(&mut again).unwrap();
        assert_eq!(again.to_text(), simple.to_text());

        let shape = bound.value(bound.inputs[0]).shape.as_ref().and_then(Shape::as_fixed).unwrap();
        let x = random(&shape, 3);
        for g in [&graph, &simple] {
            let bound = bind(g, &Binding::from([("N".to_string(), 2)])).unwrap();
            let mut tap = Inferred(&bound, 0);
            let mut session = Session::new(Arc::new(bound.clone()), &Options::default()).unwrap();
            session.run_tapped(vec![x.clone()], &mut tap).unwrap();
            assert!(tap.1 > g.node_count(), "{name}: every value is looked at");
        }
        let (a, b) = (run(&graph, x.clone()), run(&simple, x));
        assert_eq!(Some(a.shape().to_vec()), bound.value(bound.outputs[0]).shape.as_ref().and_then(Shape::as_fixed));
        let d = difference(&a, &b);
        println!("{name}: {} nodes, then {}; differs by {d:e}", graph.node_count(), simple.node_count());
        // Folded weights are rounded to f32 once more; fifty layers of that stay well below this.
        assert!(d < 1e-4, "{name}: differs by {d}");
    }
}
