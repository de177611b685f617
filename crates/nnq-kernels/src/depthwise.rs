//! Depthwise convolution: every channel has its own kernel.
//!
//! The vectors run across channels. For each input column the bytes of up to four rows are brought
//! together, channel by channel, so that one multiply-add sums four rows of the kernel; a column made
//! ready serves every output whose window it is in.
use crate::{
    Isa, SLACK,
    conv::{ConvGeom, Epilogue, Out, Requant, Scratch, scalar},
    isa::dispatch,
    round::vector::{self, DyadicVector, DyadicWide, Kind, OnnxVector, Prepared, VectorRequant},
    simd::{MAX_LANES, Op, Simd, Vector},
};
use std::ops::Range;

/// Outputs of one row that share the columns made ready.
const TILE: usize = 16;
/// Outputs computed at the same time.
const TOGETHER: usize = 4;

/// The weights of a depthwise convolution, packed for one instruction set.
#[derive(Clone, Debug)]
pub struct PackedDepthwise {
    isa: Isa,
    channels: usize,
    k_h: usize,
    k_w: usize,
    weights: Weights,
}

#[derive(Clone, Debug)]
enum Weights {
    /// As given: `[c][k_h][k_w]`.
    Plain(Vec<i8>),
    Blocks(Blocks),
}

/// For each block of `4 * lanes` channels, column of the kernel, four rows of the kernel: four vectors with the
/// channels in the vectors' `LANE_ORDER`, a lane the four rows of one channel.
#[derive(Clone, Debug)]
struct Blocks {
    bytes: Vec<i8>,
    sums: Vec<i32>,
    lane_order: &'static [u8],
}

impl PackedDepthwise {
    /// Packs `w`, `[c][k_h][k_w]`, for `isa`. Of `geom` only the channels and the kernel's size matter.
    ///
    /// # Panics
    /// When `w` has another length than `geom` says, `groups`, `c_in` and `c_out` are not the same
    /// number, or this machine does not have `isa`.
    pub fn pack(isa: Isa, geom: &ConvGeom, w: &[i8]) -> PackedDepthwise {
        geom.check_weights(w.len());
        assert!(
            geom.groups == geom.c_in && geom.c_in == geom.c_out,
            "{} groups of {} input and {} output channels: not depthwise",
            geom.groups,
            geom.c_in,
            geom.c_out
        );
        let weights = match dispatch(isa, Pack { geom, w }) {
            Some(blocks) => Weights::Blocks(blocks),
            None => Weights::Plain(w.to_vec()),
        };
        PackedDepthwise {
            isa,
            channels: geom.c_in,
            k_h: geom.k_h,
            k_w: geom.k_w,
            weights,
        }
    }

    /// The instruction set that the weights are packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of memory of the packed weights.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Plain(w) => w.len(),
            Weights::Blocks(b) => b.bytes.len() + b.sums.len() * size_of::<i32>(),
        }
    }

    /// Computes the output pixels `rows`, as [`crate::conv::PackedConv::run`] does.
    ///
    /// # Panics
    /// As [`crate::conv::PackedConv::run`].
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        geom: &ConvGeom,
        x: &[u8],
        x_zero: u8,
        rows: Range<usize>,
        epi: &Epilogue,
        out: Out<'_>,
        scratch: &mut Scratch,
    ) {
        let same = geom.groups == self.channels
            && geom.c_in == self.channels
            && geom.c_out == self.channels
            && (geom.k_h, geom.k_w) == (self.k_h, self.k_w);
        assert!(
            same,
            "the weights were packed for {} channels and a kernel of {} x {}, not for {geom:?}",
            self.channels, self.k_h, self.k_w
        );
        geom.check_run(x.len(), &rows);
        epi.check(geom.c_out, rows.len(), &out);
        if rows.is_empty() || self.channels == 0 {
            return;
        }
        match &self.weights {
            Weights::Plain(w) => scalar::run(geom, w, x, x_zero, rows, epi, out),
            Weights::Blocks(blocks) => {
                let job = Job {
                    geom,
                    blocks,
                    x,
                    x_zero,
                    rows,
                    epi,
                    out,
                    scratch,
                };
                dispatch(self.isa, job).expect("blocks are packed for vectors");
            }
        }
    }
}

struct Pack<'a> {
    geom: &'a ConvGeom,
    w: &'a [i8],
}

