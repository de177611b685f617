//! Batches in data order, decoded by background threads within bounded memory.
use super::{
    dataset::{Dataset, Sample},
    preprocess::Preprocess,
};
use crate::{
    error::{At, Error, ErrorKind, Result},
    ir::{Shape, Tensor},
};
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Samples one after the other.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Samples x the model's input, binary32.
    pub input: Tensor,
    /// One label per sample.
    pub labels: Vec<Option<usize>>,
    /// The samples' indices in the data set.
    pub indices: Vec<usize>,
}

/// How a [`Loader`] works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Samples per batch; the last one may hold fewer.
    pub batch: usize,
    /// Background threads; 0 takes one per core.
    pub threads: usize,
    /// Leaves out samples that cannot be read or decoded, and counts them. Callers must print [`Loader::skipped`].
    pub skip_corrupt: bool,
    /// Set by others to stop: [`Loader`] then ends with an error of kind [`ErrorKind::Interrupted`].
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for Settings {
    /// Batches of 32, one thread per core, errors are errors.
    fn default() -> Self {
        Self { batch: 32, threads: 0, skip_corrupt: false, cancel: None }
    }
}

/// The most messages of skipped samples that are kept; all are counted.
const KEPT_MESSAGES: usize = 20;
/// Samples that workers may be ahead of the reader, besides one batch: this many per thread.
const AHEAD: usize = 4;
/// Small samples are handed out in runs of up to this many, to save locking.
const RUN: usize = 16;

/// An iterator of batches in the order of its indices, whatever the number of threads.
///
/// Memory is bounded by about two batches and a few samples per thread: workers wait when the reader falls behind. The
/// first error in data order ends the iteration. Dropping the loader stops its threads.
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    settings: Settings,
    /// The next position to put into a batch.
    position: usize,
    shape: Option<Vec<usize>>,
    skipped: usize,
    messages: Vec<String>,
    failed: bool,
}

struct Shared {
    dataset: Arc<Dataset>,
    preprocess: Preprocess,
    indices: Vec<usize>,
    window: usize,
    run: usize,
    state: Mutex<State>,
    /// Something is done, for the reader.
    done: Condvar,
    /// Something was taken, for the workers.
    taken: Condvar,
}

struct State {
    /// The next position that nobody works on.
    next: usize,
    /// All positions before are in the reader's hands.
    consumed: usize,
    ready: BTreeMap<usize, Result<Tensor>>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let positions = {
                let mut state = self.lock();
                loop {
                    if state.stop || state.next >= self.indices.len() {
                        return;
                    }
                    if state.next < state.consumed + self.window {
                        break;
                    }
                    state = self.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                let start = state.next;
                state.next = self.indices.len().min(start + self.run);
                start..state.next
            };
            let results: Vec<_> =
                positions.map(|p| (p, prepare(&self.dataset, &self.preprocess, self.indices[p]))).collect();
            let mut state = self.lock();
            state.ready.extend(results);
            drop(state);
            self.done.notify_one();
        }
    }
}

/// Reads and preprocesses one sample.
///
/// # Errors
/// Names the file or sample. A panic of a decoder (a defect in a library) becomes an error, too.
fn prepare(dataset: &Dataset, preprocess: &Preprocess, index: usize) -> Result<Tensor> {
    let work = || {
        let sample: Sample = dataset.sample(index)?;
        preprocess.apply(sample).at(|| dataset.name(index))
    };
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::internal("the decoder gave up on this file").at(dataset.name(index))))
}

impl Loader {
    /// Starts loading the samples `indices` of `dataset` in this order.
    ///
    /// # Errors
    /// When the preprocessing makes no sense, the batch is 0, an index is none of the data set, or no thread can be
    /// started.
    pub fn new(dataset: Arc<Dataset>, preprocess: Preprocess, indices: Vec<usize>, settings: Settings) -> Result<Self> {
        preprocess.check()?;
        if settings.batch == 0 {
            return Err(Error::usage("batches of 0 samples"));
        }
        if let Some(i) = indices.iter().find(|&&i| i >= dataset.len()) {
            return Err(Error::usage(format!("sample {i} of a data set of {}", dataset.len())));
        }
        let threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let threads = threads.clamp(1, indices.len().max(1));
        let run = (settings.batch / threads).clamp(1, if dataset.is_files() { 1 } else { RUN });
        let shared = Arc::new(Shared {
            dataset,
            preprocess,
            window: settings.batch.saturating_add(threads * run.max(AHEAD)),
            run,
            state: Mutex::new(State { next: 0, consumed: 0, ready: BTreeMap::new(), stop: false }),
            indices,
            done: Condvar::new(),
            taken: Condvar::new(),
        });
        let mut this = Self {
            shared,
            workers: Vec::new(),
            settings,
            position: 0,
            shape: None,
            skipped: 0,
            messages: Vec::new(),
            failed: false,
        };
        for i in 0..threads {
            let shared = this.shared.clone();
            let worker = std::thread::Builder::new()
                .name(format!("nnq-load-{i}"))
                .spawn(move || shared.work())
                .map_err(|e| Error::new(ErrorKind::Io, format!("cannot start a thread: {e}")))?;
            this.workers.push(worker);
        }
        Ok(this)
    }

