//! Element-wise functions of one tensor.
mod cast;
mod clip;
pub(super) mod math;
mod whole;
mod wide;

pub(super) use cast::cast;
pub(super) use clip::clip;

use super::{
    Ctx, Inputs,
    args::{self, CHUNK},
    product::Real,
};
use crate::{
    error::Result,
    ir::{Data, Tensor, op::Unary},
};
use nnq_kernels::{round::rne_f32, widest};
use rayon::prelude::*;

pub(super) fn run(u: Unary, x: &Inputs, ctx: &Ctx) -> Result<Tensor> {
    let t = args::need(x, 0, "input")?;
    let shape = t.shape().to_vec();
    let predicate = matches!(u, Unary::IsNaN | Unary::IsInf { .. });
    match t.data() {
        Data::F32(v) if predicate => truth(shape, v, |x| scalar(u, x) != 0.0),
        Data::F64(v) if predicate => truth(shape, v, |x| wide::scalar(u, x) != 0.0),
        Data::F16(v) if predicate => truth(shape, v, |x| scalar(u, x.to_f32()) != 0.0),
        Data::BF16(v) if predicate => truth(shape, v, |x| scalar(u, x.to_f32()) != 0.0),
        Data::F32(_) | Data::F64(_) | Data::F16(_) | Data::BF16(_) if matches!(u, Unary::Not | Unary::BitwiseNot) => {
            args::not_on(u, t.dtype())
        }
        Data::F32(v) => {
            let mut out = ctx.take(v.len());
            each(&mut out, v, |dst, src| {
                dst.copy_from_slice(src);
                apply(u, dst);
            });
            Tensor::new(shape, Data::F32(out.into()))
        }
        Data::F64(v) => Tensor::new(shape, Data::F64(v.iter().map(|&x| wide::scalar(u, x)).collect::<Vec<_>>().into())),
        Data::F16(_) | Data::BF16(_) => {
            args::by_f32(x, |x| run(u, x, ctx)).unwrap_or_else(|| args::not_on(u, t.dtype()))
        }
        _ => whole::run(u, t),
    }
}

fn truth<T: Copy>(shape: Vec<usize>, v: &[T], f: impl Fn(T) -> bool) -> Result<Tensor> {
    Tensor::new(shape, Data::Bool(v.iter().map(|&x| u8::from(f(x))).collect::<Vec<_>>().into()))
}

/// Chunks of the same place in two slices of equal length, in parallel when that pays.
fn each<A: Send, B: Sync>(dst: &mut [A], src: &[B], f: impl Fn(&mut [A], &[B]) + Sync) {
    if dst.len() <= CHUNK {
        f(dst, src);
    } else {
        dst.par_chunks_mut(CHUNK).zip(src.par_chunks(CHUNK)).for_each(|(d, s)| f(d, s));
    }
}

/// The function maps real numbers to real numbers.
pub(crate) fn is_real(u: Unary) -> bool {
    !matches!(u, Unary::IsNaN | Unary::IsInf { .. } | Unary::Not | Unary::BitwiseNot)
}

/// Applies a function that [`is_real`] in place, in parallel when that pays. The same bits as [`scalar`] on each element.
pub(super) fn run_in_place(u: Unary, x: &mut [f32]) {
    if x.len() <= CHUNK {
        apply(u, x);
    } else {
        x.par_chunks_mut(CHUNK).for_each(|x| apply(u, x));
    }
}

/// Applies a function that [`is_real`] to numbers of either type, on this thread.
pub(crate) fn on_slice<T: Real>(u: Unary, x: &mut [T]) {
    if let Some(x) = T::singles_mut(x) {
        apply(u, x);
    } else {
        x.iter_mut().for_each(|x| *x = T::from_f64(wide::scalar(u, (*x).into())));
    }
}

/// The function on one number: what [`Unary`] does to each element, bit for bit. Look-up tables are built with it.
///
/// The predicates IsNaN and IsInf, whose tensors are boolean, answer 1 or 0; Not and BitwiseNot, which real numbers do
/// not have, answer NaN.
pub fn scalar(u: Unary, x: f32) -> f32 {
    with(u, One(x))
}

/// Runs on one thread.
fn apply(u: Unary, x: &mut [f32]) {
    with(u, All(x));
}

/// What is done with the function that [`with`] picks.
trait Visit {
    type Out;
    /// A function without branches and calls: worth a loop for each instruction set.
    fn simple(self, f: impl Fn(f32) -> f32) -> Self::Out;
    /// Any other.
    fn complex(self, f: fn(f32) -> f32) -> Self::Out;
}

