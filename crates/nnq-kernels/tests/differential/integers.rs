//! Attention, normalisation and codes of 16 bits (section 14).
use crate::{
    draw::{Draw, at_most},
    model::Memory,
};
use nnq_kernels::{
    pair::Pair,
    round::{
        AddDyadic, Dyadic,
        integers::{Norm, Softmax},
    },
    tape::{Integers, Mask, MaskOf, Span},
    wide::{AddWide, Lut, NormRows, Rescale, SoftmaxRows, Target, Width},
};
use std::sync::Arc;

/// Places for a step: bytes that may be read, places to write, and buffers of real numbers to read.
pub trait Places {
    fn source(&mut self, draw: &mut Draw, len: usize) -> Span;
    fn target(&mut self, draw: &mut Draw, len: usize) -> Span;
    fn buffer(&mut self, len: usize) -> usize;
}

fn width(draw: &mut Draw) -> Width {
    draw.pick(&[Width::Byte, Width::Word])
}

/// A zero point of codes of this width.
fn zero(draw: &mut Draw, width: Width) -> i32 {
    if width == Width::Byte { draw.byte().into() } else { draw.within(0..=65_535) as i32 - 32_768 }
}

fn target(draw: &mut Draw) -> Target {
    let width = width(draw);
    let (a, b) = (zero(draw, width), zero(draw, width));
    Target { zero: zero(draw, width), lo: a.min(b), hi: a.max(b), width }
}

fn codes(places: &mut impl Places, draw: &mut Draw, count: usize, width: Width, write: bool) -> Span {
    let len = count * width.bytes();
    let room = len + width.bytes() - 1;
    let found = if write { places.target(draw, room) } else { places.source(draw, room) };
    Span { at: found.at.next_multiple_of(width.bytes()), len }
}

