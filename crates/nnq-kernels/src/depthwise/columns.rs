//! The columns of the input under one or two rows of outputs, four rows of the input at a time.
use super::tile::Tile;
use crate::{
    SLACK,
    conv::ConvGeom,
    simd::{MAX_LANES, Vector},
};
use std::marker::PhantomData;

/// A vector of bytes fits into the slack.
const _: () = assert!(MAX_LANES * 4 <= SLACK);

/// A vector of bytes of each of four rows.
pub(super) type Rows = [[u8; MAX_LANES * 4]; 4];

/// Where the four rows of each column lie.
pub(super) struct Columns<'a> {
    /// Of each row: the first column inside the input.
    rows: [*const u8; 4],
    /// Of each row: all ones, or 0 where every column reads the padding.
    inside: [usize; 4],
    padding: &'a [u8; MAX_LANES * 4],
    /// Bytes from one column to the next.
    pitch: usize,
    /// The columns inside the input are `first..end`.
    first: usize,
    end: usize,
    /// Neighbouring columns that one vector holds; more than 1 only when `GROUPED`.
    together: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Columns<'a> {
    /// The columns of `tile` for the rows `4 * quad` to `4 * quad + 3` of the window, of which `height` exist; `vector` bytes
    /// of each. Rows that do not exist or lie in the padding, and columns in the padding, read `padding`.
    #[inline(always)]
    pub(super) fn new(
        geom: &ConvGeom,
        x: &'a [u8],
        padding: &'a [u8; MAX_LANES * 4],
        vector: usize,
        tile: Tile,
        [quad, height]: [usize; 2],
        together: usize,
    ) -> Columns<'a> {
        let window = geom.window(tile.row);
        let channel = tile.block * vector;
        let inside = |column: isize| column.clamp(0, tile.columns as isize) as usize;
        let first = inside(-window.left);
        let end = inside(geom.in_w as isize - window.left);
        let (mut rows, mut is_inside) = ([padding.as_ptr(); 4], [0; 4]);
        for (i, start) in rows.iter_mut().enumerate() {
            let row = quad * 4 + i;
            let from = window.top + (row * geom.dil_h) as isize;
            if row < height && (0..geom.in_h as isize).contains(&from) && first < end {
                let line = (window.image * geom.in_h + from as usize) * geom.in_w;
                let column = (window.left + first as isize) as usize;
                let at = (line + column) * geom.c_in + channel;
                // A vector runs over the end of the input by less than the slack.
                let bytes = (end - 1 - first) * geom.c_in + vector;
                *start = x[at..at + bytes].as_ptr();
                is_inside[i] = usize::MAX;
            }
        }
        Columns { rows, inside: is_inside, padding, pitch: geom.c_in, first, end, together, bytes: PhantomData }
    }

    /// The bytes of column `column` (and its neighbours, where several are computed together), channel by channel,
    /// in the `LANE_ORDER`. `mixed` is memory for those that lie partly in the padding.
    #[inline(always)]
    pub(super) fn get<V: Vector, const GROUPED: bool>(&self, v: V, column: usize, mixed: &mut Rows) -> [V::I; 4] {
        let mut from = [self.padding.as_ptr(); 4];
        let together = if GROUPED { self.together } else { 1 };
        if column >= self.first && column + together <= self.end {
            let offset = (column - self.first) * self.pitch;
            for ((from, row), inside) in from.iter_mut().zip(self.rows).zip(self.inside) {
                // SAFETY: the columns `first..end` of each row inside were found to lie within the input.
                *from = unsafe { row.add(offset & inside) };
            }
        } else if GROUPED {
            self.mix(column, mixed);
            from = mixed.each_ref().map(|row| row.as_ptr());
        }
        // SAFETY: as above; the padding and the mixed rows hold the widest vector.
        unsafe {
            v.interleave4([v.load_bytes(from[0]), v.load_bytes(from[1]), v.load_bytes(from[2]), v.load_bytes(from[3])])
        }
    }

    /// Columns of which some lie in the padding.
    #[cold]
    #[inline(never)]
    fn mix(&self, column: usize, mixed: &mut Rows) {
        for (to, (row, inside)) in mixed.iter_mut().zip(self.rows.into_iter().zip(self.inside)) {
            *to = *self.padding;
            for i in (0..self.together).filter(|i| (self.first..self.end).contains(&(column + i))) {
                let from = row.wrapping_add(((column + i - self.first) * self.pitch) & inside);
                // SAFETY: the columns `first..end` of each row inside were found to lie within the input, and the padding
                // holds the widest vector, of which a column is a part.
                let pixel = unsafe { std::slice::from_raw_parts(from, self.pitch) };
                to[i * self.pitch..][..self.pitch].copy_from_slice(pixel);
            }
        }
    }
}
