//! The lowering itself: one visit per node.
use super::{
    AddRule, Clamp, Form, Grid, Lookup, Pointwise, ProductOut, Profile, ProgValue, Program, Repr, Rows, Slot, Step,
    StepKind, coded, dyadic, forms, integers, masks, product, recurrent, resize, wide, within,
};
use crate::{
    error::{At, Error, Result},
    ir::{
        Dynamic, Graph, Node, NodeId, Op, ValueId,
        op::{Binary, RecurrentAttrs, ResizeAttrs, Unary},
        pass,
    },
};
use nnq_kernels::round::AddDyadic;
use std::{collections::HashMap, sync::Arc};

/// Lowers an annotated graph. Shapes may be symbolic.
///
/// # Errors
/// Names the node whose numbers cannot be represented (overflowing bias or accumulator, scales too far apart).
pub fn lower(graph: &Graph, profile: Profile) -> Result<Program> {
    let mut graph = graph.clone();
    carry(&mut graph);
    pass::attend::run(&mut graph)?;
    let masks = if profile == Profile::Dyadic { masks::find(&mut graph)? } else { HashMap::new() };
    let sweeps = !masks.is_empty();
    let graph = Arc::new(graph);
    let mut b = Builder {
        reaches: product::reaches(&graph)?,
        consumers: graph.consumers(),
        fused: vec![false; graph.node_count()],
        code: vec![None; graph.value_count()],
        real: vec![None; graph.value_count()],
        wide_products: Vec::new(),
        words: integers::words(&graph, profile),
        masked: vec![None; graph.value_count()],
        masks,
        mask_slots: HashMap::new(),
        p: Program {
            graph: graph.clone(),
            profile,
            values: Vec::new(),
            steps: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            notes: Vec::new(),
        },
    };
    for &v in &graph.inputs {
        let slot = b.push(v, Repr::Real);
        b.p.inputs.push(slot);
        b.settle(v, slot)?;
    }
    for (id, node) in graph.nodes() {
        if !b.fused[id.0 as usize] {
            b.visit(id, node).at(|| format!("node '{}'", node.name))?;
        }
    }
    for &v in &graph.outputs {
        let slot = b.real(v)?;
        b.p.outputs.push(slot);
    }
    b.note_wide();
    if sweeps {
        masks::sweep(&mut b.p);
    }
    within::functions(&mut b.p);
    Ok(b.p)
}

/// A move of codes answers codes: annotations flow through moves and max-pooling where the output has none. This changes no
/// number, it only keeps values in integers.
fn carry(graph: &mut Graph) {
    for i in 0..graph.node_count() {
        let node = graph.node(NodeId(i as u32));
        let max = matches!(node.op, Op::MaxPool { .. } | Op::GlobalMaxPool) && node.output(1).is_none();
        if !(node.op.is_move() || max) {
            continue;
        }
        let Some(x) = node.input(0) else { continue };
        let outputs: Vec<ValueId> = node.outputs.iter().flatten().copied().collect();
        let value = graph.value(x);
        let Some(q) = value.quant.clone().filter(|q| q.as_tensor().is_some() && value.constant.is_none()) else {
            continue;
        };
        for v in outputs {
            if graph.value(v).quant.is_none() {
                graph.value_mut(v).quant = Some(q.clone());
            }
        }
    }
}

pub(super) struct Builder {
    pub(super) p: Program,
    consumers: Vec<Vec<(NodeId, usize)>>,
    /// See [`product::reaches`].
    reaches: Vec<Option<Vec<i64>>>,
    /// Nodes that are part of an earlier step.
    fused: Vec<bool>,
    code: Vec<Option<Slot>>,
    real: Vec<Option<Slot>>,
    /// Products with numbers of more than 8 bits, and how many these have.
    wide_products: Vec<(String, u8)>,
    /// Values of 9 to 16 bits that are held as codes.
    pub(super) words: Vec<bool>,
    /// Sums that are the operand of a softmax: the codes, and the mask that is added.
    pub(super) masked: Vec<Option<(ValueId, ValueId)>>,
    /// Masks that come of whole numbers.
    pub(super) masks: HashMap<ValueId, masks::Ids>,
    /// The codes of such numbers.
    pub(super) mask_slots: HashMap<ValueId, Slot>,
}