/// A drawn step on at most `most` codes.
pub fn step(draw: &mut Draw, places: &mut impl Places, most: usize) -> Integers {
    let most = most / 4;
    let (columns, to) = (draw.size(most.min(200)), target(draw));
    let rows = draw.within(0..=(most / columns).min(9));
    let (n, from) = (rows * columns, width(draw));
    match draw.within(0..=5) {
        0 => {
            let from = draw.pick(&[Width::Byte, Width::Word, Width::Sum]);
            let rules: Vec<Dyadic> =
                (0..columns).map(|_| Dyadic::from_real(draw.magnitude(-20.0, 6.0)).expect("a factor")).collect();
            let signs: Vec<bool> = (0..columns).map(|_| draw.once_in(5)).collect();
            let spec = Rescale {
                from,
                x_zero: if from == Width::Sum { 0 } else { zero(draw, from) },
                mult: rules.iter().zip(signs).map(|(r, minus)| if minus { -r.mult } else { r.mult }).collect(),
                shift: rules.iter().map(|r| r.shift).collect(),
                reach: [8, 17, 31][from.bytes() / 2],
                to,
            };
            let (x, y) = (codes(places, draw, n, from, false), codes(places, draw, n, to.width, true));
            Integers::Rescale { x, y, spec: Arc::new(spec) }
        }
        1 => {
            let by = AddDyadic::from_real(draw.magnitude(-9.0, 3.0), draw.magnitude(-9.0, 3.0)).expect("factors");
            let by = AddDyadic { mb: if draw.once_in(2) { -by.mb } else { by.mb }, ..by };
            let other = width(draw);
            let spec = AddWide { by, from: [(from, zero(draw, from)), (other, zero(draw, other))], to };
            // The second repeats.
            let period = if draw.once_in(2) { n } else { columns };
            let (a, b) = (codes(places, draw, n, from, false), codes(places, draw, period, other, false));
            Integers::Add { a, b, y: codes(places, draw, n, to.width, true), spec: Arc::new(spec) }
        }
        2 => {
            let least = zero(draw, from) - 5;
            let entry = |draw: &mut Draw| if to.width == Width::Byte { draw.byte().into() } else { draw.next() as i16 };
            let table = (0..draw.within(1..=300)).map(|_| entry(draw)).collect();
            let (x, y) = (codes(places, draw, n, from, false), codes(places, draw, n, to.width, true));
            Integers::Lut { x, y, spec: Arc::new(Lut { from, least, table, to: to.width }) }
        }
        3 => {
            let parts = |draw: &mut Draw| (0..columns).map(|_| (draw.share() * 4.0 - 2.0) as f32).collect::<Vec<_>>();
            let (gamma, beta) = (parts(draw), parts(draw));
            let (scale, step) = (draw.magnitude(-12.0, 2.0) as f32, draw.magnitude(-13.0, -2.0) as f32);
            let norm = Norm::new(scale, draw.magnitude(-40.0, -3.0) as f32, &gamma, &beta, step).expect("a norm");
            let spec = NormRows { norm: Arc::new(norm), from, x_zero: zero(draw, from), to };
            let (x, y) = (codes(places, draw, n, from, false), codes(places, draw, n, to.width, true));
            Integers::Norm { x, y, spec: Arc::new(spec) }
        }
        4 => {
            let scale = draw.magnitude(-9.0, 1.0) as f32;
            let softmax = Softmax::new(scale, draw.magnitude(-9.0, -6.0) as f32).expect("a softmax");
            let (zero, lo, hi) = draw.limits();
            let to = Target { zero: zero.into(), lo: lo.into(), hi: hi.into(), width: Width::Byte };
            let mask = draw.once_in(2).then(|| {
                // One row of the mask for all, or one for each.
                let each = draw.once_in(2);
                let len = if each { n.max(columns) } else { columns };
                let of = if draw.once_in(2) {
                    MaskOf::Real(places.buffer(len))
                } else {
                    let far = |draw: &mut Draw| draw.pick(&[0, -(1 << 24), 1 << 24, -300, 7]) + i32::from(draw.byte());
                    let table = (0..256).map(|_| far(draw).clamp(-(1 << 24), 1 << 24)).collect();
                    MaskOf::Table { at: codes(places, draw, len, Width::Word, false), table }
                };
                Mask { of, len, axes: vec![(rows, if each { columns } else { 0 })] }
            });
            let spec = SoftmaxRows { softmax: Arc::new(softmax), scale, columns, to };
            let (x, y) = (codes(places, draw, n, Width::Byte, false), codes(places, draw, n, Width::Byte, true));
            Integers::Softmax { x, y, mask, spec: Arc::new(spec) }
        }
        _ => {
            let (zero, lo, hi) = draw.limits();
            let (batch, depth) = (draw.within(1..=3), draw.within(1..=at_most(60, 5)));
            let columns = columns.min(most / depth / batch).max(1);
            let rows = rows.min(most / batch / depth.max(columns));
            let by = Dyadic::from_real(draw.magnitude(-20.0, -6.0)).expect("a factor");
            let (a_zero, b_zero) = (draw.byte(), draw.pick(&[128, 0, 255, 91]));
            let of = Pair { batch, rows, depth, columns, a_zero, b_zero, by, zero, lo, hi };
            let [a, b, y] = of.lens();
            let (a, b) = (places.source(draw, a), places.source(draw, b));
            Integers::Pair { a, b, y: places.target(draw, y), spec: Arc::new(of) }
        }
    }
}

impl Memory {
    fn codes(&self, span: Span, width: Width) -> Vec<i128> {
        let of = |b: &[u8]| match width {
            Width::Byte => b[0].into(),
            Width::Word => i16::from_le_bytes([b[0], b[1]]).into(),
            Width::Sum => i32::from_le_bytes([b[0], b[1], b[2], b[3]]).into(),
        };
        self.arena[span.at..span.at + span.len].chunks_exact(width.bytes()).map(of).collect()
    }

    fn put(&mut self, y: Span, to: Target, steps: Vec<i128>) {
        let code = |steps: i128| (steps + i128::from(to.zero)).clamp(to.lo.into(), to.hi.into());
        let bytes: Vec<u8> = match to.width {
            Width::Byte => steps.into_iter().map(|s| code(s) as u8).collect(),
            _ => steps.into_iter().flat_map(|s| (code(s) as i16).to_le_bytes()).collect(),
        };
        assert_eq!(bytes.len(), y.len);
        self.arena[y.at..y.at + y.len].copy_from_slice(&bytes);
    }

