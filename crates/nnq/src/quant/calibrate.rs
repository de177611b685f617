//! Calibration: float runs over samples, every value that may become codes observed as it is produced.
use crate::{
    error::{At, Error, Result},
    exec::float::{self, Interest, Tap},
    ir::{DType, Graph, Node, Op, Tensor, ValueId},
    quant::{
        observer::{Counter, Sketch, Statistics},
        place,
    },
};
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// Collects statistics of a graph's values. Memory does not grow with the number of samples.
pub struct Calibrator {
    session: float::Session,
    sketches: Arc<Sketches>,
    workers: Vec<Worker>,
}

/// What is known of each value. All threads share it, and lock a value once a sample: counting is exact, so their order changes nothing.
type Sketches = HashMap<ValueId, Mutex<Sketch>>;

/// What one thread counts.
struct Worker {
    graph: Arc<Graph>,
    sketches: Arc<Sketches>,
    /// The samples of the batch by their index in the data set, and those that are running.
    samples: Arc<[u64]>,
    running: Range<usize>,
    /// Counters of values that come in parts, with value and sample; those that nobody uses.
    open: Vec<(ValueId, usize, Counter)>,
    spare: Vec<Counter>,
    /// Values that are the same for all samples of a run, such as positions: they count as the first one's.
    common: Arc<HashSet<ValueId>>,
}

impl Worker {
    /// Sees a share (counted in parts of `of`) of each sample of a value.
    fn observe(&mut self, value: ValueId, tensor: &Tensor, share: usize, of: usize) -> Result<()> {
        let Some(sketch) = self.sketches.get(&value) else { return Ok(()) };
        let place = || format!("value '{}'", self.graph.value(value).name);
        let data = tensor.as_slice::<f32>().at(place)?;
        let mut ids = &self.samples[self.running.clone()];
        if self.common.contains(&value) {
            ids = &ids[..ids.len().min(1)];
        }
        if ids.is_empty() || data.len() % ids.len() != 0 {
            return Err(Error::shape(format!("{} elements for {} samples", data.len(), ids.len()))
                .at(place())
                .cure("the first dimension of every value must be the batch"));
        }
        let each = data.len() / ids.len();
        for (i, &id) in ids.iter().enumerate() {
            let part = &data[i * each + each * share / of..i * each + each * (share + 1) / of];
            Sketch::observe_shared(sketch, id, part).at(place)?;
        }
        Ok(())
    }
    fn interest(&self, value: ValueId) -> Interest {
        if self.sketches.contains_key(&value) { Interest::Elements } else { Interest::Nothing }
    }
}

/// For a worker that runs samples by itself: it sees their values while they are in its cache.
impl Tap for Worker {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        self.observe(value, tensor, 0, 1)
    }
    fn interest(&self, value: ValueId) -> Interest {
        self.interest(value)
    }
    fn begin(&mut self, samples: Range<usize>) {
        self.running = samples;
    }
    fn part(&mut self, value: ValueId, sample: usize, elements: &[f32]) -> Result<()> {
        if self.open.iter().any(|o| o.0 == value && o.1 != sample) {
            self.seen(value)?;
        }
        let i = self.open.iter().position(|o| o.0 == value).unwrap_or_else(|| {
            self.open.push((value, sample, self.spare.pop().unwrap_or_default()));
            self.open.len() - 1
        });
        if let Some(sketch) = self.sketches.get(&value) {
            Sketch::observe_part(sketch, &mut self.open[i].2, elements);
        }
        Ok(())
    }
    fn seen(&mut self, value: ValueId) -> Result<()> {
        let Some(i) = self.open.iter().position(|o| o.0 == value) else { return Ok(()) };
        let (_, sample, mut counter) = self.open.swap_remove(i);
        if let Some(sketch) = self.sketches.get(&value) {
            let index = self.samples.get(self.running.start + sample).copied();
            let index = index.ok_or_else(|| Error::internal(format!("sample {sample} of {:?}", self.running)))?;
            Sketch::end_sample(sketch, &mut counter, index)?;
        }
        self.spare.push(counter);
        Ok(())
    }
}

/// For workers that run the batch together.
struct Together<'a>(&'a mut [Worker]);

impl Tap for Together<'_> {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        let n = self.0.len();
        self.0.par_iter_mut().enumerate().try_for_each(|(i, w)| w.observe(value, tensor, i, n))
    }
    fn interest(&self, value: ValueId) -> Interest {
        self.0.first().map_or(Interest::Nothing, |w| w.interest(value))
    }
}

