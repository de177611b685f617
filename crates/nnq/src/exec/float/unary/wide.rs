//! The functions in f64: for models in double precision, and what the tests of the f32 functions compare with.
use crate::ir::op::Unary;
use nnq_kernels::round::rne_f64;

pub(super) fn scalar(u: Unary, x: f64) -> f64 {
    let elu = |x: f64| libm::expm1(x);
    let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
    let clamp01 = |x: f64| x.clamp(0.0, 1.0);
    let softplus = |x: f64| if x < 0.0 { 0.0 } else { x } + libm::log1p(libm::exp(-x.abs()));
    match u {
        Unary::Abs => x.abs(),
        Unary::Acos => libm::acos(x),
        Unary::Acosh if x < 1.0 => f64::NAN,
        Unary::Acosh => libm::acosh(x),
        Unary::Asin => libm::asin(x),
        Unary::Asinh => libm::asinh(x),
        Unary::Atan => libm::atan(x),
        Unary::Atanh => libm::atanh(x),
        Unary::BitwiseNot | Unary::Not => f64::NAN,
        Unary::Ceil => x.ceil(),
        Unary::Celu { alpha } if x < 0.0 => f64::from(alpha) * elu(x / f64::from(alpha)),
        Unary::Celu { .. } => x,
        Unary::Cos => libm::cos(x),
        Unary::Cosh => libm::cosh(x),
        Unary::Elu { alpha } if x < 0.0 => f64::from(alpha) * elu(x),
        Unary::Elu { .. } => x,
        Unary::Erf => libm::erf(x),
        Unary::Exp => libm::exp(x),
        Unary::Floor => x.floor(),
        Unary::Gelu { tanh: false } => 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Unary::Gelu { tanh: true } => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            x * sigmoid(2.0 * u)
        }
        Unary::HardSigmoid { alpha, beta } => clamp01(f64::from(alpha) * x + f64::from(beta)),
        Unary::HardSwish => x * clamp01(x / 6.0 + 0.5),
        Unary::IsInf { negative, positive } => {
            let hit = (negative && x == f64::NEG_INFINITY) || (positive && x == f64::INFINITY);
            f64::from(u8::from(hit))
        }
        Unary::IsNaN => f64::from(u8::from(x.is_nan())),
        Unary::LeakyRelu { alpha } if x < 0.0 => f64::from(alpha) * x,
        Unary::LeakyRelu { .. } => x,
        Unary::Log => libm::log(x),
        Unary::Mish => x * libm::tanh(softplus(x)),
        Unary::Neg => -x,
        Unary::Reciprocal => 1.0 / x,
        Unary::Relu if x < 0.0 => 0.0,
        Unary::Relu => x,
        Unary::Round => rne_f64(x),
        Unary::Selu { gamma, .. } if x > 0.0 => f64::from(gamma) * x,
        Unary::Selu { alpha, gamma } => f64::from(gamma) * f64::from(alpha) * elu(x),
        Unary::Sigmoid => sigmoid(x),
        Unary::Sign if x > 0.0 => 1.0,
        Unary::Sign if x < 0.0 => -1.0,
        Unary::Sign => x,
        Unary::Sin => libm::sin(x),
        Unary::Sinh => libm::sinh(x),
        Unary::Softplus => softplus(x),
        Unary::Softsign => x / (1.0 + x.abs()),
        Unary::Sqrt => x.sqrt(),
        Unary::Swish { alpha } => x * sigmoid(f64::from(alpha) * x),
        Unary::Tan => libm::tan(x),
        Unary::Tanh => libm::tanh(x),
        Unary::ThresholdedRelu { alpha } if x > f64::from(alpha) || x.is_nan() => x,
        Unary::ThresholdedRelu { .. } => 0.0,
    }
}
