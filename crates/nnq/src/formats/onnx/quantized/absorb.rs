//! Explicit quantization nodes back into annotations.
use super::{
    DYNAMIC_KEY, GRID_KEY, ROWS_KEY,
    build::bounds,
    codes,
    dynamic::{self, Live},
    names,
    products::is_move,
    recognise,
};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Granularity, Graph, Node, NodeId, Op, QParams, QType, Shape, Tensor, ValueId, op::Unary},
};
use rayon::prelude::*;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Turns quantization nodes into annotations; what it does not recognise stays as it is, and runs in float.
///
/// Recognised are QuantizeLinear and DequantizeLinear with constant parameters, DequantizeLinear of constants, QLinearConv,
/// QLinearMatMul, moves and Clip of codes, and ConvInteger and MatMulInteger followed by an integer Add, a Cast and a Mul (behind
/// DynamicQuantizeLinear: by a Cast, a Mul and an Add of real numbers), as written by [`super::to_qdq`], [`super::to_qoperator`] and other tools. A value that is both quantized and read in float keeps its float
/// readers: its codes come from an Identity node that is annotated.
///
/// # Errors
/// When the metadata names a grid that does not exist.
pub fn absorb(graph: &Graph) -> Result<Graph> {
    let graph = &*super::fold::scales(graph)?;
    look(graph);
    let mut a = Absorb::new(graph)?;
    for (id, node) in graph.nodes() {
        if !a.done.contains(&id) {
            a.node(node).at(|| format!("node '{}'", node.name))?;
        }
    }
    a.finish()
}

/// Looks at all integers of a graph on all threads, so that their ranges are known.
fn look(graph: &Graph) {
    let constants = graph.values().filter_map(|(_, v)| v.constant.as_deref().filter(|t| t.dtype().is_int()));
    let constants: Vec<&Tensor> = constants.collect();
    // What cannot be known is an error where somebody wants to know it.
    constants.par_iter().with_max_len(1).for_each(|t| drop(t.int_range()));
}

/// What is known about a value of the source graph.
#[derive(Clone, Copy)]
enum State {
    /// It is this value.
    Plain(ValueId),
    /// It holds the codes of this annotated value.
    Codes(ValueId),
}

/// The state while one graph is turned into another.
pub(super) struct Absorb<'a> {
    /// The graph with explicit nodes.
    pub src: &'a Graph,
    /// Which node produces each value of `src`.
    pub producers: Vec<Option<NodeId>>,
    /// Which nodes read each value of `src`.
    pub consumers: Vec<Vec<(NodeId, usize)>>,
    /// Nodes of `src` that became part of an earlier one.
    pub done: HashSet<NodeId>,
    /// The graph that grows.
    pub out: Graph,
    states: Vec<Option<State>>,
    /// Integer values made explicit again for readers that want them.
    explicit: HashMap<ValueId, ValueId>,
    constants: HashMap<ValueId, Vec<(QParams, ValueId)>>,
    grids: HashMap<String, QType>,
    /// Names of the recurrent layers that quantize what they read as it comes.
    live_layers: HashSet<String>,
    /// Names of the matrix products that quantize each row that they read as it comes.
    rows: HashSet<String>,
    node_names: HashSet<String>,
    counter: u32,
    /// What is quantized as it comes, by its codes.
    pub live: HashMap<ValueId, Live>,
}

