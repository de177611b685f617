//! The one loop behind operators that move elements: for each axis of the result, where in the source its steps go.
use super::super::{
    Ctx,
    args::{CHUNK, blank, by_width, bytes_mut, room},
};
use crate::{
    error::{Error, Result},
    ir::Tensor,
};
use bytemuck::Pod;
use rayon::prelude::*;

/// A step of a listed axis that reads nothing: the result gets the fill value there.
pub(in crate::exec::float) const HOLE: usize = usize::MAX;

/// Where the steps along one axis of the result read, relative to the other axes.
#[derive(Clone, Debug)]
pub(in crate::exec::float) enum Axis {
    /// Step `i` reads at offset `i * step`.
    Even { len: usize, step: isize },
    /// Step `i` reads at the offset listed, or nothing ([`HOLE`]).
    Listed(Vec<usize>),
}

/// A move: element `[i, j, ..]` of the result is the source's element at `base + axes[0](i) + axes[1](j) + ..`.
pub(in crate::exec::float) struct Plan {
    pub shape: Vec<usize>,
    pub base: isize,
    pub axes: Vec<Axis>,
}

/// Row-major strides of a shape (of no meaning, but no overflow, when the tensor is empty).
pub(in crate::exec::float) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut s = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        s[i - 1] = s[i].saturating_mul(shape[i]);
    }
    s
}

impl Axis {
    pub(in crate::exec::float) fn even(len: usize, step: usize) -> Self {
        Self::Even { len, step: step as isize }
    }
    fn len(&self) -> usize {
        match self {
            Self::Even { len, .. } => *len,
            Self::Listed(l) => l.len(),
        }
    }
    fn offset(&self, i: usize) -> Option<isize> {
        match self {
            Self::Even { step, .. } => Some(i as isize * step),
            Self::Listed(l) => (l[i] != HOLE).then(|| l[i] as isize),
        }
    }
    /// Smallest and largest offset; `None` when the axis reads nothing at all.
    fn span(&self) -> Option<(isize, isize)> {
        match self {
            Self::Even { len, step } => {
                let end = (len.saturating_sub(1) as isize).checked_mul(*step)?;
                Some((end.min(0), end.max(0)))
            }
            Self::Listed(l) => {
                let read = || l.iter().filter(|&&o| o != HOLE);
                Some((*read().min()? as isize, *read().max()? as isize))
            }
        }
    }
    /// A list of evenly spaced offsets as its first offset and an even axis.
    fn evened(self) -> (isize, Self) {
        let Self::Listed(l) = &self else { return (0, self) };
        let step = match l[..] {
            [a, b, ..] => (b as isize).wrapping_sub(a as isize),
            _ => 0,
        };
        if l.contains(&HOLE) || l.windows(2).any(|w| (w[1] as isize).wrapping_sub(w[0] as isize) != step) {
            return (0, self);
        }
        (l[0] as isize, Self::Even { len: l.len(), step })
    }
}

impl Plan {
    /// Carries the move out. Holes get the first element of `fill`, or zero.
    pub(in crate::exec::float) fn apply(self, t: &Tensor, fill: Option<&Tensor>, ctx: &Ctx) -> Result<Tensor> {
        let n = room(&self.shape)?;
        if self.axes.iter().map(Axis::len).fold(1usize, usize::saturating_mul) != n {
            return Err(Error::internal(format!("a move whose axes do not make the shape {:?}", self.shape)));
        }
        let dtype = t.dtype();
        if let Some(f) = fill.filter(|f| f.dtype() != dtype || f.is_empty()) {
            return Err(Error::shape(format!("a fill value {f:?} for elements of {dtype}")));
        }
        let mut out = blank(dtype, n, ctx);
        if n > 0 {
            let (base, axes) = simplify(self.base, self.axes);
            check(base, &axes, t.len())?;
            by_width!(dtype, T => {
                let fill = fill.map_or(0, |f| bytemuck::cast_slice::<u8, T>(f.data().as_bytes())[0]);
                fetch::<T>(base, &axes, fill, bytemuck::cast_slice(t.data().as_bytes()),
                    bytemuck::cast_slice_mut(bytes_mut(&mut out)));
            });
        }
        Tensor::new(self.shape, out)
    }
}

