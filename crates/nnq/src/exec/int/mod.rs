//! The integer engine: an integer program on the kernels of `nnq-kernels`.
//!
//! Codes live in one arena of bytes, channels last, placed by liveness; kernels see only unsigned codes (a signed code is
//! held as code + 128, its zero point likewise). Weights are packed once for the instruction set; a plan is compiled once
//! for each shape of the inputs: a tape of kernels with every place and size fixed, run by a team of threads.
mod between;
mod coded;
mod compile;
mod file;
mod geometry;
mod ids;
mod layout;
mod live;
mod lookup;
mod parts;
mod plan;
mod recurrent;
mod rows;
mod run;
mod space;
mod steps;
mod table;
mod tune;
mod values;

use super::{
    float::{Ctx, Tap},
    lower::{Profile, Program, Step, StepKind},
};
use crate::{
    error::{At, Error, ErrorKind, Result},
    ir::{Graph, Tensor},
};
use nnq_kernels::{Isa, tape::Workspace, team::Team};
use rayon::prelude::*;
use std::{collections::HashMap, sync::Arc, time::Duration};

pub use file::is_compiled;
pub use tune::Choices;

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// 0: one per core.
    pub threads: usize,
    /// `None`: what `NNQ_ISA` says, else the best of the machine.
    pub isa: Option<Isa>,
    /// Computes every step on its own. Results are the same; for measuring what computing steps together brings.
    pub separate: bool,
}

/// A program ready to run in integers.
pub struct Session {
    source: Source,
    isa: Isa,
    separate: bool,
    team: Team,
    pool: FloatPool,
    /// For each set of input shapes, with steps computed together or not.
    plans: HashMap<Key, plan::Plan>,
    workspace: Workspace,
    ctx: Ctx,
}

/// Where plans come from.
enum Source {
    /// They are made as they are needed.
    Program { program: Arc<Program>, packed: Vec<compile::Packed> },
    /// A file holds those that there are, and says what the model is.
    File { graph: Arc<Graph>, profile: Profile, weights: usize },
}

/// The threads of steps in floating point, made when the first one comes.
struct FloatPool {
    threads: usize,
    pool: Option<rayon::ThreadPool>,
}

impl FloatPool {
    fn run<T: Send>(&mut self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let pool = match self.pool.take() {
            Some(pool) => pool,
            None => super::thread_pool(self.threads)?,
        };
        Ok(self.pool.insert(pool).install(f))
    }
}

/// Plans that are kept of a program that is run on inputs of many shapes.
const PLANS: usize = 64;

/// The shapes of the inputs that a plan is for, and whether steps are computed together.
type Key = (Vec<Vec<usize>>, bool);

/// Hears how many steps are done, and of how many; its error ends the work.
pub type Progress<'a> = dyn FnMut(usize, usize) -> Result<()> + 'a;

/// Bytes of memory that a session needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Packed weights.
    pub weights: usize,
    /// The arena, in which every value of codes has its place.
    pub arena: usize,
    /// The largest sum of values (codes and real numbers, inputs and outputs among them) that are needed at the same time.
    pub live: usize,
}

/// What one step cost.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// Name of its first node.
    pub name: String,
    /// What it computes: `conv 3x3`, `add`, ...
    pub kind: String,
    /// Multiply-accumulates in integers.
    pub macs: u64,
    /// Bytes of inputs, outputs and packed weights.
    pub bytes: u64,
    /// Wall-clock time.
    pub time: Duration,
}

impl Session {
    /// Packs the weights.
    ///
    /// # Errors
    /// When `NNQ_ISA` names an instruction set that is unknown or missing here, or the system gives no threads.
    pub fn new(program: Arc<Program>, options: &Options) -> Result<Self> {
        let isa = chosen(options)?;
        // Pages of a model's file that were read before would lie beside those that are packed. They are let go again behind each step, and
        // at the end, since whoever reads a page brings back its neighbours.
        let release = || {
            for step in &program.steps {
                if let StepKind::Product(p) = &step.kind {
                    p.weight.release();
                }
            }
        };
        release();
        // By each thread one step at a time: the large ones are together.
        let packed = program
            .steps
            .par_iter()
            .with_max_len(1)
            .map(|s| compile::pack(&program, s, isa).at(|| format!("node '{}'", program.step_name(s))))
            .collect::<Result<_>>()?;
        release();
        // Reading, folding and lowering are over.
        nnq_kernels::mmap::trim();
        nnq_kernels::mmap::forget_code();
        Ok(Self::with(Source::Program { program, packed }, isa, options, team(options)?, HashMap::new()))
    }

