//! Vectors behind two small traits, so that an algorithm is written once.
//!
//! [`Vector`] is a register width, [`Simd`] an instruction set: a width and its way to multiply
//! unsigned activations with signed weights. Values of the implementing types are made only by their
//! `new`, which asks the processor: to hold one is the proof that its instructions exist. Every method
//! is inlined into the [`Simd::run`] of its instruction set, the one function compiled for it.
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avxvnni;
#[cfg(target_arch = "x86_64")]
mod ymm;
#[cfg(target_arch = "x86_64")]
mod zmm;

/// Integers of a [`Simd`].
pub(crate) type Int<S> = <<S as Simd>::V as Vector>::I;
/// A vector of real numbers of an instruction set.
pub(crate) type Float<S> = <<S as Simd>::V as Vector>::F;

/// Writes the first `count` bytes of a vector, or all of them.
///
/// # Safety
/// `count` bytes, or those of a vector if it is less, are writable at `to`.
#[inline(always)]
pub(crate) unsafe fn store<V: Vector>(v: V, to: *mut u8, bytes: V::I, count: usize) {
    // SAFETY: the caller's.
    unsafe {
        if count >= 4 * V::LANES {
            v.store_bytes(to, bytes);
        } else {
            v.store_some_bytes(to, bytes, count);
        }
    }
}

/// A piece of work that is compiled once for each instruction set.
pub(crate) trait Op {
    type Out;
    /// Does the work. Implementations are `#[inline(always)]`.
    fn call<S: Simd>(self, s: S) -> Self::Out;
}

