//! Products: their weights and biases are rounded as they are read.
use super::{Values, ahead::Ahead, normalize, shape};
use crate::{
    backend::{self, Kernels, Var},
    conv,
    fake::{Grid, composed},
};
use burn::backend::{
    Autodiff, TensorMetadata as _,
    ops::{ConvOptions, FloatTensorOps as _},
    tensor::FloatTensor,
};
use nnq::{
    Error, Result,
    ir::{
        Node, NodeId, Op,
        op::{ConvAttrs, Window},
    },
};
use std::sync::Arc;

/// The largest code of a bias, as for the lowering.
const BIAS_LIMIT: f32 = 1_073_741_824.0;

/// What a product computes with.
struct Constants<B: Kernels> {
    weight: Var<B>,
    /// On no grid yet.
    bias: Option<Var<B>>,
    /// The scales of its accumulators, where they are known: what biases are multiples of.
    scale: Option<FloatTensor<B>>,
}

impl<B: Kernels> Constants<B> {
    fn of(values: &Values<B>, id: NodeId, node: &Node) -> Result<Self> {
        let weight = values.input(node, 1)?;
        let bias = if matches!(node.op, Op::MatMul) { None } else { values.optional(node, 2)? };
        let Some(plan) = values.forward.plan.products.get(&id) else { return Ok(Self { weight, bias, scale: None }) };
        let (weight, scale) = match values.forward.soft.and_then(|s| s.weights.get(&plan.weight)) {
            Some(soft) => (soft.clone(), values.scale(plan.weight)?.into_primitive()),
            None => values.weights(weight, plan.weight)?,
        };
        let input = plan.input.map(|input| values.scale(input)).transpose()?;
        Ok(Self { weight, bias, scale: input.map(|input| B::float_mul(input.into_primitive(), scale)) })
    }
    /// The bias as the accumulator holds it. The gradient passes as if it were not rounded; the scales learn nothing from it.
    fn bias(&self) -> Option<Var<B>> {
        let bias = self.bias.clone()?;
        let Some(scale) = &self.scale else { return Some(bias) };
        let real = bias.primitive().clone();
        let shift = B::float_sub(bias_on_grid::<B>(real.clone(), scale.clone()), real);
        Some(Autodiff::<B>::float_add(bias, backend::constant::<B>(shift)))
    }
}

/// Biases as multiples of the product of the scales of inputs and weights.
pub(super) fn bias_on_grid<B: Kernels>(real: FloatTensor<B>, scale: FloatTensor<B>) -> FloatTensor<B> {
    let groups = scale.shape().num_elements();
    let n = real.shape().num_elements();
    if groups != 1 && groups != n {
        return real;
    }
    let grid = Grid {
        limits: Arc::new([[-BIAS_LIMIT, BIAS_LIMIT]]),
        groups,
        inner: if groups == 1 { n } else { 1 },
        gain: 0.0,
        estimator: crate::fake::Estimator::Ste,
        rule: crate::fake::ScaleRule::Fixed,
    };
    composed::fake::<B>(real, scale, &grid)
}

/// A convolution before anything is added to what it answers.
struct Convolved<B: Kernels> {
    /// Ready to be multiplied: input and weights, over two axes.
    factors: [Var<B>; 2],
    constants: Constants<B>,
    options: ConvOptions<2>,
    outputs: usize,
    /// Of its input.
    rank: usize,
}

impl<B: Kernels> Convolved<B> {
    fn of(values: &Values<B>, id: NodeId, node: &Node, attrs: &ConvAttrs) -> Result<Self> {
        let x = values.input(node, 0)?;
        let constants = Constants::of(values, id, node)?;
        let [x, weight] = [x, constants.weight.clone()].map(|t| values.forward.precision.cast::<B>(t));
        let (sx, sw) = (backend::dims::<B>(&x), backend::dims::<B>(&weight));
        let rank = sx.len();
        if !matches!(rank, 3 | 4) || sw.len() != rank {
            return Err(Error::unsupported(format!("an input of shape {sx:?} and weights of shape {sw:?}"))
                .cure("convolutions over one or two axes can be trained"));
        }
        let fits =
            attrs.group > 0 && sw[1].checked_mul(attrs.group) == Some(sx[1]) && sw[0].is_multiple_of(attrs.group);
        if !fits || constants.bias.as_ref().is_some_and(|b| backend::dims::<B>(b) != [sw[0]]) {
            return Err(Error::shape(format!("input {sx:?}, weights {sw:?}, {} groups", attrs.group)));
        }
        let window = attrs.resolve(&sx[2..], &sw[2..])?;
        let options = options(&window, attrs.group)?;
        let factors = [shape::planes::<B>(x), shape::planes::<B>(weight)];
        Ok(Self { factors, constants, options, outputs: sw[0], rank })
    }
    /// The product, with this bias.
    fn run(&self, values: &Values<B>, id: NodeId, bias: Option<Var<B>>) -> Var<B> {
        let none = || {
            let zeros = backend::tensor::<B>(vec![0.0; self.outputs], &[self.outputs], values.forward.device);
            backend::constant::<B>(zeros)
        };
        let [x, weight] = self.factors.clone();
        values.product(id, conv::conv::<B>(x, weight, bias.unwrap_or_else(none), self.options.clone()))
    }
}

