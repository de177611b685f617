//! The demo: the built-in network through the whole pipeline, and what coarser choices would have cost.
use super::{MODEL, Stream, dataset, preprocess};
use crate::{
    data::paired_difference,
    engine::{self, Engine, Kind},
    error::{Error, Result},
    eval::{self, Labelled},
    exec::lower::Profile,
    quant::{
        range::RangeMethod,
        recipe::{BiasCorrection, Recipe, WeightGranularity},
        rounder::Rounding,
        weights::WeightRange,
    },
    quantize::{self, Format, Job, Means, Outcome, Progress, Samples},
};
use serde::Serialize;
use std::sync::{Arc, atomic::AtomicBool};

/// Pictures that calibration chooses from, and pictures of the evaluation.
const TRAIN: u64 = 1000;
const TEST: u64 = 2000;

/// What the demo shows.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// The network quantized by the default recipe.
    pub outcome: Outcome,
    /// The same network and statistics under other recipes.
    pub variants: Vec<Variant>,
}

/// Another way to quantize the network.
#[derive(Clone, Debug, Serialize)]
pub struct Variant {
    /// What is different.
    pub name: String,
    /// The recipe, complete.
    pub recipe: Recipe,
    /// Share of the test pictures that the integer engine gets right.
    pub top1: f64,
    /// That less the float network's, in shares of 1.
    pub difference: f64,
    /// 95 % confidence interval of the paired difference.
    pub interval: [f64; 2],
}

/// Quantizes the built-in network and measures it. `threads` 0: one per core.
///
/// # Errors
/// Only when the temporary folder cannot be written to, or `cancel` was set.
pub fn run(threads: usize, cancel: Option<Arc<AtomicBool>>, progress: &mut Progress) -> Result<DemoReport> {
    let folder = tempfile::tempdir().map_err(|e| Error::io(&std::env::temp_dir(), e))?;
    let [model, out] = ["demo.onnx", "demo.int8.onnx"].map(|name| folder.path().join(name));
    std::fs::write(&model, MODEL).map_err(|e| Error::io(&model, e))?;
    let samples = Samples { dataset: Arc::new(dataset(Stream::Train, TRAIN)?), preprocess: preprocess() };
    let test = Labelled { dataset: Arc::new(dataset(Stream::Test, TEST)?), preprocess: preprocess(), classes: None };
    let job = Job {
        model: model.clone(),
        samples: Some(samples.clone()),
        stats: None,
        recipe: Recipe::default(),
        eval: Some(test.clone()),
        target: None,
        pack: Default::default(),
        format: Format::Qdq,
        out,
        threads,
        cancel: cancel.clone(),
    };
    let mut outcome = quantize::run(&job, progress)?;
    // The folder is about to go.
    outcome.model = "demo.onnx".into();
    outcome.out = "demo.int8.onnx".into();

    let (graph, digest) = quantize::open(&model)?;
    let stats = quantize::calibrate(&graph, digest, &samples, &job.recipe, threads, cancel.clone(), progress)?;
    let right = outcome.float.as_ref().map(|f| f.correct.clone()).unwrap_or_default();
    let mut variants = Vec::new();
    for (name, recipe) in others() {
        let cancelled = cancel.as_ref();
        let means = Means { threads, cancel: cancelled, ..Means::default() };
        let quantized = quantize::annotate_with(&graph, &stats, &recipe, Some(&samples), means, progress)?;
        let quantized = Arc::new(quantized.graph);
        let mut engine =
            Engine::open(quantized, engine::Options { kind: Kind::Int, profile: Profile::default(), threads })?;
        let options = eval::Options { threads, cancel: cancel.clone(), ..eval::Options::default() };
        let report = eval::evaluate(&mut engine, &test, &options, &mut |done, of| progress("other recipes", done, of))?;
        let (difference, low, high) = paired_difference(&right, &report.correct)?;
        variants.push(Variant { name: name.into(), recipe, top1: report.top1, difference, interval: [low, high] });
    }
    Ok(DemoReport { outcome, variants })
}

/// Recipes that show what a choice is worth.
fn others() -> Vec<(&'static str, Recipe)> {
    let weights = |bits, granularity| {
        let mut recipe = Recipe::default();
        recipe.weight.bits = bits;
        recipe.weight.granularity = granularity;
        recipe
    };
    let mut naive = weights(8, WeightGranularity::Tensor);
    naive.activation.range = RangeMethod::MinMax;
    naive.weight.range = WeightRange::AbsMax;
    let mut looked = weights(4, WeightGranularity::Tensor);
    (looked.compensate, looked.correct_bias) = (true, BiasCorrection::Empirical);
    (looked.weight.range, looked.weight.rounding) = (WeightRange::Mse { p: 2.4 }, Rounding::Descent);
    vec![
        ("8 bits, one weight scale per tensor, ranges by extremes", naive),
        ("4-bit weights, one scale per channel", weights(4, WeightGranularity::Channel)),
        ("4-bit weights, one scale per tensor", weights(4, WeightGranularity::Tensor)),
        ("the same, rounded layer by layer with a look at data", looked),
    ]
}
