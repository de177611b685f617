//! Loss and gradients of a batch that is computed in parts.
//!
//! A part runs forward and back by itself, normalised by its own statistics where those are live ("ghost" batch normalisation, Hoffer et al., arXiv:1705.08741, algorithm 1), its values
//! inside weighed by the teacher's in it; losses, gradients
//! and statistics are the means over all parts, added in their order. Parts run side by side, each on threads of its own: operations of small images are too short to be
//! split among threads, whole networks are not. With fewer threads than parts they follow each other, and less is in memory at once. Results depend on the
//! parts, not on threads.
use super::{best, targets, taught::Taught, teacher::Answers};
use crate::{
    augment::Mixed,
    backend::{self, Kernels},
    loss::{self, Distill},
    low::Low,
    net::Forward,
    params::Running,
};
use burn::backend::{Autodiff, Scalar, ops::FloatTensorOps as _, tensor::FloatTensor};
use nnq::{
    Error, ErrorKind, Result,
    data::mix,
    ir::{Tensor, ValueId},
};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::{ops::Range, panic, thread};

/// What all parts of a batch have in common.
pub(super) struct Task<'a, B: Kernels> {
    pub forward: Forward<'a, B>,
    /// How gradients of products are rounded, and the seed and the step that draws come from.
    pub low: (Low, u64, u64),
    /// The values inside that are compared with the teacher's.
    pub points: &'a [ValueId],
    pub how: Option<Distill>,
    /// What the loss is multiplied with before gradients are computed.
    pub scale: Option<f32>,
    pub smoothing: f32,
}

/// What comes of samples.
pub(super) struct Learned<B: Kernels> {
    /// The mean.
    pub loss: f32,
    /// How many answers were right.
    pub right: u64,
    /// By parameter.
    pub gradients: Vec<Option<FloatTensor<B>>>,
    /// Means and variances of channels.
    pub statistics: Vec<(Running, FloatTensor<B>)>,
}

/// Some samples of a batch.
struct Part {
    number: usize,
    rows: Range<usize>,
    input: Tensor,
    answers: Option<Answers>,
}

/// The threads that parts run on.
pub(super) struct Workers {
    parts: usize,
    /// None where parts follow each other in the caller's threads.
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// For so many parts of a batch, on as many threads as the caller has.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub(super) fn new(parts: usize) -> Result<Self> {
        let threads = rayon::current_num_threads();
        let pools = if parts > 1 { parts.min(threads) } else { 1 };
        let pool = |_| {
            let pool = ThreadPoolBuilder::new().num_threads(threads / pools).build();
            pool.map_err(|e| Error::new(ErrorKind::Io, format!("threads cannot be started: {e}")))
        };
        let pools = if pools > 1 { (0..pools).map(pool).collect::<Result<_>>()? } else { Vec::new() };
        Ok(Self { parts, pools })
    }
    /// The mean over all parts of a batch.
    ///
    /// # Errors
    /// Those of the first part that fails.
    pub(super) fn learn<B: Kernels>(&self, task: &Task<B>, taught: Taught) -> Result<Learned<B>> {
        let Taught { batch, answers } = taught;
        let (labels, mixed) = (&batch.labels[..], &batch.mixed[..]);
        let parts = split(batch.input, answers, self.parts)?;
        let one = |part| task.learn(part, labels, mixed);
        if self.pools.is_empty() {
            return mean(parts.into_iter().map(one).collect::<Result<_>>()?);
        }
        // One after another to each of the workers.
        let mut shares: Vec<Vec<Part>> = self.pools.iter().map(|_| Vec::new()).collect();
        for part in parts {
            shares[part.number % self.pools.len()].push(part);
        }
        let run = |share: Vec<Part>| share.into_iter().map(|p| (p.number, one(p))).collect::<Vec<_>>();
        let on = |(pool, share): (&ThreadPool, _)| pool.install(|| run(share));
        let on = &on;
        let mut done: Vec<(usize, Result<Learned<B>>)> = thread::scope(|scope| {
            let threads: Vec<_> = self.pools.iter().zip(shares).map(|both| scope.spawn(move || on(both))).collect();
            threads.into_iter().flat_map(|t| t.join().unwrap_or_else(|panic| panic::resume_unwind(panic))).collect()
        });
        done.sort_by_key(|(number, _)| *number);
        mean(done.into_iter().map(|(_, learned)| learned).collect::<Result<_>>()?)
    }
}

