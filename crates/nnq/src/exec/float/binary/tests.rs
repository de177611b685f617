use super::*;
use crate::{
    exec::float::eval,
    ir::{DType, Element, Op, op::Variadic},
};
use half::f16;
use proptest::prelude::*;

fn two(b: Binary, a: &Tensor, c: &Tensor) -> Result<Tensor> {
    eval(&Op::Binary(b), &[Some(a), Some(c)], 1, &Ctx::new()).map(|mut y| y.remove(0))
}

fn row<T: Element>(v: &[T]) -> Tensor {
    Tensor::of(&[v.len()], v.to_vec())
}

/// The flat index into `shape` of element `o` of a result of shape `to`, by NumPy's rule.
fn behind(mut o: usize, shape: &[usize], to: &[usize]) -> usize {
    let (mut at, mut stride) = (0, 1);
    for d in (0..to.len()).rev() {
        let i = o % to[d];
        o /= to[d];
        if d + shape.len() >= to.len() {
            let size = shape[d + shape.len() - to.len()];
            at += if size == 1 { 0 } else { i * stride };
            stride *= size;
        }
    }
    at
}

proptest! {
    #[test]
    fn broadcasting_by_index_arithmetic(
        to in prop::collection::vec(1usize..5, 0..6),
        ones in prop::collection::vec(any::<bool>(), 18),
        cut in prop::collection::vec(0usize..4, 3),
    ) {
        let shapes: Vec<Vec<usize>> = (0..3).map(|k| {
            let full: Vec<usize> = to.iter().enumerate().map(|(i, &d)| if ones[k * 6 + i] { 1 } else { d }).collect();
            full[cut[k].min(full.len())..].to_vec()
        }).collect();
        let rank = shapes.iter().map(Vec::len).max().unwrap_or(0);
        let wanted: Vec<usize> = (0..rank).map(|i| shapes.iter()
            .filter_map(|s| (i + s.len()).checked_sub(rank).map(|j| s[j])).max().unwrap_or(1)).collect();
        let tensors: Vec<Tensor> = shapes.iter().enumerate().map(|(k, s)| {
            let n: usize = s.iter().product();
            Tensor::of(s, (0..n as i32).map(|i| i * 7 + k as i32 * 1000).collect())
        }).collect();
        let value = |k: usize, o: usize| tensors[k].as_slice::<i32>().unwrap()[behind(o, &shapes[k], &wanted)];
        let n: usize = wanted.iter().product();

        let x: Vec<_> = tensors.iter().map(Some).collect();
        let y = eval(&Op::Variadic(Variadic::Max), &x, 1, &Ctx::new()).unwrap().remove(0);
        prop_assert_eq!(y.shape(), &wanted[..]);
        let max: Vec<i32> = (0..n).map(|o| value(0, o).max(value(1, o)).max(value(2, o))).collect();
        prop_assert_eq!(y.into_vec::<i32>().unwrap(), max);

        let odd: Vec<bool> = tensors[0].as_slice::<i32>().unwrap().iter().map(|v| v % 2 != 0).collect();
        let condition = Tensor::from_bools(&shapes[0], &odd);
        let y = eval(&Op::Where, &[Some(&condition), Some(&tensors[1]), Some(&tensors[2])], 1, &Ctx::new()).unwrap().remove(0);
        let chosen: Vec<i32> = (0..n).map(|o| if value(0, o) % 2 != 0 { value(1, o) } else { value(2, o) }).collect();
        prop_assert_eq!(y.shape(), &wanted[..]);
        prop_assert_eq!(y.into_vec::<i32>().unwrap(), chosen);

        let (a, b) = (Tensor::of(&shapes[0], tensors[0].to_f32s()), Tensor::of(&shapes[1], tensors[1].to_f32s()));
        let y = two(Binary::Sub, &a, &b).unwrap();
        let two_wide: Vec<usize> = y.shape().to_vec();
        for (o, &v) in y.as_slice::<f32>().unwrap().iter().enumerate() {
            let e = a.to_f32s()[behind(o, &shapes[0], &two_wide)] - b.to_f32s()[behind(o, &shapes[1], &two_wide)];
            prop_assert_eq!(v, e);
        }
    }
}