impl Op for Pack<'_> {
    type Out = Blocks;

    #[inline(always)]
    fn call<S: Simd>(self, _: S) -> Blocks {
        pack(self.geom, self.w, S::V::LANE_ORDER)
    }
}

fn pack(geom: &ConvGeom, w: &[i8], lane_order: &'static [u8]) -> Blocks {
    let (k_h, k_w) = (geom.k_h, geom.k_w);
    let mut bytes = Vec::new();
    for block in 0..geom.c_in.div_ceil(lane_order.len()) {
        for column in 0..k_w {
            for quad in 0..k_h.div_ceil(4) {
                for &lane in lane_order {
                    let channel = block * lane_order.len() + usize::from(lane);
                    bytes.extend((quad * 4..quad * 4 + 4).map(|row| {
                        let exists = channel < geom.c_in && row < k_h;
                        exists
                            .then(|| w[(channel * k_h + row) * k_w + column])
                            .unwrap_or(0)
                    }));
                }
            }
        }
    }
    let sum = |kernel: &[i8]| kernel.iter().map(|&w| i32::from(w)).sum();
    Blocks {
        bytes,
        sums: w.chunks_exact(k_h * k_w).map(sum).collect(),
        lane_order,
    }
}

impl Blocks {
    /// The channel of each lane of each block.
    fn lanes(&self, channels: usize) -> impl Iterator<Item = Option<usize>> + '_ {
        let wide = self.lane_order.len();
        (0..channels.div_ceil(wide)).flat_map(move |block| {
            self.lane_order.iter().map(move |&lane| {
                let channel = block * wide + usize::from(lane);
                (channel < channels).then_some(channel)
            })
        })
    }
}

struct Job<'a, 'o> {
    geom: &'a ConvGeom,
    blocks: &'a Blocks,
    x: &'a [u8],
    x_zero: u8,
    rows: Range<usize>,
    epi: &'a Epilogue<'a>,
    out: Out<'o>,
    scratch: &'a mut Scratch,
}

impl Op for Job<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let (geom, blocks) = (self.geom, self.blocks);
        let lanes = || blocks.lanes(geom.c_in);
        let scratch = &mut *self.scratch;
        self.epi
            .prepare(&mut scratch.prepared, &mut scratch.scale, lanes());
        scratch.correction.clear();
        scratch.correction.extend(lanes().map(|channel| {
            channel.map_or(0, |c| {
                let shift = blocks.sums[c].wrapping_mul(self.x_zero.into());
                self.epi.bias[c].wrapping_sub(shift)
            })
        }));
        scratch.row_sums.clear();
        if let Some(w_zero) = self.epi.w_zero {
            let zeros = lanes().map(|channel| channel.map_or(0, |c| w_zero[c]));
            scratch.row_sums.extend(zeros);
        }
        let quads = geom.k_h.div_ceil(4);
        let columns = (TILE - 1) * geom.stride_w + (geom.k_w - 1) * geom.dil_w + 1;
        let vector = S::V::LANES * 4;
        scratch.columns.resize(columns * quads * 4 * vector, 0);
        let mut row = self.rows.start;
        while row < self.rows.end {
            let count = TILE
                .min(geom.out_w - row % geom.out_w)
                .min(self.rows.end - row);
            for block in 0..geom.c_in.div_ceil(vector) {
                let tile = Tile {
                    block,
                    row,
                    first: row - self.rows.start,
                    count,
                    quads,
                };
                self.make_columns(s, tile);
                match self.epi.requant {
                    Requant::Onnx(_) | Requant::Dyadic { .. } => {
                        match self.scratch.prepared.kind() {
                            Kind::Onnx => self.codes::<S, OnnxVector<S::V>>(s, tile),
                            Kind::Dyadic => self.codes::<S, DyadicVector<S::V>>(s, tile),
                            Kind::Wide => self.codes::<S, DyadicWide>(s, tile),
                        }
                    }
                    Requant::Real(_) | Requant::None => self.plain(s, tile),
                }
            }
            row += count;
        }
    }
}

/// Some outputs of one row and one block of channels.
#[derive(Clone, Copy)]
struct Tile {
    block: usize,
    /// The first output pixel, flattened.
    row: usize,
    /// The same, counted from the first one wanted.
    first: usize,
    count: usize,
    /// Groups of four rows of the kernel.
    quads: usize,
}

