//! Files of weights without a network: safetensors, and PyTorch's `state_dict`s.
mod pickle;
mod pytorch;
mod safetensors;

use crate::{
    error::{At, Error, Result},
    formats::onnx::map_file,
    ir::Tensor,
};
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
    let bytes = map_file(path)?;
    let found = if bytes.starts_with(b"PK\x03\x04") { pytorch::read(&bytes) } else { safetensors::read(&bytes) };
    let found = found.at(|| path.display())?;
    if found.is_empty() {
        return Err(Error::value("no tensors").at(path.display()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
