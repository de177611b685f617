//! The right matrix of a convolution, without ever writing it down: packed from padded planes.
use super::tile::{Real, Right, SLACK};
use crate::{
    error::{Error, Result},
    ir::op::Window,
};
use std::ops::Range;

/// How input planes are laid out so that each tap of a window is one shift: padded, and for strides beyond 1 split into phases
/// (all rows and columns that leave the same remainder), so that neighbouring outputs read neighbouring elements.
/// Works on three spatial axes; fewer are filled with ones in front.
pub struct Planes {
    input: [usize; 3],
    begin: [i64; 3],
    stride: [usize; 3],
    /// Rows of one phase, per axis.
    size: [usize; 3],
    /// The phases that taps use, per axis.
    phases: [Vec<usize>; 3],
    /// Shift of each tap, in kernel order.
    pub taps: Vec<usize>,
    pub output: [usize; 3],
    /// Elements of a laid-out plane.
    pub len: usize,
    /// The layout is the input itself.
    pub direct: bool,
}

fn three<T: Copy>(x: &[T], fill: T) -> [T; 3] {
    let mut out = [fill; 3];
    out[3 - x.len()..].copy_from_slice(x);
    out
}

impl Planes {
    /// The layout for a window.
    ///
    /// # Errors
    /// More than three spatial axes; sizes that cannot be held.
    pub fn new(w: &Window) -> Result<Self> {
        if w.input.len() > 3 {
            return Err(Error::unsupported(format!("a window over {} spatial axes; nnq goes to 3", w.input.len())));
        }
        let (kernel, dilation) = (three(&w.kernel, 1), three(&w.dilations, 1));
        let (stride, output) = (three(&w.strides, 1), three(&w.output, 1));
        let mut phases: [Vec<usize>; 3] = Default::default();
        let mut size = [0; 3];
        for a in 0..3 {
            for tap in 0..kernel[a] {
                let phase = tap * dilation[a] % stride[a];
                if !phases[a].contains(&phase) {
                    phases[a].push(phase);
                }
            }
            size[a] = output[a].max(1) + (kernel[a] - 1) * dilation[a] / stride[a];
        }
        let count: usize = phases.iter().map(Vec::len).product();
        let one = crate::ir::count(&size)?;
        let len = crate::ir::count(&[count, one])?;
        let shift = |a: usize, tap: usize| {
            let phase = tap * dilation[a] % stride[a];
            let index = phases[a].iter().position(|&p| p == phase).unwrap_or(0);
            (index, tap * dilation[a] / stride[a])
        };
        let mut taps = Vec::with_capacity(kernel.iter().product());
        for z in 0..kernel[0] {
            for y in 0..kernel[1] {
                for x in 0..kernel[2] {
                    let ((pz, dz), (py, dy), (px, dx)) = (shift(0, z), shift(1, y), shift(2, x));
                    let phase = (pz * phases[1].len() + py) * phases[2].len() + px;
                    taps.push(phase * one + (dz * size[1] + dy) * size[2] + dx);
                }
            }
        }
        let (input, begin) = (three(&w.input, 1), three(&w.begin, 0));
        let direct = count == 1 && size == input && begin == [0; 3] && stride == [1; 3];
        Ok(Self { input, begin, stride, size, phases, taps, output, len, direct })
    }
    /// Lays out one plane.
    pub fn fill<T: Copy>(&self, from: &[T], zero: T, to: &mut [T]) {
        pulp::Arch::new().dispatch(Fill { planes: self, from, zero, to });
    }
    #[inline(always)]
    fn fill_here<T: Copy>(&self, from: &[T], zero: T, to: &mut [T]) {
        let mut lines = to.chunks_exact_mut(self.size[2]);
        for &pz in &self.phases[0] {
            for &py in &self.phases[1] {
                for &px in &self.phases[2] {
                    for z in 0..self.size[0] {
                        for y in 0..self.size[1] {
                            let Some(to) = lines.next() else { return };
                            match (self.source(0, z, pz), self.source(1, y, py)) {
                                (Some(z), Some(y)) => {
                                    let width = self.input[2];
                                    self.line(&from[(z * self.input[1] + y) * width..][..width], px, zero, to);
                                }
                                _ => to.fill(zero),
                            }
                        }
                    }
                }
            }
        }
    }
    fn source(&self, axis: usize, index: usize, phase: usize) -> Option<usize> {
        let i = (index * self.stride[axis] + phase) as i64 - self.begin[axis];
        usize::try_from(i).ok().filter(|&i| i < self.input[axis])
    }
    #[inline(always)]
    fn line<T: Copy>(&self, from: &[T], phase: usize, zero: T, to: &mut [T]) {
        let (s, first) = (self.stride[2], phase as i64 - self.begin[2]);
        // The first element that lies in the input, and how many do.
        let lead = if first < 0 { first.unsigned_abs().div_ceil(s as u64) as usize } else { 0 }.min(to.len());
        let start = first + (lead * s) as i64;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let n = from.len().saturating_sub(start).div_ceil(s).min(to.len() - lead);
        to[..lead].fill(zero);
        to[lead + n..].fill(zero);
        if n == 0 {
            return;
        }
        let (from, to) = (&from[start..], &mut to[lead..lead + n]);
        match s {
            1 => to.copy_from_slice(&from[..n]),
            2 => {
                // Pairs, so that the copy is a vector shuffle; the last one may lack its second half.
                let pairs = from.as_chunks::<2>().0;
                let m = n.min(pairs.len());
                for (to, from) in to[..m].iter_mut().zip(&pairs[..m]) {
                    *to = from[0];
                }
                if m < n {
                    to[m] = from[2 * m];
                }
            }
            _ => {
                for (to, from) in to.iter_mut().zip(from.iter().step_by(s)) {
                    *to = *from;
                }
            }
        }
    }
    /// From the first output position to behind the last, counted in a laid-out plane.
    pub fn span(&self) -> usize {
        let [z, y, x] = self.output;
        ((z - 1) * self.size[1] + y - 1) * self.size[2] + x
    }
    /// The lines of an output plane, each with its position in a laid-out plane.
    #[inline(always)]
    pub fn lines<'a, T>(&'a self, out: &'a mut [T]) -> impl Iterator<Item = (usize, &'a mut [T])> {
        out.chunks_exact_mut(self.output[2]).enumerate().map(|(i, line)| {
            let (y, z) = (i % self.output[1], i / self.output[1]);
            ((z * self.size[1] + y) * self.size[2], line)
        })
    }
    /// Runs of output positions `cols` that lie one after another in a plane: (first column, position, length).
    fn runs(&self, cols: Range<usize>) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let width = if self.size[2] == self.output[2] && (self.size[1] == self.output[1] || self.output[0] == 1) {
            // Rows follow each other without a gap.
            self.output[1] * self.output[2] * if self.size[1] == self.output[1] { self.output[0] } else { 1 }
        } else {
            self.output[2]
        };
        let mut col = cols.start;
        std::iter::from_fn(move || {
            (col < cols.end).then(|| {
                let n = (width - col % width).min(cols.end - col);
                let (x, rest) = (col % self.output[2], col / self.output[2]);
                let (y, z) = (rest % self.output[1], rest / self.output[1]);
                let run = (col, (z * self.size[1] + y) * self.size[2] + x, n);
                col += n;
                run
            })
        })
    }
}

