use super::*;
use crate::{exec::float::eval, ir::Op};
use half::f16;
use proptest::prelude::*;

const KINDS: [Reduction; 10] = [
    Reduction::L1,
    Reduction::L2,
    Reduction::LogSum,
    Reduction::LogSumExp,
    Reduction::Max,
    Reduction::Mean,
    Reduction::Min,
    Reduction::Prod,
    Reduction::Sum,
    Reduction::SumSquare,
];

fn ints(v: &[i64]) -> Tensor {
    Tensor::of(&[v.len()], v.to_vec())
}

fn reduced(kind: Reduction, keepdims: bool, noop: bool, t: &Tensor, axes: Option<&[i64]>) -> Result<Tensor> {
    let a = axes.map(ints);
    eval(&Op::Reduce { kind, keepdims, noop_with_empty_axes: noop }, &[Some(t), a.as_ref()], 1, &Ctx::new())
        .map(|mut y| y.remove(0))
}

/// The definition, on a list.
fn by_definition(kind: Reduction, v: &[f64]) -> f64 {
    match kind {
        Reduction::L1 => v.iter().map(|x| x.abs()).sum(),
        Reduction::L2 => v.iter().map(|x| x * x).sum::<f64>().sqrt(),
        Reduction::LogSum => v.iter().sum::<f64>().ln(),
        Reduction::LogSumExp => v.iter().map(|x| x.exp()).sum::<f64>().ln(),
        Reduction::Max => v.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Reduction::Mean => v.iter().sum::<f64>() / v.len() as f64,
        Reduction::Min => v.iter().copied().fold(f64::INFINITY, f64::min),
        Reduction::Prod => v.iter().product(),
        Reduction::Sum => v.iter().sum(),
        Reduction::SumSquare => v.iter().map(|x| x * x).sum(),
    }
}

proptest! {
    #[test]
    fn every_kind_over_any_axes(
        shape in prop::collection::vec(1usize..5, 1..5),
        pick in 0usize..16,
        keepdims in any::<bool>(),
        negative in any::<bool>(),
    ) {
        let rank = shape.len();
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| 0.25 + (i * 7919 % 31) as f32 * 0.05).collect();
        let gone: Vec<usize> = (0..rank).filter(|i| pick >> i & 1 == 1).collect();
        let axes: Vec<i64> = gone.iter().map(|&i| i as i64 - if negative { rank as i64 } else { 0 }).collect();
        let is_gone = |i: usize| gone.is_empty() || gone.contains(&i);
        let kept: Vec<usize> = (0..rank).filter(|&i| !is_gone(i)).map(|i| shape[i]).collect();
        let mut groups = vec![vec![]; kept.iter().product()];
        for (o, &v) in values.iter().enumerate() {
            let (mut rest, mut to, mut stride) = (o, 0, 1);
            for i in (0..rank).rev() {
                if !is_gone(i) {
                    to += rest % shape[i] * stride;
                    stride *= shape[i];
                }
                rest /= shape[i];
            }
            groups[to].push(f64::from(v));
        }
        let with_ones: Vec<usize> = (0..rank).map(|i| if is_gone(i) { 1 } else { shape[i] }).collect();
        for kind in KINDS {
            let single = reduced(kind, keepdims, false, &Tensor::of(&shape, values.clone()), Some(&axes)).unwrap();
            let double = Tensor::of(&shape, values.iter().map(|&v| f64::from(v)).collect());
            let double = reduced(kind, keepdims, false, &double, Some(&axes)).unwrap();
            prop_assert_eq!(single.shape(), if keepdims { &with_ones[..] } else { &kept[..] });
            for (i, g) in groups.iter().enumerate() {
                let e = by_definition(kind, g);
                let (s, d) = (f64::from(single.to_f32s()[i]), double.as_slice::<f64>().unwrap()[i]);
                // f32: the definition rounded once. f64: another order of summation.
                prop_assert!((s - e).abs() <= e.abs() * 6e-8 + 1e-12, "{:?}: {} for {}", kind, s, e);
                prop_assert!((d - e).abs() <= e.abs() * 1e-14 + 1e-14, "{:?}: {} for {}", kind, d, e);
            }
        }
    }

    #[test]
    fn top_k_is_a_stable_sort_cut_off(
        values in prop::collection::vec(-4i32..4, 12),
        k in 0usize..5,
        axis in 0i64..3,
        largest in any::<bool>(),
    ) {
        let shape = [2, 3, 2];
        let size = shape[axis as usize];
        let t = Tensor::of(&shape, values.iter().map(|&v| v as f32).collect());
        let y = eval(&Op::TopK { axis: axis - 3, largest, sorted: true }, &[Some(&t), Some(&ints(&[k as i64]))], 2, &Ctx::new());
        if k > size {
            prop_assert!(y.is_err());
            return Ok(());
        }
        let y = y.unwrap();
        let (outer, _, inner) = crate::exec::float::arrange::around(&shape, axis as usize);
        for o in 0..outer {
            for i in 0..inner {
                let mut line: Vec<(i32, usize)> = (0..size).map(|j| (values[(o * size + j) * inner + i], j)).collect();
                line.sort_by_key(|&(v, _)| if largest { -v } else { v });
                for (j, &(v, from)) in line[..k].iter().enumerate() {
                    let at = (o * k + j) * inner + i;
                    prop_assert_eq!(y[0].to_f32s()[at], v as f32);
                    prop_assert_eq!(y[1].as_slice::<i64>().unwrap()[at], from as i64);
                }
            }
        }
    }
}

