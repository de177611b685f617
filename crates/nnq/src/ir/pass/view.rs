//! What passes ask about a graph while they look for something to do.
use crate::ir::{DType, Dim, Graph, Node, NodeId, Shape, Tensor, ValueId};
use std::sync::Arc;

/// A graph with its producers and readers. Made anew after each edit.
pub(super) struct View<'g> {
    pub graph: &'g Graph,
    producers: Vec<Option<NodeId>>,
    readers: Vec<Vec<(NodeId, usize)>>,
    outputs: Vec<bool>,
}

impl<'g> View<'g> {
    pub fn new(graph: &'g Graph) -> Self {
        let mut outputs = vec![false; graph.value_count()];
        for v in &graph.outputs {
            outputs[v.0 as usize] = true;
        }
        Self { graph, producers: graph.producers(), readers: graph.consumers(), outputs }
    }
    pub fn producer(&self, v: ValueId) -> Option<(NodeId, &'g Node)> {
        self.producers[v.0 as usize].map(|n| (n, self.graph.node(n)))
    }
    pub fn readers(&self, v: ValueId) -> &[(NodeId, usize)] {
        &self.readers[v.0 as usize]
    }
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs[v.0 as usize]
    }
    /// A value that a rewrite may make disappear: no graph output, and nothing rounds there.
    pub fn is_free(&self, v: ValueId) -> bool {
        let value = self.graph.value(v);
        !self.is_output(v) && value.quant.is_none() && value.dynamic.is_none()
    }
    /// Free, and read once.
    pub fn is_link(&self, v: ValueId) -> bool {
        self.is_free(v) && self.readers(v).len() == 1
    }
    /// Nobody reads it.
    pub fn is_unused(&self, v: ValueId) -> bool {
        self.readers(v).is_empty() && !self.is_output(v)
    }
    /// The content of a constant that is not quantized.
    pub fn tensor(&self, v: ValueId) -> Option<&'g Arc<Tensor>> {
        let value = self.graph.value(v);
        value.constant.as_ref().filter(|_| value.quant.is_none())
    }
    /// The content of a constant of f32 that is not quantized.
    pub fn floats(&self, v: ValueId) -> Option<(&'g [usize], &'g [f32])> {
        let t = self.tensor(v)?;
        Some((t.shape(), t.as_slice::<f32>().ok()?))
    }
    /// The number in a constant of one f32, whatever its rank.
    pub fn scalar(&self, v: ValueId) -> Option<f64> {
        match self.floats(v)? {
            (_, [x]) => Some(f64::from(*x)),
            _ => None,
        }
    }
    /// The elements of an integer constant.
    pub fn ints(&self, v: ValueId) -> Option<Vec<i64>> {
        self.tensor(v)?.to_i64s().ok()
    }
    pub fn shape(&self, v: ValueId) -> Option<&'g Shape> {
        self.graph.value(v).shape.as_ref()
    }
    pub fn rank(&self, v: ValueId) -> Option<usize> {
        self.shape(v).map(Shape::rank)
    }
    pub fn dtype(&self, v: ValueId) -> Option<DType> {
        self.graph.value(v).dtype
    }
    /// Shapes that are surely equal: every size is the same number or the same symbol.
    pub fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        match (self.shape(a), self.shape(b)) {
            (Some(a), Some(b)) => a == b && !a.0.contains(&Dim::Unknown),
            _ => false,
        }
    }
}
