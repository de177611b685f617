//! Values that several read, not all of them on the same grid.
//!
//! Residual streams: values that additions carry on and products read.
//!
//! Where the operands of additions are to have more bits than what products read, one value needs two grids: the addition reads it as it was
//! made, with more bits, and the products read what an `Identity` rounds to fewer. Errors of the few bits then stay within a block instead of adding up along the
//! network.
use super::{
    place::{self, Mode},
    recipe::{Recipe, SumOperands},
};
use crate::{
    error::Result,
    ir::{Graph, Node, NodeId, Op, Patch, ValueId, op::Binary},
};

/// Whether a node is an addition in the recipe's sense.
pub(super) fn is_sum(node: &Node) -> bool {
    matches!(node.op, Op::Binary(Binary::Add | Binary::Sub))
}

/// The value that `v` is rounded from once more, or `v` itself.
pub(super) fn source(graph: &Graph, producers: &[Option<NodeId>], v: ValueId) -> ValueId {
    let node = producers[v.0 as usize].map(|n| graph.node(n)).filter(|n| matches!(n.op, Op::Identity));
    node.and_then(|n| n.input(0)).unwrap_or(v)
}

/// An `Identity` of `v`, called so, before these readers.
fn rounded(out: &mut Graph, patch: &mut Patch, v: ValueId, what: &str, readers: &[(NodeId, usize)]) -> Result<()> {
    let value = out.value(v);
    let (name, dtype, shape) = (format!("{}_{what}", value.name), value.dtype, value.shape.clone());
    let name = out.fresh_name(&name);
    let new = out.add_value(&name, dtype, shape)?;
    for &(node, place) in readers {
        out.node_mut(node).inputs[place] = Some(new);
    }
    patch.add(Node { name, op: Op::Identity, inputs: vec![Some(v)], outputs: vec![Some(new)] });
    Ok(())
}

/// The graph with what was collected, if anything was.
fn applied(mut out: Graph, patch: Patch) -> Result<Option<Graph>> {
    if patch.is_empty() {
        return Ok(None);
    }
    out.apply(patch)?;
    Ok(Some(out))
}

/// The graph with an `Identity` before the products that read an operand of an addition, where `recipe` wants more bits for these than for those;
/// `modes` as for [`place::place`], `bits` those of values as the recipe has them. `None` where nothing changes.
///
/// The simplified graph has no `Identity` between values that become codes: those that quantization finds are from here.
///
/// # Errors
/// When the edit fails, which is a defect.
pub fn split(graph: &Graph, recipe: &Recipe, modes: &[Mode], bits: impl Fn(ValueId) -> u8) -> Result<Option<Graph>> {
    if recipe.sum_operands != SumOperands::EightBit || !recipe.quantize_add {
        return Ok(None);
    }
    let placement = place::place(graph, modes, false);
    let consumers = graph.consumers();
    let mut out = graph.clone();
    let mut patch = Patch::new();
    // A value that shares its grid with others (moves, concatenations) keeps one.
    for group in placement.groups.iter().filter(|g| g.values.len() == 1) {
        let v = group.values[0];
        let (sums, others): (Vec<_>, Vec<_>) =
            consumers[v.0 as usize].iter().copied().partition(|(node, _)| is_sum(graph.node(*node)));
        if sums.is_empty() || others.is_empty() || bits(v) >= 8 {
            continue;
        }
        rounded(&mut out, &mut patch, v, "narrow", &others)?;
    }
    applied(out, patch)
}

/// The graph with an `Identity` before those who read codes of a value that an operator in floating point makes, where others read it in floating point: these get
/// the real value, which rounding would only spoil (what a normalisation gives to the next layers and to a residual stream). `None` where nothing changes.
///
/// # Errors
/// When the edit fails, which is a defect.
pub fn part(graph: &Graph, modes: &[Mode]) -> Result<Option<Graph>> {
    let placement = place::place(graph, modes, false);
    let (producers, consumers) = (graph.producers(), graph.consumers());
    let product = |id: NodeId| placement.products.contains(&id) || placement.recurrent.contains(&id);
    let reads_codes = |&(id, place): &(NodeId, usize)| {
        if product(id) { place == 0 } else { placement.on_codes[id.0 as usize] }
    };
    let made_real = |v: ValueId| {
        let made = producers[v.0 as usize].filter(|id| !matches!(graph.node(*id).op, Op::Identity));
        made.is_some_and(|id| !product(id) && !placement.on_codes[id.0 as usize])
    };
    let mut out = graph.clone();
    let mut patch = Patch::new();
    for &v in placement.groups.iter().flat_map(|g| &g.values).filter(|&&v| made_real(v)) {
        let (codes, reals): (Vec<_>, Vec<_>) = consumers[v.0 as usize].iter().copied().partition(reads_codes);
        if codes.is_empty() || reals.is_empty() {
            continue;
        }
        rounded(&mut out, &mut patch, v, "codes", &codes)?;
    }
    applied(out, patch)
}