impl<'a> Absorb<'a> {
    fn new(src: &'a Graph) -> Result<Self> {
        let mut out = Graph::new(&src.name);
        out.opset = src.opset;
        let (mut grids, mut live_layers, mut rows) = (HashMap::new(), HashSet::new(), HashSet::new());
        for (key, list) in &src.metadata {
            if let Some(grid) = key.strip_prefix(GRID_KEY) {
                let q = parse_grid(grid)
                    .ok_or_else(|| Error::malformed(format!("metadata '{key}': '{grid}' is no integer grid")))?;
                grids.extend(names(list).map(|n| (n, q)));
            } else if key == DYNAMIC_KEY {
                live_layers.extend(names(list));
            } else if key == ROWS_KEY {
                rows.extend(names(list));
            } else {
                out.metadata.push((key.clone(), list.clone()));
            }
        }
        let mut a = Self {
            src,
            producers: src.producers(),
            consumers: src.consumers(),
            done: HashSet::new(),
            out,
            states: vec![None; src.value_count()],
            explicit: HashMap::new(),
            constants: HashMap::new(),
            grids,
            live_layers,
            rows,
            node_names: src.nodes().map(|(_, n)| n.name.clone()).collect(),
            counter: 0,
            live: HashMap::new(),
        };
        for &id in &src.inputs {
            let v = src.value(id);
            let new = a.out.add_value(&v.name, v.dtype, v.shape.clone())?;
            a.out.value_mut(new).quant.clone_from(&v.quant);
            a.out.value_mut(new).dynamic = v.dynamic;
            a.out.inputs.push(new);
            a.states[id.0 as usize] = Some(State::Plain(new));
        }
        Ok(a)
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if matches!(node.op, Op::DynamicQuantizeLinear) {
            dynamic::note(self, node)?;
        }
        let absorbed = match &node.op {
            Op::QuantizeLinear { .. } => self.quantize(node)?,
            Op::DequantizeLinear { .. } => self.dequantize(node)?,
            Op::QLinearConv(_) | Op::QLinearMatMul => recognise::qlinear(self, node)?,
            Op::ConvInteger(_) | Op::MatMulInteger => recognise::integer(self, node)?,
            Op::Clip => self.clip(node)?,
            op if is_move(op) => self.moves(node)?,
            _ => false,
        };
        if absorbed { Ok(()) } else { self.copy(node) }
    }

    /// The node as it is.
    fn copy(&mut self, node: &Node) -> Result<()> {
        let inputs = node.inputs.iter().map(|i| i.map(|i| self.plain(i)).transpose()).collect::<Result<_>>()?;
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for id in &node.outputs {
            outputs.push(match id {
                None => None,
                Some(id) => {
                    let v = self.src.value(*id);
                    let new = self.out.add_value(&v.name, v.dtype, v.shape.clone())?;
                    self.out.value_mut(new).quant.clone_from(&v.quant);
                    self.out.value_mut(new).dynamic = v.dynamic;
                    self.states[id.0 as usize] = Some(State::Plain(new));
                    Some(new)
                }
            });
        }
        self.out.add_node(&node.name, node.op.clone(), inputs, outputs);
        Ok(())
    }

    /// A value of `src` as a value of the same type.
    pub fn plain(&mut self, id: ValueId) -> Result<ValueId> {
        match self.states[id.0 as usize] {
            Some(State::Plain(new)) => Ok(new),
            Some(State::Codes(value)) => self.codes_again(id, value),
            None => {
                let v = self.src.value(id);
                let tensor =
                    v.constant.clone().ok_or_else(|| Error::malformed(format!("nothing produces '{}'", v.name)))?;
                let name = if self.out.find(&v.name).is_none() { v.name.clone() } else { self.fresh("w") };
                let new = self.out.add_constant(&name, tensor);
                let value = self.out.value_mut(new);
                value.quant.clone_from(&v.quant);
                value.packed = v.packed;
                self.states[id.0 as usize] = Some(State::Plain(new));
                Ok(new)
            }
        }
    }

    /// The integers of an annotated value, for a reader that wants integers: an explicit QuantizeLinear, which finds the same codes.
    fn codes_again(&mut self, id: ValueId, value: ValueId) -> Result<ValueId> {
        if let Some(&new) = self.explicit.get(&id) {
            return Ok(new);
        }
        let v = self.out.value(value);
        let (shape, base) = (v.shape.clone(), self.src.value(id).name.clone());
        let q = v.quant.clone().ok_or_else(|| Error::internal("codes of a value without annotation"))?;
        let dtype = codes::container(q.qtype)?;
        let n = q.scale.len();
        let (dims, axis) = match q.granularity {
            Granularity::Tensor => (vec![], 1),
            Granularity::Channel { axis } => (vec![n], axis as i64),
            Granularity::Block { .. } => return Err(Error::internal("a computed value quantized in blocks")),
        };
        let scale = Tensor::of(&dims, q.scale.clone());
        let zero = codes::tensor(&dims, &q.zero_point, dtype)?;
        let scale = self.constant("s", scale);
        let zero = self.constant("z", zero);
        let name = if self.out.find(&base).is_none() { base } else { self.fresh("q") };
        let new = self.out.add_value(&name, Some(dtype), shape)?;
        let op = Op::QuantizeLinear { axis, block: 0, saturate: true, out: dtype };
        let node = self.node_name("Q");
        self.out.add_node(&node, op, vec![Some(value), Some(scale), Some(zero)], vec![Some(new)]);
        self.explicit.insert(id, new);
        Ok(new)
    }

