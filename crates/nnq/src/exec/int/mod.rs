//! The integer engine: an integer program on the kernels of `nnq-kernels`.
//!
//! Codes live in one arena of bytes, channels last, placed by liveness; kernels see only unsigned codes (a signed code is
//! held as code + 128, its zero point likewise). Weights are packed once for the instruction set; a plan is compiled once
//! for each shape of the inputs.
mod compile;
mod movement;
mod plan;
mod run;
mod table;

use super::{
    float::{Ctx, NoTap, Tap},
    lower::{Program, StepKind},
};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Tensor},
};
use nnq_kernels::{Isa, conv::Scratch};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// 0: one per core.
    pub threads: usize,
    /// `None`: what `NNQ_ISA` says, else the best of the machine.
    pub isa: Option<Isa>,
}

/// A program ready to run in integers.
pub struct Session {
    program: Arc<Program>,
    isa: Isa,
    threads: usize,
    pool: rayon::ThreadPool,
    packed: Vec<compile::Packed>,
    plans: HashMap<Vec<Vec<usize>>, plan::Plan>,
    arena: Vec<u8>,
    scratch: Vec<Scratch>,
    ctx: Ctx,
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
    /// When `NNQ_ISA` names an instruction set that is unknown or missing here, when the program holds codes of more
    /// than 8 bits, or the system gives no threads.
    pub fn new(program: Arc<Program>, options: &Options) -> Result<Self> {
        let isa = match options.isa {
            Some(isa) => isa,
            None => Isa::from_env().map_err(|e| Error::usage(e.to_string()).at(nnq_kernels::isa::ISA_VARIABLE))?,
        };
        let pool = super::thread_pool(options.threads)?;
        let threads = pool.current_num_threads();
        for value in &program.values {
            if let super::lower::Repr::Code(g) = &value.repr
                && g.qtype.bits > 8
            {
                let name = &program.graph.value(value.source).name;
                return Err(Error::unsupported(format!(
                    "value '{name}' has {} bits; the integer engine runs up to 8",
                    g.qtype.bits
                ))
                .cure("run it with --engine sim"));
            }
        }
        let packed = program
            .steps
            .iter()
            .map(|s| compile::pack(&program, s, isa).at(|| format!("node '{}'", program.step_name(s))))
            .collect::<Result<_>>()?;
        Ok(Self {
            program,
            isa,
            threads,
            pool,
            packed,
            plans: HashMap::new(),
            arena: Vec::new(),
            scratch: (0..threads).map(|_| Scratch::new()).collect(),
            ctx: Ctx::new(),
        })
    }
    /// The program.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }
    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.threads
    }
    /// Bytes of packed weights, and of the arena so far.
    pub fn memory(&self) -> (usize, usize) {
        (self.packed.iter().map(compile::Packed::bytes).sum(), self.arena.len())
    }
    /// Runs once; inputs and outputs in the order of the graph's.
    ///
    /// # Errors
    /// Names the node and the shapes.
    pub fn run(&mut self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.execute(inputs, &mut NoTap, false, None)
    }
    /// Runs once and shows the tap every value as real numbers (codes dequantized).
    ///
    /// # Errors
    /// As [`Session::run`], and what the tap answers.
    pub fn run_tapped(&mut self, inputs: Vec<Tensor>, tap: &mut dyn Tap) -> Result<Vec<Tensor>> {
        self.execute(inputs, tap, true, None)
    }
    /// Runs once and says what each step cost.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_timed(&mut self, inputs: Vec<Tensor>) -> Result<(Vec<Tensor>, Vec<StepTime>)> {
        let mut times = Vec::new();
        let out = self.execute(inputs, &mut NoTap, false, Some(&mut times))?;
        Ok((out, times))
    }

    fn execute(
        &mut self,
        inputs: Vec<Tensor>,
        tap: &mut dyn Tap,
        tapped: bool,
        times: Option<&mut Vec<StepTime>>,
    ) -> Result<Vec<Tensor>> {
        super::check_inputs(&self.program.graph, &inputs)?;
        let key: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
        if !self.plans.contains_key(&key) {
            let plan = plan::compile(&self.program, &self.packed, &key)?;
            self.plans.insert(key.clone(), plan);
        }
        let plan = &self.plans[&key];
        if self.arena.len() < plan.arena {
            self.arena.resize(plan.arena, 0);
        }
        let mut runner = run::Runner {
            program: &self.program,
            plan,
            packed: &self.packed,
            isa: self.isa,
            pool: &self.pool,
            arena: &mut self.arena,
            scratch: &mut self.scratch,
            ctx: &self.ctx,
            real: vec![None; self.program.values.len()],
        };
        runner.run(inputs, tap, tapped, times)
    }
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
fn describe(kind: &StepKind, weight: Option<&[usize]>) -> String {
    match kind {
        StepKind::Quantize => "quantize".into(),
        StepKind::Dequantize => "dequantize".into(),
        StepKind::Product(p) => match &p.form {
            super::lower::Form::Conv(a) => {
                let dims: Vec<String> = weight.unwrap_or(&[]).iter().skip(2).map(ToString::to_string).collect();
                let group = if a.group > 1 { format!(" g{}", a.group) } else { String::new() };
                format!("conv {}{group}", dims.join("x"))
            }
            super::lower::Form::Matrix { .. } => "matmul".into(),
        },
        StepKind::Add { .. } => "add".into(),
        StepKind::Mul { .. } => "mul".into(),
        StepKind::Pointwise(_) | StepKind::Regrid(_) => "table".into(),
        StepKind::MaxPool { .. } => "max pool".into(),
        StepKind::AveragePool { .. } => "average pool".into(),
        StepKind::Concat { .. } => "concat".into(),
        StepKind::Move(_) => "move".into(),
        StepKind::Float(op) => {
            let name = format!("{op:?}");
            format!("float {}", name.split([' ', '(', '{']).next().unwrap_or_default())
        }
    }
}

/// A tensor of stored codes as the float executor's movers take it.
fn bytes_tensor(shape: &[usize], bytes: Vec<u8>) -> Tensor {
    debug_assert_eq!(DType::U8.size(), 1);
    Tensor::of(shape, bytes)
}
