//! Real models and the official node tests, when they are on the machine.
use super::{describe, read_vec};
use crate::formats::onnx::{WriteOptions, read, to_bytes, write};
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    std::env::var_os("NNQ_DATA").map_or(default, PathBuf::from)
}

#[test]
fn real_models_survive() {
    let dir = data().join("models");
    let Ok(entries) = std::fs::read_dir(&dir) else {
        println!("skipped: no models in {}", dir.display());
        return;
    };
    let temp = tempfile::tempdir().expect("a folder");
    let mut count = 0;
    for path in entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|e| e == "onnx"))
    {
        let g = match read(&path) {
            Ok(g) => g,
            Err(e) if e.to_string().contains("GRU") => {
                println!("skipped: {e}");
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        let inline = read_vec(to_bytes(&g, &WriteOptions::default()).expect("writable")).expect("readable");
        assert_eq!(describe(&inline), describe(&g), "{}", path.display());
        let out = temp.path().join("m.onnx");
        write(&g, &out, &WriteOptions { external_above: 0, ..WriteOptions::default() }).expect("writable");
        assert!(temp.path().join("m.onnx.data").exists());
        assert_eq!(describe(&read(&out).expect("readable")), describe(&g), "{} with external data", path.display());
        count += 1;
    }
    println!("{count} models");
}

/// Every node test that is read must survive writing; the reasons of the others are printed.
#[test]
fn node_tests_survive() {
    let Some(dir) = std::env::var_os("NNQ_ONNX_NODE_TESTS").map(PathBuf::from) else {
        println!("skipped: NNQ_ONNX_NODE_TESTS does not name the folder of ONNX's node tests");
        return;
    };
    let mut paths: Vec<_> = std::fs::read_dir(&dir)
        .expect("a folder")
        .filter_map(|e| e.ok().map(|e| e.path().join("model.onnx")))
        .filter(|p| p.exists())
        .collect();
    paths.sort();
    let (mut good, mut reasons) = (0, std::collections::BTreeMap::<String, Vec<String>>::new());
    for path in &paths {
        let name = path.parent().and_then(|p| p.file_name()).unwrap_or_default().to_string_lossy().into_owned();
        match read(path) {
            Ok(g) => {
                let bytes = to_bytes(&g, &WriteOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
                let back = read_vec(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(describe(&back), describe(&g), "{name}");
                good += 1;
            }
            Err(e) => reasons.entry(e.cause().to_owned()).or_default().push(name),
        }
    }
    println!("{good} of {} read and survived", paths.len());
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|r| std::cmp::Reverse(r.1.len()));
    for (cause, names) in reasons {
        println!("{:4} {cause}: {}", names.len(), names[..names.len().min(3)].join(", "));
    }
}