    /// Takes a plan from the bytes of a compiled file, see [`Session::compile`]. Weights stay in `bytes`.
    ///
    /// # Errors
    /// When the bytes are no such file, damaged, of another version, or made for an instruction set other than the one
    /// that `NNQ_ISA` asks for or that this machine lacks.
    pub fn from_compiled(bytes: &bytes::Bytes, options: &Options) -> Result<Self> {
        let team = team(options)?;
        let loaded = file::read(bytes, options.isa, team.members())?;
        let source = Source::File { graph: Arc::new(loaded.graph), profile: loaded.profile, weights: loaded.weights };
        let plans = loaded.plans.into_iter().map(|(shapes, plan)| ((shapes, true), plan)).collect();
        Ok(Self::with(source, loaded.isa, options, team, plans))
    }

    fn with(source: Source, isa: Isa, options: &Options, team: Team, plans: HashMap<Key, plan::Plan>) -> Self {
        Self {
            source,
            isa,
            separate: options.separate,
            pool: FloatPool { threads: team.members(), pool: None },
            team,
            plans,
            workspace: Workspace::new(),
            ctx: Ctx::new(),
        }
    }

    /// The plans for inputs of each of these shapes as the bytes of a file: packed weights for this session's instruction set, once, and
    /// for each plan every step with its places.
    ///
    /// # Errors
    /// When the shapes do not fit, or a step in floating point has no form in such a file; names it.
    pub fn compile(&mut self, shapes: Vec<Vec<Vec<usize>>>) -> Result<Vec<u8>> {
        let keys: Vec<Key> = shapes.into_iter().map(|shapes| (shapes, true)).collect();
        keys.iter().try_for_each(|key| self.prepare(key))?;
        let Source::Program { program, packed } = &self.source else {
            return Err(Error::usage("this is a compiled file already").cure("compile the model it was made from"));
        };
        let plans: Vec<_> = keys.iter().filter_map(|key| Some((&key.0[..], self.plans.get(key)?))).collect();
        file::write(program, &plans, packed, self.isa)
    }

    /// Makes the plan, where there is a program to make it of and none yet.
    fn prepare(&mut self, key: &Key) -> Result<()> {
        if let (Source::Program { program, packed }, false) = (&self.source, self.plans.contains_key(key)) {
            let plan = plan::compile(program, packed, (self.isa, self.team.members()), &key.0, key.1)?;
            self.plans.insert(key.clone(), plan);
        }
        Ok(())
    }

    /// Times on this machine what may be chosen for each step of the plan for inputs of these shapes, and chooses what is fastest: as
    /// `choices` says where it knows a step, by trying otherwise, which is added to it. Results are the same bits. `progress` hears how
    /// many steps are done, and of how many; its error ends the trials, and what was found until then stays.
    ///
    /// # Errors
    /// When the shapes do not fit, and what `progress` answers.
    pub fn tune(&mut self, shapes: &[Vec<usize>], choices: &mut Choices, progress: &mut Progress) -> Result<()> {
        let key = (shapes.to_vec(), true);
        self.prepare(&key)?;
        let Some(plan) = self.plans.get_mut(&key) else { return Err(self.no_plan(shapes)) };
        tune::tune(plan, &mut self.team, choices, progress)
    }

