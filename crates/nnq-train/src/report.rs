//! What a run says while it goes on, and what came of it.
use crate::output::Written;
use serde::Serialize;

/// Where a run is.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A stage before or after training: what it does, steps done, steps in all.
    Stage(&'a str, u64, u64),
    /// A step was taken.
    Step(&'a StepReport),
    /// An epoch is done.
    Epoch(&'a EpochReport),
}

/// Hears what a run says.
pub(crate) type Tell<'a> = dyn FnMut(Event) + 'a;

/// A step of training.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Of so many.
    pub steps: u64,
    /// The epoch, from 1.
    pub epoch: u64,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Share of right answers of the epoch so far, on the augmented batches.
    pub accuracy: f64,
    /// The learning rate.
    pub rate: f64,
    /// The norm of all gradients together, before they are clipped.
    pub norm: f64,
    /// Training images in a second, of this run.
    pub images_per_second: f64,
}

/// An epoch of training.
#[derive(Clone, Debug, Serialize)]
pub struct EpochReport {
    /// From 1.
    pub epoch: u64,
    /// Of so many.
    pub epochs: u64,
    /// Steps done in all.
    pub step: u64,
    /// Mean loss.
    pub loss: f64,
    /// Share of right answers on the augmented batches.
    pub accuracy: f64,
    /// Share of right answers on the validation data, or without such on the evaluation data, of the network as it would be written now, on the engine that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<f64>,
    /// Seconds of training.
    pub seconds: f64,
    /// Training images in a second.
    pub images_per_second: f64,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The file, and its accuracy.
    #[serde(flatten)]
    pub written: Written,
    /// Numbers that were trained, scales included.
    pub parameters: u64,
    /// Steps that were taken, resumed ones included.
    pub steps: u64,
    /// The epochs of this run.
    pub epochs: Vec<EpochReport>,
    /// Training images in a second.
    pub images_per_second: f64,
}