#[test]
fn chunks_of_large_tensors_meet() {
    for (a, c) in
        [(&[3, 40, 23, 29][..], &[40, 1, 1][..]), (&[70_001], &[1]), (&[301, 77], &[77]), (&[301, 77], &[301, 1])]
    {
        let (n, m): (usize, usize) = (a.iter().product(), c.iter().product());
        let x = Tensor::of(a, (0..n).map(|i| i as f32).collect());
        let y = Tensor::of(c, (0..m).map(|i| i as f32 * 0.25).collect());
        for swap in [false, true] {
            let z = if swap { two(Binary::Sub, &y, &x) } else { two(Binary::Sub, &x, &y) }.unwrap();
            for (o, &v) in z.as_slice::<f32>().unwrap().iter().enumerate() {
                let e = o as f32 - behind(o, c, a) as f32 * 0.25;
                assert_eq!(v, if swap { -e } else { e }, "{a:?} {c:?} at {o}");
            }
        }
    }
}

#[test]
fn shapes_and_types_that_do_not_fit_are_errors() {
    let (a, b, i) = (Tensor::of(&[2, 3], vec![0f32; 6]), Tensor::of(&[2], vec![0f32; 2]), row(&[1i32, 2, 3]));
    assert!(two(Binary::Add, &a, &b).is_err());
    assert!(two(Binary::Add, &a, &i).is_err());
    assert!(two(Binary::And, &a, &a).is_err());
    assert!(two(Binary::BitwiseAnd, &a, &a).is_err());
    assert!(two(Binary::BitShift { left: true }, &i, &i).is_err());
    assert!(two(Binary::Mod { fmod: false }, &a, &a).is_err());
    assert!(two(Binary::PRelu, &Tensor::scalar(0f32), &a).is_err());
    assert!(run(Binary::Add, &[Some(&a)], &Ctx::new()).is_err());
    let (wide, tall) = (Tensor::of(&[1, 70_000], vec![0u8; 70_000]), Tensor::of(&[70_000, 1], vec![0u8; 70_000]));
    assert!(two(Binary::Add, &wide, &tall).is_err());
    assert!(eval(&Op::Variadic(Variadic::Sum), &[Some(&i), Some(&i)], 1, &Ctx::new()).is_err());
    assert!(eval(&Op::Variadic(Variadic::Max), &[], 1, &Ctx::new()).is_err());
    assert!(eval(&Op::Where, &[Some(&a), Some(&a), Some(&a)], 1, &Ctx::new()).is_err());
}

#[test]
fn integer_arithmetic() {
    let (a, b) = (row(&[i32::MIN, 7, -7, 7, -7]), row(&[-1, 3, 3, -3, -3]));
    let run = |o| two(o, &a, &b).unwrap().into_vec::<i32>().unwrap();
    assert_eq!(run(Binary::Div), [i32::MIN, 2, -2, -2, 2]);
    assert_eq!(run(Binary::Mod { fmod: false }), [0, 1, 2, -2, -1]);
    assert_eq!(run(Binary::Mod { fmod: true }), [0, 1, -1, 1, -1]);
    assert_eq!(run(Binary::Sub)[0], i32::MIN + 1);
    assert_eq!(run(Binary::Mul)[0], i32::MIN);
    assert_eq!(run(Binary::PRelu), [i32::MIN, 7, -21, 7, 21]);
    let zero = row(&[0i32]);
    for o in [Binary::Div, Binary::Mod { fmod: false }, Binary::Mod { fmod: true }] {
        assert!(two(o, &a, &zero).is_err());
    }
    let (a, b) = (row(&[1u8, 255, 3]), row(&[7u8, 1, 200]));
    let run = |o| two(o, &a, &b).unwrap().into_vec::<u8>().unwrap();
    assert_eq!(run(Binary::BitShift { left: true }), [128, 254, 0]);
    assert_eq!(run(Binary::BitShift { left: false }), [0, 127, 0]);
    assert_eq!(run(Binary::BitwiseXor), [6, 254, 203]);
    assert_eq!(run(Binary::Add), [8, 0, 203]);
}

