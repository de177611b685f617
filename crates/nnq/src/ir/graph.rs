//! The typed graph.
use crate::{
    error::{Error, Result},
    ir::{Channels, DType, Op, QParams, Shape, Tensor},
};
use std::{collections::HashMap, sync::Arc};

/// Index of a value in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Index of a node in its graph. Nodes are kept in topological order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Of which numbers of a value a grid is found at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dynamic {
    /// Of all.
    Tensor,
    /// Of each row, the numbers along the last axis, one of its own: per token. Matrix products and recurrent layers read rows, these their states likewise;
    /// convolutions that read the value find one grid for all.
    Row,
}

/// A tensor that flows through the graph, or a constant.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique within the graph.
    pub name: String,
    /// Element type that nodes see. A quantized float value stays F32 here.
    pub dtype: Option<DType>,
    /// `None`: unknown rank.
    pub shape: Option<Shape>,
    /// The content of a constant. With `quant` set, an integer tensor here holds the codes, a float tensor the real
    /// numbers that are still to be rounded; without `quant` it is simply the constant.
    pub constant: Option<Arc<Tensor>>,
    /// The value is held as integers with these parameters: whatever produces it rounds to this grid.
    pub quant: Option<Arc<QParams>>,
    /// The value is real, but products with weights of codes read it as unsigned codes of 8 bits on grids that are found at run
    /// time from its extremes (`docs/numerics.md` section 11). Whoever else reads it reads the real numbers.
    pub dynamic: Option<Dynamic>,
    /// Bits of each element of an integer constant in a model file, 2 or 4, where several share a byte. In memory each has a
    /// byte of its own.
    pub packed: Option<u8>,
    /// What is known of its channels.
    pub channels: Option<Arc<Channels>>,
}

/// One application of an operator.
#[derive(Clone, Debug)]
pub struct Node {
    /// As in the model file; may be empty there, then made up on import; unique.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Absent optional inputs are `None`.
    pub inputs: Vec<Option<ValueId>>,
    /// Unused optional outputs are `None`.
    pub outputs: Vec<Option<ValueId>>,
}

impl Node {
    /// Input `i` when it is there.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
    /// Output `i` when it is used.
    pub fn output(&self, i: usize) -> Option<ValueId> {
        self.outputs.get(i).copied().flatten()
    }
}

