//! Weights that are rounded without a look at inputs: those of recurrent layers, and tables whose rows are looked up.
use super::{Start, constant, key};
use crate::{
    error::{At, Error, Result},
    ir::{Granularity, NodeId},
    quant::{
        rounder::{Rounding, Task},
        weights,
    },
};
use std::sync::Arc;

impl Start {
    /// Rounds the weights of recurrent layers, `[directions, rows, columns]`, and tables, `[rows, columns]`: a scale for each row where the recipe says one per
    /// channel, for runs of a row where it says blocks. Biases of recurrent layers stay real. Roundings that look at samples are those of products: here it is to nearest, and a message says so.
    ///
    /// # Errors
    /// Names the node: numbers that are NaN or infinite.
    pub(super) fn round_alone(&mut self) -> Result<()> {
        let recurrent = self.recurrent.iter().flat_map(|&id| [(id, 1), (id, 2)]);
        let all: Vec<(NodeId, usize)> = recurrent.chain(self.tables.iter().map(|&id| (id, 0))).collect();
        let mut nearest = 0;
        for &(id, input) in &all {
            let name = self.out.graph.node(id).name.clone();
            nearest += usize::from(self.layers.nodes[id.0 as usize].weight.rounding.needs_data());
            self.round_rows(id, input).at(|| format!("node '{name}'"))?;
        }
        if nearest > 0 {
            self.message(format!(
                "{nearest} weights of recurrent layers and tables were rounded to nearest: looking at samples is for products"
            ));
        }
        Ok(())
    }

    fn round_rows(&mut self, id: NodeId, input: usize) -> Result<()> {
        let graph = &mut self.out.graph;
        let misfit = || Error::internal("weights that are no constant matrix");
        let w = graph.node(id).input(input).ok_or_else(misfit)?;
        let tensor = graph.constant(w).ok_or_else(misfit)?.clone();
        let &[.., columns] = tensor.shape() else { return Err(misfit()) };
        let (rank, directions) = (tensor.shape().len(), tensor.shape()[0]);
        let name = graph.value(w).name.clone();
        let place = || format!("weight '{name}'");
        let real = weights::reals(&tensor).at(place)?;
        let rows = tensor.shape()[..rank - 1].iter().product();
        let (matrix, weight) = ([rows, columns], self.layers.nodes[id.0 as usize].weight);
        let mut params = weights::fit(&real, &matrix, &weight.scheme(0, 1)).at(place)?;
        let task = Task::new(&real, &matrix, 0, &params)?;
        let rounding = if weight.rounding.needs_data() { Rounding::Nearest } else { weight.rounding };
        let codes = rounding.rounder(key(self.seed, &name)).round(&task, None).at(place)?;
        params.granularity = match params.granularity {
            Granularity::Channel { .. } if rank == 2 || directions == 1 => Granularity::Channel { axis: rank - 2 },
            Granularity::Channel { .. } => Granularity::Block { axis: rank - 1, size: columns },
            Granularity::Block { size, .. } => Granularity::Block { axis: rank - 1, size },
            Granularity::Tensor => Granularity::Tensor,
        };
        params.check(Some(tensor.shape()))?;
        let packed = Arc::new(weights::pack(&codes, tensor.shape(), params.qtype)?);
        let new = constant(graph, &name, w, packed, params);
        graph.node_mut(id).inputs[input] = Some(new);
        Ok(())
    }
}
