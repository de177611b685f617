//! Element-wise operators.
use super::{Values, no_gradient, shape};
use crate::{
    backend::{self, Kernels, Var, scalar},
    norm,
};
use burn::backend::{
    Autodiff,
    ops::{ActivationOps as _, FloatTensorOps as _},
};
use nnq::{
    Error, Result,
    ir::{
        Graph, Node, Op,
        op::{Binary, Unary, Variadic},
    },
};

type A<B> = Autodiff<B>;

/// A function of one tensor; `None` where it has no gradient.
pub(super) fn unary<B: Kernels>(x: Var<B>, f: Unary) -> Option<Var<B>> {
    let sigmoid = |x: Var<B>| A::<B>::sigmoid(x);
    let hard = |x: Var<B>, alpha: f32, beta: f32| {
        let line = A::<B>::float_add_scalar(A::<B>::float_mul_scalar(x, scalar(alpha)), scalar(beta));
        A::<B>::float_clamp(line, scalar(0.0), scalar(1.0))
    };
    Some(match f {
        Unary::Relu => norm::clip::<B>(x, [0.0, f32::INFINITY]),
        Unary::LeakyRelu { alpha } => A::<B>::leaky_relu(x, scalar(alpha)),
        Unary::Sigmoid => sigmoid(x),
        Unary::Tanh => A::<B>::float_tanh(x),
        Unary::HardSigmoid { alpha, beta } => hard(x, alpha, beta),
        Unary::HardSwish => A::<B>::float_mul(x.clone(), hard(x, 1.0 / 6.0, 0.5)),
        Unary::Swish { alpha } => A::<B>::float_mul(x.clone(), sigmoid(A::<B>::float_mul_scalar(x, scalar(alpha)))),
        Unary::Gelu { tanh: false } => {
            let t = A::<B>::float_erf(A::<B>::float_mul_scalar(x.clone(), scalar(std::f32::consts::FRAC_1_SQRT_2)));
            let share = A::<B>::float_mul_scalar(A::<B>::float_add_scalar(t, scalar(1.0)), scalar(0.5));
            A::<B>::float_mul(x, share)
        }
        Unary::Softplus => A::<B>::float_neg(A::<B>::log_sigmoid(A::<B>::float_neg(x))),
        Unary::Neg => A::<B>::float_neg(x),
        Unary::Exp => A::<B>::float_exp(x),
        Unary::Log => A::<B>::float_log(x),
        Unary::Sqrt => A::<B>::float_sqrt(x),
        Unary::Abs => A::<B>::float_abs(x),
        Unary::Erf => A::<B>::float_erf(x),
        Unary::Reciprocal => A::<B>::float_recip(x),
        _ => return None,
    })
}

/// A function of two tensors that spread over each other; `None` where it has no gradient.
pub(super) fn binary<B: Kernels>(a: Var<B>, b: Var<B>, f: Binary) -> Result<Option<Var<B>>> {
    let shapes = [&a, &b].map(|x| backend::dims::<B>(x).len());
    let (a, b) = shape::aligned::<B>(a, b)?;
    let y = match f {
        Binary::Add => A::<B>::float_add(a, b),
        Binary::Sub => A::<B>::float_sub(a, b),
        Binary::Mul => A::<B>::float_mul(a, b),
        Binary::Div => A::<B>::float_div(a, b),
        Binary::PRelu => {
            let negative = A::<B>::float_neg(A::<B>::relu(A::<B>::float_neg(a.clone())));
            A::<B>::float_add(A::<B>::relu(a), A::<B>::float_mul(negative, b))
        }
        _ => return Ok(None),
    };
    // Two numbers without axes stay such.
    Ok(Some(if shapes == [0, 0] { backend::reshaped::<B>(y, &[]) } else { y }))
}

/// Sums and means of any number of tensors.
pub(super) fn variadic<B: Kernels>(values: &Values<B>, node: &Node) -> Result<Var<B>> {
    let Op::Variadic(kind @ (Variadic::Sum | Variadic::Mean)) = node.op else { return Err(no_gradient(node)) };
    let mut sum = values.input(node, 0)?;
    for i in 1..node.inputs.len() {
        let (a, b) = shape::aligned::<B>(sum, values.input(node, i)?)?;
        sum = A::<B>::float_add(a, b);
    }
    let share = 1.0 / node.inputs.len().max(1) as f32;
    Ok(if kind == Variadic::Mean { A::<B>::float_mul_scalar(sum, scalar(share)) } else { sum })
}

/// Clamps between two constants.
pub(super) fn clip<B: Kernels>(values: &Values<B>, node: &Node) -> Result<Var<B>> {
    Ok(norm::clip::<B>(values.input(node, 0)?, ends(values.forward.graph, node)?))
}

/// What a node clamps to; infinite where there is no end.
pub(super) fn ends(graph: &Graph, node: &Node) -> Result<[f32; 2]> {
    let end = |i: usize| -> Result<Option<f32>> {
        let Some(v) = node.input(i) else { return Ok(None) };
        let t = graph.constant(v).filter(|t| t.len() == 1 && t.dtype().is_float());
        let t = t.ok_or_else(|| Error::unsupported("limits that are no constants").cure("train with fixed limits"))?;
        Ok(Some(t.to_f32s()[0]))
    };
    Ok([end(1)?.unwrap_or(f32::NEG_INFINITY), end(2)?.unwrap_or(f32::INFINITY)])
}

/// Exponential normalisation along an axis, or its logarithm.
pub(super) fn softmax<B: Kernels>(x: Var<B>, axis: i64, log: bool) -> Result<Var<B>> {
    let axis = shape::axis(axis, backend::dims::<B>(&x).len())?;
    Ok(if log { A::<B>::log_softmax(x, axis) } else { A::<B>::softmax(x, axis) })
}
