//! Tensors of samples that are run more than once.
use super::{Dataset, Loader, Preprocess, Settings};
use crate::{
    error::{Error, Result},
    ir::{DType, Data, Tensor},
};
use bytes::Bytes;
use std::{
    io::{BufWriter, Write},
    ops::Range,
    sync::Arc,
};

/// Samples in a temporary file that is mapped: computed once, in memory only while they are looked at.
pub struct Kept {
    map: Bytes,
    /// Shape of one sample.
    shape: Vec<usize>,
    samples: usize,
    _file: tempfile::NamedTempFile,
}

/// Samples on their way into a [`Kept`].
pub struct Keeping {
    file: BufWriter<tempfile::NamedTempFile>,
    shape: Vec<usize>,
    samples: usize,
}

impl Keeping {
    /// None yet.
    ///
    /// # Errors
    /// When there can be no temporary file.
    pub fn new() -> Result<Self> {
        let file = tempfile::NamedTempFile::new().map_err(|e| Error::io(&std::env::temp_dir(), e))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), shape: Vec::new(), samples: 0 })
    }
    /// Adds samples: `[samples, ...]` of binary32.
    ///
    /// # Errors
    /// When they have another shape than those before, or cannot be written.
    pub fn push(&mut self, some: &Tensor) -> Result<()> {
        let data: &[f32] = some.as_slice()?;
        let Some((&count, shape)) = some.shape().split_first() else {
            return Err(Error::internal("samples without an axis of samples"));
        };
        if self.samples > 0 && shape != self.shape {
            return Err(Error::shape(format!("a sample of shape {shape:?} after one of {:?}", self.shape)));
        }
        let written = self.file.write_all(bytemuck::cast_slice(data));
        written.map_err(|e| self.failed(e))?;
        self.shape = shape.to_vec();
        self.samples += count;
        Ok(())
    }
    fn failed(&self, e: std::io::Error) -> Error {
        Error::io(self.file.get_ref().path(), e).cure("free some space for temporary files, or set TMPDIR")
    }
    /// All of them.
    ///
    /// # Errors
    /// When the file cannot be written to its end or mapped.
    pub fn finish(mut self) -> Result<Kept> {
        let flushed = self.file.flush();
        flushed.map_err(|e| self.failed(e))?;
        let Self { file, shape, samples } = self;
        let (file, _) = file.into_parts();
        let map = nnq_kernels::mmap::map(file.path()).map_err(|e| Error::io(file.path(), e))?;
        Ok(Kept { map, shape, samples, _file: file })
    }
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
        let mut keeping = Keeping::new()?;
        for batch in Loader::new(dataset, preprocess, indices, settings)? {
            keeping.push(&batch?.input)?;
            tick(keeping.samples as u64);
        }
        keeping.finish()
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.samples
    }
    /// None.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }
    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
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
