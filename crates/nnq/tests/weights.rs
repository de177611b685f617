//! Weight-only quantization: from the recipe to files, and back.
use crate::{
    dynamic::{bits, run},
    networks::{Job, ort_values, python},
};
use nnq::{
    data::{self, Dataset, Preprocess, save_npy},
    engine,
    exec::{
        float, int,
        lower::{Profile, StepKind, lower},
    },
    formats::onnx::{self, quantized},
    ir::{DType, Graph, GraphBuilder, Op, Tensor, op::Unary},
    quant::{
        recipe::{ActivationMode, Recipe, WeightGranularity},
        rounder::Rounding,
        stats::Stats,
    },
    quantize::{self, Means, annotate, annotate_with},
};
use std::sync::Arc;

/// Two matrices with something between that is no product, and a convolution before them.
fn network() -> Graph {
    let mut b = GraphBuilder::new("net");
    let mut state = 7u64;
    let mut weight = |b: &mut GraphBuilder, name: &str, shape: &[usize]| {
        let mut real = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let t = Tensor::of(shape, (0..shape.iter().product()).map(|_| real()).collect::<Vec<f32>>());
        b.constant(name, t)
    };
    let x = b.input("x", DType::F32, "N,T,70");
    let w = weight(&mut b, "w1", &[70, 48]);
    let y = b.op("matmul", Op::MatMul, &[x, w]);
    let y = b.op("tanh", Op::Unary(Unary::Tanh), &[y]);
    let f = b.op("flatten", Op::Flatten { axis: 2 }, &[y]);
    let (w, c) = (weight(&mut b, "w2", &[9, 48]), weight(&mut b, "b2", &[9]));
    let y = b.op("fc", Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }, &[f, w, c]);
    b.output(y);
    b.finish().unwrap()
}

fn recipe(bits: u8, granularity: WeightGranularity, symmetric: bool) -> Recipe {
    let mut recipe = Recipe::default();
    recipe.activation.mode = ActivationMode::Float;
    (recipe.weight.bits, recipe.weight.granularity, recipe.weight.symmetric) = (bits, granularity, symmetric);
    recipe
}

fn input(rows: usize) -> Tensor {
    Tensor::of(
        &[2, rows, 70],
        (0..140 * rows).map(|i| ((i * 7919 % 1009) as f32 - 500.0) / 177.0).collect::<Vec<f32>>(),
    )
}

#[test]
fn files_mean_what_the_engine_computes() {
    let dir = tempfile::tempdir().unwrap();
    let float = Arc::new(network());
    let mut jobs = Vec::new();
    let mut wanted = Vec::new();
    for (bits_of, granularity, symmetric) in [
        (8, WeightGranularity::Channel, true),
        (8, WeightGranularity::Block(32), false),
        (4, WeightGranularity::Block(16), true),
        (4, WeightGranularity::Block(32), false),
        (3, WeightGranularity::Block(32), true),
    ] {
        let recipe = recipe(bits_of, granularity, symmetric);
        recipe.check().unwrap();
        assert!(!recipe.needs_statistics());
        let graph = annotate(&float, &Stats::new([0; 32], String::new()), &recipe).unwrap().graph;
        let (want, program) = run(&graph, &input(3));
        let coded =
            |p: &nnq::exec::lower::Program| p.steps.iter().filter(|s| matches!(s.kind, StepKind::Coded(_))).count();
        assert_eq!(coded(&program), 2);
        let path = dir.path().join(format!("w{bits_of}.{granularity}.{symmetric}.onnx").replace(':', ""));
        onnx::write(&quantized::to_qdq(&graph).unwrap(), &path, &onnx::WriteOptions::default()).unwrap();
        let back = engine::load(&path).unwrap();
        let (got, program) = run(&back, &input(3));
        assert_eq!(coded(&program), 2, "{}", back.to_text());
        assert_eq!(bits(&got), bits(&want), "read back: {path:?}");
        jobs.push(path);
        wanted.push(want);
    }
    let Some(python) = python() else { return };
    // Optimised, ONNX Runtime rounds what products read to 8 bits by its own choice.
    let jobs: Vec<Job> = jobs.iter().map(|model| Job { model, optimize: false }).collect();
    let values = ort_values(&python, &jobs, &input(3));
    for ((values, want), job) in values.iter().zip(&wanted).zip(&jobs) {
        let graph = engine::load(job.model).unwrap();
        let got = &values[&graph.value(graph.outputs[0]).name];
        let (got, want) = (got.to_f32s(), want.to_f32s());
        let most = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        let error = got.iter().zip(want.iter()).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(error < 1e-5 * most, "{:?}: {error} of {most}", job.model);
    }
}

/// Methods that need samples, and grids of more than a byte, are refused with their names.
#[test]
fn what_does_not_go_with_it_is_refused() {
    let mut wide = recipe(12, WeightGranularity::Channel, true);
    assert!(wide.check().unwrap_err().to_string().contains("weight.bits = 12"));
    (wide.weight.bits, wide.reestimate) = (8, true);
    let e = wide.check().unwrap_err().to_string();
    assert!(e.contains("\"float\""), "{e}");
}

/// A layer that is kept in floating point keeps its weights, the others become codes.
#[test]
fn layers_can_be_left_out() {
    let recipe =
        Recipe::from_toml("[activation]\nmode = \"float\"\n[[layer]]\nmatch = \"fc\"\nkeep_float = true\n").unwrap();
    let graph = annotate(&Arc::new(network()), &Stats::new([0; 32], String::new()), &recipe).unwrap().graph;
    let program = lower(&graph, Profile::default()).unwrap();
    let kinds: Vec<bool> = program.steps.iter().map(|s| matches!(s.kind, StepKind::Coded(_))).collect();
    assert_eq!(kinds.iter().filter(|&&coded| coded).count(), 1);
    assert!(kinds[0]);
}

