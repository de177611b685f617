//! Masks that are functions of whole numbers, one by one: what a file computes of ids in floating point (`(1 - mask) * -10000`) becomes a table.
use super::{Program, Slot, StepKind, build::Builder};
use crate::{
    error::{Error, Result},
    exec::float::{Ctx, eval},
    ir::{DType, Graph, Node, NodeId, Op, Patch, Tensor, ValueId, op::Binary},
};
use std::{collections::HashMap, sync::Arc};

/// A mask.
pub(super) struct Ids {
    /// The numbers, in the shape of the mask.
    pub ids: ValueId,
    /// What the mask is for each of 0 to 255.
    pub table: Arc<[f32]>,
}

/// Numbers that a table is for.
const COUNT: usize = 256;

/// The place of a number of a mask in its table.
///
/// # Errors
/// When there is none.
pub(crate) fn mask_id(id: i64) -> Result<u8> {
    u8::try_from(id).map_err(|_| {
        Error::value(format!("a mask of {id}; integers take 0 to 255"))
            .cure("give 1 for what counts and 0 for what does not")
    })
}

/// How a mask comes of numbers.
struct Chain {
    source: ValueId,
    /// What it is for each number.
    table: Tensor,
    /// What arranges it, from the numbers on.
    moves: Vec<NodeId>,
}

/// Follows `v` back to whole numbers.
fn chain(graph: &Graph, producers: &[Option<NodeId>], v: ValueId) -> Option<Chain> {
    let value = graph.value(v);
    let traced = producers[v.0 as usize].and_then(|id| through(graph, producers, id));
    let source = || {
        let plain = value.quant.is_none() && value.dynamic.is_none() && value.constant.is_none();
        // Numbers that the network computes (distances of tokens) may be larger than any table.
        let plain = plain && (value.dtype == Some(DType::Bool) || producers[v.0 as usize].is_none());
        let ids = Tensor::of::<i64>(&[COUNT], (0..COUNT as i64).collect());
        let to = value.dtype.filter(|d| plain && matches!(d, DType::I64 | DType::I32 | DType::Bool))?;
        let table = eval(&Op::Cast { to, saturate: true }, &[Some(&ids)], 1, &Ctx::new()).ok()?.pop()?;
        Some(Chain { source: v, table, moves: Vec::new() })
    };
    traced.or_else(source)
}

fn through(graph: &Graph, producers: &[Option<NodeId>], id: NodeId) -> Option<Chain> {
    let node = graph.node(id);
    let moves = matches!(
        node.op,
        Op::Unsqueeze
            | Op::Squeeze
            | Op::Reshape { .. }
            | Op::Flatten { .. }
            | Op::Expand
            | Op::Transpose { .. }
            | Op::Slice
    );
    if moves || matches!(node.op, Op::Identity) {
        let mut chain = chain(graph, producers, node.input(0)?)?;
        chain.moves.extend(moves.then_some(id));
        return Some(chain);
    }
    let each = matches!(node.op, Op::Cast { .. } | Op::Unary(_) | Op::Binary(_) | Op::Where | Op::Clip);
    let plain = |v: ValueId| graph.value(v).quant.is_none();
    let number = |v: ValueId| graph.constant(v).filter(|t| t.len() == 1 && plain(v));
    let mut open = node.inputs.iter().flatten().copied().filter(|&v| number(v).is_none());
    let (Some(v), None, true) = (open.next(), open.next(), each) else { return None };
    let mut chain = chain(graph, producers, v)?;
    let constants: Vec<Option<Tensor>> = node
        .inputs
        .iter()
        .map(|input| input.and_then(number).map(|t| (**t).clone().reshaped(vec![]).ok()).unwrap_or_default())
        .collect();
    let inputs: Vec<Option<&Tensor>> = node
        .inputs
        .iter()
        .zip(&constants)
        .map(|(input, number)| input.map(|_| number.as_ref().unwrap_or(&chain.table)))
        .collect();
    let table = eval(&node.op, &inputs, 1, &Ctx::new()).ok()?.pop()?;
    chain.table = table;
    (chain.table.shape() == [COUNT]).then_some(chain)
}

