//! The products of recurrent layers, one at a time.
use super::step::{Weights, by_grids, on_grids};
use crate::{
    error::Result,
    exec::{
        float::{Ctx, recurrent},
        lower::{Grid, Product, Recurrent},
    },
    ir::Tensor,
};

struct Simulated<'a> {
    product: &'a Product,
    weights: &'a Weights,
    /// What is quantized.
    name: &'a str,
    by_row: bool,
    /// What it is quantized on, where that is known.
    fixed: Option<Grid>,
}

impl recurrent::Product<f32> for Simulated<'_> {
    fn run(&self, x: &[f32], out: &mut [f32], rows: usize, ctx: &Ctx) -> Result<()> {
        let columns = self.product.weight.shape()[1];
        let each = if self.by_row { columns } else { x.len() };
        let x = Tensor::of(&[rows, columns], x.to_vec());
        let y = match self.fixed {
            Some(grid) => on_grids(self.product, self.weights, &x, x.len().max(1), &[grid], ctx)?,
            None => by_grids(self.product, self.weights, &x, each, self.name, ctx)?,
        };
        out.copy_from_slice(y.as_slice::<f32>()?);
        Ok(())
    }
}

/// A step with the inputs `x`; `weights` are those of [`Recurrent::products`].
pub(super) fn run(r: &Recurrent, weights: &[Weights], x: &[Option<&Tensor>], ctx: &Ctx) -> Result<Vec<Tensor>> {
    recurrent::run_with(&r.attrs, x, ctx, |_| {
        let products: Vec<&Product> = r.products().collect();
        r.map(|i, state| {
            let (at, product) = (usize::from(state), products[i]);
            let (name, fixed) = (&r.names[at], r.fixed.map(|grids| grids[at]));
            Ok(Simulated { product, weights: &weights[i], name, by_row: r.by_row, fixed })
        })
    })
}
