//! Dynamic quantization: files that ONNX Runtime's `quantize_dynamic` wrote (tools/ort_dynamic.py) and files that nnq writes, node by node in
//! the float executor, simulated, and on the integer engine.

use crate::networks::{self, python};
use nnq::{
    data::NpyArray,
    engine,
    exec::{
        float, int,
        lower::{ProductOut, Profile, Program, StepKind, lower},
        sim,
    },
    formats::onnx::{self, quantized},
    ir::{DType, Graph, GraphBuilder, Op, Tensor, op::ConvAttrs, op::Unary},
    quant::{
        recipe::{ActivationMode, Recipe},
        stats::Stats,
    },
    quantize::annotate,
};
use nnq_kernels::Isa;
use std::{path::PathBuf, sync::Arc};

pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/dynamic").join(name)
}

pub fn array(name: &str) -> Tensor {
    NpyArray::open(&file(name)).unwrap().to_tensor().unwrap()
}

pub fn bits(t: &Tensor) -> Vec<u32> {
    t.as_slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

fn dynamic_products(p: &Program) -> usize {
    p.steps
        .iter()
        .filter(|s| matches!(&s.kind, StepKind::Product(p) if matches!(p.out, ProductOut::Dynamic { .. })))
        .count()
}

/// Simulator and integer engine on every instruction set and some threads; answers what both give.
pub fn run(graph: &Graph, x: &Tensor) -> (Tensor, Arc<Program>) {
    let program = Arc::new(lower(graph, Profile::default()).unwrap());
    let want = sim::Session::new(program.clone(), 1).unwrap().run(vec![x.clone()]).unwrap().remove(0);
    for isa in Isa::all().iter().copied().filter(|isa| isa.is_supported()) {
        for threads in 1..=3 {
            let options = int::Options { threads, isa: Some(isa), separate: false };
            let mut session = int::Session::new(program.clone(), &options).unwrap();
            let got = session.run(vec![x.clone()]).unwrap().remove(0);
            assert_eq!(bits(&got), bits(&want), "{isa}, {threads} threads");
        }
    }
    (want, program)
}

/// The file's own nodes, one after the other.
fn node_by_node(graph: &Graph, x: &Tensor) -> Tensor {
    float::Session::new(Arc::new(graph.clone()), &float::Options::default())
        .unwrap()
        .run(vec![x.clone()])
        .unwrap()
        .remove(0)
}

#[test]
fn files_of_onnx_runtime() {
    for (name, products) in [("mlp", 2), ("conv", 4)] {
        for kind in ["u8.pt", "u8.pc", "s8.pt", "s8.pc"] {
            let stem = format!("{name}.{kind}");
            let read = onnx::read(&file(&format!("{stem}.onnx"))).unwrap();
            let graph = engine::load(&file(&format!("{stem}.onnx"))).unwrap();
            let x = array(&format!("{stem}.x.npy"));
            let (got, program) = run(&graph, &x);
            assert_eq!(dynamic_products(&program), products, "{stem}: {}", graph.to_text());
            assert!(!graph.nodes().any(|(_, n)| matches!(n.op, Op::DynamicQuantizeLinear | Op::Cast { .. })), "{stem}");
            // Products, additions and activations are exact in both; the mean over pixels is summed in another order by others, not here.
            assert_eq!(bits(&got), bits(&node_by_node(&read, &x)), "{stem}");
            // ONNX Runtime sums the pool in its own order, which may move a code by one.
            let want = array(&format!("{stem}.y.npy"));
            let (got, want) = (got.as_slice::<f32>().unwrap(), want.as_slice::<f32>().unwrap());
            let most = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            let error = got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(error <= if name == "mlp" { 1e-6 } else { 1e-2 } * most, "{stem}: {error} of {most}");
        }
    }
}

/// A float network with a convolution, two readers of one value, groups, and a matrix with a transposed weight.
fn network() -> Graph {
    let mut b = GraphBuilder::new("net");
    let mut state = 1u64;
    let mut reals = |n: usize| -> Vec<f32> {
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    };
    let x = b.input("x", DType::F32, "N,3,11,9");
    let mut weight = |b: &mut GraphBuilder, name: &str, shape: &[usize]| {
        let t = Tensor::of(shape, reals(shape.iter().product()));
        b.constant(name, t)
    };
    let conv = |pads: i64, stride: usize, group: usize| {
        Op::Conv(ConvAttrs { pads: vec![pads; 4], strides: vec![stride; 2], group, ..Default::default() })
    };
    let (w, c) = (weight(&mut b, "w1", &[12, 3, 3, 3]), weight(&mut b, "b1", &[12]));
    let y = b.op("conv1", conv(1, 1, 1), &[x, w, c]);
    let r = b.op("relu1", Op::Unary(Unary::Relu), &[y]);
    let (w, c) = (weight(&mut b, "w2", &[12, 1, 3, 3]), weight(&mut b, "b2", &[12]));
    let d = b.op("conv2", conv(1, 2, 12), &[r, w, c]);
    let w = weight(&mut b, "w3", &[12, 12, 1, 1]);
    let e = b.op("conv3", conv(0, 2, 1), &[r, w]);
    let s = b.op("sum", Op::Binary(nnq::ir::op::Binary::Add), &[d, e]);
    let f = b.op("flatten", Op::Flatten { axis: 1 }, &[s]);
    let (w, c) = (weight(&mut b, "w4", &[7, 12 * 6 * 5]), weight(&mut b, "b4", &[7]));
    let y = b.op("fc", Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true }, &[f, w, c]);
    b.output(y);
    b.finish().unwrap()
}

