//! Vectors of binary32 behind one small trait. A value of an implementing type is the proof that its instructions exist.
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A piece of work that is compiled once for each kind of vector.
pub(super) trait Work {
    /// Does the work. Implementations are `#[inline(always)]`.
    fn call<S: Lanes>(self, s: S);
}

/// Methods without a comment do what the name says in each lane.
pub(super) trait Lanes: Copy + 'static {
    /// Floats of a vector.
    const N: usize;
    /// Vectors of a panel of output channels: the more, the fewer numbers of the input are read for each multiplication.
    const VECTORS: usize;
    /// Rows of a register tile of at most two vectors; one of more has half as many.
    const ROWS: usize;
    type F: Copy;
    /// Which lanes take part.
    type M: Copy;
    /// A word of 32 bits in each lane.
    type W: Copy;
    /// What fields of words stand for.
    type T: Copy;

    /// The first `n` lanes; all when `n` is greater than their number.
    fn lanes(self, n: usize) -> Self::M;
    fn splat(self, x: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `lo` where `lo > x`, else `x`.
    fn at_least(self, lo: Self::F, x: Self::F) -> Self::F;
    /// `hi` where `hi < x`, else `x`.
    fn at_most(self, hi: Self::F, x: Self::F) -> Self::F;
    /// # Safety
    /// `N` floats are readable at `p`.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Lanes that take no part are zero.
    ///
    /// # Safety
    /// The floats of the other lanes are readable at `p`.
    unsafe fn load_some(self, p: *const f32, lanes: Self::M) -> Self::F;
    /// # Safety
    /// The floats of these lanes are writable at `p`.
    unsafe fn store_some(self, p: *mut f32, x: Self::F, lanes: Self::M);
    /// # Safety
    /// `N` words are readable at `p`.
    unsafe fn words(self, p: *const u32) -> Self::W;
    /// Without the lowest `BITS` bits.
    fn shift<const BITS: u32>(self, w: Self::W) -> Self::W;
    /// What fields of `BITS` bits (at most 4) stand for: field `f` for `least + f`.
    fn table<const BITS: u32>(self, least: f32) -> Self::T;
    /// What the lowest `BITS` bits of each word stand for.
    fn look<const BITS: u32>(self, table: Self::T, w: Self::W) -> Self::F;
    /// Signed bytes as floats.
    ///
    /// # Safety
    /// `N` bytes are readable at `p`.
    unsafe fn bytes(self, p: *const i8) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// Calls `work` in a function that is compiled for these vectors.
    fn run<W: Work>(self, work: W);
}

