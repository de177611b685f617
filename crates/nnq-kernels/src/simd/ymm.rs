//! 256-bit registers.
use super::{CodeBytes, Vector, op};
use std::arch::x86_64::*;

/// Proof of AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Ymm(());

impl Ymm {
    pub(super) fn new() -> Option<Ymm> {
        is_x86_feature_detected!("avx2").then_some(Ymm(()))
    }
}

impl Vector for Ymm {
    const LANES: usize = 8;
    type I = __m256i;
    type F = __m256;

    #[inline(always)]
    fn splat(self, x: i32) -> __m256i {
        op!(_mm256_set1_epi32(x))
    }
    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_min_epi32(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_max_epi32(a, b))
    }
    #[inline(always)]
    fn shr(self, a: __m256i, n: __m256i) -> __m256i {
        op!(_mm256_srav_epi32(a, n))
    }
    #[inline(always)]
    fn mul_high(self, a: __m256i, b: __m256i) -> __m256i {
        let [even, odd] = self.products(a, b);
        op!(_mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd))
    }
    #[inline(always)]
    fn shl(self, a: __m256i, n: __m256i) -> __m256i {
        op!(_mm256_sllv_epi32(a, n))
    }
    #[inline(always)]
    fn products_unsigned(self, a: __m256i, b: __m256i) -> [__m256i; 2] {
        op!({
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            [_mm256_mul_epu32(a, b), odd]
        })
    }
    #[inline(always)]
    fn products(self, a: __m256i, b: __m256i) -> [__m256i; 2] {
        op!({
            let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            [_mm256_mul_epi32(a, b), odd]
        })
    }
    #[inline(always)]
    fn splat_long(self, x: i64) -> __m256i {
        op!(_mm256_set1_epi64x(x))
    }
    #[inline(always)]
    fn add_long(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_add_epi64(a, b))
    }
    #[inline(always)]
    fn middle(self, [even, odd]: [__m256i; 2], n: u32) -> __m256i {
        debug_assert!(n < 64);
        op!({
            let n = _mm_cvtsi32_si128(n as i32);
            let (even, odd) = (_mm256_srl_epi64(even, n), _mm256_slli_epi64::<32>(_mm256_srl_epi64(odd, n)));
            _mm256_blend_epi32::<0b1010_1010>(even, odd)
        })
    }
    #[inline(always)]
    fn splat_f(self, x: f32) -> __m256 {
        op!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn add_f(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn mul_f(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div_f(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn min_f(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn max_f(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn to_int(self, a: __m256) -> __m256i {
        op!({
            let whole = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            _mm256_cvttps_epi32(whole)
        })
    }
    #[inline(always)]
    fn to_float(self, a: __m256i) -> __m256 {
        op!(_mm256_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn interleave4(self, rows: [__m256i; 4]) -> [__m256i; 4] {
        let [r0, r1, r2, r3] = rows;
        op!({
            let lo01 = _mm256_unpacklo_epi8(r0, r1);
            let hi01 = _mm256_unpackhi_epi8(r0, r1);
            let lo23 = _mm256_unpacklo_epi8(r2, r3);
            let hi23 = _mm256_unpackhi_epi8(r2, r3);
            [
                _mm256_unpacklo_epi16(lo01, lo23),
                _mm256_unpackhi_epi16(lo01, lo23),
                _mm256_unpacklo_epi16(hi01, hi23),
                _mm256_unpackhi_epi16(hi01, hi23),
            ]
        })
    }
    const LANE_ORDER: &'static [u8] = &order();
    #[inline(always)]
    fn narrow4(self, [a, b, c, d]: [__m256i; 4], limits: CodeBytes<__m256i>) -> __m256i {
        op!({
            let low = _mm256_adds_epi16(_mm256_packs_epi32(a, b), limits.zero);
            let high = _mm256_adds_epi16(_mm256_packs_epi32(c, d), limits.zero);
            let bytes = _mm256_packus_epi16(low, high);
            _mm256_min_epu8(_mm256_max_epu8(bytes, limits.lo), limits.hi)
        })
    }
    #[inline(always)]
    fn narrow4_in_order(self, x: [__m256i; 4], limits: CodeBytes<__m256i>) -> __m256i {
        let bytes = self.narrow4(x, limits);
        // Each 128 bits hold four lanes of each of the four vectors.
        op!(_mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)))
    }
    #[inline(always)]
    fn add_bytes(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_add_epi8(a, b))
    }
    #[inline(always)]
    fn max_u8(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_max_epu8(a, b))
    }
    #[inline(always)]
    unsafe fn store_codes(
        self,
        [a, b]: [[__m256i; 2]; 2],
        [p, q]: [*mut u8; 2],
        limits: CodeBytes<__m256i>,
        count: usize,
    ) {
        debug_assert!(count <= 16);
        let halves = self.codes([a[0], a[1], b[0], b[1]], limits);
        for (half, to) in halves.iter().zip([p, q]) {
            op!(match count {
                16 => _mm_storeu_si128(to.cast(), *half),
                _ => to.copy_from_nonoverlapping(std::ptr::from_ref(half).cast(), count),
            });
        }
    }
    #[inline(always)]
    unsafe fn store_four_codes(self, x: [__m256i; 4], to: [*mut u8; 4], limits: CodeBytes<__m256i>, count: usize) {
        debug_assert!(count <= 8);
        let halves = self.codes(x, limits);
        for (i, to) in to.into_iter().enumerate() {
            let from = halves.as_ptr().cast::<u8>();
            op!(to.copy_from_nonoverlapping(from.add(8 * i), count));
        }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const i32) -> __m256i {
        op!(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32, x: __m256i) {
        op!(_mm256_storeu_si256(p.cast(), x))
    }
    #[inline(always)]
    unsafe fn load_f(self, p: *const f32) -> __m256 {
        op!(_mm256_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store_f(self, p: *mut f32, x: __m256) {
        op!(_mm256_storeu_ps(p, x))
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> __m256i {
        op!(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, x: __m256i) {
        op!(_mm256_storeu_si256(p.cast(), x))
    }
    #[inline(always)]
    unsafe fn store_some_bytes(self, p: *mut u8, x: __m256i, count: usize) {
        debug_assert!(count <= 32);
        let mut all = [0u8; 32];
        // Pieces by the bits of the count: a call of memcpy would cost the caller all of its vector registers.
        op!({
            _mm256_storeu_si256(all.as_mut_ptr().cast(), x);
            let mut at = 0;
            if count & 32 != 0 {
                return _mm256_storeu_si256(p.cast(), x);
            }
            if count & 16 != 0 {
                _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(x));
                at = 16;
            }
            let all = all.as_ptr();
            if count & 8 != 0 {
                p.add(at).cast::<u64>().write_unaligned(all.add(at).cast::<u64>().read_unaligned());
                at += 8;
            }
            if count & 4 != 0 {
                p.add(at).cast::<u32>().write_unaligned(all.add(at).cast::<u32>().read_unaligned());
                at += 4;
            }
            if count & 2 != 0 {
                p.add(at).cast::<u16>().write_unaligned(all.add(at).cast::<u16>().read_unaligned());
                at += 2;
            }
            if count & 1 != 0 {
                *p.add(at) = *all.add(at);
            }
        })
    }
    #[inline(always)]
    unsafe fn store_threes(self, p: *mut u8, x: __m256i) {
        op!({
            // Twelve bytes to the front of each 128 bits, then these together.
            let pick = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
            let twelves = _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(pick));
            let bytes = _mm256_permutevar8x32_epi32(twelves, _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(bytes));
            _mm_storel_epi64(p.add(16).cast(), _mm256_extracti128_si256::<1>(bytes))
        })
    }
    #[inline(always)]
    unsafe fn widen(self, p: *const u8) -> __m256i {
        op!(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())))
    }
    #[inline(always)]
    unsafe fn narrow(self, p: *mut u8, x: __m256i) {
        op!({
            // The low byte of each lane to the front of its 128 bits, then both halves together.
            let pick = _mm256_set1_epi64x(0xffff_ffff_0c08_0400_u64 as i64);
            let halves = _mm256_shuffle_epi8(x, pick);
            let low = _mm256_castsi256_si128(halves);
            let high = _mm256_extracti128_si256::<1>(halves);
            _mm_storel_epi64(p.cast(), _mm_unpacklo_epi32(low, high))
        })
    }
    #[inline(always)]
    unsafe fn widen_words(self, p: *const i16) -> __m256i {
        op!(_mm256_cvtepi16_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn narrow_words(self, p: *mut i16, x: __m256i) {
        op!({
            // The low word of each lane to the front of its 128 bits, then both halves together.
            let pick = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
            let halves = _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(pick));
            let words = _mm256_permute4x64_epi64::<0b1000>(halves);
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(words))
        })
    }
}

impl Ymm {
    /// The codes of four vectors, one after the other.
    #[inline(always)]
    fn codes(self, x: [__m256i; 4], limits: CodeBytes<__m256i>) -> [__m128i; 2] {
        op!({
            let words = [
                _mm256_adds_epi16(_mm256_packs_epi32(x[0], x[1]), limits.zero),
                _mm256_adds_epi16(_mm256_packs_epi32(x[2], x[3]), limits.zero),
            ];
            let bytes = _mm256_packus_epi16(words[0], words[1]);
            let bytes = _mm256_min_epu8(_mm256_max_epu8(bytes, limits.lo), limits.hi);
            // Each 128 bits hold four channels of each of the four vectors.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(bytes, order);
            [_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes)]
        })
    }
}

/// The unpack instructions work within each 128 bits.
const fn order() -> [u8; 32] {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        let (vector, lane) = (i / 8, i % 8);
        order[i] = (lane / 4 * 16 + vector * 4 + lane % 4) as u8;
        i += 1;
    }
    order
}
