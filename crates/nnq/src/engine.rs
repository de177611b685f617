//! One handle for the three executors.
use crate::{
    error::{At, Error, Result},
    exec::{
        self, float, int,
        lower::{self, Profile},
        sim,
    },
    formats::onnx,
    ir::{Graph, Op, Tensor, ValueId, infer, pass},
    tune::Tuning,
};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path, str::FromStr, sync::Arc};

/// What runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The float executor: activations are not rounded, quantized constants stand for their real numbers.
    Float,
    /// The integer program by the formulas of `docs/numerics.md`, one at a time.
    Sim,
    /// The integer program on the kernels.
    Int,
}

impl Kind {
    /// What suits a graph: integers where it is quantized, floating point where not; the simulator where a product reads codes
    /// of more bits than the integer engine multiplies.
    pub fn for_graph(graph: &Graph) -> Self {
        let many = |v: ValueId| graph.value(v).quant.as_ref().is_some_and(|q| (9..=16).contains(&q.qtype.bits));
        let product = |op: &Op| matches!(op, Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm { .. } | Op::MatMul);
        let wide = graph.nodes().any(|(_, n)| product(&n.op) && n.inputs.iter().flatten().any(|&v| many(v)));
        match (is_quantized(graph), wide) {
            (false, _) => Self::Float,
            (true, false) => Self::Int,
            (true, true) => Self::Sim,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "float",
            Self::Sim => "sim",
            Self::Int => "int",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "float" => Ok(Self::Float),
            "sim" => Ok(Self::Sim),
            "int" => Ok(Self::Int),
            _ => Err(Error::usage(format!("no engine is called '{s}'")).cure("use float, sim or int")),
        }
    }
}

/// How to run a model.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What runs it.
    pub kind: Kind,
    /// The arithmetic of sim and int.
    pub profile: Profile,
    /// 0: one per core.
    pub threads: usize,
}

/// A model ready to run.
pub struct Engine {
    session: Session,
    graph: Arc<Graph>,
    options: Options,
    /// Bytes of the file it was opened from.
    file: Option<u64>,
}

/// The sessions of the three executors.
pub(crate) enum Session {
    Float(float::Session),
    Sim(sim::Session),
    Int(int::Session),
}

/// What ran a model, as reports say it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ran {
    /// What ran the model.
    pub engine: Kind,
    /// Arithmetic of sim and int.
    pub profile: Option<Profile>,
    /// Instruction set of int.
    pub isa: Option<&'static str>,
    /// Threads of the engine.
    pub threads: usize,
    /// The most memory the process has held so far.
    pub peak_memory_bytes: Option<u64>,
}

