//! Second moments of a product's inputs as the quantized network has them, and of the outputs that it should give.
mod damping;

pub use damping::damping;

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
use nalgebra::{Cholesky, DMatrix, Dyn};
use rayon::prelude::*;

/// Columns of inputs that are multiplied at once.
const CHUNK: usize = 2048;

/// Sums over positions of a product: of its inputs `y` as the quantized network has them, and of the outputs `t` that it should give.
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
    /// `sum t y^T`, `[rows][depth]`.
    cross: Vec<f64>,
    /// `sum y`.
    seen: Vec<f64>,
    /// `sum t`.
    wanted: Vec<f64>,
    /// `sum t^2`.
    power: Vec<f64>,
}

impl Moments {
    /// None yet, of `groups` groups of `depth` inputs, for `rows` output channels in all.
    pub fn new(groups: usize, depth: usize, rows: usize) -> Self {
        let rows = rows / groups.max(1);
        let sums = || Sums {
            square: vec![0.0; depth * depth],
            cross: vec![0.0; rows * depth],
            seen: vec![0.0; depth],
            wanted: vec![0.0; rows],
            power: vec![0.0; rows],
        };
        Self { depth, groups: (0..groups).map(|_| sums()).collect(), count: 0 }
    }
    /// Positions that were added.
    pub fn count(&self) -> u64 {
        self.count
    }
    /// Adds positions: `y` is `[groups][depth][positions]`, `t` `[rows][positions]`.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn add(&mut self, y: &[f32], t: &[f32], positions: usize) -> Result<()> {
        let (k, groups) = (self.depth, self.groups.len());
        let rows = self.groups.first().map_or(0, |g| g.wanted.len());
        if y.len() != groups * k * positions || t.len() != groups * rows * positions {
            return Err(Error::internal(format!("{} inputs and {} outputs, {positions} positions", y.len(), t.len())));
        }
        self.count += positions as u64;
        if positions == 0 {
            return Ok(());
        }
        let one = |(g, sums): (usize, &mut Sums)| -> Result<()> {
            let (y, t) = (&y[g * k * positions..][..k * positions], &t[g * rows * positions..][..rows * positions]);
            for (all, to) in [(y, &mut sums.seen), (t, &mut sums.wanted)] {
                for (line, to) in all.chunks_exact(positions).zip(to) {
                    *to += line.iter().map(|&v| f64::from(v)).sum::<f64>();
                }
            }
            for (line, to) in t.chunks_exact(positions).zip(&mut sums.power) {
                *to += line.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
            }
            products(y, y, positions, &mut sums.square)?;
            products(t, y, positions, &mut sums.cross)
        };
        // One group is large and divided inside; many are small.
        if groups == 1 {
            self.groups.iter_mut().enumerate().try_for_each(one)
        } else {
            self.groups.par_iter_mut().enumerate().try_for_each(one)
        }
    }
    /// Sums of both.
    pub fn and(&self, other: &Self) -> Self {
        let add = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
        let both = |(a, b): (&Sums, &Sums)| Sums {
            square: add((&a.square, &b.square)),
            cross: add((&a.cross, &b.cross)),
            seen: add((&a.seen, &b.seen)),
            wanted: add((&a.wanted, &b.wanted)),
            power: add((&a.power, &b.power)),
        };
        let groups = self.groups.iter().zip(&other.groups).map(both).collect();
        Self { depth: self.depth, groups, count: self.count + other.count }
    }
    /// Means in place of sums; products about their means with `centred`.
    fn means(self, centred: bool) -> Vec<Sums> {
        let (k, n) = (self.depth, self.count.max(1) as f64);
        let one = |mut sums: Sums| {
            for v in [&mut sums.square, &mut sums.cross, &mut sums.seen, &mut sums.wanted, &mut sums.power] {
                v.iter_mut().for_each(|v| *v /= n);
            }
            if centred {
                for (means, to) in [(&sums.seen, &mut sums.square), (&sums.wanted, &mut sums.cross)] {
                    for (mean, line) in means.iter().zip(to.chunks_exact_mut(k)) {
                        line.iter_mut().zip(&sums.seen).for_each(|(v, seen)| *v -= mean * seen);
                    }
                }
            }
            sums
        };
        self.groups.into_iter().map(one).collect()
    }
    /// What rounding looks at. With `centred` the layer's bias is free and takes up whatever error is the same at every position, so that moments
    /// are those about the means. `damping` times the mean of the diagonal is added to it, or more where that is less than sums are off by.
    ///
    /// # Errors
    /// When there are no positions.
    pub fn finish(self, centred: bool, damping: f64) -> Result<Known> {
        if self.count == 0 {
            return Err(Error::usage("no samples to look at").cure("give calibration samples"));
        }
        let k = self.depth;
        let groups = self.means(centred).into_iter().map(|means| Ready::new(means, k, damping));
        let groups = groups.collect::<Result<Vec<Ready>>>()?;
        let curvature = Curvature {
            depth: k,
            groups: groups.iter().map(|r| Group { h: r.sums.square.iter().map(|&v| v as f32).collect() }).collect(),
        };
        Ok(Known { curvature, groups, centred })
    }
}

