//! Pooling.
use super::{
    Ctx, Inputs, args,
    product::{Real, by_type},
};
use crate::ir::op::{PoolAttrs, Window};
use crate::{
    error::{Error, Result},
    ir::{DType, Element, Tensor, count},
};
use rayon::prelude::*;
use std::ops::Range;

/// A pooling window over a tensor `[N, C, spatial..]`.
struct Pool {
    window: Window,
    /// Elements of an input and of an output plane.
    area: usize,
    positions: usize,
    shape: Vec<usize>,
}

impl Pool {
    fn new(w: &PoolAttrs, x: &[usize]) -> Result<Self> {
        if x.len() < 3 {
            return Err(Error::shape(format!("pooling of {x:?}: expected batch, channels and spatial axes")));
        }
        let window = w.resolve(&x[2..])?;
        let shape: Vec<usize> = x[..2].iter().chain(&window.output).copied().collect();
        args::room(&shape)?;
        Ok(Self { area: count(&window.input)?, positions: count(&window.output)?, window, shape })
    }
    /// For each output position of a plane: calls `f` with its index and, for each axis, the taps that fall into the input.
    fn each(&self, mut f: impl FnMut(usize, &[Taps])) {
        let w = &self.window;
        let axes: Vec<Vec<Taps>> =
            (0..w.output.len()).map(|a| (0..w.output[a]).map(|o| Taps::new(w, a, o)).collect()).collect();
        let mut now = vec![Taps::default(); axes.len()];
        for flat in 0..self.positions {
            let mut rest = flat;
            for a in (0..axes.len()).rev() {
                now[a] = axes[a][rest % w.output[a]];
                rest /= w.output[a];
            }
            f(flat, &now);
        }
    }
    /// Runs `f` on each input and output plane.
    fn planes<T: Element, U: Send>(&self, x: &[T], y: &mut [U], f: impl Fn(&[T], &mut [U]) + Sync) {
        if y.is_empty() {
            return;
        }
        let work = (1 << 14) / (self.positions * self.window.kernel.iter().product::<usize>()).max(1) + 1;
        y.par_chunks_mut(self.positions)
            .enumerate()
            .with_min_len(work)
            .for_each(|(i, y)| f(&x[i * self.area..][..self.area], y));
    }
    /// The plain 2-D case that the fast paths take: no dilation.
    fn flat(&self) -> Option<Flat> {
        let w = &self.window;
        if w.input.len() > 2 || w.dilations.iter().any(|&d| d != 1) {
            return None;
        }
        let rows = match w.output[..] {
            [rows, _] => (0..rows).map(|o| Taps::new(w, 0, o).range()).collect(),
            _ => std::iter::once(0..1).collect(),
        };
        let a = w.input.len() - 1;
        let (width, begin) = (w.input[a], w.begin[a]);
        Some(Flat { rows, out: w.output[a], width, begin, kernel: w.kernel[a], stride: w.strides[a] })
    }
}

/// The taps of one output index along one axis that fall into the input.
#[derive(Clone, Copy, Default)]
pub(super) struct Taps {
    pub first: usize,
    pub step: usize,
    pub n: usize,
    /// Positions of the window inside input and padding (what `count_include_pad` counts).
    pub padded: usize,
}

impl Taps {
    pub fn new(w: &Window, axis: usize, o: usize) -> Self {
        let (d, size) = (w.dilations[axis] as i64, w.input[axis] as i64);
        let start = (o * w.strides[axis]) as i64 - w.begin[axis];
        let fits = |limit: i64| (limit - start + d - 1).div_euclid(d).clamp(0, w.kernel[axis] as i64);
        let skipped = if start < 0 { (-start + d - 1) / d } else { 0 };
        let n = (fits(size) - skipped).max(0);
        Self {
            first: (start + skipped * d).max(0) as usize,
            step: d as usize,
            n: n as usize,
            padded: fits(size + w.end[axis]) as usize,
        }
    }
    fn range(self) -> Range<usize> {
        self.first..self.first + self.n
    }
}

/// A window over lines without dilation.
struct Flat {
    /// The input rows that each output row covers.
    rows: Vec<Range<usize>>,
    /// Output columns.
    out: usize,
    width: usize,
    begin: i64,
    kernel: usize,
    stride: usize,
}

