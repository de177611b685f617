//! The whole flow behind `nnq train`: from a network and data to a trained network in a file.
mod settings;

pub use settings::{Job, Settings, Source};

use crate::{
    backend::{Device, Kernels},
    output::{Calibrated, Remarks, float_only},
    params::Parameters,
    place::{Place, Work},
    qat::Plan,
    report::{EpochReport, Event, Outcome, Tell},
    trainer::{Epoch, Keep, Teacher, Trainer, With, of_any_size},
    weights,
};
use nnq::{
    Error, Result,
    engine::{self, Kind},
    error::At as _,
    eval,
    formats::onnx::{self, WriteOptions},
    ir::Graph,
    quantize::{self, Samples},
    staging::Staging,
    zoo::{self, Wanted},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{io::Write as _, path::Path, sync::Arc};

/// Runs the job.
///
/// # Errors
/// Whatever a stage answers, with file, node or value. Nothing is left at the output then; a checkpoint stays.
pub fn run(job: &Job, tell: &mut (dyn FnMut(Event) + Send)) -> Result<Outcome> {
    job.output.place.run(job.output.threads, Training { job, tell })
}

struct Training<'a> {
    job: &'a Job,
    tell: &'a mut (dyn FnMut(Event) + Send),
}

impl Work for Training<'_> {
    type Out = Outcome;
    fn on<B: Kernels>(self, device: Device<B>) -> Result<Outcome> {
        let model = self.job.source.name();
        train::<B>(self.job, model.clone(), device, self.tell).at(|| model)
    }
}

/// The network before training, and what it will round.
struct Prepared {
    /// As it was read or built.
    float: Arc<Graph>,
    /// What is trained.
    graph: Arc<Graph>,
    plan: Plan,
    /// To quantize again with what was trained.
    calibrated: Option<Calibrated>,
    digest: [u8; 32],
    /// What one should know about what training begins with.
    notes: Vec<String>,
}

fn prepare(job: &Job, tell: &mut Tell) -> Result<Prepared> {
    let mut notes = Vec::new();
    let (float, digest) = match &job.source {
        Source::File(path) => quantize::open(path)?,
        Source::Zoo(wanted) => {
            let (graph, said) = zoo::assemble(wanted)?;
            notes = said;
            let digest = Sha256::digest(onnx::to_bytes(&graph, &WriteOptions::default())?).into();
            (Arc::new(graph), digest)
        }
    };
    float_only(&float)?;
    let Some(recipe) = &job.recipe else {
        let graph = float.clone();
        return Ok(Prepared { float, graph, plan: Plan::default(), calibrated: None, digest, notes });
    };
    if let Source::Zoo(_) = job.source {
        return Err(Error::usage("rounding a network from the beginning of its training")
            .cure("train it in floating point first, then train the file with --bits"));
    }
    let samples = Samples { dataset: job.train.dataset.clone(), preprocess: job.train.preprocess.clone() };
    let mut calibrated = Calibrated::new((&float, digest), &samples, recipe, job.settings.rules, &job.output, tell)?;
    let mut digest = digest;
    if let Some(path) = &job.begin {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        digest = Sha256::new().chain_update(digest).chain_update(bytes).finalize().into();
        let place = || path.display();
        calibrated.begin_with(&*engine::load(path)?).at(place)?;
    } else if recipe.layer_by_layer() {
        calibrated.round_layers(&samples, &job.output, tell)?;
    }
    let first = calibrated.quantizing()?;
    let (graph, plan) = (first.graph().clone(), first.plan);
    Ok(Prepared { float, graph, plan, calibrated: Some(calibrated), digest, notes })
}

impl Prepared {
    /// The network as it would be written, with what was trained: for the engine, and the messages of quantization.
    fn finished<B: Kernels>(&self, trained: &Parameters<B>) -> Result<(Graph, Vec<String>)> {
        match &self.calibrated {
            Some(calibrated) => calibrated.finished::<B>(trained),
            None => Ok((weights::put::<B>(&self.graph, trained)?, Vec::new())),
        }
    }
}

fn train<B: Kernels>(
    job: &Job,
    model: String,
    device: Device<B>,
    tell: &mut (dyn FnMut(Event) + Send),
) -> Result<Outcome> {
    let output = &job.output;
    // What would fail late fails before the work.
    let staging = Staging::new(&output.file)?;
    job.check()?;
    let prepared = prepare(job, tell)?;
    for data in [Some(&job.train), job.validation.as_ref(), output.eval.as_ref()].into_iter().flatten() {
        eval::check(&prepared.float, data)?;
    }
    let before = match job.source {
        Source::Zoo(Wanted { weights: None, .. }) => None,
        Source::File(_) | Source::Zoo(_) => output.evaluate(prepared.float.clone(), "evaluating float", tell)?,
    };
    let shrinks = job.settings.augment.shrink > 0;
    // A batch ahead of the steps, of which its products are a quarter: as large a share of the threads, unless the steps need none.
    let threads = rayon::current_num_threads();
    let share = if output.place == Place::Cpu { (threads / 4).max(1) } else { threads };
    let open = |graph| output.engine(if shrinks { of_any_size(&graph) } else { graph }, Kind::Float, share);
    let teacher = job.settings.distill.map(|how| Teacher::new(how, [&prepared.float, &prepared.graph], &open));
    let teacher = teacher.transpose()?;
    let key = job.key(prepared.digest)?;
    let keep = job.checkpoint.clone().map(|(path, every)| Keep { path, every, key });
    let begun = prepared.calibrated.as_ref().and_then(|c| c.begun.as_ref());
    let (settings, threads, cancel) = (&job.settings, output.threads, output.cancel.clone());
    let with = With { settings, teacher, begun, keep, threads, cancel };
    let mut trainer = Trainer::<B>::new(&prepared.graph, &prepared.plan, &job.train, device, with, tell)?;
    let epochs = epochs::<B>(job, &prepared, &mut trainer, tell)?;
    let (graph, notes) = prepared.finished::<B>(&trainer.trained()?)?;
    let calibration = prepared.calibrated.iter().flat_map(|c| &c.messages);
    let messages = prepared.notes.iter().chain(calibration).cloned().chain(notes).collect();
    let seconds = epochs.iter().map(|e| e.seconds).sum();
    let written = output.write(&graph, staging, before, Remarks { model, seconds, messages }, tell)?;
    Ok(Outcome {
        written,
        parameters: trainer.parameters.count(),
        steps: trainer.step,
        images_per_second: trainer.speed(),
        epochs,
    })
}

/// Trains all epochs that are left.
fn epochs<B: Kernels>(
    job: &Job,
    prepared: &Prepared,
    trainer: &mut Trainer<B>,
    tell: &mut Tell,
) -> Result<Vec<EpochReport>> {
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
        let Epoch { loss, accuracy, seconds, images_per_second } = trainer.epoch(&mut heard)?;
        if let Some(e) = failed {
            return Err(e);
        }
        let epoch = trainer.step / trainer.steps_of_epoch().max(1);
        let due = job.eval_every > 0 && epoch.is_multiple_of(job.eval_every) && trainer.step < total;
        let eval = match due {
            true => {
                let (graph, _) = prepared.finished::<B>(&trainer.trained()?)?;
                let data = job.validation.as_ref().or(job.output.eval.as_ref());
                let report = data.map(|data| job.output.evaluate_on(data, Arc::new(graph), "evaluating", tell));
                report.transpose()?.map(|r| r.top1)
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
    Ok(epochs)
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
