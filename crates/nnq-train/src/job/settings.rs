//! What a training run is asked to do.
use crate::{
    augment::Augment,
    checkpoint,
    loss::Distill,
    low::Low,
    optimizer::Steps,
    output::Output,
    precision::Precision,
    qat::{BitsSchedule, Normalization, Rules},
};
use nnq::{Error, Result, eval::Labelled, quant::recipe::Recipe, zoo::Wanted};
use serde::Serialize;
use std::path::PathBuf;

/// The network to train.
#[derive(Clone, Debug)]
pub enum Source {
    /// A model file. Batch normalisation is folded into the layers before it, as for quantization.
    File(PathBuf),
    /// A network of nnq's zoo, with live batch normalisation.
    Zoo(Wanted),
}

impl Source {
    /// The file's or the network's.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Zoo(wanted) => wanted.name.clone(),
        }
    }
}

/// Every number of a run; the same settings give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Passes over the training data.
    pub epochs: u64,
    /// Samples of a step.
    pub batch: usize,
    /// Into how many parts of the same size each batch is cut. They run side by side; live normalisation goes by the statistics of a part.
    pub parts: usize,
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
    /// More bits at first; empty: those of the recipe throughout.
    pub bits: BitsSchedule,
    /// Gradients and weights of few bits.
    pub low: Low,
    /// What products are computed of.
    pub precision: Precision,
    /// Learning from the float network.
    pub distill: Option<Distill>,
    /// What a moving average of what is trained keeps of itself at each step; without, the last step's is the result.
    pub average: Option<f64>,
}

/// What to do.
#[derive(Clone)]
pub struct Job {
    /// The network.
    pub source: Source,
    /// Labelled samples to train on, and to calibrate on.
    pub train: Labelled,
    /// Labelled samples to measure accuracy on between epochs; without, those of the output.
    pub validation: Option<Labelled>,
    /// How to quantize; without, the network is trained in floating point.
    pub recipe: Option<Recipe>,
    /// A quantized network to begin with, made from the same one by the same recipe.
    pub begin: Option<PathBuf>,
    /// Every number.
    pub settings: Settings,
    /// Evaluate after each so many epochs; 0: at the end only.
    pub eval_every: u64,
    /// A file that keeps the state after each so many steps, and where to go on from.
    pub checkpoint: Option<(PathBuf, u64)>,
    /// A file for a line of JSON for each epoch and every tenth step.
    pub log: Option<PathBuf>,
    /// What is written, and by what means.
    pub output: Output,
}

impl Job {
    /// Refuses settings that make no sense.
    pub(super) fn check(&self) -> Result<()> {
        let Settings { epochs, batch, parts, smoothing, distill, .. } = &self.settings;
        if *epochs == 0 || *batch == 0 {
            return Err(Error::usage(format!("{epochs} epochs with batches of {batch}")).cure("use 1 or more"));
        }
        if *parts == 0 || !batch.is_multiple_of(*parts) {
            return Err(Error::usage(format!("batches of {batch} in {parts} parts of the same size"))
                .cure("use a number of --parts that divides the batch"));
        }
        if !(0.0..1.0).contains(smoothing) {
            return Err(Error::usage(format!("label smoothing {smoothing}")).cure("use 0 or more, below 1"));
        }
        let odd = |d: &Distill| {
            let positive =
                d.temperature > 0.0 && d.temperature.is_finite() && (0.0..f32::INFINITY).contains(&d.features);
            !positive || !(0.0..=1.0).contains(&d.weight)
        };
        if distill.as_ref().is_some_and(odd) {
            return Err(Error::usage(
                "distillation with a temperature that is not positive, a weight that is no share, or features that weigh less than nothing",
            ));
        }
        self.settings.low.check()?;
        if self.settings.average.is_some() && self.settings.low.updates.is_some() {
            return Err(Error::usage("an average of weights that lie on a grid between steps: it does not lie there")
                .cure("leave out --average or --update-bits"));
        }
        if self.recipe.is_some() && self.settings.precision != Precision::F32 {
            return Err(Error::usage("16-bit products of values that are rounded to a grid: they would not lie on it")
                .cure("train in 16 bits first, then the file with --bits and without --precision"));
        }
        if self.recipe.is_none() && self.begin.is_some() {
            return Err(Error::usage("a quantized network to begin with in a training without rounding")
                .cure("say how it was quantized: --bits or --recipe, and --smooth or --equalize where it was"));
        }
        if self.recipe.is_none() && self.settings.rules.normalization != Normalization::Folded {
            return Err(Error::usage("live batch normalisation in a training without rounding")
                .cure("leave out --batch-norm: the network's own is live there"));
        }
        if let Some((w, a)) = self.settings.bits.last() {
            let recipe = self.recipe.as_ref().map(|r| (r.weight.bits, r.activation.bits));
            if recipe != Some((w, a)) {
                return Err(Error::usage(format!("stages that end with w{w}a{a}, and a recipe of other bits"))
                    .cure("end the list with the bits of the recipe, or leave out --bits"));
            }
        }
        match (&self.source, distill) {
            (Source::Zoo(Wanted { weights: None, .. }), Some(_)) => {
                Err(Error::usage("distillation from a network with random weights").cure("leave out --distill"))
            }
            _ => Ok(()),
        }
    }
    /// Stands for everything that the result depends on.
    pub(super) fn key(&self, digest: [u8; 32]) -> Result<[u8; 32]> {
        let json = |x: &Settings| serde_json::to_vec(x).map_err(|e| Error::internal(format!("settings: {e}")));
        let recipe = self.recipe.as_ref().map(Recipe::to_toml).transpose()?.unwrap_or_default();
        let data = format!("{}\n{}", self.train.dataset.len(), self.train.preprocess.to_toml()?);
        // Other parts of the same data have their labels in another order.
        let labels = (0..self.train.dataset.len()).map(|i| self.train.dataset.label(i).map_or(u64::MAX, |l| l as u64));
        let labels: Vec<u8> = labels.flat_map(u64::to_le_bytes).collect();
        Ok(checkpoint::key(&[&digest, &json(&self.settings)?, recipe.as_bytes(), data.as_bytes(), &labels]))
    }
}