impl Flat {
    /// Folds a plane: first the rows of a window into one padded line, elementwise, then the taps of that line. `empty` is
    /// what `join` ignores.
    fn fold<T: Copy>(&self, x: &[T], y: &mut [T], empty: T, join: impl Fn(T, T) -> T) {
        pulp::Arch::new().dispatch(Fold { flat: self, x, y, empty, join });
    }
}

struct Fold<'a, T, F> {
    flat: &'a Flat,
    x: &'a [T],
    y: &'a mut [T],
    empty: T,
    join: F,
}

impl<T: Copy, F: Fn(T, T) -> T> pulp::WithSimd for Fold<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Flat { rows, out, width, begin, kernel, stride } = self.flat;
        let (width, stride) = (*width, *stride);
        // The padded line, and for strides beyond 1 its elements by remainder, so that neighbours are read together.
        let each = out + kernel / stride;
        let mut line = vec![self.empty; each * stride];
        let mut phases = vec![self.empty; if stride > 1 { line.len() } else { 0 }];
        let crop = usize::try_from(-begin).unwrap_or(0).min(width);
        let lead = usize::try_from(*begin).unwrap_or(0).min(line.len());
        let n = (width - crop).min(line.len() - lead);
        for (rows, y) in rows.iter().zip(self.y.chunks_exact_mut(*out)) {
            let inner = &mut line[lead..lead + n];
            inner.fill(self.empty);
            for r in rows.clone() {
                for (a, &b) in inner.iter_mut().zip(&self.x[r * width + crop..][..n]) {
                    *a = (self.join)(*a, b);
                }
            }
            if stride == 2 {
                let (even, odd) = phases.split_at_mut(each);
                for ((e, o), &[a, b]) in even.iter_mut().zip(odd).zip(line.as_chunks::<2>().0) {
                    (*e, *o) = (a, b);
                }
            } else if stride > 2 {
                for (p, phase) in phases.chunks_exact_mut(each).enumerate() {
                    phase.iter_mut().zip(line[p..].iter().step_by(stride)).for_each(|(to, &from)| *to = from);
                }
            }
            let from = if stride > 1 { &phases } else { &line };
            y.fill(self.empty);
            for k in 0..*kernel {
                for (y, &x) in y.iter_mut().zip(&from[k % stride * each + k / stride..]) {
                    *y = (self.join)(*y, x);
                }
            }
        }
    }
}

/// Flat indices into a plane that a window covers, in row-major order.
fn visit(taps: &[Taps], sizes: &[usize], mut f: impl FnMut(usize)) {
    fn go(taps: &[Taps], sizes: &[usize], base: usize, f: &mut impl FnMut(usize)) {
        let Some((t, rest)) = taps.split_first() else { return f(base) };
        for i in 0..t.n {
            go(rest, &sizes[1..], base * sizes[0] + t.first + i * t.step, f);
        }
    }
    go(taps, sizes, 0, &mut f);
}

/// Types MaxPool takes. `join` keeps the first of equals and lets NaN win, as maxima of IEEE 754-2019 do.
trait Max: Element + PartialOrd {
    const LOWEST: Self;
    fn take(ctx: &Ctx, n: usize) -> Vec<Self>;
    /// `b` replaces `a`.
    fn beats(b: Self, a: Self) -> bool;
}

macro_rules! max_types {
    ($($t:ty: $low:expr, $take:expr, $beats:expr;)*) => {$(
        impl Max for $t {
            const LOWEST: Self = $low;
            fn take(ctx: &Ctx, n: usize) -> Vec<Self> {
                let take: fn(&Ctx, usize) -> Vec<Self> = $take;
                take(ctx, n)
            }
            #[inline(always)]
            fn beats(b: Self, a: Self) -> bool {
                let beats: fn(Self, Self) -> bool = $beats;
                beats(b, a)
            }
        }
    )*};
}
max_types! {
    f32: f32::NEG_INFINITY, |ctx, n| ctx.take(n), |b, a| b > a || b.is_nan();
    f64: f64::NEG_INFINITY, |_, n| vec![0.0; n], |b, a| b > a || b.is_nan();
    i8: i8::MIN, |_, n| vec![0; n], |b, a| b > a;
    u8: u8::MIN, |_, n| vec![0; n], |b, a| b > a;
}

