//! Cross-layer equalization (Nagel et al., 2019, "Data-free quantization through weight equalization and bias correction", section 4.1).
use crate::{
    error::Result,
    ir::{
        Graph, NodeId, Op, Tensor, ValueId,
        op::{ConvAttrs, Unary},
    },
};
use std::{collections::HashMap, sync::Arc};

/// Times that all pairs are visited at most; they end earlier where nothing moves any more.
const SWEEPS: usize = 40;
/// Mean of `|ln s|` over all channels below which a sweep has changed nothing.
const STILL: f64 = 1e-4;

/// What became of the network.
pub struct Equalized {
    /// The network.
    pub graph: Graph,
    /// Pairs of layers that were balanced.
    pub pairs: usize,
    /// Clips (ReLU6) between them that became ReLU, since their bound would differ from channel to channel.
    pub clips: usize,
}

/// Two products with nothing between them but functions `f` with `f(s x) = s f(x)` for `s > 0`, one channel at a time.
struct Pair {
    first: NodeId,
    second: NodeId,
    /// Clips from 0 between them.
    clips: Vec<NodeId>,
}

/// Weights of a product while they are balanced.
struct Weights {
    shape: Vec<usize>,
    w: Vec<f64>,
    bias: Option<Vec<f64>>,
    /// Each output channel reads the input channel of its own number.
    depthwise: bool,
    /// Output channels lie along this axis.
    axis: usize,
}

/// Scales the channels between each pair of layers so that their ranges in the weights of both are equal: `s_i = sqrt(r1_i r2_i) / r2_i` with the
/// largest magnitudes `r1_i` in the row of the first and `r2_i` in the column of the second; the row and the bias are divided by it, the column is
/// multiplied. Layers whose result is read twice stay as they are.
///
/// # Errors
/// When weights cannot be read.
pub fn equalize(graph: &Graph) -> Result<Equalized> {
    let mut graph = graph.clone();
    let pairs = pairs(&graph);
    let mut weights: HashMap<NodeId, Weights> = HashMap::new();
    for id in pairs.iter().flat_map(|p| [p.first, p.second]) {
        if let Some(w) = Weights::of(&graph, id) {
            weights.insert(id, w);
        }
    }
    let pairs: Vec<Pair> = pairs
        .into_iter()
        .filter(|p| match (weights.get(&p.first), weights.get(&p.second)) {
            (Some(a), Some(b)) => a.outputs() == b.inputs(),
            _ => false,
        })
        .collect();
    for _ in 0..SWEEPS {
        let (mut moved, mut channels) = (0.0, 0);
        for pair in &pairs {
            let columns = weights[&pair.second].largest(false);
            let rows = weights[&pair.first].largest(true);
            let scale: Vec<f64> = rows
                .iter()
                .zip(&columns)
                .map(|(&r1, &r2)| if r1 > 0.0 && r2 > 0.0 { (r1 * r2).sqrt() / r2 } else { 1.0 })
                .collect();
            moved += scale.iter().map(|s| libm::log(*s).abs()).sum::<f64>();
            channels += scale.len();
            if let Some(first) = weights.get_mut(&pair.first) {
                first.scale(true, |i| 1.0 / scale[i]);
            }
            if let Some(second) = weights.get_mut(&pair.second) {
                second.scale(false, |i| scale[i]);
            }
        }
        if moved <= STILL * channels as f64 {
            break;
        }
    }
    let mut touched: Vec<NodeId> = pairs.iter().flat_map(|p| [p.first, p.second]).collect();
    touched.sort();
    touched.dedup();
    for id in touched {
        let balanced = &weights[&id];
        let mut inputs = graph.node(id).inputs.clone();
        let mut set = |i: usize, shape: &[usize], values: &[f64]| {
            let Some(old) = inputs[i] else { return };
            let name = graph.value(old).name.clone();
            graph.rename(old, &format!("{name}_before"));
            let tensor = Tensor::of(shape, values.iter().map(|&v| v as f32).collect::<Vec<f32>>());
            inputs[i] = Some(graph.add_constant(&name, Arc::new(tensor)));
        };
        set(1, &balanced.shape, &balanced.w);
        if let Some(bias) = &balanced.bias {
            set(2, &[bias.len()], bias);
        }
        graph.node_mut(id).inputs = inputs;
    }
    let mut clips = 0;
    for id in pairs.iter().flat_map(|p| &p.clips) {
        let node = graph.node_mut(*id);
        node.op = Op::Unary(Unary::Relu);
        node.inputs.truncate(1);
        clips += 1;
    }
    graph.compact();
    Ok(Equalized { graph, pairs: pairs.len(), clips })
}