struct Fill<'a, T> {
    planes: &'a Planes,
    from: &'a [T],
    zero: T,
    to: &'a mut [T],
}

impl<T: Copy> pulp::WithSimd for Fill<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.planes.fill_here(self.from, self.zero, self.to);
    }
}

/// Columns are output positions of consecutive images, rows are taps within channels.
pub struct Columns<'a, T> {
    pub planes: &'a Planes,
    /// Laid-out planes of the images.
    pub data: &'a [T],
    /// Elements between images.
    pub image: usize,
    /// Start of each row: channel and tap.
    pub rows: &'a [usize],
    /// Output positions of an image.
    pub positions: usize,
}

impl<T: Real> Right<T> for Columns<'_, T> {
    #[inline(always)]
    fn pack(&self, k: Range<usize>, col: usize, width: usize, nr: usize, to: &mut [T]) {
        // (start in `data`, start in a row of the panel, length); a panel is at most 32 columns wide.
        let mut runs = [(0usize, 0usize, 0usize); 32];
        let mut n = 0;
        let mut at = 0;
        while at < width {
            let (image, position) = ((col + at) / self.positions, (col + at) % self.positions);
            let end = self.positions.min(position + width - at);
            for (c, start, len) in self.planes.runs(position..end) {
                runs[n] = (image * self.image + start, at + c - position, len);
                n += 1;
            }
            at += end - position;
        }
        if runs[0].2 == nr {
            for (&row, to) in self.rows[k].iter().zip(to.chunks_exact_mut(nr)) {
                to.copy_from_slice(&self.data[row + runs[0].0..][..nr]);
            }
            return;
        }
        for (i, &row) in self.rows[k].iter().enumerate() {
            for &(start, at, len) in &runs[..n] {
                let mut done = 0;
                while done < len {
                    let (s, t) = (row + start + done, i * nr + at + done);
                    let step = SLACK.min(len - done);
                    // Whole vectors where the data goes on; the excess is overwritten by the next run or row.
                    match (self.data.get(s..s + SLACK), to.get_mut(t..t + SLACK)) {
                        (Some(from), Some(to)) => to.copy_from_slice(from),
                        _ => to[t..t + step].copy_from_slice(&self.data[s..s + step]),
                    }
                    done += step;
                }
            }
        }
    }
}
