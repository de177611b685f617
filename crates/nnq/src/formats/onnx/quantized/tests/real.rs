//! Real networks, annotated roughly: every structure they have must come back.
use super::*;
use crate::formats::onnx::{read, write};
use std::path::{Path, PathBuf};

fn models() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    std::env::var_os("NNQ_DATA").map_or(default, PathBuf::from).join("models")
}

/// `name scale zero_point` per line, as a calibration would give them; `None`: the same for all.
fn ranges(path: &Path) -> Option<Vec<(String, f32, i32)>> {
    let dir = std::env::var_os("NNQ_ONNX_RANGES").map(PathBuf::from)?;
    let text = std::fs::read_to_string(dir.join(path.file_name()?).with_extension("txt")).ok()?;
    Some(
        text.lines()
            .map(|l| {
                let mut f = l.split('\t');
                let mut next = || f.next().expect("three fields");
                (next().to_owned(), next().parse().expect("a scale"), next().parse().expect("a zero point"))
            })
            .collect(),
    )
}

/// Weights symmetric per output channel, values u8 per tensor.
fn annotate(g: &mut Graph, ranges: Option<&[(String, f32, i32)]>) {
    let consumers = g.consumers();
    let nodes: Vec<_> = g.nodes().map(|(_, n)| n.clone()).collect();
    let fused = |v: ValueId| {
        let [(n, 0)] = consumers[v.0 as usize][..] else { return false };
        matches!(nodes[n.0 as usize].op, Op::Unary(Unary::Relu) | Op::Clip)
    };
    for id in g.inputs.clone() {
        annotate_value(g, id, ranges);
    }
    for node in &nodes {
        let Some(y) = node.output(0) else { continue };
        let axis = match &node.op {
            Op::Conv(_) => 0,
            Op::Gemm { trans_b, .. } => usize::from(!trans_b),
            Op::MatMul => 1,
            Op::Binary(_)
            | Op::GlobalAveragePool
            | Op::AveragePool { .. }
            | Op::Unary(_)
            | Op::Clip
            | Op::Concat { .. } => {
                if !g.outputs.contains(&y) && !fused(y) {
                    annotate_value(g, y, ranges);
                }
                continue;
            }
            // Moves keep the parameters of what they move.
            Op::MaxPool { .. } | Op::Flatten { .. } | Op::Reshape { .. } | Op::Squeeze | Op::Transpose { .. } => {
                let q = node.input(0).and_then(|x| g.value(x).quant.clone());
                g.value_mut(y).quant = q.filter(|_| !g.outputs.contains(&y));
                continue;
            }
            _ => continue,
        };
        let w = node.input(1).expect("a weight");
        if let Some(t) = g.constant(w).cloned() {
            let (n, inner) = (t.shape()[axis], t.shape()[axis + 1..].iter().product::<usize>());
            let mut most = vec![1e-6f32; n];
            for (i, x) in t.to_f32s().into_iter().enumerate() {
                most[i / inner % n] = most[i / inner % n].max(x.abs());
            }
            let q = QParams::channel(QType::I8_NARROW, axis, most.iter().map(|m| m / 127.0).collect());
            g.value_mut(w).quant = Some(Arc::new(q));
        }
        if !g.outputs.contains(&y) && !fused(y) {
            annotate_value(g, y, ranges);
        }
    }
}

fn annotate_value(g: &mut Graph, id: ValueId, ranges: Option<&[(String, f32, i32)]>) {
    let name = g.value(id).name.clone();
    let (s, z) = match ranges {
        None => (0.031, 97),
        Some(all) => match all.iter().find(|r| r.0 == name) {
            Some(r) => (r.1, r.2),
            None => return,
        },
    };
    g.value_mut(id).quant = Some(Arc::new(QParams::tensor(QType::U8, s, z)));
}

/// Annotations without biases, which the exporters round, and without the orientation of a weight.
fn essence(g: &Graph) -> Vec<String> {
    let mut all: Vec<String> = g
        .values()
        .filter_map(|(_, v)| {
            let q = v.quant.as_ref().filter(|q| q.qtype != QType::I32)?;
            Some(format!("{} {} {:?} {:?}", v.name, q.qtype, q.scale, q.zero_point))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn networks_come_back() {
    let dir = models();
    let Ok(entries) = std::fs::read_dir(&dir) else {
        println!("skipped: no models in {}", dir.display());
        return;
    };
    let dump = std::env::var_os("NNQ_ONNX_DUMP").map(PathBuf::from);
    for path in entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|e| e == "onnx"))
    {
        let Ok(mut g) = read(&path) else {
            println!("skipped: {}", path.display());
            continue;
        };
        let nodes = g.node_count();
        annotate(&mut g, ranges(&path).as_deref());
        g.compact();
        for (form, explicit) in [("qdq", to_qdq(&g).expect("sound")), ("qoperator", to_qoperator(&g).expect("sound"))] {
            let back = absorb(&file(&explicit)).expect("sound");
            assert_eq!(essence(&back), essence(&g), "{} as {form}", path.display());
            assert!(
                !kinds(&back).iter().any(|k| k.contains("Linear") || k.contains("Integer")),
                "{} as {form}: {:?}",
                path.display(),
                kinds(&back)
            );
            // A Relu that the grid does by itself is gone from the operator form.
            assert!(back.node_count() <= nodes, "{} as {form}", path.display());
            if let Some(dump) = &dump {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let to = |kind: &str| dump.join(format!("{stem}.{kind}.onnx"));
                write(&explicit, &to(form), &WriteOptions::default()).expect("writable");
                write(
                    &to_qoperator(&back).expect("sound"),
                    &to(&format!("{form}-qoperator")),
                    &WriteOptions::default(),
                )
                .expect("writable");
            }
        }
    }
}

/// Files that other tools quantized: what they leave explicit is printed. By hand, with a folder of models.
#[test]
fn foreign_files() {
    let Some(dir) = std::env::var_os("NNQ_ONNX_QUANTIZED").map(PathBuf::from) else {
        println!("skipped: NNQ_ONNX_QUANTIZED names no folder of quantized models");
        return;
    };
    for path in std::fs::read_dir(dir).expect("a folder").filter_map(|e| e.ok().map(|e| e.path())) {
        let g = match read(&path) {
            Ok(g) => g,
            Err(e) => {
                println!("{e}");
                continue;
            }
        };
        let back = absorb(&g).expect("sound");
        let left = kinds(&back).into_iter().filter(|k| k.contains("Linear") || k.contains("Integer")).count();
        println!(
            "{}: {} nodes, absorbed {}, {left} explicit left, {} annotations",
            path.display(),
            g.node_count(),
            back.node_count(),
            annotations(&back).len()
        );
        if let Some(dump) = std::env::var_os("NNQ_ONNX_DUMP").map(PathBuf::from) {
            let to = dump.join(path.file_name().unwrap_or_default());
            write(&to_qoperator(&back).expect("sound"), &to, &WriteOptions::default()).expect("writable");
        }
        // Writing them again keeps what they say.
        let again = absorb(&file(&to_qdq(&back).expect("sound"))).expect("sound");
        assert_eq!(annotations(&again), annotations(&back));
    }
}