impl Job<'_, '_> {
    /// Brings the rows of each input column of the tile together.
    #[inline(always)]
    fn make_columns<S: Simd>(&mut self, s: S, tile: Tile) {
        let (v, geom) = (s.v(), self.geom);
        let vector = S::V::LANES * 4;
        let window = geom.window(tile.row);
        let columns = (tile.count - 1) * geom.stride_w + (geom.k_w - 1) * geom.dil_w + 1;
        let padding = [self.x_zero; MAX_LANES * 4];
        let channel = tile.block * vector;
        let ready = &mut self.scratch.columns[..columns * tile.quads * 4 * vector];
        for quad in 0..tile.quads {
            // Where the four rows start in the input.
            let starts = [0, 1, 2, 3].map(|i| {
                let row = quad * 4 + i;
                let from = window.top + (row * geom.dil_h) as isize;
                let inside = row < geom.k_h && (0..geom.in_h as isize).contains(&from);
                inside.then(|| (window.image * geom.in_h + from as usize) * geom.in_w * geom.c_in)
            });
            for column in 0..columns {
                let from = window.left + column as isize;
                let inside = (0..geom.in_w as isize).contains(&from);
                let rows = starts.map(|start| match start {
                    Some(start) if inside => {
                        let at = start + from as usize * geom.c_in + channel;
                        // A vector runs over the end of the input by less than the slack.
                        let bytes: &[u8] = &self.x[at..at + vector];
                        // SAFETY: the slice holds a vector.
                        unsafe { v.load_bytes(bytes.as_ptr()) }
                    }
                    // SAFETY: the array holds the widest vector.
                    _ => unsafe { v.load_bytes(padding.as_ptr()) },
                });
                let to = &mut ready[(column * tile.quads + quad) * 4 * vector..][..4 * vector];
                for (i, four) in v.interleave4(rows).into_iter().enumerate() {
                    // SAFETY: `to` holds four vectors.
                    unsafe { v.store_bytes(to.as_mut_ptr().add(i * vector), four) };
                }
            }
        }
    }

    /// The accumulators in vector `quarter` of the outputs from `output` on.
    #[inline(always)]
    fn sums<S: Simd, const N: usize>(
        &self,
        s: S,
        tile: Tile,
        output: usize,
        quarter: usize,
    ) -> [crate::simd::Int<S>; N] {
        let (v, geom) = (s.v(), self.geom);
        let vector = S::V::LANES * 4;
        let lane = tile.block * vector + quarter * S::V::LANES;
        let mut acc = [vector::load(v, &self.scratch.correction, lane); N];
        let taps = geom.k_w * tile.quads;
        let weights = &self.blocks.bytes[tile.block * taps * 4 * vector..][..taps * 4 * vector];
        let last = (output + N - 1) * geom.stride_w + (geom.k_w - 1) * geom.dil_w;
        let columns = &self.scratch.columns[..(last + 1) * tile.quads * 4 * vector];
        for column in 0..geom.k_w {
            for quad in 0..tile.quads {
                let tap = (column * tile.quads + quad) * 4 + quarter;
                // SAFETY: `tap` is below `4 * taps`.
                let w = unsafe { v.load_bytes(weights.as_ptr().add(tap * vector).cast()) };
                let w = s.weight(w);
                for (i, acc) in acc.iter_mut().enumerate() {
                    let at = (output + i) * geom.stride_w + column * geom.dil_w;
                    let at = (at * tile.quads + quad) * 4 + quarter;
                    // SAFETY: the column is at most `last`.
                    let x = unsafe { v.load_bytes(columns.as_ptr().add(at * vector)) };
                    *acc = s.dot(*acc, s.act(x), w);
                }
            }
        }
        if !self.scratch.row_sums.is_empty() {
            self.correct(s, tile, output, quarter, &mut acc);
        }
        acc
    }

