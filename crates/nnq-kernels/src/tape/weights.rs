//! Packed weights as tapes hold them, and as files do.
use crate::{
    Isa,
    conv::{ConvGeom, PackedConv},
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
    /// Sum of the weights of each output channel, where the instruction set needs them.
    sums: Vec<i32>,
}

impl Stored {
    fn of(depthwise: bool, geom: &ConvGeom, sums: &[i32]) -> Stored {
        let &ConvGeom { c_in, c_out, k_h, k_w, groups, .. } = geom;
        Stored { depthwise, c_in, c_out, k_h, k_w, groups, sums: sums.to_vec() }
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
                let (geom, sums, bytes) = w.parts();
                (Stored::of(false, &geom, sums), Cow::Borrowed(bytes))
            }
            // These are few: they are packed anew.
            Weights::Depthwise(w) => {
                let (geom, plain) = w.parts();
                (Stored::of(true, &geom, &[]), Cow::Owned(plain.iter().map(|&w| w as u8).collect()))
            }
        }
    }

    /// Weights that were packed for `isa`.
    ///
    /// # Errors
    /// When the sizes are impossible or the bytes are not as many as they say.
    pub fn load(isa: Isa, stored: &Stored, bytes: Bytes) -> Result<Weights, String> {
        let geom = stored.geom()?;
        Ok(match stored.depthwise {
            false => Weights::Conv(Arc::new(PackedConv::from_parts(isa, &geom, &stored.sums, bytes)?)),
            true if geom.groups == geom.c_in && geom.c_in == geom.c_out => {
                let plain: Vec<i8> = bytes.iter().map(|&w| w as i8).collect();
                if plain.len() != geom.c_out * geom.k_h * geom.k_w {
                    return Err(format!("{} bytes are no weights of {geom:?}", plain.len()));
                }
                Weights::Depthwise(Arc::new(PackedDepthwise::pack(isa, &geom, &plain)))
            }
            true => return Err(format!("depthwise weights of {geom:?}")),
        })
    }
}
