//! Some outputs of one row and one block of channels: columns, accumulators, outputs.
use super::{columns::Columns, direct, pack::Blocks};
use crate::{
    conv::{ConvGeom, Epilogue, Out, Requant, Scratch, scalar},
    round::vector::{self, DyadicVector, DyadicWide, Kind, OnnxVector, Prepared, VectorRequant},
    simd::{MAX_LANES, Op, Simd, Vector},
};
use std::ops::Range;

/// Outputs of one row that share the columns made ready.
const TILE: usize = 16;
/// Rows of outputs that are computed for one block of channels before the next block.
const BAND: usize = 8;

/// A depthwise convolution of some output pixels.
pub(super) struct Job<'a, 'o> {
    pub(super) geom: &'a ConvGeom,
    pub(super) blocks: &'a Blocks,
    pub(super) x: &'a [u8],
    pub(super) x_zero: u8,
    pub(super) rows: Range<usize>,
    pub(super) epi: &'a Epilogue<'a>,
    pub(super) out: Out<'o>,
    pub(super) scratch: &'a mut Scratch,
}

/// A tile's place.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) block: usize,
    /// The first output pixel, flattened.
    pub(super) row: usize,
    /// The same, counted from the first one wanted.
    pub(super) first: usize,
    /// Outputs, all of one row.
    pub(super) count: usize,
    /// Groups of four rows of the kernel.
    pub(super) quads: usize,
    /// Input columns.
    pub(super) columns: usize,
}

impl Op for Job<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let (geom, blocks) = (self.geom, self.blocks);
        let lanes = || blocks.lanes(geom.c_in);
        let scratch = &mut *self.scratch;
        self.epi.prepare(&mut scratch.prepared, &mut scratch.scale, lanes());
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
        let columns = |count: usize| (count - 1) * geom.stride_w + (geom.k_w - 1) * geom.dil_w + 1;
        let vector = S::V::LANES * 4;
        scratch.columns.resize(columns(TILE) * quads * 4 * vector, 0);
        scratch.acc.resize(TILE * 4 * S::V::LANES, 0);
        let blocks = geom.c_in.div_ceil(vector);
        if direct::fits(geom, self.epi) {
            let band = BAND * geom.out_w;
            for first in (0..self.rows.len()).step_by(band) {
                let rows = first..(first + band).min(self.rows.len());
                for block in 0..blocks {
                    self.direct(s, block, rows.clone());
                }
            }
            return;
        }
        let mut row = self.rows.start;
        while row < self.rows.end {
            let count = TILE.min(geom.out_w - row % geom.out_w).min(self.rows.end - row);
            for block in 0..blocks {
                let tile = Tile { block, row, first: row - self.rows.start, count, quads, columns: columns(count) };
                self.in_steps(s, tile);
            }
            row += count;
        }
    }
}

impl Job<'_, '_> {
    /// Columns, then accumulators, then outputs, with memory between them.
    #[inline(always)]
    fn in_steps<S: Simd>(&mut self, s: S, tile: Tile) {
        self.make_columns(s, tile);
        match (self.geom.k_w, tile.quads, self.geom.dil_w) {
            (5, 2, 1) => self.sums::<S, 5, 2>(s, tile),
            (7, 2, 1) => self.sums::<S, 7, 2>(s, tile),
            _ => self.sums_of_any(s, tile),
        }
        if self.epi.w_zero.is_some() {
            self.correct(s, tile);
        }
        match self.epi.requant {
            Requant::Onnx(_) | Requant::Dyadic { .. } => self.codes(s, tile),
            Requant::Real(_) | Requant::None => self.plain(s, tile),
        }
    }

    /// Brings the rows of each input column of the tile together: for each column and four rows of the
    /// kernel, four vectors in the vectors' `LANE_ORDER`.
    #[inline(always)]
    fn make_columns<S: Simd>(&mut self, s: S, tile: Tile) {
        let v = s.v();
        let vector = S::V::LANES * 4;
        let padding = [self.x_zero; MAX_LANES * 4];
        for quad in 0..tile.quads {
            let columns = Columns::new(self.geom, self.x, &padding, vector, tile, quad);
            let ready = &mut self.scratch.columns[..tile.columns * tile.quads * 4 * vector];
            for column in 0..tile.columns {
                let to = (column * tile.quads + quad) * 4 * vector;
                // SAFETY: `ready` holds four vectors for each column and quad.
                unsafe {
                    let [a, b, c, d] = columns.get(v, column);
                    let to = ready.as_mut_ptr().add(to);
                    v.store_bytes(to, a);
                    v.store_bytes(to.add(vector), b);
                    v.store_bytes(to.add(2 * vector), c);
                    v.store_bytes(to.add(3 * vector), d);
                }
            }
        }
    }

