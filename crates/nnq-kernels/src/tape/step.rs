//! The steps of a tape, as plain data.
use crate::{
    SLACK,
    conv::{ConvGeom, Epilogue, PackedConv, Requant},
    depthwise::PackedDepthwise,
    eltwise::{AddSpec, MulSpec},
    pool::PoolGeom,
    round::ScalarRequant,
};
use std::{ops::Range, sync::Arc};

/// Bytes of the arena. Behind a span that is read as activations there are [`SLACK`] more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Span {
    pub at: usize,
    pub len: usize,
}

/// Pixels of codes in the arena that need not be neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided {
    /// The first byte.
    pub at: usize,
    /// Bytes from one pixel to the next.
    pub pitch: usize,
}

/// Sizes of a change between `[batch][channels][pixels]` and `[batch][pixels][channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Code {
    pub scale: f32,
    pub zero: u8,
    pub lo: u8,
    pub hi: u8,
}

/// `count` runs of `len` bytes: run `i` from `src + i * src_step` to `dst + i * dst_step`, counted from the starts of the
/// spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Copies {
    pub src: usize,
    pub dst: usize,
    pub len: usize,
    pub count: usize,
    pub src_step: usize,
    pub dst_step: usize,
}

/// Packed weights, shared between tapes.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Weights {
    Conv(Arc<PackedConv>),
    Depthwise(Arc<PackedDepthwise>),
}

/// The multipliers of a product, shared between tapes.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Requantize {
    Onnx(Arc<[f32]>),
    Dyadic { mult: Arc<[i32]>, shift: Arc<[u8]> },
    Real(Arc<[f32]>),
}

/// A sum that follows a product at once: the product's codes never reach memory as a whole.
#[derive(Clone, Debug)]
pub struct Residual {
    /// The other operand, as large as the output.
    pub other: Span,
    /// The product is the second operand.
    pub second: bool,
    /// The sum.
    pub spec: AddSpec,
}

/// Where a product goes.
#[derive(Clone, Copy, Debug)]
pub enum ProductOut {
    /// Codes.
    Codes(Strided),
    /// Real numbers, `[pixels][c_out]`, in a buffer.
    Real(usize),
    /// Real numbers, `[pixels][c_out]`, in the arena from this byte on (a multiple of 4).
    Floats(usize),
}

/// A convolution or matrix product.
#[derive(Clone, Debug)]
pub struct Product {
    /// Weights.
    pub weights: Weights,
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

    fn macs(&self) -> usize {
        self.geom.pixels() * self.geom.c_out * self.geom.depth()
    }
}

/// A mean over windows.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
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
    Lut { x: Span, y: Span, table: Box<[u8; 256]> },
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

    /// Units that should stay together.
    pub(super) fn grain(&self) -> usize {
        match self {
            Kernel::Product(_) => 16,
            _ => 1,
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
            Kernel::Product(p) => p.macs() / MACS_A_BYTE[usize::from(matches!(p.weights, Weights::Depthwise(_)))],
            Kernel::Add { y, .. } | Kernel::Mul { y, .. } | Kernel::Lut { y, .. } => y.len,
            Kernel::MaxPool { geom, .. } | Kernel::AvgPool { geom, .. } => geom.pixels() * geom.c * geom.k_h * geom.k_w,
            // Filling and copying go together only in one piece.
            Kernel::Move { fill: Some(_), .. } => 0,
            Kernel::Move { y, copies, .. } => y.len + 16 * copies.iter().map(|c| c.count).sum::<usize>(),
        }
    }

    /// Whether every place lies within the memory, and nothing is written that is read.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), String> {
        match self {
            Kernel::Quantize { x, y, planes, .. } => {
                limits.real(*x, planes.len(), false)?;
                limits.size(y.len, planes.len())?;
                limits.apart(&[], y.at..y.at + y.len)
            }
            Kernel::Dequantize { x, y, planes, .. } => {
                limits.real(*y, planes.len(), true)?;
                limits.size(x.len, planes.len())?;
                limits.inside(x.at..x.at + x.len)
            }
            Kernel::Transpose { x, y, planes } => {
                limits.real(*y, planes.len(), true)?;
                limits.aligned(*x)?;
                limits.inside(*x..*x + planes.len() * 4)
            }
            Kernel::Product(p) => {
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
                        limits.inside(p.x.at..p.x.at + p.x.len + SLACK)
                    }
                    ProductOut::Floats(y) => {
                        limits.aligned(y)?;
                        limits.apart(&[p.x], y..y + pixels * p.geom.c_out * 4)
                    }
                }
            }
            Kernel::Add { a, b, y, .. } | Kernel::Mul { a, b, y, .. } => {
                limits.size(a.len, y.len)?;
                limits.size(b.len, y.len)?;
                limits.apart(&[*a, *b], y.at..y.at + y.len)
            }
            Kernel::Lut { x, y, .. } => {
                limits.size(x.len, y.len)?;
                limits.apart(&[*x], y.at..y.at + y.len)
            }
            Kernel::MaxPool { x, y, geom } | Kernel::AvgPool { x, y, geom, .. } => {
                limits.size(x.len, geom.batch * geom.in_h * geom.in_w * geom.c)?;
                let y = limits.strided(*y, geom.pixels(), geom.c)?;
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
                limits.apart(&[*x], y.at..y.at + y.len)
            }
        }
    }
}

/// The memory that steps must stay in.
pub(super) struct Limits<'a> {
    pub(super) arena: usize,
    pub(super) reals: &'a [(usize, bool)],
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
        let end = if pixels == 0 { y.at } else { y.at + (pixels - 1) * y.pitch + c };
        Ok(y.at..end)
    }
    /// `y` and the operands (with the slack behind them) lie in the arena, and `y` overlaps none of them.
    fn apart(&self, operands: &[Span], y: Range<usize>) -> Result<(), String> {
        self.inside(y.clone())?;
        for x in operands {
            self.inside(x.at..x.at + x.len + SLACK)?;
            if x.at < y.end && y.start < x.at + x.len + SLACK && !y.is_empty() {
                return Err(format!("{x:?} is read while {y:?} is written"));
            }
        }
        Ok(())
    }
}
