//! The command from outside: help, exit codes, what goes to which stream.
use serde_json::Value;
use std::process::{Command, Output};

const COMMANDS: [&str; 8] = ["demo", "inspect", "calibrate", "quantize", "eval", "run", "bench", "explain"];

fn nnq(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nnq")).args(args).output().expect("nnq starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_names_every_command() {
    let output = nnq(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for command in COMMANDS {
        assert!(help.lines().any(|l| l.trim_start().starts_with(command)), "{command} is missing in\n{help}");
    }
}

/// Each command's help ends with an example that the parser accepts as far as its files go.
#[test]
fn every_help_has_an_example_that_parses() {
    let folder = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let output = nnq(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let help = text(&output.stdout);
        let examples: Vec<&str> = help.lines().filter_map(|l| l.strip_prefix("  nnq ")).collect();
        assert!(!examples.is_empty(), "{command} has no example:\n{help}");
        for example in examples.iter().filter(|_| command != "demo") {
            // In an empty folder the files are missing, which is a failure (1) and not wrong usage (2).
            let args: Vec<&str> = example.split(' ').collect();
            let output = Command::new(env!("CARGO_BIN_EXE_nnq")).args(&args).current_dir(&folder).output().unwrap();
            assert_ne!(output.status.code(), Some(2), "nnq {example}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn wrong_usage_is_2() {
    let wrong: [&[&str]; 9] = [
        &[],
        &["frobnicate"],
        &["quantize", "m.onnx"],
        &["quantize", "m.onnx", "--data", "d"],
        &["quantize", "m.onnx", "--data", "d", "--range", "guess", "-o", "o.onnx"],
        &["eval", "m.onnx"],
        &["eval", "m.onnx", "--data", "d", "--engine", "abacus"],
        &["eval", "m.onnx", "--data", "d", "--batch", "0"],
        &["calibrate", "m.onnx", "--merge", "a", "b", "-o", "c"],
    ];
    for args in wrong {
        let output = nnq(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?} writes to standard output");
        assert!(!output.stderr.is_empty(), "{args:?} says nothing");
    }
}

/// Failures name the file on standard error and leave standard output empty, with --json too.
#[test]
fn a_missing_model_is_1() {
    let commands: [&[&str]; 4] = [
        &["inspect", "/no/such/model.onnx"],
        &["inspect", "/no/such/model.onnx", "--json"],
        &["eval", "/no/such/model.onnx", "--data", "/no/such/folder", "--engine", "float", "--json"],
        &["run", "/no/such/model.onnx", "--input", "/no/such/x.npy", "-o", "/no/such/y.npy"],
    ];
    for args in commands {
        let output = nnq(args);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(error.starts_with("error: ") && error.contains("/no/such/model.onnx"), "{args:?}: {error}");
    }
}

#[test]
fn demo_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let output = nnq(&["demo", "--write-data", path.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (file, count) in [("data_batch_1.bin", &json["train"]), ("test_batch.bin", &json["test"])] {
        let size = std::fs::metadata(path.join(file)).unwrap().len();
        assert_eq!(Some(size), count.as_u64().map(|n| n * 3073), "{file}");
    }
    assert_eq!(json["classes"].as_array().unwrap().len(), 10);
    assert!(path.join("demo.onnx").exists());
}
