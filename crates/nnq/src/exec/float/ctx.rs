//! What operators share while they run: recycled buffers.
use crate::ir::{Data, Tensor};
use std::sync::Mutex;

/// Recycles buffers of f32 between operators, so that memory is bounded by what is live at once and the steady state does
/// not allocate. Operators take their output buffers here; the session gives back what nobody reads any more.
#[derive(Default)]
pub struct Ctx {
    free: Mutex<Vec<Vec<f32>>>,
}

impl Ctx {
    /// Nothing recycled yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// A buffer of `n` elements with unspecified content: the smallest free one that is large enough, or a new one.
    pub fn take(&self, n: usize) -> Vec<f32> {
        let mut v = self.take_empty(n);
        v.resize(n, 0.0);
        v
    }
    /// As [`Ctx::take`], filled with zeros.
    pub fn take_zeroed(&self, n: usize) -> Vec<f32> {
        let mut v = self.take_empty(n);
        v.clear();
        v.resize(n, 0.0);
        v
    }
    fn take_empty(&self, n: usize) -> Vec<f32> {
        let mut free = self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let best = free.iter().enumerate().filter(|(_, b)| b.capacity() >= n).min_by_key(|(_, b)| b.capacity());
        match best.map(|(i, _)| i) {
            Some(i) => {
                let mut v = free.swap_remove(i);
                v.truncate(n);
                v
            }
            None => Vec::with_capacity(n),
        }
    }
    /// Gives a tensor's buffer back.
    pub fn recycle(&self, tensor: Tensor) {
        if let Data::F32(crate::ir::Buf::Owned(v)) = tensor.into_data() {
            self.give(v);
        }
    }
    /// Gives a buffer back.
    pub fn give(&self, v: Vec<f32>) {
        if v.capacity() > 0 {
            self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(v);
        }
    }
}
