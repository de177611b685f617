//! The layers that networks are put together from, with weights drawn from a seed.
use crate::{
    data::mix,
    error::Result,
    ir::{
        DType, Graph, GraphBuilder, Op, Tensor, ValueId,
        op::{Binary, Cell, ConvAttrs, PoolAttrs, RecurrentAttrs, Unary, Window},
    },
};

/// Epsilon of batch normalisation where an architecture says nothing else.
const EPSILON: f32 = 1e-5;

/// A value on its way through a network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signal {
    id: ValueId,
    /// Channels.
    pub channels: usize,
    /// Positions of a channel: what [`Net::flatten`] multiplies channels by.
    area: [usize; 2],
    /// What its mean and variance are expected to be.
    mean: f64,
    variance: f64,
}

impl Signal {
    /// The mean of its squares.
    fn moment(self) -> f64 {
        self.mean * self.mean + self.variance
    }
}

/// A convolution. Padding goes to both ends of an axis alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conv {
    /// Output channels.
    pub out: usize,
    /// Height and width.
    pub kernel: [usize; 2],
    pub stride: usize,
    /// Of height and width.
    pub pad: [usize; 2],
    pub group: usize,
}

impl Conv {
    /// Dense and square, with the padding that keeps the size at stride 1.
    pub fn new(out: usize, kernel: usize, stride: usize) -> Self {
        Self { stride, ..Self::oblong(out, [kernel; 2]) }
    }
    /// Dense, stride 1, the size is kept.
    pub fn oblong(out: usize, kernel: [usize; 2]) -> Self {
        Self { out, kernel, stride: 1, pad: kernel.map(|k| k / 2), group: 1 }
    }
    /// The same without padding.
    pub fn valid(self) -> Self {
        Self { pad: [0; 2], ..self }
    }
    /// In so many groups.
    pub fn grouped(self, group: usize) -> Self {
        Self { group, ..self }
    }
    /// One filter per channel.
    pub fn depthwise(channels: usize, kernel: usize, stride: usize) -> Self {
        Self { group: channels, ..Self::new(channels, kernel, stride) }
    }
}

/// A network in the making. Layers are named as torchvision names its modules, where it has the network.
pub(super) struct Net {
    graph: GraphBuilder,
    seed: u64,
    /// Random tensors so far: each draws from a stream of its own.
    drawn: u64,
    /// Of batch normalisation.
    pub epsilon: f32,
}

impl Net {
    pub fn new(name: &str, seed: u64) -> Self {
        Self { graph: GraphBuilder::new(name), seed, drawn: 0, epsilon: EPSILON }
    }

    /// The operator set of the file, where that of new graphs is newer than need be.
    pub fn opset(&mut self, opset: i64) {
        self.graph.graph().opset = opset;
    }

    /// The image: channels, height, width.
    pub fn input(&mut self, [channels, height, width]: [usize; 3]) -> Signal {
        let id = self.graph.input("image", DType::F32, &format!("N, {channels}, {height}, {width}"));
        Signal { id, channels, area: [height, width], mean: 0.0, variance: 1.0 }
    }

    /// The graph with `logits` as its output.
    ///
    /// # Errors
    /// What the verifier and shape inference say.
    pub fn finish(mut self, logits: Signal) -> Result<Graph> {
        self.graph.graph().rename(logits.id, "logits");
        self.graph.output(logits.id);
        self.graph.finish()
    }

    /// Numbers of mean 0 and variance 1, bell-shaped: sums of four uniform ones, exact in binary64.
    fn normal(&mut self, n: usize) -> impl Iterator<Item = f64> + use<> {
        let stream = mix(self.seed, self.drawn);
        self.drawn += 1;
        (0..n as u64).map(move |i| {
            let bits = mix(stream, i);
            let sum: u64 = (0..4).map(|k| bits >> (16 * k) & 0xffff).sum();
            // A uniform number over 0..65536 has the mean 32767.5; four of unit width have the variance 1/3.
            (sum as f64 - 4.0 * 32767.5) / 65536.0 * 3f64.sqrt()
        })
    }

    /// A constant of numbers around `centre`.
    fn random(&mut self, name: &str, shape: &[usize], centre: f64, deviation: f64) -> ValueId {
        let n = shape.iter().product();
        let numbers = self.normal(n).map(|x| (centre + deviation * x) as f32).collect();
        self.graph.constant(name, Tensor::of::<f32>(shape, numbers))
    }

