//! Convolution of images, on the kernels.
use super::{
    super::{Ctx, Inputs, args, product::ConvSizes},
    Item, put_in_rows, turned,
};
use crate::{
    error::{Error, Result},
    ir::{DType, Tensor, op::ConvAttrs},
};
use nnq_kernels::{
    float::{Epilogue, FloatIsa, PackedDepthwise, PackedProduct, Place, clamp},
    widest,
};
use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
};

/// Operators that run with a convolution: an addition, then a clamp.
#[derive(Clone, Copy)]
pub struct Tail<'a> {
    /// Channels last, of the output's shape.
    pub residual: Option<&'a Tensor>,
    pub lo: f32,
    pub hi: f32,
    pub watch: Option<Watch<'a>>,
}

/// Sees values that run with a convolution as they come into being.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Whether it wants the convolution's, the sum and the clamped.
    pub wants: [bool; 3],
    /// Called with the number of the value, the sample and elements of it, one sample after another.
    pub see: &'a See<'a>,
}

/// See [`Watch::see`].
type See<'a> = dyn Fn(usize, usize, &[f32]) -> Result<()> + Sync + 'a;

impl Tail<'_> {
    /// Nothing.
    pub const NONE: Self = Self { residual: None, lo: f32::NEG_INFINITY, hi: f32::INFINITY, watch: None };
}

/// What remains to be done with finished pixels.
struct Rest<'a> {
    watch: Watch<'a>,
    residual: Option<&'a [f32]>,
    clamp: Option<[f32; 2]>,
    /// Elements of a sample.
    each: usize,
    failed: Mutex<Option<Error>>,
}

impl Rest<'_> {
    fn see(&self, value: usize, start: usize, run: &[f32]) -> Result<()> {
        if !self.watch.wants[value] {
            return Ok(());
        }
        let mut at = 0;
        while at < run.len() {
            let sample = (start + at) / self.each;
            let end = run.len().min((sample + 1) * self.each - start);
            (self.watch.see)(value, sample, &run[at..end])?;
            at = end;
        }
        Ok(())
    }
    fn run(&self, start: usize, run: &mut [f32]) -> Result<()> {
        self.see(0, start, run)?;
        let add = self.residual.map(|r| &r[start..start + run.len()]);
        let [lo, hi] = self.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        if let (Some(add), Some(_), false) = (add, self.clamp, self.watch.wants[1]) {
            widest(
                #[inline(always)]
                || run.iter_mut().zip(add).for_each(|(x, add)| *x = clamp(*x + add, lo, hi)),
            );
            return self.see(2, start, run);
        }
        if let Some(add) = add {
            widest(
                #[inline(always)]
                || run.iter_mut().zip(add).for_each(|(x, add)| *x += add),
            );
        }
        self.see(1, start, run)?;
        if self.clamp.is_some() {
            widest(
                #[inline(always)]
                || run.iter_mut().for_each(|x| *x = clamp(*x, lo, hi)),
            );
        }
        self.see(2, start, run)
    }
}

/// Inputs with at most this many channels are padded, so that the columns of a window are one run.
const FEW_CHANNELS: usize = 16;

