//! The whole flow behind `nnq train`: from a network and data to a trained network in a file.
use crate::{
    augment::Augment,
    backend::{Device, Kernels},
    checkpoint,
    loss::Distill,
    optimizer::Steps,
    params::Parameters,
    qat::{Plan, Quantizing, Rules},
    report::{EpochReport, Event, Outcome},
    trainer::{Epoch, Keep, Trainer, With},
    written,
};
use burn::backend::Flex;
use nnq::{
    Error, Result,
    data::paired_difference,
    engine::{self, Engine, Kind},
    error::At as _,
    eval::{self, EvalReport, Labelled},
    exec::lower::Profile,
    formats::onnx,
    ir::Graph,
    quant::{recipe::Recipe, stats::Stats},
    quantize::{self, Format, Means, Samples},
    staging::Staging,
    zoo,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

/// The network to train.
#[derive(Clone, Debug)]
pub enum Source {
    /// A model file. Batch normalisation is folded into the layers before it, as for quantization.
    File(PathBuf),
    /// A network of nnq's zoo, from random weights and with live batch normalisation.
    Zoo(String),
}

/// Every number of a run; the same settings give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Passes over the training data.
    pub epochs: u64,
    /// Samples of a step.
    pub batch: usize,
    /// The size of steps.
    pub steps: Steps,
    /// Seed of everything random.
    pub seed: u64,
    /// Changes of training images.
    pub augment: Augment,
    /// The share of a label that is spread over all classes.
    pub smoothing: f32,
    /// How values learn to be rounded.
    pub rules: Rules,
    /// Learning from the float network.
    pub distill: Option<Distill>,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The processor.
    #[default]
    Cpu,
    /// A card of NVIDIA.
    #[cfg(feature = "cuda")]
    Cuda(usize),
    /// Whatever graphics interface there is.
    #[cfg(feature = "wgpu")]
    Wgpu,
}

impl Place {
    /// The device called so: `cpu`, `cuda`, `cuda:N` or `wgpu`.
    ///
    /// # Errors
    /// When there is none, or it is not built in.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu),
            #[cfg(feature = "cuda")]
            "cuda" => Ok(Self::Cuda(0)),
            #[cfg(feature = "wgpu")]
            "wgpu" => Ok(Self::Wgpu),
            _ => {
                #[cfg(feature = "cuda")]
                if let Some(n) = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                    return Ok(Self::Cuda(n));
                }
                Err(Error::usage(format!("device '{name}' is not built in"))
                    .cure("use cpu, or build with --features cuda or wgpu"))
            }
        }
    }
}

/// What to do.
#[derive(Clone)]
pub struct Job {
    /// The network.
    pub source: Source,
    /// Labelled samples to train on, and to calibrate on.
    pub train: Labelled,
    /// Labelled samples to measure accuracy on. Nothing is chosen by them.
    pub eval: Option<Labelled>,
    /// How to quantize; without, the network is trained in floating point.
    pub recipe: Option<Recipe>,
    /// Every number.
    pub settings: Settings,
    /// Evaluate after each so many epochs; 0: at the end only.
    pub eval_every: u64,
    /// A file that keeps the state after each so many steps, and where to go on from.
    pub checkpoint: Option<(PathBuf, u64)>,
    /// A file for a line of JSON for each epoch and every tenth step.
    pub log: Option<PathBuf>,
    /// How a quantized network is written.
    pub format: Format,
    /// What becomes of codes that need less than a byte.
    pub pack: onnx::Pack,
    /// The file to write.
    pub out: PathBuf,
    /// 0: one per core.
    pub threads: usize,
    /// Where to compute.
    pub place: Place,
    /// Set by others to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// Hears what a run says.
pub type Tell<'a> = dyn FnMut(Event) + 'a;

/// Runs the job.
///
/// # Errors
/// Whatever a stage answers, with file, node or value. Nothing is left at `out` then; a checkpoint stays.
pub fn run(job: &Job, tell: &mut (dyn FnMut(Event) + Send)) -> Result<Outcome> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(job.threads).build();
    let pool = pool.map_err(|e| Error::new(nnq::ErrorKind::Io, format!("threads cannot be started: {e}")))?;
    pool.install(|| match job.place {
        Place::Cpu => run_on::<Flex>(job, Device::<Flex>::default(), tell),
        #[cfg(feature = "cuda")]
        Place::Cuda(n) => run_on::<burn::backend::Cube>(job, burn::backend::cuda::CudaDevice::new(n).into(), tell),
        #[cfg(feature = "wgpu")]
        Place::Wgpu => run_on::<burn::backend::Cube>(job, burn::backend::wgpu::WgpuDevice::default().into(), tell),
    })
}