fn dynamic(recipe: Recipe) -> Graph {
    let mut recipe = recipe;
    recipe.activation.mode = ActivationMode::Dynamic;
    annotate(&std::sync::Arc::new(network()), &Stats::new([0; 32], String::new()), &recipe).unwrap().graph
}

fn input(batch: usize) -> Tensor {
    let n = batch * 3 * 11 * 9;
    Tensor::of(&[batch, 3, 11, 9], (0..n).map(|i| ((i * 7919 % 1009) as f32 - 300.0) / 77.0).collect::<Vec<f32>>())
}

#[test]
fn files_of_nnq_mean_what_the_engine_computes() {
    let dir = tempfile::tempdir().unwrap();
    for signed in [true, false] {
        let mut recipe = Recipe::default();
        if !signed {
            (recipe.weight.signed, recipe.weight.symmetric) = (false, false);
        }
        let graph = dynamic(recipe);
        for batch in [1, 3] {
            let (want, program) = run(&graph, &input(batch));
            assert_eq!(dynamic_products(&program), 4);
            for explicit in [quantized::to_qdq(&graph).unwrap(), quantized::to_qoperator(&graph).unwrap()] {
                let kinds = |op: fn(&Op) -> bool| explicit.nodes().filter(|(_, n)| op(&n.op)).count();
                assert_eq!(kinds(|op| matches!(op, Op::DynamicQuantizeLinear)), 3, "one for each value");
                assert_eq!(kinds(|op| matches!(op, Op::ConvInteger(_) | Op::MatMulInteger)), 4);
                let path = dir.path().join("net.onnx");
                onnx::write(&explicit, &path, &onnx::WriteOptions::default()).unwrap();
                let back = onnx::read(&path).unwrap();
                assert_eq!(bits(&node_by_node(&back, &input(batch))), bits(&want), "signed {signed}, batch {batch}");
                let (got, program) = run(&engine::load(&path).unwrap(), &input(batch));
                assert_eq!(bits(&got), bits(&want), "read back: signed {signed}, batch {batch}");
                assert_eq!(dynamic_products(&program), 4);
            }
        }
    }
}

