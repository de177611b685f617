use super::*;
use crate::exec::float::eval;
use crate::ir::{DType, Element, Op};
use half::{bf16, f16};

const ALL: [Unary; 45] = [
    Unary::Abs,
    Unary::Acos,
    Unary::Acosh,
    Unary::Asin,
    Unary::Asinh,
    Unary::Atan,
    Unary::Atanh,
    Unary::Ceil,
    Unary::Celu { alpha: 0.7 },
    Unary::Cos,
    Unary::Cosh,
    Unary::Elu { alpha: 1.3 },
    Unary::Erf,
    Unary::Exp,
    Unary::Floor,
    Unary::Gelu { tanh: false },
    Unary::Gelu { tanh: true },
    Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
    Unary::HardSwish,
    Unary::LeakyRelu { alpha: 0.01 },
    Unary::Log,
    Unary::Mish,
    Unary::Neg,
    Unary::Reciprocal,
    Unary::Relu,
    Unary::Round,
    Unary::Selu { alpha: 1.673_263_2, gamma: 1.050_701 },
    Unary::Sigmoid,
    Unary::Sign,
    Unary::Sin,
    Unary::Sinh,
    Unary::Softplus,
    Unary::Softsign,
    Unary::Sqrt,
    Unary::Swish { alpha: 1.0 },
    Unary::Swish { alpha: 1.7 },
    Unary::Tan,
    Unary::Tanh,
    Unary::ThresholdedRelu { alpha: 1.0 },
    Unary::IsNaN,
    Unary::IsInf { negative: true, positive: true },
    Unary::IsInf { negative: true, positive: false },
    Unary::IsInf { negative: false, positive: true },
    Unary::Not,
    Unary::BitwiseNot,
];

fn one(u: Unary, t: &Tensor) -> Result<Tensor> {
    eval(&Op::Unary(u), &[Some(t)], 1, &Ctx::new()).map(|mut y| y.remove(0))
}

/// Numbers of every kind, more than two chunks of them.
fn probes() -> Vec<f32> {
    let mut v = vec![0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    v.extend([f32::MIN_POSITIVE, f32::MAX, f32::MIN, 1e-40, -1e-40]);
    v.extend((0..20_000).map(|i| (i as f32 - 10_000.0) * 0.001));
    v.extend((0..20_011u32).map(|i| f32::from_bits(i.wrapping_mul(214_663))));
    v
}

#[test]
fn a_tensor_gets_the_bits_of_the_scalar() {
    let v = probes();
    let t = Tensor::of(&[v.len()], v.clone());
    for u in ALL {
        let mut in_place = v.clone();
        run_in_place(u, &mut in_place);
        for (&x, &y) in v.iter().zip(&in_place) {
            let s = scalar(u, x);
            assert!(s.to_bits() == y.to_bits() || (s.is_nan() && y.is_nan()), "{u:?} of {x}: {s} alone, {y} in a row");
        }
        let y = match one(u, &t) {
            Ok(y) => y,
            Err(_) => {
                assert!(matches!(u, Unary::Not | Unary::BitwiseNot));
                continue;
            }
        };
        let same =
            y.to_f32s().iter().zip(&in_place).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()));
        assert!(same, "{u:?}");
    }
}

#[test]
fn single_and_double_precision_agree() {
    for u in ALL {
        for i in -4000..4000 {
            let x = i as f32 * 0.0137;
            let (y, e) = (f64::from(scalar(u, x)), wide::scalar(u, x.into()));
            // Where a function is steep or cancels, the rounding of constants such as 1/6 to f32 shows; tan has poles.
            let slope = if u == Unary::Tan { 1.0 + e * e } else { 1.0 };
            let near = (y - e).abs() <= 1e-6 * slope * (e.abs() + 1e-2 + f64::from(x.abs()) * 1e-1);
            assert!(near || (y.is_nan() && e.is_nan()) || y == e, "{u:?} of {x}: {y}, in double precision {e}");
        }
    }
}

#[test]
fn known_values() {
    let table: [(Unary, f32, f32); 14] = [
        (Unary::Round, 2.5, 2.0),
        (Unary::Round, -1.5, -2.0),
        (Unary::HardSwish, 3.5, 3.5),
        (Unary::HardSwish, -3.0, 0.0),
        (Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }, 1.0, 0.7),
        (Unary::Elu { alpha: 2.0 }, -1.0, -1.264_241_1),
        (Unary::Celu { alpha: 2.0 }, -1.0, -0.786_938_7),
        (Unary::Selu { alpha: 2.0, gamma: 3.0 }, -1.0, -3.792_723_4),
        (Unary::Softsign, -3.0, -0.75),
        (Unary::ThresholdedRelu { alpha: 2.0 }, 2.0, 0.0),
        (Unary::Mish, 1.0, 0.865_098_4),
        (Unary::Gelu { tanh: false }, 1.0, 0.841_344_7),
        (Unary::Gelu { tanh: true }, 1.0, 0.841_192),
        (Unary::Softplus, 1.0, 1.313_261_7),
    ];
    for (u, x, y) in table {
        let got = scalar(u, x);
        assert!((got - y).abs() <= 1e-6 * y.abs().max(0.1), "{u:?} of {x}: {got}, expected {y}");
    }
}

