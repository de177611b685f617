//! Options that repair, as they are typed, and what they bring when they are tried.
use super::{Evidence, Job, Judge, Score};
use crate::{
    data::Preprocess,
    error::{Error, ErrorKind, Result},
    eval::Labelled,
    ir::Graph,
    quant::{
        range::RangeMethod,
        recipe::{ActivationChange, Override, Recipe},
        stats::Stats,
    },
    quantize::{self, Progress, Samples},
};
use serde::Serialize;
use std::{collections::HashMap, sync::Arc};

/// A way to repair something.
#[derive(Clone, Debug, Serialize)]
pub struct Repair {
    /// The option as it is typed: a flag of `nnq quantize`, lines for the recipe, or, where neither helps, what to do with the model.
    pub option: String,
    /// The recipe with it, where it is a matter of the recipe.
    #[serde(skip)]
    pub recipe: Option<Recipe>,
    /// The preprocessing with it, where it is a matter of the data.
    #[serde(skip)]
    pub preprocess: Option<Preprocess>,
    /// What it brought, where it was tried.
    pub trial: Option<Trial>,
}

/// The quantized network's score before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// As it is.
    pub before: Score,
    /// With the option.
    pub after: Score,
}

impl Trial {
    /// The distance to the float network fell by a tenth at least.
    pub fn helps(&self) -> bool {
        match (self.before.top1, self.after.top1) {
            (Some(a), Some(b)) if b - a > 0.02 => true,
            _ => self.after.close.divergence < 0.9 * self.before.close.divergence,
        }
    }
}

impl Repair {
    /// Other ways to choose the ranges of activations.
    pub(super) fn ranges(methods: &[RangeMethod], recipe: &Recipe) -> Vec<Self> {
        let others = methods.iter().filter(|&&m| m != recipe.activation.range);
        others.map(|&m| Self::flag(&format!("--range {m}"), recipe, |r| r.activation.range = m)).collect()
    }
    /// Flags of `nnq quantize` that stand for a change of the recipe.
    pub(super) fn flag(option: &str, recipe: &Recipe, change: impl FnOnce(&mut Recipe)) -> Self {
        let mut recipe = recipe.clone();
        change(&mut recipe);
        Self { option: option.into(), recipe: Some(recipe), preprocess: None, trial: None }
    }
    /// A line of the recipe.
    pub(super) fn line(line: &str, recipe: &Recipe, change: impl FnOnce(&mut Recipe)) -> Self {
        Self::flag(&format!("--recipe FILE with the line\n{line}"), recipe, change)
    }
    /// Layers that stay in floating point.
    pub(super) fn keep_float(recipe: &Recipe, nodes: &[String]) -> Self {
        Self::overrides(recipe, nodes, |name| Override {
            name: Some(name),
            keep_float: Some(true),
            ..Override::default()
        })
    }
    /// Layers that make values of 16 bits.
    pub(super) fn wide(recipe: &Recipe, nodes: &[String]) -> Self {
        let activation = Some(ActivationChange { bits: Some(16), ..ActivationChange::default() });
        Self::overrides(recipe, nodes, |name| Override { name: Some(name), activation, ..Override::default() })
    }
    fn overrides(recipe: &Recipe, nodes: &[String], one: impl Fn(String) -> Override) -> Self {
        let layers: Vec<Override> = nodes.iter().cloned().map(one).collect();
        let text = |o: &Override| {
            let name = o.name.as_deref().unwrap_or_default().replace('\\', "\\\\").replace('"', "\\\"");
            let what = if o.keep_float.is_some() { "keep_float = true" } else { "activation.bits = 16" };
            format!("[[layer]]\nmatch = \"{name}\"\n{what}")
        };
        let lines: Vec<String> = layers.iter().map(text).collect();
        let option = format!("--recipe FILE with the lines\n{}", lines.join("\n"));
        Self::flag(&option, recipe, |r| r.layers.extend(layers))
    }
    /// No option: what to do with the model.
    pub(super) fn advice(text: &str) -> Self {
        Self { option: text.into(), recipe: None, preprocess: None, trial: None }
    }
    /// Another preprocessing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn preprocess(p: &Preprocess) -> Result<Self> {
        let preset = crate::data::PRESETS.iter().find(|name| Preprocess::preset(name).as_ref() == Some(p));
        let option = match preset {
            Some(name) => format!("--preprocess {name}"),
            None => format!("--preprocess FILE.toml with the lines\n{}", p.to_toml()?.trim_end()),
        };
        Ok(Self { option, recipe: None, preprocess: Some(p.clone()), trial: None })
    }
}

