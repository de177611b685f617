//! Matrix products whose rows are quantized as they come, each on a grid of its own: per token (numerics section 11).
use super::{
    between::Between,
    compile::{PackedProduct, product},
};
use crate::{
    error::{Error, Result},
    exec::{
        float::Ctx,
        lower::{self, no_range},
    },
    ir::{Data, Tensor},
};
use nnq_kernels::{
    Isa,
    conv::{ConvGeom, Epilogue, Out, Requant, SLACK, Scratch},
    dynamic::extremes,
    eltwise::quantize,
    round::dynamic_real,
    tape::{Requantize, Weights},
};
use rayon::prelude::*;

/// A product with packed weights.
pub(super) struct Rows {
    packed: PackedProduct,
    /// Of the weights of each output channel, less their zero points: what a zero point of the inputs adds.
    sums: Vec<i32>,
    isa: Isa,
    /// What is quantized.
    name: String,
}

impl Rows {
    pub(super) fn pack(of: &lower::Rows, isa: Isa) -> Result<Self> {
        let sums = sums(&of.product)?;
        Ok(Self { packed: product(&of.product, isa)?, sums, isa, name: of.name.clone() })
    }
}

impl Between for Rows {
    fn macs(&self, x: &[usize]) -> usize {
        x[..x.len().saturating_sub(1)].iter().product::<usize>() * self.packed.geom.c_in * self.packed.geom.c_out
    }

    fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    fn name(&self) -> &'static str {
        "a product by row"
    }

    /// The product of `x`, `[..., c_in]`.
    fn run(&self, x: &[Option<&Tensor>], ctx: &Ctx) -> Result<Vec<Tensor>> {
        let (Weights::Conv(weights), Requantize::Dynamic { scale, bias }) =
            (&self.packed.weights, &self.packed.requant)
        else {
            return Err(Error::internal("a product by row that is no matrix"));
        };
        let x = x.first().copied().flatten().ok_or_else(|| Error::internal("a product without input"))?;
        let (columns, channels) = (self.packed.geom.c_in, self.packed.geom.c_out);
        let Some((&last, outer)) = x.shape().split_last().filter(|(last, _)| **last == columns) else {
            return Err(Error::shape(format!("an input of shape {:?} for weights of {columns} rows", x.shape())));
        };
        let (numbers, shape) = (x.as_slice::<f32>()?, [outer, &[channels]].concat());
        let rows = numbers.len() / last.max(1);
        if rows == 0 {
            return Ok(vec![Tensor::of::<f32>(&shape, vec![0.0; shape.iter().product()])]);
        }
        let geom = ConvGeom { batch: rows, ..self.packed.geom };
        let epilogue = Epilogue {
            bias: &self.packed.bias,
            w_zero: self.packed.w_zero.as_deref(),
            requant: Requant::None,
            zero: 0,
            lo: 0,
            hi: 255,
        };
        let conv = weights.bind(&geom, 0, &epilogue);
        let tasks = ctx.tasks(rows * columns * channels);
        let some = rows.div_ceil(tasks).next_multiple_of(conv.pixel_grain()).max(1);
        let mut codes = vec![0u8; rows * columns + SLACK];
        let mut grids = vec![(1.0f32, 0u8); rows];
        codes[..rows * columns]
            .par_chunks_mut(some * columns)
            .zip(numbers.par_chunks(some * columns))
            .zip(grids.par_chunks_mut(some))
            .try_for_each(|((codes, x), grids)| {
                for ((codes, x), grid) in codes.chunks_mut(columns).zip(x.chunks(columns)).zip(grids) {
                    *grid = extremes(self.isa, x).grid().ok_or_else(|| no_range(&self.name))?;
                    quantize(self.isa, x, grid.0, grid.1, 0, 255, codes);
                }
                Ok::<(), Error>(())
            })?;
        let mut out = ctx.take(rows * channels);
        out.par_chunks_mut(some * channels).zip(grids.par_chunks(some)).enumerate().for_each(|(i, (out, grids))| {
            let mut sums = vec![0i32; out.len()];
            let range = i * some..i * some + grids.len();
            conv.run(&codes, range, Out::I32(&mut sums), &mut Scratch::new());
            for ((out, sums), &(s, z)) in out.chunks_mut(channels).zip(sums.chunks(channels)).zip(grids) {
                for c in 0..channels {
                    // The accumulator of codes less their zero point was proved to fit; so does the way there, around the corner.
                    let acc = sums[c].wrapping_sub(i32::from(z).wrapping_mul(self.sums[c]));
                    out[c] = dynamic_real(acc, s, scale[c], bias[c]);
                }
            }
        });
        Ok(vec![Tensor::of(&shape, out)])
    }
}

/// The sums over the weights of each output channel, less their zero points.
fn sums(p: &lower::Product) -> Result<Vec<i32>> {
    let channels = p.bias.len();
    let zero = |c: usize| p.weight_zero.as_ref().map_or(0, |zero| zero[c]);
    let depth = p.weight.len() / channels.max(1);
    let transposed = matches!(p.form, lower::Form::Matrix { transposed: true });
    let channel = |i: usize| if transposed { i / depth.max(1) } else { i % channels };
    let mut sums = vec![0i32; channels];
    let mut add = |i: usize, code: i32| sums[channel(i)] += code - zero(channel(i));
    match p.weight.data() {
        Data::I8(w) => w.iter().enumerate().for_each(|(i, &w)| add(i, w.into())),
        Data::U8(w) => w.iter().enumerate().for_each(|(i, &w)| add(i, w.into())),
        _ => {
            return Err(Error::unsupported("weights of more than 8 bits; the integer engine runs up to 8")
                .cure("run it with --engine sim"));
        }
    }
    Ok(sums)
}
