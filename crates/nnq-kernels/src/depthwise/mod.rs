//! Depthwise convolution: every channel has its own kernel.
//!
//! The vectors run across channels. For each input column the bytes of up to four rows are brought
//! together, channel by channel, so that one multiply-add sums four rows of the kernel; a column made
//! ready serves every output whose window it is in.
mod bound;
mod columns;
mod direct;
mod pack;
mod tile;

use crate::{
    Isa,
    conv::{ConvGeom, Epilogue},
    isa::dispatch,
};
pub use bound::BoundDepthwise;
use pack::{Blocks, Pack};
use std::sync::Arc;

/// The weights of a depthwise convolution, packed for one instruction set.
#[derive(Clone, Debug)]
pub struct PackedDepthwise {
    isa: Isa,
    channels: usize,
    k_h: usize,
    k_w: usize,
    weights: Weights,
}

#[derive(Clone, Debug)]
enum Weights {
    /// As given: `[c][k_h][k_w]`.
    Plain(Arc<Vec<i8>>),
    Blocks(Arc<Blocks>),
}

impl PackedDepthwise {
    /// Packs `w`, `[c][k_h][k_w]`, for `isa`. Of `geom` only the channels and the kernel's size matter.
    ///
    /// # Panics
    /// When `w` has another length than `geom` says, `groups`, `c_in` and `c_out` are not the same
    /// number, or this machine does not have `isa`.
    pub fn pack(isa: Isa, geom: &ConvGeom, w: &[i8]) -> PackedDepthwise {
        geom.check_weights(w.len());
        assert!(
            geom.groups == geom.c_in && geom.c_in == geom.c_out,
            "{} groups of {} input and {} output channels: not depthwise",
            geom.groups,
            geom.c_in,
            geom.c_out
        );
        let weights = match dispatch(isa, Pack { geom, w }) {
            Some(blocks) => Weights::Blocks(Arc::new(blocks)),
            None => Weights::Plain(Arc::new(w.to_vec())),
        };
        PackedDepthwise { isa, channels: geom.c_in, k_h: geom.k_h, k_w: geom.k_w, weights }
    }

    /// The instruction set that the weights are packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of memory of the packed weights.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Plain(w) => w.len(),
            Weights::Blocks(blocks) => blocks.memory(),
        }
    }

    /// Sizes and the weights as they were given.
    pub(crate) fn parts(&self) -> (ConvGeom, Vec<i8>) {
        let mut geom = ConvGeom::matrix(0, self.channels, self.channels);
        (geom.k_h, geom.k_w, geom.groups) = (self.k_h, self.k_w, self.channels);
        match &self.weights {
            Weights::Plain(w) => (geom, w.to_vec()),
            Weights::Blocks(blocks) => (geom, blocks.plain()),
        }
    }

    pub(crate) fn fits(&self, geom: &ConvGeom) -> bool {
        geom.groups == self.channels
            && geom.c_in == self.channels
            && geom.c_out == self.channels
            && (geom.k_h, geom.k_w) == (self.k_h, self.k_w)
    }

    /// Prepares everything that does not depend on the inputs, as [`crate::conv::PackedConv::bind`] does.
    ///
    /// # Panics
    /// As [`crate::conv::PackedConv::bind`].
    pub fn bind(&self, geom: &ConvGeom, x_zero: u8, epi: &Epilogue) -> BoundDepthwise {
        assert!(
            self.fits(geom),
            "the weights were packed for {} channels and a kernel of {} x {}, not for {geom:?}",
            self.channels,
            self.k_h,
            self.k_w
        );
        BoundDepthwise::new(self.isa, &self.weights, geom, x_zero, epi)
    }
}

#[cfg(test)]
mod tests;
