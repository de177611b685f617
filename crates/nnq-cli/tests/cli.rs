//! The command from outside: help, exit codes, what goes to which stream.
use serde_json::Value;
use std::process::{Command, Output};

const COMMANDS: &[&str] = &[
    "demo",
    "inspect",
    "calibrate",
    "quantize",
    "analyze",
    "eval",
    "compile",
    "run",
    "bench",
    "zoo",
    "explain",
    #[cfg(feature = "train")]
    "train",
    #[cfg(feature = "train")]
    "reconstruct",
];

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
    for &command in COMMANDS {
        assert!(help.lines().any(|l| l.trim_start().starts_with(command)), "{command} is missing in\n{help}");
    }
}

/// Each command's help ends with an example that the parser accepts as far as its files go.
#[test]
fn every_help_has_an_example_that_parses() {
    let folder = tempfile::tempdir().unwrap();
    for &command in COMMANDS {
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
    let wrong: [&[&str]; 28] = [
        &[],
        &["frobnicate"],
        &["quantize", "m.onnx"],
        &["train", "m.onnx", "--data", "d", "--bits-schedule", "w2a2,w8a8", "-o", "o.onnx"],
        &["train", "m.onnx", "--data", "d", "--augment", "mixup:2", "-o", "o.onnx"],
        &["quantize", "m.onnx", "--data", "d"],
        &["quantize", "m.onnx", "--data", "d", "--range", "guess", "-o", "o.onnx"],
        &["quantize", "m.onnx", "--data", "d", "--bits", "4", "-o", "o.onnx"],
        &["quantize", "m.onnx", "--data", "d", "--bits", "w4a", "-o", "o.onnx"],
        &["quantize", "m.onnx", "--data", "d", "--bits", "w1a8", "-o", "o.onnx"],
        &["quantize", "m.onnx", "--data", "d", "--rounding", "up", "-o", "o.onnx"],
        &["eval", "m.onnx"],
        &["eval", "m.onnx", "--data", "d", "--engine", "abacus"],
        &["eval", "m.onnx", "--data", "d", "--batch", "0"],
        &["calibrate", "m.onnx", "--merge", "a", "b", "-o", "c"],
        &["bench", "m.onnx", "--float", "f.onnx"],
        &["bench", "m.onnx", "--peers", "--threads", "1"],
        &["bench", "m.onnx", "--peers", "--batches", "0"],
        &["bench", "m.onnx", "--size", "T"],
        &["quantize", "m.onnx", "--weight-only", "--dynamic", "-o", "o.onnx"],
        &["quantize", "m.onnx", "--dynamic-attention", "-o", "o.onnx"],
        &["run", "m.onnx", "--prompt", "Once"],
        &["run", "m.onnx", "--input", "x.npy", "--tokens", "3", "-o", "y.npy"],
        &["zoo", "resnet18"],
        &["zoo", "-o", "m.onnx"],
        &["zoo", "resnet9", "-o", "m.onnx"],
        &["zoo", "mlp", "--outputs", "0", "-o", "m.onnx"],
        &["train", "m.onnx", "--outputs", "3", "--data", "d", "-o", "m.onnx"],
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
    let written = nnq::data::Preprocess::from_toml(&std::fs::read_to_string(path.join("demo.toml")).unwrap()).unwrap();
    assert_eq!(written, nnq::demo::preprocess());
}

/// The published worked example of binary32, and 8-bit codes by hand: the scale of -1:1 is 1/127, and -0.3 * 127 = -38.1.
#[test]
fn explain() {
    let json = |args: &[&str]| -> Value {
        let output = nnq(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let e = json(&["explain", "85.125", "--json"]);
    let single = &e["formats"][1];
    assert_eq!((&single["sign"], &single["exponent"]), (&"0".into(), &"10000101".into()));
    assert_eq!(single["mantissa"], "01010100100000000000000");
    assert_eq!((&e["steps"]["integer_bits"], &e["steps"]["fraction_bits"]), (&"1010101".into(), &"001".into()));
    assert_eq!(e["int8"], Value::Array(vec![]));
    let e = json(&["explain", "-0.3", "--range", "-1:1", "--json"]);
    assert_eq!((&e["int8"][0]["code"], &e["int8"][0]["zero_point"]), (&(-38).into(), &0.into()));
    let words = text(&nnq(&["explain", "85.125"]).stdout);
    assert!(words.contains("1010101.001") && words.contains("10000101 01010100100000000000000"), "{words}");
    for wrong in [&["explain", "eighty"][..], &["explain", "1", "--range", "2"], &["explain", "1", "--range", "1:-1"]] {
        assert_eq!(nnq(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// From a float model to a quantized one, through every command, on a few pictures of the demo.
#[test]
fn end_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nnq"));
        let output = command.args(args).current_dir(&folder).env("NNQ_CACHE", "cache").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        output
    };
    let json = |args: &[&str]| -> Value {
        let args = [args, &["--json"]].concat();
        serde_json::from_slice(&run(&args).stdout).unwrap_or_else(|e| panic!("{args:?}: no JSON object: {e}"))
    };
    run(&["demo", "--write-data", "."]);
    let pre = ["--preprocess", "demo.toml"];

    let seen = json(&["inspect", "demo.onnx"]);
    assert_eq!((&seen["nodes"], &seen["macs"]), (&39.into(), &7_508_608.into()));
    assert!(text(&run(&["inspect", "demo.onnx", "--text"]).stdout).starts_with("graph \"demo\" opset 17"));

    let calibrate = |extra: &[&str]| json(&[&["calibrate", "demo.onnx", "--data", "."], &pre[..], extra].concat());
    calibrate(&["--samples", "24", "-o", "all.qstats"]);
    let quantize = |extra: &[&str]| json(&[&["quantize", "demo.onnx"], &pre[..], extra].concat());
    let direct = quantize(&["--data", ".", "--samples", "24", "-o", "direct.onnx"]);
    quantize(&["--stats", "all.qstats", "-o", "stats.onnx"]);
    assert!(direct["size_ratio"].as_f64().unwrap() < 0.4, "{direct}");
    let eval = |model: &str, extra: &[&str]| {
        json(&[&["eval", model, "--data", ".", "--limit", "150"], &pre[..], extra].concat())
    };
    let float = eval("demo.onnx", &["--engine", "float"]);
    let int = eval("direct.onnx", &["--engine", "int", "--batch", "7"]);
    let sim = eval("direct.onnx", &["--engine", "sim", "--threads", "1"]);
    assert_eq!((&float["samples"], &float["engine"], &int["engine"]), (&150.into(), &"float".into(), &"int".into()));
    assert!(float["top1"].as_f64().unwrap() > 0.9 && int["top1"].as_f64().unwrap() > 0.85, "{float} {int}");
    assert_eq!(int["logits_sha256"], sim["logits_sha256"], "integers and simulator differ");
    assert_ne!(int["logits_sha256"], float["logits_sha256"]);
    assert_eq!(int["logits_sha256"], eval("stats.onnx", &[])["logits_sha256"], "statistics file and direct way differ");

    // Tried once, kept, the same bits; in a compiled plan, too.
    let tuned = || eval("direct.onnx", &["--engine", "int", "--tune"]);
    assert_eq!(tuned()["logits_sha256"], int["logits_sha256"]);
    let kept: Vec<_> = std::fs::read_dir(folder.path().join("cache")).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let before = std::fs::read(&kept[0]).unwrap();
    assert_eq!(tuned()["logits_sha256"], int["logits_sha256"]);
    assert!(std::fs::read(&kept[0]).unwrap() == before, "what is kept was tried again");
    run(&["compile", "direct.onnx", "--tune", "--batch", "32", "-o", "direct.plan"]);
    assert_eq!(eval("direct.plan", &[])["logits_sha256"], int["logits_sha256"]);

    let bench = json(&["bench", "direct.onnx", "--threads", "1"]);
    assert_eq!((&bench["engine"], &bench["threads"], &bench["macs"]), (&"int".into(), &1.into(), &7_508_608.into()));
    assert!(!bench["layers"].as_array().unwrap().is_empty() && bench["median_ms"].as_f64().unwrap() > 0.0);

    // One picture as numbers: the answer is that of the first picture of the evaluation.
    let first: Vec<u8> = std::fs::read(folder.path().join("test_batch.bin")).unwrap()[1..3073].to_vec();
    let pixels: Vec<f32> = first.iter().map(|&x| f32::from(x) / 127.5 - 1.0).collect();
    let tensor = nnq::ir::Tensor::of(&[3, 32, 32], pixels);
    nnq::data::save_npy(&folder.path().join("x.npy"), &tensor).unwrap();
    let ran = json(&["run", "demo.onnx", "--input", "x.npy", "-o", "y.npy"]);
    assert_eq!(ran["outputs"][0]["shape"], serde_json::json!([1, 10]));
    let y = nnq::data::NpyArray::open(&folder.path().join("y.npy")).unwrap().to_tensor().unwrap();
    let best = y.to_f32s().iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    assert_eq!(ran["outputs"][0]["argmax"], best);

    // Nothing is left behind by what fails.
    let output = Command::new(env!("CARGO_BIN_EXE_nnq"))
        .args(["quantize", "direct.onnx", "--data", ".", "-o", "twice.onnx"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "a quantized model cannot be quantized");
    assert!(text(&output.stderr).contains("quantized already") && !folder.path().join("twice.onnx").exists());
}

#[test]
fn the_zoo_lists_and_writes() {
    let folder = tempfile::tempdir().unwrap();
    let json = |args: &[&str]| -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_nnq")).args(args).current_dir(&folder).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let list = json(&["zoo", "--json"]);
    let names: Vec<_> = list.as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    for name in ["resnet18", "resnext50", "mobilenetv3-small", "inceptionv3", "resnet20", "vgg-small", "mlp"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let file = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    for (out, seed) in [("a.onnx", "0"), ("b.onnx", "0"), ("c.onnx", "1")] {
        let report = json(&["zoo", "mobilenetv2", "-o", out, "--seed", seed, "--json"]);
        assert_eq!((&report["file"], report["bytes"].as_u64()), (&out.into(), Some(file(out).len() as u64)));
    }
    assert!(file("a.onnx") == file("b.onnx"), "equal seeds, different files");
    assert!(file("a.onnx") != file("c.onnx"), "different seeds, equal files");
    let bench = json(&["bench", "a.onnx", "--threads", "1", "--json"]);
    assert_eq!(bench["macs"], 300_774_272);
}