    /// The formulas of section 14.
    pub fn integers(&mut self, of: &Integers) {
        let rounded = |x: i128, t: u8| (x + (1 << (t - 1))) >> t;
        match of {
            Integers::Rescale { x, y, spec } => {
                let n = spec.mult.len();
                let code = |(i, q): (usize, i128)| {
                    rounded((q - i128::from(spec.x_zero)) * i128::from(spec.mult[i % n]), spec.shift[i % n])
                };
                let steps = self.codes(*x, spec.from).into_iter().enumerate().map(code).collect();
                self.put(*y, spec.to, steps);
            }
            Integers::Add { a, b, y, spec } => {
                let [(wa, za), (wb, zb)] = spec.from;
                let (a, b) = (self.codes(*a, wa), self.codes(*b, wb));
                let sum = |i: usize| {
                    let (a, b) = (a[i % a.len()] - i128::from(za), b[i % b.len()] - i128::from(zb));
                    rounded(a * i128::from(spec.by.ma) + b * i128::from(spec.by.mb), spec.by.shift)
                };
                let steps = (0..y.len / spec.to.width.bytes()).map(sum).collect();
                self.put(*y, spec.to, steps);
            }
            Integers::Lut { x, y, spec } => {
                let last = spec.table.len() as i128 - 1;
                let entry = |q: i128| spec.table[(q - i128::from(spec.least)).clamp(0, last) as usize].into();
                let steps = self.codes(*x, spec.from).into_iter().map(entry).collect();
                let to = Target { zero: 0, lo: i32::MIN, hi: i32::MAX, width: spec.to };
                self.put(*y, to, steps);
            }
            Integers::Norm { x, y, spec } => {
                let norm = &spec.norm;
                let n = norm.gain.len();
                let mut steps = Vec::new();
                for row in self.codes(*x, spec.from).chunks(n) {
                    let a: Vec<i128> = row.iter().map(|q| q - i128::from(spec.x_zero)).collect();
                    let (sum, squares) = (a.iter().sum::<i128>(), a.iter().map(|a| a * a).sum::<i128>());
                    let v = (n as i128 * squares - sum * sum) as u64 + norm.epsilon;
                    let h = if v == 0 { 0 } else { v.leading_zeros() / 2 };
                    let r = if v == 0 { 0 } else { ((1i128 << 62) - 1) / i128::from((v << (2 * h)).isqrt()) };
                    for (i, a) in a.iter().enumerate() {
                        let c = ((n as i128 * a - sum) << h) >> 9;
                        let normal = (c * r + (1 << 32)) >> 33;
                        let product = (normal * i128::from(norm.gain[i])) >> 32;
                        steps.push(rounded(product + i128::from(norm.offset[i]), norm.shift));
                    }
                }
                self.put(*y, spec.to, steps);
            }
            Integers::Softmax { x, y, mask, spec } => {
                let n = spec.columns;
                let mut steps = Vec::new();
                for (row, q) in self.codes(*x, Width::Byte).chunks(n).enumerate() {
                    let added = |i: usize| {
                        let Some(mask) = mask else { return 0 };
                        let at = row * mask.axes[0].1 + i;
                        let real = match &mask.of {
                            MaskOf::Real(real) => self.reals[*real][at],
                            MaskOf::Table { at: words, table } => {
                                return table[self.codes(*words, Width::Word)[at] as usize & 255].into();
                            }
                        };
                        let steps = real / spec.scale;
                        if steps.is_nan() {
                            -(1 << 24)
                        } else {
                            steps.round_ties_even().clamp(-16_777_216.0, 16_777_216.0) as i128
                        }
                    };
                    let u: Vec<i128> = (0..n).map(|i| q[i] + added(i)).collect();
                    let most = u.iter().copied().max().unwrap_or(0);
                    let e = |u: &i128| i128::from(spec.softmax.table.get((most - u) as usize).copied().unwrap_or(0));
                    let sum: i128 = u.iter().map(e).sum();
                    let factor = (i128::from(spec.softmax.per) << 16) / sum;
                    steps.extend(u.iter().map(|u| (e(u) * factor + (1 << 35)) >> 36));
                }
                self.put(*y, spec.to, steps);
            }
            Integers::Pair { a, b, y, spec: p } => {
                let (a, b) = (self.codes(*a, Width::Byte), self.codes(*b, Width::Byte));
                let mut steps = Vec::new();
                for i in 0..p.batch * p.rows {
                    let sample = i / p.rows;
                    for c in 0..p.columns {
                        let term = |k: usize| {
                            let b = b[sample * p.depth * p.columns + k * p.columns + c] - i128::from(p.b_zero);
                            (a[i * p.depth + k] - i128::from(p.a_zero)) * b
                        };
                        steps.push(rounded((0..p.depth).map(term).sum::<i128>() * i128::from(p.by.mult), p.by.shift));
                    }
                }
                let to = Target { zero: p.zero.into(), lo: p.lo.into(), hi: p.hi.into(), width: Width::Byte };
                self.put(*y, to, steps);
            }
            Integers::Quantize { .. } | Integers::Dequantize { .. } => unreachable!("not drawn"),
        }
    }
}
