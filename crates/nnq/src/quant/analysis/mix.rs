//! Networks of which only some units are quantized.
//!
//! Both functions start from the float network and take grids and codes over from the quantized one, as they are there: nothing is calibrated
//! or rounded anew, so that differences on a metric are the units' own.
use super::unit::Unit;
use crate::{
    error::{Error, Result},
    ir::{Graph, NodeId, ValueId},
    quant::place::{self, Mode},
};
use std::collections::HashSet;

/// Only these units are quantized: what they read, their weights and what they make. Everything else is real.
///
/// # Errors
/// When the two graphs do not have the same values.
pub fn only(float: &Graph, quantized: &Graph, units: &[&Unit]) -> Result<Graph> {
    let mut out = float.clone();
    for unit in units {
        for name in unit.inputs.iter().chain([&unit.output]).filter(|o| o.grid.is_some()).map(|o| &o.name) {
            annotate(&mut out, quantized, name)?;
        }
        if let Some(&node) = unit.nodes.first().filter(|_| unit.product) {
            constants(&mut out, quantized, node)?;
        }
    }
    out.compact();
    Ok(out)
}

/// Everything is quantized as in `quantized` but the nodes called so, which run in floating point: what `keep_float = true` for them gives,
/// with the grids that there are. Values that nobody wants as codes any more are real.
///
/// # Errors
/// When the two graphs do not have the same values.
pub fn without(float: &Graph, quantized: &Graph, left_out: &HashSet<&str>) -> Result<Graph> {
    let grid = |v: ValueId| quantized.find(&float.value(v).name).is_some_and(|q| quantized.value(q).quant.is_some());
    let modes: Vec<Mode> = float
        .nodes()
        .map(|(_, n)| {
            // What is real in the quantized network stays so.
            let real = n.outputs.iter().chain(n.inputs.get(..1).unwrap_or_default()).flatten().all(|&v| !grid(v));
            if left_out.contains(n.name.as_str()) || real { Mode::Float } else { Mode::Static }
        })
        .collect();
    let outputs = float.outputs.iter().any(|&v| grid(v));
    let placement = place::place(float, &modes, outputs);
    let mut out = float.clone();
    let wanted = placement.groups.iter().flat_map(|g| &g.values);
    for v in wanted.filter(|&&v| grid(v)) {
        annotate(&mut out, quantized, &float.value(*v).name)?;
    }
    for &id in &placement.products {
        let x = float.node(id).input(0);
        if x.is_some_and(|x| out.value(x).quant.is_some()) {
            constants(&mut out, quantized, id)?;
        }
    }
    out.compact();
    Ok(out)
}

fn missing(what: &str, name: &str) -> Error {
    Error::usage(format!("{what} '{name}' of the float model is not in the quantized model"))
        .cure("give the float model that it was made from")
}

/// The grid of a value, as it is in the quantized graph.
fn annotate(out: &mut Graph, quantized: &Graph, name: &str) -> Result<()> {
    let to = out.find(name).ok_or_else(|| missing("value", name))?;
    let from = quantized.find(name).ok_or_else(|| missing("value", name))?;
    out.value_mut(to).quant.clone_from(&quantized.value(from).quant);
    Ok(())
}

/// The weights and the bias of a product, as they are in the quantized graph.
fn constants(out: &mut Graph, quantized: &Graph, id: NodeId) -> Result<()> {
    let name = out.node(id).name.clone();
    let twin = quantized.nodes().find(|(_, n)| n.name == name).map(|(_, n)| n).ok_or_else(|| missing("node", &name))?;
    let mut inputs = out.node(id).inputs.clone();
    for (i, &v) in twin.inputs.iter().enumerate().skip(1) {
        let Some(value) = v.map(|v| quantized.value(v)) else { continue };
        let Some(tensor) = value.constant.clone().filter(|_| value.quant.is_some()) else { continue };
        let new = out.add_constant(&value.name, tensor);
        let to = out.value_mut(new);
        (to.dtype, to.quant) = (value.dtype, value.quant.clone());
        inputs.resize(inputs.len().max(i + 1), None);
        inputs[i] = Some(new);
    }
    out.node_mut(id).inputs = inputs;
    Ok(())
}
