//! Leaving zeros out.
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Copies the elements of `x` that are not zero to the front of `to`, in order, and answers how many there are. What
/// stands behind them in `to` is unspecified.
///
/// # Panics
/// When `to` is shorter than `x`.
pub fn without_zeros(x: &[f32], to: &mut [f32]) -> usize {
    assert!(to.len() >= x.len());
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions, and `to` is long enough.
        return unsafe { wide(x, to) };
    }
    scalar(x, to)
}

fn scalar(x: &[f32], to: &mut [f32]) -> usize {
    let mut n = 0;
    for &x in x {
        to[n] = x;
        n += usize::from(x != 0.0);
    }
    n
}

/// # Safety
/// `to` is at least as long as `x`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn wide(x: &[f32], to: &mut [f32]) -> usize {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut n = 0;
    for chunk in chunks {
        // SAFETY: at most as many elements were stored as read, so a whole vector fits behind them.
        unsafe {
            let v = _mm512_loadu_ps(chunk.as_ptr());
            let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(v, _mm512_setzero_ps());
            _mm512_storeu_ps(to.as_mut_ptr().add(n), _mm512_maskz_compress_ps(some, v));
            n += some.count_ones() as usize;
        }
    }
    n + scalar(rest, &mut to[n..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_leaves_the_same() {
        for len in [0, 1, 15, 16, 17, 33, 200] {
            let x: Vec<f32> = (0..len).map(|i| [0.0, -0.0, f32::NAN, 1.5, 0.0, -2.0, 1e-40][i * i % 7]).collect();
            let want: Vec<u32> = x.iter().filter(|x| **x != 0.0).map(|x| x.to_bits()).collect();
            let (mut a, mut b) = (vec![9.0; len], vec![9.0; len]);
            let (m, n) = (without_zeros(&x, &mut a), scalar(&x, &mut b));
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!((bits(&a[..m]), bits(&b[..n])), (want.clone(), want), "{len}");
        }
    }
}
