//! Matrix products whose rows are quantized as they come, each on a grid of its own: per token (numerics section 11).
use super::{
    between::Between,
    compile::{PackedProduct, product},
};
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, recurrent},
        lower::{self, no_range},
    },
    ir::{Data, Tensor},
};
use nnq_kernels::{
    Isa,
    conv::{BoundConv, ConvGeom, Epilogue, Out, Requant, SLACK, Scratch},
    dynamic::extremes,
    eltwise::quantize,
    round::dynamic_real,
    tape::{Requantize, Weights},
    widest,
};
use rayon::prelude::*;
use std::cell::RefCell;

/// The packed weights of a product.
pub(super) struct Matrix {
    pub packed: PackedProduct,
    /// Of the weights of each output channel, less their zero points: what a zero point of the inputs adds.
    sums: Vec<i32>,
    isa: Isa,
}

impl Matrix {
    pub(super) fn pack(of: &lower::Product, isa: Isa) -> Result<Self> {
        let sums = sums(of)?;
        Ok(Self { packed: product(of, isa)?, sums, isa })
    }

    /// For so many rows of the value `name`.
    pub(super) fn bind<'a>(&'a self, rows: usize, name: &'a str) -> Result<Bound<'a>> {
        let (Weights::Conv(weights), Requantize::Dynamic { scale, bias }) =
            (&self.packed.weights, &self.packed.requant)
        else {
            return Err(Error::internal("a product by row that is no matrix"));
        };
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
        let of = Kernel { conv, scale, bias, sums: &self.sums, isa: self.isa, name };
        Ok(Bound { of, room: RefCell::default() })
    }
}

/// A product for a number of rows.
pub(super) struct Bound<'a> {
    of: Kernel<'a>,
    /// Kept from run to run.
    room: RefCell<Room>,
}

/// What threads share of it.
struct Kernel<'a> {
    conv: BoundConv,
    /// Per output channel, as all that follows.
    scale: &'a [f32],
    bias: &'a [f32],
    sums: &'a [i32],
    isa: Isa,
    /// What is quantized.
    name: &'a str,
}

#[derive(Default)]
struct Room {
    grids: Vec<(f32, u8)>,
    /// Of each thread.
    scratches: Vec<Scratch>,
}

impl Kernel<'_> {
    /// The codes of some rows, and their grids.
    fn quantize(&self, x: &[f32], codes: &mut [u8], grids: &mut [(f32, u8)]) -> Result<()> {
        let columns = self.conv.geom().c_in;
        for ((codes, x), grid) in codes.chunks_mut(columns).zip(x.chunks(columns)).zip(grids) {
            *grid = extremes(self.isa, x).grid().ok_or_else(|| no_range(self.name))?;
            quantize(self.isa, x, grid.0, grid.1, 0, 255, codes);
        }
        Ok(())
    }

    /// The real numbers of some rows, from their codes.
    fn multiply(&self, codes: &[u8], grids: &[(f32, u8)], out: &mut [f32], scratch: &mut Scratch) {
        let channels = self.conv.geom().c_out;
        // Accumulators lie where the real numbers will: nothing else is written.
        self.conv.run(codes, 0..grids.len(), Out::I32(bytemuck::cast_slice_mut(out)), scratch);
        for (out, &(s, z)) in out.chunks_mut(channels).zip(grids) {
            let zero = i32::from(z);
            let out = &mut out[..channels];
            let (sums, scale, bias) = (&self.sums[..channels], &self.scale[..channels], &self.bias[..channels]);
            widest(
                #[inline(always)]
                || {
                    for c in 0..channels {
                        // The accumulator of codes less their zero point was proved to fit; so does the way there, around the corner.
                        let acc = out[c].to_bits().cast_signed().wrapping_sub(zero.wrapping_mul(sums[c]));
                        out[c] = dynamic_real(acc, s, scale[c], bias[c]);
                    }
                },
            );
        }
    }
}

impl recurrent::Product<f32> for Bound<'_> {
    fn run(&self, x: &[f32], out: &mut [f32], rows: usize, ctx: &Ctx) -> Result<()> {
        let of = &self.of;
        let (columns, channels) = (of.conv.geom().c_in, of.conv.geom().c_out);
        let room = &mut *self.room.borrow_mut();
        room.grids.resize(rows, (1.0, 0));
        let tasks = ctx.tasks(rows * columns * channels);
        let some = rows.div_ceil(tasks).next_multiple_of(of.conv.pixel_grain()).min(rows).max(1);
        let tasks = rows.div_ceil(some);
        room.scratches.resize_with(room.scratches.len().max(tasks), Scratch::new);
        // Each task quantizes its own rows, and has its own slack.
        let pitch = some * columns + SLACK;
        let mut bytes = ctx.take((tasks * pitch).div_ceil(size_of::<f32>()));
        let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut bytes);
        let one = |codes: &mut [u8], x: &[f32], grids: &mut [(f32, u8)], out: &mut [f32], scratch: &mut Scratch| {
            of.quantize(x, &mut codes[..x.len()], grids)?;
            of.multiply(codes, grids, out, scratch);
            Ok(())
        };
        let done = if tasks == 1 {
            one(codes, x, &mut room.grids, out, &mut room.scratches[0])
        } else {
            (codes.par_chunks_mut(pitch).zip(x.par_chunks(some * columns)))
                .zip(room.grids.par_chunks_mut(some).zip(out.par_chunks_mut(some * channels)))
                .zip(&mut room.scratches)
                .try_for_each(|(((codes, x), (grids, out)), scratch)| one(codes, x, grids, out, scratch))
        };
        ctx.give(bytes);
        done
    }
}

/// A product between tapes.
pub(super) struct Rows {
    matrix: Matrix,
    /// What is quantized.
    name: String,
}

impl Rows {
    pub(super) fn pack(of: &lower::Rows, isa: Isa) -> Result<Self> {
        Ok(Self { matrix: Matrix::pack(&of.product, isa)?, name: of.name.clone() })
    }
}

impl Between for Rows {
    fn macs(&self, x: &[Vec<usize>]) -> usize {
        let x = x.first().map_or(&[][..], |x| x);
        let geom = &self.matrix.packed.geom;
        x[..x.len().saturating_sub(1)].iter().product::<usize>() * geom.c_in * geom.c_out
    }

    fn bytes(&self) -> usize {
        self.matrix.packed.bytes()
    }

    fn name(&self) -> &'static str {
        "a product by row"
    }

    /// The product of `x`, `[..., c_in]`.
    fn run(&self, x: &[Option<&Tensor>], ctx: &Ctx) -> Result<Vec<Tensor>> {
        let x = x.first().copied().flatten().ok_or_else(|| Error::internal("a product without input"))?;
        let (columns, channels) = (self.matrix.packed.geom.c_in, self.matrix.packed.geom.c_out);
        let Some((&last, outer)) = x.shape().split_last().filter(|(last, _)| **last == columns) else {
            return Err(Error::shape(format!("an input of shape {:?} for weights of {columns} rows", x.shape())));
        };
        let (numbers, shape) = (x.as_slice::<f32>()?, [outer, &[channels]].concat());
        let rows = numbers.len() / last.max(1);
        if rows == 0 {
            return Ok(vec![Tensor::of::<f32>(&shape, vec![0.0; shape.iter().product()])]);
        }
        let mut out = ctx.take(rows * channels);
        recurrent::Product::run(&self.matrix.bind(rows, &self.name)?, numbers, &mut out, rows, ctx)?;
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