/// Whether a node is a sum of codes and of a real number that only a softmax reads, and the latter.
fn mask_of(graph: &Graph, consumers: &[Vec<(NodeId, usize)>], node: &Node) -> Option<ValueId> {
    let y = node.output(0).filter(|_| matches!(node.op, Op::Binary(Binary::Add)))?;
    let [(reader, _)] = consumers[y.0 as usize][..] else { return None };
    let codes = |v: ValueId| graph.value(v).quant.is_some() && graph.constant(v).is_none();
    let (a, b) = (node.input(0)?, node.input(1)?);
    let mask = if codes(a) { b } else { a };
    let real = graph.value(mask).quant.is_none() && graph.value(mask).dtype == Some(DType::F32);
    let softmax =
        matches!(graph.node(reader).op, Op::Softmax { .. }) && graph.node(reader).output(0).is_some_and(codes);
    (softmax && real && (codes(a) || codes(b)) && graph.constant(mask).is_none()).then_some(mask)
}

/// The masks of a graph that come of whole numbers. Those that are arranged on the way are arranged as numbers in nodes of their own.
///
/// # Errors
/// A defect.
pub(super) fn find(graph: &mut Graph) -> Result<HashMap<ValueId, Ids>> {
    let (producers, consumers) = (graph.producers(), graph.consumers());
    let mut masks: Vec<ValueId> = graph.nodes().filter_map(|(_, node)| mask_of(graph, &consumers, node)).collect();
    masks.sort_unstable();
    masks.dedup();
    let mut found = HashMap::new();
    // Behind the nodes that arrange the mask: nothing but the order says that they come before a softmax.
    let mut behind: HashMap<NodeId, Vec<Node>> = HashMap::new();
    for mask in masks {
        let Some(Chain { source, table, moves }) = chain(graph, &producers, mask) else { continue };
        let Ok(numbers) = table.as_slice::<f32>() else { continue };
        let table: Arc<[f32]> = numbers.into();
        let mut ids = source;
        for id in moves {
            let node = graph.node(id).clone();
            let Some(y) = node.output(0) else { continue };
            let (name, shape) =
                (graph.fresh_name(&format!("{}_ids", graph.value(y).name)), graph.value(y).shape.clone());
            let moved = graph.add_value(&name, graph.value(source).dtype, shape)?;
            let mut inputs = node.inputs;
            inputs[0] = Some(ids);
            behind.entry(id).or_default().push(Node { name, op: node.op, inputs, outputs: vec![Some(moved)] });
            ids = moved;
        }
        found.insert(mask, Ids { ids, table });
    }
    if !behind.is_empty() {
        let mut patch = Patch::new();
        for (id, node) in graph.nodes() {
            patch.remove(id).add(node.clone());
            behind.remove(&id).into_iter().flatten().for_each(|node| {
                patch.add(node);
            });
        }
        graph.apply(patch)?;
    }
    Ok(found)
}

/// Leaves out what computed masks that nobody reads any more.
pub(super) fn sweep(p: &mut Program) {
    let mut read = vec![false; p.values.len()];
    p.outputs.iter().for_each(|&slot| read[slot] = true);
    let mut kept = vec![true; p.steps.len()];
    for (kept, step) in kept.iter_mut().zip(&p.steps).rev() {
        let pure = matches!(step.kind, StepKind::Float(_) | StepKind::Dequantize | StepKind::Ids);
        *kept = !pure || step.outputs.iter().flatten().any(|&slot| read[slot]);
        if *kept {
            step.inputs.iter().flatten().for_each(|&slot| read[slot] = true);
        }
    }
    let mut kept = kept.into_iter();
    p.steps.retain(|_| kept.next().unwrap_or(true));
}

impl Builder {
    /// The numbers of a mask as codes, and its table, where it comes of whole numbers.
    pub(super) fn mask_codes(&mut self, mask: ValueId) -> Result<Option<(Slot, Arc<[f32]>)>> {
        let Some(Ids { ids, table }) = self.masks.get(&mask) else { return Ok(None) };
        let (ids, table) = (*ids, table.clone());
        if let Some(&slot) = self.mask_slots.get(&ids) {
            return Ok(Some((slot, table)));
        }
        let input = self.real(ids)?;
        let slot = self.push(ids, super::Repr::Code(GRID));
        self.step(&[], StepKind::Ids, vec![input], vec![Some(slot)]);
        self.mask_slots.insert(ids, slot);
        Ok(Some((slot, table)))
    }
}

/// Words that are the numbers themselves.
const GRID: super::Grid =
    super::Grid { qtype: crate::ir::QType { bits: 16, signed: true, narrow: false }, scale: 1.0, zero: 0 };
