//! The kernels of each kind of step.
pub(super) mod fuse;
pub(super) mod integers;
mod movement;

use super::{
    Stored,
    compile::Packed,
    geometry,
    layout::Layout,
    plan::{Place, Planner},
};
use crate::{
    error::{Error, Result},
    exec::lower::{self, AddRule, Clamp, Form, Grid, Slot, Step, StepKind},
    ir::op::PoolAttrs,
};
use fuse::Mean;
use nnq_kernels::{
    eltwise::{AddMode, AddSpec, MulMode, MulSpec},
    resize::{self, Line, Resize},
    round::Dyadic,
    tape::{Average, Code, Kernel, Planes, Product, ProductOut, Residual, Span},
};
use std::sync::Arc;

/// The first of a step's operands or results.
fn first(slots: &[Option<Slot>]) -> Result<Slot> {
    slots.first().copied().flatten().ok_or_else(|| Error::internal("a step without operand"))
}

/// Plans step `i`.
pub(super) fn plan(p: &mut Planner, i: usize, step: &Step) -> Result<()> {
    match &step.kind {
        StepKind::Quantize => p.quantize(step),
        StepKind::Dequantize => p.dequantize(step),
        StepKind::Product(product) => p.product(i, step, product),
        StepKind::Add { .. } | StepKind::Mul { .. } => p.binary(step),
        StepKind::Pointwise(_) | StepKind::Regrid(_) => p.table(i, step),
        StepKind::MaxPool { window } => p.pool(step, window.as_ref(), None),
        StepKind::AveragePool { window, count_include_pad } => p.pool(step, window.as_ref(), Some(*count_include_pad)),
        StepKind::Resize { rows, columns } => p.resize(step, rows, columns),
        StepKind::Concat { axis } => p.concat(step, *axis),
        StepKind::Move(op) => p.movement(step, op),
        StepKind::Pair(of) => p.pair(i, step, of),
        StepKind::Softmax(of) => p.softmax(step, of),
        StepKind::Norm(of) => p.norm(step, of),
        StepKind::Rescale(by) => p.rescale(step, by),
        StepKind::Float(_)
        | StepKind::Recurrent(_)
        | StepKind::Rows(_)
        | StepKind::Coded(_)
        | StepKind::Lookup(_)
        | StepKind::Live(_)
        | StepKind::Ids => Err(Error::internal("a step in floating point among kernels")),
    }
}

fn planes(layout: Layout, shape: &[usize]) -> Planes {
    let [batch, channels, pixels] = layout.planes(shape);
    Planes { batch, channels, pixels }
}

