//! The main job, end to end: a float model and data in, a quantized model file out, with what it cost and what it brought.

use crate::staging::Staging;
use crate::{
    data::{Choice, Dataset, Kept, Loader, Preprocess, Settings, paired_difference, subset},
    engine::{self, Engine, Kind},
    error::{At, Error, ErrorKind, Result},
    eval::{self, EvalReport, Labelled},
    exec::lower::{self, Profile},
    formats::onnx::{self, WriteOptions},
    ir::Graph,
    quant::{
        balance,
        calibrate::Calibrator,
        ptq,
        recipe::Recipe,
        reconstruct,
        report::{Comparison, LayerLoss},
        stats::Stats,
    },
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

/// How a quantized model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// QuantizeLinear and DequantizeLinear around float operators.
    #[default]
    Qdq,
    /// QLinearConv, QLinearMatMul and their like.
    Qoperator,
}

/// Samples to calibrate on.
#[derive(Clone)]
pub struct Samples {
    /// Where they come from.
    pub dataset: Arc<Dataset>,
    /// What is done to each.
    pub preprocess: Preprocess,
}

/// Where a flow is, for a progress bar: what it does, steps done, steps in all.
pub type Progress<'a> = dyn FnMut(&str, u64, u64) + 'a;

/// Samples that each thread runs, some at once, before all meet.
const BATCH: usize = 8;

/// Collects the statistics of `graph` over `recipe.samples` samples chosen by `recipe.seed`.
///
/// # Errors
/// Names the sample that cannot be read, the node that cannot run, the value that cannot be observed.
pub fn calibrate(
    graph: &Arc<Graph>,
    model_sha256: [u8; 32],
    samples: &Samples,
    recipe: &Recipe,
    threads: usize,
    cancel: Option<Arc<AtomicBool>>,
    progress: &mut Progress,
) -> Result<Stats> {
    let dataset = &samples.dataset;
    let &[input] = &graph.inputs[..] else {
        return Err(Error::unsupported(format!("the model has {} inputs; data has one", graph.inputs.len()))
            .cure("quantize models of one input"));
    };
    let value = graph.value(input);
    if let Some(shape) = &value.shape {
        let first = dataset.first(&samples.preprocess)?;
        samples.preprocess.fits(first.shape(), shape).at(|| format!("input '{}'", value.name))?;
    }
    let fixed = value.shape.as_ref().and_then(|s| s.0.first()).and_then(crate::ir::Dim::fixed);
    let wanted = usize::try_from(recipe.samples).unwrap_or(usize::MAX);
    let mut chosen = subset(dataset.len(), wanted, recipe.seed, Choice::Stratified, |i| dataset.label(i));
    let mut calibrator = Calibrator::new(graph.clone(), threads)?;
    let batch = fixed.unwrap_or(BATCH * calibrator.threads());
    if batch == 0 {
        let shape = value.shape.as_ref().map_or_else(String::new, ToString::to_string);
        return Err(Error::usage(format!("its shape is {shape}: the model runs 0 samples at once"))
            .at(format!("input '{}'", value.name))
            .cure("export the model with a free batch"));
    }
    if chosen.is_empty() {
        return Err(Error::usage("there are no samples to calibrate on").cure("name a data set that holds some"));
    }
    if fixed.is_some_and(|n| n > chosen.len()) {
        return Err(Error::usage(format!("the model runs {batch} samples at once, the data has {}", chosen.len()))
            .cure("give more calibration samples or export the model with a free batch"));
    }
    if fixed.is_some() {
        chosen.truncate(chosen.len() / batch * batch);
    }
    let total = chosen.len() as u64;
    let settings = Settings { batch, threads, skip_corrupt: false, cancel };
    let loader = Loader::new(dataset.clone(), samples.preprocess.clone(), chosen.clone(), settings)?;
    let mut done = 0;
    for b in loader {
        let b = b?;
        let ids: Vec<u64> = b.indices.iter().map(|&i| i as u64).collect();
        calibrator.feed(b.input, &ids)?;
        done += ids.len() as u64;
        progress("calibrating", done, total);
    }
    let mut stats = Stats::new(model_sha256, toml(&samples.preprocess)?);
    for i in chosen {
        stats.meta.samples.insert(i as u64..i as u64 + 1);
    }
    stats.values = calibrator.finish()?;
    Ok(stats)
}

