//! Convolution and matrix product: unsigned 8-bit activations times signed 8-bit weights into 32-bit
//! accumulators, then one requantization.
//!
//! Activations are NHWC without padding between pixels. A matrix product is a convolution of 1x1 pixels
//! with the rows as the batch. Weights are packed once for one instruction set. See `docs/numerics.md`,
//! sections 3 and 4.
pub(crate) mod block;
mod finish;
mod geometry;
mod pack;
pub(crate) mod scalar;
mod sources;
mod tile;

use crate::{Isa, isa::dispatch, round::Dyadic, round::vector::Prepared};
pub use geometry::ConvGeom;
use pack::Panels;
use std::ops::Range;

/// Bytes that must be readable behind the last element of every slice of activations given to a
/// kernel, so that a vector may run over the end. Their values never matter.
pub const SLACK: usize = 64;

/// What happens to an accumulator.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Bias of each output channel at the accumulator's scale. The kernel corrects for the zero points
    /// itself: `acc = sum (qx - zx) * (qw - zw) + bias`.
    pub bias: &'a [i32],
    /// Zero point of the weights of each output channel; `None`: all 0.
    pub w_zero: Option<&'a [i32]>,
    /// How the accumulator becomes an output.
    pub requant: Requant<'a>,
    /// Zero point of the output.
    pub zero: u8,
    /// Smallest output code.
    pub lo: u8,
    /// Largest output code.
    pub hi: u8,
}

/// Requantization of each output channel.
#[derive(Clone, Copy, Debug)]
pub enum Requant<'a> {
    /// [`crate::round::requantize_onnx`] with these factors, to [`Out::U8`].
    Onnx(&'a [f32]),
    /// [`crate::round::requantize_dyadic`], to [`Out::U8`].
    Dyadic {
        /// Multipliers.
        mult: &'a [i32],
        /// Shifts.
        shift: &'a [u8],
    },
    /// `f32(acc) * scale`, to [`Out::F32`].
    Real(&'a [f32]),
    /// The accumulator itself, to [`Out::I32`].
    None,
}

/// Where the outputs go: those of the first pixel of `rows` first.
#[derive(Debug)]
pub enum Out<'a> {
    /// Codes.
    U8 {
        /// `(pixels - 1) * pitch + c_out` bytes or more. Bytes between pixels are left alone.
        data: &'a mut [u8],
        /// Bytes from one pixel to the next, at least `c_out`. More than that writes a part of the
        /// channels of a wider tensor.
        pitch: usize,
    },
    /// Real numbers, `c_out` for each pixel.
    F32(&'a mut [f32]),
    /// Accumulators, `c_out` for each pixel.
    I32(&'a mut [i32]),
}

/// Memory that a thread keeps between calls of kernels. It holds nothing that a result depends on.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) prepared: Prepared,
    pub(crate) scale: Vec<f32>,
    pub(crate) correction: Vec<i32>,
    pub(crate) patches: Vec<u8>,
    pub(crate) offsets: Vec<usize>,
    pub(crate) table: Vec<tile::Source>,
    pub(crate) row_sums: Vec<i32>,
    pub(crate) columns: Vec<u8>,
    pub(crate) acc: Vec<i32>,
}

impl Scratch {
    /// Empty; it grows to what the kernels need.
    pub fn new() -> Scratch {
        Scratch::default()
    }
}

/// The weights of a convolution, packed for one instruction set.
#[derive(Clone, Debug)]
pub struct PackedConv {
    isa: Isa,
    shape: Shape,
    weights: Weights,
}

/// What packing depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    c_in: usize,
    c_out: usize,
    k_h: usize,
    k_w: usize,
    groups: usize,
}

impl Shape {
    fn of(geom: &ConvGeom) -> Shape {
        Shape { c_in: geom.c_in, c_out: geom.c_out, k_h: geom.k_h, k_w: geom.k_w, groups: geom.groups }
    }
}

#[derive(Clone, Debug)]
enum Weights {
    /// As given: `[c_out][k_h][k_w][c_in / groups]`.
    Plain(Vec<i8>),
    Panels(Panels),
}

