//! ONNX.
mod control;
mod external;
mod microsoft;
mod packing;
mod proto;
pub mod quantized;
mod read;
mod table;
mod tensor;
mod write;

#[cfg(test)]
mod tests;

pub(super) use external::map_file;
pub use packing::Pack;
pub use read::{read, read_bytes};
pub use table::{NEWEST as NEWEST_OPSET, OLDEST as OLDEST_OPSET};
pub use tensor::{read_tensor_bytes, read_tensor_file};
pub use write::{WriteOptions, to_bytes, write};
