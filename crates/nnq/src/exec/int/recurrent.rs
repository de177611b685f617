//! Recurrent layers: their products on the kernels.
use super::{between::Between, compile::PackedProduct, rows};
use crate::{
    error::{Error, Result},
    exec::{
        float::{Ctx, recurrent},
        lower::{self, Grid, no_range},
    },
    ir::Tensor,
};
use nnq_kernels::{
    Isa,
    conv::{BoundConv, ConvGeom, Epilogue, Grids, Live, Out, Requant, SLACK, Scratch},
    dynamic::extremes,
    eltwise::quantize,
    tape::{Requantize, Weights},
};
use rayon::prelude::*;
use std::{cell::RefCell, sync::Arc};

/// A layer with packed weights.
pub(super) struct Recurrent {
    of: Arc<lower::Recurrent>,
    /// By [`lower::Recurrent::products`].
    packed: Vec<rows::Matrix>,
    isa: Isa,
}

impl Recurrent {
    pub(super) fn pack(of: &Arc<lower::Recurrent>, isa: Isa) -> Result<Self> {
        let packed = of.products().map(|p| rows::Matrix::pack(p, isa)).collect::<Result<_>>()?;
        Ok(Self { of: of.clone(), packed, isa })
    }
}

impl Between for Recurrent {
    fn macs(&self, x: &[Vec<usize>]) -> usize {
        let x = x.first().map_or(&[][..], |x| x);
        // Of one time of one sample.
        let one: usize = self.of.products().map(|p| p.weight.len()).sum();
        x.iter().take(2).product::<usize>() * one
    }

    fn bytes(&self) -> usize {
        self.packed.iter().map(|m| m.packed.bytes()).sum()
    }

    fn name(&self) -> &'static str {
        "a recurrent layer"
    }

    /// With the inputs `x` of the operator.
    fn run(&self, x: &[Option<&Tensor>], ctx: &Ctx) -> Result<Vec<Tensor>> {
        recurrent::run_with(&self.of.attrs, x, ctx, |rows| {
            self.of.map(|i, state| {
                let at = usize::from(state);
                let (matrix, rows, name) = (&self.packed[i], rows[at], &self.of.names[at]);
                // The grid of a single row is that of all numbers.
                let fixed = self.of.fixed.map(|grids| Codes::of(grids[at]));
                Ok(if self.of.by_row && rows > 1 && fixed.is_none() {
                    Bound::Rows(Box::new(matrix.bind(rows, name, None)?))
                } else {
                    Bound::Whole(Box::new(Whole::new(&matrix.packed, self.isa, rows, name, fixed)?))
                })
            })
        })
    }
}

/// A product for a number of rows.
enum Bound<'a> {
    /// Each on a grid of its own.
    Rows(Box<rows::Bound<'a>>),
    /// All on one.
    Whole(Box<Whole<'a>>),
}

impl recurrent::Product<f32> for Bound<'_> {
    fn run(&self, x: &[f32], out: &mut [f32], rows: usize, ctx: &Ctx) -> Result<()> {
        match self {
            Self::Rows(of) => of.run(x, out, rows, ctx),
            Self::Whole(of) => of.run(x, out, rows, ctx),
        }
    }
}

/// A grid as kernels see it: codes are unsigned.
#[derive(Clone, Copy)]
struct Codes {
    scale: f32,
    zero: u8,
    lo: u8,
    hi: u8,
}

impl Codes {
    fn of(grid: Grid) -> Self {
        let lift = super::offset(grid.qtype.signed);
        let byte = |code: i32| (code + lift) as u8;
        Self { scale: grid.scale, zero: byte(grid.zero), lo: byte(grid.qtype.min()), hi: byte(grid.qtype.max()) }
    }
}

/// A product whose rows share a grid.
struct Whole<'a> {
    conv: BoundConv,
    isa: Isa,
    name: &'a str,
    /// The grid, where it is known.
    fixed: Option<Codes>,
    /// Codes of the rows, and memory of the kernels, of each thread that shares a row.
    room: RefCell<(Vec<u8>, Vec<Scratch>)>,
}

impl<'a> Whole<'a> {
    fn new(of: &PackedProduct, isa: Isa, rows: usize, name: &'a str, fixed: Option<Codes>) -> Result<Self> {
        let (Weights::Conv(weights), Requantize::Dynamic { scale, bias }) = (&of.weights, &of.requant) else {
            return Err(Error::internal("a recurrent layer whose products are no matrices"));
        };
        let geom = ConvGeom { batch: rows, ..of.geom };
        let epilogue = Epilogue {
            bias: &of.bias,
            w_zero: of.w_zero.as_deref(),
            requant: Requant::Dynamic { x_scale: 1.0, scale, bias },
            zero: 0,
            lo: 0,
            hi: 255,
        };
        let room = RefCell::new((vec![0; rows * geom.c_in + SLACK], vec![Scratch::new()]));
        Ok(Self { conv: weights.bind(&geom, 0, &epilogue), isa, name, fixed, room })
    }
}

impl recurrent::Product<f32> for Whole<'_> {
    fn run(&self, x: &[f32], out: &mut [f32], rows: usize, ctx: &Ctx) -> Result<()> {
        let found = || extremes(self.isa, x).grid().map(|(scale, zero)| Codes { scale, zero, lo: 0, hi: 255 });
        let Codes { scale, zero, lo, hi } = self.fixed.or_else(found).ok_or_else(|| no_range(self.name))?;
        let room = &mut *self.room.borrow_mut();
        let (codes, scratches) = (&mut room.0, &mut room.1);
        quantize(self.isa, x, scale, zero, lo, hi, &mut codes[..x.len()]);
        let (live, geom) = (Live { scale, zero }, self.conv.geom());
        let tasks = ctx.tasks(rows * geom.c_out * geom.c_in);
        let conv = &self.conv;
        // Memory of the kernels is kept from step to step.
        scratches.resize_with(scratches.len().max(tasks), Scratch::new);
        if tasks == 1 {
            conv.run_live(codes, live, 0..rows, Out::F32(out), &mut scratches[0]);
        } else if rows::are_few(conv, rows, tasks) {
            let shares = conv.shares(rows, out, tasks).into_par_iter().zip(scratches);
            shares.for_each(|(share, scratch)| share.run(codes, Grids::One(live), scratch));
        } else {
            let some = rows.div_ceil(tasks).next_multiple_of(conv.pixel_grain());
            out.par_chunks_mut(some * geom.c_out).zip(scratches).enumerate().for_each(|(i, (out, scratch))| {
                let rows = i * some..(i * some + some).min(rows);
                conv.run_live(codes, live, rows, Out::F32(out), scratch);
            });
        }
        Ok(())
    }
}