/// As many samples to each part, in order.
fn split(input: Tensor, answers: Option<Answers>, parts: usize) -> Result<Vec<Part>> {
    let samples = input.shape().first().copied().unwrap_or(1);
    if parts <= 1 {
        return Ok(vec![Part { number: 0, rows: 0..samples, input, answers }]);
    }
    let cut = |t: Tensor| -> Result<Vec<Tensor>> {
        let mut shape = t.shape().to_vec();
        if shape.first() != Some(&samples) || samples % parts != 0 {
            return Err(Error::shape(format!("a value of shape {shape:?} of {samples} samples, in {parts} parts")));
        }
        shape[0] = samples / parts;
        let all = t.into_vec::<f32>()?;
        let len = all.len() / parts;
        Ok((0..parts).map(|k| Tensor::of(&shape, all[k * len..][..len].to_vec())).collect())
    };
    let mut answered: Vec<Option<Answers>> = (0..parts).map(|_| None).collect();
    if let Some(Answers { logits, features }) = answers {
        let len = logits.len() / parts;
        for (k, part) in answered.iter_mut().enumerate() {
            *part = Some(Answers { logits: logits[k * len..][..len].to_vec(), features: Vec::new() });
        }
        for feature in features {
            for (part, cut) in answered.iter_mut().flatten().zip(cut(feature)?) {
                part.features.push(cut);
            }
        }
    }
    let each = cut(input)?.into_iter().zip(answered).enumerate();
    let rows = samples / parts;
    Ok(each
        .map(|(number, (input, answers))| Part { number, rows: number * rows..(number + 1) * rows, input, answers })
        .collect())
}

/// The means, of sums in the order of the parts.
fn mean<B: Kernels>(all: Vec<Learned<B>>) -> Result<Learned<B>> {
    let count = all.len();
    let mut all = all.into_iter();
    let mut sum = all.next().ok_or_else(|| Error::internal("a batch of no parts"))?;
    if count == 1 {
        return Ok(sum);
    }
    for other in all {
        sum.loss += other.loss;
        sum.right += other.right;
        for (a, b) in sum.gradients.iter_mut().zip(other.gradients) {
            *a = match (a.take(), b) {
                (Some(a), Some(b)) => Some(B::float_add(a, b)),
                (a, b) => a.or(b),
            };
        }
        for ((of, a), (same, b)) in sum.statistics.iter_mut().zip(other.statistics) {
            if *of != same {
                return Err(Error::internal("parts of a batch looked at different channels"));
            }
            *a = B::float_add(a.clone(), b);
        }
    }
    let share = 1.0 / count as f64;
    let scaled = |x: FloatTensor<B>| B::float_mul_scalar(x, Scalar::Float(share));
    sum.loss *= share as f32;
    sum.gradients = sum.gradients.into_iter().map(|g| g.map(scaled)).collect();
    sum.statistics = sum.statistics.into_iter().map(|(of, x)| (of, scaled(x))).collect();
    Ok(sum)
}

impl<B: Kernels> Task<'_, B> {
    /// Forward and back. `labels` and `mixed` are those of the whole batch.
    fn learn(&self, part: Part, labels: &[usize], mixed: &[Mixed]) -> Result<Learned<B>> {
        let Part { number, rows, input, answers } = part;
        let device = self.forward.device;
        let shape = input.shape().to_vec();
        let input = backend::tensor::<B>(input.into_vec::<f32>()?, &shape, device);
        let leaves = self.forward.parameters.leaves();
        let (low, seed, step) = self.low;
        let seed = if number == 0 { seed } else { mix(seed, number as u64) };
        let forward = Forward { gradients: low.of_step(seed, step), ..self.forward };
        let run = forward.run_seeing(input, &leaves, self.points)?;
        let out = backend::dims::<B>(&run.output);
        let classes = out.get(1).copied().unwrap_or(0);
        let logits = backend::numbers::<B>(run.output.primitive().clone())?;
        let targets = targets::targets(labels, mixed, classes, self.smoothing)?;
        let targets = &targets[rows.start * classes..rows.end * classes];
        let taught = self.how.zip(answers);
        let logits_of = taught.as_ref().map(|(how, a)| (&a.logits[..], *how));
        let mut loss = loss::loss::<B>(run.output, targets, logits_of, device)?;
        if let Some((how, answers)) = taught.filter(|(how, _)| how.features > 0.0) {
            let far = loss::features::<B>(run.seen, answers.features, device)?;
            loss = Autodiff::<B>::float_add(loss, Autodiff::<B>::float_mul_scalar(far, backend::scalar(how.features)));
        }
        let value = backend::numbers::<B>(loss.primitive().clone())?.first().copied().unwrap_or(f32::NAN);
        let right = logits.chunks(classes.max(1)).zip(&labels[rows]).filter(|(row, label)| best(row) == Some(**label));
        let right = right.count() as u64;
        if !value.is_finite() {
            return Ok(Learned { loss: value, right, gradients: Vec::new(), statistics: Vec::new() });
        }
        let mut grads = match self.scale {
            Some(scale) => Autodiff::<B>::float_mul_scalar(loss, backend::scalar(scale)).backward(),
            None => loss.backward(),
        };
        let gradients = leaves.iter().map(|leaf| leaf.grad_remove(&mut grads)).collect();
        Ok(Learned { loss: value, right, gradients, statistics: run.statistics })
    }
}
