//! Weights, biases, multipliers and the overflow proof of one integer product.
use super::{Clamp, Form, Grid, Product, ProductOut, Profile, Requant, dyadic};
use crate::{
    error::{Error, Result},
    ir::{Data, Granularity, Graph, Node, Op, QParams, QType, Tensor, ValueId},
};
use nnq_kernels::widest;
use rayon::prelude::*;
use std::sync::Arc;

/// The weights of a product that integers can compute: codes, one scale per tensor or output channel.
struct Weights {
    form: Form,
    value: ValueId,
    codes: Arc<Tensor>,
    qtype: QType,
    /// The axis of the output channels.
    axis: usize,
    /// Per output channel.
    scale: Vec<f32>,
    zero: Vec<i32>,
    bias: Option<ValueId>,
}

impl Weights {
    fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let value = node.input(1)?;
        let (codes, params) = codes(graph, value)?;
        let rank = codes.shape().len();
        let input_rank = node.input(0).and_then(|x| graph.value(x).shape.as_ref().map(crate::ir::Shape::rank));
        let (form, axis, bias) = match &node.op {
            Op::Conv(a) if rank == 3 || rank == 4 => (Form::Conv(a.clone()), 0, node.input(2)),
            Op::Gemm { alpha, beta, trans_a: false, trans_b }
                if rank == 2 && *alpha == 1.0 && (*beta == 1.0 || node.input(2).is_none()) =>
            {
                (Form::Matrix { transposed: *trans_b }, usize::from(!*trans_b), node.input(2))
            }
            Op::MatMul if rank == 2 && input_rank.is_some_and(|r| r >= 2) => {
                (Form::Matrix { transposed: false }, 1, None)
            }
            _ => return None,
        };
        let channels = codes.shape()[axis];
        let (scale, zero) = match params.granularity {
            Granularity::Tensor => (vec![params.scale[0]; channels], vec![params.zero_point[0]; channels]),
            Granularity::Channel { axis: a } if a == axis => (params.scale.clone(), params.zero_point.clone()),
            _ => return None,
        };
        Some(Self { form, value, codes, qtype: params.qtype, axis, scale, zero, bias })
    }

    /// The sum of `|code - zero point|` of each output channel.
    fn distances(&self) -> Result<Vec<i64>> {
        let inner: usize = self.codes.shape()[self.axis + 1..].iter().product();
        Ok(match self.codes.data() {
            Data::I8(codes) => distances(codes, inner, &self.zero),
            Data::U8(codes) => distances(codes, inner, &self.zero),
            _ => return Err(Error::internal("weight codes that are no bytes")),
        })
    }
}

/// For each node whose weights integers can compute with, the sum of `|code - zero point|` of each output channel: the part of the
/// overflow proof that reads every weight, on all threads.
pub(super) fn reaches(graph: &Graph) -> Result<Vec<Option<Vec<i64>>>> {
    let nodes: Vec<&Node> = graph.nodes().map(|(_, node)| node).collect();
    let of = |node: &&Node| Weights::of(graph, node).map(|w| w.distances()).transpose();
    nodes.par_iter().with_max_len(1).map(of).collect()
}