/// Adds the products of all pairs of rows of two matrices with `n` columns: `a b^T`.
fn products(a: &[f32], b: &[f32], n: usize, to: &mut [f64]) -> Result<()> {
    let (rows, cols) = (a.len() / n, b.len() / n);
    if rows * cols <= 1024 {
        for (a, to) in a.chunks_exact(n).zip(to.chunks_exact_mut(cols)) {
            for (b, to) in b.chunks_exact(n).zip(to) {
                for (a, b) in a.chunks(CHUNK).zip(b.chunks(CHUNK)) {
                    *to += f64::from(a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>());
                }
            }
        }
        return Ok(());
    }
    let ctx = float::Ctx::new();
    let gemm = Op::Gemm { alpha: 1.0, beta: 0.0, trans_a: false, trans_b: true };
    for start in (0..n).step_by(CHUNK) {
        let some = n.min(start + CHUNK) - start;
        let part = |v: &[f32], rows: usize| {
            let all = v.chunks_exact(n).flat_map(|line| line[start..start + some].iter().copied());
            Tensor::of(&[rows, some], all.collect::<Vec<f32>>())
        };
        let product = float::eval(&gemm, &[Some(&part(a, rows)), Some(&part(b, cols))], 1, &ctx)?.pop();
        let product = product.ok_or_else(|| Error::internal("a product without a result"))?;
        to.iter_mut().zip(product.as_slice::<f32>()?).for_each(|(to, &v)| *to += f64::from(v));
    }
    Ok(())
}

impl Sums {
    /// `damping` times the mean of the diagonal, `[k][k]`.
    fn ridge(&self, k: usize, damping: f64) -> f64 {
        let mean = (0..k).map(|i| self.square[i * k + i]).sum::<f64>() / k as f64;
        // An input that is always the same has no say: any code will do.
        if mean > 0.0 { damping * mean } else { 1.0 }
    }
    /// `(E t y^T + r w) (E y y^T + r)^-1`, a column for each row of weights. `factor`: of the damped moments.
    fn nearest(&self, factor: &Cholesky<f64, Dyn>, ridge: f64, weights: &[f32]) -> DMatrix<f64> {
        let each = self.cross.iter().zip(weights).map(|(cross, &w)| cross + ridge * f64::from(w));
        factor.solve(&DMatrix::from_iterator(self.seen.len(), self.wanted.len(), each))
    }
}

/// Moments made ready.
pub struct Known {
    /// What rounding looks at.
    pub curvature: Curvature,
    groups: Vec<Ready>,
    centred: bool,
}

/// One group of channels: its moments, what was added to their diagonal, and the factor of both.
struct Ready {
    sums: Sums,
    ridge: f64,
    factor: Cholesky<f64, Dyn>,
}

