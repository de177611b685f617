//! Which steps are computed together, so that a value never lies in memory on its own.
use super::super::{layout::Layout, values::is_code};
use crate::{
    exec::lower::{Form, Product, ProductOut, Program, Repr, Slot, StepKind},
    ir::{Op, op::Unary},
};
use nnq_kernels::tape::Within;
use std::collections::{HashMap, HashSet};

/// What is computed together.
#[derive(Default)]
pub(in crate::exec::int) struct Fusing {
    /// For a product the sum that follows it.
    pub(in crate::exec::int) sums: HashMap<usize, usize>,
    /// For a product of real numbers the mean over all pixels that follows it.
    pub(in crate::exec::int) means: HashMap<usize, Mean>,
    /// Steps that another one computes.
    pub(in crate::exec::int) skipped: HashSet<usize>,
    /// For a part of a concatenation: the whole, and the part's first channel.
    pub(in crate::exec::int) hosts: HashMap<Slot, (Slot, usize)>,
}

/// A mean that follows a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::exec::int) struct Mean {
    /// The activation in between.
    pub(in crate::exec::int) within: Within,
    pub(in crate::exec::int) result: Slot,
}

/// Looks for products followed by a sum, and for concatenations of channels whose parts can be written in place.
pub(in crate::exec::int) fn find(program: &Program, shapes: &[Option<Vec<usize>>], layouts: &[Layout]) -> Fusing {
    let mut uses = vec![0usize; program.values.len()];
    let mut producer = vec![None; program.values.len()];
    for (i, step) in program.steps.iter().enumerate() {
        step.inputs.iter().flatten().for_each(|&s| uses[s] += 1);
        step.outputs.iter().flatten().for_each(|&s| producer[s] = Some(i));
    }
    program.outputs.iter().for_each(|&s| uses[s] += 1);
    let shape = |slot: Slot| shapes[program.values[slot].source.0 as usize].as_ref();
    let mut fusing = Fusing::default();
    for (i, step) in program.steps.iter().enumerate() {
        match (&step.kind, &step.inputs[..], step.outputs.first()) {
            (StepKind::Add { .. }, [Some(a), Some(b)], Some(Some(y))) if a != b => {
                if [*a, *b, *y].iter().any(|&s| program.grid(s).is_ok_and(|g| g.qtype.bits > 8)) {
                    continue;
                }
                let alike = |s: Slot| shape(s) == shape(*y) && layouts[s] == layouts[*y];
                // The product must be the operand that comes last, so that the other one is there.
                let (last, slot) = if producer[*a] > producer[*b] { (producer[*a], *a) } else { (producer[*b], *b) };
                if let Some(product) = last
                    && uses[slot] == 1
                    && alike(*a)
                    && alike(*b)
                    && shape(*y).is_some()
                    && let StepKind::Product(p) = &program.steps[product].kind
                    && matches!(p.form, Form::Conv(_))
                    && is_code(program, slot)
                    && !fusing.sums.contains_key(&product)
                {
                    fusing.sums.insert(product, i);
                    fusing.skipped.insert(i);
                }
            }
            (StepKind::Product(p), _, Some(Some(y)))
                if averageable(p) && shape(*y).is_some_and(|s| !s.contains(&0)) =>
            {
                if let Some((mean, steps)) = mean(program, &uses, *y) {
                    fusing.means.insert(i, mean);
                    fusing.skipped.extend(steps);
                }
            }
            _ => {}
        }
    }
    for step in &program.steps {
        let (StepKind::Concat { axis: 1 | -3 }, Some(Some(y))) = (&step.kind, step.outputs.first()) else { continue };
        if layouts[*y] != Layout::ChannelsLast || shape(*y).is_none_or(|s| s.len() != 4) {
            continue;
        }
        let mut channel = 0;
        for slot in step.inputs.iter().flatten() {
            let writes_pixels = producer[*slot].is_some_and(|i| match &program.steps[i].kind {
                StepKind::Product(p) => matches!(p.form, Form::Conv(_)) && !fusing.sums.contains_key(&i),
                StepKind::MaxPool { .. } | StepKind::AveragePool { .. } | StepKind::Resize { .. } => true,
                StepKind::Add { .. } => fusing.skipped.contains(&i),
                _ => false,
            });
            if writes_pixels && uses[*slot] == 1 && layouts[*slot] == Layout::ChannelsLast {
                fusing.hosts.insert(*slot, (*y, channel));
            }
            channel += shape(*slot).map_or(0, |s| s[1]);
        }
    }
    fusing
}

/// Whether the kernel of a product can average what it computes.
fn averageable(p: &Product) -> bool {
    matches!(p.out, ProductOut::Real { .. } | ProductOut::Dynamic { .. })
        && matches!(&p.form, Form::Conv(a) if a.group <= 1)
}

/// The mean over all pixels of the real numbers in `slot`, perhaps after an activation, and the steps that are it; nobody else reads what is
/// in between.
fn mean(program: &Program, uses: &[usize], mut slot: Slot) -> Option<(Mean, Vec<usize>)> {
    let (mut within, mut steps) = (Within::ALL, Vec::new());
    loop {
        let reader = program.steps.iter().position(|s| s.inputs.first() == Some(&Some(slot)))?;
        let step = &program.steps[reader];
        let result = step.outputs.first().copied().flatten()?;
        let StepKind::Float(op) = &step.kind else { return None };
        if uses[slot] != 1 {
            return None;
        }
        let bound = |i: usize, none: f32| match step.inputs.get(i) {
            None | Some(None) => Some(none),
            Some(Some(s)) => match &program.values[*s].repr {
                Repr::Constant(t) => t.as_slice::<f32>().ok().filter(|t| t.len() == 1).map(|t| t[0]),
                _ => None,
            },
        };
        match op {
            Op::GlobalAveragePool => {
                steps.push(reader);
                return Some((Mean { within, result }, steps));
            }
            Op::Unary(Unary::Relu) if steps.is_empty() => within.lo = 0.0,
            Op::Clip if steps.is_empty() => {
                within = Within { lo: bound(1, Within::ALL.lo)?, hi: bound(2, Within::ALL.hi)? };
            }
            _ => return None,
        }
        steps.push(reader);
        slot = result;
    }
}
