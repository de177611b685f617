//! Convolution in which each output channel reads one input channel.
use super::{
    Each, Epilogue, FloatIsa, Place, Shared, once, part,
    vector::{Lanes, Work},
};
use std::ops::Range;

/// Output pixels computed at once: enough chains in flight to hide the latency of an addition.
const AT_ONCE: usize = 8;

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
        assert_eq!((x.len(), out.len()), (place.input_len(), place.output_len()));
        assert!(epilogue.bias.is_none_or(|b| b.len() == self.channels));
        assert!(epilogue.residual.is_none_or(|r| r.len() == out.len()));
        assert!(place.stride.iter().chain(&place.dilation).all(|&s| s > 0));
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
        let wide = place.output[1];
        // Columns whose taps all fall into the input lie together.
        let whole = |x: &usize| place.valid(1, *x).len() == place.kernel[1];
        let begin = (0..wide).find(whole).unwrap_or(wide);
        let end = (begin..wide).find(|x| !whole(x)).unwrap_or(wide);
        for line in self.lines.clone() {
            let (image, y) = (line / place.output[0], line % place.output[0]);
            let down = place.valid(0, y);
            for channel in (0..place.channels).step_by(S::N) {
                let mut x = 0;
                while x < wide {
                    let inner = (begin..end).contains(&x);
                    let n = if inner && x + AT_ONCE <= end { AT_ONCE } else { 1 };
                    let across = if inner { 0..place.kernel[1] } else { place.valid(1, x) };
                    let block = Block { image, line, x, channel, down: down.clone(), across };
                    // SAFETY: `run` has checked the sizes, all taps of the block fall into the input, and tasks have
                    // disjoint lines.
                    unsafe {
                        if n == AT_ONCE { self.block::<S, AT_ONCE>(s, &block) } else { self.block::<S, 1>(s, &block) }
                    }
                    x += n;
                }
            }
        }
    }
}

/// Neighbouring output pixels of a line, one vector of channels.
struct Block {
    image: usize,
    line: usize,
    x: usize,
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
        let live = (channels - b.channel).min(S::N);
        let y = b.line % place.output[0];
        let step = place.stride[1] * channels;
        // SAFETY: the caller vouches for every position.
        unsafe {
            let start = epilogue.bias.map_or(s.splat(0.0), |bias| s.load(bias.as_ptr().add(b.channel), live));
            let mut acc = [start; P];
            for ky in b.down.clone() {
                let row = (y * place.stride[0] + ky * place.dilation[0]) as i64 - place.begin[0];
                let row = (b.image * place.input[0] + row as usize) * place.input[1];
                for kx in b.across.clone() {
                    let column = (b.x * place.stride[1] + kx * place.dilation[1]) as i64 - place.begin[1];
                    let from = self.x.as_ptr().add((row + column as usize) * channels + b.channel);
                    let tap = (ky * place.kernel[1] + kx) * channels + b.channel;
                    let w = s.load(packed.weights.as_ptr().add(tap), live);
                    for (p, acc) in acc.iter_mut().enumerate() {
                        *acc = s.fma(s.load(from.add(p * step), live), w, *acc);
                    }
                }
            }
            let (lo, hi) = (s.splat(epilogue.lo), s.splat(epilogue.hi));
            let at = (b.line * place.output[1] + b.x) * channels + b.channel;
            for (p, acc) in acc.into_iter().enumerate() {
                let at = at + p * channels;
                let sum = match epilogue.residual {
                    Some(residual) => s.add(acc, s.load(residual.as_ptr().add(at), live)),
                    None => acc,
                };
                s.store(self.out.add(at), s.at_most(hi, s.at_least(lo, sum)), live);
            }
        }
    }
}
