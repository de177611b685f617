//! Convolution.
use super::{
    columns::{Columns, Planes},
    depthwise,
    tile::{Block, Left, MR, Out, Real},
};
use crate::exec::float::{Ctx, Inputs, args, last};
use crate::{
    error::{Error, Result},
    ir::{Tensor, count, op::ConvAttrs, op::Window},
};
use rayon::prelude::*;
use std::ops::Range;

/// Sizes of a convolution, checked against each other.
pub struct Sizes {
    pub images: usize,
    pub channels: usize,
    pub group: usize,
    /// Output channels of all groups.
    pub out: usize,
    pub window: Window,
    /// Output positions of one plane.
    pub positions: usize,
}

impl Sizes {
    /// From the shapes of input, weight and bias.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub fn new(a: &ConvAttrs, x: &[usize], w: &[usize], bias: Option<&[usize]>) -> Result<Self> {
        if x.len() < 3 || w.len() != x.len() {
            return Err(Error::shape(format!(
                "convolution of {x:?} with weights {w:?}: ranks must be equal and 3 or more"
            )));
        }
        let group = a.group.max(1);
        let (images, channels, out) = (x[0], x[1], w[0]);
        if channels % group != 0 || out % group != 0 || channels / group != w[1] {
            return Err(Error::shape(format!(
                "{channels} input channels, {group} groups and weights {w:?} do not fit: expected weights [multiple of {group}, {}, ..]",
                channels / group
            )));
        }
        if bias.is_some_and(|b| b != [out]) {
            return Err(Error::shape(format!("bias of shape {bias:?}, expected [{out}]")));
        }
        let window = a.resolve(&x[2..], &w[2..])?;
        let positions = count(&window.output)?;
        Ok(Self { images, channels, group, out, window, positions })
    }
    /// Shape of the output.
    pub fn shape(&self) -> Vec<usize> {
        [self.images, self.out].iter().chain(&self.window.output).copied().collect()
    }
}

pub(crate) fn conv(a: &ConvAttrs, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let single = |x: &Inputs| match last::conv_rows(a, x, ctx)? {
        Some(y) => Ok(y),
        None => typed::<f32>(a, x, ctx),
    };
    super::by_type(x, single, |x| typed::<f64>(a, x, ctx))
}

fn typed<T: Real>(a: &ConvAttrs, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let (data, weight, bias) = (args::need(x, 0, "X")?, args::need(x, 1, "W")?, args::optional(x, 2));
    let sizes = Sizes::new(a, data.shape(), weight.shape(), bias.map(Tensor::shape))?;
    let bias = bias.map(Tensor::as_slice).transpose()?;
    let out = run::<T>(&sizes, data.as_slice()?, weight.as_slice()?, bias, Some(1), ctx)?;
    Tensor::new(sizes.shape(), T::wrap(out.into()))
}