impl Builder {
    pub(super) fn push(&mut self, source: ValueId, repr: Repr) -> Slot {
        self.p.values.push(ProgValue { source, repr });
        self.p.values.len() - 1
    }
    pub(super) fn step(&mut self, nodes: &[NodeId], kind: StepKind, inputs: Vec<Slot>, outputs: Vec<Option<Slot>>) {
        self.p.steps.push(Step {
            nodes: nodes.to_vec(),
            kind,
            inputs: inputs.into_iter().map(Some).collect(),
            outputs,
        });
    }
    /// The per-tensor grid of a value that is held as codes: one of 8 bits or fewer.
    pub(super) fn grid(&self, v: ValueId) -> Option<Grid> {
        self.any_grid(v).filter(|g| g.qtype.bits <= 8)
    }
    /// The per-tensor grid of a value of 9 to 16 bits: it is rounded to it, and held as the real numbers that its codes stand for.
    fn wide(&self, v: ValueId) -> Option<Grid> {
        self.any_grid(v).filter(|g| (9..=16).contains(&g.qtype.bits) && !self.words[v.0 as usize])
    }
    pub(super) fn any_grid(&self, v: ValueId) -> Option<Grid> {
        let value = self.p.graph.value(v);
        let q = value.quant.as_ref().filter(|_| value.constant.is_none())?;
        let (scale, zero) = q.as_tensor()?;
        Some(Grid { qtype: q.qtype, scale, zero })
    }
    /// The slot that holds `v` as codes; only for values with a grid.
    pub(super) fn code(&self, v: ValueId) -> Result<Slot> {
        self.code[v.0 as usize].ok_or_else(|| {
            Error::internal(format!("value '{}' is read as codes before it is produced", self.p.graph.value(v).name))
        })
    }
    /// The slot that holds `v` as real numbers; dequantizes once.
    pub(super) fn real(&mut self, v: ValueId) -> Result<Slot> {
        if let Some(s) = self.real[v.0 as usize] {
            return Ok(s);
        }
        let graph = self.p.graph.clone();
        let slot = if graph.value(v).constant.is_some() {
            self.push(v, Repr::Constant(graph.real_constant(v)?))
        } else {
            let from = self.code(v)?;
            let to = self.push(v, Repr::Real);
            self.step(&[], StepKind::Dequantize, vec![from], vec![Some(to)]);
            to
        };
        self.real[v.0 as usize] = Some(slot);
        Ok(slot)
    }
    /// `slot` holds the real result for `v`: quantizes it when `v` is annotated.
    fn settle(&mut self, v: ValueId, slot: Slot) -> Result<()> {
        if let Some(grid) = self.wide(v) {
            self.real[v.0 as usize] = Some(wide::round(&mut self.p, v, grid, slot)?);
            return Ok(());
        }
        let value = self.p.graph.value(v);
        match (self.held(v), &value.quant) {
            (Some(grid), _) => {
                let code = self.push(v, Repr::Code(grid));
                self.step(&[], StepKind::Quantize, vec![slot], vec![Some(code)]);
                self.code[v.0 as usize] = Some(code);
            }
            (None, None) => self.real[v.0 as usize] = Some(slot),
            (None, Some(q)) => {
                return Err(Error::unsupported(format!(
                    "value '{}' is quantized with {} scales; values that flow are per tensor and of at most 16 bits",
                    value.name,
                    q.scale.len()
                )));
            }
        }
        Ok(())
    }
    /// A new slot of codes for `v`.
    pub(super) fn produce(&mut self, v: ValueId, grid: Grid) -> Slot {
        let slot = self.push(v, Repr::Code(grid));
        self.code[v.0 as usize] = Some(slot);
        slot
    }