    /// A convolution without bias. Weights have the variance 2 / fan-in (He et al., arXiv:1502.01852).
    pub fn conv(&mut self, name: &str, x: Signal, conv: Conv) -> Signal {
        self.convolution(name, x, conv, false)
    }

    /// A convolution with a bias.
    pub fn conv_bias(&mut self, name: &str, x: Signal, conv: Conv) -> Signal {
        self.convolution(name, x, conv, true)
    }

    fn convolution(&mut self, name: &str, x: Signal, conv: Conv, bias: bool) -> Signal {
        let Conv { out, kernel, stride, pad, group } = conv;
        let depth = x.channels / group;
        let fan_in = (depth * kernel[0] * kernel[1]) as f64;
        let shape = [out, depth, kernel[0], kernel[1]];
        let weight = self.random(&format!("{name}.weight"), &shape, 0.0, (2.0 / fan_in).sqrt());
        let mut inputs = vec![x.id, weight];
        if bias {
            inputs.push(self.random(&format!("{name}.bias"), &[out], 0.0, 0.1));
        }
        let attrs = ConvAttrs {
            kernel: kernel.to_vec(),
            strides: vec![stride; 2],
            pads: [pad, pad].concat().into_iter().map(|p| p as i64).collect(),
            group,
            ..ConvAttrs::default()
        };
        let area = Self::area(attrs.resolve(&x.area, &kernel));
        let id = self.graph.op(name, Op::Conv(attrs), &inputs);
        Signal { id, channels: out, area, mean: 0.0, variance: 2.0 * x.moment() }
    }

    /// Batch normalisation whose statistics are near those that the signal has, so that its output is near variance 1 however
    /// deep the network is.
    pub fn batch_norm(&mut self, name: &str, x: Signal) -> Signal {
        let c = [x.channels];
        let deviation = x.variance.sqrt();
        let scale = self.random(&format!("{name}.weight"), &c, 1.0, 0.1);
        let bias = self.random(&format!("{name}.bias"), &c, 0.0, 0.1);
        let mean = self.random(&format!("{name}.running_mean"), &c, x.mean, 0.1 * deviation);
        // A bell of this shape ends at 3.5 deviations: variances stay positive.
        let variance = self.random(&format!("{name}.running_var"), &c, x.variance, 0.2 * x.variance);
        let id =
            self.graph.op(name, Op::BatchNormalization { epsilon: self.epsilon }, &[x.id, scale, bias, mean, variance]);
        Signal { id, mean: 0.0, variance: 1.0, ..x }
    }

    /// Convolution and batch normalisation.
    pub fn conv_bn(&mut self, names: [&str; 2], x: Signal, conv: Conv) -> Signal {
        let y = self.conv(names[0], x, conv);
        self.batch_norm(names[1], y)
    }

    pub fn relu(&mut self, name: &str, x: Signal) -> Signal {
        let id = self.graph.op(name, Op::Unary(Unary::Relu), &[x.id]);
        rectified(id, x)
    }

    /// Clip to 0 to 6.
    pub fn relu6(&mut self, name: &str, x: Signal) -> Signal {
        let [low, high] = [("min", 0.0), ("max", 6.0)].map(|(end, x)| self.graph.scalar(&format!("{name}.{end}"), x));
        let id = self.graph.op(name, Op::Clip, &[x.id, low, high]);
        rectified(id, x)
    }

    pub fn add(&mut self, name: &str, a: Signal, b: Signal) -> Signal {
        let id = self.graph.op(name, Op::Binary(Binary::Add), &[a.id, b.id]);
        Signal { id, mean: a.mean + b.mean, variance: a.variance + b.variance, ..a }
    }

    /// `x` times what opens or shuts its channels, which is between 0 and 1.
    pub fn mul(&mut self, name: &str, x: Signal, gate: Signal) -> Signal {
        let id = self.graph.op(name, Op::Binary(Binary::Mul), &[x.id, gate.id]);
        Signal { id, mean: x.mean * gate.mean, variance: x.variance * gate.mean * gate.mean, ..x }
    }

