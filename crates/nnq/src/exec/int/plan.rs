//! A plan for one set of input shapes: the shape, layout and place of every value, and the kernels that compute them.
use super::{compile::Packed, layout, layout::Layout, steps};
use crate::{
    error::{At, Error, Result},
    exec::{
        float::room,
        lower::{Program, Repr, Slot, Step, StepKind},
    },
    ir::{Binding, Dim, Shape, ValueId},
};
use nnq_kernels::{
    Isa, SLACK,
    tape::{Kernel, Span, Strided, Tape},
};
use std::{collections::HashMap, ops::Range};

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
    Float(Range<usize>),
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
pub(super) struct RealUse {
    pub(super) slot: Slot,
    pub(super) shape: Vec<usize>,
    pub(super) written: bool,
}

pub(super) struct Plan {
    /// For each slot that holds codes in memory.
    pub(super) places: Vec<Option<Place>>,
    pub(super) parts: Vec<Part>,
    /// Multiply-accumulates of each step.
    pub(super) macs: Vec<u64>,
    /// The step after which a slot is dead.
    pub(super) last_use: Vec<usize>,
    /// For each step the sum that is computed with it.
    pub(super) fused: HashMap<usize, usize>,
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
    let shapes = shapes(program, inputs)?;
    let layouts = layout::choose(program, &shapes);
    let fusing = if fuse { steps::fuse::find(program, &shapes, &layouts) } else { steps::fuse::Fusing::default() };
    let mut planner = Planner {
        program,
        packed,
        shapes,
        layouts,
        last_use: last_use(program),
        places: vec![None; program.values.len()],
        space: Space::default(),
        macs: vec![0; program.steps.len()],
        pending: Pending::default(),
        done: Vec::new(),
        now: 0,
        fusing,
    };
    for (i, step) in program.steps.iter().enumerate() {
        planner.now = i;
        planner.step(i, step).at(|| format!("node '{}'", program.step_name(step)))?;
    }
    planner.flush(program.steps.len());
    let arena = planner.space.size;
    let parts = planner.done.into_iter().map(|d| d.build(target, arena)).collect();
    let Planner { places, macs, last_use, fusing, .. } = planner;
    Ok(Plan { places, parts, macs, last_use, fused: fusing.sums })
}

/// Kernels that wait for the size of the arena.
#[derive(Default)]
struct Pending {
    kernels: Vec<Kernel>,
    origin: Vec<usize>,
    reals: Vec<RealUse>,
    /// The first step that it computes, and how many.
    first: usize,
    steps: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.steps == 0
    }
}

enum Done {
    Kernels(Pending, usize),
    Float(Range<usize>),
}

impl Done {
    fn build(self, (isa, members): Target, arena: usize) -> Part {
        match self {
            Self::Float(steps) => Part::Float(steps),
            Self::Kernels(Pending { kernels, origin, reals, first, .. }, end) => {
                let sizes = reals.iter().map(|r| (r.shape.iter().product(), r.written)).collect();
                Part::Tape(Segment { tape: Tape::new(isa, members, kernels, arena, sizes), reals, origin, steps: first..end })
            }
        }
    }
}

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub(super) program: &'a Program,
    pub(super) packed: &'a [Packed],
    pub(super) shapes: Vec<Option<Vec<usize>>>,
    pub(super) layouts: Vec<Layout>,
    pub(super) last_use: Vec<usize>,
    pub(super) fusing: steps::fuse::Fusing,
    pub(super) macs: Vec<u64>,
    places: Vec<Option<Place>>,
    space: Space,
    pending: Pending,
    done: Vec<Done>,
    /// The step being planned.
    now: usize,
}

