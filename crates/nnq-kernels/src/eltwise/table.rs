//! Table look-ups.
use super::check;
use crate::Isa;

/// `out[i] = table[x[i]]`.
///
/// With 512 bits 64 bytes are looked up at once where the processor has AVX-512 VBMI as well. With AVX2 sixteen shuffles
/// would be needed for 32 bytes, which is no faster than plain loads.
///
/// # Panics
/// When the slices differ in length.
pub fn lut(isa: Isa, x: &[u8], table: &[u8; 256], out: &mut [u8]) {
    check(x.len(), out.len());
    #[cfg(target_arch = "x86_64")]
    if isa.has_512_bits() && is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: the processor was asked for these instructions.
        return unsafe { vbmi(x, table, out) };
    }
    let _ = isa;
    plain(x, table, out);
}

fn plain(x: &[u8], table: &[u8; 256], out: &mut [u8]) {
    for (y, &x) in out.iter_mut().zip(x) {
        *y = table[usize::from(x)];
    }
}

/// The two halves of the table are looked up by the low seven bits, and the high bit chooses.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn vbmi(x: &[u8], table: &[u8; 256], out: &mut [u8]) {
    use std::arch::x86_64::*;
    // SAFETY: the table holds four vectors.
    let t = [0, 1, 2, 3].map(|i| unsafe { _mm512_loadu_si512(table.as_ptr().add(64 * i).cast()) });
    let (x, x_rest) = x.as_chunks::<64>();
    let (y, y_rest) = out.as_chunks_mut::<64>();
    for (x, y) in x.iter().zip(y) {
        // SAFETY: both arrays hold a vector.
        unsafe {
            let x = _mm512_loadu_si512(x.as_ptr().cast());
            let low = _mm512_permutex2var_epi8(t[0], x, t[1]);
            let high = _mm512_permutex2var_epi8(t[2], x, t[3]);
            let codes = _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
            _mm512_storeu_si512(y.as_mut_ptr().cast(), codes);
        }
    }
    plain(x_rest, table, y_rest);
}
