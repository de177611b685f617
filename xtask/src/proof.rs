//! `cargo xtask differential` and `cargo xtask memcheck`: the kernels on drawn cases, many of them, and under tools that watch
//! every access to memory.
use crate::{Result, cargo, fuzz, root, step};
use std::process::Command;

/// The test of every kernel on every instruction set against the formulas.
const TEST: [&str; 5] = ["test", "--package=nnq-kernels", "--test=differential", "--", "--nocapture"];

/// Runs `cases` drawn cases of each family of kernels.
pub fn differential(cases: u64) -> Result {
    step(cargo().args(TEST).env("NNQ_CASES", cases.to_string()))
}

/// Runs fewer cases under valgrind (the instruction sets that it knows), with the address sanitizer (all of this machine) and
/// in the interpreter miri (the scalar code).
pub fn memcheck() -> Result {
    let host = fuzz::host()?;
    let runner = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
    step(cargo().args(TEST).env(runner, "valgrind --quiet --error-exitcode=9").env("NNQ_CASES", "400"))
        .map_err(|e| format!("{e} (valgrind is needed)"))?;
    let nightly = |words: &[&str], folder: &str| {
        let mut command = Command::new("cargo");
        command.arg("+nightly").args(words).args(TEST).current_dir(root());
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        command.env("CARGO_TARGET_DIR", root().join("target").join(folder));
        command
    };
    let mut sanitized = nightly(&[], "sanitized");
    // A target triple keeps the flags away from build scripts.
    sanitized.env("CARGO_BUILD_TARGET", &host).env("RUSTFLAGS", "-Zsanitizer=address").env("NNQ_CASES", "1000");
    step(&mut sanitized).map_err(|e| format!("{e} (cure: `rustup toolchain install nightly`)"))?;
    // It has no access to the variables of its caller.
    step(
        nightly(&["miri"], "interpreted").env("MIRIFLAGS", "-Zmiri-env-set=NNQ_ISA=scalar -Zmiri-env-set=NNQ_CASES=10"),
    )
    .map_err(|e| format!("{e} (cure: `rustup +nightly component add miri rust-src`)"))
}
