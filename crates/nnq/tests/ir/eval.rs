//! A tiny evaluator, written from the operators' definitions and sharing no code with the executors: f64, one loop per definition.
use nnq::ir::{
    DType, Data, Graph, Op, Tensor,
    op::{AutoPad, Binary, Reduction, Unary, Variadic},
};
use nnq::{Error, Result};
use std::collections::HashMap;

/// Numbers and their shape; the element type only matters at the border.
#[derive(Clone, Debug)]
struct Nums {
    shape: Vec<usize>,
    x: Vec<f64>,
    dtype: DType,
}

fn nums(t: &Tensor) -> Nums {
    let x = match t.data() {
        Data::F64(b) => b.to_vec(),
        _ => match t.to_i64s() {
            Ok(v) => v.into_iter().map(|x| x as f64).collect(),
            Err(_) => t.to_f32s().into_iter().map(f64::from).collect(),
        },
    };
    Nums { shape: t.shape().to_vec(), x, dtype: t.dtype() }
}

fn tensor(n: &Nums) -> Tensor {
    match n.dtype {
        DType::F32 => Tensor::of(&n.shape, n.x.iter().map(|&x| x as f32).collect()),
        DType::F64 => Tensor::of(&n.shape, n.x.clone()),
        DType::I64 => Tensor::of(&n.shape, n.x.iter().map(|&x| x as i64).collect()),
        DType::Bool => Tensor::from_bools(&n.shape, &n.x.iter().map(|&x| x != 0.0).collect::<Vec<_>>()),
        d => panic!("the test evaluator makes no {d}"),
    }
}

/// All index tuples of a shape, in row-major order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &n in shape {
        all = all.into_iter().flat_map(|p: Vec<usize>| (0..n).map(move |i| [p.clone(), vec![i]].concat())).collect();
    }
    all
}

impl Nums {
    fn at(&self, i: &[usize]) -> f64 {
        self.x[i.iter().zip(&self.shape).fold(0, |p, (&i, &n)| p * n + i)]
    }
    /// The element that broadcasting puts at index `i` of a larger shape.
    fn cast(&self, i: &[usize]) -> f64 {
        let skip = i.len() - self.shape.len();
        let own: Vec<usize> = i[skip..].iter().zip(&self.shape).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect();
        self.at(&own)
    }
}

fn make(shape: &[usize], dtype: DType, f: impl Fn(&[usize]) -> f64) -> Nums {
    Nums { shape: shape.to_vec(), x: indices(shape).iter().map(|i| f(i)).collect(), dtype }
}

fn broadcast(xs: &[&Nums]) -> Vec<usize> {
    let rank = xs.iter().map(|x| x.shape.len()).max().unwrap();
    (0..rank)
        .map(|i| {
            let sizes = xs.iter().filter_map(|x| (i + x.shape.len()).checked_sub(rank).map(|j| x.shape[j]));
            sizes.reduce(|a, b| if a == 1 { b } else { a }).unwrap()
        })
        .collect()
}

/// Abramowitz and Stegun 7.1.5, the power series, summed until nothing is added. Beyond 4 it cancels, and erf is 1 to 2e-8.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn unary(u: Unary, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match u {
        Unary::Relu => x.max(0.0),
        Unary::Sigmoid => sigmoid(x),
        Unary::Swish { alpha } => x * sigmoid(f64::from(alpha) * x),
        Unary::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Unary::Erf => erf(x),
        Unary::Tanh => x.tanh(),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Neg => -x,
        Unary::Gelu { tanh: false } => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Unary::Gelu { tanh: true } => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        u => panic!("the test evaluator knows no {}", u.name()),
    }
}

fn binary(b: Binary, x: f64, y: f64) -> f64 {
    match b {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Pow => x.powf(y),
        b => panic!("the test evaluator knows no {}", b.name()),
    }
}

fn group_norm_axes(rank: usize, axes: &[f64]) -> Vec<usize> {
    axes.iter().map(|&a| if a < 0.0 { (a + rank as f64) as usize } else { a as usize }).collect()
}

