//! Builds a graph with explicit quantization nodes out of an annotated one.
use super::{
    super::packing,
    GRID_KEY, codes,
    dynamic::{self, Live},
    line, list,
    products::Product,
};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Granularity, Graph, Node, Op, QParams, Tensor, ValueId, op::Binary},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// Turns annotations into QuantizeLinear and DequantizeLinear nodes.
///
/// An annotated value is quantized once and dequantized once, for all its readers. Constants become integer tensors, rounded here
/// when they are not yet; so does the bias of a convolution or Gemm whose input and weight are quantized. Identity nodes that are
/// quantization points are the pair itself. Products of values that are quantized as they come are integer operators behind a DynamicQuantizeLinear. Names of inputs, outputs and nodes stay; what is new gets short names.
///
/// # Errors
/// When annotations do not fit their values, or ONNX has no element type for a grid.
pub fn to_qdq(graph: &Graph) -> Result<Graph> {
    let mut b = Build::new(graph)?;
    for (_, node) in graph.nodes() {
        b.node(node).at(|| format!("node '{}'", node.name))?;
    }
    b.finish()
}

/// Up to this many scales take no more bytes in a file than the node that computes them.
const SCALES_WORTH_A_NODE: usize = 12;

/// What makes two constants the same: element type, bits of packed elements, shape, bytes.
type Content = (DType, Option<u8>, Vec<usize>, Vec<u8>);

/// The state while one graph is turned into another.
pub(super) struct Build<'a> {
    /// The annotated graph.
    pub src: &'a Graph,
    /// The graph that grows.
    pub out: Graph,
    /// The codes of an annotated value of `src`.
    codes: Vec<Option<ValueId>>,
    /// The real numbers of a value of `src`.
    reals: Vec<Option<ValueId>>,
    shared: HashMap<Content, ValueId>,
    node_names: HashSet<String>,
    counter: u32,
    grids: BTreeMap<String, Vec<String>>,
    /// What is quantized as it comes, by value of `src`.
    pub live: HashMap<ValueId, Live>,
}

impl<'a> Build<'a> {
    pub fn new(src: &'a Graph) -> Result<Self> {
        for (_, v) in src.values() {
            if let Some(q) = &v.quant {
                let shape = v.shape.as_ref().and_then(|s| s.as_fixed());
                q.check(shape.as_deref()).at(|| format!("value '{}'", v.name))?;
                if v.constant.is_none() && v.dtype.is_some_and(|d| d != DType::F32) {
                    return Err(
                        Error::shape("a value that is no f32 cannot be quantized").at(format!("value '{}'", v.name))
                    );
                }
            }
        }
        let mut out = Graph::new(&src.name);
        out.opset = src.opset;
        out.metadata.clone_from(&src.metadata);
        let mut b = Self {
            src,
            out,
            codes: vec![None; src.value_count()],
            reals: vec![None; src.value_count()],
            shared: HashMap::new(),
            node_names: src.nodes().map(|(_, n)| n.name.clone()).collect(),
            counter: 0,
            grids: BTreeMap::new(),
            live: HashMap::new(),
        };
        for &id in &src.inputs {
            let v = src.value(id);
            if src.outputs.contains(&id) && v.quant.is_some() {
                return Err(Error::unsupported(format!(
                    "graph input '{}' is quantized and a graph output too",
                    v.name
                ))
                .cure("put an Identity between input and output"));
            }
            let new = b.out.add_value(&v.name, v.dtype, v.shape.clone())?;
            b.out.inputs.push(new);
            b.produced(id, new, None)?;
        }
        Ok(b)
    }