    /// The only reader of `v`, when `v` is no graph output and not annotated.
    pub(super) fn sole_reader(&self, v: ValueId) -> Option<NodeId> {
        let readers = &self.consumers[v.0 as usize];
        (readers.len() == 1 && !self.p.graph.outputs.contains(&v) && self.p.graph.value(v).quant.is_none())
            .then(|| readers[0].0)
    }
    /// Bounds of a Clip with constant bounds.
    fn clip_bounds(&self, node: &Node) -> Option<(f32, f32)> {
        let bound = |i: usize, default: f32| match node.input(i) {
            None => Some(default),
            Some(v) => self.p.graph.real_constant(v).ok().filter(|t| t.len() == 1).map(|t| t.to_f32s()[0]),
        };
        Some((bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?))
    }
    /// Where the result of a product, sum or product of values goes: `(annotated value, clamp, further nodes of the step)`.
    /// With `words` to codes of more than 8 bits, too.
    pub(super) fn target(&self, y: ValueId, words: bool) -> Option<(ValueId, Grid, Clamp, Vec<NodeId>)> {
        let grid_of = |v: ValueId| if words { self.held(v) } else { self.grid(v) };
        if let Some(grid) = grid_of(y) {
            return Some((y, grid, grid.full(), vec![]));
        }
        let reader = self.sole_reader(y)?;
        let node = self.p.graph.node(reader);
        let out = node.output(0)?;
        let grid = grid_of(out)?;
        let full = grid.full();
        let clamp = match &node.op {
            Op::Unary(Unary::Relu) => Clamp { lo: full.lo.max(grid.quantize(0.0)), hi: full.hi },
            Op::Clip if node.input(0) == Some(y) => {
                let (a, b) = self.clip_bounds(node)?;
                if a.is_nan() || b.is_nan() || a > b {
                    return None;
                }
                Clamp { lo: full.lo.max(grid.quantize(a)), hi: full.hi.min(grid.quantize(b)) }
            }
            Op::Identity => full,
            _ => return None,
        };
        Some((out, grid, clamp, vec![reader]))
    }
    /// Marks the further nodes of a step as done and answers all its nodes.
    pub(super) fn join(&mut self, id: NodeId, more: &[NodeId]) -> Vec<NodeId> {
        for n in more {
            self.fused[n.0 as usize] = true;
        }
        std::iter::once(id).chain(more.iter().copied()).collect()
    }

    fn visit(&mut self, id: NodeId, node: &Node) -> Result<()> {
        let done = match &node.op {
            Op::Conv(_) | Op::Gemm { .. } | Op::MatMul => {
                self.product(id, node)? || self.pair(id, node)? || self.live(id, node)?
            }
            Op::Softmax { .. } => self.softmax(id, node)?,
            Op::LayerNormalization { epsilon, .. } => self.norm(id, node, *epsilon)?,
            Op::Binary(Binary::Mul | Binary::Div) if forms::with_vector(&self.p.graph, node).is_some() => {
                self.scaled(id, node)?
            }
            Op::Binary(Binary::Add) if self.mask(node) => true,
            Op::Binary(b @ (Binary::Add | Binary::Sub | Binary::Mul)) => self.binary(id, node, *b)?,
            Op::Unary(u) => self.pointwise(id, node, Pointwise::Unary(*u))?,
            Op::Clip => match self.clip_bounds(node) {
                Some((a, b)) if a <= b => self.pointwise(id, node, Pointwise::Clip(a, b))?,
                _ => false,
            },
            Op::MaxPool { window, .. } if node.output(1).is_none() => {
                self.pool(id, node, StepKind::MaxPool { window: Some(window.clone()) })?
            }
            Op::GlobalMaxPool => self.pool(id, node, StepKind::MaxPool { window: None })?,
            Op::AveragePool { window, count_include_pad } => {
                let window = Some(window.clone());
                self.pool(id, node, StepKind::AveragePool { window, count_include_pad: *count_include_pad })?
            }
            Op::GlobalAveragePool => {
                self.pool(id, node, StepKind::AveragePool { window: None, count_include_pad: false })?
            }
            Op::Concat { axis } => self.concat(id, node, *axis)?,
            Op::Gather { axis: 0 } => self.lookup(id, node)? || node.op.is_move() && self.movement(id, node)?,
            Op::Recurrent(a) => self.recurrent(id, node, a)?,
            Op::Resize(a) if !node.op.is_move() => self.resize(id, node, a)?,
            op if op.is_move() => self.movement(id, node)?,
            _ => false,
        };
        if done { Ok(()) } else { self.float(id, node) }
    }

