//! Convolution on the processor, with the float kernels of `nnq-kernels`.
//!
//! Images go through one by one, each in a thread's own buffers, channels last. Forward is the kernel itself. The gradient of the input is a convolution of
//! the output's gradient with the weights turned around. That of the weights is, for each tap of the window, a matrix product over the pixels: with
//! images padded and the output's gradient spread over the same rows, a tap is a shift of the flat image. Sums over images are taken in chunks
//! of a fixed number, added in order: no result depends on threads.
use super::{Gradient, Seen, depthwise, images, pointwise, sizes::Sizes};
use crate::fake::flex::{contiguous, like};
use burn::backend::{
    Bytes, DType, Flex, Shape,
    flex::{FlexTensor, Layout},
    ops::{ConvOptions, ModuleOps as _},
};
use nnq_kernels::float::{Epilogue, FloatIsa, PackedProduct, Place, in_turn};
use rayon::prelude::*;

/// Images whose products for the weights' gradient are one sum.
pub(super) const TOGETHER: usize = 8;

// What is without groups.
impl Sizes {
    /// Of one image.
    fn place(&self) -> Place {
        Place {
            images: 1,
            input: self.input,
            channels: self.channels,
            output: self.output,
            out_channels: self.outputs,
            kernel: self.kernel,
            stride: self.stride,
            dilation: self.dilation,
            begin: self.begin.map(|b| b as i64),
        }
    }
    /// The output with `stride - 1` zeros between its pixels.
    fn spread(&self) -> [usize; 2] {
        [0, 1].map(|i| (self.output[i] - 1) * self.stride[i] + 1)
    }
    /// The convolution that gives the gradient of the input.
    fn back(&self) -> Place {
        Place {
            images: 1,
            input: self.spread(),
            channels: self.outputs,
            output: self.input,
            out_channels: self.channels,
            kernel: self.kernel,
            stride: [1, 1],
            dilation: self.dilation,
            begin: [0, 1].map(|i| (self.dilation[i] * (self.kernel[i] - 1)) as i64 - self.begin[i] as i64),
        }
    }
    /// Rows and columns of an image that holds every tap of every output.
    fn padded(&self) -> [usize; 2] {
        [0, 1].map(|i| self.spread()[i] + self.dilation[i] * (self.kernel[i] - 1))
    }
}

pub(super) fn tensor(numbers: Vec<f32>, shape: [usize; 4]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(Shape::from(shape)), DType::F32)
}

/// As [`crate::backend::Kernels::convolve`].
pub fn forward(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, options: ConvOptions<2>) -> FlexTensor {
    let s = match Sizes::new(&x, &weight, &options) {
        Some(s) if s.is_depthwise() => return depthwise::forward(&s, &x, &weight, &bias),
        Some(s) if s.is_pointwise() => return pointwise::forward(&s, &x, &weight, &bias),
        Some(s) if s.groups == 1 => s,
        // Some groups of several channels go burn's own way.
        _ => return Flex::conv2d(x, weight, Some(bias), options),
    };
    let (input, w, b) = (contiguous(&x), contiguous(&weight), contiguous(&bias));
    let (taps, channels) = (s.taps(), s.channels);
    let packed = PackedProduct::pack(FloatIsa::best(), &w, [s.outputs, taps, channels], [channels * taps, 1, taps]);
    let (place, pixels, outs) = (s.place(), s.pixels(), s.outs());
    let mut out = vec![0.0f32; s.samples * s.outputs * outs];
    let buffers = || (vec![0.0f32; channels * pixels], vec![0.0f32; s.outputs * outs]);
    out.par_chunks_mut(s.outputs * outs).zip(input.par_chunks(channels * pixels)).for_each_init(
        buffers,
        |(image, result), (out, x)| {
            images::turn(x, channels, pixels, image);
            let epilogue = Epilogue { bias: Some(&b), ..Epilogue::default() };
            packed.run(&place, image, &epilogue, result, 1, &in_turn);
            images::turn(result, outs, s.outputs, out);
        },
    );
    tensor(out, [s.samples, s.outputs, s.output[0], s.output[1]])
}

