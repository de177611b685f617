use super::*;
use crate::{
    backend,
    params::Of,
    qat::normal::Normal,
    testing::{noise, numbers, tensor},
};
use burn::backend::Flex;
use nnq::{
    engine::{Engine, Kind, Options},
    exec::lower::Profile,
    ir::{
        DType, GraphBuilder, QParams, QType, Tensor,
        op::{AutoPad, Binary, Cell, ConvAttrs, Direction, PoolAttrs, RecurrentAttrs, Reduction, Unary},
    },
};
use std::sync::Arc;

fn constant(b: &mut GraphBuilder, name: &str, shape: &[usize]) -> ValueId {
    b.constant(name, Tensor::of(shape, noise(shape.iter().product(), name.len() as u64 + 40)))
}

/// A network of one input of `shape`.
fn network(shape: &str, body: impl FnOnce(&mut GraphBuilder, ValueId) -> ValueId) -> Arc<Graph> {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, shape);
    let y = body(&mut b, x);
    b.output(y);
    Arc::new(b.finish().unwrap())
}

struct Setting {
    graph: Arc<Graph>,
    plan: Plan,
    parameters: Parameters<Flex>,
}

fn setting(graph: Arc<Graph>) -> Setting {
    let plan = Plan::default();
    let parameters = Parameters::new(&graph, &plan, &Default::default()).unwrap();
    Setting { graph, plan, parameters }
}

impl Setting {
    fn run(&self, x: &[f32], shape: &[usize], live: bool, leaves: &[Var<Flex>]) -> Result<Run<Flex>> {
        let device = Device::<Flex>::default();
        let Self { graph, plan, parameters } = self;
        let normalize = if live { Normalize::Live } else { Normalize::Frozen };
        Forward {
            graph,
            plan,
            parameters,
            normalize,
            gradients: None,
            precision: Precision::F32,
            soft: None,
            device: &device,
        }
        .run(backend::tensor::<Flex>(x.to_vec(), shape, &device), leaves)
    }
    /// The sum of the outputs, each weighted by a number of its own, in binary64.
    fn price(&self, x: &[f32], shape: &[usize], live: bool) -> f64 {
        let run = self.run(x, shape, live, &self.parameters.leaves()).unwrap();
        let y = backend::numbers::<Flex>(run.output.into_primitive()).unwrap();
        y.iter().zip(noise(y.len(), 9)).map(|(y, w)| f64::from(*y) * f64::from(w)).sum()
    }
    /// Compares the gradients of every parameter with differences.
    fn check_gradients(mut self, x: &[f32], shape: &[usize], live: bool) {
        let leaves = self.parameters.leaves();
        let y = self.run(x, shape, live, &leaves).unwrap().output;
        let out = backend::dims::<Flex>(&y);
        let w = backend::tensor::<Flex>(noise(out.iter().product(), 9), &out, &Default::default());
        use burn::backend::ops::FloatTensorOps as _;
        let loss = Autodiff::<Flex>::float_sum(Autodiff::<Flex>::float_mul(y, backend::constant::<Flex>(w)));
        let mut grads = loss.backward();
        assert!(!leaves.is_empty());
        for (p, leaf) in leaves.iter().enumerate() {
            let got = backend::numbers::<Flex>(leaf.grad_remove(&mut grads).unwrap()).unwrap();
            let (name, sizes) = (self.parameters.list[p].name.clone(), self.parameters.list[p].shape.clone());
            let old = backend::numbers::<Flex>(self.parameters.values[p].clone()).unwrap();
            for i in (0..old.len()).step_by(old.len().div_ceil(7)) {
                let h = 1e-2f32;
                let mut at = |d: f32| {
                    let mut new = old.clone();
                    new[i] += d;
                    self.parameters.values[p] = backend::tensor::<Flex>(new, &sizes, &Default::default());
                    self.price(x, shape, live)
                };
                let want = (at(h) - at(-h)) / f64::from(2.0 * h);
                // Binary32 sums over a step of 1e-2, and curvature where there is some.
                assert!((f64::from(got[i]) - want).abs() < 4e-3 * (1.0 + want.abs()), "{name}[{i}]: {} {want}", got[i]);
            }
            self.parameters.values[p] = backend::tensor::<Flex>(old, &sizes, &Default::default());
        }
    }
    /// Compares the outputs with those of the float executor.
    fn check_forward(&self, x: &[f32], shape: &[usize]) {
        let got = self.run(x, shape, false, &self.parameters.leaves()).unwrap().output;
        let options = Options { kind: Kind::Float, profile: Profile::default(), threads: 1 };
        let mut engine = Engine::open(self.graph.clone(), options).unwrap();
        let want = engine.run(vec![Tensor::of(shape, x.to_vec())]).unwrap().remove(0);
        assert_eq!(backend::dims::<Flex>(&got), want.shape());
        let got = backend::numbers::<Flex>(got.into_primitive()).unwrap();
        for (i, (a, b)) in got.iter().zip(want.as_slice::<f32>().unwrap()).enumerate() {
            // Sums in another order.
            assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{i}: {a} {b}");
        }
    }
}