/// A register width: `LANES` 32-bit integers or floats, or `4 * LANES` bytes.
///
/// Methods without a comment do what the name says in each lane; integers wrap.
pub(crate) trait Vector: Copy + 'static {
    const LANES: usize;
    type I: Copy;
    type F: Copy;

    fn splat(self, x: i32) -> Self::I;
    fn add(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub(self, a: Self::I, b: Self::I) -> Self::I;
    fn mul(self, a: Self::I, b: Self::I) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn min(self, a: Self::I, b: Self::I) -> Self::I;
    fn max(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a >> n`, arithmetic, `n` in `0..32` of each lane.
    fn shr(self, a: Self::I, n: Self::I) -> Self::I;
    /// `a << n`, `n` in `0..32` of each lane.
    fn shl(self, a: Self::I, n: Self::I) -> Self::I;
    /// The 64-bit products of the even lanes and those of the odd ones, of numbers without sign.
    fn products_unsigned(self, a: Self::I, b: Self::I) -> [Self::I; 2];
    /// The 64-bit products of the even lanes and those of the odd ones.
    fn products(self, a: Self::I, b: Self::I) -> [Self::I; 2];
    /// The same number in each 64 bits.
    fn splat_long(self, x: i64) -> Self::I;
    /// Of each 64 bits, wrapping.
    fn add_long(self, a: Self::I, b: Self::I) -> Self::I;
    /// Of the 64-bit numbers of the even lanes and those of the odd ones the 32 bits from bit `n` on, zeros behind the last, each in its lane.
    fn middle(self, even_odd: [Self::I; 2], n: u32) -> Self::I;
    /// The high half of the 64-bit product.
    fn mul_high(self, a: Self::I, b: Self::I) -> Self::I;

    fn splat_f(self, x: f32) -> Self::F;
    fn add_f(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul_f(self, a: Self::F, b: Self::F) -> Self::F;
    fn div_f(self, a: Self::F, b: Self::F) -> Self::F;
    fn min_f(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` when either is NaN.
    fn max_f(self, a: Self::F, b: Self::F) -> Self::F;
    /// Rounds half to even; the value fits `i32`.
    fn to_int(self, a: Self::F) -> Self::I;
    fn to_float(self, a: Self::I) -> Self::F;

    /// The four byte vectors whose 32-bit lanes hold one byte of each argument: of four rows of
    /// `4 * LANES` channels, one row of four-byte groups. The groups come in the order that
    /// [`Vector::narrow4`] undoes; see [`Vector::LANE_ORDER`].
    fn interleave4(self, rows: [Self::I; 4]) -> [Self::I; 4];
    /// `LANE_ORDER[q * LANES + l]` is the channel in lane `l` of vector `q` of `interleave4`.
    const LANE_ORDER: &'static [u8];
    /// Four vectors of integers in `LANE_ORDER` as bytes in channel order: saturated to 16 bits, the zero point added and
    /// saturated again, saturated to `0..=255` and clamped.
    fn narrow4(self, x: [Self::I; 4], limits: CodeBytes<Self::I>) -> Self::I;
    /// [`Vector::narrow4`] of four vectors of which one follows the other.
    fn narrow4_in_order(self, x: [Self::I; 4], limits: CodeBytes<Self::I>) -> Self::I;
    /// Of each byte, wrapping.
    fn add_bytes(self, a: Self::I, b: Self::I) -> Self::I;
    fn max_u8(self, a: Self::I, b: Self::I) -> Self::I;
    /// Of each pair of vectors: integers saturated to 16 bits, the zero point added and saturated again, saturated
    /// to `0..=255` and clamped. The first `count` bytes, at most `2 * LANES`, go in order to `pq[0]` for the first
    /// pair, to `pq[1]` for the second.
    ///
    /// # Safety
    /// `count` bytes are writable at each of `pq`.
    unsafe fn store_codes(self, ab: [[Self::I; 2]; 2], pq: [*mut u8; 2], limits: CodeBytes<Self::I>, count: usize);

    /// As [`Vector::store_codes`], of each vector the first `count` bytes, at most `LANES`.
    ///
    /// # Safety
    /// `count` bytes are writable at each of `to`.
    unsafe fn store_four_codes(self, x: [Self::I; 4], to: [*mut u8; 4], limits: CodeBytes<Self::I>, count: usize);

    /// # Safety
    /// `LANES` values are readable at `p`.
    unsafe fn load(self, p: *const i32) -> Self::I;
    /// # Safety
    /// `LANES` values are writable at `p`.
    unsafe fn store(self, p: *mut i32, x: Self::I);
    /// # Safety
    /// `LANES` values are readable at `p`.
    unsafe fn load_f(self, p: *const f32) -> Self::F;
    /// # Safety
    /// `LANES` values are writable at `p`.
    unsafe fn store_f(self, p: *mut f32, x: Self::F);
    /// `4 * LANES` bytes.
    ///
    /// # Safety
    /// They are readable at `p`.
    unsafe fn load_bytes(self, p: *const u8) -> Self::I;
    /// `4 * LANES` bytes.
    ///
    /// # Safety
    /// They are writable at `p`.
    unsafe fn store_bytes(self, p: *mut u8, x: Self::I);
    /// The first `count` bytes, at most `4 * LANES`.
    ///
    /// # Safety
    /// They are writable at `p`.
    unsafe fn store_some_bytes(self, p: *mut u8, x: Self::I, count: usize);
    /// The low three bytes of each lane, `3 * LANES` bytes.
    ///
    /// # Safety
    /// They are writable at `p`.
    unsafe fn store_threes(self, p: *mut u8, x: Self::I);
    /// `LANES` bytes, each extended with zeros.
    ///
    /// # Safety
    /// They are readable at `p`.
    unsafe fn widen(self, p: *const u8) -> Self::I;
    /// The low byte of each lane, `LANES` bytes.
    ///
    /// # Safety
    /// They are writable at `p`.
    unsafe fn narrow(self, p: *mut u8, x: Self::I);
    /// `LANES` words, each extended with its sign.
    ///
    /// # Safety
    /// They are readable at `p`.
    unsafe fn widen_words(self, p: *const i16) -> Self::I;
    /// The low word of each lane, `LANES` words.
    ///
    /// # Safety
    /// They are writable at `p`.
    unsafe fn narrow_words(self, p: *mut i16, x: Self::I);
}

/// Zero point and limits of a code.
#[derive(Clone, Copy)]
pub(crate) struct CodeBytes<I> {
    /// The zero point in every 16 bits.
    pub(crate) zero: I,
    /// The smallest code in every byte.
    pub(crate) lo: I,
    /// The largest code in every byte.
    pub(crate) hi: I,
}

impl<I> CodeBytes<I> {
    #[inline(always)]
    pub(crate) fn new<V: Vector<I = I>>(v: V, zero: u8, lo: u8, hi: u8) -> CodeBytes<I> {
        CodeBytes {
            zero: v.splat(i32::from(zero) * 0x0001_0001),
            lo: v.splat(i32::from_ne_bytes([lo; 4])),
            hi: v.splat(i32::from_ne_bytes([hi; 4])),
        }
    }
}

/// An instruction set.
pub(crate) trait Simd: Copy + 'static {
    type V: Vector;
    /// Activations made ready for [`Simd::dot`].
    type Act: Copy;
    /// Weights made ready for [`Simd::dot`].
    type Weight: Copy;
    /// Output pixels of one tile of the product; a tile is this many pixels times
    /// [`TILE_VECTORS`] vectors of channels.
    const TILE_PIXELS: usize;
    /// Whether [`Simd::quick`] is another product than [`Simd::dot`], quicker and not always right.
    const SATURATES: bool = false;

    fn v(self) -> Self::V;
    /// Four unsigned bytes in each lane.
    fn act(self, bytes: Int<Self>) -> Self::Act;
    /// Four signed bytes in each lane.
    fn weight(self, bytes: Int<Self>) -> Self::Weight;
    /// `acc + a[0] * w[0] + .. + a[3] * w[3]` in each lane, wrapping, nothing saturates.
    fn dot(self, acc: Int<Self>, a: Self::Act, w: Self::Weight) -> Int<Self>;
    /// [`Simd::dot`] of several steps, of activations and weights as they lie in memory, for weights that [`is_safe`] holds of in each lane
    /// of 16 bits.
    #[inline(always)]
    fn quick<const STEPS: usize>(self, acc: Int<Self>, a: [Int<Self>; STEPS], w: [Int<Self>; STEPS]) -> Int<Self> {
        a.into_iter().zip(w).fold(acc, |acc, (a, w)| self.dot(acc, self.act(a), self.weight(w)))
    }
    /// Calls `op` in a function that is compiled for this instruction set.
    fn run<O: Op>(self, op: O) -> O::Out;
}

