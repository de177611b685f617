//! Convolution in which each output channel reads one input channel: bound by memory, so computed directly.
use super::{columns::Planes, conv::Sizes, tile::Real};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Vectors computed at once: enough chains in flight to hide the latency of an addition.
const N: usize = 4;
/// What a run may read and write beyond its end: a block of `N` vectors of 16.
const OVER: usize = 16 * N;

/// As [`super::conv::run`], for one input channel per group. The chain of products runs over the taps in kernel order from the
/// bias, as in the general case.
pub fn run<T: Real>(sizes: &Sizes, planes: &Planes, x: &[T], w: &[T], bias: Option<&[T]>, out: &mut [T]) {
    let area: usize = sizes.window.input.iter().product();
    let taps = planes.taps.len();
    let multiplier = sizes.out / sizes.channels;
    let work = (1 << 14) / (sizes.positions * multiplier) + 1;
    out.par_chunks_mut(sizes.positions * multiplier)
        .zip(x.par_chunks(area))
        .enumerate()
        .with_min_len(work)
        .for_each_init(<(Vec<T>, Vec<T>)>::default, |(laid, result), (i, (out, x))| {
            laid.resize(planes.len + OVER, T::ZERO);
            planes.fill(x, T::ZERO, laid);
            let first = i % sizes.channels * multiplier;
            for (c, out) in (first..).zip(out.chunks_exact_mut(sizes.positions)) {
                let start = bias.map_or(T::ZERO, |b| b[c]);
                Arch::new().dispatch(Plane { planes, data: laid, w: &w[c * taps..][..taps], start, result, out });
            }
        });
}

/// One output plane.
struct Plane<'a, T> {
    planes: &'a Planes,
    data: &'a [T],
    w: &'a [T],
    start: T,
    result: &'a mut Vec<T>,
    out: &'a mut [T],
}

impl<T: Real> WithSimd for Plane<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let taps = &*self.planes.taps;
        let span = self.planes.span();
        // All lines in one run, gaps between them included, unless the gaps are wide.
        if span <= self.out.len() + self.out.len() / 2 + OVER {
            self.result.resize(span + OVER, T::ZERO);
            line(s, self.data, taps, self.w, self.start, self.result);
            for (at, to) in self.planes.lines(self.out) {
                to.copy_from_slice(&self.result[at..][..to.len()]);
            }
        } else {
            for (at, to) in self.planes.lines(self.out) {
                self.result.resize(to.len() + OVER, T::ZERO);
                line(s, &self.data[at..], taps, self.w, self.start, self.result);
                to.copy_from_slice(&self.result[..to.len()]);
            }
        }
    }
}

/// All but the last `OVER` elements of `to`.
#[inline(always)]
fn line<S: Simd, T: Real>(s: S, data: &[T], taps: &[usize], w: &[T], start: T, to: &mut [T]) {
    let step = N * size_of::<T::V<S>>() / size_of::<T>();
    let n = to.len() - OVER;
    for (i, to) in to.chunks_exact_mut(step).enumerate().take(n.div_ceil(step)) {
        let mut acc = [T::splat(s, start); N];
        for (&t, &w) in taps.iter().zip(w) {
            let x = T::vectors::<S>(&data[t + i * step..][..step]);
            let w = T::splat(s, w);
            for j in 0..N {
                acc[j] = T::fma(s, w, x[j], acc[j]);
            }
        }
        to.copy_from_slice(bytemuck::cast_slice(&acc));
    }
}