pub(super) fn max(w: &PoolAttrs, column_major: bool, x: &Inputs, outputs: usize, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let t = args::need(x, 0, "X")?;
    match t.dtype() {
        DType::F32 => max_of::<f32>(w, column_major, t, outputs, ctx),
        DType::F64 => max_of::<f64>(w, column_major, t, outputs, ctx),
        DType::I8 => max_of::<i8>(w, column_major, t, outputs, ctx),
        DType::U8 => max_of::<u8>(w, column_major, t, outputs, ctx),
        half @ (DType::F16 | DType::BF16) => {
            let wide = Tensor::of::<f32>(t.shape(), t.to_f32s());
            let mut y = max_of::<f32>(w, column_major, &wide, outputs, ctx)?;
            let indices = y.split_off(1);
            Ok(y.into_iter().map(|y| args::narrow(y, half)).chain(indices).collect())
        }
        other => Err(Error::unsupported(format!("MaxPool of {other}"))),
    }
}

fn max_of<T: Max>(w: &PoolAttrs, column_major: bool, x: &Tensor, outputs: usize, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let pool = Pool::new(w, x.shape())?;
    let data = x.as_slice::<T>()?;
    let n = count(&pool.shape)?;
    let mut y = T::take(ctx, n);
    if outputs < 2 {
        match pool.flat() {
            Some(flat) => pool.planes(data, &mut y, |x, y| {
                let join = |a, b| if T::beats(b, a) { b } else { a };
                flat.fold(x, y, T::LOWEST, join);
            }),
            None => pool.planes(data, &mut y, |x, y| {
                pool.each(|i, taps| {
                    y[i] = T::LOWEST;
                    visit(taps, &pool.window.input, |at| {
                        if T::beats(x[at], y[i]) {
                            y[i] = x[at];
                        }
                    });
                });
            }),
        }
        return Ok(vec![Tensor::new(pool.shape, T::wrap(y.into()))?]);
    }
    let mut found: Vec<(T, i64)> = vec![(T::LOWEST, -1); n];
    pool.planes(data, &mut found, |x, found| {
        pool.each(|i, taps| {
            visit(taps, &pool.window.input, |at| {
                if found[i].1 < 0 || T::beats(x[at], found[i].0) {
                    found[i] = (x[at], at as i64);
                }
            });
        });
    });
    let mut indices = vec![-1i64; n];
    let sizes = &pool.window.input;
    for (i, (value, at)) in found.into_iter().enumerate() {
        y[i] = value;
        if at >= 0 {
            let at = if column_major { transposed(at as usize, sizes) } else { at as usize };
            indices[i] = (i / pool.positions * pool.area + at) as i64;
        }
    }
    let indices = Tensor::of(&pool.shape, indices);
    Ok(vec![Tensor::new(pool.shape, T::wrap(y.into()))?, indices])
}

/// The column-major index of a row-major one.
fn transposed(mut at: usize, sizes: &[usize]) -> usize {
    let mut index = 0;
    for a in (0..sizes.len()).rev() {
        index += at % sizes[a] * sizes[..a].iter().product::<usize>();
        at /= sizes[a];
    }
    index
}

pub(super) fn average(w: &PoolAttrs, include: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| average_of::<f32>(w, include, x, ctx), |x| average_of::<f64>(w, include, x, ctx))
}

fn average_of<T: Real>(w: &PoolAttrs, include: bool, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let x = args::need(x, 0, "X")?;
    let pool = Pool::new(w, x.shape())?;
    let data = x.as_slice::<T>()?;
    let mut y = T::take(ctx, count(&pool.shape)?);
    let mut divisor = vec![T::ZERO; pool.positions];
    pool.each(|i, taps| {
        let n: usize = taps.iter().map(|t| if include { t.padded } else { t.n }).product();
        divisor[i] = T::from_f32(n as f32);
    });
    let sum = |x: &[T], y: &mut [T]| {
        pool.each(|i, taps| {
            y[i] = T::ZERO;
            visit(taps, &pool.window.input, |at| y[i] = y[i] + x[at]);
        });
    };
    let flat = pool.flat();
    pool.planes(data, &mut y, |x, y| {
        match &flat {
            Some(flat) => flat.fold(x, y, T::ZERO, |a, b| a + b),
            None => sum(x, y),
        }
        for (y, &n) in y.iter_mut().zip(&divisor) {
            // A window wholly in the padding has nothing to average.
            *y = if n > T::ZERO { *y / n } else { T::ZERO };
        }
    });
    Tensor::new(pool.shape, T::wrap(y.into()))
}

