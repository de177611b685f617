//! Runs graphs.
use super::{
    Ctx, arrange,
    divide::divides,
    fuse::{self, Chain},
    walk::{NoTap, Tap, Walk},
};
use crate::{
    error::{Error, Result},
    ir::{Dim, Graph, NodeId, Tensor, ValueId},
};
use rayon::prelude::*;
use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// 0: one per core.
    pub threads: usize,
}

/// A graph ready to run in floating point. Annotations on values are ignored; constants that hold codes are dequantized.
pub struct Session {
    plan: Plan,
    ctx: Ctx,
    /// One for each thread that runs a part of a batch.
    beside: Vec<Ctx>,
    pool: rayon::ThreadPool,
    /// A batch can be run in parts.
    divides: bool,
    peak: usize,
}

/// What is known of a graph before it runs.
pub(super) struct Plan {
    pub graph: Arc<Graph>,
    pub constants: Vec<Option<Arc<Tensor>>>,
    /// For each node the values that nobody reads after it.
    pub dying: Vec<Vec<ValueId>>,
    /// For each node what may run within it.
    pub chains: Vec<Chain>,
}

impl Plan {
    /// Plans the order and the liveness of values.
    ///
    /// # Errors
    /// When a node reads a value that nothing produces, or a constant cannot be dequantized.
    pub fn new(graph: Arc<Graph>) -> Result<Self> {
        let mut constants = vec![None; graph.value_count()];
        let mut known = vec![false; graph.value_count()];
        for v in &graph.inputs {
            known[v.0 as usize] = true;
        }
        // The last node that mentions a value; graph outputs never die.
        let mut last: Vec<Option<NodeId>> = vec![None; graph.value_count()];
        for (id, node) in graph.nodes() {
            for &v in node.inputs.iter().flatten() {
                let i = v.0 as usize;
                if graph.constant(v).is_some() {
                    if constants[i].is_none() {
                        constants[i] = Some(graph.real_constant(v)?);
                    }
                } else if !known[i] {
                    let name = &graph.value(v).name;
                    return Err(Error::malformed(format!("nothing before it produces its input '{name}'"))
                        .at(format!("node '{}'", node.name)));
                }
                last[i] = Some(id);
            }
            for v in node.outputs.iter().flatten() {
                known[v.0 as usize] = true;
                last[v.0 as usize] = Some(id);
            }
        }
        for &v in &graph.outputs {
            let i = v.0 as usize;
            last[i] = None;
            if graph.constant(v).is_some() && constants[i].is_none() {
                constants[i] = Some(graph.real_constant(v)?);
            } else if !known[i] && constants[i].is_none() {
                return Err(Error::malformed(format!("nothing produces the graph output '{}'", graph.value(v).name)));
            }
        }
        let mut dying = vec![Vec::new(); graph.node_count()];
        for (i, node) in last.iter().enumerate() {
            if let Some(node) = node.filter(|_| constants[i].is_none()) {
                dying[node.0 as usize].push(ValueId(i as u32));
            }
        }
        let chains = fuse::chains(&graph);
        Ok(Self { graph, constants, dying, chains })
    }
}

/// Samples that one thread runs at once when a batch is divided: enough to read weights once for several, few enough for the
/// cache.
const TOGETHER: usize = 2;

impl Session {
    /// A session.
    ///
    /// # Errors
    /// When a node reads a value that nothing produces, or a constant cannot be dequantized.
    pub fn new(graph: Arc<Graph>, options: &Options) -> Result<Self> {
        let plan = Plan::new(graph)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .build()
            .map_err(|e| Error::usage(format!("{} threads cannot be started: {e}", options.threads)))?;
        let ctx = Ctx::new();
        let beside = (0..pool.current_num_threads()).map(|_| ctx.beside()).collect();
        let divides = divides(&plan.graph);
        Ok(Self { plan, ctx, beside, pool, divides, peak: 0 })
    }
    /// The graph.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.plan.graph
    }
    /// The most bytes that f32 values and working memory of operators took at once in any run so far, constants not
    /// counted.
    pub fn peak_bytes(&self) -> usize {
        self.peak
    }
    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.beside.len()
    }
    /// Whether a batch of more than one sample is run in parts, several at a time.
    pub fn divides(&self) -> bool {
        self.divides
    }
    /// Runs once. `inputs` in the order of `graph.inputs`; outputs in the order of `graph.outputs`.
    ///
    /// # Errors
    /// Names the node and the shapes.
    pub fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        if self.divides {
            self.run_divided(inputs, &mut vec![NoTap; self.threads()])
        } else {
            self.run_tapped(inputs, &mut NoTap)
        }
    }
    /// Runs once, the whole batch at a time, and shows every value to `tap`.
    ///
    /// # Errors
    /// As [`Session::run`], and what the tap answers.
    pub fn run_tapped(&mut self, inputs: Vec<Tensor>, tap: &mut dyn Tap) -> Result<Vec<Tensor>> {
        check_inputs(&self.plan.graph, &inputs)?;
        let Self { plan, ctx, pool, peak, .. } = self;
        let (outputs, most) = pool.install(|| Walk::new(plan, ctx).run(inputs, tap))?;
        *peak = (*peak).max(most);
        Ok(outputs)
    }
    /// Runs a batch in parts, as many at a time as there are taps and threads. Each part's values are shown to one of the taps,
    /// which learns by [`Tap::begin`] what they belong to. Where [`Session::divides`] is false this is [`Session::run_tapped`] with
    /// the first tap.
    ///
    /// # Errors
    /// As [`Session::run_tapped`]; of several the first in data order.
    pub fn run_divided<T: Tap>(&mut self, inputs: Vec<Tensor>, taps: &mut [T]) -> Result<Vec<Tensor>> {
        let samples = inputs.first().and_then(|t| t.shape().first()).copied().unwrap_or(0);
        let Some(first) = taps.first_mut() else { return Err(Error::internal("a run without a tap")) };
        if !self.divides || samples <= 1 {
            first.begin(0..samples);
            return self.run_tapped(inputs, first);
        }
        check_inputs(&self.plan.graph, &inputs)?;
        let Self { plan, beside, pool, peak, .. } = self;
        let threads = beside.len().min(taps.len());
        let together = TOGETHER.min(samples.div_ceil(threads));
        let parts = samples.div_ceil(together);
        let range = |part: usize| samples * part / parts..samples * (part + 1) / parts;
        let next = AtomicUsize::new(0);
        let one = |(ctx, tap): (&Ctx, &mut T)| {
            let (mut done, mut most) = (Vec::new(), 0);
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    return (done, most);
                }
                tap.begin(range(part));
                let result = cut(&inputs, range(part), ctx).and_then(|x| Walk::new(plan, ctx).run(x, tap));
                let failed = result.is_err();
                done.push((
                    part,
                    result.map(|(y, bytes)| {
                        most = most.max(bytes);
                        y
                    }),
                ));
                if failed {
                    // Parts before this one are under way; those after it would change nothing.
                    next.store(parts, Ordering::Relaxed);
                }
            }
        };
        let results: Vec<_> =
            pool.install(|| beside.par_iter().zip(taps).take(threads).with_max_len(1).map(one).collect());
        *peak = (*peak).max(results.iter().map(|r| r.1).sum());
        let mut done: Vec<_> = results.into_iter().flat_map(|r| r.0).collect();
        done.sort_by_key(|(part, _)| *part);
        let done = done.into_iter().map(|(_, result)| result).collect::<Result<Vec<_>>>()?;
        (0..plan.graph.outputs.len())
            .map(|i| arrange::concat(0, &done.iter().map(|y| y.get(i)).collect::<Vec<_>>(), &self.ctx))
            .collect()
    }
}