impl Ready {
    /// Adds `damping` times the mean of the diagonal to it, or more where sums are off by more.
    ///
    /// # Errors
    /// When numbers are not finite.
    fn new(mut sums: Sums, k: usize, damping: f64) -> Result<Self> {
        let damp = |sums: &mut Sums, by: f64| (0..k).for_each(|i| sums.square[i * k + i] += by);
        // On the numbers that rounding looks at.
        let definite_without = |sums: &Sums, part: f64| {
            let mut rest = DMatrix::from_iterator(k, k, sums.square.iter().map(|&v| f64::from(v as f32)));
            (0..k).for_each(|i| rest[(i, i)] -= part);
            Cholesky::new(rest).is_some()
        };
        let mean = (0..k).map(|i| sums.square[i * k + i]).sum::<f64>() / k as f64;
        let mut ridge = sums.ridge(k, damping);
        damp(&mut sums, ridge);
        // Means far beyond the variances leave the rounding of binary32 sums where the variances were. Where half of the damping does not make the moments
        // definite, as much as does is how large that rounding is, and a hundred times as much drowns it.
        if !definite_without(&sums, 0.5 * ridge) {
            let mut more = ridge.max(mean.abs() * 1e-6).max(f64::MIN_POSITIVE);
            loop {
                more *= 10.0;
                // Moments that are no numbers of binary32 never become definite.
                if !(more.is_finite() && sums.square.iter().all(|&v| (v as f32).is_finite())) {
                    return Err(Error::value("the layer's inputs are not finite, or their squares are not")
                        .cure("look for a layer that overflows, and keep it float"));
                }
                damp(&mut sums, more);
                ridge += more;
                if definite_without(&sums, 0.5 * more) {
                    break;
                }
            }
            damp(&mut sums, 100.0 * more);
            ridge += 100.0 * more;
        }
        let factor = Cholesky::new(DMatrix::from_row_slice(k, k, &sums.square));
        let factor = factor.ok_or_else(|| Error::internal("a damped matrix that is not definite"))?;
        Ok(Self { sums, ridge, factor })
    }
}

impl Known {
    /// The real weights `v`, `[rows][depth]`, whose outputs on the quantized inputs are nearest to those wanted: the least
    /// `E |t - v y|^2 + r |v - w|^2` with the damping `r`, which is `v = (E t y^T + r w) (E y y^T + r)^-1`.
    pub fn compensated(&self, weights: &[f32]) -> Vec<f32> {
        let k = self.curvature.depth;
        let per_group = weights.len() / k.max(1) / self.groups.len().max(1);
        let mut out = Vec::with_capacity(weights.len());
        for (g, Ready { sums, ridge, factor }) in self.groups.iter().enumerate() {
            let w = &weights[g * per_group * k..][..per_group * k];
            out.extend(sums.nearest(factor, *ridge, w).iter().map(|&v| v as f32));
        }
        out
    }
    /// What the bias has to be so that outputs are right on average: `E t - v E y` for each row; `None` where the bias is not free.
    pub fn bias(&self, v: &[f32]) -> Option<Vec<f64>> {
        let k = self.curvature.depth;
        let wanted = self.groups.iter().flat_map(|Ready { sums, .. }| sums.wanted.iter().map(move |t| (t, &sums.seen)));
        let row = |((t, seen), v): ((&f64, &Vec<f64>), &[f32])| {
            t - v.iter().zip(seen).map(|(&v, seen)| f64::from(v) * seen).sum::<f64>()
        };
        self.centred.then(|| wanted.zip(v.chunks(k)).map(row).collect())
    }
}

impl Known {
    /// By what the outputs of the real weights `v`, `[rows][depth]`, are to be multiplied to have the deviation of those wanted: `sqrt(Var t / Var v y)` for
    /// each row, 1 where one of the two never changes.
    pub fn deviations(&self, v: &[f32]) -> Vec<f64> {
        let k = self.curvature.depth;
        let per_group = v.len() / k.max(1) / self.groups.len().max(1);
        let row = |(i, v): (usize, &[f32])| {
            let Ready { sums, ridge, .. } = &self.groups[i / per_group.max(1)];
            let r = i % per_group.max(1);
            let wide = |i: usize| f64::from(v[i]);
            let line = |i: usize| (0..k).map(|j| sums.square[i * k + j] * wide(j)).sum::<f64>() - ridge * wide(i);
            let mut got: f64 = (0..k).map(|i| wide(i) * line(i)).sum();
            if !self.centred {
                let mean: f64 = (0..k).map(|i| wide(i) * sums.seen[i]).sum();
                got -= mean * mean;
            }
            let wanted = sums.power[r] - sums.wanted[r] * sums.wanted[r];
            // What is left of a difference of squares is no variance.
            let least = LEAST_VARIANCE * sums.power[r];
            if wanted > least && got > least { (wanted / got).sqrt() } else { 1.0 }
        };
        v.par_chunks(k.max(1)).enumerate().map(row).collect()
    }
}

