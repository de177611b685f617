//! The innermost product: a few pixels times two vectors of output channels.
use super::proof::{Ends, KINDS};
use crate::{
    round::vector::{Prepared, Rule, VectorRequant},
    simd::{Int, LINE, Op, Simd, TILE_VECTORS, Vector, fetch},
};
use std::marker::PhantomData;

/// Where a pixel's inputs for one span lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source(pub(super) *const u8);

// SAFETY: a table of these is written and read within one call; between calls the addresses are never
// used.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

/// The accumulators of a tile, and what becomes of them.
type Acc<S, const PIXELS: usize> = [[Int<S>; TILE_VECTORS]; PIXELS];

/// What becomes of the accumulators of a tile.
pub(super) trait Finish: Copy {
    /// # Safety
    /// As the type says.
    unsafe fn finish<S: Simd, const PIXELS: usize>(self, s: S, acc: &Acc<S, PIXELS>);
}

/// They are stored, a panel's width for each pixel.
#[derive(Clone, Copy)]
pub(super) struct Store {
    /// Room for a panel's width of accumulators of each pixel.
    pub(super) to: *mut i32,
}

impl Finish for Store {
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn finish<S: Simd, const PIXELS: usize>(self, s: S, acc: &Acc<S, PIXELS>) {
        let v = s.v();
        for i in 0..PIXELS {
            for j in 0..TILE_VECTORS {
                // SAFETY: there is room for every pixel.
                unsafe { v.store(self.to.add((i * TILE_VECTORS + j) * S::V::LANES), acc[i][j]) };
            }
        }
    }
}

/// They are requantized and written. The tile has an even number of pixels.
#[derive(Clone, Copy)]
pub(super) struct Emit<'a, R> {
    pub(super) prepared: &'a Prepared,
    /// The panel's first column in `prepared`.
    pub(super) column: usize,
    /// Columns that exist.
    pub(super) count: usize,
    /// Room for `count` bytes of each pixel.
    pub(super) to: *mut u8,
    /// Bytes from one pixel to the next.
    pub(super) pitch: usize,
    pub(super) rule: PhantomData<R>,
}

impl<R: Rule> Finish for Emit<'_, R> {
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn finish<S: Simd, const PIXELS: usize>(self, s: S, acc: &Acc<S, PIXELS>) {
        const { assert!(PIXELS.is_multiple_of(2)) };
        let v = s.v();
        let limits = self.prepared.bytes_of_code(v);
        let low = R::On::<S::V>::load(v, self.prepared, self.column);
        let high = R::On::<S::V>::load(v, self.prepared, self.column + S::V::LANES);
        // Constant bounds and indices: the accumulators stay in registers.
        for i in 0..PIXELS / 2 {
            let [a, b] = [acc[2 * i], acc[2 * i + 1]];
            let codes = [
                [low.without_zero(v, a[0]), high.without_zero(v, a[1])],
                [low.without_zero(v, b[0]), high.without_zero(v, b[1])],
            ];
            // SAFETY: there is room for every pixel.
            unsafe {
                let to = self.to.add(2 * i * self.pitch);
                v.store_codes(codes, [to, to.add(self.pitch)], limits, self.count);
            }
        }
    }
}

/// The accumulators of `PIXELS` pixels and one panel.
///
/// A pixel's inputs are `spans` runs of `steps * 4` bytes; `sources` holds for each span one address for each
/// pixel. With few pixels the steps are dealt to `SPLIT` sets of accumulators, so that the latency of
/// the multiply-add does not rule.
#[derive(Clone, Copy)]
struct Tile<const PIXELS: usize, const SPLIT: usize, F> {
    args: Args,
    finish: F,
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
    /// From here on a cache line is fetched with each group of four inputs.
    pub(super) ahead: *const u8,
    /// What may be multiplied by [`Simd::quick`].
    pub(super) proof: Proof,
}

