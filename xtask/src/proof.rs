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

/// Runs fewer cases under valgrind (the instruction sets that it knows) and in the interpreter miri (the scalar code).
pub fn memcheck() -> Result {
    let runner = format!("CARGO_TARGET_{}_RUNNER", fuzz::host()?.to_uppercase().replace('-', "_"));
    step(cargo().args(TEST).env(runner, "valgrind --quiet --error-exitcode=9").env("NNQ_CASES", "400"))
        .map_err(|e| format!("{e} (valgrind is needed)"))?;
    let mut interpreted = Command::new("cargo");
    interpreted.args(["+nightly", "miri"]).args(TEST).current_dir(root());
    // What is interpreted has no access to the variables of its caller.
    interpreted
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env("MIRIFLAGS", "-Zmiri-env-set=NNQ_ISA=scalar -Zmiri-env-set=NNQ_CASES=10");
    step(&mut interpreted).map_err(|e| format!("{e} (cure: `rustup +nightly component add miri rust-src`)"))
}
