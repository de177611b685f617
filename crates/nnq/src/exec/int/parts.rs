//! Into how many parts of its samples a batch is cut, so that what the kernels hand on to each other stays in the cache.
use super::{
    space::{Lifetime, most},
    steps::fuse::Fusing,
    values::{is_code, last_use, shapes},
};
use crate::{
    exec::lower::{Program, Repr, Slot, Step, StepKind},
    ir::Op,
};

/// Bytes of codes of a part: about the cache of one core.
const NEAR: usize = 2 << 20;
/// Weights are read once for each part: a part's codes may be this share of them, or more weights than codes would come from memory.
const WEIGHTS: usize = 2;

/// The shape of each value of a graph, where it is known.
type Shapes = Vec<Option<Vec<usize>>>;

/// How many parts, and the shapes of the values of one; `None` where the kernels take all samples at once: they are few, or do
/// not go through the network one beside the other.
pub(super) fn choose(
    program: &Program,
    fusing: &Fusing,
    inputs: &[Vec<usize>],
    whole: &Shapes,
    weights: usize,
    members: usize,
) -> Option<(usize, Shapes)> {
    // The grid of what is quantized as it comes is that of all samples together.
    if program.steps.iter().any(Step::is_dynamic) {
        return None;
    }
    let samples = *inputs.first()?.first()?;
    if samples < 2 || samples < members || inputs.iter().any(|shape| shape.first() != Some(&samples)) {
        return None;
    }
    let each = codes(program, whole).div_ceil(samples).max(1);
    let near = (NEAR.max(weights / WEIGHTS) / each).max(1);
    // All threads should have as many parts.
    let even = |parts: &usize| parts.is_multiple_of(members) || *parts >= 4 * members;
    // Twice as many as threads, so that one that is held up does not hold up the others for long.
    let least = if members > 1 { (2 * members).min(samples) } else { 1 };
    let parts = (least..=samples)
        .filter(|parts| samples.is_multiple_of(*parts) && samples / parts <= near)
        .find(even)
        .filter(|parts| *parts > 1 && apart(program, fusing))?;
    let part: Vec<Vec<usize>> = inputs.iter().map(|shape| cut(shape, parts)).collect::<Option<_>>()?;
    let part = shapes(program, &part).ok()?;
    program.steps.iter().all(|step| is_separable(program, step, whole, &part, parts)).then_some((parts, part))
}

/// The most bytes of codes that are needed at the same time.
fn codes(program: &Program, whole: &Shapes) -> usize {
    let last = last_use(program);
    let made =
        program.steps.iter().enumerate().flat_map(|(i, s)| s.outputs.iter().flatten().map(move |&slot| (slot, i)));
    let codes = made.filter(|&(slot, _)| is_code(program, slot)).filter_map(|(slot, first)| {
        let bytes = shape(program, whole, slot)?.iter().product();
        Some(Lifetime { bytes, first, last: last[slot] })
    });
    most(codes)
}

fn shape<'s>(program: &Program, shapes: &'s Shapes, slot: Slot) -> Option<&'s Vec<usize>> {
    shapes[program.values[slot].source.0 as usize].as_ref()
}

/// A shape of one of `parts` parts.
fn cut(shape: &[usize], parts: usize) -> Option<Vec<usize>> {
    let (first, rest) = shape.split_first()?;
    first.is_multiple_of(parts).then(|| std::iter::once(first / parts).chain(rest.iter().copied()).collect())
}

/// Whether no codes wait for a step in floating point, which takes all samples at once.
fn apart(program: &Program, fusing: &Fusing) -> bool {
    let mut made = vec![0; program.values.len()];
    let mut segment = 0;
    program.steps.iter().enumerate().all(|(i, step)| {
        segment += usize::from(step.kind.between_kernels() && !fusing.skipped.contains(&i));
        step.outputs.iter().flatten().for_each(|&slot| made[slot] = segment);
        step.inputs.iter().flatten().all(|&slot| !is_code(program, slot) || made[slot] == segment)
    })
}

/// Whether a step makes of each part of its operands that part of its results. Steps in floating point take them whole.
fn is_separable(program: &Program, step: &Step, whole: &Shapes, part: &Shapes, parts: usize) -> bool {
    let rank = |slot: Slot| shape(program, whole, slot).map(Vec::len);
    let is_constant = |slot: Slot| matches!(program.values[slot].repr, Repr::Constant(_));
    let scales = |slot: Slot| {
        let (whole, part) = (shape(program, whole, slot), shape(program, part, slot));
        whole.is_some_and(|whole| cut(whole, parts).as_ref() == part)
    };
    let slots = || step.inputs.iter().chain(&step.outputs).flatten().copied();
    let each = match &step.kind {
        // Codes of all samples at once.
        StepKind::Lookup(l) if l.to.is_some() => false,
        StepKind::Ids => false,
        kind if kind.between_kernels() => return true,
        StepKind::Quantize
        | StepKind::Dequantize
        | StepKind::Product(_)
        | StepKind::Pointwise(_)
        | StepKind::Regrid(_)
        | StepKind::MaxPool { .. }
        | StepKind::Resize { .. }
        | StepKind::AveragePool { .. } => slots().all(|s| !is_constant(s)),
        // Operands of fewer axes would be repeated along the samples.
        StepKind::Add { .. } | StepKind::Mul { .. } => {
            let mut ranks = slots().map(rank);
            let first = ranks.next();
            ranks.all(|r| Some(r) == first)
        }
        StepKind::Concat { axis } => {
            let result = step.outputs.first().copied().flatten().and_then(rank);
            *axis != 0 && result.is_some_and(|rank| axis + rank as i64 != 0)
        }
        StepKind::Move(op) => keeps_samples(program, step, op),
        // Those of attention are rarely alone: sums over sequences lie between them.
        _ => false,
    };
    each && slots().filter(|&s| !is_constant(s)).all(scales)
}

/// Whether an operator that moves takes nothing from one sample to another, given that its first axis is cut with the samples.
fn keeps_samples(program: &Program, step: &Step, op: &Op) -> bool {
    let numbers = |i: usize| match &program.values[step.inputs.get(i).copied().flatten()?].repr {
        Repr::Constant(t) => t.to_i64s().ok(),
        _ => None,
    };
    match op {
        Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze | Op::Unsqueeze | Op::Identity => true,
        Op::DepthToSpace { .. } | Op::SpaceToDepth { .. } => true,
        Op::Transpose { perm } => perm.first() == Some(&0),
        Op::Split { axis, .. } => *axis > 0,
        // Inputs X, starts, ends, axes?, steps?
        Op::Slice => numbers(3).is_some_and(|axes| axes.iter().all(|&axis| axis > 0)),
        // Inputs X, pads, value?, axes?
        Op::Pad { .. } => {
            let first = |pads: Vec<i64>| pads.first() == Some(&0) && pads.get(pads.len() / 2) == Some(&0);
            step.inputs.get(3).copied().flatten().is_none() && numbers(1).is_some_and(first)
        }
        _ => false,
    }
}
