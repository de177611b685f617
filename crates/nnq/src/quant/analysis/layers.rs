//! What each unit does to the signal, split into causes.
//!
//! With `f` the float layer (its clamp included), `x` its float inputs, `W`, `b` its constants, `Q` rounding to a value's grid, `R` rounding to
//! it without its ends and `C` clipping to its ends without rounding, the output `y = f(x, W, b)` is compared with:
//!
//! | figure | with |
//! |---|---|
//! | total | the value in the quantized network |
//! | own | `Q(f(Q(x), Wq, bq))`: everything here rounds, what comes in is exact |
//! | weights | `f(x, Wq, b)` |
//! | bias | `f(x, W, bq)` |
//! | input rounding, input clipping | `f(R(x), W, b)`, `f(C(x), W, b)` |
//! | output rounding, output clipping | `R(y)`, `C(y)` |
//!
//! and *inherited* is the distance between `f(x', W, b)` with `x'` the inputs as they are in the quantized network, and `f(Q(x), W, b)`: what
//! comes in besides the rounding of an exact input. These are local counterfactuals, one cause switched on at a time: they need not add up. A
//! value that one unit makes and another reads counts as output of the one and as input of the other.
use super::{
    Energy,
    channels::{self, Channel},
    unit::Unit,
};
use crate::{
    error::{At, Error, Result},
    exec::{
        float::{self, Ctx, Interest, Tap},
        int,
        lower::{Grid, Program},
    },
    ir::{Graph, Op, Tensor, ValueId},
};
use nnq_kernels::round::{dequantize_f32, quantize_f32, rne_f32};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc};

/// What makes an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Cause {
    Weights,
    Bias,
    InputRounding,
    InputClipping,
    OutputRounding,
    OutputClipping,
    Inherited,
}

impl Cause {
    /// All of them, in the order of [`UnitLoss::causes`].
    pub const ALL: [Self; 7] = [
        Self::Weights,
        Self::Bias,
        Self::InputRounding,
        Self::InputClipping,
        Self::OutputRounding,
        Self::OutputClipping,
        Self::Inherited,
    ];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weights => "weights",
            Self::Bias => "bias",
            Self::InputRounding => "input rounding",
            Self::InputClipping => "input clipping",
            Self::OutputRounding => "output rounding",
            Self::OutputClipping => "output clipping",
            Self::Inherited => "inherited",
        })
    }
}

/// What was measured of a unit.
#[derive(Clone, Debug)]
pub struct UnitLoss {
    /// The unit.
    pub unit: Unit,
    /// With everything before it quantized.
    pub total: Energy,
    /// With exact inputs.
    pub own: Energy,
    /// By [`Cause::ALL`].
    pub causes: [Energy; 7],
    /// Elements of the float output that lie more than half a step outside of its grid, and all.
    pub outside: (u64, u64),
    /// The channels of the float output.
    pub channels: Vec<Channel>,
}

impl UnitLoss {
    /// One cause.
    pub fn cause(&self, cause: Cause) -> &Energy {
        &self.causes[cause as usize]
    }
    /// The cause with the most noise; `None` where there is none at all.
    pub fn dominant(&self) -> Option<Cause> {
        let most = Cause::ALL.into_iter().max_by(|a, b| self.cause(*a).noise.total_cmp(&self.cause(*b).noise));
        most.filter(|c| self.cause(*c).noise > 0.0)
    }
    /// The cause with the most noise among those that arise here.
    pub fn dominant_own(&self) -> Option<Cause> {
        let own = Cause::ALL.into_iter().filter(|c| *c != Cause::Inherited);
        let most = own.max_by(|a, b| self.cause(*a).noise.total_cmp(&self.cause(*b).noise));
        most.filter(|c| self.cause(*c).noise > 0.0)
    }
}

