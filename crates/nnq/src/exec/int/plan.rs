//! A plan for one set of input shapes: the shape, layout and place of every value, and the kernels that compute them.
use super::{
    between::Between,
    compile::Packed,
    describe, layout,
    layout::Layout,
    parts,
    space::{Lifetime, Space},
    steps,
    values::{is_code, is_view, last_use, shapes},
};
use crate::{
    error::{At, Error, Result},
    exec::{
        float::room,
        lower::{Program, Repr, Slot, Step, StepKind},
    },
    ir::{Op, Tensor},
};
use nnq_kernels::{
    Isa,
    tape::{Found, Kernel, Planes, Span, Strided, Tape, Weights},
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, ops::Range, sync::Arc};

/// Where a value of codes lives.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) shape: Vec<usize>,
    pub(super) layout: Layout,
    pub(super) at: usize,
    /// Bytes of the value.
    pub(super) len: usize,
    /// Bytes from pixel to pixel where it lies between the channels of a wider value.
    pub(super) pitch: Option<usize>,
}

impl Place {
    pub(super) fn span(&self) -> Span {
        Span { at: self.at, len: self.len }
    }
    /// As the output of something that writes `channels` codes for each pixel.
    pub(super) fn strided(&self, channels: usize) -> Strided {
        Strided { at: self.at, pitch: self.pitch.unwrap_or(channels) }
    }
}

/// A piece of a plan.
pub(super) enum Part {
    /// Kernels.
    Tape(Segment),
    /// Steps in floating point, one after another.
    Float(Vec<FloatStep>),
}

/// Kernels that run without a step in floating point between them.
pub(super) struct Segment {
    pub(super) tape: Tape,
    /// The buffers of real numbers.
    pub(super) reals: Vec<RealUse>,
    /// The step of the program that each kernel belongs to.
    pub(super) origin: Vec<usize>,
    /// The steps of the program that it computes; some need no kernel.
    pub(super) steps: Range<usize>,
}

/// A value of real numbers that a segment reads or writes.
#[derive(Clone)]
pub(super) struct RealUse {
    pub(super) value: Operand,
    pub(super) shape: Vec<usize>,
    pub(super) written: bool,
}

/// A step in floating point.
pub(super) struct FloatStep {
    /// Its number in the program.
    pub(super) step: usize,
    pub(super) op: FloatOp,
    pub(super) inputs: Vec<Option<Operand>>,
    pub(super) outputs: Vec<Option<Slot>>,
}

impl FloatStep {
    /// More than a change of shape.
    pub(super) const fn computes(&self) -> bool {
        !matches!(self.op, FloatOp::View(_))
    }
}

/// What a step in floating point computes.
pub(super) enum FloatOp {
    /// The same numbers in another shape.
    View(Vec<usize>),
    Op(Op),
    /// Something with weights of its own.
    Between(Arc<dyn Between>),
}

/// A value of real numbers.
#[derive(Clone)]
pub(super) enum Operand {
    Slot(Slot),
    Constant(Arc<Tensor>),
}

/// What reports say of a step, and what ends with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) macs: u64,
    pub(super) bytes: u64,
    /// Values of real numbers that nobody reads afterwards.
    pub(super) dead: Vec<Slot>,
    /// The name of the value that is quantized as it comes, if one is.
    pub(super) quantizes: Option<String>,
}

/// All that a run needs.
pub(super) struct Plan {
    /// How many values there are.
    pub(super) slots: usize,
    /// How many parts of the samples the kernels take one after another.
    pub(super) split: usize,
    pub(super) inputs: Vec<Slot>,
    pub(super) outputs: Vec<Operand>,
    pub(super) parts: Vec<Part>,
    /// For each step of the program.
    pub(super) facts: Vec<Facts>,
    /// For each slot that holds codes in memory: for taps.
    pub(super) places: Vec<Option<Place>>,
    /// For each slot, where it is known.
    pub(super) shapes: Vec<Option<Vec<usize>>>,
    /// Bytes of the arena.
    pub(super) arena: usize,
    /// The most bytes of values that are needed at the same time.
    pub(super) live: usize,
}

