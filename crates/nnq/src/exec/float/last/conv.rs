//! Convolution of images, on the kernels.
use super::{
    super::{Ctx, Inputs, args, product::ConvSizes},
    Item, put_in_rows, turned,
};
use crate::{
    error::{Error, Result},
    ir::{DType, Tensor, op::ConvAttrs},
};
use nnq_kernels::float::{Epilogue, FloatIsa, PackedDepthwise, PackedProduct, Place};
use std::borrow::Cow;

/// Operators that run with a convolution: an addition, then a clamp.
#[derive(Clone, Copy, Debug)]
pub struct Tail<'a> {
    /// Channels last, of the output's shape.
    pub residual: Option<&'a Tensor>,
    pub lo: f32,
    pub hi: f32,
}

impl Tail<'_> {
    /// Nothing.
    pub const NONE: Self = Self { residual: None, lo: f32::NEG_INFINITY, hi: f32::INFINITY };
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
    let epilogue = Epilogue { bias, residual, lo: tail.lo, hi: tail.hi };
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
    Tensor::new(shape, crate::ir::Data::F32(out.into()))
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
