//! Pooling of images, a vector of channels at a time.
use super::super::{Ctx, args, pool::Taps};
use crate::{
    error::{Error, Result},
    ir::{Data, Tensor, op::PoolAttrs, op::Window},
};
use nnq_kernels::widest;
use rayon::prelude::*;

struct Pool<'a> {
    window: Window,
    channels: usize,
    x: &'a [f32],
    shape: Vec<usize>,
}

fn four(x: &Tensor) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(x.shape()).map_err(|_| Error::internal("images of other than four axes"))
}

impl<'a> Pool<'a> {
    fn new(w: &PoolAttrs, x: &'a Tensor) -> Result<Self> {
        let [n, h, width, channels] = four(x)?;
        let window = w.resolve(&[h, width])?;
        let shape = vec![n, window.output[0], window.output[1], channels];
        Ok(Self { window, channels, x: x.as_slice()?, shape })
    }
    /// Starts each output with `empty`, joins the inputs under its window in order, and finishes with the number of taps
    /// inside the input and inside input and padding.
    fn run(
        self,
        empty: f32,
        join: impl Fn(f32, f32) -> f32 + Sync,
        finish: impl Fn(&mut [f32], [usize; 2]) + Sync,
        ctx: &Ctx,
    ) -> Result<Tensor> {
        let mut out = ctx.take(args::room(&self.shape)?);
        let taps = |axis: usize| -> Vec<Taps> {
            (0..self.window.output[axis]).map(|o| Taps::new(&self.window, axis, o)).collect()
        };
        let (down, across) = (taps(0), taps(1));
        let [height, width] = [self.window.input[0], self.window.input[1]];
        let line = (self.window.output[1] * self.channels).max(1);
        let work = (1 << 14) / (line * self.window.kernel.iter().product::<usize>()).max(1) + 1;
        out.par_chunks_mut(line).enumerate().with_min_len(work).for_each(|(i, out)| {
            let (image, y) = (i / down.len(), &down[i % down.len()]);
            widest(
                #[inline(always)]
                || {
                    for (x, out) in across.iter().zip(out.chunks_exact_mut(self.channels)) {
                        out.fill(empty);
                        for j in 0..y.n {
                            let row = (image * height + y.first + j * y.step) * width;
                            for k in 0..x.n {
                                let at = (row + x.first + k * x.step) * self.channels;
                                for (o, &v) in out.iter_mut().zip(&self.x[at..at + self.channels]) {
                                    *o = join(*o, v);
                                }
                            }
                        }
                        finish(out, [y.n * x.n, y.padded * x.padded]);
                    }
                },
            );
        });
        Tensor::new(self.shape, Data::F32(out.into()))
    }
}

pub fn max(w: &PoolAttrs, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
    let join = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    Pool::new(w, x)?.run(f32::NEG_INFINITY, join, |_, _| (), ctx)
}

pub fn average(w: &PoolAttrs, include: bool, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
    let finish = |out: &mut [f32], [inside, padded]: [usize; 2]| {
        let n = if include { padded } else { inside } as f32;
        // A window wholly in the padding has nothing to average.
        out.iter_mut().for_each(|y| *y = if n > 0.0 { *y / n } else { 0.0 });
    };
    Pool::new(w, x)?.run(0.0, |a, b| a + b, finish, ctx)
}

/// In binary64, as in rows.
pub fn global_average(x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
    let [n, h, w, channels] = four(x)?;
    if h * w == 0 {
        return Err(Error::shape(format!("global pooling of {h} x {w} pixels: planes without elements")));
    }
    let mut out = ctx.take(args::room(&[n, channels])?);
    if !out.is_empty() {
        let images = x.as_slice::<f32>()?.par_chunks(h * w * channels);
        out.par_chunks_mut(channels).zip(images).for_each(|(out, image)| {
            // The neutral element: a sum of -0 alone is -0, as in rows.
            let mut sums = vec![-0f64; channels];
            for pixel in image.chunks_exact(channels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            out.iter_mut().zip(sums).for_each(|(y, sum)| *y = (sum / (h * w) as f64) as f32);
        });
    }
    Tensor::new(vec![n, 1, 1, channels], Data::F32(out.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::float::pool;

    #[test]
    fn means_of_zeros_have_the_sign_that_they_have_in_rows() {
        let ctx = Ctx::new();
        for zero in [0.0f32, -0.0] {
            let bits = |t: Tensor| t.as_slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let rows = Tensor::of(&[1, 3, 2, 2], vec![zero; 12]);
            let last = Tensor::of(&[1, 2, 2, 3], vec![zero; 12]);
            let expected = bits(pool::global_average(&[Some(&rows)], &ctx).unwrap());
            assert_eq!(bits(global_average(&last, &ctx).unwrap()), expected, "{zero:?}");
        }
    }
}
