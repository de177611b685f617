//! Kernels three columns wide and up to four rows high at strides 1 and 2: a whole row of outputs with columns
//! and accumulators in registers.
//!
//! A vector of input bytes holds four rows. A kernel of three leaves one over, so that two rows of outputs share what was
//! brought together, the second with its weights moved down by one row. Where a vector holds the channels of
//! several pixels, as many neighbouring outputs are computed as if they were one pixel of more channels.
use super::{
    columns::{Columns, Rows},
    tile::{Job, Tile},
};
use crate::{
    conv::{
        ConvGeom, Epilogue,
        epilogue::{Form, OutPtr},
    },
    round::vector::{self, DyadicVector, DyadicWide, Kind, OnnxVector, VectorRequant},
    simd::{CodeBytes, Int, MAX_LANES, Simd, Vector},
};
use std::ops::Range;

/// Whether [`Job::direct`] can do it.
pub(super) fn fits(geom: &ConvGeom, epi: &Epilogue) -> bool {
    geom.k_w == 3
        && geom.k_h <= 4
        && geom.dil_w == 1
        && geom.stride_w <= 2
        && epi.w_zero.is_none()
        && epi.form() == Form::Codes
}

/// How many neighbouring pixels to compute as one with vectors of `vector` bytes.
pub(super) fn together(geom: &ConvGeom, epi: &Epilogue, vector: usize) -> usize {
    let fit = vector.checked_div(geom.c_in).map_or(1, |fit| fit.min(geom.out_w));
    if fits(geom, epi) && geom.stride_w == 1 { fit.max(1) } else { 1 }
}

impl Job<'_> {
    /// The outputs `rows`, channels of one block.
    #[inline(always)]
    pub(super) fn direct<S: Simd>(&self, s: S, block: usize, rows: Range<usize>) {
        match self.ready.prepared.kind() {
            Kind::Onnx => self.direct_as::<S, OnnxVector<S::V>>(s, block, rows),
            Kind::Dyadic => self.direct_as::<S, DyadicVector<S::V>>(s, block, rows),
            Kind::Wide => self.direct_as::<S, DyadicWide<S::V>>(s, block, rows),
        }
    }

    #[inline(always)]
    fn direct_as<S: Simd, R: VectorRequant<S::V>>(&self, s: S, block: usize, rows: Range<usize>) {
        let (v, geom, together) = (s.v(), self.geom, self.ready.together);
        let lanes = S::V::LANES;
        let vector = 4 * lanes;
        let lane = block * vector;
        let padding = [self.x_zero; MAX_LANES * 4];
        let weights = self.weights::<S>(block, 1);
        assert!(weights.len() == 3 * 4 * vector);
        let mut w = [[[s.weight(v.splat(0)); 4]; 3]; 2];
        for i in 0..3 {
            for j in 0..4 {
                let at = weights[(i * 4 + j) * vector..][..vector].as_ptr();
                // SAFETY: the slice holds a vector.
                let bytes = unsafe { v.load_bytes(at.cast()) };
                w[0][i][j] = s.weight(bytes);
                // Each byte to the next row.
                w[1][i][j] = s.weight(v.mul(bytes, v.splat(256)));
            }
        }
        let (start, prepared) = (self.start, &self.ready.prepared);
        let start = [
            vector::load(v, start, lane),
            vector::load(v, start, lane + lanes),
            vector::load(v, start, lane + 2 * lanes),
            vector::load(v, start, lane + 3 * lanes),
        ];
        let requant = [
            R::load(v, prepared, lane),
            R::load(v, prepared, lane + lanes),
            R::load(v, prepared, lane + 2 * lanes),
            R::load(v, prepared, lane + 3 * lanes),
        ];
        let OutPtr::U8 { data, pitch } = self.out else {
            unreachable!("only codes fit");
        };
        let to = Codes {
            data: data.wrapping_add(lane),
            pitch,
            channels: vector.min(geom.c_in - lane),
            together,
            requant,
            limits: prepared.bytes_of_code(v),
        };
        // The second row's window begins one row of the kernel below the first one's.
        let pairs = geom.k_h <= 3 && geom.stride_h == geom.dil_h;
        let mut row = rows.start;
        while row < rows.end {
            let count = (geom.out_w - row % geom.out_w).min(rows.end - row);
            let whole = count == geom.out_w && row + 2 * count <= rows.end;
            let two = pairs && whole && row / geom.out_w % geom.out_h + 1 < geom.out_h;
            let columns = (count.next_multiple_of(together) - 1) * geom.stride_w + 3;
            let tile = Tile { block, row, count, quads: 1, columns };
            let height = geom.k_h + usize::from(two);
            let columns = Columns::new(geom, self.x, &padding, vector, tile, [0, height], together);
            let span = Span { row, count, next: geom.out_w };
            let step = geom.stride_w * together;
            match (two, step, together) {
                (false, 1, _) => row_of::<S, R, 2, 1, false>(s, &columns, span, step, &w, &start, &to),
                (false, 2, 1) => row_of::<S, R, 1, 1, false>(s, &columns, span, step, &w, &start, &to),
                (false, 2, _) => row_of::<S, R, 1, 1, true>(s, &columns, span, step, &w, &start, &to),
                (false, ..) => row_of::<S, R, 0, 1, true>(s, &columns, span, step, &w, &start, &to),
                (true, 1, _) => row_of::<S, R, 2, 2, false>(s, &columns, span, step, &w, &start, &to),
                (true, 2, 1) => row_of::<S, R, 1, 2, false>(s, &columns, span, step, &w, &start, &to),
                (true, 2, _) => row_of::<S, R, 1, 2, true>(s, &columns, span, step, &w, &start, &to),
                (true, ..) => row_of::<S, R, 0, 2, true>(s, &columns, span, step, &w, &start, &to),
            }
            row += if two { 2 * count } else { count };
        }
    }
}

