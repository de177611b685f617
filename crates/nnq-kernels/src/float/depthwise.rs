//! Convolution in which each output channel reads one input channel.
// Loops over pixels of a block are by index: they are unrolled, and the sums stay in registers.
#![allow(clippy::needless_range_loop)]
use super::{
    Each, Epilogue, FloatIsa, Place, Shared, once, part,
    vector::{Lanes, Work},
};
use std::ops::Range;

/// Weights by tap, then channel.
pub struct PackedDepthwise {
    isa: FloatIsa,
    weights: Vec<f32>,
    taps: usize,
    channels: usize,
}

impl PackedDepthwise {
    /// Packs the weights of `[channels, taps]`.
    ///
    /// # Panics
    /// When `w` has another length.
    pub fn pack(isa: FloatIsa, w: &[f32], channels: usize, taps: usize) -> Self {
        assert_eq!(w.len(), channels * taps);
        let weights = (0..taps).flat_map(|t| (0..channels).map(move |c| w[c * taps + t])).collect();
        Self { isa, weights, taps, channels }
    }

    /// The convolution of `x` into `out`, both channels last. The work is cut into about `tasks` pieces, which `each`
    /// runs.
    ///
    /// # Panics
    /// When the slices or the weights do not have the sizes of `place`.
    pub fn run(
        &self,
        place: &Place,
        x: &[f32],
        epilogue: &Epilogue<'_>,
        out: &mut [f32],
        tasks: usize,
        each: Each<'_>,
    ) {
        assert_eq!((place.taps(), place.channels, place.out_channels), (self.taps, self.channels, self.channels));
        epilogue.check(place, x, out);
        let lines = place.images * place.output[0];
        let tasks = tasks.min(lines).max(1);
        let out = Shared(out.as_mut_ptr());
        once(tasks, each, |i| {
            let lines = part(lines, 1, tasks, i);
            self.isa.run(Job { packed: self, place, x, epilogue, out: out.pointer(), lines });
        });
    }
}

/// Some lines of the output.
struct Job<'a> {
    packed: &'a PackedDepthwise,
    place: &'a Place,
    x: &'a [f32],
    epilogue: &'a Epilogue<'a>,
    out: *mut f32,
    lines: Range<usize>,
}

impl Work for Job<'_> {
    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let place = self.place;
        let (wide, kernel) = (place.output[1], place.kernel[1]);
        // Columns whose taps all fall into the input lie together.
        let Range { start: begin, end } = place.inner(1);
        for line in self.lines.clone() {
            let (image, y) = (line / place.output[0], line % place.output[0]);
            let down = place.valid(0, y);
            // Valid taps fall into the input, so nothing is negative.
            let row = (y * place.stride[0] + down.start * place.dilation[0]) as i64 - place.begin[0];
            let row = (image * place.input[0] + row.max(0) as usize) * place.input[1];
            let mut x = 0;
            while x < wide {
                let inner = (begin..end).contains(&x);
                let across = if inner { 0..kernel } else { place.valid(1, x) };
                let column = (x * place.stride[1] + across.start * place.dilation[1]) as i64 - place.begin[1];
                let mut block = Block {
                    from: (row + column.max(0) as usize) * place.channels,
                    to: (line * wide + x) * place.channels,
                    channel: 0,
                    down: down.clone(),
                    across,
                };
                let room = if inner { end - x } else { 1 };
                // All channels of a few pixels: neighbours in memory.
                while block.channel < place.channels {
                    // SAFETY: `run` has checked the sizes, all taps of the block fall into the input, and tasks have
                    // disjoint lines.
                    unsafe {
                        match room {
                            8.. => self.block::<S, 8>(s, &block),
                            4.. => self.block::<S, 4>(s, &block),
                            2.. => self.block::<S, 2>(s, &block),
                            _ => self.block::<S, 1>(s, &block),
                        }
                    }
                    block.channel += S::N;
                }
                x += match room {
                    8.. => 8,
                    4.. => 4,
                    2.. => 2,
                    _ => 1,
                };
            }
            let pixels = wide * place.channels;
            // SAFETY: the line is finished, and this task's.
            unsafe { self.epilogue.hand_over(self.out, line * pixels, pixels) };
        }
    }
}

/// Neighbouring output pixels of a line, one vector of channels.
struct Block {
    /// Where the first pixel's first valid tap reads, and where the pixel goes, without the channel.
    from: usize,
    to: usize,
    channel: usize,
    /// Rows and columns of the window that fall into the input, the same for all pixels.
    down: Range<usize>,
    across: Range<usize>,
}

impl Job<'_> {
    /// # Safety
    /// Sizes are as [`PackedDepthwise::run`] checks, the taps of all `P` pixels fall into the input, and nobody else touches
    /// these output pixels.
    #[inline(always)]
    unsafe fn block<S: Lanes, const P: usize>(&self, s: S, b: &Block) {
        let Self { packed, place, epilogue, .. } = self;
        let channels = place.channels;
        let live = s.lanes(channels - b.channel);
        let step = place.stride[1] * channels;
        let down = place.dilation[0] * place.input[1] * channels;
        let across = place.dilation[1] * channels;
        // SAFETY: the caller vouches for every position.
        unsafe {
            let start = epilogue.bias.map_or(s.splat(0.0), |bias| s.load_some(bias.as_ptr().add(b.channel), live));
            let mut acc = [start; P];
            for (i, ky) in b.down.clone().enumerate() {
                for (j, kx) in b.across.clone().enumerate() {
                    let from = self.x.as_ptr().add(b.from + b.channel + i * down + j * across);
                    let tap = (ky * place.kernel[1] + kx) * channels + b.channel;
                    let w = s.load_some(packed.weights.as_ptr().add(tap), live);
                    for p in 0..P {
                        acc[p] = s.fma(s.load_some(from.add(p * step), live), w, acc[p]);
                    }
                }
            }
            if let Some(residual) = epilogue.residual {
                for p in 0..P {
                    acc[p] = s.add(acc[p], s.load_some(residual.as_ptr().add(b.to + b.channel + p * channels), live));
                }
            }
            let (lo, hi) = (s.splat(epilogue.lo), s.splat(epilogue.hi));
            for p in 0..P {
                let y = s.at_most(hi, s.at_least(lo, acc[p]));
                s.store_some(self.out.add(b.to + b.channel + p * channels), y, live);
            }
        }
    }
}