impl Plan {
    /// Bytes of all arenas: a thread that takes parts has its own.
    pub(super) fn arenas(&self, members: usize) -> usize {
        self.arena * self.split.min(members)
    }
}

/// What a plan is made for: the instruction set and the number of threads.
pub(super) type Target = (Isa, usize);

/// Makes a plan for inputs of these shapes. With `fuse`, sums are computed together with a product before them and the
/// parts of a concatenation where they are wanted, so that some values never lie in memory on their own.
///
/// # Errors
/// When shapes do not fit; names the node.
pub(super) fn compile(
    program: &Program,
    packed: &[Packed],
    target: Target,
    inputs: &[Vec<usize>],
    fuse: bool,
) -> Result<Plan> {
    let whole = shapes(program, inputs)?;
    let layouts = layout::choose(program, &whole);
    let fusing = if fuse { steps::fuse::find(program, &whole, &layouts) } else { steps::fuse::Fusing::default() };
    let weights = packed.iter().map(Packed::bytes).sum();
    let split = fuse.then(|| parts::choose(program, &fusing, inputs, &whole, weights, target.1)).flatten();
    let (split, shapes) = split.unwrap_or_else(|| (1, whole.clone()));
    let mut planner = Planner {
        program,
        packed,
        split,
        whole,
        shapes,
        layouts,
        last_use: last_use(program),
        places: vec![None; program.values.len()],
        space: Space::default(),
        macs: vec![0; program.steps.len()],
        weights: Vec::new(),
        dynamic: HashMap::new(),
        pending: Pending::default(),
        done: Vec::new(),
        now: 0,
        fusing,
    };
    planner.all()?;
    // Now all lifetimes are known. Numbers do not depend on places.
    if let Some(space) = planner.space.tighter() {
        planner.again(space);
        planner.all()?;
    }
    let facts = (0..program.steps.len()).map(|i| planner.facts(i)).collect();
    let (arena, live) = (planner.space.size(), planner.live(target.1));
    let outputs = program.outputs.iter().map(|&s| operand(program, s)).collect();
    let shapes = (0..program.values.len()).map(|slot| planner.whole(slot).ok()).collect();
    let build = |done: Done| done.build(target, split, &planner.weights, arena);
    let parts = planner.done.into_iter().map(build).collect::<Result<_>>()?;
    Ok(Plan {
        slots: program.values.len(),
        split,
        inputs: program.inputs.clone(),
        outputs,
        parts,
        facts,
        places: planner.places,
        shapes,
        arena,
        live,
    })
}

/// A value of real numbers of a program.
fn operand(program: &Program, slot: Slot) -> Operand {
    match &program.values[slot].repr {
        Repr::Constant(t) => Operand::Constant(t.clone()),
        _ => Operand::Slot(slot),
    }
}

/// Kernels that wait for the size of the arena.
#[derive(Default)]
struct Pending {
    kernels: Vec<Kernel>,
    origin: Vec<usize>,
    reals: Vec<RealUse>,
    /// The slots of `reals`.
    slots: Vec<Slot>,
    /// The first step that it computes, and how many.
    first: usize,
    steps: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.steps == 0
    }
}

/// How many threads share the work of a kernel: parts of the samples go to one each.
pub(super) fn members((_, members): Target, split: usize) -> usize {
    if split > 1 { 1 } else { members }
}

enum Done {
    Kernels(Pending, usize),
    Float(Vec<FloatStep>),
}

