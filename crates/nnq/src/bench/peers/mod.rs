//! The same model on other engines, side by side: one process per engine, turns interleaved within one run.
//!
//! Every engine lives in a process of its own, loads the model, and waits. In each round every engine takes one turn of a few
//! runs, forwards in even rounds and backwards in odd ones (A B C C B A), with a pause before each turn in which the threads of
//! the one before go to sleep. So all engines see the same machine, and a ratio is the median over the rounds of the ratio of
//! two turns of one round.
mod cell;
mod process;

pub use crate::machine::Machine;
pub use cell::{Cell, Figures, Row};

use super::Sizes;
use crate::{
    data::{Choice, Loader, Settings, save_npy, subset},
    engine::{self, Kind},
    error::{At, Error, ErrorKind, Result},
    ir::DType,
    quantize::{Progress, Samples},
};
use cell::{Contestant, Start};
use process::Process;
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The Python side of the other engines.
const SCRIPT: &str = include_str!("../../../../../tools/peers.py");
/// Samples that the other engines' own tools calibrate on.
const CALIBRATION: usize = 16;

/// What to compare.
pub struct Job {
    /// The model, as it is, for every engine.
    pub model: PathBuf,
    /// The float model that it was made from: compared too, and quantized by the other engines' own tools.
    pub float: Option<PathBuf>,
    /// What these tools calibrate on; without it, on random numbers.
    pub calibration: Option<Samples>,
    /// Samples per run.
    pub batches: Vec<usize>,
    /// Other sizes that the model leaves open.
    pub sizes: Vec<(String, usize)>,
    /// Threads per engine.
    pub threads: Vec<usize>,
    /// The newest instruction set that engines may use, by the name that `NNQ_ISA` takes.
    pub isa: Option<String>,
    /// Python with the other engines.
    pub python: Option<PathBuf>,
    /// The `nnq` command, whose `bench --worker` is the process of nnq.
    pub nnq: PathBuf,
    /// Measured time per engine and cell, about.
    pub seconds: f64,
    /// Set from outside to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// Who runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum Engine {
    #[serde(rename = "nnq")]
    Nnq,
    #[serde(rename = "ONNX Runtime")]
    OnnxRuntime,
    #[serde(rename = "OpenVINO")]
    OpenVino,
}

impl Engine {
    const PEERS: [Self; 2] = [Self::OnnxRuntime, Self::OpenVino];

    /// What `tools/peers.py` calls it.
    fn key(self) -> &'static str {
        match self {
            Self::Nnq => "nnq",
            Self::OnnxRuntime => "onnxruntime",
            Self::OpenVino => "openvino",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nnq => "nnq",
            Self::OnnxRuntime => "ONNX Runtime",
            Self::OpenVino => "OpenVINO",
        })
    }
}

/// What of the network an engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The quantized file, as it is.
    Int8,
    /// The float model, quantized by the engine's own tool.
    OwnInt8,
    /// The float model.
    Float,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Int8 => "int8, the same file",
            Self::OwnInt8 => "int8 by its own tool",
            Self::Float => "float",
        })
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The model's file.
    pub model: String,
    /// The float model's file.
    pub float: Option<String>,
    /// Where.
    pub machine: Machine,
    /// The newest instruction set that was allowed, if it was limited.
    pub isa: Option<String>,
    /// What a reader has to know about this run.
    pub notes: Vec<String>,
    /// One per batch and number of threads.
    pub cells: Vec<Cell>,
}

