//! A product in blocks of columns, which are products by themselves.
use super::{super::product::Real, Ctx, Product};
use crate::error::Result;
use std::ops::Range;

/// The sum over blocks of columns, in order.
pub(crate) struct Blocks<P>(Vec<(Range<usize>, P)>);

impl<P> Blocks<P> {
    /// Of the products of one block after the other; each says which columns it reads.
    pub(crate) fn new(of: Vec<(Range<usize>, P)>) -> Self {
        Self(of)
    }
}

impl<P: Product<f32>> Product<f32> for Blocks<P> {
    fn run(&self, x: &[f32], out: &mut [f32], rows: usize, ctx: &Ctx) -> Result<()> {
        if let [(_, only)] = &self.0[..] {
            return only.run(x, out, rows, ctx);
        }
        let columns = self.0.last().map_or(0, |(at, _)| at.end).max(1);
        let mut more = f32::take(ctx, out.len());
        let mut block = Vec::with_capacity(x.len());
        for (at, product) in &self.0 {
            block.clear();
            x.chunks_exact(columns).for_each(|row| block.extend_from_slice(&row[at.clone()]));
            if at.start == 0 {
                product.run(&block, out, rows, ctx)?;
            } else {
                product.run(&block, &mut more, rows, ctx)?;
                out.iter_mut().zip(&more).for_each(|(out, more)| *out += more);
            }
        }
        f32::give(ctx, more);
        Ok(())
    }
}
