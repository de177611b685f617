//! The register tile of the product.
use super::{Epilogue, vector::Lanes};

/// Vectors of output channels in a tile.
pub(super) const VECTORS: usize = 2;

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
        let live = |v: usize| (t.width - v * S::N).min(S::N);
        let mut acc = [[s.splat(0.0); V]; R];
        if !t.first {
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, a) in row.iter_mut().enumerate() {
                    *a = s.load(t.out.add(r * t.step + v * S::N), live(v));
                }
            }
        } else if let Some(bias) = t.epilogue.bias {
            for v in 0..V {
                let start = s.load(bias.as_ptr().add(t.channel + v * S::N), live(v));
                for row in &mut acc {
                    row[v] = start;
                }
            }
        }
        let mut w = t.weights;
        for segment in t.segments {
            let mut x = [std::ptr::null::<f32>(); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = (*t.rows.add(segment.tap * S::ROWS + r)).add(segment.start);
            }
            let mut i = 0;
            while i + 4 <= segment.len {
                for u in 0..4 {
                    step::<S, R, V>(s, w.add(u * V * S::N), &x, i + u, &mut acc);
                }
                w = w.add(4 * V * S::N);
                i += 4;
            }
            while i < segment.len {
                step::<S, R, V>(s, w, &x, i, &mut acc);
                w = w.add(V * S::N);
                i += 1;
            }
        }
        if t.last {
            let (lo, hi) = (s.splat(t.epilogue.lo), s.splat(t.epilogue.hi));
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, a) in row.iter_mut().enumerate() {
                    if let Some(residual) = t.epilogue.residual {
                        let at = t.offset + r * t.step + v * S::N;
                        *a = s.add(*a, s.load(residual.as_ptr().add(at), live(v)));
                    }
                    *a = s.at_most(hi, s.at_least(lo, *a));
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (v, a) in row.iter().enumerate() {
                s.store(t.out.add(r * t.step + v * S::N), *a, live(v));
            }
        }
    }
}

/// One channel.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn step<S: Lanes, const R: usize, const V: usize>(
    s: S,
    w: *const f32,
    x: &[*const f32; R],
    i: usize,
    acc: &mut [[S::F; V]; R],
) {
    // SAFETY: the caller vouches for every pointer.
    unsafe {
        let mut weights = [s.splat(0.0); V];
        for (v, weight) in weights.iter_mut().enumerate() {
            *weight = s.load(w.add(v * S::N), S::N);
        }
        for r in 0..R {
            let x = s.splat(*x[r].add(i));
            for v in 0..V {
                acc[r][v] = s.fma(x, weights[v], acc[r][v]);
            }
        }
    }
}
