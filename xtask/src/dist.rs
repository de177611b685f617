//! `cargo xtask dist`: the command as it is handed out.
use crate::{Result, cargo, root, step};
use std::{path::PathBuf, process::Command};

/// Builds it in the profile `dist` and answers where it lies. With the GNU C library it is linked statically: it runs on every
/// Linux of this architecture, and brings into memory only what it uses of that library.
pub fn run() -> Result<PathBuf> {
    let host = host()?;
    let mut build = cargo();
    build.args(["build", "--profile", "dist", "--package", "nnq-cli", "--target", &host]);
    if host.ends_with("linux-gnu") {
        build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    }
    step(&mut build)?;
    let name = if cfg!(windows) { "nnq.exe" } else { "nnq" };
    Ok(root().join("target").join(host).join("dist").join(name))
}

/// What the compiler calls this machine.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let answer = Command::new(rustc).arg("-vV").output().map_err(|e| format!("rustc -vV: {e}"))?;
    let answer = String::from_utf8_lossy(&answer.stdout);
    let host = answer.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".into())
}