/// A convolution as its attributes say, with a bias.
fn conv(attrs: ConvAttrs, weight: [usize; 4]) -> Arc<Graph> {
    let channels = weight[1] * attrs.group;
    network(&format!("N, {channels}, 7, 6"), |b, x| {
        let (w, c) = (constant(b, "w", &weight), constant(b, "b", &weight[..1]));
        b.op("conv", Op::Conv(attrs), &[x, w, c])
    })
}

#[test]
fn convolutions_of_all_kinds() {
    let base = || ConvAttrs { group: 1, ..ConvAttrs::default() };
    let cases = [
        (ConvAttrs { pads: vec![1, 1, 1, 1], ..base() }, [5, 3, 3, 3]),
        (ConvAttrs { pads: vec![0, 2, 1, 0], strides: vec![2, 1], ..base() }, [2, 3, 3, 2]),
        (ConvAttrs { strides: vec![2, 2], pads: vec![1, 1, 1, 1], group: 2, ..base() }, [4, 2, 3, 3]),
        (ConvAttrs { group: 4, pads: vec![1, 1, 1, 1], ..base() }, [4, 1, 3, 3]),
        (ConvAttrs { dilations: vec![2, 1], ..base() }, [3, 2, 2, 3]),
        (ConvAttrs { auto_pad: AutoPad::SameUpper, strides: vec![2, 2], ..base() }, [3, 2, 3, 3]),
        (base(), [6, 4, 1, 1]),
    ];
    for (attrs, weight) in cases {
        let channels = weight[1] * attrs.group;
        let shape = [2, channels, 7, 6];
        let x = noise(shape.iter().product(), 3);
        let setting = setting(conv(attrs, weight));
        setting.check_forward(&x, &shape);
        setting.check_gradients(&x, &shape, false);
    }
}

/// Every cell, direction and layout: outputs as the float executor's, gradients as differences.
#[test]
fn recurrent_layers() {
    let cells = [
        Cell::Rnn,
        Cell::Gru { linear_before_reset: true },
        Cell::Gru { linear_before_reset: false },
        Cell::Lstm { input_forget: false },
        Cell::Lstm { input_forget: true },
    ];
    let (time, batch, width, hidden) = (4, 3, 5, 2);
    for (k, cell) in cells.into_iter().enumerate() {
        for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
            for batch_first in [false, true] {
                let attrs = RecurrentAttrs { direction, batch_first, hidden, ..RecurrentAttrs::new(cell) };
                let (d, rows) = (direction.count(), cell.gates() * hidden);
                let data = if batch_first { [batch, time, width] } else { [time, batch, width] };
                let graph = network(&data.map(|d| d.to_string()).join(", "), |b, x| {
                    let w = constant(b, "w", &[d, rows, width]);
                    let r = constant(b, "r2", &[d, rows, hidden]);
                    let bias = constant(b, "bias", &[d, 2 * rows]);
                    let mut inputs = vec![Some(x), Some(w), Some(r), Some(bias)];
                    if k % 2 == 1 {
                        let shape = if batch_first { [batch, d, hidden] } else { [d, batch, hidden] };
                        inputs.extend([None, Some(constant(b, "start", &shape))]);
                    }
                    // The last state, or all of them.
                    let which = usize::from(direction == Direction::Reverse);
                    b.ops("cell", Op::Recurrent(attrs.clone()), &inputs, 2)[which]
                });
                let shape = data;
                let x = noise(shape.iter().product(), 3);
                let setting = setting(graph);
                setting.check_forward(&x, &shape);
                setting.check_gradients(&x, &shape, false);
            }
        }
    }
}

