//! Compiled plans as a file: one or several batch sizes over the same packed weights.
//!
//! ```text
//! "nnq plan"  version: u32  length of the head: u32  SHA-256 of the head     48 bytes
//! head        everything but weights (postcard)
//! weights     each from a multiple of 64 bytes on, so that they are used where they lie when the file is mapped
//! ```
//! Weights that 4 or 2 bits hold lie in fields of so many bits, as `nnq_kernels::conv` reads them. Integers are little-endian. The head is protected by its hash, and every place in it is checked again when the tapes are made;
//! weights are only as many bytes as the head says: what they are decides no address.
use super::{
    chosen,
    compile::Packed,
    plan::{Facts, FloatOp, FloatStep, Operand, Part, Plan, RealUse, Segment, Target, members},
};
use crate::{
    error::{At, Error, Result},
    exec::lower::{Profile, Program},
    ir::{DType, Dim, Graph, Op, Shape, op::Unary},
};
use bytes::Bytes;
use nnq_kernels::{
    Isa,
    tape::{Choice, Kernel, Stored, Tape, Weights},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ops::Range;

const MAGIC: &[u8; 8] = b"nnq plan";
const VERSION: u32 = 4;
/// Bytes before the head.
const PREFIX: usize = 48;
/// Weights begin at multiples of this.
const ALIGN: usize = 64;

/// Everything but weights.
#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    isa: String,
    profile: Profile,
    slots: usize,
    plans: Vec<StoredPlan>,
    weights: Vec<Blob>,
}

/// A plan for inputs of certain shapes.
#[derive(Serialize, Deserialize)]
struct StoredPlan {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    split: usize,
    arena: usize,
    live: usize,
    parts: Vec<StoredPart>,
    facts: Vec<Facts>,
}

/// An input or output.
#[derive(Serialize, Deserialize)]
struct Port {
    name: String,
    slot: usize,
    shape: Vec<usize>,
}

/// Weights: what they are, and where, counted from the first ones.
#[derive(Serialize, Deserialize)]
struct Blob {
    stored: Stored,
    at: usize,
    len: usize,
}

#[derive(Serialize, Deserialize)]
enum StoredPart {
    Tape {
        kernels: Vec<Kernel>,
        /// What was chosen for each kernel.
        choices: Vec<Choice>,
        reals: Vec<StoredReal>,
        origin: Vec<usize>,
        steps: Range<usize>,
    },
    Float(Vec<StoredFloat>),
}

