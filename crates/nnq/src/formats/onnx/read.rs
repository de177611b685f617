//! ONNX to IR.
use super::{
    control,
    external::{External, map_file},
    microsoft, packing,
    proto::{
        AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, attribute as kind,
    },
    table::{self, Attrs, Row},
    tensor,
};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Dim, Graph, Node, Op, Shape, Tensor, ValueId},
};
use bytes::Bytes;
use prost::Message;
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

/// Reads a model file of any opset from 7 on. Weights stay views of the mapped file where alignment allows.
///
/// Types of intermediate values that the file may carry are not looked at: shape inference finds them. Constants that nothing
/// reads are dropped.
///
/// # Errors
/// Names the file, the node or value, and the cause: a file that is no model, truncated or inconsistent, operators, element types
/// or opsets nnq does not have.
pub fn read(path: &Path) -> Result<Graph> {
    let bytes = map_file(path)?;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    read_bytes(bytes, Some(dir)).at(|| path.display())
}

/// As [`read`], from memory. `external_dir` is the folder that external data is relative to; without it such data is refused.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(bytes: Bytes, external_dir: Option<&Path>) -> Result<Graph> {
    recognise(&bytes)?;
    let model = ModelProto::decode(bytes)
        .map_err(|e| Error::malformed(format!("no ONNX model, or a truncated one: {e}")).cure("get the file again"))?;
    let opset = opset(&model)?;
    if let Some(f) = model.functions.first() {
        return Err(Error::unsupported(format!("local function '{}'", f.name.as_deref().unwrap_or_default()))
            .cure("inline the functions, for example with onnx.inliner.inline_local_functions"));
    }
    let proto = model.graph.as_ref().ok_or_else(|| Error::malformed("no ONNX model: there is no graph in it"))?;
    let mut graph = Graph::new(proto.name.as_deref().unwrap_or_default());
    graph.opset = opset;
    graph.metadata = model
        .metadata_props
        .iter()
        .map(|m| (m.key.clone().unwrap_or_default(), m.value.clone().unwrap_or_default()))
        .collect();
    let mut reader = Reader { graph, proto, opset, external: External::in_dir(external_dir), depth: 0 };
    reader.begin()?;
    reader.nodes()?;
    Ok(reader.graph)
}

/// Says what a file is when it is one of the things people get instead of a model.
fn recognise(bytes: &[u8]) -> Result<()> {
    let head = &bytes[..bytes.len().min(512)];
    let text = head.trim_ascii_start();
    let starts = |s: &str| text.len() >= s.len() && text[..s.len()].eq_ignore_ascii_case(s.as_bytes());
    let (what, cure) = if bytes.is_empty() {
        ("an empty file", "get the file again")
    } else if starts("version https://git-lfs") {
        ("a Git LFS pointer and not the model itself", "run 'git lfs pull' in its repository")
    } else if starts("<!doctype") || starts("<html") || starts("<?xml") {
        ("a web page and not a model", "download the raw file instead of the page about it")
    } else if head.starts_with(b"PK\x03\x04") {
        ("a zip archive and not an ONNX model", "unpack it, or export a PyTorch checkpoint to ONNX first")
    } else if head.starts_with(b"\x89HDF") {
        ("an HDF5 file and not an ONNX model", "convert the Keras model to ONNX first")
    } else if head.get(4..8) == Some(b"TFL3") {
        ("a TensorFlow Lite model and not an ONNX model", "convert it to ONNX first")
    } else {
        return Ok(());
    };
    Err(Error::malformed(format!("this is {what}")).cure(cure))
}

fn is_default(domain: Option<&str>) -> bool {
    matches!(domain.unwrap_or_default(), "" | "ai.onnx")
}

fn opset(model: &ModelProto) -> Result<i64> {
    let version = model
        .opset_import
        .iter()
        .find(|o| is_default(o.domain.as_deref()))
        .map(|o| o.version.unwrap_or(0))
        .ok_or_else(|| {
        let cause = if model.graph.is_some() { "it names no opset" } else { "there is no graph in it" };
        Error::malformed(format!("no ONNX model, or a very old one: {cause}"))
    })?;
    if version > table::NEWEST {
        return Err(Error::unsupported(format!("opset {version}; the newest that nnq knows is {}", table::NEWEST))
            .cure("export the model with an older opset, or get a newer nnq"));
    }
    if version < table::OLDEST {
        return Err(Error::unsupported(format!("opset {version}; the oldest that nnq knows is {}", table::OLDEST))
            .cure("convert the model with onnx.version_converter"));
    }
    Ok(version)
}

