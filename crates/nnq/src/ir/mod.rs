//! Floor 1: the typed graph that everything reads and writes.
pub mod infer;
pub mod op;
pub mod pass;

mod dtype;
mod graph;
mod qtype;
mod shape;
mod tensor;

pub use dtype::DType;
pub use graph::{Graph, Node, NodeId, Patch, Value, ValueId};
pub use op::Op;
pub use qtype::{Granularity, QParams, QType};
pub use shape::{Binding, Dim, Shape};
pub use tensor::{Buf, Data, Element, Tensor, count};
