//! Packed weights as tapes hold them, and as files do.
use crate::{
    Isa,
    conv::{ConvGeom, PackedConv, fields::Fields},
    depthwise::PackedDepthwise,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, sync::Arc};

/// Packed weights, shared between tapes.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Weights {
    Conv(Arc<PackedConv>),
    Depthwise(Arc<PackedDepthwise>),
}

/// What a file says of packed weights beside their bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    depthwise: bool,
    c_in: usize,
    c_out: usize,
    k_h: usize,
    k_w: usize,
    groups: usize,
    /// Bits of each weight, and the smallest one: see `conv/fields.rs`.
    bits: u8,
    low: i8,
    /// Sum of the weights of each output channel, where the instruction set needs them.
    sums: Vec<i32>,
}

impl Stored {
    fn of(depthwise: bool, geom: &ConvGeom, fields: Fields, sums: &[i32]) -> Stored {
        let &ConvGeom { c_in, c_out, k_h, k_w, groups, .. } = geom;
        let Fields { bits, low } = fields;
        Stored { depthwise, c_in, c_out, k_h, k_w, groups, bits, low, sums: sums.to_vec() }
    }

    /// Bits of each weight in the file.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    fn geom(&self) -> Result<ConvGeom, String> {
        let &Stored { c_in, c_out, k_h, k_w, groups, .. } = self;
        let mut geom = ConvGeom::matrix(0, c_in, c_out);
        (geom.k_h, geom.k_w, geom.groups) = (k_h, k_w, groups);
        let divide = groups > 0 && c_in.is_multiple_of(groups) && c_out.is_multiple_of(groups);
        let count = [c_in / groups.max(1), k_h, k_w].iter().try_fold(c_out, |n, &d| n.checked_mul(d));
        match divide && k_h > 0 && k_w > 0 && count.is_some_and(|n| n < 1 << 40) {
            true => Ok(geom),
            false => Err(format!("weights of impossible sizes: {geom:?}")),
        }
    }
}

impl Weights {
    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        match self {
            Weights::Conv(w) => w.bytes(),
            Weights::Depthwise(w) => w.bytes(),
        }
    }

    pub(super) fn fit(&self, geom: &ConvGeom) -> bool {
        match self {
            Weights::Conv(w) => w.fits(geom),
            Weights::Depthwise(w) => w.fits(geom),
        }
    }

    /// What a file keeps: the sizes, and the packed bytes, which [`Weights::load`] takes from a multiple of 64 bytes on
    /// without a copy.
    pub fn store(&self) -> (Stored, Cow<'_, [u8]>) {
        match self {
            Weights::Conv(w) => {
                let (geom, sums, fields, bytes) = w.parts();
                (Stored::of(false, &geom, fields, sums), bytes)
            }
            // These are few: they are packed anew.
            Weights::Depthwise(w) => {
                let (geom, plain) = w.parts();
                let fields = Fields::of(&plain);
                (Stored::of(true, &geom, fields, &[]), Cow::Owned(fields.squeeze(&plain, 1)))
            }
        }
    }

    /// Weights that were packed for `isa`.
    ///
    /// # Errors
    /// When the sizes are impossible or the bytes are not as many as they say.
    pub fn load(isa: Isa, stored: &Stored, bytes: Bytes) -> Result<Weights, String> {
        let (geom, fields) = (stored.geom()?, Fields::new(stored.bits, stored.low)?);
        Ok(match stored.depthwise {
            false => Weights::Conv(Arc::new(PackedConv::from_parts(isa, &geom, &stored.sums, fields, bytes)?)),
            true if geom.groups == geom.c_in && geom.c_in == geom.c_out => {
                let count = geom.c_out * geom.k_h * geom.k_w;
                if bytes.len() != fields.bytes(count, 1) {
                    return Err(format!("{} bytes are no weights of {geom:?}", bytes.len()));
                }
                let plain = fields.spread(&bytes, 1, count);
                Weights::Depthwise(Arc::new(PackedDepthwise::pack(isa, &geom, &plain)))
            }
            true => return Err(format!("depthwise weights of {geom:?}")),
        })
    }
}
