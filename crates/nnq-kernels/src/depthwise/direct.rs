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
    /// The outputs of a row.
    #[inline(always)]
    pub(super) fn direct<S: Simd>(&mut self, s: S, tile: Tile) {
        match self.scratch.prepared.kind() {
            Kind::Onnx => self.direct_as::<S, OnnxVector<S::V>>(s, tile),
            Kind::Dyadic => self.direct_as::<S, DyadicVector<S::V>>(s, tile),
            Kind::Wide => self.direct_as::<S, DyadicWide>(s, tile),
        }
    }

    #[inline(always)]
    fn direct_as<S: Simd, R: VectorRequant<S::V>>(&mut self, s: S, tile: Tile) {
        let v = s.v();
        let lanes = S::V::LANES;
        let vector = 4 * lanes;
        let lane = tile.block * vector;
        let padding = [self.x_zero; MAX_LANES * 4];
        let columns = Columns::new(self.geom, self.x, &padding, vector, tile, 0);
        let weights = self.weights::<S>(tile);
        assert!(weights.len() == 3 * 4 * vector && tile.quads == 1);
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
        let Out::U8 { data, pitch } = &mut self.out else {
            unreachable!("checked by Epilogue::check");
        };
        let mut row = Row {
            data: &mut data[tile.first * *pitch + lane..],
            pitch: *pitch,
            count: vector.min(self.geom.c_in - lane),
        };
        let column = columns.get(v, 0);
        let mut sum = dot4(s, start, column, w[0]);
        if self.geom.stride_w == 1 {
            let column = columns.get(v, 1);
            sum = dot4(s, sum, column, w[1]);
            let mut next = dot4(s, start, column, w[0]);
            for output in 0..tile.count {
                let column = columns.get(v, output + 2);
                row.write(s, output, dot4(s, sum, column, w[2]), &requant);
                sum = dot4(s, next, column, w[1]);
                next = dot4(s, start, column, w[0]);
            }
        } else {
            for output in 0..tile.count {
                let middle = dot4(s, sum, columns.get(v, 2 * output + 1), w[1]);
                let column = columns.get(v, 2 * output + 2);
                row.write(s, output, dot4(s, middle, column, w[2]), &requant);
                sum = dot4(s, start, column, w[0]);
            }
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

/// Where a row's codes go.
struct Row<'a> {
    data: &'a mut [u8],
    pitch: usize,
    /// Channels that exist.
    count: usize,
}

impl Row<'_> {
    #[inline(always)]
    fn write<S: Simd, R: VectorRequant<S::V>>(
        &mut self,
        s: S,
        output: usize,
        acc: [Int<S>; 4],
        requant: &[R; 4],
    ) {
        let v = s.v();
        let bytes = v.narrow4([
            requant[0].apply(v, acc[0]),
            requant[1].apply(v, acc[1]),
            requant[2].apply(v, acc[2]),
            requant[3].apply(v, acc[3]),
        ]);
        let to = &mut self.data[output * self.pitch..][..self.count];
        if self.count == 4 * S::V::LANES {
            // SAFETY: the slice holds a vector.
            unsafe { v.store_bytes(to.as_mut_ptr(), bytes) };
        } else {
            let mut all = [0u8; MAX_LANES * 4];
            // SAFETY: the array holds the widest vector.
            unsafe { v.store_bytes(all.as_mut_ptr(), bytes) };
            to.copy_from_slice(&all[..self.count]);
        }
    }
}