    /// Subtracts `zw * sum (qx - zx)`: what weights with a zero point need.
    #[inline(always)]
    fn correct<S: Simd, const N: usize>(
        &self,
        s: S,
        tile: Tile,
        output: usize,
        quarter: usize,
        acc: &mut [crate::simd::Int<S>; N],
    ) {
        let (v, geom) = (s.v(), self.geom);
        let vector = S::V::LANES * 4;
        let lane = tile.block * vector + quarter * S::V::LANES;
        let w_zero = vector::load(v, &self.scratch.row_sums, lane);
        let zeros = (geom.k_h * geom.k_w) as i32 * i32::from(self.x_zero);
        for (i, acc) in acc.iter_mut().enumerate() {
            let mut sum = v.splat(-zeros);
            for column in 0..geom.k_w {
                for quad in 0..tile.quads {
                    // A weight of 1 for each row that exists.
                    let rows = (geom.k_h - quad * 4).min(4);
                    let ones = s.weight(v.splat(0x0101_0101 >> (8 * (4 - rows))));
                    let at = (output + i) * geom.stride_w + column * geom.dil_w;
                    let at = ((at * tile.quads + quad) * 4 + quarter) * vector;
                    let bytes = &self.scratch.columns[at..at + vector];
                    // SAFETY: the slice holds a vector.
                    let x = unsafe { v.load_bytes(bytes.as_ptr()) };
                    sum = s.dot(sum, s.act(x), ones);
                }
            }
            *acc = v.sub(*acc, v.mul(w_zero, sum));
        }
    }

    /// Requantizes and writes the tile.
    #[inline(always)]
    fn codes<S: Simd, R: VectorRequant<S::V>>(&mut self, s: S, tile: Tile) {
        let mut output = 0;
        while output < tile.count {
            if tile.count >= TOGETHER {
                // The last outputs may be computed twice.
                let from = output.min(tile.count - TOGETHER);
                self.some_codes::<S, R, TOGETHER>(s, tile, from);
                output += TOGETHER;
            } else {
                self.some_codes::<S, R, 1>(s, tile, output);
                output += 1;
            }
        }
    }

    #[inline(always)]
    fn some_codes<S: Simd, R: VectorRequant<S::V>, const N: usize>(
        &mut self,
        s: S,
        tile: Tile,
        output: usize,
    ) {
        let v = s.v();
        let vector = S::V::LANES * 4;
        let mut codes = [[v.splat(0); 4]; N];
        for quarter in 0..4 {
            let lane = tile.block * vector + quarter * S::V::LANES;
            let acc = self.sums::<S, N>(s, tile, output, quarter);
            let requant = R::load(v, &self.scratch.prepared, lane);
            for (codes, acc) in codes.iter_mut().zip(acc) {
                codes[quarter] = requant.apply(v, acc);
            }
        }
        let Out::U8 { data, pitch } = &mut self.out else {
            unreachable!("checked by Epilogue::check");
        };
        let channel = tile.block * vector;
        let count = vector.min(self.geom.c_in - channel);
        for (i, codes) in codes.into_iter().enumerate() {
            let at = (tile.first + output + i) * *pitch + channel;
            let to = &mut data[at..at + count];
            let bytes = v.narrow4(codes);
            if count == vector {
                // SAFETY: the slice holds a vector.
                unsafe { v.store_bytes(to.as_mut_ptr(), bytes) };
            } else {
                let mut all = [0u8; MAX_LANES * 4];
                // SAFETY: the array holds the widest vector.
                unsafe { v.store_bytes(all.as_mut_ptr(), bytes) };
                to.copy_from_slice(&all[..count]);
            }
        }
    }

    /// Writes the tile's accumulators, or real numbers.
    #[inline(always)]
    fn plain<S: Simd>(&mut self, s: S, tile: Tile) {
        let v = s.v();
        let wide = S::V::LANES * 4;
        let channel = tile.block * wide;
        for output in 0..tile.count {
            let mut all = [0i32; MAX_LANES * 4];
            for quarter in 0..4 {
                let [acc] = self.sums::<S, 1>(s, tile, output, quarter);
                // SAFETY: the array holds four of the widest vectors.
                unsafe { v.store(all.as_mut_ptr().add(quarter * S::V::LANES), acc) };
            }
            for (&acc, &lane) in all.iter().zip(S::V::LANE_ORDER) {
                let channel = channel + usize::from(lane);
                if channel < self.geom.c_in {
                    let pixel = tile.first + output;
                    scalar::finish(
                        self.epi,
                        self.geom.c_out,
                        acc,
                        pixel,
                        channel,
                        &mut self.out,
                    );
                }
            }
        }
    }
}

/// A vector of bytes fits into the slack.
const _: () = assert!(MAX_LANES * 4 <= SLACK);
