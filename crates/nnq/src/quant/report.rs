//! Where accuracy goes: the distance between the float and the quantized value behind every step.
use crate::{
    error::Result,
    exec::{
        float,
        lower::{Program, Repr},
        sim,
    },
    ir::{Graph, Tensor, ValueId},
};
use serde::Serialize;
use std::{collections::HashMap, sync::Arc};

/// What quantization did to one value.
#[derive(Clone, Debug, Serialize)]
pub struct LayerLoss {
    /// The node that computes it.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// The value.
    pub value: String,
    /// Signal-to-quantization-noise ratio in dB: `10 log10(sum x^2 / sum (x - x')^2)`, `x` the float value, `x'` the quantized one,
    /// with everything before it quantized too. Infinite when they are equal.
    pub sqnr_db: f64,
    /// How much this step lowers the ratio below the worst of its inputs, in dB; what the layer itself loses.
    pub drop_db: f64,
}

/// Runs a float graph and a program lowered from its quantized twin side by side and compares values by name.
pub struct Comparison {
    float: float::Session,
    quantized: sim::Session,
    /// Signal and noise energy by value name.
    sums: HashMap<String, (f64, f64)>,
}

struct Keep<'a> {
    graph: &'a Graph,
    wanted: &'a HashMap<String, (f64, f64)>,
    kept: HashMap<String, Tensor>,
}

impl float::Tap for Keep<'_> {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        let name = &self.graph.value(value).name;
        if self.wanted.contains_key(name) {
            self.kept.insert(name.clone(), tensor.clone());
        }
        Ok(())
    }
    fn interest(&self, value: ValueId) -> float::Interest {
        let wanted = self.wanted.contains_key(&self.graph.value(value).name);
        if wanted { float::Interest::Tensor } else { float::Interest::Nothing }
    }
}

struct Compare<'a> {
    graph: &'a Graph,
    kept: HashMap<String, Tensor>,
    sums: &'a mut HashMap<String, (f64, f64)>,
}

impl float::Tap for Compare<'_> {
    fn see(&mut self, value: ValueId, tensor: &Tensor) -> Result<()> {
        let name = &self.graph.value(value).name;
        let Some(reference) = self.kept.remove(name) else { return Ok(()) };
        let (Ok(x), Ok(y)) = (reference.as_slice::<f32>(), tensor.as_slice::<f32>()) else { return Ok(()) };
        if x.len() != y.len() {
            return Ok(());
        }
        let (mut signal, mut noise) = (0.0, 0.0);
        for (&x, &y) in x.iter().zip(y) {
            signal += f64::from(x) * f64::from(x);
            noise += (f64::from(x) - f64::from(y)).powi(2);
        }
        let entry = self.sums.entry(name.clone()).or_default();
        entry.0 += signal;
        entry.1 += noise;
        Ok(())
    }
}

impl Comparison {
    /// `graph` is the float model, `program` the lowered quantized one.
    ///
    /// # Errors
    /// As the sessions' constructors.
    pub fn new(graph: Arc<Graph>, program: Arc<Program>, threads: usize) -> Result<Self> {
        let mut sums = HashMap::new();
        for value in &program.values {
            let source = program.graph.value(value.source);
            if matches!(value.repr, Repr::Code(_)) || program.graph.outputs.contains(&value.source) {
                sums.insert(source.name.clone(), (0.0, 0.0));
            }
        }
        let float = float::Session::new(graph, &float::Options { threads })?;
        Ok(Self { float, quantized: sim::Session::new(program, threads)?, sums })
    }
    /// Adds a batch.
    ///
    /// # Errors
    /// As the runs.
    pub fn feed(&mut self, inputs: Vec<Tensor>) -> Result<()> {
        let graph = self.float.graph().clone();
        let mut keep = Keep { graph: &graph, wanted: &self.sums, kept: HashMap::new() };
        self.float.run_tapped(inputs.clone(), &mut keep)?;
        let kept = keep.kept;
        let program = self.quantized.program().clone();
        let mut compare = Compare { graph: &program.graph, kept, sums: &mut self.sums };
        self.quantized.run_tapped(inputs, &mut compare)?;
        Ok(())
    }
    /// The losses in graph order.
    pub fn finish(&self) -> Vec<LayerLoss> {
        let program = self.quantized.program();
        let ratio = |name: &str| {
            self.sums.get(name).filter(|s| s.0 > 0.0).map(|&(signal, noise)| 10.0 * (signal / noise).log10())
        };
        let mut losses: Vec<LayerLoss> = Vec::new();
        for step in &program.steps {
            let name = |slot: &usize| program.graph.value(program.values[*slot].source).name.clone();
            let Some(value) = step.outputs.iter().flatten().next().map(name) else { continue };
            let Some(sqnr_db) = ratio(&value) else { continue };
            if losses.iter().any(|l| l.value == value) {
                continue;
            }
            let before = step.inputs.iter().flatten().map(name).filter_map(|n| ratio(&n)).fold(f64::INFINITY, f64::min);
            let op = step.nodes.first().map_or("Quantize", |&n| program.graph.node(n).op.name());
            let drop_db = if before.is_finite() { before - sqnr_db } else { 0.0 };
            losses.push(LayerLoss { node: program.step_name(step), op: op.into(), value, sqnr_db, drop_db });
        }
        losses
    }
}
