//! Corrections of biases and scales on whole small networks: what they promise of each channel, and that simulator and integer engine agree.
use nnq::{
    data::Keeping,
    engine::{self, Engine, Kind},
    exec::lower::Profile,
    ir::{DType, Granularity, Graph, GraphBuilder, Op, Tensor, op::*},
    quant::{
        calibrate::Calibrator,
        ptq,
        recipe::Recipe,
        reconstruct::{self, How, Inputs},
        stats::Stats,
    },
    quantize,
};
use std::sync::Arc;

const SAMPLES: usize = 64;
const SHAPE: [usize; 4] = [SAMPLES, 3, 8, 8];

/// Normally distributed numbers (Box and Muller).
fn normal(n: usize, seed: u64) -> Vec<f32> {
    let uniform = |i: u64| {
        // SplitMix64.
        let mut z = (seed << 32).wrapping_add(i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 1e-17
    };
    let one = |i: u64| -> f64 {
        let (a, b) = (uniform(2 * i), uniform(2 * i + 1));
        (-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()
    };
    (0..n as u64).map(|i| one(i) as f32).collect()
}

fn picture() -> Tensor {
    Tensor::of(&SHAPE, normal(SHAPE.iter().product(), 1))
}

/// Two convolutions with batch normalisation, a depthwise one between, and a last one. Each normalisation has the mean and variance that its input has on
/// [`picture`], as if it was trained on it.
fn network() -> Arc<Graph> {
    let mut measured: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    loop {
        let mut b = GraphBuilder::new("net");
        let mut v = b.input("x", DType::F32, "N, 3, 8, 8");
        let mut ends = true;
        for (i, (shape, group)) in
            [([16, 3, 3, 3], 1), ([16, 1, 3, 3], 16), ([12, 16, 1, 1], 1)].into_iter().enumerate()
        {
            let w = b.constant(&format!("w{i}"), Tensor::of(&shape, normal(shape.iter().product(), 10 + i as u64)));
            let attrs = ConvAttrs { group, ..ConvAttrs::default() };
            v = b.op(&format!("conv{i}"), Op::Conv(attrs), &[v, w]);
            let Some((mean, variance)) = measured.get(i) else {
                ends = false;
                break;
            };
            let narrow = |x: &[f64]| Tensor::of(&[x.len()], x.iter().map(|&x| x as f32).collect());
            let n = mean.len();
            let draw = |seed: u64, scale: f32, shift: f32| {
                Tensor::of(&[n], normal(n, seed).iter().map(|x| x * scale + shift).collect::<Vec<f32>>())
            };
            let p = [
                b.constant(&format!("gamma{i}"), draw(20 + i as u64, 0.3, 0.4)),
                b.constant(&format!("beta{i}"), draw(30 + i as u64, 0.7, 0.8)),
                b.constant(&format!("mean{i}"), narrow(mean)),
                b.constant(&format!("variance{i}"), narrow(variance)),
            ];
            v = b.op(&format!("bn{i}"), Op::BatchNormalization { epsilon: 1e-5 }, &[v, p[0], p[1], p[2], p[3]]);
            v = b.op(&format!("relu{i}"), Op::Unary(Unary::Relu), &[v]);
        }
        if ends {
            let w = b.constant("w3", Tensor::of(&[5, 12, 1, 1], normal(60, 40)));
            let bias = b.constant("b3", Tensor::of(&[5], normal(5, 41)));
            v = b.op("conv3", Op::Conv(ConvAttrs { group: 1, ..ConvAttrs::default() }), &[v, w, bias]);
        }
        b.output(v);
        let graph = engine::simplify(b.finish().unwrap()).unwrap();
        if ends {
            return graph;
        }
        measured.push(moments(&run(&graph, Kind::Float)));
    }
}

fn run(graph: &Arc<Graph>, kind: Kind) -> Tensor {
    let options = engine::Options { kind, profile: Profile::default(), threads: 2 };
    Engine::open(graph.clone(), options).unwrap().run(vec![picture()]).unwrap().pop().unwrap()
}

/// Mean and variance of each channel.
fn moments(t: &Tensor) -> (Vec<f64>, Vec<f64>) {
    let (x, shape) = (t.to_f32s(), t.shape());
    let plane: usize = shape[2..].iter().product();
    (0..shape[1])
        .map(|c| {
            let of = |n: usize| x[(n * shape[1] + c) * plane..][..plane].iter().map(|&x| f64::from(x));
            let count = (shape[0] * plane) as f64;
            let mean = (0..shape[0]).flat_map(of).sum::<f64>() / count;
            (mean, (0..shape[0]).flat_map(of).map(|x| (x - mean) * (x - mean)).sum::<f64>() / count)
        })
        .unzip()
}

fn statistics(graph: &Arc<Graph>) -> Stats {
    let mut calibrator = Calibrator::new(graph.clone(), false, 2).unwrap();
    calibrator.feed(vec![picture()], &(0..SAMPLES as u64).collect::<Vec<u64>>()).unwrap();
    let mut stats = Stats::new([0; 32], "");
    stats.values = calibrator.finish().unwrap();
    stats
}

fn layer_by_layer(graph: &Arc<Graph>, recipe: &Recipe) -> Arc<Graph> {
    let mut inputs = Keeping::new().unwrap();
    inputs.push(&picture()).unwrap();
    let how = How {
        threads: 2,
        inputs: Inputs::Kept { kept: inputs.finish().unwrap(), batch: SAMPLES, count: SAMPLES },
        buffer: 1 << 30,
        log: None,
        check: Box::new(|| Ok(())),
    };
    Arc::new(reconstruct::quantize(graph, &statistics(graph), recipe, how, &mut |_, _| {}).unwrap().graph)
}

/// The part of a graph that computes the output of a node.
fn until(graph: &Graph, name: &str) -> Arc<Graph> {
    let mut part = graph.clone();
    let (_, node) = graph.nodes().find(|(_, n)| n.name == name).unwrap();
    part.outputs = vec![node.output(0).unwrap()];
    part.compact();
    Arc::new(part)
}

#[test]
fn biases_corrected_without_data_make_means_right() {
    let graph = network();
    let stats = statistics(&graph);
    let error = |text: &str| {
        let q = ptq::quantize(&graph, &stats, &Recipe::from_toml(text).unwrap()).unwrap();
        let (float, _) = moments(&run(&graph, Kind::Float));
        let (int, _) = moments(&run(&Arc::new(q.graph), Kind::Int));
        let squares: f64 = float.iter().zip(int).map(|(f, q)| (f - q) * (f - q)).sum();
        (squares.sqrt(), q.messages)
    };
    let weights = "[weight]\nbits = 4\ngranularity = \"tensor\"\n";
    let (plain, _) = error(weights);
    let (corrected, messages) = error(&format!("correct_bias = \"analytic\"\n{weights}"));
    // The distributions behind the normalisations are not quite normal, and one layer's error moves the next one's input.
    assert!(corrected < 0.4 * plain, "{corrected}, without {plain}");
    // The first layer's input is not known without data.
    assert!(messages.iter().any(|m| m.contains("1 of 4 layers") && m.contains("conv0")), "{messages:?}");
}

#[test]
fn re_estimated_channels_have_mean_and_deviation_of_the_float_network() {
    let graph = network();
    let text = "reestimate = true\n[activation]\nbits = 8\n[weight]\nbits = 3\n";
    let (plain, fitted) = (text.replace("reestimate = true\n", "correct_bias = true\n"), text);
    let worst = |text: &str| {
        let quantized = layer_by_layer(&graph, &Recipe::from_toml(text).unwrap());
        let [float, int] = [(&graph, Kind::Float), (&quantized, Kind::Int)].map(|(g, kind)| moments(&run(g, kind)));
        let mut worst = (0.0f64, 0.0f64);
        for c in 0..float.0.len() {
            let deviation = float.1[c].sqrt();
            worst.0 = worst.0.max((float.0[c] - int.0[c]).abs() / deviation);
            worst.1 = worst.1.max((int.1[c].sqrt() / deviation - 1.0).abs());
        }
        worst
    };
    let (before, after) = (worst(&plain), worst(fitted));
    // The moments are of a sample of positions; biases and scales are of this layer's real inputs.
    assert!(after.0 < 0.02 && after.1 < 0.02, "{after:?}, only biases {before:?}");
    assert!(after.1 < 0.5 * before.1, "{after:?}, only biases {before:?}");
}

#[test]
fn simulator_and_engine_agree_on_zero_points_and_groups() {
    let graph = network();
    let stats = statistics(&graph);
    let folder = tempfile::tempdir().unwrap();
    for (text, zeros) in [
        ("[weight]\nbits = 4\nrange = \"hqq\"\nsymmetric = false\n", true),
        ("[weight]\nbits = 4\nrange = \"hqq\"\nsymmetric = false\ngranularity = \"tensor\"\n", true),
        ("[weight]\nbits = 4\ngranularity = \"group:5\"\nrange = \"mse\"\n", false),
    ] {
        let recipe = Recipe::from_toml(text).unwrap();
        let q = quantize::annotate(&graph, &stats, &recipe).unwrap();
        let weights = q.graph.values().filter(|(_, v)| v.constant.is_some() && v.name.contains('w'));
        let params: Vec<_> = weights.filter_map(|(_, v)| v.quant.clone()).filter(|q| q.qtype.bits == 4).collect();
        assert_eq!(params.len(), 4);
        assert_eq!(params.iter().any(|p| p.zero_point.iter().any(|&z| z != 0)), zeros, "{text}");
        if text.contains("group") {
            for p in &params {
                assert_eq!(p.granularity, Granularity::Channel { axis: 0 });
                assert!(p.scale.chunks(5).all(|c| c.iter().all(|s| s == &c[0])), "{p:?}");
                assert!(p.scale.len() <= 5 || p.scale[0] != p.scale[5]);
            }
        }
        let path = folder.path().join("q.onnx");
        quantize::export(&q.graph, quantize::Format::Qdq, Default::default(), &path).unwrap();
        let read = engine::load(&path).unwrap();
        let outputs = [Kind::Sim, Kind::Int].map(|kind| run(&read, kind).to_f32s());
        assert!(outputs[0] == outputs[1], "{text}");
        assert!(outputs[0] == run(&Arc::new(q.graph), Kind::Int).to_f32s(), "{text}");
    }
}

/// Absorption by what the normalisations say: ranges are smaller, and the function stays but for values that a normal distribution hardly has.
#[test]
fn high_biases_are_absorbed_without_data() {
    let graph = network();
    let means = quantize::Means { threads: 2, ..quantize::Means::default() };
    let recipe = Recipe { absorb: true, ..Recipe::default() };
    let mut messages = Vec::new();
    let after = quantize::balanced(&graph, &recipe, None, means, &mut |_, _, _| {}, &mut messages).unwrap();
    assert!(messages[0].contains("absorption moved the bias") && !messages[0].contains("of 0 layers"), "{messages:?}");
    let [a, b] = [&graph, &after].map(|g| run(g, Kind::Float).to_f32s());
    let (mut error, mut power) = (0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        error += f64::from(a - b).powi(2);
        power += f64::from(*a).powi(2);
    }
    assert!(error > 0.0 && error < 1e-4 * power, "{error} of {power}");
    // Behind the ReLU of each layer that gave, the mean fell by what it gave.
    let means = |g: &Graph, name: &str| moments(&run(&until(g, name), Kind::Float)).0;
    let fell = ["relu0", "relu1", "relu2"]
        .iter()
        .any(|name| means(&graph, name).iter().zip(means(&after, name)).any(|(a, b)| b < 0.9 * a));
    assert!(fell);
}