impl Done {
    fn build(self, target: Target, split: usize, weights: &[Weights], arena: usize) -> Result<Part> {
        Ok(match self {
            Self::Float(steps) => Part::Float(steps),
            Self::Kernels(Pending { kernels, origin, reals, first, .. }, end) => {
                let sizes = reals.iter().map(|r| (r.shape.iter().product::<usize>() / split, r.written)).collect();
                let members = members(target, split);
                let tape = Tape::new(target.0, members, kernels, weights, arena, sizes).map_err(Error::internal)?;
                Part::Tape(Segment { tape, reals, origin, steps: first..end })
            }
        })
    }
}

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub(super) program: &'a Program,
    pub(super) packed: &'a [Packed],
    /// See [`Plan::split`].
    split: usize,
    /// The shape of every value of the graph.
    whole: Vec<Option<Vec<usize>>>,
    /// The same of one part of the samples, as the kernels see it.
    shapes: Vec<Option<Vec<usize>>>,
    pub(super) layouts: Vec<Layout>,
    pub(super) last_use: Vec<usize>,
    pub(super) fusing: steps::fuse::Fusing,
    pub(super) macs: Vec<u64>,
    pub(super) weights: Vec<Weights>,
    places: Vec<Option<Place>>,
    space: Space,
    /// The codes of values that are quantized as they come, by layout, and what says their grid.
    dynamic: HashMap<(Slot, Layout), (Place, Found)>,
    pending: Pending,
    done: Vec<Done>,
    /// The step being planned.
    now: usize,
}

