//! The columns of the input under one row of outputs, four rows of the kernel at a time.
use super::tile::Tile;
use crate::{
    SLACK,
    conv::ConvGeom,
    simd::{MAX_LANES, Vector},
};
use std::marker::PhantomData;

/// A vector of bytes fits into the slack.
const _: () = assert!(MAX_LANES * 4 <= SLACK);

/// Where the four rows of each column lie.
pub(super) struct Columns<'a> {
    /// Of each row: the first column inside the input, and the bytes from one column to the next.
    rows: [(*const u8, usize); 4],
    padding: *const u8,
    /// The columns inside the input are `first..end`.
    first: usize,
    end: usize,
    count: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Columns<'a> {
    /// The columns of `tile` for the rows `4 * quad` to `4 * quad + 3` of the kernel, `vector` channels.
    /// Rows that do not exist or lie in the padding, and columns in the padding, read `padding`.
    #[inline(always)]
    pub(super) fn new(
        geom: &ConvGeom,
        x: &'a [u8],
        padding: &'a [u8; MAX_LANES * 4],
        vector: usize,
        tile: Tile,
        quad: usize,
    ) -> Columns<'a> {
        let window = geom.window(tile.row);
        let channel = tile.block * vector;
        let inside = |column: isize| column.clamp(0, tile.columns as isize) as usize;
        let first = inside(-window.left);
        let end = inside(geom.in_w as isize - window.left);
        let mut rows = [(padding.as_ptr(), 0); 4];
        for (i, start) in rows.iter_mut().enumerate() {
            let row = quad * 4 + i;
            let from = window.top + (row * geom.dil_h) as isize;
            if row < geom.k_h && (0..geom.in_h as isize).contains(&from) && first < end {
                let line = (window.image * geom.in_h + from as usize) * geom.in_w;
                let column = (window.left + first as isize) as usize;
                let at = (line + column) * geom.c_in + channel;
                // A vector runs over the end of the input by less than the slack.
                let bytes = (end - 1 - first) * geom.c_in + vector;
                *start = (x[at..at + bytes].as_ptr(), geom.c_in);
            }
        }
        Columns { rows, padding: padding.as_ptr(), first, end, count: tile.columns, bytes: PhantomData }
    }

    /// The bytes of column `column`, channel by channel, in the `LANE_ORDER`.
    #[inline(always)]
    pub(super) fn get<V: Vector>(&self, v: V, column: usize) -> [V::I; 4] {
        debug_assert!(column < self.count);
        let mut from = [self.padding; 4];
        if column >= self.first && column < self.end {
            for (from, (start, step)) in from.iter_mut().zip(self.rows) {
                // SAFETY: the columns `first..end` of each row were found to lie within the input.
                *from = unsafe { start.add((column - self.first) * step) };
            }
        }
        // SAFETY: as above; the padding holds the widest vector.
        unsafe {
            v.interleave4([v.load_bytes(from[0]), v.load_bytes(from[1]), v.load_bytes(from[2]), v.load_bytes(from[3])])
        }
    }
}