/// The graph with an `Identity` before those who read codes of a value of 16 bits and take 8. `None` where nothing changes.
///
/// # Errors
/// When the edit fails, which is a defect.
pub fn narrowed(graph: &Graph, modes: &[Mode]) -> Result<Option<Graph>> {
    let placement = place::place(graph, modes, false);
    let consumers = graph.consumers();
    let narrow = |&(id, place): &(NodeId, usize)| {
        let reads = if placement.products.contains(&id) { place == 0 } else { placement.on_codes[id.0 as usize] };
        reads && !place::integers::reads_words(graph, modes, id) && !matches!(graph.node(id).op, Op::Identity)
    };
    let mut out = graph.clone();
    let mut patch = Patch::new();
    for v in placement.groups.iter().filter(|g| g.bits.is_some()).map(|g| g.values[0]) {
        let narrow: Vec<_> = consumers[v.0 as usize].iter().copied().filter(narrow).collect();
        if !narrow.is_empty() {
            rounded(&mut out, &mut patch, v, "narrow", &narrow)?;
        }
    }
    applied(out, patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, GraphBuilder, Tensor, op::Unary};

    /// A block with a shortcut, twice.
    fn residual() -> Graph {
        let mut b = GraphBuilder::new("net");
        let x = b.input("x", DType::F32, "N, 4");
        let product = |b: &mut GraphBuilder, name: &str, x| {
            let w = b.constant(&format!("{name}.w"), Tensor::of(&[4, 4], vec![0.5f32; 16]));
            b.op(name, Op::MatMul, &[x, w])
        };
        let mut y = product(&mut b, "first", x);
        for i in 0..2 {
            let z = product(&mut b, &format!("inner{i}"), y);
            let sum = b.op(&format!("sum{i}"), Op::Binary(Binary::Add), &[z, y]);
            y = b.op(&format!("relu{i}"), Op::Unary(Unary::Relu), &[sum]);
        }
        let y = product(&mut b, "last", y);
        b.output(y);
        b.finish().unwrap()
    }

    #[test]
    fn products_read_the_narrow_value_and_sums_the_wide_one() {
        let graph = residual();
        let recipe = Recipe { sum_operands: SumOperands::EightBit, ..Recipe::default() };
        let float = vec![Mode::Static; graph.node_count()];
        let split = split(&graph, &recipe, &float, |_| 4).unwrap().unwrap();
        let reads = |node: &str, i: usize| {
            let (_, node) = split.nodes().find(|(_, n)| n.name == node).unwrap();
            split.value(node.input(i).unwrap()).name.clone()
        };
        assert_eq!((reads("inner0", 0), reads("sum0", 1)), ("first_narrow".into(), "first".into()));
        assert_eq!((reads("inner1", 0), reads("sum1", 1)), ("relu0_narrow".into(), "relu0".into()));
        // No sum reads the last one.
        assert_eq!(reads("last", 0), "relu1");
        // Each has a group of its own.
        let placement = place::place(&split, &vec![Mode::Static; split.node_count()], false);
        assert!(placement.groups.iter().all(|g| g.values.len() == 1 && g.sources == g.values));
    }

    /// A normalisation that two products and a residual sum read, which nobody wants as codes.
    #[test]
    fn what_is_made_in_floating_point_stays_real_for_those_who_read_real_numbers() {
        let mut b = GraphBuilder::new("net");
        let x = b.input("x", DType::F32, "N, 3, 4");
        let c = b.constant("c", Tensor::of(&[4], vec![1.0f32; 4]));
        let n = b.op("norm", Op::LayerNormalization { axis: -1, epsilon: 1e-5 }, &[x, c]);
        let w = b.constant("w", Tensor::of(&[4, 4], vec![0.5f32; 16]));
        let (p, q) = (b.op("p", Op::MatMul, &[n, w]), b.op("q", Op::MatMul, &[n, w]));
        let sum = b.op("sum", Op::Binary(Binary::Add), &[p, n]);
        let last = b.op("last", Op::Binary(Binary::Add), &[sum, q]);
        b.output(last);
        let graph = b.finish().unwrap();
        let parted = part(&graph, &vec![Mode::Static; graph.node_count()]).unwrap().unwrap();
        let reads = |node: &str, i: usize| {
            let (_, node) = parted.nodes().find(|(_, n)| n.name == node).unwrap();
            parted.value(node.input(i).unwrap()).name.clone()
        };
        assert_eq!([reads("p", 0), reads("q", 0), reads("sum", 1)], ["norm_codes", "norm_codes", "norm"]);
        let placement = place::place(&parted, &vec![Mode::Static; parted.node_count()], false);
        let names: Vec<&str> =
            placement.groups.iter().flat_map(|g| &g.values).map(|&v| parted.value(v).name.as_str()).collect();
        assert_eq!(names, ["norm_codes"]);
        // Once is enough.
        assert!(part(&parted, &vec![Mode::Static; parted.node_count()]).unwrap().is_none());
    }

    #[test]
    fn nothing_changes_where_sums_are_like_everything_else() {
        let graph = residual();
        let float = vec![Mode::Static; graph.node_count()];
        assert!(split(&graph, &Recipe::default(), &float, |_| 4).unwrap().is_none());
        let recipe = Recipe { sum_operands: SumOperands::EightBit, ..Recipe::default() };
        assert!(split(&graph, &recipe, &float, |_| 8).unwrap().is_none());
    }
}
