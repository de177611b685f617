use super::*;

/// Results are rounded a few times from binary64 moments; values stay below 4.
const BOUND: f64 = 4e-6;

fn values(t: &Tensor) -> Vec<f64> {
    t.to_f32s().into_iter().map(f64::from).collect()
}

fn moments(x: &[f64]) -> (f64, f64) {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    (mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64)
}

const EPS: f32 = 1e-2;

#[test]
fn batch() {
    let shape = [2, 3, 4, 5];
    let (x, s, b, m) = (tensor(&shape, 1), tensor(&[3], 2), tensor(&[3], 3), tensor(&[3], 4));
    let v = Tensor::of(&[3], vec![0.25f32, 1.0, 3.0]);
    let y = one(Op::BatchNormalization { epsilon: EPS }, &[&x, &s, &b, &m, &v]).unwrap();
    let [sv, bv, mv, vv] = [&s, &b, &m, &v].map(values);
    let reference: Vec<_> = values(&x)
        .iter()
        .enumerate()
        .map(|(i, x)| {
            let c = i / 20 % 3;
            (sv[c] * (x - mv[c]) / (vv[c] + f64::from(EPS)).sqrt() + bv[c], BOUND)
        })
        .collect();
    close(&y, &shape, &reference);
    assert!(one(Op::BatchNormalization { epsilon: EPS }, &[&x, &tensor(&[4], 1), &b, &m, &v]).is_err());
}

#[test]
fn instance_group_and_layer() {
    let shape = [2, 6, 3, 5];
    let (x, s, b) = (tensor(&shape, 1), tensor(&[6], 2), tensor(&[6], 3));
    let (xv, sv, bv) = (values(&x), values(&s), values(&b));
    // Groups of 1, 2, 3 and 6 channels: instance normalisation is one channel a group.
    for together in [1, 2, 3, 6] {
        let mut reference = Vec::new();
        for (g, chunk) in xv.chunks(together * 15).enumerate() {
            let (mean, var) = moments(chunk);
            for (i, x) in chunk.iter().enumerate() {
                let c = (g * together + i / 15) % 6;
                reference.push(((x - mean) / (var + f64::from(EPS)).sqrt() * sv[c] + bv[c], BOUND));
            }
        }
        let op = Op::GroupNormalization { epsilon: EPS, groups: 6 / together };
        close(&one(op, &[&x, &s, &b]).unwrap(), &shape, &reference);
        if together == 1 {
            close(&one(Op::InstanceNormalization { epsilon: EPS }, &[&x, &s, &b]).unwrap(), &shape, &reference);
        }
    }
    let (s, b) = (tensor(&[3, 5], 2), tensor(&[5], 3));
    let (sv, bv) = (values(&s), values(&b));
    let mut reference = Vec::new();
    let (mut means, mut inverses) = (Vec::new(), Vec::new());
    for chunk in xv.chunks(15) {
        let (mean, var) = moments(chunk);
        let inverse = 1.0 / (var + f64::from(EPS)).sqrt();
        means.push((mean, 1e-7));
        inverses.push((inverse, 1e-6));
        for (i, x) in chunk.iter().enumerate() {
            reference.push(((x - mean) * inverse * sv[i] + bv[i % 5], BOUND));
        }
    }
    let op = Op::LayerNormalization { axis: -2, epsilon: EPS };
    let y = eval(&op, &[Some(&x), Some(&s), Some(&b)], 3, &Ctx::new()).unwrap();
    close(&y[0], &shape, &reference);
    close(&y[1], &[2, 6, 1, 1], &means);
    close(&y[2], &[2, 6, 1, 1], &inverses);
}

#[test]
fn lrn() {
    for size in [1, 2, 3, 5, 9] {
        let shape = [2, 6, 3, 2];
        let x = tensor(&shape, 1);
        let xv = values(&x);
        let y = one(Op::Lrn { alpha: 0.5, beta: 0.75, bias: 1.5, size }, &[&x]).unwrap();
        let reference: Vec<_> = indices(&shape)
            .iter()
            .map(|i| {
                // The specification: channels from c - floor((size-1)/2) to c + ceil((size-1)/2).
                let half = (size as f64 - 1.0) / 2.0;
                let (low, high) = (i[1] as f64 - half.floor(), i[1] as f64 + half.ceil());
                let square: f64 = (0..6usize)
                    .filter(|&c| c as f64 >= low && c as f64 <= high)
                    .map(|c| xv[flat(&[i[0], c, i[2], i[3]], &shape)].powi(2))
                    .sum();
                (xv[flat(i, &shape)] / (1.5 + 0.5 / size as f64 * square).powf(0.75), 1e-6)
            })
            .collect();
        close(&y, &shape, &reference);
    }
}

#[test]
fn softmax() {
    let shape = [3, 4, 5];
    let x = Tensor::of(&shape, noise(60, 7).into_iter().map(|x| x * 300.0).collect());
    let xv = values(&x);
    for axis in [-3i64, -1, 0, 1, 2] {
        for flat_rule in [false, true] {
            let at = if axis < 0 { axis + 3 } else { axis } as usize;
            // Elements that are normalised together.
            let together = |i: &[usize], j: &[usize]| {
                if flat_rule { i[..at] == j[..at] } else { (0..3).all(|a| a == at || i[a] == j[a]) }
            };
            let all = indices(&shape);
            let reference: Vec<_> = all
                .iter()
                .map(|i| {
                    let me = xv[flat(i, &shape)];
                    let sum: f64 =
                        all.iter().filter(|j| together(i, j)).map(|j| (xv[flat(j, &shape)] - me).exp()).sum();
                    (1.0 / sum, sum)
                })
                .collect();
            let p: Vec<_> = reference.iter().map(|r| (r.0, 1e-6)).collect();
            // A logarithm of up to 600 in binary32.
            let log: Vec<_> = reference.iter().map(|r| (-r.1.ln(), 1e-4)).collect();
            close(&one(Op::Softmax { axis, flat: flat_rule }, &[&x]).unwrap(), &shape, &p);
            close(&one(Op::LogSoftmax { axis, flat: flat_rule }, &[&x]).unwrap(), &shape, &log);
        }
    }
    assert!(one(Op::Softmax { axis: 3, flat: false }, &[&x]).is_err());
}