/// What is known of a panel's weights.
#[derive(Clone, Copy)]
pub(super) enum Proof {
    /// Nothing.
    None,
    /// Nothing saturates in sums of so many steps: 1, 2 or 4.
    All(u8),
    /// Of each span the steps by what saturates in them, see [`super::proof`].
    Steps {
        /// `spans * steps` numbers of steps in their span.
        order: *const u16,
        /// For each span the ends of its pairs and of its kinds of steps.
        ends: *const Ends,
    },
}

impl<const PIXELS: usize, const SPLIT: usize, F: Finish> Op for Tile<PIXELS, SPLIT, F> {
    type Out = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (v, a) = (s.v(), self.args);
        let lanes = S::V::LANES;
        let (mut weights, mut ahead) = (a.weights, a.ahead);
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
                if const { S::SATURATES } {
                    let all = &mut acc[0];
                    match a.proof {
                        Proof::None => {}
                        Proof::All(run) => {
                            let mut step = 0;
                            macro_rules! runs {
                                ($($n:literal)*) => { $(
                                    while run >= $n && a.steps - step >= $n {
                                        let run = std::array::from_fn(|i| step + i);
                                        together::<S, PIXELS, $n>(s, &from, run, weights, all);
                                        for _ in 0..$n {
                                            fetch(ahead);
                                            ahead = ahead.wrapping_add(LINE);
                                        }
                                        step += $n;
                                    }
                                )* };
                            }
                            runs!(4 2 1);
                            weights = weights.add(a.steps * (TILE_VECTORS * lanes * 4));
                            continue;
                        }
                        Proof::Steps { order, ends } => {
                            let order = order.add(span * a.steps);
                            let ends = *ends.add(span);
                            let mut at = 0;
                            macro_rules! kind {
                                ($($kind:literal)*) => { $(
                                    while at < usize::from(ends[$kind]) {
                                        let step = usize::from(*order.add(at));
                                        let weights = weights.add(step * (TILE_VECTORS * lanes * 4));
                                        multiply::<S, PIXELS, { KINDS[$kind - 1] }>(s, &from, step, weights, all);
                                        fetch(ahead);
                                        ahead = ahead.wrapping_add(LINE);
                                        at += 1;
                                    }
                                )* };
                            }
                            while at < usize::from(ends[0]) {
                                let pair = [*order.add(at), *order.add(at + 1)].map(usize::from);
                                together::<S, PIXELS, 2>(s, &from, pair, weights, all);
                                for _ in 0..2 {
                                    fetch(ahead);
                                    ahead = ahead.wrapping_add(LINE);
                                }
                                at += 2;
                            }
                            kind!(1 2 3 4);
                            weights = weights.add(a.steps * (TILE_VECTORS * lanes * 4));
                            continue;
                        }
                    }
                }
                let mut step = 0;
                while step + SPLIT <= a.steps {
                    for (part, acc) in acc.iter_mut().enumerate() {
                        multiply::<S, PIXELS, 0>(s, &from, step + part, weights, acc);
                        weights = weights.add(TILE_VECTORS * lanes * 4);
                        fetch(ahead);
                        ahead = ahead.wrapping_add(LINE);
                    }
                    step += SPLIT;
                }
                while step < a.steps {
                    multiply::<S, PIXELS, 0>(s, &from, step, weights, &mut acc[0]);
                    weights = weights.add(TILE_VECTORS * lanes * 4);
                    step += 1;
                }
            }
            let mut sum = acc[0];
            for part in &acc[1..] {
                for i in 0..PIXELS {
                    for j in 0..TILE_VECTORS {
                        sum[i][j] = v.add(sum[i][j], part[i][j]);
                    }
                }
            }
            self.finish.finish(s, &sum);
        }
    }
}

