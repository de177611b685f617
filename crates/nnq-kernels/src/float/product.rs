//! Products and convolutions.
//!
//! A tile is up to [`Lanes::ROWS`] output pixels by one or two vectors of output channels, or half as many by three or four. Each tap of a pixel is one pointer into the
//! input (or to zeros, in the padding), so nothing is copied; pixels of a tile may lie in different rows and images. The
//! products of an element are taken in blocks whose weights stay in the first-level cache while the pixels of a chunk pass;
//! weights lie in memory in the order in which they are used, and the next ones are fetched meanwhile.
use super::{
    Each, Epilogue, FloatIsa, Place, Shared, once, part,
    tile::{self, LINE, Segment, Tile},
    vector::{Lanes, Work},
};
use std::ops::Range;

/// Most products of an element in one block: the weights of a tile take 40 KiB with the widest vectors.
const BLOCK: usize = 160;
/// Tiles of a chunk of pixels: its input and output stay in the second-level cache.
const CHUNK: usize = 16;

/// Weights, packed for the vectors that use them.
pub struct PackedProduct {
    isa: FloatIsa,
    /// Blocks of the products of an element; in each, panels of [`VECTORS`] vectors of output channels (the last may be
    /// narrower); in each, the products in order.
    weights: Vec<f32>,
    /// Where they begin: at the start of a cache line, so that no vector lies in two.
    start: usize,
    taps: usize,
    channels: usize,
    out_channels: usize,
    /// What pixels in the padding read.
    zeros: Vec<f32>,
}

impl PackedProduct {
    /// Packs the weights of `[out channels, taps, channels]`; the one of `(o, t, c)` is
    /// `w[o * strides[0] + t * strides[1] + c * strides[2]]`.
    ///
    /// # Panics
    /// When `w` is too short.
    pub fn pack(isa: FloatIsa, w: &[f32], sizes: [usize; 3], strides: [usize; 3]) -> Self {
        let mut packed = Self::empty(isa, sizes);
        packed.fill(w, strides);
        packed
    }

    /// Room for weights of these sizes.
    pub(super) fn empty(isa: FloatIsa, [out_channels, taps, channels]: [usize; 3]) -> Self {
        let padded = out_channels.next_multiple_of(isa.lanes());
        let weights = vec![0.0f32; padded * taps * channels + LINE];
        let start = weights.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { isa, weights, start, taps, channels, out_channels, zeros: vec![0.0; channels] }
    }

    /// Packs others of the same sizes.
    pub(super) fn fill(&mut self, w: &[f32], strides: [usize; 3]) {
        let (width, products) = (self.isa.panel(), self.taps * self.channels);
        let padded = self.out_channels.next_multiple_of(self.isa.lanes());
        for block in 0..blocks(products) {
            let range = cut(products, block);
            let panels = &mut self.weights[self.start..][padded * range.start..padded * range.end];
            for (p, panel) in panels.chunks_mut((width * range.len()).max(1)).enumerate() {
                let wide = width.min(padded - p * width);
                let live = width.min(self.out_channels - p * width);
                let at = |k: usize| k / self.channels * strides[1] + k % self.channels * strides[2];
                if strides[0] == 1 {
                    for (k, to) in range.clone().zip(panel.chunks_exact_mut(wide)) {
                        to[..live].copy_from_slice(&w[p * width + at(k)..][..live]);
                    }
                    continue;
                }
                // A cache line of each output channel's weights, then the next one's.
                for (start, lines) in range.clone().step_by(LINE).zip(panel.chunks_mut(wide * LINE)) {
                    let places: [usize; LINE] = std::array::from_fn(|i| at(start + i));
                    for o in 0..live {
                        let from = &w[(p * width + o) * strides[0]..];
                        for (&at, to) in places.iter().zip(lines[o..].iter_mut().step_by(wide)) {
                            *to = from[at];
                        }
                    }
                }
            }
        }
    }