struct One(f32);

impl Visit for One {
    type Out = f32;
    fn simple(self, f: impl Fn(f32) -> f32) -> f32 {
        f(self.0)
    }
    fn complex(self, f: fn(f32) -> f32) -> f32 {
        f(self.0)
    }
}

struct All<'a>(&'a mut [f32]);

impl Visit for All<'_> {
    type Out = ();
    fn simple(self, f: impl Fn(f32) -> f32) {
        // The same operations in wider registers; products and sums are never fused, so the results are the same bits.
        widest(
            #[inline(always)]
            || {
                for x in &mut *self.0 {
                    *x = f(*x);
                }
            },
        );
    }
    fn complex(self, f: fn(f32) -> f32) {
        for x in self.0 {
            *x = f(*x);
        }
    }
}

/// The table of functions. NaN stays NaN throughout, except in the predicates.
#[inline(always)]
fn with<V: Visit>(u: Unary, v: V) -> V::Out {
    match u {
        Unary::Abs => v.simple(f32::abs),
        Unary::Acos => v.complex(libm::acosf),
        // libm answers numbers below -1 too.
        Unary::Acosh => v.complex(|x| if x < 1.0 { f32::NAN } else { libm::acoshf(x) }),
        Unary::Asin => v.complex(libm::asinf),
        Unary::Asinh => v.complex(libm::asinhf),
        Unary::Atan => v.complex(libm::atanf),
        Unary::Atanh => v.complex(libm::atanhf),
        Unary::BitwiseNot | Unary::Not => v.simple(|_| f32::NAN),
        Unary::Ceil => v.simple(f32::ceil),
        Unary::Celu { alpha } => v.simple(move |x| if x < 0.0 { alpha * math::expm1(x / alpha) } else { x }),
        Unary::Cos => v.complex(libm::cosf),
        Unary::Cosh => v.complex(libm::coshf),
        Unary::Elu { alpha } => v.simple(move |x| if x < 0.0 { alpha * math::expm1(x) } else { x }),
        Unary::Erf => v.simple(math::erf),
        Unary::Exp => v.simple(math::exp),
        Unary::Floor => v.simple(f32::floor),
        Unary::Gelu { tanh: false } => v.simple(math::gelu),
        Unary::Gelu { tanh: true } => v.simple(math::gelu_tanh),
        Unary::HardSigmoid { alpha, beta } => v.simple(move |x| clamp01(alpha * x + beta)),
        Unary::HardSwish => v.simple(|x| x * clamp01(x * (1.0 / 6.0) + 0.5)),
        Unary::IsInf { negative, positive } => v.simple(move |x| {
            let hit = (negative && x == f32::NEG_INFINITY) || (positive && x == f32::INFINITY);
            f32::from(u8::from(hit))
        }),
        Unary::IsNaN => v.simple(|x| f32::from(u8::from(x.is_nan()))),
        Unary::LeakyRelu { alpha } => v.simple(move |x| if x < 0.0 { alpha * x } else { x }),
        Unary::Log => v.complex(libm::logf),
        Unary::Mish => v.simple(math::mish),
        Unary::Neg => v.simple(|x| -x),
        Unary::Reciprocal => v.simple(|x| 1.0 / x),
        Unary::Relu => v.simple(|x| if x < 0.0 { 0.0 } else { x }),
        Unary::Round => v.simple(rne_f32),
        Unary::Selu { alpha, gamma } => v.simple(move |x| gamma * if x > 0.0 { x } else { alpha * math::expm1(x) }),
        Unary::Sigmoid => v.simple(math::sigmoid),
        Unary::Sign => v.simple(|x| {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }),
        Unary::Sin => v.complex(libm::sinf),
        Unary::Sinh => v.complex(libm::sinhf),
        Unary::Softplus => v.complex(math::softplus),
        Unary::Softsign => v.simple(|x| x / (1.0 + x.abs())),
        Unary::Sqrt => v.simple(f32::sqrt),
        Unary::Swish { alpha } => v.simple(move |x| x * math::sigmoid(alpha * x)),
        Unary::Tan => v.complex(libm::tanf),
        Unary::Tanh => v.simple(math::tanh),
        Unary::ThresholdedRelu { alpha } => v.simple(move |x| if x > alpha || x.is_nan() { x } else { 0.0 }),
    }
}

#[inline(always)]
fn clamp01(x: f32) -> f32 {
    let x = if x < 0.0 { 0.0 } else { x };
    if x > 1.0 { 1.0 } else { x }
}

#[cfg(test)]
mod tests;
