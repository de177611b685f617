//! What values are on average, without running anything: distributions that batch normalisations left ([`Channels`]) or that were measured,
//! propagated through what lies between (Nagel et al., 2019, "Data-free quantization through weight equalization and bias correction", section 4.2
//! and appendix C: the clipped normal distribution).
use super::balance::{drops_space, over_space};
use crate::ir::{
    Channels, Graph, Node, Op, Tensor, ValueId,
    op::{Binary, Reduction, Unary},
};

/// Mean and variance of each channel; the variance is not known behind a mean over space.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Of each channel.
    pub mean: Vec<f64>,
    /// Of each channel.
    pub variance: Option<Vec<f64>>,
}

/// The moments of each value, by its number, where they follow.
///
/// Exact for a normal distribution through ReLU, clips, LeakyReLU and PReLU, for means through sums and averages; the variance of a sum is that of
/// independent terms (of a residual connection they are not quite). Products end it, unless something is known of their outputs.
pub fn expected(graph: &Graph) -> Vec<Option<Moments>> {
    let mut all: Vec<Option<Moments>> = graph.values().map(|(_, v)| v.channels.as_deref().map(of)).collect();
    for (_, node) in graph.nodes() {
        let Some(y) = node.output(0).filter(|y| all[y.0 as usize].is_none()) else { continue };
        all[y.0 as usize] = through(graph, node, &all);
    }
    all
}

fn of(c: &Channels) -> Moments {
    let variance = (c.deviation.len() == c.mean.len()).then(|| c.deviation.iter().map(|d| d * d).collect());
    Moments { mean: c.mean.clone(), variance }
}

fn through(graph: &Graph, node: &Node, all: &[Option<Moments>]) -> Option<Moments> {
    let known = |i: usize| all[node.input(i)?.0 as usize].as_ref();
    let number = |i: usize| {
        let v: Option<ValueId> = node.input(i);
        v.map(|v| graph.constant(v).filter(|t| t.len() == 1).map(|t| f64::from(t.to_f32s()[0])))
    };
    let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
    match &node.op {
        Op::Identity => known(0).cloned(),
        Op::Unary(Unary::Relu) => each(known(0)?, |_, m, v| clipped(m, v, 0.0, high)),
        Op::Clip => {
            let (lo, hi) = (number(1).unwrap_or(Some(low))?, number(2).unwrap_or(Some(high))?);
            if lo > hi {
                return None;
            }
            each(known(0)?, |_, m, v| clipped(m, v, lo, hi))
        }
        Op::Unary(Unary::LeakyRelu { alpha }) => each(known(0)?, |_, m, v| bent(m, v, f64::from(*alpha))),
        Op::Binary(Binary::PRelu) => {
            let x = known(0)?;
            let slope: Vec<f64> = graph.constant(node.input(1)?)?.to_f32s().iter().map(|&a| f64::from(a)).collect();
            let at = |c: usize| if slope.len() == 1 { slope[0] } else { slope[c] };
            if slope.len() != 1 && slope.len() != x.mean.len() {
                return None;
            }
            each(x, |c, m, v| bent(m, v, at(c)))
        }
        Op::Binary(Binary::Add) => sum(known(0)?, known(1)?),
        Op::AveragePool { window, count_include_pad } if !count_include_pad || window.pads.iter().all(|&p| p == 0) => {
            Some(Moments { mean: known(0)?.mean.clone(), variance: None })
        }
        Op::GlobalAveragePool => Some(Moments { mean: known(0)?.mean.clone(), variance: None }),
        Op::Reduce { kind: Reduction::Mean, .. } if over_space(graph, node) => {
            Some(Moments { mean: known(0)?.mean.clone(), variance: None })
        }
        Op::Flatten { .. } | Op::Reshape { .. } | Op::Squeeze if drops_space(graph, node) => known(0).cloned(),
        Op::Concat { axis: 1 } => {
            let parts: Option<Vec<&Moments>> = (0..node.inputs.len()).map(known).collect();
            let parts = parts?;
            let variance: Option<Vec<Vec<f64>>> = parts.iter().map(|p| p.variance.clone()).collect();
            Some(Moments {
                mean: parts.iter().flat_map(|p| p.mean.iter().copied()).collect(),
                variance: variance.map(|v| v.concat()),
            })
        }
        _ => None,
    }
}

fn sum(a: &Moments, b: &Moments) -> Option<Moments> {
    let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f64>>();
    (a.mean.len() == b.mean.len()).then(|| Moments {
        mean: add(&a.mean, &b.mean),
        variance: a.variance.as_ref().zip(b.variance.as_ref()).map(|(a, b)| add(a, b)),
    })
}

