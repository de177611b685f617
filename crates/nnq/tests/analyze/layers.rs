//! Counterfactuals and mixed networks on a network so small that plain loops say what must come out.
use nnq::{
    engine::{Engine, Kind, Options},
    exec::lower::{Profile, lower},
    ir::{DType, Graph, GraphBuilder, Op, Tensor, op::Unary},
    quant::{
        analysis::{Cause, Energy, Layers, mix, units},
        calibrate::Calibrator,
        ptq,
        recipe::Recipe,
        stats::Stats,
    },
};
use std::{collections::HashSet, sync::Arc};

const SAMPLES: usize = 12;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 7919 + seed * 104_729 + 31) % 1009) as f32 / 1009.0 - 0.45) * 1.7).collect()
}

const W1: [usize; 2] = [4, 6];
const W2: [usize; 2] = [6, 3];

fn network() -> Arc<Graph> {
    let mut b = GraphBuilder::new("net");
    let x = b.input("x", DType::F32, "N, 4");
    let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false };
    let (w, c) = (b.constant("w1", Tensor::of(&W1, numbers(24, 1))), b.constant("b1", Tensor::of(&[6], numbers(6, 2))));
    let y = b.op("first", gemm.clone(), &[x, w, c]);
    let y = b.op("relu", Op::Unary(Unary::Relu), &[y]);
    let (w, c) = (b.constant("w2", Tensor::of(&W2, numbers(18, 3))), b.constant("b2", Tensor::of(&[3], numbers(3, 4))));
    let y = b.op("second", gemm, &[y, w, c]);
    b.output(y);
    Arc::new(b.finish().unwrap())
}

fn input() -> Tensor {
    Tensor::of(&[SAMPLES, 4], numbers(SAMPLES * 4, 5))
}

/// Few bits and narrow ranges, so that every cause makes noise.
fn quantized(graph: &Arc<Graph>) -> Graph {
    let recipe = Recipe::from_toml("[activation]\nbits = 5\nrange = \"percentile:90\"\n[weight]\nbits = 4\n").unwrap();
    let mut calibrator = Calibrator::new(graph.clone(), false, 1).unwrap();
    let ids: Vec<u64> = (0..SAMPLES as u64).collect();
    calibrator.feed(vec![input()], &ids).unwrap();
    let mut stats = Stats::new([0; 32], "");
    stats.values = calibrator.finish().unwrap();
    ptq::quantize(graph, &stats, &recipe).unwrap().graph
}

/// What the loops know of a grid: scale, zero point, lowest and highest code.
type Grid = (f64, f64, f64, f64);

fn grid(g: &Graph, name: &str) -> Grid {
    let q = g.value(g.find(name).unwrap()).quant.clone().unwrap();
    (q.scale[0].into(), q.zero_point[0].into(), q.qtype.min().into(), q.qtype.max().into())
}

fn round((s, ..): Grid, x: f64) -> f64 {
    (x / s).round_ties_even() * s
}

fn clip((s, z, n, p): Grid, x: f64) -> f64 {
    x.clamp((n - z) * s, (p - z) * s)
}

fn both(g: Grid, x: f64) -> f64 {
    clip(g, round(g, x))
}

fn doubles(g: &Graph, name: &str) -> Vec<f64> {
    g.real_constant(g.find(name).unwrap()).unwrap().to_f32s().iter().map(|&x| x.into()).collect()
}

/// `x W + b`, clamped at 0 where asked for.
fn layer(x: &[f64], w: &[f64], b: &[f64], relu: bool) -> Vec<f64> {
    let (n, k) = (b.len(), w.len() / b.len());
    let one = |row: &[f64], j: usize| (0..k).map(|i| row[i] * w[i * n + j]).sum::<f64>() + b[j];
    let all = x.chunks(k).flat_map(|row| (0..n).map(move |j| one(row, j)));
    all.map(|y| if relu { y.max(0.0) } else { y }).collect()
}

fn decibels(x: &[f64], y: &[f64]) -> f64 {
    let signal: f64 = x.iter().map(|x| x * x).sum();
    let noise: f64 = x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum();
    10.0 * (signal / noise).log10()
}

fn near(what: &str, e: &Energy, want: f64) {
    // Binary32 against binary64.
    assert!((e.sqnr_db() - want).abs() < 1e-3, "{what}: {} and {want}", e.sqnr_db());
}

