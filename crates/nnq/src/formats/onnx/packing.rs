//! Integers of 4 and 2 bits, several of which share a byte of a file.
//!
//! ONNX stores them in row-major order, the first in the lowest bits of the first byte; a last byte that is not full is filled
//! with zeros. In memory each element has a byte of its own.
use crate::{
    error::Result,
    ir::{DType, Data, Graph, Op, Tensor, ValueId},
};
use serde::Serialize;
use std::collections::HashMap;

/// The narrowest element type in which codes of constants are written. A file gets the opset that has the types it needs; one that
/// was asked for stays as it is, and limits them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pack {
    /// Codes of up to 4 bits are int4 (opset 21).
    #[default]
    Int4,
    /// Those of up to 2 bits are int2 (opset 25). Not the default: ONNX Runtime 1.31 loads such a file without its extended optimizations only,
    /// since it makes a QLinearConv of int2, which there is not.
    Int2,
    /// A byte each, for runtimes that know no opset 21.
    Never,
}

/// The element types of fewer than 8 bits: bits, the first opset that has them, name.
const TYPES: [(u8, i64, &str); 2] = [(2, 25, "int2"), (4, 21, "int4")];

/// The bits of the narrowest element type that holds codes of `bits` bits; `None`: it has a byte or more.
pub(super) fn narrowest(bits: u8) -> Option<u8> {
    TYPES.iter().map(|t| t.0).find(|&b| bits <= b)
}

/// The first opset that has elements of so many bits, and their name.
pub(super) fn since(bits: u8) -> (i64, &'static str) {
    TYPES.iter().find(|t| t.0 == bits).map_or((0, "int8"), |t| (t.1, t.2))
}

/// The bits of each constant's elements in a file, where these are fewer than 8. Only what DequantizeLinear reads has them:
/// codes and zero points, which must be of one type.
pub(super) fn widths(graph: &Graph, pack: Pack, opset: Option<i64>) -> Result<HashMap<ValueId, u8>> {
    let least = match pack {
        Pack::Int2 => 2,
        Pack::Int4 => 4,
        Pack::Never => 8,
    };
    let open = |bits: u8| bits >= least && opset.is_none_or(|opset| opset >= since(bits).0);
    let mut widths = HashMap::new();
    let consumers = graph.consumers();
    for (id, v) in graph.values() {
        let (Some(t), Some(bits)) = (&v.constant, v.packed) else { continue };
        let known = matches!(t.dtype(), DType::I8 | DType::U8) && !graph.outputs.contains(&id);
        let codes =
            |&(node, i): &(_, usize)| matches!(graph.node(node).op, Op::DequantizeLinear { .. }) && (i == 0 || i == 2);
        if known && consumers[id.0 as usize].iter().all(codes) {
            let bits = TYPES.iter().map(|t| t.0).find(|&b| b >= bits && open(b) && fits(t, b));
            widths.extend(bits.map(|bits| (id, bits)));
        }
    }
    loop {
        let mut apart = Vec::new();
        for (_, node) in graph.nodes().filter(|(_, n)| matches!(n.op, Op::DequantizeLinear { .. })) {
            if let (Some(x), Some(z)) = (node.input(0), node.input(2))
                && widths.get(&x) != widths.get(&z)
            {
                apart.extend([x, z]);
            }
        }
        if apart.is_empty() {
            return Ok(widths);
        }
        widths.retain(|id, _| !apart.contains(id));
    }
}

/// Whether all elements are numbers of so many bits.
fn fits(t: &Tensor, bits: u8) -> bool {
    let (min, max) = match t.dtype() {
        DType::I8 => (-1 << (bits - 1), (1 << (bits - 1)) - 1),
        _ => (0, (1 << bits) - 1),
    };
    t.int_range().is_ok_and(|range| range.is_none_or(|(least, most)| least >= min && most <= max))
}

/// The bytes of elements of so many bits, from the bytes that hold one each.
pub(super) fn pack(elements: &[u8], bits: u8) -> Vec<u8> {
    let mask = (1u8 << bits) - 1;
    let byte = |some: &[u8]| some.iter().rev().fold(0, |byte, x| byte << bits | x & mask);
    elements.chunks(usize::from(8 / bits)).map(byte).collect()
}

/// `n` elements of so many bits, signed or not as `dtype` is.
pub(super) fn unpack(bytes: &[u8], bits: u8, dtype: DType, n: usize) -> Data {
    // The element is brought to the top of its byte; the shift down from there keeps its sign.
    fn all<T: Copy + Default>(bytes: &[u8], bits: u8, n: usize, down: impl Fn(u8) -> T) -> Vec<T> {
        let mut out = vec![T::default(); n];
        for (some, &byte) in out.chunks_mut(usize::from(8 / bits)).zip(bytes) {
            let mut high = 8 - bits;
            for x in some {
                *x = down(byte << high);
                high = high.wrapping_sub(bits);
            }
        }
        out
    }
    let high = 8 - bits;
    match dtype {
        DType::I8 => Data::I8(all(bytes, bits, n, |x| x as i8 >> high).into()),
        _ => Data::U8(all(bytes, bits, n, |x| x >> high).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        for (bits, dtype) in [(4, DType::I8), (4, DType::U8), (2, DType::I8), (2, DType::U8)] {
            for n in [0usize, 1, 2, 3, 4, 5, 7, 8, 513] {
                let per = usize::from(8 / bits);
                let mut bytes: Vec<u8> = (0..n.div_ceil(per)).map(|i| (i * 37 + i / 256) as u8).collect();
                if let Some(last) = bytes.last_mut().filter(|_| n % per != 0) {
                    *last &= (1 << (n % per * usize::from(bits))) - 1;
                }
                let all = unpack(&bytes, bits, dtype, n);
                assert_eq!((all.len(), all.dtype()), (n, dtype));
                assert_eq!(pack(all.as_bytes(), bits), bytes, "{bits} {dtype} {n}");
            }
        }
    }

    #[test]
    fn a_type_for_every_width() {
        let found: Vec<_> = (1..=8).map(narrowest).collect();
        assert_eq!(found, [Some(2), Some(2), Some(4), Some(4), None, None, None, None]);
        assert_eq!((since(2).0, since(4).0), (25, 21));
    }
}
