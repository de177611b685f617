//! The steps of a tape, as plain data.
use super::weights::Weights;
use crate::{
    SLACK,
    conv::{ConvGeom, Epilogue, Requant},
    eltwise::{AddSpec, MulSpec},
    pool::PoolGeom,
    round::ScalarRequant,
};
use serde::{Deserialize, Serialize};
use std::{ops::Range, sync::Arc};

/// Bytes of the arena. Behind a span that is read as activations there are [`SLACK`] more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Span {
    pub at: usize,
    pub len: usize,
}

impl Span {
    fn range(&self) -> Range<usize> {
        self.at..self.at.saturating_add(self.len)
    }
}

/// Pixels of codes in the arena that need not be neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strided {
    /// The first byte.
    pub at: usize,
    /// Bytes from one pixel to the next.
    pub pitch: usize,
}

/// Sizes of a change between `[batch][channels][pixels]` and `[batch][pixels][channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Planes {
    pub batch: usize,
    pub channels: usize,
    pub pixels: usize,
}

impl Planes {
    /// Elements.
    pub fn len(&self) -> usize {
        self.batch * self.channels * self.pixels
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A grid of stored codes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Code {
    pub scale: f32,
    pub zero: u8,
    pub lo: u8,
    pub hi: u8,
}

/// `count` runs of `len` bytes: run `i` from `src + i * src_step` to `dst + i * dst_step`, counted from the starts of the
/// spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Copies {
    pub src: usize,
    pub dst: usize,
    pub len: usize,
    pub count: usize,
    pub src_step: usize,
    pub dst_step: usize,
}

/// The multipliers of a product, shared between tapes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Requantize {
    Onnx(Arc<[f32]>),
    Dyadic { mult: Arc<[i32]>, shift: Arc<[u8]> },
    Real(Arc<[f32]>),
}

/// A sum that follows a product at once: the product's codes never reach memory as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Residual {
    /// The other operand, as large as the output.
    pub other: Span,
    /// The product is the second operand.
    pub second: bool,
    /// The sum.
    pub spec: AddSpec,
}

/// Where a product goes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum ProductOut {
    /// Codes.
    Codes(Strided),
    /// Real numbers, `[pixels][c_out]`, in a buffer.
    Real(usize),
    /// Real numbers, `[pixels][c_out]`, in the arena from this byte on (a multiple of 4).
    Floats(usize),
}

/// A convolution or matrix product.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Product {
    /// Number of the weights in the tape's table.
    pub weights: usize,
    /// Sizes.
    pub geom: ConvGeom,
    /// Activations.
    pub x: Span,
    /// Their zero point.
    pub x_zero: u8,
    /// Bias of each output channel.
    pub bias: Arc<[i32]>,
    /// Zero point of the weights of each output channel; `None`: all 0.
    pub w_zero: Option<Arc<[i32]>>,
    /// Multipliers.
    pub requant: Requantize,
    /// Zero point of the output.
    pub zero: u8,
    /// Smallest output code.
    pub lo: u8,
    /// Largest output code.
    pub hi: u8,
    /// Output.
    pub y: ProductOut,
    /// A sum with something else, which then is the output.
    pub residual: Option<Residual>,
}

impl Product {
    pub(super) fn epilogue(&self) -> Epilogue<'_> {
        Epilogue {
            bias: &self.bias,
            w_zero: self.w_zero.as_deref(),
            requant: match &self.requant {
                Requantize::Onnx(m) => Requant::Onnx(m),
                Requantize::Dyadic { mult, shift } => Requant::Dyadic { mult, shift },
                Requantize::Real(s) => Requant::Real(s),
            },
            zero: self.zero,
            lo: self.lo,
            hi: self.hi,
        }
    }

    /// Whether the numbers fit each other and the kernels.
    fn check(&self) -> Result<(), String> {
        let (g, c) = (&self.geom, self.geom.c_out);
        let positive = [g.k_h, g.k_w, g.stride_h, g.stride_w, g.dil_h, g.dil_w, g.groups].iter().all(|&n| n > 0);
        let lens = match &self.requant {
            Requantize::Onnx(m) | Requantize::Real(m) => m.len() == c,
            Requantize::Dyadic { mult, shift } => {
                let fit = mult.iter().all(|m| *m >= 0) && shift.iter().all(|s| (1..=62).contains(s));
                fit && mult.len() == c && shift.len() == c
            }
        };
        let codes = matches!(self.y, ProductOut::Codes(_)) != matches!(self.requant, Requantize::Real(_));
        let zeros = self.w_zero.as_ref().is_none_or(|z| z.len() == c);
        match positive && lens && codes && zeros && self.bias.len() == c && self.lo <= self.hi {
            true => Ok(()),
            false => Err(format!("a product whose parts do not fit each other: {g:?}")),
        }
    }

    pub(super) fn macs(&self) -> usize {
        self.geom.pixels() * self.geom.c_out * self.geom.depth()
    }
}