impl Weights {
    fn of(graph: &Graph, id: NodeId) -> Option<Self> {
        let node = graph.node(id);
        let tensor = graph.constant(node.input(1)?)?;
        if !tensor.dtype().is_float() {
            return None;
        }
        let reals = |t: &Tensor| t.to_f32s().iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let shape = tensor.shape().to_vec();
        let (axis, depthwise) = match &node.op {
            Op::Conv(a) if a.group <= 1 => (0, false),
            Op::Conv(a) if shape[1] == 1 && a.group == shape[0] => (0, true),
            Op::Gemm { trans_a: false, trans_b, alpha, beta } if *alpha == 1.0 && *beta == 1.0 => {
                (usize::from(!trans_b), false)
            }
            _ => return None,
        };
        let bias = match node.input(2) {
            Some(b) => Some(reals(graph.constant(b)?)),
            None => None,
        };
        if bias.as_ref().is_some_and(|b| b.len() != shape[axis]) {
            return None;
        }
        Some(Self { w: reals(tensor), shape, bias, depthwise, axis })
    }
    fn outputs(&self) -> usize {
        self.shape[self.axis]
    }
    fn inputs(&self) -> usize {
        if self.depthwise { self.outputs() } else { self.shape[1 - self.axis] }
    }
    /// The output (or input) channel of the weight at flat position `i`.
    fn channel(&self, i: usize, output: bool) -> usize {
        let inner: usize = self.shape[2..].iter().product();
        let (row, column) = (i / inner / self.shape[1], i / inner % self.shape[1]);
        match (self.depthwise, output == (self.axis == 0)) {
            (true, _) | (false, true) => row,
            (false, false) => column,
        }
    }
    /// The largest magnitude of each output (or input) channel.
    fn largest(&self, output: bool) -> Vec<f64> {
        let mut most = vec![0.0f64; if output { self.outputs() } else { self.inputs() }];
        for (i, w) in self.w.iter().enumerate() {
            let c = self.channel(i, output);
            most[c] = most[c].max(w.abs());
        }
        most
    }
    /// Multiplies each output (or input) channel.
    fn scale(&mut self, output: bool, by: impl Fn(usize) -> f64) {
        for i in 0..self.w.len() {
            self.w[i] *= by(self.channel(i, output));
        }
        if output && let Some(bias) = &mut self.bias {
            bias.iter_mut().enumerate().for_each(|(c, b)| *b *= by(c));
        }
    }
}

/// The pairs of a graph, in order.
fn pairs(graph: &Graph) -> Vec<Pair> {
    let consumers = graph.consumers();
    // Constants that several nodes read are no layer's own.
    let own = |v: ValueId| consumers[v.0 as usize].len() == 1;
    let product = |id: NodeId| {
        let node = graph.node(id);
        let right = matches!(&node.op, Op::Conv(ConvAttrs { .. }) | Op::Gemm { .. });
        right && node.inputs.iter().skip(1).flatten().all(|&v| own(v) && graph.constant(v).is_some())
    };
    let mut out = Vec::new();
    for (first, node) in graph.nodes().filter(|(id, _)| product(*id)) {
        let (mut v, mut clips) = (node.output(0), Vec::new());
        while let Some(value) = v {
            let readers = &consumers[value.0 as usize];
            let &[(reader, place)] = &readers[..] else { break };
            if graph.outputs.contains(&value) || place != 0 {
                break;
            }
            if product(reader) {
                out.push(Pair { first, second: reader, clips });
                break;
            }
            let next = graph.node(reader);
            match &next.op {
                Op::Unary(Unary::Relu | Unary::LeakyRelu { .. })
                | Op::Identity
                | Op::AveragePool { .. }
                | Op::GlobalAveragePool
                | Op::GlobalMaxPool => {}
                Op::MaxPool { .. } if next.output(1).is_none() => {}
                Op::Clip if from_zero(graph, reader) => clips.push(reader),
                _ => break,
            }
            v = next.output(0);
        }
    }
    out
}

