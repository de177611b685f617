//! Second moments of a product's inputs, before and behind quantization.
use super::rounder::{Curvature, Group};
use crate::{
    data::mix,
    error::{Error, Result},
    exec::float,
    ir::{
        Op, Tensor,
        op::{ConvAttrs, Window},
    },
};
use nalgebra::{Cholesky, DMatrix};
use rayon::prelude::*;

/// Columns of inputs that are multiplied at once.
const CHUNK: usize = 2048;

/// Sums over positions of a product: of its inputs as the quantized network sees them, `y`, and as the float network does, `x`.
pub struct Moments {
    depth: usize,
    groups: Vec<Sums>,
    /// Positions seen.
    count: u64,
}

/// The sums of one group of channels.
struct Sums {
    /// `sum y y^T`, `[depth][depth]`.
    square: Vec<f64>,
    /// `sum x y^T`.
    cross: Vec<f64>,
    /// `sum y`.
    seen: Vec<f64>,
    /// `sum x`.
    meant: Vec<f64>,
}

impl Moments {
    /// None yet, of `groups` groups of `depth` inputs.
    pub fn new(groups: usize, depth: usize) -> Self {
        let sums = || Sums {
            square: vec![0.0; depth * depth],
            cross: vec![0.0; depth * depth],
            seen: vec![0.0; depth],
            meant: vec![0.0; depth],
        };
        Self { depth, groups: (0..groups).map(|_| sums()).collect(), count: 0 }
    }
    /// Positions that were added.
    pub fn count(&self) -> u64 {
        self.count
    }
    /// Adds positions: `x` and `y` are `[groups][depth][positions]`.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn add(&mut self, x: &[f32], y: &[f32], positions: usize) -> Result<()> {
        let (k, each) = (self.depth, self.depth * positions);
        if x.len() != y.len() || x.len() != self.groups.len() * each {
            return Err(Error::internal(format!("{} and {} inputs for {positions} positions", x.len(), y.len())));
        }
        self.count += positions as u64;
        if positions == 0 {
            return Ok(());
        }
        let one = |(g, sums): (usize, &mut Sums)| -> Result<()> {
            let (x, y) = (&x[g * each..][..each], &y[g * each..][..each]);
            for i in 0..k {
                let sum = |v: &[f32]| v[i * positions..][..positions].iter().map(|&v| f64::from(v)).sum::<f64>();
                sums.seen[i] += sum(y);
                sums.meant[i] += sum(x);
            }
            sums.products(x, y, k, positions)
        };
        // One group is large and divided inside; many are small.
        if self.groups.len() == 1 {
            self.groups.iter_mut().enumerate().try_for_each(one)
        } else {
            self.groups.par_iter_mut().enumerate().try_for_each(one)
        }
    }
    /// What rounding looks at. With `centred` the layer's bias is free and takes up whatever error is the same at every position, so that moments
    /// are those about the means. `damping` times the mean of the diagonal is added to it.
    ///
    /// # Errors
    /// When there are no positions.
    pub fn finish(self, centred: bool, damping: f64) -> Result<Known> {
        if self.count == 0 {
            return Err(Error::usage("no samples to look at").cure("give calibration samples"));
        }
        let (k, n) = (self.depth, self.count as f64);
        let groups = self.groups.into_iter().map(|mut sums| {
            for v in [&mut sums.square, &mut sums.cross] {
                v.iter_mut().for_each(|v| *v /= n);
            }
            for v in [&mut sums.seen, &mut sums.meant] {
                v.iter_mut().for_each(|v| *v /= n);
            }
            if centred {
                for i in 0..k {
                    for j in 0..k {
                        sums.square[i * k + j] -= sums.seen[i] * sums.seen[j];
                        sums.cross[i * k + j] -= sums.meant[i] * sums.seen[j];
                    }
                }
            }
            let mean = (0..k).map(|i| sums.square[i * k + i]).sum::<f64>() / k as f64;
            // An input that is always the same has no say: any code will do.
            let ridge = if mean > 0.0 { damping * mean } else { 1.0 };
            (0..k).for_each(|i| sums.square[i * k + i] += ridge);
            (sums, ridge)
        });
        let groups: Vec<(Sums, f64)> = groups.collect();
        let curvature = Curvature {
            depth: k,
            groups: groups.iter().map(|(s, _)| Group { h: s.square.iter().map(|&v| v as f32).collect() }).collect(),
        };
        Ok(Known { curvature, groups, centred })
    }
}