/// As [`crate::backend::Kernels::convolve_backward`].
pub fn backward(seen: Seen<Flex>, grad: FlexTensor, wanted: [bool; 3]) -> Gradient<Flex> {
    let Seen { x, weight, bias, options, .. } = &seen;
    let s = match Sizes::new(x, weight, options) {
        Some(s) if s.is_depthwise() => return depthwise::backward(&s, x, weight, bias, &grad, wanted),
        Some(s) if s.is_pointwise() => return pointwise::backward(&s, x, weight, bias, &grad, wanted),
        Some(s) if s.groups == 1 => s,
        _ => return super::composed::<Flex>(seen, grad, wanted),
    };
    let (input, w, g) = (contiguous(x), contiguous(weight), contiguous(&grad));
    let (taps, channels, outputs, outs) = (s.taps(), s.channels, s.outputs, s.outs());
    let turned = wanted[0].then(|| {
        let mut flipped = w.to_vec();
        flipped.chunks_exact_mut(taps).for_each(<[f32]>::reverse);
        PackedProduct::pack(FloatIsa::best(), &flipped, [channels, taps, outputs], [taps, 1, channels * taps])
    });
    let mut to_x = vec![0.0f32; if wanted[0] { s.samples * channels * s.pixels() } else { 0 }];
    let chunk = TOGETHER * channels * s.pixels();
    let one =
        |(x, g, to_x): (&[f32], &[f32], &mut [f32])| Chunk { s: &s, turned: turned.as_ref(), wanted }.run(x, g, to_x);
    let grads = g.par_chunks(TOGETHER * outputs * outs);
    let parts: Vec<Part> = if wanted[0] {
        let each = input.par_chunks(chunk).zip(grads).zip(to_x.par_chunks_mut(chunk));
        each.map(|((x, g), to_x)| one((x, g, to_x))).collect()
    } else {
        input.par_chunks(chunk).zip(grads).map(|(x, g)| one((x, g, &mut []))).collect()
    };
    let to_x = wanted[0].then(|| like(to_x, x));
    let to_w = wanted[1].then(|| {
        // Sums lie as [tap, channel, output]; weights as [output, channel, tap].
        let mut all = vec![0.0f64; taps * channels * outputs];
        for part in &parts {
            all.iter_mut().zip(&part.weights).for_each(|(a, p)| *a += f64::from(*p));
        }
        let mut out = vec![0.0f32; all.len()];
        for t in 0..taps {
            for c in 0..channels {
                for o in 0..outputs {
                    out[(o * channels + c) * taps + t] = all[(t * channels + c) * outputs + o] as f32;
                }
            }
        }
        like(out, weight)
    });
    let to_b = wanted[2].then(|| {
        let mut all = vec![0.0f64; outputs];
        for part in &parts {
            all.iter_mut().zip(&part.bias).for_each(|(a, p)| *a += p);
        }
        like(all.into_iter().map(|x| x as f32).collect(), bias)
    });
    [to_x, to_w, to_b]
}

/// What some images add to the gradients of weights and bias.
struct Part {
    weights: Vec<f32>,
    bias: Vec<f64>,
}

struct Chunk<'a> {
    s: &'a Sizes,
    turned: Option<&'a PackedProduct>,
    wanted: [bool; 3],
}

impl Chunk<'_> {
    fn run(&self, x: &[f32], grad: &[f32], to_x: &mut [f32]) -> Part {
        let s = self.s;
        let (channels, outputs, outs, pixels) = (s.channels, s.outputs, s.outs(), s.pixels());
        let (spread, [tall, wide]) = (s.spread(), s.padded());
        let plane = tall * wide;
        let offsets: Vec<usize> = (0..s.kernel[0])
            .flat_map(|ky| (0..s.kernel[1]).map(move |kx| ky * s.dilation[0] * wide + kx * s.dilation[1]))
            .collect();
        let room = offsets.last().copied().unwrap_or(0);
        let mut last = vec![0.0f32; outs * outputs];
        // Zeros around and between what is written for each image stay.
        let mut dense = vec![0.0f32; spread[0] * spread[1] * outputs];
        let mut rows = vec![0.0f32; if self.wanted[1] { plane * outputs } else { 0 }];
        let mut padded = vec![0.0f32; if self.wanted[1] { channels * plane + room } else { 0 }];
        let mut result = vec![0.0f32; channels * pixels];
        let mut sums = vec![0.0f32; if self.wanted[1] { offsets.len() * channels * outputs } else { 0 }];
        let mut sum = vec![0.0f32; channels * outputs];
        let mut bias = vec![0.0f64; outputs];
        let (back, product) = (s.back(), Place::matrix(channels, plane, outputs));
        for (n, (x, grad)) in x.chunks_exact(channels * pixels).zip(grad.chunks_exact(outputs * outs)).enumerate() {
            images::turn(grad, outputs, outs, &mut last);
            if self.wanted[2] {
                for (b, plane) in bias.iter_mut().zip(grad.chunks_exact(outs)) {
                    *b += plane.chunks(64).map(|run| f64::from(run.iter().sum::<f32>())).sum::<f64>();
                }
            }
            if let Some(turned) = self.turned {
                let from = if s.stride == [1, 1] {
                    &last
                } else {
                    images::stuff(&last, s.output, outputs, s.stride, spread[1], &mut dense);
                    &dense
                };
                turned.run(&back, from, &Epilogue::default(), &mut result, 1, &in_turn);
                images::turn(&result, pixels, channels, &mut to_x[n * channels * pixels..][..channels * pixels]);
            }
            if self.wanted[1] {
                images::stuff(&last, s.output, outputs, s.stride, wide, &mut rows);
                images::pad(x, s.input, s.begin, [tall, wide], &mut padded[..channels * plane]);
                let packed = PackedProduct::pack(FloatIsa::best(), &rows, [outputs, 1, plane], [1, 0, outputs]);
                for (&offset, old) in offsets.iter().zip(sums.chunks_exact_mut(channels * outputs)) {
                    let epilogue = Epilogue { residual: Some(old), ..Epilogue::default() };
                    packed.run(&product, &padded[offset..][..channels * plane], &epilogue, &mut sum, 1, &in_turn);
                    old.copy_from_slice(&sum);
                }
            }
        }
        Part { weights: sums, bias }
    }
}
