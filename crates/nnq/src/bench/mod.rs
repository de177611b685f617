//! How fast a model runs, which layers take the time and why, and how fast other engines run it.
pub mod peers;
pub mod worker;

mod layers;
mod memory;

pub use layers::{Bound, Layer};
pub use memory::Memory;

use crate::{
    engine::{Engine, Kind, Session},
    error::{At, Error, Result},
    exec::float,
    ir::{Binding, DType, Data, Dim, Graph, Tensor, ValueId, infer},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Runs before the clock counts: plans, page faults, clock frequency.
const WARMUP: usize = 3;
/// Measured runs: at least, and at most within [`BUDGET`].
const RUNS: (usize, usize) = (10, 1000);
const BUDGET: Duration = Duration::from_secs(2);
/// Runs with a clock around each layer.
const LAYER_RUNS: usize = 9;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// What ran it.
    pub engine: Kind,
    /// Arithmetic of the integer engine.
    pub profile: Option<crate::exec::lower::Profile>,
    /// Instruction set of the integer engine.
    pub isa: Option<&'static str>,
    /// Threads.
    pub threads: usize,
    /// Samples per run.
    pub batch: usize,
    /// Measured runs.
    pub runs: usize,
    /// Wall-clock milliseconds of one run: the median.
    pub median_ms: f64,
    /// The fastest run.
    pub min_ms: f64,
    /// The slowest run.
    pub max_ms: f64,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Billions of operations (a multiply-accumulate is two) a second that this machine's multiply-add units can do at most on
    /// these threads, in the engine's number type.
    pub peak_gops: f64,
    /// What the median run reaches of it, 0 to 1.
    pub share_of_peak: f64,
    /// Memory after loading and one run.
    pub memory: Memory,
    /// The share of all layers' time that goes to layers of each kind of bound.
    pub bounds: BTreeMap<Bound, f64>,
    /// In the order of execution.
    pub layers: Vec<Layer>,
}

/// Measures an engine on made-up inputs. `tick(done, of)` is called between runs (in thousandths of the work); its error ends the measurement.
///
/// # Errors
/// When an input has a size that neither the model nor `batch` fixes, and whatever a run answers.
pub fn bench(engine: &mut Engine, sizes: &Sizes, mut tick: impl FnMut(u64, u64) -> Result<()>) -> Result<BenchReport> {
    let batch = engine.batch(sizes.batch);
    let sizes = &Sizes { batch, named: sizes.named.clone() };
    // The first inputs are given away: nothing but the engine holds memory while it runs.
    let first = made_up(engine.graph(), sizes)?.1;
    let shapes: Vec<Vec<usize>> = first.iter().map(|x| x.shape().to_vec()).collect();
    engine.run(first)?;
    let memory = Memory::of(engine, &shapes);
    let (graph, inputs) = made_up(engine.graph(), sizes)?;
    for _ in 1..WARMUP {
        tick(0, 1000)?;
        engine.run(inputs.clone())?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < RUNS.0 || (start.elapsed() < BUDGET && times.len() < RUNS.1) {
        let input = inputs.clone();
        let clock = Instant::now();
        engine.run(input)?;
        times.push(clock.elapsed());
        let share = start.elapsed().as_secs_f64() / BUDGET.as_secs_f64();
        tick((900.0 * share.min(1.0)) as u64, 1000)?;
    }
    let mut laps = Vec::new();
    for i in 0..LAYER_RUNS {
        tick(900 + (100 * i / LAYER_RUNS) as u64, 1000)?;
        laps.push(layers::timed(engine.session(), &graph, inputs.clone())?);
    }
    times.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let median = times[times.len() / 2];
    let threads = engine.threads();
    let peak_gops = threads as f64
        * match engine.session() {
            Session::Int(s) => nnq_kernels::peak::int8_peak(s.isa()),
            _ => nnq_kernels::peak::f32_peak(),
        };
    let mut limits = layers::Limits::new(threads, peak_gops);
    let layers = layers::medians(&laps, &mut limits);
    let macs = layers.iter().map(|l| l.macs).sum();
    let mut bounds = BTreeMap::new();
    layers.iter().for_each(|l| *bounds.entry(l.bound).or_insert(0.0) += l.share);
    Ok(BenchReport {
        engine: engine.kind(),
        profile: engine.profile(),
        isa: engine.isa(),
        threads,
        batch,
        runs: times.len(),
        median_ms: ms(median),
        min_ms: ms(times[0]),
        max_ms: ms(times[times.len() - 1]),
        macs,
        peak_gops,
        share_of_peak: limits.share_of_peak(macs, median.as_secs_f64()),
        memory,
        bounds,
        layers,
    })
}

/// The graph with its sizes bound, and inputs for it.
fn made_up(graph: &Graph, sizes: &Sizes) -> Result<(Graph, Vec<Tensor>)> {
    let graph = infer::bind(graph, &sizes.binding(graph)?)?;
    let inputs = inputs(&graph)?;
    Ok((graph, inputs))
}

/// What a network leaves open of the sizes of its inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The leading size of each input.
    pub batch: usize,
    /// Others by the names that the network has for them.
    pub named: Vec<(String, usize)>,
}