impl Sums {
    fn products(&mut self, x: &[f32], y: &[f32], k: usize, n: usize) -> Result<()> {
        if k <= 32 {
            for i in 0..k {
                for j in 0..k {
                    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                    let (mut square, mut cross) = (0.0, 0.0);
                    for start in (0..n).step_by(CHUNK) {
                        let some = |v: usize| v * n + start..v * n + n.min(start + CHUNK);
                        square += f64::from(dot(&y[some(i)], &y[some(j)]));
                        cross += f64::from(dot(&x[some(i)], &y[some(j)]));
                    }
                    self.square[i * k + j] += square;
                    self.cross[i * k + j] += cross;
                }
            }
            return Ok(());
        }
        let ctx = float::Ctx::new();
        let gemm = Op::Gemm { alpha: 1.0, beta: 0.0, trans_a: false, trans_b: true };
        for start in (0..n).step_by(CHUNK) {
            let some = n.min(start + CHUNK) - start;
            let part = |v: &[f32]| {
                let rows = (0..k).flat_map(|i| v[i * n + start..][..some].iter().copied());
                Tensor::of(&[k, some], rows.collect::<Vec<f32>>())
            };
            let (a, b) = (part(x), part(y));
            for (left, to) in [(&b, &mut self.square), (&a, &mut self.cross)] {
                let product = float::eval(&gemm, &[Some(left), Some(&b)], 1, &ctx)?.pop();
                let product = product.ok_or_else(|| Error::internal("a product without a result"))?;
                to.iter_mut().zip(product.as_slice::<f32>()?).for_each(|(to, &v)| *to += f64::from(v));
            }
        }
        Ok(())
    }
}

/// Moments made ready.
pub struct Known {
    /// What rounding looks at.
    pub curvature: Curvature,
    groups: Vec<(Sums, f64)>,
    centred: bool,
}

impl Known {
    /// The real weights `v`, `[rows][depth]`, that do best on the quantized inputs what `weights` do on the float ones: the least
    /// `E |w x - v y|^2 + r |v - w|^2`, which is `v = (w C + r w) (H + r)^-1` with `C = E x y^T`, `H = E y y^T` and the damping `r`.
    ///
    /// # Errors
    /// When the moments are not positive definite.
    pub fn compensated(&self, weights: &[f32]) -> Result<Vec<f32>> {
        let k = self.curvature.depth;
        let rows = weights.len() / k.max(1);
        let per_group = rows / self.groups.len().max(1);
        let mut out = Vec::with_capacity(weights.len());
        for (g, (sums, ridge)) in self.groups.iter().enumerate() {
            let w = DMatrix::from_fn(per_group, k, |i, j| f64::from(weights[(g * per_group + i) * k + j]));
            let cross = DMatrix::from_row_slice(k, k, &sums.cross);
            let target = (&w * cross + &w * *ridge).transpose();
            let factor = Cholesky::new(DMatrix::from_row_slice(k, k, &sums.square)).ok_or_else(|| {
                Error::value("the moments of the layer's inputs are not positive definite")
                    .cure("calibrate on more samples")
            })?;
            let v = factor.solve(&target);
            // Column-major: each column is a row of weights.
            out.extend(v.iter().map(|&v| v as f32));
        }
        Ok(out)
    }
    /// What a bias has to gain so that the output is right on average: `E w x - E v y` for each row; `None` where the bias is not free.
    pub fn bias(&self, weights: &[f32], v: &[f32]) -> Option<Vec<f64>> {
        let k = self.curvature.depth;
        let per_group = weights.len() / k.max(1) / self.groups.len().max(1);
        self.centred.then(|| {
            let dot = |w: &[f32], mean: &[f64]| w.iter().zip(mean).map(|(&w, m)| f64::from(w) * m).sum::<f64>();
            let rows = weights.chunks(k).zip(v.chunks(k)).enumerate();
            rows.map(|(i, (w, v))| {
                let (sums, _) = &self.groups[i / per_group.max(1)];
                dot(w, &sums.meant) - dot(v, &sums.seen)
            })
            .collect()
        })
    }
}

/// Where a product reads its inputs.
pub enum Reads<'a> {
    /// Windows of images, with the shape of the weights.
    Conv(&'a ConvAttrs, &'a [usize]),
    /// The last axis.
    Rows,
}

