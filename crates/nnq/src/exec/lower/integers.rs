//! What lies between products of networks with attention, in integers (numerics section 14): profile dyadic only, where every operand has a grid.
use super::{
    Grid, Live, Pair, Profile, Slot, SoftmaxStep, StepKind,
    build::Builder,
    dyadic,
    forms::{bias_of, factors, is_last, norm_parts, repeats, with_vector},
};
use crate::{
    error::{Error, Result},
    ir::{DType, Dynamic, Graph, Node, NodeId, Op, ValueId, op::Binary},
};
use nnq_kernels::round::integers::{Norm, ROW, Softmax, mask_code, signed_dyadic};
use std::sync::Arc;

/// The values on grids of 9 to 16 bits that are held as codes: what a normalisation or a factor for each column reads or makes, and what sums of such values
/// are made of.
pub(super) fn words(graph: &Graph, profile: Profile) -> Vec<bool> {
    let mut words = vec![false; graph.value_count()];
    if profile != Profile::Dyadic {
        return words;
    }
    let producers = graph.producers();
    // Convolutions make bytes.
    let image = |v: ValueId| producers[v.0 as usize].is_some_and(|n| matches!(graph.node(n).op, Op::Conv(_)));
    let wide = |v: ValueId| {
        let value = graph.value(v);
        if image(v) {
            return false;
        }
        let quant = value.quant.as_ref().filter(|_| value.constant.is_none());
        quant.is_some_and(|q| q.as_tensor().is_some() && (9..=16).contains(&q.qtype.bits))
    };
    let on_grid = |v: Option<ValueId>| v.is_some_and(|v| graph.value(v).quant.is_some());
    for (_, node) in graph.nodes() {
        let (x, y) = match &node.op {
            Op::LayerNormalization { .. } if norm_parts(graph, node).is_some() => (node.input(0), node.output(0)),
            Op::Binary(Binary::Mul | Binary::Div) => (with_vector(graph, node).map(|v| v.x), None),
            Op::Unary(_) => (node.input(0), None),
            _ => continue,
        };
        if on_grid(x) && on_grid(node.output(0)) {
            [x, y].into_iter().flatten().filter(|&v| wide(v)).for_each(|v| words[v.0 as usize] = true);
        }
    }
    loop {
        let mut grew = false;
        for (_, node) in graph.nodes().filter(|(_, n)| matches!(n.op, Op::Binary(Binary::Add | Binary::Sub))) {
            let all = [node.input(0), node.input(1), node.output(0)];
            let is_word = |v: &Option<ValueId>| v.is_some_and(|v| words[v.0 as usize]);
            if !all.iter().any(is_word) || !all.iter().all(|&v| on_grid(v)) || !repeats(graph, node) {
                continue;
            }
            for v in all.into_iter().flatten().filter(|&v| wide(v)) {
                grew |= !std::mem::replace(&mut words[v.0 as usize], true);
            }
        }
        if !grew {
            return words;
        }
    }
}

impl Builder {
    /// The grid of a value that is held as codes, those of more than 8 bits among them.
    pub(super) fn held(&self, v: ValueId) -> Option<Grid> {
        self.any_grid(v).filter(|g| g.qtype.bits <= 8 || self.words[v.0 as usize])
    }

    /// What a sum behind a product adds to its channels, where that is constant and nobody else reads the product: a bias, and the sum.
    pub(super) fn bias_behind(&self, node: &Node, y: ValueId) -> Option<(NodeId, Vec<f32>)> {
        if self.p.profile != Profile::Dyadic || node.input(2).is_some() {
            return None;
        }
        let graph = &self.p.graph;
        let reader = self.sole_reader(y)?;
        Some((reader, bias_of(graph, graph.node(reader), y)?))
    }

