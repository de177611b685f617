//! IR to ONNX.
use super::{
    control,
    packing::{self, Pack},
    proto::{
        AttributeProto, Dimension, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
        StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    },
    table::{self, Attrs, Need},
    tensor,
};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Dim, Graph, Node, Op, Shape, Tensor, Value, ValueId},
};
use prost::{Message, encoding};
use std::{
    borrow::Cow,
    collections::HashSet,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
};

/// How a model is written.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// The opset of the file. `None`: that of the graph, or the oldest newer one that can hold all of its operators.
    pub opset: Option<i64>,
    /// Weights go to a file `<model>.data` when all constants together have more bytes than this; 0: always. The file format cannot
    /// hold 2^31 bytes or more.
    pub external_above: u64,
    /// Write the types of intermediate values too.
    pub value_info: bool,
    /// What becomes of codes that need less than a byte.
    pub pack: Pack,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { opset: None, external_above: 1_800_000_000, value_info: false, pack: Pack::default() }
    }
}

/// External tensors begin at multiples of this many bytes, so that a mapped file can be used as it is.
const ALIGN: u64 = 64;
/// Tensors below this stay in the model file: shapes and axes, which tools want to see there.
const INLINE: usize = 1024;

/// Writes a graph as an ONNX model. The file appears under its name when it is complete and not before.
///
/// # Errors
/// When a node cannot be expressed at the wished opset (names node and opset), when the graph carries quantization annotations
/// (turn them into nodes first, see [`super::quantized`]), or when a file cannot be written.
pub fn write(graph: &Graph, path: &Path, options: &WriteOptions) -> Result<()> {
    let model = Model::new(graph, options).at(|| path.display())?;
    let file_name = path
        .file_name()
        .and_then(|n| n.to_str())
        .ok_or_else(|| Error::usage(format!("'{}' cannot name a model file", path.display())))?;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let location = model.external.then(|| format!("{file_name}.data"));
    if let Some(location) = &location {
        persist(&dir.join(location), |out| model.write_data(out))?;
    }
    persist(path, |out| model.write(out, location.as_deref()))
}

/// The bytes of a model, all data inline.
///
/// # Errors
/// As [`write()`]; also when the model is too large to be one piece.
pub fn to_bytes(graph: &Graph, options: &WriteOptions) -> Result<Vec<u8>> {
    let mut model = Model::new(graph, &WriteOptions { external_above: u64::MAX, ..options.clone() })?;
    model.external = false;
    if model.constants.iter().map(|c| c.bytes().len() as u64).sum::<u64>() > 2_000_000_000 {
        return Err(Error::unsupported("more than 2 GB of constants in one piece").cure("write the model to a file"));
    }
    let mut out = Vec::new();
    model.write(&mut out, None).map_err(|e| Error::internal(e.to_string()))?;
    Ok(out)
}

/// Writes under a temporary name in the same folder, then renames.
fn persist(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>) -> Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What an ordinary new file would get; the process's mask applies.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let file = builder.prefix(".nnq-").tempfile_in(dir).map_err(|e| Error::io(path, e))?;
    let mut out = BufWriter::with_capacity(1 << 20, file.as_file());
    write(&mut out).and_then(|()| out.flush()).map_err(|e| Error::io(path, e))?;
    drop(out);
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}

/// A model ready to be written: everything but the bytes of its constants.
struct Model<'a> {
    head: ModelProto,
    graph: GraphProto,
    constants: Vec<Constant<'a>>,
    external: bool,
}

/// A constant as it is written.
struct Constant<'a> {
    name: Cow<'a, str>,
    tensor: Arc<Tensor>,
    /// Bits of each element, and all of them, where several share a byte.
    packed: Option<(u8, Vec<u8>)>,
}

impl<'a> Constant<'a> {
    fn new(name: Cow<'a, str>, tensor: Arc<Tensor>, bits: Option<u8>) -> Self {
        let packed = bits.map(|bits| (bits, packing::pack(tensor.data().as_bytes(), bits)));
        Self { name, tensor, packed }
    }
    fn bytes(&self) -> &[u8] {
        self.packed.as_ref().map_or_else(|| self.tensor.data().as_bytes(), |(_, bytes)| bytes)
    }
    fn header(&self) -> TensorProto {
        tensor::header(&self.name, &self.tensor, self.packed.as_ref().map(|p| p.0))
    }
    fn is_external(&self) -> bool {
        self.bytes().len() >= INLINE
    }
    fn raw_len(&self) -> usize {
        field_len(9, self.bytes().len())
    }
}