    fn product(&mut self, id: NodeId, node: &Node) -> Result<bool> {
        let (Some(x), Some(mut y)) = (node.input(0), node.output(0)) else { return Ok(false) };
        if node.input(1).is_some_and(|w| self.p.graph.value(w).constant.is_none()) {
            return Ok(false);
        }
        if let Some(bits) = self.wide_product(node) {
            self.wide_products.push((node.name.clone(), bits));
            return Ok(false);
        }
        let Some(from) = self.grid(x) else { return self.dynamic(id, node, x, y) };
        let mut behind = self.bias_behind(node, y);
        let sum = behind.as_ref().and_then(|(sum, _)| self.p.graph.node(*sum).output(0)).unwrap_or(y);
        let target = self.target(sum, true);
        let to = target.as_ref().map(|(_, grid, clamp, _)| (*grid, *clamp));
        let build = |bias: Option<&[f32]>| {
            let reach = self.reaches[id.0 as usize].as_deref();
            product::build(&self.p.graph, node, (reach, bias), from, to, self.p.profile)
        };
        let mut built = build(behind.as_ref().map(|(_, bias)| &bias[..]));
        if built.is_err() && behind.is_some() && target.is_none() {
            // A real sum may stay one where the bias has no code.
            (behind, built) = (None, build(None));
        }
        if behind.is_some() {
            y = sum;
        }
        let Some(product) = built? else {
            let note = format!(
                "'{}' runs in floating point: its weights are not quantized in a form integers can use",
                node.name
            );
            self.p.notes.push(note);
            return Ok(false);
        };
        let kind = StepKind::Product(Box::new(product));
        let input = self.code(x)?;
        if let Some((v, grid, _, more)) = target {
            let more: Vec<NodeId> = behind.iter().map(|(sum, _)| *sum).chain(more).collect();
            let nodes = self.join(id, &more);
            let slot = self.produce(v, grid);
            self.step(&nodes, kind, vec![input], vec![Some(slot)]);
        } else {
            let sum: Vec<NodeId> = behind.iter().map(|(sum, _)| *sum).collect();
            let nodes = self.join(id, &sum);
            let slot = self.push(y, Repr::Real);
            self.step(&nodes, kind, vec![input], vec![Some(slot)]);
            self.settle(y, slot)?;
        }
        Ok(true)
    }

    /// The bits of a product's input or weights where they are more than 8.
    fn wide_product(&self, node: &Node) -> Option<u8> {
        let bits = |i: usize| Some(self.p.graph.value(node.input(i)?).quant.as_ref()?.qtype.bits);
        (0..2).filter_map(bits).find(|&bits| bits > 8)
    }

    /// One note for all products with numbers of more than 8 bits.
    fn note_wide(&mut self) {
        let note = match &self.wide_products[..] {
            [] => return,
            [(name, bits)] => {
                format!("'{name}' runs in floating point: it has numbers of {bits} bits, and integers take 8 at most")
            }
            [(first, bits), .., (last, _)] => format!(
                "{} layers, '{first}' to '{last}', run in floating point: they have numbers of {bits} bits, and integers take 8 at most",
                self.wide_products.len()
            ),
        };
        self.p.notes.push(note);
    }

    /// A product of a value that is quantized as it comes.
    fn dynamic(&mut self, id: NodeId, node: &Node, x: ValueId, y: ValueId) -> Result<bool> {
        let Some(of) = self.p.graph.value(x).dynamic else { return self.coded(id, node, x) };
        let reach = self.reaches[id.0 as usize].as_deref();
        let Some(product) = product::dynamic(&self.p.graph, node, reach)? else {
            let note = format!(
                "'{}' runs in floating point: its weights or bias are not in a form integers can use",
                node.name
            );
            self.p.notes.push(note);
            return Ok(false);
        };
        let input = self.real(x)?;
        if of == Dynamic::Row && matches!(product.form, Form::Matrix { .. }) {
            let name = self.p.graph.value(x).name.clone();
            return self.rows(id, node, y, Rows { product, name, function: None }, input);
        }
        let slot = self.push(y, Repr::Real);
        self.step(&[id], StepKind::Product(Box::new(product)), vec![input], vec![Some(slot)]);
        self.settle(y, slot)?;
        Ok(true)
    }

