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
    #[inline]
    fn run<W: Work>(self, work: W) {
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn compiled<W: Work>(s: Wide16, work: W) {
            work.call(s);
        }
        op!(compiled(self, work))
    }
}