/// The convolution itself. Padding counts as 0. `input`: which input of the node `w` is, if it is one as it stands (see
/// [`Ctx::keep`]).
///
/// # Errors
/// Sizes that cannot be held.
pub fn run<T: Real>(
    sizes: &Sizes,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    input: Option<usize>,
    ctx: &Ctx,
) -> Result<Vec<T>> {
    let mut out = T::take(ctx, args::room(&sizes.shape())?);
    if out.is_empty() || x.is_empty() || w.is_empty() {
        // Nothing to sum: no channels, or a plane that is all padding.
        for (i, plane) in out.chunks_mut(sizes.positions.max(1)).enumerate() {
            plane.fill(bias.map_or(T::ZERO, |b| b[i % sizes.out]));
        }
        return Ok(out);
    }
    let planes = Planes::new(&sizes.window)?;
    let per_group = sizes.out / sizes.group;
    if sizes.channels == sizes.group && per_group <= 4 {
        depthwise::run(sizes, &planes, x, w, bias, &mut out);
        return Ok(out);
    }
    let taps = w.len() / sizes.out;
    let pack = || -> Vec<Left<T>> {
        w.par_chunks(per_group * taps).map(|w| Left::pack(w, per_group, taps, taps, 1)).collect()
    };
    let lefts = match input {
        Some(i) => ctx.keep(i, pack),
        None => std::sync::Arc::new(pack()),
    };
    let area: usize = sizes.window.input.iter().product();
    let (channels, image) = (sizes.channels, sizes.channels * planes.len);
    let rows: Vec<usize> = (0..channels / sizes.group)
        .flat_map(|c| planes.taps.iter().map(move |t| (c, t)))
        .map(|(c, t)| c * planes.len + t)
        .collect();
    // Laid-out planes of a few images at a time: enough for all threads, few enough for the cache.
    const AT_ONCE: usize = 1 << 20;
    let threads = rayon::current_num_threads();
    let step = if planes.direct { sizes.images } else { (AT_ONCE / image).max(threads).clamp(1, sizes.images) };
    let mut laid = if planes.direct { Vec::new() } else { T::take(ctx, args::room(&[step, image])?) };
    for (x, out) in x.chunks(step * channels * area).zip(out.chunks_mut(step * sizes.out * sizes.positions)) {
        let images = x.len() / (channels * area);
        let data = if planes.direct {
            x
        } else {
            let laid = &mut laid[..images * image];
            let work = (1 << 14) / planes.len + 1;
            laid.par_chunks_mut(planes.len)
                .zip(x.par_chunks(area))
                .with_min_len(work)
                .for_each(|(to, from)| planes.fill(from, T::ZERO, to));
            &*laid
        };
        let plan = Plan::new(images, sizes, threads);
        let tasks = plan.tasks(out);
        tasks.into_par_iter().for_each_init(Vec::new, |scratch, task| {
            let right = Columns {
                planes: &planes,
                data: &data[task.images.start * image + task.group * (channels / sizes.group) * planes.len..],
                image,
                rows: &rows,
                positions: sizes.positions,
            };
            Block {
                left: &lefts[task.group],
                rows: task.rows,
                right: &right,
                cols: task.cols,
                bias: bias.map(|b| &b[task.group * per_group..]),
                out: task.out,
                scratch,
            }
            .run();
        });
    }
    T::give(ctx, laid);
    Ok(out)
}

/// How the output is cut into tasks. Results do not depend on it.
struct Plan {
    images: usize,
    group: usize,
    /// Rows of a group, and of a task.
    height: usize,
    rows: usize,
    positions: usize,
    /// Images of a task; more than one only when a task has whole planes.
    together: usize,
    /// Positions of a task.
    cols: usize,
}

struct Task<'a, T> {
    images: Range<usize>,
    group: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    out: Out<'a, T>,
}

impl Plan {
    fn new(images: usize, sizes: &Sizes, threads: usize) -> Self {
        const COLS: usize = 512;
        let (height, positions) = (sizes.out / sizes.group, sizes.positions);
        let parts = positions.div_ceil(COLS);
        let cols = positions.div_ceil(parts).next_multiple_of(32).min(positions);
        let together = if parts > 1 { 1 } else { (COLS / positions).clamp(1, images.div_ceil(threads)) };
        let tasks = images.div_ceil(together) * positions.div_ceil(cols) * sizes.group;
        let pieces = if threads > 1 { (2 * threads).div_ceil(tasks) } else { 1 };
        let rows = height.div_ceil(pieces).next_multiple_of(MR);
        Self { images, group: sizes.group, height, rows, positions, together, cols }
    }
    fn tasks<'a, T>(&self, out: &'a mut [T]) -> Vec<Task<'a, T>> {
        let (parts, pieces) = (self.positions.div_ceil(self.cols), self.height.div_ceil(self.rows));
        let mut tasks = Vec::with_capacity(self.images.div_ceil(self.together) * self.group * pieces * parts);
        for first in (0..self.images).step_by(self.together) {
            let images = first..self.images.min(first + self.together);
            for group in 0..self.group {
                for row in (0..self.height).step_by(self.rows) {
                    let rows = row..self.height.min(row + self.rows);
                    for col in (0..self.positions).step_by(self.cols) {
                        let width = self.cols.min(self.positions - col);
                        let cols = if self.together > 1 { 0..width * images.len() } else { col..col + width };
                        let out = Out {
                            slices: Vec::with_capacity(rows.len() * images.len()),
                            height: rows.len(),
                            len: width,
                        };
                        tasks.push(Task { images: images.clone(), group, rows: rows.clone(), cols, out });
                    }
                }
            }
        }
        for (plane, line) in out.chunks_mut(self.positions).enumerate() {
            let (image, row) = (plane / (self.group * self.height), plane % self.height);
            let group = plane / self.height % self.group;
            let at = ((image / self.together * self.group + group) * pieces + row / self.rows) * parts;
            for (task, slice) in tasks[at..at + parts].iter_mut().zip(line.chunks_mut(self.cols)) {
                task.out.slices.push(slice);
            }
        }
        tasks
    }
}
