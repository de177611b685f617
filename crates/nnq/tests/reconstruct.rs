//! Layer-by-layer quantization of a whole network: better than each layer by itself, the same for any number of threads, and computed by
//! simulator and integer engine alike.
use nnq::{
    Result,
    data::{Kept, Settings},
    demo::{self, Stream},
    engine::{self, Engine, Kind},
    error::ErrorKind,
    eval::{self, EvalReport, Labelled},
    exec::lower::Profile,
    formats::onnx,
    ir::Graph,
    quant::{
        range::RangeMethod,
        recipe::{BiasCorrection, Recipe, SumOperands},
        reconstruct::{self, How, Inputs},
        rounder::Rounding,
        weights::WeightRange,
    },
    quantize::{self, Job, Means, Samples},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

fn samples() -> Samples {
    Samples { dataset: Arc::new(demo::dataset(Stream::Train, 400).unwrap()), preprocess: demo::preprocess() }
}

/// Four bits for everything but the picture.
fn four_bits() -> Recipe {
    let text =
        "samples = 128\n[activation]\nbits = 4\n[weight]\nbits = 4\n[[layer]]\nop = \"Input\"\nactivation.bits = 8\n";
    let mut recipe = Recipe::from_toml(text).unwrap();
    recipe.activation.range = RangeMethod::Mse { p: 2.4 };
    recipe.weight.range = WeightRange::Mse { p: 2.4 };
    recipe
}

fn layer_by_layer() -> Recipe {
    let mut recipe = Recipe {
        compensate: true,
        correct_bias: BiasCorrection::Empirical,
        sum_operands: SumOperands::EightBit,
        ..four_bits()
    };
    recipe.weight.rounding = Rounding::Descent;
    recipe
}

fn quantized(graph: &Arc<Graph>, recipe: &Recipe, threads: usize) -> Result<Arc<Graph>> {
    let stats = quantize::calibrate(graph, [0; 32], &samples(), recipe, threads, None, &mut |_, _, _| {})?;
    let samples = samples();
    let q = quantize::annotate_with(
        graph,
        &stats,
        recipe,
        Some(&samples),
        Means { threads, ..Means::default() },
        &mut |_, _, _| {},
    )?;
    Ok(Arc::new(q.graph))
}

fn judge(graph: &Arc<Graph>, kind: Kind) -> EvalReport {
    let options = engine::Options { kind, profile: Profile::default(), threads: 2 };
    let mut engine = Engine::open(graph.clone(), options).unwrap();
    let test = Labelled {
        dataset: Arc::new(demo::dataset(Stream::Test, 1000).unwrap()),
        preprocess: demo::preprocess(),
        classes: None,
    };
    eval::evaluate(&mut engine, &test, &eval::Options { threads: 2, ..Default::default() }, &mut |_, _| {}).unwrap()
}

fn demo_network() -> Arc<Graph> {
    engine::simplify(onnx::read_bytes(demo::MODEL.into(), None).unwrap()).unwrap()
}

fn bytes(graph: &Graph, path: &Path) -> Vec<u8> {
    quantize::export(graph, quantize::Format::Qdq, Default::default(), path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn layers_that_make_up_for_each_other_keep_accuracy_at_four_bits() {
    let graph = demo_network();
    let float = judge(&graph, Kind::Float).top1;
    let alone = judge(&quantized(&graph, &four_bits(), 2).unwrap(), Kind::Int).top1;
    let together = quantized(&graph, &layer_by_layer(), 2).unwrap();
    let (int, sim) = (judge(&together, Kind::Int), judge(&together, Kind::Sim));
    assert_eq!(int.logits_sha256, sim.logits_sha256);
    // Half of what was lost comes back at least, in images of the thousand.
    let [lost, left] = [alone, int.top1].map(|top1| ((float - top1) * 1000.0).round());
    assert!(lost > 20.0 && left <= 0.5 * lost, "float {float}, alone {alone}, together {}", int.top1);
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let graph = demo_network();
    let folder = tempfile::tempdir().unwrap();
    for recipe in [
        layer_by_layer(),
        Recipe::from_toml("samples = 40\n[weight]\nbits = 3\nrounding = \"stochastic\"\n").unwrap(),
        Recipe::from_toml("samples = 40\ncorrect_bias = true\n[weight]\nbits = 3\nrounding = \"gptq\"\n").unwrap(),
    ] {
        let one = bytes(&quantized(&graph, &recipe, 1).unwrap(), &folder.path().join("one.onnx"));
        let three = bytes(&quantized(&graph, &recipe, 3).unwrap(), &folder.path().join("three.onnx"));
        assert!(one == three, "{recipe:?}");
    }
}

#[test]
fn without_samples_the_recipe_is_refused() {
    let graph = demo_network();
    let recipe = layer_by_layer();
    let stats = quantize::calibrate(&graph, [0; 32], &samples(), &recipe, 2, None, &mut |_, _, _| {}).unwrap();
    let refused = quantize::annotate(&graph, &stats, &recipe).err().expect("refused").to_string();
    assert!(refused.contains("--data"), "{refused}");
}

/// Where a layer's run begins changes no number: at the input each time, or at samples kept inside the network.
#[test]
fn the_same_codes_from_wherever_runs_begin() {
    let graph = demo_network();
    let recipe = layer_by_layer();
    let stats = quantize::calibrate(&graph, [0; 32], &samples(), &recipe, 2, None, &mut |_, _, _| {}).unwrap();
    let text = |buffer: u64| {
        let Samples { dataset, preprocess } = samples();
        let settings = Settings { batch: 32, threads: 2, skip_corrupt: false, cancel: None };
        let how = How {
            threads: 2,
            inputs: Inputs::Kept {
                kept: Kept::new(dataset, preprocess, (0..100).collect(), settings, &mut |_| {}).unwrap(),
                batch: 32,
                count: 100,
            },
            buffer,
            log: None,
            check: Box::new(|| Ok(())),
        };
        let quantized = reconstruct::quantize(&graph, &stats, &recipe, how, &mut |_, _| {}).unwrap();
        assert_eq!(quantized.messages, [""; 0]);
        quantized.graph
    };
    let folder = tempfile::tempdir().unwrap();
    let input = bytes(&text(0), &folder.path().join("input.onnx"));
    assert!(input == bytes(&text(1 << 30), &folder.path().join("all.onnx")));
    assert!(input == bytes(&text(200_000), &folder.path().join("small.onnx")));
}

/// A run that was stopped goes on where it was, and ends with the same bytes.
#[test]
fn a_stopped_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("demo.onnx"), folder.path().join("out.onnx"));
    std::fs::write(&model, demo::MODEL).unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let job = |out: &Path| Job {
        model: model.clone(),
        samples: Some(samples()),
        stats: None,
        recipe: layer_by_layer(),
        eval: None,
        target: None,
        pack: Default::default(),
        format: quantize::Format::Qdq,
        out: out.into(),
        threads: 2,
        cancel: Some(cancel.clone()),
    };
    let whole = folder.path().join("whole.onnx");
    let outcome = quantize::run(&job(&whole), &mut |_, _, _| {}).unwrap();
    assert!(!outcome.messages.iter().any(|m| m.contains("went on")), "{:?}", outcome.messages);
    let stopped = quantize::run(&job(&out), &mut |what, done, _| {
        if what == "rounding layers" && done == 3 {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    assert!(stopped.is_err_and(|e| e.kind() == ErrorKind::Interrupted));
    let unfinished = folder.path().join("out.onnx.unfinished");
    assert!(unfinished.exists() && !out.exists());
    cancel.store(false, Ordering::Relaxed);
    let outcome = quantize::run(&job(&out), &mut |_, _, _| {}).unwrap();
    assert!(outcome.messages.contains(&"went on after 3 layers that an earlier run had done".into()));
    assert!(!unfinished.exists());
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&whole).unwrap());
}
