//! How fast a model runs, whole and layer by layer, and how close that is to what the machine can do.
use crate::{
    error::{Error, Result},
    exec::{
        float::{self, Tap},
        int,
        lower::{Profile, lower},
    },
    ir::{DType, Dim, Graph, Shape, Tensor, ValueId, cost},
};
use serde::Serialize;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Which executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum BenchEngine {
    Float,
    Int,
}

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Executor.
    pub engine: BenchEngine,
    /// Arithmetic of the integer engine.
    pub profile: Profile,
    /// Size of the batch (symbolic dimensions of the inputs get it).
    pub batch: usize,
    /// 0: one per core.
    pub threads: usize,
    /// At least this long, after a warm-up...
    pub seconds: f64,
    /// ... and at least as many runs.
    pub runs: usize,
}

/// One layer's share.
#[derive(Clone, Debug, Serialize)]
pub struct LayerTime {
    /// Node.
    pub name: String,
    /// What it computes.
    pub kind: String,
    /// Median over the runs, milliseconds.
    pub median_ms: f64,
    /// Share of the sum over all layers.
    pub share: f64,
    /// Multiply-accumulates, millions.
    pub mmacs: f64,
    /// Share of the machine's peak (int8 or f32, as the engine), where there are multiply-accumulates.
    pub peak_share: Option<f64>,
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Executor.
    pub engine: BenchEngine,
    /// Instruction set of the integer engine.
    pub isa: Option<String>,
    /// Size of the batch.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Timed runs.
    pub runs: usize,
    /// Of one run, milliseconds.
    pub median_ms: f64,
    /// Fastest run.
    pub min_ms: f64,
    /// Slowest run.
    pub max_ms: f64,
    /// Samples a second at the median.
    pub samples_per_second: f64,
    /// Multiply-accumulates of one run, millions.
    pub mmacs: f64,
    /// Measured peak of this machine for the engine's arithmetic, all threads, Gop/s (a multiply-accumulate is two).
    pub peak_gops: f64,
    /// Share of that peak at the median.
    pub peak_share: f64,
    /// Time from the graph to a session that is ready, milliseconds.
    pub prepare_ms: f64,
    /// Layers in order, timed in runs of their own.
    pub layers: Vec<LayerTime>,
}

/// Inputs of the declared shapes filled with uniform numbers in `[-1, 1]` from a fixed sequence. Integer inputs get zeros.
///
/// # Errors
/// When a shape is unknown.
pub fn made_up_inputs(graph: &Graph, batch: usize) -> Result<Vec<Tensor>> {
    graph
        .inputs
        .iter()
        .map(|&v| {
            let value = graph.value(v);
            let shape = value.shape.as_ref().ok_or_else(|| Error::shape(format!("input '{}' has no known rank", value.name)))?;
            let dims: Vec<usize> = shape.0.iter().map(|d| if let Dim::Fixed(n) = d { *n } else { batch }).collect();
            let n = crate::ir::count(&dims)?;
            let mut state = 0x2545_F491_4F6C_DD1Du64;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            };
            match value.dtype {
                Some(DType::F32) | None => Ok(Tensor::of(&dims, (0..n).map(|_| next()).collect::<Vec<f32>>())),
                Some(DType::I64) => Ok(Tensor::of(&dims, vec![0i64; n])),
                Some(d) => Err(Error::unsupported(format!("input '{}' of type {d} cannot be made up", value.name))
                    .cure("benchmark a model with f32 inputs")),
            }
        })
        .collect()
}

/// Times a model. `progress` hears of each finished run.
///
/// # Errors
/// As building and running the sessions.
pub fn bench(graph: &Arc<Graph>, options: &BenchOptions, progress: &mut dyn FnMut(usize)) -> Result<BenchReport> {
    let inputs = made_up_inputs(graph, options.batch)?;
    let start = Instant::now();
    match options.engine {
        BenchEngine::Float => {
            let mut session = float::Session::new(graph.clone(), &float::Options { threads: options.threads })?;
            let prepare = start.elapsed();
            let times = timed(options, progress, || session.run(inputs.clone()).map(drop))?;
            let layers = float_layers(graph, &mut session, &inputs, times.len().min(20))?;
            let threads = threads(options.threads);
            report(options, None, threads, nnq_kernels::peak::f32_peak(), prepare, times, layers)
        }
        BenchEngine::Int => {
            let program = Arc::new(lower(graph, options.profile)?);
            let mut session = int::Session::new(program, &int::Options { threads: options.threads, isa: None })?;
            session.run(inputs.clone())?;
            let prepare = start.elapsed();
            let times = timed(options, progress, || session.run(inputs.clone()).map(drop))?;
            let mut layers: Vec<(String, String, u64, Vec<Duration>)> = Vec::new();
            for _ in 0..times.len().min(20) {
                let (_, steps) = session.run_timed(inputs.clone())?;
                if layers.is_empty() {
                    layers = steps.iter().map(|s| (s.name.clone(), s.kind.clone(), s.macs, Vec::new())).collect();
                }
                for (layer, step) in layers.iter_mut().zip(steps) {
                    layer.3.push(step.time);
                }
            }
            let (isa, threads) = (session.isa(), session.threads());
            let peak = nnq_kernels::peak::int8_peak(isa);
            report(options, Some(isa.name().into()), threads, peak, prepare, times, layers)
        }
    }
}

