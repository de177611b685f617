//! Makes small graphs by hand.
use crate::{
    error::{Error, Result},
    ir::{DType, Graph, Op, Shape, Tensor, ValueId, infer, verify},
};
use std::sync::Arc;

/// Puts a graph together, mostly for tests and examples. Names are made unique; errors are kept until [`GraphBuilder::finish`].
///
/// ```
/// use nnq::ir::{DType, GraphBuilder, Op, Tensor, op::Unary};
/// let mut b = GraphBuilder::new("net");
/// let x = b.input("x", DType::F32, "N, 4");
/// let w = b.constant("w", Tensor::of(&[4, 2], vec![1.0f32; 8]));
/// let y = b.op("product", Op::MatMul, &[x, w]);
/// let y = b.op("relu", Op::Unary(Unary::Relu), &[y]);
/// b.output(y);
/// let graph = b.finish().unwrap();
/// assert_eq!(graph.value(graph.outputs[0]).shape.as_ref().unwrap().to_string(), "[N, 2]");
/// ```
pub struct GraphBuilder {
    graph: Graph,
    error: Option<Error>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Self { graph: Graph::new(name), error: None }
    }
    fn value(&mut self, name: &str, dtype: Option<DType>, shape: Option<Shape>) -> ValueId {
        let name = self.graph.fresh_name(name);
        match self.graph.add_value(&name, dtype, shape) {
            Ok(id) => id,
            Err(e) => {
                self.error.get_or_insert(e);
                ValueId(0)
            }
        }
    }
    /// An input; `shape` as it is printed: `"N, 3, 224, 224"`, with names and `?` for unknown sizes.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &str) -> ValueId {
        let shape = shape.parse().map_err(|e: Error| self.error.get_or_insert(e.at(format!("input '{name}'")))).ok();
        let id = self.value(name, Some(dtype), shape);
        self.graph.inputs.push(id);
        id
    }
    /// A constant.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.graph.add_constant(name, Arc::new(tensor))
    }
    /// A constant of rank 0.
    pub fn scalar(&mut self, name: &str, x: f32) -> ValueId {
        self.constant(name, Tensor::scalar(x))
    }
    /// A constant vector of i64: axes, shapes, positions.
    pub fn ints(&mut self, name: &str, x: &[i64]) -> ValueId {
        self.constant(name, Tensor::of(&[x.len()], x.to_vec()))
    }
    /// A node with one output; node and output are called `name`.
    pub fn op(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<_> = inputs.iter().map(|&v| Some(v)).collect();
        self.ops(name, op, &inputs, 1)[0]
    }
    /// A node with optional inputs and several outputs (at least one).
    pub fn ops(&mut self, name: &str, op: Op, inputs: &[Option<ValueId>], outputs: usize) -> Vec<ValueId> {
        let out: Vec<ValueId> = (0..outputs.max(1)).map(|_| self.value(name, None, None)).collect();
        // Value names are unique, so the first output's name is unique among nodes made here.
        let node = self.graph.value(out[0]).name.clone();
        self.graph.add_node(&node, op, inputs.to_vec(), out.iter().map(|&v| Some(v)).collect());
        out
    }
    /// Makes a value an output.
    pub fn output(&mut self, value: ValueId) -> &mut Self {
        self.graph.outputs.push(value);
        self
    }
    /// The graph so far, to annotate values.
    pub fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }
    /// The graph, verified, with types and shapes inferred.
    ///
    /// # Errors
    /// The first mistake: a malformed shape, a broken rule of the IR, shapes that do not fit.
    pub fn finish(self) -> Result<Graph> {
        let Self { mut graph, error } = self;
        if let Some(e) = error {
            return Err(e);
        }
        verify(&graph)?;
        infer(&mut graph)?;
        Ok(graph)
    }
}