/// One operator. Panics on what the tests do not need.
pub fn eval(op: &Op, x: &[Option<&Tensor>], _outputs: usize) -> Result<Vec<Tensor>> {
    let n: Vec<Option<Nums>> = x.iter().map(|t| t.map(nums)).collect();
    let a = n[0].as_ref().unwrap();
    let get = |i: usize| n.get(i).and_then(Option::as_ref);
    let out = match op {
        Op::Unary(u) => make(&a.shape, a.dtype, |i| unary(*u, a.at(i))),
        Op::Binary(b) => {
            let y = get(1).unwrap();
            make(&broadcast(&[a, y]), a.dtype, |i| binary(*b, a.cast(i), y.cast(i)))
        }
        Op::Variadic(v) => {
            let all: Vec<&Nums> = n.iter().flatten().collect();
            make(&broadcast(&all), a.dtype, |i| {
                let list = all.iter().map(|x| x.cast(i));
                match v {
                    Variadic::Max => list.fold(f64::NEG_INFINITY, f64::max),
                    Variadic::Min => list.fold(f64::INFINITY, f64::min),
                    Variadic::Sum => list.sum(),
                    Variadic::Mean => list.sum::<f64>() / all.len() as f64,
                }
            })
        }
        Op::Clip => {
            let (lo, hi) = (get(1).map_or(f64::MIN, |b| b.x[0]), get(2).map_or(f64::MAX, |b| b.x[0]));
            make(&a.shape, a.dtype, |i| a.at(i).max(lo).min(hi))
        }
        Op::Identity => a.clone(),
        Op::Reshape { .. } => {
            let shape = get(1).unwrap().x.iter().map(|&d| d as usize).collect();
            Nums { shape, ..a.clone() }
        }
        Op::Transpose { perm } => {
            let shape: Vec<usize> = perm.iter().map(|&p| a.shape[p]).collect();
            make(&shape, a.dtype, |i| {
                let mut j = vec![0; i.len()];
                perm.iter().zip(i).for_each(|(&p, &i)| j[p] = i);
                a.at(&j)
            })
        }
        Op::ConstantOfShape { value } => {
            let shape: Vec<usize> = a.x.iter().map(|&d| d as usize).collect();
            let v = nums(value);
            make(&shape, v.dtype, |_| v.x[0])
        }
        Op::Reduce { kind: Reduction::Mean, keepdims: true, .. } => {
            let axes = group_norm_axes(a.shape.len(), &get(1).unwrap().x);
            let mut shape = a.shape.clone();
            axes.iter().for_each(|&k| shape[k] = 1);
            make(&shape, a.dtype, |i| {
                let hits: Vec<f64> = indices(&a.shape)
                    .iter()
                    .filter(|j| (0..i.len()).all(|k| axes.contains(&k) || i[k] == j[k]))
                    .map(|j| a.at(j))
                    .collect();
                hits.iter().sum::<f64>() / hits.len() as f64
            })
        }
        Op::LayerNormalization { axis, epsilon } => {
            let from = if *axis < 0 { (a.shape.len() as i64 + axis) as usize } else { *axis as usize };
            make(&a.shape, a.dtype, |i| {
                let row: Vec<f64> =
                    indices(&a.shape).iter().filter(|j| j[..from] == i[..from]).map(|j| a.at(j)).collect();
                let mean = row.iter().sum::<f64>() / row.len() as f64;
                let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
                let y = (a.at(i) - mean) / (var + f64::from(*epsilon)).sqrt();
                y * get(1).unwrap().cast(i) + get(2).map_or(0.0, |b| b.cast(i))
            })
        }
        Op::BatchNormalization { epsilon } => make(&a.shape, a.dtype, |i| {
            let c = |k: usize| get(k).unwrap().x[i[1]];
            (a.at(i) - c(3)) / (c(4) + f64::from(*epsilon)).sqrt() * c(1) + c(2)
        }),
        Op::Pad { .. } => {
            let r = a.shape.len();
            let pads = &get(1).unwrap().x;
            let value = get(2).map_or(0.0, |v| v.x[0]);
            let shape: Vec<usize> = (0..r).map(|k| a.shape[k] + pads[k] as usize + pads[r + k] as usize).collect();
            make(&shape, a.dtype, |i| {
                let j: Vec<usize> = (0..r).map(|k| i[k].wrapping_sub(pads[k] as usize)).collect();
                if j.iter().zip(&a.shape).all(|(j, n)| j < n) { a.at(&j) } else { value }
            })
        }
        Op::MatMul => {
            let b = get(1).unwrap();
            let r = a.shape.len();
            let mut shape = a.shape.clone();
            shape[r - 1] = b.shape[1];
            make(&shape, a.dtype, |i| {
                (0..b.shape[0]).map(|k| a.at(&[&i[..r - 1], &[k]].concat()) * b.at(&[k, i[r - 1]])).sum()
            })
        }
        Op::Gemm { alpha, beta, trans_a: false, trans_b } => {
            let b = get(1).unwrap();
            let w = |k: usize, j: usize| if *trans_b { b.at(&[j, k]) } else { b.at(&[k, j]) };
            let cols = b.shape[usize::from(!trans_b)];
            make(&[a.shape[0], cols], a.dtype, |i| {
                let sum: f64 = (0..a.shape[1]).map(|k| a.at(&[i[0], k]) * w(k, i[1])).sum();
                f64::from(*alpha) * sum + f64::from(*beta) * get(2).map_or(0.0, |c| c.cast(i))
            })
        }
        Op::Conv(c) => {
            assert!(c.auto_pad == AutoPad::NotSet && a.shape.len() == 4);
            let w = get(1).unwrap();
            let at = |l: &[usize], i: usize| l.get(i).copied().unwrap_or(1) as i64;
            let pad = |i: usize| c.pads.get(i).copied().unwrap_or(0);
            let size = |k: usize| {
                let room =
                    a.shape[k + 2] as i64 + pad(k) + pad(k + 2) - at(&c.dilations, k) * (w.shape[k + 2] as i64 - 1) - 1;
                (room / at(&c.strides, k) + 1) as usize
            };
            let (per_in, per_out) = (w.shape[1], w.shape[0] / c.group);
            make(&[a.shape[0], w.shape[0], size(0), size(1)], a.dtype, |i| {
                let sum: f64 = indices(&w.shape[1..])
                    .iter()
                    .map(|k| {
                        let p = |d: usize| {
                            i[d + 2] as i64 * at(&c.strides, d) - pad(d) + k[d + 1] as i64 * at(&c.dilations, d)
                        };
                        let inside = (0..2).all(|d| p(d) >= 0 && p(d) < a.shape[d + 2] as i64);
                        let channel = i[1] / per_out * per_in + k[0];
                        let x = || a.at(&[i[0], channel, p(0) as usize, p(1) as usize]);
                        if inside { x() * w.at(&[i[1], k[0], k[1], k[2]]) } else { 0.0 }
                    })
                    .sum();
                sum + get(2).map_or(0.0, |b| b.x[i[1]])
            })
        }
        Op::ConvTranspose(t) => {
            // No pads, stride 1 or more: each input element adds a scaled kernel to the output.
            let (c, w) = (&t.conv, get(1).unwrap());
            assert!(c.pads.is_empty() && c.dilations.is_empty());
            let s = |k: usize| c.strides.get(k).copied().unwrap_or(1);
            let (per_in, per_out) = (a.shape[1] / c.group, w.shape[1]);
            let size = |k: usize| (a.shape[k + 2] - 1) * s(k) + w.shape[k + 2];
            let mut y = make(&[a.shape[0], per_out * c.group, size(0), size(1)], a.dtype, |i| {
                get(2).map_or(0.0, |b| b.x[i[1]])
            });
            for i in indices(&a.shape) {
                for k in indices(&w.shape[1..]) {
                    let to = [i[0], i[1] / per_in * per_out + k[0], i[2] * s(0) + k[1], i[3] * s(1) + k[2]];
                    let flat = to.iter().zip(&y.shape).fold(0, |p, (&i, &n)| p * n + i);
                    y.x[flat] += a.at(&i) * w.at(&[i[1], k[0], k[1], k[2]]);
                }
            }
            y
        }
        op => return Err(Error::unsupported(format!("the test evaluator knows no {}", op.name()))),
    };
    Ok(vec![tensor(&out)])
}