/// A normalisation behind a convolution: by the batch its outputs have the mean and deviation that they are given, whatever the weights; by running
/// statistics it is a convolution with other weights. Both have gradients.
#[test]
fn normalised_convolutions() {
    let base = || ConvAttrs { group: 1, pads: vec![1, 1, 1, 1], ..ConvAttrs::default() };
    for (attrs, weight) in [(base(), [5, 3, 3, 3]), (ConvAttrs { group: 4, ..base() }, [4, 1, 3, 3])] {
        let channels = weight[1] * attrs.group;
        let shape = [3, channels, 7, 6];
        let x = noise(shape.iter().product(), 3);
        let graph = conv(attrs, weight);
        let (id, node) = graph.nodes().next().unwrap();
        let constants = [1, 2].map(|i| node.input(i).unwrap());
        let normal = Normal { name: "gain".into(), channels: weight[0], constants };
        let mut setting = setting(graph.clone());
        setting.plan.normal.insert(id, normal);
        let device = Device::<Flex>::default();
        setting.parameters = Parameters::new(&graph, &setting.plan, &device).unwrap();
        let positive = |seed| noise(weight[0], seed).iter().map(|v| 1.5 + v).collect::<Vec<f32>>();
        let (gains, means, variances) = (positive(5), noise(weight[0], 6), positive(7));
        setting.parameters.put(Of::Gain(id), gains.clone(), &device).unwrap();
        let leaves = setting.parameters.leaves();
        let numbers = |run: Run<Flex>| backend::numbers::<Flex>(run.output.into_primitive()).unwrap();
        // By channel: 3 images of 42 pixels each.
        let channel = |y: &[f32], c: usize| -> Vec<f32> {
            y.chunks(42).enumerate().filter(|(i, _)| i % weight[0] == c).flat_map(|(_, p)| p.to_vec()).collect()
        };
        let bias = graph.constant(constants[1]).unwrap().to_f32s();
        let y = numbers(setting.run(&x, &shape, true, &leaves).unwrap());
        for c in 0..weight[0] {
            let all = channel(&y, c);
            let mean = all.iter().sum::<f32>() / all.len() as f32;
            let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / all.len() as f32;
            assert!((mean - bias[c]).abs() < 1e-4 && (variance.sqrt() - gains[c]).abs() < 1e-4, "{mean} {variance}");
        }
        for (key, of) in [(Running::Mean(id), &means), (Running::Variance(id), &variances)] {
            let of = backend::tensor::<Flex>(of.clone(), &[weight[0]], &device);
            setting.parameters.statistics.insert(key, of);
        }
        let plain = Setting {
            graph: graph.clone(),
            plan: Plan::default(),
            parameters: Parameters::new(&graph, &Plan::default(), &device).unwrap(),
        };
        let raw = numbers(plain.run(&x, &shape, false, &plain.parameters.leaves()).unwrap());
        let y = numbers(setting.run(&x, &shape, false, &leaves).unwrap());
        for c in 0..weight[0] {
            let k = gains[c] / (variances[c] + 1e-5).sqrt();
            for (y, raw) in channel(&y, c).iter().zip(channel(&raw, c)) {
                let want = k * (raw - bias[c]) + bias[c] - k * means[c];
                assert!((y - want).abs() < 1e-4 * (1.0 + want.abs()), "{y} {want}");
            }
        }
        for live in [true, false] {
            let Setting { graph, plan, parameters } = &setting;
            let again = Setting { graph: graph.clone(), plan: plan.clone(), parameters: parameters.clone() };
            again.check_gradients(&x, &shape, live);
        }
    }
}