    /// Emits one node as it is, between dequantized inputs and quantized outputs.
    pub fn node(&mut self, node: &Node) -> Result<()> {
        if let (Op::Identity, Some(x), Some(y)) = (&node.op, node.input(0), node.output(0))
            && self.src.value(y).quant.is_some()
        {
            let x = self.real(x)?;
            return self.produced(y, x, Some(&node.name));
        }
        if dynamic::write(self, node)? {
            return Ok(());
        }
        if let Some(key) = dynamic::key(self.src, node) {
            list(&mut self.out.metadata, key, &node.name);
        }
        let bias = Product::of(self.src, node).and_then(|p| p.bias);
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (i, id) in node.inputs.iter().enumerate() {
            inputs.push(match id {
                Some(id) if i == 2 && bias.is_some() => Some(self.bias(node, *id)?),
                Some(id) => Some(self.real(*id)?),
                None => None,
            });
        }
        let outputs: Vec<_> =
            node.outputs.iter().map(|o| o.map(|o| self.declare(o)).transpose()).collect::<Result<_>>()?;
        self.out.add_node(&node.name, node.op.clone(), inputs, outputs.clone());
        for (old, new) in node.outputs.iter().zip(outputs) {
            if let (Some(old), Some(new)) = (old, new) {
                self.produced(*old, new, None)?;
            }
        }
        Ok(())
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
    pub fn node_name(&mut self, prefix: &str) -> String {
        loop {
            self.counter += 1;
            let name = format!("{prefix}{}", self.counter);
            if self.node_names.insert(name.clone()) {
                return name;
            }
        }
    }

    /// A constant of generated name; equal ones are one.
    pub fn share(&mut self, prefix: &str, tensor: Tensor) -> ValueId {
        self.share_packed(prefix, tensor, None)
    }

    /// As [`Build::share`], of elements that have so many bits in a file.
    fn share_packed(&mut self, prefix: &str, tensor: Tensor, packed: Option<u8>) -> ValueId {
        let key = (tensor.dtype(), packed, tensor.shape().to_vec(), tensor.data().as_bytes().to_vec());
        if let Some(&id) = self.shared.get(&key) {
            return id;
        }
        let name = self.fresh(prefix);
        let id = self.out.add_constant(&name, Arc::new(tensor));
        self.out.value_mut(id).packed = packed;
        self.shared.insert(key, id);
        id
    }

    /// An intermediate value of the new graph.
    pub fn temp(&mut self, prefix: &str, dtype: DType) -> Result<ValueId> {
        let name = self.fresh(prefix);
        self.out.add_value(&name, Some(dtype), None)
    }

    /// Appends a node of generated name with one output.
    pub fn emit(&mut self, op: Op, inputs: &[ValueId], output: ValueId) {
        let name = self.node_name("n");
        self.out.add_node(&name, op, inputs.iter().map(|&i| Some(i)).collect(), vec![Some(output)]);
    }

    /// The new value into which a producer writes the real numbers of `old`.
    pub fn declare(&mut self, old: ValueId) -> Result<ValueId> {
        let v = self.src.value(old);
        // The name of a graph output belongs to what comes out in the end, the dequantized value.
        let name = if v.quant.is_some() && self.src.outputs.contains(&old) { self.fresh("f") } else { v.name.clone() };
        self.out.add_value(&name, v.dtype, v.shape.clone())
    }

    /// The new value into which a producer writes the codes of `old`.
    pub fn declare_codes(&mut self, old: ValueId, q: &QParams) -> Result<ValueId> {
        let v = self.src.value(old);
        let name = if self.src.outputs.contains(&old) { self.fresh("q") } else { v.name.clone() };
        let id = self.out.add_value(&name, Some(codes::container(q.qtype)?), v.shape.clone())?;
        self.note_grid(id, q)?;
        Ok(id)
    }

    /// A weight in another form; as [`Build::named_constant`].
    pub fn named_weight(&mut self, id: ValueId, codes: Tensor, q: &QParams) -> Result<ValueId> {
        let id = self.named_constant(id, Arc::new(codes));
        self.note_grid(id, q)?;
        Ok(id)
    }

    /// Remembers in the metadata that a tensor does not use all of its element type.
    fn note_grid(&mut self, id: ValueId, q: &QParams) -> Result<()> {
        if Some(q.qtype) != codes::whole(codes::container(q.qtype)?) {
            let name = self.out.value(id).name.clone();
            self.grids.entry(q.qtype.to_string()).or_default().push(name);
        }
        Ok(())
    }

    /// Registers the real numbers of `old`; quantizes them when it is annotated. `point`: the quantization point's node name.
    pub fn produced(&mut self, old: ValueId, real: ValueId, point: Option<&str>) -> Result<()> {
        let v = self.src.value(old);
        let Some(q) = v.quant.clone() else {
            self.reals[old.0 as usize] = Some(real);
            return Ok(());
        };
        let name = self.fresh("q");
        let dtype = codes::container(q.qtype)?;
        let code = self.out.add_value(&name, Some(dtype), v.shape.clone())?;
        self.note_grid(code, &q).at(|| format!("value '{}'", v.name))?;
        let real = self.clip(real, &q).at(|| format!("value '{}'", v.name))?;
        let mut inputs = vec![Some(real), Some(self.scale(&q, old)?)];
        // Without a zero point the result is u8 with zero point 0.
        if dtype != DType::U8 || q.zero_point.iter().any(|&z| z != 0) {
            inputs.push(Some(self.zero(&q, old)?));
        }
        let (axis, block) = layout(&q);
        let node = point.map_or_else(|| self.node_name("Q"), str::to_owned);
        let op = Op::QuantizeLinear { axis, block, saturate: true, out: dtype };
        self.out.add_node(&node, op, inputs, vec![Some(code)]);
        self.codes[old.0 as usize] = Some(code);
        if point.is_some() {
            self.dequantize(old, code, &v.name.clone())?;
        }
        Ok(())
    }

    /// Keeps a real value on a grid that is smaller than its element type, which is where QuantizeLinear would saturate.
    fn clip(&mut self, real: ValueId, q: &QParams) -> Result<ValueId> {
        if Some(q.qtype) == codes::whole(codes::container(q.qtype)?) {
            return Ok(real);
        }
        let (lo, hi) =
            bounds(q).ok_or_else(|| Error::unsupported(format!("the grid {} with several scales in ONNX", q.qtype)))?;
        let (lo, hi) = (self.share("c", Tensor::scalar(lo)), self.share("c", Tensor::scalar(hi)));
        let out = self.temp("f", DType::F32)?;
        self.emit(Op::Clip, &[real, lo, hi], out);
        Ok(out)
    }

    /// Registers the codes of an annotated value that its producer made itself.
    pub fn produced_codes(&mut self, old: ValueId, code: ValueId) {
        self.codes[old.0 as usize] = Some(code);
    }

    /// The codes of an annotated value.
    pub fn codes(&mut self, old: ValueId) -> Result<ValueId> {
        if let Some(id) = self.codes[old.0 as usize] {
            return Ok(id);
        }
        let v = self.src.value(old);
        let (Some(tensor), Some(q)) = (&v.constant, &v.quant) else {
            return Err(Error::internal(format!("value '{}' has no codes", v.name)));
        };
        let c = codes::of_constant(tensor, q).at(|| format!("constant '{}'", v.name))?;
        let tensor = codes::tensor(tensor.shape(), &c, codes::container(q.qtype)?)?;
        let id = if self.src.outputs.contains(&old) {
            let name = self.fresh("q");
            self.out.add_constant(&name, Arc::new(tensor))
        } else {
            self.named_constant(old, Arc::new(tensor))
        };
        self.out.value_mut(id).packed = packing::narrowest(q.qtype.bits);
        self.note_grid(id, q)?;
        self.codes[old.0 as usize] = Some(id);
        Ok(id)
    }

    /// The real numbers of any value.
    pub fn real(&mut self, old: ValueId) -> Result<ValueId> {
        if let Some(id) = self.reals[old.0 as usize] {
            return Ok(id);
        }
        let v = self.src.value(old);
        if v.quant.is_some() {
            let code = self.codes(old)?;
            let name = if self.src.outputs.contains(&old) { v.name.clone() } else { self.fresh("d") };
            return self.dequantize(old, code, &name);
        }
        let tensor = v.constant.clone().ok_or_else(|| Error::malformed(format!("nothing produces '{}'", v.name)))?;
        let id = self.named_constant(old, tensor);
        self.reals[old.0 as usize] = Some(id);
        Ok(id)
    }

    fn dequantize(&mut self, old: ValueId, code: ValueId, name: &str) -> Result<ValueId> {
        let v = self.src.value(old);
        let q = v.quant.clone().ok_or_else(|| Error::internal("dequantization without parameters"))?;
        let id = self.out.add_value(name, Some(DType::F32), v.shape.clone())?;
        let mut inputs = vec![Some(code), Some(self.scale(&q, old)?)];
        if q.zero_point.iter().any(|&z| z != 0) {
            // Of the type of the codes.
            let packed = self.out.value(code).packed;
            let zero = self.zeros(&q, old)?;
            inputs.push(Some(self.share_packed("z", zero, packed)));
        }
        let (axis, block) = layout(&q);
        let node = self.node_name("D");
        self.out.add_node(&node, Op::DequantizeLinear { axis, block }, inputs, vec![Some(id)]);
        self.reals[old.0 as usize] = Some(id);
        Ok(id)
    }

    /// The bias of a quantized product as integers that are dequantized.
    fn bias(&mut self, node: &Node, id: ValueId) -> Result<ValueId> {
        let v = self.src.value(id);
        let p = Product::of(self.src, node).ok_or_else(|| Error::internal("a bias without a product"))?;
        let (code, q) = p.bias_codes(self.src, id).at(|| format!("bias '{}'", v.name))?;
        let code = self.named_constant(id, Arc::new(Tensor::of(&[code.len()], code)));
        // The scale of a bias is a product of two that the file holds already. Four bytes a channel are a percent or two of a
        // small network; every engine folds the product when it loads the file.
        let scale = if q.scale.len() > SCALES_WORTH_A_NODE && q.scale == p.scales() {
            let (sx, sw) = (self.scale(p.qx, p.x)?, self.scale(p.qw, p.w)?);
            let product = self.temp("m", DType::F32)?;
            self.emit(Op::Binary(Binary::Mul), &[sx, sw], product);
            product
        } else {
            self.share("s", scales(&q, &[]))
        };
        let name = self.fresh("d");
        let real = self.out.add_value(&name, Some(DType::F32), v.shape.clone())?;
        let (axis, block) = layout(&q);
        let op = Op::DequantizeLinear { axis, block };
        self.emit(op, &[code, scale], real);
        Ok(real)
    }

    /// A constant in another form, under its own name when that is still free.
    pub fn named_constant(&mut self, id: ValueId, tensor: Arc<Tensor>) -> ValueId {
        let name = &self.src.value(id).name;
        let name = if self.out.find(name).is_none() { name.clone() } else { self.fresh("w") };
        self.out.add_constant(&name, tensor)
    }

    /// The scale(s) of parameters as a shared constant.
    pub fn scale(&mut self, q: &QParams, of: ValueId) -> Result<ValueId> {
        let shape = self.block_shape(q, of)?;
        Ok(self.share("s", scales(q, &shape)))
    }

    /// The zero point(s) of parameters as a shared constant.
    pub fn zero(&mut self, q: &QParams, of: ValueId) -> Result<ValueId> {
        let zeros = self.zeros(q, of)?;
        Ok(self.share("z", zeros))
    }

    fn zeros(&self, q: &QParams, of: ValueId) -> Result<Tensor> {
        let shape = self.block_shape(q, of)?;
        let shape = scales(q, &shape).shape().to_vec();
        codes::tensor(&shape, &q.zero_point, codes::container(q.qtype)?)
    }

    fn block_shape(&self, q: &QParams, of: ValueId) -> Result<Vec<usize>> {
        let Granularity::Block { axis, size } = q.granularity else { return Ok(Vec::new()) };
        let v = self.src.value(of);
        let shape = v.constant.as_ref().map(|t| t.shape().to_vec()).or_else(|| v.shape.as_ref()?.as_fixed());
        let mut shape = shape.ok_or_else(|| {
            Error::unsupported(format!("value '{}' is quantized in blocks, but its shape is not known", v.name))
                .cure("give the model fixed input sizes")
        })?;
        shape[axis] = shape[axis].div_ceil(size);
        Ok(shape)
    }

    /// Registers the outputs and the grids; answers the new graph.
    pub fn finish(mut self) -> Result<Graph> {
        for &id in &self.src.outputs {
            let real = self.real(id)?;
            self.out.outputs.push(real);
        }
        for (grid, names) in std::mem::take(&mut self.grids) {
            let lines: Vec<String> = names.iter().map(|name| line(name)).collect();
            self.out.metadata.push((format!("{GRID_KEY}{grid}"), lines.join("\n")));
        }
        self.out.sort()?;
        Ok(self.out)
    }
}

/// The axis and block attributes of QuantizeLinear and DequantizeLinear.
fn layout(q: &QParams) -> (i64, usize) {
    match q.granularity {
        Granularity::Tensor => (1, 0),
        Granularity::Channel { axis } => (axis as i64, 0),
        Granularity::Block { axis, size } => (axis as i64, size),
    }
}

/// The scales in the shape ONNX wants: a scalar, a vector, or a tensor of blocks.
fn scales(q: &QParams, blocks: &[usize]) -> Tensor {
    match q.granularity {
        Granularity::Tensor => Tensor::scalar(q.scale[0]),
        Granularity::Channel { .. } => Tensor::of(&[q.scale.len()], q.scale.clone()),
        Granularity::Block { .. } => Tensor::of(blocks, q.scale.clone()),
    }
}

/// The real numbers at the ends of a per-tensor grid.
pub(super) fn bounds(q: &QParams) -> Option<(f32, f32)> {
    let (s, z) = q.as_tensor()?;
    let end = |code| nnq_kernels::round::dequantize_f32(code, s, z);
    Some((end(q.qtype.min()), end(q.qtype.max())))
}
