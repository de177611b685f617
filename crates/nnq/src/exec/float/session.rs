//! Walks a graph.
use super::{Ctx, eval, in_place};
use crate::{
    error::{At, Error, Result},
    ir::{Dim, Graph, Node, NodeId, Op, Tensor, ValueId},
};
use std::{collections::HashMap, sync::Arc};

/// Sees each value as it is produced (graph inputs and node outputs, not constants).
pub trait Tap: Send {
    /// `value` is an id of the session's graph. An error stops the run.
    ///
    /// # Errors
    /// Whatever the observer cannot work with.
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()>;
}

/// Looks at nothing.
pub struct NoTap;

impl Tap for NoTap {
    fn see(&mut self, _: ValueId, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// 0: one per core.
    pub threads: usize,
}

/// A graph ready to run in floating point. Annotations on values are ignored; constants that hold codes are dequantized.
pub struct Session {
    graph: Arc<Graph>,
    ctx: Ctx,
    pool: rayon::ThreadPool,
    constants: Vec<Option<Arc<Tensor>>>,
    /// For each node the values that nobody reads after it.
    dying: Vec<Vec<ValueId>>,
    peak: usize,
}

impl Session {
    /// Plans the order and the liveness of values.
    ///
    /// # Errors
    /// When a node reads a value that nothing produces, or a constant cannot be dequantized.
    pub fn new(graph: Arc<Graph>, options: &Options) -> Result<Self> {
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
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .build()
            .map_err(|e| Error::usage(format!("{} threads cannot be started: {e}", options.threads)))?;
        Ok(Self { graph, ctx: Ctx::new(), pool, constants, dying, peak: 0 })
    }
    /// The graph.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }
    /// The most bytes that f32 values and working memory of operators took at once in any run so far, constants not
    /// counted.
    pub fn peak_bytes(&self) -> usize {
        self.peak
    }
    /// Runs once. `inputs` in the order of `graph.inputs`; outputs in the order of `graph.outputs`.
    ///
    /// # Errors
    /// Names the node and the shapes.
    pub fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.run_tapped(inputs, &mut NoTap)
    }
    /// Runs once and shows every value to `tap`.
    ///
    /// # Errors
    /// As [`Session::run`], and what the tap answers.
    pub fn run_tapped(&mut self, inputs: Vec<Tensor>, tap: &mut dyn Tap) -> Result<Vec<Tensor>> {
        check_inputs(&self.graph, &inputs)?;
        let Self { graph, ctx, pool, constants, dying, peak } = self;
        pool.install(|| Walk { graph, ctx, constants, dying, live: 0, peak }.run(inputs, tap))
    }
}

struct Walk<'a> {
    graph: &'a Graph,
    ctx: &'a Ctx,
    constants: &'a [Option<Arc<Tensor>>],
    dying: &'a [Vec<ValueId>],
    live: usize,
    peak: &'a mut usize,
}