/// The product of `node`, whose entry of [`reaches`] is `reach`, with its input on the grid `from`, and with the bias `behind` where it has none of its own; `None` when the weights are not held as codes, one scale per tensor or
/// output channel, so that the node has to run in floating point.
///
/// # Errors
/// When an accumulator or a bias could overflow, or a factor has no dyadic form.
pub(super) fn build(
    graph: &Graph,
    node: &Node,
    (reach, behind): (Option<&[i64]>, Option<&[f32]>),
    from: Grid,
    to: Option<(Grid, Clamp)>,
    profile: Profile,
) -> Result<Option<Product>> {
    let (Some(w), Some(reach)) = (Weights::of(graph, node), reach) else { return Ok(None) };
    let Weights { form, value, codes: weight, qtype, scale, zero, bias, .. } = w;
    let bias = match behind {
        Some(real) => Some(codes_of(graph.value(value).name.as_str(), from.scale, &scale, |i| real[i].into())?),
        None => biases(graph, bias, from.scale, &scale)?,
    };
    let Some(bias) = bias else { return Ok(None) };
    let most = i64::from((from.qtype.max() - from.zero).max(from.zero - from.qtype.min()));
    let bound = prove(graph, value, reach, &bias, most)?;
    let out = match to {
        None => ProductOut::Real { scale: scale.iter().map(|sw| from.scale * sw).collect() },
        Some((grid, clamp)) => ProductOut::Code {
            requant: match profile {
                Profile::Onnx => Requant::Onnx(scale.iter().map(|sw| (from.scale * sw) / grid.scale).collect()),
                Profile::Dyadic => {
                    let of = |sw: &f32| dyadic(f64::from(from.scale) * f64::from(*sw) / f64::from(grid.scale));
                    let all = scale.iter().map(of).collect::<Result<Vec<_>>>()?;
                    Requant::Dyadic {
                        mult: all.iter().map(|by| by.mult).collect(),
                        shift: all.iter().map(|by| by.shift).collect(),
                    }
                }
            },
            clamp,
        },
    };
    Ok(Some(Product {
        form,
        weight,
        weight_qtype: qtype,
        weight_zero: zero.iter().any(|&z| z != 0).then_some(zero),
        bias: bias.into(),
        bound,
        out,
    }))
}

/// The product of `node`, whose entry of [`reaches`] is `reach`, with an input that is quantized as it comes; `None` as [`build`], and when the
/// bias is no constant vector over the channels.
///
/// # Errors
/// When an accumulator could overflow.
pub(super) fn dynamic(graph: &Graph, node: &Node, reach: Option<&[i64]>) -> Result<Option<Product>> {
    let (Some(w), Some(reach)) = (Weights::of(graph, node), reach) else { return Ok(None) };
    let Weights { form, value, codes: weight, qtype, scale, zero, bias, .. } = w;
    let channels = scale.len();
    let bias = match bias {
        // Nothing is added: -0 changes no number.
        None => vec![-0.0; channels],
        Some(v) => {
            let Some(t) = graph.constant(v).filter(|t| is_vector(t, channels)) else { return Ok(None) };
            let real = if graph.value(v).quant.is_some() { graph.real_constant(v)? } else { t.clone() }.to_f32s();
            (0..channels).map(|c| real[if real.len() == 1 { 0 } else { c }]).collect()
        }
    };
    let parts = Live { form, weight, qtype, scale, zero, bias };
    live(graph, value, reach, parts).map(Some)
}

/// What a product of inputs that are quantized as they come is made of.
pub(super) struct Live {
    pub form: Form,
    pub weight: Arc<Tensor>,
    pub qtype: QType,
    /// Per output channel, as all that follows.
    pub scale: Vec<f32>,
    pub zero: Vec<i32>,
    pub bias: Vec<f32>,
}

/// The product of [`Live`], whose weights, those of `value`, reach as far as `reach` says.
///
/// # Errors
/// When an accumulator could overflow.
pub(super) fn live(graph: &Graph, value: ValueId, reach: &[i64], of: Live) -> Result<Product> {
    let Live { form, weight, qtype, scale, zero, bias } = of;
    let none = vec![0; scale.len()];
    // A grid that is found later may have its zero point at either end.
    let bound = prove(graph, value, reach, &none, i64::from(u8::MAX))?;
    Ok(Product {
        form,
        weight,
        weight_qtype: qtype,
        weight_zero: zero.iter().any(|&z| z != 0).then_some(zero),
        bias: none.into(),
        bound,
        out: ProductOut::Dynamic { scale: scale.into(), bias: bias.into() },
    })
}