/// Whether a clip is from 0 to a constant bound.
fn from_zero(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let bound =
        |i: usize| node.input(i).and_then(|v| graph.constant(v)).filter(|t| t.len() == 1).map(|t| t.to_f32s()[0]);
    bound(1) == Some(0.0) && (node.input(2).is_none() || bound(2).is_some_and(|b| b > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::mix,
        exec::float,
        ir::{DType, GraphBuilder},
    };

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| (mix(seed, i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// Convolution, `between`, depthwise convolution, ReLU, convolution; with `tapped` what follows `between` is an output as well.
    fn network(between: Op, tapped: bool) -> Graph {
        let mut b = GraphBuilder::new("net");
        let mut v = b.input("x", DType::F32, "1, 2, 6, 6");
        for (name, shape, group) in [("a", [6, 2, 1, 1], 1), ("b", [6, 1, 3, 3], 6), ("c", [3, 6, 1, 1], 1)] {
            let mut w = numbers(shape.iter().product(), shape[0] as u64);
            // Channels of very different sizes.
            let each = w.len() / shape[0];
            w.iter_mut().enumerate().for_each(|(i, w)| *w *= [1.0, 10.0, 100.0][i / each % 3]);
            let w = b.constant(&format!("{name}.w"), Tensor::of(&shape, w));
            let bias = b.constant(&format!("{name}.b"), Tensor::of(&[shape[0]], numbers(shape[0], 99)));
            v = b.op(name, Op::Conv(ConvAttrs { group, ..ConvAttrs::default() }), &[v, w, bias]);
            if name == "a" {
                let mut inputs = vec![v];
                if matches!(between, Op::Clip) {
                    inputs.extend([b.scalar("low", 0.0), b.scalar("high", 6.0)]);
                }
                v = b.op("a.f", between.clone(), &inputs);
                if tapped {
                    b.output(v);
                }
            } else if name == "b" {
                v = b.op("b.f", Op::Unary(Unary::Relu), &[v]);
            }
        }
        b.output(v);
        b.finish().unwrap()
    }

    fn run(g: &Graph) -> Vec<f32> {
        let mut session = float::Session::new(Arc::new(g.clone()), &float::Options { threads: 1 }).unwrap();
        session.run(vec![Tensor::of(&[1, 2, 6, 6], numbers(72, 5))]).unwrap()[0].to_f32s()
    }

    #[test]
    fn the_function_stays_and_ranges_meet() {
        let g = network(Op::Unary(Unary::Relu), false);
        let done = equalize(&g).unwrap();
        assert_eq!((done.pairs, done.clips), (2, 0));
        let (before, after) = (run(&g), run(&done.graph));
        let size = before.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-5 * size));
        let ids: Vec<NodeId> = done.graph.nodes().filter(|(_, n)| matches!(n.op, Op::Conv(_))).map(|n| n.0).collect();
        let w: Vec<Weights> = ids.iter().map(|&id| Weights::of(&done.graph, id).unwrap()).collect();
        for pair in w.windows(2) {
            for (r1, r2) in pair[0].largest(true).iter().zip(pair[1].largest(false)) {
                assert!((r1 / r2 - 1.0).abs() < 0.02, "{r1} and {r2}");
            }
        }
        // What was balanced is not balanced again.
        let again = equalize(&done.graph).unwrap();
        assert!(run(&again.graph).iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-5 * size));
    }

    #[test]
    fn clips_become_relu_and_what_is_read_twice_stays() {
        let done = equalize(&network(Op::Clip, false)).unwrap();
        assert_eq!((done.pairs, done.clips), (2, 1));
        assert_eq!(equalize(&network(Op::Unary(Unary::Relu), true)).unwrap().pairs, 1);
        // A sigmoid is not homogeneous.
        assert_eq!(equalize(&network(Op::Unary(Unary::Sigmoid), false)).unwrap().pairs, 1);
    }
}
