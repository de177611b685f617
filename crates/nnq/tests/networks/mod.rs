//! Trained networks with their data, quantized, for the tests of whole models. Each test program uses a part of this.
#![allow(dead_code)]
use nnq::{
    data::{Dataset, Loader, NpyArray, Options, Preprocess, Settings, save_npy},
    demo, engine,
    exec::{
        float::Tap,
        lower::{Profile, Program, lower},
        sim,
    },
    formats::onnx::{self, Pack},
    ir::{Graph, Tensor, ValueId},
    quant::recipe::Recipe,
    quantize::{self, Format, Samples},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
};

/// Samples to calibrate on. Few: what is tested is equality, not accuracy.
const CALIBRATION: u64 = 4;

/// A float network and data for it.
pub struct Network {
    /// A short name for messages and files.
    pub name: &'static str,
    /// Simplified, float.
    pub graph: Arc<Graph>,
    /// The float file.
    pub file: PathBuf,
    calibration: Samples,
    test: Samples,
}

/// A quantized one.
pub struct Quantized {
    /// As annotated.
    pub graph: Graph,
    /// The files written from it.
    pub files: [(Format, PathBuf); 2],
    _dir: tempfile::TempDir,
}

impl Network {
    /// The network that is always there.
    pub fn demo() -> Self {
        let file = scratch().join("demo.onnx");
        replace(&file, |to| std::fs::write(to, demo::MODEL).unwrap());
        let samples = |stream, n| samples(demo::dataset(stream, n).unwrap(), demo::preprocess());
        Self::new("demo", file, samples(demo::Stream::Train, CALIBRATION), samples(demo::Stream::Test, 16))
    }
    /// A network of the data folder; `None`, and a line that says why, when it or its data are absent.
    pub fn real(name: &'static str) -> Option<Self> {
        let (stem, set, preprocess) = match name {
            "resnet8" => ("resnet8_cifar10", Set::Cifar, Preprocess::raw()),
            "resnet20" => ("resnet20_cifar10", Set::Cifar, Preprocess::cifar10()),
            "resnet32" => ("resnet32_cifar10", Set::Cifar, Preprocess::cifar10()),
            "resnet44" => ("resnet44_cifar10", Set::Cifar, Preprocess::cifar10()),
            "resnet56" => ("resnet56_cifar10", Set::Cifar, Preprocess::cifar10()),
            "mobilenetv1" => ("mobilenetv1_0.75_224_imagenet", Set::Imagenette, Preprocess::inception()),
            "mobilenetv2" => ("mobilenetv2_tv_imagenette10", Set::Imagenette, Preprocess::imagenet()),
            "squeezenet" => ("squeezenet1.1_imagenet", Set::Imagenette, Preprocess::imagenet()),
            "kws" => {
                let p = Preprocess { mean: vec![83.0], std: vec![1.0 / 0.584_702_9], ..Preprocess::raw() };
                ("kws_dscnn", Set::Keywords, p)
            }
            _ => panic!("no network {name}"),
        };
        let file = data(&format!("models/{stem}_fp32.onnx"))?;
        let (calibration, test) = set.open()?;
        Some(Self::new(name, file, samples(calibration, preprocess.clone()), samples(test, preprocess)))
    }
    fn new(name: &'static str, file: PathBuf, calibration: Samples, test: Samples) -> Self {
        Self { name, graph: engine::load(&file).unwrap(), file, calibration, test }
    }
    /// The network's input for `n` test samples, spread over the classes.
    pub fn batch(&self, n: usize) -> Tensor {
        let dataset = self.test.dataset.clone();
        let chosen = (0..n).map(|i| i * (dataset.len() / n)).collect();
        let settings = Settings { batch: n, threads: 1, ..Settings::default() };
        let mut loader = Loader::new(dataset, self.test.preprocess.clone(), chosen, settings).unwrap();
        loader.next().unwrap().unwrap().input
    }
    /// The network's input for the samples it is calibrated on.
    pub fn calibration_batch(&self) -> Tensor {
        let n = CALIBRATION as usize;
        let settings = Settings { batch: n, threads: 1, ..Settings::default() };
        let Samples { dataset, preprocess } = self.calibration.clone();
        Loader::new(dataset, preprocess, (0..n).collect(), settings).unwrap().next().unwrap().unwrap().input
    }
    /// Quantizes by the default recipe and writes both forms.
    pub fn quantize(&self) -> Quantized {
        self.quantize_by(Recipe::default(), Pack::default())
    }
    /// As [`Network::quantize`], with weights of so many bits.
    pub fn quantize_weights(&self, bits: u8, pack: Pack) -> Quantized {
        let mut recipe = Recipe::default();
        recipe.weight.bits = bits;
        self.quantize_by(recipe, pack)
    }
    fn quantize_by(&self, recipe: Recipe, pack: Pack) -> Quantized {
        let recipe = Recipe { samples: CALIBRATION, ..recipe };
        let stats =
            quantize::calibrate(&self.graph, [0; 32], &self.calibration, &recipe, 0, None, &mut |_, _, _| {}).unwrap();
        let graph = quantize::annotate(&self.graph, &stats, &recipe).unwrap().graph;
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let files = [(Format::Qdq, "qdq"), (Format::Qoperator, "qoperator")].map(|(format, form)| {
            let path = dir.path().join(format!("{}.{form}.onnx", self.name));
            quantize::export(&graph, format, pack, &path).unwrap();
            (format, path)
        });
        Quantized { graph, files, _dir: dir }
    }
}

