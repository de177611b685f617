//! The curvature of a float network's loss by layer: how much an error of its weights costs (Dong et al., 2020, "HAWQ-V2", arXiv:1911.03852).
//!
//! `tr(H_l)` is estimated by Hutchinson's estimator (1990) and the largest eigenvalue of `H_l` by Lanczos' method. Both need products of the Hessian with vectors
//! only, which are central differences of gradients: the framework has no second derivatives.
mod curvature;
mod objective;
#[cfg(test)]
mod tests;

pub use curvature::{Curvature, Eigenvalue, STEP, Trace};
pub use objective::{Objective, Over, Weighted};

use crate::{
    backend::{Device, Kernels},
    output::float_only,
    place::{Place, Work},
    report::{Event, Tell},
    trainer,
};
use nnq::{
    Error, Result, analyze,
    error::At as _,
    ir::{Graph, Node, Op, Tensor},
    judge::Judge,
    quant::ptq,
    quantize::{self, Means},
};
use nnq_kernels::round::dequantize_f32;
use serde::Serialize;
use std::{collections::HashMap, sync::Arc, time::Instant};

/// Samples that run at once, where the network leaves that open.
const BATCH: usize = 32;

/// What to do.
#[derive(Clone)]
pub struct Job {
    /// The network, the recipe, and the samples: those that the analysis measures on.
    pub analysis: analyze::Job,
    /// Draws for the traces, at least 2.
    pub draws: u32,
    /// Where to compute.
    pub place: Place,
}

/// What classes the loss is taken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Classes {
    /// The labels of the data.
    Labels,
    /// The network's own best class of each sample: the data has no labels that suit it.
    Predicted,
}

/// The curvature of one layer.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// The node's name.
    pub node: String,
    /// The operator.
    pub op: String,
    /// How many weights it has.
    pub weights: usize,
    /// The trace of the Hessian by its weights, estimated.
    pub trace: f64,
    /// Its standard error.
    pub trace_error: f64,
    /// The trace over the number of weights: the mean of its eigenvalues.
    pub average_trace: f64,
    /// The eigenvalue of the largest magnitude, which may be negative.
    pub eigenvalue: f64,
    /// Products that it took.
    pub products: u32,
    /// Whether the eigenvalue is known to a thousandth.
    pub settled: bool,
    /// `|Q(w) - w|^2` under the recipe; none where the layer stays float.
    pub squared_error: Option<f64>,
    /// The average trace times the squared error: the sensitivity of HAWQ-V2.
    pub sensitivity: Option<f64>,
}

/// The curvature of a network's loss.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Samples that the loss is the mean of.
    pub samples: usize,
    /// Of which classes.
    pub classes: Classes,
    /// The loss itself.
    pub loss: f64,
    /// Draws for the traces.
    pub draws: u32,
    /// Their seed: the recipe's.
    pub seed: u64,
    /// The length of a difference's step in that of the weights.
    pub step: f64,
    /// Every layer with weights, in graph order.
    pub layers: Vec<Layer>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Runs the job.
///
/// # Errors
/// Whatever a stage answers, with file, node or value.
pub fn run(job: &Job, tell: &mut (dyn FnMut(Event) + Send)) -> Result<Report> {
    job.place.run(job.analysis.threads, Measuring { job, tell })
}

struct Measuring<'a> {
    job: &'a Job,
    tell: &'a mut (dyn FnMut(Event) + Send),
}

impl Work for Measuring<'_> {
    type Out = Report;
    fn on<B: Kernels>(self, device: Device<B>) -> Result<Report> {
        measure::<B>(self.job, device, self.tell).at(|| self.job.analysis.model.display())
    }
}

/// The quantized network, and the float one that it was made from. What there is to tell of it, the analysis tells.
fn quantized(job: &analyze::Job, means: Means, tell: &mut Tell) -> Result<ptq::Quantized> {
    let mut progress = |what: &str, done: u64, of: u64| tell(Event::Stage(what, done, of));
    let (graph, digest) = quantize::open(&job.model)?;
    float_only(&graph)?;
    let (file, samples) = (job.stats.as_deref(), job.samples.as_ref());
    let (float, stats) =
        quantize::calibrated(&graph, digest, &job.recipe, (file, samples), means, &mut Vec::new(), &mut progress)?;
    quantize::annotate_with(&float, &stats, &job.recipe, samples, means, &mut progress)
}

