//! Training from file to file, on the demo's network and pictures.
use super::{output, pictures};
use nnq::{
    ErrorKind,
    demo::{self, Stream},
    engine,
    formats::onnx::{self, Pack},
    ir::{DType, GraphBuilder, Op, QParams, Tensor},
    quant::{recipe::Recipe, rounder::Rounding},
    quantize::{self, Format, Samples},
    zoo::Wanted,
};
use nnq_train::{
    Event, Outcome,
    augment::Augment,
    job::{self, Job, Settings, Source},
    loss::Distill,
    low::Low,
    optimizer::{Method, Schedule, Steps},
    precision::Precision,
    qat::{Activations, BitsSchedule, Normalization, Rules, Weights},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

fn recipe(weight: u8, activation: u8) -> Recipe {
    let mut recipe = Recipe { samples: 32, ..Recipe::default() };
    (recipe.weight.bits, recipe.activation.bits) = (weight, activation);
    recipe
}

fn settings(epochs: u64) -> Settings {
    let steps = Steps {
        method: Method::Sgd { momentum: 0.9 },
        rate: 0.02,
        decay: 1e-4,
        schedule: Schedule::Cosine,
        warm_up: 2,
        scale_rate: 1.0,
        weight_rate: 1.0,
        bounded: true,
        clip: None,
    };
    Settings {
        epochs,
        batch: 16,
        parts: 1,
        steps,
        seed: 1,
        augment: "crop:2".parse::<Augment>().unwrap(),
        smoothing: 0.0,
        rules: Rules::default(),
        bits: BitsSchedule::default(),
        low: Low::default(),
        precision: Precision::F32,
        distill: None,
        average: None,
    }
}

fn job(dir: &Path, out: &str, recipe: Option<Recipe>, settings: Settings) -> Job {
    let model = dir.join("demo.onnx");
    std::fs::write(&model, demo::MODEL).unwrap();
    Job {
        source: Source::File(model),
        train: pictures(Stream::Train, 96),
        validation: None,
        recipe,
        begin: None,
        settings,
        eval_every: 0,
        checkpoint: None,
        log: None,
        output: output(dir.join(out)),
    }
}

fn run(job: &Job) -> nnq::Result<Outcome> {
    job::run(job, &mut |_| {})
}

/// Before the first step nothing differs from quantization without training, whichever way it rounds.
#[test]
fn training_of_no_consequence_gives_the_file_of_nnq_quantize() {
    let mut layers = recipe(4, 4);
    layers.compensate = true;
    layers.weight.rounding = Rounding::Descent;
    for recipe in [recipe(4, 4), layers] {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(1);
        settings.steps.rate = 1e-30;
        settings.steps.decay = 0.0;
        let job = job(dir.path(), "trained.onnx", Some(recipe.clone()), settings);
        run(&job).unwrap();
        let samples = Samples { dataset: job.train.dataset.clone(), preprocess: job.train.preprocess.clone() };
        let (float, digest) = quantize::open(&dir.path().join("demo.onnx")).unwrap();
        let stats = quantize::calibrate(&float, digest, &samples, &recipe, 2, None, &mut |_, _, _| {}).unwrap();
        let means = quantize::Means { threads: 2, ..Default::default() };
        let quantized =
            quantize::annotate_with(&float, &stats, &recipe, Some(&samples), means, &mut |_, _, _| {}).unwrap();
        let plain = dir.path().join("plain.onnx");
        quantize::export(&quantized.graph, Format::Qdq, Pack::default(), &plain).unwrap();
        assert!(std::fs::read(&job.output.file).unwrap() == std::fs::read(plain).unwrap());
    }
}

/// Training begins with what another file holds: codes, biases and grids, whatever calibration would say.
#[test]
fn training_begins_with_a_quantized_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut layers = recipe(4, 4);
    layers.compensate = true;
    layers.weight.rounding = Rounding::Descent;
    layers.activation.range = nnq::quant::range::RangeMethod::MinMax;
    let mut nothing = settings(1);
    (nothing.steps.rate, nothing.steps.decay) = (1e-30, 0.0);
    let first = job(dir.path(), "first.onnx", Some(layers), nothing.clone());
    run(&first).unwrap();
    let mut second = job(dir.path(), "second.onnx", Some(recipe(4, 4)), nothing);
    second.begin = Some(first.output.file.clone());
    run(&second).unwrap();
    // The files differ in the recipe that they name.
    let constants = |job: &Job| {
        let graph = engine::read(&job.output.file).unwrap();
        let all = graph.values().filter_map(|(_, v)| Some((v.name.clone(), v.constant.as_ref()?.to_f32s())));
        all.collect::<std::collections::BTreeMap<_, _>>()
    };
    assert!(constants(&first) == constants(&second));
    let e = run(&Job { recipe: Some(recipe(3, 4)), ..second.clone() }).unwrap_err().to_string();
    assert!(e.contains("first.onnx") && e.contains("of the same recipe"), "{e}");
    let e = run(&Job { recipe: None, ..second.clone() }).unwrap_err().to_string();
    assert!(e.contains("--bits"), "{e}");
    let other = dir.path().join("other.onnx");
    let float = nnq::zoo::build(nnq::zoo::find("resnet8").unwrap(), 1).unwrap();
    nnq::formats::onnx::write(&float, &other, &Default::default()).unwrap();
    let e = run(&Job { begin: Some(other), ..second }).unwrap_err().to_string();
    assert!(e.contains("other.onnx") && e.contains("the same network"), "{e}");
}