    /// The model: what it was lowered from, or the inputs and outputs that a compiled file names.
    pub fn graph(&self) -> &Arc<Graph> {
        match &self.source {
            Source::Program { program, .. } => &program.graph,
            Source::File { graph, .. } => graph,
        }
    }
    /// The arithmetic.
    pub fn profile(&self) -> Profile {
        match &self.source {
            Source::Program { program, .. } => program.profile,
            Source::File { profile, .. } => *profile,
        }
    }
    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.team.members()
    }
    /// The memory that it holds for inputs of these shapes; activations only where there is a plan for them by now.
    pub fn memory(&self, shapes: &[Vec<usize>]) -> Memory {
        let weights = match &self.source {
            Source::Program { packed, .. } => packed.iter().map(compile::Packed::bytes).sum(),
            Source::File { weights, .. } => *weights,
        };
        let plan = [true, false].iter().find_map(|&fuse| self.plans.get(&(shapes.to_vec(), fuse)));
        Memory { weights, arena: plan.map_or(0, |p| p.arenas(self.threads())), live: plan.map_or(0, |p| p.live) }
    }
    /// How many samples it can take at once: `None` where that is any number, or what the graph says.
    pub fn batches(&self) -> Option<Vec<usize>> {
        let Source::File { .. } = &self.source else { return None };
        let mut all: Vec<usize> =
            self.plans.keys().filter_map(|(shapes, _)| shapes.first()?.first().copied()).collect();
        all.sort_unstable();
        Some(all)
    }
    /// Runs once; inputs and outputs in the order of the graph's.
    ///
    /// # Errors
    /// Names the node and the shapes.
    pub fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.execute(inputs, None, None)
    }
    /// Runs once and shows the tap every value as real numbers (codes dequantized).
    ///
    /// # Errors
    /// As [`Session::run`], and what the tap answers.
    pub fn run_tapped(&mut self, inputs: Vec<Tensor>, tap: &mut dyn Tap) -> Result<Vec<Tensor>> {
        self.execute(inputs, Some(tap), None)
    }
    /// Runs once and says what each step cost.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_timed(&mut self, inputs: Vec<Tensor>) -> Result<(Vec<Tensor>, Vec<StepTime>)> {
        let mut times = Vec::new();
        let out = self.execute(inputs, None, Some(&mut times))?;
        Ok((out, times))
    }

    /// The error where there is no plan for inputs of these shapes.
    fn no_plan(&self, shapes: &[Vec<usize>]) -> Error {
        let cause = format!("no plan for inputs of the shapes {shapes:?}");
        self.other_batch(shapes).unwrap_or_else(|| Error::shape(cause).cure("compile the model again for these shapes"))
    }

    /// The error where inputs fit a plan of a compiled file but for the number of samples.
    fn other_batch(&self, inputs: &[Vec<usize>]) -> Option<Error> {
        let batches = self.batches()?;
        let given = inputs.first()?.first()?;
        let sample = |shapes: &[Vec<usize>]| {
            shapes.len() == inputs.len() && shapes.iter().zip(inputs).all(|(s, x)| s.get(1..) == x.get(1..))
        };
        if batches.contains(given) || !self.plans.keys().any(|(shapes, _)| sample(shapes)) {
            return None;
        }
        let list: Vec<String> = batches.iter().map(ToString::to_string).collect();
        let cause = format!("compiled for batches of {}; the input holds {given} samples", list.join(", "));
        Some(Error::shape(cause).cure(format!("compile the model again with --batch {given}")))
    }

    fn execute(
        &mut self,
        inputs: Vec<Tensor>,
        tap: Option<&mut dyn Tap>,
        times: Option<&mut Vec<StepTime>>,
    ) -> Result<Vec<Tensor>> {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
        super::check_inputs(self.graph(), &inputs).map_err(|e| self.other_batch(&shapes).unwrap_or(e))?;
        // A tap sees every value, so that each must lie in memory.
        let mut key = (shapes, tap.is_none() && !self.separate);
        // Texts have many lengths: what has not been asked for lately is planned again.
        if matches!(self.source, Source::Program { .. }) && self.plans.len() >= PLANS && !self.plans.contains_key(&key)
        {
            self.plans.clear();
        }
        self.prepare(&key)?;
        let shown = match (&self.source, tap) {
            (Source::Program { program, .. }, tap) => tap.map(|tap| run::Shown { program, tap }),
            (Source::File { .. }, Some(_)) => {
                return Err(
                    Error::usage("a compiled file does not show its values").cure("use the model it was made from")
                );
            }
            (Source::File { .. }, None) => {
                key.1 = true;
                None
            }
        };
        let plan = self.plans.get(&key).ok_or_else(|| self.no_plan(&key.0))?;
        self.ctx.begin();
        let mut runner = run::Runner {
            plan,
            workspace: &mut self.workspace,
            team: &mut self.team,
            pool: Some(&mut self.pool),
            ctx: &self.ctx,
            real: vec![None; plan.slots],
        };
        runner.run(inputs, shown, times)
    }
}

