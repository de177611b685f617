//! The sizes of a convolution and what follows from them.
use super::SLACK;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The sizes of a convolution; every field counts elements. A one-dimensional one has heights of 1, a
/// matrix product 1x1 pixels and its rows as the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ConvGeom {
    pub batch: usize,
    pub in_h: usize,
    pub in_w: usize,
    pub c_in: usize,
    pub out_h: usize,
    pub out_w: usize,
    pub c_out: usize,
    pub k_h: usize,
    pub k_w: usize,
    pub stride_h: usize,
    pub stride_w: usize,
    pub dil_h: usize,
    pub dil_w: usize,
    pub pad_top: usize,
    pub pad_left: usize,
    pub groups: usize,
}

/// The pixel of an output and the corner of its window in the input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) image: usize,
    pub(crate) top: isize,
    pub(crate) left: isize,
}

impl ConvGeom {
    /// The product of `rows` rows of `c_in` values with a `c_in * c_out` matrix.
    pub fn matrix(rows: usize, c_in: usize, c_out: usize) -> ConvGeom {
        ConvGeom {
            batch: rows,
            in_h: 1,
            in_w: 1,
            c_in,
            out_h: 1,
            out_w: 1,
            c_out,
            k_h: 1,
            k_w: 1,
            stride_h: 1,
            stride_w: 1,
            dil_h: 1,
            dil_w: 1,
            pad_top: 0,
            pad_left: 0,
            groups: 1,
        }
    }

    /// Output pixels: `batch * out_h * out_w`.
    pub fn pixels(&self) -> usize {
        self.batch * self.out_h * self.out_w
    }

    /// Multiplications of one output value.
    pub fn depth(&self) -> usize {
        self.k_h * self.k_w * (self.c_in / self.groups)
    }

    pub(crate) fn check_weights(&self, len: usize) {
        assert!(
            self.groups > 0 && self.c_in.is_multiple_of(self.groups) && self.c_out.is_multiple_of(self.groups),
            "{} groups do not divide {} input and {} output channels",
            self.groups,
            self.c_in,
            self.c_out
        );
        assert!(self.k_h > 0 && self.k_w > 0, "a kernel of {} x {} positions", self.k_h, self.k_w);
        let need = self.c_out * self.depth();
        assert!(len == need, "{len} weights where {self:?} needs {need}");
    }

    pub(crate) fn check_run(&self, x_len: usize, rows: &Range<usize>) {
        let images = rows.end.div_ceil((self.out_h * self.out_w).max(1));
        let need = images * self.in_h * self.in_w * self.c_in + SLACK;
        assert!(x_len >= need, "the activations hold {x_len} bytes; {need} are needed, {SLACK} of slack included");
        assert!(rows.start <= rows.end && rows.end <= self.pixels(), "pixels {rows:?} of {}", self.pixels());
        self.check_steps();
    }

    pub(crate) fn check_steps(&self) {
        assert!(
            self.stride_h > 0 && self.stride_w > 0 && self.dil_h > 0 && self.dil_w > 0,
            "strides and dilations are at least 1: {self:?}"
        );
    }

    /// The window of output pixel `pixel`.
    #[inline(always)]
    pub(crate) fn window(&self, pixel: usize) -> Window {
        let (row, column) = (pixel / self.out_w, pixel % self.out_w);
        let (image, row) = (row / self.out_h, row % self.out_h);
        Window {
            image,
            top: (row * self.stride_h) as isize - self.pad_top as isize,
            left: (column * self.stride_w) as isize - self.pad_left as isize,
        }
    }

    /// Offset in the input of the position `(h, w)` of the kernel; `None` in the padding.
    #[inline(always)]
    pub(crate) fn offset(&self, window: Window, h: usize, w: usize) -> Option<usize> {
        let row = window.top + (h * self.dil_h) as isize;
        let column = window.left + (w * self.dil_w) as isize;
        let inside = (0..self.in_h as isize).contains(&row) && (0..self.in_w as isize).contains(&column);
        let pixel = (window.image * self.in_h) as isize + row;
        inside.then(|| (pixel as usize * self.in_w + column as usize) * self.c_in)
    }

    /// Offset in the input of the first position of a window that lies inside.
    #[inline(always)]
    pub(crate) fn corner(&self, window: Window) -> usize {
        let row = window.image * self.in_h + window.top as usize;
        (row * self.in_w + window.left as usize) * self.c_in
    }

    /// Whether output pixel and input pixel are the same: a kernel of one position, nothing skipped.
    pub(crate) fn is_pointwise(&self) -> bool {
        (self.k_h, self.k_w, self.stride_h, self.stride_w) == (1, 1, 1, 1)
            && (self.pad_top, self.pad_left) == (0, 0)
            && (self.in_h, self.in_w) == (self.out_h, self.out_w)
    }

    /// The windows of output pixel `pixel` and following.
    #[inline(always)]
    pub(crate) fn windows(&self, pixel: usize) -> Windows<'_> {
        let (row, column) = (pixel / self.out_w, pixel % self.out_w);
        Windows { geom: self, image: row / self.out_h, row: row % self.out_h, column }
    }
}

/// Walks through output pixels without dividing.
pub(crate) struct Windows<'a> {
    geom: &'a ConvGeom,
    image: usize,
    row: usize,
    column: usize,
}

impl Windows<'_> {
    /// The next pixel's window.
    #[inline(always)]
    pub(crate) fn next_window(&mut self) -> Window {
        let geom = self.geom;
        let window = Window {
            image: self.image,
            top: (self.row * geom.stride_h) as isize - geom.pad_top as isize,
            left: (self.column * geom.stride_w) as isize - geom.pad_left as isize,
        };
        self.column += 1;
        if self.column == geom.out_w {
            self.column = 0;
            self.row += 1;
            if self.row == geom.out_h {
                self.row = 0;
                self.image += 1;
            }
        }
        window
    }
}
