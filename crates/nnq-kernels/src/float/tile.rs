//! The register tile of the product.
// Loops over rows and vectors of a tile are by index: they are unrolled, and the tile stays in registers.
#![allow(clippy::needless_range_loop, clippy::manual_memcpy)]
use super::{Epilogue, vector::Lanes};
use crate::simd::{self, fetch};

/// Floats of a cache line.
pub(super) const LINE: usize = simd::LINE / size_of::<f32>();

/// A run of channels that is contiguous in the input: of one tap, or of several that lie side by side.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// Which pointer of each row.
    pub tap: usize,
    /// First channel.
    pub start: usize,
    pub len: usize,
}

/// What a tile works on.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// The weights of the segments: for each channel `V` vectors.
    pub weights: *const f32,
    /// Two cache lines are fetched for every four products: from here on, and so far behind.
    pub ahead: *const f32,
    pub apart: usize,
    pub segments: &'a [Segment],
    /// Where each row reads: for each tap [`Lanes::ROWS`] pointers.
    pub rows: *const *const f32,
    /// Output of row 0, and elements between rows.
    pub out: *mut f32,
    pub step: usize,
    /// Output channels, at most `V` vectors of them.
    pub width: usize,
    /// The sums start here (from the bias) rather than with what `out` holds.
    pub first: bool,
    /// The sums are complete.
    pub last: bool,
    /// First channel and, for the residual, offset of the tile in the output.
    pub channel: usize,
    pub offset: usize,
    pub epilogue: &'a Epilogue<'a>,
}

/// Continues the sums of `R` rows by `V` vectors over the segments.
///
/// # Safety
/// `R <= S::ROWS`; for each segment the pointers of the first `R` rows can be read from `start` on for `len` floats; weights,
/// bias, residual and `out` hold what the sizes say; nobody else touches these elements of `out`.
#[inline(always)]
pub(super) unsafe fn run<S: Lanes, const R: usize, const V: usize>(s: S, t: &Tile<'_>) {
    // SAFETY: the caller vouches for every pointer.
    unsafe {
        let mut tile = begin::<S, R, V>(s, t);
        sum(s, t, &mut tile);
        finish(s, t, &mut tile);
    }
}

/// The channels of each vector that exist.
#[inline(always)]
fn live<S: Lanes, const V: usize>(s: S, t: &Tile<'_>) -> [S::M; V] {
    std::array::from_fn(|v| s.lanes(t.width - v * S::N))
}

/// Where the sums go on.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn begin<S: Lanes, const R: usize, const V: usize>(s: S, t: &Tile<'_>) -> [[S::F; V]; R] {
    let (mut tile, live) = ([[s.splat(0.0); V]; R], live::<S, V>(s, t));
    if !t.first {
        for r in 0..R {
            for v in 0..V {
                // SAFETY: the caller vouches for the output.
                tile[r][v] = unsafe { s.load_some(t.out.add(r * t.step + v * S::N), live[v]) };
            }
        }
    } else if let Some(bias) = t.epilogue.bias {
        for v in 0..V {
            // SAFETY: the caller vouches for the bias.
            let start = unsafe { s.load_some(bias.as_ptr().add(t.channel + v * S::N), live[v]) };
            for r in 0..R {
                tile[r][v] = start;
            }
        }
    }
    tile
}

/// The hot loop. The accumulators are variables of its own, so that they stay in registers.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn sum<S: Lanes, const R: usize, const V: usize>(s: S, t: &Tile<'_>, tile: &mut [[S::F; V]; R]) {
    let mut acc = [[s.splat(0.0); V]; R];
    for r in 0..R {
        for v in 0..V {
            acc[r][v] = tile[r][v];
        }
    }
    let (mut w, mut ahead) = (t.weights, t.ahead);
    for segment in t.segments {
        let mut x = [std::ptr::null::<f32>(); R];
        for r in 0..R {
            // SAFETY: each row has a pointer for the tap, good from the segment's start on.
            x[r] = unsafe { (*t.rows.add(segment.tap * S::ROWS + r)).add(segment.start) };
        }
        // One channel: each weight times the number of each row.
        macro_rules! channel {
            ($i:expr, $at:expr) => {
                let mut weights = [s.splat(0.0); V];
                for v in 0..V {
                    // SAFETY: the weights hold `V` vectors for each channel.
                    weights[v] = unsafe { s.load(w.add(($at * V + v) * S::N)) };
                }
                for r in 0..R {
                    // SAFETY: the segment's channels can be read.
                    let x = s.splat(unsafe { *x[r].add($i + $at) });
                    for v in 0..V {
                        acc[r][v] = s.fma(x, weights[v], acc[r][v]);
                    }
                }
            };
        }
        let mut i = 0;
        // Four at a time: what counts the loop takes turns from the multiplications.
        while i + 4 <= segment.len {
            fetch(ahead);
            fetch(ahead.wrapping_add(t.apart));
            ahead = ahead.wrapping_add(LINE);
            channel!(i, 0);
            channel!(i, 1);
            channel!(i, 2);
            channel!(i, 3);
            // SAFETY: the weights of the next channels, or one behind the last.
            w = unsafe { w.add(4 * V * S::N) };
            i += 4;
        }
        while i < segment.len {
            channel!(i, 0);
            // SAFETY: as above.
            w = unsafe { w.add(V * S::N) };
            i += 1;
        }
    }
    for r in 0..R {
        for v in 0..V {
            tile[r][v] = acc[r][v];
        }
    }
}

/// Stores the sums, finished or not.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn finish<S: Lanes, const R: usize, const V: usize>(s: S, t: &Tile<'_>, tile: &mut [[S::F; V]; R]) {
    let live = live::<S, V>(s, t);
    if t.last {
        if let Some(residual) = t.epilogue.residual {
            for r in 0..R {
                for v in 0..V {
                    // SAFETY: the caller vouches for the residual.
                    let x = unsafe { s.load_some(residual.as_ptr().add(t.offset + r * t.step + v * S::N), live[v]) };
                    tile[r][v] = s.add(tile[r][v], x);
                }
            }
        }
        let (lo, hi) = (s.splat(t.epilogue.lo), s.splat(t.epilogue.hi));
        for r in 0..R {
            for v in 0..V {
                tile[r][v] = s.at_most(hi, s.at_least(lo, tile[r][v]));
            }
        }
    }
    for r in 0..R {
        for v in 0..V {
            // SAFETY: the caller vouches for the output.
            unsafe { s.store_some(t.out.add(r * t.step + v * S::N), tile[r][v], live[v]) };
        }
    }
}