/// Runs the comparison. An engine that is missing or fails has the reason in its rows.
///
/// # Errors
/// When the model or the calibration data cannot be read, the instruction set is unknown, or `cancel` was set.
pub fn compare(job: &Job, progress: &mut Progress) -> Result<Comparison> {
    let limit = job.isa.as_deref().map(Limit::new).transpose()?;
    let graph = engine::load(&job.model)?;
    let quantized = Kind::for_graph(&graph) == Kind::Int;
    let folder = tempfile::tempdir().map_err(|e| Error::io(&std::env::temp_dir(), e))?;
    let mut stop = || job.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed));
    let mut models = vec![(job.model.clone(), if quantized { Form::Int8 } else { Form::Float })];
    models.extend(job.float.clone().map(|f| (f, Form::Float)));
    let mut notes: Vec<String> = limit.iter().map(|l| l.note.clone()).collect();
    let mut entries = Vec::new();
    for (path, form) in &models {
        entries.push((Engine::Nnq, *form, Ok(path.clone())));
        entries.extend(Engine::PEERS.map(|e| (e, *form, Ok(path.clone()))));
    }
    if let Some(float) = &job.float {
        let samples = calibration(job, float, &folder.path().join("calibration.npy"))?;
        for (i, peer) in Engine::PEERS.into_iter().enumerate() {
            progress("quantizing by their tools", i as u64, Engine::PEERS.len() as u64);
            let out = folder.path().join(if peer == Engine::OpenVino { "own.xml" } else { "own.onnx" });
            let made = quantize(job, peer, float, &samples, &out, &mut stop);
            notes.extend(made.as_ref().ok().map(|tool| format!("{peer}'s own tool: {tool}")));
            entries.push((peer, Form::OwnInt8, made.map(|_| out)));
        }
    }
    let total = (job.batches.len() * job.threads.len()) as u64;
    let mut cells = Vec::new();
    for (i, &batch) in job.batches.iter().enumerate() {
        let shapes = shapes(&graph, &Sizes { batch, named: job.sizes.clone() })?;
        for (k, &threads) in job.threads.iter().enumerate() {
            progress("comparing", (i * job.threads.len() + k) as u64, total);
            let contestant = |(engine, form, path): &(Engine, Form, Result<PathBuf, String>)| Contestant {
                engine: *engine,
                form: *form,
                start: path.clone().and_then(|p| command(job, &limit, (*engine, *form), &p, (batch, &shapes), threads)),
            };
            let contestants = entries.iter().map(contestant).collect();
            cells.push(Cell { batch, threads, rows: cell::measure(contestants, job.seconds, &mut stop) });
            if stop() {
                return Err(Error::new(ErrorKind::Interrupted, "the comparison was stopped"));
            }
        }
    }
    let name = |path: &Path| path.display().to_string();
    Ok(Comparison {
        model: name(&job.model),
        float: job.float.as_deref().map(name),
        machine: Machine::here(),
        isa: job.isa.clone(),
        notes,
        cells,
    })
}

/// A limit of the instruction sets.
struct Limit {
    name: String,
    /// Value of `ONEDNN_MAX_CPU_ISA`, which OpenVINO obeys.
    onednn: &'static str,
    note: String,
}

impl Limit {
    fn new(name: &str) -> Result<Self> {
        let isa: nnq_kernels::Isa =
            name.parse().map_err(|e: nnq_kernels::isa::IsaError| Error::usage(e.to_string()))?;
        let onednn = match isa.name() {
            "scalar" => "SSE41",
            "avx2" => "AVX2",
            "avx-vnni" => "AVX2_VNNI",
            "avx512-vnni" => "AVX512_CORE_VNNI",
            "amx-int8" => "AVX512_CORE_AMX",
            other => return Err(Error::usage(format!("OpenVINO cannot be limited to {other}"))),
        };
        let note = format!(
            "nnq (NNQ_ISA={name}) and OpenVINO (ONEDNN_MAX_CPU_ISA={onednn}) were limited to {name}; ONNX Runtime has no such \
             switch and used all that the machine has"
        );
        Ok(Self { name: name.into(), onednn, note })
    }
}

/// The shapes of all inputs, as the other engines' script takes them.
fn shapes(graph: &crate::ir::Graph, sizes: &Sizes) -> Result<String> {
    let shapes: Vec<Vec<usize>> = super::made_up(graph, sizes)?.1.iter().map(|x| x.shape().to_vec()).collect();
    serde_json::to_string(&shapes).map_err(|e| Error::internal(e.to_string()))
}

