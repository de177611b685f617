//! `cargo xtask dist`: the command as it is handed out.
use crate::{Result, cargo, fuzz, root, step};
use std::path::PathBuf;

/// Builds it in the profile `dist` and answers where it lies. With the GNU C library it is linked statically: it runs on every
/// Linux of this architecture, and brings into memory only what it uses of that library. Without training, which nobody does where networks are only run.
pub fn run() -> Result<PathBuf> {
    let host = fuzz::host()?;
    let mut build = cargo();
    build.args(["build", "--profile", "dist", "--package", "nnq-cli", "--no-default-features", "--target", &host]);
    if host.ends_with("linux-gnu") {
        build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    }
    step(&mut build)?;
    let name = if cfg!(windows) { "nnq.exe" } else { "nnq" };
    Ok(root().join("target").join(host).join("dist").join(name))
}