#[test]
fn floats_divide_and_compare() {
    let (a, b) = (row(&[1f32, -5.5, 0.0, f32::NAN]), row(&[0f32, 2.0, 0.0, 1.0]));
    let y = two(Binary::Div, &a, &b).unwrap().to_f32s();
    assert!(y[0] == f32::INFINITY && y[1] == -2.75 && y[2].is_nan());
    assert_eq!(two(Binary::Mod { fmod: true }, &a, &b).unwrap().to_f32s()[1], -1.5);
    let t = |o| {
        let y = two(o, &a, &b).unwrap();
        assert_eq!(y.dtype(), DType::Bool);
        y.to_f32s()
    };
    assert_eq!(t(Binary::Equal), [0.0, 0.0, 1.0, 0.0]);
    assert_eq!(t(Binary::Greater), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(t(Binary::GreaterOrEqual), [1.0, 0.0, 1.0, 0.0]);
    assert_eq!(t(Binary::Less), [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(t(Binary::LessOrEqual), [0.0, 1.0, 1.0, 0.0]);
    let h = row(&[f16::from_f32(1.5), f16::from_f32(-2.0)]);
    assert_eq!(two(Binary::Mul, &h, &h).unwrap().into_vec::<f16>().unwrap(), [f16::from_f32(2.25), f16::from_f32(4.0)]);
    assert_eq!(two(Binary::Less, &h, &h).unwrap().dtype(), DType::Bool);
    let (p, q) =
        (Tensor::from_bools(&[4], &[true, true, false, false]), Tensor::from_bools(&[4], &[true, false, true, false]));
    let t = |o| two(o, &p, &q).unwrap().to_f32s();
    assert_eq!(t(Binary::And), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(t(Binary::Or), [1.0, 1.0, 1.0, 0.0]);
    assert_eq!(t(Binary::Xor), [0.0, 1.0, 1.0, 0.0]);
    assert_eq!(t(Binary::Equal), [1.0, 0.0, 0.0, 1.0]);
}

#[test]
fn powers_of_mixed_types() {
    let a = row(&[2f32, 3.0, -2.0, 0.0]);
    assert_eq!(two(Binary::Pow, &a, &row(&[3i64])).unwrap().into_vec::<f32>().unwrap(), [8.0, 27.0, -8.0, 0.0]);
    assert_eq!(two(Binary::Pow, &a, &row(&[2f32])).unwrap().into_vec::<f32>().unwrap(), [4.0, 9.0, 4.0, 0.0]);
    let a = row(&[2i32, -3, 1, -1]);
    assert_eq!(two(Binary::Pow, &a, &row(&[3u8])).unwrap().into_vec::<i32>().unwrap(), [8, -27, 1, -1]);
    assert_eq!(two(Binary::Pow, &a, &row(&[-3i64])).unwrap().into_vec::<i32>().unwrap(), [0, 0, 1, -1]);
    assert_eq!(two(Binary::Pow, &a, &row(&[0.5f32])).unwrap().into_vec::<i32>().unwrap()[0], 1);
    assert_eq!(two(Binary::Pow, &a, &row(&[u64::MAX])).unwrap().into_vec::<i32>().unwrap()[2..], [1, -1]);
    assert_eq!(two(Binary::Pow, &row(&[2i64]), &row(&[64i64])).unwrap().into_vec::<i64>().unwrap(), [0]);
    assert!(two(Binary::Pow, &row(&[0i64]), &row(&[-1i64])).is_err());
    assert!(two(Binary::Pow, &row(&[0u8]), &row(&[1u8])).is_err());
    assert_eq!(two(Binary::Pow, &row(&[f16::from_f32(3.0)]), &row(&[2i32])).unwrap().to_f32s(), [9.0]);
}

#[test]
fn extremes_keep_nan_and_means_divide() {
    let (a, b) = (row(&[1f32, f32::NAN, 3.0]), row(&[2f32, 0.0, f32::NAN]));
    let run = |v| eval(&Op::Variadic(v), &[Some(&a), Some(&b)], 1, &Ctx::new()).unwrap().remove(0).to_f32s();
    for (v, first) in [(Variadic::Max, 2.0), (Variadic::Min, 1.0), (Variadic::Sum, 3.0), (Variadic::Mean, 1.5)] {
        let y = run(v);
        assert!(y[0] == first && y[1].is_nan() && y[2].is_nan(), "{v:?}: {y:?}");
    }
    let one = eval(&Op::Variadic(Variadic::Mean), &[Some(&a)], 1, &Ctx::new()).unwrap().remove(0);
    assert_eq!(one.to_f32s()[0], 1.0);
}