fn measure<B: Kernels>(job: &Job, device: Device<B>, tell: &mut (dyn FnMut(Event) + Send)) -> Result<Report> {
    let clock = Instant::now();
    let a = &job.analysis;
    if job.draws < 2 {
        return Err(Error::usage(format!("{} draws", job.draws)).cure("use 2 or more: one has no standard error"));
    }
    let made = quantized(a, a.means(), tell)?;
    let float = Arc::new(logits(&made.float));
    let data = a.measured_on()?;
    let mut progress = |what: &str, done: u64, of: u64| tell(Event::Stage(what, done, of));
    let chosen = a.measured_samples(&float, &data);
    let judge = Judge::new(&float, &data, a.eval.is_some(), chosen, a.means(), &mut progress)?;
    let (answers, width) = judge.reference();
    let (classes, labels) = match judge.right() {
        Some(labels) => (Classes::Labels, labels),
        None => (Classes::Predicted, answers.chunks(width.max(1)).filter_map(trainer::best).collect()),
    };
    let over = Over {
        inputs: &|range| match <[Tensor; 1]>::try_from(judge.inputs(&float, range)?) {
            Ok([x]) => Ok(x),
            Err(all) => Err(Error::unsupported(format!("the curvature of a network of {} inputs", all.len()))
                .cure("leave out --hessian")),
        },
        labels: &labels,
        batch: quantize::fixed_batch(&float).unwrap_or(BATCH),
        cancel: a.cancel.as_deref(),
    };
    let objective = Objective::<B>::new(&float, over, device)?;
    let weights = objective.weights()?;
    let (loss, _) = objective.gradients(&weights, &vec![false; weights.len()])?;
    let curvature = Curvature::new(&objective, a.recipe.seed)?;
    let draws = u64::from(job.draws);
    let traces = curvature.traces(job.draws, &mut |done| progress("traces of the Hessian", done, draws))?;
    let codes: HashMap<&str, &Node> = made.graph.nodes().map(|(_, n)| (n.name.as_str(), n)).collect();
    let mut layers = Vec::with_capacity(weights.len());
    for (l, (layer, trace)) in objective.layers.iter().zip(traces).enumerate() {
        progress("eigenvalues of the Hessian", l as u64, weights.len() as u64);
        let node = float.node(layer.node);
        let Eigenvalue { value, products, settled } = curvature.eigenvalue(l).at(|| format!("node '{}'", node.name))?;
        let squared_error =
            codes.get(node.name.as_str()).and_then(|q| squared_error(&made.graph, q, layer.input, &weights[l]));
        let average_trace = trace.mean / weights[l].len() as f64;
        layers.push(Layer {
            node: node.name.clone(),
            op: node.op.name().to_owned(),
            weights: weights[l].len(),
            trace: trace.mean,
            trace_error: trace.error,
            average_trace,
            eigenvalue: value,
            products,
            settled,
            squared_error,
            sensitivity: squared_error.map(|e| average_trace * e),
        });
    }
    Ok(Report {
        samples: labels.len(),
        classes,
        loss,
        draws: job.draws,
        seed: a.recipe.seed,
        step: STEP,
        layers,
        seconds: clock.elapsed().as_secs_f64(),
    })
}

/// The graph up to its logits: cross-entropy takes the softmax itself.
fn logits(graph: &Graph) -> Graph {
    let mut out = graph.clone();
    let last = graph.nodes().find(|(_, n)| n.output(0).is_some() && n.output(0) == graph.outputs.first().copied());
    if let Some((_, node)) = last
        && let (Op::Softmax { .. }, Some(x)) = (&node.op, node.input(0))
    {
        out.outputs[0] = x;
    }
    out
}

/// `|Q(w) - w|^2` of the weights that a node of the quantized graph reads.
fn squared_error(quantized: &Graph, node: &Node, input: usize, real: &[f32]) -> Option<f64> {
    let v = node.input(input)?;
    let (codes, grid) = (quantized.constant(v)?, quantized.value(v).quant.as_ref()?);
    let (shape, codes) = (codes.shape(), codes.to_i64s().ok()?);
    let off = |(i, (&q, &w)): (usize, (&i64, &f32))| {
        let g = grid.index(shape, i);
        let q = i32::try_from(q).ok()?;
        Some((f64::from(dequantize_f32(q, grid.scale[g], grid.zero_point[g])) - f64::from(w)).powi(2))
    };
    codes.iter().zip(real).enumerate().map(off).sum()
}