impl Planner<'_> {
    fn stored(&self, slot: Slot) -> Result<Stored> {
        Ok(Stored::full(self.program.grid(slot)?))
    }

    fn quantize(&mut self, step: &Step) -> Result<()> {
        let (x, y) = (first(&step.inputs)?, first(&step.outputs)?);
        if self.is_wide(y) {
            return self.quantize_words(x, y);
        }
        let s = self.stored(y)?;
        let place = self.produce(y)?;
        let x = self.real(x, false)?;
        let code = Code { scale: s.scale, zero: s.zero, lo: s.lo, hi: s.hi };
        self.push(Kernel::Quantize { x, y: place.span(), planes: planes(place.layout, &place.shape), code });
        Ok(())
    }

    fn dequantize(&mut self, step: &Step) -> Result<()> {
        let (x, y) = (first(&step.inputs)?, first(&step.outputs)?);
        if self.is_wide(x) {
            return self.dequantize_words(x, y);
        }
        let s = self.stored(x)?;
        let place = self.place(x)?;
        let y = self.real(y, true)?;
        let planes = planes(place.layout, &place.shape);
        self.push(Kernel::Dequantize { x: place.span(), y, planes, scale: s.scale, zero: s.zero });
        Ok(())
    }

    fn product(&mut self, i: usize, step: &Step, product: &lower::Product) -> Result<()> {
        let Packed::Product(packed) = &self.packed[i] else {
            return Err(Error::internal("a product without weights"));
        };
        let sum = self.fusing.sums.get(&i).copied();
        let (x, y) = (first(&step.inputs)?, first(&step.outputs)?);
        let conv = matches!(product.form, Form::Conv(_));
        let (px, zero, found) = if step.is_dynamic() {
            let layout = if conv { Layout::ChannelsLast } else { Layout::RowMajor };
            let (place, found) = self.dynamic(x, layout)?;
            (place, 0, Some(found))
        } else {
            (self.place(x)?, self.stored(x)?.zero, None)
        };
        let y_shape = self.shape(y)?;
        let geom = geometry::product(product, packed.geom, &px.shape, &y_shape)?;
        self.macs[i] = (geom.pixels() * geom.c_out * (geom.c_in / geom.groups.max(1)) * geom.k_h * geom.k_w) as u64;
        // A matrix product reads and writes rows: the rare value that lies channels last is put in order.
        let rows = |layout: Layout| conv || layout == Layout::RowMajor;
        let source = if rows(px.layout) { px.span() } else { self.reordered(&px, Layout::RowMajor)? };
        let codes = match &product.out {
            lower::ProductOut::Real { .. } | lower::ProductOut::Dynamic { .. } => {
                Stored { scale: 1.0, zero: 0, lo: 0, hi: 255 }
            }
            lower::ProductOut::Code { clamp, .. } => Stored::of(self.program.grid(y)?, *clamp),
        };
        let mut kernel = Product {
            weights: self.weights.len(),
            geom,
            x: source,
            x_zero: zero,
            bias: packed.bias.clone(),
            w_zero: packed.w_zero.clone(),
            requant: packed.requant.clone(),
            zero: codes.zero,
            lo: codes.lo,
            hi: codes.hi,
            y: ProductOut::Floats(0),
            residual: None,
            found,
        };
        self.weights.push(packed.weights.clone());
        if let lower::ProductOut::Code { clamp, .. } = product.out
            && self.is_wide(y)
        {
            if conv {
                return Err(Error::unsupported("a convolution to codes of more than 8 bits")
                    .cure("use 8 bits, or --engine sim"));
            }
            return self.product_words(kernel, y, (clamp, product.bound));
        }
        if let Some(Mean { within, result }) = self.fusing.means.get(&i).copied() {
            kernel.y = ProductOut::Means { y: self.real(result, true)?, within };
            self.push(Kernel::Product(Box::new(kernel)));
            return Ok(());
        }
        if !matches!(product.out, lower::ProductOut::Code { .. }) {
            let plane = if conv { geom.out_h * geom.out_w } else { 1 };
            let y = self.real(y, true)?;
            if plane == 1 {
                kernel.y = ProductOut::Real(y);
                self.push(Kernel::Product(Box::new(kernel)));
            } else {
                let planes = Planes { batch: geom.batch, channels: geom.c_out, pixels: plane };
                let x = self.temporary(planes.len() * size_of::<f32>());
                kernel.y = ProductOut::Floats(x);
                self.push(Kernel::Product(Box::new(kernel)));
                self.push(Kernel::Transpose { x, y, planes });
            }
            return Ok(());
        }
        if let Some(sum) = sum {
            let add = &self.program.steps[sum];
            let (a, b, result) = operands(add)?;
            let other = self.place(if a == y { b } else { a })?;
            let (spec, _) = self.add_spec(add)?;
            let place = self.produce(result)?;
            kernel.y = ProductOut::Codes(place.strided(geom.c_out));
            kernel.residual = Some(Residual { other: other.span(), second: b == y, spec });
            self.push(Kernel::Product(Box::new(kernel)));
            return Ok(());
        }
        let place = self.produce(y)?;
        if rows(place.layout) {
            kernel.y = ProductOut::Codes(place.strided(geom.c_out));
            self.push(Kernel::Product(Box::new(kernel)));
            return Ok(());
        }
        let in_rows = Place { layout: Layout::RowMajor, at: self.temporary(place.len), ..place.clone() };
        kernel.y = ProductOut::Codes(in_rows.strided(geom.c_out));
        self.push(Kernel::Product(Box::new(kernel)));
        self.reorder(&in_rows, &place)
    }

    /// The parameters of a sum, and the clamp of its output.
    fn add_spec(&self, step: &Step) -> Result<(AddSpec, Stored)> {
        let StepKind::Add { negate, rule, clamp } = &step.kind else { return Err(Error::internal("no sum")) };
        let ([ga, gb, gy], [sa, sb], s) = self.grids(step, *clamp)?;
        let mode = match rule {
            AddRule::Onnx => AddMode::Onnx { sa: ga.scale, sb: gb.scale, sy: gy.scale },
            AddRule::Dyadic(m) => AddMode::Dyadic(*m),
        };
        let spec = AddSpec { za: sa.zero, zb: sb.zero, zero: s.zero, lo: s.lo, hi: s.hi, subtract: *negate, mode };
        Ok((spec, s))
    }

    fn mul_spec(&self, step: &Step, rule: Option<Dyadic>, clamp: Clamp) -> Result<MulSpec> {
        let ([ga, gb, gy], [sa, sb], s) = self.grids(step, clamp)?;
        let mode = match rule {
            None => MulMode::Onnx { sa: ga.scale, sb: gb.scale, sy: gy.scale },
            Some(m) => MulMode::Dyadic(m),
        };
        Ok(MulSpec { za: sa.zero, zb: sb.zero, zero: s.zero, lo: s.lo, hi: s.hi, mode })
    }

    fn grids(&self, step: &Step, clamp: Clamp) -> Result<([Grid; 3], [Stored; 2], Stored)> {
        let (a, b, y) = operands(step)?;
        let (ga, gb, gy) = (self.program.grid(a)?, self.program.grid(b)?, self.program.grid(y)?);
        Ok(([ga, gb, gy], [Stored::full(ga), Stored::full(gb)], Stored::of(gy, clamp)))
    }

    fn binary(&mut self, step: &Step) -> Result<()> {
        let (a, b, y) = operands(step)?;
        if let StepKind::Add { negate, rule, clamp } = &step.kind
            && [a, b, y].into_iter().any(|slot| self.is_wide(slot))
        {
            return self.add_words(step, *negate, rule, *clamp);
        }
        let place = self.produce(y)?;
        let a = self.expanded(a, &place)?;
        let b = self.expanded(b, &place)?;
        let y = place.span();
        let kernel = match &step.kind {
            StepKind::Mul { rule, clamp } => Kernel::Mul { a, b, y, spec: self.mul_spec(step, *rule, *clamp)? },
            _ => Kernel::Add { a, b, y, spec: self.add_spec(step)?.0 },
        };
        self.push(kernel);
        Ok(())
    }

    fn table(&mut self, i: usize, step: &Step) -> Result<()> {
        if let Packed::Words(table) = &self.packed[i] {
            return self.lut_words(step, table);
        }
        let Packed::Table(table) = &self.packed[i] else { return Err(Error::internal("a table step without table")) };
        let table = table.to_vec();
        let (x, y) = (self.place(first(&step.inputs)?)?, self.produce(first(&step.outputs)?)?);
        if x.layout == y.layout {
            self.push(Kernel::Lut { x: x.span(), y: y.span(), table });
            return Ok(());
        }
        let looked_up = Place { at: self.temporary(x.len), ..x.clone() };
        self.push(Kernel::Lut { x: x.span(), y: looked_up.span(), table });
        self.reorder(&looked_up, &y)
    }

    /// A pool of maxima, or of means where it is said whether padding counts.
    fn pool(&mut self, step: &Step, window: Option<&PoolAttrs>, mean: Option<bool>) -> Result<()> {
        let (x, y) = (first(&step.inputs)?, first(&step.outputs)?);
        let px = self.place(x)?;
        if !(3..=4).contains(&px.shape.len()) {
            return Err(Error::unsupported(format!("pooling over a shape {:?}", px.shape)));
        }
        let spatial = &px.shape[2..];
        let window = match window {
            Some(w) => w.resolve(spatial)?,
            None => PoolAttrs { kernel: spatial.to_vec(), ..Default::default() }.resolve(spatial)?,
        };
        let geom = geometry::pool(&px.shape, &window)?;
        let py = self.produce(y)?;
        let (x_span, y_span) = (px.span(), py.strided(geom.c));
        let Some(count_include_pad) = mean else {
            self.push(Kernel::MaxPool { x: x_span, y: y_span, geom });
            return Ok(());
        };
        let (from, to) = (self.program.grid(x)?, self.program.grid(y)?);
        let (s, x_zero) = (Stored::full(to), Stored::full(from).zero);
        let mut requants = Vec::new();
        for count in geom.counts(count_include_pad) {
            requants.push((count, self.program.mean_rule(from, to, count)?));
        }
        let average = Average { x_zero, count_include_pad, requants, zero: s.zero, lo: s.lo, hi: s.hi };
        self.push(Kernel::AvgPool { x: x_span, y: y_span, geom, average });
        Ok(())
    }

    fn resize(&mut self, step: &Step, rows: &Arc<Line>, columns: &Arc<Line>) -> Result<()> {
        let (x, y) = (first(&step.inputs)?, first(&step.outputs)?);
        let px = self.place(x)?;
        let py = self.produce(y)?;
        let (batch, c, in_h, in_w) = match px.shape[..] {
            [n, c, h, w] => (n, c, h, w),
            [n, c, w] => (n, c, 1, w),
            _ => return Err(Error::unsupported(format!("resizing of a shape {:?}", px.shape))),
        };
        let (from, to) = (self.program.grid(x)?, self.program.grid(y)?);
        let (s, x_zero) = (Stored::full(to), Stored::full(from).zero);
        let requant = self.program.mean_rule(from, to, resize::UNIT)?;
        let (rows, columns) = (rows.clone(), columns.clone());
        let of = Resize { batch, in_h, in_w, c, rows, columns, requant, x_zero, zero: s.zero, lo: s.lo, hi: s.hi };
        let made = [of.rows.len(), of.columns.len()];
        if !of.is_whole() || made[4 - py.shape.len()..] != py.shape[2..] {
            let (x, y) = (&px.shape, &py.shape);
            return Err(Error::shape(format!("a resizing of {x:?} to {y:?} that was lowered for other sizes")));
        }
        self.push(Kernel::Resize { x: px.span(), y: py.strided(c), resize: Arc::new(of) });
        Ok(())
    }
}

/// The operands and the result of a sum or a product.
fn operands(step: &Step) -> Result<(Slot, Slot, Slot)> {
    let b = step.inputs.get(1).copied().flatten().ok_or_else(|| Error::internal("a sum of one"))?;
    Ok((first(&step.inputs)?, b, first(&step.outputs)?))
}

/// A place as an operand that is read whole.
fn whole(place: &Place) -> Result<Span> {
    match place.pitch {
        None => Ok(place.span()),
        Some(_) => Err(Error::internal("a part of a wider value is read")),
    }
}