fn threads(asked: usize) -> usize {
    if asked == 0 { std::thread::available_parallelism().map_or(1, Into::into) } else { asked }
}

fn timed(options: &BenchOptions, progress: &mut dyn FnMut(usize), mut run: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    run()?;
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < options.runs.max(1) || start.elapsed().as_secs_f64() < options.seconds {
        let from = Instant::now();
        run()?;
        times.push(from.elapsed());
        progress(times.len());
    }
    times.sort_unstable();
    Ok(times)
}

/// Takes the time between one value and the next.
struct Stopwatch<'a> {
    last: Instant,
    times: &'a mut Vec<(ValueId, Vec<Duration>)>,
    at: usize,
}

impl Tap for Stopwatch<'_> {
    fn see(&mut self, value: ValueId, _: &Tensor) -> Result<()> {
        let time = self.last.elapsed();
        if self.at == self.times.len() {
            self.times.push((value, Vec::new()));
        }
        self.times[self.at].1.push(time);
        self.at += 1;
        self.last = Instant::now();
        Ok(())
    }
}

fn float_layers(
    graph: &Arc<Graph>,
    session: &mut float::Session,
    inputs: &[Tensor],
    runs: usize,
) -> Result<Vec<(String, String, u64, Vec<Duration>)>> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let mut watch = Stopwatch { last: Instant::now(), times: &mut times, at: 0 };
        session.run_tapped(inputs.to_vec(), &mut watch)?;
    }
    let mut bound = (**graph).clone();
    for (&v, t) in graph.inputs.iter().zip(inputs) {
        bound.value_mut(v).shape = Some(Shape::fixed(t.shape()));
    }
    let bound = crate::ir::infer::bind(&bound, &crate::ir::Binding::new())?;
    let producers = bound.producers();
    Ok(times
        .into_iter()
        .filter_map(|(v, t)| {
            let node = bound.node(producers[v.0 as usize]?);
            Some((node.name.clone(), node.op.name().to_lowercase(), cost::macs(&bound, node).unwrap_or(0), t))
        })
        .collect())
}

fn report(
    options: &BenchOptions,
    isa: Option<String>,
    threads: usize,
    peak: f64,
    prepare: Duration,
    times: Vec<Duration>,
    layers: Vec<(String, String, u64, Vec<Duration>)>,
) -> Result<BenchReport> {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let peak_gops = peak * threads as f64;
    let share = |macs: u64, ms: f64| 2.0 * macs as f64 / (ms * 1e6) / peak_gops;
    let mut rows: Vec<LayerTime> = layers
        .into_iter()
        .map(|(name, kind, macs, mut t)| {
            t.sort_unstable();
            let median_ms = t.get(t.len() / 2).copied().map_or(0.0, ms);
            LayerTime {
                name,
                kind,
                median_ms,
                share: 0.0,
                mmacs: macs as f64 / 1e6,
                peak_share: (macs > 0).then(|| share(macs, median_ms)),
            }
        })
        .collect();
    let total: f64 = rows.iter().map(|r| r.median_ms).sum();
    let mmacs: f64 = rows.iter().map(|r| r.mmacs).sum();
    for r in &mut rows {
        r.share = if total > 0.0 { r.median_ms / total } else { 0.0 };
    }
    let (Some(&min), Some(&max)) = (times.first(), times.last()) else {
        return Err(Error::internal("nothing was timed"));
    };
    let median_ms = ms(times[times.len() / 2]);
    Ok(BenchReport {
        engine: options.engine,
        isa,
        batch: options.batch,
        threads,
        runs: times.len(),
        median_ms,
        min_ms: ms(min),
        max_ms: ms(max),
        samples_per_second: options.batch as f64 * 1e3 / median_ms,
        mmacs,
        peak_gops,
        peak_share: share((mmacs * 1e6) as u64, median_ms),
        prepare_ms: ms(prepare),
        layers: rows,
    })
}
