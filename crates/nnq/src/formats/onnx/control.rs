//! If, Loop and Scan, in and out: graphs within nodes.
//!
//! In the file an inner graph reads values around it by name. In the IR it is closed ([`Control`]): constants around it are its own, everything
//! else comes in as an input of the node.
use super::{
    external::External,
    proto::{AttributeProto, GraphProto, NodeProto, attribute as kind},
    read::Reader,
    table::Attrs,
    tensor,
    write::{inner_nodes, value_info},
};
use crate::{
    error::{At, Error, Result},
    ir::{Graph, Node, Op, Tensor, ValueId, op::Control},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Graphs within graphs within graphs: no real network goes deeper.
const MOST_NESTED: usize = 6;

/// Whether a node holds graphs that nnq reads.
pub(super) fn holds_graphs(p: &NodeProto) -> bool {
    matches!(p.op_type.as_deref(), Some("If" | "Loop" | "Scan"))
}

/// What a graph reads from around it, in the order in which it does.
fn free_names(graph: &GraphProto, found: &mut Vec<String>) {
    let mut own: HashSet<&str> = HashSet::new();
    own.extend(graph.input.iter().filter_map(|v| v.name.as_deref()));
    own.extend(graph.initializer.iter().filter_map(|t| t.name.as_deref()));
    own.extend(graph.node.iter().flat_map(|n| &n.output).map(String::as_str));
    let mut names: Vec<String> = Vec::new();
    for node in &graph.node {
        names.extend(node.input.iter().cloned());
        node.attribute.iter().filter_map(|a| a.g.as_deref()).for_each(|g| free_names(g, &mut names));
    }
    names.extend(graph.output.iter().filter_map(|o| o.name.clone()));
    let mut seen: HashSet<String> = found.iter().cloned().collect();
    for name in names {
        if !name.is_empty() && !own.contains(&*name) && seen.insert(name.clone()) {
            found.push(name);
        }
    }
}

impl Reader<'_> {
    /// A node that holds graphs.
    pub(super) fn control(&mut self, p: &NodeProto, name: &str) -> Result<Node> {
        if self.depth >= MOST_NESTED {
            return Err(Error::unsupported(format!("control flow within control flow, {} deep", self.depth + 1)));
        }
        let op_type = p.op_type.as_deref().unwrap_or_default();
        let mut graphs: HashMap<&str, &GraphProto> = HashMap::new();
        let mut others = Vec::new();
        for a in &p.attribute {
            match (&a.g, a.name.as_deref()) {
                (Some(g), Some(name @ ("then_branch" | "else_branch" | "body"))) => drop(graphs.insert(name, g)),
                _ => others.push(a),
            }
        }
        let names: &[&'static str] = if op_type == "If" { &["then_branch", "else_branch"] } else { &["body"] };
        let mut free = Vec::new();
        for name in names {
            let g = graphs.get(name).ok_or_else(|| Error::malformed(format!("attribute '{name}' is missing")))?;
            free_names(g, &mut free);
        }
        let mut inputs = Vec::with_capacity(p.input.len() + free.len());
        for name in &p.input {
            inputs.push(self.input(name).transpose()?);
        }
        let own = match op_type {
            "If" => 1,
            "Loop" => 2.max(inputs.len()),
            _ => inputs.len(),
        };
        inputs.resize(own, None);
        // Constants go inside; the rest comes in.
        let mut outside = Vec::new();
        for name in free {
            let id = self.input(&name).transpose()?.ok_or_else(|| Error::internal("a name is empty"))?;
            outside.push((name, id));
        }
        inputs.extend(outside.iter().filter(|o| self.graph.constant(o.1).is_none()).map(|o| Some(o.1)));
        let mut inner = Vec::new();
        for name in names {
            let graph = self.inner(graphs[name], &outside).at(|| format!("in '{name}'"))?;
            inner.push(Arc::new(graph));
        }
        let mut inner = inner.into_iter();
        let mut next = || inner.next().ok_or_else(|| Error::internal("a graph is missing"));
        let mut control = match op_type {
            "If" => Control::If { then_branch: next()?, else_branch: next()? },
            "Loop" => Control::Loop { body: next()?, carried: own - 2 },
            _ => Control::Scan { body: next()?, inputs: Vec::new(), outputs: Vec::new() },
        };
        let mut external = External::none();
        let mut attrs = Attrs::reading(&self.graph, self.opset, inputs, p.output.len(), others, &mut external);
        scan(&mut control, own, &mut attrs)?;
        let inputs = std::mem::take(&mut attrs.inputs);
        attrs.finish()?;
        let outputs = p.output.iter().map(|o| self.graph.find(o).filter(|_| !o.is_empty())).collect();
        Ok(Node { name: name.to_owned(), op: Op::Control(control), inputs, outputs })
    }

    /// An inner graph; `outside` are names around it.
    fn inner(&mut self, proto: &GraphProto, outside: &[(String, ValueId)]) -> Result<Graph> {
        let mut graph = Graph::new(proto.name.as_deref().unwrap_or_default());
        graph.opset = self.opset;
        let external = std::mem::replace(&mut self.external, External::none());
        let mut reader = Reader { graph, proto, opset: self.opset, external, depth: self.depth + 1 };
        let result = reader.begin().and_then(|()| {
            for (name, id) in outside {
                let value = self.graph.value(*id);
                let id = reader.declare(name, value.dtype, value.shape.clone())?;
                if value.constant.is_some() {
                    let inner = reader.graph.value_mut(id);
                    (inner.constant, inner.packed) = (value.constant.clone(), value.packed);
                } else {
                    reader.graph.inputs.push(id);
                }
            }
            reader.nodes()
        });
        self.external = std::mem::replace(&mut reader.external, External::none());
        result.map(|()| reader.graph)
    }
}

/// A list of integers in which 0 everywhere is the default.
fn list(key: &'static str, n: usize, a: &mut Attrs, v: &mut Vec<i64>) -> Result<()> {
    if !a.is_reading() && v.iter().all(|&i| i == 0) {
        return Ok(());
    }
    a.ints(key, v)?;
    if v.is_empty() {
        v.resize(n, 0);
    }
    if v.len() != n {
        return Err(Error::malformed(format!("attribute '{key}' has {} entries, expected {n}", v.len())));
    }
    Ok(())
}

/// The attributes of Scan.
fn scan(control: &mut Control, own: usize, a: &mut Attrs) -> Result<()> {
    let Control::Scan { body, inputs, outputs } = control else { return Ok(()) };
    if a.is_reading() && a.opset < 9 {
        return Err(
            Error::unsupported("Scan of opset 8, which has a batch").cure("export the model at opset 9 or newer")
        );
    }
    let mut sequences = inputs.len();
    a.size("num_scan_inputs", None, &mut sequences)?;
    let results = own.checked_sub(sequences).and_then(|states| body.outputs.len().checked_sub(states));
    let Some(results) = results else {
        return Err(Error::malformed(format!(
            "{sequences} sequences among {own} inputs, with a body of {} outputs",
            body.outputs.len()
        )));
    };
    for (n, how, axes, back) in [
        (sequences, inputs, "scan_input_axes", "scan_input_directions"),
        (results, outputs, "scan_output_axes", "scan_output_directions"),
    ] {
        let mut ways: Vec<i64> = how.iter().map(|h| i64::from(h.1)).collect();
        let mut places: Vec<i64> = how.iter().map(|h| h.0).collect();
        list(back, n, a, &mut ways)?;
        list(axes, n, a, &mut places)?;
        *how = places.into_iter().zip(ways.iter().map(|&w| w != 0)).collect();
    }
    Ok(())
}

/// Names of what is around an inner graph, with the tensors of constants.
pub(super) type Names = HashMap<String, Option<Arc<Tensor>>>;

/// The names of a graph.
pub(super) fn names(graph: &Graph) -> Names {
    graph.values().map(|(_, v)| (v.name.clone(), v.constant.clone())).collect()
}

/// A node with its inner graphs, for a file, and the constants of `graph` that they read. `outer` has the names of what is around them.
pub(super) fn write(
    graph: &Graph,
    node: &Node,
    control: &Control,
    opset: i64,
    outer: &Names,
) -> Result<(NodeProto, Vec<ValueId>)> {
    let captured = control.captured(node.inputs.len());
    let own = node.inputs.len() - captured;
    let name = |v: &Option<ValueId>| v.map_or_else(String::new, |v| graph.value(v).name.clone());
    let around: Vec<String> = node.inputs[own..].iter().map(name).collect();
    let mut control = control.clone();
    let mut attrs = Attrs::writing(graph, opset, node.inputs.clone(), node.outputs.len());
    scan(&mut control, own, &mut attrs)?;
    let mut attribute = attrs.finish()?;
    let mut shared = Vec::new();
    for (key, inner) in control.graphs() {
        let (inner, constants) = inner_graph(inner, &around, opset, outer).at(|| format!("in '{key}'"))?;
        shared.extend(constants.iter().filter_map(|name| graph.find(name)));
        attribute.push(AttributeProto {
            name: Some(key.into()),
            kind: Some(kind::GRAPH),
            g: Some(Box::new(inner)),
            ..AttributeProto::default()
        });
    }
    let mut input: Vec<String> = node.inputs[..own].iter().map(name).collect();
    while input.last().is_some_and(String::is_empty) {
        input.pop();
    }
    let node = NodeProto {
        input,
        output: node.outputs.iter().map(name).collect(),
        name: Some(node.name.clone()),
        op_type: Some(node.op.name().into()),
        attribute,
        ..NodeProto::default()
    };
    Ok((node, shared))
}

/// The last inputs get the names that they have outside, and constants that are outside too stay there: their names come second. Nothing
/// else has a name from there.
fn inner_graph(graph: &Graph, around: &[String], opset: i64, outer: &Names) -> Result<(GraphProto, Vec<String>)> {
    let mut graph = graph.clone();
    graph.compact();
    let own = graph.inputs.len() - around.len();
    let ids: Vec<ValueId> = graph.values().map(|(id, _)| id).collect();
    let mut shared = HashSet::new();
    for id in ids {
        let (name, own) = (graph.value(id).name.clone(), graph.value(id).constant.as_ref());
        match (outer.get(&name), own) {
            (None, _) => continue,
            (Some(Some(a)), Some(b)) if Arc::ptr_eq(a, b) => drop(shared.insert(id)),
            _ => {
                let free = |n: &String| !outer.contains_key(n) && graph.find(n).is_none();
                let fresh = (1u32..).map(|i| format!("{name}_inner{i}")).find(free);
                graph.rename(id, &fresh.unwrap_or_default());
            }
        }
    }
    for (&id, name) in graph.inputs.clone()[own..].iter().zip(around) {
        graph.rename(id, name);
    }
    let mut all = outer.clone();
    all.extend(names(&graph));
    let (node, used) = inner_nodes(&graph, opset, all)?;
    let constants =
        || graph.values().filter(|(id, v)| v.constant.is_some() && (used.contains(id) || graph.outputs.contains(id)));
    let outside = constants().filter(|(id, _)| shared.contains(id)).map(|(_, v)| v.name.clone()).collect();
    let initializer = constants()
        .filter(|(id, _)| !shared.contains(id))
        .filter_map(|(_, v)| v.constant.as_ref().map(|t| tensor::to_proto(&v.name, t)))
        .collect();
    let proto = GraphProto {
        name: Some(if graph.name.is_empty() { "inner".into() } else { graph.name.clone() }),
        node,
        initializer,
        input: graph.inputs[..own].iter().map(|&v| value_info(graph.value(v))).collect(),
        output: graph.outputs.iter().map(|&v| value_info(graph.value(v))).collect(),
        ..GraphProto::default()
    };
    Ok((proto, outside))
}