    /// The products of `count` rows of numbers, `x.1` apart, without anything else done to them.
    ///
    /// # Safety
    /// `count` rows of the output's channels, `step` apart, can be written at `out`, and nobody else touches them.
    ///
    /// # Panics
    /// When there are fewer rows, or the weights have taps.
    pub(super) unsafe fn rows(&self, x: (&[f32], usize), count: usize, out: *mut f32, step: usize) {
        let place = Place::matrix(count, self.channels, self.out_channels);
        assert!(self.taps == 1 && count > 0 && (count - 1) * x.1 + self.channels <= x.0.len());
        self.isa.run(Job {
            packed: self,
            place: &place,
            x: x.0,
            steps: [x.1, step],
            epilogue: &Epilogue::default(),
            out,
            pixels: 0..count,
            panels: 0..self.out_channels.div_ceil(self.isa.panel()),
            inner: [0..1, 0..count],
        });
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
        assert_eq!((place.taps(), place.channels, place.out_channels), (self.taps, self.channels, self.out_channels));
        epilogue.check(place, x, out);
        let (pixels, width) = (place.pixels(), self.isa.panel());
        let panels = self.out_channels.div_ceil(width);
        if pixels == 0 || panels == 0 {
            return;
        }
        // Cutting pixels shares the weights, cutting channels the input: the latter where pixels are few, unless finished
        // pixels are asked for.
        let down = tasks.min(pixels.div_ceil(64)).max(1);
        let across = if epilogue.done.is_some() { 1 } else { tasks.div_ceil(down).min(panels) };
        let unit = if down == 1 { 1 } else { 12 };
        let out = Shared(out.as_mut_ptr());
        once(down * across, each, |i| {
            let job = Job {
                packed: self,
                place,
                x,
                steps: [place.channels, place.out_channels],
                epilogue,
                out: out.pointer(),
                pixels: part(pixels, unit, down, i % down),
                panels: part(panels, 1, across, i / down),
                inner: [place.inner(0), place.inner(1)],
            };
            self.isa.run(job);
        });
    }

    /// The runs of contiguous channels behind some products; `merged` taps are one.
    fn segments(&self, products: Range<usize>, merged: usize) -> Vec<Segment> {
        let run = (self.channels * merged).max(1);
        let taps = products.start / run..products.end.div_ceil(run);
        let segment = |tap: usize| {
            let (start, end) = (products.start.max(tap * run), products.end.min((tap + 1) * run));
            Segment { tap, start: start - tap * run, len: end - start }
        };
        taps.map(segment).collect()
    }
}

/// Into how many blocks the products of an element are cut.
fn blocks(products: usize) -> usize {
    products.div_ceil(BLOCK).max(1)
}

/// The products of a block.
fn cut(products: usize, block: usize) -> Range<usize> {
    let at = |block: usize| products * block / blocks(products);
    at(block)..at(block + 1)
}

/// Some pixels and panels of a product.
struct Job<'a> {
    packed: &'a PackedProduct,
    place: &'a Place,
    x: &'a [f32],
    /// Floats between pixels of input and output.
    steps: [usize; 2],
    epilogue: &'a Epilogue<'a>,
    out: *mut f32,
    pixels: Range<usize>,
    panels: Range<usize>,
    /// Output rows and columns without taps in the padding.
    inner: [Range<usize>; 2],
}

