//! Tables of codes, of which rows are looked up.
use super::between::Between;
use crate::{
    error::{Error, Result},
    exec::{float::Ctx, lower},
    ir::Tensor,
};
use std::sync::Arc;

/// A table.
pub(super) struct Lookup(pub(super) Arc<lower::Lookup>);

impl Between for Lookup {
    fn run(&self, x: &[Option<&Tensor>], ctx: &Ctx) -> Result<Vec<Tensor>> {
        let codes = &self.0.codes;
        let ids = x.first().copied().flatten().ok_or_else(|| Error::internal("a table without indices"))?;
        let &[rows, columns] = codes.shape() else { return Err(Error::internal("a table that is no matrix")) };
        let shape = [ids.shape(), &[columns]].concat();
        let mut out = ctx.take(shape.iter().product());
        for (out, id) in out.chunks_mut(columns.max(1)).zip(ids.to_i64s()?) {
            let from_end = if id < 0 { id + rows as i64 } else { id };
            let row = usize::try_from(from_end).ok().filter(|&row| row < rows).ok_or_else(|| {
                Error::value(format!("row {id} of a table of {rows}")).cure("give tokens of the model's vocabulary")
            })?;
            for (c, out) in out.iter_mut().enumerate() {
                *out = self.0.real(row * columns + c);
            }
        }
        Ok(vec![Tensor::of(&shape, out)])
    }
    fn macs(&self, _: &[usize]) -> usize {
        0
    }
    fn bytes(&self) -> usize {
        self.0.codes.len() + (self.0.params.scale.len() + self.0.params.zero_point.len()) * size_of::<f32>()
    }
    fn name(&self) -> &'static str {
        "a table of codes"
    }
}
