//! Balancing: the function stays, and weights become those of a program written from the papers (`tools/golden_balance.py`).
use super::{
    chain::{Kinds, largest, links},
    *,
};
use crate::{
    data::mix,
    exec::float,
    ir::{
        Channels, DType, Graph, GraphBuilder, NodeId, Op, Tensor, ValueId,
        op::{Binary, ConvAttrs, PoolAttrs, Reduction, Unary},
    },
};
use serde::Deserialize;
use std::sync::Arc;

const RELU: Op = Op::Unary(Unary::Relu);

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| (mix(seed, i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

fn conv(b: &mut GraphBuilder, name: &str, v: ValueId, shape: [usize; 4], group: usize, pad: i64) -> ValueId {
    let mut w = numbers(shape.iter().product(), shape[0] as u64);
    // Channels of very different sizes.
    let each = w.len() / shape[0];
    w.iter_mut().enumerate().for_each(|(i, w)| *w *= [1.0, 10.0, 100.0][i / each % 3]);
    let w = b.constant(&format!("{name}.w"), Tensor::of(&shape, w));
    let bias = b.constant(&format!("{name}.b"), Tensor::of(&[shape[0]], numbers(shape[0], 99)));
    b.op(name, Op::Conv(ConvAttrs { group, pads: vec![pad; 4], ..ConvAttrs::default() }), &[v, w, bias])
}

/// Convolution, `between` (which adds nodes), depthwise convolution, ReLU, convolution.
fn network(between: impl Fn(&mut GraphBuilder, ValueId) -> ValueId) -> Graph {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "1, 2, 6, 6");
    let mut v = conv(&mut b, "a", x, [6, 2, 1, 1], 1, 0);
    v = between(&mut b, v);
    v = conv(&mut b, "b", v, [6, 1, 3, 3], 6, 0);
    v = b.op("b.f", RELU, &[v]);
    v = conv(&mut b, "c", v, [3, 6, 1, 1], 1, 0);
    b.output(v);
    b.finish().unwrap()
}

fn simple(between: Op) -> Graph {
    network(|b, v| b.op("a.f", between.clone(), &[v]))
}

fn run(g: &Graph) -> Vec<f32> {
    let shape = g.value(g.inputs[0]).shape.as_ref().unwrap().as_fixed().unwrap();
    let mut session = float::Session::new(Arc::new(g.clone()), &float::Options { threads: 1 }).unwrap();
    let x = Tensor::of(&shape, numbers(shape.iter().product(), 5));
    session.run(vec![x]).unwrap().iter().flat_map(Tensor::to_f32s).collect()
}

#[track_caller]
fn same(before: &Graph, after: &Graph) {
    let (before, after) = (run(before), run(after));
    let size = before.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() <= 1e-5 * size), "{before:?}\n{after:?}");
}

/// Ranges of the channels between each layer and those that read it.
#[track_caller]
fn meets(g: &Graph) {
    let (links, weights) = links(g, Kinds::default());
    for link in &links {
        let columns = largest(&weights, &link.seconds, false);
        for (r1, r2) in largest(&weights, &link.firsts, true).iter().zip(columns) {
            assert!((r1 / r2 - 1.0).abs() < 0.02, "{r1} and {r2} behind '{}'", g.node(link.firsts[0]).name);
        }
    }
}

#[test]
fn the_function_stays_and_ranges_meet_through_whatever_lets_scales_through() {
    let slope = |b: &mut GraphBuilder, v| {
        let s = b.constant("slope", Tensor::of(&[6, 1, 1], numbers(6, 3)));
        b.op("a.f", Op::Binary(Binary::PRelu), &[v, s])
    };
    let pool = |op: fn(PoolAttrs) -> Op| {
        move |b: &mut GraphBuilder, v| {
            let v = b.op("a.f", RELU, &[v]);
            b.op("pool", op(PoolAttrs { kernel: vec![2, 2], ..PoolAttrs::default() }), &[v])
        }
    };
    for (name, g) in [
        ("relu", simple(RELU)),
        ("nothing", simple(Op::Identity)),
        ("leaky", simple(Op::Unary(Unary::LeakyRelu { alpha: 0.1 }))),
        ("prelu", network(slope)),
        ("average", network(pool(|window| Op::AveragePool { window, count_include_pad: true }))),
        ("maximum", network(pool(|window| Op::MaxPool { window, column_major: false }))),
    ] {
        let done = equalize(&g).unwrap();
        assert_eq!((done.pairs, done.clips), (2, 0), "{name}");
        same(&g, &done.graph);
        meets(&done.graph);
        // What was balanced is not balanced again.
        same(&done.graph, &equalize(&done.graph).unwrap().graph);
    }
}

