//! Broadcasting: which element of each operand stands behind an element of the result.
use super::super::args::{self, CHUNK};
use crate::error::Result;
use rayon::prelude::*;

/// `N` operands that broadcast to one shape. Neighbouring axes along which every operand goes on, or every operand stands
/// still, are one: same shapes become one axis, a bias per channel three.
pub(super) struct Zip<const N: usize> {
    pub shape: Vec<usize>,
    pub len: usize,
    /// Size and the operands' strides, outermost first; sizes of 1 are left out.
    dims: Vec<(usize, [usize; N])>,
}

/// A run of the result along which each operand goes on by 1 or stands still.
pub(super) struct Segment<const N: usize> {
    /// Where it starts within the chunk.
    pub at: usize,
    pub len: usize,
    /// Where each operand starts, and its step: 0 or 1.
    pub from: [usize; N],
    pub step: [usize; N],
}

impl<const N: usize> Zip<N> {
    pub fn new(shapes: [&[usize]; N]) -> Result<Self> {
        let shape = args::broadcast(&shapes)?;
        let len = args::room(&shape)?;
        let strides = shapes.map(|s| args::spread(s, &shape));
        let mut dims: Vec<(usize, [usize; N])> = Vec::new();
        for (i, &d) in shape.iter().enumerate() {
            let step: [usize; N] = std::array::from_fn(|k| strides[k][i]);
            if d == 1 {
                continue;
            }
            match dims.last_mut() {
                Some((size, outer)) if (0..N).all(|k| outer[k] == step[k].saturating_mul(d)) => {
                    (*size, *outer) = (size.saturating_mul(d), step);
                }
                _ => dims.push((d, step)),
            }
        }
        if dims.is_empty() {
            dims.push((1, [0; N]));
        }
        Ok(Self { shape, len, dims })
    }

    /// Walks the elements `start .. start + len` of the result.
    #[inline(always)]
    pub fn segments(&self, start: usize, len: usize, mut f: impl FnMut(Segment<N>)) {
        if len == 0 {
            return;
        }
        let (inner, outer) = self.dims.split_last().map_or((&(1, [0; N]), &[][..]), |(i, o)| (i, o));
        let (row, step) = *inner;
        let mut index = vec![0; outer.len()];
        let mut base = [0; N];
        let mut rest = start / row;
        for (i, (size, strides)) in outer.iter().enumerate().rev() {
            index[i] = rest % size;
            rest /= size;
            for k in 0..N {
                base[k] += index[i] * strides[k];
            }
        }
        let (mut column, mut at) = (start % row, 0);
        while at < len {
            let n = (row - column).min(len - at);
            f(Segment { at, len: n, from: std::array::from_fn(|k| base[k] + column * step[k]), step });
            (at, column) = (at + n, 0);
            for (i, (size, strides)) in outer.iter().enumerate().rev() {
                index[i] += 1;
                for k in 0..N {
                    base[k] += strides[k];
                }
                if index[i] < *size {
                    break;
                }
                index[i] = 0;
                for k in 0..N {
                    base[k] -= size * strides[k];
                }
            }
        }
    }

    /// Calls `f` with each chunk of the result and where it starts, in parallel when that pays.
    pub fn chunks<O: Send>(&self, out: &mut [O], f: impl Fn(usize, &mut [O]) + Sync) {
        if out.len() <= CHUNK {
            f(0, out);
        } else {
            out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| f(i * CHUNK, out));
        }
    }
}

impl Zip<2> {
    /// `f` of each pair, into one chunk of the result.
    #[inline(always)]
    pub fn pairs<A: Copy, B: Copy, O>(&self, a: &[A], b: &[B], start: usize, out: &mut [O], f: impl Fn(A, B) -> O) {
        self.segments(
            start,
            out.len(),
            #[inline(always)]
            |s| {
                let out = &mut out[s.at..][..s.len];
                let (a, b) = (&a[s.from[0]..], &b[s.from[1]..]);
                match s.step {
                    [1, 1] => out.iter_mut().zip(a).zip(b).for_each(|((o, &a), &b)| *o = f(a, b)),
                    [1, _] => {
                        let b = b[0];
                        out.iter_mut().zip(a).for_each(|(o, &a)| *o = f(a, b));
                    }
                    [_, 1] => {
                        let a = a[0];
                        out.iter_mut().zip(b).for_each(|(o, &b)| *o = f(a, b));
                    }
                    _ => out.iter_mut().for_each(|o| *o = f(a[0], b[0])),
                }
            },
        );
    }
}
