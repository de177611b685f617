//! Where a window lies on its input.

/// Sizes of a convolution of channels-last images. The output's channels are those of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Images of input and output.
    pub images: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Channels of the input.
    pub channels: usize,
    /// Height and width of the output.
    pub output: [usize; 2],
    /// Channels of the output.
    pub out_channels: usize,
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Input positions between outputs.
    pub stride: [usize; 2],
    /// Input positions between taps.
    pub dilation: [usize; 2],
    /// Zeros before the input (negative: positions cropped).
    pub begin: [i64; 2],
}

impl Place {
    /// The product of an `m` by `k` and a `k` by `n` matrix.
    pub const fn matrix(m: usize, k: usize, n: usize) -> Self {
        Self {
            images: 1,
            input: [1, m],
            channels: k,
            output: [1, m],
            out_channels: n,
            kernel: [1; 2],
            stride: [1; 2],
            dilation: [1; 2],
            begin: [0; 2],
        }
    }
    /// Output pixels of all images.
    pub const fn pixels(&self) -> usize {
        self.images * self.output[0] * self.output[1]
    }
    /// Taps of the window.
    pub const fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
    /// Elements of the input.
    pub const fn input_len(&self) -> usize {
        self.images * self.input[0] * self.input[1] * self.channels
    }
    /// Elements of the output.
    pub const fn output_len(&self) -> usize {
        self.pixels() * self.out_channels
    }
    /// The input row or column (`axis` 0 or 1) of a tap; `None` in the padding.
    #[inline(always)]
    pub(super) fn source(&self, axis: usize, out: usize, tap: usize) -> Option<usize> {
        let i = (out * self.stride[axis] + tap * self.dilation[axis]) as i64 - self.begin[axis];
        usize::try_from(i).ok().filter(|&i| i < self.input[axis])
    }
    /// No tap of any output falls outside of the input.
    pub(super) fn inside(&self) -> bool {
        (0..2).all(|a| {
            self.output[a] == 0
                || (self.source(a, 0, 0).is_some() && self.source(a, self.output[a] - 1, self.kernel[a] - 1).is_some())
        })
    }
    /// The outputs all of whose taps fall into the input along `axis`.
    pub(super) fn inner(&self, axis: usize) -> std::ops::Range<usize> {
        let whole =
            |out: usize| self.source(axis, out, 0).is_some() && self.source(axis, out, self.kernel[axis] - 1).is_some();
        let start = (0..self.output[axis]).find(|&o| whole(o)).unwrap_or(0);
        let end = (start..self.output[axis]).find(|&o| !whole(o)).unwrap_or(self.output[axis]);
        start..end
    }
    /// The taps `first..end` of output `out` that fall into the input along `axis`.
    pub(super) fn valid(&self, axis: usize, out: usize) -> std::ops::Range<usize> {
        let (d, start) = (self.dilation[axis] as i64, (out * self.stride[axis]) as i64 - self.begin[axis]);
        let taps = self.kernel[axis] as i64;
        let first = if start < 0 { (-start + d - 1) / d } else { 0 }.min(taps);
        let end = ((self.input[axis] as i64 - start + d - 1).div_euclid(d)).clamp(first, taps);
        first as usize..end as usize
    }
}