pub(super) fn conv<B: Kernels>(values: &mut Values<B>, id: NodeId, node: &Node, attrs: &ConvAttrs) -> Result<Var<B>> {
    let of = Convolved::of(values, id, node, attrs)?;
    if let (true, Some(bias)) = (values.forward.plan.normal.contains_key(&id), of.constants.bias.clone()) {
        let y = of.run(values, id, None);
        let y = normalize::product(values, id, y, bias, of.constants.scale)?;
        return Ok(shape::lines::<B>(y, of.rank));
    }
    Ok(shape::lines::<B>(of.run(values, id, of.constants.bias()), of.rank))
}

/// A convolution that is normalised by the batch, clipped and rounded.
pub(super) fn finished<B: Kernels>(
    values: &mut Values<B>,
    id: NodeId,
    node: &Node,
    attrs: &ConvAttrs,
    ahead: Ahead,
) -> Result<Var<B>> {
    let of = Convolved::of(values, id, node, attrs)?;
    let bias = of.constants.bias.clone().ok_or_else(|| Error::internal("a normalised product without a bias"))?;
    let y = of.run(values, id, None);
    let y = normalize::finished(values, id, y, bias, ahead)?;
    Ok(shape::lines::<B>(y, of.rank))
}

/// A window as burn's options, over two axes.
fn options(window: &Window, groups: usize) -> Result<ConvOptions<2>> {
    let last = window.kernel.len() - 1;
    let two = |list: &[usize], first: usize| [if last == 0 { first } else { list[0] }, list[last]];
    let pad = |list: &[i64], i: usize| match (last, i) {
        (0, 0) => Ok(0),
        _ => usize::try_from(list[if i == 0 { 0 } else { last }])
            .map_err(|_| Error::unsupported("negative padding").cure("put a Slice before the convolution")),
    };
    let mut options = ConvOptions::new(two(&window.strides, 1), [0, 0], two(&window.dilations, 1), groups);
    for i in 0..2 {
        options.padding[i] = (pad(&window.begin, i)?, pad(&window.end, i)?);
    }
    Ok(options)
}

/// Gemm and MatMul.
pub(super) fn matrix<B: Kernels>(values: &Values<B>, id: NodeId, node: &Node) -> Result<Var<B>> {
    let mut a = values.input(node, 0)?;
    let constants = Constants::of(values, id, node)?;
    let (c, mut b) = (constants.bias(), constants.weight);
    [a, b] = [a, b].map(|t| values.forward.precision.cast::<B>(t));
    let (mut alpha, mut beta) = (1.0, 1.0);
    if let Op::Gemm { alpha: x, beta: y, trans_a, trans_b } = node.op {
        (alpha, beta) = (x, y);
        if [&a, &b].iter().any(|t| backend::dims::<B>(t).len() != 2) {
            return Err(Error::shape("Gemm multiplies matrices"));
        }
        a = if trans_a { Autodiff::<B>::float_swap_dims(a, 0, 1) } else { a };
        b = if trans_b { Autodiff::<B>::float_swap_dims(b, 0, 1) } else { b };
    }
    let mut y = values.product(id, multiplied::<B>(a, b)?);
    if alpha != 1.0 {
        y = Autodiff::<B>::float_mul_scalar(y, backend::scalar(alpha));
    }
    if let Some(c) = c {
        let c = if beta == 1.0 { c } else { Autodiff::<B>::float_mul_scalar(c, backend::scalar(beta)) };
        let rows = backend::dims::<B>(&y);
        let (y2, c2) = shape::aligned::<B>(y, c)?;
        y = Autodiff::<B>::float_add(y2, c2);
        if backend::dims::<B>(&y) != rows {
            return Err(Error::shape("the bias is larger than the product"));
        }
    }
    Ok(y)
}

/// A matrix product over the last two axes; a second factor that is a matrix is the same for all rows of the first.
fn multiplied<B: Kernels>(a: Var<B>, b: Var<B>) -> Result<Var<B>> {
    let (sa, sb) = (backend::dims::<B>(&a), backend::dims::<B>(&b));
    let fault = || Error::shape(format!("shapes {sa:?} and {sb:?} cannot be multiplied"));
    if sa.len() < 2 || sb.len() < 2 || sa[sa.len() - 1] != sb[sb.len() - 2] {
        return Err(fault());
    }
    if sb.len() == 2 {
        let k = sb[0];
        let rows: usize = sa[..sa.len() - 1].iter().product();
        let y = Autodiff::<B>::float_matmul(backend::reshaped::<B>(a, &[rows, k]), b);
        return Ok(backend::reshaped::<B>(y, &[&sa[..sa.len() - 1], &sb[1..]].concat()));
    }
    // Batches must be equal here.
    if sa.len() != sb.len() || sa[..sa.len() - 2] != sb[..sb.len() - 2] {
        return Err(fault());
    }
    Ok(Autodiff::<B>::float_matmul(a, b))
}