impl Engine {
    /// What a report says of it.
    pub fn ran(&self) -> Ran {
        Ran {
            engine: self.kind(),
            profile: self.profile(),
            isa: self.isa(),
            threads: self.threads(),
            peak_memory_bytes: peak_memory(),
        }
    }
    /// Prepares a graph.
    ///
    /// # Errors
    /// When the graph cannot be lowered for sim and int (a graph without annotations has nothing to run in integers), or
    /// the executor refuses it.
    pub fn open(graph: Arc<Graph>, options: Options) -> Result<Self> {
        let Options { kind, profile, threads } = options;
        if kind != Kind::Float && !is_quantized(&graph) {
            return Err(Error::usage(format!("the model is not quantized, so engine {kind} has nothing to do"))
                .cure("quantize it first (nnq quantize) or use --engine float"));
        }
        let session = match kind {
            Kind::Float => Session::Float(float::Session::new(graph.clone(), &float::Options { threads })?),
            Kind::Sim => Session::Sim(sim::Session::new(Arc::new(lower::lower(&graph, profile)?), threads)?),
            Kind::Int => {
                let program = Arc::new(lower::lower(&graph, profile)?);
                Session::Int(int::Session::new(program, &int::Options { threads, ..Default::default() })?)
            }
        };
        Ok(Self { session, graph, options, file: None })
    }
    /// Prepares the model in a file: an ONNX file, or one that [`compile`] wrote. Without a kind, on the engine that suits it.
    ///
    /// # Errors
    /// As [`load`] and [`Engine::open`], with the file's name; and when a compiled file is to run otherwise than it was compiled.
    pub fn open_file(path: &Path, kind: Option<Kind>, profile: Profile, threads: usize) -> Result<Self> {
        let bytes = nnq_kernels::mmap::map(path).map_err(|e| Error::io(path, e))?;
        if !int::is_compiled(&bytes) {
            return exec::thread_pool(threads)?.install(|| {
                let graph = load(path)?;
                let kind = kind.unwrap_or_else(|| Kind::for_graph(&graph));
                let engine = Self::open(graph, Options { kind, profile, threads }).at(|| path.display())?;
                Ok(Self { file: Some(bytes.len() as u64), ..engine })
            });
        }
        if kind.is_some_and(|kind| kind != Kind::Int) {
            let cause = "a compiled file runs on the integer engine only";
            return Err(Error::usage(cause).at(path.display()).cure("use the model it was made from"));
        }
        let options = int::Options { threads, ..Default::default() };
        let session = int::Session::from_compiled(&bytes, &options).at(|| path.display())?;
        let (graph, profile) = (session.graph().clone(), session.profile());
        let options = Options { kind: Kind::Int, profile, threads };
        Ok(Self { session: Session::Int(session), graph, options, file: Some(bytes.len() as u64) })
    }
    /// Runs once; inputs and outputs in the order of the graph's.
    ///
    /// # Errors
    /// Names the node and the shapes.
    pub fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        match &mut self.session {
            Session::Float(s) => s.run(inputs),
            Session::Sim(s) => s.run(inputs),
            Session::Int(s) => s.run(inputs),
        }
    }
    /// Chooses by trying how each step of the integer engine runs on `batch` samples, see [`int::Session::tune`]. What is found is kept
    /// for the next time, and what was kept is not tried again.
    ///
    /// # Errors
    /// When another engine runs, sizes are not known, the file of choices cannot be read or written, and what `progress` answers.
    pub fn tune(&mut self, batch: usize, progress: &mut int::Progress) -> Result<()> {
        let Session::Int(session) = &mut self.session else {
            let cause = format!("engine {} has nothing to tune", self.options.kind);
            return Err(Error::usage(cause).cure("leave --tune out, or use --engine int"));
        };
        let mut tuning = Tuning::open()?;
        let known = tuning.choices().len();
        let tuned = session.tune(&input_shapes(&self.graph, batch)?, tuning.choices(), progress);
        // What was found before the user stopped is not lost.
        if tuning.choices().len() > known {
            tuning.save()?;
        }
        tuned
    }
    /// The graph it was opened with.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }
    /// What runs it.
    pub fn kind(&self) -> Kind {
        self.options.kind
    }
    /// The arithmetic, where there is a choice.
    pub fn profile(&self) -> Option<Profile> {
        (self.kind() != Kind::Float).then_some(self.options.profile)
    }
    /// Name of the instruction set, where the engine chooses one.
    pub fn isa(&self) -> Option<&'static str> {
        match &self.session {
            Session::Int(s) => Some(s.isa().name()),
            _ => None,
        }
    }
    /// Threads that compute.
    pub fn threads(&self) -> usize {
        match (&self.session, self.options.threads) {
            (Session::Int(s), _) => s.threads(),
            (_, 0) => std::thread::available_parallelism().map_or(1, usize::from),
            (_, n) => n,
        }
    }
    /// The session behind it.
    pub(crate) fn session(&mut self) -> &mut Session {
        &mut self.session
    }
    /// How many samples to give it at once to run `samples`: as many where the model takes any number. Where the model fixes the
    /// first dimension of its first input, or a compiled file has some batches only, the smallest that holds them, or the largest there is.
    pub fn batch(&self, samples: usize) -> usize {
        let compiled = if let Session::Int(s) = &self.session { s.batches() } else { None };
        let fixed = || {
            let input = self.graph.value(*self.graph.inputs.first()?);
            Some(vec![input.shape.as_ref()?.0.first()?.fixed()?])
        };
        let Some(batches) = compiled.or_else(fixed) else { return samples };
        batches.iter().copied().find(|&b| b >= samples).or(batches.last().copied()).unwrap_or(samples)
    }
    /// Bytes of the file it was opened from, where it was.
    pub fn file_bytes(&self) -> Option<u64> {
        self.file
    }
}

