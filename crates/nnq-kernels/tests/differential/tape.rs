//! Tapes of drawn steps, run by teams of one to three threads, compared with the model byte by byte.
use crate::{
    Bench,
    draw::{Draw, at_most},
    elements::{add_spec, mul_spec},
    integers,
    model::Memory,
    pool,
    product::{Parts, Requants},
    resize, same,
    spec::Grid,
};
use bytes::Bytes;
use nnq_kernels::{
    Isa, SLACK,
    conv::{ConvGeom, PackedConv, Way},
    depthwise::PackedDepthwise,
    tape::{
        Average, Choice, Code, Copies, Found, Kernel, Moves, Planes, Product, ProductOut, Real, Repeat, Requantize,
        Residual, Span, Strided, Tape, Weights, Within, Workspace,
    },
    team::Team,
    wide::{Target, Width},
};
use std::sync::Arc;

/// Steps over one arena, of which each writes behind what is written so far and reads anything before.
struct Plan {
    kernels: Vec<Kernel>,
    /// Weights by number, and whether they are packed for depthwise kernels.
    weights: Vec<(ConvGeom, Vec<i8>, bool)>,
    /// Elements of each buffer, and whether the tape writes it.
    reals: Vec<(usize, bool)>,
    /// The first byte that no step has written yet.
    end: usize,
}

impl integers::Places for Plan {
    fn source(&mut self, draw: &mut Draw, len: usize) -> Span {
        Plan::source(self, draw, len)
    }
    fn target(&mut self, draw: &mut Draw, len: usize) -> Span {
        Plan::target(self, draw, len)
    }
    fn buffer(&mut self, len: usize) -> usize {
        Plan::buffer(self, len, false)
    }
}

impl Plan {
    /// A place to read `len` bytes, and slack.
    fn source(&self, draw: &mut Draw, len: usize) -> Span {
        Span { at: draw.within(0..=self.end - SLACK - len), len }
    }

    /// A new place of `len` bytes. What was before it, and the slack behind that, is left alone.
    fn target(&mut self, draw: &mut Draw, len: usize) -> Span {
        let at = self.end + SLACK + draw.within(0..=70);
        self.end = at + len + SLACK;
        Span { at, len }
    }

    fn pixels(&mut self, draw: &mut Draw, pixels: usize, c: usize) -> Strided {
        let pitch = c + if draw.once_in(2) { 0 } else { draw.within(1..=40) };
        Strided { at: self.target(draw, pixels * pitch).at, pitch }
    }

    fn buffer(&mut self, len: usize, written: bool) -> usize {
        self.reals.push((len, written));
        self.reals.len() - 1
    }

    fn planes(draw: &mut Draw, most: usize) -> Planes {
        let (batch, channels) = (draw.within(1..=3), draw.size(40));
        Planes { batch, channels, pixels: draw.within(0..=most / batch / channels) }
    }

    /// A step that touches at most `most` bytes of each operand.
    fn step(&mut self, draw: &mut Draw, most: usize) {
        let len = draw.within(0..=most);
        let kernel = match draw.within(0..=20) {
            18.. => Kernel::Integers(Box::new(integers::step(draw, self, most))),
            14..=16 => return self.dynamic(draw, most),
            0..=5 => self.product(draw, most),
            6 => {
                let [a, b] = [self.source(draw, len), self.source(draw, len)];
                Kernel::Add { a, b, y: self.target(draw, len), spec: add_spec(draw) }
            }
            7 => {
                let [a, b] = [self.source(draw, len), self.source(draw, len)];
                Kernel::Mul { a, b, y: self.target(draw, len), spec: mul_spec(draw) }
            }
            8 => {
                let table = (0..256).map(|_| draw.byte()).collect();
                Kernel::Lut { x: self.source(draw, len), y: self.target(draw, len), table }
            }
            9 => {
                let geom = draw.pool_geometry(most);
                let x = self.source(draw, geom.batch * geom.in_h * geom.in_w * geom.c);
                let y = self.pixels(draw, geom.pixels(), geom.c);
                if draw.once_in(2) {
                    Kernel::MaxPool { x, y, geom }
                } else {
                    let count_include_pad = draw.once_in(2);
                    let requants = pool::requants(draw, &geom, count_include_pad);
                    let (zero, lo, hi) = draw.limits();
                    let average = Average { x_zero: draw.byte(), count_include_pad, requants, zero, lo, hi };
                    Kernel::AvgPool { x, y, geom, average }
                }
            }
            10 => self.moves(draw, most),
            17 => {
                let of = resize::resize(draw, most);
                let x = self.source(draw, of.batch * of.in_h * of.in_w * of.c);
                let y = self.pixels(draw, of.lines() * of.columns.len(), of.c);
                Kernel::Resize { x, y, resize: Arc::new(of) }
            }
            11 => {
                let planes = Self::planes(draw, most);
                let x = self.source(draw, planes.len());
                let scale = draw.magnitude(-12.0, 2.0) as f32;
                Kernel::Dequantize { x, y: self.buffer(planes.len(), true), planes, scale, zero: draw.byte() }
            }
            12 => {
                let planes = Self::planes(draw, most / 4);
                let x = self.source(draw, planes.len() * 4 + 4).at.next_multiple_of(4);
                Kernel::Transpose { x, y: self.buffer(planes.len(), true), planes }
            }
            _ => {
                // Real numbers of the caller's, or what a step before has written.
                let written = self.reals.iter().rposition(|r| r.1).filter(|_| draw.once_in(2));
                let (x, planes) = match written {
                    Some(x) => (x, Planes { batch: 1, channels: 1, pixels: self.reals[x].0 }),
                    None => {
                        let planes = Self::planes(draw, most);
                        (self.buffer(planes.len(), false), planes)
                    }
                };
                let (zero, lo, hi) = draw.limits();
                let code = Code { scale: draw.magnitude(-5.0, 5.0) as f32, zero, lo, hi };
                Kernel::Quantize { x, y: self.target(draw, planes.len()), planes, code }
            }
        };
        self.kernels.push(kernel);
    }