/// A mean over windows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Average {
    /// Zero point of the input.
    pub x_zero: u8,
    /// Whether positions in the padding count.
    pub count_include_pad: bool,
    /// As in [`crate::pool::AvgSpec`].
    pub requants: Vec<(usize, ScalarRequant)>,
    /// Zero point of the output.
    pub zero: u8,
    /// Smallest output code.
    pub lo: u8,
    /// Largest output code.
    pub hi: u8,
}

/// What a step computes. `usize` operands are numbers of buffers of real numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kernel {
    /// Real numbers `[batch][channels][pixels]` to codes `[batch][pixels][channels]`.
    Quantize { x: usize, y: Span, planes: Planes, code: Code },
    /// Codes `[batch][pixels][channels]` to real numbers `[batch][channels][pixels]`.
    Dequantize { x: Span, y: usize, planes: Planes, scale: f32, zero: u8 },
    /// Real numbers in the arena, `[batch][pixels][channels]`, to `[batch][channels][pixels]`.
    Transpose { x: usize, y: usize, planes: Planes },
    /// A convolution or matrix product.
    Product(Box<Product>),
    /// A sum.
    Add { a: Span, b: Span, y: Span, spec: AddSpec },
    /// A product, element by element.
    Mul { a: Span, b: Span, y: Span, spec: MulSpec },
    /// A table look-up.
    Lut { x: Span, y: Span, table: Vec<u8> },
    /// Maxima of windows.
    MaxPool { x: Span, y: Strided, geom: PoolGeom },
    /// Means of windows.
    AvgPool { x: Span, y: Strided, geom: PoolGeom, average: Average },
    /// Codes from place to place; first `y` is filled where a code is given.
    Move { x: Span, y: Span, copies: Vec<Copies>, fill: Option<u8> },
}

/// Work (in bytes that pass an element-wise kernel) below which a second thread brings less than it costs: about two
/// microseconds.
const PARALLEL_FROM: usize = 1 << 15;
/// Work of a piece: large steps are cut into several for each member, so that one that is held up does not hold up the others.
const PIECE: usize = 1 << 18;
/// Pieces of a member at the most.
const PIECES: usize = 4;
/// Multiply-accumulates of a product that take as long as one such byte; a depthwise one moves more for each.
const MACS_A_BYTE: [usize; 2] = [16, 2];
/// Bytes of an element-wise kernel that stay together.
pub(super) const UNIT: usize = 256;

impl Kernel {
    /// Pieces that the work can be cut into.
    pub(super) fn units(&self) -> usize {
        match self {
            Kernel::Quantize { planes, .. } | Kernel::Dequantize { planes, .. } | Kernel::Transpose { planes, .. } => {
                planes.batch * planes.pixels.div_ceil(UNIT)
            }
            Kernel::Product(p) => p.geom.pixels(),
            Kernel::Add { y, .. } | Kernel::Mul { y, .. } | Kernel::Lut { y, .. } => y.len.div_ceil(UNIT),
            Kernel::MaxPool { geom, .. } | Kernel::AvgPool { geom, .. } => geom.pixels(),
            Kernel::Move { copies, .. } => copies.iter().map(|c| c.count).sum(),
        }
    }

    /// Into how many pieces the step is cut for so many members.
    pub(super) fn pieces(&self, members: usize) -> usize {
        let work = self.work();
        if members == 1 || work < PARALLEL_FROM {
            return 1;
        }
        members * (work / PIECE / members).clamp(1, PIECES)
    }

    /// Bytes that pass an element-wise kernel in the same time.
    fn work(&self) -> usize {
        match self {
            Kernel::Quantize { planes, .. } | Kernel::Dequantize { planes, .. } | Kernel::Transpose { planes, .. } => {
                planes.len() * 4
            }
            Kernel::Product(p) => {
                p.macs() / MACS_A_BYTE[usize::from(p.geom.groups == p.geom.c_in && p.geom.groups > 1)]
            }
            Kernel::Add { y, .. } | Kernel::Mul { y, .. } | Kernel::Lut { y, .. } => y.len,
            Kernel::MaxPool { geom, .. } | Kernel::AvgPool { geom, .. } => geom.pixels() * geom.c * geom.k_h * geom.k_w,
            // Filling and copying go together only in one piece.
            Kernel::Move { fill: Some(_), .. } => 0,
            Kernel::Move { y, copies, .. } => y.len + 16 * copies.iter().map(|c| c.count).sum::<usize>(),
        }
    }