    /// A product by row, with the bias that a node behind it adds: the same sum.
    fn rows(&mut self, id: NodeId, node: &Node, y: ValueId, mut rows: Rows, input: Slot) -> Result<bool> {
        let graph = self.p.graph.clone();
        let sum = self.sole_reader(y).and_then(|reader| Some((reader, forms::bias_of(&graph, graph.node(reader), y)?)));
        let ProductOut::Dynamic { bias, .. } = &mut rows.product.out else {
            return Err(Error::internal("a product by row that is no dynamic one"));
        };
        let (Some((reader, add)), true) = (sum, bias.iter().all(|&b| b == 0.0 && b.is_sign_negative())) else {
            self.between(id, node, StepKind::Rows(Arc::new(rows)), vec![Some(input)])?;
            return Ok(true);
        };
        *bias = add.into();
        let nodes = self.join(id, &[reader]);
        self.behind(&nodes, graph.node(reader), StepKind::Rows(Arc::new(rows)), vec![Some(input)])?;
        Ok(true)
    }

    /// A product of real numbers with weights in codes.
    fn coded(&mut self, id: NodeId, node: &Node, x: ValueId) -> Result<bool> {
        let Some(product) = coded::build(&self.p.graph, node)? else { return Ok(false) };
        let input = self.real(x)?;
        self.between(id, node, StepKind::Coded(Arc::new(product)), vec![Some(input)])?;
        Ok(true)
    }

    /// Rows of a table of codes.
    fn lookup(&mut self, id: NodeId, node: &Node) -> Result<bool> {
        let (Some(table), Some(ids)) = (node.input(0), node.input(1)) else { return Ok(false) };
        let Some((codes, params)) = product::codes(&self.p.graph, table) else { return Ok(false) };
        let bytes = matches!(codes.data(), crate::ir::Data::I8(_) | crate::ir::Data::U8(_));
        if !bytes || codes.shape().len() != 2 || self.p.graph.value(ids).dtype.is_none_or(|d| !d.is_int()) {
            return Ok(false);
        }
        let ids = self.real(ids)?;
        let words = node.output(0).filter(|y| self.words[y.0 as usize]);
        if let Some((y, grid)) = words.and_then(|y| Some((y, self.held(y)?))) {
            let slot = self.produce(y, grid);
            let lookup = Lookup { codes, params, to: Some(grid) };
            self.step(&[id], StepKind::Lookup(Arc::new(lookup)), vec![ids], vec![Some(slot)]);
            return Ok(true);
        }
        self.between(id, node, StepKind::Lookup(Arc::new(Lookup { codes, params, to: None })), vec![Some(ids)])?;
        Ok(true)
    }

    /// A recurrent layer whose input is quantized as it comes, or together with its states on grids that are known.
    fn recurrent(&mut self, id: NodeId, node: &Node, a: &RecurrentAttrs) -> Result<bool> {
        let graph = self.p.graph.clone();
        let Some(x) = node.input(0) else { return Ok(false) };
        // States have the grid of the output that shows them all.
        let fixed = match (self.grid(x), node.output(0).and_then(|y| self.grid(y))) {
            (Some(x), Some(h)) => Some([x, h]),
            _ if graph.value(x).dynamic.is_some() => None,
            _ => return Ok(false),
        };
        let Some(layer) = recurrent::build(&graph, node, a, fixed)? else {
            let note = format!(
                "'{}' runs in floating point: its weights or bias are not in a form integers can use",
                node.name
            );
            self.p.notes.push(note);
            return Ok(false);
        };
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (i, v) in node.inputs.iter().enumerate() {
            inputs.push(match (i, v) {
                (_, None) | (3, _) => None,
                // The weights' shapes.
                (1 | 2, &Some(v)) => graph.value(v).constant.clone().map(|t| self.push(v, Repr::Constant(t))),
                (_, &Some(v)) => Some(self.real(v)?),
            });
        }
        self.between(id, node, StepKind::Recurrent(Arc::new(layer)), inputs)?;
        Ok(true)
    }

