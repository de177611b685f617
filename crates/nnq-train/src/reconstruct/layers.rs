//! Rounding layer by layer, and learning, part after part: a part's layers are rounded on what the learned parts before them answer, and make up for that.
use super::{Block, part::Work};
use crate::{backend::Kernels, begin::Begun, params::Of};
use nnq::{
    Error, Result,
    ir::{NodeId, Op, QParams, ValueId},
    quant::{
        ptq::Product,
        reconstruct::{Layers, Learned},
    },
};
use std::{collections::BTreeSet, sync::Arc};

/// How far from its code a weight begins at most, in steps. Nearer to the next code, weights that learning has no opinion on would be rounded to either.
const WITHIN: f32 = 0.1;

impl<B: Kernels> Work<'_, B> {
    fn products(&self, part: &Block) -> Vec<NodeId> {
        part.nodes.iter().copied().filter(|id| self.plan.products.contains_key(id)).collect()
    }

    /// Rounds the layers of a part, and lets learning begin there; answers the products as they were.
    pub(super) fn round(&mut self, layers: &mut Layers, part: &Block) -> Result<Vec<Product>> {
        let ids = self.products(part);
        let mut products = Vec::with_capacity(ids.len());
        for &id in &ids {
            let product = layers.round_next()?;
            if product.id != id {
                return Err(Error::internal("layers are rounded in another order than parts are learned"));
            }
            products.push(product);
        }
        let begun = Begun::new(layers.graph())?.only(self.graph, &ids);
        for grid in begun.weights(self.graph, &mut self.plan)? {
            self.parameters.put(Of::Grid(grid), self.plan.grids[grid].params.scale.clone(), self.device)?;
        }
        begun.put::<B>(self.graph, &self.plan, (&mut self.parameters, WITHIN), self.device)?;
        Ok(products)
    }

    /// A product as it was learned.
    fn learned_of(&self, id: NodeId) -> Result<Learned> {
        let planned = self.plan.products.get(&id).ok_or_else(|| Error::internal("a product without a plan"))?;
        let node = self.graph.node(id);
        let w = node.input(1).ok_or_else(|| Error::internal("a product without weights"))?;
        let grid = planned.weight;
        let scale = self.parameters.numbers(Of::Grid(grid))?;
        let params = QParams { scale, ..self.plan.grids[grid].params.clone() };
        let own = node.input(2).filter(|v| !matches!(node.op, Op::MatMul) && self.parameters.of_value(*v).is_some());
        let bias = own.map(|b| self.parameters.numbers(Of::Constant(b))).transpose()?;
        Ok(Learned { weights: self.parameters.numbers(Of::Constant(w))?, params, bias })
    }

    /// Gives the values of a part the scales that were learned.
    fn regrid(&self, layers: &mut Layers, part: &Block, first: bool) -> Result<()> {
        let own = self.own(part, first);
        for (g, grid) in self.plan.grids.iter().enumerate() {
            if !grid.values.is_empty() && grid.values.iter().all(|v| own.contains(v)) {
                let scale = self.parameters.numbers(Of::Grid(g))?;
                layers.regrid(&grid.values, &Arc::new(QParams { scale, ..grid.params.clone() }))?;
            }
        }
        Ok(())
    }

    /// The values that a part makes, and the network's input where it is the first.
    pub(super) fn own(&self, part: &Block, first: bool) -> BTreeSet<ValueId> {
        let made = part.nodes.iter().flat_map(|&id| self.graph.node(id).outputs.iter().flatten().copied());
        made.chain(first.then_some(part.from)).collect()
    }

    /// What was learned of a part, to the network whose other layers are still to be rounded.
    pub(super) fn hand_over(
        &self,
        layers: &mut Layers,
        (part, first): (&Block, bool),
        products: Vec<Product>,
    ) -> Result<()> {
        self.regrid(layers, part, first)?;
        products.into_iter().try_for_each(|product| {
            let learned = self.learned_of(product.id)?;
            layers.learned(product, learned)
        })
    }

    /// The same for a part that an earlier run has learned.
    pub(super) fn give(&self, layers: &mut Layers, part: &Block, first: bool) -> Result<()> {
        self.regrid(layers, part, first)?;
        self.products(part).into_iter().try_for_each(|id| layers.given(self.learned_of(id)?))
    }
}
