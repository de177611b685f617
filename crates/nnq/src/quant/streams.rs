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
        let value = graph.value(v);
        let narrow = out.fresh_name(&format!("{}_narrow", value.name));
        let narrow = out.add_value(&narrow, value.dtype, value.shape.clone())?;
        for (node, place) in others {
            out.node_mut(node).inputs[place] = Some(narrow);
        }
        let name = out.value(narrow).name.clone();
        patch.add(Node { name, op: Op::Identity, inputs: vec![Some(v)], outputs: vec![Some(narrow)] });
    }
    if patch.is_empty() {
        return Ok(None);
    }
    out.apply(patch)?;
    Ok(Some(out))
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

    #[test]
    fn nothing_changes_where_sums_are_like_everything_else() {
        let graph = residual();
        let float = vec![Mode::Static; graph.node_count()];
        assert!(split(&graph, &Recipe::default(), &float, |_| 4).unwrap().is_none());
        let recipe = Recipe { sum_operands: SumOperands::EightBit, ..Recipe::default() };
        assert!(split(&graph, &recipe, &float, |_| 8).unwrap().is_none());
    }
}
