//! Loops in the widest registers of the machine.
use pulp::{Arch, Simd, WithSimd};

struct Compiled<F>(F);

impl<T, F: FnMut() -> T> WithSimd for Compiled<F> {
    type Output = T;
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> T {
        // By reference: a call by value would go through a function that is compiled for the least machine.
        (self.0)()
    }
}

/// Calls `work` (an `#[inline(always)]` closure) in a function that is compiled for the best instruction set of the machine. Nothing
/// is fused, so the results are the same bits.
pub fn widest<T>(work: impl FnMut() -> T) -> T {
    Arch::new().dispatch(Compiled(work))
}