    /// Real numbers, quantized by their extremes, and one or two products of them.
    fn dynamic(&mut self, draw: &mut Draw, most: usize) {
        let Kernel::Product(first) = self.product(draw, most) else { unreachable!("a product") };
        let g = first.geom;
        let planes = Planes { batch: g.batch, channels: g.c_in, pixels: g.in_h * g.in_w };
        let len = planes.len();
        let x = self.buffer(len, false);
        let found = Found::of(len, self.target(draw, Found::room(len) + 4).at.next_multiple_of(4));
        let codes = self.target(draw, len);
        self.kernels.push(Kernel::Extremes { x, len, y: found });
        self.kernels.push(Kernel::QuantizeDynamic { x, y: codes, planes, by: found });
        let out = g.pixels() * g.c_out;
        for again in [false, true] {
            if again && draw.once_in(2) {
                break;
            }
            let mut p = (*first).clone();
            let real = |draw: &mut Draw| (draw.share() as f32 - 0.5) * 8.0;
            (p.x, p.found, p.residual) = (codes, Some(found), None);
            p.requant = Requantize::Dynamic {
                scale: (0..g.c_out).map(|_| draw.magnitude(-12.0, 0.0) as f32).collect(),
                bias: (0..g.c_out).map(|_| if draw.once_in(4) { 0.0 } else { real(draw) }).collect(),
            };
            p.y = match draw.within(0..=2) {
                0 if g.groups == 1 && out > 0 => {
                    ProductOut::Means { y: self.buffer(g.batch * g.c_out, true), within: Within::ALL }
                }
                1 => ProductOut::Real(self.buffer(out, true)),
                _ => ProductOut::Floats(self.target(draw, 4 * out + 4).at.next_multiple_of(4)),
            };
            self.kernels.push(Kernel::Product(Box::new(p)));
        }
    }

    fn product(&mut self, draw: &mut Draw, most: usize) -> Kernel {
        let multiplications = 16 * most;
        let depthwise = draw.once_in(3);
        let geom = match depthwise {
            true => draw.depthwise_geometry(multiplications / 4, most),
            false => draw.geometry(multiplications, most),
        };
        let mut parts = Parts::draw(draw, geom);
        let words = matches!(parts.requants, Requants::None);
        if matches!(parts.requants, Requants::None | Requants::Dynamic { .. }) {
            parts.requants = Requants::Real(vec![0.5; geom.c_out]);
        }
        let x = self.source(draw, geom.batch * geom.in_h * geom.in_w * geom.c_in);
        let (pixels, len) = (geom.pixels(), geom.pixels() * geom.c_out);
        let requant = match parts.requants {
            _ if words => Requantize::Words {
                mult: (0..geom.c_out).map(|_| draw.within(0..=1 << 31) as i32).collect(),
                // Vectors want 33 of sums of any size.
                shift: (0..geom.c_out).map(|_| draw.within(33..=62) as u8).collect(),
                to: Target { zero: -300, lo: -30_000, hi: 32_767, width: Width::Word },
            },
            Requants::Onnx(m) => Requantize::Onnx(m.into()),
            Requants::Dyadic { mult, shift } => Requantize::Dyadic { mult: mult.into(), shift: shift.into() },
            Requants::Real(scale) => Requantize::Real(scale.into()),
            Requants::Dynamic { .. } | Requants::None => unreachable!("replaced above"),
        };
        let real = matches!(requant, Requantize::Real(_));
        let residual = (!real && !words && draw.once_in(2) && len + SLACK <= self.end).then(|| {
            let other = self.source(draw, len);
            Residual { other, second: draw.once_in(2), spec: add_spec(draw) }
        });
        let y = match (real, draw.once_in(2)) {
            _ if words => ProductOut::Words(self.target(draw, 2 * len + 2).at.next_multiple_of(2)),
            (false, _) => ProductOut::Codes(self.pixels(draw, pixels, geom.c_out)),
            (true, _) if geom.groups == 1 && pixels > 0 && draw.once_in(2) => {
                let within = match draw.within(0..=2) {
                    0 => Within::ALL,
                    1 => Within { lo: 0.0, hi: f32::INFINITY },
                    _ => Within { lo: -20.0, hi: 300.0 },
                };
                ProductOut::Means { y: self.buffer(geom.batch * geom.c_out, true), within }
            }
            (true, true) => ProductOut::Real(self.buffer(len, true)),
            (true, false) => ProductOut::Floats(self.target(draw, 4 * len + 4).at.next_multiple_of(4)),
        };
        self.weights.push((geom, parts.w, depthwise));
        let Grid { zero, lo, hi } = parts.to;
        Kernel::Product(Box::new(Product {
            weights: self.weights.len() - 1,
            geom,
            x,
            x_zero: parts.x_zero,
            bias: parts.bias.into(),
            w_zero: parts.w_zero.map(Into::into),
            requant,
            zero,
            lo,
            hi,
            y,
            residual,
            found: None,
        }))
    }

