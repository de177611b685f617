//! Measures the channels of values on samples: mean, deviation, largest magnitude, and how far a grid of least error reaches.
use crate::{
    error::{At, Error, Result},
    exec::float::{self, Interest, Tap},
    ir::{Channels, Graph, Op, QType, Tensor, ValueId},
    quant::{
        expect::channel_axis,
        observer::{ChannelSketch, Observer, Sketch},
        range::{self, RangeMethod, Scheme},
    },
};
use nalgebra::DMatrix;
use rayon::prelude::*;
use std::{collections::HashMap, sync::Arc};

/// Samples, as often as they are wanted: gives every batch to the function.
pub type Feed<'a> = dyn FnMut(&mut dyn FnMut(Vec<Tensor>) -> Result<()>) -> Result<()> + 'a;

/// Sums over one channel.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: f64,
    sum: f64,
    square: f64,
    largest: f64,
}

/// Sees the values that are measured.
struct Seen {
    axes: HashMap<ValueId, usize>,
    sums: HashMap<ValueId, Vec<Sums>>,
    /// Where a grid's reach is wanted.
    sketches: Option<HashMap<ValueId, ChannelSketch>>,
}

impl Tap for Seen {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        let Some(&axis) = self.axes.get(&value) else { return Ok(()) };
        let (data, [channels, inner]) = along(tensor, axis)?;
        let sums = self.sums.entry(value).or_insert_with(|| vec![Sums::default(); channels]);
        if sums.len() != channels {
            return Err(Error::shape(format!("{channels} channels, {} before", sums.len())));
        }
        // Each channel is summed in the order of the data, whoever does it.
        sums.par_iter_mut().enumerate().for_each(|(c, s)| {
            for run in data.chunks_exact((channels * inner).max(1)) {
                for &x in &run[c * inner..(c + 1) * inner] {
                    let x = f64::from(x);
                    s.sum += x;
                    s.square += x * x;
                    s.largest = s.largest.max(x.abs());
                }
                s.count += inner as f64;
            }
        });
        if let Some(sketches) = &mut self.sketches {
            sketches.entry(value).or_insert_with(|| ChannelSketch::new(axis)).observe(0, tensor.shape(), data)?;
        }
        Ok(())
    }
    fn interest(&self, value: ValueId) -> Interest {
        if self.axes.contains_key(&value) { Interest::Tensor } else { Interest::Nothing }
    }
}

/// The numbers of a value, how many channels lie along `axis`, and how many numbers of one lie together.
fn along(tensor: &Tensor, axis: usize) -> Result<(&[f32], [usize; 2])> {
    let shape = tensor.shape();
    let Some(&channels) = shape.get(axis) else {
        return Err(Error::shape(format!("channels along axis {axis} of a shape {shape:?}")));
    };
    Ok((tensor.as_slice::<f32>()?, [channels, shape[axis + 1..].iter().product()]))
}

fn infinite(graph: &Graph, v: ValueId) -> Error {
    Error::value("NaN or infinities on the samples")
        .at(format!("value '{}'", graph.value(v).name))
        .cure("find the samples or the layer that make them")
}

/// `graph` with the channels of `values` measured on the samples of `feed`; each must be the output or the input of a product or normalisation, which says where
/// its channels lie. With `fit`, so is how far each channel's grid of so many bits reaches that has the least squared error.
///
/// # Errors
/// What running the samples answers; names the value that is NaN or infinite.
pub fn measure(
    graph: &Arc<Graph>,
    values: &[ValueId],
    fit: Option<u8>,
    threads: usize,
    feed: &mut Feed,
) -> Result<Arc<Graph>> {
    if values.is_empty() {
        return Ok(graph.clone());
    }
    let axes = values.iter().map(|&v| (v, axis(graph, v))).collect();
    let mut seen = Seen { axes, sums: HashMap::new(), sketches: fit.map(|_| HashMap::new()) };
    let mut session = float::Session::new(graph.clone(), &float::Options { threads })?;
    feed(&mut |inputs| session.run_tapped(inputs, &mut seen).map(drop))?;
    let mut out = Graph::clone(graph);
    for &v in values {
        let place = format!("value '{}'", graph.value(v).name);
        let Some(sums) = seen.sums.get(&v) else {
            return Err(Error::usage("no samples to measure it on").at(place).cure("give calibration samples"));
        };
        let mut c = Channels::default();
        for s in sums {
            if !s.square.is_finite() {
                return Err(infinite(graph, v));
            }
            let n = s.count.max(1.0);
            let mean = s.sum / n;
            c.mean.push(mean);
            c.deviation.push((s.square / n - mean * mean).max(0.0).sqrt());
            c.largest.push(s.largest);
        }
        if let (Some(bits), Some(sketch)) = (fit, seen.sketches.as_ref().and_then(|s| s.get(&v))) {
            c.fit = sketch.channels().iter().map(|s| reach(s, bits)).collect::<Result<_>>().at(|| place.clone())?;
        }
        out.value_mut(v).channels = Some(Arc::new(c));
    }
    Ok(Arc::new(out))
}

/// Sees values whose channels are looked at together.
struct Together {
    axes: HashMap<ValueId, usize>,
    /// Sums of products of channels, and how many there are.
    sums: HashMap<ValueId, (DMatrix<f64>, f64)>,
}

