//! Executes a plan.
use super::{
    StepTime, Stored,
    compile::{self, Packed, PackedProduct, Weights},
    describe, movement,
    plan::{Geometry, Layout, Place, Plan},
};
use crate::{
    error::{At, Error, Result},
    exec::{
        float::{Ctx, Tap, eval},
        lower::{AddRule, Program, Repr, Scalar, Slot, Step, StepKind},
    },
    ir::{Tensor, op::Window},
};
use nnq_kernels::{
    Isa,
    conv::{ConvGeom, Epilogue, Out, SLACK, Scratch},
    eltwise::{self, AddMode, AddSpec, MulMode, MulSpec},
    layout, pool,
    round::ScalarRequant,
};
use rayon::prelude::*;
use std::{ops::Range, time::Instant};

/// Work (in bytes that pass an element-wise kernel) below which waking a second thread costs more than it brings: about ten
/// microseconds.
const PARALLEL_FROM: usize = 1 << 18;
/// Multiply-accumulates of a product that take as long as one such byte; a depthwise one moves more for each.
const MACS_A_BYTE: [usize; 2] = [16, 2];

pub(super) struct Runner<'a> {
    pub(super) program: &'a Program,
    pub(super) plan: &'a Plan,
    pub(super) packed: &'a [Packed],
    pub(super) isa: Isa,
    pub(super) pool: &'a rayon::ThreadPool,
    pub(super) arena: &'a mut [u8],
    pub(super) scratch: &'a mut [Scratch],
    pub(super) ctx: &'a Ctx,
    pub(super) real: Vec<Option<Tensor>>,
}