impl Planner<'_> {
    fn step(&mut self, i: usize, step: &Step) -> Result<()> {
        if self.fusing.skipped.contains(&i) {
            return Ok(());
        }
        if matches!(step.kind, StepKind::Float(_)) {
            self.flush(i);
            match self.done.last_mut() {
                Some(Done::Float(steps)) if steps.end == i => steps.end += 1,
                _ => self.done.push(Done::Float(i..i + 1)),
            }
            return Ok(());
        }
        if self.pending.is_empty() {
            self.pending.first = i;
        }
        self.pending.steps += 1;
        steps::plan(self, i, step)
    }

    /// What waits becomes a segment that computes the steps before `end`.
    fn flush(&mut self, end: usize) {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            self.done.push(Done::Kernels(pending, end));
        }
    }

    /// Appends a kernel of the current step.
    pub(super) fn push(&mut self, kernel: Kernel) {
        self.pending.kernels.push(kernel);
        self.pending.origin.push(self.now);
    }

    /// The shape of a slot.
    ///
    /// # Errors
    /// When it cannot be known.
    pub(super) fn shape(&self, slot: Slot) -> Result<Vec<usize>> {
        let source = self.program.values[slot].source;
        self.shapes[source.0 as usize].clone().ok_or_else(|| {
            Error::shape("its shape cannot be known before the model runs")
                .at(format!("value '{}'", self.program.graph.value(source).name))
        })
    }

    /// The number of the buffer of real numbers that holds `slot`, read or written.
    pub(super) fn real(&mut self, slot: Slot, written: bool) -> Result<usize> {
        if let Some(i) = self.pending.reals.iter().position(|r| r.slot == slot) {
            return Ok(i);
        }
        let shape = self.shape(slot)?;
        self.pending.reals.push(RealUse { slot, shape, written });
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
        let len = room(&shape)?;
        let place = match self.fusing.hosts.get(&slot).copied() {
            None => Place { at: self.space.take(len, self.now, self.last_use[slot]), shape, layout, len, pitch: None },
            Some((whole, channel)) => {
                let host = self.produce(whole)?;
                Place { at: host.at + channel, shape, layout, len, pitch: Some(host.shape[1]) }
            }
        };
        self.places[slot] = Some(place.clone());
        Ok(place)
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
        self.space.take(bytes, self.now, self.now)
    }
}

/// The arena while it is handed out: first fit by liveness.
#[derive(Default)]
struct Space {
    /// Start, end, and the step after which the bytes are free.
    live: Vec<(usize, usize, usize)>,
    size: usize,
}

impl Space {
    fn take(&mut self, bytes: usize, now: usize, until: usize) -> usize {
        self.live.retain(|&(_, _, last)| last >= now);
        self.live.sort_unstable();
        let bytes = (bytes + SLACK).next_multiple_of(64);
        let mut at = 0;
        for &(start, end, _) in &self.live {
            if at + bytes <= start {
                break;
            }
            at = at.max(end);
        }
        self.live.push((at, at + bytes, until));
        self.size = self.size.max(at + bytes);
        at
    }

    /// The bytes taken at `at` live on until `until`.
    fn keep(&mut self, at: usize, until: usize) {
        for (start, _, last) in &mut self.live {
            if *start == at {
                *last = (*last).max(until);
            }
        }
    }
}

/// The shape of every value of the graph for these inputs.
fn shapes(program: &Program, inputs: &[Vec<usize>]) -> Result<Vec<Option<Vec<usize>>>> {
    let mut graph = (*program.graph).clone();
    let mut binding = Binding::new();
    for (&v, given) in program.graph.inputs.iter().zip(inputs) {
        if let Some(declared) = &program.graph.value(v).shape {
            for (d, &n) in declared.0.iter().zip(given) {
                if let Dim::Sym(s) = d
                    && *binding.entry(s.to_string()).or_insert(n) != n
                {
                    return Err(Error::shape(format!("dimension '{s}' is {} and {n} at once", binding[s.as_ref()]))
                        .at(format!("input '{}'", graph.value(v).name)));
                }
            }
        }
        graph.value_mut(v).shape = Some(Shape::fixed(given));
    }
    let graph = crate::ir::infer::bind(&graph, &Binding::new())?;
    Ok((0..graph.value_count())
        .map(|i| graph.value(ValueId(i as u32)).shape.as_ref().and_then(Shape::as_fixed))
        .collect())
}

fn last_use(program: &Program) -> Vec<usize> {
    let mut last = vec![0; program.values.len()];
    for (i, s) in program.steps.iter().enumerate() {
        for slot in s.inputs.iter().chain(&s.outputs).flatten() {
            last[*slot] = i;
        }
    }
    for &slot in &program.outputs {
        last[slot] = usize::MAX;
    }
    last
}

/// The grid that a slot's codes are on, if it holds codes.
pub(super) fn is_code(program: &Program, slot: Slot) -> bool {
    matches!(program.values[slot].repr, Repr::Code(_))
}