    fn binary(&mut self, id: NodeId, node: &Node, op: Binary) -> Result<bool> {
        let (Some(a), Some(b), Some(y)) = (node.input(0), node.input(1), node.output(0)) else { return Ok(false) };
        let sum = op != Binary::Mul;
        let grid_of = |v: ValueId| if sum { self.held(v) } else { self.grid(v) };
        let (Some(ga), Some(gb)) = (grid_of(a), grid_of(b)) else { return Ok(false) };
        let Some((v, grid, clamp, more)) = self.target(y, sum) else { return Ok(false) };
        let (sa, sb, sy) = (f64::from(ga.scale), f64::from(gb.scale), f64::from(grid.scale));
        let kind = if op == Binary::Mul {
            let rule = match self.p.profile {
                Profile::Onnx => None,
                Profile::Dyadic => Some(dyadic(sa * sb / sy)?),
            };
            StepKind::Mul { rule, clamp }
        } else {
            let rule = match self.p.profile {
                Profile::Onnx => AddRule::Onnx,
                Profile::Dyadic => AddRule::Dyadic(AddDyadic::from_real(sa / sy, sb / sy).ok_or_else(|| {
                    Error::value(format!("scales {sa:e} and {sb:e} are too large for a sum of scale {sy:e}"))
                        .cure("calibrate again or keep the layer float")
                })?),
            };
            StepKind::Add { negate: op == Binary::Sub, rule, clamp }
        };
        let inputs = vec![self.code(a)?, self.code(b)?];
        let nodes = self.join(id, &more);
        let slot = self.produce(v, grid);
        self.step(&nodes, kind, inputs, vec![Some(slot)]);
        Ok(true)
    }

    fn pointwise(&mut self, id: NodeId, node: &Node, f: Pointwise) -> Result<bool> {
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
        let (Some(_), Some(to)) = (self.held(x), self.held(y)) else { return Ok(false) };
        let input = self.code(x)?;
        let slot = self.produce(y, to);
        self.step(&[id], StepKind::Pointwise(f), vec![input], vec![Some(slot)]);
        Ok(true)
    }

    fn pool(&mut self, id: NodeId, node: &Node, kind: StepKind) -> Result<bool> {
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
        let (Some(from), Some(to)) = (self.grid(x), self.grid(y)) else { return Ok(false) };
        // Pools over images and rows; volumes run in floating point.
        if !self.p.graph.value(x).shape.as_ref().is_some_and(|s| (3..=4).contains(&s.rank())) {
            return Ok(false);
        }
        let max = matches!(kind, StepKind::MaxPool { .. });
        let input = self.code(x)?;
        if max && from != to {
            // The maximum on the input's grid first, then the move between grids.
            let middle = self.push(y, Repr::Code(from));
            self.step(&[id], kind, vec![input], vec![Some(middle)]);
            self.regrid(&[], middle, from, y, to)?;
        } else {
            let slot = self.produce(y, to);
            self.step(&[id], kind, vec![input], vec![Some(slot)]);
        }
        Ok(true)
    }

    fn resize(&mut self, id: NodeId, node: &Node, a: &ResizeAttrs) -> Result<bool> {
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
        let (Some(_), Some(to)) = (self.grid(x), self.grid(y)) else { return Ok(false) };
        let Some((rows, columns)) = resize::lines(&self.p.graph, node, a) else { return Ok(false) };
        let input = self.code(x)?;
        let slot = self.produce(y, to);
        self.step(&[id], StepKind::Resize { rows, columns }, vec![input], vec![Some(slot)]);
        Ok(true)
    }

    /// Moves codes from one grid to another (numerics section 6).
    fn regrid(&mut self, nodes: &[NodeId], input: Slot, from: Grid, y: ValueId, to: Grid) -> Result<()> {
        if from.qtype.bits > 8 || to.qtype.bits > 8 {
            return self.between_widths(nodes, input, from, y, to);
        }
        let kind = match self.p.profile {
            Profile::Onnx => StepKind::Pointwise(Pointwise::Same),
            Profile::Dyadic => StepKind::Regrid(dyadic(f64::from(from.scale) / f64::from(to.scale))?),
        };
        let slot = self.produce(y, to);
        self.step(nodes, kind, vec![input], vec![Some(slot)]);
        Ok(())
    }

    fn concat(&mut self, id: NodeId, node: &Node, axis: i64) -> Result<bool> {
        let Some(y) = node.output(0) else { return Ok(false) };
        let Some(to) = self.grid(y) else { return Ok(false) };
        let grids: Option<Vec<(ValueId, Grid)>> =
            node.inputs.iter().map(|v| v.and_then(|v| Some((v, self.grid(v)?)))).collect();
        let Some(grids) = grids else { return Ok(false) };
        let mut inputs = Vec::with_capacity(grids.len());
        for (v, from) in grids {
            let mut slot = self.code(v)?;
            if from != to {
                let kept = self.code[v.0 as usize];
                self.regrid(&[], slot, from, v, to)?;
                slot = self.code(v)?;
                self.code[v.0 as usize] = kept;
            }
            inputs.push(slot);
        }
        let slot = self.produce(y, to);
        self.step(&[id], StepKind::Concat { axis }, inputs, vec![Some(slot)]);
        Ok(true)
    }

