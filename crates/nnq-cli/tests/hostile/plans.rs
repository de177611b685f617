//! Compiled plans: made of the wrong things, damaged, and given to the wrong commands.
use super::{
    commands::{FULL, nnq, quantized},
    files::{self, put, sound},
    table::{Row, fails, works},
};
use std::path::Path;

/// `q.plan` for batches of 1 and 4 beside the sound files.
fn compiled(f: &Path) {
    quantized(f);
    nnq(f, "compile q.onnx --batch 4,1 -o q.plan");
}

/// The plan with its bytes changed.
fn changed(f: &Path, change: fn(&mut Vec<u8>)) {
    compiled(f);
    let mut bytes = std::fs::read(f.join("q.plan")).unwrap();
    change(&mut bytes);
    put(f, "q.plan", bytes);
}

/// The plan and three samples.
fn with_input(f: &Path) {
    compiled(f);
    put(f, "x.npy", files::floats("(3, 3, 32, 32)", &[0.5; 3 * 3072]));
}

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    const EVAL: &str = "eval q.plan --data data";
    const TAKERS: &[&str] = &["q.plan", "compiled plan", "nnq run, bench and eval"];
    vec![
        works("a plan evaluated", compiled, EVAL, &[]),
        works("a plan evaluated by four", compiled, "eval q.plan --data data --batch 3", &[]),
        works("compiled for some batches", quantized, "compile q.onnx --batch 1,2,2 -o q.plan", &["q.plan"]),
        fails("a float model compiled", sound, "compile m.onnx -o q.plan", 2, &["m.onnx", "not quantized", "nnq quantize"]),
        fails("compiled for no sample", quantized, "compile q.onnx --batch 1,0 -o q.plan", 2, &["--batch", "0"]),
        fails("compiled below a file", quantized, "compile q.onnx -o m.onnx/q.plan", 1, &["m.onnx/q.plan"]),
        Row { shell: FULL, ..fails("full disk for a plan", quantized, "compile q.onnx -o q.plan", 1, &["q.plan", "File too large"]) },
        // Choices by trying.
        Row { env: &[("NNQ_CACHE", "m.onnx/cache")], ..fails("choices kept below a file", quantized, "compile q.onnx --tune -o q.plan", 1, &["m.onnx"]) },
        fails("a float model tuned", sound, "eval m.onnx --data data --tune", 2, &["m.onnx", "nothing to tune", "--tune"]),
        // Damage.
        fails("a plan cut in its beginning", |f| changed(f, |b| b.truncate(30)), EVAL, 1, &["q.plan", "damaged", "compile the model again"]),
        fails("a plan cut in its head", |f| changed(f, |b| b.truncate(300)), EVAL, 1, &["q.plan", "cut off", "compile the model again"]),
        fails("a plan cut in its weights", |f| changed(f, |b| b.truncate(b.len() - 1)), EVAL, 1, &["q.plan", "cut off", "compile the model again"]),
        fails("a plan with other bytes in its head", |f| changed(f, |b| b[200] ^= 4), EVAL, 1, &["q.plan", "hash", "compile the model again"]),
        fails("a plan of another version", |f| changed(f, |b| b[8] = 99), EVAL, 1, &["q.plan", "version 99", "compile the model again"]),
        Row { env: &[("NNQ_ISA", "scalar")], ..fails("a plan for other instructions", compiled, EVAL, 1, &["q.plan", "scalar", "compile the model again"]) },
        // What a plan cannot do.
        fails("a plan for other batches", with_input, "run q.plan --input x.npy -o y.npy", 1, &["q.plan", "batches of 1, 4", "3 samples", "--batch 3"]),
        fails("a plan in floating point", compiled, "eval q.plan --data data --engine float", 2, &["q.plan", "integer engine only", "the model it was made from"]),
        fails("a plan inspected", compiled, "inspect q.plan", 2, TAKERS),
        fails("a plan calibrated", compiled, "calibrate q.plan --data data -o s.qstats", 2, TAKERS),
        fails("a plan quantized", compiled, "quantize q.plan --data data -o r.onnx", 2, TAKERS),
        fails("a plan compiled", compiled, "compile q.plan -o r.plan", 2, TAKERS),
    ]
}