#[test]
fn integers_and_booleans() {
    let t = Tensor::of(&[3], vec![i8::MIN, 0, 5]);
    let run = |u| one(u, &t).unwrap().into_vec::<i8>().unwrap();
    assert_eq!(run(Unary::Abs), [i8::MIN, 0, 5]);
    assert_eq!(run(Unary::Neg), [i8::MIN, 0, -5]);
    assert_eq!(run(Unary::Sign), [-1, 0, 1]);
    assert_eq!(run(Unary::Relu), [0, 0, 5]);
    assert_eq!(run(Unary::BitwiseNot), [127, -1, -6]);
    let t = Tensor::of(&[2], vec![0u16, 9]);
    assert_eq!(one(Unary::Sign, &t).unwrap().into_vec::<u16>().unwrap(), [0, 1]);
    assert_eq!(one(Unary::BitwiseNot, &t).unwrap().into_vec::<u16>().unwrap(), [65535, 65526]);
    assert!(one(Unary::Neg, &t).is_err() && one(Unary::Exp, &t).is_err() && one(Unary::Not, &t).is_err());
    let t = Tensor::from_bools(&[2], &[true, false]);
    assert_eq!(one(Unary::Not, &t).unwrap().to_f32s(), [0.0, 1.0]);
    assert!(one(Unary::Abs, &t).is_err());
    let t = Tensor::of(&[3], vec![f16::from_f32(2.0), f16::INFINITY, f16::NAN]);
    assert_eq!(one(Unary::IsNaN, &t).unwrap().to_f32s(), [0.0, 0.0, 1.0]);
    assert_eq!(one(Unary::Reciprocal, &t).unwrap().as_slice::<f16>().unwrap()[..2], [f16::from_f32(0.5), f16::ZERO]);
}

fn clipped(t: &Tensor, low: Option<&Tensor>, high: Option<&Tensor>) -> Result<Tensor> {
    clip(&[Some(t), low, high], &Ctx::new())
}

#[test]
fn clip_bounds() {
    let t = Tensor::of(&[4], vec![-5f32, 0.5, 9.0, f32::NAN]);
    let (low, high) = (Tensor::scalar(0f32), Tensor::scalar(6f32));
    let y = clipped(&t, Some(&low), Some(&high)).unwrap().to_f32s();
    assert_eq!(y[..3], [0.0, 0.5, 6.0]);
    assert!(y[3].is_nan());
    // min above max: everything is max.
    assert_eq!(clipped(&t, Some(&high), Some(&low)).unwrap().to_f32s()[..3], [0.0; 3]);
    assert_eq!(clipped(&t, None, Some(&high)).unwrap().to_f32s()[..3], [-5.0, 0.5, 6.0]);
    assert_eq!(clip(&[Some(&t)], &Ctx::new()).unwrap().to_f32s()[..3], [-5.0, 0.5, 9.0]);
    let t = Tensor::of(&[3], vec![-5i8, 0, 9]);
    let y = clipped(&t, Some(&Tensor::of(&[1], vec![-1i8])), Some(&Tensor::scalar(3i8))).unwrap();
    assert_eq!(y.into_vec::<i8>().unwrap(), [-1, 0, 3]);
    assert!(clipped(&t, Some(&low), None).is_err());
    assert!(clipped(&t, Some(&Tensor::of(&[2], vec![0i8, 1])), None).is_err());
    assert!(clip(&[], &Ctx::new()).is_err());
}

fn cast_to<T: Element>(t: &Tensor) -> Vec<T> {
    cast(T::DTYPE, true, &[Some(t)], &Ctx::new()).unwrap().into_vec::<T>().unwrap()
}

#[test]
fn casts() {
    let t = Tensor::of(&[7], vec![-1.9f32, 1.9, 300.0, -300.0, f32::NAN, f32::INFINITY, 0.4]);
    assert_eq!(cast_to::<i8>(&t), [-1, 1, 127, -128, 0, 127, 0]);
    assert_eq!(cast_to::<u8>(&t), [0, 1, 255, 0, 0, 255, 0]);
    let y = cast(DType::Bool, true, &[Some(&t)], &Ctx::new()).unwrap();
    assert_eq!(y.to_f32s(), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!(cast_to::<i64>(&y), [1; 7]);
    let t = Tensor::of(&[3], vec![200i16, -1, 0]);
    assert_eq!(cast_to::<i8>(&t), [-56, -1, 0]);
    assert_eq!(cast_to::<u64>(&t), [200, u64::MAX, 0]);
    assert_eq!(cast(DType::Bool, true, &[Some(&t)], &Ctx::new()).unwrap().to_f32s(), [1.0, 1.0, 0.0]);
    // Ties to even: 2049 lies between 2048 and 2050 in f16, 257 between 256 and 258 in bf16.
    let t = Tensor::of(&[4], vec![2049.0f32, 2051.0, 257.0, 70_000.0]);
    assert_eq!(cast_to::<f16>(&t).map_f32(), [2048.0, 2052.0, 257.0, f32::INFINITY]);
    assert_eq!(cast_to::<bf16>(&t).map_f32()[2], 256.0);
    let t = Tensor::of(&[2], vec![u64::MAX, 1]);
    assert_eq!(cast_to::<f64>(&t), [18_446_744_073_709_551_616.0, 1.0]);
    // One above a tie of bf16, lost when the integer is first rounded to f64.
    let tie = (1u64 << 63) + (1 << 55);
    let t = Tensor::of(&[2], vec![tie, tie + 1]);
    assert_eq!(cast_to::<bf16>(&t).map_f32(), [2f32.powi(63), 2f32.powi(63) + 2f32.powi(56)]);
}

trait MapF32 {
    fn map_f32(self) -> Vec<f32>;
}
impl<T: Into<f32>> MapF32 for Vec<T> {
    fn map_f32(self) -> Vec<f32> {
        self.into_iter().map(Into::into).collect()
    }
}
