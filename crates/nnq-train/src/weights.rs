//! A float network with what was trained in the place of its constants.
use crate::{
    backend::{self, Kernels},
    params::{Of, Parameters, Running},
};
use nnq::{
    Error, Result,
    ir::{Graph, Tensor, ValueId},
};
use std::sync::Arc;

/// The graph with trained constants and running statistics.
///
/// # Errors
/// Names what is no number.
pub fn put<B: Kernels>(graph: &Graph, trained: &Parameters<B>) -> Result<Graph> {
    let mut out = graph.clone();
    let mut put = |v: ValueId, numbers: Vec<f32>, shape: &[usize]| {
        let value = out.value_mut(v);
        if let Some(x) = numbers.iter().find(|x| !x.is_finite()) {
            return Err(Error::value(format!("'{}' became {x}", value.name)).cure("train with a smaller learning rate"));
        }
        value.constant = Some(Arc::new(Tensor::of(shape, numbers)));
        Ok(())
    };
    for (parameter, numbers) in trained.list.iter().zip(&trained.values) {
        if let Of::Constant(v) = parameter.of {
            put(v, backend::numbers::<B>(numbers.clone())?, &parameter.shape)?;
        }
    }
    for (key, numbers) in &trained.statistics {
        let Running::Constant(v) = *key else { continue };
        let numbers = backend::numbers::<B>(numbers.clone())?;
        let shape = [numbers.len()];
        put(v, numbers, &shape)?;
    }
    Ok(out)
}