    /// `max(0, min(1, x / 6 + 1 / 2))`.
    pub fn hard_sigmoid(&mut self, name: &str, x: Signal) -> Signal {
        let id = self.graph.op(name, Op::Unary(Unary::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }), &[x.id]);
        Signal { id, mean: 0.5 + x.mean / 6.0, variance: x.variance / 36.0, ..x }
    }

    /// `x` times its hard sigmoid.
    pub fn hard_swish(&mut self, name: &str, x: Signal) -> Signal {
        let id = self.graph.op(name, Op::Unary(Unary::HardSwish), &[x.id]);
        // Near a ReLU's that lets half of small negative numbers through.
        rectified(id, x)
    }

    /// One behind the other along the channels.
    pub fn concat(&mut self, name: &str, parts: &[Signal]) -> Signal {
        let ids: Vec<_> = parts.iter().map(|p| p.id).collect();
        let id = self.graph.op(name, Op::Concat { axis: 1 }, &ids);
        let channels: usize = parts.iter().map(|p| p.channels).sum();
        let share =
            |f: fn(&Signal) -> f64| parts.iter().map(|p| f(p) * p.channels as f64).sum::<f64>() / channels as f64;
        let (mean, moment) = (share(|p| p.mean), share(|p| p.moment()));
        Signal { id, channels, mean, variance: moment - mean * mean, ..parts[0] }
    }

    /// The first and the second half of the channels.
    pub fn halves(&mut self, name: &str, x: Signal) -> [Signal; 2] {
        let half = x.channels / 2;
        let sizes = self.graph.ints(&format!("{name}.sizes"), &[half as i64; 2]);
        let ids = self.graph.ops(name, Op::Split { axis: 1 }, &[Some(x.id), Some(sizes)], 2);
        [ids[0], ids[1]].map(|id| Signal { id, channels: half, ..x })
    }

    /// Channels `a0 a1 ... b0 b1 ...` of two groups become `a0 b0 a1 b1 ...`.
    pub fn shuffle(&mut self, name: &str, x: Signal) -> Signal {
        let [height, width] = x.area.map(|n| n as i64);
        let channels = x.channels as i64;
        // 0 keeps the batch.
        let apart = self.graph.ints(&format!("{name}.apart"), &[0, 2, channels / 2, height, width]);
        let together = self.graph.ints(&format!("{name}.together"), &[0, channels, height, width]);
        let keep = Op::Reshape { allowzero: false };
        let y = self.graph.op(&format!("{name}.groups"), keep.clone(), &[x.id, apart]);
        let y = self.graph.op(&format!("{name}.turned"), Op::Transpose { perm: vec![0, 2, 1, 3, 4] }, &[y]);
        let id = self.graph.op(name, keep, &[y, together]);
        Signal { id, ..x }
    }

    /// Square windows.
    pub fn max_pool(&mut self, name: &str, x: Signal, kernel: usize, stride: usize, pad: usize) -> Signal {
        self.max_window(name, x, [kernel, stride, pad], false)
    }

    /// Square windows, the last of which may begin inside and end outside.
    pub fn max_pool_ceil(&mut self, name: &str, x: Signal, kernel: usize, stride: usize, pad: usize) -> Signal {
        self.max_window(name, x, [kernel, stride, pad], true)
    }

    fn max_window(&mut self, name: &str, x: Signal, window: [usize; 3], ceil: bool) -> Signal {
        let (window, area) = Self::window(x, window, ceil);
        let id = self.graph.op(name, Op::MaxPool { window, column_major: false }, &[x.id]);
        Signal { id, area, ..x }
    }

    /// Kernel, stride and padding as attributes, and the size that is left.
    fn window(x: Signal, [kernel, stride, pad]: [usize; 3], ceil_mode: bool) -> (PoolAttrs, [usize; 2]) {
        let window = PoolAttrs {
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            pads: vec![pad as i64; 4],
            ceil_mode,
            ..PoolAttrs::default()
        };
        let area = Self::area(window.resolve(&x.area));
        (window, area)
    }

    /// The size that a window leaves. One that does not fit is found again, with its node, when the graph is finished.
    fn area(window: Result<Window>) -> [usize; 2] {
        window.ok().and_then(|w| w.output.try_into().ok()).unwrap_or_default()
    }

    /// Means of 3x3 windows at stride 1, zeros around counted.
    pub fn average_pool(&mut self, name: &str, x: Signal) -> Signal {
        let (window, area) = Self::window(x, [3, 1, 1], false);
        let id = self.graph.op(name, Op::AveragePool { window, count_include_pad: true }, &[x.id]);
        Signal { id, area, ..x }
    }

    /// Average over all positions.
    pub fn global_average(&mut self, name: &str, x: Signal) -> Signal {
        let id = self.graph.op(name, Op::GlobalAveragePool, &[x.id]);
        Signal { id, area: [1; 2], ..x }
    }

    /// All numbers of an image in a row.
    pub fn flatten(&mut self, name: &str, x: Signal) -> Signal {
        let id = self.graph.op(name, Op::Flatten { axis: 1 }, &[x.id]);
        Signal { id, channels: x.channels * x.area[0] * x.area[1], area: [1; 2], ..x }
    }

    /// A product with a bias.
    pub fn linear(&mut self, name: &str, x: Signal, out: usize) -> Signal {
        let deviation = (1.0 / x.channels as f64).sqrt();
        let weight = self.random(&format!("{name}.weight"), &[out, x.channels], 0.0, deviation);
        let bias = self.random(&format!("{name}.bias"), &[out], 0.0, deviation);
        let op = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        let id = self.graph.op(name, op, &[x.id, weight, bias]);
        Signal { id, channels: out, mean: 0.0, variance: x.moment(), ..x }
    }

    /// The last state of a recurrent layer that reads an image of one channel row by row. Weights and biases are within `1 / sqrt(hidden)`, as PyTorch draws them.
    pub fn last_state(&mut self, name: &str, x: Signal, cell: Cell, hidden: usize) -> Signal {
        let width = x.area[1];
        let channel = self.graph.ints(&format!("{name}.channel"), &[1]);
        let rows = self.graph.op(&format!("{name}.rows"), Op::Squeeze, &[x.id, channel]);
        let time_first = Op::Transpose { perm: vec![1, 0, 2] };
        let sequence = self.graph.op(&format!("{name}.sequence"), time_first, &[rows]);
        let (gates, deviation) = (cell.gates() * hidden, (1.0 / (3.0 * hidden as f64)).sqrt());
        let w = self.random(&format!("{name}.W"), &[1, gates, width], 0.0, deviation);
        let r = self.random(&format!("{name}.R"), &[1, gates, hidden], 0.0, deviation);
        let b = self.random(&format!("{name}.B"), &[1, 2 * gates], 0.0, deviation);
        let attrs = RecurrentAttrs { hidden, ..RecurrentAttrs::new(cell) };
        let states = self.graph.ops(name, Op::Recurrent(attrs), &[sequence, w, r, b].map(Some), 2);
        let direction = self.graph.ints(&format!("{name}.direction"), &[0]);
        let id = self.graph.op(&format!("{name}.last"), Op::Squeeze, &[states[1], direction]);
        // A tanh, half open.
        Signal { id, channels: hidden, area: [1; 2], mean: 0.0, variance: 0.1 }
    }

    /// Average over all positions, then a product with a bias: the logits.
    pub fn classifier(&mut self, name: &str, x: Signal, classes: usize) -> Signal {
        let pooled = self.global_average("avgpool", x);
        let flat = self.flatten("flatten", pooled);
        self.linear(name, flat, classes)
    }
}

