//! One run of a model on files.
use crate::{
    data::{self, Dataset, NpyArray, Preprocess},
    engine::Engine,
    error::{At, Error, Result},
    ir::Tensor,
};
use std::path::{Path, PathBuf};

/// Reads the inputs of a model, one file each: an `.npy` file holds the tensor itself (a batch dimension of 1 may be missing),
/// anything else is a picture that `preprocess` turns into a batch of one.
///
/// # Errors
/// Names the file, what the model expects and what was found.
pub fn read_inputs(engine: &Engine, files: &[PathBuf], preprocess: Option<&Preprocess>) -> Result<Vec<Tensor>> {
    let graph = engine.graph();
    if files.len() != graph.inputs.len() {
        let names: Vec<_> = graph.inputs.iter().map(|i| graph.value(*i).name.as_str()).collect();
        let cause =
            format!("the model has {} inputs ({}), {} files were given", names.len(), names.join(", "), files.len());
        return Err(Error::usage(cause).cure("give one file per input, in this order"));
    }
    let pairs = files.iter().zip(&graph.inputs);
    pairs.map(|(file, id)| read_input(file, graph.value(*id), preprocess).at(|| file.display())).collect()
}

fn read_input(file: &Path, value: &crate::ir::Value, preprocess: Option<&Preprocess>) -> Result<Tensor> {
    let with_batch = |t: Tensor| {
        let shape = [&[1], t.shape()].concat();
        t.reshaped(shape)
    };
    if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) {
        let tensor = NpyArray::open(file)?.to_tensor()?;
        let rank = value.shape.as_ref().map_or(tensor.shape().len(), crate::ir::Shape::rank);
        return if rank == tensor.shape().len() + 1 { with_batch(tensor) } else { Ok(tensor) };
    }
    let preprocess = preprocess.ok_or_else(|| {
        Error::usage("nothing says how this picture becomes a tensor").cure("name the preprocessing with --preprocess")
    })?;
    let sample = Dataset::open(file, &data::Options::evaluation())?.first(preprocess)?;
    if let Some(shape) = &value.shape {
        preprocess.fits(sample.shape(), shape).at(|| format!("input '{}'", value.name))?;
    }
    with_batch(sample)
}

/// Writes outputs as `.npy`: the first to `path`, further ones to `path` with `.1`, `.2`, ... before the extension. Answers
/// the paths.
///
/// # Errors
/// When a file cannot be written.
pub fn write_outputs(outputs: &[Tensor], path: &Path) -> Result<Vec<PathBuf>> {
    let name = |i: usize| if i == 0 { path.to_owned() } else { path.with_extension(format!("{i}.npy")) };
    let write = |(i, tensor)| data::save_npy(&name(i), tensor).map(|()| name(i));
    outputs.iter().enumerate().map(write).collect()
}
