//! Calibration: float runs over samples, every value that may become codes observed as it is produced.
use crate::{
    error::{At, Error, Result},
    exec::float::{self, Tap},
    ir::{DType, Graph, Node, Op, Tensor, ValueId},
    quant::{
        observer::{Observer, ObserverKind, Statistics},
        place,
    },
};
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Collects statistics of a graph's values. Memory does not grow with the number of samples, apart from eight bytes for each
/// value and sample.
pub struct Calibrator {
    session: float::Session,
    /// One observer per worker for each observed value; merging is exact, so the number of workers changes nothing.
    observers: HashMap<ValueId, Vec<Statistics>>,
}

struct Observing<'a> {
    graph: &'a Graph,
    observers: &'a mut HashMap<ValueId, Vec<Statistics>>,
    samples: &'a [u64],
}

impl Tap for Observing<'_> {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        let Some(workers) = self.observers.get_mut(&value) else { return Ok(()) };
        let place = || format!("value '{}'", self.graph.value(value).name);
        let data = tensor.as_slice::<f32>().at(place)?;
        let n = self.samples.len();
        if n == 0 || data.len() % n != 0 {
            return Err(Error::shape(format!("{} elements for {n} samples", data.len()))
                .at(place())
                .cure("the first dimension of every value must be the batch"));
        }
        let (each, shape) = (data.len() / n, tensor.shape());
        let share = n.div_ceil(workers.len());
        workers
            .par_iter_mut()
            .zip(self.samples.par_chunks(share))
            .enumerate()
            .try_for_each(|(w, (statistics, ids))| {
                ids.iter().enumerate().try_for_each(|(i, &id)| {
                    let at = (w * share + i) * each;
                    statistics.observe(id, shape, &data[at..at + each])
                })
            })
            .at(place)
    }
}

/// No constant of a product is NaN or infinite.
fn finite(graph: &Graph, node: &Node) -> Result<()> {
    if !matches!(node.op, Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm { .. } | Op::MatMul) {
        return Ok(());
    }
    for &v in node.inputs.iter().flatten() {
        let Some(t) = graph.constant(v).filter(|t| t.dtype().is_float()) else { continue };
        let (mut nan, mut infinite) = (0usize, 0usize);
        for x in t.to_f32s() {
            nan += usize::from(x.is_nan());
            infinite += usize::from(x.is_infinite());
        }
        if nan + infinite > 0 {
            return Err(Error::value(format!("{nan} NaN and {infinite} infinities among {} numbers", t.len()))
                .at(format!("constant '{}'", graph.value(v).name))
                .cure("the model's weights are damaged: export it again"));
        }
    }
    Ok(())
}

impl Calibrator {
    /// Observes every value of `graph` that a placement may want as codes. `threads` 0: one per core.
    ///
    /// # Errors
    /// As [`float::Session::new`]; names weights that are NaN or infinite, rather than the values that they would spoil.
    pub fn new(graph: Arc<Graph>, threads: usize) -> Result<Self> {
        for (_, node) in graph.nodes() {
            finite(&graph, node).at(|| format!("node '{}'", node.name))?;
        }
        let workers = if threads == 0 { std::thread::available_parallelism().map_or(1, Into::into) } else { threads };
        let placement = place::place(&graph, &vec![false; graph.node_count()], true);
        let observers = placement
            .groups
            .iter()
            .flat_map(|g| &g.values)
            .filter(|v| graph.value(**v).dtype == Some(DType::F32))
            .map(|&v| (v, (0..workers).map(|_| ObserverKind::Tensor.start()).collect()))
            .collect();
        let session = float::Session::new(graph, &float::Options { threads })?;
        Ok(Self { session, observers })
    }
    /// Runs a batch and observes it. `samples` are the indices of its samples in the data set.
    ///
    /// # Errors
    /// As the run; names the value whose statistics overflow or that is no batch.
    pub fn feed(&mut self, input: Tensor, samples: &[u64]) -> Result<()> {
        let graph = self.session.graph().clone();
        let mut tap = Observing { graph: &graph, observers: &mut self.observers, samples };
        self.session.run_tapped(vec![input], &mut tap).map(drop)
    }
    /// The statistics by the name of the value.
    ///
    /// # Errors
    /// When counts overflow.
    pub fn finish(self) -> Result<BTreeMap<String, Statistics>> {
        let graph = self.session.graph().clone();
        self.observers
            .into_iter()
            .map(|(v, workers)| {
                let mut workers = workers.into_iter();
                let mut all = workers.next().ok_or_else(|| Error::internal("an observer without workers"))?;
                for w in workers {
                    all.merge(&w)?;
                }
                Ok((graph.value(v).name.clone(), all))
            })
            .collect()
    }
}
