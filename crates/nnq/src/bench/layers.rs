//! What each step of a run takes, and what keeps it from being faster.
use crate::{
    engine::Session,
    error::{Error, Result},
    exec::float::{Interest, Tap},
    inspect,
    ir::{Graph, Node, Tensor, ValueId},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

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
    /// Bytes of its inputs, outputs and weights.
    pub bytes: u64,
    /// What it reaches of the rate at which the machine reads a buffer of so many bytes again and again, 0 to 1.
    pub share_of_bandwidth: f64,
    /// What it spends its time on.
    pub bound: Bound,
}

/// What a layer spends its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Multiply-adds at the peak would take half of the time or more.
    Compute,
    /// Moving its bytes once at the measured rate would take half of the time or more, and longer than the multiply-adds.
    Memory,
    /// Neither explains half of the time: starting, waiting, shuffling, rounding.
    Overhead,
}

impl Bound {
    /// From the shares of peak and bandwidth.
    fn of(peak: f64, bandwidth: f64) -> Self {
        match () {
            () if peak.max(bandwidth) < 0.5 => Self::Overhead,
            () if peak >= bandwidth => Self::Compute,
            () => Self::Memory,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Compute => "compute",
            Self::Memory => "memory",
            Self::Overhead => "overhead",
        })
    }
}

/// What the machine can do on the threads of the engine.
pub(super) struct Limits {
    threads: usize,
    /// Billions of operations a second.
    pub peak_gops: f64,
    /// Billions of bytes a second by size of the buffer, measured when first asked for.
    bandwidth: BTreeMap<usize, f64>,
}

impl Limits {
    pub fn new(threads: usize, peak_gops: f64) -> Self {
        Self { threads, peak_gops, bandwidth: BTreeMap::new() }
    }
    /// Operations a second in units of the peak; a multiply-accumulate is two.
    pub fn share_of_peak(&self, macs: u64, seconds: f64) -> f64 {
        if seconds > 0.0 && self.peak_gops > 0.0 { 2.0 * macs as f64 / seconds / 1e9 / self.peak_gops } else { 0.0 }
    }
    /// Bytes a second in units of the rate for a buffer of that size (the next power of two, within bounds).
    fn share_of_bandwidth(&mut self, bytes: u64, seconds: f64) -> f64 {
        const SIZES: (usize, usize) = (1 << 12, 1 << 27);
        let size = usize::try_from(bytes).unwrap_or(usize::MAX).clamp(SIZES.0, SIZES.1).next_power_of_two();
        let threads = self.threads;
        let rate = *self.bandwidth.entry(size).or_insert_with(|| nnq_kernels::peak::read_bandwidth(size, threads));
        if seconds > 0.0 && rate > 0.0 { bytes as f64 / seconds / 1e9 / rate } else { 0.0 }
    }
}

/// A layer in one run.
pub(super) struct Lap {
    name: String,
    kind: String,
    macs: u64,
    bytes: u64,
    time: Duration,
}

/// Runs once with a clock around each layer.
pub(super) fn timed(session: &mut Session, graph: &Graph, inputs: Vec<Tensor>) -> Result<Vec<Lap>> {
    match session {
        Session::Int(s) => {
            let (_, steps) = s.run_timed(inputs)?;
            let lap = |s: crate::exec::int::StepTime| Lap {
                name: s.name,
                kind: s.kind,
                macs: s.macs,
                bytes: s.bytes,
                time: s.time,
            };
            Ok(steps.into_iter().map(lap).collect())
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
            Some((last, lap)) if *last == id.0 as usize => lap.time += *time,
            _ => {
                let node = graph.node(id);
                let lap = Lap {
                    name: node.name.clone(),
                    kind: node.op.name().into(),
                    macs: inspect::work(graph, node).unwrap_or(0),
                    bytes: traffic(graph, node),
                    time: *time,
                };
                rows.push((id.0 as usize, lap));
            }
        }
    }
    rows.into_iter().map(|(_, lap)| lap).collect()
}

/// Bytes that a node reads and writes; values of unknown size count nothing.
fn traffic(graph: &Graph, node: &Node) -> u64 {
    let bytes = |id: &ValueId| {
        let value = graph.value(*id);
        let shape = value.shape.as_ref()?.as_fixed()?;
        shape.iter().try_fold(value.dtype?.size() as u64, |n, d| n.checked_mul(*d as u64))
    };
    node.inputs.iter().chain(&node.outputs).flatten().filter_map(bytes).sum()
}

/// The median of each layer over runs that have the same layers.
pub(super) fn medians(runs: &[Vec<Lap>], limits: &mut Limits) -> Vec<Layer> {
    let Some(first) = runs.first() else { return Vec::new() };
    let median = |i: usize| {
        let mut times: Vec<Duration> = runs.iter().filter_map(|r| r.get(i).map(|l| l.time)).collect();
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let times: Vec<f64> = (0..first.len()).map(median).collect();
    let total = times.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let layer = |(lap, time): (&Lap, &f64)| {
        let share_of_peak = limits.share_of_peak(lap.macs, *time);
        let share_of_bandwidth = limits.share_of_bandwidth(lap.bytes, *time);
        Layer {
            name: lap.name.clone(),
            kind: lap.kind.clone(),
            ms: time * 1e3,
            share: time / total,
            macs: lap.macs,
            share_of_peak,
            bytes: lap.bytes,
            share_of_bandwidth,
            bound: Bound::of(share_of_peak, share_of_bandwidth),
        }
    };
    first.iter().zip(&times).map(layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_explains_half_of_the_time_is_the_bound() {
        for (peak, bandwidth, bound) in [
            (0.9, 0.3, Bound::Compute),
            (0.5, 0.5, Bound::Compute),
            (0.6, 0.7, Bound::Memory),
            (0.0, 0.5, Bound::Memory),
            (0.49, 0.2, Bound::Overhead),
            (0.0, 0.0, Bound::Overhead),
        ] {
            assert_eq!(Bound::of(peak, bandwidth), bound, "{peak} {bandwidth}");
        }
    }

    #[test]
    fn shares_are_work_over_time_over_limit() {
        let mut limits = Limits { bandwidth: BTreeMap::from([(1 << 20, 50.0)]), ..Limits::new(1, 100.0) };
        let lap = |time| Lap {
            name: "a".into(),
            kind: "conv".into(),
            macs: 40_000_000,
            bytes: 1_000_000,
            time: Duration::from_micros(time),
        };
        let runs = [900, 1000, 5000].map(|t| vec![lap(t)]);
        let layers = medians(&runs, &mut limits);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        // 80 million operations in 1 ms are 80 G/s; a million bytes 1 GB/s.
        assert!(close(layers[0].ms, 1.0) && close(layers[0].share_of_peak, 0.8), "{layers:?}");
        assert!(close(layers[0].share_of_bandwidth, 0.02) && close(layers[0].share, 1.0), "{layers:?}");
        assert_eq!(layers[0].bound, Bound::Compute);
    }
}