fn sizes(a: &ConvAttrs, x: &[Option<Item<'_>>]) -> Result<ConvSizes> {
    let get = |i: usize| x.get(i).and_then(Option::as_ref);
    match (get(0), get(1)) {
        (Some(x), Some(w)) => ConvSizes::new(a, &x.shape(), &w.shape(), get(2).map(|b| b.tensor.shape())),
        _ => Err(Error::shape("a convolution without input or weights")),
    }
}

/// Images of binary32 in one group, or with a group for each channel and output.
pub fn supports(a: &ConvAttrs, x: &[Option<Item<'_>>]) -> bool {
    let real = |i: &Item<'_>| i.tensor.dtype() == DType::F32 && !i.tensor.is_empty();
    let four = x.iter().take(2).flatten().all(|i| i.tensor.shape().len() == 4);
    four && x.iter().flatten().all(real)
        && sizes(a, x).is_ok_and(|s| {
            let depthwise = s.group == s.channels && s.out == s.channels;
            s.images * s.out * s.positions > 0 && (s.group == 1 || depthwise)
        })
}

/// The shape of the output, channels last, and of residuals.
pub fn shape(a: &ConvAttrs, x: &[Option<Item<'_>>]) -> Option<Vec<usize>> {
    let s = sizes(a, x).ok()?;
    Some(vec![s.images, s.window.output[0], s.window.output[1], s.out])
}

/// From rows to rows; `None` for what is not supported.
///
/// # Errors
/// As [`run`].
pub fn rows(a: &ConvAttrs, x: &Inputs, ctx: &Ctx) -> Result<Option<Tensor>> {
    let items: Vec<Option<Item<'_>>> = x.iter().map(|t| t.map(|tensor| Item { tensor, last: false })).collect();
    if !supports(a, &items) {
        return Ok(None);
    }
    put_in_rows(run(a, &items, &Tail::NONE, ctx)?, ctx).map(Some)
}

/// Channels last, whatever the input.
///
/// # Errors
/// Sizes that do not fit or cannot be held.
pub fn run(a: &ConvAttrs, x: &[Option<Item<'_>>], tail: &Tail<'_>, ctx: &Ctx) -> Result<Tensor> {
    let s = sizes(a, x)?;
    let item = |i: usize| x.get(i).and_then(Option::as_ref);
    let (Some(data), Some(weight)) = (item(0), item(1)) else { return Err(Error::internal("inputs are gone")) };
    let two = |v: &[usize]| [v[0], v[1]];
    let w = &s.window;
    let mut place = Place {
        images: s.images,
        input: two(&w.input),
        channels: s.channels,
        output: two(&w.output),
        out_channels: s.out,
        kernel: two(&w.kernel),
        stride: two(&w.strides),
        dilation: two(&w.dilations),
        begin: [w.begin[0], w.begin[1]],
    };
    let mut input = turned(data, ctx)?;
    if s.group == 1 && s.channels <= FEW_CHANNELS && place.kernel[1] > 1 {
        input = padded(&mut place, input, ctx)?;
    }
    let shape = vec![s.images, place.output[0], place.output[1], s.out];
    let mut out = ctx.take(args::room(&shape)?);
    let bias = item(2).map(|b| b.tensor.as_slice::<f32>()).transpose()?;
    let residual = tail.residual.map(Tensor::as_slice::<f32>).transpose()?;
    let mut epilogue = Epilogue { bias, residual, lo: tail.lo, hi: tail.hi, done: None };
    // The kernel does all up to the first value that is wanted.
    let rest = tail.watch.map(|watch| {
        let wants = watch.wants;
        let mut rest =
            Rest { watch, residual: None, clamp: None, each: out.len() / s.images, failed: Mutex::default() };
        if wants[0] {
            rest.residual = epilogue.residual.take();
        }
        if wants[0] || wants[1] {
            rest.clamp = Some([tail.lo, tail.hi]);
            (epilogue.lo, epilogue.hi) = (f32::NEG_INFINITY, f32::INFINITY);
        }
        rest
    });
    let done = |start: usize, run: &mut [f32]| {
        if let Some(rest) = &rest
            && let Err(e) = rest.run(start, run)
        {
            rest.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
    };
    if rest.is_some() {
        epilogue.done = Some(&done);
    }
    let (data, weight, taps) = (input.as_slice::<f32>()?, weight.tensor.as_slice::<f32>()?, place.taps());
    let tasks = ctx.tasks(place.output_len() * taps * s.channels / s.group);
    let (isa, channels) = (FloatIsa::best(), s.channels);
    if s.group == 1 {
        let strides = [channels * taps, 1, taps];
        let packed = ctx.keep(1, || PackedProduct::pack(isa, weight, [s.out, taps, channels], strides));
        packed.run(&place, data, &epilogue, &mut out, tasks, &super::super::ctx::each);
    } else {
        let packed = ctx.keep(1, || PackedDepthwise::pack(isa, weight, channels, taps));
        packed.run(&place, data, &epilogue, &mut out, tasks, &super::super::ctx::each);
    }
    if let Cow::Owned(input) = input {
        ctx.recycle(input);
    }
    match rest.as_ref().and_then(|rest| rest.failed.lock().unwrap_or_else(PoisonError::into_inner).take()) {
        Some(e) => Err(e),
        None => Tensor::new(shape, crate::ir::Data::F32(out.into())),
    }
}

/// With the zeros around it that windows reach, none beyond.
fn padded<'a>(place: &mut Place, x: Cow<'a, Tensor>, ctx: &Ctx) -> Result<Cow<'a, Tensor>> {
    let reach = |a: usize| (place.output[a] - 1) * place.stride[a] + (place.kernel[a] - 1) * place.dilation[a] + 1;
    let size = [reach(0), reach(1)];
    if place.begin == [0; 2] && size[0] <= place.input[0] && size[1] <= place.input[1] {
        return Ok(x);
    }
    let shape = vec![place.images, size[0], size[1], place.channels];
    let mut to = ctx.take(args::room(&shape)?);
    let (from, c) = (x.as_slice::<f32>()?, place.channels);
    let [height, width] = place.input;
    // The columns of a line that come from the input, and where from.
    let lead = usize::try_from(place.begin[1]).unwrap_or(0).min(size[1]);
    let skip = usize::try_from(-place.begin[1]).unwrap_or(0).min(width);
    let n = (width - skip).min(size[1] - lead);
    for (i, line) in to.chunks_exact_mut(size[1] * c).enumerate() {
        let (image, y) = (i / size[0], (i % size[0]) as i64 - place.begin[0]);
        match usize::try_from(y).ok().filter(|&y| y < height) {
            Some(y) => {
                let at = ((image * height + y) * width + skip) * c;
                line[..lead * c].fill(0.0);
                line[lead * c..(lead + n) * c].copy_from_slice(&from[at..at + n * c]);
                line[(lead + n) * c..].fill(0.0);
            }
            None => line.fill(0.0),
        }
    }
    if let Cow::Owned(x) = x {
        ctx.recycle(x);
    }
    (place.input, place.begin) = (size, [0; 2]);
    Ok(Cow::Owned(Tensor::new(shape, crate::ir::Data::F32(to.into()))?))
}