/// A product is finished at once unless somebody looks at what it answers: the same numbers and statistics, and the same gradients but for the order of sums.
#[test]
fn products_that_are_finished_at_once() {
    let shape = [3, 4, 7, 6];
    let attrs = ConvAttrs { group: 1, pads: vec![1, 1, 1, 1], ..ConvAttrs::default() };
    let graph = network("3,4,7,6", |b, x| {
        let (w, bias) = (constant(b, "w", &[5, 4, 3, 3]), constant(b, "b", &[5]));
        let y = b.op("conv", Op::Conv(attrs), &[x, w, bias]);
        b.op("relu", Op::Unary(Unary::Relu), &[y])
    });
    let (id, node) = graph.nodes().next().unwrap();
    let (seen, to) = (node.output(0).unwrap(), graph.outputs[0]);
    let mut setting = setting(graph.clone());
    let constants = [1, 2].map(|i| node.input(i).unwrap());
    setting.plan.normal.insert(id, Normal { name: "gain".into(), channels: 5, constants });
    let params = QParams::tensor(QType { bits: 4, signed: false, narrow: false }, 0.12, 0);
    let (estimator, rule) = (Default::default(), Default::default());
    let values = vec![to];
    let grid = PlannedGrid { name: "y".into(), fitted: params.clone(), params, estimator, rule, levels: None, values };
    setting.plan.grids.push(grid);
    setting.plan.of_value.insert(to, 0);
    let device = Device::<Flex>::default();
    setting.parameters = Parameters::new(&graph, &setting.plan, &device).unwrap();
    let run = |points: &[ValueId]| {
        let Setting { graph, plan, parameters } = &setting;
        let leaves = parameters.leaves();
        let forward = Forward {
            graph,
            plan,
            parameters,
            normalize: Normalize::Live,
            gradients: None,
            precision: Precision::F32,
            soft: None,
            device: &device,
        };
        let ahead = forward.ahead(points).len();
        let run = forward.run_seeing(tensor(noise(shape.iter().product(), 3), &shape), &leaves, points).unwrap();
        let weighted = Autodiff::<Flex>::float_mul(
            run.output.clone(),
            backend::constant::<Flex>(tensor(noise(3 * 5 * 7 * 6, 8), &[3, 5, 7, 6])),
        );
        let mut grads = weighted.backward();
        let gradients: Vec<Vec<f32>> =
            leaves.iter().map(|leaf| numbers(leaf.grad_remove(&mut grads).unwrap())).collect();
        let statistics: Vec<Vec<f32>> = run.statistics.into_iter().map(|(_, x)| numbers(x)).collect();
        (ahead, numbers(run.output.into_primitive()), statistics, gradients)
    };
    let (at_once, in_turn) = (run(&[]), run(&[seen]));
    assert_eq!((at_once.0, in_turn.0), (1, 0));
    assert_eq!(at_once.1, in_turn.1);
    assert_eq!(at_once.2, in_turn.2);
    assert_eq!(at_once.3.len(), 4);
    for (a, b) in at_once.3.iter().flatten().zip(in_turn.3.iter().flatten()) {
        assert!((a - b).abs() <= 2e-4 * (1.0 + b.abs()), "{a} {b}");
    }
}

/// Gradients of few bits: those of a convolution whose output's gradient is what rounding makes of it.
#[test]
fn gradients_of_few_bits_go_back_from_products() {
    let setting = setting(conv(ConvAttrs { group: 1, ..ConvAttrs::default() }, [5, 3, 3, 3]));
    let (device, shape) = (Device::<Flex>::default(), [2, 3, 7, 6]);
    let x = noise(shape.iter().product(), 3);
    let how = crate::low::Low { gradients: Some(4), ..Default::default() }.of_step(1, 2);
    let back = |gradients, w: &[f32]| {
        let Setting { graph, plan, parameters } = &setting;
        let leaves = parameters.leaves();
        let forward = Forward {
            graph,
            plan,
            parameters,
            normalize: Normalize::Live,
            gradients,
            precision: Precision::F32,
            soft: None,
            device: &device,
        };
        let y = forward.run(backend::tensor::<Flex>(x.clone(), &shape, &device), &leaves).unwrap().output;
        let w = backend::constant::<Flex>(backend::tensor::<Flex>(w.to_vec(), &backend::dims::<Flex>(&y), &device));
        let mut grads = Autodiff::<Flex>::float_sum(Autodiff::<Flex>::float_mul(y, w)).backward();
        let leaf = |leaf: &Var<Flex>| backend::numbers::<Flex>(leaf.grad_remove(&mut grads).unwrap()).unwrap();
        leaves.iter().map(leaf).collect::<Vec<_>>()
    };
    let g = noise(2 * 5 * 5 * 4, 7);
    let rounded = how.unwrap().round(&g, 0);
    assert_ne!(rounded, g);
    assert_eq!(back(how, &g), back(None, &rounded));
    assert_ne!(back(how, &g), back(None, &g));
}

