//! Says where accuracy goes when a model is quantized by a recipe, why, and which option repairs it.
mod findings;
mod layer;
mod preprocessing;
mod repair;
mod sensitivity;
mod summary;

pub use crate::judge::{Judge, Score};
pub use findings::{Finding, FindingKind, Severity};
pub use layer::Layer;
pub use repair::{Repair, Trial};
pub use sensitivity::{Sensitivity, measure};
pub use summary::{Advice, Share};

use crate::{
    engine,
    error::{At, Error, Result},
    eval::Labelled,
    exec::lower::{self, Profile},
    ir::{Graph, Tensor},
    quant::{
        analysis::{Layers, Unit, UnitLoss},
        recipe::Recipe,
        stats::Stats,
    },
    quantize::{self, Progress, Samples},
};
pub(crate) use quantize::check;
use serde::Serialize;
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

/// What to do.
#[derive(Clone)]
pub struct Job {
    /// The float model.
    pub model: PathBuf,
    /// What to calibrate on; not needed with `stats` and `eval`.
    pub samples: Option<Samples>,
    /// Statistics collected before.
    pub stats: Option<PathBuf>,
    /// How to quantize.
    pub recipe: Recipe,
    /// What to measure on; without it, the calibration data.
    pub eval: Option<Labelled>,
    /// Which output each class of the calibration data stands for.
    pub classes: Option<Vec<crate::data::ClassRow>>,
    /// Samples that the metric is measured on, at most.
    pub measured: usize,
    /// Whether to measure every layer on the metric.
    pub sensitivity: bool,
    /// Whether to try the options that findings name.
    pub trials: bool,
    /// 0: one per core.
    pub threads: usize,
    /// Set by others to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Job {
    /// What flows work with.
    pub fn means(&self) -> quantize::Means<'_> {
        quantize::Means { threads: self.threads, cancel: self.cancel.as_ref(), ..Default::default() }
    }
    /// The data of the metric.
    ///
    /// # Errors
    /// When there is none.
    pub fn measured_on(&self) -> Result<Labelled> {
        match (&self.eval, &self.samples) {
            (Some(data), _) => Ok(data.clone()),
            (None, Some(s)) => {
                let (dataset, preprocess) = (s.dataset.clone(), s.preprocess.clone());
                Ok(Labelled { dataset, preprocess, classes: self.classes.clone() })
            }
            (None, None) => Err(Error::usage("no data to look at").cure("give --data, or --eval beside --stats")),
        }
    }
    /// Samples that the metric is measured on.
    pub fn measured_samples(&self, graph: &Graph, data: &Labelled) -> Vec<usize> {
        let count = self.measured.max(quantize::fixed_batch(graph).unwrap_or(1)) as u64;
        quantize::Drawn::new(graph, &data.dataset, count, self.recipe.seed).indices
    }
}

/// Samples on which layers are recomputed.
const LOOKED: usize = 32;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Analysis {
    /// The float model.
    pub model: String,
    /// The recipe, complete.
    pub recipe: Recipe,
    /// What was measured on.
    pub data: String,
    /// Samples of the metric.
    pub measured: usize,
    /// Samples that layers were recomputed on.
    pub looked: usize,
    /// The float network.
    pub float: Score,
    /// The quantized network, on integers where they run it.
    pub quantized: Score,
    /// Every step that rounds, in graph order.
    pub layers: Vec<Layer>,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
    /// Where most of the loss comes from, and what to try.
    pub advice: Advice,
    /// What quantization said.
    pub messages: Vec<String>,
    /// Wall-clock seconds in all.
    pub seconds: f64,
    /// Of these, measuring every layer on the metric.
    pub sensitivity_seconds: f64,
    /// Of these, trying repairs.
    pub trial_seconds: f64,
    /// The most memory the process has held so far.
    pub peak_memory_bytes: Option<u64>,
}

/// A network on its way: what findings look at.
pub(crate) struct Evidence<'a> {
    pub job: &'a Job,
    /// As read, before anything was folded.
    pub raw: &'a Graph,
    /// Simplified, balanced where the recipe says so.
    pub balanced: &'a Arc<Graph>,
    /// The same with the values that are rounded twice: those of `quantized`.
    pub float: &'a Arc<Graph>,
    pub quantized: &'a Arc<Graph>,
    pub stats: &'a Stats,
    pub judge: &'a Judge,
    pub losses: &'a [UnitLoss],
    pub layers: &'a [Layer],
    pub score: &'a Score,
}