/// The network before training, and what it will round.
struct Prepared {
    /// As it was read or built.
    float: Arc<Graph>,
    /// What is trained.
    graph: Arc<Graph>,
    plan: Plan,
    /// To quantize again with what was trained.
    quantizing: Option<(Arc<Graph>, Stats, Recipe)>,
    digest: [u8; 32],
    messages: Vec<String>,
}

fn prepare(job: &Job, tell: &mut Tell) -> Result<Prepared> {
    let (float, digest) = match &job.source {
        Source::File(path) => quantize::open(path)?,
        Source::Zoo(name) => {
            let graph = zoo::build(zoo::find(name)?, job.settings.seed)?;
            (Arc::new(graph), Sha256::digest(name.as_bytes()).into())
        }
    };
    if engine::is_quantized(&float) {
        return Err(Error::usage("the network is quantized already").cure("start from the float network"));
    }
    let Some(recipe) = &job.recipe else {
        let graph = float.clone();
        return Ok(Prepared { float, graph, plan: Plan::default(), quantizing: None, digest, messages: Vec::new() });
    };
    if let Source::Zoo(_) = job.source {
        return Err(Error::usage("rounding a network from the beginning of its training")
            .cure("train it in floating point first, then train the file with --bits"));
    }
    let mut messages = Vec::new();
    let samples = Samples { dataset: job.train.dataset.clone(), preprocess: job.train.preprocess.clone() };
    let means = Means { threads: job.threads, cancel: job.cancel.as_ref(), ..Means::default() };
    let mut progress = |what: &str, done: u64, of: u64| tell(Event::Stage(what, done, of));
    let balanced = quantize::balanced(&float, recipe, Some(&samples), means, &mut progress, &mut messages)?;
    let stats =
        quantize::calibrate(&balanced, digest, &samples, recipe, job.threads, job.cancel.clone(), &mut progress)?;
    let recipe = quantize::resolved(&balanced, &stats, recipe, &samples, means, &mut progress)?;
    let first = Quantizing::new(&balanced, &stats, &recipe, job.settings.rules)?;
    let (graph, plan) = (first.graph().clone(), first.plan);
    Ok(Prepared { float, graph, plan, quantizing: Some((balanced, stats, recipe)), digest, messages })
}

/// The network as it would be written, with what was trained: for the engine, and the messages of quantization.
fn finished<B: Kernels>(job: &Job, of: &Prepared, trained: &Parameters<B>) -> Result<(Arc<Graph>, Vec<String>)> {
    match &of.quantizing {
        Some((balanced, stats, recipe)) => {
            let quantizing = Quantizing::new(balanced, stats, recipe, job.settings.rules)?;
            let quantized = quantize::noted(quantizing.finish::<B>(trained)?, recipe)?;
            Ok((Arc::new(quantized.graph), quantized.messages))
        }
        None => Ok((Arc::new(written::float::<B>(&of.graph, trained)?), Vec::new())),
    }
}

