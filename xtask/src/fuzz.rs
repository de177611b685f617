//! `cargo xtask fuzz`: builds and runs the fuzz targets without needing more than the nightly toolchain.
use crate::{Result, root, step};
use std::process::Command;

/// What makes the compiler report coverage to libFuzzer, and address errors at once.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Zsanitizer=address -Ccodegen-units=1";

/// Runs each target for `seconds`. What it finds lies in `fuzz/artifacts/TARGET`, what it learns in `fuzz/corpus/TARGET`.
pub fn run(seconds: u64) -> Result {
    let fuzz = root().join("fuzz");
    let targets = targets(&fuzz)?;
    let host = host()?;
    // A target triple keeps the flags away from build scripts.
    step(
        Command::new("cargo")
            .args(["+nightly", "build", "--release", "--bins", "--target", &host])
            .current_dir(&fuzz)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO")
            .env("RUSTFLAGS", FLAGS),
    )
    .map_err(|e| format!("{e} (cure: fuzzing needs `rustup toolchain install nightly` and a C++ compiler)"))?;
    let mut failed = Vec::new();
    for target in &targets {
        let [corpus, artifacts] = ["corpus", "artifacts"].map(|d| fuzz.join(d).join(target));
        for folder in [&corpus, &artifacts] {
            std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        let mut command = Command::new(fuzz.join("target").join(&host).join("release").join(target));
        command.arg(&corpus).arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        command.args(["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]);
        if let Err(e) = step(&mut command) {
            failed.push(e);
        }
    }
    if failed.is_empty() {
        println!("fuzz: {} targets, {seconds} s each, nothing found", targets.len());
        Ok(())
    } else {
        Err(failed.join("\nerror: "))
    }
}

/// Names of the targets: one file each.
fn targets(fuzz: &std::path::Path) -> Result<Vec<String>> {
    let folder = fuzz.join("fuzz_targets");
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let files = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "rs"));
    let mut names: Vec<String> = files.filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    if names.is_empty() { Err(format!("{}: no fuzz targets", folder.display())) } else { Ok(names) }
}

/// The host's target triple.
pub fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|e| format!("rustc: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".into())
}