/// One step of four inputs. Bit `j` of `QUICK`: nothing saturates in the weights of vector `j`.
///
/// # Safety
/// `step * 4 + 4` bytes are readable at each of `from`, and one step of weights at `weights`.
#[inline(always)]
unsafe fn multiply<S: Simd, const PIXELS: usize, const QUICK: u8>(
    s: S,
    from: &[*const u8; PIXELS],
    step: usize,
    weights: *const u8,
    acc: &mut Acc<S, PIXELS>,
) {
    let v = s.v();
    // SAFETY: the caller's.
    unsafe {
        let bytes = [v.load_bytes(weights), v.load_bytes(weights.add(S::V::LANES * 4))];
        let ready = bytes.map(|w| s.weight(w));
        for (from, acc) in from.iter().zip(acc.iter_mut()) {
            let four = v.splat(from.add(step * 4).cast::<i32>().read_unaligned());
            let x = s.act(four);
            for j in 0..TILE_VECTORS {
                acc[j] =
                    if QUICK >> j & 1 == 1 { s.quick(acc[j], [four], [bytes[j]]) } else { s.dot(acc[j], x, ready[j]) };
            }
        }
    }
}

/// Some steps whose products are added in 16 bits first: nothing saturates there.
///
/// # Safety
/// For each of `steps` as [`multiply`] says, with weights from those of step 0 on.
#[inline(always)]
unsafe fn together<S: Simd, const PIXELS: usize, const STEPS: usize>(
    s: S,
    from: &[*const u8; PIXELS],
    steps: [usize; STEPS],
    weights: *const u8,
    acc: &mut Acc<S, PIXELS>,
) {
    let v = s.v();
    let line = S::V::LANES * 4;
    // SAFETY: the caller's.
    unsafe {
        let w: [[_; STEPS]; TILE_VECTORS] =
            std::array::from_fn(|j| steps.map(|step| v.load_bytes(weights.add((step * TILE_VECTORS + j) * line))));
        for (from, acc) in from.iter().zip(acc.iter_mut()) {
            let x = steps.map(|step| v.splat(from.add(step * 4).cast::<i32>().read_unaligned()));
            for j in 0..TILE_VECTORS {
                acc[j] = s.quick(acc[j], x, w[j]);
            }
        }
    }
}

/// The accumulators of `pixels` pixels.
///
/// # Safety
/// As [`Args`] and [`Store`] say; `1 <= pixels <= S::TILE_PIXELS`.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd>(s: S, pixels: usize, args: Args, finish: Store) {
    macro_rules! run {
        ($pixels:literal, $split:literal) => {
            s.run(Tile::<$pixels, $split, Store> { args, finish })
        };
    }
    match pixels {
        1 => run!(1, 4),
        2 => run!(2, 2),
        3 => run!(3, 1),
        4 => run!(4, 1),
        _ if const { S::TILE_PIXELS <= 4 } => unreachable!("a tile of {pixels} pixels"),
        5 => run!(5, 1),
        6 => run!(6, 1),
        _ if const { S::TILE_PIXELS <= 6 } => unreachable!("a tile of {pixels} pixels"),
        7 => run!(7, 1),
        8 => run!(8, 1),
        9 => run!(9, 1),
        10 => run!(10, 1),
        11 => run!(11, 1),
        12 => run!(12, 1),
        13 => run!(13, 1),
        14 => run!(14, 1),
        _ => unreachable!("a tile of {pixels} pixels"),
    }
}

/// The codes of `S::TILE_PIXELS` pixels.
///
/// # Safety
/// As [`Args`] and [`Emit`] say.
#[inline(always)]
pub(super) unsafe fn full_tile<S: Simd, R: Rule>(s: S, args: Args, finish: Emit<R>) {
    match S::TILE_PIXELS {
        4 => s.run(Tile::<4, 1, _> { args, finish }),
        _ if const { S::TILE_PIXELS <= 4 } => {}
        6 => s.run(Tile::<6, 1, _> { args, finish }),
        _ if const { S::TILE_PIXELS <= 6 } => {}
        14 => s.run(Tile::<14, 1, _> { args, finish }),
        pixels => unreachable!("a full tile of {pixels} pixels"),
    }
}
