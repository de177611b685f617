//! Floor 1: the typed graph that everything reads and writes.
pub mod op;
pub mod pass;

mod build;
mod channels;
mod dtype;
mod graph;
pub mod infer;
mod qtype;
mod shape;
mod tensor;
mod text;
pub mod verify;

pub use build::GraphBuilder;
pub use channels::Channels;
pub use dtype::DType;
pub use graph::{Dynamic, Graph, Node, NodeId, Patch, Value, ValueId};
pub use infer::{bind, infer};
pub use op::Op;
pub use qtype::{Granularity, QParams, QType};
pub use shape::{Binding, Dim, Shape};
pub use tensor::{Buf, Data, Element, Tensor, count};
pub use verify::verify;
