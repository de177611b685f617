//! Tables of embeddings, whose rows are looked up.
use super::{Start, constant, key};
use crate::{
    error::{At, Error, Result},
    quant::{
        rounder::{Rounding, Task},
        weights,
    },
};
use std::sync::Arc;

/// The fewest bits of a table, unless the recipe says otherwise of `Gather`: whatever is wrong with a row reaches everything behind it, and only the rows that
/// are looked up are read at all.
const LEAST_BITS: u8 = 8;

impl Start {
    /// Rounds tables `[rows, columns]`: a scale for each row where the recipe says one per channel, for runs of a row where it says blocks.
    ///
    /// # Errors
    /// Names the node: numbers that are NaN or infinite.
    pub(super) fn round_tables(&mut self) -> Result<()> {
        for id in self.tables.clone() {
            let graph = &mut self.out.graph;
            let node = graph.node(id);
            let place = format!("node '{}'", node.name);
            let misfit = || Error::internal("a table that is no constant");
            let w = node.input(0).ok_or_else(misfit)?;
            let tensor = graph.constant(w).ok_or_else(misfit)?.clone();
            let name = graph.value(w).name.clone();
            let mut weight = self.layers.nodes[id.0 as usize].weight;
            if weight.bits == self.layers.general.weight.bits {
                weight.bits = weight.bits.max(LEAST_BITS);
            }
            let real = weights::reals(&tensor).at(|| format!("weight '{name}'"))?;
            let params = weights::fit(&real, tensor.shape(), &weight.scheme(0, 1)).at(|| &place)?;
            let task = Task::new(&real, tensor.shape(), 0, &params)?;
            // Which rows come is no matter of moments: what looks at samples elsewhere rounds to nearest here.
            let rounding = if weight.rounding.needs_data() { Rounding::Nearest } else { weight.rounding };
            let codes = rounding.rounder(key(self.seed, &name)).round(&task, None).at(|| &place)?;
            let packed = Arc::new(weights::pack(&codes, tensor.shape(), params.qtype)?);
            let new = constant(graph, &name, w, packed, params);
            graph.node_mut(id).inputs[0] = Some(new);
        }
        Ok(())
    }
}