    fn movement(&mut self, id: NodeId, node: &Node) -> Result<bool> {
        let Some(x) = node.input(0) else { return Ok(false) };
        if let (Op::Identity, Some(y)) = (&node.op, node.output(0))
            && let (Some(from), Some(to)) = (self.held(x), self.held(y))
            && from.qtype.bits.max(to.qtype.bits) > 8
        {
            self.regrid(&[id], self.code(x)?, from, y, to)?;
            return Ok(true);
        }
        let Some(from) = self.grid(x) else { return Ok(false) };
        let outputs: Vec<Option<ValueId>> = node.outputs.clone();
        if outputs.iter().flatten().any(|&y| self.grid(y).is_none()) {
            return Ok(false);
        }
        // Everything but the first input must be known: shapes, indices, amounts. A fill value is a real constant.
        if node.inputs[1..].iter().flatten().any(|&v| self.p.graph.value(v).constant.is_none()) {
            return Ok(false);
        }
        let mut inputs = vec![Some(self.code(x)?)];
        for v in &node.inputs[1..] {
            let slot = match v {
                Some(v) => Some(self.real(*v)?),
                None => None,
            };
            inputs.push(slot);
        }
        if matches!(node.op, Op::Identity) {
            let y = node.output(0).ok_or_else(|| Error::internal("an Identity without output"))?;
            let to = self.grid(y).unwrap_or(from);
            if from == to {
                self.code[y.0 as usize] = inputs[0];
                return Ok(true);
            }
            self.regrid(&[id], self.code(x)?, from, y, to)?;
            return Ok(true);
        }
        let mut outs = Vec::new();
        let mut after = Vec::new();
        for y in outputs {
            let Some(y) = y else {
                outs.push(None);
                continue;
            };
            let to = self.grid(y).unwrap_or(from);
            let slot = self.produce(y, from);
            outs.push(Some(slot));
            if from != to {
                after.push((slot, y, to));
            }
        }
        self.p.steps.push(Step { nodes: vec![id], kind: StepKind::Move(node.op.clone()), inputs, outputs: outs });
        for (slot, y, to) in after {
            self.regrid(&[], slot, from, y, to)?;
        }
        Ok(true)
    }

    fn float(&mut self, id: NodeId, node: &Node) -> Result<()> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let mut quantized = false;
        for v in &node.inputs {
            quantized |= v.is_some_and(|v| self.grid(v).is_some());
            inputs.push(match v {
                Some(v) => Some(self.real(*v)?),
                None => None,
            });
        }
        if quantized && !matches!(node.op, Op::Conv(_) | Op::Gemm { .. } | Op::MatMul) {
            let note = format!("'{}' runs in floating point between dequantize and quantize", node.name);
            self.p.notes.push(note);
        }
        self.between(id, node, StepKind::Float(node.op.clone()), inputs)
    }

    /// A step of real numbers, whose results are quantized where they are annotated.
    pub(super) fn between(&mut self, id: NodeId, node: &Node, kind: StepKind, inputs: Vec<Option<Slot>>) -> Result<()> {
        self.behind(&[id], node, kind, inputs)
    }

    /// The same for several nodes, of which `node` is the last.
    fn behind(&mut self, nodes: &[NodeId], node: &Node, kind: StepKind, inputs: Vec<Option<Slot>>) -> Result<()> {
        let outputs: Vec<Option<Slot>> = node.outputs.iter().map(|v| v.map(|v| self.push(v, Repr::Real))).collect();
        self.p.steps.push(Step { nodes: nodes.to_vec(), kind, inputs, outputs: outputs.clone() });
        for (v, slot) in node.outputs.iter().zip(outputs) {
            if let (Some(v), Some(slot)) = (v, slot) {
                self.settle(*v, slot)?;
            }
        }
        Ok(())
    }
}