/// What is left of a normally distributed signal above 0. With `z = mean / deviation`, the normal density `f` and distribution `F`:
/// the mean is `mean F(z) + deviation f(z)`, the mean of squares `(mean^2 + variance) F(z) + mean deviation f(z)`.
fn rectified(id: ValueId, x: Signal) -> Signal {
    let deviation = x.variance.sqrt();
    let z = x.mean / deviation;
    let density = libm::exp(-z * z / 2.0) / (2.0 * std::f64::consts::PI).sqrt();
    let distribution = (1.0 + libm::erf(z / 2f64.sqrt())) / 2.0;
    let mean = x.mean * distribution + deviation * density;
    let moment = x.moment() * distribution + x.mean * deviation * density;
    Signal { id, mean, variance: moment - mean * mean, ..x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_mean_0_variance_1_and_streams_of_their_own() {
        let mut net = Net::new("net", 7);
        let [a, b]: [Vec<f64>; 2] = std::array::from_fn(|_| net.normal(100_000).collect());
        for x in [&a, &b] {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
            // Four standard errors of 100,000 samples.
            assert!(mean.abs() < 0.013 && (variance - 1.0).abs() < 0.018, "{mean} {variance}");
            assert!(x.iter().all(|x| x.abs() < 3.47));
        }
        assert_ne!(a[..10], b[..10]);
        // Half of a standard normal signal: mean 1 / sqrt(2 pi), mean of squares 1/2.
        let image = net.input([3, 8, 8]);
        let half = net.relu("relu", image);
        assert!((half.mean - 0.398_942_280_401).abs() < 1e-12 && (half.moment() - 0.5).abs() < 1e-12);
        let again: Vec<f64> = Net::new("net", 7).normal(1000).collect();
        assert_eq!(again, a[..1000]);
        assert_ne!(Net::new("net", 8).normal(10).collect::<Vec<_>>(), a[..10]);
    }
}
