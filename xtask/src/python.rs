//! The Python environment that tests compare with: `.venv` in the workspace's root.
use crate::{Result, root};
use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

const REQUIREMENTS: &str = "onnx==1.17.0 onnxruntime==1.31.1 numpy==2.4.6 pillow==13.0.0 ml_dtypes==0.6.0";

/// Where the environment's parts are.
pub struct Python {
    /// The interpreter.
    pub python: PathBuf,
    /// The folder of ONNX's own node tests.
    pub node_tests: PathBuf,
}

/// Makes the environment, or finds that it is there already.
pub fn environment() -> Result<Python> {
    let venv = root().join(".venv");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    // Written last: an interrupted installation is done again.
    let stamp = venv.join(".nnq-requirements");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(REQUIREMENTS) || !python.exists() {
        eprintln!("making {} with {REQUIREMENTS}", venv.display());
        create(&venv)?;
        install(&python)?;
        std::fs::write(&stamp, REQUIREMENTS).map_err(|e| format!("{}: {e}", stamp.display()))?;
    }
    let script = "import onnx.backend.test, os; print(os.path.dirname(onnx.backend.test.__file__))";
    let answer = Command::new(&python).args(["-c", script]).stderr(Stdio::inherit()).output();
    let answer = answer.map_err(|e| format!("{}: {e}", python.display()))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    let node_tests = folder.join("data/node");
    if !answer.status.success() || !node_tests.is_dir() {
        return Err(format!("{} holds no ONNX node tests (cure: remove the folder and run again)", venv.display()));
    }
    Ok(Python { python, node_tests })
}

fn create(venv: &std::path::Path) -> Result {
    let cure = "(cure: install Python 3.11 or newer with its venv module, e.g. `apt install python3 python3-venv`)";
    // A half-made environment would be mended by --clear; nothing else lives there.
    let status = Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv).status();
    match status {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("python3 -m venv: {s} {cure}")),
        Err(e) => Err(format!("python3: {e} {cure}")),
    }
}

fn install(python: &std::path::Path) -> Result {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(REQUIREMENTS.split(' '));
    let cure = "(cure: this needs the network once; offline, put the wheels into a folder and set PIP_NO_INDEX=1 and \
                PIP_FIND_LINKS=FOLDER)";
    match pip.status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("pip could not install {REQUIREMENTS}: {s} {cure}")),
        Err(e) => Err(format!("{}: {e}", python.display())),
    }
}
