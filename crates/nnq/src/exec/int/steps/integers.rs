//! Steps on codes of which some are words, and those of attention (numerics section 14).
use super::{
    super::{
        layout::Layout,
        offset,
        plan::{Place, Planner},
    },
    first, operands,
};
use crate::{
    error::{Error, Result},
    exec::lower::{self, AddRule, Clamp, Grid, Slot, Step, too_deep, too_long},
};
use nnq_kernels::{
    pair::Pair,
    round::{
        Dyadic,
        integers::{Norm, ROW},
    },
    tape::{Integers, Kernel, Mask, MaskOf, ProductOut, Requantize, Span},
    wide::{AddWide, Lut, NormRows, Rescale, SoftmaxRows, Target, Width, are_near},
};
use std::sync::Arc;

/// How codes of a grid are stored.
pub(in crate::exec::int) fn width(grid: Grid) -> Width {
    if grid.qtype.bits <= 8 { Width::Byte } else { Width::Word }
}

/// How far stored codes are above those of a grid.
pub(in crate::exec::int) fn lift(grid: Grid) -> i32 {
    match width(grid) {
        Width::Byte => offset(grid.qtype.signed),
        _ if grid.qtype.signed => 0,
        _ => i32::from(i16::MIN),
    }
}

fn target(grid: Grid, clamp: Clamp) -> Target {
    let lift = lift(grid);
    Target { zero: grid.zero + lift, lo: clamp.lo + lift, hi: clamp.hi + lift, width: width(grid) }
}

/// The table of a function between grids of which one is of words.
pub(in crate::exec::int) fn table(f: lower::Pointwise, from: Grid, to: Grid) -> Arc<Lut> {
    let (least, most) = (from.qtype.min(), from.qtype.max());
    let code = |q: i32| (to.quantize(f.apply(from.dequantize(q))) + lift(to)) as i16;
    let table = (least..=most).map(code).collect();
    Arc::new(Lut { from: width(from), least: least + lift(from), table, to: width(to) })
}

