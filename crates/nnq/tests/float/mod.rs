//! The float executor against references written from the text of the ONNX specification: plain loops, one output element at
//! a time, in binary64.
// Loops are written as the specification writes them.
#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod convolution;
mod hostile;
mod matrix;
mod models;
mod normalisation;
mod pooling;
mod quantized;
mod recurrent;
mod session;

use nnq::{
    exec::float::{Ctx, eval},
    ir::{Op, Tensor},
};

/// Numbers in (-1, 1) from a seed.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::of(shape, noise(shape.iter().product(), seed))
}

fn double(t: &Tensor) -> Tensor {
    Tensor::of(t.shape(), t.to_f32s().into_iter().map(f64::from).collect())
}

/// One output of one operator.
fn one(op: Op, x: &[&Tensor]) -> nnq::Result<Tensor> {
    let x: Vec<_> = x.iter().map(|t| Some(*t)).collect();
    eval(&op, &x, 1, &Ctx::new()).map(|mut y| y.swap_remove(0))
}

/// All index vectors of a shape, in row-major order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &n in shape {
        all = all.into_iter().flat_map(|i| (0..n).map(move |j| [&i[..], &[j]].concat())).collect();
    }
    all
}

fn flat(index: &[usize], shape: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |at, (&i, &n)| at * n + i)
}

/// The position `o * stride + k * dilation - pad` on each axis when all of them are inside `input`.
fn under(
    o: &[usize],
    k: &[usize],
    strides: &[usize],
    dilations: &[usize],
    begin: &[i64],
    input: &[usize],
) -> Option<Vec<usize>> {
    (0..o.len())
        .map(|a| {
            let at = (o[a] * strides[a] + k[a] * dilations[a]) as i64 - begin[a];
            usize::try_from(at).ok().filter(|&i| i < input[a])
        })
        .collect()
}

/// Each number within `bound` (absolute, per element) of the reference.
fn close(y: &Tensor, shape: &[usize], reference: &[(f64, f64)]) {
    assert_eq!(y.shape(), shape);
    let y: Vec<f64> = match y.as_slice::<f64>() {
        Ok(y) => y.to_vec(),
        Err(_) => y.to_f32s().into_iter().map(f64::from).collect(),
    };
    for (i, (&y, &(want, bound))) in y.iter().zip(reference).enumerate() {
        assert!((y - want).abs() <= bound, "element {i} of {shape:?}: {y}, expected {want} +- {bound:e}");
    }
}
