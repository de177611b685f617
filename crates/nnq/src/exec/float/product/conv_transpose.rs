//! Transposed convolution: each input element, times the weights, is added to the output positions under its window.
use super::tile::{Block, Left, MR, Out, Real, Strided};
use crate::exec::float::{Ctx, Inputs, args};
use crate::{
    error::{Error, Result},
    ir::{
        Tensor, count,
        op::{AutoPad, ConvTransposeAttrs},
    },
};
use rayon::prelude::*;

/// One spatial axis.
#[derive(Clone, Copy)]
struct Axis {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    /// Output elements cropped at the beginning (negative: added).
    begin: i64,
}

impl Axis {
    const ONE: Self = Self { input: 1, output: 1, kernel: 1, stride: 1, dilation: 1, begin: 0 };

    /// Input positions whose tap `tap` falls into the output, and where the first one falls.
    fn reach(self, tap: usize) -> (std::ops::Range<usize>, usize) {
        let shift = (tap * self.dilation) as i64 - self.begin;
        let s = self.stride as i64;
        let first = if shift < 0 { (-shift + s - 1) / s } else { 0 }.min(self.input as i64);
        let end = ((self.output as i64 - shift + s - 1).div_euclid(s)).clamp(0, self.input as i64);
        (first as usize..end.max(first) as usize, (first * s + shift).max(0) as usize)
    }
}

fn axes(a: &ConvTransposeAttrs, input: &[usize], kernel: &[usize]) -> Result<Vec<Axis>> {
    let n = input.len();
    let c = &a.conv;
    if !c.kernel.is_empty() && c.kernel != kernel {
        return Err(Error::shape(format!("kernel_shape {:?}, but the weight has {kernel:?}", c.kernel)));
    }
    let list = |l: &[usize], default: usize, what: &str| match l.len() {
        0 => Ok(vec![default; n]),
        m if m == n => Ok(l.to_vec()),
        m => Err(Error::shape(format!("{what} has {m} entries, expected {n}"))),
    };
    let (strides, dilations) = (list(&c.strides, 1, "strides")?, list(&c.dilations, 1, "dilations")?);
    let extra = list(&a.output_padding, 0, "output_padding")?;
    // Some exporters write the batch and channels in front.
    let shape = match a.output_shape.len() {
        m if m == n + 2 => &a.output_shape[2..],
        _ => &a.output_shape[..],
    };
    let shape = if shape.is_empty() { None } else { Some(list(shape, 0, "output_shape")?) };
    if !c.pads.is_empty() && c.pads.len() != 2 * n {
        return Err(Error::shape(format!("pads has {} entries, expected {}", c.pads.len(), 2 * n)));
    }
    (0..n)
        .map(|i| {
            let (size, k, s, d, e) = (input[i], kernel[i], strides[i], dilations[i], extra[i]);
            let pads = if c.pads.is_empty() { [0, 0] } else { [c.pads[i], c.pads[n + i]] };
            let limit = 1usize << 24;
            if [size, k, s, d, e].iter().any(|&x| x > limit) || pads.iter().any(|p| p.unsigned_abs() > limit as u64) {
                return Err(Error::shape(format!("axis {i}: sizes beyond 2^24")));
            }
            if k == 0 || s == 0 || d == 0 || size == 0 {
                return Err(Error::shape(format!("axis {i}: an input, stride, dilation or kernel size of 0")));
            }
            let full = (s * (size - 1) + e + (k - 1) * d + 1) as i64;
            let wanted = match (&shape, c.auto_pad) {
                (Some(shape), _) => Some(shape[i]),
                (None, AutoPad::SameUpper | AutoPad::SameLower) => Some(size * s),
                _ => None,
            };
            let (begin, output) = match wanted {
                Some(out) => {
                    let total = (full - i64::try_from(out).unwrap_or(i64::MAX)).max(0);
                    let small = total / 2;
                    (if c.auto_pad == AutoPad::SameUpper { small } else { total - small }, out as i64)
                }
                None if c.auto_pad == AutoPad::Valid => (0, full),
                None => (pads[0], full - pads[0] - pads[1]),
            };
            let output = usize::try_from(output).ok().filter(|&o| o > 0);
            let output =
                output.ok_or_else(|| Error::shape(format!("axis {i}: pads {pads:?} leave nothing of {full}")))?;
            Ok(Axis { input: size, output, kernel: k, stride: s, dilation: d, begin })
        })
        .collect()
}

pub(crate) fn conv_transpose(a: &ConvTransposeAttrs, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    super::by_type(x, |x| typed::<f32>(a, x, ctx), |x| typed::<f64>(a, x, ctx))
}