    /// A name that neither graph has.
    pub fn fresh(&mut self, prefix: &str) -> String {
        loop {
            self.counter += 1;
            let name = format!("{prefix}{}", self.counter);
            if self.src.find(&name).is_none() && self.out.find(&name).is_none() {
                return name;
            }
        }
    }

    /// A node name that neither graph has.
    fn node_name(&mut self, prefix: &str) -> String {
        loop {
            self.counter += 1;
            let name = format!("{prefix}{}", self.counter);
            if self.node_names.insert(name.clone()) {
                return name;
            }
        }
    }

    /// A constant of generated name.
    fn constant(&mut self, prefix: &str, tensor: Tensor) -> ValueId {
        let name = self.fresh(prefix);
        self.out.add_constant(&name, Arc::new(tensor))
    }

    /// How often a value of `src` is read, graph outputs included.
    pub fn reads(&self, id: ValueId) -> usize {
        self.consumers[id.0 as usize].len() + self.src.outputs.iter().filter(|&&o| o == id).count()
    }

    /// The annotated value whose codes a value of `src` holds.
    pub fn codes_of(&self, id: ValueId) -> Option<(ValueId, Arc<QParams>)> {
        match self.states[id.0 as usize] {
            Some(State::Codes(value)) => self.out.value(value).quant.clone().map(|q| (value, q)),
            _ => None,
        }
    }

    /// Registers that a value of `src` holds the codes of an annotated one.
    pub fn set_codes(&mut self, id: ValueId, value: ValueId) {
        self.states[id.0 as usize] = Some(State::Codes(value));
    }

    /// Registers that a value of `src` is this one.
    pub fn set_plain(&mut self, id: ValueId, value: ValueId) {
        self.states[id.0 as usize] = Some(State::Plain(value));
    }

    /// The parameters that constant scales and zero points stand for; `None` when they cannot be an annotation.
    ///
    /// `codes` names the integer tensor of type `dtype`; `shape` is its shape when known.
    pub fn params(
        &self,
        codes: ValueId,
        dtype: DType,
        (scale, zero): (Option<ValueId>, Option<ValueId>),
        (axis, block): (i64, usize),
    ) -> Option<QParams> {
        let v = self.src.value(codes);
        let shape = v.constant.as_ref().map(|t| Shape::fixed(t.shape())).or_else(|| v.shape.clone());
        let known = shape.as_ref().and_then(Shape::as_fixed);
        let scale = self.src.constant(scale?)?;
        let zero = zero.map(|z| self.src.constant(z)).map_or(Some(None), |z| z.map(Some))?;
        if zero.is_some_and(|z| z.dtype() != dtype) {
            return None;
        }
        let s = scale.as_slice::<f32>().ok()?.to_vec();
        let mut z: Vec<i32> = match zero {
            Some(z) => z.to_i64s().ok()?.into_iter().map(i32::try_from).collect::<Result<_, _>>().ok()?,
            None => vec![0],
        };
        if z.len() == 1 {
            z = vec![z[0]; s.len()];
        }
        let axis = || match (usize::try_from(axis), &shape) {
            (Ok(a), _) => Some(a),
            (Err(_), Some(shape)) => usize::try_from(axis + shape.rank() as i64).ok(),
            (Err(_), None) => None,
        };
        let granularity = match (scale.shape(), block) {
            ([], 0) => Granularity::Tensor,
            // One number in a vector is usually one scale for the whole tensor.
            ([1], 0) if axis().and_then(|a| known.as_ref()?.get(a).copied()) != Some(1) => Granularity::Tensor,
            ([_], 0) => Granularity::Channel { axis: axis()? },
            (_, 0) => return None,
            (_, size) => Granularity::Block { axis: axis()?, size },
        };
        let whole = codes::whole(dtype)?;
        let qtype = self.grid(codes, dtype)?;
        if let (Granularity::Block { axis, size }, Some(known)) = (granularity, &known) {
            let blocks = known.iter().enumerate().map(|(i, &d)| if i == axis { d.div_ceil(size) } else { d });
            if !blocks.eq(scale.shape().iter().copied()) {
                return None;
            }
        }
        // ONNX gives 32-bit integers no zero point.
        if dtype == DType::I32 && z.iter().any(|&z| z != 0) {
            return None;
        }
        let mut q = QParams { qtype, granularity, scale: s, zero_point: z };
        if qtype != whole && q.check(known.as_deref()).is_err() {
            q.qtype = whole;
        }
        q.check(known.as_deref()).ok()?;
        Some(q)
    }

