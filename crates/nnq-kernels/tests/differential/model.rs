//! The steps of a tape by the formulas, on a model of its memory.
use crate::{
    resize,
    spec::{self, Grid, Operands, windows},
};
use nnq_kernels::{
    round::{Dyadic, ScalarRequant},
    tape::{Code, Found, Kernel, Moves, Product, ProductOut, Requantize, Span},
};

/// An arena and buffers of real numbers.
#[derive(Clone)]
pub struct Memory {
    pub arena: Vec<u8>,
    pub reals: Vec<Vec<f32>>,
}

impl Memory {
    fn span(&self, span: Span) -> Vec<u8> {
        self.arena[span.at..span.at + span.len].to_vec()
    }

    fn write(&mut self, at: usize, codes: impl IntoIterator<Item = u8>) {
        self.arena[at..].iter_mut().zip(codes).for_each(|(to, code)| *to = code);
    }

    /// `weights` are those of each product, as they were before packing.
    pub fn step(&mut self, kernel: &Kernel, weights: &[Vec<i8>]) {
        match kernel {
            Kernel::Quantize { x, y, planes: p, code } => {
                let to = Grid { zero: code.zero, lo: code.lo, hi: code.hi };
                let from = |i: usize| {
                    let (sample, pixel, channel) =
                        (i / p.channels / p.pixels, i / p.channels % p.pixels, i % p.channels);
                    (sample * p.channels + channel) * p.pixels + pixel
                };
                let codes: Vec<u8> = (0..p.len()).map(|i| to.quantize(self.reals[*x][from(i)], code.scale)).collect();
                self.write(y.at, codes);
            }
            Kernel::Extremes { x, y, .. } => {
                let entries: Vec<u8> = self.reals[*x].chunks(Found::RUN).flat_map(entry).collect();
                assert_eq!(entries.len(), Found::room(self.reals[*x].len()));
                self.write(y.at, entries);
            }
            Kernel::QuantizeDynamic { x, y, planes, .. } => {
                let (scale, zero) = spec::dynamic(&self.reals[*x]);
                let code = Code { scale, zero, lo: 0, hi: 255 };
                self.step(&Kernel::Quantize { x: *x, y: *y, planes: *planes, code }, weights);
            }
            Kernel::Dequantize { x, y, planes: p, scale, zero } => {
                for (i, &code) in self.span(*x).iter().enumerate() {
                    let at = planes_first(i, p.channels, p.pixels);
                    self.reals[*y][at] = spec::dequantize(code, *scale, *zero);
                }
            }
            Kernel::Transpose { x, y, planes: p } => {
                let from = self.span(Span { at: *x, len: 4 * p.len() });
                for (i, real) in from.chunks_exact(4).enumerate() {
                    let at = planes_first(i, p.channels, p.pixels);
                    self.reals[*y][at] = f32::from_le_bytes(real.try_into().expect("four bytes"));
                }
            }
            Kernel::Product(product) => self.product(product, &weights[product.weights]),
            Kernel::Add { a, b, y, spec } => {
                let codes: Vec<u8> =
                    self.span(*a).iter().zip(self.span(*b)).map(|(&a, b)| spec::add(spec, a, b)).collect();
                self.write(y.at, codes);
            }
            Kernel::Mul { a, b, y, spec } => {
                let codes: Vec<u8> =
                    self.span(*a).iter().zip(self.span(*b)).map(|(&a, b)| spec::mul(spec, a, b)).collect();
                self.write(y.at, codes);
            }
            Kernel::Lut { x, y, table } => {
                let codes: Vec<u8> = self.span(*x).iter().map(|&code| table[usize::from(code)]).collect();
                self.write(y.at, codes);
            }
            Kernel::MaxPool { x, y, geom } => {
                let x = self.span(*x);
                for (i, window) in windows(geom, &x).enumerate() {
                    let most = window.codes.iter().copied().max().unwrap_or(0);
                    self.arena[y.at + i / geom.c * y.pitch + i % geom.c] = most;
                }
            }
            Kernel::AvgPool { x, y, geom, average: a } => {
                let (x, to) = (self.span(*x), Grid { zero: a.zero, lo: a.lo, hi: a.hi });
                for (i, window) in windows(geom, &x).enumerate() {
                    let mean = spec::mean(&window, a.x_zero, a.count_include_pad, &a.requants, to);
                    self.arena[y.at + i / geom.c * y.pitch + i % geom.c] = mean;
                }
            }
            Kernel::Resize { x, y, resize: of } => {
                for (i, code) in resize::formula(of, &self.span(*x)).into_iter().enumerate() {
                    self.arena[y.at + i / of.c * y.pitch + i % of.c] = code;
                }
            }
            Kernel::Integers(of) => self.integers(of),
            Kernel::Move { x, y, moves, fill } => {
                if let Some(code) = fill {
                    self.write(y.at, vec![*code; y.len]);
                }
                self.moves(x.at, y.at, moves);
            }
        }
    }

