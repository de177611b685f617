use super::*;
use nnq::{
    exec::float::{Options, Session},
    formats::onnx::read,
};
use std::{path::PathBuf, sync::Arc};

/// Whole networks against ONNX Runtime's outputs, recorded by tools/model_golden.py, and for two thread counts against itself.
#[test]
#[allow(clippy::print_stderr)]
fn real_networks() {
    let data = std::env::var_os("NNQ_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("../golden/models.json")).unwrap();
    for case in &cases {
        let path = data.join("models").join(case["model"].as_str().unwrap());
        if !path.exists() {
            eprintln!("skipped: {} is not there (NNQ_DATA)", path.display());
            continue;
        }
        let list = |name: &str| {
            case[name].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect::<Vec<_>>()
        };
        let graph = Arc::new(read(&path).unwrap());
        let run = |threads| {
            let mut session = Session::new(graph.clone(), &Options { threads }).unwrap();
            session.run(vec![tensor(&list("shape"), 11)]).unwrap().swap_remove(0)
        };
        let y = run(1);
        assert_eq!(y.shape(), list("output"), "{}", path.display());
        let v = y.to_f32s();
        assert_eq!(v, run(2).to_f32s(), "{}", path.display());
        let want: Vec<f64> = case["first"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
        // Tens of layers, each within a few units in the last place, relative to the largest output.
        let top = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        for (y, want) in v.iter().zip(&want) {
            assert!((f64::from(*y) - want).abs() <= 1e-4 * top, "{}: {y}, expected {want}", path.display());
        }
    }
}