    /// Whether no size is so large that an address computed from it could go round.
    fn bounded(&self) -> Result<(), String> {
        match self {
            Kernel::Quantize { planes, .. } | Kernel::Dequantize { planes, .. } | Kernel::Transpose { planes, .. } => {
                bounded(&[planes.batch, planes.channels, planes.pixels, size_of::<f32>()])
            }
            Kernel::Product(p) => {
                let g = &p.geom;
                let pitch = if let ProductOut::Codes(y) = p.y { y.pitch } else { g.c_out * size_of::<f32>() };
                bounded(&[g.batch, g.in_h, g.in_w, g.c_in])?;
                bounded(&[g.batch, g.out_h, g.out_w, g.c_out.max(pitch)])?;
                bounded(&[g.out_h, g.stride_h])?;
                bounded(&[g.out_w, g.stride_w])?;
                bounded(&[g.k_h, g.dil_h])?;
                bounded(&[g.k_w, g.dil_w])?;
                bounded(&[g.pad_top.max(g.pad_left)])
            }
            Kernel::MaxPool { geom: g, y, .. } | Kernel::AvgPool { geom: g, y, .. } => {
                bounded(&[g.batch, g.in_h, g.in_w, g.c])?;
                bounded(&[g.batch, g.out_h, g.out_w, y.pitch])?;
                bounded(&[g.out_h, g.stride_h])?;
                bounded(&[g.out_w, g.stride_w])?;
                bounded(&[g.k_h, g.dil_h])?;
                bounded(&[g.k_w, g.dil_w])?;
                bounded(&[g.pad_top.max(g.pad_left).max(g.pad_bottom).max(g.pad_right)])
            }
            Kernel::Move { copies, .. } => copies.iter().try_for_each(|c| {
                bounded(&[c.count, c.src_step.max(c.dst_step)])?;
                bounded(&[c.src.max(c.dst).max(c.len)])
            }),
            Kernel::Add { .. } | Kernel::Mul { .. } | Kernel::Lut { .. } => Ok(()),
        }
    }