/// Drops axes of length 1 and joins neighbours that read as one. At least one axis is left.
fn simplify(mut base: isize, axes: Vec<Axis>) -> (isize, Vec<Axis>) {
    let mut out: Vec<Axis> = Vec::with_capacity(axes.len());
    for axis in axes {
        let (first, axis) = axis.evened();
        base += first;
        if let Axis::Even { len, step } = axis {
            if len == 1 {
                continue;
            }
            if let Some(Axis::Even { len: outer, step: wide }) = out.last_mut()
                && Some(*wide) == step.checked_mul(len as isize)
            {
                (*outer, *wide) = (*outer * len, step);
                continue;
            }
        }
        out.push(axis);
    }
    if out.is_empty() {
        out.push(Axis::Even { len: 1, step: 1 });
    }
    (base, out)
}

/// Every offset lies within the source. Operators check their arguments before; this is the last line.
fn check(base: isize, axes: &[Axis], len: usize) -> Result<()> {
    let Some(spans) = axes.iter().map(Axis::span).collect::<Option<Vec<_>>>() else { return Ok(()) };
    let (lo, hi) = spans.iter().fold((base as i128, base as i128), |(l, h), s| (l + s.0 as i128, h + s.1 as i128));
    if lo < 0 || hi >= len as i128 {
        return Err(Error::internal(format!("a move that reads from {lo} to {hi} of {len} elements")));
    }
    Ok(())
}

/// Steps through all axes but the innermost one.
struct Walk<'a> {
    axes: &'a [Axis],
    index: Vec<usize>,
    offset: isize,
    holes: usize,
}

impl<'a> Walk<'a> {
    fn new(axes: &'a [Axis], base: isize, mut row: usize) -> Self {
        let mut w = Self { axes, index: vec![0; axes.len()], offset: base, holes: 0 };
        for (d, axis) in axes.iter().enumerate().rev() {
            w.index[d] = row % axis.len();
            row /= axis.len();
            w.enter(d);
        }
        w
    }
    fn enter(&mut self, d: usize) {
        match self.axes[d].offset(self.index[d]) {
            Some(o) => self.offset += o,
            None => self.holes += 1,
        }
    }
    fn leave(&mut self, d: usize) {
        match self.axes[d].offset(self.index[d]) {
            Some(o) => self.offset -= o,
            None => self.holes -= 1,
        }
    }
    fn step(&mut self) {
        for d in (0..self.axes.len()).rev() {
            self.leave(d);
            self.index[d] += 1;
            let wrapped = self.index[d] == self.axes[d].len();
            if wrapped {
                self.index[d] = 0;
            }
            self.enter(d);
            if !wrapped {
                return;
            }
        }
    }
    /// Where the row starts; `None`: it reads nothing.
    fn start(&self) -> Option<usize> {
        (self.holes == 0).then_some(self.offset as usize)
    }
}

/// How the innermost axis is read.
enum Inner<'a> {
    Run,
    Strided(isize),
    /// Runs of neighbours: where they go, how long they are, where they come from.
    Runs(Vec<(usize, usize, usize)>),
    Gather(&'a [usize]),
}