/// Binary, ternary and DoReFa networks, normalised, begin where they were left: the same codes on the same grids, where a step changes nothing.
#[test]
fn training_begins_with_levels_and_gains_that_were_trained() {
    for (quantizer, weights, bits) in [
        (Activations::Binary, Weights::Binary, 2),
        (Activations::Ternary, Weights::Ternary, 2),
        (Activations::Lsq, Weights::Dorefa, 3),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(1);
        (settings.rules.activations, settings.rules.weights) = (quantizer, weights);
        settings.rules.normalization = Normalization::Live { frozen: 0.5 };
        let first = job(dir.path(), "first.onnx", Some(recipe(bits, bits)), settings.clone());
        run(&first).unwrap();
        (settings.steps.rate, settings.steps.decay) = (1e-30, 0.0);
        settings.rules.normalization = Normalization::Live { frozen: 1.0 };
        let mut second = job(dir.path(), "second.onnx", Some(recipe(bits, bits)), settings);
        second.begin = Some(first.output.file.clone());
        let outcome = run(&second).unwrap();
        assert!(!outcome.written.messages.iter().any(|m| m.contains("begin")), "{:?}", outcome.written.messages);
        let [a, b] = [&first, &second].map(|job| engine::load(&job.output.file).unwrap());
        let names: std::collections::BTreeMap<_, _> = b.values().map(|(v, value)| (value.name.clone(), v)).collect();
        let (mut weights, mut values) = (0, 0);
        for (v, value) in a.values() {
            let other = b.value(names[&value.name]);
            let Some((params, others)) = value.quant.as_deref().zip(other.quant.as_deref()) else { continue };
            assert_eq!(params.qtype, others.qtype);
            // What is added to variances is small beside them.
            let near = params.scale.iter().zip(&others.scale).all(|(x, y)| (x / y - 1.0).abs() < 1e-3);
            assert!(near, "{quantizer:?} {}: {:?} {:?}", value.name, params.scale, others.scale);
            match (a.constant(v), &other.constant) {
                // Codes of biases follow from scales that are rounded once more.
                (Some(x), Some(y)) if params.qtype.bits <= 8 => {
                    assert_eq!(x.to_i64s().unwrap(), y.to_i64s().unwrap(), "{quantizer:?} {}", value.name);
                    weights += 1;
                }
                _ => values += 1,
            }
        }
        assert!(weights > 2 && values > 2, "{weights} {values}");
    }
}

/// At few bits, a little training wins back much of what rounding lost.
#[test]
fn training_repairs_few_bits() {
    let dir = tempfile::tempdir().unwrap();
    let test = pictures(Stream::Test, 200);
    let mut settings = settings(4);
    settings.distill = Some(Distill::default());
    settings.steps.rate = 0.001;
    let mut few = recipe(3, 3);
    few.activation.range = nnq::quant::range::RangeMethod::Mse { p: 2.0 };
    few.weight.range = nnq::quant::weights::WeightRange::Mse { p: 2.0 };
    let mut job = job(dir.path(), "w3.onnx", Some(few), settings);
    job.output.eval = Some(test.clone());
    job.train = pictures(Stream::Train, 512);
    let outcome = run(&job).unwrap();
    let after = outcome.written.after.unwrap().top1;
    job.settings.steps.rate = 1e-30;
    job.settings.epochs = 1;
    let without = run(&job).unwrap().written.after.unwrap().top1;
    assert!(after > without + 0.1, "{without} without, {after} with training; loss {:?}", outcome.epochs);
    // Weights stand on 3 bits.
    let graph = engine::load(&job.output.file).unwrap();
    let grids: Vec<Arc<QParams>> = graph.values().filter_map(|(_, v)| v.quant.clone()).collect();
    assert!(grids.iter().any(|q| q.qtype.bits == 3));
}