    /// The weights of a block.
    #[inline(always)]
    pub(super) fn weights<S: Simd>(&self, block: usize, quads: usize) -> &[i8] {
        let bytes = self.geom.k_w * quads * 16 * S::V::LANES;
        &self.blocks.bytes[block * bytes..][..bytes]
    }

    /// The accumulators: for each output four vectors. The weights of a quarter of the channels stay in
    /// registers. No dilation across columns.
    #[inline(always)]
    fn sums<S: Simd, const K_W: usize, const QUADS: usize>(&mut self, s: S, tile: Tile) {
        let (v, stride) = (s.v(), self.geom.stride_w);
        let lanes = S::V::LANES;
        let vector = 4 * lanes;
        assert!(tile.columns >= (tile.count - 1) * stride + K_W && tile.quads == QUADS);
        let weights = self.weights::<S>(tile.block, tile.quads).as_ptr().cast::<u8>();
        let columns = self.scratch.columns[..tile.columns * QUADS * 4 * vector].as_ptr();
        let start = self.scratch.correction[tile.block * vector..][..vector].as_ptr();
        let acc = self.scratch.acc[..tile.count * vector].as_mut_ptr();
        for quarter in 0..4 {
            // SAFETY: every slice above holds what the loops reach: `K_W * QUADS` times four vectors of
            // weights; output `i` reads the columns from `i * stride` to `i * stride + K_W - 1`.
            unsafe {
                let start = v.load(start.add(quarter * lanes));
                let mut w = [[s.weight(v.splat(0)); QUADS]; K_W];
                for (i, w) in w.iter_mut().enumerate() {
                    for (j, w) in w.iter_mut().enumerate() {
                        let at = ((i * QUADS + j) * 4 + quarter) * vector;
                        *w = s.weight(v.load_bytes(weights.add(at)));
                    }
                }
                for output in 0..tile.count {
                    let mut sum = start;
                    let from = columns.add((output * stride * QUADS * 4 + quarter) * vector);
                    for (i, w) in w.iter().enumerate() {
                        for (j, &w) in w.iter().enumerate() {
                            let x = v.load_bytes(from.add((i * QUADS + j) * 4 * vector));
                            sum = s.dot(sum, s.act(x), w);
                        }
                    }
                    v.store(acc.add((output * 4 + quarter) * lanes), sum);
                }
            }
        }
    }

    /// [`Self::sums`] for any kernel.
    #[inline(always)]
    fn sums_of_any<S: Simd>(&mut self, s: S, tile: Tile) {
        let (v, geom) = (s.v(), self.geom);
        let lanes = S::V::LANES;
        let vector = 4 * lanes;
        for output in 0..tile.count {
            for quarter in 0..4 {
                let weights = self.weights::<S>(tile.block, tile.quads);
                let lane = tile.block * vector + quarter * lanes;
                let mut sum = vector::load(v, &self.scratch.correction, lane);
                for column in 0..geom.k_w {
                    for quad in 0..tile.quads {
                        let tap = (column * tile.quads + quad) * 4 + quarter;
                        let w = &weights[tap * vector..][..vector];
                        let at = output * geom.stride_w + column * geom.dil_w;
                        let at = (at * tile.quads + quad) * 4 + quarter;
                        let x = &self.scratch.columns[at * vector..][..vector];
                        // SAFETY: the slices hold a vector each.
                        let (w, x) = unsafe { (v.load_bytes(w.as_ptr().cast()), v.load_bytes(x.as_ptr())) };
                        sum = s.dot(sum, s.act(x), s.weight(w));
                    }
                }
                let to = &mut self.scratch.acc[(output * 4 + quarter) * lanes..][..lanes];
                // SAFETY: the slice holds a vector.
                unsafe { v.store(to.as_mut_ptr(), sum) };
            }
        }
    }