#[test]
fn clips_become_relu_and_what_bends_otherwise_stays() {
    let clip = |low: f32| {
        network(move |b, v| {
            let bounds = [b.scalar("low", low), b.scalar("high", 6.0)];
            b.op("a.f", Op::Clip, &[v, bounds[0], bounds[1]])
        })
    };
    let done = equalize(&clip(0.0)).unwrap();
    assert_eq!((done.pairs, done.clips), (2, 1));
    assert_eq!(equalize(&clip(-1.0)).unwrap().pairs, 1);
    assert_eq!(equalize(&simple(Op::Unary(Unary::Sigmoid))).unwrap().pairs, 1);
    let tapped = network(|b, v| {
        b.output(v);
        b.op("a.f", RELU, &[v])
    });
    assert_eq!(equalize(&tapped).unwrap().pairs, 1);
    // A bias that layers share is no layer's own.
    let mut shared = simple(RELU);
    let ids: Vec<NodeId> = shared.nodes().filter(|(_, n)| matches!(n.op, Op::Conv(_))).map(|n| n.0).collect();
    let bias = shared.node(ids[0]).inputs[2];
    shared.node_mut(ids[1]).inputs[2] = bias;
    assert_eq!(equalize(&shared).unwrap().pairs, 0);
}

#[test]
fn residual_connections_stay_and_forks_balance_together() {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "2, 2, 6, 6");
    let a = conv(&mut b, "a", x, [6, 2, 1, 1], 1, 0);
    let a = b.op("a.f", RELU, &[a]);
    let inside = conv(&mut b, "b", a, [6, 6, 3, 3], 1, 1);
    let inside = b.op("b.f", RELU, &[inside]);
    let inside = conv(&mut b, "c", inside, [6, 6, 1, 1], 1, 0);
    let sum = b.op("sum", Op::Binary(Binary::Add), &[a, inside]);
    // A fork, one branch of it in groups; the other ends in a matrix product behind a mean over space.
    let squeeze = conv(&mut b, "d", sum, [6, 6, 1, 1], 1, 0);
    let squeeze = b.op("d.f", RELU, &[squeeze]);
    let one = conv(&mut b, "e", squeeze, [4, 6, 1, 1], 1, 0);
    let two = conv(&mut b, "f", squeeze, [4, 3, 3, 3], 2, 1);
    let one = b.op("e.f", RELU, &[one]);
    let axes = b.ints("axes", &[-2, -1]);
    let mean = Op::Reduce { kind: Reduction::Mean, keepdims: true, noop_with_empty_axes: false };
    let one = b.op("mean", mean, &[one, axes]);
    let one = b.op("flat", Op::Flatten { axis: 1 }, &[one]);
    let w = b.constant("g.w", Tensor::of(&[3, 4], numbers(12, 8)));
    let bias = b.constant("g.b", Tensor::of(&[3], numbers(3, 9)));
    let one = b.op("g", Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }, &[one, w, bias]);
    b.output(one);
    b.output(two);
    let g = b.finish().unwrap();
    let done = equalize(&g).unwrap();
    // b-c, d-(e, f), e-g.
    assert_eq!(done.pairs, 3);
    same(&g, &done.graph);
    meets(&done.graph);
    let kept = |name: &str| {
        let of = |g: &Graph| g.constant(g.find(name).unwrap()).unwrap().to_f32s();
        of(&g) == of(&done.graph)
    };
    assert!(kept("a.w") && kept("a.b") && !kept("d.w") && !kept("f.w") && !kept("g.w") && kept("c.b"));
}

#[derive(Deserialize)]
struct Layers {
    w1: Option<Vec<f64>>,
    b1: Option<Vec<f64>>,
    w2: Option<Vec<f64>>,
    b2: Option<Vec<f64>>,
    w3: Option<Vec<f64>>,
    b3: Option<Vec<f64>>,
    mean: Option<Vec<f64>>,
    deviation: Option<Vec<f64>>,
    largest: Option<Vec<f64>>,
    alpha: Option<f64>,
}