    /// The grid of a tensor of codes: what the metadata say, or all of its type in the file.
    pub fn grid(&self, codes: ValueId, dtype: DType) -> Option<QType> {
        let value = self.src.value(codes);
        let whole = codes::whole(dtype).map(|whole| QType { bits: value.packed.unwrap_or(whole.bits), ..whole });
        let noted = self.grids.get(&value.name).copied();
        noted.filter(|&g| codes::container(g).ok() == Some(dtype)).or(whole)
    }

    /// The parameters of a QuantizeLinear node.
    fn quantize_params(&self, node: &Node) -> Option<QParams> {
        let Op::QuantizeLinear { axis, block, out, .. } = &node.op else { return None };
        let dtype = node.input(2).and_then(|z| self.src.constant(z)).map_or(*out, |z| z.dtype());
        let q = self.params(node.output(0)?, dtype, (node.input(1), node.input(2)), (*axis, *block))?;
        (!matches!(q.granularity, Granularity::Block { .. }) && dtype != DType::I32).then_some(q)
    }

    /// On a grid smaller than its type, the value before the Clip that keeps it there.
    fn before_clip(&self, x: ValueId, q: &QParams) -> Option<ValueId> {
        let clip = self.src.node(self.producers[x.0 as usize]?);
        let bound = |i: usize| self.src.constant(clip.input(i)?)?.as_slice::<f32>().ok()?.first().copied();
        let fits = matches!(clip.op, Op::Clip) && self.reads(x) == 1 && (bound(1)?, bound(2)?) == bounds(q)?;
        clip.input(0).filter(|_| fits)
    }

    fn quantize(&mut self, node: &Node) -> Result<bool> {
        let (Some(mut q), Some(mut x), Some(y)) = (self.quantize_params(node), node.input(0), node.output(0)) else {
            return Ok(false);
        };
        let whole = codes::whole(codes::container(q.qtype)?).unwrap_or(q.qtype);
        let mut readers = self.consumers[x.0 as usize].clone();
        if q.qtype != whole {
            match self.before_clip(x, &q) {
                Some(before) => {
                    x = before;
                    readers.clone_from(&self.consumers[x.0 as usize]);
                }
                None => q.qtype = whole,
            }
        }
        let real = self.plain(x)?;
        let v = self.out.value(real);
        if v.dtype.is_some_and(|d| d != DType::F32) {
            return Ok(false);
        }
        if v.quant.as_deref() == Some(&q) {
            self.set_codes(y, real);
            return Ok(true);
        }
        let all_alike = readers.iter().all(|&(n, i)| {
            let reader = self.src.node(n);
            let clip = matches!(reader.op, Op::Clip) && q.qtype != whole && readers.len() == 1;
            i == 0 && (clip || self.quantize_params(reader).as_ref() == Some(&q))
        });
        if v.quant.is_none() && all_alike && !self.src.outputs.contains(&x) {
            self.out.value_mut(real).quant = Some(Arc::new(q));
            self.set_codes(y, real);
            return Ok(true);
        }
        // Somebody reads the real numbers too, or they are on another grid: a quantization point of its own.
        let shape = v.shape.clone();
        let dequantized = self.consumers[y.0 as usize]
            .iter()
            .map(|(n, _)| self.src.node(*n))
            .find(|n| matches!(n.op, Op::DequantizeLinear { .. }))
            .and_then(|n| n.output(0))
            .map(|d| self.src.value(d).name.clone());
        let name = match dequantized {
            Some(d) if self.out.find(&d).is_none() => d,
            _ => self.fresh("i"),
        };
        let point = self.out.add_value(&name, Some(DType::F32), shape)?;
        self.out.value_mut(point).quant = Some(Arc::new(q));
        self.out.add_node(&node.name, Op::Identity, vec![Some(real)], vec![Some(point)]);
        self.set_codes(y, point);
        Ok(true)
    }