/// Tries repairs; equal ones once.
pub(super) struct Trier<'a> {
    job: &'a Job,
    /// Not balanced.
    graph: &'a Arc<Graph>,
    digest: [u8; 32],
    /// As the recipe of the job has it: balanced or not, with its statistics.
    present: (&'a Arc<Graph>, &'a Stats),
    /// The other way.
    other: Option<(Arc<Graph>, Stats)>,
    judge: &'a Judge,
    before: &'a Score,
    known: HashMap<String, Option<Score>>,
}

impl<'a> Trier<'a> {
    pub fn new(graph: &'a Arc<Graph>, digest: [u8; 32], e: &Evidence<'a>) -> Self {
        let present = (e.balanced, e.stats);
        Self { job: e.job, graph, digest, present, other: None, judge: e.judge, before: e.score, known: HashMap::new() }
    }
    /// Fills in the trial of a repair, where it can be tried.
    ///
    /// # Errors
    /// When stopped. A repair that fails otherwise stays without a trial.
    pub fn attempt(&mut self, repair: &mut Repair, progress: &mut Progress) -> Result<()> {
        let key = repair.option.clone();
        if !self.known.contains_key(&key) {
            let after = match (&repair.recipe, &repair.preprocess) {
                (Some(recipe), _) => self.recipe(recipe, progress),
                (_, Some(p)) => self.preprocess(p, progress),
                _ => return Ok(()),
            };
            let after = match after {
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                other => other.ok(),
            };
            self.known.insert(key.clone(), after);
        }
        let after = self.known.get(&key).cloned().flatten();
        repair.trial = after.map(|after| Trial { before: self.before.clone(), after });
        Ok(())
    }
    fn recipe(&mut self, recipe: &Recipe, progress: &mut Progress) -> Result<Score> {
        recipe.check()?;
        let job = self.job;
        let (samples, means) = (job.samples.as_ref(), job.means());
        if recipe.equalize != job.recipe.equalize && self.other.is_none() {
            let data = (None, samples);
            let (graph, stats) =
                quantize::calibrated(self.graph, self.digest, recipe, data, means, &mut Vec::new(), progress)?;
            self.other = Some((graph, stats));
        }
        let (graph, stats) = match &self.other {
            Some((graph, stats)) if recipe.equalize != job.recipe.equalize => (graph, stats),
            _ => self.present,
        };
        let made = quantize::annotate_with(graph, stats, recipe, samples, means, progress)?;
        progress("trying repairs", 0, 1);
        self.judge.score(&Arc::new(made.graph))
    }
    fn preprocess(&mut self, p: &Preprocess, progress: &mut Progress) -> Result<Score> {
        let job = self.job;
        let old = job.samples.as_ref().ok_or_else(|| Error::usage("no samples to calibrate on"))?;
        let samples = Samples { dataset: old.dataset.clone(), preprocess: p.clone() };
        let (recipe, means) = (&job.recipe, job.means());
        let data = (None, Some(&samples));
        let (graph, stats) =
            quantize::calibrated(self.graph, self.digest, recipe, data, means, &mut Vec::new(), progress)?;
        let made = quantize::annotate_with(&graph, &stats, recipe, Some(&samples), means, progress)?;
        let made = Arc::new(made.graph);
        // The data that is measured on had the same fault, unless it was prepared otherwise.
        let mut data = job.measured_on()?;
        if data.preprocess != old.preprocess {
            return self.judge.score(&made);
        }
        data = Labelled { preprocess: p.clone(), ..data };
        let chosen = job.measured_samples(self.graph, &data);
        Judge::new(self.graph, &data, false, chosen, means, progress)?.score(&made)
    }
}