/// A sum in floating point has no form in such a file: it is named, and what to do about it.
#[test]
fn compiled_plans_name_what_they_cannot_hold() {
    let program = Arc::new(lower(&dynamic(Recipe::default()), Profile::default()).unwrap());
    let mut session = int::Session::new(program, &int::Options { threads: 2, ..Default::default() }).unwrap();
    let e = session.compile(vec![vec![vec![2, 3, 11, 9]]]).unwrap_err().to_string();
    assert!(e.contains("'sum'") && e.contains("run the ONNX file itself"), "{e}");
}

/// Without one the plan is whole.
#[test]
fn compiled_plans_hold_it() {
    let name = |kind: &str| file(&format!("mlp.u8.pt.{kind}"));
    let graph = engine::load(&name("onnx")).unwrap();
    let x = array("mlp.u8.pt.x.npy");
    let (want, program) = run(&graph, &x);
    let options = int::Options { threads: 2, ..Default::default() };
    let mut session = int::Session::new(program, &options).unwrap();
    let file = session.compile(vec![vec![x.shape().to_vec()]]).unwrap();
    let mut compiled = int::Session::from_compiled(&file.into(), &options).unwrap();
    assert_eq!(bits(&compiled.run(vec![x.clone()]).unwrap()[0]), bits(&want));
    // It knows the name of what it quantizes.
    let mut broken = x.as_slice::<f32>().unwrap().to_vec();
    broken[5] = f32::NAN;
    let e = compiled.run(vec![Tensor::of(x.shape(), broken)]).unwrap_err().to_string();
    assert!(e.contains("value 'x'") && e.contains("NaN"), "{e}");
}

