//! What training and reconstruction share: the file that is written, how it is judged, and what they begin with.
use crate::{
    backend::Kernels,
    begin::Begun,
    params::Parameters,
    place::Place,
    qat::{Quantizing, Rules},
    report::{Event, Tell},
};
use nnq::{
    Error, Result,
    data::paired_difference,
    engine::{self, Engine, Kind},
    eval::{self, EvalReport, Labelled},
    exec::lower::Profile,
    formats::onnx,
    ir::Graph,
    quant::{ptq::Quantized, recipe::Recipe, reconstruct::Layers, stats::Stats},
    quantize::{self, Format, Means, Samples},
    staging::Staging,
};
use serde::Serialize;
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

/// What is written, and by what means.
#[derive(Clone)]
pub struct Output {
    /// Labelled samples to measure accuracy on. Nothing is chosen by them.
    pub eval: Option<Labelled>,
    /// How a quantized network is written.
    pub format: Format,
    /// What becomes of codes that need less than a byte.
    pub pack: onnx::Pack,
    /// The file to write.
    pub file: PathBuf,
    /// 0: one per core.
    pub threads: usize,
    /// Where to compute.
    pub place: Place,
    /// Set by others to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// A file that was written, and its accuracy.
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    /// The network that it was made from.
    pub model: String,
    /// The file.
    pub out: String,
    /// Seconds of training or learning in this run.
    pub seconds: f64,
    /// Accuracy of the float network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<EvalReport>,
    /// Accuracy of the written file, on the engine that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<EvalReport>,
    /// The paired difference of both and its 95 % interval, in shares of 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<[f64; 3]>,
    /// What a user should know.
    pub messages: Vec<String>,
}

/// What is said of a run besides its accuracy.
pub(crate) struct Remarks {
    pub model: String,
    pub seconds: f64,
    pub messages: Vec<String>,
}

impl Output {
    /// An engine for a graph, with so many threads.
    pub(crate) fn engine(&self, graph: Arc<Graph>, kind: Kind, threads: usize) -> Result<Engine> {
        Engine::open(graph, engine::Options { kind, profile: Profile::default(), threads })
    }
    /// The accuracy of a graph on the engine that runs it, where there is data to measure it.
    pub(crate) fn evaluate(&self, graph: Arc<Graph>, what: &str, tell: &mut Tell) -> Result<Option<EvalReport>> {
        self.eval.as_ref().map(|data| self.evaluate_on(data, graph, what, tell)).transpose()
    }
    /// The accuracy of a graph on some data, on the engine that runs it.
    pub(crate) fn evaluate_on(
        &self,
        data: &Labelled,
        graph: Arc<Graph>,
        what: &str,
        tell: &mut Tell,
    ) -> Result<EvalReport> {
        let kind = Kind::for_graph(&graph);
        let graph = if kind == Kind::Float { engine::simplify(Graph::clone(&graph))? } else { graph };
        let mut engine = self.engine(graph, kind, self.threads)?;
        let options = eval::Options { threads: self.threads, cancel: self.cancel.clone(), ..Default::default() };
        eval::evaluate(&mut engine, data, &options, &mut |done, of| tell(Event::Stage(what, done, of)))
    }
    /// Writes a network and judges the file; nothing is left where that fails.
    pub(crate) fn write(
        &self,
        graph: &Graph,
        staging: Staging,
        before: Option<EvalReport>,
        remarks: Remarks,
        tell: &mut Tell,
    ) -> Result<Written> {
        let file = staging.path();
        match engine::is_quantized(graph) {
            true => quantize::export(graph, self.format, self.pack, &file),
            false => onnx::write(graph, &file, &onnx::WriteOptions::default()),
        }
        .map_err(|e| staging.error(e))?;
        // What is judged is the file that was written.
        let after = self.evaluate(engine::load(&file)?, "evaluating the result", tell)?;
        let difference = match (&before, &after) {
            (Some(a), Some(b)) => paired_difference(&a.correct, &b.correct).map(|(d, lo, hi)| Some([d, lo, hi]))?,
            _ => None,
        };
        staging.finish()?;
        let Remarks { model, seconds, messages } = remarks;
        Ok(Written { model, out: self.file.display().to_string(), seconds, before, after, difference, messages })
    }
}