#[derive(Deserialize)]
struct Golden {
    before: Layers,
    equalized: Layers,
    absorbed: Layers,
    smooth: Vec<Layers>,
}

fn golden() -> (Golden, Graph, ValueId) {
    let golden: Golden = serde_json::from_str(include_str!("../../../testdata/balance.json")).unwrap();
    let mut b = GraphBuilder::new("net");
    let mut v = b.input("x", DType::F32, "1, 4, 6, 6");
    let mut second = v;
    let all = &golden.before;
    for (name, shape, w, bias) in [
        ("1", [6, 4, 1, 1], &all.w1, &all.b1),
        ("2", [6, 1, 3, 3], &all.w2, &all.b2),
        ("3", [5, 6, 1, 1], &all.w3, &all.b3),
    ] {
        let narrow = |x: &Option<Vec<f64>>| x.as_ref().unwrap().iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let w = b.constant(&format!("w{name}"), Tensor::of(&shape, narrow(w)));
        let bias = b.constant(&format!("b{name}"), Tensor::of(&[shape[0]], narrow(bias)));
        let group = if name == "2" { 6 } else { 1 };
        v = b.op(name, Op::Conv(ConvAttrs { group, ..ConvAttrs::default() }), &[v, w, bias]);
        if name == "2" {
            second = v;
        }
        v = b.op(&format!("f{name}"), RELU, &[v]);
    }
    b.output(v);
    (golden, b.finish().unwrap(), second)
}

#[track_caller]
fn equal(g: &Graph, want: &Layers, tolerance: f64) {
    let all =
        [("w1", &want.w1), ("b1", &want.b1), ("w2", &want.w2), ("b2", &want.b2), ("w3", &want.w3), ("b3", &want.b3)];
    for (name, want) in all {
        let Some(want) = want else { continue };
        let got = g.constant(g.find(name).unwrap()).unwrap().to_f32s();
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((f64::from(*got) - want).abs() <= tolerance * want.abs().max(1e-3), "{name}[{i}]: {got}, {want}");
        }
    }
}

#[test]
fn three_layers_end_at_the_closed_form() {
    let (golden, g, _) = golden();
    let done = equalize(&g).unwrap();
    // Sweeps stop when the mean change of a scale is 1e-4.
    equal(&done.graph, &golden.equalized, 2e-3);
    same(&g, &done.graph);
}

#[test]
fn absorption_is_that_of_the_paper() {
    let (golden, mut g, second) = golden();
    let (mean, deviation) = (golden.absorbed.mean.clone().unwrap(), golden.absorbed.deviation.clone().unwrap());
    let moved = mean.iter().zip(&deviation).filter(|(m, d)| **m > 3.0 * **d).count();
    assert!(moved > 0 && moved < 6);
    let channels = Channels { mean, deviation, ..Channels::default() };
    g.value_mut(second).channels = Some(Arc::new(channels.clone()));
    let done = absorb(&g).unwrap();
    equal(&done.graph, &golden.absorbed, 1e-6);
    // The first layer's output is not known.
    assert_eq!((done.layers, done.channels, done.unknown, done.padded, done.bent), (1, moved, 1, 0, 0));
    // What is known moves along.
    let after = done.graph.values().find(|(_, v)| v.channels.is_some()).unwrap().1.channels.clone().unwrap();
    for ((after, before), deviation) in after.mean.iter().zip(&channels.mean).zip(&channels.deviation) {
        assert!((after - (before - (before - 3.0 * deviation).max(0.0))).abs() < 1e-12);
    }
}

