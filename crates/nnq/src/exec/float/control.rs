//! If, Loop, Scan: graphs run within an operator.
use super::{
    Ctx, Inputs, args, arrange,
    session::Plan,
    walk::{NoTap, Walk},
};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Graph, Tensor, op::Control},
};
use std::sync::Arc;

/// Most rounds of a loop: beyond it lies no real network, but one that never ends.
const MOST_ROUNDS: i64 = 1 << 24;

/// A graph within an operator, ready to run.
struct Body {
    name: &'static str,
    plan: Plan,
    ctx: Ctx,
}

impl Body {
    /// Made once for a node of a session.
    fn new(name: &'static str, graph: &Arc<Graph>, slot: usize, ctx: &Ctx) -> Result<Arc<Self>> {
        ctx.keep_own(slot, || Ok(Self { name, plan: Plan::new(graph.clone())?, ctx: Ctx::new() }))
            .at(|| format!("in '{name}'"))
    }
    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let expected = self.plan.graph.inputs.len();
        if inputs.len() != expected {
            return Err(Error::shape(format!("'{}' has {expected} inputs, it is given {}", self.name, inputs.len())));
        }
        let (outputs, _) =
            Walk::new(&self.plan, &self.ctx).run(inputs, &mut NoTap).at(|| format!("in '{}'", self.name))?;
        Ok(outputs)
    }
}

fn given(x: &Inputs, i: usize) -> Result<Tensor> {
    args::need(x, i, "a value").cloned()
}

fn truth(t: &Tensor) -> Result<bool> {
    if t.dtype() != DType::Bool || t.len() != 1 {
        return Err(Error::shape(format!("a condition of {} {:?}, expected one bool", t.dtype(), t.shape())));
    }
    Ok(t.to_i64s()? != [0])
}

pub(super) fn run(control: &Control, x: &Inputs, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let captured = || (x.len() - control.captured(x.len())..x.len()).map(|i| given(x, i));
    match control {
        Control::If { then_branch, else_branch } => {
            let body = if truth(args::need(x, 0, "the condition")?)? {
                Body::new("then_branch", then_branch, 0, ctx)?
            } else {
                Body::new("else_branch", else_branch, 1, ctx)?
            };
            body.run(captured().collect::<Result<_>>()?)
        }
        Control::Loop { body, carried } => {
            let body = Body::new("body", body, 0, ctx)?;
            let rounds = args::optional(x, 0).map(|t| args::integer(t, "the number of rounds")).transpose()?;
            let mut on = args::optional(x, 1).map_or(Ok(true), truth)?;
            let mut states = (2..2 + carried).map(|i| given(x, i)).collect::<Result<Vec<_>>>()?;
            let results = body.plan.graph.outputs.len().checked_sub(1 + carried);
            let results = results.ok_or_else(|| Error::shape("a body without enough outputs"))?;
            let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); results];
            let mut round = 0;
            while on && rounds.is_none_or(|n| round < n) {
                if round == MOST_ROUNDS {
                    return Err(Error::value(format!("a loop of more than {MOST_ROUNDS} rounds")));
                }
                let own = [Tensor::scalar(round), Tensor::from_bools(&[], &[on])];
                let inputs = own.into_iter().chain(states).map(Ok).chain(captured()).collect::<Result<_>>()?;
                let mut out = body.run(inputs).at(|| format!("round {round}"))?.into_iter();
                on = truth(&out.next().ok_or_else(|| Error::internal("a body without a condition"))?)?;
                states = out.by_ref().take(*carried).collect();
                stacks.iter_mut().zip(out).for_each(|(stack, t)| stack.push(t));
                round += 1;
            }
            let graph = &body.plan.graph;
            let stacked = stacks.iter().zip(&graph.outputs[1 + carried..]);
            let stacked = stacked.map(|(s, &v)| stack(s, (0, false), graph, v, ctx));
            states.into_iter().map(Ok).chain(stacked).collect()
        }
        Control::Scan { body, inputs, outputs } => {
            let body = Body::new("body", body, 0, ctx)?;
            let count = control.states();
            let mut states = (0..count).map(|i| given(x, i)).collect::<Result<Vec<_>>>()?;
            let mut length = None;
            for (i, (axis, _)) in inputs.iter().enumerate() {
                let t = args::need(x, count + i, "a sequence")?;
                let n = t.shape()[args::axis(*axis, t.shape().len())?];
                if length.is_some_and(|m| m != n) {
                    return Err(Error::shape(format!("sequences of {length:?} and {n} elements")));
                }
                length = Some(n);
            }
            let length = length.unwrap_or(0);
            let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); outputs.len()];
            for step in 0..length {
                let element = |(i, (axis, back)): (usize, &(i64, bool))| {
                    let at = Tensor::scalar(if *back { length - 1 - step } else { step } as i64);
                    super::select::gather(*axis, &[Some(args::need(x, count + i, "a sequence")?), Some(&at)], ctx)
                };
                let elements = inputs.iter().enumerate().map(element);
                let all = states.into_iter().map(Ok).chain(elements).chain(captured()).collect::<Result<_>>()?;
                let mut out = body.run(all).at(|| format!("step {step}"))?.into_iter();
                states = out.by_ref().take(count).collect();
                stacks.iter_mut().zip(out).for_each(|(stack, t)| stack.push(t));
            }
            let graph = &body.plan.graph;
            let stacked = stacks.iter().zip(outputs).zip(&graph.outputs[count..]);
            let stacked = stacked.map(|((s, how), &v)| stack(s, *how, graph, v, ctx));
            states.into_iter().map(Ok).chain(stacked).collect()
        }
    }
}

/// Tensors along a new axis. Of none the type and shape are those that the graph declares, with 0 for what it leaves open.
fn stack(
    parts: &[Tensor],
    (axis, back): (i64, bool),
    graph: &Graph,
    v: crate::ir::ValueId,
    ctx: &Ctx,
) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        let value = graph.value(v);
        let dims = value.shape.iter().flat_map(|s| &s.0).map(|d| d.fixed().unwrap_or(0));
        let mut shape: Vec<usize> = dims.collect();
        let at = args::axis(axis, shape.len() + 1)?;
        shape.insert(at, 0);
        return Tensor::new(shape, args::blank(value.dtype.unwrap_or(DType::F32), 0, ctx));
    };
    let at = args::axis(axis, first.shape().len() + 1)?;
    let widened = parts.iter().map(|t| {
        let mut shape = t.shape().to_vec();
        if shape.len() < at {
            return Err(Error::shape(format!("results of shapes {:?} and {shape:?}", first.shape())));
        }
        shape.insert(at, 1);
        args::same(t, shape, ctx)
    });
    let mut widened = widened.collect::<Result<Vec<_>>>()?;
    if back {
        widened.reverse();
    }
    arrange::concat(at as i64, &widened.iter().map(Some).collect::<Vec<_>>(), ctx)
}