#[test]
fn sums_of_long_runs_are_rounded_once() {
    let n = 1_000_003u32;
    let v: Vec<f32> = (0..n).map(|i| 0.1 + (i % 7) as f32).collect();
    let exact =
        v.iter().map(|&x| i128::from((f64::from(x) * 2f64.powi(40)) as i64)).sum::<i128>() as f64 * 2f64.powi(-40);
    let y = reduced(Reduction::Sum, false, false, &Tensor::of(&[v.len()], v), None).unwrap().to_f32s()[0];
    assert_eq!(y, exact as f32);
}

#[test]
fn of_nothing() {
    let t = Tensor::of(&[2, 0, 3], Vec::<f32>::new());
    let of = |kind| reduced(kind, false, false, &t, Some(&[1])).unwrap();
    for kind in KINDS {
        let y = of(kind);
        let e = by_definition(kind, &[]) as f32;
        assert_eq!(y.shape(), [2, 3]);
        assert!(y.to_f32s().iter().all(|&v| v == e || (v.is_nan() && e.is_nan())), "{kind:?}: {y:?} for {e}");
    }
    assert_eq!(reduced(Reduction::Sum, true, false, &t, Some(&[0])).unwrap().shape(), [1, 0, 3]);
    let t = Tensor::of(&[0], Vec::<i8>::new());
    assert_eq!(reduced(Reduction::Max, false, false, &t, None).unwrap().into_vec::<i8>().unwrap(), [i8::MIN]);
    assert_eq!(reduced(Reduction::Min, false, false, &t, None).unwrap().into_vec::<i8>().unwrap(), [i8::MAX]);
    assert_eq!(reduced(Reduction::Prod, false, false, &t, None).unwrap().into_vec::<i8>().unwrap(), [1]);
    assert!(reduced(Reduction::Mean, false, false, &t, None).is_err());
    let t = Tensor::from_bools(&[0], &[]);
    assert_eq!(reduced(Reduction::Max, false, false, &t, None).unwrap().to_f32s(), [0.0]);
    assert_eq!(reduced(Reduction::Min, false, false, &t, None).unwrap().to_f32s(), [1.0]);
}