#[test]
fn a_convolution_over_one_axis() {
    let attrs = ConvAttrs { group: 1, pads: vec![2, 1], strides: vec![2], ..ConvAttrs::default() };
    let graph = network("N, 3, 9", |b, x| {
        let (w, c) = (constant(b, "w", &[4, 3, 3]), constant(b, "b", &[4]));
        b.op("conv", Op::Conv(attrs), &[x, w, c])
    });
    let x = noise(2 * 3 * 9, 3);
    let setting = setting(graph);
    setting.check_forward(&x, &[2, 3, 9]);
    setting.check_gradients(&x, &[2, 3, 9], false);
}

/// One of nearly everything, between two products.
fn zoo() -> Arc<Graph> {
    network("N, 4, 8, 8", |b, x| {
        let attrs = ConvAttrs { group: 1, pads: vec![1; 4], ..ConvAttrs::default() };
        let (w, c) = (constant(b, "w", &[6, 4, 3, 3]), constant(b, "b", &[6]));
        let y = b.op("conv", Op::Conv(attrs), &[x, w, c]);
        let pool =
            PoolAttrs { kernel: vec![3, 3], strides: vec![2, 2], pads: vec![0, 0, 1, 1], ..PoolAttrs::default() };
        let m = b.op("max", Op::MaxPool { window: pool.clone(), column_major: false }, &[y]);
        let a = b.op("avg", Op::AveragePool { window: pool, count_include_pad: true }, &[y]);
        let y = b.op("join", Op::Concat { axis: 1 }, &[m, a]);
        let slope = constant(b, "slope", &[12, 1, 1]);
        let y = b.op("prelu", Op::Binary(Binary::PRelu), &[y, slope]);
        let h = b.op("hswish", Op::Unary(Unary::HardSwish), &[y]);
        let s = b.op("sigmoid", Op::Unary(Unary::Sigmoid), &[h]);
        let t = b.op("tanh", Op::Unary(Unary::Tanh), &[y]);
        let l = b.op("leaky", Op::Unary(Unary::LeakyRelu { alpha: 0.1 }), &[t]);
        let y = b.op("mul", Op::Binary(Binary::Mul), &[s, l]);
        let (lo, hi) = (b.scalar("lo", -0.4), b.scalar("hi", 0.4));
        let y = b.op("clip", Op::Clip, &[y, lo, hi]);
        let order = b.op("turn", Op::Transpose { perm: vec![0, 2, 3, 1] }, &[y]);
        let axes = b.ints("axes", &[1, 2]);
        let mean = Op::Reduce { kind: Reduction::Mean, keepdims: false, noop_with_empty_axes: false };
        let y = b.op("mean", mean, &[order, axes]);
        let shape = b.ints("shape", &[0, 3, -1]);
        let y = b.op("reshape", Op::Reshape { allowzero: false }, &[y, shape]);
        let v = constant(b, "v", &[4, 5]);
        let y = b.op("matmul", Op::MatMul, &[y, v]);
        let y = b.op("flatten", Op::Flatten { axis: 1 }, &[y]);
        let (u, d) = (constant(b, "fc", &[3, 15]), constant(b, "fcbias", &[3]));
        let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
        let y = b.op("gemm", gemm, &[y, u, d]);
        b.op("softmax", Op::Softmax { axis: -1, flat: false }, &[y])
    })
}

#[test]
fn one_of_nearly_everything() {
    let setting = setting(zoo());
    let x = noise(2 * 4 * 64, 5);
    setting.check_forward(&x, &[2, 4, 8, 8]);
    setting.check_gradients(&x, &[2, 4, 8, 8], false);
}