/// Some samples of each input.
fn cut(inputs: &[Tensor], samples: Range<usize>, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let one = |t: &Tensor| {
        let &[n, ref rest @ ..] = t.shape() else { return Err(Error::internal("a batch without axes")) };
        let each = t.len() / n.max(1);
        let shape = [&[samples.len()], rest].concat();
        let Ok(data) = t.as_slice::<f32>() else {
            let range = Tensor::of(&[samples.len()], samples.clone().map(|i| i as i64).collect());
            return super::select::gather(0, &[Some(t), Some(&range)], ctx);
        };
        let mut part = ctx.take(each * samples.len());
        part.copy_from_slice(&data[samples.start * each..samples.end * each]);
        Tensor::new(shape, crate::ir::Data::F32(part.into()))
    };
    inputs.iter().map(one).collect()
}

fn check_inputs(graph: &Graph, inputs: &[Tensor]) -> Result<()> {
    let names = || graph.inputs.iter().map(|&v| graph.value(v).name.as_str()).collect::<Vec<_>>();
    if inputs.len() != graph.inputs.len() {
        return Err(Error::usage(format!(
            "{} inputs given, the graph has {}: {:?}",
            inputs.len(),
            graph.inputs.len(),
            names()
        )));
    }
    // Symbol: size and the input that fixed it.
    let mut symbols: HashMap<&str, (usize, &str)> = HashMap::new();
    for (&id, tensor) in graph.inputs.iter().zip(inputs) {
        let value = graph.value(id);
        let wrong = |expected: String, found: String| {
            Err(Error::shape(format!("expected {expected}, found {found}")).at(format!("input '{}'", value.name)))
        };
        if let Some(d) = value.dtype.filter(|&d| d != tensor.dtype()) {
            return wrong(format!("elements of {d}"), tensor.dtype().to_string());
        }
        let Some(shape) = &value.shape else { continue };
        let found = || format!("{:?}", tensor.shape());
        if shape.rank() != tensor.shape().len() {
            return wrong(format!("a tensor of rank {} {shape}", shape.rank()), found());
        }
        for (dim, &n) in shape.0.iter().zip(tensor.shape()) {
            match dim {
                Dim::Fixed(want) if *want != n => return wrong(format!("shape {shape}"), found()),
                Dim::Sym(name) => {
                    let (size, first) = *symbols.entry(name).or_insert((n, &value.name));
                    if size != n {
                        let rule = format!("shape {shape} with {name} = {size} as in input '{first}'");
                        return wrong(rule, found());
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, GraphBuilder, Op, op::Unary};

    /// What comes in from outside joins the buffers that wait, up to twice what a run needs; more goes out than comes in here, and none of them fits.
    #[test]
    fn runs_leave_no_more_behind_than_the_first_ones_did() {
        let mut b = GraphBuilder::new("net");
        let x = b.input("x", DType::F32, "N, 600");
        let small = b.op("small", Op::Unary(Unary::Relu), &[x]);
        let wide = b.op("wide", Op::Concat { axis: 1 }, &[small, small, small, small, small]);
        let y = b.op("y", Op::Unary(Unary::Sigmoid), &[wide]);
        let z = b.op("z", Op::Unary(Unary::Tanh), &[wide]);
        b.output(y);
        b.output(z);
        let graph = Arc::new(b.finish().unwrap());
        let mut session = Session::new(graph, &Options { threads: 1 }).unwrap();
        let mut waiting = Vec::new();
        for _ in 0..40 {
            session.run_tapped(vec![Tensor::of(&[2, 600], vec![0.5f32; 1200])], &mut NoTap).unwrap();
            waiting.push(session.ctx.waiting());
        }
        assert_eq!(waiting[39], waiting[19], "{waiting:?}");
    }
}