/// Runs a graph. Every operator but the output passes through its element type, as in an executor.
pub fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut values: HashMap<u32, Tensor> = HashMap::new();
    for (id, v) in graph.values() {
        if let Some(t) = &v.constant {
            values.insert(id.0, (**t).clone());
        }
    }
    for (id, t) in graph.inputs.iter().zip(inputs) {
        values.insert(id.0, t.clone());
    }
    for (_, node) in graph.nodes() {
        let x: Vec<Option<&Tensor>> = node.inputs.iter().map(|v| v.map(|v| &values[&v.0])).collect();
        let out = eval(&node.op, &x, node.outputs.len()).unwrap_or_else(|e| panic!("{}: {e}", node.name));
        for (v, t) in node.outputs.iter().zip(out) {
            values.insert(v.unwrap().0, t);
        }
    }
    graph.outputs.iter().map(|v| values[&v.0].clone()).collect()
}

/// Numbers that look random, the same in every run: a multiplicative congruential generator (Lehmer), in [-1, 1).
pub fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut s = seed * 7_919 + 1;
    let n = shape.iter().product();
    let mut draw = || {
        s = s * 48_271 % 2_147_483_647;
        s as f32 / 1_073_741_824.0 - 1.0
    };
    (0..20).for_each(|_| _ = draw());
    Tensor::of(shape, (0..n).map(|_| draw()).collect::<Vec<f32>>())
}

/// The greatest difference of two tensors of f32, relative to the greatest magnitude.
pub fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f32s(), b.to_f32s());
    let top = a.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    a.iter().zip(&b).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / top
}
