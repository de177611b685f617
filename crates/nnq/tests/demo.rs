//! The built-in network against what its training said of it.
use nnq::{
    demo::{self, Stream},
    engine::{self, Engine, Kind},
    eval::{self, Labelled},
    exec::lower::Profile,
    formats::onnx,
};
use std::sync::Arc;

#[test]
fn figures() {
    let graph = onnx::read_bytes(demo::MODEL.into(), None).unwrap();
    let seen = nnq::inspect::inspect(&graph).unwrap();
    // 64,890 trained numbers (as `nnq train` said), 392 channels with running mean and variance, two clips with two bounds.
    assert_eq!(seen.parameters, 64_890 + 2 * 392 + 4);
    assert_eq!(seen.parameter_bytes, 4 * seen.parameters);
    // Layer by layer: output positions x input channels x output channels x kernel.
    let products = [
        1024 * 3 * 16 * 9,
        1024 * 16 * 48,
        256 * 48 * 9,
        256 * 48 * 24,
        2 * 256 * 24 * 24 * 9,
        64 * 24 * 24 * 9,
        64 * 24 * 24,
        2 * 64 * 48 * 48 * 9,
        64 * 48 * 64,
        64 * 10,
    ];
    assert_eq!((seen.macs, seen.macs_unknown), (products.iter().sum::<u64>(), 0));
    assert_eq!((seen.inputs[0].shape.as_str(), seen.outputs[0].shape.as_str()), ("[N, 3, 32, 32]", "[N, 10]"));
    let count = |name| seen.operators.iter().find(|o| o.operator == name).map_or(0, |o| o.count);
    assert_eq!(["Conv", "BatchNormalization", "Concat", "Relu"].map(count), [11, 11, 1, 8]);
    assert_eq!(seen.quantization.activations + seen.quantization.constants, 0);
}

/// 1916 of 2000 after training. Another order of float summation may tip a picture whose two best classes are as good as equal.
#[test]
fn accuracy() {
    let graph = engine::simplify(onnx::read_bytes(demo::MODEL.into(), None).unwrap()).unwrap();
    let options = engine::Options { kind: Kind::Float, profile: Profile::Dyadic, threads: 0 };
    let mut engine = Engine::open(graph, options).unwrap();
    let dataset = Arc::new(demo::dataset(Stream::Test, 2000).unwrap());
    let data = Labelled { dataset, preprocess: demo::preprocess(), classes: None };
    let report = eval::evaluate(&mut engine, &data, &eval::Options::default(), &mut |_, _| {}).unwrap();
    let right = report.correct.iter().filter(|&&c| c).count();
    assert!(right.abs_diff(1916) <= 2, "{right} of 2000");
}