#[test]
fn absorption_is_exact_above_and_leaves_padding_and_clips_alone() {
    // Outputs of the first layer are above 50 everywhere: a mean of 80 with a deviation of 10 gives c = 50.
    let build = |pad: i64, between: Op| {
        let mut b = GraphBuilder::new("net");
        let x = b.input("x", DType::F32, "1, 2, 6, 6");
        let w = b.constant("a.w", Tensor::of(&[4, 2, 1, 1], numbers(8, 1)));
        let bias = b.constant("a.b", Tensor::of(&[4], vec![80.0f32; 4]));
        let v = b.op("a", Op::Conv(ConvAttrs { group: 1, ..ConvAttrs::default() }), &[x, w, bias]);
        let mut inputs = vec![v];
        if matches!(between, Op::Clip) {
            inputs.extend([b.scalar("low", 0.0), b.scalar("high", 6.0)]);
        }
        let f = b.op("a.f", between, &inputs);
        let f = b.op(
            "pool",
            Op::AveragePool {
                window: PoolAttrs { kernel: vec![2, 2], ..PoolAttrs::default() },
                count_include_pad: false,
            },
            &[f],
        );
        let w = b.constant("b.w", Tensor::of(&[3, 4, 3, 3], numbers(108, 2)));
        // A convolution without a bias gets one.
        let y = b.op("b", Op::Conv(ConvAttrs { group: 1, pads: vec![pad; 4], ..ConvAttrs::default() }), &[f, w]);
        b.output(y);
        b.graph().value_mut(v).channels =
            Some(Arc::new(Channels { mean: vec![80.0; 4], deviation: vec![10.0; 4], ..Channels::default() }));
        b.finish().unwrap()
    };
    let g = build(0, RELU);
    let done = absorb(&g).unwrap();
    assert_eq!((done.layers, done.channels), (1, 4));
    same(&g, &done.graph);
    assert_eq!(done.graph.constant(done.graph.find("a.b").unwrap()).unwrap().to_f32s(), [30.0; 4]);
    let padded = absorb(&build(1, RELU)).unwrap();
    assert_eq!((padded.layers, padded.padded), (0, 1));
    let bent = absorb(&build(0, Op::Clip)).unwrap();
    assert_eq!((bent.layers, bent.bent), (0, 1));
    assert_eq!(absorb(&build(0, Op::Unary(Unary::LeakyRelu { alpha: 0.1 }))).unwrap().bent, 1);
}

fn by(alpha: f64) -> Smoothing {
    Smoothing { alpha, reach: None }
}

#[test]
fn smoothing_is_that_of_the_paper() {
    let (golden, mut g, second) = golden();
    let read = g.nodes().find(|(_, n)| n.input(0) == Some(second)).unwrap().1.output(0).unwrap();
    for want in &golden.smooth {
        let largest = want.largest.clone().unwrap();
        g.value_mut(read).channels = Some(Arc::new(Channels { largest, ..Channels::default() }));
        let done = smooth(&g, by(want.alpha.unwrap())).unwrap();
        assert_eq!((done.links, done.unknown), (1, 1));
        equal(&done.graph, want, 1e-6);
        same(&g, &done.graph);
    }
}

#[test]
fn levelled_channels_keep_their_clip() {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "1, 4, 5, 5");
    let small: Vec<f32> = numbers(16, 1).iter().map(|w| w / 20.0).collect();
    let w = b.constant("a.w", Tensor::of(&[4, 4, 1, 1], small));
    let bias = b.constant("a.b", Tensor::of(&[4], vec![0.4f32, -0.1, 0.1, 0.0]));
    let v = b.op("a", Op::Conv(ConvAttrs { group: 1, ..ConvAttrs::default() }), &[x, w, bias]);
    let inputs = [v, b.scalar("low", 0.0), b.scalar("high", 6.0)];
    let f = b.op("a.f", Op::Clip, &inputs);
    let w = b.constant("b.w", Tensor::of(&[4, 1, 3, 3], numbers(36, 2)));
    let y = b.op("b", Op::Conv(ConvAttrs { group: 4, pads: vec![1; 4], ..ConvAttrs::default() }), &[f, w]);
    b.output(y);
    // One at the bound, one below it, one too small to count, one that is never seen.
    let largest = vec![6.0, 1.5, 0.01, 0.0];
    b.graph().value_mut(f).channels = Some(Arc::new(Channels { largest, ..Channels::default() }));
    let g = b.finish().unwrap();
    let done = smooth(&g, by(1.0)).unwrap();
    assert_eq!((done.links, done.bounds, done.clips), (1, 1, 0));
    let of = |g: &Graph, name: &str| g.constant(g.find(name).unwrap()).unwrap().to_f32s();
    let (before, after) = (of(&g, "a.b"), of(&done.graph, "a.b"));
    for (c, scale) in [6.0, 1.5, 0.375, 0.375].into_iter().enumerate() {
        assert!((before[c] - scale * after[c]).abs() < 1e-6, "channel {c}");
    }
    // Inputs so small that no channel passes what the samples reached: the same function.
    same(&g, &done.graph);
    // The bound is one now, which is the old one where the channel reached it.
    let clip = done.graph.nodes().find(|(_, n)| matches!(n.op, Op::Clip)).unwrap().1;
    assert_eq!(done.graph.constant(clip.input(2).unwrap()).unwrap().to_f32s(), [1.0]);
    // Half the way, the bounds of two channels that reach it differ.
    let mut g = g;
    let read = g.nodes().find(|(_, n)| matches!(n.op, Op::Clip)).unwrap().1.output(0).unwrap();
    let largest = vec![6.0, 6.0, 0.01, 0.0];
    g.value_mut(read).channels = Some(Arc::new(Channels { largest, ..Channels::default() }));
    let half = smooth(&g, by(0.5)).unwrap();
    assert_eq!((half.bounds, half.clips), (0, 1));
}

