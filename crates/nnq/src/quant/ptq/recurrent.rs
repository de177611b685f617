//! Weights of recurrent layers whose inputs and states are quantized as they come.
use super::{Start, constant, key};
use crate::{
    error::{At, Error, Result},
    ir::{Granularity, NodeId},
    quant::{rounder::Task, weights},
};
use std::sync::Arc;

impl Start {
    /// Rounds the weights of recurrent layers, `[directions, rows, columns]`: a scale for each row of each direction where the recipe says one per channel.
    /// Biases stay real.
    ///
    /// # Errors
    /// Names the node: weights that are NaN or infinite, a rounding that needs data.
    pub(super) fn round_recurrent(&mut self) -> Result<()> {
        for id in self.recurrent.clone() {
            let name = self.out.graph.node(id).name.clone();
            (1..3).try_for_each(|input| self.round_rows(id, input)).at(|| format!("node '{name}'"))?;
        }
        Ok(())
    }

    fn round_rows(&mut self, id: NodeId, input: usize) -> Result<()> {
        let graph = &mut self.out.graph;
        let misfit = || Error::internal("a recurrent layer without constant weights");
        let w = graph.node(id).input(input).ok_or_else(misfit)?;
        let tensor = graph.constant(w).ok_or_else(misfit)?.clone();
        let &[directions, rows, columns] = tensor.shape() else { return Err(misfit()) };
        let name = graph.value(w).name.clone();
        let place = || format!("weight '{name}'");
        let real = weights::reals(&tensor).at(place)?;
        let (matrix, weight) = ([directions * rows, columns], self.layers.nodes[id.0 as usize].weight);
        let mut params = weights::fit(&real, &matrix, &weight.scheme(0, 1)).at(place)?;
        let task = Task::new(&real, &matrix, 0, &params)?;
        let codes = weight.rounding.rounder(key(self.seed, &name)).round(&task, None).at(place)?;
        params.granularity = match params.granularity {
            Granularity::Channel { .. } if directions == 1 => Granularity::Channel { axis: 1 },
            Granularity::Channel { .. } => Granularity::Block { axis: 2, size: columns },
            Granularity::Block { size, .. } => Granularity::Block { axis: 2, size },
            Granularity::Tensor => Granularity::Tensor,
        };
        params.check(Some(tensor.shape()))?;
        let packed = Arc::new(weights::pack(&codes, tensor.shape(), params.qtype)?);
        let new = constant(graph, &name, w, packed, params);
        graph.node_mut(id).inputs[input] = Some(new);
        Ok(())
    }
}
