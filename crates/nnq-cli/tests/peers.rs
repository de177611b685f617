//! `nnq bench --peers` from outside, with made-up engines that talk like `tools/peers.py`.
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Stands in for Python: takes `-c SCRIPT`, which it ignores, and the script's arguments. Each run of ONNX Runtime takes 1000
/// seconds, it says; OpenVINO is not there.
const FAKE: &str = r#"#!/bin/sh
if [ "$4" = openvino ]; then echo '{"error": "ModuleNotFoundError: no openvino"}'; exit; fi
if [ "$3" = quantize ]; then cp "$5" "$7"; echo '{"version": "9.9"}'; exit; fi
echo '{"version": "9.9", "load_ms": 12.5}'
while read n; do
  s=1000; i=1
  while [ $i -lt "$n" ]; do s="$s, 1000"; i=$((i + 1)); done
  echo "{\"seconds\": [$s]}"
done
"#;

fn nnq(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nnq"));
    command.args(args).current_dir(folder).env_remove("NNQ_PYTHON").output().unwrap()
}

/// A folder with a float network, its quantized form and the stand-in.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let words = "quantize demo.onnx --data . --preprocess cifar10 --samples 8 -o int8.onnx";
    for args in [vec!["demo", "--write-data", "."], words.split(' ').collect()] {
        let output = nnq(folder.path(), &args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let fake = folder.path().join("python");
    fs::write(&fake, FAKE).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn every_engine_has_a_row_with_figures_or_a_reason() {
    let folder = prepared();
    let words = "bench int8.onnx --peers --float demo.onnx --calibration . --preprocess cifar10 --batches 1,3 --thread-counts 1 \
                 --seconds 0.05 --python ./python";
    let args: Vec<&str> = words.split(' ').collect();
    let output = nnq(folder.path(), &[&args[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(
        cells.iter().map(|c| (&c["batch"], &c["threads"])).collect::<Vec<_>>(),
        [(&json!(1), &json!(1)), (&json!(3), &json!(1))]
    );
    for cell in cells {
        let rows = cell["rows"].as_array().unwrap();
        let of = |engine: &str| rows.iter().filter(|r| r["engine"] == engine).collect::<Vec<_>>();
        let (ours, ort, openvino) = (of("nnq"), of("ONNX Runtime"), of("OpenVINO"));
        assert_eq!((ours.len(), ort.len(), openvino.len()), (2, 3, 3), "{cell}");
        for row in ours {
            assert_eq!(row["figures"]["ratio"], 1.0, "{row}");
            assert!(row["figures"]["median_ms"].as_f64().unwrap() > 0.0 && row["error"].is_null());
        }
        for row in ort {
            assert_eq!(
                (&row["figures"]["median_ms"], &row["figures"]["load_ms"]),
                (&json!(1e6), &json!(12.5)),
                "{row}"
            );
            assert!(row["figures"]["ratio"].as_f64().unwrap() > 1000.0 && row["figures"]["version"] == "9.9");
        }
        for row in openvino {
            assert!(row["figures"].is_null() && row["error"] == "ModuleNotFoundError: no openvino", "{row}");
        }
    }
    // Every machine can be limited to the code without vectors.
    let output = nnq(folder.path(), &[&args[..], &["--markdown", "--isa", "scalar"]].concat());
    let page = String::from_utf8_lossy(&output.stdout);
    for part in
        ["## int8.onnx", "| nnq | int8, the same file |", "no openvino", "ONNX Runtime has no such switch", "on scalar"]
    {
        assert!(page.contains(part), "{part} is missing in\n{page}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn without_python_the_reason_is_named() {
    let folder = prepared();
    let bench = "bench int8.onnx --peers --batches 1 --thread-counts 1 --seconds 0.05";
    let output = nnq(folder.path(), &bench.split(' ').collect::<Vec<_>>());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("failed") && text.contains("NNQ_PYTHON"), "{text}");
    let output = nnq(folder.path(), &[&bench.split(' ').collect::<Vec<_>>()[..], &["--isa", "mmx"]].concat());
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_worker_runs_as_often_as_it_is_told() {
    let folder = prepared();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nnq"));
    command.args(["bench", "int8.onnx", "--worker", "--batch", "2", "--threads", "1"]).current_dir(&folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"2\n1\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let lines: Vec<Value> =
        output.stdout.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    let runs: Vec<usize> = lines.iter().skip(1).map(|l| l["seconds"].as_array().unwrap().len()).collect();
    assert!(output.status.success() && lines[0]["isa"].is_string() && runs == [2, 1], "{lines:?}");
}
