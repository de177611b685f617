//! The loop: batch, loss, gradients, step.
use crate::{
    backend::{self, Device, Kernels},
    batches::{Batch, Batches, Drawing},
    checkpoint::Checkpoint,
    job::Settings,
    loss::{self, Distill},
    net::Forward,
    optimizer::Optimizer,
    params::Parameters,
    qat::Plan,
    report::{Event, StepReport},
};
use burn::backend::Scalar;
use nnq::{Error, ErrorKind, Result, engine::Engine, eval::Labelled, ir::Graph};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

/// How much of a batch's statistics goes into the running ones.
const MOMENTUM: f64 = 0.1;

/// A run in the making.
pub struct Trainer<'a, B: Kernels> {
    /// The network.
    pub graph: &'a Graph,
    /// What it rounds.
    pub plan: &'a Plan,
    /// Where it computes.
    pub device: Device<B>,
    /// What is trained.
    pub parameters: Parameters<B>,
    optimizer: Optimizer,
    settings: &'a Settings,
    data: &'a Labelled,
    teacher: Option<(Engine, Distill)>,
    keep: Option<Keep>,
    threads: usize,
    cancel: Option<Arc<AtomicBool>>,
    /// Steps done.
    pub step: u64,
    sums: (f64, u64),
    rate: f64,
    /// Seconds and steps of this run.
    clock: (f64, u64),
}