    fn moves(&mut self, src: usize, dst: usize, moves: &Moves) {
        if let Some((outer, inner)) = moves.repeats.split_first() {
            let inner = Moves { copies: moves.copies.clone(), repeats: inner.to_vec() };
            for i in 0..outer.times {
                self.moves(src + i * outer.src_step, dst + i * outer.dst_step, &inner);
            }
            return;
        }
        for c in &moves.copies {
            for i in 0..c.count {
                let run = self.span(Span { at: src + c.src + i * c.src_step, len: c.len });
                self.write(dst + c.dst + i * c.dst_step, run);
            }
        }
    }

    /// Scale and zero point of numbers whose extremes were found.
    fn found(&self, found: Found) -> (f32, u8) {
        let len = found.runs * 12;
        let entries = self.span(Span { at: found.at, len });
        let ends = entries
            .chunks_exact(12)
            .flat_map(|e| [0, 4].map(|i| f32::from_le_bytes(e[i..i + 4].try_into().expect("four bytes"))));
        spec::dynamic(&ends.collect::<Vec<_>>())
    }

    fn product(&mut self, p: &Product, w: &[i8]) {
        // What the extremes before it say.
        let live = p.found.map(|found| self.found(found));
        let x_zero = live.map_or(p.x_zero, |(_, zero)| zero);
        let operands = Operands { geom: &p.geom, w, w_zero: p.w_zero.as_deref(), bias: &p.bias, x_zero };
        let acc = operands.accumulators(&self.span(p.x));
        let (c, to) = (p.geom.c_out, Grid { zero: p.zero, lo: p.lo, hi: p.hi });
        let code = |i: usize| match &p.requant {
            Requantize::Onnx(m) => to.requantize(acc[i], ScalarRequant::Onnx(m[i % c])),
            Requantize::Dyadic { mult, shift } => {
                let by = Dyadic { mult: mult[i % c], shift: shift[i % c] };
                to.requantize(acc[i], ScalarRequant::Dyadic(by))
            }
            Requantize::Real(_) | Requantize::Dynamic { .. } | Requantize::Sums | Requantize::Words { .. } => {
                unreachable!("no codes")
            }
        };
        let real = |i: usize| match &p.requant {
            Requantize::Dynamic { scale, bias } => {
                let x_scale = live.expect("a grid").0;
                acc[i] as f32 * (x_scale * scale[i % c]) + bias[i % c]
            }
            Requantize::Real(scale) => acc[i] as f32 * scale[i % c],
            _ => unreachable!("no real numbers"),
        };
        match p.y {
            ProductOut::Codes(y) => {
                for i in 0..acc.len() {
                    let at = y.at + i / c * y.pitch + i % c;
                    self.arena[at] = match &p.residual {
                        None => code(i),
                        Some(r) => {
                            let other = self.arena[r.other.at + i];
                            let (a, b) = if r.second { (other, code(i)) } else { (code(i), other) };
                            spec::add(&r.spec, a, b)
                        }
                    };
                }
            }
            ProductOut::Real(y) => (0..acc.len()).for_each(|i| self.reals[y][i] = real(i)),
            ProductOut::Means { y, within } => {
                let plane = p.geom.out_h * p.geom.out_w;
                for (i, mean) in self.reals[y].iter_mut().enumerate() {
                    let first = i / c * plane * c + i % c;
                    let held = (0..plane).map(|pixel| spec::within(real(first + pixel * c), within));
                    *mean = (held.fold(-0.0, |sum, x| sum + f64::from(x)) / plane as f64) as f32;
                }
            }
            ProductOut::Sums(y) => {
                let bytes: Vec<u8> = acc.iter().flat_map(|&acc| (acc as i32).to_le_bytes()).collect();
                self.write(y, bytes);
            }
            ProductOut::Words(y) => {
                let Requantize::Words { mult, shift, to } = &p.requant else { unreachable!("no words") };
                let word = |i: usize| {
                    let (mult, shift) = (i128::from(mult[i % c]), shift[i % c]);
                    let steps = (i128::from(acc[i] as i32) * mult + (1 << (shift - 1))) >> shift;
                    (steps + i128::from(to.zero)).clamp(to.lo.into(), to.hi.into()) as i16
                };
                let bytes: Vec<u8> = (0..acc.len()).flat_map(|i| word(i).to_le_bytes()).collect();
                self.write(y, bytes);
            }
            ProductOut::Floats(y) => {
                let bytes: Vec<u8> = (0..acc.len()).flat_map(|i| real(i).to_le_bytes()).collect();
                self.write(y, bytes);
            }
        }
    }
}

/// The extremes of a run of numbers: the least, at most 0, the largest, at least 0, and the bits of the largest magnitude.
fn entry(run: &[f32]) -> [u8; 12] {
    let (low, high) = run.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
    let mut entry = [0; 12];
    entry[..4].copy_from_slice(&low.to_le_bytes());
    entry[4..8].copy_from_slice(&high.to_le_bytes());
    entry[8..].copy_from_slice(&high.max(-low).to_le_bytes());
    entry
}

/// The place in `[batch][channels][pixels]` of element `i` of `[batch][pixels][channels]`.
fn planes_first(i: usize, channels: usize, pixels: usize) -> usize {
    let (sample, pixel, channel) = (i / channels / pixels, i / channels % pixels, i % channels);
    (sample * channels + channel) * pixels + pixel
}
