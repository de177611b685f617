//! AVX2 without VNNI. `vpmaddubsw` adds two products in saturating 16 bits. Where weights are so large that this could happen, bytes are
//! widened to 16 bits and multiplied with `vpmaddwd`, which is exact.
use super::{Op, Simd, op, ymm::Ymm};
use std::arch::x86_64::*;

/// Proof of AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(Ymm);

impl Avx2 {
    pub(crate) fn new() -> Option<Avx2> {
        Ymm::new().map(Avx2)
    }
}

impl Simd for Avx2 {
    type V = Ymm;
    /// The even and the odd bytes of each lane as 16-bit integers.
    type Act = [__m256i; 2];
    type Weight = [__m256i; 2];
    const TILE_PIXELS: usize = 4;
    const SATURATES: bool = true;

    #[inline(always)]
    fn v(self) -> Ymm {
        self.0
    }
    #[inline(always)]
    fn act(self, bytes: __m256i) -> [__m256i; 2] {
        op!([_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(bytes),])
    }
    #[inline(always)]
    fn weight(self, bytes: __m256i) -> [__m256i; 2] {
        op!([_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes),])
    }
    #[inline(always)]
    fn dot(self, acc: __m256i, a: [__m256i; 2], w: [__m256i; 2]) -> __m256i {
        op!({
            let even = _mm256_madd_epi16(a[0], w[0]);
            let odd = _mm256_madd_epi16(a[1], w[1]);
            _mm256_add_epi32(_mm256_add_epi32(acc, even), odd)
        })
    }
    #[inline(always)]
    fn quick<const STEPS: usize>(self, acc: __m256i, a: [__m256i; STEPS], w: [__m256i; STEPS]) -> __m256i {
        op!({
            let mut pairs = _mm256_maddubs_epi16(a[0], w[0]);
            for i in 1..STEPS {
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(a[i], w[i]));
            }
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }
    #[inline]
    fn run<O: Op>(self, op: O) -> O::Out {
        #[target_feature(enable = "avx,avx2")]
        fn compiled<O: Op>(s: Avx2, op: O) -> O::Out {
            op.call(s)
        }
        op!(compiled(self, op))
    }
}