fn toml(p: &Preprocess) -> Result<String> {
    toml::to_string(p).map_err(|e| Error::internal(format!("the preprocessing cannot be written: {e}")))
}

/// A model and the SHA-256 of its file, both at the same time.
///
/// # Errors
/// As [`engine::load`].
pub fn open(path: &Path) -> Result<(Arc<Graph>, [u8; 32])> {
    let (graph, digest) = rayon::join(|| engine::load(path), || sha256(path));
    Ok((graph?, digest?))
}

/// SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
fn sha256(path: &Path) -> Result<[u8; 32]> {
    let bytes = nnq_kernels::mmap::map(path).map_err(|e| Error::io(path, e))?;
    Ok(Sha256::digest(&bytes).into())
}

/// Quantizes `graph`, and notes recipe and version in the result's metadata.
///
/// # Errors
/// As [`ptq::quantize`].
pub fn annotate(graph: &Graph, stats: &Stats, recipe: &Recipe) -> Result<ptq::Quantized> {
    noted(ptq::quantize(graph, stats, recipe)?, recipe)
}

/// Recipe and version go with the graph.
fn noted(mut q: ptq::Quantized, recipe: &Recipe) -> Result<ptq::Quantized> {
    q.graph.metadata.retain(|(k, _)| !k.starts_with("nnq."));
    q.graph.metadata.push(("nnq.version".into(), env!("CARGO_PKG_VERSION").into()));
    q.graph.metadata.push(("nnq.recipe".into(), recipe.to_toml()?));
    Ok(q)
}

/// As [`annotate`], for any recipe: with samples, layer by layer where the recipe says so.
///
/// # Errors
/// As [`annotate`] and [`reconstruct::quantize`].
pub fn annotate_with(
    graph: &Arc<Graph>,
    stats: &Stats,
    recipe: &Recipe,
    samples: Option<&Samples>,
    threads: usize,
    cancel: Option<&Arc<AtomicBool>>,
    progress: &mut Progress,
) -> Result<ptq::Quantized> {
    let Some(samples) = samples.filter(|_| recipe.layer_by_layer()) else { return annotate(graph, stats, recipe) };
    let dataset = &samples.dataset;
    let wanted = usize::try_from(recipe.samples).unwrap_or(usize::MAX);
    let chosen = subset(dataset.len(), wanted, recipe.seed, Choice::Stratified, |i| dataset.label(i));
    let fixed = graph.inputs.first().and_then(|&v| graph.value(v).shape.as_ref()?.0.first()?.fixed());
    let total = chosen.len() as u64;
    let settings = Settings { batch: KEPT, threads, skip_corrupt: false, cancel: cancel.cloned() };
    let kept = Kept::new(dataset.clone(), samples.preprocess.clone(), chosen, settings, &mut |done| {
        progress("reading samples", done, total);
    })?;
    let batch = fixed.unwrap_or(KEPT).max(1);
    let count = kept.len() / fixed.unwrap_or(1).max(1) * fixed.unwrap_or(1).max(1);
    let mut how = reconstruct::How {
        threads,
        samples: count,
        feed: &mut |to| {
            (0..count).step_by(batch).try_for_each(|start| {
                check(cancel.map(AsRef::as_ref))?;
                let some = kept.batch(start..count.min(start + batch))?;
                to(some.clone())?;
                // Memory does not grow with the number of samples.
                some.release();
                Ok(())
            })
        },
        tick: &mut |done, of| {
            progress("rounding layers", done as u64, of as u64);
            check(cancel.map(AsRef::as_ref))
        },
    };
    noted(reconstruct::quantize(graph, stats, recipe, &mut how)?, recipe)
}

