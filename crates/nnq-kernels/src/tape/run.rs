//! Running the steps of a tape.
use super::{
    Tape,
    claims::Claims,
    memory::{Local, Memory, Real, RealPtr, Workspace},
    planes,
    step::{Average, Copies, Kernel, Planes, Product, ProductOut, Residual, Span, Strided, UNIT, Weights},
};
use crate::{
    Isa, SLACK,
    conv::{Out, Scratch},
    eltwise,
    pool::{self, AvgSpec},
    team::{Member, Team},
};
use std::{
    ops::Range,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Bytes of a product's codes that wait in the cache for the sum that follows.
const BLOCK: usize = 32 << 10;
/// Pixels of such a block at least: weights are read once for each block.
const BLOCK_PIXELS: usize = 112;

pub(super) fn run(
    tape: &Tape,
    steps: Range<usize>,
    workspace: &mut Workspace,
    reals: &mut [Real<'_>],
    team: &mut Team,
    times: Option<&mut [Duration]>,
) {
    // Buffers are few: the graph's inputs and outputs, mostly one each.
    let pointers: Vec<RealPtr> = reals.iter_mut().map(RealPtr::of).collect();
    workspace.claims.reset(steps.len(), team.members());
    let Workspace { arena, locals, claims } = workspace;
    let memory = Memory::new(arena, &pointers, locals);
    let pass = Pass { isa: tape.isa, steps: &tape.steps[steps], memory: &memory, claims };
    match times {
        None => team.run(&|member| pass.run(member, None)),
        Some(times) => {
            assert!(times.len() == pass.steps.len(), "{} times for {} steps", times.len(), pass.steps.len());
            let times = Mutex::new(times);
            team.run(&|member| pass.run(member, (member.index() == 0).then_some(&times)));
        }
    }
}

/// A way through the steps that all members go together.
struct Pass<'a> {
    isa: Isa,
    steps: &'a [super::Step],
    memory: &'a Memory<'a>,
    claims: &'a Claims,
}

impl Pass<'_> {
    fn run(&self, member: &Member, times: Option<&Mutex<&mut [Duration]>>) {
        let mut start = Instant::now();
        for (i, step) in self.steps.iter().enumerate() {
            if member.members() == 1 {
                self.piece(step, 0..step.units, member);
            } else {
                self.together(i, step, member);
            }
            if let Some(Ok(mut times)) = times.map(Mutex::lock) {
                times[i] = start.elapsed();
                start = Instant::now();
            }
        }
    }

    /// Takes pieces of step `i` until there are none, then waits for those that others have taken.
    fn together(&self, i: usize, step: &super::Step, member: &Member) {
        let members = member.members();
        let share = step.pieces.div_ceil(members);
        let mut done = 0;
        // Its own share first, so that it meets what it wrote in the step before; then what others have not begun.
        for offset in 0..members {
            let owner = (member.index() + offset) % members;
            let first = (owner * share).min(step.pieces);
            let count = share.min(step.pieces - first);
            while let Some(taken) = self.claims.take(i * members + owner, count) {
                self.piece(step, step.piece(first + taken), member);
                done += 1;
            }
        }
        if done > 0 {
            self.claims.finish(i, done);
        }
        member.wait(|| self.claims.finished(i) >= step.pieces);
    }

    fn piece(&self, step: &super::Step, units: Range<usize>, member: &Member) {
        // SAFETY: there are as many locals as members, and a member is one thread.
        let local = unsafe { self.memory.local(member.index()) };
        // SAFETY: the steps were checked against the memory when the tape was made; every piece is taken once, pieces are disjoint,
        // and a step begins when all pieces of those before it are done.
        unsafe { share(self.isa, &step.kernel, units, self.memory, local) };
    }
}