fn normalised() -> Arc<Graph> {
    network("N, 3, 4, 4", |b, x| {
        let names = ["gamma", "beta", "mean"];
        let [gamma, beta, mean] = names.map(|n| constant(b, n, &[3]));
        let variance = b.constant("variance", Tensor::of(&[3], vec![0.5f32, 1.0, 2.0]));
        let y = b.op("bn", Op::BatchNormalization { epsilon: 1e-5 }, &[x, gamma, beta, mean, variance]);
        // Smooth, so that differences are derivatives.
        b.op("tanh", Op::Unary(Unary::Tanh), &[y])
    })
}

#[test]
fn batch_normalisation_frozen_and_live() {
    let setting_of = || setting(normalised());
    let x = noise(4 * 3 * 16, 6);
    setting_of().check_forward(&x, &[4, 3, 4, 4]);
    setting_of().check_gradients(&x, &[4, 3, 4, 4], false);
    setting_of().check_gradients(&x, &[4, 3, 4, 4], true);
    let setting = setting_of();
    let run = setting.run(&x, &[4, 3, 4, 4], true, &setting.parameters.leaves()).unwrap();
    let statistics: Vec<Vec<f32>> =
        run.statistics.into_iter().map(|(_, t)| backend::numbers::<Flex>(t).unwrap()).collect();
    for c in 0..3 {
        let all: Vec<f64> = (0..4).flat_map(|n| x[(n * 3 + c) * 16..][..16].iter().map(|&x| f64::from(x))).collect();
        let mean = all.iter().sum::<f64>() / 64.0;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 63.0;
        assert!((f64::from(statistics[0][c]) - mean).abs() < 1e-6, "{statistics:?}");
        assert!((f64::from(statistics[1][c]) - variance).abs() < 1e-5, "{statistics:?}");
    }
}

/// The shortcut without weights of the first residual networks: every other pixel, and channels of zeros.
#[test]
fn slices_with_steps_and_pads() {
    let graph = network("N, 3, 5, 6", |b, x| {
        let bias = constant(b, "bias", &[3, 1, 1]);
        let x = b.op("add", Op::Binary(Binary::Add), &[x, bias]);
        let ends = [("from", [0, 1]), ("to", [i64::MAX, -1]), ("axes", [2, 3]), ("steps", [2, 2])];
        let ends = ends.map(|(name, x)| b.ints(name, &x));
        let y = b.op("slice", Op::Slice, &[x, ends[0], ends[1], ends[2], ends[3]]);
        let pads = b.ints("pads", &[0, 1, 0, 0, 0, 2, 0, 0]);
        let y = b.op("pad", Op::Pad { mode: nnq::ir::op::PadMode::Constant }, &[y, pads]);
        b.op("tanh", Op::Unary(Unary::Tanh), &[y])
    });
    let x = noise(2 * 90, 8);
    let setting = setting(graph);
    setting.check_forward(&x, &[2, 3, 5, 6]);
    setting.check_gradients(&x, &[2, 3, 5, 6], false);
}

#[test]
fn what_has_no_gradient_is_an_error_with_its_node() {
    let graph = network("N, 3, 4, 4", |b, x| {
        let y = b.op("rounder", Op::Unary(Unary::Round), &[x]);
        b.op("relu", Op::Unary(Unary::Relu), &[y])
    });
    let setting = setting(graph);
    let e = setting.run(&noise(48, 1), &[1, 3, 4, 4], false, &[]).err().unwrap().to_string();
    assert!(e.contains("node 'rounder' (Round)") && e.contains("no gradient"), "{e}");
    // Shapes that do not fit are errors, too: burn is never asked.
    let wrong = conv(ConvAttrs { group: 1, ..ConvAttrs::default() }, [5, 3, 3, 3]);
    let wrong = self::setting(wrong);
    let leaves = wrong.parameters.leaves();
    let e = wrong.run(&noise(2 * 7 * 6, 1), &[1, 2, 7, 6], false, &leaves).err().unwrap().to_string();
    assert!(e.contains("node 'conv' (Conv)"), "{e}");
    let e = wrong.run(&noise(3, 1), &[3], false, &leaves).err().unwrap().to_string();
    assert!(e.contains("node 'conv' (Conv)"), "{e}");
}