#[derive(Serialize, Deserialize)]
struct StoredReal {
    slot: usize,
    shape: Vec<usize>,
    written: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredFloat {
    step: usize,
    op: StoredOp,
    input: usize,
    output: usize,
}

/// The steps in floating point that a file can hold.
#[derive(Serialize, Deserialize)]
enum StoredOp {
    View(Vec<usize>),
    Relu,
    Sigmoid,
    Tanh,
    GlobalAveragePool,
    Softmax { axis: i64, flat: bool },
}

impl StoredOp {
    fn of(op: &FloatOp) -> Option<Self> {
        Some(match op {
            FloatOp::View(shape) => Self::View(shape.clone()),
            FloatOp::Op(Op::Unary(Unary::Relu)) => Self::Relu,
            FloatOp::Op(Op::Unary(Unary::Sigmoid)) => Self::Sigmoid,
            FloatOp::Op(Op::Unary(Unary::Tanh)) => Self::Tanh,
            FloatOp::Op(Op::GlobalAveragePool) => Self::GlobalAveragePool,
            FloatOp::Op(Op::Softmax { axis, flat }) => Self::Softmax { axis: *axis, flat: *flat },
            FloatOp::Op(_) | FloatOp::Between(_) => return None,
        })
    }
    fn op(self) -> FloatOp {
        match self {
            Self::View(shape) => FloatOp::View(shape),
            Self::Relu => FloatOp::Op(Op::Unary(Unary::Relu)),
            Self::Sigmoid => FloatOp::Op(Op::Unary(Unary::Sigmoid)),
            Self::Tanh => FloatOp::Op(Op::Unary(Unary::Tanh)),
            Self::GlobalAveragePool => FloatOp::Op(Op::GlobalAveragePool),
            Self::Softmax { axis, flat } => FloatOp::Op(Op::Softmax { axis, flat }),
        }
    }
}

/// A plan, and the shapes of the inputs that it was made for.
pub(super) type Shaped = (Vec<Vec<usize>>, Plan);

/// The bytes of a file that holds these plans.
///
/// # Errors
/// When a step in floating point has no form in a file.
pub(super) fn write(
    program: &Program,
    plans: &[(&[Vec<usize>], &Plan)],
    packed: &[Packed],
    isa: Isa,
) -> Result<Vec<u8>> {
    let mut weights = Vec::new();
    let mut blobs = Vec::new();
    // Every plan numbers weights in the order of the products that it computes, which is that of the program.
    for packed in packed {
        if let Packed::Product(p) = packed {
            let (stored, bytes) = p.weights.store();
            let at = blobs.len().next_multiple_of(ALIGN);
            blobs.resize(at, 0);
            weights.push(Blob { stored, at, len: bytes.len() });
            blobs.extend_from_slice(&bytes);
        }
    }
    let head = Head {
        name: program.graph.name.clone(),
        isa: isa.name().into(),
        profile: program.profile,
        slots: program.values.len(),
        plans: plans.iter().map(|(shapes, plan)| stored_plan(program, plan, shapes)).collect::<Result<_>>()?,
        weights,
    };
    let head = postcard::to_stdvec(&head).map_err(|e| Error::internal(format!("the plan cannot be written: {e}")))?;
    let length = u32::try_from(head.len()).map_err(|_| Error::unsupported("a plan of more than 4 GiB"))?;
    let mut out = Vec::with_capacity(PREFIX + head.len() + ALIGN + blobs.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&Sha256::digest(&head));
    out.extend_from_slice(&head);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    out.extend_from_slice(&blobs);
    Ok(out)
}

fn stored_plan(program: &Program, plan: &Plan, shapes: &[Vec<usize>]) -> Result<StoredPlan> {
    let name = |slot: usize| program.graph.value(program.values[slot].source).name.clone();
    let port = |slot: usize, shape: Vec<usize>| Port { name: name(slot), slot, shape };
    let output = |(operand, &value): (&Operand, &usize)| {
        let shape = slot(operand).filter(|s| !plan.inputs.contains(s)).and_then(|s| plan.shapes[s].clone());
        shape
            .map(|shape| port(value, shape))
            .ok_or_else(|| Error::unsupported(format!("output '{}' is a constant or an input", name(value))))
    };
    Ok(StoredPlan {
        inputs: program.inputs.iter().zip(shapes).map(|(&slot, shape)| port(slot, shape.clone())).collect(),
        outputs: plan.outputs.iter().zip(&program.outputs).map(output).collect::<Result<_>>()?,
        split: plan.split,
        arena: plan.arena,
        live: plan.live,
        parts: plan.parts.iter().map(|part| stored(part, plan)).collect::<Result<_>>()?,
        facts: plan.facts.clone(),
    })
}

fn slot(operand: &Operand) -> Option<usize> {
    if let Operand::Slot(s) = operand { Some(*s) } else { None }
}

fn stored(part: &Part, plan: &Plan) -> Result<StoredPart> {
    Ok(match part {
        Part::Tape(Segment { tape, reals, origin, steps }) => StoredPart::Tape {
            kernels: tape.kernels().cloned().collect(),
            choices: (0..tape.len()).map(|i| tape.choice(i)).collect(),
            reals: reals
                .iter()
                .map(|r| match slot(&r.value) {
                    Some(slot) => Ok(StoredReal { slot, shape: r.shape.clone(), written: r.written }),
                    None => Err(Error::unsupported("a constant that is quantized as the model runs")),
                })
                .collect::<Result<_>>()?,
            origin: origin.clone(),
            steps: steps.clone(),
        },
        Part::Float(steps) => StoredPart::Float(
            steps
                .iter()
                .map(|s| {
                    let one = match (&s.inputs[..], &s.outputs[..]) {
                        ([Some(Operand::Slot(x)), None | Some(Operand::Constant(_))], [Some(y)])
                        | ([Some(Operand::Slot(x))], [Some(y)]) => Some((*x, *y)),
                        _ => None,
                    };
                    match (StoredOp::of(&s.op), one, &s.op) {
                        (Some(op), Some((input, output)), _) => Ok(StoredFloat { step: s.step, op, input, output }),
                        (_, _, FloatOp::Between(of)) => Err(Error::unsupported(format!(
                            "{} ({}), which a compiled file cannot hold",
                            of.name(),
                            plan.facts[s.step].kind
                        ))
                        .at(format!("node '{}'", plan.facts[s.step].name))
                        .cure("run the ONNX file itself")),
                        _ => Err(Error::unsupported(format!(
                            "a step in floating point ({}), which a compiled file cannot hold",
                            plan.facts[s.step].kind
                        ))
                        .at(format!("node '{}'", plan.facts[s.step].name))
                        .cure("run the ONNX file itself, or quantize this layer")),
                    }
                })
                .collect::<Result<_>>()?,
        ),
    })
}

/// What a file gives.
pub(super) struct Loaded {
    pub(super) graph: Graph,
    pub(super) profile: Profile,
    pub(super) isa: Isa,
    pub(super) plans: Vec<Shaped>,
    /// Bytes of weights.
    pub(super) weights: usize,
}

/// Whether bytes begin as a compiled file does.
pub fn is_compiled(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

fn damaged(what: &str) -> Error {
    Error::malformed(format!("a compiled plan that is damaged: {what}")).cure("compile the model again")
}

/// Reads a file for so many threads.
///
/// # Errors
/// When it is damaged, of another version, or for another instruction set than wanted.
pub(super) fn read(bytes: &Bytes, wanted: Option<Isa>, members: usize) -> Result<Loaded> {
    let prefix = bytes.get(..PREFIX).filter(|p| p.starts_with(MAGIC)).ok_or_else(|| damaged("no whole beginning"))?;
    let number = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
    if number(8) != VERSION {
        let cause = format!("a compiled plan of version {}; this nnq reads version {VERSION}", number(8));
        return Err(Error::unsupported(cause).cure("compile the model again"));
    }
    let end = PREFIX + number(12) as usize;
    let head = bytes.get(PREFIX..end).ok_or_else(|| damaged("its head is cut off"))?;
    if Sha256::digest(head)[..] != prefix[16..] {
        return Err(damaged("its head does not have its hash"));
    }
    let head: Head = postcard::from_bytes(head).map_err(|e| damaged(&e.to_string()))?;
    let isa: Isa = head.isa.parse().map_err(|_| damaged("its instruction set is unknown"))?;
    let want = match wanted {
        None if std::env::var_os(nnq_kernels::isa::ISA_VARIABLE).is_none() => isa,
        isa => chosen(&super::Options { isa, ..Default::default() })?,
    };
    if want != isa || !isa.is_supported() {
        let cause = format!("compiled for the instruction set {isa}; wanted, and best here: {want}, {}", Isa::best());
        return Err(Error::unsupported(cause).cure("compile the model again on this machine"));
    }
    let blobs = bytes.slice(end.next_multiple_of(ALIGN).min(bytes.len())..);
    let weights = head
        .weights
        .iter()
        .map(|b| {
            let end = b.at.checked_add(b.len).filter(|&end| end <= blobs.len());
            let end = end.ok_or_else(|| damaged("its weights are cut off"))?;
            Weights::load(isa, &b.stored, blobs.slice(b.at..end)).map_err(|e| damaged(&e))
        })
        .collect::<Result<Vec<_>>>()?;
    let graph = interface(&head)?;
    let made = |plan| loaded_plan(plan, head.slots, &weights, (isa, members));
    let plans = head.plans.into_iter().map(made).collect::<Result<_>>()?;
    let bytes = weights.iter().map(Weights::bytes).sum();
    Ok(Loaded { graph, profile: head.profile, isa, plans, weights: bytes })
}

/// Inputs and outputs of the model; sizes in which plans differ are symbols.
fn interface(head: &Head) -> Result<Graph> {
    let [first, rest @ ..] = &head.plans[..] else { return Err(damaged("it holds no plan")) };
    let mut graph = Graph::new(&head.name);
    let ports =
        |plan: &StoredPlan| plan.inputs.iter().chain(&plan.outputs).map(|p| p.shape.clone()).collect::<Vec<_>>();
    let others: Vec<_> = rest.iter().map(ports).collect();
    for (i, port) in first.inputs.iter().chain(&first.outputs).enumerate() {
        let dim = |(axis, &size): (usize, &usize)| {
            let alike = others.iter().all(|o| o.get(i).and_then(|shape| shape.get(axis)) == Some(&size));
            if alike { Dim::Fixed(size) } else { Dim::Sym("batch".into()) }
        };
        let shape = Shape(port.shape.iter().enumerate().map(dim).collect());
        let id = graph.add_value(&port.name, Some(DType::F32), Some(shape)).at(|| "the compiled plan")?;
        if i < first.inputs.len() { graph.inputs.push(id) } else { graph.outputs.push(id) }
    }
    Ok(graph)
}

fn loaded_plan(plan: StoredPlan, all: usize, weights: &[Weights], target: Target) -> Result<Shaped> {
    if plan.split == 0 {
        return Err(damaged("it takes no samples"));
    }
    let slots = |named: Vec<usize>| match named.iter().all(|&s| s < all) {
        true => Ok(()),
        false => Err(damaged("it names a value that there is not")),
    };
    slots(plan.inputs.iter().chain(&plan.outputs).map(|p| p.slot).collect())?;
    slots(plan.facts.iter().flat_map(|f| f.dead.iter().copied()).collect())?;
    let mut parts = Vec::with_capacity(plan.parts.len());
    for part in plan.parts {
        parts.push(match part {
            StoredPart::Tape { kernels, choices, reals, origin, steps } => {
                slots(reals.iter().map(|r| r.slot).collect())?;
                let fit = origin.len() == kernels.len()
                    && choices.len() == kernels.len()
                    && steps.start <= steps.end
                    && steps.end <= plan.facts.len();
                if !fit || origin.iter().any(|o| !steps.contains(o)) {
                    return Err(damaged("its steps do not fit each other"));
                }
                let size = |shape: &[usize]| shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
                let part = |n: usize| n.is_multiple_of(plan.split).then(|| n.checked_div(plan.split)).flatten();
                let buffers = reals.iter().map(|r| size(&r.shape).and_then(part).map(|n| (n, r.written)));
                let buffers = buffers.collect::<Option<_>>().ok_or_else(|| damaged("impossible sizes"))?;
                let members = members(target, plan.split);
                let mut tape =
                    Tape::new(target.0, members, kernels, weights, plan.arena, buffers).map_err(|e| damaged(&e))?;
                choices.into_iter().enumerate().for_each(|(i, choice)| tape.choose(i, choice));
                let real = |r: StoredReal| RealUse { value: Operand::Slot(r.slot), shape: r.shape, written: r.written };
                Part::Tape(Segment { tape, reals: reals.into_iter().map(real).collect(), origin, steps })
            }
            StoredPart::Float(steps) => {
                slots(steps.iter().flat_map(|s| [s.input, s.output]).collect())?;
                if steps.iter().any(|s| s.step >= plan.facts.len()) {
                    return Err(damaged("its steps do not fit each other"));
                }
                let step = |s: StoredFloat| FloatStep {
                    step: s.step,
                    op: s.op.op(),
                    inputs: vec![Some(Operand::Slot(s.input))],
                    outputs: vec![Some(s.output)],
                };
                Part::Float(steps.into_iter().map(step).collect())
            }
        });
    }
    let made = Plan {
        slots: all,
        split: plan.split,
        inputs: plan.inputs.iter().map(|p| p.slot).collect(),
        outputs: plan.outputs.iter().map(|p| Operand::Slot(p.slot)).collect(),
        parts,
        facts: plan.facts,
        places: Vec::new(),
        shapes: Vec::new(),
        arena: plan.arena,
        live: plan.live,
    };
    Ok((plan.inputs.into_iter().map(|p| p.shape).collect(), made))
}