/// Compiles the quantized model in `path` for inputs of as many samples as each of `batches` says and for this machine (or the
/// instruction set that `NNQ_ISA` names) into `out`: packed weights and every step with its place, ready to be mapped into memory.
/// With `tune`, each step is chosen by trying, see [`Engine::tune`]. Answers the bytes written.
///
/// # Errors
/// When the model is not quantized, its sizes are not known, or a step in floating point has no form in such a file.
pub fn compile(
    path: &Path,
    out: &Path,
    batches: &[usize],
    profile: Profile,
    tune: Option<&mut int::Progress>,
) -> Result<u64> {
    let staging = crate::staging::Staging::new(out)?;
    let mut engine =
        Engine::open(load(path)?, Options { kind: Kind::Int, profile, threads: 0 }).at(|| path.display())?;
    if let Some(progress) = tune {
        batches.iter().try_for_each(|&batch| engine.tune(batch, progress)).at(|| path.display())?;
    }
    let Session::Int(session) = &mut engine.session else { return Err(Error::internal("no integer session")) };
    let bytes = batches
        .iter()
        .map(|&batch| input_shapes(&engine.graph, batch))
        .collect::<Result<_>>()
        .and_then(|shapes| session.compile(shapes))
        .at(|| path.display())?;
    let write = std::fs::write(staging.path(), &bytes).map_err(|e| Error::io(&staging.path(), e));
    write.map_err(|e| staging.error(e))?;
    staging.finish()?;
    Ok(bytes.len() as u64)
}

/// The shapes of a graph's inputs with so many samples.
fn input_shapes(graph: &Graph, batch: usize) -> Result<Vec<Vec<usize>>> {
    let open = |e: Error| e.cure("export the model with fixed sizes: compiling and tuning know the batch alone");
    let graph = infer::bind(graph, &crate::bench::Sizes::from(batch).binding(graph).map_err(open)?)?;
    let shapes = graph.inputs.iter().map(|&v| graph.value(v).shape.as_ref().and_then(crate::ir::Shape::as_fixed));
    let shapes: Vec<Vec<usize>> =
        shapes.collect::<Option<_>>().ok_or_else(|| Error::usage("the size of an input is not known"))?;
    match shapes.first().and_then(|s| s.first()) {
        Some(&fixed) if fixed != batch => {
            Err(Error::usage(format!("the model fixes the batch at {fixed}, not {batch}"))
                .cure(format!("compile it with --batch {fixed}")))
        }
        _ => Ok(shapes),
    }
}

/// Reads a model, takes quantization nodes in as annotations and simplifies it: what every flow starts with.
///
/// # Errors
/// What the reader and the passes answer, with the file's name.
pub fn load(path: &Path) -> Result<Arc<Graph>> {
    read(path).and_then(|g| simplify(g).at(|| path.display()))
}

/// Reads a model and takes quantization nodes in as annotations; nothing else changes.
///
/// # Errors
/// What the reader answers, with the file's name.
pub fn read(path: &Path) -> Result<Graph> {
    let absorbed = |mut graph: Graph| {
        // Some forms are told apart by the ranks of their values.
        crate::ir::infer::infer(&mut graph)?;
        onnx::quantized::absorb(&graph)
    };
    let plan = |e: Error| {
        let mut head = [0; 8];
        let read = std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut head));
        if read.is_err() || !int::is_compiled(&head) {
            return e;
        }
        let cause = "this is a compiled plan: it holds packed weights and no model";
        Error::usage(cause)
            .at(path.display())
            .cure("nnq run, bench and eval take it; here, use the model it was made from")
    };
    onnx::read(path).map_err(plan).and_then(|g| absorbed(g).at(|| path.display()))
}

/// [`pass::simplify`] with the float executor.
///
/// # Errors
/// What the passes answer.
pub fn simplify(graph: Graph) -> Result<Arc<Graph>> {
    let ctx = float::Ctx::new();
    Ok(Arc::new(pass::simplify(graph, &|op, x, outputs| float::eval(op, x, outputs, &ctx))?))
}

/// Whether any value of a graph is annotated.
pub fn is_quantized(graph: &Graph) -> bool {
    graph.values().any(|(_, v)| v.quant.is_some() || v.dynamic.is_some())
}

/// The most memory this process has held at once, in bytes; `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for kind in [Kind::Float, Kind::Sim, Kind::Int] {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
        }
        assert!("fast".parse::<Kind>().unwrap_err().to_string().contains("'fast'"));
    }

    #[test]
    fn integers_need_annotations() {
        let options = Options { kind: Kind::Int, profile: Profile::Dyadic, threads: 1 };
        let e = Engine::open(Arc::new(Graph::new("g")), options).err().unwrap();
        assert!(e.to_string().contains("not quantized"), "{e}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_plausible() {
        let peak = peak_memory().unwrap();
        assert!((1 << 20..1 << 40).contains(&peak), "{peak}");
    }
}
