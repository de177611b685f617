//! The simulator: runs an integer program by the formulas of `docs/numerics.md`, one step at a time, with codes carried
//! as floating-point numbers and sums in binary64. Slow and obviously right; the integer engine must equal it bit for bit.
mod coded;
mod integers;
mod recurrent;
mod step;

use super::{
    float::{Ctx, NoTap, Tap},
    lower::{Program, Repr, Slot, StepKind},
};
use crate::{
    error::{At, Error, Result},
    ir::Tensor,
};
use std::sync::Arc;

/// A program ready to be simulated.
pub struct Session {
    program: Arc<Program>,
    weights: Vec<Vec<step::Weights>>,
    last_use: Vec<usize>,
    ctx: Ctx,
    pool: rayon::ThreadPool,
}

impl Session {
    /// Prepares the weights. `threads` 0: one per core.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(program: Arc<Program>, threads: usize) -> Result<Self> {
        let weights = program
            .steps
            .iter()
            .map(|s| match &s.kind {
                StepKind::Product(p) => Ok(vec![step::Weights::new(p)?]),
                StepKind::Rows(r) => Ok(vec![step::Weights::new(&r.product)?]),
                StepKind::Recurrent(r) => r.products().map(step::Weights::new).collect(),
                _ => Ok(Vec::new()),
            })
            .collect::<Result<_>>()?;
        let mut last_use = vec![0; program.values.len()];
        for (i, s) in program.steps.iter().enumerate() {
            for slot in s.inputs.iter().chain(&s.outputs).flatten() {
                last_use[*slot] = i;
            }
        }
        for &slot in &program.outputs {
            last_use[slot] = usize::MAX;
        }
        Ok(Self { program, weights, last_use, ctx: Ctx::new(), pool: super::thread_pool(threads)? })
    }
    /// The program.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }
    /// Runs once; inputs and outputs in the order of the graph's.
    ///
    /// # Errors
    /// Names the node and the shapes.
    pub fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.run_tapped(inputs, &mut NoTap)
    }
    /// Runs once and shows the tap every value as real numbers (codes dequantized).
    ///
    /// # Errors
    /// As [`Session::run`], and what the tap answers.
    pub fn run_tapped(&mut self, inputs: Vec<Tensor>, tap: &mut dyn Tap) -> Result<Vec<Tensor>> {
        let p = self.program.clone();
        super::check_inputs(&p.graph, &inputs)?;
        let mut values: Vec<Option<Tensor>> = vec![None; p.values.len()];
        for (slot, t) in p.inputs.iter().zip(inputs) {
            tap.see(p.values[*slot].source, &t)?;
            values[*slot] = Some(t);
        }
        self.ctx.begin();
        for (i, step) in p.steps.iter().enumerate() {
            let mut x = Vec::with_capacity(step.inputs.len());
            for slot in &step.inputs {
                x.push(match slot {
                    None => None,
                    Some(s) => Some(match &p.values[*s].repr {
                        Repr::Constant(t) => t.as_ref(),
                        _ => values[*s]
                            .as_ref()
                            .ok_or_else(|| Error::internal("a value is read before it is produced"))?,
                    }),
                });
            }
            let (weights, ctx) = (&self.weights[i], &self.ctx);
            let place = || format!("node '{}'", p.step_name(step));
            let out = self.pool.install(|| step::run(&p, step, weights, &x, ctx)).at(place)?;
            for (slot, t) in step.outputs.iter().zip(out) {
                if let Some(s) = slot {
                    show(&p, *s, &t, tap)?;
                    values[*s] = Some(t);
                }
            }
            for s in step.inputs.iter().chain(&step.outputs).flatten() {
                if self.last_use[*s] == i
                    && let Some(t) = values[*s].take()
                {
                    self.ctx.recycle(t);
                }
            }
        }
        p.outputs
            .iter()
            .map(|&s| match &p.values[s].repr {
                Repr::Constant(t) => Ok((**t).clone()),
                _ => values[s].clone().ok_or_else(|| Error::internal("an output is not produced")),
            })
            .collect()
    }
}

fn show(p: &Program, slot: Slot, t: &Tensor, tap: &mut dyn Tap) -> Result<()> {
    let value = &p.values[slot];
    match &value.repr {
        Repr::Code(g) => {
            let real = t.as_slice::<f32>()?.iter().map(|&q| g.dequantize(q as i32)).collect();
            tap.see(value.source, &Tensor::of::<f32>(t.shape(), real))
        }
        // Dequantized twins have been shown as codes already.
        _ if p.graph.value(value.source).quant.is_some() => Ok(()),
        _ => tap.see(value.source, t),
    }
}
