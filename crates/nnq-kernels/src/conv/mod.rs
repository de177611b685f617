//! Convolution and matrix product: unsigned 8-bit activations times signed 8-bit weights into 32-bit
//! accumulators, then one requantization.
//!
//! Activations are NHWC without padding between pixels. A matrix product is a convolution of 1x1 pixels
//! with the rows as the batch. Weights are packed once for one instruction set. See `docs/numerics.md`,
//! sections 3 and 4.
mod block;
mod bound;
pub(crate) mod epilogue;
pub(crate) mod fields;
mod finish;
mod geometry;
mod pack;
mod proof;
pub(crate) mod scalar;
mod share;
mod sources;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiled;

use crate::{Isa, isa::dispatch};
pub use bound::{BoundConv, Grids, Way};
use bytes::Bytes;
pub use epilogue::{Epilogue, Live, Out, Requant};
use fields::{Fields, Room};
pub use geometry::ConvGeom;
pub use pack::Order;
use pack::Panels;
pub use share::Share;
use std::{borrow::Cow, sync::Arc};

/// Bytes that must be readable behind the last element of every slice of activations given to a
/// kernel, so that a vector may run over the end. Their values never matter.
pub const SLACK: usize = 64;

/// Weights of up to this many bytes are read again for every few pixels.
const FEW_WEIGHTS: usize = 64 << 10;

/// Memory that a thread keeps between calls of kernels. It holds nothing that a result depends on.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) patches: Vec<u8>,
    pub(crate) offsets: Vec<usize>,
    pub(crate) table: Vec<tile::Source>,
    pub(crate) row_sums: Vec<i32>,
    pub(crate) columns: Vec<u8>,
    pub(crate) acc: Vec<i32>,
    pub(crate) start: Vec<i32>,
    /// The epilogue of a product whose inputs' grid is found as they come.
    pub(crate) live: Option<Box<epilogue::Ready>>,
    pub(crate) room: Room,
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
    Plain(Arc<Vec<i8>>),
    Panels(Arc<Panels>),
}

impl PackedConv {
    /// Packs `w`, `[c_out][k_h][k_w][c_in / groups]`, for `isa`. Of `geom` only the channels, the
    /// kernel's size and the groups matter.
    ///
    /// # Panics
    /// When `w` has another length than `geom` says, the groups do not divide the channels, or this
    /// machine does not have `isa`.
    pub fn pack(isa: Isa, geom: &ConvGeom, w: &[i8]) -> PackedConv {
        PackedConv::pack_from(isa, geom, w, Order::ChannelsLast)
    }

    /// As [`PackedConv::pack`], from weights in the order `order`, without a copy of them in between.
    ///
    /// # Panics
    /// As [`PackedConv::pack`], and when `order` is [`Order::Rows`] and `geom` is no matrix product.
    pub fn pack_from(isa: Isa, geom: &ConvGeom, w: &[i8], order: Order) -> PackedConv {
        geom.check_weights(w.len());
        assert!(order != Order::Rows || (geom.groups, geom.k_h, geom.k_w) == (1, 1, 1), "no matrix product: {geom:?}");
        let shape = Shape::of(geom);
        let weights = match dispatch(isa, pack::Pack::new(isa, shape, w, order)) {
            Some(panels) => Weights::Panels(Arc::new(panels)),
            None => Weights::Plain(Arc::new(order.sorted(&shape, w))),
        };
        PackedConv { isa, shape, weights }
    }

    /// The same weights in the narrowest fields that hold them, 4 or 2 bits, however few they are: [`PackedConv::pack`] leaves a byte
    /// to each of up to 64 KiB of weights, which stay in a near cache, and so does the scalar code to all of them.
    pub fn in_fields(&self) -> PackedConv {
        let weights = match &self.weights {
            Weights::Plain(w) => Weights::Plain(w.clone()),
            Weights::Panels(panels) => Weights::Panels(Arc::new(panels.in_fields())),
        };
        PackedConv { weights, ..self.clone() }
    }

    /// Bits of each weight in memory: 8, 4 or 2.
    pub fn bits(&self) -> u8 {
        match &self.weights {
            Weights::Plain(_) => Fields::BYTES.bits,
            Weights::Panels(panels) => panels.fields.bits,
        }
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

    /// Sizes, sums of the output channels, and packed bytes in the narrowest fields that hold the weights.
    pub(crate) fn parts(&self) -> (ConvGeom, &[i32], Fields, Cow<'_, [u8]>) {
        let Shape { c_in, c_out, k_h, k_w, groups } = self.shape;
        let mut geom = ConvGeom::matrix(0, c_in, c_out);
        (geom.k_h, geom.k_w, geom.groups) = (k_h, k_w, groups);
        match &self.weights {
            Weights::Plain(w) => {
                let fields = Fields::of(w);
                (geom, &[], fields, Cow::Owned(fields.squeeze(w, 1)))
            }
            Weights::Panels(panels) => {
                let (fields, bytes) = panels.narrow();
                (geom, &panels.sums, fields, bytes)
            }
        }
    }

    /// What [`PackedConv::parts`] gave, for the same instruction set.
    ///
    /// # Errors
    /// When there are not as many bytes or sums as the sizes say.
    pub(crate) fn from_parts(
        isa: Isa,
        geom: &ConvGeom,
        sums: &[i32],
        fields: Fields,
        bytes: Bytes,
    ) -> Result<PackedConv, String> {
        let shape = Shape::of(geom);
        let (have, plain) = (bytes.len(), geom.c_out * geom.depth());
        let weights = match dispatch(isa, pack::Pack::again(isa, shape, sums, fields, bytes.clone())) {
            Some(panels) if panels.sums.len() == geom.c_out && (geom.c_out > 0 || have == 0) => {
                Weights::Panels(Arc::new(panels))
            }
            None if have == fields.bytes(plain, 1) => Weights::Plain(Arc::new(fields.spread(&bytes, 1, plain))),
            _ => return Err(format!("{have} bytes and {} sums are no weights of {geom:?}", sums.len())),
        };
        Ok(PackedConv { isa, shape, weights })
    }

    pub(crate) fn fits(&self, geom: &ConvGeom) -> bool {
        Shape::of(geom) == self.shape
    }

    /// Prepares everything that does not depend on the inputs: for inputs of the zero point `x_zero`,
    /// sizes `geom` and what `epi` says happens to the accumulators.
    ///
    /// # Panics
    /// When `geom` has another shape of weights than was packed, a stride or dilation of 0, or a slice of
    /// `epi` has another length than there are output channels.
    pub fn bind(&self, geom: &ConvGeom, x_zero: u8, epi: &Epilogue) -> BoundConv {
        assert!(Shape::of(geom) == self.shape, "the weights were packed for {:?}, not for {geom:?}", self.shape);
        BoundConv::new(self.isa, &self.weights, geom, x_zero, epi)
    }
}

#[cfg(test)]
pub(crate) mod tests;