/// A network: values, nodes in topological order, inputs and outputs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name of the graph in the file.
    pub name: String,
    values: Vec<Value>,
    nodes: Vec<Node>,
    /// Graph inputs in order (constants are not inputs).
    pub inputs: Vec<ValueId>,
    /// Graph outputs in order.
    pub outputs: Vec<ValueId>,
    /// Opset of the default domain the model was read with; the writer's default.
    pub opset: i64,
    /// Free text metadata of the model file (`metadata_props`), in order. A quantized model carries its recipe here.
    pub metadata: Vec<(String, String)>,
    by_name: HashMap<String, ValueId>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), opset: 21, ..Self::default() }
    }
    /// All values, in id order. Dead ones may be among them until [`Graph::compact`].
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }
    /// All nodes, in topological order.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i as u32), n))
    }
    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }
    /// Number of values.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }
    /// The value of an id of this graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }
    /// The value of an id, to annotate it. Its name is not to be changed here: see [`Graph::rename`].
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }
    /// The node of an id of this graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }
    /// The node of an id, to change its operator or inputs.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
    /// The value called `name`.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }
    /// The constant tensor behind a value.
    pub fn constant(&self, id: ValueId) -> Option<&Arc<Tensor>> {
        self.value(id).constant.as_ref()
    }
    /// `name`, or `name_1`, `name_2`, ... when it is taken.
    pub fn fresh_name(&self, name: &str) -> String {
        if !self.by_name.contains_key(name) {
            return name.into();
        }
        (1u32..).map(|i| format!("{name}_{i}")).find(|n| !self.by_name.contains_key(n)).unwrap_or_default()
    }
    /// Adds a value.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn add_value(&mut self, name: &str, dtype: Option<DType>, shape: Option<Shape>) -> Result<ValueId> {
        let id = ValueId(self.values.len() as u32);
        if self.by_name.insert(name.into(), id).is_some() {
            return Err(Error::malformed(format!("two values are called '{name}'")));
        }
        self.values.push(Value {
            name: name.into(),
            dtype,
            shape,
            constant: None,
            quant: None,
            dynamic: None,
            packed: None,
            channels: None,
        });
        Ok(id)
    }
    /// Adds a constant; the name is made unique.
    pub fn add_constant(&mut self, name: &str, tensor: Arc<Tensor>) -> ValueId {
        let name = self.fresh_name(name);
        let id = ValueId(self.values.len() as u32);
        self.by_name.insert(name.clone(), id);
        self.values.push(Value {
            name,
            dtype: Some(tensor.dtype()),
            shape: Some(Shape::fixed(tensor.shape())),
            constant: Some(tensor),
            quant: None,
            dynamic: None,
            packed: None,
            channels: None,
        });
        id
    }
    /// Whether results depend on which samples run together: a value has a grid for all its numbers that is found at run time.
    pub fn is_dynamic(&self) -> bool {
        self.values.iter().any(|v| v.dynamic == Some(Dynamic::Tensor))
    }
    /// Gives a value another name, made unique; answers the name it got.
    pub fn rename(&mut self, id: ValueId, name: &str) -> String {
        self.by_name.remove(&self.values[id.0 as usize].name);
        let name = self.fresh_name(name);
        self.by_name.insert(name.clone(), id);
        self.values[id.0 as usize].name.clone_from(&name);
        name
    }
    /// Appends a node; its inputs must have been produced before (checked by the verifier).
    pub fn add_node(
        &mut self,
        name: &str,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
    ) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { name: name.into(), op, inputs, outputs });
        id
    }
    /// Which node produces each value.
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut p = vec![None; self.values.len()];
        for (id, node) in self.nodes() {
            for v in node.outputs.iter().flatten() {
                p[v.0 as usize] = Some(id);
            }
        }
        p
    }
    /// Which nodes read each value (a node that reads it twice stands there twice), and at which input.
    pub fn consumers(&self) -> Vec<Vec<(NodeId, usize)>> {
        let mut c = vec![Vec::new(); self.values.len()];
        for (id, node) in self.nodes() {
            for (i, v) in node.inputs.iter().enumerate() {
                if let Some(v) = v {
                    c[v.0 as usize].push((id, i));
                }
            }
        }
        c
    }
    /// Applies an edit.
    ///
    /// # Errors
    /// When the patched graph has a cycle.
    pub fn apply(&mut self, patch: Patch) -> Result<()> {
        for (from, to) in &patch.replace {
            for node in &mut self.nodes {
                for v in node.inputs.iter_mut().flatten() {
                    if v == from {
                        *v = *to;
                    }
                }
            }
            for v in &mut self.outputs {
                if v == from {
                    *v = *to;
                }
            }
        }
        let mut nodes: Vec<Node> = std::mem::take(&mut self.nodes)
            .into_iter()
            .enumerate()
            .filter(|(i, _)| !patch.remove.contains(&NodeId(*i as u32)))
            .map(|(_, n)| n)
            .collect();
        nodes.extend(patch.add);
        self.nodes = nodes;
        self.sort()
    }
    /// Puts nodes into topological order, keeping the present order where it is one.
    ///
    /// # Errors
    /// Names the nodes of a cycle.
    pub fn sort(&mut self) -> Result<()> {
        let producers = self.producers();
        let mut state = vec![0u8; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        for root in 0..self.nodes.len() {
            // Iterative depth-first search: (node, next input to look at).
            let mut stack = vec![(root, 0usize)];
            if state[root] != 0 {
                continue;
            }
            state[root] = 1;
            while let Some((n, i)) = stack.pop() {
                if i == self.nodes[n].inputs.len() {
                    state[n] = 2;
                    order.push(n);
                    continue;
                }
                stack.push((n, i + 1));
                let Some(p) = self.nodes[n].inputs[i].and_then(|v| producers[v.0 as usize]) else { continue };
                let p = p.0 as usize;
                match state[p] {
                    0 => {
                        state[p] = 1;
                        stack.push((p, 0));
                    }
                    1 => {
                        let from = stack.iter().position(|s| s.0 == p).unwrap_or(0);
                        let names: Vec<_> = stack[from..].iter().map(|s| self.nodes[s.0].name.as_str()).collect();
                        return Err(Error::malformed(format!("the graph has a cycle through nodes {names:?}")));
                    }
                    _ => {}
                }
            }
        }
        if order.iter().enumerate().any(|(i, &n)| i != n) {
            let mut slots: Vec<Option<Node>> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
            self.nodes = order.into_iter().filter_map(|n| slots[n].take()).collect();
        }
        Ok(())
    }
    /// Drops nodes that no output needs and values that nobody mentions; ids change.
    pub fn compact(&mut self) {
        let producers = self.producers();
        let mut live_node = vec![false; self.nodes.len()];
        let mut stack: Vec<ValueId> = self.outputs.clone();
        while let Some(v) = stack.pop() {
            if let Some(n) = producers[v.0 as usize]
                && !std::mem::replace(&mut live_node[n.0 as usize], true)
            {
                stack.extend(self.nodes[n.0 as usize].inputs.iter().flatten());
            }
        }
        let mut i = 0;
        self.nodes.retain(|_| {
            i += 1;
            live_node[i - 1]
        });
        let mut live = vec![false; self.values.len()];
        let mentioned = self.nodes.iter().flat_map(|n| n.inputs.iter().chain(&n.outputs).flatten());
        for v in mentioned.chain(&self.inputs).chain(&self.outputs) {
            live[v.0 as usize] = true;
        }
        let mut map = vec![ValueId(u32::MAX); self.values.len()];
        let mut values = Vec::new();
        for (i, value) in std::mem::take(&mut self.values).into_iter().enumerate() {
            if live[i] {
                map[i] = ValueId(values.len() as u32);
                values.push(value);
            }
        }
        self.values = values;
        self.by_name = self.values.iter().enumerate().map(|(i, v)| (v.name.clone(), ValueId(i as u32))).collect();
        let fix = |v: &mut ValueId| *v = map[v.0 as usize];
        self.inputs.iter_mut().for_each(fix);
        self.outputs.iter_mut().for_each(fix);
        for node in &mut self.nodes {
            node.inputs.iter_mut().flatten().for_each(fix);
            node.outputs.iter_mut().flatten().for_each(fix);
        }
    }
}