impl Runner<'_> {
    pub(super) fn run(
        &mut self,
        inputs: Vec<Tensor>,
        tap: &mut dyn Tap,
        tapped: bool,
        mut times: Option<&mut Vec<StepTime>>,
    ) -> Result<Vec<Tensor>> {
        let program = self.program;
        for (&slot, t) in program.inputs.iter().zip(inputs) {
            if tapped {
                tap.see(program.values[slot].source, &t)?;
            }
            self.real[slot] = Some(t);
        }
        for (i, step) in program.steps.iter().enumerate() {
            let start = times.is_some().then(Instant::now);
            self.step(i, step).at(|| format!("node '{}'", program.step_name(step)))?;
            if let (Some(start), Some(times)) = (start, times.as_deref_mut()) {
                times.push(self.time(i, step, start.elapsed()));
            }
            if tapped {
                self.show(step, tap)?;
            }
            for &slot in step.inputs.iter().chain(&step.outputs).flatten() {
                if self.plan.last_use[slot] == i
                    && let Some(t) = self.real[slot].take()
                {
                    self.ctx.recycle(t);
                }
            }
        }
        program
            .outputs
            .iter()
            .map(|&slot| match &program.values[slot].repr {
                Repr::Constant(t) => Ok((**t).clone()),
                _ => self.real[slot].clone().ok_or_else(|| Error::internal("an output is not produced")),
            })
            .collect()
    }

    fn time(&self, i: usize, step: &Step, time: std::time::Duration) -> StepTime {
        let weight = match &step.kind {
            StepKind::Product(p) => Some(p.weight.shape().to_vec()),
            _ => None,
        };
        let size = |slot: Slot| match (&self.plan.places[slot], &self.real[slot]) {
            (Some(p), _) => p.len,
            (_, Some(t)) => t.len() * t.dtype().size(),
            _ => 0,
        };
        let bytes: usize = step.inputs.iter().chain(&step.outputs).flatten().map(|&s| size(s)).sum();
        StepTime {
            name: self.program.step_name(step),
            kind: describe(&step.kind, weight.as_deref()),
            macs: self.plan.macs[i],
            bytes: (bytes + self.packed[i].bytes()) as u64,
            time,
        }
    }

    fn show(&self, step: &Step, tap: &mut dyn Tap) -> Result<()> {
        for &slot in step.outputs.iter().flatten() {
            let value = &self.program.values[slot];
            match &value.repr {
                Repr::Code(g) => {
                    let place = self.place(slot)?;
                    let lift = super::offset(g.qtype.signed);
                    let codes = movement::logical(place, &self.arena[place.offset..place.offset + place.len]);
                    let real = codes.iter().map(|&q| g.dequantize(i32::from(q) - lift)).collect();
                    tap.see(value.source, &Tensor::of::<f32>(&place.shape, real))?;
                }
                _ if self.program.graph.value(value.source).quant.is_some() => {}
                _ => {
                    if let Some(t) = &self.real[slot] {
                        tap.see(value.source, t)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn place(&self, slot: Slot) -> Result<&Place> {
        self.plan.places[slot].as_ref().ok_or_else(|| Error::internal("a value of codes has no place"))
    }
    fn first(slots: &[Option<Slot>]) -> Result<Slot> {
        slots.first().copied().flatten().ok_or_else(|| Error::internal("a step without operand"))
    }
    fn real(&self, slot: Slot) -> Result<&Tensor> {
        match &self.program.values[slot].repr {
            Repr::Constant(t) => Ok(t),
            _ => self.real[slot].as_ref().ok_or_else(|| Error::internal("a value is read before it is produced")),
        }
    }
    fn stored(&self, slot: Slot) -> Result<Stored> {
        Ok(Stored::full(self.program.grid(slot)?))
    }
    /// The codes of `slot` in the order of its shape.
    fn logical(&self, slot: Slot) -> Result<Vec<u8>> {
        let p = self.place(slot)?;
        Ok(movement::logical(p, &self.arena[p.offset..p.offset + p.len]))
    }
    fn store_logical(&mut self, slot: Slot, codes: &[u8]) -> Result<()> {
        let p = self.plan.places[slot].as_ref().ok_or_else(|| Error::internal("a value of codes has no place"))?;
        if codes.len() != p.len {
            return Err(Error::shape(format!("{} codes for a value of {:?}", codes.len(), p.shape)));
        }
        movement::store(p, codes, &mut self.arena[p.offset..p.offset + p.len]);
        Ok(())
    }
    /// The bytes of an input (with the slack behind it) and of an output.
    fn pair(&mut self, x: Slot, y: Slot) -> Result<(&[u8], &mut [u8], &mut [Scratch])> {
        let (px, py) = (self.plan.places[x].as_ref(), self.plan.places[y].as_ref());
        let (Some(px), Some(py)) = (px, py) else { return Err(Error::internal("a value of codes has no place")) };
        let [a, b] = self
            .arena
            .get_disjoint_mut([px.offset..px.offset + px.len + SLACK, py.offset..py.offset + py.len])
            .map_err(|_| Error::internal("two live values share memory"))?;
        Ok((a, b, self.scratch))
    }

    fn step(&mut self, i: usize, step: &Step) -> Result<()> {
        match &step.kind {
            StepKind::Quantize => self.quantize(step),
            StepKind::Dequantize => self.dequantize(step),
            StepKind::Product(_) => self.product(i, step),
            StepKind::Add { .. } | StepKind::Mul { .. } => self.binary(step),
            StepKind::Pointwise(_) | StepKind::Regrid(_) => {
                let Packed::Table(table) = &self.packed[i] else {
                    return Err(Error::internal("a table step without table"));
                };
                self.table(step, table)
            }
            StepKind::MaxPool { .. } | StepKind::AveragePool { .. } => self.pooling(i, step),
            StepKind::Concat { axis } => self.concat(step, *axis),
            StepKind::Move(op) => {
                let x = Self::first(&step.inputs)?;
                let grid = self.program.grid(x)?;
                let rest = step.inputs[1..]
                    .iter()
                    .map(|s| s.map(|s| self.real(s).cloned()).transpose())
                    .collect::<Result<Vec<_>>>()?;
                let place = self.place(x)?.clone();
                let bytes = self.arena[place.offset..place.offset + place.len].to_vec();
                let outs = movement::run(op, &place, bytes, &rest, grid, step.outputs.len(), self.ctx)?;
                for (slot, out) in step.outputs.iter().zip(outs) {
                    if let Some(slot) = slot {
                        let p = self.place(*slot)?.clone();
                        let to = &mut self.arena[p.offset..p.offset + p.len];
                        out.write(&p, to)?;
                    }
                }
                Ok(())
            }
            StepKind::Float(op) => {
                let x = step.inputs.iter().map(|s| s.map(|s| self.real(s)).transpose()).collect::<Result<Vec<_>>>()?;
                let out = self.pool.install(|| eval(op, &x, step.outputs.len(), self.ctx))?;
                for (slot, t) in step.outputs.iter().zip(out) {
                    if let Some(s) = slot {
                        self.real[*s] = Some(t);
                    }
                }
                Ok(())
            }
        }
    }

    fn quantize(&mut self, step: &Step) -> Result<()> {
        let (x, y) = (Self::first(&step.inputs)?, Self::first(&step.outputs)?);
        let s = self.stored(y)?;
        let place = self.place(y)?.clone();
        let isa = self.isa;
        let source = match &self.program.values[x].repr {
            Repr::Constant(t) => t.as_ref(),
            _ => self.real[x].as_ref().ok_or_else(|| Error::internal("a value is read before it is produced"))?,
        };
        if source.shape() != place.shape {
            return Err(Error::shape(format!("expected a shape {:?}, found {:?}", place.shape, source.shape())));
        }
        let data = compile::reals(source)?;
        let out = &mut self.arena[place.offset..place.offset + place.len];
        match place.layout {
            Layout::RowMajor => eltwise::quantize(isa, data, s.scale, s.zero, s.lo, s.hi, out),
            Layout::ChannelsLast => {
                let (c, plane) = (place.shape[1], place.shape[2..].iter().product::<usize>());
                let sample = (c * plane).max(1);
                let job = |(x, o): (&[f32], &mut [u8])| {
                    layout::quantize_nchw_to_nhwc(isa, x, c, plane, s.scale, s.zero, s.lo, s.hi, o);
                };
                if data.len() < PARALLEL_FROM {
                    data.chunks(sample).zip(out.chunks_mut(sample)).for_each(job);
                } else {
                    self.pool.install(|| data.par_chunks(sample).zip(out.par_chunks_mut(sample)).for_each(job));
                }
            }
        }
        Ok(())
    }

    fn dequantize(&mut self, step: &Step) -> Result<()> {
        let (x, y) = (Self::first(&step.inputs)?, Self::first(&step.outputs)?);
        let s = self.stored(x)?;
        let place = self.place(x)?.clone();
        let data = &self.arena[place.offset..place.offset + place.len];
        let mut out = self.ctx.take(place.len);
        match place.layout {
            Layout::RowMajor => eltwise::dequantize(self.isa, data, s.scale, s.zero, &mut out),
            Layout::ChannelsLast => {
                let (c, plane) = (place.shape[1], place.shape[2..].iter().product::<usize>());
                let sample = (c * plane).max(1);
                for (x, o) in data.chunks(sample).zip(out.chunks_mut(sample)) {
                    layout::dequantize_nhwc_to_nchw(self.isa, x, c, plane, s.scale, s.zero, o);
                }
            }
        }
        self.real[y] = Some(Tensor::of(&place.shape, out));
        Ok(())
    }

    fn product(&mut self, i: usize, step: &Step) -> Result<()> {
        let (StepKind::Product(p), Packed::Product(packed), Geometry::Conv(geom)) =
            (&step.kind, &self.packed[i], &self.plan.geometry[i])
        else {
            return Err(Error::internal("a product without weights"));
        };
        let (x, y) = (Self::first(&step.inputs)?, Self::first(&step.outputs)?);
        let zero = self.stored(x)?.zero;
        let codes = compile::epilogue_codes(self.program, step, p)?;
        let epi = Epilogue {
            bias: &p.bias,
            w_zero: packed.w_zero.as_deref(),
            requant: packed.requant.as_requant(),
            zero: codes.zero,
            lo: codes.lo,
            hi: codes.hi,
        };
        let px = self.place(x)?.clone();
        let conv = matches!(p.form, crate::exec::lower::Form::Conv(_));
        // A matrix product reads rows: the rare input that lies channels last is put in order first.
        let ordered =
            (!conv && px.layout == Layout::ChannelsLast).then(|| self.logical(x)).transpose()?.map(|mut v| {
                v.resize(v.len() + SLACK, 0);
                v
            });
        let job = Job { packed, geom, zero, epi: &epi };
        let pixels = geom.pixels();
        let depthwise = matches!(packed.weights, Weights::Depthwise(_));
        let macs = pixels * geom.c_out * geom.k_h * geom.k_w * (geom.c_in / geom.groups.max(1));
        let parts = self.parts(macs / MACS_A_BYTE[usize::from(depthwise)]);
        if self.plan.places[y].is_some() {
            let py = self.place(y)?.clone();
            let reorder = !conv && py.layout == Layout::ChannelsLast;
            if reorder || ordered.is_some() {
                let source = match ordered {
                    Some(v) => v,
                    None => self.arena[px.offset..px.offset + px.len + SLACK].to_vec(),
                };
                let mut out = vec![0; py.len];
                job.codes(&source, &mut out, self.scratch, parts, self.pool);
                return if reorder { self.store_logical(y, &out) } else { self.copy(y, &out) };
            }
            let pool = self.pool;
            let (source, out, scratch) = self.pair(x, y)?;
            job.codes(source, out, scratch, parts, pool);
            return Ok(());
        }
        let mut out = self.ctx.take(pixels * geom.c_out);
        let source = match &ordered {
            Some(v) => v.as_slice(),
            None => &self.arena[px.offset..px.offset + px.len + SLACK],
        };
        job.reals(source, &mut out, self.scratch, parts, self.pool);
        let mut shape = px.shape[..px.shape.len() - 1].to_vec();
        if conv {
            shape = vec![geom.batch, geom.c_out];
            shape.extend(if px.shape.len() == 3 { vec![geom.out_w] } else { vec![geom.out_h, geom.out_w] });
            let plane = geom.out_h * geom.out_w;
            if plane > 1 {
                let mut planes = self.ctx.take(out.len());
                let sample = geom.c_out * plane;
                for (o, x) in planes.chunks_mut(sample.max(1)).zip(out.chunks(sample.max(1))) {
                    for (i, px) in x.chunks(geom.c_out).enumerate() {
                        for (c, &v) in px.iter().enumerate() {
                            o[c * plane + i] = v;
                        }
                    }
                }
                self.ctx.give(std::mem::replace(&mut out, planes));
            }
        } else {
            shape.push(geom.c_out);
        }
        self.real[y] = Some(Tensor::of(&shape, out));
        Ok(())
    }

    /// How many parts to split work into.
    fn parts(&self, work: usize) -> usize {
        if work < PARALLEL_FROM { 1 } else { self.scratch.len() }
    }
    fn copy(&mut self, slot: Slot, bytes: &[u8]) -> Result<()> {
        let p = self.place(slot)?.clone();
        self.arena[p.offset..p.offset + p.len].copy_from_slice(bytes);
        Ok(())
    }

    fn table(&mut self, step: &Step, table: &[u8; 256]) -> Result<()> {
        let (x, y) = (Self::first(&step.inputs)?, Self::first(&step.outputs)?);
        let isa = self.isa;
        if self.place(x)?.layout != self.place(y)?.layout {
            let codes: Vec<u8> = self.logical(x)?.iter().map(|&q| table[usize::from(q)]).collect();
            return self.store_logical(y, &codes);
        }
        let len = self.place(x)?.len;
        let (parts, pool) = (self.parts(len), self.pool);
        let (a, out, _) = self.pair(x, y)?;
        split(pool, parts, out, 64, |r, o| eltwise::lut(isa, &a[r], table, o));
        Ok(())
    }

    fn binary(&mut self, step: &Step) -> Result<()> {
        let (a, y) = (Self::first(&step.inputs)?, Self::first(&step.outputs)?);
        let b = step.inputs.get(1).copied().flatten().ok_or_else(|| Error::internal("a sum of one"))?;
        let (pa, pb, py) = (self.place(a)?.clone(), self.place(b)?.clone(), self.place(y)?.clone());
        let (ga, gb, gy) = (self.program.grid(a)?, self.program.grid(b)?, self.program.grid(y)?);
        let (sa, sb) = (Stored::full(ga), Stored::full(gb));
        let (kind, clamp) = match &step.kind {
            StepKind::Add { negate, rule, clamp } => (Ok((*negate, *rule)), *clamp),
            StepKind::Mul { rule, clamp } => (Err(*rule), *clamp),
            _ => return Err(Error::internal("neither sum nor product")),
        };
        let s = Stored::of(gy, clamp);
        let isa = self.isa;
        let scales = (ga.scale, gb.scale, gy.scale);
        let compute = |a: &[u8], b: &[u8], out: &mut [u8]| match kind {
            Ok((subtract, rule)) => {
                let mode = match rule {
                    AddRule::Onnx => AddMode::Onnx { sa: scales.0, sb: scales.1, sy: scales.2 },
                    AddRule::Dyadic(m) => AddMode::Dyadic(m),
                };
                let spec = AddSpec { za: sa.zero, zb: sb.zero, zero: s.zero, lo: s.lo, hi: s.hi, subtract, mode };
                eltwise::add(isa, a, b, out, &spec);
            }
            Err(rule) => {
                let mode = match rule {
                    None => MulMode::Onnx { sa: scales.0, sb: scales.1, sy: scales.2 },
                    Some(m) => MulMode::Dyadic(m),
                };
                eltwise::mul(
                    isa,
                    a,
                    b,
                    out,
                    &MulSpec { za: sa.zero, zb: sb.zero, zero: s.zero, lo: s.lo, hi: s.hi, mode },
                );
            }
        };
        let plain = pa.shape == pb.shape && pa.layout == pb.layout && pa.layout == py.layout && pa.shape == py.shape;
        if !plain {
            let x = movement::expand(&pa, self.logical(a)?, &py.shape, self.ctx)?;
            let z = movement::expand(&pb, self.logical(b)?, &py.shape, self.ctx)?;
            let mut out = vec![0; py.len];
            compute(&x, &z, &mut out);
            return self.store_logical(y, &out);
        }
        let (parts, pool) = (self.parts(py.len), self.pool);
        let y_range = py.offset..py.offset + py.len;
        if a == b {
            let (x, out, _) = self.pair(a, y)?;
            split(pool, parts, out, 64, |r, o| compute(&x[r.clone()], &x[r], o));
            return Ok(());
        }
        let [x, z, out] = self
            .arena
            .get_disjoint_mut([pa.offset..pa.offset + pa.len, pb.offset..pb.offset + pb.len, y_range])
            .map_err(|_| Error::internal("two live values share memory"))?;
        let (x, z): (&[u8], &[u8]) = (x, z);
        split(pool, parts, out, 64, |r, o| compute(&x[r.clone()], &z[r], o));
        Ok(())
    }

    fn concat(&mut self, step: &Step, axis: i64) -> Result<()> {
        let y = Self::first(&step.outputs)?;
        let py = self.place(y)?.clone();
        let rank = py.shape.len();
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis })
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| Error::shape(format!("axis {axis} of a shape {:?}", py.shape)))?;
        let slots: Vec<Slot> = step.inputs.iter().flatten().copied().collect();
        if slots.iter().any(|&s| self.plan.places[s].as_ref().is_none_or(|p| p.layout != py.layout)) {
            let parts =
                slots.iter().map(|&s| Ok((self.place(s)?.shape.clone(), self.logical(s)?))).collect::<Result<_>>()?;
            let out = movement::concat(parts, axis, self.ctx)?;
            return self.store_logical(y, &out);
        }
        // In memory the axes of a value that lies channels last are 0, 2, 3, ..., 1.
        let order = movement::order(rank, py.layout);
        let at = order.iter().position(|&a| a == axis).unwrap_or(0);
        let inner: usize = order[at + 1..].iter().map(|&a| py.shape[a]).product();
        let pitch = py.shape[axis] * inner;
        let mut start = 0;
        for s in slots {
            let px = self.place(s)?.clone();
            let run = px.shape[axis] * inner;
            let (x, out, _) = self.pair(s, y)?;
            if run > 0 {
                for (from, to) in x[..px.len].chunks(run).zip(out.chunks_mut(pitch)) {
                    to[start..start + run].copy_from_slice(from);
                }
            }
            start += run;
        }
        Ok(())
    }

    fn pooling(&mut self, i: usize, step: &Step) -> Result<()> {
        let (x, y) = (Self::first(&step.inputs)?, Self::first(&step.outputs)?);
        let Geometry::Pool(w) = &self.plan.geometry[i] else { return Err(Error::internal("a pool without window")) };
        let shape = self.place(x)?.shape.clone();
        let geom = pool_geometry(&shape, w)?;
        let (isa, pool) = (self.isa, self.pool);
        let (from, to) = (self.program.grid(x)?, self.program.grid(y)?);
        let s = Stored::full(to);
        let x_zero = Stored::full(from).zero;
        let program = self.program;
        let parts = self.parts(geom.batch * geom.out_h * geom.out_w * geom.c * geom.k_h * geom.k_w);
        match &step.kind {
            StepKind::MaxPool { .. } => {
                let (input, out, _) = self.pair(x, y)?;
                split(pool, parts, out, geom.c.max(1), |r, o| {
                    pool::max_pool(isa, &geom, input, r.start / geom.c..r.end / geom.c, o, geom.c);
                });
            }
            StepKind::AveragePool { count_include_pad, .. } => {
                let mut rules = Vec::new();
                for count in counts(w, *count_include_pad) {
                    rules.push((
                        count,
                        match program.mean_rule(from, to, count)? {
                            Scalar::Onnx(m) => ScalarRequant::Onnx(m),
                            Scalar::Dyadic(m) => ScalarRequant::Dyadic(m),
                        },
                    ));
                }
                let spec = pool::AvgSpec {
                    x_zero,
                    count_include_pad: *count_include_pad,
                    requants: &rules,
                    zero: s.zero,
                    lo: s.lo,
                    hi: s.hi,
                };
                let (input, out, _) = self.pair(x, y)?;
                split(pool, parts, out, geom.c.max(1), |r, o| {
                    let rows = r.start / geom.c..r.end / geom.c;
                    pool::avg_pool(isa, &geom, input, &spec, rows, o, geom.c);
                });
            }
            _ => return Err(Error::internal("no pool")),
        }
        Ok(())
    }
}

/// How many positions the windows of a mean count, each number once: the products of what each axis can count.
fn counts(w: &Window, include_pad: bool) -> Vec<usize> {
    let mut all = vec![1];
    for d in 0..w.kernel.len() {
        let mut here: Vec<usize> = (0..w.output[d])
            .map(|o| {
                let start = (o * w.strides[d]) as i64 - w.begin[d];
                let end = w.input[d] as i64 + if include_pad { w.end[d].max(0) } else { 0 };
                let first = if include_pad { i64::MIN } else { 0 };
                (0..w.kernel[d]).filter(|k| (first..end).contains(&(start + (k * w.dilations[d]) as i64))).count()
            })
            .collect();
        here.sort_unstable();
        here.dedup();
        all = all.iter().flat_map(|&a| here.iter().map(move |&h| a * h)).filter(|&n| n > 0).collect();
        all.sort_unstable();
        all.dedup();
    }
    all
}

fn pool_geometry(shape: &[usize], w: &Window) -> Result<pool::PoolGeom> {
    let d2 = w.kernel.len() == 2;
    let pick = |v: &[usize]| if d2 { (v[0], v[1]) } else { (1, v[0]) };
    let pads = |v: &[i64]| -> Result<(usize, usize)> {
        let fit =
            |p: i64| usize::try_from(p).map_err(|_| Error::unsupported(format!("a pool with negative padding {p}")));
        Ok(if d2 { (fit(v[0])?, fit(v[1])?) } else { (0, fit(v[0])?) })
    };
    let (in_h, in_w) = pick(&w.input);
    let (out_h, out_w) = pick(&w.output);
    let (k_h, k_w) = pick(&w.kernel);
    let (stride_h, stride_w) = pick(&w.strides);
    let (dil_h, dil_w) = pick(&w.dilations);
    let (pad_top, pad_left) = pads(&w.begin)?;
    let (pad_bottom, pad_right) = pads(&w.end)?;
    Ok(pool::PoolGeom {
        batch: shape[0],
        c: shape[1],
        in_h,
        in_w,
        out_h,
        out_w,
        k_h,
        k_w,
        stride_h,
        stride_w,
        dil_h,
        dil_w,
        pad_top,
        pad_left,
        pad_bottom,
        pad_right,
    })
}

/// Splits `out` into parts of whole `unit`s and hands each, with its range, to a thread.
fn split(
    pool: &rayon::ThreadPool,
    parts: usize,
    out: &mut [u8],
    unit: usize,
    f: impl Fn(Range<usize>, &mut [u8]) + Sync,
) {
    let len = out.len();
    if parts <= 1 || len == 0 {
        return f(0..len, out);
    }
    let chunk = (len / unit).div_ceil(parts).max(1) * unit;
    pool.install(|| {
        out.par_chunks_mut(chunk).enumerate().for_each(|(i, o)| f(i * chunk..i * chunk + o.len(), o));
    });
}

/// A product on its way to the kernels.
struct Job<'a> {
    packed: &'a PackedProduct,
    geom: &'a ConvGeom,
    zero: u8,
    epi: &'a Epilogue<'a>,
}

