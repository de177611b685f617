//! Block reconstruction: part after part of a network is made to answer as the float network does, on samples without labels (Li et al., 2021, "BRECQ",
//! arXiv:2102.05426; Wei et al., 2022, "QDrop", arXiv:2203.05740).
//!
//! For each part in turn: the rounding of its weights ([`Codes`]), its biases and the scales of its activations are learned by gradients of
//! `|y - z|^2 / |z|^2`, where `z` is the part of the float network on the float network's values and `y` the quantized part. What goes
//! in, and every value that is rounded inside, is real in some elements and rounded in others, at random. Then decisions are made, and the next part sees
//! what this one answers. A part that does not end with a smaller error on the samples than it has with weights to nearest stays to nearest.
//!
//! Where the recipe rounds layer by layer, a part's layers are rounded so before the part is learned: on what the learned parts before it answer (`layers.rs`).
pub(crate) mod blocks;
mod cache;
mod gradients;
mod layers;
mod learned;
mod part;
mod rounding;
mod straight;

pub use blocks::{Block, Unit, blocks};
pub use part::BlockReport;

use crate::{
    backend::{Device, Kernels},
    checkpoint::{self, Checkpoint, State},
    output::{Calibrated, Output, Remarks, Written, float_only},
    params::Parameters,
    place,
    qat::{Plan, Rules},
    report::{Event, Tell},
};
use cache::{Cache, Filling};
use nnq::{
    Error, Result,
    data::{Choice, Layout, Loader, subset},
    error::At as _,
    eval,
    ir::{Graph, NodeId, Op, ValueId},
    quant::{
        recipe::{BiasCorrection, Recipe},
        reconstruct::Layers,
    },
    quantize::{self, Samples},
    staging::Staging,
};
use part::Work;
use serde::Serialize;
use std::{path::PathBuf, str::FromStr, time::Instant};

/// Samples that run at once where nothing is learned.
const BATCH: usize = 32;

/// How weights learn their codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Codes {
    /// Up or down, by a variable that is made to decide (`rounding.rs`).
    #[default]
    Sigmoid,
    /// Any code, by gradients that pass the rounding, and the scales (`straight.rs`).
    Ste,
}

impl FromStr for Codes {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "sigmoid" => Ok(Self::Sigmoid),
            "ste" => Ok(Self::Ste),
            _ => Err(Error::usage(format!("'{s}' is no way to learn codes")).cure("use sigmoid or ste")),
        }
    }
}

/// Every number of a run; the same settings give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// What is reconstructed at once.
    pub unit: Unit,
    /// Steps for each part.
    pub steps: u64,
    /// Samples of a step.
    pub batch: usize,
    /// Whether images are learned from mirrored, too, left to right.
    pub mirror: bool,
    /// Learning rate of roundings; biases learn in twentieths of what their channel answers, see `learned.rs`.
    pub rate: f64,
    /// What the rate of scales, as shares of themselves, is multiplied with: those of activations, and of weights whose codes are learned by [`Codes::Ste`].
    pub scale_rate: f64,
    /// The share of elements that are rounded while learning.
    pub rounded: f32,
    /// How weights learn their codes.
    pub codes: Codes,
    /// What roundings that are all undecided cost, in errors of the part before learning.
    pub strength: f32,
    /// Seed of everything random.
    pub seed: u64,
}

impl Codes {
    /// The rate with which weights come as far as they have to in so many steps: eight, from one code to the next and to the end of the rectified sigmoid; where
    /// gradients pass the rounding, which is along half a cosine, three steps of the grid.
    pub fn usual_rate(self, steps: u64) -> f64 {
        match self {
            Self::Sigmoid => (8.0 / steps.max(1) as f64).clamp(0.001, 0.02),
            Self::Ste => (6.0 / steps.max(1) as f64).clamp(0.001, 0.006),
        }
    }
    /// What the rate of scales of activations is multiplied with.
    pub fn usual_scale_rate(self) -> f64 {
        match self {
            Self::Sigmoid => 0.04,
            Self::Ste => 0.5,
        }
    }
}

/// The share of elements that are rounded while learning: half of them (QDrop), or all where layers are rounded one by one before, whose weights make up for what
/// is rounded of their inputs.
pub fn usual_rounded(recipe: &Recipe) -> f32 {
    if recipe.layer_by_layer() { 1.0 } else { 0.5 }
}

/// What to do.
#[derive(Clone)]
pub struct Job {
    /// The float network.
    pub model: PathBuf,
    /// Samples; labels are not looked at.
    pub samples: Samples,
    /// How to quantize.
    pub recipe: Recipe,
    /// Every number.
    pub settings: Settings,
    /// A file that keeps the parts that are done.
    pub checkpoint: Option<PathBuf>,
    /// What is written, and by what means.
    pub output: Output,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The file, and its accuracy.
    #[serde(flatten)]
    pub written: Written,
    /// Samples that were learned from.
    pub samples: usize,
    /// The parts, in order; those of an earlier run are not among them.
    pub blocks: Vec<BlockReport>,
}

