//! The main job, end to end: a float model and data in, a quantized model file out, with what it cost and what it brought.

mod balanced;
pub(crate) mod feed;
mod prepare;

pub use balanced::balanced;
pub(crate) use prepare::{Drawn, in_time};
pub use prepare::{
    Means, annotate, annotate_with, calibrate, calibrated, check, fixed_batch, how, noted, open, resolved,
};

use crate::search::{self, Found, Target};
use crate::staging::Staging;
use crate::{
    bench::Sizes,
    data::{Dataset, Preprocess, Settings, paired_difference},
    engine::{self, Engine, Kind},
    error::{At, Error, Result},
    eval::{self, EvalReport, Labelled},
    exec::lower::{self, Profile},
    formats::onnx::{self, WriteOptions},
    inspect::{self, WeightRow},
    ir::Graph,
    quant::{
        ptq,
        recipe::Recipe,
        report::{Comparison, LayerLoss},
        stats::Stats,
    },
};
use serde::Serialize;
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
    if let Some(samples) = &job.samples {
        feed::suits(&graph, samples).at(place)?;
    }
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
        let report = crate::bench::bench(&mut engine, &1.into(), |done, of| {
            progress("measuring speed", done, of);
            check(job.cancel.as_deref())
        })?;
        Ok(report.median_ms)
    };
    // Sequences of any length have no one speed.
    let (float_ms, int_ms) = match Sizes::from(1).binding(&graph) {
        Ok(_) => (Some(latency(&graph, Kind::Float)?), Some(latency(&written, Kind::Int)?)),
        Err(e) => {
            messages.push(format!("speed was not measured: {}", e.cause()));
            (None, None)
        }
    };
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
pub fn unfinished(out: &Path) -> PathBuf {
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

fn compare(
    job: &Job,
    graph: &Arc<Graph>,
    program: Arc<lower::Program>,
    samples: &Samples,
    progress: &mut Progress,
) -> Result<Vec<LayerLoss>> {
    let count = COMPARED.max(fixed_batch(graph).unwrap_or(1)) as u64;
    let Drawn { indices: chosen, fixed } = Drawn::new(graph, &samples.dataset, count, job.recipe.seed);
    // The float values of a batch are kept until the quantized ones come.
    let batch = fixed.unwrap_or(1);
    let total = chosen.len() as u64;
    let settings = Settings { batch, threads: job.threads, skip_corrupt: false, cancel: job.cancel.clone() };
    let mut comparison = Comparison::new(graph.clone(), program, job.threads)?;
    let mut done = 0;
    for b in feed::batches(graph, samples, chosen, settings)? {
        let b = b?;
        if b.indices.len() == batch || fixed.is_none() {
            comparison.feed(b.inputs)?;
        }
        done += b.indices.len() as u64;
        progress("comparing layers", done, total);
    }
    Ok(comparison.finish())
}
