//! The state of a run, in and out of checkpoints.
use super::Trainer;
use crate::{
    backend::{self, Device, Kernels},
    checkpoint::{Checkpoint, State},
    optimizer::Optimizer,
    params::Parameters,
};
use burn::backend::tensor::FloatTensor;
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
        Checkpoint {
            key: keep.key,
            step: self.step,
            epoch_sums: self.sums,
            state: state::<B>(&self.parameters)?,
            average: self.average.as_ref().map(|a| state::<B>(&a.parameters)).transpose()?,
            optimizer: self.optimizer.to_bytes()?,
            scaler: self.scaler,
        }
        .write(&keep.path)
    }
    pub(super) fn restore(&mut self, from: Checkpoint) -> Result<()> {
        put::<B>(from.state, &mut self.parameters, &self.device)?;
        // The key says whether there is an average.
        if let (Some(average), Some(state)) = (&mut self.average, from.average) {
            put::<B>(state, &mut average.parameters, &self.device)?;
        }
        let total = self.total();
        self.optimizer = Optimizer::new(self.settings.steps, total)?.resume(&from.optimizer, from.step)?;
        self.scaler = from.scaler;
        (self.step, self.sums) = (from.step, from.epoch_sums);
        self.stage = self.stage_of(from.step.saturating_sub(1));
        Ok(())
    }
}

/// The numbers of all parameters.
fn state<B: Kernels>(parameters: &Parameters<B>) -> Result<State> {
    let numbers = |x: &FloatTensor<B>| backend::numbers::<B>(x.clone());
    Ok(State {
        values: parameters.values.iter().map(numbers).collect::<Result<_>>()?,
        statistics: parameters.statistics.values().map(numbers).collect::<Result<_>>()?,
    })
}

/// Puts them back.
fn put<B: Kernels>(from: State, parameters: &mut Parameters<B>, device: &Device<B>) -> Result<()> {
    let other = || Error::malformed("the checkpoint holds other parameters than the network has").cure("remove it");
    if from.values.len() != parameters.list.len() || from.statistics.len() != parameters.statistics.len() {
        return Err(other());
    }
    for (i, numbers) in from.values.into_iter().enumerate() {
        let shape = &parameters.list[i].shape;
        if numbers.len() != shape.iter().product::<usize>() {
            return Err(other());
        }
        parameters.values[i] = backend::tensor::<B>(numbers, shape, device);
    }
    for (old, numbers) in parameters.statistics.values_mut().zip(from.statistics) {
        let shape = [numbers.len()];
        *old = backend::tensor::<B>(numbers, &shape, device);
    }
    Ok(())
}
