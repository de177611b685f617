//! The layers that networks are put together from, with weights drawn from a seed.
use crate::{
    data::mix,
    error::Result,
    ir::{
        DType, Graph, GraphBuilder, Op, Tensor, ValueId,
        op::{Binary, ConvAttrs, PoolAttrs, Unary},
    },
};

/// Epsilon of batch normalisation.
const EPSILON: f32 = 1e-5;

/// A value on its way through a network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signal {
    id: ValueId,
    /// Channels.
    pub channels: usize,
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

/// A convolution with square kernels. Padding goes to all four sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conv {
    /// Output channels.
    pub out: usize,
    pub kernel: usize,
    pub stride: usize,
    pub pad: usize,
    pub group: usize,
}

impl Conv {
    /// Dense, with the padding that keeps the size at stride 1.
    pub fn new(out: usize, kernel: usize, stride: usize) -> Self {
        Self { out, kernel, stride, pad: kernel / 2, group: 1 }
    }
    /// One filter per channel.
    pub fn depthwise(channels: usize, kernel: usize, stride: usize) -> Self {
        Self { group: channels, ..Self::new(channels, kernel, stride) }
    }
}

/// A network in the making. Layers are named as torchvision names its modules.
pub(super) struct Net {
    graph: GraphBuilder,
    seed: u64,
    /// Random tensors so far: each draws from a stream of its own.
    drawn: u64,
}

impl Net {
    pub fn new(name: &str, seed: u64) -> Self {
        Self { graph: GraphBuilder::new(name), seed, drawn: 0 }
    }

    /// The image: channels, height, width.
    pub fn input(&mut self, [channels, height, width]: [usize; 3]) -> Signal {
        let id = self.graph.input("image", DType::F32, &format!("N, {channels}, {height}, {width}"));
        Signal { id, channels, mean: 0.0, variance: 1.0 }
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
        let Conv { out, kernel, stride, pad, group } = conv;
        let depth = x.channels / group;
        let fan_in = (depth * kernel * kernel) as f64;
        let shape = [out, depth, kernel, kernel];
        let weight = self.random(&format!("{name}.weight"), &shape, 0.0, (2.0 / fan_in).sqrt());
        let attrs = ConvAttrs {
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            pads: vec![pad as i64; 4],
            group,
            ..ConvAttrs::default()
        };
        let id = self.graph.op(name, Op::Conv(attrs), &[x.id, weight]);
        Signal { id, channels: out, mean: 0.0, variance: 2.0 * x.moment() }
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
        let id = self.graph.op(name, Op::BatchNormalization { epsilon: EPSILON }, &[x.id, scale, bias, mean, variance]);
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

    /// Square windows.
    pub fn max_pool(&mut self, name: &str, x: Signal, kernel: usize, stride: usize, pad: usize) -> Signal {
        let window = PoolAttrs {
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            pads: vec![pad as i64; 4],
            ..PoolAttrs::default()
        };
        let id = self.graph.op(name, Op::MaxPool { window, column_major: false }, &[x.id]);
        Signal { id, ..x }
    }

    /// Average over all positions, then a product with a bias: the logits.
    pub fn classifier(&mut self, name: &str, x: Signal, classes: usize) -> Signal {
        let pooled = self.graph.op("avgpool", Op::GlobalAveragePool, &[x.id]);
        let flat = self.graph.op("flatten", Op::Flatten { axis: 1 }, &[pooled]);
        let deviation = (1.0 / x.channels as f64).sqrt();
        let weight = self.random(&format!("{name}.weight"), &[classes, x.channels], 0.0, deviation);
        let bias = self.random(&format!("{name}.bias"), &[classes], 0.0, deviation);
        let op = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        let id = self.graph.op(name, op, &[flat, weight, bias]);
        Signal { id, channels: classes, ..x }
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
