//! Tables of codes, of which rows are looked up.
use super::{between::Between, steps::integers::lift};
use crate::{
    error::{Error, Result},
    exec::{float::Ctx, lower},
    ir::Tensor,
};
use rayon::prelude::*;
use std::sync::Arc;

/// A table.
pub(super) struct Lookup {
    of: Arc<lower::Lookup>,
    /// What memory holds of each element, where results are codes.
    words: Option<Vec<i16>>,
}

impl Lookup {
    pub(super) fn pack(of: &Arc<lower::Lookup>) -> Self {
        let word = |grid: lower::Grid, i: usize| (grid.quantize(of.real(i)) + lift(grid)) as i16;
        let words = of.to.map(|grid| (0..of.codes.len()).into_par_iter().map(|i| word(grid, i)).collect());
        if words.is_some() {
            of.codes.release();
        }
        Self { of: of.clone(), words }
    }
}

impl Between for Lookup {
    fn run(&self, x: &[Option<&Tensor>], ctx: &Ctx) -> Result<Vec<Tensor>> {
        let codes = &self.of.codes;
        let ids = x.first().copied().flatten().ok_or_else(|| Error::internal("a table without indices"))?;
        let &[rows, columns] = codes.shape() else { return Err(Error::internal("a table that is no matrix")) };
        let shape = [ids.shape(), &[columns]].concat();
        let row = |id: i64| {
            let from_end = if id < 0 { id + rows as i64 } else { id };
            usize::try_from(from_end).ok().filter(|&row| row < rows).ok_or_else(|| {
                Error::value(format!("row {id} of a table of {rows}")).cure("give tokens of the model's vocabulary")
            })
        };
        let ids = ids.to_i64s()?;
        if let Some(words) = &self.words {
            let mut out = Vec::with_capacity(shape.iter().product());
            for id in ids {
                out.extend_from_slice(&words[row(id)? * columns..][..columns]);
            }
            return Ok(vec![Tensor::of(&shape, out)]);
        }
        let mut out = ctx.take(shape.iter().product());
        for (out, id) in out.chunks_mut(columns.max(1)).zip(ids) {
            let first = row(id)? * columns;
            for (c, out) in out.iter_mut().enumerate() {
                *out = self.of.real(first + c);
            }
        }
        Ok(vec![Tensor::of(&shape, out)])
    }
    fn macs(&self, _: &[Vec<usize>]) -> usize {
        0
    }
    fn bytes(&self) -> usize {
        match &self.words {
            Some(words) => size_of_val(&words[..]),
            None => {
                self.of.codes.len() + (self.of.params.scale.len() + self.of.params.zero_point.len()) * size_of::<f32>()
            }
        }
    }
    fn name(&self) -> &'static str {
        "a table of codes"
    }
}