/// Where checkpoints go.
#[derive(Clone, Debug)]
pub struct Keep {
    /// The file.
    pub path: PathBuf,
    /// Steps between two.
    pub every: u64,
    /// Stands for everything that the result depends on.
    pub key: [u8; 32],
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
    pub teacher: Option<(Engine, Distill)>,
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
    ) -> Result<Self> {
        let With { settings, teacher, keep, threads, cancel } = with;
        let parameters = Parameters::new(graph, plan, &device)?;
        let steps = settings.epochs * (data.dataset.len() / settings.batch.max(1)) as u64;
        if steps == 0 {
            return Err(Error::usage(format!("{} samples and batches of {}", data.dataset.len(), settings.batch))
                .cure("give more training data or smaller batches"));
        }
        let optimizer = Optimizer::new(settings.steps, steps)?;
        let mut trainer = Self {
            graph,
            plan,
            device,
            parameters,
            optimizer,
            settings,
            data,
            teacher,
            keep,
            threads,
            cancel,
            step: 0,
            sums: (0.0, 0),
            rate: 0.0,
            clock: (0.0, 0),
        };
        if let Some(keep) = &trainer.keep
            && let Some(found) = Checkpoint::read(&keep.path, keep.key)?
        {
            trainer.restore(found)?;
        }
        Ok(trainer)
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
        let Settings { batch, seed, augment, .. } = *self.settings;
        let how = Drawing { batch, seed, augment };
        let batches = Batches::new(self.data, how, epoch, self.step % per_epoch, self.threads, self.cancel.clone())?;
        for batch in batches {
            let batch = match batch {
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(self.stopped()?),
                other => other?,
            };
            let started = Instant::now();
            self.one(batch, epoch)?;
            self.clock.0 += started.elapsed().as_secs_f64();
            self.clock.1 += 1;
            let seen = (self.step - epoch * per_epoch).max(1) as f64;
            tell(Event::Step(&StepReport {
                step: self.step,
                steps: per_epoch * self.settings.epochs,
                epoch: epoch + 1,
                loss: self.sums.0 / seen,
                accuracy: self.sums.1 as f64 / (seen * self.settings.batch as f64),
                rate: self.rate,
                images_per_second: self.speed(),
            }));
            if self.keep.as_ref().is_some_and(|k| self.step.is_multiple_of(k.every.max(1))) {
                self.save()?;
            }
            if self.cancel.as_ref().is_some_and(|c| c.load(std::sync::atomic::Ordering::Relaxed)) {
                return Err(self.stopped()?);
            }
        }
        let (loss, right) = self.sums;
        let samples = per_epoch as f64 * self.settings.batch as f64;
        let seconds = clock.elapsed().as_secs_f64();
        let images = (self.step - begun) as f64 * self.settings.batch as f64;
        self.sums = (0.0, 0);
        Ok(Epoch {
            loss: loss / per_epoch as f64,
            accuracy: right as f64 / samples,
            seconds,
            images_per_second: images / seconds.max(1e-9),
        })
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
    fn one(&mut self, batch: Batch, epoch: u64) -> Result<()> {
        let (samples, shape) = (batch.labels.len(), batch.input.shape().to_vec());
        let answers = match &mut self.teacher {
            Some((engine, distill)) => {
                let out = engine.run(vec![batch.input.clone()])?;
                let logits = out.into_iter().next().ok_or_else(|| Error::usage("the network has no output"))?;
                Some((logits.into_vec::<f32>()?, *distill))
            }
            None => None,
        };
        let input = backend::tensor::<B>(batch.input.into_vec::<f32>()?, &shape, &self.device);
        let leaves = self.parameters.leaves();
        let forward = Forward {
            graph: self.graph,
            plan: self.plan,
            parameters: &self.parameters,
            live: true,
            soft: None,
            device: &self.device,
        };
        let run = forward.run(input, &leaves)?;
        let out = backend::dims::<B>(&run.output);
        let classes = out.get(1).copied().unwrap_or(0);
        let logits = backend::numbers::<B>(run.output.primitive().clone())?;
        let targets = self.targets(&batch.labels, classes)?;
        let answers = answers.as_ref().map(|(x, d)| (&x[..], *d));
        let loss = loss::loss::<B>(run.output, &targets, answers, &self.device)?;
        let value = backend::numbers::<B>(loss.primitive().clone())?.first().copied().unwrap_or(f32::NAN);
        if !value.is_finite() {
            return Err(Error::value(format!("the loss of step {} in epoch {} is {value}", self.step + 1, epoch + 1))
                .cure("train with a smaller learning rate, or a longer --warm-up"));
        }
        let mut grads = loss.backward();
        let gradients = leaves.iter().map(|leaf| leaf.grad_remove(&mut grads)).collect();
        self.rate = self.optimizer.next_rate();
        self.optimizer.step(self.rate, &mut self.parameters, gradients)?;
        for (v, new) in run.statistics {
            if let Some(old) = self.parameters.statistics.remove(&v) {
                let kept = B::float_mul_scalar(old, Scalar::Float(1.0 - MOMENTUM));
                let new = B::float_add(kept, B::float_mul_scalar(new, Scalar::Float(MOMENTUM)));
                self.parameters.statistics.insert(v, new);
            }
        }
        let right = logits.chunks(classes.max(1)).zip(&batch.labels).filter(|(row, label)| best(row) == Some(**label));
        self.sums.0 += f64::from(value);
        self.sums.1 += right.count() as u64;
        debug_assert_eq!(samples, batch.labels.len());
        self.step += 1;
        Ok(())
    }
    /// Rows of shares: 1 for the label, less and evenly spread what smoothing takes.
    fn targets(&self, labels: &[usize], classes: usize) -> Result<Vec<f32>> {
        let smooth = self.settings.smoothing;
        let mut all = vec![smooth / classes.max(1) as f32; labels.len() * classes];
        for (row, &label) in all.chunks_mut(classes.max(1)).zip(labels) {
            let share = row.get_mut(label).ok_or_else(|| {
                Error::usage(format!("a sample of class {label}, and the network tells {classes} apart"))
                    .cure("train with data of the network's classes")
            })?;
            *share += 1.0 - smooth;
        }
        Ok(all)
    }
    fn save(&self) -> Result<()> {
        let Some(keep) = &self.keep else { return Ok(()) };
        let numbers = |x: &burn::backend::tensor::FloatTensor<B>| backend::numbers::<B>(x.clone());
        Checkpoint {
            key: keep.key,
            step: self.step,
            epoch_sums: self.sums,
            values: self.parameters.values.iter().map(numbers).collect::<Result<_>>()?,
            statistics: self.parameters.statistics.values().map(numbers).collect::<Result<_>>()?,
            optimizer: self.optimizer.to_bytes()?,
        }
        .write(&keep.path)
    }
    fn restore(&mut self, from: Checkpoint) -> Result<()> {
        let other = || Error::malformed("the checkpoint holds other parameters than the network has").cure("remove it");
        let parameters = &mut self.parameters;
        if from.values.len() != parameters.list.len() || from.statistics.len() != parameters.statistics.len() {
            return Err(other());
        }
        for (i, numbers) in from.values.into_iter().enumerate() {
            let shape = &parameters.list[i].shape;
            if numbers.len() != shape.iter().product::<usize>() {
                return Err(other());
            }
            parameters.values[i] = backend::tensor::<B>(numbers, shape, &self.device);
        }
        for (old, numbers) in parameters.statistics.values_mut().zip(from.statistics) {
            let shape = [numbers.len()];
            *old = backend::tensor::<B>(numbers, &shape, &self.device);
        }
        let total = self.settings.epochs * self.steps_of_epoch();
        self.optimizer = Optimizer::new(self.settings.steps, total)?.resume(&from.optimizer, from.step)?;
        (self.step, self.sums) = (from.step, from.epoch_sums);
        Ok(())
    }
}

/// The index of the largest, the first of equals.
fn best(row: &[f32]) -> Option<usize> {
    let first = (0..row.len()).next()?;
    Some((1..row.len()).fold(first, |best, i| if row[i] > row[best] { i } else { best }))
}