impl PackedConv {
    /// Packs `w`, `[c_out][k_h][k_w][c_in / groups]`, for `isa`. Of `geom` only the channels, the
    /// kernel's size and the groups matter.
    ///
    /// # Panics
    /// When `w` has another length than `geom` says, the groups do not divide the channels, or this
    /// machine does not have `isa`.
    pub fn pack(isa: Isa, geom: &ConvGeom, w: &[i8]) -> PackedConv {
        geom.check_weights(w.len());
        let shape = Shape::of(geom);
        let weights = match dispatch(isa, pack::Pack { shape, w }) {
            Some(panels) => Weights::Panels(panels),
            None => Weights::Plain(w.to_vec()),
        };
        PackedConv { isa, shape, weights }
    }

    /// The instruction set that the weights are packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of memory of the packed weights.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Plain(w) => w.len(),
            Weights::Panels(panels) => panels.bytes(),
        }
    }

    /// Computes the output pixels `rows`, a range over the flattened `batch * out_h * out_w`. Threads may
    /// compute disjoint ranges at the same time, each with its own `scratch`.
    ///
    /// `x` is `[batch][in_h][in_w][c_in]` and [`SLACK`] bytes.
    ///
    /// # Panics
    /// When a slice has another length than the geometry says, `geom` has another shape of weights than
    /// was packed, or `epi.requant` does not fit `out`.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        geom: &ConvGeom,
        x: &[u8],
        x_zero: u8,
        rows: Range<usize>,
        epi: &Epilogue,
        out: Out<'_>,
        scratch: &mut Scratch,
    ) {
        assert!(Shape::of(geom) == self.shape, "the weights were packed for {:?}, not for {geom:?}", self.shape);
        geom.check_run(x.len(), &rows);
        epi.check(geom.c_out, rows.len(), &out);
        if rows.is_empty() || geom.c_out == 0 {
            return;
        }
        match &self.weights {
            Weights::Plain(w) => scalar::run(geom, w, x, x_zero, rows, epi, out),
            Weights::Panels(panels) => {
                let job = block::Job { geom, panels, x, x_zero, rows, epi, out, scratch };
                dispatch(self.isa, job).expect("panels are packed for vectors");
            }
        }
    }
}

impl Epilogue<'_> {
    /// Panics when a slice does not fit `c_out` channels and `pixels` of `out`.
    pub(crate) fn check(&self, c_out: usize, pixels: usize, out: &Out) {
        let per_channel = |what: &str, len: usize| {
            assert!(len == c_out, "{what}: {len} values for {c_out} output channels");
        };
        per_channel("bias", self.bias.len());
        if let Some(w_zero) = self.w_zero {
            per_channel("w_zero", w_zero.len());
        }
        match self.requant {
            Requant::Onnx(m) => per_channel("factors", m.len()),
            Requant::Dyadic { mult, shift } => {
                per_channel("multipliers", mult.len());
                per_channel("shifts", shift.len());
            }
            Requant::Real(scale) => per_channel("scales", scale.len()),
            Requant::None => {}
        }
        assert!(self.lo <= self.hi, "codes from {} to {}: empty range", self.lo, self.hi);
        let (have, need) = match (self.requant, out) {
            (Requant::Onnx(_) | Requant::Dyadic { .. }, Out::U8 { data, pitch }) => {
                assert!(*pitch >= c_out, "a pitch of {pitch} for {c_out} output channels");
                (data.len(), pixels.saturating_sub(1) * pitch + c_out)
            }
            (Requant::Real(_), Out::F32(data)) => (data.len(), pixels * c_out),
            (Requant::None, Out::I32(data)) => (data.len(), pixels * c_out),
            _ => panic!(
                "the requantization does not fit the kind of output: codes need Onnx or Dyadic, f32 Real, i32 None"
            ),
        };
        assert!(have >= need || pixels == 0, "the output holds {have} values, {need} are needed");
    }

    /// Lays the multipliers out for vectors: lane `i` gets those of channel `lanes[i]`.
    pub(crate) fn prepare(
        &self,
        prepared: &mut Prepared,
        scale: &mut Vec<f32>,
        lanes: impl Iterator<Item = Option<usize>>,
    ) {
        prepared.limits(self.zero, self.lo, self.hi);
        match self.requant {
            Requant::Onnx(m) => prepared.set_onnx(lanes.map(|c| c.map_or(0.0, |c| m[c]))),
            Requant::Dyadic { mult, shift } => {
                prepared.set_dyadic(
                    lanes.map(|c| Dyadic { mult: c.map_or(0, |c| mult[c]), shift: c.map_or(1, |c| shift[c]) }),
                );
            }
            Requant::Real(s) => {
                scale.clear();
                scale.extend(lanes.map(|c| c.map_or(0.0, |c| s[c])));
            }
            Requant::None => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