    /// A product of two values of codes, with a factor behind it.
    pub(super) fn pair(&mut self, id: NodeId, node: &Node) -> Result<bool> {
        let graph = self.p.graph.clone();
        let (Some(a), Some(b), Some(mut y)) = (node.input(0), node.input(1), node.output(0)) else { return Ok(false) };
        let (Some(ga), Some(gb)) = (self.grid(a), self.grid(b)) else { return Ok(false) };
        let shape = |v: ValueId| graph.value(v).shape.as_ref().map(|s| s.0.clone());
        let (Some(sa), Some(sb)) = (shape(a), shape(b)) else { return Ok(false) };
        let rank = sa.len();
        if self.p.profile != Profile::Dyadic || rank < 2 || sb.len() != rank || sa[..rank - 2] != sb[..rank - 2] {
            return Ok(false);
        }
        let (mut nodes, mut factor) = (vec![], 1.0);
        if let Some(reader) = self.sole_reader(y)
            && let Some((x, &[by])) = factors(&graph, graph.node(reader)).as_ref().map(|(x, by)| (*x, &by[..]))
            && by > 0.0
            && x == y
            && let Some(scaled) = graph.node(reader).output(0)
        {
            (factor, y) = (by, scaled);
            nodes.push(reader);
        }
        let Some((v, grid, clamp, more)) = self.target(y, false) else { return Ok(false) };
        nodes.extend(more);
        let by = dyadic(f64::from(ga.scale) * f64::from(gb.scale) * factor / f64::from(grid.scale))?;
        let inputs = vec![self.code(a)?, self.code(b)?];
        let nodes = self.join(id, &nodes);
        let slot = self.produce(v, grid);
        self.step(&nodes, StepKind::Pair(Pair { by, clamp }), inputs, vec![Some(slot)]);
        Ok(true)
    }

    /// A product of two values that are quantized as they come.
    pub(super) fn live(&mut self, id: NodeId, node: &Node) -> Result<bool> {
        let graph = self.p.graph.clone();
        let (Op::MatMul, Some(a), Some(b)) = (&node.op, node.input(0), node.input(1)) else { return Ok(false) };
        let [Some(of), Some(other)] = [a, b].map(|v| graph.value(v).dynamic) else { return Ok(false) };
        let matrix = |v: ValueId| graph.value(v).shape.as_ref().is_some_and(|s| s.rank() >= 2);
        if !matrix(a) || !matrix(b) {
            return Ok(false);
        }
        // One grid for all numbers of one operand depends on all samples in any case.
        let by_row = of == Dynamic::Row && other == Dynamic::Row;
        let live = Live { by_row, names: [a, b].map(|v| graph.value(v).name.clone()) };
        let inputs = vec![Some(self.real(a)?), Some(self.real(b)?)];
        self.between(id, node, StepKind::Live(Arc::new(live)), inputs)?;
        Ok(true)
    }

    /// A sum that only a softmax reads, of codes and of real numbers: the mask of the softmax.
    pub(super) fn mask(&mut self, node: &Node) -> bool {
        let graph = &self.p.graph;
        let (Some(mut a), Some(mut b), Some(y)) = (node.input(0), node.input(1), node.output(0)) else { return false };
        if self.grid(a).is_none() {
            (a, b) = (b, a);
        }
        let reader = self.sole_reader(y).map(|id| graph.node(id));
        let reads = reader.is_some_and(|n| matches!(n.op, Op::Softmax { .. }) && self.softmax_grids(n, a).is_some());
        let whole = graph.value(a).shape.is_some() && graph.value(a).shape == graph.value(y).shape;
        let real = graph.value(b).quant.is_none() && graph.value(b).dtype == Some(DType::F32);
        let masks = matches!(node.op, Op::Binary(Binary::Add)) && reads && whole && real;
        if masks {
            self.masked[y.0 as usize] = Some((a, b));
        }
        masks
    }

    /// The grids of a softmax along the last axis that reads `x`.
    fn softmax_grids(&self, node: &Node, x: ValueId) -> Option<(Grid, ValueId, Grid)> {
        let Op::Softmax { axis, .. } = node.op else { return None };
        let y = node.output(0)?;
        let last = is_last(&self.p.graph, node, axis);
        let dyadic = self.p.profile == Profile::Dyadic;
        Some((self.grid(x).filter(|_| last && dyadic)?, y, self.grid(y)?))
    }