/// An edit of a graph: first readers are rewired, then nodes removed, then nodes added, then the order restored. Values that the
/// new nodes mention are added to the graph beforehand.
#[derive(Default)]
pub struct Patch {
    replace: Vec<(ValueId, ValueId)>,
    remove: std::collections::HashSet<NodeId>,
    add: Vec<Node>,
}

impl Patch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Every reader (and graph output) of `from` reads `to` instead. Nodes added by this patch are not rewired.
    pub fn replace(&mut self, from: ValueId, to: ValueId) -> &mut Self {
        self.replace.push((from, to));
        self
    }
    /// Removes a node.
    pub fn remove(&mut self, node: NodeId) -> &mut Self {
        self.remove.insert(node);
        self
    }
    /// Adds a node.
    pub fn add(&mut self, node: Node) -> &mut Self {
        self.add.push(node);
        self
    }
    /// Changes nothing.
    pub fn is_empty(&self) -> bool {
        self.replace.is_empty() && self.remove.is_empty() && self.add.is_empty()
    }
}

impl Graph {
    /// The real numbers of a constant: codes are dequantized (`docs/numerics.md` section 2), anything else is itself.
    ///
    /// # Errors
    /// When the value is no constant or its parameters do not fit it.
    pub fn real_constant(&self, id: ValueId) -> Result<Arc<Tensor>> {
        let value = self.value(id);
        let tensor =
            value.constant.as_ref().ok_or_else(|| Error::shape(format!("value '{}' is no constant", value.name)))?;
        let Some(q) = value.quant.as_ref().filter(|_| tensor.dtype().is_int()) else { return Ok(tensor.clone()) };
        q.check(Some(tensor.shape())).map_err(|e| e.at(format!("value '{}'", value.name)))?;
        let codes = tensor.to_i64s()?;
        let real = codes
            .iter()
            .enumerate()
            .map(|(i, &c)| {
                let k = q.index(tensor.shape(), i);
                nnq_kernels::round::dequantize_f32(c as i32, q.scale[k], q.zero_point[k])
            })
            .collect();
        Ok(Arc::new(Tensor::of::<f32>(tensor.shape(), real)))
    }
}
