use super::*;
use proptest::prelude::*;

fn bound(k: usize, size: f64) -> f64 {
    (k + 2) as f64 * f64::from(f32::EPSILON) * size
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn matmul_is_the_definition(
        m in 1..=40usize, k in 1..=70usize, n in 1..=70usize,
        batch in prop::sample::select(vec![
            (vec![], vec![]), (vec![3], vec![]), (vec![], vec![2]), (vec![2, 1], vec![3]), (vec![4], vec![4]), (vec![1, 2], vec![2, 1]),
        ]),
        seed in any::<u32>(),
    ) {
        let (ba, bb): (Vec<usize>, Vec<usize>) = batch;
        let a = tensor(&[&ba[..], &[m, k]].concat(), seed.into());
        let b = tensor(&[&bb[..], &[k, n]].concat(), u64::from(seed) + 1);
        let y = one(Op::MatMul, &[&a, &b]).unwrap();
        let rank = ba.len().max(bb.len());
        let pad = |s: &[usize]| [&vec![1; rank - s.len()][..], s].concat();
        let (ba, bb) = (pad(&ba), pad(&bb));
        let out: Vec<usize> = ba.iter().zip(&bb).map(|(&x, &y)| x.max(y)).collect();
        let (av, bv) = (a.to_f32s(), b.to_f32s());
        let mut reference = Vec::new();
        for at in indices(&out) {
            let here = |s: &[usize]| flat(&at.iter().zip(s).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect::<Vec<_>>(), s);
            let (ia, ib) = (here(&ba), here(&bb));
            for r in 0..m {
                for c in 0..n {
                    let t = |i: usize| f64::from(av[(ia * m + r) * k + i]) * f64::from(bv[(ib * k + i) * n + c]);
                    reference.push(((0..k).map(t).sum::<f64>(), bound(k, (0..k).map(|i| t(i).abs()).sum())));
                }
            }
        }
        close(&y, &[&out[..], &[m, n]].concat(), &reference);
    }

    #[test]
    fn gemm_is_the_definition(
        m in 1..=20usize, k in 1..=300usize, n in 1..=70usize, ta in any::<bool>(), tb in any::<bool>(),
        alpha in prop::sample::select(vec![1.0f32, 0.5, -2.0]), beta in prop::sample::select(vec![1.0f32, 0.0, 0.25]),
        c in 0..5usize, seed in any::<u32>(),
    ) {
        let a = tensor(&if ta { [k, m] } else { [m, k] }, seed.into());
        let b = tensor(&if tb { [n, k] } else { [k, n] }, u64::from(seed) + 1);
        let cs = [vec![], vec![n], vec![1, n], vec![m, 1], vec![m, n]][c].clone();
        let c = tensor(&cs, u64::from(seed) + 2);
        let y = one(Op::Gemm { alpha, beta, trans_a: ta, trans_b: tb }, &[&a, &b, &c]).unwrap();
        let (av, bv, cv) = (a.to_f32s(), b.to_f32s(), c.to_f32s());
        let mut reference = Vec::new();
        for r in 0..m {
            for j in 0..n {
                let t = |i: usize| {
                    f64::from(av[if ta { i * m + r } else { r * k + i }]) * f64::from(bv[if tb { j * k + i } else { i * n + j }])
                };
                let cv = match cs.len() {
                    0 => cv[0],
                    1 => cv[j],
                    _ => cv[if cs[0] == 1 { 0 } else { r * cs[1] } + if cs[1] == 1 { 0 } else { j }],
                };
                let (alpha, add) = (f64::from(alpha), f64::from(beta) * f64::from(cv));
                let size: f64 = (0..k).map(|i| t(i).abs()).sum::<f64>() * alpha.abs() + add.abs();
                reference.push((alpha * (0..k).map(t).sum::<f64>() + add, bound(k, size)));
            }
        }
        close(&y, &[m, n], &reference);
    }
}

#[test]
fn vectors_drop_their_axis() {
    let (a, b) = (tensor(&[5], 1), tensor(&[5], 2));
    assert_eq!(one(Op::MatMul, &[&a, &b]).unwrap().shape(), [0usize; 0]);
    assert_eq!(one(Op::MatMul, &[&a, &tensor(&[2, 5, 3], 2)]).unwrap().shape(), [2, 3]);
    assert_eq!(one(Op::MatMul, &[&tensor(&[2, 3, 5], 2), &b]).unwrap().shape(), [2, 3]);
    assert!(one(Op::MatMul, &[&a, &tensor(&[4], 2)]).is_err());
    assert!(one(Op::MatMul, &[&Tensor::scalar(1.0f32), &b]).is_err());
}

#[test]
fn integers_wrap_around() {
    let a = Tensor::of(&[1, 2], vec![i32::MAX, 3]);
    let b = Tensor::of(&[2, 1], vec![2i32, 5]);
    let y = one(Op::MatMul, &[&a, &b]).unwrap();
    assert_eq!(y.as_slice::<i32>().unwrap(), [i32::MAX.wrapping_mul(2).wrapping_add(15)]);
}

/// A row of a batch equals the row alone, bit for bit.
#[test]
fn rows_do_not_see_each_other() {
    for (m, k, n) in [(1, 700, 33), (37, 700, 130), (300, 20, 1)] {
        let (a, b) = (tensor(&[m, k], 3), tensor(&[k, n], 4));
        let y = one(Op::MatMul, &[&a, &b]).unwrap();
        for (row, y) in a.to_f32s().chunks(k).zip(y.to_f32s().chunks(n)) {
            assert_eq!(one(Op::MatMul, &[&Tensor::of(&[1, k], row.to_vec()), &b]).unwrap().to_f32s(), y);
        }
    }
}
