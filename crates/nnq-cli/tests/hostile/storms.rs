//! What does not fit a table: random damage, signals, instruction sets that depend on the machine.
use super::{
    files::{cifar, pictures, put, sound},
    onnx::{self, net},
    table::{Outcome, finish, manners, start, tree},
};
use std::path::Path;

fn run(folder: &Path, args: &str) -> Outcome {
    let args: Vec<&str> = args.split(' ').collect();
    finish(start(folder, &args, &[], None))
}

/// SplitMix64: the same damage on every machine.
fn random(i: u64) -> u64 {
    let x = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A model with one to three flipped bits is read or refused, run or refused, but never breaks the program. Most of a model is
/// weights, where every bit is allowed: the flips aim at everything else.
#[test]
fn flipped_bits() {
    let sound = net().build();
    let plain: Vec<usize> = {
        // Positions outside of raw data.
        let raw = onnx::net().constants;
        let mut free = vec![true; sound.len()];
        for c in raw {
            let n = c.len();
            let at = sound.windows(n).position(|w| w == c).expect("the constant is in the model");
            free[at + 20.min(n)..at + n].fill(false);
        }
        (0..sound.len()).filter(|&i| free[i]).collect()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let f = folder.path();
    put(f, "x.npy", super::files::floats("(1, 3, 32, 32)", &[0.5; 3072]));
    let mut failures = Vec::new();
    let (mut refused, mut ran) = (0, 0);
    for i in 0..300 {
        let mut m = sound.clone();
        for k in 0..=i % 3 {
            let r = random(i * 3 + k);
            m[plain[(r >> 8) as usize % plain.len()]] ^= 1 << (r & 7);
        }
        put(f, "m.onnx", m);
        let o = run(f, "run m.onnx --input x.npy -o y.npy");
        let mut wrong = manners(&o);
        match o.code {
            Some(0) => {
                ran += 1;
                std::fs::remove_file(f.join("y.npy")).expect("an output was written");
            }
            _ => {
                refused += 1;
                if !o.stderr.contains("m.onnx") && !o.stderr.contains("y.npy") {
                    wrong.push("no file is named".into());
                }
            }
        }
        if tree(f).len() != 2 {
            wrong.push(format!("files are left behind: {:?}", tree(f)));
        }
        failures.extend(wrong.into_iter().map(|w| format!("flip {i}: {w}: {}", o.stderr.trim())));
    }
    assert!(refused >= 30 && ran >= 10, "the flips hit nothing of weight: {refused} refused, {ran} ran");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The same through the whole flow, with fewer.
#[test]
fn flipped_bits_quantized() {
    let sound = net().build();
    let folder = tempfile::tempdir().expect("a folder");
    let f = folder.path();
    pictures(f);
    let clean = tree(f).len() + 1;
    let mut failures = Vec::new();
    for i in 0..60 {
        let r = random(1000 + i);
        let mut m = sound.clone();
        let at = (r >> 8) as usize % m.len();
        m[at] ^= 1 << (r & 7);
        put(f, "m.onnx", m);
        let o = run(f, "calibrate m.onnx --data data -o s.qstats");
        let mut wrong = manners(&o);
        if o.code == Some(0) {
            let o = run(f, "quantize m.onnx --stats s.qstats -o q.onnx");
            wrong.extend(manners(&o));
            if o.code == Some(0) {
                std::fs::remove_file(f.join("q.onnx")).expect("an output was written");
            }
            std::fs::remove_file(f.join("s.qstats")).expect("an output was written");
        }
        if tree(f).len() != clean {
            wrong.push(format!("files are left behind: {:?}", tree(f)));
        }
        failures.extend(wrong.into_iter().map(|w| format!("flip {i} at {at}: {w}: {}", o.stderr.trim())));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every length of a short model.
#[test]
fn truncated_everywhere() {
    let whole = net().build();
    let folder = tempfile::tempdir().expect("a folder");
    let f = folder.path();
    let mut failures = Vec::new();
    for i in 0..40 {
        let length = whole.len() * i / 40;
        put(f, "m.onnx", &whole[..length]);
        let o = run(f, "inspect m.onnx");
        let mut wrong = manners(&o);
        if o.code != Some(1) || !o.stderr.contains("m.onnx") {
            wrong.push(format!("exit code {:?}", o.code));
        }
        failures.extend(wrong.into_iter().map(|w| format!("{length} bytes: {w}: {}", o.stderr.trim())));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Ctrl-C, and what systems send to end a process, end a long run at each of its stages, at once and without a trace.
#[cfg(unix)]
#[test]
fn interrupted() {
    let mut failures = Vec::new();
    let long = |f: &Path| {
        sound(f);
        put(f, "data/data_batch_1.bin", cifar(3000));
        put(f, "data/test_batch.bin", cifar(3000));
    };
    let quantize = "quantize m.onnx --data data --samples 3000 --eval data -o q.onnx";
    let rows = [
        ("calibrate m.onnx --data data --samples 3000 -o q.onnx", 100, "-INT"),
        (quantize, 100, "-INT"),
        (quantize, 100, "-TERM"),
        (quantize, 700, "-INT"),
        (quantize, 1500, "-TERM"),
        ("bench m.onnx --batch 2000", 500, "-INT"),
        ("eval m.onnx --data data --batch 1", 100, "-TERM"),
    ];
    for (args, after, signal) in rows {
        let folder = tempfile::tempdir().expect("a folder");
        long(folder.path());
        put(folder.path(), "q.onnx", "earlier");
        let before = tree(folder.path());
        let words: Vec<&str> = args.split(' ').collect();
        let mut child = start(folder.path(), &words, &[], None);
        std::thread::sleep(std::time::Duration::from_millis(after));
        if child.try_wait().expect("nnq can be waited for").is_some() {
            eprintln!("NOT TESTED: nnq {args} is done within {after} ms");
            continue;
        }
        let kill = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.expect("kill starts").success());
        let o = finish(child);
        if o.code == Some(0) {
            eprintln!("NOT TESTED: nnq {args} was done when the signal came");
            continue;
        }
        let mut wrong = manners(&o);
        if o.code != Some(1) || !o.stderr.contains("stopped") {
            wrong.push(format!("exit code {:?}: {}", o.code, o.stderr));
        }
        if tree(folder.path()) != before
            || std::fs::read(folder.path().join("q.onnx")).ok().as_deref() != Some(b"earlier")
        {
            wrong.push(format!("files have changed: {:?}", tree(folder.path())));
        }
        failures.extend(wrong.into_iter().map(|w| format!("nnq {args}, {signal} after {after} ms: {w}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// An instruction set that this machine lacks is refused by name.
#[test]
fn instruction_set_that_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    sound(folder.path());
    let o = run(folder.path(), "quantize m.onnx --data data -o q.onnx");
    assert_eq!(o.code, Some(0), "{}", o.stderr);
    let mut refused = 0;
    for isa in ["scalar", "avx2", "avx-vnni", "avx512-vnni"] {
        let args = ["eval", "q.onnx", "--data", "data", "--engine", "int"];
        let o = finish(start(folder.path(), &args, &[("NNQ_ISA", isa)], None));
        if o.code != Some(0) {
            refused += 1;
            assert!(manners(&o).is_empty(), "{isa}: {}", o.stderr);
            assert!(isa != "scalar" && o.code == Some(2) && o.stderr.contains(isa), "{isa}: {:?} {}", o.code, o.stderr);
        }
    }
    if refused == 0 {
        eprintln!("NOT TESTED: this machine has every instruction set");
    }
}