/// The process of an engine for a model.
fn command(
    job: &Job,
    limit: &Option<Limit>,
    (engine, form): (Engine, Form),
    model: &Path,
    (batch, shapes): (usize, &str),
    threads: usize,
) -> Start {
    let (batch, threads) = (batch.to_string(), threads.to_string());
    let mut command = match engine {
        Engine::Nnq => {
            let mut c = Command::new(&job.nnq);
            c.arg("bench").arg(model).args(["--worker", "--batch", &batch, "--threads", &threads]);
            c.args(job.sizes.iter().map(|(name, size)| format!("--size={name}={size}")));
            c
        }
        _ => {
            let precision = if form == Form::Float { "float" } else { "any" };
            let mut c = python(job)?;
            c.args(["serve", engine.key()]).arg(model).args([shapes, &threads, precision]);
            c
        }
    };
    if let Some(limit) = limit {
        command.env("NNQ_ISA", &limit.name).env("ONEDNN_MAX_CPU_ISA", limit.onednn);
    }
    Ok(command)
}

/// The interpreter with the script of the other engines.
fn python(job: &Job) -> Start {
    let python = job.python.as_ref().ok_or(
        "no Python with it is named (--python or NNQ_PYTHON; `cargo xtask peers` makes one, or pip install onnxruntime openvino nncf onnx)",
    )?;
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]);
    Ok(command)
}

/// Samples of the float model's input in a file, or the shapes of inputs that are to be made up where it has several or takes integers.
fn calibration(job: &Job, float: &Path, file: &Path) -> Result<std::ffi::OsString> {
    let samples = match &job.calibration {
        Some(samples) => {
            let chosen = subset(samples.dataset.len(), CALIBRATION, 0, Choice::Plain, |_| None);
            let settings = Settings { batch: CALIBRATION, threads: 0, ..Settings::default() };
            let mut loader = Loader::new(samples.dataset.clone(), samples.preprocess.clone(), chosen, settings)?;
            let batch = loader.next();
            batch.unwrap_or_else(|| Err(Error::usage("there are no samples to calibrate on")))?.input
        }
        None => {
            let graph = engine::load(float)?;
            let sizes = |batch| Sizes { batch, named: job.sizes.clone() };
            let real = graph.inputs.iter().all(|&v| graph.value(v).dtype == Some(DType::F32));
            if graph.inputs.len() != 1 || !real {
                return shapes(&graph, &sizes(1)).map(Into::into).at(|| float.display());
            }
            super::made_up(&graph, &sizes(CALIBRATION)).at(|| float.display())?.1.swap_remove(0)
        }
    };
    save_npy(file, &samples)?;
    Ok(file.into())
}

/// Lets a peer quantize the float model by its own tool: the tool's name.
fn quantize(
    job: &Job,
    peer: Engine,
    float: &Path,
    samples: &std::ffi::OsStr,
    out: &Path,
    stop: &mut dyn FnMut() -> bool,
) -> Result<String, String> {
    let mut command = python(job)?;
    command.args(["quantize", peer.key()]).arg(float).arg(samples).arg(out);
    let answer = Process::start(&mut command)?.answer(stop)?;
    answer.version.ok_or_else(|| "its own tool answered nothing".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_known_by_the_name_of_the_instruction_set() {
        for isa in nnq_kernels::Isa::all() {
            let limit = Limit::new(isa.name()).unwrap();
            assert!(limit.note.contains(limit.onednn) && limit.note.contains("ONNX Runtime"), "{}", limit.note);
        }
        assert_eq!(Limit::new("avx-vnni").unwrap().onednn, "AVX2_VNNI");
        assert_eq!(Limit::new("mmx").err().unwrap().kind(), ErrorKind::Usage);
    }
}
