//! Walks a graph once.
use super::{
    Ctx, InPlace, eval, in_place,
    last::{self, Held, Item, Tail, Watch},
    session::Plan,
};
use crate::{
    error::{At, Error, Result},
    ir::{Node, NodeId, Op, Tensor, ValueId},
};
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// What a tap wants of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Not to see it: the value need not come into being.
    Nothing,
    /// The elements of each sample, in any order: by [`Tap::see`] with a tensor of whose shape only the first axis counts, or by
    /// [`Tap::part`] and [`Tap::seen`].
    Elements,
    /// The tensor as the graph knows it.
    Tensor,
}

/// Sees values as they are produced (graph inputs and node outputs, not constants).
pub trait Tap: Send {
    /// `value` is an id of the session's graph. An error stops the run.
    ///
    /// # Errors
    /// Whatever the observer cannot work with.
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()>;
    /// Some elements of a value, while they are in the cache. `sample` counts within the run. Those of one sample come one after
    /// another, and after the last sample [`Tap::seen`].
    ///
    /// # Errors
    /// As [`Tap::see`].
    fn part(&mut self, _value: ValueId, _sample: usize, _elements: &[f32]) -> Result<()> {
        Ok(())
    }
    /// All of a value came by [`Tap::part`].
    ///
    /// # Errors
    /// As [`Tap::see`].
    fn seen(&mut self, _value: ValueId) -> Result<()> {
        Ok(())
    }
    /// What it wants of a value; unless it says so, the tensor of each.
    fn interest(&self, _value: ValueId) -> Interest {
        Interest::Tensor
    }
    /// The values that follow belong to these samples of the batch.
    fn begin(&mut self, _samples: Range<usize>) {}
}

/// Looks at nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoTap;

impl Tap for NoTap {
    fn see(&mut self, _: ValueId, _: &Tensor) -> Result<()> {
        Ok(())
    }
    fn interest(&self, _: ValueId) -> Interest {
        Interest::Nothing
    }
}

/// Values that a node has computed.
type Results = Vec<(ValueId, Held<Tensor>)>;

/// What runs within a convolution.
struct Within<'a> {
    tail: Tail<'a>,
    /// The convolution's output, the sum, the clamped one.
    values: [Option<ValueId>; 3],
    /// Which of them the tap sees in parts.
    wants: [bool; 3],
    /// The addition and the clamp.
    within: [Option<NodeId>; 2],
}

