//! CIFAR-10 in its binary form: records of a label byte and 3 x 32 x 32 channel-major RGB bytes.
use super::{dataset::Split, image::Image, preprocess::permute};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::path::{Path, PathBuf};

/// Bytes per record.
pub(super) const RECORD: usize = 1 + 3 * 32 * 32;
/// Classes.
pub(super) const CLASSES: usize = 10;

/// Batches one after the other, memory-mapped.
pub(super) struct Cifar {
    batches: Vec<(PathBuf, Bytes)>,
    /// `first[i]` is the index of batch `i`'s first record.
    first: Vec<usize>,
}

impl Cifar {
    /// Maps the files and collects the labels.
    pub fn open(files: &[PathBuf]) -> Result<(Self, Vec<u32>)> {
        let (mut this, mut labels) = (Self { batches: Vec::new(), first: Vec::new() }, Vec::new());
        for path in files {
            let bytes = nnq_kernels::mmap::map(path).map_err(|e| Error::io(path, e))?;
            if bytes.is_empty() || bytes.len() % RECORD != 0 {
                let what = format!("{} bytes are no whole number of CIFAR-10 records of {RECORD} bytes", bytes.len());
                let cure = if !bytes.is_empty() && bytes.len() % (RECORD + 1) == 0 {
                    "this looks like CIFAR-100, which is not read"
                } else {
                    "the file may be truncated"
                };
                return Err(Error::malformed(what).cure(cure).at(path.display()));
            }
            this.first.push(labels.len());
            for (i, record) in bytes.chunks_exact(RECORD).enumerate() {
                if usize::from(record[0]) >= CLASSES {
                    return Err(Error::malformed(format!("record {i} has label {}, not one of 0 to 9", record[0]))
                        .at(path.display()));
                }
                labels.push(u32::from(record[0]));
            }
            // Labels lie on every page.
            nnq_kernels::mmap::release(&bytes);
            this.batches.push((path.clone(), bytes));
        }
        Ok((this, labels))
    }
    /// The file and the record within it.
    fn find(&self, index: usize) -> (usize, usize) {
        let batch = self.first.partition_point(|&f| f <= index) - 1;
        (batch, index - self.first[batch])
    }
    pub fn image(&self, index: usize) -> Result<Image> {
        let (batch, record) = self.find(index);
        let bytes = &self.batches[batch].1[record * RECORD + 1..(record + 1) * RECORD];
        let image = Image::new(32, 32, 3, permute(bytes, [3, 32, 32], [1, 2, 0]));
        // Memory does not grow with the number of images that were read.
        nnq_kernels::mmap::release(bytes);
        image
    }
    pub fn name(&self, index: usize) -> String {
        let (batch, record) = self.find(index);
        format!("{}, record {record}", self.batches[batch].0.display())
    }
}

/// The batch files of a folder for a split, sorted; `None` when the folder holds no batches at all.
pub(super) fn files(folder: &Path, names: &[String], split: Split) -> Option<Result<Vec<PathBuf>>> {
    let train = |n: &&String| n.starts_with("data_batch") && n.ends_with(".bin");
    let test = |n: &&String| n.starts_with("test_batch") && n.ends_with(".bin");
    if !names.iter().any(|n| train(&n) || test(&n)) {
        return None;
    }
    let chosen: Vec<_> = names
        .iter()
        .filter(|n| match split {
            Split::Train => train(n),
            Split::Test => test(n),
            Split::All => train(n) || test(n),
        })
        .map(|n| folder.join(n))
        .collect();
    if chosen.is_empty() {
        let (lacks, other) =
            if split == Split::Train { ("data_batch_*.bin", "test") } else { ("test_batch.bin", "train") };
        let error = Error::usage(format!("the folder holds CIFAR-10 batches, but no {lacks}"))
            .cure(format!("choose the {other} split, or all"))
            .at(folder.display());
        return Some(Err(error));
    }
    Some(Ok(chosen))
}
