//! Running a network up to some value again and again, while more and more of it is quantized.
//!
//! What is before a layer is run for each layer anew. So that this does not begin at the input every time, the samples are kept (in temporary files) as
//! they are at a value that all the rest is computed from, once everything before it is done: time grows with the depth of the network and not with
//! its square. Numbers are the same wherever a run begins.
use crate::{
    data::{Keeping, Kept},
    error::{Error, ErrorKind, Result},
    exec::{
        float, int,
        lower::{self, Profile},
    },
    ir::{Graph, NodeId, Patch, QParams, Tensor, ValueId},
};
use nnq_kernels::round::{dequantize_f32, quantize_f32};
use rayon::prelude::*;
use std::sync::Arc;

/// Samples as networks take them.
pub enum Inputs {
    /// Of one shape, in a file: so many at once, and so many in all (a multiple of the batch where the network has a fixed one).
    Kept {
        /// The file.
        kept: Kept,
        /// Samples that run at once.
        batch: usize,
        /// Samples in all.
        count: usize,
    },
    /// Of several shapes: the tensors of each batch, in the order of the network's inputs.
    Batches(Vec<Vec<Tensor>>),
}

impl Inputs {
    /// Samples in all.
    pub fn count(&self) -> usize {
        match self {
            Self::Kept { count, .. } => *count,
            Self::Batches(all) => all.iter().map(|b| b.first().map_or(0, samples)).sum(),
        }
    }
    fn batches(&self) -> usize {
        match self {
            Self::Kept { batch, count, .. } => count.div_ceil((*batch).max(1)),
            Self::Batches(all) => all.len(),
        }
    }
    fn batch(&self, i: usize) -> Result<Vec<Tensor>> {
        match self {
            Self::Kept { kept, batch, count } => {
                let batch = (*batch).max(1);
                Ok(vec![kept.batch(i * batch..(*count).min((i + 1) * batch))?])
            }
            Self::Batches(all) => {
                all.get(i).cloned().ok_or_else(|| Error::internal(format!("batch {i} of {}", all.len())))
            }
        }
    }
}

/// Along the first axis.
fn samples(t: &Tensor) -> usize {
    t.shape().first().copied().unwrap_or(0)
}

/// The elements are not needed soon.
pub(super) fn release(tensors: &[Tensor]) {
    tensors.iter().for_each(Tensor::release);
}

/// Where runs begin.
pub(super) struct Stage {
    /// The values: the network's inputs at first.
    at: Vec<ValueId>,
    /// Places where it can be next.
    cuts: Vec<(NodeId, ValueId)>,
    float: Arc<Inputs>,
    quantized: Arc<Inputs>,
    threads: usize,
}

