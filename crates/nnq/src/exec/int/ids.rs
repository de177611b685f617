//! Numbers that choose what a mask adds, as words.
use super::between::Between;
use crate::{
    error::{Error, Result},
    exec::{float::Ctx, lower::mask_id},
    ir::Tensor,
};

pub(super) struct Ids;

impl Between for Ids {
    fn run(&self, x: &[Option<&Tensor>], _: &Ctx) -> Result<Vec<Tensor>> {
        let x = x.first().copied().flatten().ok_or_else(|| Error::internal("a mask without numbers"))?;
        let words = x.to_i64s()?.into_iter().map(|id| Ok(i16::from(mask_id(id)?)));
        Ok(vec![Tensor::of(x.shape(), words.collect::<Result<Vec<i16>>>()?)])
    }
    fn macs(&self, _: &[Vec<usize>]) -> usize {
        0
    }
    fn bytes(&self) -> usize {
        0
    }
    fn name(&self) -> &'static str {
        "a mask"
    }
}
