//! Tensors whose data lies in files next to the model.
use super::proto::StringStringEntryProto;
use crate::error::{At, Error, Result};
use bytes::Bytes;
use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

/// Maps a regular file.
///
/// # Errors
/// When it cannot be read or is no regular file (a pipe would block for ever).
pub(in crate::formats) fn map_file(path: &Path) -> Result<Bytes> {
    let kind = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !kind.is_file() {
        let what = if kind.is_dir() { "a folder" } else { "no regular file" };
        return Err(Error::usage(format!("this is {what}")).at(path.display()));
    }
    nnq_kernels::mmap::map(path).map_err(|e| Error::io(path, e))
}

/// The files that hold external data; each is mapped once.
pub(super) struct External {
    dir: Option<PathBuf>,
    files: HashMap<String, Bytes>,
}

impl External {
    /// For models that cannot have any.
    pub fn none() -> Self {
        Self::in_dir(None)
    }
    /// Locations are relative to `dir`.
    pub fn in_dir(dir: Option<&Path>) -> Self {
        Self { dir: dir.map(Path::to_path_buf), files: HashMap::new() }
    }
    /// The `length` bytes that `entries` describe, as a view of the mapped file.
    pub fn get(&mut self, entries: &[StringStringEntryProto], length: usize) -> Result<Bytes> {
        let entry = |key: &str| entries.iter().find(|e| e.key.as_deref() == Some(key)).and_then(|e| e.value.as_deref());
        let number = |key: &str| {
            entry(key)
                .map(|v| {
                    v.trim().parse::<u64>().map_err(|_| Error::malformed(format!("external data: {key} is '{v}'")))
                })
                .transpose()
        };
        let location =
            entry("location").ok_or_else(|| Error::malformed("external data without the name of its file"))?;
        let offset = number("offset")?.unwrap_or(0);
        if let Some(said) = number("length")?
            && said != length as u64
        {
            return Err(Error::malformed(format!(
                "external data in '{location}' has {said} bytes, the tensor's shape needs {length}"
            )));
        }
        let file = self.file(location)?;
        let end = offset.checked_add(length as u64).filter(|&e| e <= file.len() as u64).ok_or_else(|| {
            Error::malformed(format!(
                "external data: {length} bytes at {offset} do not fit into '{location}' of {} bytes",
                file.len()
            ))
            .cure("the data file is truncated or belongs to another model")
        })?;
        Ok(file.slice(offset as usize..end as usize))
    }
    fn file(&mut self, location: &str) -> Result<Bytes> {
        if let Some(bytes) = self.files.get(location) {
            return Ok(bytes.clone());
        }
        let dir = self.dir.as_ref().ok_or_else(|| {
            Error::unsupported(format!("the data lies in another file, '{location}'"))
                .cure("read the model from its file, not from memory")
        })?;
        let path = Path::new(location);
        let inside = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || location.is_empty() || location.contains(['\0', '\\']) {
            return Err(Error::malformed(format!("external data in '{location}', outside of the model's folder"))
                .cure("external data must be named by a path relative to the model, without '..'"));
        }
        let bytes = map_file(&dir.join(path)).at(|| "external data")?;
        self.files.insert(location.to_owned(), bytes.clone());
        Ok(bytes)
    }
}
