use super::*;
use crate::networks::{python, run, scratch, tool};
use nnq::{
    exec::float::{Options, Session},
    formats::onnx::read,
    ir::DType,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// Characters and tokens that all networks of text know.
const TOKENS: f64 = 465.0;

fn data() -> PathBuf {
    std::env::var_os("NNQ_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from)
}

/// Networks of a folder against ONNX Runtime's outputs, recorded by tools/model_golden.py, and for two thread counts against each other.
fn compare(folder: &Path, cases: &str) {
    let cases: Vec<serde_json::Value> = serde_json::from_str(cases).unwrap();
    for case in &cases {
        let path = folder.join(case["model"].as_str().unwrap());
        if !path.exists() {
            println!("skipped: {} is not there (NNQ_DATA)", path.display());
            continue;
        }
        let list = |name: &str| {
            case[name].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect::<Vec<_>>()
        };
        let graph = Arc::new(read(&path).unwrap());
        let noise = tensor(&list("shape"), 11);
        let input = match graph.value(graph.inputs[0]).dtype {
            Some(DType::I64) => {
                let token = |x: f32| ((f64::from(x) + 1.0) / 2.0 * TOKENS).floor() as i64;
                Tensor::of(noise.shape(), noise.to_f32s().into_iter().map(token).collect())
            }
            _ => noise,
        };
        let run = |threads| {
            let mut session = Session::new(graph.clone(), &Options { threads }).unwrap();
            session.run(vec![input.clone()]).unwrap().swap_remove(0)
        };
        let y = run(1);
        assert_eq!(y.shape(), list("output"), "{}", path.display());
        let v = y.to_f32s();
        assert_eq!(v, run(2).to_f32s(), "{}", path.display());
        let want: Vec<f64> = case["picked"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
        // Tens of layers, each within a few units in the last place, relative to the largest output.
        let top = case["largest"].as_f64().unwrap();
        let worst =
            (0..want.len()).map(|i| (f64::from(v[i * v.len() / want.len()]) - want[i]).abs() / top).fold(0.0, f64::max);
        println!("{}: {worst:.1e} of the largest output", path.display());
        assert!(worst <= 1e-5, "{}: {worst:e} of the largest output", path.display());
    }
}

#[test]
fn real_networks() {
    compare(&data().join("models"), include_str!("../golden/models.json"));
}

#[test]
fn real_networks_of_text() {
    let (Some(python), source) = (python(), data().join("models")) else { return };
    if !source.join("stories260K").exists() {
        println!("skipped: {} is not there (NNQ_DATA)", source.display());
        return;
    }
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    run(Command::new(python).arg(tool("text_models.py")).args([&source, dir.path()]));
    compare(dir.path(), include_str!("../golden/text.json"));
}