/// Runs the job.
///
/// # Errors
/// Whatever a stage answers, with file, node or value. Nothing is left at the output then; a checkpoint stays.
pub fn run(job: &Job, tell: &mut (dyn FnMut(Event) + Send)) -> Result<Outcome> {
    job.output.place.run(job.output.threads, Learning { job, tell })
}

struct Learning<'a> {
    job: &'a Job,
    tell: &'a mut (dyn FnMut(Event) + Send),
}

impl place::Work for Learning<'_> {
    type Out = Outcome;
    fn on<B: Kernels>(self, device: Device<B>) -> Result<Outcome> {
        learn::<B>(self.job, device, self.tell).at(|| self.job.model.display())
    }
}

fn check(s: &Settings) -> Result<()> {
    let share = |x: f32| (0.0..=1.0).contains(&x);
    if s.steps == 0
        || s.batch == 0
        || !(s.rate > 0.0 && s.rate <= 1.0)
        || s.scale_rate.is_nan()
        || s.scale_rate < 0.0
        || !share(s.rounded)
    {
        return Err(Error::usage(format!(
            "{} steps of {} samples at rate {}, {} of the elements rounded",
            s.steps, s.batch, s.rate, s.rounded
        ))
        .cure("use one step or more, a rate above 0 and at most 1, a share of elements from 0 to 1"));
    }
    Ok(())
}

fn learn<B: Kernels>(job: &Job, device: Device<B>, tell: &mut (dyn FnMut(Event) + Send)) -> Result<Outcome> {
    let output = &job.output;
    let staging = Staging::new(&output.file)?;
    check(&job.settings)?;
    if job.settings.mirror {
        mirrors(&job.samples)?;
    }
    let (float, digest) = quantize::open(&job.model)?;
    float_only(&float)?;
    if let Some(data) = &output.eval {
        eval::check(&float, data)?;
    }
    let mut calibrated = Calibrated::new((&float, digest), &job.samples, &job.recipe, Rules::default(), output, tell)?;
    let by_layers = job.recipe.layer_by_layer();
    let mut layers = if by_layers { Some(calibrated.layers(&job.samples, output, tell)?) } else { None };
    let quantizing = calibrated.quantizing()?;
    if job.recipe.correct_bias == BiasCorrection::Empirical || job.recipe.reestimate {
        let free = |id: &&NodeId| {
            let node = quantizing.graph().node(**id);
            !matches!(node.op, Op::MatMul) && node.input(2).is_none()
        };
        let left = quantizing.plan.products.keys().filter(free).count();
        if left > 0 {
            calibrated.messages.push(format!("{left} layers have no bias, so that what rounding layer by layer made up for by one is left to learning"));
        }
    }
    let clock = Instant::now();
    let begin = Parameters::new(quantizing.graph(), &quantizing.plan, &device)?;
    let network = (&**quantizing.graph(), quantizing.plan.clone());
    let (parameters, blocks, samples) =
        reconstruct::<B>(job, network, (begin, layers.as_mut()), digest, &device, tell)?;
    let seconds = clock.elapsed().as_secs_f64();
    let (graph, notes) = match layers {
        Some(layers) => calibrated.noted(layers.finish()?)?,
        None => calibrated.finished::<B>(&parameters)?,
    };
    let before = output.evaluate(float, "evaluating float", tell)?;
    let messages = calibrated.messages.into_iter().chain(notes).collect();
    let remarks = Remarks { model: job.model.display().to_string(), seconds, messages };
    let written = output.write(&graph, staging, before, remarks, tell)?;
    if let Some(path) = &job.checkpoint {
        // It has done its work.
        let _ = std::fs::remove_file(path);
    }
    Ok(Outcome { written, samples, blocks })
}

/// Images whose rows are so wide, left to right.
fn mirrored(numbers: &[f32], width: usize) -> Vec<f32> {
    numbers.chunks(width.max(1)).flat_map(|row| row.iter().rev().copied()).collect()
}

/// Whether samples can be mirrored: they are images whose last axis is their width.
fn mirrors(samples: &Samples) -> Result<()> {
    let Samples { dataset, preprocess } = samples;
    let shape = dataset.first(preprocess)?.shape().to_vec();
    if shape.len() == 3 && preprocess.layout != Some(Layout::Nhwc) {
        return Ok(());
    }
    Err(Error::usage(format!("samples of shape {shape:?} are no images with channels first, which could be mirrored"))
        .cure("leave out --mirror, or choose another preprocessing"))
}