/// Whether these weights times any unsigned bytes make a sum of 16 bits, whatever the order: what adds products in 16 bits is exact then.
pub(crate) fn is_safe(weights: impl IntoIterator<Item = i8>) -> bool {
    let (mut below, mut above) = (0, 0);
    for w in weights {
        below += i32::from(w.min(0));
        above += i32::from(w.max(0));
    }
    fits(below, above)
}

/// Whether unsigned bytes times weights make a sum of 16 bits, where those below 0 have the sum `below`, the others `above`.
pub(crate) fn fits(below: i32, above: i32) -> bool {
    let most = i32::from(u8::MAX);
    most * above <= i32::from(i16::MAX) && most * below >= i32::from(i16::MIN)
}

/// Vectors of output channels of one tile of the product.
pub(crate) const TILE_VECTORS: usize = 2;

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Asks for the cache line of `p`, which need not exist, in the second-level cache.
#[inline(always)]
pub(crate) fn fetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// The widest [`Vector::LANES`].
pub(crate) const MAX_LANES: usize = 16;

/// Inside the traits' methods: the token proves that the instructions exist.
#[cfg(target_arch = "x86_64")]
macro_rules! op {
    ($($call:tt)*) => {
        // SAFETY: `self` is made only after the processor was asked for these instructions; where the
        // call takes a pointer, the caller of the method vouches for it.
        unsafe { $($call)* }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use op;

#[cfg(test)]
mod tests;
