//! The state of a run, in and out of checkpoints.
use super::Trainer;
use crate::{
    backend::{self, Kernels},
    checkpoint::Checkpoint,
    optimizer::Optimizer,
};
use nnq::{Error, Result};
use std::path::PathBuf;

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

impl<B: Kernels> Trainer<'_, B> {
    pub(super) fn save(&self) -> Result<()> {
        let Some(keep) = &self.keep else { return Ok(()) };
        let numbers = |x: &burn::backend::tensor::FloatTensor<B>| backend::numbers::<B>(x.clone());
        Checkpoint {
            key: keep.key,
            step: self.step,
            epoch_sums: self.sums,
            values: self.parameters.values.iter().map(numbers).collect::<Result<_>>()?,
            statistics: self.parameters.statistics.values().map(numbers).collect::<Result<_>>()?,
            optimizer: self.optimizer.to_bytes()?,
            scaler: self.scaler,
        }
        .write(&keep.path)
    }
    pub(super) fn restore(&mut self, from: Checkpoint) -> Result<()> {
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
        let total = self.total();
        self.optimizer = Optimizer::new(self.settings.steps, total)?.resume(&from.optimizer, from.step)?;
        self.scaler = from.scaler;
        (self.step, self.sums) = (from.step, from.epoch_sums);
        self.stage = self.stage_of(from.step.saturating_sub(1));
        Ok(())
    }
}
