//! Matrix products of real numbers with weights in codes, on their kernel.
use super::between::Between;
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, each},
        lower,
    },
    ir::Tensor,
};
use nnq_kernels::float::{CodedProduct, Codes, FloatIsa};

/// A product with packed weights.
pub(super) struct Coded {
    packed: CodedProduct,
    bias: Option<Vec<f32>>,
}

impl Coded {
    pub(super) fn pack(of: &lower::Coded) -> Self {
        let [k, n] = of.sizes;
        let code = of.codes();
        let (low, high) = of.weight.int_range().ok().flatten().unwrap_or((0, 0));
        let codes = Codes {
            code: &code,
            range: [low as i32, high as i32],
            block: of.block,
            scale: &|b, c| of.scale[b * n + c],
            zero: &|b, c| of.zero[b * n + c],
        };
        let packed = CodedProduct::pack(FloatIsa::best(), [k, n], &codes);
        of.weight.release();
        Self { packed, bias: of.bias.clone() }
    }
}

impl Between for Coded {
    fn run(&self, x: &[Option<&Tensor>], ctx: &Ctx) -> Result<Vec<Tensor>> {
        let x = x.first().copied().flatten().ok_or_else(|| Error::internal("a product without input"))?;
        let [k, n] = self.packed.sizes();
        let Some((_, outer)) = x.shape().split_last().filter(|(last, _)| **last == k) else {
            return Err(Error::shape(format!("an input of shape {:?} for weights of {k} rows", x.shape())));
        };
        let shape = [outer, &[n]].concat();
        let rows = outer.iter().product();
        let mut out = ctx.take(rows * n);
        self.packed.run(rows, x.as_slice::<f32>()?, self.bias.as_deref(), &mut out, ctx.tasks(rows * k * n), &each);
        Ok(vec![Tensor::of(&shape, out)])
    }
    fn macs(&self, x: &[Vec<usize>]) -> usize {
        let x = x.first().map_or(&[][..], |x| x);
        let [k, n] = self.packed.sizes();
        x[..x.len().saturating_sub(1)].iter().product::<usize>() * k * n
    }
    fn bytes(&self) -> usize {
        self.packed.bytes()
    }
    fn name(&self) -> &'static str {
        "a product of real numbers with weights in codes"
    }
}
