//! AVX-512 with VNNI: `vpdpbusd` on 512 bits.
use super::{Op, Simd, op, zmm::Zmm};
use std::arch::x86_64::*;

/// Proof of AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni(Zmm);

impl Avx512Vnni {
    pub(crate) fn new() -> Option<Avx512Vnni> {
        let have = is_x86_feature_detected!("avx512vnni");
        Zmm::new().filter(|_| have).map(Avx512Vnni)
    }
}

impl Simd for Avx512Vnni {
    type V = Zmm;
    type Act = __m512i;
    type Weight = __m512i;
    const TILE_PIXELS: usize = 14;

    #[inline(always)]
    fn v(self) -> Zmm {
        self.0
    }
    #[inline(always)]
    fn act(self, bytes: __m512i) -> __m512i {
        bytes
    }
    #[inline(always)]
    fn weight(self, bytes: __m512i) -> __m512i {
        bytes
    }
    #[inline(always)]
    fn dot(self, acc: __m512i, a: __m512i, w: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(acc, a, w))
    }
    #[inline]
    fn run<O: Op>(self, op: O) -> O::Out {
        #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn compiled<O: Op>(s: Avx512Vnni, op: O) -> O::Out {
            op.call(s)
        }
        op!(compiled(self, op))
    }
}