/// Runs the job.
///
/// # Errors
/// Whatever a stage answers, with file, node or value.
pub fn run(job: &Job, progress: &mut Progress) -> Result<Analysis> {
    let start = Instant::now();
    let place = || job.model.display();
    let raw = engine::read(&job.model)?;
    let (graph, digest) = quantize::open(&job.model)?;
    if engine::is_quantized(&graph) {
        return Err(Error::usage("the model is quantized already")
            .at(place())
            .cure("analyze the float model that it was made from, with its recipe"));
    }
    if job.recipe.is_dynamic() {
        return Err(Error::unsupported("the recipe finds the grids of activations at run time, which is not analyzed")
            .cure("analyze it with static grids: leave out activation.mode = \"dynamic\""));
    }
    nnq_kernels::Isa::from_env().map_err(|e| Error::usage(e.to_string()).at(nnq_kernels::isa::ISA_VARIABLE))?;
    if let Some(data) = &job.eval {
        crate::eval::check(&graph, data).at(place)?;
    }
    let data = job.measured_on()?;
    let mut messages = Vec::new();
    let (file, samples) = (job.stats.as_deref(), job.samples.as_ref());
    let means = job.means();
    let (float, stats) =
        quantize::calibrated(&graph, digest, &job.recipe, (file, samples), means, &mut messages, progress).at(place)?;
    let made = quantize::annotate_with(&float, &stats, &job.recipe, samples, means, progress).at(place)?;
    // With the values that are rounded twice.
    let balanced = float;
    let float = made.float.clone();
    messages.extend(made.messages);
    let quantized = Arc::new(made.graph);
    let program = Arc::new(lower::lower(&quantized, Profile::default()).at(place)?);
    messages.extend(program.notes.iter().cloned());

    let strict = job.eval.is_some();
    let judge = Judge::new(&graph, &data, strict, job.measured_samples(&graph, &data), means, progress).at(place)?;
    let score = judge.score(&quantized).at(place)?;
    let (losses, looked) = look(&float, program, &judge, job, progress).at(place)?;
    let mut layers: Vec<Layer> = losses.iter().map(Layer::new).collect();
    let clock = Instant::now();
    if job.sensitivity {
        let units: Vec<&Unit> = losses.iter().map(|l| &l.unit).collect();
        let all = measure(&judge, &float, &quantized, &units, progress).at(place)?;
        layers.iter_mut().zip(all).for_each(|(layer, s)| layer.sensitivity = Some(s));
    }
    let sensitivity_seconds = clock.elapsed().as_secs_f64();
    let evidence = Evidence {
        job,
        raw: &raw,
        balanced: &balanced,
        float: &float,
        quantized: &quantized,
        stats: &stats,
        judge: &judge,
        losses: &losses,
        layers: &layers,
        score: &score,
    };
    let clock = Instant::now();
    let mut findings = findings::find(&evidence, progress).at(place)?;
    let mut advice = summary::advise(&evidence, &findings);
    if job.trials {
        let mut trier = repair::Trier::new(&graph, digest, &evidence);
        findings::try_all(&mut findings, &mut trier, progress).at(place)?;
        summary::try_all(&mut advice, &mut trier, progress).at(place)?;
    }
    let trial_seconds = clock.elapsed().as_secs_f64();
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    summary::write(&mut advice, &evidence, &findings);
    Ok(Analysis {
        model: job.model.display().to_string(),
        recipe: job.recipe.clone(),
        data: data.dataset.describe(),
        measured: judge.samples(),
        looked,
        float: judge.float().clone(),
        quantized: score.clone(),
        findings,
        advice,
        messages,
        seconds: start.elapsed().as_secs_f64(),
        sensitivity_seconds,
        trial_seconds,
        peak_memory_bytes: engine::peak_memory(),
        layers,
    })
}

/// Elements of the input that are run at once while all values are kept.
const AT_ONCE: usize = 1 << 15;

/// Recomputes the layers on some of the judge's samples, and says on how many.
fn look(
    float: &Arc<Graph>,
    program: Arc<lower::Program>,
    judge: &Judge,
    job: &Job,
    progress: &mut Progress,
) -> Result<(Vec<UnitLoss>, usize)> {
    let mut layers = Layers::new(float.clone(), program, job.threads)?;
    let fixed = quantize::fixed_batch(float);
    let each = judge.inputs(float, 0..1)?.first().map_or(1, Tensor::len).max(1);
    // Texts have different lengths.
    let most = if judge.has_texts() { 1 } else { 8 };
    let batch = fixed.unwrap_or((AT_ONCE / each).clamp(1, most).min(judge.samples()));
    let count = judge.samples().min(LOOKED.max(batch)) / batch * batch;
    for from in (0..count).step_by(batch) {
        check(job.cancel.as_deref())?;
        progress("looking at layers", from as u64, count as u64);
        layers.feed(&judge.inputs(float, from..from + batch)?)?;
    }
    progress("looking at layers", count as u64, count as u64);
    Ok((layers.finish(), count))
}