/// A graph on its way in.
pub(super) struct Reader<'a> {
    pub graph: Graph,
    pub proto: &'a GraphProto,
    pub opset: i64,
    pub external: External,
    /// Graphs around it.
    pub depth: usize,
}

impl Reader<'_> {
    /// Inputs and constants.
    pub(super) fn begin(&mut self) -> Result<()> {
        let proto = self.proto;
        if let Some(s) = proto.sparse_initializer.first() {
            let name = s.values.as_ref().and_then(|v| v.name.as_deref()).unwrap_or_default();
            return Err(Error::unsupported(format!("sparse initializer '{name}'")).cure("store it as a dense tensor"));
        }
        self.inputs_and_initializers()
    }

    /// Everything else.
    pub(super) fn nodes(&mut self) -> Result<()> {
        let proto = self.proto;
        let names = node_names(&proto.node);
        for (node, name) in proto.node.iter().zip(&names) {
            self.declare_outputs(node).at(|| place(node, name))?;
        }
        for (node, name) in proto.node.iter().zip(names) {
            if microsoft::knows(node) {
                self.microsoft(node, &name).at(|| place(node, &name))?;
            } else if !is_constant(node) {
                let node = self.node(node, &name).at(|| place(node, &name))?;
                self.graph.add_node(&node.name, node.op, node.inputs, node.outputs);
            }
        }
        self.outputs()?;
        self.graph.sort()
    }

    /// Adds a value of the file, whose names are unique.
    pub(super) fn declare(&mut self, name: &str, dtype: Option<DType>, shape: Option<Shape>) -> Result<ValueId> {
        if self.graph.value_count() >= u32::MAX as usize {
            return Err(Error::malformed("more than 2^32 values"));
        }
        self.graph.add_value(name, dtype, shape).map_err(|_| {
            Error::malformed(format!("'{name}' is produced twice")).cure("every value of a model has one producer")
        })
    }

    fn declare_constant(&mut self, name: &str, tensor: Tensor, packed: Option<u8>) -> Result<()> {
        if let Some((since, what)) = packed.map(packing::since).filter(|(since, _)| self.opset < *since) {
            return Err(Error::malformed(format!("elements of {what} in a model of opset {}", self.opset))
                .cure(format!("the type exists since opset {since}: export the model at that opset or newer")));
        }
        let id = self.declare(name, Some(tensor.dtype()), Some(Shape::fixed(tensor.shape())))?;
        let value = self.graph.value_mut(id);
        (value.constant, value.packed) = (Some(Arc::new(tensor)), packed);
        Ok(())
    }

    fn inputs_and_initializers(&mut self) -> Result<()> {
        let proto = self.proto;
        let mut used = HashSet::new();
        mentioned(proto, &mut used);
        let mut initializers: HashMap<&str, &TensorProto> = HashMap::new();
        for t in &proto.initializer {
            let name = t.name.as_deref().unwrap_or_default();
            if name.is_empty() {
                return Err(Error::malformed("an initializer without a name"));
            }
            if initializers.insert(name, t).is_some() {
                return Err(Error::malformed(format!("two initializers are called '{name}'")));
            }
        }
        // An initializer that is an input as well is a default in the file format, a constant here.
        for input in &proto.input {
            let name = input.name.as_deref().unwrap_or_default();
            if name.is_empty() {
                return Err(Error::malformed("a graph input without a name"));
            }
            if !initializers.contains_key(name) {
                let at = || format!("graph input '{name}'");
                let (dtype, shape) = value_type(input).at(at)?;
                // Inner graphs need not say it.
                if dtype.is_none() && self.depth == 0 {
                    return Err(Error::malformed("it has no element type").at(at()));
                }
                let id = self.declare(name, dtype, shape).at(at)?;
                self.graph.inputs.push(id);
            }
        }
        for t in &proto.initializer {
            let name = t.name.as_deref().unwrap_or_default();
            if used.contains(name) {
                let at = || format!("initializer '{name}'");
                let tensor = tensor::from_proto(t, &mut self.external).at(at)?;
                self.declare_constant(name, tensor, packed(t)).at(at)?;
            }
        }
        Ok(())
    }

    fn declare_outputs(&mut self, node: &NodeProto) -> Result<()> {
        if is_constant(node) {
            let [output] = &node.output[..] else {
                return Err(Error::malformed(format!("{} outputs, expected 1", node.output.len())));
            };
            let (tensor, packed) = self.constant(node)?;
            return self.declare_constant(output, tensor, packed);
        }
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            self.declare(output, None, None)?;
        }
        Ok(())
    }

    fn constant(&mut self, node: &NodeProto) -> Result<(Tensor, Option<u8>)> {
        let [a] = &node.attribute[..] else {
            return Err(Error::malformed(format!("{} attributes, expected 1", node.attribute.len())));
        };
        if a.ref_attr_name.as_deref().is_some_and(|r| !r.is_empty()) {
            return Err(Error::unsupported("a reference to an attribute of a function"));
        }
        let tensor = match a.name.as_deref().unwrap_or_default() {
            "value" => {
                let t = a.t.as_ref().ok_or_else(|| Error::malformed("attribute 'value' holds no tensor"))?;
                return Ok((tensor::from_proto(t, &mut self.external)?, packed(t)));
            }
            "value_float" => Tensor::scalar(a.f.unwrap_or(0.0)),
            "value_int" => Tensor::scalar(a.i.unwrap_or(0)),
            "value_floats" => Tensor::of(&[a.floats.len()], a.floats.clone()),
            "value_ints" => Tensor::of(&[a.ints.len()], a.ints.clone()),
            name => return Err(Error::unsupported(format!("a constant given by attribute '{name}'"))),
        };
        Ok((tensor, None))
    }

    fn node(&mut self, p: &NodeProto, name: &str) -> Result<Node> {
        let op_type = p.op_type.as_deref().unwrap_or_default();
        if let Some(a) = p.attribute.iter().find(|a| {
            (a.g.is_some() && !control::holds_graphs(p)) || !a.graphs.is_empty() || matches!(a.kind, Some(kind::GRAPHS))
        }) {
            return Err(Error::unsupported(format!(
                "attribute '{}' holds a graph",
                a.name.as_deref().unwrap_or_default()
            ))
            .cure("nnq knows graphs within If, Loop and Scan only"));
        }
        if is_default(p.domain.as_deref()) && control::holds_graphs(p) {
            return self.control(p, name);
        }
        if !is_default(p.domain.as_deref()) {
            return Err(Error::unsupported(format!(
                "operator '{op_type}' of domain '{}'",
                p.domain.as_deref().unwrap_or_default()
            ))
            .cure(if op_type.starts_with("QLinear") {
                "quantize the model in the QDQ format"
            } else {
                "export the model with standard ONNX operators only, without a runtime's fusions"
            }));
        }
        let row = table::find(op_type)
            .ok_or_else(|| Error::unsupported(format!("operator '{op_type}' is not among those nnq knows")))?;
        if self.opset < row.since || self.opset > row.until {
            return Err(Error::malformed(format!("operator '{op_type}' does not exist in opset {}", self.opset)));
        }
        let outputs = self.node_outputs(p, row)?;
        let (inputs, attributes) = self.node_inputs(p, row, &outputs)?;
        let zero = inputs.get(2).copied().flatten();
        if op_type == "QuantizeLinear" && zero.is_some_and(|z| self.graph.value(z).packed.is_some()) {
            return Err(Error::unsupported("quantization of a computed value to fewer than 8 bits"));
        }
        if let ("DequantizeLinear", Some(z), Some(x)) = (op_type, zero, inputs.first().copied().flatten()) {
            let name = |v: ValueId| {
                let v = self.graph.value(v);
                v.constant.as_ref().map(|t| tensor::name(t.dtype(), v.packed))
            };
            if let (Some(z), Some(x)) = (name(z), name(x))
                && z != x
            {
                return Err(Error::malformed(format!("zero points of {z} for codes of {x}"))
                    .cure("the standard wants them of one type"));
            }
        }
        let mut op = (row.make)();
        let mut attrs = Attrs::reading(&self.graph, self.opset, inputs, outputs.len(), attributes, &mut self.external);
        (row.fields)(&mut op, &mut attrs)?;
        let mut inputs = std::mem::take(&mut attrs.inputs);
        attrs.finish()?;
        trim(&mut inputs);
        Ok(Node { name: name.to_owned(), op, inputs, outputs })
    }

    fn node_outputs(&self, p: &NodeProto, row: &Row) -> Result<Vec<Option<ValueId>>> {
        let mut outputs: Vec<_> = p.output.iter().map(|o| self.graph.find(o).filter(|_| !o.is_empty())).collect();
        trim(&mut outputs);
        let most = row.outputs.1;
        if outputs.is_empty() || outputs.len() > most {
            return Err(Error::unsupported(format!("{} outputs, expected 1 to {most}", outputs.len())));
        }
        Ok(outputs)
    }

    /// The inputs in the order of the IR, and the attributes that are none of them.
    fn node_inputs<'p>(
        &mut self,
        p: &'p NodeProto,
        row: &Row,
        outputs: &[Option<ValueId>],
    ) -> Result<(Vec<Option<ValueId>>, Vec<&'p AttributeProto>)> {
        let mut attributes: Vec<&AttributeProto> = p.attribute.iter().collect();
        let mut names = p.input.iter().map(String::as_str);
        let mut inputs = Vec::with_capacity(row.inputs.len());
        for slot in row.inputs {
            let missing = || Error::malformed(format!("input '{}' is missing", slot.name));
            if slot.many {
                for name in names.by_ref() {
                    inputs.push(Some(self.input(name).ok_or_else(missing)??));
                }
                if inputs.is_empty() {
                    return Err(missing());
                }
            } else if let Some((attribute, old)) = slot.attribute_at(self.opset) {
                let at = attributes.iter().position(|a| a.name.as_deref() == Some(attribute));
                let id = match at.map(|i| attributes.remove(i)) {
                    Some(a) => {
                        let tensor = Arc::new(table::upgrade(a, old)?);
                        let owner = outputs.iter().flatten().next().map_or("", |&o| self.graph.value(o).name.as_str());
                        let name = format!("{owner}_{attribute}");
                        Some(self.graph.add_constant(&name, tensor))
                    }
                    None if slot.optional => None,
                    None => return Err(Error::malformed(format!("attribute '{attribute}' is missing"))),
                };
                inputs.push(id);
            } else if self.opset < slot.since {
                inputs.push(None);
            } else {
                let id = names.next().and_then(|n| self.input(n)).transpose()?;
                if id.is_none() && !slot.optional {
                    return Err(missing());
                }
                inputs.push(id);
            }
        }
        if let Some(extra) = names.find(|n| !n.is_empty()) {
            return Err(Error::malformed(format!("'{extra}' is one input more than the operator has")));
        }
        trim(&mut inputs);
        Ok((inputs, attributes))
    }

    pub(super) fn input(&self, name: &str) -> Option<Result<ValueId>> {
        (!name.is_empty()).then(|| {
            self.graph.find(name).ok_or_else(|| {
                Error::malformed(format!("it reads '{name}', which nothing produces"))
                    .cure("the model file is incomplete")
            })
        })
    }

    fn outputs(&mut self) -> Result<()> {
        if self.proto.output.is_empty() {
            return Err(Error::malformed("the graph has no outputs"));
        }
        for output in &self.proto.output {
            let name = output.name.as_deref().unwrap_or_default();
            let at = || format!("graph output '{name}'");
            let id = self.graph.find(name).ok_or_else(|| Error::malformed("nothing produces it").at(at()))?;
            let (dtype, shape) = value_type(output).at(at)?;
            let value = self.graph.value_mut(id);
            if let (Some(said), Some(found)) = (dtype, value.dtype)
                && said != found
            {
                return Err(Error::malformed(format!("declared as {said}, but it is {found}")).at(at()));
            }
            value.dtype = value.dtype.or(dtype);
            value.shape = value.shape.take().or(shape);
            // An inner graph may hand on a value twice.
            let twice = self.depth > 0 && self.graph.outputs.contains(&id);
            let id = if twice { self.copy(id)? } else { id };
            self.graph.outputs.push(id);
        }
        Ok(())
    }

    /// The same value again.
    fn copy(&mut self, id: ValueId) -> Result<ValueId> {
        let value = self.graph.value(id);
        let (name, dtype, shape) = (self.graph.fresh_name(&value.name), value.dtype, value.shape.clone());
        let copy = self.declare(&name, dtype, shape)?;
        self.graph.add_node(&format!("copy of {name}"), Op::Identity, vec![Some(id)], vec![Some(copy)]);
        Ok(copy)
    }
}

