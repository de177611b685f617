//! Placement: which values are held as codes, and which of them share one grid.
//!
//! A value becomes codes when some integer step wants to read it: a product, or an operator on codes whose own result is
//! wanted as codes. What only leads to outputs of the graph stays real, so that logits are never clipped or rounded; the
//! last product answers real numbers straight from its accumulators.
pub(super) mod integers;

pub(super) use integers::is_pair;

use crate::{
    exec::lower::resizes,
    ir::{
        DType, Graph, Node, NodeId, Op, Tensor, ValueId,
        op::{Binary, Unary},
    },
};
use std::sync::Arc;

/// What a placement decided.
pub struct Placement {
    /// The products that compute in integers.
    pub products: Vec<NodeId>,
    /// Groups of values that share one grid; each value that is held as codes is in exactly one.
    pub groups: Vec<Group>,
    /// The recurrent layers whose products compute in integers.
    pub recurrent: Vec<NodeId>,
    /// Tables of embeddings that become codes.
    pub tables: Vec<NodeId>,
    /// Values that products and recurrent layers quantize as they come.
    pub dynamic: Vec<ValueId>,
    /// For each node whether it works on codes.
    pub on_codes: Vec<bool>,
}

/// How a node is to compute, where it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In integers, on grids that calibration finds.
    #[default]
    Static,
    /// A product in integers whose input's grid is found at run time; others in floating point.
    Dynamic,
    /// A product of real numbers with weights in codes; others in floating point.
    Weights,
    /// In floating point.
    Float,
    /// As `Static`, and what lies between products in integers, too.
    Integer,
}

/// Values that share one grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// All of them.
    pub values: Vec<ValueId>,
    /// Those that the others are made of by moving, joining or taking maxima: the range of the group is theirs.
    pub sources: Vec<ValueId>,
    /// How many bits they are to have at least, whatever the recipe says of others.
    pub bits: Option<u8>,
    /// They are to be signed and symmetric: the second operands of products of two values, which kernels multiply as weights.
    pub symmetric: bool,
}

/// What a node can do with codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A product with constant weights.
    Product,
    /// A product with constant weights whose input is quantized as it comes.
    Dynamic,
    /// A product of two values that are quantized as they come.
    Live,
    /// A product of real numbers whose constant weights become codes.
    Weights,
    /// A recurrent layer with constant weights: its inputs and states are quantized as they come, or on grids that calibration finds.
    Recurrent,
    /// A constant table whose rows are looked up.
    Table,
    /// Computes codes from codes, on a grid of its own.
    Compute,
    /// Output and inputs share a grid.
    Share,
    /// Rounds a value that stays real.
    Round,
    /// Computes codes from codes, whoever reads them.
    Integer,
    /// Floating point.
    Float,
}

