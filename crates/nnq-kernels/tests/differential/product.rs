//! Convolutions and matrix products.
use crate::{
    Bench,
    draw::{Draw, at_most},
    same,
    spec::{Grid, Operands},
};
use nnq_kernels::{
    Isa, SLACK,
    conv::{ConvGeom, Epilogue, Out, PackedConv, Requant, Scratch},
    depthwise::PackedDepthwise,
    round::{Dyadic, ScalarRequant},
};
use std::{fmt, ops::Range};

/// Bytes on either side of an output.
const GUARD: usize = 80;
/// What outputs hold before.
const BEFORE: u8 = 0xa5;

/// Requantization of each output channel.
pub enum Requants {
    Onnx(Vec<f32>),
    Dyadic { mult: Vec<i32>, shift: Vec<u8> },
    Real(Vec<f32>),
    Dynamic { x_scale: f32, scale: Vec<f32>, bias: Vec<f32> },
    None,
}

/// A product's parts beside its inputs.
pub struct Parts {
    pub geom: ConvGeom,
    pub w: Vec<i8>,
    pub bias: Vec<i32>,
    pub w_zero: Option<Vec<i32>>,
    pub x_zero: u8,
    pub requants: Requants,
    pub to: Grid,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requants = match &self.requants {
            Requants::Onnx(_) => "onnx",
            Requants::Dyadic { .. } => "dyadic",
            Requants::Real(_) => "real",
            Requants::Dynamic { .. } => "dynamic",
            Requants::None => "none",
        };
        let zeros = self.w_zero.is_some();
        write!(f, "{:?} x_zero {} w_zero {zeros} {requants} {:?}", self.geom, self.x_zero, self.to)
    }
}

/// A multiplier that takes accumulators up to `bound` to codes, mostly.
pub fn factor(draw: &mut Draw, bound: f64) -> f64 {
    match draw.within(0..=19) {
        0 => 0.0,
        1 => draw.magnitude(-60.0, 20.0),
        _ => 300.0 / bound.max(1.0) * draw.magnitude(-1.0, 6.0),
    }
}

/// A [`Dyadic`] of such a multiplier.
pub fn dyadic(draw: &mut Draw, bound: f64) -> Dyadic {
    match draw.within(0..=19) {
        0 => Dyadic { mult: draw.within(1 << 30..=(1 << 31) - 1) as i32, shift: draw.within(1..=62) as u8 },
        _ => Dyadic::from_real(factor(draw, bound)).expect("in range"),
    }
}

impl Parts {
    pub fn draw(draw: &mut Draw, geom: ConvGeom) -> Parts {
        let c = geom.c_out;
        let zeros = draw.once_in(5).then(|| (0..c).map(|_| i32::from(draw.byte() as i8)).collect());
        // The largest sum of products, as the lowering proves it.
        let bound = geom.depth() as f64 * 255.0 * if zeros.is_some() { 255.0 } else { 128.0 };
        let room = f64::from(i32::MAX) - bound;
        let far = draw.once_in(10);
        let bias = (0..c).map(|_| match far {
            true => (room * (2.0 * draw.share() - 1.0)) as i32,
            false => draw.next() as i32 >> 14,
        });
        let bias: Vec<i32> = bias.collect();
        let spread = if far { f64::from(i32::MAX) } else { bound };
        // One outlier among small factors, as after a channel that is almost zero.
        let spread = |draw: &mut Draw| if draw.once_in(40) { 300.0 } else { spread };
        let requants = match draw.within(0..=9) {
            0 => Requants::None,
            1 if draw.once_in(2) => Requants::Dynamic {
                x_scale: draw.magnitude(-10.0, 3.0) as f32,
                scale: (0..c).map(|_| draw.magnitude(-20.0, 0.0) as f32).collect(),
                bias: (0..c).map(|_| if draw.once_in(4) { 0.0 } else { draw.share() as f32 - 0.5 }).collect(),
            },
            1 => Requants::Real((0..c).map(|_| draw.magnitude(-30.0, 3.0) as f32).collect()),
            2..=5 => {
                let small = draw.once_in(2);
                let by = (0..c).map(|_| {
                    let spread = spread(draw);
                    let by = dyadic(draw, spread);
                    // Without a large factor the kernels have a shorter way.
                    if small && by.shift < 33 { Dyadic { mult: by.mult, shift: 33 } } else { by }
                });
                let (mult, shift) = by.map(|by| (by.mult, by.shift)).unzip();
                Requants::Dyadic { mult, shift }
            }
            _ => Requants::Onnx(
                (0..c)
                    .map(|_| {
                        let spread = spread(draw);
                        factor(draw, spread) as f32
                    })
                    .collect(),
            ),
        };
        Parts {
            w: draw.weights(c * geom.depth()),
            bias,
            w_zero: zeros,
            x_zero: draw.pick(&[0, 1, 127, 128, 255, 99]),
            requants,
            to: Grid::new(draw.limits()),
            geom,
        }
    }

    pub fn accumulators(&self, x: &[u8]) -> Vec<i64> {
        let Parts { geom, w, bias, w_zero, x_zero, .. } = self;
        Operands { geom, w, w_zero: w_zero.as_deref(), bias, x_zero: *x_zero }.accumulators(x)
    }