/// Samples that run at once while layers are rounded.
const KEPT: usize = 32;

/// Writes an annotated graph for others to run.
///
/// # Errors
/// As the exporters and the writer.
pub fn export(graph: &Graph, format: Format, path: &Path) -> Result<()> {
    let plain = match format {
        Format::Qdq => onnx::quantized::to_qdq(graph)?,
        Format::Qoperator => onnx::quantized::to_qoperator(graph)?,
    };
    onnx::write(&plain, path, &WriteOptions::default())
}

/// What to do.
#[derive(Clone)]
pub struct Job {
    /// The float model.
    pub model: PathBuf,
    /// What to calibrate on; not needed with `stats`.
    pub samples: Option<Samples>,
    /// Statistics collected before.
    pub stats: Option<PathBuf>,
    /// Every choice.
    pub recipe: Recipe,
    /// What to measure accuracy on.
    pub eval: Option<Labelled>,
    /// How to write it.
    pub format: Format,
    /// The file to write.
    pub out: PathBuf,
    /// 0: one per core.
    pub threads: usize,
    /// Set by others to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// The accuracy of one way to run the model.
#[derive(Clone, Debug, Serialize)]
pub struct Accuracy {
    /// Measured on the evaluation data.
    #[serde(flatten)]
    pub eval: EvalReport,
    /// Difference to float in shares of 1, of the judged accuracy: among the data's classes where these are fewer than the
    /// outputs, else top 1.
    pub difference: f64,
    /// 95 % confidence interval of the paired difference.
    pub interval: [f64; 2],
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The float model.
    pub model: String,
    /// The quantized file.
    pub out: String,
    /// Its form.
    pub format: Format,
    /// Samples calibrated on.
    pub calibration_samples: u64,
    /// Seconds from reading the model to the written file, evaluation not counted.
    pub quantize_seconds: f64,
    /// Of these, the float runs with their observers.
    pub calibrate_seconds: f64,
    /// Bytes of the float file.
    pub float_bytes: u64,
    /// Bytes of the quantized file.
    pub quantized_bytes: u64,
    /// Quantized over float.
    pub size_ratio: f64,
    /// Steps of the integer program, and operators that stayed in floating point.
    pub integer_steps: usize,
    /// Operators that run in floating point.
    pub float_steps: usize,
    /// Accuracy of the float model.
    pub float: Option<EvalReport>,
    /// Of the simulator.
    pub sim: Option<Accuracy>,
    /// Of the integer engine.
    pub int: Option<Accuracy>,
    /// Milliseconds of one sample, float executor.
    pub float_ms: Option<f64>,
    /// Milliseconds of one sample, integer engine.
    pub int_ms: Option<f64>,
    /// What each step does to the signal, in graph order.
    pub layers: Vec<LayerLoss>,
    /// What a user should know.
    pub messages: Vec<String>,
    /// The most memory the process has held so far.
    pub peak_memory_bytes: Option<u64>,
}

/// Calibration samples that the comparison of layers runs on.
const COMPARED: usize = 16;

/// Runs the job.
///
/// # Errors
/// Whatever a stage answers, with file, node or value. Nothing is left at `out` then.
pub fn run(job: &Job, progress: &mut Progress) -> Result<Outcome> {
    let start = Instant::now();
    let place = || job.model.display();
    let (graph, digest) = open(&job.model)?;
    if engine::is_quantized(&graph) {
        return Err(Error::usage("the model is quantized already").at(place()).cure("start from the float model"));
    }
    // What would fail late fails before the work.
    let staging = Staging::new(&job.out)?;
    nnq_kernels::Isa::from_env().map_err(|e| Error::usage(e.to_string()).at(nnq_kernels::isa::ISA_VARIABLE))?;
    if let Some(data) = &job.eval {
        eval::check(&graph, data).at(place)?;
    }
    let mut messages = Vec::new();
    let balanced = if job.recipe.equalize {
        balanced(&graph, job.stats.as_deref(), &mut messages).at(place)?
    } else {
        graph.clone()
    };
    let clock = Instant::now();
    let (stats, samples) = (job.stats.as_deref(), job.samples.as_ref());
    let stats = statistics(&balanced, digest, stats, samples, &job.recipe, job.threads, job.cancel.clone(), progress)
        .at(place)?;
    let calibrate_seconds = clock.elapsed().as_secs_f64();
    let cancel = job.cancel.as_ref();
    let quantized =
        annotate_with(&balanced, &stats, &job.recipe, job.samples.as_ref(), job.threads, cancel, progress).at(place)?;
    let program = Arc::new(lower::lower(&quantized.graph, Profile::default()).at(place)?);
    let file = staging.path();
    export(&quantized.graph, job.format, &file).map_err(|e| staging.error(e))?;
    let quantize_seconds = start.elapsed().as_secs_f64();
    messages.extend(quantized.messages);
    messages.extend(program.notes.iter().cloned());
    let (integer_steps, float_steps) = program.integer_share();

    let layers = match &job.samples {
        Some(samples) => compare(job, &balanced, program, samples, progress)?,
        None => Vec::new(),
    };
    let bytes = |p: &Path| -> Result<u64> {
        let own = std::fs::metadata(p).map_err(|e| Error::io(p, e))?.len();
        let data =
            p.with_file_name(format!("{}.data", p.file_name().map_or_else(Default::default, |n| n.to_string_lossy())));
        Ok(own + std::fs::metadata(data).map_or(0, |m| m.len()))
    };
    let (float_bytes, quantized_bytes) = (bytes(&job.model)?, bytes(&file)?);

    // What is judged from here on is the file that was written.
    let written = engine::load(&file)?;
    let engine = |graph: &Arc<Graph>, kind| {
        Engine::open(graph.clone(), engine::Options { kind, profile: Profile::default(), threads: job.threads })
    };
    let (mut float, mut sim, mut int) = (None, None, None);
    if let Some(data) = &job.eval {
        let mut evaluate = |graph: &Arc<Graph>, kind: Kind, what: &str| -> Result<EvalReport> {
            let mut engine = engine(graph, kind)?;
            let options = eval::Options { threads: job.threads, cancel: job.cancel.clone(), ..Default::default() };
            eval::evaluate(&mut engine, data, &options, &mut |done, of| progress(what, done, of))
        };
        let reference = evaluate(&graph, Kind::Float, "evaluating float").at(place)?;
        let judged = |eval: EvalReport| -> Result<Accuracy> {
            let (difference, lo, hi) = paired_difference(judged(&reference), judged(&eval))?;
            Ok(Accuracy { eval, difference, interval: [lo, hi] })
        };
        sim = Some(judged(evaluate(&written, Kind::Sim, "evaluating simulated")?)?);
        int = Some(judged(evaluate(&written, Kind::Int, "evaluating integer")?)?);
        float = Some(reference);
    }
    let mut latency = |graph: &Arc<Graph>, kind| -> Result<f64> {
        check(job.cancel.as_deref())?;
        let mut engine = engine(graph, kind)?;
        let report = crate::bench::bench(&mut engine, 1, |done, of| {
            progress("measuring speed", done, of);
            check(job.cancel.as_deref())
        })?;
        Ok(report.median_ms)
    };
    let float_ms = Some(latency(&graph, Kind::Float)?);
    let int_ms = Some(latency(&written, Kind::Int)?);
    drop(written);
    staging.finish()?;
    Ok(Outcome {
        model: job.model.display().to_string(),
        out: job.out.display().to_string(),
        format: job.format,
        calibration_samples: stats.meta.samples.len(),
        quantize_seconds,
        calibrate_seconds,
        float_bytes,
        quantized_bytes,
        size_ratio: quantized_bytes as f64 / float_bytes as f64,
        integer_steps,
        float_steps,
        float,
        sim,
        int,
        float_ms,
        int_ms,
        layers,
        messages,
        peak_memory_bytes: engine::peak_memory(),
    })
}

/// The statistics of a graph's values: from a file, which must be of the model with this digest, or collected on samples.
///
/// # Errors
/// When there is neither; as [`calibrate`] and [`Stats::read`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn statistics(
    graph: &Arc<Graph>,
    digest: [u8; 32],
    file: Option<&Path>,
    samples: Option<&Samples>,
    recipe: &Recipe,
    threads: usize,
    cancel: Option<Arc<AtomicBool>>,
    progress: &mut Progress,
) -> Result<Stats> {
    match (file, samples) {
        (Some(path), _) => {
            let stats = Stats::read(path)?;
            if stats.meta.model != digest {
                return Err(Error::usage("the statistics were collected from another model file")
                    .at(path.display())
                    .cure("calibrate this model"));
            }
            Ok(stats)
        }
        (None, Some(samples)) => calibrate(graph, digest, samples, recipe, threads, cancel, progress),
        (None, None) => {
            Err(Error::usage("neither data nor statistics to calibrate with").cure("give --data or --stats"))
        }
    }
}