/// Measures units over samples.
pub struct Layers {
    float: float::Session,
    quantized: int::Session,
    pool: rayon::ThreadPool,
    losses: Vec<UnitLoss>,
    /// For each unit its constants in the quantized network: weights and bias.
    constants: Vec<[Option<Arc<Tensor>>; 2]>,
}

/// Remembers the values called so.
struct Keep<'a> {
    graph: &'a Graph,
    wanted: &'a HashMap<String, ()>,
    kept: HashMap<String, Tensor>,
}

impl Tap for Keep<'_> {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        let name = &self.graph.value(value).name;
        if self.wanted.contains_key(name) {
            self.kept.insert(name.clone(), tensor.clone());
        }
        Ok(())
    }
    fn interest(&self, value: ValueId) -> Interest {
        let wanted = self.wanted.contains_key(&self.graph.value(value).name);
        if wanted { Interest::Tensor } else { Interest::Nothing }
    }
}

impl Layers {
    /// `program` is what the quantized `float` was lowered to. `threads` 0: one per core.
    ///
    /// # Errors
    /// When the two do not belong together; as the sessions' constructors.
    pub fn new(float: Arc<Graph>, program: Arc<Program>, threads: usize) -> Result<Self> {
        let units = super::units(&float, &program)?;
        let graph = program.graph.clone();
        let twins: HashMap<&str, _> = graph.nodes().map(|(_, n)| (n.name.as_str(), n)).collect();
        let mut constants = Vec::with_capacity(units.len());
        for unit in &units {
            let twin = twins.get(unit.node.as_str()).filter(|_| unit.product);
            let real = |i: usize| {
                let v = twin.and_then(|n| n.input(i)).filter(|&v| graph.value(v).quant.is_some());
                v.map(|v| graph.real_constant(v)).transpose()
            };
            constants.push([real(1)?, real(2)?]);
        }
        let options = int::Options { threads, ..int::Options::default() };
        let quantized = int::Session::new(program, &options)?;
        let new = |unit| UnitLoss {
            unit,
            total: Energy::default(),
            own: Energy::default(),
            causes: [Energy::default(); 7],
            outside: (0, 0),
            channels: Vec::new(),
        };
        Ok(Self {
            float: float::Session::new(float, &float::Options { threads })?,
            quantized,
            pool: crate::exec::thread_pool(threads)?,
            losses: units.into_iter().map(new).collect(),
            constants,
        })
    }
    /// Adds a batch, the inputs of both networks.
    ///
    /// # Errors
    /// As the runs.
    pub fn feed(&mut self, inputs: &[Tensor]) -> Result<()> {
        let graph = self.float.graph().clone();
        let names = self.losses.iter().flat_map(|l| l.unit.inputs.iter().chain([&l.unit.output]));
        let wanted: HashMap<String, ()> = names.map(|o| (o.name.clone(), ())).collect();
        let mut keep = Keep { graph: &graph, wanted: &wanted, kept: HashMap::new() };
        self.float.run_tapped(inputs.to_vec(), &mut keep)?;
        let exact = keep.kept;
        let twin = self.quantized.graph().clone();
        let mut keep = Keep { graph: &twin, wanted: &wanted, kept: HashMap::new() };
        self.quantized.run_tapped(inputs.to_vec(), &mut keep)?;
        let rounded = keep.kept;
        let Self { losses, constants, pool, .. } = self;
        pool.install(|| {
            losses.par_iter_mut().zip(constants.par_iter()).with_max_len(1).try_for_each(|(loss, constants)| {
                let name = loss.unit.node.clone();
                one(&graph, loss, constants, &exact, &rounded).at(|| format!("node '{name}'"))
            })
        })
    }
    /// What was measured, in the order of the program.
    pub fn finish(self) -> Vec<UnitLoss> {
        self.losses
    }
}

/// What becomes of an input before the layer sees it.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Exact,
    Rounded,
    Clipped,
    Quantized,
}

