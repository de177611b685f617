//! Binary32 kernels for the float executor: products and convolutions, channels last.
//!
//! Every output element is one chain of fused multiply-adds, `acc = fma(x, w, acc)`, started from the bias and run over the
//! taps in kernel order and over the channels within a tap. So a result depends on its operands only: not on the
//! instruction set, the tile that an element falls into, the number of tasks or of images.
//!
//! ```
//! use nnq_kernels::float::{Epilogue, FloatIsa, PackedProduct, Place, in_turn};
//!
//! // One row of three numbers times a 3x2 matrix.
//! let packed = PackedProduct::pack(FloatIsa::best(), &[1.0, 2.0, 3.0, -1.0, 0.0, 1.0], [2, 1, 3], [1, 0, 2]);
//! let mut y = [0.0; 2];
//! packed.run(&Place::matrix(1, 3, 2), &[1.0, 2.0, 3.0], &Epilogue::default(), &mut y, 1, &in_turn);
//! assert_eq!(y, [1.0 + 6.0, 2.0 - 2.0 + 3.0]);
//! ```
mod attention;
mod coded;
mod depthwise;
mod isa;
mod place;
mod product;
#[cfg(test)]
mod tests;
mod tile;
mod vector;
mod zeros;

pub use attention::{Attention, Heads};
pub use coded::{CodedProduct, Codes};
pub use depthwise::PackedDepthwise;
pub use isa::FloatIsa;
pub use place::Place;
pub use product::PackedProduct;
pub use zeros::without_zeros;

use std::sync::atomic::{AtomicBool, Ordering};

/// What happens to a finished sum before it is stored: `min(max(sum + residual, lo), hi)`, each step rounded once, so
/// that the result has the bits of separate operators.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Where the sums start: one number per output channel; zero without.
    pub bias: Option<&'a [f32]>,
    /// Added to the sums: laid out like the output.
    pub residual: Option<&'a [f32]>,
    /// Smaller results become this one; NaN passes.
    pub lo: f32,
    /// Greater results become this one; NaN passes.
    pub hi: f32,
    /// Works on finished pixels while they are in the cache: where in the output they begin, and all their channels.
    pub done: Option<Done<'a>>,
}

/// Called once for each run of output elements; tasks call it at the same time for runs of theirs.
pub type Done<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

impl Default for Epilogue<'_> {
    /// Nothing.
    fn default() -> Self {
        Self { bias: None, residual: None, lo: f32::NEG_INFINITY, hi: f32::INFINITY, done: None }
    }
}

impl Epilogue<'_> {
    /// # Panics
    /// When a slice does not have the size that `place` says, or a step is zero.
    fn check(&self, place: &Place, x: &[f32], out: &[f32]) {
        assert_eq!((x.len(), out.len()), (place.input_len(), place.output_len()));
        assert!(self.bias.is_none_or(|b| b.len() == place.out_channels));
        assert!(self.residual.is_none_or(|r| r.len() == out.len()));
        assert!(place.stride.iter().chain(&place.dilation).all(|&s| s > 0));
    }

    /// Hands `len` finished elements over.
    ///
    /// # Safety
    /// They are in the output that begins at `out`, and nobody else touches them meanwhile.
    unsafe fn hand_over(&self, out: *mut f32, start: usize, len: usize) {
        if let Some(done) = self.done {
            // SAFETY: the caller vouches for the elements.
            done(start, unsafe { std::slice::from_raw_parts_mut(out.add(start), len) });
        }
    }
}

/// `lo` where `x` is below it, then `hi` where that is above it; NaN passes.
#[inline(always)]
pub fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// Calls a task for each of `0..n`, on any threads.
pub type Each<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync));

/// An [`Each`] on the calling thread.
pub fn in_turn(n: usize, task: &(dyn Fn(usize) + Sync)) {
    (0..n).for_each(task);
}

/// An output that tasks write disjoint parts of.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: tasks write disjoint elements, and each task runs once: `once` sees to that.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    fn pointer(self) -> *mut f32 {
        self.0
    }
}

/// Runs `task` for each of `0..n` by `each`, at most once however often `each` calls it.
fn once(n: usize, each: Each<'_>, task: impl Fn(usize) + Sync) {
    let started: Vec<AtomicBool> = (0..n).map(|_| AtomicBool::new(false)).collect();
    each(n, &|i| {
        if !started[i].swap(true, Ordering::Relaxed) {
            task(i);
        }
    });
}

/// Part `i` of `parts` nearly equal ones of `0..n`, in units of `unit`.
fn part(n: usize, unit: usize, parts: usize, i: usize) -> std::ops::Range<usize> {
    let units = n.div_ceil(unit);
    let cut = |i: usize| (units * i / parts * unit).min(n);
    cut(i)..cut(i + 1)
}
