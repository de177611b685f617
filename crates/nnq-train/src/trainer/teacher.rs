//! The float network that another one learns from.
use crate::{
    loss::Distill,
    reconstruct::blocks::{Unit, blocks},
};
use nnq::{
    Error, Result,
    engine::Engine,
    ir::{Dim, Graph, Op, Tensor, ValueId},
};
use std::sync::Arc;

/// A network in floating point that answers batches.
pub struct Teacher {
    engine: Engine,
    /// What is learned of its answers.
    pub how: Distill,
    /// The values inside that are answered, too.
    pub points: Vec<ValueId>,
}

/// A network that takes images of any size.
pub fn of_any_size(graph: &Arc<Graph>) -> Arc<Graph> {
    let mut free = Graph::clone(graph);
    for v in free.inputs.clone() {
        if let Some(shape) = &mut free.value_mut(v).shape {
            shape.0.iter_mut().skip(2).for_each(|dim| *dim = Dim::Unknown);
        }
    }
    Arc::new(free)
}

/// What it says of a batch.
pub struct Answers {
    /// Row by row.
    pub logits: Vec<f32>,
    /// At each point.
    pub features: Vec<Tensor>,
}

impl Teacher {
    /// Of the network that is trained, before it is: `float` as it was read, `trained` with the values that training has. `open` makes an engine.
    ///
    /// # Errors
    /// When values inside are to be learned, and the network is not a chain of parts.
    pub fn new(
        how: Distill,
        [float, trained]: [&Arc<Graph>; 2],
        open: &dyn Fn(Arc<Graph>) -> Result<Engine>,
    ) -> Result<Self> {
        if how.features == 0.0 {
            return Ok(Self { engine: open(float.clone())?, how, points: Vec::new() });
        }
        let product = |id| matches!(trained.node(id).op, Op::Conv(_) | Op::Gemm { .. } | Op::MatMul);
        let mut points: Vec<ValueId> = blocks(trained, &product, Unit::Block)?.into_iter().map(|b| b.to).collect();
        points.pop();
        if points.is_empty() {
            return Err(Error::usage("the network has no value inside that all the rest is computed from")
                .cure("leave out --distill-features"));
        }
        let mut graph = Graph::clone(trained);
        graph.outputs.extend(&points);
        Ok(Self { engine: open(Arc::new(graph))?, how, points })
    }
    /// What it says of a batch.
    ///
    /// # Errors
    /// Names the node that cannot be run.
    pub fn answers(&mut self, input: &Tensor) -> Result<Answers> {
        let mut all = self.engine.run(vec![input.clone()])?.into_iter();
        let logits = all.next().ok_or_else(|| Error::usage("the network has no output"))?.into_vec::<f32>()?;
        Ok(Answers { logits, features: all.collect() })
    }
}
