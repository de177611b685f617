//! What the machine can do at most: the yardstick of every speed that nnq reports.
use crate::{
    Isa,
    isa::dispatch,
    simd::{MAX_LANES, Op, Simd, Vector},
};
#[cfg(target_arch = "x86_64")]
use crate::{
    isa::tiles,
    simd::amx::{Amx, Rows, TILE_BYTES, TILE_ROWS},
};
use std::{
    hint::black_box,
    sync::Barrier,
    time::{Duration, Instant},
};

/// Independent accumulators: enough to hide the latency of a multiply-add.
const CHAINS: usize = 12;
/// Multiply-adds of each accumulator between two looks at the clock.
const ROUNDS: usize = 4000;
/// Time of one try, and tries.
const TRY: Duration = Duration::from_millis(10);
const TRIES: usize = 5;

/// Billions of 8-bit operations a second (a multiplication and an addition are two) of one thread with
/// nothing but `isa`'s multiply-adds on operands in the first-level cache: the best of a few tries, about
/// 50 ms.
pub fn int8_peak(isa: Isa) -> f64 {
    // Where a multiply-add needs more than one register for its operands there is room for fewer.
    let rate = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::AmxInt8 => tiles(isa).map(tile_rate),
        Isa::Avx2 => dispatch(isa, Int8::<4>),
        _ => dispatch(isa, Int8::<6>),
    };
    rate.unwrap_or_else(|| best(scalar_round))
}

/// Billions of 32-bit floating-point operations a second of one thread with nothing but fused
/// multiply-adds of the widest registers, about 50 ms.
pub fn f32_peak() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return best(|| unsafe { float::zmm() });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            return best(|| unsafe { float::ymm() });
        }
    }
    best(|| {
        let mut acc = [black_box(1.0f32); 32];
        let (a, b) = (black_box(0.5f32), black_box(0.25f32));
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                *acc = *acc * a + b;
            }
        }
        black_box(acc);
        ROUNDS * 32 * 2
    })
}

/// Billions of bytes a second that `threads` threads together can read at the same time, each its part of a buffer of `bytes`
/// bytes over and over, with the widest registers: the rate of the smallest cache that holds a part, or of the memory behind
/// it. About 50 ms.
pub fn read_bandwidth(bytes: usize, threads: usize) -> f64 {
    let threads = threads.max(1);
    let part = (bytes / threads).next_multiple_of(READ_BLOCK);
    let start = Barrier::new(threads);
    let one = || {
        let data = vec![1u8; part];
        start.wait();
        dispatch(Isa::best(), Read(&data)).unwrap_or_else(|| best(|| read_words(&data)))
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        let own = one();
        own + others.into_iter().map(|t| t.join().unwrap_or(0.0)).sum::<f64>()
    })
}

/// Vectors read between two additions to the same accumulator, and their bytes.
const READ_CHAINS: usize = 8;
const READ_BLOCK: usize = READ_CHAINS * MAX_LANES * 4;

/// Reads a whole number of [`READ_BLOCK`]s.
struct Read<'a>(&'a [u8]);

impl Op for Read<'_> {
    type Out = f64;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f64 {
        best(Pass { s, data: self.0 })
    }
}

/// Reading a buffer once, small ones several times.
struct Pass<'a, S> {
    s: S,
    data: &'a [u8],
}

impl<S: Simd> Work for Pass<'_, S> {
    // A closure would be a function of its own, without the instruction set.
    #[inline(always)]
    fn pass(&mut self) -> usize {
        let v = self.s.v();
        let width = S::V::LANES * 4;
        let passes = (1 << 16) / self.data.len().max(1) + 1;
        let mut acc = [v.splat(0); READ_CHAINS];
        for _ in 0..passes {
            for block in black_box(self.data).chunks_exact(READ_CHAINS * width) {
                for (acc, part) in acc.iter_mut().zip(block.chunks_exact(width)) {
                    // SAFETY: `part` is as long as the vector.
                    *acc = v.add(*acc, unsafe { v.load_bytes(part.as_ptr()) });
                }
            }
        }
        let sum = acc.into_iter().fold(v.splat(0), |a, b| v.add(a, b));
        black_box(&sum);
        passes * self.data.len()
    }
}

/// Reads without vectors of its own.
fn read_words(data: &[u8]) -> usize {
    let data = black_box(data);
    let sum =
        data.chunks_exact(8).fold(0u64, |sum, word| sum.wrapping_add(word.try_into().map_or(0, u64::from_ne_bytes)));
    black_box(sum);
    data.len()
}

/// Something whose rate is measured.
trait Work {
    /// Does it, and answers its number of operations (or bytes).
    fn pass(&mut self) -> usize;
}

