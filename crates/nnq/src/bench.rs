//! How fast a model runs, and which layers take the time.
use crate::{
    engine::{Engine, Kind, Session},
    error::{At, Error, Result},
    exec::float::{self, Interest, Tap},
    inspect,
    ir::{Binding, DType, Data, Dim, Graph, Tensor, ValueId, infer},
};
use serde::Serialize;
use std::time::{Duration, Instant};

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
    /// In the order of execution.
    pub layers: Vec<Layer>,
}

/// One layer (a step of the integer program, a node of the float executor).
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// Name of its first node.
    pub name: String,
    /// What it computes.
    pub kind: String,
    /// Median milliseconds, measured with a clock around each layer.
    pub ms: f64,
    /// Of the sum of all layers, 0 to 1.
    pub share: f64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// What it reaches of the machine's peak, 0 to 1.
    pub share_of_peak: f64,
}

/// Measures an engine on made-up inputs. `tick(done, of)` is called between runs (in thousandths of the work); its error ends the measurement.
///
/// # Errors
/// When an input has a size that neither the model nor `batch` fixes, and whatever a run answers.
pub fn bench(engine: &mut Engine, batch: usize, mut tick: impl FnMut(u64, u64) -> Result<()>) -> Result<BenchReport> {
    let binding = sizes(engine.graph(), batch)?;
    let graph = infer::bind(engine.graph(), &binding)?;
    let inputs = inputs(&graph)?;
    let batch = engine.fixed_batch().unwrap_or(batch);
    for _ in 0..WARMUP {
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
    let mut layers = Vec::new();
    for i in 0..LAYER_RUNS {
        tick(900 + (100 * i / LAYER_RUNS) as u64, 1000)?;
        layers.push(timed(engine, &graph, inputs.clone())?);
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
    let layers = medians(layers, peak_gops);
    let macs = layers.iter().map(|l| l.macs).sum();
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
        share_of_peak: share(macs, median, peak_gops),
        layers,
    })
}

/// Operations a second in units of the peak.
fn share(macs: u64, time: Duration, peak_gops: f64) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 && peak_gops > 0.0 { 2.0 * macs as f64 / seconds / 1e9 / peak_gops } else { 0.0 }
}

/// Binds the leading symbol of each input to the batch.
fn sizes(graph: &Graph, batch: usize) -> Result<Binding> {
    let mut binding = Binding::new();
    for id in &graph.inputs {
        let value = graph.value(*id);
        let dims = value.shape.as_ref().map_or(&[][..], |s| &s.0);
        if let Some(Dim::Sym(s)) = dims.first() {
            binding.insert(s.to_string(), batch);
        }
        let known = |(i, d): (usize, &Dim)| i == 0 || !matches!(d, Dim::Unknown) && d.bind(&binding).fixed().is_some();
        if value.shape.is_none() || !dims.iter().enumerate().all(known) || matches!(dims.first(), Some(Dim::Unknown)) {
            let shape = value.shape.as_ref().map_or_else(|| "unknown".into(), ToString::to_string);
            return Err(Error::usage(format!(
                "input '{}' has the shape {shape}, so its size is not known",
                value.name
            ))
            .cure("export the model with fixed sizes, the batch excepted"));
        }
    }
    Ok(binding)
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

/// Name, kind, multiply-accumulates and time of each layer in one run.
type Lap = (String, String, u64, Duration);

fn timed(engine: &mut Engine, graph: &Graph, inputs: Vec<Tensor>) -> Result<Vec<Lap>> {
    match engine.session() {
        Session::Int(s) => {
            let (_, steps) = s.run_timed(inputs)?;
            Ok(steps.into_iter().map(|s| (s.name, s.kind, s.macs, s.time)).collect())
        }
        Session::Float(s) => {
            let mut clock = Clock { last: Instant::now(), laps: Vec::new() };
            s.run_tapped(inputs, &mut clock)?;
            Ok(by_node(graph, &clock.laps))
        }
        Session::Sim(_) => Err(Error::usage("the simulator is not made for speed").cure("use --engine int or float")),
    }
}

/// Notes when each value appears.
struct Clock {
    last: Instant,
    laps: Vec<(ValueId, Duration)>,
}

impl Tap for Clock {
    fn see(&mut self, value: ValueId, _: &Tensor) -> Result<()> {
        let now = Instant::now();
        self.laps.push((value, now - self.last));
        self.last = now;
        Ok(())
    }
    fn interest(&self, _: ValueId) -> Interest {
        Interest::Elements
    }
}

fn by_node(graph: &Graph, laps: &[(ValueId, Duration)]) -> Vec<Lap> {
    let producers = graph.producers();
    let mut rows: Vec<(usize, Lap)> = Vec::new();
    for (value, time) in laps {
        // Graph inputs have no producer and cost nothing.
        let Some(id) = producers.get(value.0 as usize).copied().flatten() else { continue };
        match rows.last_mut() {
            Some((last, lap)) if *last == id.0 as usize => lap.3 += *time,
            _ => {
                let node = graph.node(id);
                let macs = inspect::work(graph, node).unwrap_or(0);
                rows.push((id.0 as usize, (node.name.clone(), node.op.name().into(), macs, *time)));
            }
        }
    }
    rows.into_iter().map(|(_, lap)| lap).collect()
}

/// The median of each layer over runs that have the same layers.
fn medians(runs: Vec<Vec<Lap>>, peak_gops: f64) -> Vec<Layer> {
    let Some(first) = runs.first() else { return Vec::new() };
    let median = |i: usize| {
        let mut times: Vec<Duration> = runs.iter().filter_map(|r| r.get(i).map(|l| l.3)).collect();
        times.sort();
        times[times.len() / 2]
    };
    let times: Vec<Duration> = (0..first.len()).map(median).collect();
    let total = times.iter().sum::<Duration>().as_secs_f64().max(f64::MIN_POSITIVE);
    let layer = |((name, kind, macs, _), time): (&Lap, &Duration)| Layer {
        name: name.clone(),
        kind: kind.clone(),
        ms: time.as_secs_f64() * 1e3,
        share: time.as_secs_f64() / total,
        macs: *macs,
        share_of_peak: share(*macs, *time, peak_gops),
    };
    first.iter().zip(&times).map(layer).collect()
}
