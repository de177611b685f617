//! Measures the channels of values on samples: mean, deviation, largest magnitude.
use crate::{
    error::{Error, Result},
    exec::float::{self, Interest, Tap},
    ir::{Channels, Graph, Op, Tensor, ValueId},
    quant::expect::channel_axis,
};
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
}

impl Tap for Seen {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        let Some(&axis) = self.axes.get(&value) else { return Ok(()) };
        let (data, shape) = (tensor.as_slice::<f32>()?, tensor.shape());
        let Some(&channels) = shape.get(axis) else {
            return Err(Error::shape(format!("channels along axis {axis} of a shape {shape:?}")));
        };
        let inner: usize = shape[axis + 1..].iter().product();
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
        Ok(())
    }
    fn interest(&self, value: ValueId) -> Interest {
        if self.axes.contains_key(&value) { Interest::Tensor } else { Interest::Nothing }
    }
}

/// `graph` with the channels of `values` measured on the samples of `feed`; each must be the output or the input of a product or normalisation, which says where
/// its channels lie.
///
/// # Errors
/// What running the samples answers; names the value that is NaN or infinite.
pub fn measure(graph: &Arc<Graph>, values: &[ValueId], threads: usize, feed: &mut Feed) -> Result<Arc<Graph>> {
    if values.is_empty() {
        return Ok(graph.clone());
    }
    let axes = values.iter().map(|&v| (v, axis(graph, v))).collect();
    let mut seen = Seen { axes, sums: HashMap::new() };
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
                return Err(Error::value("NaN or infinities on the samples")
                    .at(place)
                    .cure("find the samples or the layer that make them"));
            }
            let n = s.count.max(1.0);
            let mean = s.sum / n;
            c.mean.push(mean);
            c.deviation.push((s.square / n - mean * mean).max(0.0).sqrt());
            c.largest.push(s.largest);
        }
        out.value_mut(v).channels = Some(Arc::new(c));
    }
    Ok(Arc::new(out))
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