fn run_on<B: Kernels>(job: &Job, device: Device<B>, tell: &mut (dyn FnMut(Event) + Send)) -> Result<Outcome> {
    let place = match &job.source {
        Source::File(path) => path.display().to_string(),
        Source::Zoo(name) => name.clone(),
    };
    // What would fail late fails before the work.
    let staging = Staging::new(&job.out)?;
    check(job)?;
    let prepared = prepare(job, tell).at(|| place.clone())?;
    for data in [Some(&job.train), job.eval.as_ref()].into_iter().flatten() {
        eval::check(&prepared.float, data).at(|| place.clone())?;
    }
    let evaluate = |graph: Arc<Graph>, what: &str, tell: &mut Tell| -> Result<Option<EvalReport>> {
        let Some(data) = &job.eval else { return Ok(None) };
        let kind = Kind::for_graph(&graph);
        let graph = if kind == Kind::Float { engine::simplify(Graph::clone(&graph))? } else { graph };
        let mut engine = open(graph, kind, job.threads)?;
        let options = eval::Options { threads: job.threads, cancel: job.cancel.clone(), ..Default::default() };
        eval::evaluate(&mut engine, data, &options, &mut |done, of| tell(Event::Stage(what, done, of))).map(Some)
    };
    let before = match job.source {
        Source::File(_) => evaluate(prepared.float.clone(), "evaluating float", tell)?,
        Source::Zoo(_) => None,
    };
    let teacher = match job.settings.distill {
        Some(how) => Some((open(prepared.float.clone(), Kind::Float, job.threads)?, how)),
        None => None,
    };
    let key = key(job, prepared.digest)?;
    let keep = job.checkpoint.clone().map(|(path, every)| Keep { path, every, key });
    let with = With { settings: &job.settings, teacher, keep, threads: job.threads, cancel: job.cancel.clone() };
    let mut trainer =
        Trainer::<B>::new(&prepared.graph, &prepared.plan, &job.train, device, with).at(|| place.clone())?;
    let total = job.settings.epochs * trainer.steps_of_epoch();
    let mut epochs: Vec<EpochReport> = Vec::new();
    // A run that goes on adds to what it has said.
    if let Some(path) = job.log.as_deref().filter(|_| trainer.step == 0) {
        std::fs::File::create(path).map_err(|e| Error::io(path, e))?;
    }
    while trainer.step < total {
        let mut failed = None;
        let mut heard = |event: Event| {
            if let (Event::Step(step), Some(path)) = (&event, &job.log)
                && step.step.is_multiple_of(LOGGED)
            {
                failed = failed.take().or(log(path, step).err());
            }
            tell(event);
        };
        let Epoch { loss, accuracy, seconds, images_per_second } = trainer.epoch(&mut heard).at(|| place.clone())?;
        if let Some(e) = failed {
            return Err(e);
        }
        let epoch = trainer.step / trainer.steps_of_epoch().max(1);
        let due = job.eval_every > 0 && epoch.is_multiple_of(job.eval_every) && trainer.step < total;
        let eval = match due {
            true => {
                let (graph, _) = finished::<B>(job, &prepared, &trainer.parameters)?;
                evaluate(graph, "evaluating", tell)?.map(|r| r.top1)
            }
            false => None,
        };
        let step = trainer.step;
        let report =
            EpochReport { epoch, epochs: job.settings.epochs, step, loss, accuracy, eval, seconds, images_per_second };
        if let Some(path) = &job.log {
            log(path, &report)?;
        }
        tell(Event::Epoch(&report));
        epochs.push(report);
    }
    let (graph, notes) = finished::<B>(job, &prepared, &trainer.parameters).at(|| place.clone())?;
    let file = staging.path();
    match job.recipe {
        Some(_) => quantize::export(&graph, job.format, job.pack, &file),
        None => onnx::write(&graph, &file, &onnx::WriteOptions::default()),
    }
    .map_err(|e| staging.error(e))?;
    // What is judged is the file that was written.
    let after = evaluate(engine::load(&file)?, "evaluating trained", tell)?;
    let difference = match (&before, &after) {
        (Some(a), Some(b)) => paired_difference(&a.correct, &b.correct).map(|(d, lo, hi)| Some([d, lo, hi]))?,
        _ => None,
    };
    staging.finish()?;
    let messages = prepared.messages.into_iter().chain(notes).collect();
    Ok(Outcome {
        model: place,
        out: job.out.display().to_string(),
        parameters: trainer.parameters.count(),
        steps: trainer.step,
        seconds: epochs.iter().map(|e| e.seconds).sum(),
        images_per_second: trainer.speed(),
        epochs,
        before,
        after,
        difference,
        messages,
    })
}

pub(crate) fn open(graph: Arc<Graph>, kind: Kind, threads: usize) -> Result<Engine> {
    Engine::open(graph, engine::Options { kind, profile: Profile::default(), threads })
}

/// Settings that make no sense.
fn check(job: &Job) -> Result<()> {
    let Settings { epochs, batch, smoothing, distill, .. } = &job.settings;
    if *epochs == 0 || *batch == 0 {
        return Err(Error::usage(format!("{epochs} epochs with batches of {batch}")).cure("use 1 or more"));
    }
    if !(0.0..1.0).contains(smoothing) {
        return Err(Error::usage(format!("label smoothing {smoothing}")).cure("use 0 or more, below 1"));
    }
    if distill.is_some_and(|d| !(d.temperature > 0.0 && d.temperature.is_finite() && (0.0..=1.0).contains(&d.weight))) {
        return Err(Error::usage("distillation with a temperature that is not positive, or a weight that is no share"));
    }
    match (&job.source, distill) {
        (Source::Zoo(_), Some(_)) => {
            Err(Error::usage("distillation from a network with random weights").cure("leave out --distill"))
        }
        _ => Ok(()),
    }
}

/// Stands for everything that the result depends on.
fn key(job: &Job, digest: [u8; 32]) -> Result<[u8; 32]> {
    let json = |x: &Settings| serde_json::to_vec(x).map_err(|e| Error::internal(format!("settings: {e}")));
    let recipe = job.recipe.as_ref().map(Recipe::to_toml).transpose()?.unwrap_or_default();
    let data = format!("{}\n{}", job.train.dataset.len(), job.train.preprocess.to_toml()?);
    Ok(checkpoint::key(&[&digest, &json(&job.settings)?, recipe.as_bytes(), data.as_bytes()]))
}

/// Steps between two lines of the log.
const LOGGED: u64 = 10;

/// Adds a line to the log.
fn log(path: &Path, report: &impl Serialize) -> Result<()> {
    let io = |e| Error::io(path, e);
    let line = serde_json::to_string(report).map_err(|e| Error::internal(format!("a line of the log: {e}")))?;
    let mut file = std::fs::File::options().append(true).create(true).open(path).map_err(io)?;
    writeln!(file, "{line}").map_err(io)
}