#[test]
fn channels_count_as_far_as_they_reach() {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "1, 4, 5, 5");
    let v = conv(&mut b, "a", x, [4, 4, 1, 1], 1, 0);
    let inputs = [v, b.scalar("low", 0.0), b.scalar("high", 6.0)];
    let f = b.op("a.f", Op::Clip, &inputs);
    let w = b.constant("b.w", Tensor::of(&[4, 1, 3, 3], numbers(36, 2)));
    let y = b.op("b", Op::Conv(ConvAttrs { group: 4, pads: vec![1; 4], ..ConvAttrs::default() }), &[f, w]);
    b.output(y);
    // Root mean squares 0.5, 1, 0.25 and 0: twice that is less than the first and third reach.
    let known = Channels {
        mean: vec![0.3, 0.0, 0.15, 0.0],
        deviation: vec![0.4, 1.0, 0.2, 0.0],
        largest: vec![5.0, 1.5, 2.0, 0.0],
        fit: vec![4.0, 1.6, 0.5, 0.0],
    };
    b.graph().value_mut(f).channels = Some(Arc::new(known));
    let g = b.finish().unwrap();
    let bias = |g: &Graph| g.constant(g.find("a.b").unwrap()).unwrap().to_f32s();
    let bound = |g: &Graph| {
        let clip = g.nodes().find(|(_, n)| matches!(n.op, Op::Clip)).unwrap().1;
        g.constant(clip.input(2).unwrap()).unwrap().to_f32s()[0]
    };
    for (how, scales) in [
        // By the largest; the last channel counts as 1/16 of the first.
        ("1", [5.0, 1.5, 2.0, 0.3125]),
        // 2 rms: 1, 1.5 (what it reaches), 0.5.
        ("1:2", [1.0, 1.5, 0.5, 0.09375]),
        ("1:1", [0.5, 1.0, 0.25, 0.0625]),
        // So far that it makes no difference.
        ("1:100", [5.0, 1.5, 2.0, 0.3125]),
        // As far as grids of least error reach, but no farther than the channel does.
        ("1:4bit", [4.0, 1.5, 0.5, 0.25]),
    ] {
        let done = smooth(&g, how.parse().unwrap()).unwrap();
        assert_eq!((done.links, done.bounds, done.clips), (1, 1, 0), "{how}");
        let (before, after) = (bias(&g), bias(&done.graph));
        for (c, scale) in scales.into_iter().enumerate() {
            assert!((before[c] - scale * after[c]).abs() < 1e-5, "{how}, channel {c}: {} {}", before[c], after[c]);
        }
        // Each channel is cut where it ends.
        assert_eq!(bound(&done.graph), 1.0, "{how}");
    }
}