impl Stage {
    /// At the inputs. Values of more than `buffer` bytes, all samples together, are not kept, nor those whose shape differs from sample to sample.
    ///
    /// # Errors
    /// When samples are of another number of inputs than the network has.
    pub fn new(graph: &Graph, inputs: Inputs, buffer: u64, threads: usize) -> Result<Self> {
        let given = inputs.batch(0)?.len();
        if graph.inputs.len() != given {
            return Err(Error::unsupported(format!("the model has {} inputs; data has {given}", graph.inputs.len())));
        }
        let (at, count) = (graph.inputs.clone(), inputs.count());
        let inputs = Arc::new(inputs);
        let cuts = cuts(graph)
            .into_iter()
            .filter(|&(_, v)| size(graph, v).is_some_and(|each| each.saturating_mul(count as u64) <= buffer))
            .collect();
        Ok(Self { at, cuts, float: inputs.clone(), quantized: inputs, threads })
    }
    /// Where it can go from now on: to none but these.
    pub fn keep_at(&mut self, values: &[ValueId]) {
        self.cuts.retain(|(_, v)| values.contains(v));
    }
    /// Samples in all.
    pub fn count(&self) -> usize {
        self.float.count()
    }
    /// The number of batches.
    pub fn batches(&self) -> usize {
        self.float.batches()
    }
    /// A batch where runs begin, in the float and in the quantized network.
    ///
    /// # Errors
    /// A defect.
    pub fn inputs(&self, batch: usize) -> Result<[Vec<Tensor>; 2]> {
        Ok([self.float.batch(batch)?, self.quantized.batch(batch)?])
    }
    /// The float network from here to `v`.
    ///
    /// # Errors
    /// As the session's constructor.
    pub fn float(&self, graph: &Graph, v: ValueId) -> Result<Prefix> {
        if let Some(i) = self.at.iter().position(|at| *at == v) {
            return Ok(Prefix::Here(i, None));
        }
        let part = part(graph, &self.at, v)?;
        Ok(Prefix::Float(Box::new(float::Session::new(Arc::new(part), &float::Options { threads: self.threads })?)))
    }
    /// The quantized network from here to `v`.
    ///
    /// # Errors
    /// As the lowering and the session's constructor.
    pub fn quantized(&self, graph: &Graph, v: ValueId) -> Result<Prefix> {
        if let Some(i) = self.at.iter().position(|at| *at == v) {
            return Ok(Prefix::Here(i, graph.value(v).quant.clone()));
        }
        let program = Arc::new(lower::lower(&part(graph, &self.at, v)?, Profile::default())?);
        let options = int::Options { threads: self.threads, ..int::Options::default() };
        Ok(Prefix::Int(Box::new(int::Session::new(program, &options)?)))
    }
    /// Moves on to the last place before the node `before`, up to which everything is quantized. Answers whether there was room to keep the samples there;
    /// where there was none, runs begin where they did.
    ///
    /// # Errors
    /// As running the networks.
    pub fn advance(
        &mut self,
        graph: &Graph,
        quantized: &Graph,
        before: NodeId,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<bool> {
        let Some(i) = self.cuts.iter().rposition(|&(node, _)| node < before) else { return Ok(true) };
        let (_, v) = self.cuts[i];
        self.cuts.drain(..=i);
        // Real numbers may lie between tapes; codes always lie in memory as they are.
        if quantized.value(v).quant.as_ref().is_none_or(|q| q.as_tensor().is_none()) {
            return Ok(true);
        }
        let (mut before, mut behind) = (self.float(graph, v)?, self.quantized(quantized, v)?);
        let mut kept = || -> Result<Option<[Kept; 2]>> {
            let mut keeping = [Keeping::new()?, Keeping::new()?];
            for i in 0..self.batches() {
                check()?;
                let [x, y] = self.inputs(i)?;
                for (to, value) in keeping.iter_mut().zip([before.run(&x)?, behind.run(&y)?]) {
                    if samples(&value) != x.first().map_or(0, samples) {
                        return Ok(None);
                    }
                    to.push(&value)?;
                }
                release(&x);
                release(&y);
            }
            let [float, quantized] = keeping;
            Ok(Some([float.finish()?, quantized.finish()?]))
        };
        match kept() {
            Ok(None) => Ok(true),
            Ok(Some([float, quantized])) => {
                let Inputs::Kept { batch, count, .. } = *self.float else {
                    return Err(Error::internal("samples of several shapes in one file"));
                };
                let held = |kept| Arc::new(Inputs::Kept { kept, batch, count });
                (self.at, self.float, self.quantized) = (vec![v], held(float), held(quantized));
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::Io => {
                self.cuts.clear();
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}

/// A network from where a [`Stage`] stands up to one value.
pub(super) enum Prefix {
    /// One of the values that runs begin with, on this grid.
    Here(usize, Option<Arc<QParams>>),
    Float(Box<float::Session>),
    Int(Box<int::Session>),
}

impl Prefix {
    /// The value for a batch.
    ///
    /// # Errors
    /// As the sessions.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Tensor> {
        let here = |i: &usize| inputs.get(*i).ok_or_else(|| Error::internal(format!("input {i} of {}", inputs.len())));
        let mut all = match self {
            Self::Here(i, None) => vec![here(i)?.clone()],
            Self::Here(i, Some(q)) => {
                let input = here(i)?;
                let (s, z) = q.as_tensor().ok_or_else(|| Error::internal("an input with several scales"))?;
                let (lo, hi) = (q.qtype.min(), q.qtype.max());
                let round = |&x: &f32| dequantize_f32(quantize_f32(x, s, z, lo, hi), s, z);
                let rounded: Vec<f32> = input.as_slice::<f32>()?.par_iter().map(round).collect();
                vec![Tensor::of(input.shape(), rounded)]
            }
            Self::Float(session) => session.run(inputs.to_vec())?,
            Self::Int(session) => session.run(inputs.to_vec())?,
        };
        all.pop().ok_or_else(|| Error::internal("a network without output"))
    }
}

/// The part of a graph that computes `v` from `at`.
fn part(graph: &Graph, at: &[ValueId], v: ValueId) -> Result<Graph> {
    let mut part = graph.clone();
    let producers = part.producers();
    for made in at.iter().filter_map(|at| producers[at.0 as usize]) {
        let mut patch = Patch::new();
        patch.remove(made);
        part.apply(patch)?;
    }
    part.inputs = at.to_vec();
    part.outputs = vec![v];
    part.compact();
    Ok(part)
}

/// Values that all the rest of the network is computed from, each with its node, in order.
fn cuts(graph: &Graph) -> Vec<(NodeId, ValueId)> {
    // How far each value is read; outputs of the network to its end.
    let mut last = vec![None; graph.value_count()];
    for (id, node) in graph.nodes() {
        node.inputs.iter().flatten().for_each(|v| last[v.0 as usize] = Some(id));
    }
    let end = NodeId(graph.node_count() as u32);
    graph.outputs.iter().for_each(|v| last[v.0 as usize] = Some(end));
    let mut live: Vec<ValueId> = graph.inputs.clone();
    let mut cuts = Vec::new();
    for (id, node) in graph.nodes() {
        live.extend(node.outputs.iter().flatten());
        live.retain(|v| last[v.0 as usize].is_some_and(|l| l > id));
        if let [v] = live[..]
            && node.output(0) == Some(v)
            && node.outputs.iter().flatten().count() == 1
            && !graph.outputs.contains(&v)
        {
            cuts.push((id, v));
        }
    }
    cuts
}

/// Bytes of a sample of `v`, where its shape says so.
fn size(graph: &Graph, v: ValueId) -> Option<u64> {
    let shape = graph.value(v).shape.as_ref()?;
    let each = shape.0.iter().skip(1).map(|d| d.fixed().map(|n| n as u64));
    each.product::<Option<u64>>()?.checked_mul(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, GraphBuilder, Op, op::Binary, op::Unary};

    #[test]
    fn runs_begin_where_nothing_passes_by() {
        let mut b = GraphBuilder::new("net");
        let x = b.input("x", DType::F32, "N, 4");
        let relu = |b: &mut GraphBuilder, name: &str, x| b.op(name, Op::Unary(Unary::Relu), &[x]);
        let first = relu(&mut b, "first", x);
        let inner = relu(&mut b, "inner", first);
        let sum = b.op("sum", Op::Binary(Binary::Add), &[inner, first]);
        let behind = relu(&mut b, "behind", sum);
        let last = b.op("last", Op::Binary(Binary::Add), &[behind, x]);
        b.output(last);
        let names =
            |graph: &Graph| -> Vec<String> { cuts(graph).iter().map(|&(_, v)| graph.value(v).name.clone()).collect() };
        // The input is read at the end.
        assert!(names(&b.finish().unwrap()).is_empty());

        let mut b = GraphBuilder::new("net");
        let x = b.input("x", DType::F32, "N, 4, 5");
        let first = relu(&mut b, "first", x);
        let inner = relu(&mut b, "inner", first);
        let sum = b.op("sum", Op::Binary(Binary::Add), &[inner, first]);
        let behind = relu(&mut b, "behind", sum);
        let last = relu(&mut b, "last", behind);
        b.output(last);
        let graph = b.finish().unwrap();
        assert_eq!(names(&graph), ["first", "sum", "behind"]);
        assert_eq!(size(&graph, sum), Some(80));
        let rest = part(&graph, &[sum], last).unwrap();
        let nodes: Vec<&str> = rest.nodes().map(|(_, n)| n.name.as_str()).collect();
        assert_eq!(nodes, ["behind", "last"]);
    }
}
