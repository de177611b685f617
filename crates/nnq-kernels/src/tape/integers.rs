//! Steps on codes of which some are words, and those of attention: `docs/numerics.md` section 14.
use super::{
    check::Limits,
    memory::{Local, Memory},
    step::{Span, UNIT},
};
use crate::{
    Isa, SLACK,
    pair::Pair,
    wide::{self, AddWide, Codes, CodesMut, Lut, NormRows, Rescale, RowMask, SoftmaxRows, Target, Width},
};
use serde::{Deserialize, Serialize};
use std::{ops::Range, sync::Arc};

/// What is added to the rows of a softmax: real numbers, one row of them for some rows of codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// Where it lies.
    pub of: MaskOf,
    /// Its elements.
    pub len: usize,
    /// Sizes of the axes of the rows of codes, the outermost first, and how many elements of the mask each goes on by.
    pub axes: Vec<(usize, usize)>,
}

/// What a mask is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MaskOf {
    /// The buffer of real numbers.
    Real(usize),
    /// Words from 0 to 255, and what each adds to a code.
    Table {
        /// The words.
        at: Span,
        /// Of 256.
        table: Arc<[i32]>,
    },
}

impl Mask {
    /// The first element for row `row`.
    fn first(&self, mut row: usize) -> usize {
        let mut at = 0;
        for &(size, step) in self.axes.iter().rev() {
            at += row % size.max(1) * step;
            row /= size.max(1);
        }
        at
    }
}

/// A step. Spans are in bytes; words begin at even ones, sums at multiples of four.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Integers {
    /// Codes times factors.
    Rescale { x: Span, y: Span, spec: Arc<Rescale> },
    /// A sum, of operands that repeat where they are shorter.
    Add { a: Span, b: Span, y: Span, spec: Arc<AddWide> },
    /// A code for each code.
    Lut { x: Span, y: Span, spec: Arc<Lut> },
    /// Real numbers to words.
    Quantize { x: usize, y: Span, scale: f32, to: Target },
    /// Words to real numbers.
    Dequantize { x: Span, y: usize, scale: f32, zero: i32 },
    /// Layer normalisation.
    Norm { x: Span, y: Span, spec: Arc<NormRows> },
    /// Softmax.
    Softmax { x: Span, y: Span, mask: Option<Mask>, spec: Arc<SoftmaxRows> },
    /// Products of two values.
    Pair { a: Span, b: Span, y: Span, spec: Arc<Pair> },
}

impl Integers {
    /// Pieces that the work can be cut into.
    pub(super) fn units(&self) -> usize {
        let flat = |bytes: usize, width: Width| (bytes / width.bytes()).div_ceil(UNIT);
        match self {
            Integers::Rescale { y, spec, .. } => y.len / (spec.to.width.bytes() * spec.mult.len()).max(1),
            Integers::Add { y, spec, .. } => flat(y.len, spec.to.width),
            Integers::Lut { y, spec, .. } => flat(y.len, spec.to),
            Integers::Quantize { y, .. } => flat(y.len, Width::Word),
            Integers::Dequantize { x, .. } => flat(x.len, Width::Word),
            Integers::Norm { y, spec, .. } => y.len / (spec.to.width.bytes() * spec.norm.gain.len()).max(1),
            Integers::Softmax { y, spec, .. } => y.len.checked_div(spec.columns).unwrap_or(0),
            Integers::Pair { spec, .. } => spec.batch,
        }
    }

    /// Bytes that pass an element-wise kernel in the same time.
    pub(super) fn work(&self) -> usize {
        match self {
            Integers::Rescale { y, .. } | Integers::Add { y, .. } | Integers::Norm { y, .. } => 16 * y.len,
            Integers::Lut { y, .. } | Integers::Quantize { y, .. } => 2 * y.len,
            Integers::Dequantize { x, .. } => 4 * x.len,
            Integers::Softmax { y, .. } => 16 * y.len,
            Integers::Pair { spec, .. } => spec.batch * (spec.rows + 16) * spec.depth * spec.columns / 16,
        }
    }

