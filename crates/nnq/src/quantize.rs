//! The main job, end to end: a float model and data in, a quantized model file out, with what it cost and what it brought.

mod balanced;

pub use balanced::balanced;

use crate::search::{self, Found, Target};
use crate::staging::Staging;
use crate::{
    data::{Choice, Dataset, Kept, Loader, Preprocess, Settings, paired_difference, subset},
    engine::{self, Engine, Kind},
    error::{At, Error, ErrorKind, Result},
    eval::{self, EvalReport, Labelled},
    exec::lower::{self, Profile},
    formats::onnx::{self, WriteOptions},
    inspect::{self, WeightRow},
    ir::Graph,
    quant::{
        calibrate::Calibrator,
        ptq,
        recipe::Recipe,
        reconstruct,
        report::{Comparison, LayerLoss},
        resume::Log,
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
    let Drawn { indices: mut chosen, fixed } = Drawn::new(graph, &samples.dataset, recipe.samples, recipe.seed);
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
pub fn annotate(graph: &Arc<Graph>, stats: &Stats, recipe: &Recipe) -> Result<ptq::Quantized> {
    noted(ptq::quantize(graph, stats, recipe)?, recipe)
}

/// Recipe and version go with the graph.
fn noted(mut q: ptq::Quantized, recipe: &Recipe) -> Result<ptq::Quantized> {
    q.graph.metadata.retain(|(k, _)| !k.starts_with("nnq."));
    q.graph.metadata.push(("nnq.version".into(), env!("CARGO_PKG_VERSION").into()));
    q.graph.metadata.push(("nnq.recipe".into(), recipe.to_toml()?));
    Ok(q)
}

/// What a flow works with besides model, data and recipe.
#[derive(Clone, Copy, Default)]
pub struct Means<'a> {
    /// 0: one per core.
    pub threads: usize,
    /// Set by others to stop.
    pub cancel: Option<&'a Arc<AtomicBool>>,
    /// When to stop by itself, as if by others.
    pub deadline: Option<Instant>,
    /// A file that keeps layers as they are done: a run that was stopped goes on after the last of them.
    pub resume: Option<&'a Path>,
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
    means: Means,
    progress: &mut Progress,
) -> Result<ptq::Quantized> {
    let Some(samples) = samples.filter(|_| recipe.layer_by_layer()) else { return annotate(graph, stats, recipe) };
    let Means { threads, cancel, deadline, resume } = means;
    let Drawn { indices, fixed } = Drawn::new(graph, &samples.dataset, recipe.samples, recipe.seed);
    let total = indices.len() as u64;
    let settings = Settings { batch: KEPT, threads, skip_corrupt: false, cancel: cancel.cloned() };
    let inputs = Kept::new(samples.dataset.clone(), samples.preprocess.clone(), indices, settings, &mut |done| {
        progress("reading samples", done, total);
    })?;
    let log = resume.map(|path| Log::open(path, key(stats, recipe, &inputs)?)).transpose()?;
    let one = fixed.unwrap_or(1).max(1);
    let how = reconstruct::How {
        threads,
        batch: fixed.unwrap_or(KEPT).max(1),
        count: inputs.len() / one * one,
        inputs,
        buffer: INSIDE,
        log,
        check: &|| {
            check(cancel.map(AsRef::as_ref))?;
            in_time(deadline)
        },
        tick: &mut |done, of| progress("rounding layers", done as u64, of as u64),
    };
    noted(reconstruct::quantize(graph, stats, recipe, how)?, recipe)
}

/// Stands for everything that the layers of a run depend on: the version, the statistics (and with them the model), the recipe, the samples.
fn key(stats: &Stats, recipe: &Recipe, inputs: &Kept) -> Result<[u8; 32]> {
    let stats = postcard::to_stdvec(stats).map_err(|e| Error::internal(format!("statistics: {e}")))?;
    let recipe = recipe.to_toml()?;
    let mut digest = Sha256::new();
    for part in [env!("CARGO_PKG_VERSION").as_bytes(), &stats, recipe.as_bytes()] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    for start in (0..inputs.len()).step_by(KEPT) {
        let some = inputs.batch(start..inputs.len().min(start + KEPT))?;
        digest.update(bytemuck::cast_slice(some.as_slice::<f32>()?));
        some.release();
    }
    Ok(digest.finalize().into())
}

/// Samples of a data set for a model.
pub(crate) struct Drawn {
    pub indices: Vec<usize>,
    /// The model's batch, where it is fixed.
    pub fixed: Option<usize>,
}

impl Drawn {
    /// At most `count`, all classes alike, by `seed`.
    pub fn new(graph: &Graph, dataset: &Dataset, count: u64, seed: u64) -> Self {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let indices = subset(dataset.len(), count, seed, Choice::Stratified, |i| dataset.label(i));
        Self { indices, fixed: fixed_batch(graph) }
    }
    /// At most `most` others than those `used`, all classes alike.
    pub fn apart(dataset: &Dataset, used: &dyn Fn(usize) -> bool, most: usize, seed: u64) -> Vec<usize> {
        let rest: Vec<usize> = (0..dataset.len()).filter(|&i| !used(i)).collect();
        let of = subset(rest.len(), most, seed, Choice::Stratified, |i| dataset.label(rest[i]));
        of.into_iter().map(|i| rest[i]).collect()
    }
}

/// The batch of a model that runs no other.
pub(crate) fn fixed_batch(graph: &Graph) -> Option<usize> {
    graph.inputs.first().and_then(|&v| graph.value(v).shape.as_ref()?.0.first()?.fixed())
}

/// The most bytes of samples that are kept at a value inside a network.
const INSIDE: u64 = 320 << 20;

/// Samples that run at once while layers are rounded.
const KEPT: usize = 32;

/// Writes an annotated graph for others to run.
///
/// # Errors
/// As the exporters and the writer.
pub fn export(graph: &Graph, format: Format, pack: onnx::Pack, path: &Path) -> Result<()> {
    let plain = match format {
        Format::Qdq => onnx::quantized::to_qdq(graph)?,
        Format::Qoperator => onnx::quantized::to_qoperator(graph)?,
    };
    onnx::write(&plain, path, &WriteOptions { pack, ..WriteOptions::default() })
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
    /// Accuracy to reach, beginning with the recipe.
    pub target: Option<Target>,
    /// How to write it.
    pub format: Format,
    /// What becomes of codes that need less than a byte.
    pub pack: onnx::Pack,
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
    /// Quantized constants as the file stores them.
    pub weights: Vec<WeightRow>,
    /// Steps of the integer program, and operators that stayed in floating point.
    pub integer_steps: usize,
    /// Operators that run in floating point.
    pub float_steps: usize,
    /// What the search for a recipe came to, where there was one.
    pub search: Option<Found>,
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
    let (search, prepared) = match &job.target {
        Some(target) => {
            let (found, prepared) = search::search(job, &graph, digest, target, progress).at(place)?;
            (Some(found), prepared)
        }
        None => (None, prepare(job, &graph, digest, &mut messages, progress)?),
    };
    let Prepared { balanced, stats, quantized, calibrate_seconds } = prepared;
    let program = Arc::new(lower::lower(&quantized.graph, Profile::default()).at(place)?);
    let file = staging.path();
    export(&quantized.graph, job.format, job.pack, &file).map_err(|e| staging.error(e))?;
    let quantize_seconds = start.elapsed().as_secs_f64();
    messages.extend(quantized.messages.iter().cloned());
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
    let weights = inspect::weights(&written);
    messages.extend(unpacked(&weights, job));
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
    // There is none where no layer looked at samples.
    let _ = std::fs::remove_file(unfinished(&job.out));
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
        weights,
        integer_steps,
        float_steps,
        search,
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

/// Calibrates and quantizes as the job says.
fn prepare(
    job: &Job,
    graph: &Arc<Graph>,
    digest: [u8; 32],
    messages: &mut Vec<String>,
    progress: &mut Progress,
) -> Result<Prepared> {
    let place = || job.model.display();
    let (file, samples) = (job.stats.as_deref(), job.samples.as_ref());
    let resume = unfinished(&job.out);
    let means = Means { threads: job.threads, cancel: job.cancel.as_ref(), deadline: None, resume: Some(&resume) };
    let clock = Instant::now();
    let (balanced, stats) =
        calibrated(graph, digest, &job.recipe, (file, samples), means, messages, progress).at(place)?;
    let calibrate_seconds = clock.elapsed().as_secs_f64();
    let quantized = annotate_with(&balanced, &stats, &job.recipe, samples, means, progress).at(place)?;
    Ok(Prepared { balanced, stats: Arc::new(stats), quantized: Arc::new(quantized), calibrate_seconds })
}

/// The network balanced as the recipe says, and the statistics of its values: from a file, which must be of the model with this digest, or collected on
/// samples.
///
/// # Errors
/// When there is neither, or a file where there can be none; as [`balanced`], [`calibrate`] and [`Stats::read`].
pub(crate) fn calibrated(
    graph: &Arc<Graph>,
    digest: [u8; 32],
    recipe: &Recipe,
    (file, samples): (Option<&Path>, Option<&Samples>),
    means: Means,
    messages: &mut Vec<String>,
    progress: &mut Progress,
) -> Result<(Arc<Graph>, Stats)> {
    let useless = |cause: &str, cure: &str| {
        let place = file.map(|f| f.display().to_string()).unwrap_or_default();
        Err(Error::usage(cause).at(place).cure(cure))
    };
    if file.is_some() && (recipe.equalize || recipe.absorb || recipe.smooth.is_some()) {
        return useless(
            "the recipe balances layers, which changes what statistics are of",
            "give --data instead of --stats, or leave out equalize, smooth and absorb",
        );
    }
    if file.is_some() && !recipe.needs_statistics() {
        return useless(
            "the recipe finds the grids of activations at run time: statistics are of no use",
            "leave out --stats, or the dynamic mode",
        );
    }
    let graph = balanced(graph, recipe, samples, means, progress, messages)?;
    let stats = match (file, samples) {
        (Some(path), _) => {
            let stats = Stats::read(path)?;
            if stats.meta.model != digest {
                return useless("the statistics were collected from another model file", "calibrate this model");
            }
            stats
        }
        // Nothing has to be known of activations.
        (None, _) if !recipe.needs_statistics() => Stats::new(digest, String::new()),
        (None, Some(samples)) => {
            calibrate(&graph, digest, samples, recipe, means.threads, means.cancel.cloned(), progress)?
        }
        (None, None) => {
            return Err(Error::usage("neither data nor statistics to calibrate with")
                .cure("give --data or --stats, or quantize with --dynamic, which needs neither"));
        }
    };
    Ok((graph, stats))
}

/// A network that is quantized by a recipe.
#[derive(Clone)]
pub struct Prepared {
    /// The float network, balanced where the recipe says so.
    pub balanced: Arc<Graph>,
    /// Its statistics.
    pub stats: Arc<Stats>,
    /// The quantized network.
    pub quantized: Arc<ptq::Quantized>,
    /// Seconds of the float runs with their observers.
    pub calibrate_seconds: f64,
}

/// Where layers that are done are kept until the whole is: `OUT.unfinished`.
fn unfinished(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

/// Why codes of fewer than 8 bits take a byte each in the file.
fn unpacked(weights: &[WeightRow], job: &Job) -> Option<String> {
    let bits = |r: &WeightRow| r.grid[1..].chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u8>();
    let wide: Vec<&WeightRow> =
        weights.iter().filter(|r| r.stored.ends_with("int8") && bits(r).is_ok_and(|bits| bits < 8)).collect();
    let numbers: u64 = wide.iter().map(|r| r.numbers).sum();
    let grids: Vec<&str> = wide.iter().map(|r| r.grid.as_str()).collect();
    let why = match (job.pack, job.format) {
        _ if numbers == 0 => return None,
        (onnx::Pack::Never, _) => "as --pack never wants it: --pack int4 packs those of up to 4 bits",
        (_, Format::Qoperator) => {
            "since the integer operators of ONNX take bytes only: --format qdq packs those of up to 4 bits"
        }
        _ => "since ONNX has no narrower element type for them than int8",
    };
    Some(format!("{numbers} codes ({}) take a byte each in the file, {why}", grids.join(", ")))
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

/// Whether there is time left.
pub(crate) fn in_time(deadline: Option<Instant>) -> Result<()> {
    match deadline {
        Some(d) if Instant::now() > d => Err(Error::new(ErrorKind::Interrupted, "the time is over")),
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
    let dataset = &samples.dataset;
    let count = COMPARED.max(fixed_batch(graph).unwrap_or(1)) as u64;
    let Drawn { indices: chosen, fixed } = Drawn::new(graph, dataset, count, job.recipe.seed);
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