/// A run that is stopped and goes on ends with the same bytes: whatever step it was stopped at, and with other threads.
#[test]
fn a_run_that_was_stopped_ends_with_the_same_bytes() {
    let mut plain = settings(2);
    plain.steps.rate = 0.005;
    let low = Low { gradients: Some(6), updates: Some(12), ..Low::default() };
    let clip = Steps { clip: Some(0.5), ..plain.steps };
    let augment: Augment = "crop:2,mixup:0.5".parse().unwrap();
    let normalization = "live:0.3".parse().unwrap();
    let rules =
        Rules { weights: Weights::Ternary, estimator: "reste".parse().unwrap(), normalization, ..Rules::default() };
    let bits = "w8a8,w4a4,w2a4".parse().unwrap();
    let all = Settings { low, augment, rules, bits, steps: clip, ..plain.clone() };
    let inside = Distill { features: 0.5, ..Distill::default() };
    for (name, recipe, settings) in [
        ("float", None, plain.clone()),
        ("binary16", None, Settings { precision: Precision::F16, ..plain.clone() }),
        ("quantized", Some(recipe(4, 4)), Settings { distill: Some(inside), ..plain.clone() }),
        ("average", Some(recipe(2, 4)), Settings { low: Low::default(), average: Some(0.9), ..all.clone() }),
        ("parts", Some(recipe(2, 4)), Settings { parts: 4, distill: Some(inside), ..all.clone() }),
        ("everything", Some(recipe(2, 4)), all),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let whole = job(dir.path(), "whole.onnx", recipe.clone(), settings.clone());
        run(&whole).unwrap();
        for stop in [1, 6, 8] {
            let cancel = Arc::new(AtomicBool::new(false));
            let checkpoint = dir.path().join(format!("run{stop}.checkpoint"));
            let mut parts = job(dir.path(), &format!("parts{stop}.onnx"), recipe.clone(), settings.clone());
            parts.checkpoint = Some((checkpoint, 4));
            parts.output.cancel = Some(cancel.clone());
            parts.output.threads = stop as usize % 4;
            let stopped = job::run(&parts, &mut |event| {
                if let Event::Step(step) = event
                    && step.step == stop
                {
                    cancel.store(true, Ordering::Relaxed);
                }
            });
            assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
            assert!(!parts.output.file.exists());
            cancel.store(false, Ordering::Relaxed);
            let outcome = job::run(&parts, &mut |event| {
                // Means of the epoch, whatever step of it the run goes on from.
                if let Event::Step(step) = event {
                    assert!(step.accuracy <= 1.0, "{name}, stopped after {stop}: {step:?}");
                }
            })
            .unwrap();
            assert_eq!(outcome.steps, 12);
            let same = std::fs::read(&whole.output.file).unwrap() == std::fs::read(&parts.output.file).unwrap();
            assert!(same, "{name}, stopped after {stop}");
        }
        // A checkpoint of another run is refused.
        let mut other = job(dir.path(), "other.onnx", recipe, Settings { epochs: 3, ..settings });
        other.checkpoint = Some((dir.path().join("run8.checkpoint"), 4));
        assert_eq!(run(&other).unwrap_err().kind(), ErrorKind::Usage);
    }
}

/// Where nothing goes by statistics of a batch, its parts come to what the whole does, but for the order of sums.
#[test]
fn parts_of_a_batch_come_to_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (augment, distill) = ("mixup:0.5".parse().unwrap(), Some(Distill::default()));
    let mut mixed = Settings { augment, distill, ..settings(1) };
    mixed.steps.rate = 0.002;
    let constants = |parts: usize| {
        let job = job(dir.path(), &format!("{parts}.onnx"), None, Settings { parts, ..mixed.clone() });
        let outcome = run(&job).unwrap();
        let graph = engine::read(&job.output.file).unwrap();
        let all = graph.values().filter_map(|(_, v)| Some(v.constant.as_ref()?.to_f32s())).collect::<Vec<_>>();
        (outcome.epochs[0].loss, outcome.epochs[0].accuracy, all.concat())
    };
    let (loss, accuracy, whole) = constants(1);
    for parts in [2, 8] {
        let (l, a, some) = constants(parts);
        assert!((l - loss).abs() < 1e-4 * loss && a == accuracy, "{parts}: {l} {loss}, {a} {accuracy}");
        let far = whole.iter().zip(&some).map(|(a, b)| (a - b).abs() / (1.0 + a.abs())).fold(0.0, f32::max);
        assert!(whole.len() == some.len() && far < 1e-3, "{parts}: {far}");
    }
}

