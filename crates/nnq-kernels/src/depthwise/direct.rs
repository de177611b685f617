//! Kernels three columns wide and up to four rows high at strides 1 and 2: a whole row of outputs with columns
//! and accumulators in registers.
use super::{
    columns::Columns,
    tile::{Job, Tile},
};
use crate::{
    conv::{ConvGeom, Epilogue, Out, Requant},
    round::vector::{self, DyadicVector, DyadicWide, Kind, OnnxVector, VectorRequant},
    simd::{Int, MAX_LANES, Simd, Vector},
};
use std::ops::Range;

/// Whether [`Job::direct`] can do it.
pub(super) fn fits(geom: &ConvGeom, epi: &Epilogue) -> bool {
    geom.k_w == 3
        && geom.k_h <= 4
        && geom.dil_w == 1
        && geom.stride_w <= 2
        && epi.w_zero.is_none()
        && matches!(epi.requant, Requant::Onnx(_) | Requant::Dyadic { .. })
}

impl Job<'_, '_> {
    /// The outputs `rows` (counted from the first one wanted), channels of one block.
    #[inline(always)]
    pub(super) fn direct<S: Simd>(&mut self, s: S, block: usize, rows: Range<usize>) {
        match self.scratch.prepared.kind() {
            Kind::Onnx => self.direct_as::<S, OnnxVector<S::V>>(s, block, rows),
            Kind::Dyadic => self.direct_as::<S, DyadicVector<S::V>>(s, block, rows),
            Kind::Wide => self.direct_as::<S, DyadicWide>(s, block, rows),
        }
    }

    #[inline(always)]
    fn direct_as<S: Simd, R: VectorRequant<S::V>>(
        &mut self,
        s: S,
        block: usize,
        rows: Range<usize>,
    ) {
        let (v, geom) = (s.v(), self.geom);
        let lanes = S::V::LANES;
        let vector = 4 * lanes;
        let lane = block * vector;
        let padding = [self.x_zero; MAX_LANES * 4];
        let weights = self.weights::<S>(block, 1);
        assert!(weights.len() == 3 * 4 * vector);
        let mut w = [[s.weight(v.splat(0)); 4]; 3];
        for (i, w) in w.iter_mut().enumerate() {
            for (j, w) in w.iter_mut().enumerate() {
                let at = weights[(i * 4 + j) * vector..][..vector].as_ptr();
                // SAFETY: the slice holds a vector.
                *w = s.weight(unsafe { v.load_bytes(at.cast()) });
            }
        }
        let correction = &self.scratch.correction;
        let start = [
            vector::load(v, correction, lane),
            vector::load(v, correction, lane + lanes),
            vector::load(v, correction, lane + 2 * lanes),
            vector::load(v, correction, lane + 3 * lanes),
        ];
        let prepared = &self.scratch.prepared;
        let requant = [
            R::load(v, prepared, lane),
            R::load(v, prepared, lane + lanes),
            R::load(v, prepared, lane + 2 * lanes),
            R::load(v, prepared, lane + 3 * lanes),
        ];
        let limits = prepared.codes().map(|code| i32::from_ne_bytes([code; 4]));
        let Out::U8 { data, pitch } = &mut self.out else {
            unreachable!("checked by Epilogue::check");
        };
        let mut to = Codes {
            data,
            pitch: *pitch,
            lane,
            count: vector.min(geom.c_in - lane),
            requant,
            limits: [v.splat(limits[0]), v.splat(limits[1])],
        };
        let mut first = rows.start;
        while first < rows.end {
            let row = self.rows.start + first;
            let count = (geom.out_w - row % geom.out_w).min(rows.end - first);
            let tile = Tile {
                block,
                row,
                first,
                count,
                quads: 1,
                columns: (count - 1) * geom.stride_w + 3,
            };
            let columns = Columns::new(geom, self.x, &padding, vector, tile, 0);
            let mut sum = dot4(s, start, columns.get(v, 0), w[0]);
            if geom.stride_w == 1 {
                let column = columns.get(v, 1);
                sum = dot4(s, sum, column, w[1]);
                let mut next = dot4(s, start, column, w[0]);
                for output in 0..count {
                    let column = columns.get(v, output + 2);
                    to.write(s, first + output, dot4(s, sum, column, w[2]));
                    sum = dot4(s, next, column, w[1]);
                    next = dot4(s, start, column, w[0]);
                }
            } else {
                for output in 0..count {
                    let middle = dot4(s, sum, columns.get(v, 2 * output + 1), w[1]);
                    let column = columns.get(v, 2 * output + 2);
                    to.write(s, first + output, dot4(s, middle, column, w[2]));
                    sum = dot4(s, start, column, w[0]);
                }
            }
            first += count;
        }
    }
}

/// [`Simd::dot`] of four vectors.
#[inline(always)]
fn dot4<S: Simd>(s: S, acc: [Int<S>; 4], x: [Int<S>; 4], w: [S::Weight; 4]) -> [Int<S>; 4] {
    [
        s.dot(acc[0], s.act(x[0]), w[0]),
        s.dot(acc[1], s.act(x[1]), w[1]),
        s.dot(acc[2], s.act(x[2]), w[2]),
        s.dot(acc[3], s.act(x[3]), w[3]),
    ]
}

/// Where a block's codes go, and how they come about.
struct Codes<'a, V: Vector, R> {
    data: &'a mut [u8],
    pitch: usize,
    /// The block's first channel.
    lane: usize,
    /// Channels that exist.
    count: usize,
    requant: [R; 4],
    /// The smallest and the largest code, in every byte.
    limits: [V::I; 2],
}

impl<V: Vector, R: VectorRequant<V>> Codes<'_, V, R> {
    #[inline(always)]
    fn write<S: Simd<V = V>>(&mut self, s: S, output: usize, acc: [V::I; 4]) {
        let v = s.v();
        let bytes = v.narrow4([
            self.requant[0].unclamped(v, acc[0]),
            self.requant[1].unclamped(v, acc[1]),
            self.requant[2].unclamped(v, acc[2]),
            self.requant[3].unclamped(v, acc[3]),
        ]);
        let bytes = v.min_u8(v.max_u8(bytes, self.limits[0]), self.limits[1]);
        let to = &mut self.data[output * self.pitch + self.lane..][..self.count];
        // SAFETY: the slice holds `count` bytes.
        unsafe {
            if self.count == 4 * V::LANES {
                v.store_bytes(to.as_mut_ptr(), bytes);
            } else {
                v.store_some_bytes(to.as_mut_ptr(), bytes, self.count);
            }
        }
    }
}