/// Every name that a graph reads, or the graphs within it.
fn mentioned<'a>(graph: &'a GraphProto, names: &mut HashSet<&'a str>) {
    names.extend(graph.output.iter().filter_map(|o| o.name.as_deref()));
    for node in &graph.node {
        names.extend(node.input.iter().map(String::as_str));
        node.attribute.iter().filter_map(|a| a.g.as_deref()).for_each(|g| mentioned(g, names));
    }
}

fn place(node: &NodeProto, name: &str) -> String {
    format!("node '{name}' ({})", node.op_type.as_deref().unwrap_or_default())
}

fn is_constant(node: &NodeProto) -> bool {
    node.op_type.as_deref() == Some("Constant") && is_default(node.domain.as_deref())
}

fn packed(t: &TensorProto) -> Option<u8> {
    tensor::storage(t.data_type.unwrap_or(0)).ok()?.packed
}

fn trim<T>(list: &mut Vec<Option<T>>) {
    while list.last().is_some_and(Option::is_none) {
        list.pop();
    }
}

/// A unique name for each node: its own where it has one that no earlier node has.
fn node_names(nodes: &[NodeProto]) -> Vec<String> {
    let mut taken: HashSet<String> = nodes.iter().filter_map(|n| n.name.clone()).collect();
    let mut seen = HashSet::new();
    nodes
        .iter()
        .enumerate()
        .map(|(i, n)| {
            let own = n.name.as_deref().unwrap_or_default();
            if !own.is_empty() && seen.insert(own) {
                return own.to_owned();
            }
            let base = if own.is_empty() { n.op_type.as_deref().unwrap_or_default() } else { own };
            let mut name = format!("{base}_{i}");
            while !taken.insert(name.clone()) {
                name.push('_');
            }
            name
        })
        .collect()
}