/// The data sets of the data folder.
enum Set {
    Cifar,
    Imagenette,
    Keywords,
}

impl Set {
    /// For calibration, for tests.
    fn open(&self) -> Option<(Dataset, Dataset)> {
        let both = |a: &Path, b: &Path| {
            Some((
                Dataset::open(a, &Options::calibration()).unwrap(),
                Dataset::open(b, &Options::evaluation()).unwrap(),
            ))
        };
        match self {
            Self::Cifar => {
                let dir = CIFAR.as_deref()?;
                both(dir, dir)
            }
            Self::Imagenette => both(&data("imagenette/train")?, &data("imagenette/val")?),
            Self::Keywords => {
                let set = Dataset::open(data("audio/kws01_mfcc_int8.npz")?, &Options::evaluation()).unwrap();
                // The network wants the samples as images of one channel.
                let settings = Settings { batch: set.len(), threads: 1, ..Settings::default() };
                let all = (0..set.len()).collect();
                let all =
                    Loader::new(Arc::new(set), Preprocess::raw(), all, settings).unwrap().next().unwrap().unwrap();
                let shape = [&[all.indices.len(), 1][..], &all.input.shape()[1..]].concat();
                let path = scratch().join("keywords.npy");
                let tensor = all.input.reshaped(shape).unwrap();
                replace(&path, |to| save_npy(to, &tensor).unwrap());
                both(&path, &path)
            }
        }
    }
}

/// CIFAR-10 in its own format, written by the data folder's script.
static CIFAR: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let script = data("unpack.py")?;
    let python = python()?;
    let dir = scratch().join("cifar-10-batches-bin");
    // The script writes this file last.
    if !dir.join("batches.meta.txt").exists() {
        run(Command::new(python).arg(script).arg(scratch()));
    }
    Some(dir)
});

/// A folder for large files that the next run can use again.
pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Writes a file under another name first, since several tests may write it at the same time.
fn replace(path: &Path, write: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let partial = dir.path().join("partial");
    write(&partial);
    std::fs::rename(partial, path).unwrap();
}

