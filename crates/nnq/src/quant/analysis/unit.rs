//! The units of a quantized network: steps that round.
use crate::{
    error::{Error, Result},
    exec::lower::{Grid, Program, StepKind},
    ir::{Graph, NodeId, Op, ValueId},
};
use std::collections::{HashMap, HashSet};

/// A value that a unit reads or makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// Its name, in the float and in the quantized graph.
    pub name: String,
    /// What it is rounded to; `None`: it stays real.
    pub grid: Option<Grid>,
}

/// A step that rounds: its weights, its result, or what it reads.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The node that gives it its name; for the network's input the value's name.
    pub node: String,
    /// The node's operator, or `Input`.
    pub op: String,
    /// The nodes that it stands for, by their ids in the float graph; none where a value is only rounded.
    pub nodes: Vec<NodeId>,
    /// Whether it multiplies with constant weights.
    pub product: bool,
    /// What it reads, constants apart.
    pub inputs: Vec<Operand>,
    /// What it makes.
    pub output: Operand,
}

/// The units of the program that `float` became, in order. Moves, maxima and steps in floating point round nothing and are none.
///
/// # Errors
/// When a node of the program is not in the float graph.
pub fn units(float: &Graph, program: &Program) -> Result<Vec<Unit>> {
    let by_name: HashMap<&str, NodeId> = float.nodes().map(|(id, n)| (n.name.as_str(), id)).collect();
    let graph = &program.graph;
    let producers = graph.producers();
    let operand = |v: ValueId| {
        let value = graph.value(v);
        let tensor = value.quant.as_ref().and_then(|q| Some((q.qtype, q.as_tensor()?)));
        let grid =
            tensor.filter(|_| value.constant.is_none()).map(|(qtype, (scale, zero))| Grid { qtype, scale, zero });
        Operand { name: value.name.clone(), grid }
    };
    let rounded = |node: NodeId| {
        let weight = graph.node(node).input(1).map(|v| graph.value(v));
        weight.is_some_and(|w| w.constant.is_some() && w.quant.is_some())
    };
    let is_product = |op: &Op| matches!(op, Op::Conv(_) | Op::Gemm { .. } | Op::MatMul | Op::ConvTranspose(_));
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    for step in &program.steps {
        let first = step.nodes.first().copied();
        let product = match (&step.kind, first) {
            (StepKind::Product(_), _) => true,
            (StepKind::Float(op), Some(node)) if is_product(op) && rounded(node) => true,
            (
                StepKind::Quantize
                | StepKind::Add { .. }
                | StepKind::Mul { .. }
                | StepKind::Pointwise(_)
                | StepKind::Regrid(_)
                | StepKind::AveragePool { .. }
                | StepKind::Resize { .. },
                _,
            ) => false,
            _ => continue,
        };
        let Some(&slot) = step.outputs.iter().flatten().next() else { continue };
        let source = program.values[slot].source;
        if !seen.insert(source) {
            continue;
        }
        let inputs = step.inputs.iter().flatten().map(|&s| program.values[s].source);
        let inputs: Vec<ValueId> = inputs.filter(|&v| graph.value(v).constant.is_none()).collect();
        let nodes = step.nodes.iter().map(|&n| {
            let name = &graph.node(n).name;
            by_name.get(name.as_str()).copied().ok_or_else(|| {
                Error::usage(format!("node '{name}' of the quantized model is not in the float model"))
                    .cure("give the float model that it was made from")
            })
        });
        let maker = first.or(producers[source.0 as usize]).map(|n| graph.node(n));
        all.push(Unit {
            node: maker.map_or_else(|| graph.value(source).name.clone(), |n| n.name.clone()),
            op: maker.map_or("Input", |n| n.op.name()).into(),
            nodes: nodes.collect::<Result<_>>()?,
            product,
            inputs: inputs.into_iter().map(operand).collect(),
            output: operand(source),
        });
    }
    Ok(all)
}
