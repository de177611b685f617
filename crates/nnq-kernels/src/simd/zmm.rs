//! 512-bit registers.
use super::{CodeBytes, Vector, op};
use std::arch::x86_64::*;

/// Proof of AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Zmm(());

impl Zmm {
    pub(super) fn new() -> Option<Zmm> {
        let have = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        have.then_some(Zmm(()))
    }
}

impl Vector for Zmm {
    const LANES: usize = 16;
    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    fn splat(self, x: i32) -> __m512i {
        op!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_min_epi32(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_max_epi32(a, b))
    }
    #[inline(always)]
    fn shr(self, a: __m512i, n: __m512i) -> __m512i {
        op!(_mm512_srav_epi32(a, n))
    }
    #[inline(always)]
    fn mul_high(self, a: __m512i, b: __m512i) -> __m512i {
        let [even, odd] = self.products(a, b);
        op!(_mm512_mask_shuffle_epi32::<_MM_PERM_DDBB>(odd, 0x5555, even))
    }
    #[inline(always)]
    fn shl(self, a: __m512i, n: __m512i) -> __m512i {
        op!(_mm512_sllv_epi32(a, n))
    }
    #[inline(always)]
    fn products_unsigned(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
        op!({
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            [_mm512_mul_epu32(a, b), odd]
        })
    }
    #[inline(always)]
    fn products(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
        op!({
            let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            [_mm512_mul_epi32(a, b), odd]
        })
    }
    #[inline(always)]
    fn splat_long(self, x: i64) -> __m512i {
        op!(_mm512_set1_epi64(x))
    }
    #[inline(always)]
    fn add_long(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi64(a, b))
    }
    #[inline(always)]
    fn middle(self, [even, odd]: [__m512i; 2], n: u32) -> __m512i {
        debug_assert!(n < 64);
        op!({
            let n = _mm_cvtsi32_si128(n as i32);
            let (even, odd) = (_mm512_srl_epi64(even, n), _mm512_slli_epi64::<32>(_mm512_srl_epi64(odd, n)));
            _mm512_mask_blend_epi32(0xaaaa, even, odd)
        })
    }
    #[inline(always)]
    fn splat_f(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn add_f(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn mul_f(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div_f(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn min_f(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn max_f(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn to_int(self, a: __m512) -> __m512i {
        op!(_mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn to_float(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn interleave4(self, rows: [__m512i; 4]) -> [__m512i; 4] {
        let [r0, r1, r2, r3] = rows;
        op!({
            let lo01 = _mm512_unpacklo_epi8(r0, r1);
            let hi01 = _mm512_unpackhi_epi8(r0, r1);
            let lo23 = _mm512_unpacklo_epi8(r2, r3);
            let hi23 = _mm512_unpackhi_epi8(r2, r3);
            [
                _mm512_unpacklo_epi16(lo01, lo23),
                _mm512_unpackhi_epi16(lo01, lo23),
                _mm512_unpacklo_epi16(hi01, hi23),
                _mm512_unpackhi_epi16(hi01, hi23),
            ]
        })
    }
    const LANE_ORDER: &'static [u8] = &order();
    #[inline(always)]
    fn narrow4(self, [a, b, c, d]: [__m512i; 4], limits: CodeBytes<__m512i>) -> __m512i {
        op!({
            let low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), limits.zero);
            let high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), limits.zero);
            let bytes = _mm512_packus_epi16(low, high);
            _mm512_min_epu8(_mm512_max_epu8(bytes, limits.lo), limits.hi)
        })
    }
    #[inline(always)]
    fn narrow4_in_order(self, x: [__m512i; 4], limits: CodeBytes<__m512i>) -> __m512i {
        let bytes = self.narrow4(x, limits);
        op!({
            // Each 128 bits hold four lanes of each of the four vectors.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, bytes)
        })
    }
    #[inline(always)]
    fn add_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi8(a, b))
    }
    #[inline(always)]
    fn max_u8(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_max_epu8(a, b))
    }
    #[inline(always)]
    unsafe fn store_codes(
        self,
        [a, b]: [[__m512i; 2]; 2],
        [p, q]: [*mut u8; 2],
        limits: CodeBytes<__m512i>,
        count: usize,
    ) {
        debug_assert!(count <= 32);
        let mask = ((1u64 << count) - 1) as u32;
        let bytes = self.codes([a[0], a[1], b[0], b[1]], limits);
        op!({
            _mm256_mask_storeu_epi8(p.cast(), mask, _mm512_castsi512_si256(bytes));
            _mm256_mask_storeu_epi8(q.cast(), mask, _mm512_extracti64x4_epi64::<1>(bytes));
        })
    }
    #[inline(always)]
    unsafe fn store_four_codes(self, x: [__m512i; 4], to: [*mut u8; 4], limits: CodeBytes<__m512i>, count: usize) {
        debug_assert!(count <= 16);
        let mask = ((1u32 << count) - 1) as u16;
        let bytes = self.codes(x, limits);
        op!({
            _mm_mask_storeu_epi8(to[0].cast(), mask, _mm512_castsi512_si128(bytes));
            _mm_mask_storeu_epi8(to[1].cast(), mask, _mm512_extracti32x4_epi32::<1>(bytes));
            _mm_mask_storeu_epi8(to[2].cast(), mask, _mm512_extracti32x4_epi32::<2>(bytes));
            _mm_mask_storeu_epi8(to[3].cast(), mask, _mm512_extracti32x4_epi32::<3>(bytes));
        })
    }

    #[inline(always)]
    unsafe fn load(self, p: *const i32) -> __m512i {
        op!(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32, x: __m512i) {
        op!(_mm512_storeu_si512(p.cast(), x))
    }
    #[inline(always)]
    unsafe fn load_f(self, p: *const f32) -> __m512 {
        op!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store_f(self, p: *mut f32, x: __m512) {
        op!(_mm512_storeu_ps(p, x))
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> __m512i {
        op!(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, x: __m512i) {
        op!(_mm512_storeu_si512(p.cast(), x))
    }
    #[inline(always)]
    unsafe fn store_some_bytes(self, p: *mut u8, x: __m512i, count: usize) {
        debug_assert!(count <= 64);
        let mask = u64::MAX >> (64 - count.clamp(1, 64));
        op!(_mm512_mask_storeu_epi8(p.cast(), if count == 0 { 0 } else { mask }, x))
    }
    #[inline(always)]
    unsafe fn store_threes(self, p: *mut u8, x: __m512i) {
        op!({
            // Twelve bytes to the front of each 128 bits, then these together.
            let pick = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
            let twelves = _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(pick));
            let order = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
            let bytes = _mm512_permutexvar_epi32(order, twelves);
            _mm512_mask_storeu_epi32(p.cast(), 0xfff, bytes)
        })
    }
    #[inline(always)]
    unsafe fn widen(self, p: *const u8) -> __m512i {
        op!(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn narrow(self, p: *mut u8, x: __m512i) {
        op!(_mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(x)))
    }
    #[inline(always)]
    unsafe fn widen_words(self, p: *const i16) -> __m512i {
        op!(_mm512_cvtepi16_epi32(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn narrow_words(self, p: *mut i16, x: __m512i) {
        op!(_mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(x)))
    }
}

impl Zmm {
    /// The codes of four vectors, one after the other.
    #[inline(always)]
    fn codes(self, x: [__m512i; 4], limits: CodeBytes<__m512i>) -> __m512i {
        op!({
            let words = [
                _mm512_adds_epi16(_mm512_packs_epi32(x[0], x[1]), limits.zero),
                _mm512_adds_epi16(_mm512_packs_epi32(x[2], x[3]), limits.zero),
            ];
            let bytes = _mm512_packus_epi16(words[0], words[1]);
            let bytes = _mm512_min_epu8(_mm512_max_epu8(bytes, limits.lo), limits.hi);
            // Each 128 bits hold four channels of each of the four vectors.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, bytes)
        })
    }
}

/// The unpack instructions work within each 128 bits.
const fn order() -> [u8; 64] {
    let mut order = [0; 64];
    let mut i = 0;
    while i < 64 {
        let (vector, lane) = (i / 16, i % 16);
        order[i] = (lane / 4 * 16 + vector * 4 + lane % 4) as u8;
        i += 1;
    }
    order
}