fn step(x: f32, grid: &Grid, way: Way) -> f32 {
    let (lo, hi) = (grid.qtype.min() - grid.zero, grid.qtype.max() - grid.zero);
    #[allow(clippy::cast_precision_loss)]
    match way {
        Way::Exact => x,
        Way::Rounded => rne_f32(x / grid.scale) * grid.scale,
        Way::Clipped => x.clamp(lo as f32 * grid.scale, hi as f32 * grid.scale),
        Way::Quantized => {
            let code = quantize_f32(x, grid.scale, grid.zero, grid.qtype.min(), grid.qtype.max());
            dequantize_f32(code, grid.scale, grid.zero)
        }
    }
}

fn through<'t>(x: &'t Tensor, grid: Option<&Grid>, way: Way) -> Result<Cow<'t, Tensor>> {
    let Some(grid) = grid.filter(|_| way != Way::Exact) else { return Ok(Cow::Borrowed(x)) };
    let y = x.as_slice::<f32>()?.iter().map(|&x| step(x, grid, way)).collect();
    Ok(Cow::Owned(Tensor::of::<f32>(x.shape(), y)))
}

/// Elements that lie more than half a step outside of a grid.
fn outside(x: &[f32], grid: &Grid) -> u64 {
    #[allow(clippy::cast_precision_loss)]
    let ends = [grid.qtype.min() - grid.zero, grid.qtype.max() - grid.zero].map(|c| c as f32);
    let (lo, hi) = ((ends[0] - 0.5) * grid.scale, (ends[1] + 0.5) * grid.scale);
    x.iter().filter(|&&x| x < lo || x > hi).count() as u64
}

/// Recomputes a unit.
struct Recompute<'a> {
    graph: &'a Graph,
    unit: &'a Unit,
    ctx: Ctx,
}

impl Recompute<'_> {
    /// The unit's output for these inputs, with constants replaced where given.
    fn run(&self, x: &HashMap<&str, Cow<Tensor>>, weight: Option<&Tensor>, bias: Option<&Tensor>) -> Result<Tensor> {
        let first = self.unit.inputs.first().and_then(|o| x.get(o.name.as_str()));
        let mut value: Option<Tensor> = None;
        for (k, &id) in self.unit.nodes.iter().enumerate() {
            let node = self.graph.node(id);
            let constant = |v: &Option<ValueId>| {
                v.filter(|v| self.graph.constant(*v).is_some()).map(|v| self.graph.real_constant(v)).transpose()
            };
            let constants = node.inputs.iter().map(constant).collect::<Result<Vec<_>>>()?;
            let mut operands: Vec<Option<&Tensor>> = Vec::with_capacity(node.inputs.len());
            for (i, v) in node.inputs.iter().enumerate() {
                let replaced = [None, weight, bias].get(i).copied().flatten().filter(|_| k == 0);
                operands.push(match (*v, replaced.or(constants[i].as_deref())) {
                    (_, Some(t)) => Some(t),
                    (None, None) => None,
                    (Some(_), None) if k > 0 && i == 0 => value.as_ref(),
                    (Some(v), None) => {
                        let name = self.graph.value(v).name.as_str();
                        let t = x.get(name).ok_or_else(|| Error::internal(format!("value '{name}' was not kept")))?;
                        Some(t.as_ref())
                    }
                });
            }
            if let Some(bias) = bias.filter(|_| k == 0 && operands.len() < 3) {
                operands.resize(3, None);
                operands[2] = Some(bias);
            }
            let results = float::eval(&node.op, &operands, node.outputs.len(), &self.ctx)?;
            value = results.into_iter().next();
        }
        // Without a node a value is only rounded.
        let value = value.or_else(|| first.map(|t| t.as_ref().clone()));
        value.ok_or_else(|| Error::internal("a unit without a result"))
    }
}

