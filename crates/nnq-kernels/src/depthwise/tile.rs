//! Some outputs of one row and one block of channels: columns, accumulators, outputs.
use super::{
    bound::Ready,
    columns::{Columns, Rows},
    pack::Blocks,
};
use crate::{
    conv::{
        ConvGeom, Epilogue, Scratch,
        epilogue::{Form, OutPtr},
        scalar,
    },
    round::vector::{self, DyadicVector, DyadicWide, Kind, OnnxVector, VectorRequant},
    simd::{MAX_LANES, Op, Simd, Vector},
};
use std::ops::Range;

/// Outputs of one row that share the columns made ready.
const TILE: usize = 16;
/// Rows of outputs that are computed for one block of channels before the next block.
const BAND: usize = 8;

/// A depthwise convolution of some output pixels. The outputs of `rows` are writable at `out`.
pub(super) struct Job<'a> {
    pub(super) geom: &'a ConvGeom,
    pub(super) blocks: &'a Blocks,
    pub(super) ready: &'a Ready,
    /// What accumulators start from: that of `ready`, or what suits inputs whose zero point was found as they came.
    pub(super) start: &'a [i32],
    pub(super) epi: &'a Epilogue<'a>,
    pub(super) x: &'a [u8],
    pub(super) x_zero: u8,
    pub(super) rows: Range<usize>,
    pub(super) out: OutPtr,
    pub(super) scratch: &'a mut Scratch,
}

/// A tile's place.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) block: usize,
    /// The first output pixel, flattened.
    pub(super) row: usize,
    /// Outputs, all of one row.
    pub(super) count: usize,
    /// Groups of four rows of the kernel.
    pub(super) quads: usize,
    /// Input columns.
    pub(super) columns: usize,
}

impl Op for Job<'_> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let geom = self.geom;
        let vector = S::V::LANES * 4;
        let blocks = geom.c_in.div_ceil(vector);
        if self.ready.direct {
            // The same bands of whole rows for every share of the work.
            let band = BAND * geom.out_w;
            let mut first = self.rows.start;
            while first < self.rows.end {
                let rows = first..(first / band * band + band).min(self.rows.end);
                for block in 0..blocks {
                    self.direct(s, block, rows.clone());
                }
                first = rows.end;
            }
            return;
        }
        let quads = geom.k_h.div_ceil(4);
        let columns = |count: usize| (count - 1) * geom.stride_w + (geom.k_w - 1) * geom.dil_w + 1;
        self.scratch.columns.resize(columns(TILE) * quads * 4 * vector, 0);
        self.scratch.acc.resize(TILE * 4 * S::V::LANES, 0);
        let mut row = self.rows.start;
        while row < self.rows.end {
            let count = TILE.min(geom.out_w - row % geom.out_w).min(self.rows.end - row);
            for block in 0..blocks {
                let tile = Tile { block, row, count, quads, columns: columns(count) };
                self.in_steps(s, tile);
            }
            row += count;
        }
    }
}

