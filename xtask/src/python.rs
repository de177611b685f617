//! Python environments in the workspace's root: `.venv`, which tests compare with, and `.venv-peers` with the engines of
//! `nnq bench --peers`.
use crate::{Result, root};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

const TESTS: &str = "onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6 pillow==13.0.0 ml_dtypes==0.6.0 h5py==3.16.0";
const PEERS: &str = "onnxruntime==1.31.1 openvino==2026.4.1 nncf==3.4.0 onnx==1.23.2 numpy==2.4.6";

/// Where the tests' environment has its parts.
pub struct Python {
    /// The interpreter.
    pub python: PathBuf,
    /// The folder of ONNX's own node tests.
    pub node_tests: PathBuf,
}

/// The tests' environment.
pub fn environment() -> Result<Python> {
    let (venv, python) = made(".venv", TESTS)?;
    let node_tests = venv.join("node-tests");
    if !node_tests.is_dir() {
        // The folder gets its name when all of them are there.
        let partial = venv.join("node-tests.partial");
        let tool = root().join("tools/node_tests.py");
        eprintln!("making the ONNX node tests in {}", node_tests.display());
        // Warnings of the programs that make them are shown only where they fail.
        let made = Command::new(&python).arg(&tool).arg(&partial).output();
        let made = made.map_err(|e| format!("{}: {e}", python.display()))?;
        if !made.status.success() {
            let (tool, text) = (tool.display(), String::from_utf8_lossy(&made.stderr));
            return Err(format!("{text}{tool}: {} (cure: remove {} and run again)", made.status, venv.display()));
        }
        std::fs::rename(&partial, &node_tests).map_err(|e| format!("{}: {e}", node_tests.display()))?;
    }
    Ok(Python { python, node_tests })
}

/// The interpreter with the other engines.
pub fn peers() -> Result<PathBuf> {
    made(".venv-peers", PEERS).map(|(_, python)| python)
}

/// Makes an environment, or finds that it is there already: its folder and interpreter.
fn made(name: &str, requirements: &str) -> Result<(PathBuf, PathBuf)> {
    let venv = root().join(name);
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    // Written last: an interrupted installation is done again.
    let stamp = venv.join(".nnq-requirements");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(requirements) || !python.exists() {
        eprintln!("making {} with {requirements}", venv.display());
        create(&venv)?;
        install(&python, requirements)?;
        std::fs::write(&stamp, requirements).map_err(|e| format!("{}: {e}", stamp.display()))?;
    }
    Ok((venv, python))
}

fn create(venv: &Path) -> Result {
    let cure = "(cure: install Python 3.11 or newer with its venv module, e.g. `apt install python3 python3-venv`)";
    // A half-made environment would be mended by --clear; nothing else lives there.
    let status = Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv).status();
    match status {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("python3 -m venv: {s} {cure}")),
        Err(e) => Err(format!("python3: {e} {cure}")),
    }
}

fn install(python: &Path, requirements: &str) -> Result {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(requirements.split(' '));
    let cure = "(cure: this needs the network once; offline, put the wheels into a folder and set PIP_NO_INDEX=1 and \
                PIP_FIND_LINKS=FOLDER)";
    match pip.status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("pip could not install {requirements}: {s} {cure}")),
        Err(e) => Err(format!("{}: {e}", python.display())),
    }
}