    /// Subtracts `zw * sum (qx - zx)`: what weights with a zero point need.
    #[inline(always)]
    fn correct<S: Simd>(&mut self, s: S, tile: Tile) {
        let (v, geom) = (s.v(), self.geom);
        let lanes = S::V::LANES;
        let vector = 4 * lanes;
        let zeros = (geom.k_h * geom.k_w) as i32 * i32::from(self.x_zero);
        for output in 0..tile.count {
            for quarter in 0..4 {
                let lane = tile.block * vector + quarter * lanes;
                let w_zero = vector::load(v, &self.scratch.row_sums, lane);
                let mut sum = v.splat(-zeros);
                for column in 0..geom.k_w {
                    for quad in 0..tile.quads {
                        // A weight of 1 for each row that exists.
                        let rows = (geom.k_h - quad * 4).min(4);
                        let ones = s.weight(v.splat(0x0101_0101 >> (8 * (4 - rows))));
                        let at = output * geom.stride_w + column * geom.dil_w;
                        let at = ((at * tile.quads + quad) * 4 + quarter) * vector;
                        let bytes = &self.scratch.columns[at..at + vector];
                        // SAFETY: the slice holds a vector.
                        let x = unsafe { v.load_bytes(bytes.as_ptr()) };
                        sum = s.dot(sum, s.act(x), ones);
                    }
                }
                let at = (output * 4 + quarter) * lanes;
                let acc = vector::load(v, &self.scratch.acc, at);
                let to = &mut self.scratch.acc[at..at + lanes];
                // SAFETY: the slice holds a vector.
                unsafe { v.store(to.as_mut_ptr(), v.sub(acc, v.mul(w_zero, sum))) };
            }
        }
    }

    /// Requantizes and writes the tile.
    #[inline(always)]
    fn codes<S: Simd>(&mut self, s: S, tile: Tile) {
        let vector = S::V::LANES * 4;
        let channel = tile.block * vector;
        let Out::U8 { data, pitch } = &mut self.out else {
            unreachable!("checked by Epilogue::check");
        };
        let to = Codes {
            data: &mut data[tile.first * *pitch + channel..],
            pitch: *pitch,
            count: vector.min(self.geom.c_in - channel),
            outputs: tile.count,
            lane: channel,
        };
        let (prepared, acc) = (&self.scratch.prepared, &self.scratch.acc[..]);
        match prepared.kind() {
            Kind::Onnx => to.write::<S, OnnxVector<S::V>>(s, prepared, acc),
            Kind::Dyadic => to.write::<S, DyadicVector<S::V>>(s, prepared, acc),
            Kind::Wide => to.write::<S, DyadicWide<S::V>>(s, prepared, acc),
        }
    }

    /// Writes the tile's accumulators, or real numbers.
    #[inline(always)]
    fn plain<S: Simd>(&mut self, _: S, tile: Tile) {
        let wide = S::V::LANES * 4;
        let channel = tile.block * wide;
        for output in 0..tile.count {
            let all = &self.scratch.acc[output * wide..][..wide];
            for (&acc, &lane) in all.iter().zip(S::V::LANE_ORDER) {
                let channel = channel + usize::from(lane);
                if channel < self.geom.c_in {
                    let pixel = tile.first + output;
                    let c_out = self.geom.c_out;
                    scalar::finish(self.epi, c_out, acc, pixel, channel, &mut self.out);
                }
            }
        }
    }
}

/// Where a tile's codes go.
struct Codes<'a> {
    data: &'a mut [u8],
    pitch: usize,
    /// Channels that exist.
    count: usize,
    outputs: usize,
    /// The first lane of the block.
    lane: usize,
}

impl Codes<'_> {
    #[inline(always)]
    fn write<S: Simd, R: VectorRequant<S::V>>(self, s: S, prepared: &Prepared, acc: &[i32]) {
        let v = s.v();
        let lanes = S::V::LANES;
        let requant = [
            R::load(v, prepared, self.lane),
            R::load(v, prepared, self.lane + lanes),
            R::load(v, prepared, self.lane + 2 * lanes),
            R::load(v, prepared, self.lane + 3 * lanes),
        ];
        for i in 0..self.outputs {
            let acc = &acc[i * 4 * lanes..][..4 * lanes];
            let bytes = v.narrow4([
                requant[0].apply(v, vector::load(v, acc, 0)),
                requant[1].apply(v, vector::load(v, acc, lanes)),
                requant[2].apply(v, vector::load(v, acc, 2 * lanes)),
                requant[3].apply(v, vector::load(v, acc, 3 * lanes)),
            ]);
            let to = &mut self.data[i * self.pitch..][..self.count];
            if self.count == 4 * lanes {
                // SAFETY: the slice holds a vector.
                unsafe { v.store_bytes(to.as_mut_ptr(), bytes) };
            } else {
                // SAFETY: the slice holds `count` bytes.
                unsafe { v.store_some_bytes(to.as_mut_ptr(), bytes, self.count) };
            }
        }
    }
}
