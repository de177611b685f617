//! Quantization as ONNX nodes, out of annotations and back into them.
//!
//! Inside nnq a quantized network is an ordinary graph whose values carry [`QParams`](crate::ir::QParams). Files have two ways to say
//! the same:
//!
//! - [`to_qdq`]: every annotated value passes QuantizeLinear and DequantizeLinear, and every operator stays as it was. Runtimes fuse
//!   the pairs with what lies between. This is the form that most tools read.
//! - [`to_qoperator`]: products become QLinearConv, QLinearMatMul, ConvInteger and MatMulInteger, which say exactly what is computed
//!   in integers; everything else stands between DequantizeLinear and QuantizeLinear.
//!
//! In both, a value that products quantize as it comes passes DynamicQuantizeLinear, and its products are ConvInteger and
//! MatMulInteger, whose result is multiplied by both scales in real numbers.
//!
//! Recurrent layers whose inputs and states are quantized as they come have no such form in ONNX: their weights pass DequantizeLinear, the operator
//! stays, and a metadata entry `nnq.dynamic` lists the nodes, so that nnq runs them in integers again. Other runtimes compute with the same weights
//! in floating point. Likewise recurrent layers and matrix products that find a grid for each row that they read (`nnq.rows`): DynamicQuantizeLinear knows one grid for all
//! numbers.
//!
//! [`absorb`] reads both forms, and what other tools write in them, back into annotations.
//!
//! Grids of fewer than 8 bits, and those without their lowest code, are stored in the next larger element type; a metadata entry
//! `nnq.grid.<grid>` lists the tensors that hold them, and a Clip keeps computed values on them.
mod absorb;
mod build;
mod codes;
mod dynamic;
mod fold;
mod products;
mod qoperator;
mod recognise;

#[cfg(test)]
mod tests;

pub use absorb::absorb;
pub use build::to_qdq;
pub use qoperator::to_qoperator;

/// The beginning of the metadata keys that list tensors by grid.
const GRID_KEY: &str = "nnq.grid.";

/// The metadata key that lists the recurrent layers whose inputs and states are quantized as they come, on one grid for all their numbers.
const DYNAMIC_KEY: &str = "nnq.dynamic";

/// The metadata key that lists the matrix products and recurrent layers whose inputs (and states) are quantized as they come, each row on a grid of its own.
const ROWS_KEY: &str = "nnq.rows";

/// A name as a line of a list in the metadata: line breaks are written as a backslash and an n, backslashes twice.
fn line(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n")
}

/// The names of such a list. Backslashes that stand for nothing stay: files that were written before have them.
fn names(list: &str) -> impl Iterator<Item = String> {
    list.split('\n').map(|line| {
        let (mut out, mut rest) = (String::with_capacity(line.len()), line);
        while let Some(at) = rest.find('\\') {
            out.push_str(&rest[..at]);
            let (meant, length) = match rest.as_bytes().get(at + 1) {
                Some(b'n') => ("\n", 2),
                Some(b'\\') => ("\\", 2),
                _ => ("\\", 1),
            };
            out.push_str(meant);
            rest = &rest[at + length..];
        }
        out + rest
    })
}

/// Adds a node to the recurrent layers that metadata name as quantizing their inputs and states as they come.
pub(super) fn name_live_layer(metadata: &mut Vec<(String, String)>, node: &str) {
    list(metadata, DYNAMIC_KEY, node);
}

/// Adds a node to one of the lists of names in the metadata.
fn list(metadata: &mut Vec<(String, String)>, to: &str, node: &str) {
    match metadata.iter_mut().find(|(key, _)| key == to) {
        Some((_, names)) => {
            names.push('\n');
            names.push_str(&line(node));
        }
        None => metadata.push((to.into(), line(node))),
    }
}
