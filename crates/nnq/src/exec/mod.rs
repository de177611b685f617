//! Floor 2: executors.
//!
//! [`float`] runs any graph in floating point. [`lower`] turns an annotated graph into an integer program, which
//! [`sim`] simulates by the formulas of `docs/numerics.md` and [`int`] runs on the kernels; both give the same bits.
pub mod float;
pub mod int;
pub mod lower;
pub mod sim;
#[cfg(test)]
mod tests;

use crate::{
    error::{Error, ErrorKind, Result},
    ir::{Graph, Tensor},
};

/// A thread pool of its own for a session; 0: one thread per core.
pub(crate) fn thread_pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::new(ErrorKind::Io, format!("no threads: {e}")))
}

/// Compares inputs with what the graph declares.
fn check_inputs(graph: &Graph, inputs: &[Tensor]) -> Result<()> {
    if inputs.len() != graph.inputs.len() {
        return Err(Error::usage(format!("the model has {} inputs, {} were given", graph.inputs.len(), inputs.len())));
    }
    for (&v, t) in graph.inputs.iter().zip(inputs) {
        let value = graph.value(v);
        let wrong = |what: String| Error::shape(what).at(format!("input '{}'", value.name));
        if value.dtype.is_some_and(|d| d != t.dtype()) {
            let want = value.dtype.map_or("?", crate::ir::DType::name);
            return Err(wrong(format!("expected elements of {want}, found {}", t.dtype())));
        }
        if let Some(shape) = &value.shape {
            let fits = shape.rank() == t.shape().len()
                && shape.0.iter().zip(t.shape()).all(|(d, &n)| d.fixed().is_none_or(|d| d == n));
            if !fits {
                return Err(wrong(format!("expected a shape {shape}, found {:?}", t.shape())));
            }
        }
    }
    Ok(())
}
