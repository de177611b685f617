//! Preprocessed samples that are run more than once.
use super::{Dataset, Loader, Preprocess, Settings};
use crate::{
    error::{Error, Result},
    ir::{DType, Data, Tensor},
};
use bytes::Bytes;
use std::{io::Write, ops::Range, sync::Arc};

/// Samples in a temporary file that is mapped: decoded and preprocessed once, in memory only while they are looked at.
pub struct Kept {
    map: Bytes,
    /// Shape of one sample.
    shape: Vec<usize>,
    samples: usize,
    _file: tempfile::NamedTempFile,
}

impl Kept {
    /// Reads samples. `tick` hears how many are done.
    ///
    /// # Errors
    /// As the loader, and when the temporary file cannot be written.
    pub fn new(
        dataset: Arc<Dataset>,
        preprocess: Preprocess,
        indices: Vec<usize>,
        settings: Settings,
        tick: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let temp = std::env::temp_dir();
        let mut file = tempfile::NamedTempFile::new().map_err(|e| Error::io(&temp, e))?;
        let (mut shape, mut samples) = (Vec::new(), 0);
        for batch in Loader::new(dataset, preprocess, indices, settings)? {
            let batch = batch?;
            let data: &[f32] = batch.input.as_slice()?;
            file.write_all(bytemuck::cast_slice(data))
                .map_err(|e| Error::io(file.path(), e).cure("free some space for temporary files"))?;
            shape = batch.input.shape()[1..].to_vec();
            samples += batch.indices.len();
            tick(samples as u64);
        }
        let map = nnq_kernels::mmap::map(file.path()).map_err(|e| Error::io(file.path(), e))?;
        Ok(Self { map, shape, samples, _file: file })
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.samples
    }
    /// None.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }
    /// Some of them.
    ///
    /// # Errors
    /// When there are not as many.
    pub fn batch(&self, range: Range<usize>) -> Result<Tensor> {
        if range.end > self.samples {
            return Err(Error::internal(format!("samples {range:?} of {}", self.samples)));
        }
        let each = self.shape.iter().product::<usize>() * size_of::<f32>();
        let shape = [&[range.len()], &self.shape[..]].concat();
        Tensor::new(shape, Data::from_bytes(DType::F32, self.map.slice(range.start * each..range.end * each))?)
    }
}