/// Something in the data folder, if it is there.
pub fn data(sub: &str) -> Option<PathBuf> {
    let root = std::env::var_os("NNQ_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let path = root.join(sub);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

/// The Python that has onnx, onnxruntime, numpy and Pillow, if one is named.
pub fn python() -> Option<PathBuf> {
    let python = std::env::var_os("NNQ_PYTHON").map(PathBuf::from);
    if python.is_none() {
        println!("skipped: NNQ_PYTHON names no Python with onnx, onnxruntime, numpy and Pillow");
    }
    python
}

/// Whether ONNX Runtime multiplies bytes exactly on this machine; where not, says that `what` is not compared.
pub fn multiplies_exactly(python: &Path, what: &str) -> bool {
    let out = Command::new(python).arg(tool("ort_exact.py")).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(["exact", "saturates"].contains(&said.trim()), "{said}{}", String::from_utf8_lossy(&out.stderr));
    if said.trim() == "saturates" {
        println!("not compared: {what}: ONNX Runtime saturates sums of two products of bytes on this machine");
    }
    said.trim() == "exact"
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    assert!(out.status.success(), "{command:?}\n{}{}", text(&out.stdout), text(&out.stderr));
}

fn samples(dataset: Dataset, preprocess: Preprocess) -> Samples {
    Samples { dataset: Arc::new(dataset), preprocess }
}

/// A program of a graph.
pub fn program(graph: &Graph, profile: Profile) -> Arc<Program> {
    Arc::new(lower(graph, profile).unwrap())
}

/// What the simulator gives for the graph's only output.
pub fn simulate(program: &Arc<Program>, x: &Tensor) -> Tensor {
    sim::Session::new(program.clone(), 0).unwrap().run(vec![x.clone()]).unwrap().remove(0)
}

/// Remembers every value.
#[derive(Default)]
pub struct Record(pub HashMap<ValueId, Tensor>);

impl Tap for Record {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> nnq::Result<()> {
        self.0.insert(value, tensor.clone());
        Ok(())
    }
}

impl Record {
    /// By name.
    pub fn named(self, graph: &Graph) -> HashMap<String, Tensor> {
        self.0.into_iter().map(|(id, t)| (graph.value(id).name.clone(), t)).collect()
    }
}

/// The elements as bits, so that equal means equal.
pub fn bits(t: &Tensor) -> Vec<u32> {
    t.as_slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// Samples `range` of a batch.
pub fn part(t: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    let size = t.len() / t.shape()[0];
    let mut shape = t.shape().to_vec();
    shape[0] = range.len();
    Tensor::of(&shape, t.as_slice::<f32>().unwrap()[range.start * size..range.end * size].to_vec())
}

/// Reads a `.npy` that another program wrote.
pub fn load_npy(path: &Path) -> Tensor {
    NpyArray::open(path).and_then(|a| a.to_tensor()).unwrap()
}

/// A file as it is, with its quantization nodes.
pub fn explicit(path: &Path) -> Graph {
    let mut graph = onnx::read(path).unwrap();
    nnq::ir::infer::infer(&mut graph).unwrap();
    graph
}

/// A script of the folder `tools`.
pub fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools").join(name)
}

/// What ONNX Runtime makes of a model.
pub struct Job<'a> {
    /// The file.
    pub model: &'a Path,
    /// With its default optimisations, giving the outputs only; without any, giving every value.
    pub optimize: bool,
}

/// Values by name, one map per job. Each model passes ONNX's checker first.
pub fn ort_values(python: &Path, jobs: &[Job], x: &Tensor) -> Vec<HashMap<String, Tensor>> {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let input = dir.path().join("input.npy");
    save_npy(&input, x).unwrap();
    let mut command = Command::new(python);
    command.arg(tool("ort_values.py"));
    for (i, job) in jobs.iter().enumerate() {
        if i > 0 {
            command.arg("+");
        }
        command.arg("--check").args(job.optimize.then_some("--optimize"));
        command.arg(job.model).arg(&input).arg(dir.path().join(i.to_string()));
    }
    run(&mut command);
    (0..jobs.len())
        .map(|i| {
            let dir = dir.path().join(i.to_string());
            let names = std::fs::read_to_string(dir.join("names.txt")).unwrap();
            names.lines().enumerate().map(|(k, n)| (n.to_owned(), load_npy(&dir.join(format!("{k:04}.npy"))))).collect()
        })
        .collect()
}