/// One number, or one for each of `channels` along the last axis.
pub(super) fn is_vector(t: &Tensor, channels: usize) -> bool {
    (t.len() == channels || t.len() == 1) && t.shape().iter().rev().skip(1).all(|&d| d == 1)
}

/// The codes of an annotated constant; real numbers still to be rounded are none.
pub(super) fn codes(graph: &Graph, v: ValueId) -> Option<(Arc<Tensor>, Arc<QParams>)> {
    let value = graph.value(v);
    let (t, q) = (value.constant.clone()?, value.quant.clone()?);
    (t.dtype().is_int() && q.qtype.bits <= 8).then_some((t, q))
}

/// Bias codes at scale `sx * sw`. `None` when the bias is no constant or no vector over the channels.
fn biases(graph: &Graph, bias: Option<ValueId>, sx: f32, sw: &[f32]) -> Result<Option<Vec<i32>>> {
    let Some(v) = bias else { return Ok(Some(vec![0; sw.len()])) };
    let value = graph.value(v);
    let Some(t) = &value.constant else { return Ok(None) };
    let n = t.len();
    if !is_vector(t, sw.len()) {
        return Ok(None);
    }
    let at = |i: usize| if n == 1 { 0 } else { i };
    let overflow = |i: usize, x: f64| overflow(&value.name, i, x, sx * sw[i]);
    if let Some(q) = value.quant.as_ref().filter(|_| t.dtype().is_int()) {
        let codes = t.to_i64s()?;
        let scale = |i: usize| if q.scale.len() == 1 { q.scale[0] } else { q.scale[at(i)] };
        let zero = |i: usize| if q.zero_point.len() == 1 { q.zero_point[0] } else { q.zero_point[at(i)] };
        // Codes at this scale (to the rounding of whoever multiplied) are taken as they are, as every ONNX engine does; at any
        // other scale they are real numbers like all others.
        let same = (0..sw.len()).all(|i| (scale(i) / (sx * sw[i]) - 1.0).abs() < 1e-5 && zero(i) == 0);
        return (0..sw.len())
            .map(|i| {
                let code = codes[at(i)] - i64::from(zero(i));
                #[allow(clippy::cast_precision_loss)]
                let real = code as f64 * f64::from(scale(i));
                if same {
                    i32::try_from(code).map_err(|_| overflow(i, real))
                } else {
                    bias_code(real, sx, sw[i]).ok_or_else(|| overflow(i, real))
                }
            })
            .collect::<Result<_>>()
            .map(Some);
    }
    let real = t.to_f32s();
    codes_of(&value.name, sx, sw, |i| f64::from(real[at(i)])).map(Some)
}

/// The codes of real biases.
fn codes_of(name: &str, sx: f32, sw: &[f32], real: impl Fn(usize) -> f64) -> Result<Vec<i32>> {
    let code = |i: usize| bias_code(real(i), sx, sw[i]).ok_or_else(|| overflow(name, i, real(i), sx * sw[i]));
    (0..sw.len()).map(code).collect()
}

fn overflow(name: &str, i: usize, x: f64, scale: f32) -> Error {
    Error::value(format!("bias {x:e} of output channel {i} does not fit 32 bits at scale {scale:e}"))
        .at(format!("value '{name}'"))
        .cure("the weights of this channel are almost zero: quantize the model with nnq, which widens their scale")
}

/// `rne(b / (sx * sw))` in binary64 (numerics section 3); `None` when it does not fit.
pub fn bias_code(b: f64, sx: f32, sw: f32) -> Option<i32> {
    let q = nnq_kernels::round::rne_f64(b / (f64::from(sx) * f64::from(sw)));
    #[allow(clippy::cast_possible_truncation)]
    (q.abs() <= f64::from(i32::MAX)).then_some(q as i32)
}