    /// Number of samples that will be read, those to be skipped included.
    pub fn samples(&self) -> usize {
        self.shared.indices.len()
    }
    /// Number of samples that were left out so far, and the messages of the first of them. For callers to print.
    pub fn skipped(&self) -> (usize, &[String]) {
        (self.skipped, &self.messages)
    }

    /// Waits for the sample at the current position.
    fn take(&mut self) -> Result<Result<Tensor>> {
        let mut state = self.shared.lock();
        loop {
            if self.settings.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Err(Error::new(ErrorKind::Interrupted, "stopped on request"));
            }
            if let Some(result) = state.ready.remove(&self.position) {
                self.position += 1;
                state.consumed = self.position;
                drop(state);
                self.shared.taken.notify_all();
                return Ok(result);
            }
            // The timeout is for the flag, which cannot wake anybody.
            let waited = self.shared.done.wait_timeout(state, Duration::from_millis(50));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn batch(&mut self) -> Result<Option<Batch>> {
        let want = self.settings.batch;
        let (mut values, mut labels, mut indices) = (Vec::new(), Vec::new(), Vec::new());
        while indices.len() < want && self.position < self.shared.indices.len() {
            let index = self.shared.indices[self.position];
            let sample = match self.take()? {
                Ok(sample) => sample,
                Err(e) if self.settings.skip_corrupt && may_skip(&e) => {
                    self.skipped += 1;
                    if self.messages.len() < KEPT_MESSAGES {
                        self.messages.push(e.to_string());
                    }
                    continue;
                }
                Err(e) => return Err(e),
            };
            let shape = self.shape.get_or_insert_with(|| sample.shape().to_vec());
            if sample.shape() != shape {
                return Err(Error::shape(format!(
                    "after preprocessing this sample has shape {:?}, those before it {shape:?}",
                    sample.shape()
                ))
                .cure("resize and crop all samples to one size in the preprocessing, for example with the preset imagenet")
                .at(self.shared.dataset.name(index)));
            }
            if values.is_empty() {
                values.reserve_exact(sample.len() * want.min(self.shared.indices.len() - self.position + 1));
            }
            values.extend_from_slice(sample.as_slice::<f32>()?);
            labels.push(self.shared.dataset.label(index));
            indices.push(index);
        }
        if indices.is_empty() {
            if self.skipped > 0 && self.shape.is_none() {
                let first = self.messages.first().cloned().unwrap_or_default();
                return Err(Error::malformed(format!("all {} samples are corrupt; the first: {first}", self.skipped)));
            }
            return Ok(None);
        }
        let mut shape = vec![indices.len()];
        shape.extend(self.shape.iter().flatten());
        Ok(Some(Batch { input: Tensor::of(&shape, values), labels, indices }))
    }
}

/// Skipping is for broken files, not for wrong settings.
fn may_skip(e: &Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::Io | ErrorKind::Malformed | ErrorKind::Unsupported | ErrorKind::Value | ErrorKind::Internal
    )
}

impl Iterator for Loader {
    type Item = Result<Batch>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = self.batch().transpose();
        self.failed = matches!(batch, Some(Err(_)) | None);
        batch
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.taken.notify_all();
        for worker in self.workers.drain(..) {
            // Workers do not panic: `prepare` catches; and there is nobody to tell.
            let _ = worker.join();
        }
    }
}

impl Dataset {
    /// The first sample after preprocessing, without a batch dimension.
    ///
    /// # Errors
    /// When it cannot be read or preprocessed.
    pub fn first(&self, preprocess: &Preprocess) -> Result<Tensor> {
        prepare(self, preprocess, 0)
    }
    /// Whether the preprocessed data (its first sample) suits a model's input.
    ///
    /// # Errors
    /// As [`Dataset::first`] and [`Preprocess::fits`].
    pub fn check(&self, preprocess: &Preprocess, input: &Shape) -> Result<()> {
        preprocess.fits(self.first(preprocess)?.shape(), input).at(|| self.name(0))
    }
}