impl Planner<'_> {
    fn integers(&mut self, of: Integers) {
        self.push(Kernel::Integers(Box::new(of)));
    }

    /// The place of an operand, in the order of its shape.
    fn rows(&mut self, slot: Slot) -> Result<Place> {
        let place = self.place(slot)?;
        match place.layout {
            Layout::RowMajor => Ok(place),
            Layout::ChannelsLast => {
                let at = self.reordered(&place, Layout::RowMajor)?.at;
                Ok(Place { at, layout: Layout::RowMajor, pitch: None, ..place })
            }
        }
    }

    /// The place of a result in the order of its shape, and where it belongs if that is another one.
    fn made(&mut self, slot: Slot) -> Result<(Place, Option<Place>)> {
        let place = self.produce(slot)?;
        if place.layout == Layout::RowMajor {
            return Ok((place, None));
        }
        let at = self.temporary(place.len);
        Ok((Place { at, layout: Layout::RowMajor, pitch: None, ..place.clone() }, Some(place)))
    }

    /// A kernel whose result is in the order of its shape.
    fn makes(&mut self, of: Integers, (place, whole): (Place, Option<Place>)) -> Result<()> {
        self.integers(of);
        whole.map_or(Ok(()), |whole| self.reorder(&place, &whole))
    }

    /// Whether a slot holds words.
    pub(super) fn is_wide(&self, slot: Slot) -> bool {
        self.program.grid(slot).is_ok_and(|g| width(g) == Width::Word)
    }

    pub(super) fn quantize_words(&mut self, x: Slot, y: Slot) -> Result<()> {
        let grid = self.program.grid(y)?;
        let place = self.produce(y)?;
        let x = self.real(x, false)?;
        self.integers(Integers::Quantize { x, y: place.span(), scale: grid.scale, to: target(grid, grid.full()) });
        Ok(())
    }

    pub(super) fn dequantize_words(&mut self, x: Slot, y: Slot) -> Result<()> {
        let grid = self.program.grid(x)?;
        let x = self.place(x)?.span();
        let y = self.real(y, true)?;
        self.integers(Integers::Dequantize { x, y, scale: grid.scale, zero: grid.zero + lift(grid) });
        Ok(())
    }

    /// What a product that makes words does: words, or its sums and what makes words of them, where factors are so large that this takes 64 bits.
    pub(super) fn product_words(
        &mut self,
        mut kernel: nnq_kernels::tape::Product,
        y: Slot,
        (clamp, bound): (Clamp, i64),
    ) -> Result<()> {
        let channels = kernel.geom.c_out;
        let reach = (i64::BITS - bound.max(0).leading_zeros()).min(31) as u8;
        let Requantize::Dyadic { mult, shift } = std::mem::replace(&mut kernel.requant, Requantize::Sums) else {
            return Err(Error::internal("words of a product whose rule is no dyadic one"));
        };
        let place = self.produce(y)?;
        let to = target(self.program.grid(y)?, clamp);
        if are_near(&mult, &shift, reach) {
            kernel.y = ProductOut::Words(place.at);
            kernel.requant = Requantize::Words { mult, shift, to };
            self.push(Kernel::Product(Box::new(kernel)));
            return Ok(());
        }
        let len = kernel.geom.pixels() * channels * Width::Sum.bytes();
        let at = self.temporary(len);
        kernel.y = ProductOut::Sums(at);
        self.push(Kernel::Product(Box::new(kernel)));
        let spec = Arc::new(Rescale { from: Width::Sum, x_zero: 0, mult, shift, reach, to });
        self.integers(Integers::Rescale { x: Span { at, len }, y: place.span(), spec });
        Ok(())
    }

    /// A sum of which an operand or the result are words.
    pub(super) fn add_words(&mut self, step: &Step, negate: bool, rule: &AddRule, clamp: Clamp) -> Result<()> {
        let (a, b, y) = operands(step)?;
        let AddRule::Dyadic(mut by) = *rule else { return Err(Error::internal("a sum of words in profile onnx")) };
        if negate {
            by.mb = -by.mb;
        }
        let stored = |slot: Slot| {
            let grid = self.program.grid(slot)?;
            Ok((width(grid), grid.zero + lift(grid)))
        };
        let from = [stored(a)?, stored(b)?];
        let to = target(self.program.grid(y)?, clamp);
        let (a, b) = (self.rows(a)?, self.rows(b)?);
        let (place, whole) = self.made(y)?;
        let repeated = |shape: &[usize]| place.shape.ends_with(shape);
        if !repeated(&a.shape) || !repeated(&b.shape) {
            let (a, b) = (&a.shape, &b.shape);
            return Err(Error::unsupported(format!("a sum of codes of 16 bits of shapes {a:?} and {b:?}"))
                .cure("let the shapes be alike, or the shorter repeat along the first axes; or keep it float"));
        }
        let spec = Arc::new(AddWide { by, from, to });
        self.makes(Integers::Add { a: a.span(), b: b.span(), y: place.span(), spec }, (place, whole))
    }

    pub(super) fn lut_words(&mut self, step: &Step, spec: &Arc<Lut>) -> Result<()> {
        let (x, y) = (self.rows(first(&step.inputs)?)?, self.made(first(&step.outputs)?)?);
        self.makes(Integers::Lut { x: x.span(), y: y.0.span(), spec: spec.clone() }, y)
    }

    pub(super) fn rescale(&mut self, step: &Step, by: &[Dyadic]) -> Result<()> {
        let (x, y) = (first(&step.inputs)?, first(&step.outputs)?);
        let (from, to) = (self.program.grid(x)?, self.program.grid(y)?);
        let (x, y) = (self.rows(x)?, self.made(y)?);
        // One factor is for rows of any length.
        let columns = if by.len() == 1 { x.shape.last().copied().unwrap_or(1).max(1) } else { by.len() };
        let of = |i: usize| by[if by.len() == 1 { 0 } else { i }];
        let spec = Rescale {
            from: width(from),
            x_zero: from.zero + lift(from),
            mult: (0..columns).map(|i| of(i).mult).collect(),
            shift: (0..columns).map(|i| of(i).shift).collect(),
            reach: if width(from) == Width::Byte { 8 } else { 17 },
            to: target(to, to.full()),
        };
        self.makes(Integers::Rescale { x: x.span(), y: y.0.span(), spec: Arc::new(spec) }, y)
    }

    pub(super) fn norm(&mut self, step: &Step, norm: &Arc<Norm>) -> Result<()> {
        let (x, y) = (first(&step.inputs)?, first(&step.outputs)?);
        let (from, to) = (self.program.grid(x)?, self.program.grid(y)?);
        let (x, y) = (self.rows(x)?, self.made(y)?);
        let to = target(to, to.full());
        let spec = NormRows { norm: norm.clone(), from: width(from), x_zero: from.zero + lift(from), to };
        self.makes(Integers::Norm { x: x.span(), y: y.0.span(), spec: Arc::new(spec) }, y)
    }

    pub(super) fn softmax(&mut self, step: &Step, of: &lower::SoftmaxStep) -> Result<()> {
        let (x, y) = (first(&step.inputs)?, first(&step.outputs)?);
        let (from, to) = (self.program.grid(x)?, self.program.grid(y)?);
        let (px, py) = (self.rows(x)?, self.made(y)?);
        let Some((&columns, rows)) = px.shape.split_last() else { return Err(Error::shape("a softmax of one number")) };
        if columns > ROW {
            return Err(too_long(columns));
        }
        let mask = match step.inputs.get(1).copied().flatten() {
            None => None,
            Some(slot) => {
                let shape = self.shape(slot)?;
                let len = shape.iter().product();
                let of = match &of.mask {
                    Some(table) => MaskOf::Table { at: self.rows(slot)?.span(), table: table.clone() },
                    None => MaskOf::Real(self.real(slot, false)?),
                };
                Some(Mask { of, len, axes: mask_axes(rows, columns, &shape)? })
            }
        };
        let to = target(to, to.full());
        let spec = SoftmaxRows { softmax: of.softmax.clone(), scale: from.scale, columns, to };
        self.makes(Integers::Softmax { x: px.span(), y: py.0.span(), mask, spec: Arc::new(spec) }, py)
    }

    pub(super) fn pair(&mut self, i: usize, step: &Step, of: &lower::Pair) -> Result<()> {
        let (a, b, y) = operands(step)?;
        let zero = |slot: Slot| Ok(super::super::Stored::full(self.program.grid(slot)?).zero);
        let (a_zero, b_zero) = (zero(a)?, zero(b)?);
        let stored = super::super::Stored::of(self.program.grid(y)?, of.clamp);
        let (pa, pb, py) = (self.rows(a)?, self.rows(b)?, self.made(y)?);
        let ([leading @ .., rows, depth], [.., columns]) = (&pa.shape[..], &pb.shape[..]) else {
            return Err(Error::shape(format!("a product of shapes {:?} and {:?}", pa.shape, pb.shape)));
        };
        let (rows, depth, columns) = (*rows, *depth, *columns);
        if pb.shape[..] != [leading, &[depth, columns]].concat()[..] {
            return Err(Error::shape(format!("a product of shapes {:?} and {:?}", pa.shape, pb.shape)));
        }
        if !Pair::fits(depth) {
            return Err(too_deep(depth));
        }
        let spec = Pair {
            batch: leading.iter().product(),
            rows,
            depth,
            columns,
            a_zero,
            b_zero,
            by: of.by,
            zero: stored.zero,
            lo: stored.lo,
            hi: stored.hi,
        };
        self.macs[i] = (spec.batch * rows * depth * columns) as u64;
        self.makes(Integers::Pair { a: pa.span(), b: pb.span(), y: py.0.span(), spec: Arc::new(spec) }, py)
    }
}

/// How a mask of `shape` goes along with rows of codes, `columns` in each.
fn mask_axes(rows: &[usize], columns: usize, shape: &[usize]) -> Result<Vec<(usize, usize)>> {
    let wrong = || Error::unsupported(format!("a mask of shape {shape:?} for codes of shape {rows:?} x {columns}"));
    let (&last, leading) = shape.split_last().ok_or_else(wrong)?;
    if last != columns || leading.len() > rows.len() {
        return Err(wrong());
    }
    let missing = rows.len() - leading.len();
    let mut axes = vec![(0, 0); rows.len()];
    let mut step = columns;
    for (i, axis) in axes.iter_mut().enumerate().rev() {
        let size = if i < missing { 1 } else { leading[i - missing] };
        *axis = match size {
            1 => (rows[i], 0),
            n if n == rows[i] => (n, step),
            _ => return Err(wrong()),
        };
        step *= size;
    }
    Ok(axes)
}