/// Attention over `N, T, 16` with `heads` heads, quantized as it comes with the products of two values.
fn attention(mode: ActivationMode, pairs: bool) -> Graph {
    let mut b = GraphBuilder::new("attention");
    let x = b.input("x", DType::F32, "N,T,16");
    let number = |i: u64| (nnq::data::mix(3, i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    let heads = b.ints("heads", &[0, 0, 2, 8]);
    let head = |b: &mut GraphBuilder, name: &str, seed: u64, perm: [usize; 4]| {
        let w = b.constant(
            &format!("{name}.w"),
            Tensor::of(&[16, 16], (0..256).map(|i| number(i + seed)).collect::<Vec<f32>>()),
        );
        let y = b.op(name, Op::MatMul, &[x, w]);
        let y = b.op(&format!("{name}.split"), Op::Reshape { allowzero: false }, &[y, heads]);
        b.op(&format!("{name}.turn"), Op::Transpose { perm: perm.to_vec() }, &[y])
    };
    let q = head(&mut b, "q", 0, [0, 2, 1, 3]);
    let k = head(&mut b, "k", 1000, [0, 2, 3, 1]);
    let v = head(&mut b, "v", 2000, [0, 2, 1, 3]);
    let scores = b.op("scores", Op::MatMul, &[q, k]);
    let shares = b.op("shares", Op::Softmax { axis: -1, flat: false }, &[scores]);
    let y = b.op("seen", Op::MatMul, &[shares, v]);
    b.output(y);
    let mut recipe = Recipe::default();
    (recipe.activation.mode, recipe.dynamic_attention) = (mode, pairs);
    let recipe = Recipe::from_toml(&recipe.to_toml().unwrap()).unwrap();
    let graph = std::sync::Arc::new(b.finish().unwrap());
    annotate(&graph, &Stats::new([0; 32], String::new()), &recipe).unwrap().graph
}

fn tokens(batch: usize) -> Tensor {
    let n = batch * 5 * 16;
    Tensor::of(&[batch, 5, 16], (0..n).map(|i| ((i * 7919 % 1009) as f32 - 500.0) / 300.0).collect::<Vec<f32>>())
}

/// Products of two values compute in integers where the recipe says so, and their files mean the same.
#[test]
fn attention_is_quantized_as_it_comes() {
    let lives = |p: &Program| p.steps.iter().filter(|s| matches!(s.kind, StepKind::Live(_))).count();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.onnx");
    for mode in [ActivationMode::Dynamic, ActivationMode::Token] {
        let (plain, program) = run(&attention(mode, false), &tokens(2));
        assert_eq!(lives(&program), 0);
        let graph = attention(mode, true);
        let (want, program) = run(&graph, &tokens(2));
        assert_eq!(lives(&program), 2);
        // Other numbers, but near those with products in floating point.
        let (a, b) = (want.as_slice::<f32>().unwrap(), plain.as_slice::<f32>().unwrap());
        let most = b.iter().fold(0f32, |m, x| m.max(x.abs()));
        let apart = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / most;
        assert!(apart > 0.0 && apart < 0.05, "{mode:?}: {apart}");
        let explicit = quantized::to_qdq(&graph).unwrap();
        onnx::write(&explicit, &path, &onnx::WriteOptions::default()).unwrap();
        if mode == ActivationMode::Dynamic {
            let integer = explicit.nodes().filter(|(_, n)| matches!(n.op, Op::MatMulInteger)).count();
            assert_eq!(integer, 5);
            assert_eq!(bits(&node_by_node(&onnx::read(&path).unwrap(), &tokens(2))), bits(&want));
        }
        let (got, program) = run(&engine::load(&path).unwrap(), &tokens(2));
        assert_eq!((lives(&program), bits(&got)), (2, bits(&want)), "{mode:?}");
    }
}

/// The same file in ONNX Runtime.
#[test]
fn attention_in_onnx_runtime() {
    let Some(python) = python() else { return };
    let graph = attention(ActivationMode::Dynamic, true);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.onnx");
    onnx::write(&quantized::to_qdq(&graph).unwrap(), &path, &onnx::WriteOptions::default()).unwrap();
    let (got, _) = run(&engine::load(&path).unwrap(), &tokens(2));
    if !networks::multiplies_exactly(&python, "attention") {
        return;
    }
    let values =
        networks::ort_values(&python, &[networks::Job { model: &path, optimize: false }], &tokens(2)).remove(0);
    let want = &values[&graph.value(graph.outputs[0]).name];
    let (got, want) = (got.as_slice::<f32>().unwrap(), want.as_slice::<f32>().unwrap());
    let range = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / range;
    println!("attention: differs from ONNX Runtime by {error:.1e} of the outputs' range");
    // Its softmax rounds otherwise, which may move a code by one.
    assert!(error <= 1e-2, "{error}");
}

/// A network quantized dynamically, as a file, in ONNX Runtime without its optimisations.
fn in_onnx_runtime(network: Option<networks::Network>) {
    let (Some(python), Some(network)) = (python(), network) else { return };
    let mut recipe = Recipe::default();
    recipe.activation.mode = ActivationMode::Dynamic;
    let graph = annotate(&network.graph, &Stats::new([0; 32], String::new()), &recipe).unwrap().graph;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.onnx");
    onnx::write(&quantized::to_qdq(&graph).unwrap(), &path, &onnx::WriteOptions::default()).unwrap();
    let x = network.batch(2);
    let (got, program) = run(&engine::load(&path).unwrap(), &x);
    assert!(dynamic_products(&program) > 2, "{:?}", program.notes);
    if !networks::multiplies_exactly(&python, network.name) {
        return;
    }
    let values = networks::ort_values(&python, &[networks::Job { model: &path, optimize: false }], &x).remove(0);
    let want = &values[&graph.value(graph.outputs[0]).name];
    let (got, want) = (got.as_slice::<f32>().unwrap(), want.as_slice::<f32>().unwrap());
    let range = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / range;
    println!("{}: differs from ONNX Runtime by {error:.1e} of the outputs' range", network.name);
    // The same nodes in the same order; ONNX Runtime sums means in an order of its own, which may move the codes behind them by one.
    assert!(error <= 2e-2, "{}: {error}", network.name);
}

#[test]
fn demo_in_onnx_runtime() {
    in_onnx_runtime(Some(networks::Network::demo()));
}

#[test]
fn resnet20_in_onnx_runtime() {
    in_onnx_runtime(networks::Network::real("resnet20"));
}