impl<'a> Model<'a> {
    fn new(graph: &'a Graph, options: &WriteOptions) -> Result<Self> {
        if let Some((_, v)) = graph.values().find(|(_, v)| v.quant.is_some() || v.dynamic.is_some()) {
            return Err(Error::usage(format!(
                "value '{}' carries a quantization that the file format has no place for",
                v.name
            ))
            .cure("convert the graph to its QDQ or QOperator form first"));
        }
        if graph.outputs.is_empty() {
            return Err(Error::usage("the graph has no outputs"));
        }
        let mut opset = options.opset.unwrap_or(graph.opset);
        if !(table::OLDEST..=table::NEWEST).contains(&opset) {
            return Err(Error::usage(format!("opset {opset}")).cure(format!(
                "nnq writes opsets {} to {}",
                table::OLDEST,
                table::NEWEST
            )));
        }
        let widths = packing::widths(graph, options.pack, options.opset)?;
        if options.opset.is_none() {
            opset = widths.values().map(|&bits| packing::since(bits).0).fold(opset, i64::max);
        }
        let mut nodes = Nodes::new(graph, opset);
        while let Some((node, need)) = nodes.run()? {
            if options.opset.is_some() || need.opset <= opset || need.opset > table::NEWEST {
                return Err(Error::unsupported(format!("{} cannot be expressed at opset {opset}", need.what))
                    .cure(format!("write the model at opset {} or newer", need.opset))
                    .at(format!("node '{}'", node.name)));
            }
            opset = need.opset;
            nodes = Nodes::new(graph, opset);
        }
        let used = nodes.used;
        let constants: Vec<_> = graph
            .values()
            .filter(|(id, v)| v.constant.is_some() && (used.contains(id) || graph.outputs.contains(id)))
            .filter_map(|(id, v)| {
                let tensor = v.constant.clone()?;
                Some(Constant::new(Cow::Borrowed(v.name.as_str()), tensor, widths.get(&id).copied()))
            })
            .chain(
                nodes
                    .filler
                    .into_iter()
                    .map(|name| Constant::new(Cow::Owned(name), Arc::new(Tensor::of::<f32>(&[0], Vec::new())), None)),
            )
            .collect();
        let bytes: u64 = constants.iter().map(|c| c.bytes().len() as u64).sum();
        let value_info = if options.value_info {
            let boundary = |id: &ValueId| graph.inputs.contains(id) || graph.outputs.contains(id);
            graph
                .values()
                .filter(|(id, v)| v.constant.is_none() && v.dtype.is_some() && v.shape.is_some() && !boundary(id))
                .map(|(_, v)| value_info(v))
                .collect()
        } else {
            Vec::new()
        };
        Ok(Self {
            head: ModelProto {
                ir_version: Some(ir_version(opset)),
                opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
                producer_name: Some("nnq".into()),
                producer_version: Some(env!("CARGO_PKG_VERSION").into()),
                metadata_props: graph
                    .metadata
                    .iter()
                    .map(|(k, v)| StringStringEntryProto { key: Some(k.clone()), value: Some(v.clone()) })
                    .collect(),
                ..ModelProto::default()
            },
            graph: GraphProto {
                // The specification wants a name that is not empty.
                name: Some(if graph.name.is_empty() { "main".into() } else { graph.name.clone() }),
                node: nodes.done,
                input: graph.inputs.iter().map(|&v| value_info_of(graph, v)).collect(),
                output: graph.outputs.iter().map(|&v| value_info_of(graph, v)).collect(),
                value_info,
                ..GraphProto::default()
            },
            constants,
            external: bytes > options.external_above || options.external_above == 0 && bytes > 0,
        })
    }

    /// The data file: the constants of some size, one after the other.
    fn write_data(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut at = 0u64;
        for constant in self.constants.iter().filter(|c| c.is_external()) {
            let start = at.next_multiple_of(ALIGN);
            out.write_all(&[0; ALIGN as usize][..(start - at) as usize])?;
            out.write_all(constant.bytes())?;
            at = start + constant.bytes().len() as u64;
        }
        Ok(())
    }