impl Work for Job<'_> {
    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let Self { packed, place, .. } = self;
        assert!(packed.isa.panel() == S::VECTORS * S::N, "weights are packed for other vectors");
        // Without padding the columns of a window are one run.
        let merged = if place.inside() && place.dilation[1] == 1 { place.kernel[1] } else { 1 };
        let depth = packed.taps * packed.channels;
        let blocks: Vec<_> = (0..blocks(depth)).map(|b| cut(depth, b)).collect();
        let segments: Vec<_> = blocks.iter().map(|b| packed.segments(b.clone(), merged)).collect();
        let padded = packed.out_channels.next_multiple_of(S::N);
        let taps = packed.taps / merged;
        let mut rows: Vec<*const f32> = vec![std::ptr::null(); CHUNK * taps * S::ROWS];
        let tap = |ky: usize, kx: usize| ky * place.dilation[0] * place.input[1] + kx * place.dilation[1];
        let offsets: Vec<usize> = (0..place.kernel[0])
            .flat_map(|ky| (0..place.kernel[1]).step_by(merged).map(move |kx| tap(ky, kx) * self.steps[0]))
            .collect();
        let mut first = self.pixels.start;
        while first < self.pixels.end {
            let left = self.pixels.end - first;
            // Chunks and tiles of nearly equal size.
            let chunks = left.div_ceil(CHUNK * S::ROWS);
            let count = left.div_ceil(chunks);
            let tiles = count.div_ceil(S::ROWS);
            let mut ends = [0; CHUNK + 1];
            for (i, rows) in rows.chunks_exact_mut(taps * S::ROWS).enumerate().take(tiles) {
                ends[i + 1] = count * (i + 1) / tiles;
                self.point(first + ends[i]..first + ends[i + 1], merged, &offsets, S::ROWS, rows);
            }
            for (block, segments) in blocks.iter().zip(&segments) {
                for panel in self.panels.clone() {
                    let channel = panel * S::VECTORS * S::N;
                    let width = (packed.out_channels - channel).min(S::VECTORS * S::N);
                    let vectors = width.div_ceil(S::N);
                    // The weights that follow are fetched half by half, a line of each for every four products.
                    let floats = block.len() * vectors * S::N;
                    let a_tile = block.len() / 4 * LINE * if vectors > 2 { 2 } else { 1 };
                    for i in 0..tiles {
                        let fetched = (i * a_tile).min(floats / 2);
                        let apart = if fetched < floats / 2 { floats / 2 } else { 0 };
                        let (pixel, height) = (first + ends[i], ends[i + 1] - ends[i]);
                        let offset = pixel * self.steps[1] + channel;
                        let weights = packed.start + block.start * padded + channel * block.len();
                        // SAFETY: `run` has checked the sizes; `point` gave every row a pointer to the channels of each
                        // tap; tasks have disjoint pixels or panels.
                        unsafe {
                            let t = Tile {
                                weights: packed.weights.as_ptr().add(weights),
                                ahead: packed.weights.as_ptr().wrapping_add(weights + floats + fetched),
                                apart,
                                segments,
                                rows: rows.as_ptr().add(i * taps * S::ROWS),
                                out: self.out.add(offset),
                                step: self.steps[1],
                                width,
                                first: block.start == 0,
                                last: block.end == depth,
                                channel,
                                offset,
                                epilogue: self.epilogue,
                            };
                            match vectors {
                                1 => pick::<S, 1>(s, height, &t),
                                2 => pick::<S, 2>(s, height, &t),
                                3 => halves::<S, 3>(s, height, &t),
                                _ => halves::<S, 4>(s, height, &t),
                            }
                        }
                    }
                }
            }
            // SAFETY: these pixels are finished, and this task's; with somebody to hand them over to, it has all their channels.
            unsafe { self.epilogue.hand_over(self.out, first * self.steps[1], count * self.steps[1]) };
            first += count;
        }
    }
}

