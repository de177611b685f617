//! Shuffled and augmented batches, read ahead by background threads.
use crate::augment::{Augment, Mixed};
use nnq::{
    Error, Result,
    data::{Loader, Preprocess, Settings, mix},
    eval::Labelled,
    ir::Tensor,
};
use std::sync::{Arc, atomic::AtomicBool};

/// The order of an epoch: a permutation that depends on seed and epoch alone.
pub fn order(samples: usize, seed: u64, epoch: u64) -> Vec<usize> {
    // A stream of its own, apart from the draws of images.
    let key = mix(mix(seed ^ 0x6f72_6465_7200_0000, epoch), samples as u64);
    let mut keyed: Vec<(u64, usize)> = (0..samples).map(|i| (mix(key, i as u64), i)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, i)| i).collect()
}

/// A batch to train on.
pub struct Batch {
    /// Samples x the network's input.
    pub input: Tensor,
    /// The class of each sample.
    pub labels: Vec<usize>,
    /// What each holds of another one, or nothing where samples are not mixed.
    pub mixed: Vec<Mixed>,
}

/// The batches of what is left of an epoch.
pub struct Batches {
    loader: Loader,
    preprocess: Preprocess,
    augment: Augment,
    seed: u64,
    epoch: u64,
    batch: usize,
}

/// How batches are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// Samples of each; what is left over at the end of an epoch waits for the next order.
    pub batch: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Changes of images.
    pub augment: Augment,
}

impl Batches {
    /// The batches of `epoch` after the first `done`.
    ///
    /// # Errors
    /// When the data holds less than a batch.
    pub fn new(
        data: &Labelled,
        how: Drawing,
        epoch: u64,
        done: u64,
        threads: usize,
        cancel: Option<Arc<AtomicBool>>,
    ) -> Result<Self> {
        let Drawing { batch, seed, augment } = how;
        let steps = data.dataset.len() / batch.max(1);
        if steps == 0 {
            return Err(Error::usage(format!("{} samples and batches of {batch}", data.dataset.len()))
                .cure("give more training data or smaller batches"));
        }
        let mut indices = order(data.dataset.len(), seed, epoch);
        indices.truncate(steps * batch);
        indices.drain(..(usize::try_from(done).unwrap_or(usize::MAX).saturating_mul(batch)).min(indices.len()));
        let settings = Settings { batch, threads, skip_corrupt: false, cancel };
        let loader = Loader::new(data.dataset.clone(), data.preprocess.clone(), indices, settings)?;
        Ok(Self { loader, preprocess: data.preprocess.clone(), augment, seed, epoch, batch })
    }
    fn prepare(&self, batch: nnq::data::Batch) -> Result<Batch> {
        let labels = batch.labels.iter().map(|l| l.ok_or_else(|| Error::usage("a training sample without a label")));
        let labels = labels.collect::<Result<Vec<_>>>()?;
        let mut shape = batch.input.shape().to_vec();
        let mut numbers = batch.input.into_vec::<f32>()?;
        let one = numbers.len() / labels.len().max(1);
        if self.augment.changes_images() {
            let &[_, channels, height, width] = &shape[..] else {
                return Err(Error::usage(format!(
                    "samples of shape {:?} are no images with channels first",
                    &shape[1..]
                ))
                .cure("leave out --augment, or choose another preprocessing"));
            };
            let palette = self.augment.palette(&self.preprocess, channels)?;
            for (image, &index) in numbers.chunks_mut(one.max(1)).zip(&batch.indices) {
                if let Some(palette) = &palette {
                    self.augment.recolor(image, palette, self.seed, self.epoch, index as u64);
                }
                self.augment.apply(image, [channels, height, width], self.seed, self.epoch, index as u64);
            }
        }
        let mut numbers = self.augment.resize(numbers, &mut shape)?;
        let one = numbers.len() / labels.len().max(1);
        let mixed = self.augment.mix(self.seed, self.epoch, &batch.indices, &mut numbers, one);
        Ok(Batch { input: Tensor::of(&shape, numbers), labels, mixed })
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;
    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.loader.next()?;
        debug_assert!(batch.as_ref().map_or(true, |b| b.indices.len() == self.batch));
        Some(batch.and_then(|b| self.prepare(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_of_their_own() {
        let a = order(1000, 5, 0);
        let mut sorted = a.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_eq!(a, order(1000, 5, 0));
        assert_ne!(a, order(1000, 5, 1));
        assert_ne!(a, order(1000, 6, 0));
    }
}
