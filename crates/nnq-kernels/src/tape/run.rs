//! Running the steps of a tape.
use super::{
    Tape,
    bound::Bound,
    claims::Claims,
    memory::{Local, Memory, Real, RealPtr, Workspace},
    step::{Found, Kernel, Planes, Product, ProductOut, Residual, UNIT, Within},
};
use crate::{
    Isa, SLACK,
    conv::{Live, epilogue::OutPtr},
    dynamic::extremes,
    eltwise, layout, pool,
    team::{Member, Team},
};
use std::{
    ops::Range,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Bytes of a product's codes that wait in the cache for the sum that follows.
const BLOCK: usize = 32 << 10;
/// Bytes of a product's real numbers that wait in the cache to be summed.
const MEANS_BLOCK: usize = 512 << 10;
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
    let pointers: Vec<RealPtr> = reals.iter_mut().map(|real| RealPtr::of(real, 1)).collect();
    workspace.claims.reset(steps.len(), team.members());
    let Workspace { arena, locals, claims, fault } = workspace;
    let memory = Memory::new(arena, &pointers, locals, fault);
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
        unsafe { piece(self.isa, step, units, self.memory, local) };
    }
}

/// The units `units` of a step.
///
/// # Safety
/// The step lies within the memory; nobody else works on these units, and nobody writes what the step reads.
pub(super) unsafe fn piece(isa: Isa, step: &super::Step, units: Range<usize>, memory: &Memory, local: &mut Local) {
    let flat = |len: usize| units.start * UNIT..(units.end * UNIT).min(len);
    // SAFETY: all places are those that were checked, cut by `units`.
    unsafe {
        match &step.kernel {
            Kernel::Quantize { x, y, planes, code } => {
                let Planes { channels, pixels, .. } = *planes;
                let code =
                    eltwise::Code { scale: code.scale, zero: code.zero.into(), lo: code.lo.into(), hi: code.hi.into() };
                for (sample, row) in rows(*planes, units) {
                    let x = memory.real(*x, sample * channels * pixels, channels * pixels);
                    let y = memory.write(y.at + (sample * pixels + row.start) * channels, row.len() * channels);
                    layout::quantize_pixels(isa, x, [channels, pixels], row, code, y);
                }
            }
            Kernel::Extremes { x, len, y } => {
                for run in units {
                    let first = run * Found::RUN;
                    let x = memory.real(*x, first, Found::RUN.min(len - first));
                    memory.note(*y, run, extremes(isa, x));
                }
            }
            Kernel::QuantizeDynamic { x, y, planes, by } => {
                let Planes { channels, pixels, .. } = *planes;
                let (scale, zero) = memory.found(*by).grid().unwrap_or_else(|| {
                    memory.fault.of(step.number);
                    (1.0, 0)
                });
                let code = eltwise::Code { scale, zero: zero.into(), lo: 0, hi: 255 };
                for (sample, row) in rows(*planes, units) {
                    let x = memory.real(*x, sample * channels * pixels, channels * pixels);
                    let y = memory.write(y.at + (sample * pixels + row.start) * channels, row.len() * channels);
                    layout::quantize_pixels(isa, x, [channels, pixels], row, code, y);
                }
            }
            Kernel::Dequantize { x, y, planes, scale, zero } => {
                let Planes { channels, pixels, .. } = *planes;
                let y = memory.real_start(*y);
                for (sample, row) in rows(*planes, units) {
                    let x = memory.read(x.at + (sample * pixels + row.start) * channels, row.len() * channels);
                    let y = y.add(sample * channels * pixels + row.start);
                    layout::dequantize_pixels(isa, x, [channels, pixels], *scale, *zero, y);
                }
            }
            Kernel::Transpose { x, y, planes } => {
                let Planes { channels, pixels, .. } = *planes;
                let y = memory.real_start(*y);
                for (sample, row) in rows(*planes, units) {
                    let first = (sample * pixels + row.start) * channels;
                    let x = memory.read_f32(x + first * 4, row.len() * channels);
                    layout::transpose_pixels(x, [channels, pixels], y.add(sample * channels * pixels + row.start));
                }
            }
            Kernel::Product(p) => product(isa, p, &step.bound, units, memory, local),
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
                let table = table.first_chunk().expect("checked when the tape was made");
                eltwise::lut(isa, x, table, memory.write(y.at + r.start, r.len()));
            }
            Kernel::MaxPool { x, y, geom } => {
                let x = memory.read(x.at, x.len + SLACK);
                pool::max_pool_part(isa, geom, x, units, memory.start(y.at), y.pitch);
            }
            Kernel::AvgPool { x, y, .. } => {
                let Bound::Average(average) = &step.bound else { unreachable!("bound when the tape was made") };
                average.run_part(memory.read(x.at, x.len + SLACK), units, memory.start(y.at), y.pitch);
            }
            Kernel::Move { x, y, moves, fill } => {
                if let Some(code) = fill {
                    memory.write(y.at, y.len).fill(*code);
                }
                moves.run(memory, x.at, y.at, units);
            }
            Kernel::Resize { x, y, .. } => {
                let Bound::Resize(resize) = &step.bound else { unreachable!("bound when the tape was made") };
                let x = memory.read(x.at, x.len + SLACK);
                resize.run_part(x, units, memory.start(y.at), y.pitch, &mut local.ints);
            }
            Kernel::Integers(of) => of.run(isa, units, memory, local),
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

/// # Safety
/// As [`piece`].
unsafe fn product(isa: Isa, p: &Product, bound: &Bound, units: Range<usize>, memory: &Memory, local: &mut Local) {
    let c = p.geom.c_out;
    // SAFETY: the caller's; real buffers to write and the arena hold every output, as was checked.
    unsafe {
        let x = memory.read(p.x.at, p.x.len + SLACK);
        let Local { scratch, block, floats, sums, .. } = local;
        // A range that is none has been noted when the inputs were quantized.
        let live = p.found.map(|found| memory.found(found).grid().unwrap_or((1.0, 0)));
        let live = live.map(|(scale, zero)| Live { scale, zero });
        // Some pixels and the panels of some channels.
        let (pixels, panels) = match bound {
            Bound::Conv { by_panels: true, .. } => (0..p.geom.pixels(), Some(units)),
            _ => (units, None),
        };
        let mut run = |pixels: Range<usize>, out: OutPtr| match (bound, &panels) {
            (Bound::Conv { conv, .. }, Some(panels)) => {
                conv.run_part(x, live.into(), pixels, panels.clone(), out, scratch)
            }
            (Bound::Conv { conv, .. }, None) => conv.run_part(x, live.into(), pixels, 0..conv.panels(), out, scratch),
            (Bound::Depthwise(depthwise), _) => depthwise.run_part(x, live, pixels, out, scratch),
            _ => unreachable!("bound when the tape was made"),
        };
        let (y, Residual { other, second, spec }) = match (p.y, &p.residual) {
            (ProductOut::Codes(y), Some(residual)) => (y, residual),
            (ProductOut::Codes(y), None) => {
                return run(pixels, OutPtr::U8 { data: memory.start(y.at), pitch: y.pitch });
            }
            (ProductOut::Means { y, within }, _) => {
                let mean =
                    Means { isa, c, plane: p.geom.out_h * p.geom.out_w, channels: channels(bound, &panels, c), within };
                return mean.run(pixels, memory.real_start(y), (floats, sums), run);
            }
            (ProductOut::Real(y), _) => return run(pixels, OutPtr::F32(memory.real_start(y))),
            (ProductOut::Floats(y), _) => return run(pixels, OutPtr::F32(memory.start(y).cast())),
            (ProductOut::Words(y), _) => return run(pixels, OutPtr::I16(memory.start(y).cast())),
            (ProductOut::Sums(y), _) => return run(pixels, OutPtr::I32(memory.start(y).cast())),
        };
        let channels = channels(bound, &panels, c);
        let together = (BLOCK / channels.len().max(1)).max(BLOCK_PIXELS);
        let mut first = pixels.start;
        while first < pixels.end {
            let rows = first..(first + together).min(pixels.end);
            if block.len() < rows.len() * c {
                block.resize(rows.len() * c, 0);
            }
            let data = block.as_mut_ptr().wrapping_sub(rows.start * c);
            run(rows.clone(), OutPtr::U8 { data, pitch: c });
            let sum = |from: usize, at: usize, len: usize| {
                let product = &block[from - rows.start * c..][..len];
                let other = memory.read(other.at + from, len);
                let (a, b) = if *second { (other, product) } else { (product, other) };
                eltwise::add(isa, a, b, memory.write(at, len), spec);
            };
            if channels.len() == c && y.pitch == c {
                sum(rows.start * c, y.at + rows.start * c, rows.len() * c);
            } else {
                for row in rows.clone() {
                    sum(row * c + channels.start, y.at + row * y.pitch + channels.start, channels.len());
                }
            }
            first = rows.end;
        }
    }
}

/// The output channels, `c` in all, of some panels.
fn channels(bound: &Bound, panels: &Option<Range<usize>>, c: usize) -> Range<usize> {
    match (bound, panels) {
        (Bound::Conv { conv, .. }, Some(panels)) => {
            let width = conv.panel_width();
            panels.start * width..(panels.end * width).min(c)
        }
        _ => 0..c,
    }
}

/// The means of a product's real numbers over the pixels of each sample.
struct Means {
    isa: Isa,
    /// Channels of a pixel.
    c: usize,
    /// Pixels of a sample.
    plane: usize,
    /// Those that are computed.
    channels: Range<usize>,
    within: Within,
}

impl Means {
    /// The samples that the pixels `pixels` are all of, to `y`, `[samples][c]`. `run` computes some pixels; they stay in the cache until they are
    /// summed.
    ///
    /// # Safety
    /// The channels of these samples are writable at `y`, and nobody else uses them.
    unsafe fn run(
        &self,
        pixels: Range<usize>,
        y: *mut f32,
        (floats, sums): (&mut Vec<f32>, &mut Vec<f64>),
        mut run: impl FnMut(Range<usize>, OutPtr),
    ) {
        let (c, channels) = (self.c, &self.channels);
        let together = (MEANS_BLOCK / size_of::<f32>() / channels.len().max(1)).max(BLOCK_PIXELS);
        for sample in pixels.start / self.plane..pixels.end / self.plane {
            sums.clear();
            // The neutral element of a sum: adding -0 to -0 is -0.
            sums.resize(channels.len(), -0.0);
            let (mut first, end) = (sample * self.plane, (sample + 1) * self.plane);
            while first < end {
                let rows = first..(first + together).min(end);
                if floats.len() < rows.len() * c {
                    floats.resize(rows.len() * c, 0.0);
                }
                run(rows.clone(), OutPtr::F32(floats.as_mut_ptr().wrapping_sub(rows.start * c)));
                let Within { lo, hi } = self.within;
                pool::add_pixels(self.isa, &floats[..rows.len() * c], c, channels.clone(), [lo, hi], sums);
                first = rows.end;
            }
            for (channel, sum) in channels.clone().zip(&*sums) {
                // SAFETY: the caller's.
                unsafe { *y.add(sample * c + channel) = (sum / self.plane as f64) as f32 };
            }
        }
    }
}