/// No constant of a product is NaN or infinite.
fn finite(graph: &Graph, node: &Node) -> Result<()> {
    if !matches!(node.op, Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm { .. } | Op::MatMul) {
        return Ok(());
    }
    for &v in node.inputs.iter().flatten() {
        let Some(t) = graph.constant(v).filter(|t| t.dtype().is_float()) else { continue };
        let copy;
        let elements = match t.as_slice::<f32>() {
            Ok(elements) => elements,
            Err(_) => {
                copy = t.to_f32s();
                &copy
            }
        };
        if elements.par_chunks(1 << 16).all(|part| part.iter().fold(true, |good, x| good & x.is_finite())) {
            continue;
        }
        let nan = elements.iter().filter(|x| x.is_nan()).count();
        let infinite = elements.iter().filter(|x| x.is_infinite()).count();
        return Err(Error::value(format!("{nan} NaN and {infinite} infinities among {} numbers", t.len()))
            .at(format!("constant '{}'", graph.value(v).name))
            .cure("the model's weights are damaged: export it again"));
    }
    Ok(())
}

impl Calibrator {
    /// Observes every value of `graph` that a placement may want as codes, those that integers between products want only with `integers`. `threads` 0: one
    /// per core.
    ///
    /// # Errors
    /// As [`float::Session::new`]; names weights that are NaN or infinite, rather than the values that they would spoil.
    pub fn new(graph: Arc<Graph>, integers: bool, threads: usize) -> Result<Self> {
        for (_, node) in graph.nodes() {
            finite(&graph, node).at(|| format!("node '{}'", node.name))?;
        }
        let mode = if integers { place::Mode::Integer } else { place::Mode::Static };
        let placement = place::place(&graph, &vec![mode; graph.node_count()], true);
        let sketches: Sketches = placement
            .groups
            .iter()
            .flat_map(|g| &g.values)
            .filter(|v| graph.value(**v).dtype == Some(DType::F32))
            .map(|&v| (v, Mutex::default()))
            .collect();
        let first = |v: &ValueId| graph.value(*v).shape.as_ref().and_then(|s| s.0.first().cloned());
        let batch = graph.inputs.first().and_then(first);
        let others = sketches.keys().copied().filter(|v| batch.is_some() && first(v).is_some() && first(v) != batch);
        let common = Arc::new(if integers { others.collect() } else { HashSet::new() });
        let session = float::Session::new(graph.clone(), &float::Options { threads })?;
        let sketches = Arc::new(sketches);
        let worker = |_| Worker {
            graph: graph.clone(),
            sketches: sketches.clone(),
            samples: Arc::from([]),
            running: 0..0,
            open: Vec::new(),
            spare: Vec::new(),
            common: common.clone(),
        };
        Ok(Self { workers: (0..session.threads()).map(worker).collect(), sketches, session })
    }
    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.workers.len()
    }
    /// Runs a batch and observes it. `samples` are the indices of its samples in the data set.
    ///
    /// # Errors
    /// As the run; names the value whose statistics overflow or that is no batch.
    pub fn feed(&mut self, inputs: Vec<Tensor>, samples: &[u64]) -> Result<()> {
        let shared: Arc<[u64]> = samples.into();
        for w in &mut self.workers {
            (w.samples, w.running) = (shared.clone(), 0..samples.len());
        }
        if self.session.divides() && samples.len() > 1 {
            self.session.run_divided(inputs, &mut self.workers).map(drop)
        } else {
            self.session.run_tapped(inputs, &mut Together(&mut self.workers)).map(drop)
        }
    }
    /// The statistics by the name of the value.
    ///
    /// # Errors
    /// When a worker is still at work, which is a defect.
    pub fn finish(self) -> Result<BTreeMap<String, Statistics>> {
        let graph = self.session.graph().clone();
        drop(self.workers);
        let sketches = Arc::into_inner(self.sketches).ok_or_else(|| Error::internal("calibration goes on"))?;
        let named = sketches.into_iter().map(|(v, sketch)| {
            let sketch = sketch.into_inner().unwrap_or_else(PoisonError::into_inner);
            (graph.value(v).name.clone(), Statistics::Tensor(sketch))
        });
        Ok(named.collect())
    }
}
