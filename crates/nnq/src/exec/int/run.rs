//! Executes a plan.
use super::{
    StepTime,
    compile::Packed,
    describe, layout,
    plan::{Part, Plan, RealUse, Segment},
};
use crate::{
    error::{At, Error, Result},
    exec::{
        float::{Ctx, Tap, eval, new_shape},
        lower::{Program, Repr, Slot, Step, StepKind},
    },
    ir::Tensor,
};
use nnq_kernels::{
    tape::{Real, Workspace},
    team::Team,
};
use std::{
    ops::Range,
    time::{Duration, Instant},
};

/// What a session lends to a run.
pub(super) struct Runner<'a> {
    pub(super) program: &'a Program,
    pub(super) plan: &'a Plan,
    pub(super) packed: &'a [Packed],
    pub(super) workspace: &'a mut Workspace,
    pub(super) team: &'a mut Team,
    /// Threads of the steps in floating point.
    pub(super) pool: &'a mut super::FloatPool,
    pub(super) ctx: &'a Ctx,
    pub(super) real: Vec<Option<Tensor>>,
}

impl Runner<'_> {
    /// Runs; with a tap every value is shown, with `times` every step is timed.
    pub(super) fn run(
        &mut self,
        inputs: Vec<Tensor>,
        mut tap: Option<&mut dyn Tap>,
        mut times: Option<&mut Vec<StepTime>>,
    ) -> Result<Vec<Tensor>> {
        let program = self.program;
        for (&slot, t) in program.inputs.iter().zip(inputs) {
            if let Some(tap) = again(&mut tap) {
                tap.see(program.values[slot].source, &t)?;
            }
            self.real[slot] = Some(t);
        }
        let plan = self.plan;
        for part in &plan.parts {
            match part {
                Part::Float(steps) => self.floats(steps.clone(), again(&mut tap), times.as_deref_mut())?,
                Part::Tape(segment) => {
                    match (again(&mut tap), times.as_deref_mut()) {
                        (Some(tap), _) => self.shown(segment, tap)?,
                        (None, Some(times)) => self.timed(segment, times)?,
                        (None, None) => self.kernels(segment, 0..segment.tape.len(), None)?,
                    }
                    segment.steps.clone().for_each(|i| self.retire(i));
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

    /// Some kernels of a segment.
    fn kernels(&mut self, segment: &Segment, which: Range<usize>, times: Option<&mut [Duration]>) -> Result<()> {
        // What is written is taken out, so that it can be borrowed beside what is read.
        let mut written: Vec<Option<Vec<f32>>> = Vec::with_capacity(segment.reals.len());
        for r in &segment.reals {
            let kept = if r.written { self.real[r.slot].take() } else { None };
            let buffer = match kept {
                Some(t) => t.into_vec::<f32>()?,
                None => self.ctx.take(r.shape.iter().product()),
            };
            written.push(r.written.then_some(buffer));
        }
        let mut reals = Vec::with_capacity(segment.reals.len());
        for (r, written) in segment.reals.iter().zip(&mut written) {
            reals.push(match written {
                Some(y) => Real::Write(y),
                None => Real::Read(Self::input(self.program, &self.real, r)?),
            });
        }
        segment.tape.run(which, self.workspace, &mut reals, self.team, times);
        for (r, y) in segment.reals.iter().zip(written) {
            if let Some(y) = y {
                self.real[r.slot] = Some(Tensor::of(&r.shape, y));
            }
        }
        Ok(())
    }

    fn input<'r>(program: &'r Program, real: &'r [Option<Tensor>], r: &RealUse) -> Result<&'r [f32]> {
        let t = value(program, real, r.slot)?;
        if t.shape() != r.shape {
            return Err(Error::shape(format!("expected a shape {:?}, found {:?}", r.shape, t.shape())));
        }
        t.as_slice::<f32>()
    }

    /// The kernels of a segment, step by step of the program, each value shown.
    fn shown(&mut self, segment: &Segment, tap: &mut dyn Tap) -> Result<()> {
        let mut first = 0;
        for i in segment.steps.clone() {
            let count = segment.origin[first..].iter().take_while(|&&o| o == i).count();
            self.kernels(segment, first..first + count, None)?;
            first += count;
            self.show(&self.program.steps[i], tap)?;
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
        steps: Range<usize>,
        mut tap: Option<&mut dyn Tap>,
        mut times: Option<&mut Vec<StepTime>>,
    ) -> Result<()> {
        let program = self.program;
        let mut rest = steps.start;
        // Going to other threads costs more than a change of shape.
        while rest < steps.end && self.reshape(rest)? {
            if let Some(times) = times.as_deref_mut() {
                times.push(self.time(rest, Duration::ZERO));
            }
            if let Some(tap) = again(&mut tap) {
                self.show(&program.steps[rest], tap)?;
            }
            rest += 1;
        }
        if rest == steps.end {
            return Ok(());
        }
        if tap.is_none() && times.is_none() {
            let (real, ctx, last_use) = (&mut self.real, self.ctx, &self.plan.last_use);
            return self.pool.run(|| {
                (rest..steps.end).try_for_each(|i| {
                    float(program, &program.steps[i], real, ctx)?;
                    retire(program, last_use, i, real, ctx);
                    Ok(())
                })
            })?;
        }
        for i in rest..steps.end {
            let start = Instant::now();
            let (real, ctx) = (&mut self.real, self.ctx);
            self.pool.run(|| float(program, &program.steps[i], real, ctx))??;
            if let Some(times) = times.as_deref_mut() {
                times.push(self.time(i, start.elapsed()));
            }
            if let Some(tap) = again(&mut tap) {
                self.show(&program.steps[i], tap)?;
            }
            self.retire(i);
        }
        Ok(())
    }

    /// Does step `i` when it only changes the shape of a value that nobody else reads.
    fn reshape(&mut self, i: usize) -> Result<bool> {
        let step = &self.program.steps[i];
        let (StepKind::Float(op), Some(Some(x)), [Some(y)]) = (&step.kind, step.inputs.first(), &step.outputs[..]) else {
            return Ok(false);
        };
        if self.plan.last_use[*x] != i || !matches!(self.program.values[*x].repr, Repr::Real) {
            return Ok(false);
        }
        let place = || format!("node '{}'", self.program.step_name(step));
        let inputs = inputs(self.program, &self.real, step).at(place)?;
        let Some(shape) = new_shape(op, &inputs).transpose().at(place)? else { return Ok(false) };
        if let Some(t) = self.real[*x].take() {
            self.real[*y] = Some(t.reshaped(shape).at(place)?);
        }
        Ok(true)
    }

    fn retire(&mut self, i: usize) {
        retire(self.program, &self.plan.last_use, i, &mut self.real, self.ctx);
    }

    fn time(&self, i: usize, time: Duration) -> StepTime {
        let step = &self.program.steps[i];
        let mut slots: Vec<Slot> = step.inputs.iter().chain(&step.outputs).flatten().copied().collect();
        let mut kind = describe(step);
        if let Some(&sum) = self.plan.fused.get(&i) {
            // The product's own codes stay in the cache.
            slots.retain(|s| !step.outputs.contains(&Some(*s)));
            let sum = &self.program.steps[sum];
            slots.extend(sum.outputs.iter().chain(&sum.inputs).flatten().filter(|s| !step.outputs.contains(&Some(**s))));
            kind.push_str(" + add");
        }
        let size = |slot: Slot| match (&self.plan.places[slot], &self.real[slot]) {
            (Some(p), _) => p.len,
            (_, Some(t)) => t.len() * t.dtype().size(),
            _ => 0,
        };
        let bytes: usize = slots.into_iter().map(size).sum();
        StepTime {
            name: self.program.step_name(step),
            kind,
            macs: self.plan.macs[i],
            bytes: (bytes + self.packed[i].bytes()) as u64,
            time,
        }
    }

    /// Shows what a step has produced.
    fn show(&self, step: &Step, tap: &mut dyn Tap) -> Result<()> {
        for &slot in step.outputs.iter().flatten() {
            let value = &self.program.values[slot];
            match &value.repr {
                Repr::Code(g) => {
                    let place =
                        self.plan.places[slot].as_ref().ok_or_else(|| Error::internal("a value of codes has no place"))?;
                    let lift = super::offset(g.qtype.signed);
                    let bytes = &self.workspace.bytes()[place.at..place.at + place.len];
                    let codes = layout::logical(&place.shape, place.layout, bytes);
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
}

/// The same tap for the next step.
fn again<'t>(tap: &'t mut Option<&mut dyn Tap>) -> Option<&'t mut dyn Tap> {
    match tap {
        Some(tap) => Some(&mut **tap),
        None => None,
    }
}

/// A value of real numbers.
fn value<'r>(program: &'r Program, real: &'r [Option<Tensor>], slot: Slot) -> Result<&'r Tensor> {
    match &program.values[slot].repr {
        Repr::Constant(t) => Ok(t),
        _ => real[slot].as_ref().ok_or_else(|| Error::internal("a value is read before it is produced")),
    }
}

fn inputs<'r>(program: &'r Program, real: &'r [Option<Tensor>], step: &Step) -> Result<Vec<Option<&'r Tensor>>> {
    step.inputs.iter().map(|s| s.map(|s| value(program, real, s)).transpose()).collect()
}

/// Runs a step in floating point.
fn float(program: &Program, step: &Step, real: &mut [Option<Tensor>], ctx: &Ctx) -> Result<()> {
    let run = || {
        let StepKind::Float(op) = &step.kind else { return Err(Error::internal("a kernel among floating-point steps")) };
        eval(op, &inputs(program, real, step)?, step.outputs.len(), ctx)
    };
    let out = run().at(|| format!("node '{}'", program.step_name(step)))?;
    for (slot, t) in step.outputs.iter().zip(out) {
        if let Some(s) = slot {
            real[*s] = Some(t);
        }
    }
    Ok(())
}

/// Gives back what nobody reads after step `i`.
fn retire(program: &Program, last_use: &[usize], i: usize, real: &mut [Option<Tensor>], ctx: &Ctx) {
    let step = &program.steps[i];
    for &slot in step.inputs.iter().chain(&step.outputs).flatten() {
        if last_use[slot] == i
            && let Some(t) = real[slot].take()
        {
            ctx.recycle(t);
        }
    }
}