impl From<usize> for Sizes {
    fn from(batch: usize) -> Self {
        Self { batch, named: Vec::new() }
    }
}

impl Sizes {
    /// The sizes by their names.
    ///
    /// # Errors
    /// Names an input with a size that is not given, and a size that no input has.
    pub(crate) fn binding(&self, graph: &Graph) -> Result<Binding> {
        let mut binding: Binding = self.named.iter().cloned().collect();
        let all = || graph.inputs.iter().filter_map(|v| graph.value(*v).shape.as_ref()).flat_map(|s| &s.0);
        for (name, _) in &self.named {
            if !all().any(|d| matches!(d, Dim::Sym(s) if s.to_string() == *name)) {
                let mut known: Vec<String> =
                    all().filter(|d| matches!(d, Dim::Sym(_))).map(ToString::to_string).collect();
                known.sort();
                known.dedup();
                return Err(Error::usage(format!("no input has a size called '{name}'"))
                    .cure(format!("sizes that are open: {}", known.join(", "))));
            }
        }
        for id in &graph.inputs {
            let value = graph.value(*id);
            let dims = value.shape.as_ref().map_or(&[][..], |s| &s.0);
            if let Some(Dim::Sym(s)) = dims.first() {
                binding.entry(s.to_string()).or_insert(self.batch);
            }
        }
        for id in &graph.inputs {
            let value = graph.value(*id);
            let open = |d: &Dim| matches!(d, Dim::Unknown) || d.bind(&binding).fixed().is_none();
            let shape = value.shape.as_ref();
            if shape.is_none_or(|s| s.0.iter().any(open)) {
                let text = shape.map_or_else(|| "unknown".into(), ToString::to_string);
                let first = shape.and_then(|s| s.0.iter().find(|d| open(d)));
                let cure = match first {
                    Some(d @ Dim::Sym(_)) => {
                        format!("give it, as in --size {d}=128, or export the model with fixed sizes")
                    }
                    _ => "export the model with fixed sizes, or names for those that are open".into(),
                };
                let cause = format!("input '{}' has the shape {text}, so its size is not known", value.name);
                return Err(Error::usage(cause).cure(cure));
            }
        }
        Ok(binding)
    }
}

/// Numbers between -1 and 1 for floating-point inputs, zeros for integers: speed does not depend on them.
fn inputs(graph: &Graph) -> Result<Vec<Tensor>> {
    let one = |id: &ValueId| {
        let value = graph.value(*id);
        let shape = value.shape.as_ref().and_then(crate::ir::Shape::as_fixed);
        let (Some(shape), Some(dtype)) = (shape, value.dtype) else {
            return Err(Error::usage(format!("the type or shape of input '{}' is not known", value.name)));
        };
        let n = float::room(&shape).at(|| format!("input '{}'", value.name))?;
        if dtype == DType::F32 {
            let wave = (0..n).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 7 & 0xffff) as f32 / 32767.5 - 1.0);
            return Ok(Tensor::of(&shape, wave.collect::<Vec<f32>>()));
        }
        let bytes = n.checked_mul(dtype.size()).ok_or_else(|| Error::shape(format!("input of shape {shape:?}")))?;
        Tensor::new(shape, Data::from_bytes(dtype, vec![0u8; bytes].into())?)
    };
    graph.inputs.iter().map(one).collect()
}
