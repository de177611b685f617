//! Convolution in which each output channel reads one input channel, on the processor.
//!
//! Planes stay as burn has them, channels first: a tap of the window adds a row of the image, moved and times its weight, to a row of the output. Forward goes from image to output,
//! the gradient of the input the other way; that of a weight is the product of both rows. Each plane is one task's; sums over samples are taken in their order.
use super::{Gradient, flex, sizes::Sizes};
use crate::fake::flex::{contiguous, like};
use burn::backend::{Flex, flex::FlexTensor};
use rayon::prelude::*;
use std::ops::Range;

/// A row of the output that a row of taps reads: which one of the input.
struct Row {
    output: usize,
    input: usize,
    tap: usize,
}

impl Sizes {
    /// Output channels for each input channel.
    fn times(&self) -> usize {
        self.outputs / self.channels
    }
    /// The outputs along an axis whose tap `k` falls into the input.
    fn valid(&self, axis: usize, k: usize) -> Range<usize> {
        let (stride, begin, at) = (self.stride[axis], self.begin[axis], k * self.dilation[axis]);
        let from = begin.saturating_sub(at).div_ceil(stride);
        let to = (self.input[axis] + begin).saturating_sub(at).div_ceil(stride).min(self.output[axis]);
        from..to.max(from)
    }
    /// Where the tap `k` of output `o` lies.
    fn at(&self, axis: usize, o: usize, k: usize) -> usize {
        o * self.stride[axis] + k * self.dilation[axis] - self.begin[axis]
    }
    /// Every pair of rows, output by output.
    fn rows(&self) -> Vec<Row> {
        let valid: Vec<Range<usize>> = (0..self.kernel[0]).map(|ky| self.valid(0, ky)).collect();
        let of = |output: usize| {
            let taps = valid.iter().enumerate().filter(move |(_, v)| v.contains(&output));
            taps.map(move |(tap, _)| Row { output, input: self.at(0, output, tap), tap })
        };
        (0..self.output[0]).flat_map(of).collect()
    }
    /// For each tap of a row: the outputs that it has a number for, and where the first of them lies in the input's row.
    fn columns(&self) -> Vec<(Range<usize>, usize)> {
        let of = |kx: usize| {
            let valid = self.valid(1, kx);
            let first = if valid.is_empty() { 0 } else { self.at(1, valid.start, kx) };
            (valid, first)
        };
        (0..self.kernel[1]).map(of).collect()
    }
}

/// `y += a x`, every `step`-th of `x`.
fn add(y: &mut [f32], a: f32, x: &[f32], step: usize) {
    if step == 1 {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
    } else {
        y.iter_mut().zip(x.iter().step_by(step)).for_each(|(y, x)| *y += a * x);
    }
}

/// `y += a x`, to every `step`-th of `y`.
fn spread(y: &mut [f32], a: f32, x: &[f32], step: usize) {
    if step == 1 {
        add(y, a, x, 1);
    } else {
        y.iter_mut().step_by(step).zip(x).for_each(|(y, x)| *y += a * x);
    }
}

/// Lanes of a sum, so that the compiler vectorises it.
const LANES: usize = 8;

/// The sum of the products of `x` and every `step`-th of `y`.
fn dot(x: &[f32], y: &[f32], step: usize) -> f32 {
    if step != 1 {
        return x.iter().zip(y.iter().step_by(step)).map(|(x, y)| x * y).sum();
    }
    let mut lanes = [0.0f32; LANES];
    let (whole, y) = (x.chunks_exact(LANES), &y[..x.len()]);
    let rest = whole.remainder().iter().zip(&y[x.len() - whole.remainder().len()..]).map(|(x, y)| x * y).sum::<f32>();
    for (x, y) in whole.zip(y.chunks_exact(LANES)) {
        for k in 0..LANES {
            lanes[k] += x[k] * y[k];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// As [`crate::backend::Kernels::convolve`].
pub(super) fn forward(s: &Sizes, x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let (input, w, b) = (contiguous(x), contiguous(weight), contiguous(bias));
    let (outputs, times) = (s.outputs, s.times());
    let (rows, columns) = (s.rows(), s.columns());
    let mut out = vec![0.0f32; s.samples * outputs * s.outs()];
    out.par_chunks_mut(s.outs()).enumerate().for_each(|(i, out)| {
        let (sample, o) = (i / outputs, i % outputs);
        let x = &input[(sample * s.channels + o / times) * s.pixels()..][..s.pixels()];
        out.fill(b[o]);
        for row in &rows {
            let (x, y) =
                (&x[row.input * s.input[1]..][..s.input[1]], &mut out[row.output * s.output[1]..][..s.output[1]]);
            for (kx, (valid, first)) in columns.iter().enumerate() {
                add(&mut y[valid.clone()], w[o * s.taps() + row.tap * s.kernel[1] + kx], &x[*first..], s.stride[1]);
            }
        }
    });
    flex::tensor(out, [s.samples, outputs, s.output[0], s.output[1]])
}

/// As [`crate::backend::Kernels::convolve_backward`].
pub(super) fn backward(
    s: &Sizes,
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    grad: &FlexTensor,
    wanted: [bool; 3],
) -> Gradient<Flex> {
    let (input, w, g) = (contiguous(x), contiguous(weight), contiguous(grad));
    let (outputs, times) = (s.outputs, s.times());
    let (rows, columns) = (s.rows(), s.columns());
    let gradient = |sample: usize, o: usize| &g[(sample * outputs + o) * s.outs()..][..s.outs()];
    let to_x = wanted[0].then(|| {
        let mut out = vec![0.0f32; s.samples * s.channels * s.pixels()];
        out.par_chunks_mut(s.pixels()).enumerate().for_each(|(i, out)| {
            let (sample, c) = (i / s.channels, i % s.channels);
            for o in c * times..(c + 1) * times {
                let g = gradient(sample, o);
                for row in &rows {
                    let y = &g[row.output * s.output[1]..][..s.output[1]];
                    let x = &mut out[row.input * s.input[1]..][..s.input[1]];
                    for (kx, (valid, first)) in columns.iter().enumerate() {
                        let a = w[o * s.taps() + row.tap * s.kernel[1] + kx];
                        spread(&mut x[*first..], a, &y[valid.clone()], s.stride[1]);
                    }
                }
            }
        });
        like(out, x)
    });
    let to_w = wanted[1].then(|| {
        let mut out = vec![0.0f32; outputs * s.taps()];
        out.par_chunks_mut(s.taps()).enumerate().for_each(|(o, out)| {
            let mut sums = vec![0.0f64; s.taps()];
            for sample in 0..s.samples {
                let g = gradient(sample, o);
                let x = &input[(sample * s.channels + o / times) * s.pixels()..][..s.pixels()];
                for row in &rows {
                    let y = &g[row.output * s.output[1]..][..s.output[1]];
                    let x = &x[row.input * s.input[1]..][..s.input[1]];
                    for (kx, (valid, first)) in columns.iter().enumerate() {
                        let sum = dot(&y[valid.clone()], &x[*first..], s.stride[1]);
                        sums[row.tap * s.kernel[1] + kx] += f64::from(sum);
                    }
                }
            }
            out.iter_mut().zip(sums).for_each(|(o, s)| *o = s as f32);
        });
        like(out, weight)
    });
    let to_b = wanted[2].then(|| like(super::sums(&g, outputs, s.outs()), bias));
    [to_x, to_w, to_b]
}