fn value_type(v: &ValueInfoProto) -> Result<(Option<DType>, Option<Shape>)> {
    let Some(t) = &v.r#type else { return Ok((None, None)) };
    let other = [
        (t.sequence_type.is_some(), "a sequence"),
        (t.map_type.is_some(), "a map"),
        (t.optional_type.is_some(), "an optional value"),
        (t.sparse_tensor_type.is_some(), "a sparse tensor"),
    ];
    if let Some((_, what)) = other.iter().find(|o| o.0) {
        return Err(Error::unsupported(format!("it is {what}; nnq works on tensors")));
    }
    let Some(t) = &t.tensor_type else { return Ok((None, None)) };
    let dtype = t.elem_type.filter(|&e| e != 0).map(tensor::value_dtype).transpose()?;
    let dim = |d: &Option<Dimension>| match d {
        Some(Dimension::Param(p)) if !p.is_empty() => Ok(Dim::sym(p)),
        // Some exporters write -1 for a size they do not know.
        None | Some(Dimension::Param(_) | Dimension::Value(-1)) => Ok(Dim::Unknown),
        Some(Dimension::Value(n)) => {
            usize::try_from(*n).map(Dim::Fixed).map_err(|_| Error::malformed(format!("a dimension of size {n}")))
        }
    };
    let shape = t.shape.as_ref().map(|s| s.dim.iter().map(|d| dim(&d.value)).collect::<Result<_>>().map(Shape));
    Ok((dtype, shape.transpose()?))
}