/// The samples, as the network reads them; behind each batch its mirrored one, where this is asked for.
fn read(job: &Job, tell: &mut Tell) -> Result<Cache> {
    let data = &job.samples.dataset;
    let count = usize::try_from(job.recipe.samples).unwrap_or(usize::MAX);
    let indices = subset(data.len(), count, job.recipe.seed, Choice::Stratified, |i| data.label(i));
    let total = indices.len() as u64;
    let settings = nnq::data::Settings {
        batch: BATCH,
        threads: job.output.threads,
        skip_corrupt: false,
        cancel: job.output.cancel.clone(),
    };
    let mut filling = Filling::new()?;
    let mut done = 0;
    for batch in Loader::new(data.clone(), job.samples.preprocess.clone(), indices, settings)? {
        let input = batch?.input;
        let numbers = input.as_slice::<f32>()?;
        filling.add(numbers, input.shape())?;
        if job.settings.mirror {
            let width = input.shape().last().copied().unwrap_or(1);
            filling.add(&mirrored(numbers, width), input.shape())?;
        }
        done += input.shape().first().copied().unwrap_or(0) as u64;
        tell(Event::Stage("reading samples", done, total));
    }
    let cache = filling.finish()?;
    if cache.len() < job.settings.batch {
        return Err(Error::usage(format!("{} samples and steps of {}", cache.len(), job.settings.batch))
            .cure("give more samples or smaller steps"));
    }
    Ok(cache)
}

/// Parameters that were learned, what became of each part, and the number of samples.
fn reconstruct<B: Kernels>(
    job: &Job,
    (graph, plan): (&Graph, Plan),
    (begin, mut layers): (Parameters<B>, Option<&mut Layers>),
    digest: [u8; 32],
    device: &Device<B>,
    tell: &mut Tell,
) -> Result<(Parameters<B>, Vec<BlockReport>, usize)> {
    let settings = job.settings;
    let parts = blocks(graph, &|id| plan.products.contains_key(&id), settings.unit)?;
    let mut x = read(job, tell)?;
    let samples = x.len() / if settings.mirror { 2 } else { 1 };
    let mut work = Work::<B> {
        graph,
        plan,
        real: Parameters::new(graph, &Plan::default(), device)?,
        parameters: begin,
        device,
        settings,
        cancel: job.output.cancel.as_deref(),
    };
    if let Some(layers) = &mut layers {
        let ends: Vec<ValueId> = parts.iter().map(|p| p.to).collect();
        layers.keep_at(&ends);
    }
    let key = key(job, digest)?;
    let mut done = 0;
    if let Some(path) = &job.checkpoint
        && let Some(found) = Checkpoint::read(path, key)?
    {
        work.resume(&found.state.values)?;
        done = usize::try_from(found.step).unwrap_or(usize::MAX);
    }
    let mut quantized: Option<Cache> = None;
    let mut reports = Vec::new();
    let total = parts.len() as u64 * settings.steps;
    for (i, part) in parts.iter().enumerate() {
        let target = work.real(part, &x)?;
        if i < done {
            if let Some(layers) = &mut layers {
                work.give(layers, part, i == 0)?;
            }
        } else {
            let mut tick = |step: u64| tell(Event::Stage("reconstructing", i as u64 * settings.steps + step, total));
            tick(0);
            let products = layers.as_mut().map(|layers| work.round(layers, part)).transpose()?;
            let report = work.learn(i as u64, part, &x, quantized.as_ref(), &target, &mut tick)?;
            if let (Some(layers), Some(products)) = (&mut layers, products) {
                work.hand_over(layers, (part, i == 0), products)?;
            }
            reports.push(report);
            if let Some(path) = &job.checkpoint {
                let state = State { values: work.state()?, statistics: Vec::new() };
                let (step, optimizer) = (i as u64 + 1, Vec::new());
                Checkpoint { key, step, epoch_sums: (0.0, 0), state, average: None, optimizer, scaler: None }
                    .write(path)?;
            }
        }
        let next = work.rounded(part, &x, quantized.as_ref())?;
        (x, quantized) = (target, Some(next));
    }
    Ok((work.parameters, reports, samples))
}

/// Stands for everything that the result depends on.
fn key(job: &Job, digest: [u8; 32]) -> Result<[u8; 32]> {
    let json = serde_json::to_vec(&job.settings).map_err(|e| Error::internal(format!("settings: {e}")))?;
    let data = format!("{}\n{}", job.samples.dataset.len(), job.samples.preprocess.to_toml()?);
    let recipe = job.recipe.to_toml()?;
    Ok(checkpoint::key(&[b"reconstruct", &digest, &json, recipe.as_bytes(), data.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_mirrored() {
        let numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0];
        let all = mirrored(&numbers, 3);
        assert_eq!(all, [3.0, 2.0, 1.0, 6.0, 5.0, 4.0, 9.0, 8.0, 7.0, 12.0, 11.0, 10.0]);
    }
}
