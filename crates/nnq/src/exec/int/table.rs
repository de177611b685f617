//! 256-entry tables over stored codes (numerics section 6).
use super::offset;
use crate::exec::lower::{Grid, Pointwise};
use nnq_kernels::round::{Dyadic, requantize_dyadic};

fn build(from: Grid, to: Grid, f: impl Fn(i32) -> i32) -> Box<[u8; 256]> {
    let (a, b) = (offset(from.qtype.signed), offset(to.qtype.signed));
    let mut table = Box::new([0u8; 256]);
    for (stored, entry) in table.iter_mut().enumerate() {
        // Stored bytes outside a grid of fewer bits never occur.
        let q = (stored as i32 - a).clamp(from.qtype.min(), from.qtype.max());
        *entry = (f(q) + b).clamp(0, 255) as u8;
    }
    table
}

pub(super) fn pointwise(f: Pointwise, from: Grid, to: Grid) -> Box<[u8; 256]> {
    build(from, to, |q| to.quantize(f.apply(from.dequantize(q))))
}

pub(super) fn regrid(m: Dyadic, from: Grid, to: Grid) -> Box<[u8; 256]> {
    let full = to.full();
    build(from, to, |q| requantize_dyadic(q - from.zero, m, to.zero, full.lo, full.hi))
}
