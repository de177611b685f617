//! The loop: batch, loss, gradients, step.
mod average;
mod parts;
mod state;
pub(crate) mod targets;
mod taught;
mod teacher;

use average::Average;
use parts::{Learned, Task, Workers};
pub use state::Keep;
use taught::Taught;
pub use teacher::{Teacher, of_any_size};

use crate::{
    augment::Augment,
    backend::{Device, Kernels},
    batches::{Batches, Drawing},
    begin::Begun,
    checkpoint::Checkpoint,
    job::Settings,
    loss::Distill,
    net::{Forward, Normalize},
    optimizer::{self, Optimizer},
    params::Parameters,
    precision::Scaler,
    qat::{self, Plan, normal},
    report::{Event, StepReport, Tell},
};
use burn::backend::{Scalar, tensor::FloatTensor};
use nnq::{
    Error, ErrorKind, Result,
    error::At as _,
    eval::Labelled,
    ir::{Graph, ValueId},
};
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

/// How much of a batch's statistics goes into the running ones.
const MOMENTUM: f64 = 0.1;

/// How far from its code a weight begins at most, in steps: nearer to the next code, the first step would round it to that one.
const WITHIN: f32 = 0.25;

/// A run in the making.
pub struct Trainer<'a, B: Kernels> {
    /// The network.
    pub graph: &'a Graph,
    /// What it rounds, in stages.
    plans: Vec<Plan>,
    /// The stage that the scales are of.
    stage: usize,
    /// Where it computes.
    pub device: Device<B>,
    /// What is trained.
    pub parameters: Parameters<B>,
    /// Of weights between steps.
    grids: Vec<Option<f32>>,
    optimizer: Optimizer,
    /// What is written instead of the last step's, where that is wanted.
    average: Option<Average<B>>,
    /// Of the loss, where gradients need it.
    scaler: Option<Scaler>,
    settings: &'a Settings,
    data: &'a Labelled,
    teacher: Option<Teacher>,
    /// What is learned of its answers.
    how: Option<Distill>,
    /// The values inside that are compared with its own.
    points: Vec<ValueId>,
    keep: Option<Keep>,
    /// What batches are computed on.
    workers: Workers,
    threads: usize,
    cancel: Option<Arc<AtomicBool>>,
    /// Steps done.
    pub step: u64,
    sums: (f64, u64),
    rate: f64,
    norm: f64,
    /// Seconds and steps of this run.
    clock: (f64, u64),
}

/// What an epoch came to.
pub struct Epoch {
    /// Mean loss.
    pub loss: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Of this run.
    pub seconds: f64,
    /// Of this run.
    pub images_per_second: f64,
}

