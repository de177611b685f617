//! A product whose output channels are shared out.
use super::{BoundConv, Grids, Scratch, epilogue::OutPtr};
use std::{marker::PhantomData, ops::Range};

/// The real numbers of some output channels of a product with few pixels: each of some threads takes one share, and reads its own part of the
/// weights only.
#[derive(Debug)]
pub struct Share<'a> {
    of: &'a BoundConv,
    pixels: usize,
    panels: Range<usize>,
    out: OutPtr,
    own: PhantomData<&'a mut [f32]>,
}

impl BoundConv {
    /// At most `most` shares of the first `pixels` pixels, which together make all of `out`.
    ///
    /// # Panics
    /// When `out` has another length than these outputs.
    pub fn shares<'a>(&'a self, pixels: usize, out: &'a mut [f32], most: usize) -> Vec<Share<'a>> {
        let c_out = self.geom().c_out;
        assert!(out.len() == pixels * c_out, "{} numbers for {pixels} pixels of {c_out} channels", out.len());
        let panels = self.panels();
        let each = panels.div_ceil(most.max(1)).max(1);
        let out = OutPtr::F32(out.as_mut_ptr());
        let share = |i: usize| i * each..((i + 1) * each).min(panels);
        (0..panels.div_ceil(each))
            .map(|i| Share { of: self, pixels, panels: share(i), out, own: PhantomData })
            .collect()
    }
}

impl Share<'_> {
    /// Computes it, with inputs on the grids `grids`.
    ///
    /// # Panics
    /// As [`BoundConv::run_live`] and [`BoundConv::run_rows`].
    pub fn run(self, x: &[u8], grids: Grids<'_>, scratch: &mut Scratch) {
        let Self { of, pixels, panels, out, .. } = self;
        // SAFETY: the slice holds all outputs. No other share has these panels, and where the scalar code writes between them there is one share.
        unsafe { of.run_part(x, grids, 0..pixels, panels, out, scratch) };
    }
}