impl Planner<'_> {
    /// Plans every step.
    fn all(&mut self) -> Result<()> {
        let program = self.program;
        for (i, step) in program.steps.iter().enumerate() {
            self.now = i;
            self.step(i, step).at(|| format!("node '{}'", program.step_name(step)))?;
        }
        self.flush(program.steps.len());
        Ok(())
    }

    /// As if nothing had been planned yet, with another space.
    fn again(&mut self, space: Space) {
        self.space = space;
        self.places.fill(None);
        self.weights.clear();
        self.dynamic.clear();
        self.done.clear();
    }

    fn step(&mut self, i: usize, step: &Step) -> Result<()> {
        if self.fusing.skipped.contains(&i) {
            return Ok(());
        }
        if step.kind.between_kernels() {
            self.flush(i);
            if let Packed::Between(of) = &self.packed[i] {
                let whole = |slot: &Option<Slot>| slot.map_or_else(|| Ok(Vec::new()), |slot| self.whole(slot));
                let shapes = step.inputs.iter().take(2).map(whole).collect::<Result<Vec<_>>>()?;
                self.macs[i] = of.macs(&shapes) as u64;
            }
            for &slot in step.outputs.iter().flatten().filter(|&&slot| is_code(self.program, slot)) {
                self.produce(slot)?;
            }
            let step = self.float(i, step)?;
            match self.done.last_mut() {
                Some(Done::Float(steps)) => steps.push(step),
                _ => self.done.push(Done::Float(vec![step])),
            }
            return Ok(());
        }
        if self.pending.is_empty() {
            self.pending.first = i;
        }
        self.pending.steps += 1;
        steps::plan(self, i, step)?;
        if (matches!(step.kind, StepKind::Quantize) || step.is_dynamic()) && self.frees_much(i, step) {
            self.flush(i + 1);
        }
        Ok(())
    }

    /// Whether step `i` is the last to read many real numbers: what ends a segment can be freed, which costs the threads one more meeting.
    fn frees_much(&self, i: usize, step: &Step) -> bool {
        const MUCH: usize = 1 << 20;
        if self.split > 1 {
            return false;
        }
        let real = step.inputs.iter().flatten().filter(|&&s| self.last_use[s] == i);
        real.filter_map(|&s| self.shape(s).ok()).map(|s| s.iter().product::<usize>() * size_of::<f32>()).sum::<usize>()
            >= MUCH
    }

    /// See [`Plan::live`].
    fn live(&self, members: usize) -> usize {
        let mut real: Vec<Option<Lifetime>> = vec![None; self.program.values.len()];
        let lifetime = |slot: Slot, first: usize| {
            let elements = self.whole(slot).ok()?.iter().product::<usize>();
            let real = matches!(self.program.values[slot].repr, Repr::Real);
            real.then_some(Lifetime { bytes: elements * size_of::<f32>(), first, last: self.last_use[slot] })
        };
        for &slot in &self.program.inputs {
            real[slot] = lifetime(slot, 0);
        }
        for (i, step) in self.program.steps.iter().enumerate() {
            if let Some(mean) = self.fusing.means.get(&i) {
                real[mean.result] = lifetime(mean.result, i);
                continue;
            }
            if self.fusing.skipped.contains(&i) {
                continue;
            }
            // A value in another shape is the same memory.
            let view = matches!(&step.kind, StepKind::Float(op) if is_view(op));
            for &slot in step.outputs.iter().flatten() {
                real[slot] = lifetime(slot, i + usize::from(view));
            }
        }
        let mut real: Vec<Lifetime> = real.into_iter().flatten().collect();
        if self.split == 1 {
            return self.space.most(&real, 1);
        }
        // What the kernels of a segment read or write is needed until the last part is done.
        for done in &self.done {
            let Done::Kernels(Pending { first, .. }, end) = done else { continue };
            for r in &mut real {
                let meets = |step: usize| (*first..*end).contains(&step);
                if meets(r.first) || meets(r.last) || (r.first < *first && r.last >= *end) {
                    (r.first, r.last) = (r.first.min(*first), r.last.max(end - 1));
                }
            }
        }
        self.space.most(&real, members.min(self.split))
    }

    /// What waits becomes a segment that computes the steps before `end`.
    fn flush(&mut self, end: usize) {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            self.done.push(Done::Kernels(pending, end));
        }
    }

    fn float(&self, i: usize, step: &Step) -> Result<FloatStep> {
        let inputs: Vec<_> = step.inputs.iter().map(|s| s.map(|s| operand(self.program, s))).collect();
        let op = match (&step.kind, &self.packed[i]) {
            (StepKind::Float(op), _) => {
                let y = step.outputs.first().copied().flatten();
                let shape = y.filter(|_| is_view(op)).and_then(|y| self.whole(y).ok());
                match (shape, inputs.first()) {
                    (Some(shape), Some(Some(Operand::Slot(_)))) if step.outputs.len() == 1 => FloatOp::View(shape),
                    _ => FloatOp::Op(op.clone()),
                }
            }
            (_, Packed::Between(of)) => FloatOp::Between(of.clone()),
            _ => return Err(Error::internal("a step between kernels without weights")),
        };
        Ok(FloatStep { step: i, op, inputs, outputs: step.outputs.clone() })
    }

    /// What reports say of step `i`.
    fn facts(&self, i: usize) -> Facts {
        let step = &self.program.steps[i];
        let mut slots: Vec<Slot> = step.inputs.iter().chain(&step.outputs).flatten().copied().collect();
        slots.sort_unstable();
        slots.dedup();
        let is_real = |s: Slot| matches!(self.program.values[s].repr, Repr::Real);
        let dead = slots.iter().copied().filter(|&s| is_real(s) && self.last_use[s] == i).collect();
        let mut kind = describe(step);
        if let Some(&sum) = self.fusing.sums.get(&i) {
            // The product's own codes stay in the cache.
            kind.push_str(" + add");
            let add = &self.program.steps[sum];
            slots.extend(add.inputs.iter().chain(&add.outputs).flatten());
            slots.retain(|s| !step.outputs.contains(&Some(*s)));
        }
        if let Some(mean) = self.fusing.means.get(&i) {
            kind.push_str(" + mean");
            slots.retain(|s| !step.outputs.contains(&Some(*s)));
            slots.push(mean.result);
        }
        let size = |&s: &Slot| match &self.places[s] {
            Some(place) => place.len * self.split,
            None => self.whole(s).map_or(0, |s| s.iter().product::<usize>() * size_of::<f32>()),
        };
        let bytes = slots.iter().map(size).sum::<usize>() + self.packed[i].bytes();
        let macs = self.macs[i] * self.split as u64;
        let source = |&s: &Slot| self.program.graph.value(self.program.values[s].source).name.clone();
        let quantizes = step.inputs.iter().flatten().next().filter(|_| step.is_dynamic()).map(source);
        Facts { name: self.program.step_name(step), kind, macs, bytes: bytes as u64, dead, quantizes }
    }

    /// Appends a kernel of the current step.
    pub(super) fn push(&mut self, kernel: Kernel) {
        self.pending.kernels.push(kernel);
        self.pending.origin.push(self.now);
    }

    /// The shape of a slot, for one part of the samples.
    ///
    /// # Errors
    /// When it cannot be known.
    pub(super) fn shape(&self, slot: Slot) -> Result<Vec<usize>> {
        self.of(slot, &self.shapes)
    }

    /// The shape of a slot, for all samples.
    fn whole(&self, slot: Slot) -> Result<Vec<usize>> {
        self.of(slot, &self.whole)
    }

    fn of(&self, slot: Slot, shapes: &[Option<Vec<usize>>]) -> Result<Vec<usize>> {
        let source = self.program.values[slot].source;
        shapes[source.0 as usize].clone().ok_or_else(|| {
            Error::shape("its shape cannot be known before the model runs")
                .at(format!("value '{}'", self.program.graph.value(source).name))
        })
    }

    /// The number of the buffer of real numbers that holds `slot`, read or written.
    pub(super) fn real(&mut self, slot: Slot, written: bool) -> Result<usize> {
        let known = self.pending.slots.iter().position(|&s| s == slot);
        if let Some(i) = known {
            return Ok(i);
        }
        let shape = self.whole(slot)?;
        self.pending.slots.push(slot);
        self.pending.reals.push(RealUse { value: operand(self.program, slot), shape, written });
        Ok(self.pending.reals.len() - 1)
    }

    /// The place of a value that has been produced.
    pub(super) fn place(&self, slot: Slot) -> Result<Place> {
        self.places[slot].clone().ok_or_else(|| Error::internal("a value of codes has no place"))
    }

    /// Makes a place for a value that is produced now.
    pub(super) fn produce(&mut self, slot: Slot) -> Result<Place> {
        if let Some(place) = &self.places[slot] {
            return Ok(place.clone());
        }
        let shape = self.shape(slot)?;
        let layout = self.layouts[slot];
        let bytes = self.program.grid(slot).map_or(1, |g| steps::integers::width(g).bytes());
        let len = room(&shape)?.checked_mul(bytes).ok_or_else(|| Error::shape("a value beyond all memory"))?;
        let place = match self.fusing.hosts.get(&slot).copied() {
            None => {
                let lifetime = Lifetime { bytes: len, first: self.now, last: self.last_use[slot] };
                Place { at: self.space.value(lifetime), shape, layout, len, pitch: None }
            }
            Some((whole, channel)) => {
                let host = self.produce(whole)?;
                Place { at: host.at + channel, shape, layout, len, pitch: Some(host.shape[1]) }
            }
        };
        self.places[slot] = Some(place.clone());
        Ok(place)
    }

    /// The codes of the real value `slot`, quantized as it comes, and what says their grid: made once for all products that read them.
    pub(super) fn dynamic(&mut self, slot: Slot, layout: Layout) -> Result<(Place, Found)> {
        if let Some(known) = self.dynamic.get(&(slot, layout)) {
            return Ok(known.clone());
        }
        let shape = self.shape(slot)?;
        let len = room(&shape)?;
        let reads = |step: &Step| step.is_dynamic() && step.inputs.contains(&Some(slot));
        let last = self.program.steps.iter().rposition(reads).unwrap_or(self.now);
        let at = self.space.value(Lifetime { bytes: len, first: self.now, last });
        let found = self.space.value(Lifetime { bytes: Found::room(len), first: self.now, last });
        let (place, by) = (Place { at, shape, layout, len, pitch: None }, Found::of(len, found));
        let x = self.real(slot, false)?;
        let [batch, channels, pixels] = layout.planes(&place.shape);
        let planes = Planes { batch, channels, pixels };
        self.push(Kernel::Extremes { x, len, y: by });
        self.push(Kernel::QuantizeDynamic { x, y: place.span(), planes, by });
        self.dynamic.insert((slot, layout), (place.clone(), by));
        Ok((place, by))
    }

    /// `slot` is the same bytes as `other`, which has been produced.
    pub(super) fn alias(&mut self, slot: Slot, other: &Place) -> Result<()> {
        self.space.keep(other.at, self.last_use[slot]);
        let (shape, layout) = (self.shape(slot)?, self.layouts[slot]);
        self.places[slot] = Some(Place { shape, layout, ..other.clone() });
        Ok(())
    }

    /// Memory for this step only.
    pub(super) fn temporary(&mut self, bytes: usize) -> usize {
        self.space.temporary(bytes, self.now)
    }
}