    /// The code of an accumulator.
    pub fn code(&self, acc: i64, channel: usize) -> u8 {
        let by = match &self.requants {
            Requants::Onnx(m) => ScalarRequant::Onnx(m[channel]),
            Requants::Dyadic { mult, shift } => {
                ScalarRequant::Dyadic(Dyadic { mult: mult[channel], shift: shift[channel] })
            }
            Requants::Real(_) | Requants::Dynamic { .. } | Requants::None => unreachable!("no codes"),
        };
        self.to.requantize(acc, by)
    }

    fn epilogue(&self) -> Epilogue<'_> {
        Epilogue {
            bias: &self.bias,
            w_zero: self.w_zero.as_deref(),
            requant: match &self.requants {
                Requants::Onnx(m) => Requant::Onnx(m),
                Requants::Dyadic { mult, shift } => Requant::Dyadic { mult, shift },
                Requants::Real(s) => Requant::Real(s),
                Requants::Dynamic { x_scale, scale, bias } => Requant::Dynamic { x_scale: *x_scale, scale, bias },
                Requants::None => Requant::None,
            },
            zero: self.to.zero,
            lo: self.to.lo,
            hi: self.to.hi,
        }
    }
}

pub fn case(draw: &mut Draw, bench: &mut Bench) -> Result<(), String> {
    let most = if draw.once_in(10) { 1_500_000 } else { 150_000 };
    let geom = draw.geometry(at_most(most, 4000), 1 << 16);
    run(draw, bench, geom, |isa, parts| {
        let packed = PackedConv::pack(isa, &parts.geom, &parts.w);
        // Weights of few bits as they lie where there are many of them.
        let packed = if parts.x_zero == 128 { packed } else { packed.in_fields() };
        let bound = packed.bind(&parts.geom, parts.x_zero, &parts.epilogue());
        Box::new(move |x, rows, out, scratch| bound.run(x, rows, out, scratch))
    })
}

pub fn depthwise_case(draw: &mut Draw, bench: &mut Bench) -> Result<(), String> {
    let geom = draw.depthwise_geometry(at_most(300_000, 4000), 1 << 17);
    run(draw, bench, geom, |isa, parts| {
        let bound = PackedDepthwise::pack(isa, &geom, &parts.w).bind(&geom, parts.x_zero, &parts.epilogue());
        Box::new(move |x, rows, out, scratch| bound.run(x, rows, out, scratch))
    })
}

type Run = Box<dyn Fn(&[u8], Range<usize>, Out<'_>, &mut Scratch)>;

fn run(draw: &mut Draw, bench: &mut Bench, geom: ConvGeom, bind: impl Fn(Isa, &Parts) -> Run) -> Result<(), String> {
    let parts = Parts::draw(draw, geom);
    let len = geom.batch * geom.in_h * geom.in_w * geom.c_in;
    // Inputs need not be aligned.
    let skip = draw.pick(&[0, 0, 1, 13]);
    let memory = draw.bytes(skip + len + SLACK);
    let x = &memory[skip..];
    let (c, pixels) = (geom.c_out, geom.pixels());
    let pitch = c + if draw.once_in(2) { 0 } else { draw.within(1..=40) };
    let cuts = draw.parts(pixels);
    bench.note((&parts, pitch, skip, &cuts));
    let acc = parts.accumulators(x);
    let Bench { isas, scratch, .. } = bench;
    for &isa in isas.iter() {
        let run = bind(isa, &parts);
        match &parts.requants {
            Requants::None => {
                let want: Vec<i32> = acc.iter().map(|&acc| acc as i32).collect();
                let mut y = vec![-1; want.len()];
                for rows in &cuts {
                    let out = Out::I32(&mut y[rows.start * c..rows.end * c]);
                    run(x, rows.clone(), out, scratch);
                }
                same(isa, &y, &want)?;
            }
            Requants::Real(_) | Requants::Dynamic { .. } => {
                let real = |acc: i64, c: usize| match &parts.requants {
                    Requants::Real(scale) => acc as f32 * scale[c],
                    Requants::Dynamic { x_scale, scale, bias } => acc as f32 * (x_scale * scale[c]) + bias[c],
                    _ => unreachable!("real numbers"),
                };
                let want = acc.iter().enumerate().map(|(i, &acc)| real(acc, i % c).to_bits());
                let mut y = vec![-1f32; acc.len()];
                for rows in &cuts {
                    let out = Out::F32(&mut y[rows.start * c..rows.end * c]);
                    run(x, rows.clone(), out, scratch);
                }
                let y: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
                same(isa, &y, &want.collect::<Vec<_>>())?;
            }
            Requants::Onnx(_) | Requants::Dyadic { .. } => {
                let mut want = vec![BEFORE; GUARD + pixels * pitch + GUARD];
                let mut y = want.clone();
                for (i, &acc) in acc.iter().enumerate() {
                    want[GUARD + i / c * pitch + i % c] = parts.code(acc, i % c);
                }
                for rows in cuts.iter().filter(|rows| !rows.is_empty()) {
                    // The slice ends with the last channel.
                    let to = GUARD + rows.start * pitch..GUARD + (rows.end - 1) * pitch + c;
                    run(x, rows.clone(), Out::U8 { data: &mut y[to], pitch }, scratch);
                }
                same(isa, &y, &want)?;
            }
        }
    }
    Ok(())
}
