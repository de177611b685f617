//! Files of weights without a network: safetensors, and PyTorch's `state_dict`s.
mod pickle;
mod pytorch;
mod safetensors;

use crate::{
    error::{At, Error, Result},
    formats::onnx::map_file,
    ir::Tensor,
};
use bytes::Bytes;
use std::{collections::BTreeMap, path::Path};

/// Tensors by name.
pub type Weights = BTreeMap<String, Tensor>;

/// The tensors of a file, which is safetensors, or what `torch.save` makes of a `state_dict` (PyTorch 1.6 or later; alone, or as `state_dict`, `model` or
/// `model_state_dict` of a dictionary). Of the pickled instructions only those are obeyed that build dictionaries and tensors: nothing of the file is ever
/// executed. Tensors of safetensors stay views of the mapped file.
///
/// # Errors
/// Names the file and the tensor: another format, one that is truncated or contradicts itself, element types that nnq does not have, objects that are no
/// tensors.
pub fn read(path: &Path) -> Result<Weights> {
    map_file(path).and_then(|bytes| read_bytes(&bytes).at(|| path.display()))
}

/// As [`read`], from memory.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(bytes: &Bytes) -> Result<Weights> {
    let found = if bytes.starts_with(b"PK\x03\x04") { pytorch::read(bytes) } else { safetensors::read(bytes) }?;
    if found.is_empty() {
        return Err(Error::value("a file without tensors").cure("save net.state_dict()"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