    /// Copies here and there, or the bytes of a tensor in another order.
    fn moves(&mut self, draw: &mut Draw, most: usize) -> Kernel {
        let x = self.source(draw, most / 2);
        let (moves, len) = if draw.once_in(2) { copies(draw, x.len) } else { transposed(draw, x.len) };
        Kernel::Move { x, y: self.target(draw, len), moves, fill: draw.once_in(2).then(|| draw.byte()) }
    }

    /// The weights, packed; and those of files loaded from there.
    fn pack(&self, isa: Isa, stored: bool) -> Result<Vec<Weights>, String> {
        let pack = |(geom, w, depthwise): &(ConvGeom, Vec<i8>, bool)| {
            let weights = match depthwise {
                true => Weights::Depthwise(Arc::new(PackedDepthwise::pack(isa, geom, w))),
                // Those of a file as they lie where there are many of them.
                false if stored => Weights::Conv(Arc::new(PackedConv::pack(isa, geom, w).in_fields())),
                false => Weights::Conv(Arc::new(PackedConv::pack(isa, geom, w))),
            };
            if !stored {
                return Ok(weights);
            }
            let (sizes, bytes) = weights.store();
            Weights::load(isa, &sizes, Bytes::copy_from_slice(&bytes))
        };
        self.weights.iter().map(pack).collect()
    }
}

pub fn case(draw: &mut Draw, bench: &mut Bench) -> Result<(), String> {
    // Steps of some size are shared between the members of a team.
    let most = at_most(if draw.once_in(4) { 1 << 17 } else { 1 << 13 }, 1 << 9);
    let start = 3 * most + SLACK;
    let mut plan = Plan { kernels: Vec::new(), weights: Vec::new(), reals: vec![(0, false)], end: start };
    for _ in 0..draw.within(1..=4) {
        plan.step(draw, most);
    }
    let Plan { end: arena, .. } = plan;
    // First, every byte of the arena is written.
    plan.reals[0].0 = arena;
    let planes = Planes { batch: 1, channels: 1, pixels: arena };
    let code = Code { scale: 1.0, zero: 0, lo: 0, hi: 255 };
    plan.kernels.insert(0, Kernel::Quantize { x: 0, y: Span { at: 0, len: arena }, planes, code });
    let reals: Vec<Vec<f32>> = plan
        .reals
        .iter()
        .enumerate()
        .map(|(i, &(len, written))| match written {
            true => vec![-7.0; len],
            // The first are the codes of the arena.
            false if i == 0 => draw.bytes(len).into_iter().map(f32::from).collect(),
            false => {
                let (first, step) = (f32::from(draw.byte()), draw.magnitude(-6.0, 3.0) as f32);
                draw.bytes(len).into_iter().map(|b| (f32::from(b) - first) * step).collect()
            }
        })
        .collect();
    let stored = draw.once_in(3);
    bench.note((arena, stored, short(&plan.kernels)));
    let mut model = Memory { arena: vec![0; arena], reals: reals.clone() };
    let plain: Vec<Vec<i8>> = plan.weights.iter().map(|(_, w, _)| w.clone()).collect();
    for kernel in &plan.kernels {
        model.step(kernel, &plain);
    }
    let chosen = draw.once_in(2);
    for &isa in &bench.isas {
        let weights = plan.pack(isa, stored)?;
        for members in 1..=3 {
            let mut tape = Tape::new(isa, members, plan.kernels.clone(), &weights, arena, plan.reals.clone())?;
            if chosen {
                choose(draw, &mut tape);
            }
            let mut got = reals.clone();
            let mut buffers: Vec<Real> = got
                .iter_mut()
                .zip(&plan.reals)
                .map(|(buffer, (_, written))| if *written { Real::Write(buffer) } else { Real::Read(buffer) })
                .collect();
            let mut workspace = Workspace::new();
            let mut team = Team::new(members).map_err(|e| e.to_string())?;
            tape.run(0..tape.len(), &mut workspace, &mut buffers, &mut team, None);
            assert_eq!(workspace.fault(), None);
            let fault = |what: &str, e: String| format!("{members} members, {what}: {e}");
            same(isa, &workspace.bytes()[..arena], &model.arena).map_err(|e| fault("arena", e))?;
            for (i, (got, want)) in got.iter().zip(&model.reals).enumerate() {
                let bits = |reals: &[f32]| reals.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                same(isa, &bits(got), &bits(want)).map_err(|e| fault(&format!("buffer {i}"), e))?;
            }
        }
    }
    Ok(())
}