impl Reads<'_> {
    /// Groups of channels, and inputs of each.
    pub fn sizes(&self, weight: &[usize], axis: usize) -> (usize, usize) {
        match self {
            Self::Conv(a, w) => (a.group.max(1), w[1..].iter().product()),
            Self::Rows => (1, weight[1 - axis]),
        }
    }
    /// The inputs of at most `most` positions of each sample, drawn by `seed`: `[groups][depth][positions]`, and the number of positions.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn unfold(&self, x: &Tensor, most: usize, seed: u64) -> Result<(Vec<f32>, usize)> {
        let data = x.as_slice::<f32>()?;
        let shape = x.shape();
        match self {
            Self::Rows => {
                let k = shape.last().copied().unwrap_or(1);
                let samples = shape.first().copied().unwrap_or(1);
                let each = (data.len() / k.max(1) / samples.max(1)).max(1);
                let chosen: Vec<usize> = (0..samples)
                    .flat_map(|s| positions(each, most, mix(seed, s as u64)).map(move |p| s * each + p))
                    .collect();
                let all = (0..k).flat_map(|i| chosen.iter().map(move |&row| data[row * k + i])).collect();
                Ok((all, chosen.len()))
            }
            Self::Conv(a, w) => {
                let window = a.resolve(&shape[2..], &w[2..])?;
                let (images, channels, groups) = (shape[0], shape[1], a.group.max(1));
                let output: usize = window.output.iter().product();
                let area: usize = window.input.iter().product();
                let taps = taps(&window);
                let per_image: Vec<Vec<usize>> =
                    (0..images).map(|i| positions(output, most, mix(seed, i as u64)).collect()).collect();
                let count: usize = per_image.iter().map(Vec::len).sum();
                let depth = channels / groups * taps.len();
                let mut out = vec![0.0; groups * depth * count];
                out.par_chunks_mut((count * taps.len()).max(1)).enumerate().for_each(|(channel, out)| {
                    for (tap, line) in taps.iter().zip(out.chunks_mut(count.max(1))) {
                        let mut to = line.iter_mut();
                        for (image, chosen) in per_image.iter().enumerate() {
                            let plane = &data[(image * channels + channel) * area..][..area];
                            for (&p, to) in chosen.iter().zip(&mut to) {
                                *to = place(&window, p, tap).map_or(0.0, |at| plane[at]);
                            }
                        }
                    }
                });
                Ok((out, count))
            }
        }
    }
}

/// Which of `all` positions are looked at: evenly spread, from a drawn start on.
fn positions(all: usize, most: usize, draw: u64) -> impl Iterator<Item = usize> {
    let count = all.min(most);
    // A share of the distance between two.
    let start = (draw % (all.max(1) as u64)) as usize;
    (0..count).map(move |i| (i * all + if all > most { start } else { 0 }) / count.max(1) % all.max(1))
}

/// The taps of a window as indices on its axes, in the order of the weights.
fn taps(w: &Window) -> Vec<Vec<usize>> {
    let all: usize = w.kernel.iter().product();
    (0..all).map(|i| unravel(i, &w.kernel)).collect()
}

fn unravel(mut i: usize, sizes: &[usize]) -> Vec<usize> {
    let mut out = vec![0; sizes.len()];
    for (at, &n) in out.iter_mut().zip(sizes).rev() {
        (*at, i) = (i % n, i / n);
    }
    out
}