    /// The model file. Constants go from their tensors to `out` without being gathered in memory.
    fn write(&self, out: &mut impl Write, location: Option<&str>) -> std::io::Result<()> {
        let mut at = 0u64;
        let headers: Vec<TensorProto> = self
            .constants
            .iter()
            .map(|c| {
                let mut header = c.header();
                if let Some(location) = location.filter(|_| c.is_external()) {
                    let (start, length) = (at.next_multiple_of(ALIGN), c.bytes().len() as u64);
                    header.external_data = tensor::located(location, start, length);
                    header.data_location = Some(1);
                    at = start + length;
                }
                header
            })
            .collect();
        let sizes: Vec<usize> = headers
            .iter()
            .zip(&self.constants)
            .map(|(h, c)| h.encoded_len() + if h.data_location.is_some() { 0 } else { c.raw_len() })
            .collect();
        let tensors: usize = sizes.iter().map(|&n| field_len(5, n)).sum();
        out.write_all(&self.head.encode_to_vec())?;
        out.write_all(&key(7, self.graph.encoded_len() + tensors))?;
        out.write_all(&self.graph.encode_to_vec())?;
        for ((header, size), constant) in headers.iter().zip(sizes).zip(&self.constants) {
            out.write_all(&key(5, size))?;
            out.write_all(&header.encode_to_vec())?;
            if header.data_location.is_none() {
                let bytes = constant.bytes();
                out.write_all(&key(9, bytes.len()))?;
                out.write_all(bytes)?;
            }
        }
        Ok(())
    }
}

/// The beginning of a field of `length` bytes.
fn key(tag: u32, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(12);
    encoding::encode_key(tag, encoding::WireType::LengthDelimited, &mut out);
    encoding::encode_varint(length as u64, &mut out);
    out
}

fn field_len(tag: u32, length: usize) -> usize {
    key(tag, length).len() + length
}

/// The first version of the file format that knows an opset.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=9 => 4,
        10 => 5,
        11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        25..=27 => 13,
        _ => 14,
    }
}

fn value_info_of(graph: &Graph, id: ValueId) -> ValueInfoProto {
    value_info(graph.value(id))
}

/// What a file says of a value.
pub(super) fn value_info(v: &Value) -> ValueInfoProto {
    let tensor = |dtype: DType| TensorTypeProto {
        elem_type: Some(tensor::code(dtype)),
        shape: v.shape.as_ref().map(|s| TensorShapeProto { dim: dims(s) }),
    };
    ValueInfoProto {
        name: Some(v.name.clone()),
        r#type: v.dtype.map(|d| TypeProto { tensor_type: Some(tensor(d)), ..TypeProto::default() }),
    }
}

fn dims(shape: &Shape) -> Vec<DimensionProto> {
    let dim = |d: &Dim| match d {
        Dim::Fixed(n) => Some(Dimension::Value(i64::try_from(*n).unwrap_or(i64::MAX))),
        Dim::Sym(s) => Some(Dimension::Param(s.to_string())),
        Dim::Unknown => None,
    };
    shape.0.iter().map(|d| DimensionProto { value: dim(d) }).collect()
}

/// The nodes of an inner graph, and the constants that they read.
///
/// # Errors
/// When one needs a newer opset: it is not raised for the sake of an inner graph.
pub(super) fn inner_nodes(
    graph: &Graph,
    opset: i64,
    names: control::Names,
) -> Result<(Vec<NodeProto>, HashSet<ValueId>)> {
    let mut nodes = Nodes::new(graph, opset);
    nodes.names = Some(names);
    if let Some((node, need)) = nodes.run()? {
        return Err(Error::unsupported(format!("{} cannot be expressed at opset {opset}", need.what))
            .cure(format!("write the model at opset {} or newer", need.opset))
            .at(format!("node '{}'", node.name)));
    }
    if nodes.filler.is_some() {
        return Err(Error::unsupported(
            "an operator that stands for an absent input by an empty one, in an inner graph",
        )
        .cure("write the model at opset 13 or newer"));
    }
    Ok((nodes.done, nodes.used))
}

/// The nodes of a graph at one opset.
struct Nodes<'a> {
    graph: &'a Graph,
    opset: i64,
    done: Vec<NodeProto>,
    used: HashSet<ValueId>,
    /// The name of the empty tensor that stands for an absent input where an old opset wants one.
    filler: Option<String>,
    /// All names in use here and around.
    names: Option<control::Names>,
}

impl<'a> Nodes<'a> {
    fn new(graph: &'a Graph, opset: i64) -> Self {
        Self {
            graph,
            opset,
            done: Vec::with_capacity(graph.node_count()),
            used: HashSet::new(),
            filler: None,
            names: None,
        }
    }

