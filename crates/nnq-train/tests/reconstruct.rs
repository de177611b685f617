//! Block reconstruction from file to file, on the demo's network and pictures.
use super::{output, pictures};
use nnq::{
    ErrorKind,
    demo::{self, Stream},
    engine::{self, Engine, Kind},
    eval,
    exec::lower::Profile,
    ir::Graph,
    quant::{recipe::Recipe, rounder::Rounding},
    quantize::{self, Samples},
};
use nnq_train::{
    Event,
    reconstruct::{self, Codes, Job, Settings, Unit},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

fn job(dir: &Path, out: &str, unit: Unit, steps: u64) -> Job {
    let model = dir.join("demo.onnx");
    std::fs::write(&model, demo::MODEL).unwrap();
    let data = pictures(Stream::Train, 96);
    let text = "samples = 64\n[activation]\nbits = 3\nrange = \"mse\"\n[weight]\nbits = 3\nrange = \"mse\"\n";
    Job {
        model,
        samples: Samples { dataset: data.dataset, preprocess: data.preprocess },
        recipe: Recipe::from_toml(text).unwrap(),
        settings: Settings {
            unit,
            steps,
            batch: 16,
            mirror: false,
            rate: 0.01,
            scale_rate: 0.04,
            rounded: 0.5,
            codes: Codes::Sigmoid,
            strength: 1.0,
            seed: 3,
        },
        checkpoint: None,
        output: output(dir.join(out)),
    }
}

#[test]
fn parts_come_closer_to_the_float_network() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(dir.path(), "w3.onnx", Unit::Block, 60);
    job.output.eval = Some(pictures(Stream::Test, 200));
    let outcome = reconstruct::run(&job, &mut |_| {}).unwrap();
    assert!(outcome.blocks.len() > 2);
    let (before, after) =
        outcome.blocks.iter().fold((0.0, 0.0), |s, b| (s.0 + b.before, s.1 + if b.kept { b.after } else { b.before }));
    assert!(outcome.blocks.iter().all(|b| b.kept == (b.after <= b.before)));
    assert!(after < 0.95 * before, "{:?}", outcome.blocks);
    // What was learned stands in the file: weights of 3 bits, and simulator and engine agree on it.
    let graph = engine::load(&job.output.file).unwrap();
    assert!(graph.values().any(|(_, v)| v.quant.as_ref().is_some_and(|q| q.qtype.bits == 3)));
    let data = pictures(Stream::Test, 8);
    let x = data.dataset.first(&data.preprocess).unwrap();
    let shape = [&[1], x.shape()].concat();
    let answers = [Kind::Sim, Kind::Int].map(|kind| {
        let options = engine::Options { kind, profile: Profile::default(), threads: 1 };
        let mut engine = Engine::open(graph.clone(), options).unwrap();
        engine.run(vec![nnq::ir::Tensor::of(&shape, x.to_f32s())]).unwrap()[0].to_f32s()
    });
    assert_eq!(answers[0], answers[1]);
    // The same samples rounded to nearest do worse on pictures that nobody saw.
    job.settings = Settings { steps: 1, rate: 1e-9, ..job.settings };
    job.output.file = dir.path().join("n.onnx");
    let plain = job;
    let plain = reconstruct::run(&plain, &mut |_| {}).unwrap();
    let (learned, nearest) = (outcome.written.after.unwrap().top1, plain.written.after.unwrap().top1);
    assert!(learned > nearest, "{learned} learned, {nearest} to nearest");
}

