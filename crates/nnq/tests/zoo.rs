//! The networks of the zoo: sizes as published, sane activations, and the files that are written from them.

use crate::networks::{Job, ort_values, python, scratch};
use nnq::{
    engine::{self, Engine, Kind},
    exec::lower::Profile,
    formats::onnx,
    inspect::inspect,
    ir::{Graph, Op, Tensor},
    zoo::{self, ARCHITECTURES, Architecture, Wanted},
};
use safetensors::{Dtype, tensor::TensorView};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

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

/// Numbers that training would change: not the running statistics, not the bounds of clips, not sizes.
fn trainable(graph: &Graph) -> u64 {
    let mut seen = HashSet::new();
    let mut count = 0;
    for (_, node) in graph.nodes() {
        let read = match node.op {
            Op::BatchNormalization { .. } => 3,
            Op::Clip | Op::Split { .. } | Op::Reshape { .. } | Op::Squeeze => 1,
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
        // Published with three decimals, those that are smaller by hand with six.
        assert!(
            (macs - a.giga_macs).abs() <= if a.giga_macs < 0.01 { 0.000_000_5 } else { 0.0005 },
            "{}: {macs}",
            a.name
        );
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

/// Constants that a `state_dict` has: those of layers.
fn weights(graph: &Graph) -> BTreeMap<String, Tensor> {
    let layers = graph
        .nodes()
        .filter(|(_, n)| matches!(n.op, Op::Conv(_) | Op::Gemm { .. } | Op::BatchNormalization { .. }))
        .flat_map(|(_, n)| n.inputs[1..].iter().flatten());
    layers.map(|v| (graph.value(*v).name.clone(), Tensor::clone(graph.constant(*v).unwrap()))).collect()
}

/// Names and sizes are those of torchvision (`tools/torchvision_names.py`), so that its weights fit.
#[test]
fn weights_are_called_as_torchvision_calls_them() {
    let sums = std::fs::read_to_string("tests/golden/torchvision/names.json").unwrap();
    let sums: BTreeMap<String, String> = serde_json::from_str(&sums).unwrap();
    for (name, sum) in sums {
        let lines: Vec<String> = weights(&graph(zoo::find(&name).unwrap()))
            .iter()
            .map(|(name, t)| {
                let sizes: Vec<String> = t.shape().iter().map(usize::to_string).collect();
                format!("{name} [{}]", sizes.join(", "))
            })
            .collect();
        let mut lines = lines;
        lines.sort();
        let ours: String = Sha256::digest(lines.join("\n")).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(ours, sum, "{name}");
    }
}

#[test]
fn weights_of_a_file_take_the_place_of_random_ones() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.safetensors");
    let save = |weights: &BTreeMap<String, Tensor>| {
        let bytes: BTreeMap<&str, Vec<u8>> =
            weights.iter().map(|(k, t)| (&**k, t.to_f32s().iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
        let views =
            weights.iter().map(|(k, t)| (k, TensorView::new(Dtype::F32, t.shape().to_vec(), &bytes[&**k]).unwrap()));
        safetensors::serialize_to_file(views, None, &file).unwrap();
    };
    let wanted = Wanted { name: "resnet8".into(), weights: Some(file.clone()), seed: 1, ..Wanted::default() };
    let architecture = zoo::find("resnet8").unwrap();
    let other = zoo::build(architecture, 2).unwrap();
    let all = weights(&other);
    save(&all);
    let (graph, notes) = zoo::assemble(&wanted).unwrap();
    assert!(
        notes.is_empty() && weights(&graph).iter().zip(&all).all(|(a, b)| a.0 == b.0 && a.1.to_f32s() == b.1.to_f32s())
    );
    // A head of another size stays random, if it is asked for.
    let three = Wanted { outputs: Some(3), ..wanted.clone() };
    let (graph, notes) = zoo::assemble(&three).unwrap();
    assert_eq!(notes, ["random, since of another size: fc.weight, fc.bias"]);
    assert_eq!(weights(&graph)["fc.weight"].shape(), [3, 64]);
    assert_eq!(weights(&graph)["conv1.weight"].to_f32s(), all["conv1.weight"].to_f32s());
    // What DataParallel saves, with the counters of PyTorch.
    let mut wrapped: BTreeMap<_, _> = all.iter().map(|(k, t)| (format!("module.{k}"), t.clone())).collect();
    wrapped.insert("module.bn1.num_batches_tracked".into(), Tensor::of(&[1], vec![7f32]));
    save(&wrapped);
    assert!(zoo::assemble(&wanted).unwrap().1.is_empty());
    let change = |f: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut changed = all.clone();
        f(&mut changed);
        save(&changed);
        zoo::assemble(&wanted).unwrap_err().to_string()
    };
    for (text, what) in [
        (change(&|w| drop(w.remove("layer1.0.bn1.bias"))), "lacks 'layer1.0.bn1.bias'"),
        (change(&|w| drop(w.insert("more".into(), Tensor::scalar(1f32)))), "does not know: 'more'"),
        (
            change(&|w| drop(w.insert("fc.bias".into(), Tensor::of(&[3], vec![0f32; 3])))),
            "the shape [3], the network's [10]",
        ),
        (change(&|w| drop(w.insert("fc.bias".into(), Tensor::of(&[10], vec![f32::NAN; 10])))), "'fc.bias' holds NaN"),
    ] {
        assert!(text.contains(what) && text.contains("w.safetensors"), "{text}");
    }
}