    /// Converts all nodes, or answers the first that needs a newer opset.
    fn run(&mut self) -> Result<Option<(&'a Node, Need)>> {
        let graph = self.graph;
        for (_, node) in graph.nodes() {
            if let Some(need) = self.node(node).at(|| format!("node '{}'", node.name))? {
                return Ok(Some((node, need)));
            }
        }
        Ok(None)
    }

    fn node(&mut self, node: &Node) -> Result<Option<Need>> {
        let (graph, opset) = (self.graph, self.opset);
        if let Op::Control(c) = &node.op {
            node.inputs.iter().flatten().for_each(|v| _ = self.used.insert(*v));
            let names = self.names.get_or_insert_with(|| control::names(graph));
            let (node, constants) = control::write(graph, node, c, opset, names)?;
            self.used.extend(constants);
            self.done.push(node);
            return Ok(None);
        }
        let op_type = table::name(&node.op, opset);
        let row = table::find(op_type).ok_or_else(|| Error::internal(format!("no row for '{op_type}'")))?;
        let need = |opset, what: String| Ok(Some(Need { opset, what }));
        if opset < row.since {
            return need(row.since, format!("operator '{op_type}'"));
        }
        let mut attributes: Vec<AttributeProto> = Vec::new();
        let mut inputs: Vec<String> = Vec::new();
        for (i, slot) in row.inputs.iter().enumerate() {
            if slot.many {
                for id in &node.inputs[i.min(node.inputs.len())..] {
                    let id = id.ok_or_else(|| Error::internal(format!("input '{}' is absent", slot.name)))?;
                    inputs.push(self.mention(id));
                }
                continue;
            }
            let id = node.input(i);
            if let Some((name, old)) = slot.attribute_at(opset) {
                let Some(id) = id else {
                    if !slot.optional {
                        return Err(Error::internal(format!("input '{}' is absent", slot.name)));
                    }
                    continue;
                };
                let newer = slot.attribute.map_or(opset, |a| a.0);
                match graph.constant(id).map(|t| table::downgrade(name, t, old)) {
                    Some(Some(a)) => attributes.push(a),
                    Some(None) => return need(newer, format!("the constant at input '{}'", slot.name)),
                    None => return need(newer, format!("input '{}', which is computed,", slot.name)),
                }
                continue;
            }
            match id {
                Some(_) if opset < slot.since => return need(slot.since, format!("input '{}'", slot.name)),
                Some(id) => inputs.push(self.mention(id)),
                None if opset < slot.since => {}
                None if opset < slot.required_before => {
                    return need(slot.required_before, format!("the absence of input '{}'", slot.name));
                }
                None if opset < slot.empty_before && node.inputs.len() > i => {
                    inputs.push(self.filler.get_or_insert_with(|| graph.fresh_name("empty")).clone());
                }
                None if slot.optional => inputs.push(String::new()),
                None => return Err(Error::internal(format!("input '{}' is absent", slot.name))),
            }
        }
        let extra = node.inputs.len() > row.inputs.len() && !row.inputs.last().is_some_and(|s| s.many);
        if extra && node.inputs[row.inputs.len()..].iter().any(Option::is_some) {
            return Err(Error::internal(format!("{} inputs, '{op_type}' has {}", node.inputs.len(), row.inputs.len())));
        }
        while inputs.last().is_some_and(String::is_empty) {
            inputs.pop();
        }
        let mut op = node.op.clone();
        let mut attrs = Attrs::writing(graph, opset, node.inputs.clone(), node.outputs.len());
        (row.fields)(&mut op, &mut attrs)?;
        if let Some(need) = attrs.need.take() {
            return Ok(Some(need));
        }
        attributes.extend(attrs.finish()?);
        let mut outputs: Vec<String> =
            node.outputs.iter().map(|o| o.map_or_else(String::new, |o| graph.value(o).name.clone())).collect();
        while outputs.last().is_some_and(String::is_empty) {
            outputs.pop();
        }
        while outputs.len() < row.outputs.0 {
            // The specification wants it to have a name although nobody reads it.
            let first = outputs.first().cloned().unwrap_or_default();
            outputs.push(graph.fresh_name(&format!("{first}_unused{}", outputs.len())));
        }
        self.done.push(NodeProto {
            input: inputs,
            output: outputs,
            name: Some(node.name.clone()),
            op_type: Some(op_type.into()),
            attribute: attributes,
            ..NodeProto::default()
        });
        Ok(None)
    }

    fn mention(&mut self, id: ValueId) -> String {
        self.used.insert(id);
        self.graph.value(id).name.clone()
    }
}
