//! What operators share while they run: recycled buffers and prepared constants.
use crate::ir::{Data, Tensor};
use rayon::prelude::*;
use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Recycles buffers of f32 between operators, so that memory is bounded by what is live at once and the steady state does
/// not allocate. Operators take their output buffers here; the session gives back what nobody reads any more.
#[derive(Default)]
pub struct Ctx {
    inner: Mutex<Inner>,
    kept: Arc<Mutex<Kept>>,
    /// Operators stay on the thread that calls them.
    serial: bool,
}

/// What was made of input `.1` of node `.0`; from 64 on, what a node has of its own.
type Kept = HashMap<(u32, usize), Arc<dyn Any + Send + Sync>>;

/// Runs `task` for each of `0..n` on the threads of the session.
pub(crate) fn each(n: usize, task: &(dyn Fn(usize) + Sync)) {
    if n == 1 { task(0) } else { (0..n).into_par_iter().for_each(task) }
}

/// Multiplications that are worth a task.
const WORTH: usize = 1 << 17;

#[derive(Default)]
struct Inner {
    free: Vec<Vec<f32>>,
    /// Elements in `free`; elements taken and not given back; the most of those at once.
    free_len: usize,
    out: usize,
    most: usize,
    /// Bytes that the running node holds, and the most it held.
    held: usize,
    peak: usize,
    /// The running node and a bit for each of its first 64 inputs that is a constant.
    node: Option<(u32, u64)>,
}

impl Inner {
    /// With `more` elements, what is free and in use exceeds twice what was in use at once. Less would throw away buffers of
    /// many sizes that the next run makes again.
    fn is_full(&self, more: usize) -> bool {
        self.out + self.free_len + more > 2 * self.most
    }
    fn remove(&mut self, i: usize) -> Vec<f32> {
        let v = self.free.swap_remove(i);
        self.free_len -= v.capacity();
        v
    }
}

impl Ctx {
    /// Nothing recycled yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// For one thread of several that run the same session: buffers of its own, the same prepared constants.
    pub(super) fn beside(&self) -> Self {
        Self { inner: Mutex::default(), kept: self.kept.clone(), serial: true }
    }
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Operators stay on the thread that calls them.
    pub(super) fn is_serial(&self) -> bool {
        self.serial
    }
    /// Into how many tasks an operator of so many multiplications is cut.
    pub(crate) fn tasks(&self, multiplications: usize) -> usize {
        if self.serial { 1 } else { (multiplications / WORTH).clamp(1, rayon::current_num_threads()) }
    }
    /// A run begins: what left the one before (its outputs) does not come back, and is not waited for.
    pub(crate) fn begin(&self) {
        self.lock().out = 0;
    }
    /// Elements in buffers that wait to be used again.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().free_len
    }
    /// A buffer of `n` elements with unspecified content: the smallest free one that is large enough, or a new one.
    pub fn take(&self, n: usize) -> Vec<f32> {
        let mut v = {
            let inner = &mut *self.lock();
            inner.out += n;
            inner.most = inner.most.max(inner.out);
            inner.held += n * size_of::<f32>();
            inner.peak = inner.peak.max(inner.held);
            // Not one that is far too large: a later operator needs that.
            let fits = |b: &Vec<f32>| (n..=n.saturating_mul(2).max(1 << 10)).contains(&b.capacity());
            // One of the same length needs no filling.
            let worth = |b: &Vec<f32>| (b.len() != n, n.saturating_sub(b.len()), b.capacity());
            let best = inner.free.iter().enumerate().filter(|(_, b)| fits(b)).min_by_key(|(_, b)| worth(b));
            match best.map(|(i, _)| i) {
                Some(i) => inner.remove(i),
                None => {
                    // The new buffer takes the place of the largest ones that are too small, so that free ones do not pile up.
                    while inner.is_full(0) {
                        let small = inner.free.iter().enumerate().filter(|(_, b)| b.capacity() < n);
                        let Some((i, _)) = small.max_by_key(|(_, b)| b.capacity()) else { break };
                        inner.remove(i);
                    }
                    Vec::new()
                }
            }
        };
        if v.capacity() < n {
            return vec![0.0; n];
        }
        v.truncate(n);
        v.resize(n, 0.0);
        v
    }
    /// As [`Ctx::take`], filled with zeros.
    pub fn take_zeroed(&self, n: usize) -> Vec<f32> {
        let mut v = self.take(n);
        v.fill(0.0);
        v
    }
    /// Gives a tensor's buffer back.
    pub fn recycle(&self, tensor: Tensor) {
        if let Data::F32(crate::ir::Buf::Owned(v)) = tensor.into_data() {
            self.give(v);
        }
    }
    /// Gives a buffer back.
    pub fn give(&self, v: Vec<f32>) {
        let mut inner = self.lock();
        inner.held = inner.held.saturating_sub(v.len() * size_of::<f32>());
        inner.out = inner.out.saturating_sub(v.len());
        // Buffers that were made elsewhere come in too (inputs, results of moves).
        if v.capacity() > 0 && !inner.is_full(v.capacity()) {
            inner.free_len += v.capacity();
            inner.free.push(v);
        }
    }
    /// Whether input `input` of the running node is a constant of the session, so that what [`Ctx::keep`] makes is made once.
    pub(super) fn keeps(&self, input: usize) -> bool {
        self.lock().node.is_some_and(|(_, constant)| input < 64 && constant >> input & 1 == 1)
    }
    /// Something made from input `input` of the running node (packed weights). Made once and kept when that input is a
    /// constant of the session, made anew otherwise.
    pub fn keep<T: Any + Send + Sync>(&self, input: usize, make: impl FnOnce() -> T) -> Arc<T> {
        let key = self.lock().node.filter(|(_, constant)| input < 64 && constant >> input & 1 == 1);
        let Some((node, _)) = key else { return Arc::new(make()) };
        let kept = self.kept().get(&(node, input)).cloned();
        if let Some(kept) = kept.and_then(|k| k.downcast::<T>().ok()) {
            return kept;
        }
        let made = Arc::new(make());
        self.kept().insert((node, input), made.clone());
        made
    }
    /// Something that the running node has of its own, made once in a session.
    ///
    /// # Errors
    /// What `make` answers.
    pub(super) fn keep_own<T: Any + Send + Sync>(
        &self,
        slot: usize,
        make: impl FnOnce() -> crate::error::Result<T>,
    ) -> crate::error::Result<Arc<T>> {
        let key = self.lock().node.map(|(node, _)| (node, 64 + slot));
        let kept = key.and_then(|key| self.kept().get(&key).cloned());
        if let Some(kept) = kept.and_then(|k| k.downcast::<T>().ok()) {
            return Ok(kept);
        }
        let made = Arc::new(make()?);
        if let Some(key) = key {
            self.kept().insert(key, made.clone());
        }
        Ok(made)
    }
    /// The session says which node runs, and with a bit each which of its inputs are constants.
    pub(super) fn enter(&self, node: u32, constant: u64) {
        let mut inner = self.lock();
        inner.node = Some((node, constant));
        (inner.held, inner.peak) = (0, 0);
    }
    /// The node is done; answers the most bytes it held in f32 buffers.
    pub(super) fn leave(&self) -> usize {
        let mut inner = self.lock();
        inner.node = None;
        inner.held = 0;
        inner.peak
    }
}