    /// Whether every place lies within the memory, and nothing is written that is read.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), String> {
        self.bounded()?;
        match self {
            Kernel::Quantize { x, y, planes, .. } => {
                limits.real(*x, planes.len(), false)?;
                limits.size(y.len, planes.len())?;
                limits.apart(&[], y.range())
            }
            Kernel::Dequantize { x, y, planes, .. } => {
                limits.real(*y, planes.len(), true)?;
                limits.size(x.len, planes.len())?;
                limits.inside(x.range())
            }
            Kernel::Transpose { x, y, planes } => {
                limits.real(*y, planes.len(), true)?;
                limits.aligned(*x)?;
                limits.inside(*x..x.saturating_add(planes.len() * 4))
            }
            Kernel::Product(p) => {
                p.check()?;
                if !limits.weights.get(p.weights).is_some_and(|w| w.fit(&p.geom)) {
                    return Err(format!("weights number {} are not for {:?}", p.weights, p.geom));
                }
                let pixels = p.geom.pixels();
                limits.size(p.x.len, p.geom.batch * p.geom.in_h * p.geom.in_w * p.geom.c_in)?;
                match p.y {
                    ProductOut::Codes(y) => {
                        let y = limits.strided(y, pixels, p.geom.c_out)?;
                        if let Some(r) = &p.residual {
                            limits.size(r.other.len, pixels * p.geom.c_out)?;
                            limits.apart(&[r.other], y.clone())?;
                        }
                        limits.apart(&[p.x], y)
                    }
                    ProductOut::Real(y) => {
                        limits.real(y, pixels * p.geom.c_out, true)?;
                        limits.apart(&[p.x], 0..0)
                    }
                    ProductOut::Floats(y) => {
                        limits.aligned(y)?;
                        limits.apart(&[p.x], y..y.saturating_add(pixels * p.geom.c_out * 4))
                    }
                }
            }
            Kernel::Add { a, b, y, .. } | Kernel::Mul { a, b, y, .. } => {
                limits.size(a.len, y.len)?;
                limits.size(b.len, y.len)?;
                limits.apart(&[*a, *b], y.range())
            }
            Kernel::Lut { x, y, table } => {
                limits.size(table.len(), 256)?;
                limits.size(x.len, y.len)?;
                limits.apart(&[*x], y.range())
            }
            Kernel::MaxPool { x, y, geom } | Kernel::AvgPool { x, y, geom, .. } => {
                limits.size(x.len, geom.batch * geom.in_h * geom.in_w * geom.c)?;
                let y = limits.strided(*y, geom.pixels(), geom.c)?;
                let sizes = [geom.k_h, geom.k_w, geom.stride_h, geom.stride_w, geom.dil_h, geom.dil_w];
                if sizes.contains(&0) {
                    return Err(format!("a window without size: {geom:?}"));
                }
                if let Kernel::AvgPool { average, .. } = self {
                    let fit = |by: &ScalarRequant| match by {
                        ScalarRequant::Dyadic(by) => by.mult >= 0 && (1..=62).contains(&by.shift),
                        ScalarRequant::Onnx(_) => true,
                    };
                    let counts = geom.counts(average.count_include_pad);
                    let known = |n: &usize| average.requants.iter().any(|(of, _)| of == n);
                    if average.requants.is_empty()
                        || !average.requants.iter().all(|(_, by)| fit(by))
                        || !counts.iter().all(known)
                    {
                        return Err(format!("means over {counts:?} positions"));
                    }
                }
                limits.apart(&[*x], y)
            }
            Kernel::Move { x, y, copies, .. } => {
                for c in copies.iter().filter(|c| c.count > 0) {
                    let last = c.count - 1;
                    let (src, dst) = (c.src + last * c.src_step + c.len, c.dst + last * c.dst_step + c.len);
                    if src > x.len || dst > y.len || (c.count > 1 && c.dst_step < c.len) {
                        return Err(format!("{c:?} from {x:?} to {y:?}"));
                    }
                }
                limits.apart(&[*x], y.range())
            }
        }
    }
}

fn bounded(sizes: &[usize]) -> Result<(), String> {
    const MOST: usize = 1 << 40;
    match sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1))) {
        Some(n) if n <= MOST => Ok(()),
        _ => Err(format!("sizes of {sizes:?} are too large")),
    }
}

/// The memory that steps must stay in.
pub(super) struct Limits<'a> {
    pub(super) arena: usize,
    pub(super) reals: &'a [(usize, bool)],
    pub(super) weights: &'a [Weights],
}

impl Limits<'_> {
    fn inside(&self, range: Range<usize>) -> Result<(), String> {
        match range.start <= range.end && range.end <= self.arena {
            true => Ok(()),
            false => Err(format!("bytes {range:?} of an arena of {}", self.arena)),
        }
    }
    fn aligned(&self, at: usize) -> Result<(), String> {
        if at.is_multiple_of(4) { Ok(()) } else { Err(format!("real numbers at byte {at}")) }
    }
    fn size(&self, have: usize, need: usize) -> Result<(), String> {
        if have == need { Ok(()) } else { Err(format!("a span of {have} where {need} elements are computed")) }
    }
    fn real(&self, index: usize, len: usize, written: bool) -> Result<(), String> {
        match self.reals.get(index) {
            // What the tape wrote it may read again.
            Some(&(have, way)) if have == len && (way || !written) => Ok(()),
            other => Err(format!("buffer {index} is {other:?}, not ({len}, {written})")),
        }
    }
    fn strided(&self, y: Strided, pixels: usize, c: usize) -> Result<Range<usize>, String> {
        if y.pitch < c {
            return Err(format!("a pitch of {} for {c} channels", y.pitch));
        }
        let end = if pixels == 0 { y.at } else { y.at.saturating_add((pixels - 1) * y.pitch + c) };
        Ok(y.at..end)
    }
    /// `y` and the operands (with the slack behind them) lie in the arena, and `y` overlaps none of them.
    fn apart(&self, operands: &[Span], y: Range<usize>) -> Result<(), String> {
        self.inside(y.clone())?;
        for x in operands {
            self.inside(x.at..x.at.saturating_add(x.len).saturating_add(SLACK))?;
            if x.at < y.end && y.start < x.at + x.len + SLACK && !y.is_empty() {
                return Err(format!("{x:?} is read while {y:?} is written"));
            }
        }
        Ok(())
    }
}