/// Where in a plane the input of output position `p` at `tap` lies; `None` in the padding.
fn place(w: &Window, p: usize, tap: &[usize]) -> Option<usize> {
    let (mut at, mut rest, mut stride) = (0, p, 1);
    for axis in (0..w.output.len()).rev() {
        let (o, n) = (rest % w.output[axis], w.input[axis]);
        rest /= w.output[axis];
        let i = (o * w.strides[axis] + tap[axis] * w.dilations[axis]) as i64 - w.begin[axis];
        let i = usize::try_from(i).ok().filter(|&i| i < n)?;
        at += i * stride;
        stride *= n;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| (mix(seed, i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// Rows of weights times unfolded inputs are what the operator computes.
    #[test]
    fn unfolding_is_what_a_convolution_reads() {
        let cases: [(&[usize], &[usize], usize, &[i64], [usize; 2], [i64; 4]); 4] = [
            (&[2, 3, 5, 6], &[4, 3, 3, 2], 1, &[1, 2], [1, 1], [1, 0, 1, 1]),
            (&[1, 4, 7, 7], &[4, 1, 3, 3], 4, &[2, 2], [1, 1], [1, 1, 1, 1]),
            (&[2, 4, 6, 5], &[6, 2, 2, 2], 2, &[1, 1], [2, 1], [0, 0, 0, 0]),
            (&[3, 2, 4, 4], &[5, 2, 1, 1], 1, &[1, 1], [1, 1], [0, 0, 0, 0]),
        ];
        for (x, w, group, strides, dilations, pads) in cases {
            let attrs = ConvAttrs {
                group,
                strides: strides.iter().map(|&s| s as usize).collect(),
                dilations: dilations.to_vec(),
                pads: pads.to_vec(),
                ..ConvAttrs::default()
            };
            let input = Tensor::of(x, numbers(x.iter().product(), 1));
            let weights = Tensor::of(w, numbers(w.iter().product(), 2));
            let ctx = float::Ctx::new();
            let want = float::eval(&Op::Conv(attrs.clone()), &[Some(&input), Some(&weights)], 1, &ctx).unwrap();
            let (want, shape) = (want[0].to_f32s(), want[0].shape().to_vec());
            let plane: usize = shape[2..].iter().product();
            let reads = Reads::Conv(&attrs, w);
            let (groups, depth) = reads.sizes(w, 0);
            let (columns, count) = reads.unfold(&input, usize::MAX, 0).unwrap();
            assert_eq!(count, x[0] * plane);
            let (rows, per_group) = (weights.to_f32s(), w[0] / groups);
            for c in 0..w[0] {
                for p in 0..count {
                    let g = c / per_group;
                    let sum: f32 = (0..depth).map(|i| rows[c * depth + i] * columns[(g * depth + i) * count + p]).sum();
                    let at = (p / plane * w[0] + c) * plane + p % plane;
                    assert!((sum - want[at]).abs() < 1e-4, "channel {c}, position {p}: {sum}, {}", want[at]);
                }
            }
            // Some positions of each image, different ones for other draws.
            let some = reads.unfold(&input, 3, 9).unwrap();
            assert_eq!((some.1, some.0.len()), (3 * x[0], 3 * x[0] * groups * depth));
        }
    }

    fn known(x: &[f32], y: &[f32], depth: usize, centred: bool, damping: f64) -> Known {
        let positions = x.len() / depth;
        let mut moments = Moments::new(1, depth);
        // In two parts: sums do not depend on how they came.
        let half = positions / 2;
        let cut = |v: &[f32], from: usize, to: usize| -> Vec<f32> {
            (0..depth).flat_map(|i| v[i * positions + from..i * positions + to].to_vec()).collect()
        };
        moments.add(&cut(x, 0, half), &cut(y, 0, half), half).unwrap();
        moments.add(&cut(x, half, positions), &cut(y, half, positions), positions - half).unwrap();
        assert_eq!(moments.count(), positions as u64);
        moments.finish(centred, damping).unwrap()
    }

    #[test]
    fn weights_and_biases_make_up_for_their_inputs() {
        for depth in [3, 40] {
            let positions = 500;
            let x = numbers(depth * positions, 3);
            let w = numbers(2 * depth, 4);
            // The same inputs: nothing to make up for.
            let same = known(&x, &x, depth, false, 0.01).compensated(&w).unwrap();
            assert!(same.iter().zip(&w).all(|(a, b)| (a - b).abs() < 1e-4));
            // Half of them and 0.1: twice the weights, and a bias for what is always the same.
            let y: Vec<f32> = x.iter().map(|x| 0.5 * x + 0.1).collect();
            let k = known(&x, &y, depth, true, 0.0);
            let v = k.compensated(&w).unwrap();
            assert!(v.iter().zip(&w).all(|(v, w)| (v - 2.0 * w).abs() < 1e-3), "{v:?} {w:?}");
            let bias = k.bias(&w, &v).unwrap();
            for (row, b) in w.chunks(depth).zip(bias) {
                let want = -0.2 * f64::from(row.iter().sum::<f32>());
                assert!((b - want).abs() < 1e-3, "{b}, {want}");
            }
            assert!(known(&x, &y, depth, false, 0.0).bias(&w, &v).is_none());
        }
        assert!(Moments::new(1, 2).finish(false, 0.01).is_err());
    }
}