/// The model with its layers balanced; `stats` are those that a user wants to use, which would be of another network.
pub(crate) fn balanced(graph: &Graph, stats: Option<&Path>, messages: &mut Vec<String>) -> Result<Arc<Graph>> {
    if let Some(path) = stats {
        return Err(Error::usage("the recipe balances layers, which changes what statistics are of")
            .at(path.display())
            .cure("give --data instead of --stats, or set equalize = false"));
    }
    let balance::Equalized { graph, pairs, clips } = balance::equalize(graph)?;
    messages.push(match (pairs, clips) {
        (0, _) => "equalization: no two layers follow each other with nothing but a ReLU or pooling between".into(),
        (n, 0) => format!("equalization balanced {n} pairs of layers"),
        (n, c) => format!("equalization balanced {n} pairs of layers; {c} clips between them became ReLU"),
    });
    Ok(Arc::new(graph))
}

/// The answers that count: among the data's classes where these are fewer than the outputs.
fn judged(report: &EvalReport) -> &[bool] {
    report.correct_restricted.as_deref().unwrap_or(&report.correct)
}

/// An error once somebody asked to stop.
pub(crate) fn check(cancel: Option<&AtomicBool>) -> Result<()> {
    match cancel {
        Some(c) if c.load(std::sync::atomic::Ordering::Relaxed) => {
            Err(Error::new(ErrorKind::Interrupted, "stopped on request"))
        }
        _ => Ok(()),
    }
}

fn compare(
    job: &Job,
    graph: &Arc<Graph>,
    program: Arc<lower::Program>,
    samples: &Samples,
    progress: &mut Progress,
) -> Result<Vec<LayerLoss>> {
    let fixed = graph.inputs.first().and_then(|&v| graph.value(v).shape.as_ref()?.0.first()?.fixed());
    let dataset = &samples.dataset;
    let chosen = subset(dataset.len(), COMPARED.max(fixed.unwrap_or(1)), job.recipe.seed, Choice::Stratified, |i| {
        dataset.label(i)
    });
    // The float values of a batch are kept until the quantized ones come.
    let batch = fixed.unwrap_or(1);
    let total = chosen.len() as u64;
    let settings = Settings { batch, threads: job.threads, skip_corrupt: false, cancel: job.cancel.clone() };
    let mut comparison = Comparison::new(graph.clone(), program, job.threads)?;
    let mut done = 0;
    for b in Loader::new(dataset.clone(), samples.preprocess.clone(), chosen, settings)? {
        let b = b?;
        if b.indices.len() == batch || fixed.is_none() {
            comparison.feed(vec![b.input])?;
        }
        done += b.indices.len() as u64;
        progress("comparing layers", done, total);
    }
    Ok(comparison.finish())
}