impl Job<'_> {
    /// Where the pixels of a tile read, tap by tap; `offsets` are those of the taps from the first. `merged` taps are one.
    #[inline(always)]
    fn point(&self, pixels: Range<usize>, merged: usize, offsets: &[usize], stride: usize, rows: &mut [*const f32]) {
        let place = self.place;
        let [height, width] = place.output;
        let inner = &self.inner;
        let last = offsets.last().copied().unwrap_or(0);
        let (mut image, mut y, mut x) =
            (pixels.start / (height * width), pixels.start / width % height, pixels.start % width);
        for r in 0..pixels.len() {
            let to = rows[r..].iter_mut().step_by(stride);
            let corner = [y * place.stride[0], x * place.stride[1]];
            let [row, column] = [0, 1].map(|axis| corner[axis] as i64 - place.begin[axis]);
            let at = (image * place.input[0]) as i64 + row;
            let at = (at * place.input[1] as i64 + column) * self.steps[0] as i64;
            if inner[0].contains(&y) && inner[1].contains(&x) {
                // Nothing is negative here, and the last tap lies farthest.
                let from = self.x[at as usize..][..last].as_ptr();
                to.zip(offsets).for_each(|(to, &offset)| *to = from.wrapping_add(offset));
            } else {
                // Perhaps outside: only taps within are read.
                let from = self.x.as_ptr().wrapping_offset(at as isize);
                self.point_at_edge(from, [row, column], merged, to.zip(offsets));
            }
            x += 1;
            if x == width {
                (x, y) = (0, y + 1);
            }
            if y == height {
                (y, image) = (0, image + 1);
            }
        }
    }

    /// Where a pixel reads that has taps in the padding: `from` is where its first tap would.
    #[inline(always)]
    fn point_at_edge<'p>(
        &self,
        from: *const f32,
        first: [i64; 2],
        merged: usize,
        mut to: impl Iterator<Item = (&'p mut *const f32, &'p usize)>,
    ) {
        let place = self.place;
        // What is negative is too large.
        let inside = |axis: usize, tap: usize| {
            ((first[axis] + (tap * place.dilation[axis]) as i64) as u64) < place.input[axis] as u64
        };
        for ky in 0..place.kernel[0] {
            let row = inside(0, ky);
            for kx in (0..place.kernel[1]).step_by(merged) {
                if let Some((to, &offset)) = to.next() {
                    let there = row && inside(1, kx);
                    *to = if there { from.wrapping_add(offset) } else { self.packed.zeros.as_ptr() };
                }
            }
        }
    }
}

/// A tile of `rows` rows.
///
/// # Safety
/// As [`tile::run`].
#[inline(always)]
unsafe fn pick<S: Lanes, const V: usize>(s: S, rows: usize, t: &Tile<'_>) {
    macro_rules! sizes {
        ($($n:literal)*) => {
            match rows {
                // SAFETY: the caller vouches for it.
                $($n if $n <= S::ROWS => unsafe { tile::run::<S, $n, V>(s, t) },)*
                _ => {}
            }
        };
    }
    sizes!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// The upper and the lower half of the rows, each a tile.
///
/// # Safety
/// As [`tile::run`].
#[inline(always)]
unsafe fn halves<S: Lanes, const V: usize>(s: S, rows: usize, t: &Tile<'_>) {
    let upper = rows.div_ceil(2);
    // SAFETY: the caller vouches for all rows.
    unsafe {
        half::<S, V>(s, upper, t);
        let lower = Tile {
            rows: t.rows.add(upper),
            out: t.out.add(upper * t.step),
            offset: t.offset + upper * t.step,
            ahead: t.ahead.wrapping_add(t.segments.iter().map(|s| s.len / 4 * LINE).sum()),
            ..*t
        };
        half::<S, V>(s, rows - upper, &lower);
    }
}

/// A tile of at most half of [`Lanes::ROWS`].
///
/// # Safety
/// As [`tile::run`].
#[inline(always)]
unsafe fn half<S: Lanes, const V: usize>(s: S, rows: usize, t: &Tile<'_>) {
    macro_rules! sizes {
        ($($n:literal)*) => {
            match rows {
                // SAFETY: the caller vouches for it.
                $($n if V <= S::VECTORS && 2 * $n <= S::ROWS => unsafe { tile::run::<S, $n, V>(s, t) },)*
                _ => {}
            }
        };
    }
    sizes!(1 2 3 4 5 6);
}