#[test]
fn smoothing_is_written_as_it_is_read() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct In {
        smooth: Smoothing,
    }
    for (text, file, alpha, reach) in [
        ("0.5", "smooth = 0.5\n", 0.5, None),
        ("1:6", "smooth = \"1:6\"\n", 1.0, Some(Reach::Deviations(6.0))),
        ("1:4bit", "smooth = \"1:4bit\"\n", 1.0, Some(Reach::Bits(4))),
    ] {
        let smooth: Smoothing = text.parse().unwrap();
        assert_eq!((smooth.alpha, smooth.reach, smooth.to_string().as_str()), (alpha, reach, text));
        assert_eq!(toml::to_string(&In { smooth }).unwrap(), file);
        assert_eq!(toml::from_str::<In>(file).unwrap().smooth, smooth);
    }
    assert_eq!(toml::from_str::<In>("smooth = 1").unwrap().smooth.alpha, 1.0);
    let refused = |file: &str| toml::from_str::<In>(file).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused("smooth = 1.5").contains("0 to 1"));
    assert!(refused("smooth = true").contains("ALPHA:REACH"), "{}", refused("smooth = true"));
    for (wrong, words) in [
        ("1.5", "0 to 1"),
        ("-1", "0 to 1"),
        ("nan", "0 to 1"),
        ("1:0.5", "root mean square"),
        ("1:inf", "root mean square"),
        ("1:", "''"),
        ("half", "'half'"),
    ] {
        let e = wrong.parse::<Smoothing>().unwrap_err().to_string();
        assert!(e.contains(words), "{wrong}: {e}");
    }
}

/// Two residual blocks and what is before and behind them.
fn stream() -> Arc<Graph> {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "1, 2, 6, 6");
    let mut v = conv(&mut b, "stem", x, [6, 2, 1, 1], 1, 0);
    for block in ["one", "two"] {
        let inner = conv(&mut b, &format!("{block}.a"), v, [4, 6, 1, 1], 1, 0);
        let inner = b.op(&format!("{block}.f"), RELU, &[inner]);
        let inner = conv(&mut b, &format!("{block}.b"), inner, [6, 4, 3, 3], 1, 1);
        v = b.op(&format!("{block}.sum"), Op::Binary(Binary::Add), &[inner, v]);
    }
    let y = conv(&mut b, "head", v, [3, 6, 1, 1], 1, 0);
    b.output(y);
    Arc::new(b.finish().unwrap())
}

#[test]
fn a_stream_of_sums_is_scaled_as_a_whole() {
    let g = stream();
    let measured = |g: &Arc<Graph>, values: &[ValueId]| {
        let x = Tensor::of(&[1, 2, 6, 6], numbers(72, 5));
        crate::quant::channels::measure(g, values, None, 1, &mut |to| to(vec![x.clone()])).unwrap()
    };
    let (links, _) = links(&g, Kinds { norms: true, sums: true });
    let stream = &links[0];
    let names = |ids: &[NodeId]| ids.iter().map(|&id| g.node(id).name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&stream.firsts), ["stem", "one.b", "two.b"]);
    assert_eq!(names(&stream.between), ["one.sum", "two.sum"]);
    assert_eq!(names(&stream.seconds), ["one.a", "two.a", "head"]);
    // The two inner ones, and no others.
    assert_eq!(links.len(), 3);
    assert_eq!(super::chain::links(&g, Kinds::default()).0.len(), 2);
    let known = measured(&g, &super::smooth::unknown(&g, by(1.0)));
    let done = smooth(&known, by(1.0)).unwrap();
    assert_eq!((done.links, done.unknown), (3, 0));
    same(&g, &done.graph);
    let after = Arc::new(done.graph);
    let reads = ["one.a", "two.a", "head"].map(|name| {
        let node = after.nodes().find(|(_, n)| n.name == name).unwrap().1;
        node.input(0).unwrap()
    });
    let after = measured(&after, &reads);
    let most =
        |c: usize| reads.iter().map(|&v| after.value(v).channels.as_ref().unwrap().largest[c]).fold(0.0, f64::max);
    // Weights of three sizes made channels differ by hundreds.
    for c in 0..6 {
        assert!(most(c) > 0.06 && most(c) < 1.0 + 1e-5, "channel {c}: {}", most(c));
    }
    assert!((0..6).filter(|&c| most(c) > 1.0 - 1e-5).count() > 1);
}