impl<'a> Inner<'a> {
    fn of(axis: &'a Axis) -> Self {
        match axis {
            Axis::Even { step: 1, .. } => Self::Run,
            Axis::Even { step, .. } => Self::Strided(*step),
            Axis::Listed(l) => {
                let mut runs: Vec<(usize, usize, usize)> = Vec::new();
                for (i, &o) in l.iter().enumerate() {
                    if runs.len() * 4 > l.len() {
                        return Self::Gather(l);
                    }
                    match runs.last_mut() {
                        Some((_, n, from)) if o == *from && o == HOLE => *n += 1,
                        Some((_, n, from)) if *from != HOLE && o == *from + *n => *n += 1,
                        _ => runs.push((i, 1, o)),
                    }
                }
                Self::Runs(runs)
            }
        }
    }
    fn row<T: Pod>(&self, src: &[T], start: usize, fill: T, dst: &mut [T]) {
        match self {
            Self::Run => dst.copy_from_slice(&src[start..start + dst.len()]),
            Self::Strided(0) => dst.fill(src[start]),
            Self::Strided(step) => {
                let mut at = start as isize;
                for d in dst {
                    *d = src[at as usize];
                    at += step;
                }
            }
            Self::Runs(runs) => {
                for &(to, n, from) in runs {
                    if from == HOLE {
                        dst[to..to + n].fill(fill);
                    } else {
                        dst[to..to + n].copy_from_slice(&src[start + from..start + from + n]);
                    }
                }
            }
            Self::Gather(l) => {
                for (d, &o) in dst.iter_mut().zip(*l) {
                    *d = if o == HOLE { fill } else { src[start + o] };
                }
            }
        }
    }
}

fn fetch<T: Pod + Send + Sync>(base: isize, axes: &[Axis], fill: T, src: &[T], dst: &mut [T]) {
    let (last, outer) = axes.split_last().expect("simplify leaves at least one axis");
    if let Axis::Even { step, .. } = last {
        let unit = |a: &Axis| matches!(a, Axis::Even { len, step: 1 } if *len >= 4);
        if let Some(k) = outer.iter().rposition(unit).filter(|_| step.abs() > 1) {
            return turn(base, axes, k, *step, fill, src, dst);
        }
    }
    let row = last.len();
    let inner = Inner::of(last);
    let rows = (CHUNK / row).max(1);
    each(dst, rows * row, |task, dst| {
        let mut walk = Walk::new(outer, base, task * rows);
        for d in dst.chunks_mut(row) {
            match walk.start() {
                Some(start) => inner.row(src, start, fill, d),
                None => d.fill(fill),
            }
            walk.step();
        }
    });
}

/// Transposition: axis `k` reads neighbours while the innermost one strides. Worked on in tiles, so that each cache line
/// of the source is read while it is hot.
fn turn<T: Pod + Send + Sync>(base: isize, axes: &[Axis], k: usize, step: isize, fill: T, src: &[T], dst: &mut [T]) {
    let (near, far) = (64 / size_of::<T>(), 64);
    let (len, last) = (axes[k].len(), axes[axes.len() - 1].len());
    let middle = &axes[k + 1..axes.len() - 1];
    let rows: usize = middle.iter().map(Axis::len).product();
    let plane = rows * last;
    // One task: `near` steps of axis k, everything inside them. The last one of a run of axis k may be shorter.
    each(dst, len * plane, |task, dst| {
        let outer = Walk::new(&axes[..k], base, task);
        let Some(start) = outer.start() else { return dst.fill(fill) };
        each(dst, near * plane, |block, dst| {
            let mut walk = Walk::new(middle, (start + block * near) as isize, 0);
            for r in 0..rows {
                for j in (0..last).step_by(far) {
                    for (i, d) in dst.chunks_mut(plane).enumerate() {
                        let d = &mut d[r * last..][..last];
                        let d = &mut d[j..(j + far).min(last)];
                        let Some(start) = walk.start() else {
                            d.fill(fill);
                            continue;
                        };
                        let mut at = (start + i) as isize + j as isize * step;
                        for d in d {
                            *d = src[at as usize];
                            at += step;
                        }
                    }
                }
                walk.step();
            }
        });
    });
}

/// Calls `f` with each run of `size` elements and its number, in parallel when that pays.
fn each<T: Send>(dst: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if dst.len() <= CHUNK || dst.len() <= size {
        dst.chunks_mut(size).enumerate().for_each(|(i, d)| f(i, d));
    } else {
        dst.par_chunks_mut(size).enumerate().for_each(|(i, d)| f(i, d));
    }
}