impl Tap for Together {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        let Some(&axis) = self.axes.get(&value) else { return Ok(()) };
        let (data, [n, inner]) = along(tensor, axis)?;
        let (sums, count) = self.sums.entry(value).or_insert_with(|| (DMatrix::zeros(n, n), 0.0));
        if sums.nrows() != n {
            return Err(Error::shape(format!("{n} channels, {} before", sums.nrows())));
        }
        for run in data.chunks_exact((n * inner).max(1)) {
            // Columns are channels.
            let x = DMatrix::from_iterator(inner, n, run.iter().map(|&x| f64::from(x)));
            sums.gemm_tr(1.0, &x, &x, 1.0);
            *count += inner as f64;
        }
        Ok(())
    }
    fn interest(&self, value: ValueId) -> Interest {
        if self.axes.contains_key(&value) { Interest::Tensor } else { Interest::Nothing }
    }
}

/// `E[x x^T]` over the channels of each of `values`, as [`measure`] finds them, on the samples of `feed`.
///
/// # Errors
/// What running the samples answers; names the value that is NaN or infinite.
pub fn second_moments(
    graph: &Arc<Graph>,
    values: &[ValueId],
    threads: usize,
    feed: &mut Feed,
) -> Result<HashMap<ValueId, DMatrix<f64>>> {
    let axes = values.iter().map(|&v| (v, axis(graph, v))).collect();
    let mut seen = Together { axes, sums: HashMap::new() };
    let mut session = float::Session::new(graph.clone(), &float::Options { threads })?;
    feed(&mut |inputs| session.run_tapped(inputs, &mut seen).map(drop))?;
    let finish = |(v, (sums, count)): (ValueId, (DMatrix<f64>, f64))| {
        if sums.iter().any(|x| !x.is_finite()) {
            return Err(infinite(graph, v));
        }
        Ok((v, sums / f64::max(count, 1.0)))
    };
    seen.sums.into_iter().map(finish).collect()
}

/// How far from 0 the grid reaches that has the least squared error for what `sketch` saw: one without negative codes where nothing is negative.
fn reach(sketch: &Sketch, bits: u8) -> Result<f64> {
    let signed = sketch.extremes().is_some_and(|[lo, _]| lo < 0.0);
    let scheme = Scheme { qtype: QType { bits, signed, narrow: signed }, symmetric: true };
    range::choose(RangeMethod::Norm, sketch, scheme).map(|r| r.hi.max(-r.lo))
}

/// Where a value's channels lie: along axis 1 of what a convolution makes or reads, along the last axis of what a matrix product does.
fn axis(graph: &Graph, v: ValueId) -> usize {
    let rank = graph.value(v).shape.as_ref().map_or(2, crate::ir::Shape::rank);
    let at = |op: &Op| channel_axis(op, rank);
    let product = |op: &Op| matches!(op, Op::Conv(_) | Op::Gemm { .. } | Op::MatMul);
    let read = graph.nodes().filter(|(_, n)| n.input(0) == Some(v) && product(&n.op)).map(|(_, n)| at(&n.op)).next();
    let made = || graph.nodes().find(|(_, n)| n.output(0) == Some(v)).map(|(_, n)| at(&n.op));
    read.or_else(made).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, GraphBuilder, op::ConvAttrs};

    /// The error of `x` on a grid of codes `low` to `high` and this step.
    fn error(x: &[f32], step: f64, [low, high]: [f64; 2]) -> f64 {
        let one = |x: &f32| f64::from(*x) - (f64::from(*x) / step).round().clamp(low, high) * step;
        x.iter().map(|x| one(x).powi(2)).sum()
    }

    #[test]
    fn a_channel_reaches_as_far_as_its_best_grid() {
        const N: usize = 4096;
        // Never negative with a long tail, of both signs, nothing at all.
        let u = |i: usize| (crate::data::mix(7, i as u64) >> 40) as f32 / (1u64 << 24) as f32;
        let tail: Vec<f32> = (0..N).map(|i| (-u(i).max(1e-6).ln()).powi(2)).collect();
        let both: Vec<f32> = (0..N).map(|i| 3.0 * (u(i) + u(i + N) + u(i + 2 * N) - 1.5)).collect();
        let x = [tail.clone(), both.clone(), vec![0.0; N]].concat();
        let mut b = GraphBuilder::new("net");
        let v = b.input("x", DType::F32, "1, 3, 64, 64");
        let w = b.constant("w", Tensor::of(&[1, 3, 1, 1], vec![1f32; 3]));
        let y = b.op("y", Op::Conv(ConvAttrs { group: 1, ..ConvAttrs::default() }), &[v, w]);
        b.output(y);
        let g = Arc::new(b.finish().unwrap());
        let known = measure(&g, &[v], Some(4), 1, &mut |to| to(vec![Tensor::of(&[1, 3, 64, 64], x.clone())])).unwrap();
        let known = known.value(v).channels.as_ref().unwrap().clone();
        for (c, x, codes) in [(0, &tail, [0.0, 15.0]), (1, &both, [-7.0, 7.0])] {
            let best = (1..4000).map(|i| error(x, f64::from(i) * 0.002, codes)).fold(f64::INFINITY, f64::min);
            let got = error(x, known.fit[c] / codes[1], codes);
            // The sketch has 8 bins an octave: it does not know where in a bin values lie.
            assert!(got < 1.03 * best, "channel {c}: {got} {best}");
            assert!(known.fit[c] < 0.9 * known.largest[c], "channel {c}: {} {}", known.fit[c], known.largest[c]);
        }
        assert_eq!((known.fit[2], known.largest[2]), (0.0, 0.0));
        let plain = measure(&g, &[v], None, 1, &mut |to| to(vec![Tensor::of(&[1, 3, 64, 64], x.clone())])).unwrap();
        assert!(plain.value(v).channels.as_ref().unwrap().fit.is_empty());
    }
}