/// Some copies from `len` bytes, perhaps in loops, and how many bytes they write to.
fn copies(draw: &mut Draw, len: usize) -> (Moves, usize) {
    let mut moves = Moves { copies: Vec::new(), repeats: Vec::new() };
    let (mut dst, mut reach) = (0, 0);
    for _ in 0..draw.within(0..=6) {
        let run = if draw.once_in(2) { draw.within(0..=9) } else { draw.within(0..=300) };
        let count = draw.within(0..=200);
        let (src_step, dst_step) = (draw.within(0..=run + 9), run + draw.within(0..=9));
        let size = run + count * src_step;
        if size > len / 2 {
            continue;
        }
        dst += draw.within(0..=9);
        let src = draw.within(0..=len / 2 - size);
        moves.copies.push(Copies { src, dst, len: run, count, src_step, dst_step });
        dst += count * dst_step + run;
        reach = reach.max(src + size);
    }
    while moves.copies.iter().any(|c| c.count * c.len > 0) && draw.once_in(2) {
        let (times, src_step) = (draw.within(1..=9), draw.within(0..=9));
        if reach + times * src_step > len || dst * times > 4 * len {
            break;
        }
        let dst_step = dst + draw.within(0..=3);
        moves.repeats.insert(0, Repeat { times, src_step, dst_step });
        (reach, dst) = (reach + times * src_step, times * dst_step);
    }
    (moves, dst)
}

/// A tensor in at most `len` bytes with its axes in another order, perhaps a part of it, perhaps with holes.
fn transposed(draw: &mut Draw, len: usize) -> (Moves, usize) {
    let sizes = [draw.within(1..=3), draw.size(60), draw.within(1..=20), draw.within(1..=20)];
    let mut axes = [0, 1, 2, 3];
    for i in (1..4).rev() {
        axes.swap(i, draw.within(0..=i));
    }
    let part = axes.map(|axis| if draw.once_in(4) { draw.within(1..=sizes[axis]) } else { sizes[axis] });
    let holes = if draw.once_in(4) { draw.within(2..=40) } else { usize::MAX };
    let total: usize = part.iter().product();
    let sources = (0..total).map(|mut i| {
        let (mut at, number) = ([0; 4], i);
        for (axis, size) in axes.iter().zip(part).rev() {
            at[*axis] = i % size;
            i /= size;
        }
        let from = at.iter().zip(sizes).fold(0, |n, (i, size)| n * size + i);
        if from >= len || number % holes == 1 { -1 } else { from as i32 }
    });
    (Moves::of(&sources.collect::<Vec<_>>()), total)
}

/// Any of what is open to each step.
fn choose(draw: &mut Draw, tape: &mut Tape) {
    for i in 0..tape.len() {
        let (ways, splits) = (tape.ways(i), tape.splits(i));
        let way = if ways.is_empty() { Way::default() } else { draw.pick(&ways) };
        let split = if splits.is_empty() || draw.once_in(3) { None } else { Some(draw.pick(&splits)) };
        tape.choose(i, Choice { way, split });
    }
}

/// The steps without their tables.
fn short(kernels: &[Kernel]) -> Vec<String> {
    let product = |p: &Product| {
        let sum = p.residual.as_ref().map(|r| (r.other, r.second, r.spec));
        format!("{:?} from {:?} zero {} to {:?}, sum {sum:?}", p.geom, p.x, p.x_zero, p.y)
    };
    let step = |kernel: &Kernel| match kernel {
        Kernel::Product(p) => product(p),
        Kernel::Lut { x, y, .. } => format!("table from {x:?} to {y:?}"),
        other => format!("{other:?}"),
    };
    kernels.iter().map(step).collect()
}