/// Share of the mean square below which a variance counts as none: binary32 inputs leave rounding errors of that size.
const LEAST_VARIANCE: f64 = 1e-9;

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
    /// The positions of each sample that are looked at: at most `most` of the `all` that there are, drawn by `seed`.
    fn chosen(samples: usize, all: usize, most: usize, seed: u64) -> Vec<Vec<usize>> {
        (0..samples).map(|s| positions(all, most, mix(seed, s as u64)).collect()).collect()
    }
    /// The inputs of at most `most` positions of each sample, drawn by `seed`: `[groups][depth][positions]`, and the number of positions.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn inputs(&self, x: &Tensor, most: usize, seed: u64) -> Result<(Vec<f32>, usize)> {
        let Self::Conv(a, w) = self else { return self.outputs(x, most, seed) };
        let (data, shape) = (x.as_slice::<f32>()?, x.shape());
        let window = a.resolve(&shape[2..], &w[2..])?;
        let (images, channels, groups) = (shape[0], shape[1], a.group.max(1));
        let output: usize = window.output.iter().product();
        let area: usize = window.input.iter().product();
        let taps = taps(&window);
        let per_image = Self::chosen(images, output, most, seed);
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
    /// The outputs at the positions that [`Reads::inputs`] takes: `[rows][positions]`.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn outputs(&self, t: &Tensor, most: usize, seed: u64) -> Result<(Vec<f32>, usize)> {
        let (data, shape) = (t.as_slice::<f32>()?, t.shape());
        let samples = shape.first().copied().unwrap_or(1);
        let (channel, rank) = match self {
            Self::Conv(..) => (1, 2),
            Self::Rows => (shape.len() - 1, 1),
        };
        if shape.len() < rank {
            return Err(Error::internal(format!("outputs of shape {shape:?}")));
        }
        let rows = shape[channel];
        let each = data.len() / (samples * rows).max(1);
        let per_sample = Self::chosen(samples, each, most, seed);
        // From one position to the next, and from one channel to the next.
        let (step, apart) = if channel == 1 && rank == 2 { (1, each) } else { (rows, 1) };
        let all = (0..rows).flat_map(|r| {
            let of = move |s: usize, p: usize| data[s * rows * each + r * apart + p * step];
            per_sample.iter().enumerate().flat_map(move |(s, chosen)| chosen.iter().map(move |&p| of(s, p)))
        });
        Ok((all.collect(), per_sample.iter().map(Vec::len).sum()))
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
        /// Shapes of inputs and weights, groups, strides, dilations, pads.
        type Case = ([usize; 4], [usize; 4], usize, [usize; 2], [usize; 2], [i64; 4]);
        let cases: [Case; 4] = [
            ([2, 3, 5, 6], [4, 3, 3, 2], 1, [1, 2], [1, 1], [1, 0, 1, 1]),
            ([1, 4, 7, 7], [4, 1, 3, 3], 4, [2, 2], [1, 1], [1, 1, 1, 1]),
            ([2, 4, 6, 5], [6, 2, 2, 2], 2, [1, 1], [2, 1], [0, 0, 0, 0]),
            ([3, 2, 4, 4], [5, 2, 1, 1], 1, [1, 1], [1, 1], [0, 0, 0, 0]),
        ];
        for (x, w, group, strides, dilations, pads) in cases {
            let attrs = ConvAttrs {
                group,
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                pads: pads.to_vec(),
                ..ConvAttrs::default()
            };
            let input = Tensor::of(&x, numbers(x.iter().product(), 1));
            let weights = Tensor::of(&w, numbers(w.iter().product(), 2));
            let ctx = float::Ctx::new();
            let want = float::eval(&Op::Conv(attrs.clone()), &[Some(&input), Some(&weights)], 1, &ctx).unwrap();
            let (want, shape) = (want[0].to_f32s(), want[0].shape().to_vec());
            let plane: usize = shape[2..].iter().product();
            let reads = Reads::Conv(&attrs, &w);
            let (groups, depth) = reads.sizes(&w, 0);
            let (columns, count) = reads.inputs(&input, usize::MAX, 0).unwrap();
            assert_eq!(count, x[0] * plane);
            let (rows, per_group) = (weights.to_f32s(), w[0] / groups);
            let (outputs, _) = reads.outputs(&Tensor::of(&shape, want.clone()), usize::MAX, 0).unwrap();
            for c in 0..w[0] {
                for p in 0..count {
                    let g = c / per_group;
                    let sum: f32 = (0..depth).map(|i| rows[c * depth + i] * columns[(g * depth + i) * count + p]).sum();
                    let at = (p / plane * w[0] + c) * plane + p % plane;
                    assert!((sum - want[at]).abs() < 1e-4, "channel {c}, position {p}: {sum}, {}", want[at]);
                    assert_eq!(outputs[c * count + p].to_bits(), want[at].to_bits());
                }
            }
            // Some positions of each image, different ones for other draws.
            let some = reads.inputs(&input, 3, 9).unwrap();
            assert_eq!((some.1, some.0.len()), (3 * x[0], 3 * x[0] * groups * depth));
        }
    }

    /// Moments of inputs `y` and of the outputs of `w` on `x`.
    fn known(w: &[f32], x: &[f32], y: &[f32], depth: usize, centred: bool, damping: f64) -> Known {
        let (rows, positions) = (w.len() / depth, x.len() / depth);
        let t: Vec<f32> = (0..rows * positions)
            .map(|i| (0..depth).map(|j| w[i / positions * depth + j] * x[j * positions + i % positions]).sum())
            .collect();
        let mut moments = Moments::new(1, depth, rows);
        // In two parts: sums do not depend on how they came.
        let cut = |v: &[f32], from: usize, to: usize| -> Vec<f32> {
            v.chunks_exact(positions).flat_map(|line| line[from..to].to_vec()).collect()
        };
        for (from, to) in [(0, positions / 2), (positions / 2, positions)] {
            moments.add(&cut(y, from, to), &cut(&t, from, to), to - from).unwrap();
        }
        assert_eq!(moments.count(), positions as u64);
        moments.finish(centred, damping).unwrap()
    }

    #[test]
    fn weights_and_biases_make_up_for_their_inputs() {
        for depth in [3, 40] {
            let positions = 500;
            let x = numbers(depth * positions, 3);
            let w = numbers(30 * depth, 4);
            // The same inputs: nothing to make up for.
            let same = known(&w, &x, &x, depth, false, 0.01).compensated(&w);
            assert!(same.iter().zip(&w).all(|(a, b)| (a - b).abs() < 1e-4));
            // Half of them and 0.1: twice the weights, and a bias for what is always the same.
            let y: Vec<f32> = x.iter().map(|x| 0.5 * x + 0.1).collect();
            let k = known(&w, &x, &y, depth, true, 0.0);
            let v = k.compensated(&w);
            assert!(v.iter().zip(&w).all(|(v, w)| (v - 2.0 * w).abs() < 1e-3), "{v:?} {w:?}");
            let bias = k.bias(&v).unwrap();
            for (row, b) in w.chunks(depth).zip(bias) {
                let want = -0.2 * f64::from(row.iter().sum::<f32>());
                assert!((b - want).abs() < 1e-3, "{b}, {want}");
            }
            assert!(known(&w, &x, &y, depth, false, 0.0).bias(&v).is_none());
        }
        assert!(Moments::new(1, 2, 1).finish(false, 0.01).is_err());
    }

    #[test]
    fn moments_beyond_binary32_are_an_error() {
        for (large, times) in [(f32::INFINITY, 1), (1e25, 3)] {
            let mut moments = Moments::new(1, 2, 1);
            for _ in 0..times {
                moments.add(&[large, 0.5, 1.0, 2.0], &[1.0, 1.0], 2).unwrap();
            }
            let error = moments.finish(false, 0.01).err().expect("an error").to_string();
            assert!(error.contains("not finite"), "{error}");
        }
    }

    #[test]
    fn inputs_that_hardly_vary_leave_weights_as_they_are() {
        // Variances of a ten-millionth of the squares, below what sums in binary32 tell.
        let (depth, positions) = (300, 4096);
        let x: Vec<f32> = numbers(depth * positions, 5).iter().map(|v| 100.0 + 0.03 * v).collect();
        let w = numbers(8 * depth, 6);
        let v = known(&w, &x, &x, depth, true, 0.01).compensated(&w);
        assert!(v.iter().zip(&w).all(|(v, w)| (v - w).abs() < 0.5 * w.abs() + 0.05), "{v:?}");
    }
}
