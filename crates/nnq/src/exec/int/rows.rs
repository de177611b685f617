//! Matrix products whose rows are quantized as they come, each on a grid of its own: per token (numerics section 11).
use super::{
    between::Between,
    compile::{PackedProduct, product},
};
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, function_of, recurrent},
        lower::{self, no_range},
    },
    ir::{Tensor, op::Unary},
};
use nnq_kernels::{
    Isa,
    conv::{BoundConv, ConvGeom, Epilogue, Grids, Live, Requant, SLACK, Scratch},
    dynamic::extremes,
    eltwise::quantize,
    tape::{Requantize, Weights},
};
use rayon::prelude::*;
use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
};

/// The packed weights of a product.
pub(super) struct Matrix {
    pub packed: PackedProduct,
    isa: Isa,
    /// As it was bound last: mostly there are as many rows again.
    bound: Mutex<Option<Arc<BoundConv>>>,
}

impl Matrix {
    pub(super) fn pack(of: &lower::Product, isa: Isa) -> Result<Self> {
        Ok(Self { packed: product(of, isa)?, isa, bound: Mutex::default() })
    }

    /// For so many rows of the value `name`, which is this function of what the product is given.
    pub(super) fn bind<'a>(&'a self, rows: usize, name: &'a str, function: Option<Unary>) -> Result<Bound<'a>> {
        let (Weights::Conv(weights), Requantize::Dynamic { scale, bias }) =
            (&self.packed.weights, &self.packed.requant)
        else {
            return Err(Error::internal("a product by row that is no matrix"));
        };
        let geom = ConvGeom { batch: rows, ..self.packed.geom };
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |conv| Bound { of: Kernel { conv, isa: self.isa, name, function }, room: RefCell::default() };
        if let Some(conv) = bound.as_ref().filter(|conv| *conv.geom() == geom) {
            return Ok(of(conv.clone()));
        }
        let epilogue = Epilogue {
            bias: &self.packed.bias,
            w_zero: self.packed.w_zero.as_deref(),
            requant: Requant::Dynamic { x_scale: 1.0, scale, bias },
            zero: 0,
            lo: 0,
            hi: 255,
        };
        let conv = Arc::new(weights.bind(&geom, 0, &epilogue));
        *bound = Some(conv.clone());
        Ok(of(conv))
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
    conv: Arc<BoundConv>,
    isa: Isa,
    /// What is quantized.
    name: &'a str,
    function: Option<Unary>,
}

#[derive(Default)]
struct Room {
    grids: Vec<Live>,
    /// Of rows that are few.
    codes: Vec<u8>,
    /// Of each thread.
    scratches: Vec<Scratch>,
}

impl Kernel<'_> {
    /// The codes of some rows, and their grids.
    fn quantize(&self, x: &[f32], codes: &mut [u8], grids: &mut [Live]) -> Result<()> {
        let columns = self.conv.geom().c_in;
        let mut row = vec![0.0; if self.function.is_some() { columns } else { 0 }];
        for ((codes, x), grid) in codes.chunks_mut(columns).zip(x.chunks(columns)).zip(grids) {
            let x = match self.function {
                Some(u) => {
                    row.copy_from_slice(x);
                    function_of(u, &mut row);
                    &row
                }
                None => x,
            };
            let (scale, zero) = extremes(self.isa, x).grid().ok_or_else(|| no_range(self.name))?;
            *grid = Live { scale, zero };
            quantize(self.isa, x, scale, zero, 0, 255, codes);
        }
        Ok(())
    }
}

impl recurrent::Product<f32> for Bound<'_> {
    fn run(&self, x: &[f32], out: &mut [f32], rows: usize, ctx: &Ctx) -> Result<()> {
        let of = &self.of;
        let (columns, channels) = (of.conv.geom().c_in, of.conv.geom().c_out);
        let room = &mut *self.room.borrow_mut();
        room.grids.resize(rows, Live { scale: 1.0, zero: 0 });
        let tasks = ctx.tasks(rows * columns * channels);
        if tasks > 1 && are_few(&of.conv, rows, tasks) {
            room.scratches.resize_with(room.scratches.len().max(tasks), Scratch::new);
            room.codes.resize(rows * columns + SLACK, 0);
            of.quantize(x, &mut room.codes[..x.len()], &mut room.grids)?;
            let (codes, grids) = (&room.codes, Grids::Rows(&room.grids));
            let shares = of.conv.shares(rows, out, tasks).into_par_iter().zip(&mut room.scratches);
            shares.for_each(|(share, scratch)| share.run(codes, grids, scratch));
            return Ok(());
        }
        let some = rows.div_ceil(tasks).next_multiple_of(of.conv.pixel_grain()).min(rows).max(1);
        let tasks = rows.div_ceil(some);
        room.scratches.resize_with(room.scratches.len().max(tasks), Scratch::new);
        // Each task quantizes its own rows, and has its own slack.
        let pitch = some * columns + SLACK;
        let mut bytes = ctx.take((tasks * pitch).div_ceil(size_of::<f32>()));
        let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut bytes);
        let one = |codes: &mut [u8], x: &[f32], grids: &mut [Live], out: &mut [f32], scratch: &mut Scratch| {
            of.quantize(x, &mut codes[..x.len()], grids)?;
            of.conv.run_rows(codes, grids, 0..grids.len(), out, scratch);
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

/// Whether tasks rather share the output channels than the rows: each then reads its own part of the weights, and no tile of rows is cut.
pub(super) fn are_few(conv: &BoundConv, rows: usize, tasks: usize) -> bool {
    rows < 2 * tasks * conv.pixel_grain()
}

/// A product between tapes.
pub(super) struct Rows {
    matrix: Matrix,
    /// What is quantized.
    name: String,
    function: Option<Unary>,
}

impl Rows {
    pub(super) fn pack(of: &lower::Rows, isa: Isa) -> Result<Self> {
        Ok(Self { matrix: Matrix::pack(&of.product, isa)?, name: of.name.clone(), function: of.function })
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
        recurrent::Product::run(&self.matrix.bind(rows, &self.name, self.function)?, numbers, &mut out, rows, ctx)?;
        Ok(vec![Tensor::of(&shape, out)])
    }
}
