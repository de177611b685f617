use super::*;
use crate::testing::noise;
use burn::backend::Flex;
use nnq::ir::{DType, GraphBuilder, Tensor, op::Unary};

/// Some numbers without a pattern, from -1 to 1.
fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Layers of these widths, a ReLU between each two, without biases.
fn network(widths: &[usize], seed: u64) -> Graph {
    let mut b = GraphBuilder::new("net");
    let mut x = b.input("x", DType::F32, &format!("N, {}", widths[0]));
    for (i, w) in widths.windows(2).enumerate() {
        if i > 0 {
            x = b.op(&format!("relu{i}"), Op::Unary(Unary::Relu), &[x]);
        }
        let weight = b.constant(&format!("w{i}"), Tensor::of(&[w[1], w[0]], noise(w[0] * w[1], seed + i as u64)));
        let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        x = b.op(&format!("fc{i}"), gemm, &[x, weight]);
    }
    b.output(x);
    b.finish().unwrap()
}

/// Runs a check on the curvature of a network at some samples, in batches of 4.
fn with<T>(graph: &Graph, x: &[f32], labels: &[usize], check: impl FnOnce(&Curvature<Flex>, &[Vec<f32>]) -> T) -> T {
    let width = x.len() / labels.len();
    let inputs =
        |r: std::ops::Range<usize>| Ok(Tensor::of(&[r.len(), width], x[r.start * width..r.end * width].to_vec()));
    let over = Over { inputs: &inputs, labels, batch: 4, cancel: None };
    let objective = Objective::<Flex>::new(graph, over, Device::<Flex>::default()).unwrap();
    let weights = objective.weights().unwrap();
    check(&Curvature::new(&objective, 7).unwrap(), &weights)
}

/// The largest eigenvalue of a symmetric matrix, by many steps in binary64.
fn largest(h: &[Vec<f64>]) -> f64 {
    let mut v: Vec<f64> = wide(&noise(h.len(), 1));
    let mut value = 0.0;
    for _ in 0..5000 {
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= length);
        let next: Vec<f64> = h.iter().map(|row| row.iter().zip(&v).map(|(a, b)| a * b).sum()).collect();
        value = next.iter().zip(&v).map(|(a, b)| a * b).sum();
        v = next;
    }
    value
}

fn shares(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = logits.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|x| x / sum).collect()
}