/// Where the recipe rounds layer by layer, learning begins with that: the same codes, biases and grids where a step changes nothing, and parts come closer to the
/// float network from there on.
#[test]
fn learning_begins_with_what_was_rounded_layer_by_layer() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(dir.path(), "begun.onnx", Unit::Part, 1);
    job.recipe.compensate = true;
    job.recipe.weight.rounding = Rounding::Descent;
    job.settings = Settings { rate: 1e-9, scale_rate: 0.0, ..job.settings };
    job.output.eval = Some(pictures(Stream::Test, 100));
    let begun = reconstruct::run(&job, &mut |_| {}).unwrap();
    let (float, digest) = quantize::open(&job.model).unwrap();
    let samples = Some(&job.samples);
    let means = quantize::Means { threads: 1, ..Default::default() };
    let stats = quantize::calibrate(&float, digest, &job.samples, &job.recipe, 1, None, &mut |_, _, _| {}).unwrap();
    let rounded = quantize::annotate_with(&float, &stats, &job.recipe, samples, means, &mut |_, _, _| {}).unwrap();
    let hash = |graph: Graph| {
        let options = engine::Options { kind: Kind::Int, profile: Profile::default(), threads: 1 };
        let mut engine = Engine::open(Arc::new(graph), options).unwrap();
        let data = job.output.eval.as_ref().unwrap();
        eval::evaluate(&mut engine, data, &eval::Options::default(), &mut |_, _| {}).unwrap().logits_sha256
    };
    assert_eq!(begun.written.after.as_ref().unwrap().logits_sha256, hash(rounded.graph));
    job.settings = Settings { steps: 60, rate: 0.05, scale_rate: 0.04, ..job.settings };
    let learned = reconstruct::run(&job, &mut |_| {}).unwrap();
    // Compensated layers make up for what the learned parts before them lose: the last part begins nearer than without learning.
    let errors = |o: &reconstruct::Outcome| o.blocks.last().map(|b| (b.before, b.after)).unwrap();
    assert!(errors(&learned).0 < errors(&begun).0, "{:?} {:?}", learned.blocks, begun.blocks);
    job.recipe.compensate = false;
    let learned = reconstruct::run(&job, &mut |_| {}).unwrap();
    let (before, after) =
        learned.blocks.iter().fold((0.0, 0.0), |s, b| (s.0 + b.before, s.1 + if b.kept { b.after } else { b.before }));
    assert!(after < 0.95 * before, "{:?}", learned.blocks);
    // By gradients that pass the rounding, too; what goes in and all inside is rounded.
    job.settings = Settings { codes: Codes::Ste, rounded: 1.0, scale_rate: 0.5, ..job.settings };
    let learned = reconstruct::run(&job, &mut |_| {}).unwrap();
    let (before, after) =
        learned.blocks.iter().fold((0.0, 0.0), |s, b| (s.0 + b.before, s.1 + if b.kept { b.after } else { b.before }));
    assert!(after < 0.95 * before, "{:?}", learned.blocks);
    // Mirrored pictures are other samples, and no more of them.
    job.settings.mirror = true;
    let mirrored = reconstruct::run(&job, &mut |_| {}).unwrap();
    assert_eq!(mirrored.samples, learned.samples);
    assert!(mirrored.blocks[0].before != learned.blocks[0].before, "{:?}", mirrored.blocks);
}

#[test]
fn a_run_that_was_stopped_goes_on_with_the_same_bytes() {
    stopped(|_| {});
}

/// Weights with zero points, so that these, too, have to come back.
#[test]
fn so_does_one_that_rounds_layer_by_layer_in_between() {
    stopped(|job| {
        (job.recipe.compensate, job.recipe.weight.symmetric) = (true, false);
        job.recipe.correct_bias = nnq::quant::recipe::BiasCorrection::Empirical;
    });
}

/// Scales of weights that were learned come back.
#[test]
fn so_does_one_that_learns_scales_of_weights() {
    stopped(|job| {
        job.recipe.compensate = true;
        job.settings = Settings { codes: Codes::Ste, scale_rate: 0.5, rounded: 1.0, mirror: true, ..job.settings };
    });
}

/// Where the last axis is that of colours, nothing is mirrored in silence.
#[test]
fn only_images_with_channels_first_are_mirrored() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(dir.path(), "m.onnx", Unit::Part, 1);
    job.settings.mirror = true;
    job.samples.preprocess.layout = Some(nnq::data::Layout::Nhwc);
    let error = reconstruct::run(&job, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("channels first") && error.contains("--mirror"), "{error}");
    assert!(!job.output.file.exists());
}

fn stopped(change: impl Fn(&mut Job)) {
    let dir = tempfile::tempdir().unwrap();
    let job = |dir: &Path, out: &str, unit, steps| {
        let mut job = job(dir, out, unit, steps);
        change(&mut job);
        job
    };
    let whole = job(dir.path(), "whole.onnx", Unit::Part, 4);
    let outcome = reconstruct::run(&whole, &mut |_| {}).unwrap();
    let parts = outcome.blocks.len();
    let cancel = Arc::new(AtomicBool::new(false));
    let mut stopped = job(dir.path(), "parts.onnx", Unit::Part, 4);
    stopped.checkpoint = Some(quantize::unfinished(&stopped.output.file));
    stopped.output.cancel = Some(cancel.clone());
    stopped.output.threads = 1;
    let error = reconstruct::run(&stopped, &mut |event| {
        // In the middle of the third part.
        if let Event::Stage("reconstructing", 10, _) = event {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(!stopped.output.file.exists());
    // Other settings do not go on from it.
    let mut other = stopped.clone();
    cancel.store(false, Ordering::Relaxed);
    other.settings.rate = 0.02;
    assert!(reconstruct::run(&other, &mut |_| {}).unwrap_err().to_string().contains("another run"));
    let rest = reconstruct::run(&stopped, &mut |_| {}).unwrap();
    assert_eq!(rest.blocks.len(), parts - 2);
    assert!(std::fs::read(&whole.output.file).unwrap() == std::fs::read(&stopped.output.file).unwrap());
    assert!(!quantize::unfinished(&stopped.output.file).exists());
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bad = job(dir.path(), "x.onnx", Unit::Network, 4);
    bad.settings.rounded = 1.5;
    assert_eq!(reconstruct::run(&bad, &mut |_| {}).unwrap_err().kind(), ErrorKind::Usage);
    let mut bad = job(dir.path(), "x.onnx", Unit::Network, 4);
    bad.settings.batch = 100;
    assert!(reconstruct::run(&bad, &mut |_| {}).unwrap_err().to_string().contains("64 samples"));
}