#[test]
fn a_network_of_the_zoo_learns_from_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(3);
    settings.steps.rate = 0.05;
    let mut job = job(dir.path(), "resnet8.onnx", None, settings);
    job.source = Source::Zoo(Wanted { name: "resnet8".into(), seed: 1, ..Wanted::default() });
    job.log = Some(dir.path().join("log.jsonl"));
    let outcome = run(&job).unwrap();
    let losses: Vec<f64> = outcome.epochs.iter().map(|e| e.loss).collect();
    assert!(losses[2] < losses[0], "{losses:?}");
    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 4);
    // The running statistics were trained, too: the file is no longer what the zoo builds.
    let graph = engine::read(&job.output.file).unwrap();
    let fresh = nnq::zoo::build(nnq::zoo::find("resnet8").unwrap(), 1).unwrap();
    let mean = |g: &nnq::ir::Graph| g.constant(g.find("bn1.running_mean").unwrap()).unwrap().to_f32s();
    assert_ne!(mean(&graph), mean(&fresh));
    // And on parts of its images, smaller ones at first, from its own answers: the file still takes whole ones.
    let mut settings = self::settings(2);
    settings.augment = "zoom,shrink:12:0.5".parse().unwrap();
    settings.distill = Some(Distill { weight: 1.0, temperature: 1.0, features: 1.0 });
    let mut again = self::job(dir.path(), "again.onnx", Some(recipe(8, 8)), settings);
    again.source = Source::File(job.output.file);
    again.output.eval = Some(pictures(Stream::Test, 32));
    let outcome = run(&again).unwrap();
    assert_eq!((outcome.epochs.len(), outcome.written.after.unwrap().samples), (2, 32));
    // A network whose last layer wants so many pixels says so.
    let shape = again.train.dataset.first(&again.train.preprocess).unwrap().shape().to_vec();
    let pixels: usize = shape.iter().product();
    let mut b = GraphBuilder::new("fixed");
    let x = b.input("x", DType::F32, &format!("N, {}, {}, {}", shape[0], shape[1], shape[2]));
    let flat = b.op("flat", Op::Flatten { axis: 1 }, &[x]);
    let w = b.constant("w", Tensor::of(&[pixels, 10], vec![0.01f32; pixels * 10]));
    let y = b.op("last", Op::MatMul, &[flat, w]);
    b.output(y);
    let path = dir.path().join("fixed.onnx");
    onnx::write(&b.finish().unwrap(), &path, &Default::default()).unwrap();
    again.source = Source::File(path);
    again.recipe = None;
    again.settings.distill = None;
    let e = run(&again).unwrap_err().to_string();
    assert!(e.contains("node 'last'") && e.contains("without shrink"), "{e}");
}

#[test]
fn jobs_that_make_no_sense_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let usual = || job(dir.path(), "never.onnx", Some(recipe(4, 4)), settings(1));
    let mut none = usual();
    none.settings.batch = 1000;
    let mut uneven = usual();
    uneven.settings.parts = 3;
    let mut zoo = usual();
    zoo.source = Source::Zoo(Wanted { name: "resnet8".into(), seed: 1, ..Wanted::default() });
    let mut live = usual();
    live.recipe = None;
    live.settings.rules.normalization = "live".parse().unwrap();
    let mut half = usual();
    half.settings.precision = Precision::Bf16;
    let mut average = usual();
    average.settings.average = Some(1.0);
    let mut grid = average.clone();
    grid.settings.low.updates = Some(12);
    let mut rate = usual();
    rate.settings.steps.rate = -1.0;
    let mut wild = usual();
    wild.settings.steps.rate = 1.0;
    wild.settings.steps.warm_up = 0;
    wild.settings.epochs = 30;
    wild.recipe = None;
    wild.settings.steps.decay = 1000.0;
    for (job, cause) in [
        (none, "batches of 1000"),
        (uneven, "--parts that divides"),
        (zoo, "floating point first"),
        (live, "--batch-norm"),
        (half, "--precision"),
        (average, "keeps 1 of itself"),
        (grid, "--update-bits"),
        (rate, "learning rate -1"),
        (wild, "smaller learning rate"),
    ] {
        let e = run(&job).unwrap_err().to_string();
        assert!(e.contains(cause), "{cause}: {e}");
        assert!(!job.output.file.exists());
    }
}