impl Walk<'_> {
    fn run(mut self, inputs: Vec<Tensor>, tap: &mut dyn Tap) -> Result<Vec<Tensor>> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.graph.value_count()];
        for (&id, tensor) in self.graph.inputs.iter().zip(inputs) {
            tap.see(id, &tensor).at(|| format!("input '{}'", self.graph.value(id).name))?;
            self.live += bytes(&tensor);
            values[id.0 as usize] = Some(tensor);
        }
        for (id, node) in self.graph.nodes() {
            let results = self.node(id, node, &mut values).map_err(|e| e.at(self.place(node, &values)))?;
            for (i, (slot, tensor)) in node.outputs.iter().zip(results).enumerate() {
                let Some(v) = *slot else { continue };
                tap.see(v, &tensor).at(|| format!("output {i} of node '{}'", node.name))?;
                self.live += bytes(&tensor);
                values[v.0 as usize] = Some(tensor);
            }
            *self.peak = (*self.peak).max(self.live);
            for v in &self.dying[id.0 as usize] {
                if let Some(tensor) = values[v.0 as usize].take() {
                    self.live -= bytes(&tensor);
                    self.ctx.recycle(tensor);
                }
            }
        }
        let mut left: HashMap<ValueId, usize> = HashMap::new();
        for &v in &self.graph.outputs {
            *left.entry(v).or_default() += 1;
        }
        let mut outputs = Vec::with_capacity(self.graph.outputs.len());
        for v in &self.graph.outputs {
            let uses = left.entry(*v).or_default();
            *uses -= 1;
            let slot = &mut values[v.0 as usize];
            let tensor = if *uses == 0 { slot.take() } else { slot.clone() };
            let tensor = tensor.or_else(|| self.constants[v.0 as usize].as_deref().cloned());
            outputs.push(tensor.ok_or_else(|| {
                Error::internal(format!("the graph output '{}' was not computed", self.graph.value(*v).name))
            })?);
        }
        // Inputs that nobody reads.
        values.into_iter().flatten().for_each(|t| self.ctx.recycle(t));
        Ok(outputs)
    }

    fn node(&mut self, id: NodeId, node: &Node, values: &mut [Option<Tensor>]) -> Result<Vec<Tensor>> {
        let mut constant = 0;
        let mut x: Vec<Option<&Tensor>> = Vec::with_capacity(node.inputs.len());
        for (i, v) in node.inputs.iter().enumerate() {
            let Some(v) = *v else {
                x.push(None);
                continue;
            };
            let value = self.constants[v.0 as usize].as_deref();
            if value.is_some() {
                constant |= 1u64.checked_shl(i as u32).unwrap_or(0);
            }
            let value = value.or(values[v.0 as usize].as_ref());
            let gone = || Error::internal(format!("input '{}' is gone", self.graph.value(v).name));
            x.push(Some(value.ok_or_else(gone)?));
        }
        let action = match self.dies_here(id, node) {
            Some(first) => in_place(&node.op, &x)?.map(|a| (first, a)),
            None => None,
        };
        if let Some((first, action)) = action {
            let tensor = values[first.0 as usize].take();
            let tensor = tensor.ok_or_else(|| Error::internal("a value that dies here is gone"))?;
            self.live -= bytes(&tensor);
            return Ok(vec![action.run(tensor)?]);
        }
        self.ctx.enter(id.0, constant);
        let results = eval(&node.op, &x, node.outputs.len(), self.ctx);
        *self.peak = (*self.peak).max(self.live + self.ctx.leave());
        let results = results?;
        match node.outputs.iter().rposition(Option::is_some) {
            Some(i) if i >= results.len() => {
                Err(Error::unsupported(format!("output {i} is used, the operator gives {}", results.len())))
            }
            _ => Ok(results),
        }
    }

    /// The node's first input when nobody reads it after the node, nor the node itself a second time.
    fn dies_here(&self, id: NodeId, node: &Node) -> Option<ValueId> {
        let first = node.input(0)?;
        let once = node.inputs.iter().flatten().filter(|v| **v == first).count() == 1;
        (once && self.dying[id.0 as usize].contains(&first)).then_some(first)
    }

    fn place(&self, node: &Node, values: &[Option<Tensor>]) -> String {
        let shapes: Vec<String> = node
            .inputs
            .iter()
            .map(|v| {
                let tensor = v.and_then(|v| {
                    let i = v.0 as usize;
                    self.constants[i].as_deref().or(values[i].as_ref())
                });
                tensor.map_or_else(|| "-".into(), |t| format!("{} {:?}", t.dtype(), t.shape()))
            })
            .collect();
        format!("node '{}' ({}; inputs {})", node.name, op_name(&node.op), shapes.join(", "))
    }
}

/// The first word of the operator's debug form, without the family around an element-wise function.
fn op_name(op: &Op) -> String {
    let text = match op {
        Op::Unary(u) => format!("{u:?}"),
        Op::Binary(b) => format!("{b:?}"),
        Op::Variadic(v) => format!("{v:?}"),
        Op::Reduce { kind, .. } => format!("Reduce{kind:?}"),
        other => format!("{other:?}"),
    };
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

fn bytes(t: &Tensor) -> usize {
    if t.dtype() == crate::ir::DType::F32 { t.len() * size_of::<f32>() } else { 0 }
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
