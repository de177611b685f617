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
            Kind::Wide => self.direct_as::<S, DyadicWide<S::V>>(s, block, rows),
        }
    }

    #[inline(always)]
    fn direct_as<S: Simd, R: VectorRequant<S::V>>(&mut self, s: S, block: usize, rows: Range<usize>) {
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
            let tile = Tile { block, row, first, count, quads: 1, columns: (count - 1) * geom.stride_w + 3 };
            let columns = Columns::new(geom, self.x, &padding, vector, tile, 0);
            let outputs = Span { first, count };
            match geom.stride_w {
                1 => row_of::<S, R, 1, 2, 4>(s, &columns, outputs, &w, &start, &mut to),
                _ => row_of::<S, R, 2, 1, 3>(s, &columns, outputs, &w, &start, &mut to),
            }
            first += count;
        }
    }
}

/// Where a row's outputs begin and how many there are.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    count: usize,
}

/// A row of outputs, `TOGETHER` at a time, so that weights and multipliers are loaded once for all of them.
/// `COLUMNS = (TOGETHER - 1) * STRIDE + 3` is what they see.
///
/// Constant bounds and indices: the columns stay in registers.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn row_of<S: Simd, R: VectorRequant<S::V>, const STRIDE: usize, const TOGETHER: usize, const COLUMNS: usize>(
    s: S,
    columns: &Columns,
    outputs: Span,
    w: &[[S::Weight; 4]; 3],
    start: &[Int<S>; 4],
    to: &mut Codes<S::V, R>,
) {
    let v = s.v();
    let kept = 3 - STRIDE;
    let mut seen = [[v.splat(0); 4]; COLUMNS];
    for i in 0..kept {
        seen[i] = columns.get(v, i);
    }
    let mut output = 0;
    while output + TOGETHER <= outputs.count {
        for i in kept..COLUMNS {
            seen[i] = columns.get(v, output * STRIDE + i);
        }
        let codes = codes_of::<S, R, STRIDE, TOGETHER, COLUMNS>(s, &seen, w, start, to);
        for i in 0..TOGETHER {
            to.write(v, outputs.first + output + i, codes[i]);
        }
        for i in 0..kept {
            seen[i] = seen[i + TOGETHER * STRIDE];
        }
        output += TOGETHER;
    }
    while output < outputs.count {
        for i in kept..3 {
            seen[i] = columns.get(v, output * STRIDE + i);
        }
        let [codes] = codes_of::<S, R, STRIDE, 1, COLUMNS>(s, &seen, w, start, to);
        to.write(v, outputs.first + output, codes);
        for i in 0..kept {
            seen[i] = seen[i + STRIDE];
        }
        output += 1;
    }
}

/// The codes, not clamped yet, of `TOGETHER` outputs that see these columns.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn codes_of<S: Simd, R: VectorRequant<S::V>, const STRIDE: usize, const TOGETHER: usize, const COLUMNS: usize>(
    s: S,
    seen: &[[Int<S>; 4]; COLUMNS],
    w: &[[S::Weight; 4]; 3],
    start: &[Int<S>; 4],
    to: &Codes<S::V, R>,
) -> [[Int<S>; 4]; TOGETHER] {
    let v = s.v();
    let mut codes = [[v.splat(0); 4]; TOGETHER];
    for quarter in 0..4 {
        for i in 0..TOGETHER {
            let mut sum = start[quarter];
            for tap in 0..3 {
                let x = s.act(seen[i * STRIDE + tap][quarter]);
                sum = s.dot(sum, x, w[tap][quarter]);
            }
            codes[i][quarter] = to.requant[quarter].unclamped(v, sum);
        }
    }
    codes
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
    fn write(&mut self, v: V, output: usize, codes: [V::I; 4]) {
        let bytes = v.narrow4(codes);
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