/// The float network is what everything begins with.
pub(crate) fn float_only(graph: &Graph) -> Result<()> {
    if engine::is_quantized(graph) {
        return Err(Error::usage("the network is quantized already").cure("start from the float network"));
    }
    Ok(())
}

/// A network that is to be quantized: balanced, calibrated, with its recipe resolved.
pub(crate) struct Calibrated {
    graph: Arc<Graph>,
    stats: Stats,
    recipe: Recipe,
    /// As it was asked for: what the file says.
    asked: Recipe,
    rules: Rules,
    /// What was quantized before, for learning to begin with.
    pub begun: Option<Begun>,
    /// What a user should know.
    pub messages: Vec<String>,
}

impl Calibrated {
    /// Looks at samples of the float network.
    pub fn new(
        (float, digest): (&Arc<Graph>, [u8; 32]),
        samples: &Samples,
        recipe: &Recipe,
        rules: Rules,
        output: &Output,
        tell: &mut Tell,
    ) -> Result<Self> {
        let mut messages = Vec::new();
        let means = Means { threads: output.threads, cancel: output.cancel.as_ref(), ..Means::default() };
        let mut progress = |what: &str, done: u64, of: u64| tell(Event::Stage(what, done, of));
        let from = (None, Some(samples));
        let (graph, stats) = quantize::calibrated(float, digest, recipe, from, means, &mut messages, &mut progress)?;
        let recipe = quantize::resolved(&graph, &stats, recipe, samples, means, &mut progress)?;
        Ok(Self { graph, stats, asked: recipe.clone(), recipe, rules, begun: None, messages })
    }
    /// Rounds layer by layer as the recipe says. From then on the recipe is the one without that.
    pub fn round_layers(&mut self, samples: &Samples, output: &Output, tell: &mut Tell) -> Result<()> {
        let means = Means { threads: output.threads, cancel: output.cancel.as_ref(), ..Means::default() };
        let mut progress = |what: &str, done: u64, of: u64| tell(Event::Stage(what, done, of));
        let (graph, stats, recipe) = (&self.graph, &self.stats, &self.recipe);
        let rounded = quantize::annotate_with(graph, stats, recipe, Some(samples), means, &mut progress)?;
        self.messages.extend(rounded.messages);
        self.begin_with(&rounded.graph)
    }
    /// Rounding layer by layer as the recipe says, for who learns in between. From then on the recipe is the one without that.
    pub fn layers<'a>(&mut self, samples: &Samples, output: &'a Output, tell: &mut Tell) -> Result<Layers<'a>> {
        let means = Means { threads: output.threads, cancel: output.cancel.as_ref(), ..Means::default() };
        let mut progress = |what: &str, done: u64, of: u64| tell(Event::Stage(what, done, of));
        let how = quantize::how(&self.graph, &self.stats, &self.recipe, samples, means, &mut progress)?;
        let layers = Layers::new(&self.graph, &self.stats, &self.recipe, how)?;
        self.recipe.at_once();
        Ok(layers)
    }
    /// Begins with a quantized network. From then on the recipe is one that rounds each weight by itself.
    pub fn begin_with(&mut self, quantized: &Graph) -> Result<()> {
        let begun = Begun::new(quantized)?;
        self.recipe.at_once();
        let mut quantizing = Quantizing::new(&self.graph, &self.stats, &self.recipe, self.rules)?;
        self.messages.extend(begun.regrid(&mut quantizing)?.notes());
        self.begun = Some(begun);
        Ok(())
    }
    /// Where it will round.
    pub fn quantizing(&self) -> Result<Quantizing> {
        let mut quantizing = Quantizing::new(&self.graph, &self.stats, &self.recipe, self.rules)?;
        if let Some(begun) = &self.begun {
            begun.regrid(&mut quantizing)?;
        }
        Ok(quantizing)
    }
    /// The quantized network with what was learned, and what is to be said of it.
    pub fn finished<B: Kernels>(&self, learned: &Parameters<B>) -> Result<(Graph, Vec<String>)> {
        self.noted(self.quantizing()?.finish::<B>(learned)?)
    }
    /// A quantized network with its recipe, and what is to be said of it.
    pub fn noted(&self, quantized: Quantized) -> Result<(Graph, Vec<String>)> {
        let quantized = quantize::noted(quantized, &self.asked)?;
        Ok((quantized.graph, quantized.messages))
    }
}
