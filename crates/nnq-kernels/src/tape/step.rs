//! The steps of a tape, as plain data.
use super::{integers::Integers, moves::Moves};
use crate::{
    conv::{ConvGeom, Epilogue, Requant},
    eltwise::{AddSpec, MulSpec},
    pool::PoolGeom,
    resize::Resize,
    round::ScalarRequant,
    wide::Target,
};
use serde::{Deserialize, Serialize};
use std::{ops::Range, sync::Arc};

/// Bytes of the arena. Behind a span that is read as activations there are [`crate::SLACK`] more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Span {
    pub at: usize,
    pub len: usize,
}

impl Span {
    pub(super) fn range(&self) -> Range<usize> {
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

/// The multipliers of a product, shared between tapes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Requantize {
    Onnx(Arc<[f32]>),
    Dyadic {
        mult: Arc<[i32]>,
        shift: Arc<[u8]>,
    },
    Real(Arc<[f32]>),
    /// Scale of the weights and real bias of each output channel; the scale of the inputs is found as they come.
    Dynamic {
        scale: Arc<[f32]>,
        bias: Arc<[f32]>,
    },
    /// The sums stay as they are.
    Sums,
    /// To words: [`Requant::Words`].
    Words {
        mult: Arc<[i32]>,
        shift: Arc<[u8]>,
        to: Target,
    },
}

/// Extremes of real numbers in the arena: those of each run of [`Found::RUN`] numbers, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The first byte, a multiple of 4.
    pub at: usize,
    /// How many runs there are.
    pub runs: usize,
}

impl Found {
    /// Numbers in a run.
    pub const RUN: usize = 1 << 12;
    /// Bytes of one entry.
    pub(super) const ENTRY: usize = 12;

    /// For `len` numbers, in the arena from byte `at` on.
    pub fn of(len: usize, at: usize) -> Found {
        Found { at, runs: len.div_ceil(Found::RUN) }
    }

    /// Bytes of the arena that the extremes of `len` numbers take.
    pub fn room(len: usize) -> usize {
        len.div_ceil(Found::RUN) * Found::ENTRY
    }

    pub(super) fn range(&self) -> Range<usize> {
        self.at..self.at.saturating_add(self.runs.saturating_mul(Found::ENTRY))
    }
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
    /// Real numbers, held within bounds, of which only the mean over the pixels of each sample is kept: `[batch][c_out]`, in the buffer `y`. The mean
    /// is a binary64 sum in the order of the pixels, divided by their number and rounded to binary32.
    Means {
        /// The buffer.
        y: usize,
        /// What the numbers are held within first.
        within: Within,
    },
    /// Sums, `[pixels][c_out]`, in the arena from this byte on (a multiple of 4).
    Sums(usize),
    /// Words, `[pixels][c_out]`, in the arena from this byte on (a multiple of 2).
    Words(usize),
}

/// Bounds of real numbers: what is less than `lo` becomes `lo`, then what is more than `hi` becomes `hi`. A NaN stays, and binds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Within {
    pub lo: f32,
    pub hi: f32,
}

impl Within {
    /// No bounds.
    pub const ALL: Within = Within { lo: f32::NEG_INFINITY, hi: f32::INFINITY };
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
    /// Their zero point, where it is known.
    pub x_zero: u8,
    /// Where the extremes are that say their scale and zero point; only with [`Requantize::Dynamic`].
    pub found: Option<Found>,
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
                Requantize::Dynamic { scale, bias } => Requant::Dynamic { x_scale: 1.0, scale, bias },
                Requantize::Sums => Requant::None,
                Requantize::Words { mult, shift, to } => Requant::Words { mult, shift, to: *to },
            },
            zero: self.zero,
            lo: self.lo,
            hi: self.hi,
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
    /// The extremes of real numbers.
    Extremes { x: usize, len: usize, y: Found },
    /// As `Quantize`, to the grid that the extremes say.
    QuantizeDynamic { x: usize, y: Span, planes: Planes, by: Found },
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
    Move { x: Span, y: Span, moves: Moves, fill: Option<u8> },
    /// Linear or cubic resizing.
    Resize { x: Span, y: Strided, resize: Arc<Resize> },
    /// Something on codes of which some are words, or a part of attention.
    Integers(Box<Integers>),
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
            Kernel::Quantize { planes, .. }
            | Kernel::QuantizeDynamic { planes, .. }
            | Kernel::Dequantize { planes, .. }
            | Kernel::Transpose { planes, .. } => planes.batch * planes.pixels.div_ceil(UNIT),
            Kernel::Extremes { y, .. } => y.runs,
            Kernel::Product(p) => p.geom.pixels(),
            Kernel::Add { y, .. } | Kernel::Mul { y, .. } | Kernel::Lut { y, .. } => y.len.div_ceil(UNIT),
            Kernel::MaxPool { geom, .. } | Kernel::AvgPool { geom, .. } => geom.pixels(),
            Kernel::Move { moves, .. } => moves.units(),
            Kernel::Resize { resize, .. } => resize.lines(),
            Kernel::Integers(of) => of.units(),
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
            Kernel::Quantize { planes, .. }
            | Kernel::QuantizeDynamic { planes, .. }
            | Kernel::Dequantize { planes, .. }
            | Kernel::Transpose { planes, .. } => planes.len() * 4,
            Kernel::Extremes { len, .. } => len * 4,
            Kernel::Product(p) => {
                p.macs() / MACS_A_BYTE[usize::from(p.geom.groups == p.geom.c_in && p.geom.groups > 1)]
            }
            Kernel::Add { y, .. } | Kernel::Mul { y, .. } | Kernel::Lut { y, .. } => y.len,
            Kernel::MaxPool { geom, .. } | Kernel::AvgPool { geom, .. } => geom.pixels() * geom.c * geom.k_h * geom.k_w,
            // Filling and copying go together only in one piece.
            Kernel::Move { fill: Some(_), .. } => 0,
            Kernel::Move { y, moves, .. } => y.len + 16 * moves.runs(),
            Kernel::Resize { resize: r, .. } => r.lines() * (r.columns.len() + r.in_w) * r.c * 2,
            Kernel::Integers(of) => of.work(),
        }
    }
}