/// One run.
pub(super) struct Walk<'a> {
    plan: &'a Plan,
    ctx: &'a Ctx,
    values: Vec<Option<Held<Tensor>>>,
    /// Nodes that ran within another.
    done: Vec<bool>,
    /// Bytes of f32 values, now and at most.
    live: usize,
    peak: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(plan: &'a Plan, ctx: &'a Ctx) -> Self {
        let values = vec![None; plan.graph.value_count()];
        Self { plan, ctx, values, done: vec![false; plan.graph.node_count()], live: 0, peak: 0 }
    }

    /// The outputs, and the most bytes that f32 values and working memory took.
    ///
    /// # Errors
    /// Names the node and the shapes.
    pub(super) fn run(mut self, inputs: Vec<Tensor>, tap: &mut dyn Tap) -> Result<(Vec<Tensor>, usize)> {
        let graph = &self.plan.graph;
        self.ctx.begin();
        for (&id, tensor) in graph.inputs.iter().zip(inputs) {
            self.put(id, Held { tensor, last: false }, false, tap)
                .at(|| format!("input '{}'", graph.value(id).name))?;
        }
        for (id, node) in graph.nodes() {
            if !self.done[id.0 as usize] {
                let (results, seen) = self.node(id, node, tap).map_err(|e| e.at(self.place(node)))?;
                for (i, (v, held)) in results.into_iter().enumerate() {
                    self.put(v, held, seen, tap).at(|| format!("output {i} of node '{}'", node.name))?;
                }
                self.peak = self.peak.max(self.live);
            }
            for v in &self.plan.dying[id.0 as usize] {
                if let Some(held) = self.values[v.0 as usize].take() {
                    self.live -= bytes(&held.tensor);
                    self.ctx.recycle(held.tensor);
                }
            }
        }
        let outputs = self.outputs()?;
        // Inputs that nobody reads.
        self.values.into_iter().flatten().for_each(|h| self.ctx.recycle(h.tensor));
        Ok((outputs, self.peak))
    }

    fn outputs(&mut self) -> Result<Vec<Tensor>> {
        let graph = &self.plan.graph;
        for &v in &graph.outputs {
            self.put_in_rows(v)?;
        }
        let mut left: HashMap<ValueId, usize> = HashMap::new();
        for &v in &graph.outputs {
            *left.entry(v).or_default() += 1;
        }
        let mut outputs = Vec::with_capacity(graph.outputs.len());
        for v in &graph.outputs {
            let uses = left.entry(*v).or_default();
            *uses -= 1;
            let slot = &mut self.values[v.0 as usize];
            let held = if *uses == 0 { slot.take() } else { slot.clone() };
            let tensor = held.map(|h| h.tensor).or_else(|| self.plan.constants[v.0 as usize].as_deref().cloned());
            outputs.push(tensor.ok_or_else(|| {
                Error::internal(format!("the graph output '{}' was not computed", graph.value(*v).name))
            })?);
        }
        Ok(outputs)
    }

    /// Shows a value to the tap, unless it has seen it, and keeps it.
    fn put(&mut self, v: ValueId, held: Held<Tensor>, seen: bool, tap: &mut dyn Tap) -> Result<()> {
        match tap.interest(v) {
            Interest::Nothing => {}
            _ if seen => {}
            Interest::Tensor if held.last => {
                let rows = last::put_in_rows(held.tensor.clone(), self.ctx)?;
                tap.see(v, &rows)?;
                self.ctx.recycle(rows);
            }
            _ => tap.see(v, &held.tensor)?,
        }
        self.live += bytes(&held.tensor);
        self.values[v.0 as usize] = Some(held);
        Ok(())
    }

    /// Lays a value out as the graph knows it.
    fn put_in_rows(&mut self, v: ValueId) -> Result<()> {
        let slot = &mut self.values[v.0 as usize];
        if let Some(held) = slot.take_if(|h| h.last) {
            *slot = Some(Held { tensor: last::put_in_rows(held.tensor, self.ctx)?, last: false });
        }
        Ok(())
    }

    /// The inputs of a node, and a bit for each of the first 64 that is a constant.
    fn inputs(&self, node: &Node) -> Result<(Vec<Option<Item<'_>>>, u64)> {
        let mut constant = 0;
        let mut x = Vec::with_capacity(node.inputs.len());
        for (i, v) in node.inputs.iter().enumerate() {
            let Some(v) = *v else {
                x.push(None);
                continue;
            };
            if let Some(tensor) = self.plan.constants[v.0 as usize].as_deref() {
                constant |= 1u64.checked_shl(i as u32).unwrap_or(0);
                x.push(Some(Held { tensor, last: false }));
                continue;
            }
            let held = self.values[v.0 as usize].as_ref();
            let gone = || Error::internal(format!("input '{}' is gone", self.plan.graph.value(v).name));
            let held = held.ok_or_else(gone)?;
            x.push(Some(Held { tensor: &held.tensor, last: held.last }));
        }
        Ok((x, constant))
    }

    /// The outputs, and whether the tap has seen them.
    fn node(&mut self, id: NodeId, node: &Node, tap: &mut dyn Tap) -> Result<(Results, bool)> {
        let channels_last = last::supports(&node.op, &self.inputs(node)?.0, node.outputs.len());
        if !channels_last {
            for &v in node.inputs.iter().flatten() {
                self.put_in_rows(v)?;
            }
        }
        let results = match self.taken(id, node)? {
            Some((held, action)) => {
                self.live -= bytes(&held.tensor);
                vec![Held { tensor: action.run(held.tensor)?, last: held.last }]
            }
            None if channels_last => {
                let (out, held, seen) = self.last(id, node, tap)?;
                return Ok((vec![(out, held)], seen));
            }
            None => {
                let (x, constant) = self.inputs(node)?;
                let x: Vec<Option<&Tensor>> = x.into_iter().map(|i| i.map(|i| i.tensor)).collect();
                self.ctx.enter(id.0, constant);
                let results = eval(&node.op, &x, node.outputs.len(), self.ctx);
                self.peak = self.peak.max(self.live + self.ctx.leave());
                results?.into_iter().map(|tensor| Held { tensor, last: false }).collect()
            }
        };
        match node.outputs.iter().rposition(Option::is_some) {
            Some(i) if i >= results.len() => {
                Err(Error::unsupported(format!("output {i} is used, the operator gives {}", results.len())))
            }
            _ => {
                let named = node.outputs.iter().zip(results).filter_map(|(v, held)| v.map(|v| (v, held)));
                Ok((named.collect(), false))
            }
        }
    }

    /// An operator channels last, with what runs within it: the value that results, and whether the tap has seen it.
    fn last(&mut self, id: NodeId, node: &Node, tap: &mut dyn Tap) -> Result<(ValueId, Held<Tensor>, bool)> {
        let mut chain = self.chain(id, node, tap)?;
        let (values, wants) = (chain.values, chain.wants);
        let shared = Mutex::new(&mut *tap);
        let see = |i: usize, sample: usize, elements: &[f32]| {
            let Some(v) = values[i] else { return Ok(()) };
            let mut tap = shared.lock().unwrap_or_else(PoisonError::into_inner);
            tap.part(v, sample, elements).at(|| format!("value '{}'", self.plan.graph.value(v).name))
        };
        if wants.contains(&true) {
            chain.tail.watch = Some(Watch { wants, see: &see });
        }
        let (x, constant) = self.inputs(node)?;
        self.ctx.enter(id.0, constant);
        let result = last::run(&node.op, &x, &chain.tail, self.ctx);
        for node in chain.within.into_iter().flatten() {
            self.done[node.0 as usize] = true;
        }
        self.peak = self.peak.max(self.live + self.ctx.leave());
        let held = Held { tensor: result?, last: true };
        for (v, _) in values.iter().zip(wants).filter(|(_, wanted)| *wanted) {
            v.map_or(Ok(()), |v| tap.seen(v))?;
        }
        let last = values.iter().rposition(Option::is_some).unwrap_or(0);
        let out = values[last].ok_or_else(|| Error::internal("an operator without an output"))?;
        Ok((out, held, wants[last]))
    }

    /// The node's first input, when the operator can work in its buffer because nobody reads it after the node, nor the node
    /// itself a second time.
    fn taken(&mut self, id: NodeId, node: &Node) -> Result<Option<(Held<Tensor>, InPlace)>> {
        let Some(first) = node.input(0) else { return Ok(None) };
        let once = node.inputs.iter().flatten().filter(|v| **v == first).count() == 1;
        if !once || !self.plan.dying[id.0 as usize].contains(&first) {
            return Ok(None);
        }
        let x: Vec<Option<&Tensor>> = self.inputs(node)?.0.into_iter().map(|i| i.map(|i| i.tensor)).collect();
        let action = in_place(&node.op, &x)?;
        Ok(action.and_then(|action| self.values[first.0 as usize].take().map(|held| (held, action))))
    }

    /// What runs within a convolution: operators whose predecessors nobody wants to see whole.
    fn chain(&self, id: NodeId, node: &Node, tap: &dyn Tap) -> Result<Within<'_>> {
        let mut run =
            Within { tail: Tail::NONE, values: [node.output(0), None, None], wants: [false; 3], within: [None; 2] };
        let chain = &self.plan.chains[id.0 as usize];
        // Threads that share a convolution finish its pixels in no order.
        let in_parts = self.ctx.is_serial() && matches!(node.op, Op::Conv(_));
        let wanted = |v: Option<ValueId>| in_parts && v.is_some_and(|v| tap.interest(v) == Interest::Elements);
        let passes = |v: Option<ValueId>| wanted(v) || v.is_some_and(|v| tap.interest(v) == Interest::Nothing);
        let mut last = run.values[0];
        if let Some((add, other, sum)) = chain.add {
            let shape = last::conv_shape(&node.op, &self.inputs(node)?.0);
            let other = self.values[other.0 as usize].as_ref().filter(|h| h.last);
            let other = other.filter(|h| passes(last) && shape.as_deref() == Some(h.tensor.shape()));
            run.tail.residual = other.map(|held| &held.tensor);
            if other.is_some() {
                (run.within[0], run.values[1], last) = (Some(add), Some(sum), Some(sum));
            }
        }
        // A clamp that follows an addition runs with it or not at all.
        let ready = chain.add.is_none() || run.within[0].is_some();
        if let Some((clamp, [lo, hi], clamped)) = chain.clamp.filter(|_| ready && passes(last)) {
            (run.within[1], run.values[2]) = (Some(clamp), Some(clamped));
            (run.tail.lo, run.tail.hi) = (lo, hi);
        }
        run.wants = run.values.map(wanted);
        Ok(run)
    }

    fn place(&self, node: &Node) -> String {
        let shapes: Vec<String> = node
            .inputs
            .iter()
            .map(|v| {
                let item = v.and_then(|v| {
                    let i = v.0 as usize;
                    let constant = self.plan.constants[i].as_deref().map(|tensor| Held { tensor, last: false });
                    let held = || self.values[i].as_ref().map(|h| Held { tensor: &h.tensor, last: h.last });
                    constant.or_else(held)
                });
                item.map_or_else(|| "-".into(), |i| format!("{} {:?}", i.tensor.dtype(), i.shape()))
            })
            .collect();
        format!("node '{}' ({}; inputs {})", node.name, node.op.name(), shapes.join(", "))
    }
}

fn bytes(t: &Tensor) -> usize {
    if t.dtype() == crate::ir::DType::F32 { t.len() * size_of::<f32>() } else { 0 }
}