#[test]
fn integers_booleans_halves_and_extremes() {
    let t = Tensor::of(&[4], vec![-3i32, 4, i32::MAX, 1]);
    let of = |kind| reduced(kind, false, false, &t, None).unwrap().into_vec::<i32>().unwrap()[0];
    assert_eq!(of(Reduction::Sum), i32::MIN + 1);
    assert_eq!((of(Reduction::Max), of(Reduction::Min)), (i32::MAX, -3));
    let t = Tensor::of(&[3], vec![-3i64, -4, 0]);
    let of = |kind| reduced(kind, false, false, &t, None).unwrap().into_vec::<i64>().unwrap()[0];
    assert_eq!((of(Reduction::L1), of(Reduction::L2), of(Reduction::Mean), of(Reduction::Prod)), (7, 5, -2, 0));
    let t = Tensor::from_bools(&[2, 2], &[true, false, false, false]);
    assert_eq!(reduced(Reduction::Max, false, false, &t, Some(&[1])).unwrap().to_f32s(), [1.0, 0.0]);
    assert!(reduced(Reduction::Sum, false, false, &t, None).is_err());
    let t = Tensor::of(&[2], vec![f16::from_f32(1.5), f16::from_f32(2.0)]);
    assert_eq!(
        reduced(Reduction::Sum, false, false, &t, Some(&[0])).unwrap().into_vec::<f16>().unwrap(),
        [f16::from_f32(3.5)]
    );
    let t = Tensor::of(&[2, 2], vec![1000f32, 1000.0, f32::NAN, 1.0]);
    let y = reduced(Reduction::LogSumExp, false, false, &t, Some(&[1])).unwrap().to_f32s();
    assert!((y[0] - 1_000.693_1).abs() < 1e-3 && y[1].is_nan());
    assert!(reduced(Reduction::Max, false, false, &t, Some(&[1])).unwrap().to_f32s()[1].is_nan());
}

#[test]
fn axes_that_are_wrong_or_not_there() {
    let t = Tensor::of(&[2, 3], vec![1f32; 6]);
    assert!(reduced(Reduction::Sum, true, false, &t, Some(&[2])).is_err());
    assert!(reduced(Reduction::Sum, true, false, &t, Some(&[i64::MIN])).is_err());
    assert!(reduced(Reduction::Sum, true, false, &t, Some(&[0, -2])).is_err());
    assert_eq!(reduced(Reduction::Sum, true, true, &t, Some(&[])).unwrap().shape(), [2, 3]);
    assert_eq!(reduced(Reduction::Sum, true, true, &t, None).unwrap().shape(), [2, 3]);
    assert_eq!(reduced(Reduction::Sum, true, false, &t, Some(&[])).unwrap().to_f32s(), [6.0]);
    assert_eq!(reduced(Reduction::Mean, true, false, &Tensor::scalar(3f32), None).unwrap().to_f32s(), [3.0]);
}

#[test]
fn places_of_extremes() {
    let t = Tensor::of(&[2, 4], vec![1f32, 3.0, 3.0, 0.0, 5.0, f32::NAN, 5.0, f32::NAN]);
    let of = |max, axis, last| arg(max, axis, false, last, &[Some(&t)]).unwrap().into_vec::<i64>().unwrap();
    assert_eq!(of(true, 1, false), [1, 1]);
    assert_eq!(of(true, -1, true), [2, 3]);
    assert_eq!(of(false, 1, false), [3, 1]);
    assert_eq!(of(true, 0, false), [1, 1, 1, 1]);
    assert_eq!(arg(true, 1, true, false, &[Some(&t)]).unwrap().shape(), [2, 1]);
    assert!(arg(true, 2, true, false, &[Some(&t)]).is_err());
    assert!(arg(true, 0, true, false, &[Some(&Tensor::of(&[0, 2], Vec::<u8>::new()))]).is_err());
    assert_eq!(arg(true, 0, true, false, &[Some(&Tensor::scalar(7u8))]).unwrap().shape(), [0usize; 0]);
}

#[test]
fn running_sums() {
    let t = Tensor::of(&[2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let of = |exclusive, reverse, axis: i64| {
        cumsum(exclusive, reverse, &[Some(&t), Some(&Tensor::scalar(axis))]).unwrap().to_f32s()
    };
    assert_eq!(of(false, false, 1), [1.0, 3.0, 6.0, 4.0, 9.0, 15.0]);
    assert_eq!(of(true, false, -1), [0.0, 1.0, 3.0, 0.0, 4.0, 9.0]);
    assert_eq!(of(false, true, 1), [6.0, 5.0, 3.0, 15.0, 11.0, 6.0]);
    assert_eq!(of(true, true, 0), [4.0, 5.0, 6.0, 0.0, 0.0, 0.0]);
    assert!(cumsum(false, false, &[Some(&t), Some(&Tensor::scalar(2i64))]).is_err());
    let t = Tensor::of(&[2], vec![u32::MAX, 2]);
    let y = cumsum(false, false, &[Some(&t), Some(&Tensor::scalar(0i32))]).unwrap();
    assert_eq!(y.into_vec::<u32>().unwrap(), [u32::MAX, 1]);
}