fn typed<T: Real>(a: &ConvTransposeAttrs, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let (data, weight, bias) = (args::need(x, 0, "X")?, args::need(x, 1, "W")?, args::optional(x, 2));
    let (xs, ws) = (data.shape(), weight.shape());
    if !(3..=5).contains(&xs.len()) || ws.len() != xs.len() {
        return Err(Error::shape(format!("{xs:?} with weights {ws:?}: ranks must be equal and 3 to 5")));
    }
    let group = a.conv.group.max(1);
    let (images, channels, per_group) = (xs[0], xs[1], ws[1]);
    if ws[0] != channels || channels % group != 0 {
        return Err(Error::shape(format!("{channels} input channels, {group} groups and weights {ws:?} do not fit")));
    }
    let out_channels = count(&[per_group, group])?;
    let bias = match bias {
        Some(b) if b.shape() != [out_channels] => {
            return Err(Error::shape(format!("bias of shape {:?}, expected [{out_channels}]", b.shape())));
        }
        b => b.map(Tensor::as_slice::<T>).transpose()?,
    };
    let found = axes(a, &xs[2..], &ws[2..])?;
    let shape: Vec<usize> = [images, out_channels].into_iter().chain(found.iter().map(|a| a.output)).collect();
    let mut out = T::take(ctx, args::room(&shape)?);
    let mut axes = [Axis::ONE; 3];
    axes[3 - found.len()..].copy_from_slice(&found);
    let job = Job { axes, per_group, channels: channels / group };
    let (x, w) = (data.as_slice::<T>()?, weight.as_slice::<T>()?);
    let positions = axes.iter().map(|a| a.output).product::<usize>();
    if out.is_empty() || x.is_empty() {
        for (i, plane) in out.chunks_mut(positions.max(1)).enumerate() {
            plane.fill(bias.map_or(T::ZERO, |b| b[i % out_channels]));
        }
        return Tensor::new(shape, T::wrap(out.into()));
    }
    let rows = per_group * job.taps();
    let lefts: Vec<Left<T>> =
        (0..group).map(|g| Left::pack(&w[g * job.channels * rows..], rows, job.channels, 1, rows)).collect();
    // Groups of MR channels, so that a task starts on a whole register tile.
    let tasks: Vec<(usize, usize, &mut [T])> = out
        .chunks_mut(per_group * positions)
        .enumerate()
        .flat_map(|(i, out)| out.chunks_mut(MR * positions).enumerate().map(move |(j, out)| (i, j * MR, out)))
        .collect();
    let area = axes.iter().map(|a| a.input).product::<usize>();
    tasks.into_par_iter().for_each_init(<(Vec<T>, Vec<T>)>::default, |scratch, (i, first, out)| {
        let g = i % group;
        let x = &x[i * job.channels * area..][..job.channels * area];
        let bias = bias.map(|b| &b[g * per_group + first..]);
        job.run(&lefts[g], x, bias, first, out, scratch);
    });
    Tensor::new(shape, T::wrap(out.into()))
}

struct Job {
    axes: [Axis; 3],
    per_group: usize,
    /// Input channels of a group.
    channels: usize,
}

impl Job {
    fn taps(&self) -> usize {
        self.axes.iter().map(|a| a.kernel).product()
    }
    /// The output channels of `out`, from `first` of the group on.
    fn run<T: Real>(
        &self,
        left: &Left<T>,
        x: &[T],
        bias: Option<&[T]>,
        first: usize,
        out: &mut [T],
        (products, scratch): &mut (Vec<T>, Vec<T>),
    ) {
        let area = x.len() / self.channels.max(1);
        let taps = self.taps();
        let positions = self.axes.iter().map(|a| a.output).product::<usize>();
        let n = MR.min(self.per_group - first);
        let rows = first * taps..(first + n) * taps;
        products.resize(rows.len() * area, T::ZERO);
        let right = Strided { data: x, row: area, col: 1 };
        let slices = products.chunks_mut(area).collect();
        let result = Out { slices, height: rows.len(), len: area };
        Block { left, rows, right: &right, cols: 0..area, bias: None, out: result, scratch }.run();
        for (c, (out, products)) in out.chunks_exact_mut(positions).zip(products.chunks_exact(taps * area)).enumerate()
        {
            out.fill(bias.map_or(T::ZERO, |b| b[c]));
            for (tap, products) in products.chunks_exact(area).enumerate() {
                self.add(tap, products, out);
            }
        }
    }
    fn add<T: Real>(&self, tap: usize, products: &[T], out: &mut [T]) {
        let [z, y, x] = self.axes;
        let (zs, z0) = z.reach(tap / (y.kernel * x.kernel));
        let (ys, y0) = y.reach(tap / x.kernel % y.kernel);
        let (xs, x0) = x.reach(tap % x.kernel);
        for (i, iz) in zs.enumerate() {
            for (j, iy) in ys.clone().enumerate() {
                let line = ((z0 + i * z.stride) * y.output + y0 + j * y.stride) * x.output;
                let from = &products[(iz * y.input + iy) * x.input..][xs.clone()];
                let Some(to) = out.get_mut(line + x0..) else { continue };
                for (to, &from) in to.iter_mut().step_by(x.stride).zip(from) {
                    *to = *to + from;
                }
            }
        }
    }
}
