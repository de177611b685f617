//! Convolution with windows of one pixel, on the processor: a product of matrices for each image, in burn's own layout.
//!
//! With an image `X`, `[channels, pixels]`, weights `W`, `[outputs, channels]`, and the output's gradient `G`: `Y = W X + b`, `dX = W' G`, `dW = G X'`.
//! Pixels are the columns, so nothing is turned but small matrices of weights.
use super::{Gradient, flex, sizes::Sizes};
use crate::fake::flex::{contiguous, like};
use burn::backend::{Flex, flex::FlexTensor};
use nnq_kernels::float::{Epilogue, FloatIsa, PackedProduct, Place, in_turn};
use rayon::prelude::*;

impl Sizes {
    /// Each output pixel reads the input's pixel at its place.
    pub(super) fn is_pointwise(&self) -> bool {
        self.groups == 1
            && self.kernel == [1, 1]
            && self.stride == [1, 1]
            && self.begin == [0, 0]
            && self.output == self.input
    }
}

/// `out = rows times image`: `rows` is `[n, inner]`, `image` `[inner, pixels]`, `done` works on finished runs of the output.
fn product(
    rows: &[f32],
    image: &[f32],
    [n, inner, pixels]: [usize; 3],
    done: Option<nnq_kernels::float::Done<'_>>,
    out: &mut [f32],
) {
    let packed = PackedProduct::pack(FloatIsa::best(), image, [pixels, 1, inner], [1, 0, pixels]);
    let epilogue = Epilogue { done, ..Epilogue::default() };
    packed.run(&Place::matrix(n, inner, pixels), rows, &epilogue, out, 1, &in_turn);
}

/// As [`crate::backend::Kernels::convolve`].
pub(super) fn forward(s: &Sizes, x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let (input, w, b) = (contiguous(x), contiguous(weight), contiguous(bias));
    let (channels, outputs, pixels) = (s.channels, s.outputs, s.pixels());
    let add = |first: usize, run: &mut [f32]| {
        for (row, run) in (first / pixels..).zip(run.chunks_mut(pixels)) {
            run.iter_mut().for_each(|y| *y += b[row]);
        }
    };
    // A live normalisation follows products without biases.
    let add: Option<nnq_kernels::float::Done<'_>> = if b.iter().all(|b| *b == 0.0) { None } else { Some(&add) };
    let mut out = vec![0.0f32; s.samples * outputs * pixels];
    let images = input.par_chunks(channels * pixels);
    out.par_chunks_mut(outputs * pixels)
        .zip(images)
        .for_each(|(out, x)| product(&w, x, [outputs, channels, pixels], add, out));
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
    let (channels, outputs, pixels) = (s.channels, s.outputs, s.pixels());
    let mut turned = vec![0.0f32; channels * outputs];
    super::images::turn(&w, outputs, channels, &mut turned);
    let to_x = wanted[0].then(|| {
        let mut out = vec![0.0f32; s.samples * channels * pixels];
        out.par_chunks_mut(channels * pixels)
            .zip(g.par_chunks(outputs * pixels))
            .for_each(|(out, g)| product(&turned, g, [channels, outputs, pixels], None, out));
        like(out, x)
    });
    let to_w = wanted[1].then(|| {
        // A chunk of images is one sum; chunks are added in their order.
        let one = |(x, g): (&[f32], &[f32])| {
            let mut sums = vec![0.0f32; channels * outputs];
            let mut old = sums.clone();
            for (x, g) in x.chunks_exact(channels * pixels).zip(g.chunks_exact(outputs * pixels)) {
                let packed = PackedProduct::pack(FloatIsa::best(), x, [channels, 1, pixels], [pixels, 0, 1]);
                let epilogue = Epilogue { residual: Some(&old), ..Epilogue::default() };
                packed.run(&Place::matrix(outputs, pixels, channels), g, &epilogue, &mut sums, 1, &in_turn);
                old.copy_from_slice(&sums);
            }
            sums
        };
        let images = input.par_chunks(flex::TOGETHER * channels * pixels);
        let parts: Vec<Vec<f32>> = images.zip(g.par_chunks(flex::TOGETHER * outputs * pixels)).map(one).collect();
        let mut all = vec![0.0f64; channels * outputs];
        for part in &parts {
            all.iter_mut().zip(part).for_each(|(a, p)| *a += f64::from(*p));
        }
        like(all.into_iter().map(|x| x as f32).collect(), weight)
    });
    let to_b = wanted[2].then(|| like(super::sums(&g, outputs, pixels), bias));
    [to_x, to_w, to_b]
}