    /// Whether every place lies within the memory, and nothing is written that is read.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), String> {
        let fit = |whole: bool| if whole { Ok(()) } else { Err(format!("parts that do not fit each other: {self:?}")) };
        let codes = |span: &Span, width: Width| {
            let bytes = width.bytes();
            match span.at.is_multiple_of(bytes) && span.len.is_multiple_of(bytes) {
                true => Ok(span.len / bytes),
                false => Err(format!("codes of {bytes} bytes at {span:?}")),
            }
        };
        match self {
            Integers::Rescale { x, y, spec } => {
                fit(spec.is_whole())?;
                let n = codes(y, spec.to.width)?;
                limits.size(codes(x, spec.from)?, n)?;
                fit(n.is_multiple_of(spec.mult.len()))?;
                limits.apart(&[*x], y.at..y.at.saturating_add(y.len))
            }
            Integers::Add { a, b, y, spec } => {
                fit(spec.is_whole())?;
                let n = codes(y, spec.to.width)?;
                for (operand, (width, _)) in [a, b].into_iter().zip(spec.from) {
                    let period = codes(operand, width)?;
                    // Pieces do not go around the end of a shorter one.
                    fit(n == 0 || period == n || (period > 0 && n.is_multiple_of(period)))?;
                }
                limits.apart(&[*a, *b], y.at..y.at.saturating_add(y.len))
            }
            Integers::Lut { x, y, spec } => {
                fit(spec.is_whole())?;
                limits.size(codes(y, spec.to)?, codes(x, spec.from)?)?;
                limits.apart(&[*x], y.at..y.at.saturating_add(y.len))
            }
            Integers::Quantize { x, y, to, .. } => {
                fit(to.is_valid() && to.width == Width::Word)?;
                limits.real(*x, codes(y, Width::Word)?, false)?;
                limits.apart(&[], y.at..y.at.saturating_add(y.len))
            }
            Integers::Dequantize { x, y, zero, .. } => {
                fit(zero.unsigned_abs() <= 1 << 16)?;
                limits.real(*y, codes(x, Width::Word)?, true)?;
                limits.apart(&[*x], 0..0)
            }
            Integers::Norm { x, y, spec } => {
                fit(spec.is_whole())?;
                let n = codes(y, spec.to.width)?;
                limits.size(codes(x, spec.from)?, n)?;
                fit(n.is_multiple_of(spec.norm.gain.len()))?;
                limits.apart(&[*x], y.at..y.at.saturating_add(y.len))
            }
            Integers::Softmax { x, y, mask, spec } => {
                fit(spec.is_whole())?;
                limits.size(x.len, y.len)?;
                fit(y.len == 0 || (spec.columns > 0 && y.len.is_multiple_of(spec.columns)))?;
                if let Some(mask) = mask {
                    match &mask.of {
                        MaskOf::Real(real) => limits.real(*real, mask.len, false)?,
                        MaskOf::Table { at, table } => {
                            limits.size(codes(at, Width::Word)?, mask.len)?;
                            limits.apart(&[*at], y.at..y.at.saturating_add(y.len))?;
                            fit(table.len() == 256 && table.iter().all(|m| m.unsigned_abs() <= 1 << 24))?;
                        }
                    }
                    let last = mask.axes.iter().try_fold(0usize, |at, &(size, step)| {
                        size.saturating_sub(1).checked_mul(step).and_then(|more| at.checked_add(more))
                    });
                    let rows = mask.axes.iter().try_fold(1usize, |n, &(size, _)| n.checked_mul(size));
                    let inside = last.and_then(|at| at.checked_add(spec.columns)).is_some_and(|end| end <= mask.len);
                    fit(rows == Some(self.units()) && (inside || y.len == 0))?;
                }
                limits.apart(&[*x], y.at..y.at.saturating_add(y.len))
            }
            Integers::Pair { a, b, y, spec } => {
                super::check::bounded(&[spec.batch, spec.rows, spec.depth])?;
                super::check::bounded(&[spec.batch, spec.depth, spec.columns])?;
                super::check::bounded(&[spec.batch, spec.rows, spec.columns])?;
                fit(spec.is_whole())?;
                for (span, len) in [a, b, y].into_iter().zip(spec.lens()) {
                    limits.size(span.len, len)?;
                }
                limits.apart(&[*a, *b], y.at..y.at.saturating_add(y.len))
            }
        }
    }

    /// The units `units` of the step.
    ///
    /// # Safety
    /// As [`super::run::piece`].
    pub(super) unsafe fn run(&self, isa: Isa, units: Range<usize>, memory: &Memory, local: &mut Local) {
        let flat = |len: usize| units.start * UNIT..(units.end * UNIT).min(len);
        // SAFETY: all places are those that were checked, cut by `units`.
        unsafe {
            match self {
                Integers::Rescale { x, y, spec } => {
                    let row = spec.mult.len();
                    let r = units.start * row..units.end * row;
                    spec.run(isa, read(memory, x, spec.from, r.clone()), write(memory, y, spec.to.width, r));
                }
                Integers::Add { a, b, y, spec } => {
                    let [(wa, _), (wb, _)] = spec.from;
                    let (pa, pb) = (a.len / wa.bytes(), b.len / wb.bytes());
                    let mut r = flat(y.len / spec.to.width.bytes());
                    while !r.is_empty() {
                        // As far as both operands go on.
                        let n = r.len().min(pa - r.start % pa).min(pb - r.start % pb);
                        let part = |period: usize| r.start % period..r.start % period + n;
                        let (x, z) = (read(memory, a, wa, part(pa)), read(memory, b, wb, part(pb)));
                        spec.run(isa, x, z, write(memory, y, spec.to.width, r.start..r.start + n));
                        r.start += n;
                    }
                }
                Integers::Lut { x, y, spec } => {
                    let r = flat(y.len / spec.to.bytes());
                    spec.run(isa, read(memory, x, spec.from, r.clone()), write(memory, y, spec.to, r));
                }
                Integers::Quantize { x, y, scale, to } => {
                    let r = flat(y.len / 2);
                    let y = memory.words_mut(y.at + 2 * r.start, r.len());
                    wide::quantize(isa, memory.real(*x, r.start, r.len()), *scale, *to, y);
                }
                Integers::Dequantize { x, y, scale, zero } => {
                    let r = flat(x.len / 2);
                    let out = std::slice::from_raw_parts_mut(memory.real_start(*y).add(r.start), r.len());
                    wide::dequantize(isa, memory.words(x.at + 2 * r.start, r.len()), *scale, *zero, out);
                }
                Integers::Norm { x, y, spec } => {
                    let row = spec.norm.gain.len();
                    let r = units.start * row..units.end * row;
                    spec.run(isa, read(memory, x, spec.from, r.clone()), write(memory, y, spec.to.width, r));
                }
                Integers::Softmax { x, y, mask, spec } => {
                    let (n, near) = (spec.columns, spec.near());
                    // The mask of the row before: most rows of an attention have the same.
                    let mut last: (Option<usize>, Option<RowMask>) = (None, None);
                    for row in units {
                        let first = mask.as_ref().map(|m| m.first(row));
                        if first != last.0 {
                            let found = mask.as_ref().zip(first).and_then(|(m, first)| {
                                Some(match &m.of {
                                    MaskOf::Real(real) => RowMask::Real(memory.real(*real, first, n)),
                                    MaskOf::Table { at, table } => {
                                        RowMask::Table(memory.words(at.at + 2 * first, n), table.first_chunk()?)
                                    }
                                })
                            });
                            // One that hides nothing is none.
                            last = (first, found.filter(RowMask::hides));
                        }
                        let mask = last.1;
                        let (x, y) = (memory.read(x.at + row * n, n), memory.write(y.at + row * n, n));
                        spec.row(isa, x, mask, y, (&near, &mut local.ints));
                    }
                }
                Integers::Pair { a, b, y, spec } => {
                    let &Pair { rows, depth, columns, .. } = &**spec;
                    for i in units {
                        let a = memory.read(a.at + i * rows * depth, rows * depth + SLACK);
                        let b = memory.read(b.at + i * depth * columns, depth * columns);
                        let y = memory.start(y.at + i * rows * columns);
                        spec.run(isa, a, b, y, (&mut local.bytes, &mut local.scratch));
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`Memory::read`].
unsafe fn read<'m>(memory: &'m Memory, span: &Span, width: Width, r: Range<usize>) -> Codes<'m> {
    let at = span.at + r.start * width.bytes();
    // SAFETY: the caller's; the places of words and sums were checked.
    unsafe {
        match width {
            Width::Byte => Codes::Bytes(memory.read(at, r.len())),
            Width::Word => Codes::Words(memory.words(at, r.len())),
            Width::Sum => Codes::Sums(memory.sums(at, r.len())),
        }
    }
}

/// # Safety
/// As [`Memory::write`].
unsafe fn write<'m>(memory: &'m Memory, span: &Span, width: Width, r: Range<usize>) -> CodesMut<'m> {
    let at = span.at + r.start * width.bytes();
    // SAFETY: the caller's; the places of words were checked.
    unsafe {
        match width {
            Width::Byte => CodesMut::Bytes(memory.write(at, r.len())),
            _ => CodesMut::Words(memory.words_mut(at, r.len())),
        }
    }
}
