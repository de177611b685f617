//! `cargo xtask benchmarks`: nnq beside other engines on a list of networks, as a page of `docs/`.
use crate::{Result, cargo, dist, python, root, show, step};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A network of the page.
struct Network {
    name: &'static str,
    /// The float model in the data folder; without it, the network of the zoo with that name.
    file: Option<&'static str>,
    preprocess: &'static str,
    /// Small pictures, or large ones.
    small: bool,
}

const fn zoo(name: &'static str) -> Network {
    Network { name, file: None, preprocess: "imagenet", small: false }
}

const NETWORKS: [Network; 7] = [
    zoo("resnet18"),
    zoo("resnet50"),
    zoo("mobilenetv2"),
    Network {
        name: "mobilenetv1",
        file: Some("mobilenetv1_0.75_224_imagenet_fp32.onnx"),
        preprocess: "inception",
        small: false,
    },
    Network {
        name: "squeezenet",
        file: Some("squeezenet1.1_imagenet_fp32.onnx"),
        preprocess: "imagenet",
        small: false,
    },
    Network { name: "resnet20", file: Some("resnet20_cifar10_fp32.onnx"), preprocess: "cifar10", small: true },
    Network { name: "resnet56", file: Some("resnet56_cifar10_fp32.onnx"), preprocess: "cifar10", small: true },
];

const HEAD: &str = "\
# Benchmarks

nnq beside ONNX Runtime and OpenVINO. Each engine runs in a process of its own; in every round each takes one turn of a few runs, so
that all see the same machine; medians over all runs, ratios of turns of the same round. The peers run the file that nnq
wrote, the float model (in binary32 throughout), and the float model quantized by their own tools (ONNX Runtime: `quantize_static`, QDQ, u8 activations, s8 weights per channel;
OpenVINO: NNCF with its defaults). ResNet-18, ResNet-50 and MobileNetV2 have random weights (`nnq zoo`); the others are trained.

";

const MEMORY: &str = "
## Memory
    tools/memory.py $(cargo xtask dist) FOLDER MODEL.int8.onnx ...

Of a process that loads a model and runs it once, in megabytes (10^6 bytes). Live activations: the largest sum of values, inputs and outputs
among them, that are needed at the same time. Allowed: the file, 1.15 times the live activations, and 10 MB. Resident is whatever
Linux counts (`VmHWM`): the pages of the program itself, of the C library and of the mapped file are part of it.

";

/// Measures every network and writes the page. `isa`: the newest instruction set that engines may use, where they can be limited.
pub fn run(isa: Option<&str>) -> Result {
    let python = python::peers()?;
    let data = std::env::var_os("NNQ_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    if !data.is_dir() {
        return Err(format!("{} is no folder (cure: NNQ_DATA names the networks and pictures)", data.display()));
    }
    let folder = root().join("target/benchmarks");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let small = folder.join("pictures");
    step(nnq().args(["demo", "--write-data"]).arg(&small))?;
    let suffix = isa.map_or_else(String::new, |i| format!("-{i}"));
    let again = isa.map_or_else(String::new, |i| format!(" {i}"));
    let mut page = format!("{HEAD}All of it: `cargo xtask benchmarks{again}`.\n");
    let mut models = Vec::new();
    for network in &NETWORKS {
        let pictures = if network.small { small.clone() } else { data.join("imagenette/train") };
        let (float, int8) = prepare(network, &data, &folder, &pictures)?;
        let mut bench = nnq();
        bench.arg("bench").arg(&int8).args(["--peers", "--markdown", "--float"]).arg(&float);
        bench.arg("--calibration").arg(&pictures).args(["--preprocess", network.preprocess]);
        bench.arg("--python").arg(&python);
        if let Some(isa) = isa {
            bench.args(["--isa", isa]);
        }
        page += "\n";
        page += &output(&mut bench)?;
        // Written after each network: an interrupted run leaves what it has.
        write(&root().join(format!("docs/benchmarks{suffix}.md")), &page)?;
        models.push(int8);
    }
    let handed_out = dist::run()?;
    let mut memory = Command::new(&python);
    memory.arg(root().join("tools/memory.py")).arg(handed_out).arg(&folder).args(&models);
    page += MEMORY;
    page += &output(&mut memory)?;
    write(&root().join(format!("docs/benchmarks{suffix}.md")), &page)
}

/// The float model and the one that nnq makes of it.
fn prepare(network: &Network, data: &Path, folder: &Path, pictures: &Path) -> Result<(PathBuf, PathBuf)> {
    let [float, int8] = ["onnx", "int8.onnx"].map(|end| folder.join(format!("{}.{end}", network.name)));
    match network.file {
        Some(file) => {
            let from = data.join("models").join(file);
            fs::copy(&from, &float).map_err(|e| format!("{}: {e}", from.display()))?;
        }
        None => step(nnq().args(["zoo", network.name, "-o"]).arg(&float))?,
    }
    let mut quantize = nnq();
    quantize.arg("quantize").arg(&float).arg("--data").arg(pictures);
    quantize.args(["--preprocess", network.preprocess, "--samples", "64", "-o"]).arg(&int8);
    step(quantize.stdout(Stdio::null()))?;
    Ok((float, int8))
}

/// The command, built if need be.
fn nnq() -> Command {
    let mut command = cargo();
    command.args(["run", "--release", "--quiet", "--package", "nnq-cli", "--"]);
    command
}

/// What a command prints.
fn output(command: &mut Command) -> Result<String> {
    let name = show(command);
    eprintln!("+ {name}");
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{name}: {}", output.status))
    }
}

/// Writes under a temporary name, then renames.
fn write(path: &Path, text: &str) -> Result {
    let part = path.with_extension("md.part");
    let done = fs::write(&part, text).and_then(|()| fs::rename(&part, path));
    done.map_err(|e| format!("{}: {e}", path.display()))
}