    fn dequantize(&mut self, node: &Node) -> Result<bool> {
        let Op::DequantizeLinear { axis, block } = node.op else { return Ok(false) };
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
        let Some(value) = self.operand(x, (node.input(1), node.input(2)), (axis, block))? else { return Ok(false) };
        self.set_plain(y, value);
        Ok(true)
    }

    /// The annotated value behind codes that are used with these parameters: one that was found before, or a constant.
    pub fn operand(
        &mut self,
        x: ValueId,
        parameters: (Option<ValueId>, Option<ValueId>),
        layout: (i64, usize),
    ) -> Result<Option<ValueId>> {
        if let Some((value, q)) = self.codes_of(x) {
            let same =
                self.params(x, codes::container(q.qtype)?, parameters, layout).is_some_and(|p| same_numbers(&p, &q));
            return Ok(same.then_some(value));
        }
        let Some(tensor) = self.src.constant(x).cloned() else { return Ok(None) };
        let Some(q) = self.params(x, tensor.dtype(), parameters, layout) else { return Ok(None) };
        self.annotated_constant(x, &tensor, q).map(Some)
    }

    /// A constant of `src` as an annotated constant.
    pub fn annotated_constant(&mut self, x: ValueId, tensor: &Arc<Tensor>, mut q: QParams) -> Result<ValueId> {
        if let Some((_, id)) = self.constants.get(&x).and_then(|all| {
            all.iter().find(|(p, id)| *p == q && self.out.constant(*id).is_some_and(|t| t.shape() == tensor.shape()))
        }) {
            return Ok(*id);
        }
        let (min, max) = (i64::from(q.qtype.min()), i64::from(q.qtype.max()));
        if tensor.int_range()?.is_some_and(|(least, most)| least < min || most > max) {
            q.qtype = codes::whole(tensor.dtype()).unwrap_or(q.qtype);
        }
        let name = &self.src.value(x).name;
        let name = if self.out.find(name).is_none() { name.clone() } else { self.fresh("w") };
        let id = self.out.add_constant(&name, tensor.clone());
        let v = self.out.value_mut(id);
        v.dtype = Some(DType::F32);
        v.quant = Some(Arc::new(q.clone()));
        v.packed = self.src.value(x).packed;
        self.constants.entry(x).or_default().push((q, id));
        Ok(id)
    }

    /// A new annotated value for the codes `y` of `src`.
    pub fn annotated(&mut self, y: ValueId, q: QParams) -> Result<ValueId> {
        let v = self.src.value(y);
        let id = self.out.add_value(&v.name, Some(DType::F32), v.shape.clone())?;
        self.out.value_mut(id).quant = Some(Arc::new(q));
        self.set_codes(y, id);
        Ok(id)
    }

    /// Moves of codes are moves of what they stand for.
    fn moves(&mut self, node: &Node) -> Result<bool> {
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
        let Some((value, q)) = self.codes_of(x) else { return Ok(false) };
        if q.as_tensor().is_none() || node.outputs.len() != 1 {
            return Ok(false);
        }
        let mut inputs = vec![Some(value)];
        for i in node.inputs.iter().skip(1) {
            inputs.push(i.map(|i| self.plain(i)).transpose()?);
        }
        let out = self.annotated(y, (*q).clone())?;
        self.out.add_node(&node.name, node.op.clone(), inputs, vec![Some(out)]);
        Ok(true)
    }