/// What a trainer works with besides network and data.
pub struct With<'a> {
    /// Every number.
    pub settings: &'a Settings,
    /// A network to learn from.
    pub teacher: Option<Teacher>,
    /// What was rounded layer by layer, to begin with.
    pub begun: Option<&'a Begun>,
    /// Checkpoints.
    pub keep: Option<Keep>,
    /// Threads that read.
    pub threads: usize,
    /// Set by others to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl<'a, B: Kernels> Trainer<'a, B> {
    /// Begins a run, or goes on where its checkpoint left it.
    ///
    /// # Errors
    /// As [`Parameters::new`], [`Optimizer::new`] and [`Checkpoint::read`].
    pub fn new(
        graph: &'a Graph,
        plan: &'a Plan,
        data: &'a Labelled,
        device: Device<B>,
        with: With<'a>,
        tell: &mut Tell,
    ) -> Result<Self> {
        let With { settings, teacher, begun, keep, threads, cancel } = with;
        let plans = settings.bits.plans(plan);
        let mut parameters = Parameters::new(graph, &plans[0], &device)?;
        let start = match begun {
            Some(begun) => {
                begun.put::<B>(graph, &plans[0], (&mut parameters, WITHIN), &device)?;
                normal::Start::rounded(&parameters, &plans[0])
            }
            None => normal::Start::float(graph, &plans[0], &device)?,
        };
        let factors = normal::balance::<B>(&plans[0], &mut parameters, &device)?;
        let steps = settings.epochs * (data.dataset.len() / settings.batch.max(1)) as u64;
        if steps == 0 {
            return Err(Error::usage(format!("{} samples and batches of {}", data.dataset.len(), settings.batch))
                .cure("give more training data or smaller batches"));
        }
        let optimizer = Optimizer::new(settings.steps, steps)?;
        let grids = settings.low.grids::<B>(&parameters)?;
        let average = settings.average.map(|decay| Average::new(decay, &parameters)).transpose()?;
        let mut trainer = Self {
            graph,
            plans,
            stage: 0,
            device,
            parameters,
            grids,
            optimizer,
            average,
            scaler: settings.precision.scaler(),
            settings,
            data,
            how: teacher.as_ref().map(|t| t.how),
            points: teacher.as_ref().map(|t| t.points.clone()).unwrap_or_default(),
            teacher,
            keep,
            workers: Workers::new(settings.parts)?,
            threads,
            cancel,
            step: 0,
            sums: (0.0, 0),
            rate: 0.0,
            norm: 0.0,
            clock: (0.0, 0),
        };
        let found = trainer.keep.as_ref().map(|k| Checkpoint::read(&k.path, k.key)).transpose()?.flatten();
        match found {
            Some(found) => trainer.restore(found)?,
            None => {
                trainer.begin(&start, &factors, tell)?;
                if let Some(average) = &mut trainer.average {
                    average.parameters = trainer.parameters.clone();
                }
            }
        }
        Ok(trainer)
    }
    /// Finds what normalisations begin with.
    fn begin(&mut self, start: &normal::Start<B>, factors: &normal::Factors, tell: &mut Tell) -> Result<()> {
        if self.plans[0].normal.is_empty() {
            return Ok(());
        }
        let how = Drawing { batch: self.settings.batch, seed: self.settings.seed, augment: Augment::default() };
        let batches = Batches::new(self.data, how, 0, 0, self.threads, self.cancel.clone())?;
        let mut tick = |done, of| tell(Event::Stage("looking at channels", done, of));
        let begun = (&mut self.parameters, factors);
        normal::begin::<B>(self.graph, start, begun, batches, &self.device, &mut tick)
    }
    /// Steps of an epoch.
    pub fn steps_of_epoch(&self) -> u64 {
        (self.data.dataset.len() / self.settings.batch.max(1)) as u64
    }
    /// Trains what is left of the epoch that the run is in.
    ///
    /// # Errors
    /// Names the sample that cannot be read and the node that cannot be run; a loss that is no number; stopping on request, after a checkpoint.
    pub fn epoch(&mut self, tell: &mut dyn FnMut(Event)) -> Result<Epoch> {
        let per_epoch = self.steps_of_epoch().max(1);
        let epoch = self.step / per_epoch;
        let clock = Instant::now();
        let begun = self.step;
        // Here rather than at the end: a run may go on from a state that was kept after the last step of an epoch.
        if self.step.is_multiple_of(per_epoch) {
            self.sums = (0.0, 0);
        }
        let &Settings { batch, seed, augment, .. } = self.settings;
        let how = Drawing { batch, seed, augment: augment.of_epoch(epoch, self.settings.epochs) };
        let batches = Batches::new(self.data, how, epoch, self.step % per_epoch, self.threads, self.cancel.clone())?;
        // Apart from the rest while the epoch lasts, so that it can answer ahead.
        let mut teacher = self.teacher.take();
        let mut waiting = Instant::now();
        let done = taught::each(batches, teacher.as_mut(), rayon::current_num_threads() > 1, |taught| {
            let taught = match taught {
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(self.stopped()?),
                other => other?,
            };
            self.one(taught, epoch)?;
            self.clock.0 += waiting.elapsed().as_secs_f64();
            self.clock.1 += 1;
            self.tell(epoch, tell);
            if self.keep.as_ref().is_some_and(|k| self.step.is_multiple_of(k.every.max(1))) {
                self.save()?;
            }
            if self.cancel.as_ref().is_some_and(|c| c.load(std::sync::atomic::Ordering::Relaxed)) {
                return Err(self.stopped()?);
            }
            waiting = Instant::now();
            Ok(())
        });
        self.teacher = teacher;
        done?;
        let (loss, right) = self.sums;
        let samples = per_epoch as f64 * self.settings.batch as f64;
        let seconds = clock.elapsed().as_secs_f64();
        let images = (self.step - begun) as f64 * self.settings.batch as f64;
        Ok(Epoch {
            loss: loss / per_epoch as f64,
            accuracy: right as f64 / samples,
            seconds,
            images_per_second: images / seconds.max(1e-9),
        })
    }
    /// Tells of the step that was taken.
    fn tell(&self, epoch: u64, tell: &mut dyn FnMut(Event)) {
        let seen = (self.step - epoch * self.steps_of_epoch().max(1)).max(1) as f64;
        tell(Event::Step(&StepReport {
            step: self.step,
            steps: self.total(),
            epoch: epoch + 1,
            loss: self.sums.0 / seen,
            accuracy: self.sums.1 as f64 / (seen * self.settings.batch as f64),
            rate: self.rate,
            norm: self.norm,
            images_per_second: self.speed(),
        }));
    }
    /// Training images in a second so far.
    pub fn speed(&self) -> f64 {
        self.clock.1 as f64 * self.settings.batch as f64 / self.clock.0.max(1e-9)
    }
    /// The error of a run that is to stop; what was done is kept.
    fn stopped(&self) -> Result<Error> {
        let kept = match &self.keep {
            Some(keep) => {
                self.save()?;
                format!("; step {} is kept in {}", self.step, keep.path.display())
            }
            None => String::new(),
        };
        Ok(Error::new(ErrorKind::Interrupted, format!("stopped on request{kept}")))
    }
    /// Steps of the whole run.
    fn total(&self) -> u64 {
        (self.settings.epochs * self.steps_of_epoch()).max(1)
    }
    /// What was trained, or its average, on the grids of the last stage.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn trained(&self) -> Result<Parameters<B>> {
        let mut trained = self.average.as_ref().map_or(&self.parameters, |a| &a.parameters).clone();
        let last = self.plans.len() - 1;
        qat::convert::<B>(&mut trained, &self.plans[self.stage], &self.plans[last], &self.device)?;
        Ok(trained)
    }
    /// Goes on to the stage of the next step.
    fn enter(&mut self) -> Result<()> {
        let (total, stages) = (self.total(), self.plans.len());
        let stage = self.stage_of(self.step);
        for parameters in self.average.iter_mut().map(|a| &mut a.parameters).chain([&mut self.parameters]) {
            qat::convert::<B>(parameters, &self.plans[self.stage], &self.plans[stage], &self.device)?;
        }
        debug_assert!(stage < stages);
        self.stage = stage;
        self.plans[stage].progress = (self.step as f64 / total as f64) as f32;
        Ok(())
    }
    /// Stages are of as many steps each.
    fn stage_of(&self, step: u64) -> usize {
        let stages = self.plans.len() as u64;
        usize::try_from((step * stages / self.total()).min(stages - 1)).unwrap_or(0)
    }
    fn one(&mut self, taught: Taught, epoch: u64) -> Result<()> {
        self.enter()?;
        let done = self.step as f64 / self.total() as f64;
        let frozen = self.settings.rules.normalization.is_frozen(done);
        let forward = Forward {
            graph: self.graph,
            plan: &self.plans[self.stage],
            parameters: &self.parameters,
            normalize: if frozen { Normalize::Frozen } else { Normalize::Live },
            precision: self.settings.precision,
            gradients: None,
            soft: None,
            device: &self.device,
        };
        let task = Task {
            forward,
            low: (self.settings.low, self.settings.seed, self.step),
            points: &self.points,
            how: self.how,
            scale: self.scaler.as_ref().map(|s| s.scale),
            smoothing: self.settings.smoothing,
        };
        let shrinks = self.settings.augment.of_epoch(epoch, self.settings.epochs).shrink > 0;
        let learned = self.workers.learn(&task, taught).map_err(|e| match e.kind() {
            ErrorKind::Shape if shrinks => e.cure("train without shrink where a network takes images of one size only"),
            _ => e,
        })?;
        let Learned { loss, right, mut gradients, statistics } = learned;
        if !loss.is_finite() {
            return Err(Error::value(format!("the loss of step {} in epoch {} is {loss}", self.step + 1, epoch + 1))
                .cure("train with a smaller learning rate, or a longer --warm-up"));
        }
        let overflow = match &mut self.scaler {
            Some(scaler) => !scaler.unscale::<B>(&mut gradients)?,
            None => false,
        };
        self.rate = self.optimizer.next_rate();
        if !overflow {
            self.update(gradients, epoch)?;
        }
        for (v, new) in statistics {
            if let Some(old) = self.parameters.statistics.remove(&v) {
                let kept = B::float_mul_scalar(old, Scalar::Float(1.0 - MOMENTUM));
                let new = B::float_add(kept, B::float_mul_scalar(new, Scalar::Float(MOMENTUM)));
                self.parameters.statistics.insert(v, new);
            }
        }
        self.sums.0 += f64::from(loss);
        self.sums.1 += right;
        self.step += 1;
        if let Some(average) = &mut self.average {
            average.update(self.step, &self.parameters);
        }
        Ok(())
    }
    /// One step against these gradients.
    fn update(&mut self, mut gradients: Vec<Option<FloatTensor<B>>>, epoch: u64) -> Result<()> {
        self.norm = optimizer::clip::<B>(&mut gradients, self.settings.steps.clip)
            .at(|| format!("step {} in epoch {}", self.step + 1, epoch + 1))?;
        self.optimizer.step(self.rate, &mut self.parameters, gradients)?;
        self.settings.low.settle::<B>(&mut self.parameters, &self.grids, (self.settings.seed, self.step))
    }
}

/// The index of the largest, the first of equals.
pub(crate) fn best(row: &[f32]) -> Option<usize> {
    let first = (0..row.len()).next()?;
    Some((1..row.len()).fold(first, |best, i| if row[i] > row[best] { i } else { best }))
}
