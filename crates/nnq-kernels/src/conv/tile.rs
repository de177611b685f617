//! The innermost product: a few pixels times two vectors of output channels.
use crate::simd::{Op, Simd, TILE_VECTORS, Vector};

/// Where a pixel's inputs for one span lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source(pub(super) *const u8);

// SAFETY: a table of these is written and read within one call; between calls the addresses are never
// used.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

/// The accumulators of `PIXELS` pixels and one panel.
///
/// A pixel's inputs are `spans` runs of `steps * 4` bytes; `sources` holds for each span one address for each
/// pixel. With few pixels the steps are dealt to `SPLIT` sets of accumulators, so that the latency of
/// the multiply-add does not rule.
#[derive(Clone, Copy)]
pub(super) struct Tile<const PIXELS: usize, const SPLIT: usize> {
    pub(super) args: Args,
}

/// The arguments of [`Tile`].
#[derive(Clone, Copy)]
pub(super) struct Args {
    /// `spans * PIXELS` addresses.
    pub(super) sources: *const Source,
    pub(super) spans: usize,
    /// Groups of four inputs of one span.
    pub(super) steps: usize,
    /// `spans * steps * width * 4` bytes, aligned to 64.
    pub(super) weights: *const u8,
    /// `width` values that the accumulators start from.
    pub(super) start: *const i32,
    /// `PIXELS * width` accumulators.
    pub(super) acc: *mut i32,
}

impl<const PIXELS: usize, const SPLIT: usize> Op for Tile<PIXELS, SPLIT> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (v, a) = (s.v(), self.args);
        let lanes = S::V::LANES;
        let mut weights = a.weights;
        // SAFETY: `Args` says what its pointers point to; the offsets stay within that.
        unsafe {
            let start = [v.load(a.start), v.load(a.start.add(lanes))];
            let mut acc = [[[v.splat(0); TILE_VECTORS]; PIXELS]; SPLIT];
            acc[0] = [start; PIXELS];
            for span in 0..a.spans {
                let mut from = [std::ptr::null::<u8>(); PIXELS];
                for (i, from) in from.iter_mut().enumerate() {
                    *from = (*a.sources.add(span * PIXELS + i)).0;
                }
                let mut step = 0;
                while step + SPLIT <= a.steps {
                    for (part, acc) in acc.iter_mut().enumerate() {
                        multiply(s, &from, step + part, weights, acc);
                        weights = weights.add(TILE_VECTORS * lanes * 4);
                    }
                    step += SPLIT;
                }
                while step < a.steps {
                    multiply(s, &from, step, weights, &mut acc[0]);
                    weights = weights.add(TILE_VECTORS * lanes * 4);
                    step += 1;
                }
            }
            for i in 0..PIXELS {
                for j in 0..TILE_VECTORS {
                    let mut sum = acc[0][i][j];
                    for part in &acc[1..] {
                        sum = v.add(sum, part[i][j]);
                    }
                    v.store(a.acc.add((i * TILE_VECTORS + j) * lanes), sum);
                }
            }
        }
    }
}

/// One step of four inputs.
///
/// # Safety
/// `step * 4 + 4` bytes are readable at each of `from`, and one step of weights at `weights`.
#[inline(always)]
unsafe fn multiply<S: Simd, const PIXELS: usize>(
    s: S,
    from: &[*const u8; PIXELS],
    step: usize,
    weights: *const u8,
    acc: &mut [[crate::simd::Int<S>; TILE_VECTORS]; PIXELS],
) {
    let v = s.v();
    // SAFETY: the caller's.
    unsafe {
        let w0 = s.weight(v.load_bytes(weights));
        let w1 = s.weight(v.load_bytes(weights.add(S::V::LANES * 4)));
        for (from, acc) in from.iter().zip(acc.iter_mut()) {
            let four = from.add(step * 4).cast::<i32>().read_unaligned();
            let x = s.act(v.splat(four));
            acc[0] = s.dot(acc[0], x, w0);
            acc[1] = s.dot(acc[1], x, w1);
        }
    }
}

/// [`Tile`] with a number of pixels known only now.
///
/// # Safety
/// As `Args` says; `1 <= pixels <= S::TILE_PIXELS`.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd>(s: S, pixels: usize, args: Args) {
    match pixels {
        1 => s.run(Tile::<1, 4> { args }),
        2 => s.run(Tile::<2, 2> { args }),
        3 => s.run(Tile::<3, 1> { args }),
        4 => s.run(Tile::<4, 1> { args }),
        _ if const { S::TILE_PIXELS <= 4 } => unreachable!("a tile of {pixels} pixels"),
        5 => s.run(Tile::<5, 1> { args }),
        6 => s.run(Tile::<6, 1> { args }),
        _ if const { S::TILE_PIXELS <= 6 } => unreachable!("a tile of {pixels} pixels"),
        7 => s.run(Tile::<7, 1> { args }),
        8 => s.run(Tile::<8, 1> { args }),
        9 => s.run(Tile::<9, 1> { args }),
        10 => s.run(Tile::<10, 1> { args }),
        11 => s.run(Tile::<11, 1> { args }),
        12 => s.run(Tile::<12, 1> { args }),
        13 => s.run(Tile::<13, 1> { args }),
        14 => s.run(Tile::<14, 1> { args }),
        _ => unreachable!("a tile of {pixels} pixels"),
    }
}
