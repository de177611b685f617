//! Convolution in which each output channel reads one input channel: bound by memory, so computed directly.
use super::{columns::Planes, conv::Sizes, tile::Real};
use pulp::Arch;
use rayon::prelude::*;

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
        .for_each_init(Vec::new, |laid: &mut Vec<T>, (i, (out, x))| {
            Arch::new().dispatch(|| {
                let data = if planes.direct {
                    x
                } else {
                    laid.resize(planes.len, T::ZERO);
                    planes.fill(x, T::ZERO, laid);
                    laid
                };
                let first = i % sizes.channels * multiplier;
                for (j, out) in out.chunks_exact_mut(sizes.positions).enumerate() {
                    let c = first + j;
                    let start = bias.map_or(T::ZERO, |b| b[c]);
                    let w = &w[c * taps..][..taps];
                    for (at, line) in planes.lines(out) {
                        match (<&[T; 9]>::try_from(w), <&[usize; 9]>::try_from(&*planes.taps)) {
                            (Ok(w), Ok(t)) => nine(data, at, t, w, start, line),
                            _ => any(data, at, &planes.taps, w, start, line),
                        }
                    }
                }
            });
        });
}

/// 3x3: all taps in one pass over the line.
#[inline(always)]
fn nine<T: Real>(data: &[T], at: usize, taps: &[usize; 9], w: &[T; 9], start: T, line: &mut [T]) {
    let n = line.len();
    let r: [&[T]; 9] = std::array::from_fn(|t| &data[at + taps[t]..][..n]);
    for (i, y) in line.iter_mut().enumerate() {
        let mut acc = start;
        for t in 0..9 {
            acc = w[t].mul_add(r[t][i], acc);
        }
        *y = acc;
    }
}

#[inline(always)]
fn any<T: Real>(data: &[T], at: usize, taps: &[usize], w: &[T], start: T, line: &mut [T]) {
    line.fill(start);
    for (&t, &w) in taps.iter().zip(w) {
        for (y, &x) in line.iter_mut().zip(&data[at + t..][..]) {
            *y = w.mul_add(x, *y);
        }
    }
}