fn one(
    graph: &Graph,
    loss: &mut UnitLoss,
    [weight, bias]: &[Option<Arc<Tensor>>; 2],
    exact: &HashMap<String, Tensor>,
    rounded: &HashMap<String, Tensor>,
) -> Result<()> {
    let UnitLoss { unit, total, own, causes, outside: out, channels } = loss;
    let Some(y) = exact.get(&unit.output.name) else { return Ok(()) };
    let shape = graph.find(&unit.output.name).and_then(|v| graph.value(v).shape.as_ref());
    let first = unit.nodes.first().map(|&id| &graph.node(id).op);
    let says = |op: &&Op| weight.is_some() || matches!(op, Op::LayerNormalization { .. });
    channels::observe(channels, y, channels::axis(first.filter(says), shape))?;
    let reference = y.as_slice::<f32>()?;
    let mut add = |cause: Cause, from: &[f32], to: &Tensor| -> Result<()> {
        causes[cause as usize].add(from, to.as_slice::<f32>()?);
        Ok(())
    };
    if let Some(z) = rounded.get(&unit.output.name) {
        total.add(reference, z.as_slice::<f32>()?);
    }
    let grid = unit.output.grid.as_ref();
    if let Some(grid) = grid {
        let n = outside(reference, grid);
        *out = (out.0 + n, out.1 + reference.len() as u64);
        add(Cause::OutputRounding, reference, through(y, Some(grid), Way::Rounded)?.as_ref())?;
        add(Cause::OutputClipping, reference, through(y, Some(grid), Way::Clipped)?.as_ref())?;
    }
    if unit.nodes.is_empty() {
        own.add(reference, through(y, grid, Way::Quantized)?.as_slice::<f32>()?);
        // What a step in floating point before it hands on: all that is not rounding here.
        if let Some(z) = rounded.get(&unit.output.name) {
            add(Cause::Inherited, through(y, grid, Way::Quantized)?.as_slice::<f32>()?, z)?;
            causes[Cause::Inherited as usize].signal = own.signal;
        }
        return Ok(());
    }
    let here = Recompute { graph, unit, ctx: Ctx::new() };
    let inputs = |way: Way| -> Result<HashMap<&str, Cow<Tensor>>> {
        let mut all = HashMap::new();
        for o in &unit.inputs {
            let x = exact.get(&o.name).ok_or_else(|| Error::internal(format!("value '{}' was not kept", o.name)))?;
            all.insert(o.name.as_str(), through(x, o.grid.as_ref(), way)?);
        }
        Ok(all)
    };
    let plain = inputs(Way::Exact)?;
    if weight.is_some() {
        add(Cause::Weights, reference, &here.run(&plain, weight.as_deref(), None)?)?;
    }
    if bias.is_some() {
        add(Cause::Bias, reference, &here.run(&plain, None, bias.as_deref())?)?;
    }
    let mut clips = false;
    for o in &unit.inputs {
        if let (Some(grid), Some(x)) = (&o.grid, exact.get(&o.name)) {
            clips |= outside(x.as_slice::<f32>()?, grid) > 0;
        }
    }
    add(Cause::InputRounding, reference, &here.run(&inputs(Way::Rounded)?, None, None)?)?;
    if clips {
        add(Cause::InputClipping, reference, &here.run(&inputs(Way::Clipped)?, None, None)?)?;
    }
    let quantized = inputs(Way::Quantized)?;
    let all = here.run(&quantized, weight.as_deref(), bias.as_deref())?;
    own.add(reference, through(&all, grid, Way::Quantized)?.as_slice::<f32>()?);
    let met: HashMap<&str, Cow<Tensor>> =
        unit.inputs.iter().filter_map(|o| Some((o.name.as_str(), Cow::Borrowed(rounded.get(&o.name)?)))).collect();
    if met.len() == plain.len() {
        let before = here.run(&quantized, None, None)?;
        let with = here.run(&met, None, None)?;
        causes[Cause::Inherited as usize].add(before.as_slice::<f32>()?, with.as_slice::<f32>()?);
    }
    // Also where a cause could not come up, and where another reference was taken.
    causes.iter_mut().for_each(|c| c.signal = own.signal);
    Ok(())
}