impl Job<'_> {
    /// Columns, then accumulators, then outputs, with memory between them.
    #[inline(always)]
    fn in_steps<S: Simd>(&mut self, s: S, tile: Tile) {
        self.make_columns(s, tile);
        match (self.geom.k_w, tile.quads, self.geom.dil_w) {
            (5, 2, 1) => self.sums::<S, 5, 2>(s, tile),
            (7, 2, 1) => self.sums::<S, 7, 2>(s, tile),
            _ => self.sums_of_any(s, tile),
        }
        if let Some(w_zero) = &self.ready.w_zero {
            self.correct(s, tile, w_zero);
        }
        match self.epi.form() {
            Form::Codes => self.codes(s, tile),
            Form::Real | Form::Dynamic | Form::Sums | Form::Words => self.plain(s, tile),
        }
    }

    /// Brings the rows of each input column of the tile together: for each column and four rows of the
    /// kernel, four vectors in the vectors' `LANE_ORDER`.
    #[inline(always)]
    fn make_columns<S: Simd>(&mut self, s: S, tile: Tile) {
        let v = s.v();
        let vector = S::V::LANES * 4;
        let padding = [self.x_zero; MAX_LANES * 4];
        let mut mixed: Rows = [padding; 4];
        for quad in 0..tile.quads {
            let columns = Columns::new(self.geom, self.x, &padding, vector, tile, [quad, self.geom.k_h], 1);
            let ready = &mut self.scratch.columns[..tile.columns * tile.quads * 4 * vector];
            for column in 0..tile.columns {
                let to = (column * tile.quads + quad) * 4 * vector;
                // SAFETY: `ready` holds four vectors for each column and quad.
                unsafe {
                    let [a, b, c, d] = columns.get::<_, false>(v, column, &mut mixed);
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
        let start = self.start[tile.block * vector..][..vector].as_ptr();
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
                let mut sum = vector::load(v, self.start, lane);
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
    fn correct<S: Simd>(&mut self, s: S, tile: Tile, w_zero: &[i32]) {
        let (v, geom) = (s.v(), self.geom);
        let lanes = S::V::LANES;
        let vector = 4 * lanes;
        let zeros = (geom.k_h * geom.k_w) as i32 * i32::from(self.x_zero);
        for output in 0..tile.count {
            for quarter in 0..4 {
                let lane = tile.block * vector + quarter * lanes;
                let w_zero = vector::load(v, w_zero, lane);
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
        match self.ready.prepared.kind() {
            Kind::Onnx => self.codes_as::<S, OnnxVector<S::V>>(s, tile),
            Kind::Dyadic => self.codes_as::<S, DyadicVector<S::V>>(s, tile),
            Kind::Wide => self.codes_as::<S, DyadicWide<S::V>>(s, tile),
        }
    }

    #[inline(always)]
    fn codes_as<S: Simd, R: VectorRequant<S::V>>(&mut self, s: S, tile: Tile) {
        let v = s.v();
        let lanes = S::V::LANES;
        let channel = tile.block * 4 * lanes;
        let count = (4 * lanes).min(self.geom.c_in - channel);
        let OutPtr::U8 { data, pitch } = self.out else {
            unreachable!("the form of the epilogue was checked");
        };
        let prepared = &self.ready.prepared;
        let requant = [
            R::load(v, prepared, channel),
            R::load(v, prepared, channel + lanes),
            R::load(v, prepared, channel + 2 * lanes),
            R::load(v, prepared, channel + 3 * lanes),
        ];
        for i in 0..tile.count {
            let acc = &self.scratch.acc[i * 4 * lanes..][..4 * lanes];
            let codes = [
                requant[0].without_zero(v, vector::load(v, acc, 0)),
                requant[1].without_zero(v, vector::load(v, acc, lanes)),
                requant[2].without_zero(v, vector::load(v, acc, 2 * lanes)),
                requant[3].without_zero(v, vector::load(v, acc, 3 * lanes)),
            ];
            let bytes = v.narrow4(codes, prepared.bytes_of_code(v));
            let to = data.wrapping_add((tile.row + i) * pitch + channel);
            // SAFETY: these channels of the pixel are writable.
            unsafe {
                if count == 4 * lanes {
                    v.store_bytes(to, bytes);
                } else {
                    v.store_some_bytes(to, bytes, count);
                }
            }
        }
    }

    /// Writes the tile's accumulators, or real numbers.
    #[inline(always)]
    fn plain<S: Simd>(&mut self, _: S, tile: Tile) {
        let wide = S::V::LANES * 4;
        let (channel, c) = (tile.block * wide, self.geom.c_out);
        // SAFETY: the outputs are writable, and these two forms leave no room between pixels.
        let mut out = unsafe { self.out.slice(tile.row, tile.count, c) };
        for output in 0..tile.count {
            let all = &self.scratch.acc[output * wide..][..wide];
            for (&acc, &lane) in all.iter().zip(S::V::LANE_ORDER) {
                let channel = channel + usize::from(lane);
                if channel < c {
                    scalar::finish(self.epi, c, acc, output, channel, &mut out);
                }
            }
        }
    }
}
