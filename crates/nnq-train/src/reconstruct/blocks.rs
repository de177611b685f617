//! Parts of a network between two values that all the rest is computed from.
use nnq::{
    Error, Result,
    ir::{Graph, NodeId, ValueId},
};
use std::{collections::HashMap, str::FromStr};

/// How much of a network is reconstructed at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// The smallest parts that one value goes into and one comes out of: single layers, and residual blocks as wholes.
    Part,
    /// Parts in a row, up to three products together: also the blocks of networks without shortcuts.
    #[default]
    Block,
    /// Everything.
    Network,
}

impl FromStr for Unit {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "part" => Ok(Self::Part),
            "block" => Ok(Self::Block),
            "network" => Ok(Self::Network),
            _ => Err(Error::usage(format!("'{s}' is no unit of reconstruction")).cure("use part, block or network")),
        }
    }
}

/// Products that [`Unit::Block`] joins.
const JOINED: usize = 3;

/// A part of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Its nodes, in order.
    pub nodes: Vec<NodeId>,
    /// What it is computed from, besides constants.
    pub from: ValueId,
    /// What it computes.
    pub to: ValueId,
    /// Products among its nodes.
    pub products: usize,
}

impl Block {
    fn join(&mut self, next: Self) {
        self.nodes.extend(next.nodes);
        self.to = next.to;
        self.products += next.products;
    }
}

/// Cuts a network of one input and one output into blocks; `product` says which nodes are products. Each block has one at least.
///
/// # Errors
/// When the network has other inputs or outputs, or no product.
pub fn blocks(graph: &Graph, product: &dyn Fn(NodeId) -> bool, unit: Unit) -> Result<Vec<Block>> {
    let (&[input], &[output]) = (&graph.inputs[..], &graph.outputs[..]) else {
        return Err(Error::unsupported(format!(
            "a network of {} inputs and {} outputs, which cannot be cut into parts",
            graph.inputs.len(),
            graph.outputs.len()
        ))
        .cure("give a network of one input and one output"));
    };
    let order: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    let mut last: HashMap<ValueId, usize> = HashMap::new();
    for (i, &id) in order.iter().enumerate() {
        last.extend(graph.node(id).inputs.iter().flatten().map(|&v| (v, i)));
    }
    last.insert(output, order.len());
    let mut parts: Vec<Block> = Vec::new();
    let (mut live, mut from, mut nodes, mut products) = (vec![input], input, Vec::new(), 0);
    for (i, &id) in order.iter().enumerate() {
        nodes.push(id);
        products += usize::from(product(id));
        live.retain(|v| last.get(v).is_some_and(|&l| l > i));
        live.extend(graph.node(id).outputs.iter().flatten().copied().filter(|v| last.get(v).is_some_and(|&l| l > i)));
        if let [to] = live[..] {
            let part = Block { nodes: std::mem::take(&mut nodes), from, to, products: std::mem::take(&mut products) };
            from = to;
            // What multiplies nothing belongs to what comes before it.
            match parts.last_mut() {
                Some(before) if part.products == 0 || before.products == 0 => before.join(part),
                _ => parts.push(part),
            }
        }
    }
    if parts.iter().all(|p| p.products == 0) {
        return Err(Error::usage("no layer of the network is quantized").cure("see the recipe"));
    }
    let joins = |a: &Block, b: &Block| match unit {
        Unit::Part => false,
        Unit::Block => a.products + b.products <= JOINED,
        Unit::Network => true,
    };
    let mut out: Vec<Block> = Vec::new();
    for part in parts {
        match out.last_mut() {
            Some(before) if joins(before, &part) => before.join(part),
            _ => out.push(part),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnq::ir::{
        DType, GraphBuilder, Op, Tensor,
        op::{Binary, Unary},
    };

    /// Product, ReLU; two products with a shortcut around them, ReLU; two products in a row.
    fn network() -> Graph {
        let mut b = GraphBuilder::new("net");
        let mut v = b.input("x", DType::F32, "N, 4");
        let product = |b: &mut GraphBuilder, name: &str, v| {
            let w = b.constant(&format!("{name}.w"), Tensor::of(&[4, 4], vec![0.5f32; 16]));
            b.op(name, Op::MatMul, &[v, w])
        };
        v = product(&mut b, "a", v);
        v = b.op("a.f", Op::Unary(Unary::Relu), &[v]);
        let inner = product(&mut b, "b", v);
        let inner = product(&mut b, "c", inner);
        v = b.op("sum", Op::Binary(Binary::Add), &[inner, v]);
        v = b.op("sum.f", Op::Unary(Unary::Relu), &[v]);
        v = product(&mut b, "d", v);
        v = product(&mut b, "e", v);
        b.output(v);
        b.finish().unwrap()
    }

    #[test]
    fn cuts_lie_where_one_value_carries_all() {
        let g = network();
        let of = |unit| {
            let all = blocks(&g, &|id| matches!(g.node(id).op, Op::MatMul), unit).unwrap();
            // Each begins where the one before ended.
            assert!(all.windows(2).all(|w| w[0].to == w[1].from));
            assert!((all[0].from, all[all.len() - 1].to) == (g.inputs[0], g.outputs[0]));
            let names = |b: &Block| b.nodes.iter().map(|&id| g.node(id).name.clone()).collect::<Vec<_>>().join(" ");
            all.iter().map(names).collect::<Vec<_>>()
        };
        assert_eq!(of(Unit::Part), ["a a.f", "b c sum sum.f", "d", "e"]);
        assert_eq!(of(Unit::Block), ["a a.f b c sum sum.f", "d e"]);
        assert_eq!(of(Unit::Network).len(), 1);
        assert!(blocks(&g, &|_| false, Unit::Part).is_err());
    }
}