    /// A Clip of codes is an activation, or keeps them on a grid smaller than their type.
    fn clip(&mut self, node: &Node) -> Result<bool> {
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
        let Some((value, q)) = self.codes_of(x) else { return Ok(false) };
        let dtype = codes::container(q.qtype)?;
        let (Some((s, z)), Some(whole)) = (q.as_tensor(), codes::whole(dtype)) else { return Ok(false) };
        let bound = |i: usize, default: i32| match node.input(i) {
            None => Some(default),
            Some(v) => self.src.constant(v)?.to_i64s().ok()?.first().and_then(|&c| i32::try_from(c).ok()),
        };
        let (Some(lo), Some(hi)) = (bound(1, whole.min()), bound(2, whole.max())) else { return Ok(false) };
        if self.reads(x) != 1 || lo > hi {
            return Ok(false);
        }
        let name = self.src.value(y).name.clone();
        let grid = self.grid(y, dtype).unwrap_or(whole);
        let clipped = QParams { qtype: grid, ..(*q).clone() };
        if clipped.check(None).is_err() || lo < grid.min() || hi > grid.max() {
            return Ok(false);
        }
        if (lo, hi) == (grid.min(), grid.max()) {
            self.out.value_mut(value).quant = Some(Arc::new(clipped));
            self.out.rename(value, &name);
            self.set_codes(y, value);
            return Ok(true);
        }
        // The activation takes over the annotation: the codes before it are nobody else's.
        self.out.value_mut(value).quant = None;
        let real = |code: i32| Tensor::scalar(nnq_kernels::round::dequantize_f32(code, s, z));
        let (op, inputs) = if lo == z && hi == grid.max() {
            (Op::Unary(Unary::Relu), vec![Some(value)])
        } else {
            let min = (lo > grid.min()).then(|| self.constant("c", real(lo)));
            let max = (hi < grid.max()).then(|| self.constant("c", real(hi)));
            (Op::Clip, vec![Some(value), min, max])
        };
        let out = self.annotated(y, clipped)?;
        self.out.add_node(&node.name, op, inputs, vec![Some(out)]);
        Ok(true)
    }

    fn finish(mut self) -> Result<Graph> {
        let names: HashSet<&str> = self.src.outputs.iter().map(|&o| self.src.value(o).name.as_str()).collect();
        for &id in &self.src.outputs {
            let name = &self.src.value(id).name;
            let mut value = self.plain(id)?;
            if self.out.value(value).name != *name {
                if self.out.inputs.contains(&value) || names.contains(self.out.value(value).name.as_str()) {
                    let v = self.out.value(value);
                    let (dtype, shape) = (v.dtype, v.shape.clone());
                    let copy = self.out.add_value(name, dtype, shape)?;
                    let node = self.node_name("copy");
                    self.out.add_node(&node, Op::Identity, vec![Some(value)], vec![Some(copy)]);
                    value = copy;
                } else {
                    self.out.rename(value, name);
                }
            }
            self.out.outputs.push(value);
        }
        dynamic::mark(&mut self.out, &self.live_layers, &self.rows)?;
        self.out.sort()?;
        self.out.compact();
        Ok(self.out)
    }
}

/// Equal but for the grid, which the file may say in one place only.
fn same_numbers(a: &QParams, b: &QParams) -> bool {
    a.granularity == b.granularity && a.scale == b.scale && a.zero_point == b.zero_point
}

/// A grid as [`QType`] prints it: `i4n`.
fn parse_grid(text: &str) -> Option<QType> {
    let signed = match text.chars().next()? {
        'i' => true,
        'u' => false,
        _ => return None,
    };
    let rest = &text[1..];
    let narrow = rest.ends_with('n');
    let bits = rest.trim_end_matches('n').parse().ok().filter(|b| (1..=16).contains(b) || *b == 32)?;
    let q = QType { bits, signed, narrow };
    (q.to_string() == text && QParams::tensor(q, 1.0, q.min().max(0)).check(None).is_ok()).then_some(q)
}