impl<F: FnMut() -> usize> Work for F {
    #[inline(always)]
    fn pass(&mut self) -> usize {
        self()
    }
}

/// The best rate over the tries, in billions a second.
#[inline(always)]
fn best(mut work: impl Work) -> f64 {
    let mut best = 0f64;
    for _ in 0..TRIES {
        let start = Instant::now();
        let mut since = start;
        while since - start < TRY {
            let count = work.pass();
            let now = Instant::now();
            best = best.max(count as f64 / (now - since).as_secs_f64().max(1e-9) / 1e9);
            since = now;
        }
    }
    best
}

/// `ROWS` activations times two weights: `2 * ROWS` independent accumulators.
struct Int8<const ROWS: usize>;

impl<const ROWS: usize> Op for Int8<ROWS> {
    type Out = f64;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f64 {
        let v = s.v();
        let bytes = [[3u8; MAX_LANES * 4]; ROWS];
        best(|| {
            let w = [0x0403_0201, 0x0503_0101].map(|w| v.splat(black_box(w)));
            let mut acc = [[v.splat(black_box(0)); 2]; ROWS];
            for _ in 0..ROUNDS {
                // Loaded anew each time: otherwise the products would be computed only once.
                let bytes = black_box(&bytes);
                for (acc, bytes) in acc.iter_mut().zip(bytes) {
                    // SAFETY: the array holds the widest vector.
                    let a = unsafe { v.load_bytes(bytes.as_ptr()) };
                    acc[0] = s.quick(acc[0], [a], [w[0]]);
                    acc[1] = s.quick(acc[1], [a], [w[1]]);
                }
            }
            let sum = acc.into_iter().flatten().fold(v.splat(0), |a, b| v.add(a, b));
            black_box(&sum);
            ROUNDS * ROWS * 2 * S::V::LANES * 8
        })
    }
}

/// Two times two tiles, their operands loaded anew each time.
#[cfg(target_arch = "x86_64")]
fn tile_rate(amx: Amx) -> f64 {
    #[repr(align(64))]
    struct Bytes([u8; 2 * TILE_ROWS * TILE_BYTES]);
    let (x, w) = (Bytes([3; 2 * TILE_ROWS * TILE_BYTES]), Bytes([5; 2 * TILE_ROWS * TILE_BYTES]));
    let mut sums = [0i32; 32 * 32];
    let tiles = amx.configure();
    best(|| {
        let (x, w) = (black_box(&x), black_box(&w));
        let at = [x.0.as_ptr(), x.0[TILE_ROWS * TILE_BYTES..].as_ptr()];
        let rows = Rows { at, pitch: [TILE_BYTES; 2] };
        // SAFETY: each array holds two tiles, `sums` 32 sums for each of 32 pixels.
        unsafe {
            tiles.start::<2, 2>(sums.as_ptr());
            for _ in 0..ROUNDS {
                tiles.step::<2, 2>(rows, w.0.as_ptr());
            }
            tiles.store::<2>(sums.as_mut_ptr(), 0);
            tiles.store::<2>(sums[16 * 32..].as_mut_ptr(), 1);
        }
        ROUNDS * 4 * TILE_ROWS * TILE_ROWS * TILE_BYTES * 2
    })
}

/// The loop that the scalar kernels run.
fn scalar_round() -> usize {
    let (x, w) = (black_box([3u8; 1024]), black_box([5i8; 1024]));
    let mut acc = 0i32;
    for (&x, &w) in x.iter().zip(&w) {
        acc = acc.wrapping_add(i32::from(x) * i32::from(w));
    }
    black_box(acc);
    2 * x.len()
}

#[cfg(target_arch = "x86_64")]
mod float {
    use super::{CHAINS, ROUNDS, black_box};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub(super) fn zmm() -> usize {
        let mut acc = [_mm512_set1_ps(black_box(1.0)); CHAINS];
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                *acc = _mm512_fmadd_ps(*acc, a, b);
            }
        }
        black_box(&acc);
        ROUNDS * CHAINS * 32
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn ymm() -> usize {
        let mut acc = [_mm256_set1_ps(black_box(1.0)); CHAINS];
        let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                *acc = _mm256_fmadd_ps(*acc, a, b);
            }
        }
        black_box(&acc);
        ROUNDS * CHAINS * 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::tests::tested;

    #[test]
    fn every_peak_is_positive() {
        for isa in tested() {
            assert!(int8_peak(isa) > 0.0, "{isa}");
        }
        assert!(f32_peak() > 0.0);
        for threads in [1, 2] {
            assert!(read_bandwidth(1000, threads) > 0.0 && read_bandwidth(1 << 20, threads) > 0.0);
        }
    }
}