#[test]
fn smoothing_goes_into_normalisations() {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "2, 5, 8");
    let scale = b.constant("scale", Tensor::of(&[8], numbers(8, 1)));
    let shift = b.constant("shift", Tensor::of(&[8], numbers(8, 2)));
    let v = b.op("norm", Op::LayerNormalization { axis: -1, epsilon: 1e-5 }, &[x, scale, shift]);
    for (name, n) in [("q", 3), ("k", 4)] {
        let w = b.constant(&format!("{name}.w"), Tensor::of(&[8, n], numbers(8 * n, n as u64)));
        let y = b.op(name, Op::MatMul, &[v, w]);
        b.output(y);
    }
    let largest: Vec<f64> = (0..8).map(|i| f64::from(1 << i)).collect();
    b.graph().value_mut(v).channels = Some(Arc::new(Channels { largest: largest.clone(), ..Channels::default() }));
    let g = b.finish().unwrap();
    let done = smooth(&g, by(0.5)).unwrap();
    assert_eq!(done.links, 1);
    same(&g, &done.graph);
    // Both sides have the same largest magnitude: of the products together, and of the activation.
    let of = |g: &Graph, name: &str| g.constant(g.find(name).unwrap()).unwrap().to_f32s();
    for c in 0..8 {
        let columns = [("q", 3), ("k", 4)].map(|(name, n)| {
            let w = of(&done.graph, &format!("{name}.w"));
            (0..n).map(|i| w[c * n + i].abs()).fold(0.0, f32::max)
        });
        let factor = of(&done.graph, "scale")[c] / of(&g, "scale")[c];
        let (w, x) = (f64::from(columns[0].max(columns[1])), largest[c] * f64::from(factor));
        assert!((w / x - 1.0).abs() < 1e-5, "channel {c}: {w}, {x}");
    }
    // Equalization looks at weights alone, and a normalisation has none.
    assert_eq!(equalize(&g).unwrap().pairs, 0);
}

/// `E[x x^T]` of what is read, on one input.
fn moments(g: &Arc<Graph>) -> Moments {
    let shape = g.value(g.inputs[0]).shape.as_ref().unwrap().as_fixed().unwrap();
    let x = Tensor::of(&shape, numbers(shape.iter().product(), 5));
    crate::quant::channels::second_moments(g, &wanted_for_basis(g), 1, &mut |to| to(vec![x.clone()])).unwrap()
}

#[test]
fn a_stream_gets_another_basis_as_a_whole() {
    let g = stream();
    let known = moments(&g);
    // What the blocks and the head read; not what lies behind a ReLU.
    assert_eq!(known.len(), 3);
    let done = change_basis(&g, &known).unwrap();
    assert_eq!(done.streams, 1);
    same(&g, &done.graph);
    let after = Arc::new(done.graph);
    // What rounding adds to the readers' answers, in shares of these.
    let noise = |g: &Graph, known: &Moments| {
        let (links, weights) = links(g, Kinds { norms: false, sums: true });
        let of = |id: &NodeId| {
            let (seen, gram) = (&known[&g.node(*id).input(0).unwrap()], weights[id].gram());
            seen.trace() * gram.trace() / seen.dot(&gram)
        };
        let stream = links.iter().find(|l| l.seconds.len() == 3).unwrap();
        stream.seconds.iter().map(of).sum::<f64>()
    };
    let (was, is) = (noise(&g, &known), noise(&after, &moments(&after)));
    assert!(is < was, "{is} {was}");
    // Nothing seen, nothing done.
    let none = change_basis(&g, &Moments::new()).unwrap();
    assert_eq!((none.streams, run(&none.graph)), (0, run(&g)));
}

#[test]
fn rows_of_matrices_get_another_basis() {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "5, 3");
    let product = |b: &mut GraphBuilder, name: &str, v, shape: [usize; 2], trans_b| {
        let w = b.constant(&format!("{name}.w"), Tensor::of(&shape, numbers(shape[0] * shape[1], 3)));
        let bias = b.constant(&format!("{name}.b"), Tensor::of(&[4], numbers(4, 8)));
        let op = Op::Gemm { trans_a: false, trans_b, alpha: 1.0, beta: 1.0 };
        b.op(name, op, &[v, w, bias])
    };
    let v = product(&mut b, "a", x, [3, 4], false);
    let v = product(&mut b, "b", v, [4, 4], true);
    let v = b.op("b.f", RELU, &[v]);
    let y = product(&mut b, "c", v, [4, 4], false);
    b.output(y);
    let g = Arc::new(b.finish().unwrap());
    let done = change_basis(&g, &moments(&g)).unwrap();
    assert_eq!(done.streams, 1);
    same(&g, &done.graph);
    let w = |g: &Graph, name: &str| g.constant(g.find(name).unwrap()).unwrap().to_f32s();
    assert!(["a.w", "a.b", "b.w"].iter().all(|n| w(&g, n) != w(&done.graph, n)));
    assert!(["b.b", "c.w"].iter().all(|n| w(&g, n) == w(&done.graph, n)));
}