pub(super) fn lp(w: &PoolAttrs, p: i64, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| lp_of::<f32>(w, p, x, ctx), |x| lp_of::<f64>(w, p, x, ctx))
}

fn lp_of<T: Real>(w: &PoolAttrs, p: i64, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let x = args::need(x, 0, "X")?;
    let norm = Norm::new(p)?;
    let pool = Pool::new(w, x.shape())?;
    let data = x.as_slice::<T>()?;
    let mut y = T::take(ctx, count(&pool.shape)?);
    pool.planes(data, &mut y, |x, y| {
        pool.each(|i, taps| {
            let mut sum = 0.0;
            visit(taps, &pool.window.input, |at| sum += norm.term(x[at].into()));
            y[i] = T::from_f64(norm.root(sum));
        });
    });
    Tensor::new(pool.shape, T::wrap(y.into()))
}

/// `(sum |x|^p)^(1/p)`, in binary64.
#[derive(Clone, Copy)]
struct Norm(i32);

impl Norm {
    fn new(p: i64) -> Result<Self> {
        i32::try_from(p).ok().filter(|&p| p > 0).map(Self).ok_or_else(|| Error::value(format!("a norm with p = {p}")))
    }
    fn term(self, x: f64) -> f64 {
        match self.0 {
            1 => x.abs(),
            2 => x * x,
            p => x.abs().powi(p),
        }
    }
    fn root(self, sum: f64) -> f64 {
        match self.0 {
            1 => sum,
            2 => sum.sqrt(),
            p => sum.powf(1.0 / f64::from(p)),
        }
    }
}

/// One number per plane: `f` of it.
fn global<T: Real>(x: &Inputs, ctx: &Ctx, f: impl Fn(&[T]) -> T + Sync) -> Result<Tensor> {
    let x = args::need(x, 0, "X")?;
    let [n, c, spatial @ ..] = x.shape() else {
        return Err(Error::shape(format!("global pooling of {:?}: expected batch and channels", x.shape())));
    };
    let area = count(spatial)?;
    let shape: Vec<usize> = [*n, *c].into_iter().chain(spatial.iter().map(|_| 1)).collect();
    let mut y = T::take(ctx, count(&shape)?);
    if area == 0 {
        return Err(Error::shape(format!("global pooling of {:?}: planes without elements", x.shape())));
    }
    let work = (1 << 14) / area + 1;
    y.par_iter_mut().zip(x.as_slice::<T>()?.par_chunks(area)).with_min_len(work).for_each(|(y, x)| *y = f(x));
    Tensor::new(shape, T::wrap(y.into()))
}

pub(super) fn global_max(x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    fn top<T: Real + Max>(x: &[T]) -> T {
        x.iter().fold(T::LOWEST, |a, &b| if T::beats(b, a) { b } else { a })
    }
    by_type(x, |x| global::<f32>(x, ctx, top), |x| global::<f64>(x, ctx, top))
}

pub(super) fn global_average(x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    by_type(x, |x| global::<f32>(x, ctx, mean), |x| global::<f64>(x, ctx, mean))
}

/// In binary64: a plane can hold many elements.
fn mean<T: Real>(x: &[T]) -> T {
    T::from_f64(x.iter().map(|&x| x.into()).sum::<f64>() / x.len() as f64)
}

pub(super) fn global_lp(p: i64, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let norm = Norm::new(p)?;
    fn of<T: Real>(x: &[T], norm: Norm) -> T {
        T::from_f64(norm.root(x.iter().map(|&x| norm.term(x.into())).sum()))
    }
    by_type(x, |x| global::<f32>(x, ctx, |x| of(x, norm)), |x| global::<f64>(x, ctx, |x| of(x, norm)))
}