/// The sum of `|code - zero point|` of each channel; `codes` is `[..][channels][inner]`.
pub(super) fn distances<T: bytemuck::Pod + Into<i32>>(codes: &[T], inner: usize, zero: &[i32]) -> Vec<i64> {
    // Distances of 16 bits: this many fit 32 bits. Of 8 bits: this many fit 16.
    const SAFE: usize = 1 << 14;
    const SAFE_BYTES: usize = 256;
    let channels = zero.len().max(1);
    let mut sums = vec![0i64; zero.len()];
    if inner == 1 {
        let mut some = vec![0u32; zero.len()];
        for rows in codes.chunks(channels * SAFE) {
            some.fill(0);
            widest(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact(channels) {
                        for ((sum, &code), &zero) in some.iter_mut().zip(row).zip(zero) {
                            *sum += (code.into() - zero).unsigned_abs();
                        }
                    }
                },
            );
            sums.iter_mut().zip(&some).for_each(|(sum, &some)| *sum += i64::from(some));
        }
        return sums;
    }
    for (i, run) in codes.chunks_exact(inner.max(1)).enumerate() {
        let channel = i % channels;
        let zero = zero[channel];
        let narrow = size_of::<T>() == 1 && (-128..256).contains(&zero);
        sums[channel] += widest(
            #[inline(always)]
            || {
                // Loops and no iterators: those go through functions that are compiled for the least machine.
                let mut all = 0;
                for some in run.chunks(if narrow { SAFE_BYTES } else { SAFE }) {
                    let (mut near, mut far) = (0u16, 0u32);
                    if narrow {
                        for &code in some {
                            near += ((code.into() - zero) as i16).unsigned_abs();
                        }
                    } else {
                        for &code in some {
                            far += (code.into() - zero).unsigned_abs();
                        }
                    }
                    all += i64::from(near) + i64::from(far);
                }
                all
            },
        );
    }
    sums
}

/// Proves that no accumulator overflows and answers the largest bound.
/// `most`: the largest distance of an input's code from its zero point.
fn prove(graph: &Graph, w: ValueId, reach: &[i64], bias: &[i32], most: i64) -> Result<i64> {
    let mut worst = 0;
    for (channel, (sum, b)) in reach.iter().zip(bias).enumerate() {
        let bound = sum.saturating_mul(most).saturating_add(i64::from(*b).abs());
        if bound > i64::from(i32::MAX) {
            return Err(Error::value(format!(
                "the accumulator of output channel {channel} can reach {bound}, beyond 2^31 - 1"
            ))
            .at(format!("weight '{}'", graph.value(w).name))
            .cure("keep this layer float, or use fewer bits"));
        }
        worst = worst.max(bound);
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_all_types_and_orders() {
        let plain = |codes: &[i32], inner: usize, zero: &[i32]| {
            let mut sums = vec![0i64; zero.len()];
            for (i, &code) in codes.iter().enumerate() {
                let channel = i / inner % zero.len();
                sums[channel] += i64::from((code - zero[channel]).abs());
            }
            sums
        };
        for inner in [1, 2, 255, 256, 257, 1000] {
            for zeros in [[0, 0, 0], [-128, 127, 5], [0, 30_000, -7]] {
                let bytes: Vec<i8> = (0..3 * inner * 2).map(|i| (i * 89 % 256) as u8 as i8).collect();
                let all: Vec<i32> = bytes.iter().map(|&b| b.into()).collect();
                assert_eq!(distances(&bytes, inner, &zeros), plain(&all, inner, &zeros), "{inner} {zeros:?}");
                let worst = vec![-128i8; 3 * inner];
                assert_eq!(distances(&worst, inner, &zeros), plain(&vec![-128; 3 * inner], inner, &zeros));
                let worst = vec![i16::MIN; 3 * inner];
                assert_eq!(distances(&worst, inner, &zeros), plain(&vec![-32768; 3 * inner], inner, &zeros));
            }
        }
        // More rows than are summed at once.
        assert_eq!(distances(&vec![u16::MAX; 2 * 40_000], 1, &[0, 1]), [40_000 * 65_535, 40_000 * 65_534]);
    }
}
