//! Executes a plan.
use super::{
    StepTime, layout,
    plan::{Facts, FloatOp, FloatStep, Operand, Part, Plan, RealUse, Segment},
    steps::integers::{lift, width},
};
use crate::{
    error::{At, Error, Result},
    exec::{
        float::{Ctx, Tap, eval},
        lower::{Program, Repr, no_range},
    },
    ir::Tensor,
};
use nnq_kernels::{
    tape::{Real, Workspace},
    team::Team,
    wide::Width,
};
use std::{
    ops::Range,
    time::{Duration, Instant},
};

/// What a session lends to a run.
pub(super) struct Runner<'a> {
    pub(super) plan: &'a Plan,
    pub(super) workspace: &'a mut Workspace,
    pub(super) team: &'a mut Team,
    /// Threads of the steps in floating point; none where the run is on one of them.
    pub(super) pool: Option<&'a mut super::FloatPool>,
    pub(super) ctx: &'a Ctx,
    pub(super) real: Vec<Option<Tensor>>,
}

/// Who looks at every value of a program.
pub(super) struct Shown<'a> {
    pub(super) program: &'a Program,
    pub(super) tap: &'a mut dyn Tap,
}

impl Runner<'_> {
    /// Runs; with somebody to show them to, every value is shown, with `times` every step is timed.
    pub(super) fn run(
        &mut self,
        inputs: Vec<Tensor>,
        shown: Option<Shown>,
        times: Option<&mut Vec<StepTime>>,
    ) -> Result<Vec<Tensor>> {
        let computes = |p: &&Part| matches!(p, Part::Float(steps) if steps.iter().any(FloatStep::computes));
        // Waking a thread may take as long as a small layer: all goes there at once.
        let goes = shown.is_none() && self.plan.parts.iter().filter(computes).count() > usize::from(times.is_none());
        match self.pool.take() {
            Some(pool) if goes => pool.run(|| self.parts(inputs, None, times))?,
            pool => {
                self.pool = pool;
                self.parts(inputs, shown, times)
            }
        }
    }

    fn parts(
        &mut self,
        inputs: Vec<Tensor>,
        mut shown: Option<Shown>,
        mut times: Option<&mut Vec<StepTime>>,
    ) -> Result<Vec<Tensor>> {
        let plan = self.plan;
        for (&slot, t) in plan.inputs.iter().zip(inputs) {
            if let Some(Shown { program, tap }) = &mut shown {
                tap.see(program.values[slot].source, &t)?;
            }
            self.real[slot] = Some(t);
        }
        for part in &plan.parts {
            match part {
                Part::Float(steps) => self.floats(steps, shown.as_mut(), times.as_deref_mut())?,
                Part::Tape(segment) => {
                    match (&mut shown, times.as_deref_mut()) {
                        (Some(shown), _) => self.shown(segment, shown)?,
                        (None, Some(times)) => self.timed(segment, times)?,
                        (None, None) => self.kernels(segment, 0..segment.tape.len(), None)?,
                    }
                    for facts in &plan.facts[segment.steps.clone()] {
                        retire(facts, &mut self.real, self.ctx);
                    }
                }
            }
        }
        plan.outputs.iter().map(|y| value(&self.real, y).cloned()).collect()
    }

    /// Some kernels of a segment.
    fn kernels(&mut self, segment: &Segment, which: Range<usize>, times: Option<&mut [Duration]>) -> Result<()> {
        // What is written is taken out, so that it can be borrowed beside what is read.
        let mut written: Vec<Option<Vec<f32>>> = Vec::with_capacity(segment.reals.len());
        for r in &segment.reals {
            written.push(match r.value {
                Operand::Slot(slot) if r.written => Some(match self.real[slot].take() {
                    Some(t) => t.into_vec::<f32>()?,
                    None => self.ctx.take(r.shape.iter().product()),
                }),
                _ => None,
            });
        }
        let mut reals = Vec::with_capacity(segment.reals.len());
        for (r, written) in segment.reals.iter().zip(&mut written) {
            reals.push(match written {
                Some(y) => Real::Write(y),
                None => Real::Read(input(&self.real, r)?),
            });
        }
        match self.plan.split {
            1 => segment.tape.run(which, self.workspace, &mut reals, self.team, times),
            parts => segment.tape.run_parts(parts, self.workspace, &mut reals, self.team, times),
        }
        if let Some(kernel) = self.workspace.fault() {
            let facts = &self.plan.facts[segment.origin[kernel]];
            return Err(no_range(facts.quantizes.as_deref().unwrap_or_default()).at(format!("node '{}'", facts.name)));
        }
        for (r, y) in segment.reals.iter().zip(written) {
            if let (Operand::Slot(slot), Some(y)) = (&r.value, y) {
                self.real[*slot] = Some(Tensor::of(&r.shape, y));
            }
        }
        Ok(())
    }

    /// The kernels of a segment, step by step of the program, each value shown.
    fn shown(&mut self, segment: &Segment, shown: &mut Shown) -> Result<()> {
        let mut first = 0;
        for i in segment.steps.clone() {
            let count = segment.origin[first..].iter().take_while(|&&o| o == i).count();
            self.kernels(segment, first..first + count, None)?;
            first += count;
            self.show(i, shown)?;
        }
        Ok(())
    }

    fn timed(&mut self, segment: &Segment, times: &mut Vec<StepTime>) -> Result<()> {
        let mut each = vec![Duration::ZERO; segment.tape.len()];
        self.kernels(segment, 0..segment.tape.len(), Some(&mut each))?;
        let mut first = 0;
        for together in segment.origin.chunk_by(|a, b| a == b) {
            let time = each[first..first + together.len()].iter().sum();
            times.push(self.time(together[0], time));
            first += together.len();
        }
        Ok(())
    }

    /// Steps in floating point.
    fn floats(
        &mut self,
        steps: &[FloatStep],
        mut shown: Option<&mut Shown>,
        mut times: Option<&mut Vec<StepTime>>,
    ) -> Result<()> {
        let plan = self.plan;
        let (real, ctx, workspace) = (&mut self.real, self.ctx, &mut *self.workspace);
        if shown.is_none() && times.is_none() {
            let mut run = |real: &mut Vec<Option<Tensor>>| {
                steps.iter().try_for_each(|step| {
                    float(plan, step, real, ctx)?;
                    keep_codes(plan, step, real, workspace)?;
                    retire(&plan.facts[step.step], real, ctx);
                    Ok(())
                })
            };
            return match &mut self.pool {
                // Going to other threads costs more than a change of shape.
                Some(pool) if steps.iter().any(FloatStep::computes) => pool.run(|| run(real))?,
                _ => run(real),
            };
        }
        for step in steps {
            let start = Instant::now();
            let real = &mut self.real;
            match &mut self.pool {
                Some(pool) if step.computes() => pool.run(|| float(plan, step, real, ctx))??,
                _ => float(plan, step, real, ctx)?,
            }
            keep_codes(plan, step, &mut self.real, self.workspace)?;
            if let Some(times) = times.as_deref_mut() {
                times.push(self.time(step.step, start.elapsed()));
            }
            if let Some(shown) = shown.as_deref_mut() {
                self.show(step.step, shown)?;
            }
            retire(&plan.facts[step.step], &mut self.real, ctx);
        }
        Ok(())
    }

    fn time(&self, i: usize, time: Duration) -> StepTime {
        let Facts { name, kind, macs, bytes, .. } = self.plan.facts[i].clone();
        StepTime { name, kind, macs, bytes, time }
    }

    /// Shows what step `i` has produced.
    fn show(&self, i: usize, Shown { program, tap }: &mut Shown) -> Result<()> {
        for &slot in program.steps[i].outputs.iter().flatten() {
            let value = &program.values[slot];
            match &value.repr {
                Repr::Code(g) => {
                    let place = self.plan.places[slot]
                        .as_ref()
                        .ok_or_else(|| Error::internal("a value of codes has no place"))?;
                    let lift = lift(*g);
                    let bytes = &self.workspace.bytes()[place.at..place.at + place.len];
                    let real = if width(*g) == Width::Word {
                        let words = bytes.chunks_exact(2).map(|b| i16::from_ne_bytes([b[0], b[1]]));
                        words.map(|q| g.dequantize(i32::from(q) - lift)).collect()
                    } else {
                        let codes = layout::logical(&place.shape, place.layout, bytes);
                        codes.iter().map(|&q| g.dequantize(i32::from(q) - lift)).collect()
                    };
                    tap.see(value.source, &Tensor::of::<f32>(&place.shape, real))?;
                }
                _ if program.graph.value(value.source).quant.is_some() => {}
                _ => {
                    if let Some(t) = &self.real[slot] {
                        tap.see(value.source, t)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn value<'r>(real: &'r [Option<Tensor>], operand: &'r Operand) -> Result<&'r Tensor> {
    match operand {
        Operand::Constant(t) => Ok(t),
        Operand::Slot(s) => real[*s].as_ref().ok_or_else(|| Error::internal("a value is read before it is produced")),
    }
}

fn input<'r>(real: &'r [Option<Tensor>], r: &'r RealUse) -> Result<&'r [f32]> {
    let t = value(real, &r.value)?;
    if t.shape() != r.shape {
        return Err(Error::shape(format!("expected a shape {:?}, found {:?}", r.shape, t.shape())));
    }
    t.as_slice::<f32>()
}

/// Runs a step in floating point.
fn float(plan: &Plan, step: &FloatStep, real: &mut [Option<Tensor>], ctx: &Ctx) -> Result<()> {
    let facts = &plan.facts[step.step];
    let place = || format!("node '{}'", facts.name);
    let out = match (&step.op, step.inputs.first()) {
        (FloatOp::View(shape), Some(Some(Operand::Slot(x)))) => {
            // The buffer goes on where nobody else reads it.
            let t = if facts.dead.contains(x) { real[*x].take() } else { real[*x].clone() };
            let t = t.ok_or_else(|| Error::internal("a value is read before it is produced")).at(place)?;
            vec![t.reshaped(shape.clone()).at(place)?]
        }
        (op, _) => {
            let x = step.inputs.iter().map(|x| x.as_ref().map(|x| value(real, x)).transpose());
            let x = x.collect::<Result<Vec<_>>>().at(place)?;
            match op {
                FloatOp::Between(of) => of.run(&x, ctx),
                FloatOp::Op(op) => eval(op, &x, step.outputs.len(), ctx),
                FloatOp::View(_) => Err(Error::internal("a change of shape without operand")),
            }
            .at(place)?
        }
    };
    for (slot, t) in step.outputs.iter().zip(out) {
        if let Some(s) = slot {
            real[*s] = Some(t);
        }
    }
    Ok(())
}

/// Puts the words that a step has made where kernels read them.
fn keep_codes(plan: &Plan, step: &FloatStep, real: &mut [Option<Tensor>], workspace: &mut Workspace) -> Result<()> {
    for &slot in step.outputs.iter().flatten() {
        // Plans from files keep no places: their steps in floating point make none of these.
        let Some(Some(place)) = plan.places.get(slot) else { continue };
        let words = real[slot].take().ok_or_else(|| Error::internal("a step made no codes"))?;
        let words: &[i16] = words.as_slice()?;
        let bytes: &[u8] = bytemuck::cast_slice(words);
        workspace.bytes_mut(plan.arena, place.at..place.at + bytes.len()).copy_from_slice(bytes);
    }
    Ok(())
}

/// Gives back what nobody reads after a step.
fn retire(facts: &Facts, real: &mut [Option<Tensor>], ctx: &Ctx) {
    for &slot in &facts.dead {
        if let Some(t) = real[slot].take() {
            ctx.recycle(t);
        }
    }
}
