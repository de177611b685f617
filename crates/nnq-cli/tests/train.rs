//! Training from outside: killed without warning, and on parts of the data.
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// So many of the demo's pictures, for training.
fn data(folder: &Path, count: usize) {
    let output = nnq(folder, "demo --write-data all");
    assert_eq!(output.status.code(), Some(0));
    let all = std::fs::read(folder.join("all/data_batch_1.bin")).unwrap();
    std::fs::create_dir(folder.join("data")).unwrap();
    std::fs::write(folder.join("data/data_batch_1.bin"), &all[..3073 * count]).unwrap();
    std::fs::remove_file(folder.join("all/data_batch_1.bin")).unwrap();
}

fn command(folder: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nnq"));
    command.args(words.split(' ')).current_dir(folder);
    command
}

fn nnq(folder: &Path, words: &str) -> Output {
    command(folder, words).output().expect("nnq starts")
}

/// A process that is killed while it trains leaves a checkpoint from which the same command goes on, to the same bytes.
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    data(folder, 160);
    let words = |out: &str| {
        format!(
            "train all/demo.onnx --data data --preprocess cifar10 --bits w4a4 --batch 16 --epochs 2 --augment flip \
             --checkpoint {out}.state --checkpoint-every 1 -o {out}"
        )
    };
    let whole = nnq(folder, &words("whole.onnx"));
    assert_eq!(whole.status.code(), Some(0), "{}", String::from_utf8_lossy(&whole.stderr));
    let mut child = command(folder, &words("parts.onnx")).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let state = folder.join("parts.onnx.state");
    let patience = Instant::now();
    while !state.exists() && patience.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(5));
    }
    // No chance to tidy up: SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(state.exists() && !folder.join("parts.onnx").exists(), "it was killed in its training");
    let rest = nnq(folder, &words("parts.onnx"));
    assert_eq!(rest.status.code(), Some(0), "{}", String::from_utf8_lossy(&rest.stderr));
    let [a, b] = ["whole.onnx", "parts.onnx"].map(|name| std::fs::read(folder.join(name)).unwrap());
    assert!(a == b);
}

/// What is held out is of every class, and is what accuracy is measured on.
#[test]
fn parts_of_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    data(folder, 200);
    let run = |more: &str| {
        nnq(
            folder,
            &format!("train all/demo.onnx --data data --preprocess cifar10 --batch 16 --epochs 1 --json {more}"),
        )
    };
    let output = run("--validation 0.2 --balanced 64 --augment color,flip --precision bf16 -o out.onnx");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["steps"], 4);
    assert_eq!(json["after"]["samples"], 40);
    for (more, cause) in [
        ("--validation 1.5", "no share"),
        ("--validation 0.001", "no samples were chosen"),
        ("--balanced 300", "--balanced 300 of 200"),
        ("--bits w4a4 --precision f16", "--precision"),
    ] {
        let output = run(&format!("{more} -o never.onnx"));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_ne!(output.status.code(), Some(0), "{more}");
        assert!(error.contains(cause), "{more}: {error}");
        assert!(!folder.join("never.onnx").exists());
    }
}