/// The pieces `units` of a step.
///
/// # Safety
/// The step lies within the memory; nobody else works on these pieces, and nobody writes what the step reads.
unsafe fn share(isa: Isa, kernel: &Kernel, units: Range<usize>, memory: &Memory, local: &mut Local) {
    let flat = |len: usize| units.start * UNIT..(units.end * UNIT).min(len);
    // SAFETY: all places are those that were checked, cut by `units`.
    unsafe {
        match kernel {
            Kernel::Quantize { x, y, planes: shape, code } => {
                for (at, row) in rows(*shape, units) {
                    let (x, y) = (
                        memory.real(*x, 0, shape.len()),
                        memory.write(y.at + (at * shape.pixels + row.start) * shape.channels, row.len() * shape.channels),
                    );
                    let x = &x[at * shape.channels * shape.pixels..];
                    planes::quantize(isa, x, *shape, row, *code, y);
                }
            }
            Kernel::Dequantize { x, y, planes: shape, scale, zero } => {
                let y = memory.real_start(*y);
                for (at, row) in rows(*shape, units) {
                    let first = (at * shape.pixels + row.start) * shape.channels;
                    let x = memory.read(x.at + first, row.len() * shape.channels);
                    let y = y.add(at * shape.channels * shape.pixels + row.start);
                    planes::dequantize(isa, x, *shape, row.len(), *scale, *zero, y);
                }
            }
            Kernel::Transpose { x, y, planes: shape } => {
                let y = memory.real_start(*y);
                for (at, row) in rows(*shape, units) {
                    let first = (at * shape.pixels + row.start) * shape.channels;
                    let x = memory.read_f32(x + first * 4, row.len() * shape.channels);
                    let y = y.add(at * shape.channels * shape.pixels + row.start);
                    planes::transpose(x, *shape, row.len(), y);
                }
            }
            Kernel::Product(p) => product(isa, p, units, memory, local),
            Kernel::Add { a, b, y, spec } => {
                let r = flat(y.len);
                let (a, b) = (memory.read(a.at + r.start, r.len()), memory.read(b.at + r.start, r.len()));
                eltwise::add(isa, a, b, memory.write(y.at + r.start, r.len()), spec);
            }
            Kernel::Mul { a, b, y, spec } => {
                let r = flat(y.len);
                let (a, b) = (memory.read(a.at + r.start, r.len()), memory.read(b.at + r.start, r.len()));
                eltwise::mul(isa, a, b, memory.write(y.at + r.start, r.len()), spec);
            }
            Kernel::Lut { x, y, table } => {
                let r = flat(y.len);
                let x = memory.read(x.at + r.start, r.len());
                eltwise::lut(isa, x, table, memory.write(y.at + r.start, r.len()));
            }
            Kernel::MaxPool { x, y, geom } => {
                let x = memory.read(x.at, x.len + SLACK);
                pool::max_pool(isa, geom, x, units.clone(), pixels(memory, *y, units, geom.c), y.pitch);
            }
            Kernel::AvgPool { x, y, geom, average } => {
                let Average { x_zero, count_include_pad, requants, zero, lo, hi } = average;
                let spec = AvgSpec {
                    x_zero: *x_zero,
                    count_include_pad: *count_include_pad,
                    requants,
                    zero: *zero,
                    lo: *lo,
                    hi: *hi,
                };
                let x = memory.read(x.at, x.len + SLACK);
                pool::avg_pool(isa, geom, x, &spec, units.clone(), pixels(memory, *y, units, geom.c), y.pitch);
            }
            Kernel::Move { x, y, copies, fill } => {
                if let Some(code) = fill {
                    memory.write(y.at, y.len).fill(*code);
                }
                moves(*x, *y, copies, units, memory);
            }
        }
    }
}

/// The rows of pixels, each within one sample, that the pieces `units` stand for: the sample and its pixels.
fn rows(planes: Planes, units: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let in_one = planes.pixels.div_ceil(UNIT).max(1);
    units.map(move |unit| {
        let first = unit % in_one * UNIT;
        (unit / in_one, first..(first + UNIT).min(planes.pixels))
    })
}