/// Places quantization. `modes` says what the recipe wants of each node; with `outputs` the graph's outputs become codes too.
///
/// A value that an integer step wants as codes has one grid for all its readers: products that would quantize it as it comes read its codes.
pub fn place(graph: &Graph, modes: &[Mode], outputs: bool) -> Placement {
    let consumers = graph.consumers();
    let of = |(id, node): (NodeId, &Node)| match (modes[id.0 as usize], role(graph, node)) {
        (Mode::Float, _) => Role::Float,
        (Mode::Dynamic, Role::Product) => Role::Dynamic,
        (Mode::Weights, Role::Product) => Role::Weights,
        (Mode::Static, Role::Recurrent) if node.output(0).is_none() => Role::Float,
        (Mode::Static | Mode::Dynamic, Role::Table) => Role::Float,
        (Mode::Integer, Role::Recurrent) if node.output(0).is_none() => Role::Float,
        (Mode::Integer, Role::Float) => integers::role(graph, node),
        (Mode::Dynamic, Role::Float) if is_pair(graph, node) && are_matrices(graph, node) => Role::Live,
        (_, role) => role,
    };
    let mut roles: Vec<Role> = graph.nodes().map(of).collect();
    // Behind an operator in floating point an Identity rounds for those who read codes, while others read real numbers; and a GELU reads these: to round
    // what it reads would cost more than a table saves.
    let producers = graph.producers();
    for (id, node) in graph.nodes() {
        let behind = match node.op {
            Op::Identity => Role::Round,
            Op::Unary(Unary::Gelu { .. }) => Role::Float,
            _ => continue,
        };
        let made = node.input(0).and_then(|v| producers[v.0 as usize]);
        if made.is_some_and(|m| roles[m.0 as usize] == Role::Float) {
            roles[id.0 as usize] = behind;
        }
    }
    let masks = integers::Masks::of(graph, modes, &consumers, &producers);
    let is_float = |v: ValueId| graph.value(v).constant.is_none() && matches!(graph.value(v).dtype, Some(DType::F32));

    // Backwards: whose codes does an integer step want?
    let mut wanted = vec![false; graph.value_count()];
    for &v in graph.outputs.iter().filter(|&&v| outputs && is_float(v)) {
        wanted[v.0 as usize] = true;
    }
    let nodes: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    let mut on_codes = vec![false; nodes.len()];
    for &id in nodes.iter().rev() {
        let node = graph.node(id);
        let wants = match roles[id.0 as usize] {
            Role::Product => true,
            Role::Compute | Role::Share => node.outputs.iter().flatten().any(|v| wanted[v.0 as usize]),
            // Its states have the grid of the output that shows them.
            Role::Recurrent if matches!(modes[id.0 as usize], Mode::Static | Mode::Integer) => {
                node.output(0).into_iter().for_each(|y| wanted[y.0 as usize] = true);
                true
            }
            Role::Integer => {
                node.output(0).into_iter().for_each(|y| wanted[y.0 as usize] = true);
                true
            }
            Role::Dynamic | Role::Live | Role::Weights | Role::Recurrent | Role::Table | Role::Round | Role::Float => {
                false
            }
        };
        let masked = masks.codes_of(id);
        let wants = wants || masked.is_some();
        on_codes[id.0 as usize] = wants;
        if let Some(codes) = masked {
            wanted[codes.0 as usize] = true;
        } else if wants {
            for v in data_inputs(node).filter(|&v| !masks.is_masked(v)) {
                wanted[v.0 as usize] |= is_float(v);
            }
        }
    }
    // A result that goes straight into a clamp is rounded once, behind the clamp.
    for &id in &nodes {
        let node = graph.node(id);
        let fuses = matches!(node.op, Op::Conv(_) | Op::Gemm { .. } | Op::MatMul)
            || matches!(node.op, Op::Binary(Binary::Add | Binary::Sub | Binary::Mul));
        let Some(y) = node.output(0).filter(|_| fuses) else { continue };
        let readers = &consumers[y.0 as usize];
        if readers.len() == 1 && !graph.outputs.contains(&y) {
            let reader = graph.node(readers[0].0);
            let clamp = matches!(reader.op, Op::Unary(Unary::Relu)) || matches!(reader.op, Op::Clip);
            let folds = modes[readers[0].0.0 as usize] == Mode::Integer && integers::folds(graph, node, reader);
            if (clamp || folds) && reader.output(0).is_some_and(|v| wanted[v.0 as usize]) {
                wanted[y.0 as usize] = false;
            }
        }
    }

    let mut set = Sets::new(graph.value_count());
    let mut derived = vec![false; graph.value_count()];
    for &id in &nodes {
        let node = graph.node(id);
        if roles[id.0 as usize] != Role::Share {
            continue;
        }
        let outputs: Vec<ValueId> = node.outputs.iter().flatten().copied().filter(|v| wanted[v.0 as usize]).collect();
        for &y in &outputs {
            for x in data_inputs(node).filter(|x| wanted[x.0 as usize]) {
                set.join(x.0 as usize, y.0 as usize);
                derived[y.0 as usize] = true;
            }
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut of_root = vec![usize::MAX; graph.value_count()];
    for i in (0..graph.value_count()).filter(|&i| wanted[i]) {
        let root = set.root(i);
        if of_root[root] == usize::MAX {
            of_root[root] = groups.len();
            groups.push(Group { values: Vec::new(), sources: Vec::new(), bits: None, symmetric: false });
        }
        let group = &mut groups[of_root[root]];
        let v = ValueId(i as u32);
        group.values.push(v);
        if !derived[i] {
            group.sources.push(v);
        }
    }
    for group in &mut groups {
        let pair = |&(id, at): &(NodeId, usize)| at == 1 && roles[id.0 as usize] == Role::Integer;
        group.symmetric = group.values.iter().any(|v| consumers[v.0 as usize].iter().any(pair));
    }
    for group in groups.iter_mut().filter(|g| g.values.len() == 1) {
        let around = (producers[group.values[0].0 as usize], &consumers[group.values[0].0 as usize][..]);
        group.bits = integers::bits(graph, modes, group.values[0], around, &masks);
    }
    let of = |wanted: &[Role]| -> Vec<NodeId> {
        nodes.iter().copied().filter(|id| wanted.contains(&roles[id.0 as usize])).collect()
    };
    let (products, recurrent) = (of(&[Role::Product, Role::Dynamic, Role::Weights]), of(&[Role::Recurrent]));
    let tables = of(&[Role::Table]);
    let mut dynamic: Vec<ValueId> = products
        .iter()
        .chain(&recurrent)
        .filter(|id| modes[id.0 as usize] == Mode::Dynamic)
        .filter_map(|&id| graph.node(id).input(0))
        .filter(|x| !wanted[x.0 as usize] && graph.constant(*x).is_none())
        .collect();
    for id in of(&[Role::Live]) {
        let operands: Vec<ValueId> = data_inputs(graph.node(id)).collect();
        // Codes that others read have a grid: the other operand would have none.
        if operands.iter().all(|v| !wanted[v.0 as usize]) {
            dynamic.extend(operands);
        }
    }
    dynamic.sort_unstable();
    dynamic.dedup();
    Placement { products, groups, recurrent, tables, dynamic, on_codes }
}

/// Whether both operands are real and of two axes or more.
fn are_matrices(graph: &Graph, node: &Node) -> bool {
    data_inputs(node).all(|v| {
        let value = graph.value(v);
        value.dtype == Some(DType::F32) && value.shape.as_ref().is_some_and(|s| s.rank() >= 2)
    })
}

/// The inputs that carry data, as against shapes, indices, weights and parameters.
fn data_inputs(node: &Node) -> impl Iterator<Item = ValueId> + '_ {
    let n = match node.op {
        // Of a product with constant weights the second is none of these.
        Op::Binary(_) | Op::MatMul => 2,
        Op::Concat { .. } => usize::MAX,
        _ => 1,
    };
    node.inputs.iter().take(n).flatten().copied()
}

fn role(graph: &Graph, node: &Node) -> Role {
    let constant = |i: usize| node.input(i).is_none_or(|v| graph.value(v).constant.is_some());
    let rank = |i: usize| node.input(i).and_then(|v| graph.value(v).shape.as_ref().map(crate::ir::Shape::rank));
    let float_input = node.input(0).is_some_and(|v| graph.value(v).dtype == Some(DType::F32));
    if !float_input {
        return Role::Float;
    }
    match &node.op {
        Op::Conv(_) if constant(1) && constant(2) && matches!(rank(1), Some(3 | 4)) => Role::Product,
        Op::Gemm { alpha, beta, trans_a: false, .. } if constant(1) && constant(2) && *alpha == 1.0 && *beta == 1.0 => {
            // A bias that is not one vector over the columns stays with a float product.
            let vector = node.input(2).and_then(|v| graph.constant(v)).is_none_or(|t| {
                t.shape().iter().rev().skip(1).all(|&d| d == 1) && {
                    let n =
                        rank(1).and_then(|_| node.input(1)).and_then(|w| graph.constant(w)).map(|w| w.shape().to_vec());
                    let trans = matches!(node.op, Op::Gemm { trans_b: true, .. });
                    n.is_some_and(|s| s.len() == 2 && (t.len() == s[usize::from(!trans)]))
                }
            });
            if vector { Role::Product } else { Role::Float }
        }
        Op::Gather { axis: 0 } if constant(0) && rank(0) == Some(2) && !constant(1) => Role::Table,
        Op::Recurrent(_) if constant(3) => {
            let matrix = |i: usize| node.input(i).and_then(|v| graph.constant(v));
            let fits = |t: &Arc<Tensor>| t.shape().len() == 3 && !t.is_empty();
            if (1..3).all(|i| matrix(i).is_some_and(fits)) { Role::Recurrent } else { Role::Float }
        }
        Op::MatMul if node.input(1).is_some_and(|v| graph.value(v).constant.is_some()) && rank(1) == Some(2) => {
            if rank(0).is_some_and(|r| r >= 2) { Role::Product } else { Role::Float }
        }
        Op::Binary(Binary::Add | Binary::Sub | Binary::Mul) => {
            let both = (0..2).all(|i| {
                node.input(i)
                    .is_some_and(|v| graph.value(v).constant.is_none() && graph.value(v).dtype == Some(DType::F32))
            });
            if both { Role::Compute } else { Role::Float }
        }
        Op::Unary(_) | Op::Clip => Role::Compute,
        Op::AveragePool { .. } | Op::GlobalAveragePool if matches!(rank(0), Some(3 | 4)) => Role::Compute,
        Op::MaxPool { .. } if node.output(1).is_none() && matches!(rank(0), Some(3 | 4)) => Role::Share,
        Op::GlobalMaxPool if matches!(rank(0), Some(3 | 4)) => Role::Share,
        Op::Concat { .. } if (0..node.inputs.len()).all(|i| !constant(i)) => Role::Share,
        // Between two grids: simplification leaves none but those that were put there.
        Op::Identity => Role::Compute,
        op if op.is_move() && (1..node.inputs.len()).all(constant) => Role::Share,
        // What is resized in floating point would only lose by being rounded before and after.
        Op::Resize(_) if resizes(graph, node) => Role::Compute,
        _ => Role::Float,
    }
}

/// Disjoint sets.
struct Sets(Vec<usize>);

impl Sets {
    fn new(n: usize) -> Self {
        Self((0..n).collect())
    }
    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }
    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}