    /// Softmax of codes.
    pub(super) fn softmax(&mut self, id: NodeId, node: &Node) -> Result<bool> {
        let Some(read) = node.input(0) else { return Ok(false) };
        let (x, mask) = match self.masked[read.0 as usize] {
            Some((x, mask)) => (x, Some(mask)),
            None => (read, None),
        };
        let Some((from, y, to)) = self.softmax_grids(node, x) else { return Ok(false) };
        let Some(softmax) = Softmax::new(from.scale, to.scale) else {
            if mask.is_some() {
                return Err(too_far(from, to));
            }
            return Ok(false);
        };
        let mut inputs = vec![self.code(x)?];
        let mut table = None;
        if let Some(mask) = mask {
            if let Some((ids, of)) = self.mask_codes(mask)? {
                inputs.push(ids);
                table = Some(of.iter().map(|&m| mask_code(m, from.scale)).collect());
            } else {
                inputs.push(self.real(mask)?);
            }
        }
        let slot = self.produce(y, to);
        let softmax = SoftmaxStep { softmax: Arc::new(softmax), mask: table };
        self.step(&[id], StepKind::Softmax(softmax), inputs, vec![Some(slot)]);
        Ok(true)
    }

    /// Layer normalisation of codes.
    pub(super) fn norm(&mut self, id: NodeId, node: &Node, epsilon: f32) -> Result<bool> {
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
        let (Some(from), Some(to), Profile::Dyadic) = (self.held(x), self.held(y), self.p.profile) else {
            return Ok(false);
        };
        let Some((gamma, beta)) = norm_parts(&self.p.graph, node) else { return Ok(false) };
        let Some(norm) = Norm::new(from.scale, epsilon, &gamma, &beta, to.scale) else { return Err(too_far(from, to)) };
        let input = self.code(x)?;
        let slot = self.produce(y, to);
        self.step(&[id], StepKind::Norm(Arc::new(norm)), vec![input], vec![Some(slot)]);
        Ok(true)
    }

    /// Codes times a constant for each column.
    pub(super) fn scaled(&mut self, id: NodeId, node: &Node) -> Result<bool> {
        let Some((x, factors)) = factors(&self.p.graph, node) else { return Ok(false) };
        let Some(y) = node.output(0) else { return Ok(false) };
        let (Some(from), Some(to), Profile::Dyadic) = (self.held(x), self.held(y), self.p.profile) else {
            return Ok(false);
        };
        let input = self.code(x)?;
        let slot = self.produce(y, to);
        let kind = StepKind::Rescale(rules(from, to, &factors)?);
        self.step(&[id], kind, vec![input], vec![Some(slot)]);
        Ok(true)
    }

    /// Codes on another grid, one of them of more than 8 bits.
    pub(super) fn between_widths(
        &mut self,
        nodes: &[NodeId],
        input: Slot,
        from: Grid,
        y: ValueId,
        to: Grid,
    ) -> Result<()> {
        let slot = self.produce(y, to);
        self.step(nodes, StepKind::Rescale(rules(from, to, &[1.0])?), vec![input], vec![Some(slot)]);
        Ok(())
    }
}

/// The rules of [`StepKind::Rescale`].
fn rules(from: Grid, to: Grid, factors: &[f64]) -> Result<Arc<[nnq_kernels::round::Dyadic]>> {
    let of = |c: &f64| {
        let m = f64::from(from.scale) * c / f64::from(to.scale);
        // The error is that of a positive one.
        signed_dyadic(m).map_or_else(|| dyadic(m.abs()), Ok)
    };
    factors.iter().map(of).collect()
}

fn too_far(from: Grid, to: Grid) -> Error {
    Error::value(format!("it has no form in integers from scale {:e} to scale {:e}", from.scale, to.scale))
        .cure("calibrate again, or keep it float")
}

/// The error of a product whose sums could overflow.
pub(crate) fn too_deep(depth: usize) -> Error {
    Error::value(format!("{depth} products of two codes can exceed 2^31 - 1")).cure("give shorter sequences")
}

/// The error of a softmax over too many.
pub(crate) fn too_long(n: usize) -> Error {
    Error::shape(format!("a softmax of {n} codes; integers take {}", ROW))
        .cure("give shorter sequences, or keep it float")
}
