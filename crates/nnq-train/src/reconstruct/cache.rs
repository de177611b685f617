//! Values of all samples, in a temporary file that is mapped: they take disk, and memory as long as there is some.
use bytes::Bytes;
use nnq::{Error, Result};
use std::{
    io::{BufWriter, Write as _},
    path::Path,
};
use tempfile::NamedTempFile;

/// Rows of equal length.
pub struct Cache {
    // Before the file, which is removed with it.
    map: Bytes,
    _file: NamedTempFile,
    /// Sizes of a sample.
    pub shape: Vec<usize>,
}

/// A cache that is being filled.
pub struct Filling {
    file: BufWriter<NamedTempFile>,
    shape: Vec<usize>,
}

impl Filling {
    /// An empty one.
    ///
    /// # Errors
    /// When no temporary file can be made.
    pub fn new() -> Result<Self> {
        let file = NamedTempFile::new().map_err(|e| Error::io(&std::env::temp_dir(), e))?;
        Ok(Self { file: BufWriter::new(file), shape: Vec::new() })
    }
    fn path(&self) -> &Path {
        self.file.get_ref().path()
    }
    /// Adds samples of this shape, the batch first.
    ///
    /// # Errors
    /// When the disk is full; when samples differ in shape.
    pub fn add(&mut self, numbers: &[f32], shape: &[usize]) -> Result<()> {
        let of = shape.get(1..).unwrap_or_default();
        if self.shape.is_empty() {
            self.shape = of.to_vec();
        } else if self.shape != of {
            return Err(Error::shape(format!("samples of shape {of:?} after {:?}", self.shape)));
        }
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        self.file.write_all(bytes).map_err(|e| Error::io(self.path(), e))
    }
    /// All that was added.
    ///
    /// # Errors
    /// As [`Filling::add`].
    pub fn finish(self) -> Result<Cache> {
        let path = self.path().to_owned();
        let file = self.file.into_inner().map_err(|e| Error::io(&path, e.into_error()))?;
        let map = nnq_kernels::mmap::map(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Cache { map, _file: file, shape: self.shape })
    }
}

impl Cache {
    /// Numbers of a sample.
    pub fn each(&self) -> usize {
        self.shape.iter().product::<usize>().max(1)
    }
    /// Samples.
    pub fn len(&self) -> usize {
        self.all().len() / self.each()
    }
    fn all(&self) -> &[f32] {
        bytemuck::cast_slice(&self.map)
    }
    /// One sample.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.all()[i * self.each()..(i + 1) * self.each()]
    }
    /// These samples one after the other.
    pub fn rows(&self, indices: &[usize]) -> Vec<f32> {
        indices.iter().flat_map(|&i| self.row(i)).copied().collect()
    }
    /// The shape of so many samples.
    pub fn batch(&self, samples: usize) -> Vec<usize> {
        [&[samples], &self.shape[..]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut filling = Filling::new().unwrap();
        filling.add(&[1.0, 2.0, 3.0, 4.0], &[2, 1, 2]).unwrap();
        filling.add(&[5.0, 6.0], &[1, 1, 2]).unwrap();
        assert!(filling.add(&[5.0, 6.0], &[1, 2]).is_err());
        let cache = filling.finish().unwrap();
        assert_eq!((cache.len(), cache.row(1), cache.batch(2)), (3, &[3.0, 4.0][..], vec![2, 1, 2]));
        assert_eq!(cache.rows(&[2, 0]), [5.0, 6.0, 1.0, 2.0]);
    }
}