fn chosen(options: &Options) -> Result<Isa> {
    match options.isa {
        Some(isa) => Ok(isa),
        None => Isa::from_env().map_err(|e| Error::usage(e.to_string()).at(nnq_kernels::isa::ISA_VARIABLE)),
    }
}

fn team(options: &Options) -> Result<Team> {
    Team::new(options.threads).map_err(|e| Error::new(ErrorKind::Io, format!("no threads: {e}")))
}

/// How far stored (unsigned) codes are above the codes of a grid.
fn offset(signed: bool) -> i32 {
    if signed { 128 } else { 0 }
}

/// A grid as the kernels see it.
#[derive(Clone, Copy, Debug)]
struct Stored {
    scale: f32,
    zero: u8,
    lo: u8,
    hi: u8,
}

impl Stored {
    fn of(g: super::lower::Grid, clamp: super::lower::Clamp) -> Self {
        let offset = offset(g.qtype.signed);
        let byte = |q: i32| (q + offset).clamp(0, 255) as u8;
        Self { scale: g.scale, zero: byte(g.zero), lo: byte(clamp.lo), hi: byte(clamp.hi) }
    }
    fn full(g: super::lower::Grid) -> Self {
        Self::of(g, g.full())
    }
}

/// A short description of a step for tables.
fn describe(step: &Step) -> String {
    match &step.kind {
        StepKind::Quantize => "quantize".into(),
        StepKind::Dequantize => "dequantize".into(),
        StepKind::Product(p) => {
            let product = match &p.form {
                super::lower::Form::Conv(a) => {
                    let dims: Vec<String> = p.weight.shape().iter().skip(2).map(ToString::to_string).collect();
                    let group = if a.group > 1 { format!(" g{}", a.group) } else { String::new() };
                    format!("conv {}{group}", dims.join("x"))
                }
                super::lower::Form::Matrix { .. } => "matmul".into(),
            };
            if step.is_dynamic() { format!("dynamic {product}") } else { product }
        }
        StepKind::Add { .. } => "add".into(),
        StepKind::Mul { .. } => "mul".into(),
        StepKind::Pointwise(_) | StepKind::Regrid(_) => "table".into(),
        StepKind::MaxPool { .. } => "max pool".into(),
        StepKind::AveragePool { .. } => "average pool".into(),
        StepKind::Resize { .. } => "resize".into(),
        StepKind::Concat { .. } => "concat".into(),
        StepKind::Move(_) => "move".into(),
        StepKind::Rows(_) => "product by row".into(),
        StepKind::Coded(_) => "matmul, weights only".into(),
        StepKind::Lookup(_) => "lookup".into(),
        StepKind::Pair(_) => "matmul of two".into(),
        StepKind::Ids => "mask".into(),
        StepKind::Live(_) => "dynamic matmul of two".into(),
        StepKind::Softmax(_) => "softmax".into(),
        StepKind::Norm(_) => "normalisation".into(),
        StepKind::Rescale(_) => "scaling".into(),
        StepKind::Recurrent(r) if r.by_row => format!("{} by row", r.attrs.cell.name()),
        StepKind::Recurrent(r) => format!("dynamic {}", r.attrs.cell.name()),
        StepKind::Float(op) => {
            let name = format!("{op:?}");
            format!("float {}", name.split([' ', '(', '{']).next().unwrap_or_default())
        }
    }
}
