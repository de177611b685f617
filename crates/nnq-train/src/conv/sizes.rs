//! The sizes of a convolution.
use burn::backend::{TensorMetadata, flex::FlexTensor, ops::ConvOptions};

/// Sizes of a convolution of images.
pub(super) struct Sizes {
    pub samples: usize,
    pub channels: usize,
    pub outputs: usize,
    pub groups: usize,
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub begin: [usize; 2],
}

impl Sizes {
    /// `None` where there is nothing to compute.
    pub fn new(x: &FlexTensor, weight: &FlexTensor, options: &ConvOptions<2>) -> Option<Self> {
        let [samples, channels, h, w] = x.shape().dims();
        let [outputs, _, kh, kw] = weight.shape().dims();
        let &ConvOptions { stride, dilation, padding, groups } = options;
        let output = [(0, h, kh), (1, w, kw)].map(|(i, size, k)| {
            let room = size + padding[i].0 + padding[i].1;
            room.checked_sub(dilation[i] * (k - 1) + 1).map_or(0, |r| r / stride[i] + 1)
        });
        let fits = samples > 0 && channels > 0 && outputs > 0 && !output.contains(&0);
        let (input, kernel, begin) = ([h, w], [kh, kw], padding.map(|p| p.0));
        fits.then_some(Self { samples, channels, outputs, groups, input, output, kernel, stride, dilation, begin })
    }
    /// Each output channel reads one input channel, of several.
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.channels && self.groups > 1
    }
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
    pub fn pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }
    pub fn outs(&self) -> usize {
        self.output[0] * self.output[1]
    }
}
