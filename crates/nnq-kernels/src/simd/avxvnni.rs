//! AVX-VNNI: `vpdpbusd` on 256 bits.
use super::{Op, Simd, op, ymm::Ymm};
use std::arch::x86_64::*;

/// Proof of AVX2 and AVX-VNNI.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni(Ymm);

impl AvxVnni {
    pub(crate) fn new() -> Option<AvxVnni> {
        let have = is_x86_feature_detected!("avxvnni");
        Ymm::new().filter(|_| have).map(AvxVnni)
    }
}

impl Simd for AvxVnni {
    type V = Ymm;
    type Act = __m256i;
    type Weight = __m256i;
    const TILE_PIXELS: usize = 6;

    #[inline(always)]
    fn v(self) -> Ymm {
        self.0
    }
    #[inline(always)]
    fn act(self, bytes: __m256i) -> __m256i {
        bytes
    }
    #[inline(always)]
    fn weight(self, bytes: __m256i) -> __m256i {
        bytes
    }
    #[inline(always)]
    fn dot(self, acc: __m256i, a: __m256i, w: __m256i) -> __m256i {
        op!(_mm256_dpbusd_avx_epi32(acc, a, w))
    }
    #[inline]
    fn run<O: Op>(self, op: O) -> O::Out {
        #[target_feature(enable = "avx,avx2,avxvnni")]
        fn compiled<O: Op>(s: AvxVnni, op: O) -> O::Out {
            op.call(s)
        }
        op!(compiled(self, op))
    }
}
