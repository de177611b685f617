//! The networks of the zoo: sizes as published, sane activations, and the files that are written from them.

use crate::networks::{Job, ort_values, python, scratch};
use nnq::{
    engine::{self, Engine, Kind},
    exec::lower::Profile,
    formats::onnx,
    inspect::inspect,
    ir::{Graph, Op, Tensor},
    zoo::{self, ARCHITECTURES, Architecture},
};
use std::{collections::HashSet, sync::Arc};

fn graph(a: &Architecture) -> Arc<Graph> {
    Arc::new(zoo::build(a, 0).unwrap())
}

/// Numbers in (-1, 1), one image.
fn image(a: &Architecture) -> Tensor {
    let n = a.input.iter().product::<usize>();
    let wave = (0..n).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 7 & 0xffff) as f32 / 32767.5 - 1.0).collect();
    Tensor::of::<f32>(&[&[1], &a.input[..]].concat(), wave)
}

fn float(graph: Arc<Graph>, x: Tensor) -> Tensor {
    let options = engine::Options { kind: Kind::Float, profile: Profile::default(), threads: 0 };
    Engine::open(graph, options).unwrap().run(vec![x]).unwrap().swap_remove(0)
}

/// Numbers that training would change: not the running statistics, not the bounds of clips.
fn trainable(graph: &Graph) -> u64 {
    let mut seen = HashSet::new();
    let mut count = 0;
    for (_, node) in graph.nodes() {
        let read = match node.op {
            Op::BatchNormalization { .. } => 3,
            Op::Clip => 1,
            _ => node.inputs.len(),
        };
        let constants = node.inputs.iter().take(read).flatten().filter(|v| seen.insert(**v));
        count += constants.filter_map(|v| graph.constant(*v)).map(|t| t.len() as u64).sum::<u64>();
    }
    count
}

#[test]
fn sizes_are_as_published() {
    for a in ARCHITECTURES {
        let g = graph(a);
        assert_eq!(trainable(&g), a.parameters, "{}", a.name);
        let macs = inspect(&g).unwrap().macs as f64 / 1e9;
        // Published with three decimals.
        assert!((macs - a.giga_macs).abs() <= 0.0005, "{}: {macs}", a.name);
        assert_eq!(g.value(g.inputs[0]).shape.as_ref().unwrap().to_string(), {
            let [c, h, w] = a.input;
            format!("[N, {c}, {h}, {w}]")
        });
        assert_eq!(g.value(g.outputs[0]).shape.as_ref().unwrap().to_string(), format!("[N, {}]", a.classes));
    }
}

/// Depth does not let the signal explode or vanish, and folding the batch normalisation changes nothing but rounding.
#[test]
fn logits_are_sane_and_folding_keeps_them() {
    for a in ARCHITECTURES {
        let y = float(graph(a), image(a)).to_f32s();
        let rms = (y.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / y.len() as f64).sqrt();
        assert!(y.iter().all(|v| v.is_finite()) && (0.05..50.0).contains(&rms), "{}: rms {rms}", a.name);
        let folded = engine::simplify(Graph::clone(&graph(a))).unwrap();
        let left = folded.nodes().filter(|(_, n)| matches!(n.op, Op::BatchNormalization { .. })).count();
        assert_eq!(left, 0, "{}: batch normalisation that was not folded", a.name);
        let z = float(folded, image(a)).to_f32s();
        let largest = y.iter().zip(&z).map(|(y, z)| (y - z).abs()).fold(0.0, f32::max);
        // Some fifty layers, each rounding to 2^-24 of sums that are larger than their result.
        assert!(f64::from(largest) < 1e-3 * rms, "{}: {largest} of {rms}", a.name);
    }
}

#[test]
fn onnx_runtime_agrees() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    for a in ARCHITECTURES {
        let file = dir.path().join(format!("{}.onnx", a.name));
        onnx::write(&graph(a), &file, &onnx::WriteOptions::default()).unwrap();
        let x = image(a);
        let theirs = ort_values(&python, &[Job { model: &file, optimize: true }], &x).swap_remove(0);
        let ours = float(graph(a), x).to_f32s();
        let theirs = theirs["logits"].to_f32s();
        let largest = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let size = ours.iter().fold(0f32, |m, v| m.max(v.abs()));
        // The order of additions differs in every layer.
        assert!(ours.len() == theirs.len() && largest < 1e-3 * size, "{}: {largest} of {size}", a.name);
    }
}
