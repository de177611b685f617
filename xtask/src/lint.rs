//! `cargo xtask lint`: formatting, clippy, the command without training, documentation.
use crate::{Result, cargo, root, step};

/// Runs all of them, then says which failed.
pub fn run() -> Result {
    let mut checks = vec![
        step(cargo().args(["fmt", "--all", "--check"])),
        step(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
        step(cargo().args(["check", "--package", "nnq-cli", "--no-default-features"])),
        step(cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings")),
    ];
    // The fuzz targets are a workspace of their own.
    if root().join("fuzz/Cargo.toml").exists() {
        checks.push(step(cargo().args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])));
    }
    let failed: Vec<String> = checks.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\nerror: ")) }
}