/// The bytes of the pixels `units`.
///
/// # Safety
/// As [`Memory::write`].
#[allow(clippy::mut_from_ref)]
unsafe fn pixels<'m>(memory: &'m Memory, y: Strided, units: Range<usize>, c: usize) -> &'m mut [u8] {
    let len = if units.is_empty() { 0 } else { (units.len() - 1) * y.pitch + c };
    // SAFETY: the caller's.
    unsafe { memory.write(y.at + units.start * y.pitch, len) }
}

/// # Safety
/// As [`share`].
unsafe fn moves(x: Span, y: Span, copies: &[Copies], units: Range<usize>, memory: &Memory) {
    let mut first = 0;
    for c in copies {
        let from = units.start.clamp(first, first + c.count) - first;
        let to = units.end.clamp(first, first + c.count) - first;
        for i in from..to {
            // SAFETY: the caller's; the runs of one step do not overlap.
            unsafe {
                let run = memory.read(x.at + c.src + i * c.src_step, c.len);
                memory.write(y.at + c.dst + i * c.dst_step, c.len).copy_from_slice(run);
            }
        }
        first += c.count;
    }
}

/// # Safety
/// As [`share`].
unsafe fn product(isa: Isa, p: &Product, units: Range<usize>, memory: &Memory, local: &mut Local) {
    if units.is_empty() {
        return;
    }
    let c = p.geom.c_out;
    // SAFETY: the caller's.
    unsafe {
        let x = memory.read(p.x.at, p.x.len + SLACK);
        let scratch = &mut local.scratch;
        match (p.y, &p.residual) {
            (ProductOut::Codes(y), None) => {
                let data = pixels(memory, y, units.clone(), c);
                kernel(p, x, units, Out::U8 { data, pitch: y.pitch }, scratch);
            }
            (ProductOut::Codes(y), Some(Residual { other, second, spec })) => {
                let together = (BLOCK / c.max(1)).max(BLOCK_PIXELS);
                let mut first = units.start;
                while first < units.end {
                    let rows = first..(first + together).min(units.end);
                    let block = &mut local.block;
                    if block.len() < rows.len() * c {
                        block.resize(rows.len() * c, 0);
                    }
                    let block = &mut block[..rows.len() * c];
                    kernel(p, x, rows.clone(), Out::U8 { data: block, pitch: c }, scratch);
                    let other = memory.read(other.at + rows.start * c, rows.len() * c);
                    let (a, b) = if *second { (other, &*block) } else { (&*block, other) };
                    if y.pitch == c {
                        eltwise::add(isa, a, b, pixels(memory, y, rows.clone(), c), spec);
                    } else {
                        for (i, row) in rows.clone().enumerate() {
                            let y = memory.write(y.at + row * y.pitch, c);
                            eltwise::add(isa, &a[i * c..][..c], &b[i * c..][..c], y, spec);
                        }
                    }
                    first = rows.end;
                }
            }
            (ProductOut::Real(y), _) => {
                let y = memory.real_mut(y, units.start * c, units.len() * c);
                kernel(p, x, units, Out::F32(y), scratch);
            }
            (ProductOut::Floats(y), _) => {
                let y = memory.write_f32(y + units.start * c * 4, units.len() * c);
                kernel(p, x, units, Out::F32(y), scratch);
            }
        }
    }
}

fn kernel(p: &Product, x: &[u8], rows: Range<usize>, out: Out, scratch: &mut Scratch) {
    let epilogue = p.epilogue();
    match &p.weights {
        Weights::Conv(w) => w.run(&p.geom, x, p.x_zero, rows, &epilogue, out, scratch),
        Weights::Depthwise(w) => w.run(&p.geom, x, p.x_zero, rows, &epilogue, out, scratch),
    }
}