/// Rounding with a look at samples does less harm to what the network answers on others.
#[test]
fn rounding_looks_at_samples() {
    let dir = tempfile::tempdir().unwrap();
    let numbers = |n: usize, seed: usize| -> Vec<f32> {
        // Neighbours are alike, so that errors can make up for each other.
        let wave = |i: usize| ((i / 70 * 31 + seed) as f32 * 0.37 + (i % 70) as f32 * 0.05).sin();
        (0..n).map(|i| wave(i) + 0.1 * ((i * 7919 + seed) % 1009) as f32 / 1009.0).collect()
    };
    let path = dir.path().join("x.npy");
    save_npy(&path, &Tensor::of(&[64, 4, 70], numbers(64 * 4 * 70, 0))).unwrap();
    let dataset = Arc::new(Dataset::open(&path, &data::Options::calibration()).unwrap());
    let samples = quantize::Samples { dataset, preprocess: Preprocess::raw() };
    let float = Arc::new(network());
    let x = Tensor::of(&[8, 4, 70], numbers(8 * 4 * 70, 5000));
    let error = |graph: &Graph| -> f64 {
        let (got, _) = run(graph, &x);
        let mut session = float::Session::new(float.clone(), &float::Options::default()).unwrap();
        let want = session.run(vec![x.clone()]).unwrap().remove(0);
        got.to_f32s().iter().zip(want.to_f32s().iter()).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    let nothing = || Stats::new([0; 32], String::new());
    let plain = recipe(3, WeightGranularity::Block(16), false);
    let nearest = error(&annotate(&float, &nothing(), &plain).unwrap().graph);
    for rounding in [Rounding::Gptq, Rounding::Descent] {
        let mut looking = plain.clone();
        looking.weight.rounding = rounding;
        looking.check().unwrap();
        let means = Means { threads: 2, ..Means::default() };
        let got = annotate_with(&float, &nothing(), &looking, Some(&samples), means, &mut |_, _, _| {}).unwrap();
        let looked = error(&got.graph);
        assert!(looked < 0.5 * nearest, "{rounding}: {looked}, nearest {nearest}");
    }
}

/// Tables of embeddings become codes of 8 bits with a scale for each row, and their rows what the codes stand for.
#[test]
fn tables() {
    let mut b = GraphBuilder::new("net");
    let ids = b.input("ids", DType::I64, "N,T");
    let table =
        b.constant("table", Tensor::of(&[11, 6], (0..66).map(|i| (i * 37 % 53) as f32 - 20.0).collect::<Vec<f32>>()));
    let x = b.op("embedding", Op::Gather { axis: 0 }, &[table, ids]);
    let w = b.constant("w", Tensor::of(&[6, 5], (0..30).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<f32>>()));
    let y = b.op("matmul", Op::MatMul, &[x, w]);
    b.output(x);
    b.output(y);
    let float = Arc::new(b.finish().unwrap());
    let recipe = recipe(4, WeightGranularity::Block(32), true);
    let graph = annotate(&float, &Stats::new([0; 32], String::new()), &recipe).unwrap().graph;
    let ids = Tensor::of(&[2, 3], vec![0i64, 10, 3, -1, 5, 5]);
    // Whatever the edges have; an override is obeyed.
    for (text, bits) in [("first = \"8bit\"\n", 8), ("[[layer]]\nop = \"Gather\"\nweight.bits = 5\n", 5)] {
        let mut other = Recipe::from_toml(text).unwrap();
        other.only_weights(None, None);
        other.weight.bits = 4;
        let graph = annotate(&float, &Stats::new([0; 32], String::new()), &other).unwrap().graph;
        let node = graph.nodes().next().unwrap().1;
        assert_eq!(graph.value(node.input(0).unwrap()).quant.as_ref().unwrap().qtype.bits, bits, "{text}");
    }
    let (rows, program) = run(&graph, &ids);
    assert!(matches!(program.steps[0].kind, StepKind::Lookup(_)), "{:?}", program.steps[0].kind);
    let step =
        |row: usize| (0..6).map(|c| ((row * 6 + c) * 37 % 53) as f32 - 20.0).fold(0f32, |m, x| m.max(x.abs())) / 127.0;
    for (got, row) in rows.to_f32s().chunks(6).zip([0usize, 10, 3, 10, 5, 5]) {
        for (c, got) in got.iter().enumerate() {
            let want = ((row * 6 + c) * 37 % 53) as f32 - 20.0;
            assert!((got - want).abs() <= 0.501 * step(row), "row {row}: {got}, {want}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.onnx");
    onnx::write(&quantized::to_qdq(&graph).unwrap(), &path, &onnx::WriteOptions::default()).unwrap();
    assert_eq!(bits(&run(&engine::load(&path).unwrap(), &ids).0), bits(&rows));
    let beyond = Tensor::of(&[1, 1], vec![11i64]);
    let program = Arc::new(lower(&graph, Profile::default()).unwrap());
    let mut session = int::Session::new(program, &int::Options { threads: 1, ..Default::default() }).unwrap();
    let e = session.run(vec![beyond]).unwrap_err().to_string();
    assert!(e.contains("row 11 of a table of 11") && e.contains("'embedding'"), "{e}");
}