fn times(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn close(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{got} for {want}, allowed {tolerance}");
}

/// Softmax regression: `H = mean of (diag(p) - p p^T) (x) x x^T`.
#[test]
fn softmax_regression_as_known() {
    // Samples all around: the largest eigenvalues lie near each other.
    assert!(regression([10, 5, 4], &noise(50, 11)).settled);
    // Samples in nearly the same direction: there is one large eigenvalue.
    let narrow: Vec<f32> = noise(30, 13).iter().map(|x| 1.0 + 0.2 * x).collect();
    assert!(regression([10, 3, 2], &narrow).settled);
}

/// Checks everything for so many samples, inputs and classes.
fn regression([n, d, c]: [usize; 3], x: &[f32]) -> Eigenvalue {
    let graph = network(&[d, c], 3);
    let labels: Vec<usize> = (0..n).map(|i| i % c).collect();
    with(&graph, x, &labels, |curvature, weights| {
        let (w, x) = (wide(&weights[0]), wide(x));
        let mut h = vec![vec![0.0; c * d]; c * d];
        for x in x.chunks(d) {
            let p = shares(&times(&w, x));
            for (i, row) in h.iter_mut().enumerate() {
                for (j, h) in row.iter_mut().enumerate() {
                    let diagonal = if i / d == j / d { p[i / d] } else { 0.0 };
                    *h += (diagonal - p[i / d] * p[j / d]) * x[i % d] * x[j % d] / n as f64;
                }
            }
        }
        let (trace, top) = ((0..c * d).map(|i| h[i][i]).sum::<f64>(), largest(&h));
        let v = wide(&noise(c * d, 5));
        let got = curvature.product(&[Some(v.clone())]).unwrap().remove(0);
        // Gradients in binary32 over a step of a thousandth.
        for (row, got) in h.iter().zip(got) {
            close(got, row.iter().zip(&v).map(|(a, b)| a * b).sum(), 1e-3 * top);
        }
        let found = curvature.traces(200, &mut |_| {}).unwrap()[0];
        // Four standard errors, which are of this size: 2 (|H|^2 - |diag H|^2) is the variance of a draw.
        let spread: f64 = (0..c * d)
            .flat_map(|i| (0..c * d).map(move |j| (i, j)))
            .filter(|(i, j)| i != j)
            .map(|(i, j)| 2.0 * h[i][j].powi(2))
            .sum();
        close(found.error, (spread / 200.0).sqrt(), 0.3 * found.error);
        close(found.mean, trace, 4.0 * found.error);
        let found = curvature.eigenvalue(0).unwrap();
        // What differences are good for, and what is left when it has settled.
        close(found.value, top, 0.003 * top);
        found
    })
}

/// Two layers and a ReLU: against second differences of the loss in binary64.
#[test]
fn blocks_of_two_layers_as_the_loss_says() {
    let (n, widths) = (6, [3, 4, 3]);
    let (graph, x) = (network(&widths, 21), noise(n * 3, 31));
    let labels: Vec<usize> = (0..n).map(|i| i % 3).collect();
    with(&graph, &x, &labels, |curvature, weights| {
        let flat: Vec<f64> = weights.iter().flat_map(|w| wide(w)).collect();
        let x = wide(&x);
        let first = weights[0].len();
        let nearest = x.chunks(3).flat_map(|x| times(&flat[..first], x)).fold(f64::INFINITY, |a, b| a.min(b.abs()));
        assert!(nearest > 0.01, "a kink within the step: {nearest}");
        let loss = |w: &[f64]| -> f64 {
            let one = |(x, &label): (&[f64], &usize)| {
                let hidden: Vec<f64> = times(&w[..first], x).iter().map(|y| y.max(0.0)).collect();
                -shares(&times(&w[first..], &hidden))[label].ln() / n as f64
            };
            x.chunks(3).zip(&labels).map(one).sum()
        };
        let size = flat.len();
        let second = |i: usize, j: usize| {
            let at = |a: f64, b: f64| {
                let mut w = flat.clone();
                w[i] += a * 1e-4;
                w[j] += b * 1e-4;
                loss(&w)
            };
            (at(1.0, 1.0) - at(1.0, -1.0) - at(-1.0, 1.0) + at(-1.0, -1.0)) / 4e-8
        };
        let h: Vec<Vec<f64>> = (0..size).map(|i| (0..size).map(|j| second(i, j)).collect()).collect();
        let split = |v: &[f64]| vec![Some(v[..first].to_vec()), Some(v[first..].to_vec())];
        let top = largest(&h).abs();
        for i in 0..size {
            let mut v = vec![0.0; size];
            v[i] = 1.0;
            let got = curvature.product(&split(&v)).unwrap().concat();
            got.iter().zip(&h[i]).for_each(|(got, want)| close(*got, *want, 2e-3 * top));
        }
        // The Hessian is symmetric.
        let (u, v) = (wide(&noise(size, 41)), wide(&noise(size, 42)));
        let bilinear = |u: &[f64], v: &[f64]| -> f64 {
            let h = curvature.product(&split(v)).unwrap().concat();
            h.iter().zip(u).map(|(a, b)| a * b).sum()
        };
        close(bilinear(&u, &v), bilinear(&v, &u), 2e-3 * top * size as f64 / 3.0);
        let traces = curvature.traces(300, &mut |_| {}).unwrap();
        for (l, block) in [0..first, first..size].into_iter().enumerate() {
            let inside: Vec<Vec<f64>> = h[block.clone()].iter().map(|row| row[block.clone()].to_vec()).collect();
            let trace: f64 = (0..inside.len()).map(|i| inside[i][i]).sum();
            close(traces[l].mean, trace, 4.0 * traces[l].error);
            close(curvature.eigenvalue(l).unwrap().value, largest(&inside), 0.005 * top);
        }
    });
}

/// What is all 0 has no curvature and is no division by 0.
#[test]
fn weights_and_samples_of_zeros() {
    let graph = network(&[3, 2], 3);
    with(&graph, &[0.0; 6], &[0, 1], |curvature, _| {
        assert_eq!(curvature.traces(2, &mut |_| {}).unwrap(), [Trace { mean: 0.0, error: 0.0 }]);
        assert_eq!(curvature.eigenvalue(0).unwrap(), Eigenvalue { value: 0.0, products: 1, settled: true });
    });
}

/// A softmax at the end is the loss's own.
#[test]
fn a_softmax_at_the_end_is_left_out() {
    let plain = network(&[3, 2], 3);
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "N, 3");
    let y = b.op("softmax", Op::Softmax { axis: -1, flat: false }, &[x]);
    b.output(y);
    assert_eq!(logits(&b.finish().unwrap()).outputs, [x]);
    assert_eq!(logits(&plain).outputs, plain.outputs);
}

#[test]
fn a_network_without_weights_is_an_error() {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "N, 3");
    let y = b.op("relu", Op::Unary(Unary::Relu), &[x]);
    b.output(y);
    let over = Over { inputs: &|_| Ok(Tensor::of(&[1, 3], vec![0f32; 3])), labels: &[0], batch: 1, cancel: None };
    let graph = b.finish().unwrap();
    let e = Objective::<Flex>::new(&graph, over, Device::<Flex>::default()).err().unwrap().to_string();
    assert!(e.contains("no layer of the network has weights"), "{e}");
}