/// One float at a time.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Lanes for Plain {
    const N: usize = 1;
    const VECTORS: usize = 2;
    const ROWS: usize = 4;
    type F = f32;
    type M = ();
    type W = u32;
    type T = f32;

    #[inline(always)]
    fn lanes(self, _: usize) {}
    #[inline(always)]
    fn splat(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn at_least(self, lo: f32, x: f32) -> f32 {
        if lo > x { lo } else { x }
    }
    #[inline(always)]
    fn at_most(self, hi: f32, x: f32) -> f32 {
        if hi < x { hi } else { x }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32 {
        // SAFETY: the caller vouches for one float.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn load_some(self, p: *const f32, (): ()) -> f32 {
        // SAFETY: the caller vouches for one float.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn store_some(self, p: *mut f32, x: f32, (): ()) {
        // SAFETY: the caller vouches for one float.
        unsafe { *p = x }
    }
    #[inline(always)]
    unsafe fn words(self, p: *const u32) -> u32 {
        // SAFETY: the caller vouches for one word.
        unsafe { *p }
    }
    #[inline(always)]
    fn shift<const BITS: u32>(self, w: u32) -> u32 {
        w >> BITS
    }
    #[inline(always)]
    fn table<const BITS: u32>(self, least: f32) -> f32 {
        least
    }
    #[inline(always)]
    fn look<const BITS: u32>(self, least: f32, w: u32) -> f32 {
        (w & ((1 << BITS) - 1)) as f32 + least
    }
    #[inline(always)]
    unsafe fn bytes(self, p: *const i8) -> f32 {
        // SAFETY: the caller vouches for one byte.
        f32::from(unsafe { *p })
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn run<W: Work>(self, work: W) {
        work.call(self);
    }
}

/// Inside the traits' methods: the token proves that the instructions exist.
#[cfg(target_arch = "x86_64")]
macro_rules! op {
    ($($call:tt)*) => {
        // SAFETY: `self` is made only after the processor was asked for these instructions; where the
        // call takes a pointer, the caller of the method vouches for it.
        unsafe { $($call)* }
    };
}

/// Proof of AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Wide8(());

#[cfg(target_arch = "x86_64")]
impl Wide8 {
    pub(super) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for Wide8 {
    const N: usize = 8;
    const VECTORS: usize = 2;
    const ROWS: usize = 6;
    type F = __m256;
    /// All ones in the lanes that take part, and whether that is all of them: masked moves are slow on some machines.
    type M = (bool, __m256i);
    type W = __m256i;
    type T = __m256;

    #[inline(always)]
    fn lanes(self, n: usize) -> (bool, __m256i) {
        let mask =
            op!(_mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
        (n >= 8, mask)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        op!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn at_least(self, lo: __m256, x: __m256) -> __m256 {
        op!(_mm256_max_ps(lo, x))
    }
    #[inline(always)]
    fn at_most(self, hi: __m256, x: __m256) -> __m256 {
        op!(_mm256_min_ps(hi, x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        op!(_mm256_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_some(self, p: *const f32, (all, mask): (bool, __m256i)) -> __m256 {
        op!(if all { _mm256_loadu_ps(p) } else { _mm256_maskload_ps(p, mask) })
    }
    #[inline(always)]
    unsafe fn store_some(self, p: *mut f32, x: __m256, (all, mask): (bool, __m256i)) {
        op!(if all { _mm256_storeu_ps(p, x) } else { _mm256_maskstore_ps(p, mask, x) })
    }
    #[inline(always)]
    unsafe fn words(self, p: *const u32) -> __m256i {
        op!(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    fn shift<const BITS: u32>(self, w: __m256i) -> __m256i {
        op!(_mm256_srl_epi32(w, _mm_cvtsi32_si128(BITS as i32)))
    }
    #[inline(always)]
    fn table<const BITS: u32>(self, least: f32) -> __m256 {
        self.splat(least)
    }
    #[inline(always)]
    fn look<const BITS: u32>(self, least: __m256, w: __m256i) -> __m256 {
        let field = op!(_mm256_and_si256(w, _mm256_set1_epi32((1 << BITS) - 1)));
        op!(_mm256_add_ps(_mm256_cvtepi32_ps(field), least))
    }
    #[inline(always)]
    unsafe fn bytes(self, p: *const i8) -> __m256 {
        op!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_sub_ps(a, b))
    }
    #[inline]
    fn run<W: Work>(self, work: W) {
        #[target_feature(enable = "avx2,fma")]
        fn compiled<W: Work>(s: Wide8, work: W) {
            work.call(s);
        }
        op!(compiled(self, work))
    }
}

/// Proof of AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Wide16(());

#[cfg(target_arch = "x86_64")]
impl Wide16 {
    pub(super) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for Wide16 {
    const N: usize = 16;
    const VECTORS: usize = 4;
    const ROWS: usize = 12;
    type F = __m512;
    type M = __mmask16;
    type W = __m512i;
    /// By the lowest 4 bits.
    type T = __m512;

    #[inline(always)]
    fn lanes(self, n: usize) -> __mmask16 {
        if n >= 16 { u16::MAX } else { (1 << n) - 1 }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn at_least(self, lo: __m512, x: __m512) -> __m512 {
        op!(_mm512_max_ps(lo, x))
    }
    #[inline(always)]
    fn at_most(self, hi: __m512, x: __m512) -> __m512 {
        op!(_mm512_min_ps(hi, x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        op!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_some(self, p: *const f32, lanes: __mmask16) -> __m512 {
        op!(_mm512_maskz_loadu_ps(lanes, p))
    }
    #[inline(always)]
    unsafe fn store_some(self, p: *mut f32, x: __m512, lanes: __mmask16) {
        op!(_mm512_mask_storeu_ps(p, lanes, x))
    }
    #[inline(always)]
    unsafe fn words(self, p: *const u32) -> __m512i {
        op!(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    fn shift<const BITS: u32>(self, w: __m512i) -> __m512i {
        op!(_mm512_srli_epi32::<BITS>(w))
    }
    #[inline(always)]
    fn table<const BITS: u32>(self, least: f32) -> __m512 {
        let values: [f32; 16] = std::array::from_fn(|i| least + (i & ((1 << BITS) - 1)) as f32);
        op!(_mm512_loadu_ps(values.as_ptr()))
    }
    #[inline(always)]
    fn look<const BITS: u32>(self, table: __m512, w: __m512i) -> __m512 {
        op!(_mm512_permutexvar_ps(w, table))
    }
    #[inline(always)]
    unsafe fn bytes(self, p: *const i8) -> __m512 {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline]
    fn run<W: Work>(self, work: W) {
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn compiled<W: Work>(s: Wide16, work: W) {
            work.call(s);
        }
        op!(compiled(self, work))
    }
}