impl Job<'_> {
    fn kernel(&self, x: &[u8], rows: Range<usize>, out: Out<'_>, scratch: &mut Scratch) {
        match &self.packed.weights {
            Weights::Conv(w) => w.run(self.geom, x, self.zero, rows, self.epi, out, scratch),
            Weights::Depthwise(w) => w.run(self.geom, x, self.zero, rows, self.epi, out, scratch),
        }
    }
    fn split<T: Send>(
        &self,
        out: &mut [T],
        scratch: &mut [Scratch],
        parts: usize,
        pool: &rayon::ThreadPool,
        f: impl Fn(Range<usize>, &mut [T], &mut Scratch) + Sync,
    ) {
        let pixels = self.geom.pixels();
        if parts <= 1 || pixels < 2 {
            f(0..pixels, out, &mut scratch[0]);
            return;
        }
        let rows = pixels.div_ceil(parts);
        let jobs: Vec<_> = out.chunks_mut(rows * self.geom.c_out).zip(scratch.iter_mut()).enumerate().collect();
        pool.install(|| {
            jobs.into_par_iter().for_each(|(i, (o, s))| f(i * rows..i * rows + o.len() / self.geom.c_out, o, s));
        });
    }
    fn codes(&self, x: &[u8], out: &mut [u8], scratch: &mut [Scratch], parts: usize, pool: &rayon::ThreadPool) {
        let pitch = self.geom.c_out;
        self.split(out, scratch, parts, pool, |rows, o, s| self.kernel(x, rows, Out::U8 { data: o, pitch }, s));
    }
    fn reals(&self, x: &[u8], out: &mut [f32], scratch: &mut [Scratch], parts: usize, pool: &rayon::ThreadPool) {
        self.split(out, scratch, parts, pool, |rows, o, s| self.kernel(x, rows, Out::F32(o), s));
    }
}