/// A function of normally distributed channels: number, mean and variance of a channel to mean and variance.
fn each(x: &Moments, f: impl Fn(usize, f64, f64) -> (f64, f64)) -> Option<Moments> {
    let variance = x.variance.as_ref()?;
    let (mean, variance) = x.mean.iter().zip(variance).enumerate().map(|(c, (&m, &v))| f(c, m, v)).unzip();
    Some(Moments { mean, variance: Some(variance) })
}

/// The normal density and distribution.
fn density(x: f64) -> f64 {
    if x.is_finite() { libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt() } else { 0.0 }
}

fn distribution(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

/// Mean and variance of `clamp(x, lo, hi)` for `x` normal with mean `m` and variance `v`: with `a = (lo - m) / s`, `b = (hi - m) / s`,
/// `E y = lo P(a) + hi (1 - P(b)) + m (P(b) - P(a)) + s (p(a) - p(b))` and `E y^2` likewise.
pub fn clipped(m: f64, v: f64, lo: f64, hi: f64) -> (f64, f64) {
    let s = v.sqrt();
    if s == 0.0 {
        return (m.clamp(lo, hi), 0.0);
    }
    let (a, b) = ((lo - m) / s, (hi - m) / s);
    let (below, above) = (distribution(a), distribution(-b));
    let inside = 1.0 - below - above;
    // An infinite bound has no mass.
    let bound = |x: f64, mass: f64| if x.is_finite() { x * mass } else { 0.0 };
    let (pa, pb) = (density(a), density(b));
    let mean = bound(lo, below) + bound(hi, above) + m * inside + s * (pa - pb);
    let edge = |x: f64, p: f64| if x.is_finite() { (x + m) * p } else { 0.0 };
    let square =
        bound(lo, lo * below) + bound(hi, hi * above) + (m * m + v) * inside + s * (edge(lo, pa) - edge(hi, pb));
    (mean, (square - mean * mean).max(0.0))
}

/// Mean and variance of `x` above 0 and `slope x` below, for `x` normal: `y = r(x) - slope r(-x)`, and one of the two is always 0.
fn bent(m: f64, v: f64, slope: f64) -> (f64, f64) {
    let (up, up_variance) = clipped(m, v, 0.0, f64::INFINITY);
    let (down, down_variance) = clipped(-m, v, 0.0, f64::INFINITY);
    let mean = up - slope * down;
    let square = up_variance + up * up + slope * slope * (down_variance + down * down);
    (mean, (square - mean * mean).max(0.0))
}

/// The mean of each weight's input for a product: of its input channel, each tap of a window alike (zeros of the padding are not counted in). Rows of
/// weights as [`super::rounder::to_rows`] has them; `None` where it does not follow.
pub fn inputs(node: &Node, weight: &[usize], axis: usize, x: Option<&Moments>) -> Option<Vec<f64>> {
    let mean = &x?.mean;
    let (rows, depth) = (weight[axis], weight.iter().product::<usize>() / weight[axis].max(1));
    let group = if let Op::Conv(a) = &node.op { a.group.max(1) } else { 1 };
    let taps: usize = if axis == 0 { weight[2..].iter().product() } else { 1 };
    let per = depth / taps.max(1);
    if mean.len() != per * group || rows % group != 0 {
        return None;
    }
    Some((0..rows).flat_map(|r| (0..depth).map(move |k| mean[r / (rows / group) * per + k / taps])).collect())
}

/// The analytic correction of each row's bias: `-sum_k (v - w)[k] E x[k]` for weights `v` in place of `w`.
pub fn correction(v: &[f32], w: &[f32], means: &[f64], rows: usize) -> Vec<f64> {
    let depth = v.len() / rows.max(1);
    let term = |i: usize| (f64::from(v[i]) - f64::from(w[i])) * means[i];
    (0..rows).map(|r| -(r * depth..(r + 1) * depth).map(term).sum::<f64>()).collect()
}

/// Which axis of a product's input (and output) the channels lie along.
pub fn channel_axis(op: &Op, rank: usize) -> usize {
    if matches!(op, Op::Conv(_)) { 1 } else { rank.saturating_sub(1) }
}

/// The inputs of products whose means do not follow from what is known.
pub fn unknown(graph: &Graph, products: &[crate::ir::NodeId]) -> Vec<ValueId> {
    let known = expected(graph);
    let of = |&id: &crate::ir::NodeId| {
        let node = graph.node(id);
        let (x, w): (ValueId, &std::sync::Arc<Tensor>) = (node.input(0)?, graph.constant(node.input(1)?)?);
        let axis = usize::from(!matches!(node.op, Op::Conv(_) | Op::Gemm { trans_b: true, .. }));
        inputs(node, w.shape(), axis, known[x.0 as usize].as_ref()).is_none().then_some(x)
    };
    products.iter().filter(|id| !matches!(graph.node(**id).op, Op::MatMul)).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{
        DType, GraphBuilder,
        op::{ConvAttrs, PoolAttrs},
    };
    use serde::Deserialize;
    use std::sync::Arc;

    #[derive(Deserialize)]
    struct Case {
        m: f64,
        d: f64,
        lo: Option<f64>,
        hi: Option<f64>,
        slope: f64,
        mean: f64,
        variance: f64,
    }
    #[derive(Deserialize)]
    struct Bias {
        rounded: Vec<f64>,
        expected: Vec<f64>,
        correction: Vec<f64>,
    }
    #[derive(Deserialize)]
    struct Before {
        w3: Vec<f64>,
    }
    #[derive(Deserialize)]
    struct Absorbed {
        mean: Vec<f64>,
        deviation: Vec<f64>,
    }
    #[derive(Deserialize)]
    struct Golden {
        clipped: Vec<Case>,
        bias: Bias,
        before: Before,
        absorbed: Absorbed,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../testdata/balance.json")).unwrap()
    }

    #[test]
    fn clipped_normal_distributions_against_integration() {
        for c in golden().clipped {
            let v = c.d * c.d;
            let (mean, variance) = if c.slope == 0.0 {
                clipped(c.m, v, c.lo.unwrap_or(f64::NEG_INFINITY), c.hi.unwrap_or(f64::INFINITY))
            } else {
                bent(c.m, v, c.slope)
            };
            assert!(
                (mean - c.mean).abs() < 1e-7 && (variance - c.variance).abs() < 1e-7,
                "{} {}: {mean} {variance}",
                c.m,
                c.d
            );
        }
        assert_eq!(clipped(-1.0, 0.0, 0.0, 6.0), (0.0, 0.0));
        assert_eq!(clipped(7.0, 0.0, 0.0, 6.0), (6.0, 0.0));
    }

    #[test]
    fn the_correction_is_that_of_the_paper() {
        let g = golden();
        let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let variance = g.absorbed.deviation.iter().map(|d| d * d).collect();
        let y = Moments { mean: g.absorbed.mean.clone(), variance: Some(variance) };
        let x = each(&y, |_, m, v| clipped(m, v, 0.0, f64::INFINITY)).unwrap();
        assert!(x.mean.iter().zip(&g.bias.expected).all(|(a, b)| (a - b).abs() < 1e-7));
        let means: Vec<f64> = (0..5).flat_map(|_| x.mean.clone()).collect();
        let got = correction(&narrow(&g.bias.rounded), &narrow(&g.before.w3), &means, 5);
        for (got, want) in got.iter().zip(&g.bias.correction) {
            assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{got}, {want}");
        }
    }

    /// Each input of a weight is that of its channel: means of channels 1, 2, ... and weights of all taps.
    #[test]
    fn inputs_follow_groups_and_taps() {
        let mut b = GraphBuilder::new("net");
        let x = b.input("x", DType::F32, "1, 4, 3, 3");
        let v = b.op("f", Op::Unary(Unary::Relu), &[x]);
        let w = b.constant("w", Tensor::of(&[4, 2, 1, 2], vec![0.0f32; 16]));
        let y = b.op("c", Op::Conv(ConvAttrs { group: 2, ..ConvAttrs::default() }), &[v, w]);
        let window = PoolAttrs { kernel: vec![2, 2], ..PoolAttrs::default() };
        let p = b.op("p", Op::AveragePool { window, count_include_pad: true }, &[v]);
        let r = b.op("r", Op::Unary(Unary::Relu), &[p]);
        let s = b.op("s", Op::Binary(Binary::Add), &[v, x]);
        for v in [y, r, s] {
            b.output(v);
        }
        let channels = Channels { mean: vec![1.0, 2.0, 3.0, 4.0], deviation: vec![0.0; 4], ..Channels::default() };
        b.graph().value_mut(x).channels = Some(Arc::new(channels));
        let g = b.finish().unwrap();
        let all = expected(&g);
        let node = g.nodes().find(|(_, n)| matches!(n.op, Op::Conv(_))).unwrap();
        let got = inputs(node.1, &[4, 2, 1, 2], 0, all[v.0 as usize].as_ref()).unwrap();
        assert_eq!(got, [1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.]);
        // The mean goes through a pool, but not the ReLU behind it; a sum adds.
        assert_eq!(all[p.0 as usize].as_ref().unwrap().mean, [1.0, 2.0, 3.0, 4.0]);
        assert!(all[r.0 as usize].is_none() && all[y.0 as usize].is_none());
        assert_eq!(all[s.0 as usize].as_ref().unwrap().mean, [2.0, 4.0, 6.0, 8.0]);
        assert!(unknown(&g, &[node.0]).is_empty());
    }
}
