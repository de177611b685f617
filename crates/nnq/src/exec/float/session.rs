//! Walks a graph.
use super::Ctx;
use crate::{
    error::{Error, Result},
    ir::{Graph, Tensor, ValueId},
};
use std::sync::Arc;

/// Sees each value as it is produced (graph inputs and node outputs, not constants).
pub trait Tap {
    /// `value` is an id of the session's graph. An error stops the run.
    ///
    /// # Errors
    /// Whatever the observer cannot work with.
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()>;
}

/// Looks at nothing.
pub struct NoTap;

impl Tap for NoTap {
    fn see(&mut self, _: ValueId, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// 0: one per core.
    pub threads: usize,
}

/// A graph ready to run in floating point. Annotations on values are ignored; constants that hold codes are dequantized.
pub struct Session {
    graph: Arc<Graph>,
    ctx: Ctx,
}

impl Session {
    /// Plans the order and the liveness of values.
    ///
    /// # Errors
    /// When a node reads a value that nothing produces.
    pub fn new(graph: Arc<Graph>, _options: &Options) -> Result<Self> {
        Ok(Self { graph, ctx: Ctx::new() })
    }
    /// The graph.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }
    /// Runs once. `inputs` in the order of `graph.inputs`; outputs in the order of `graph.outputs`.
    ///
    /// # Errors
    /// Names the node and the shapes.
    pub fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.run_tapped(inputs, &mut NoTap)
    }
    /// Runs once and shows every value to `tap`.
    ///
    /// # Errors
    /// As [`Session::run`], and what the tap answers.
    pub fn run_tapped(&mut self, _inputs: Vec<Tensor>, _tap: &mut dyn Tap) -> Result<Vec<Tensor>> {
        let _ = &self.ctx;
        Err(Error::unsupported("not implemented yet"))
    }
}