#[test]
fn every_cause_by_plain_loops() {
    let graph = network();
    let q = quantized(&graph);
    let program = Arc::new(lower(&q, Profile::Dyadic).unwrap());
    let mut layers = Layers::new(graph.clone(), program, 1).unwrap();
    layers.feed(&[input()]).unwrap();
    let losses = layers.finish();
    let names: Vec<&str> = losses.iter().map(|l| l.unit.node.as_str()).collect();
    assert_eq!(names, ["x", "first", "second"]);

    let x: Vec<f64> = input().to_f32s().iter().map(|&x| x.into()).collect();
    let (gx, gy) = (grid(&q, "x"), grid(&q, "relu"));
    let [w1, b1, w2, b2] = ["w1", "b1", "w2", "b2"].map(|n| doubles(&graph, n));
    let [v1, c1, v2, c2] = ["w1", "b1", "w2", "b2"].map(|n| doubles(&q, n));
    let map = |f: fn(Grid, f64) -> f64, g: Grid, x: &[f64]| x.iter().map(|&x| f(g, x)).collect::<Vec<f64>>();
    let y = layer(&x, &w1, &b1, true);
    let first = &losses[1];
    for (cause, want) in [
        (Cause::Weights, layer(&x, &v1, &b1, true)),
        (Cause::Bias, layer(&x, &w1, &c1, true)),
        (Cause::InputRounding, layer(&map(round, gx, &x), &w1, &b1, true)),
        (Cause::InputClipping, layer(&map(clip, gx, &x), &w1, &b1, true)),
        (Cause::OutputRounding, map(round, gy, &y)),
        (Cause::OutputClipping, map(clip, gy, &y)),
    ] {
        near(&format!("first, {cause}"), first.cause(cause), decibels(&y, &want));
    }
    // The first layer's input is exact but for its rounding, so nothing is inherited, and all is its own.
    let own = map(both, gy, &layer(&map(both, gx, &x), &v1, &c1, true));
    assert_eq!(first.cause(Cause::Inherited).noise, 0.0);
    near("first, own", &first.own, decibels(&y, &own));
    near("first, total", &first.total, decibels(&y, &own));
    assert_eq!(first.outside.1, (SAMPLES * 6) as u64);
    let (s, z, n, p) = gy;
    let out = y.iter().filter(|&&y| y < (n - z - 0.5) * s || y > (p - z + 0.5) * s).count() as u64;
    assert!(out > 0 && first.outside.0 == out, "{} and {out}", first.outside.0);

    let second = &losses[2];
    let answers = layer(&y, &w2, &b2, false);
    near("second, weights", second.cause(Cause::Weights), decibels(&answers, &layer(&y, &v2, &b2, false)));
    let own_second = layer(&map(both, gy, &y), &v2, &c2, false);
    near("second, own", &second.own, decibels(&answers, &own_second));
    near("second, total", &second.total, decibels(&answers, &layer(&own, &v2, &c2, false)));
    let (with, exact) = (layer(&own, &w2, &b2, false), layer(&map(both, gy, &y), &w2, &b2, false));
    let noise: f64 = with.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
    let inherited = second.cause(Cause::Inherited).noise;
    assert!((inherited / noise - 1.0).abs() < 1e-4, "{inherited} and {noise}");
    // Answers are real: nothing rounds them.
    assert_eq!(second.cause(Cause::OutputRounding).noise, 0.0);
    assert_eq!(
        losses[0].cause(Cause::OutputClipping).noise,
        x.iter()
            .map(|&v| {
                let e = f64::from(v as f32) - f64::from(clip((gx.0, gx.1, gx.2, gx.3), v) as f32);
                e * e
            })
            .sum::<f64>()
    );
}

fn run(graph: &Graph) -> Vec<u32> {
    let graph = Arc::new(graph.clone());
    let options = Options { kind: Kind::for_graph(&graph), profile: Profile::Dyadic, threads: 1 };
    let mut engine = Engine::open(graph, options).unwrap();
    engine.run(vec![input()]).unwrap()[0].to_f32s().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn mixed_networks() {
    let graph = network();
    let q = quantized(&graph);
    let program = lower(&q, Profile::Dyadic).unwrap();
    let units = units(&graph, &program).unwrap();
    let all: Vec<_> = units.iter().collect();
    let (float, whole) = (run(&graph), run(&q));
    assert_ne!(float, whole);
    assert_eq!(run(&mix::only(&graph, &q, &all).unwrap()), whole);
    assert_eq!(run(&mix::only(&graph, &q, &[]).unwrap()), float);
    assert_eq!(run(&mix::without(&graph, &q, &HashSet::new()).unwrap()), whole);
    assert_eq!(run(&mix::without(&graph, &q, &HashSet::from(["first", "second"])).unwrap()), float);
    // One of two: neither one nor the other, and the same as its complement.
    let second = mix::only(&graph, &q, &[&units[2]]).unwrap();
    let rest = mix::without(&graph, &q, &HashSet::from(["first"])).unwrap();
    let one = run(&second);
    assert!(one != float && one != whole);
    assert_eq!(run(&rest), one);
    assert!(rest.values().all(|(_, v)| v.name != "w1" || v.quant.is_none()));
}