/// Outputs of one row, or of two rows that begin `next` outputs apart.
#[derive(Clone, Copy)]
struct Span {
    row: usize,
    count: usize,
    next: usize,
}

/// One row of outputs or two. A vector of outputs is `step` columns further than the one before it, and `KEPT` of its three
/// columns are those of its predecessor.
///
/// Constant bounds and indices: the columns stay in registers.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn row_of<S: Simd, R: VectorRequant<S::V>, const KEPT: usize, const ROWS: usize, const GROUPED: bool>(
    s: S,
    columns: &Columns,
    span: Span,
    step: usize,
    w: &[[[S::Weight; 4]; 3]; 2],
    start: &[Int<S>; 4],
    to: &Codes<S::V, R>,
) {
    let v = s.v();
    let mut mixed: Rows = [[0; MAX_LANES * 4]; 4];
    let mut seen = [[v.splat(0); 4]; 3];
    for i in 0..KEPT {
        seen[3 - KEPT + i] = columns.get::<_, GROUPED>(v, i, &mut mixed);
    }
    let (mut output, mut column) = (0, 0);
    while output < span.count {
        for i in 0..KEPT {
            seen[i] = seen[3 - KEPT + i];
        }
        for i in KEPT..3 {
            seen[i] = columns.get::<_, GROUPED>(v, column + i, &mut mixed);
        }
        let mut codes = [[v.splat(0); 4]; ROWS];
        for quarter in 0..4 {
            for row in 0..ROWS {
                let mut sum = start[quarter];
                for tap in 0..3 {
                    sum = s.dot(sum, s.act(seen[tap][quarter]), w[row][tap][quarter]);
                }
                codes[row][quarter] = to.requant[quarter].without_zero(v, sum);
            }
        }
        let together = if GROUPED { to.together } else { 1 };
        let count = to.channels * together.min(span.count - output);
        for row in 0..ROWS {
            // SAFETY: the outputs of `span` are writable.
            unsafe { to.write(v, span.row + row * span.next + output, count, codes[row]) };
        }
        output += together;
        column += step;
    }
}

/// Where a block's codes go, and how they come about.
struct Codes<V: Vector, R> {
    /// Of pixel 0, the block's first channel.
    data: *mut u8,
    pitch: usize,
    /// Channels that exist.
    channels: usize,
    /// Pixels in one vector; with more than 1 there is no room between pixels.
    together: usize,
    requant: [R; 4],
    limits: CodeBytes<V::I>,
}

impl<V: Vector, R: VectorRequant<V>> Codes<V, R> {
    /// # Safety
    /// `count` bytes are writable from the block's first channel of pixel `first` on.
    #[inline(always)]
    unsafe fn write(&self, v: V, first: usize, count: usize, codes: [V::I; 4]) {
        let bytes = v.narrow4(codes, self.limits);
        let to = self.data.wrapping_add(first * self.pitch);
        // SAFETY: the caller's.
        unsafe {
            if count == 4 * V::LANES {
                v.store_bytes(to, bytes);
            } else {
                v.store_some_bytes(to, bytes, count);
            }
        }
    }
}
