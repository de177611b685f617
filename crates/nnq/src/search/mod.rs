//! From a target of accuracy to a recipe: the cheapest repairs that reach it.
//!
//! Candidates are quantized from statistics that were collected once, and judged on samples of the calibration data that calibration did not see.
//! Repairs that cost nothing come first and stay whenever they lower the noise of the outputs; what costs the user something is taken only as long as the
//! target is not reached, single layers in the order of what sparing them brings.
mod repairs;
mod verdict;

pub use repairs::{Cost, Repair, Spare};
pub use verdict::{Answers, Verdict};

use crate::{
    data::ClassRow,
    error::{Error, Result},
    eval::Labelled,
    ir::Graph,
    judge::Judge,
    quant::{
        place,
        recipe::{BiasCorrection, Recipe},
        stats::Stats,
    },
    quantize::{self, Drawn, Job, Means, Prepared, Progress},
};
use serde::Serialize;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What to reach.
#[derive(Clone, Debug)]
pub struct Target {
    /// The most accuracy that may be lost, in shares of 1.
    pub drop: f64,
    /// The most time to look for it.
    pub budget: Option<Duration>,
    /// Which output each class of the calibration data stands for, see [`crate::eval::Labelled`].
    pub classes: Option<Vec<ClassRow>>,
}

/// A candidate that was judged.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// What is new in it.
    pub what: String,
    /// What that costs.
    pub cost: Cost,
    /// How it did; `None` where it could not be made.
    #[serde(flatten)]
    pub verdict: Option<Verdict>,
    /// Why it could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Whether it was kept.
    pub kept: bool,
    /// Seconds since the search began.
    pub seconds: f64,
}

/// What a search came to.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// What was to be reached.
    pub target: f64,
    /// Whether the estimate of what is lost is within it, to the nearest whole number of answers.
    pub reached: bool,
    /// How the best candidate did.
    pub verdict: Verdict,
    /// What right answers are.
    pub answers: Answers,
    /// Samples that candidates were judged on.
    pub samples: usize,
    /// The time was over before everything was tried.
    pub out_of_time: bool,
    /// All candidates in order.
    pub trials: Vec<Trial>,
    /// The recipe.
    pub recipe: Recipe,
}

/// Samples that candidates are judged on, at most, and those that layers are compared on.
const JUDGED: (usize, usize) = (2048, 128);

/// A repair that costs nothing stays when the noise falls by this share.
const WORTH: f64 = 0.02;

struct Search<'a, 'p> {
    job: &'a Job,
    graph: &'a Arc<Graph>,
    digest: [u8; 32],
    /// Statistics of the network as it is and with its layers balanced.
    bases: [Option<(Arc<Graph>, Arc<Stats>)>; 2],
    calibrate_seconds: f64,
    clock: Instant,
    deadline: Option<Instant>,
    trials: Vec<Trial>,
    progress: &'a mut Progress<'p>,
}

/// The best candidate so far.
#[derive(Clone)]
struct Best {
    recipe: Recipe,
    prepared: Prepared,
    verdict: Verdict,
}

/// Looks for the cheapest recipe, from the job's on, that loses no more than `target` says.
///
/// # Errors
/// When the job has no samples, the network cannot be quantized as the recipe says to begin with, and what [`Judge::new`] answers. A target that cannot be reached is
/// none.
pub fn search(
    job: &Job,
    graph: &Arc<Graph>,
    digest: [u8; 32],
    target: &Target,
    progress: &mut Progress,
) -> Result<(Found, Prepared)> {
    let clock = Instant::now();
    let Some(samples) = &job.samples else {
        return Err(Error::usage("a search for accuracy needs samples to judge on").cure("give --data"));
    };
    if samples.dataset.is_text() && !samples.dataset.has_labels() {
        return Err(Error::usage("a search for accuracy on texts without classes: it counts right answers")
            .cure("give lines of text,label as --data, or compare recipes with nnq eval --reference"));
    }
    if job.stats.is_some() {
        return Err(Error::usage("a search for accuracy collects its own statistics").cure("give --data, not --stats"));
    }
    let mut recipe = job.recipe.clone();
    // Half of a small data set is for calibration, the other half to judge.
    recipe.samples = recipe.samples.min((samples.dataset.len() / 2) as u64).max(1);
    let mut search = Search {
        job,
        graph,
        digest,
        bases: [None, None],
        calibrate_seconds: 0.0,
        clock,
        deadline: target.budget.and_then(|b| clock.checked_add(b)),
        trials: Vec::new(),
        progress,
    };
    let (_, stats) = search.base(&recipe)?;
    let used = |i: usize| stats.meta.samples.contains(i as u64);
    let data = Labelled {
        dataset: samples.dataset.clone(),
        preprocess: samples.preprocess.clone(),
        classes: target.classes.clone(),
    };
    let judge = |search: &mut Search, most| {
        let rest = Drawn::apart(&data.dataset, &used, most, recipe.seed);
        if rest.is_empty() {
            return Err(Error::usage("calibration takes all samples, and none are left to judge on")
                .cure("calibrate on fewer: --samples"));
        }
        let means = Means { threads: job.threads, cancel: job.cancel.as_ref(), ..Means::default() };
        Judge::new(graph, &data, false, rest, means, search.progress)
    };
    let whole = judge(&mut search, JUDGED.0)?;
    let mut best = search.attempt("as asked", Cost::Nothing, &recipe, &whole)??;
    search.keep();
    // Answers are whole: 0.2 points of 498 samples is one of them.
    #[allow(clippy::cast_precision_loss)]
    let most =
        target.drop.max(nnq_kernels::round::rne_f64(target.drop * whole.samples() as f64) / whole.samples() as f64);
    search.general(&mut best, &whole, most)?;
    if best.verdict.drop > most && !search.late() {
        let few = judge(&mut search, JUDGED.1)?;
        search.layers(&mut best, &whole, &few, most)?;
    }
    let found = Found {
        target: target.drop,
        reached: best.verdict.drop <= most,
        verdict: best.verdict,
        answers: Answers::of(&whole),
        samples: whole.samples(),
        out_of_time: search.late(),
        trials: search.trials,
        recipe: best.recipe,
    };
    Ok((found, best.prepared))
}

impl Search<'_, '_> {
    fn late(&self) -> bool {
        quantize::in_time(self.deadline).is_err()
    }
    /// Whether the user asked to stop.
    fn cancelled(&self) -> Result<()> {
        quantize::check(self.job.cancel.as_deref())
    }
    /// When a candidate has to be ready: the first one takes what it takes, so that there is an answer.
    fn due(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.trials.is_empty())
    }
    /// The network that a recipe begins with, and its statistics.
    fn base(&mut self, recipe: &Recipe) -> Result<(Arc<Graph>, Arc<Stats>)> {
        let slot = usize::from(recipe.equalize);
        if let Some((graph, stats)) = &self.bases[slot] {
            return Ok((graph.clone(), stats.clone()));
        }
        let samples = self.job.samples.as_ref().ok_or_else(|| Error::internal("a search without samples"))?;
        let means = Means { threads: self.job.threads, cancel: self.job.cancel.as_ref(), ..Means::default() };
        let graph = quantize::balanced(self.graph, recipe, Some(samples), means, self.progress, &mut Vec::new())?;
        let (threads, cancel) = (self.job.threads, self.job.cancel.clone());
        let clock = Instant::now();
        let stats = quantize::calibrate(&graph, self.digest, samples, recipe, threads, cancel, self.progress)?;
        self.calibrate_seconds += clock.elapsed().as_secs_f64();
        let base = (graph, Arc::new(stats));
        self.bases[slot] = Some(base.clone());
        Ok(base)
    }
    fn prepare(&mut self, recipe: &Recipe) -> Result<Prepared> {
        let (balanced, stats) = self.base(recipe)?;
        let (threads, cancel) = (self.job.threads, self.job.cancel.as_ref());
        let means = Means { threads, cancel, deadline: self.due(), resume: None };
        let samples = self.job.samples.as_ref();
        let quantized = quantize::annotate_with(&balanced, &stats, recipe, samples, means, self.progress)?;
        Ok(Prepared { balanced, stats, quantized: Arc::new(quantized), calibrate_seconds: self.calibrate_seconds })
    }
    /// Quantizes and judges. The outer error ends the search, the inner one is the candidate's.
    fn attempt(&mut self, what: &str, cost: Cost, recipe: &Recipe, judge: &Judge) -> Result<Result<Best>> {
        self.cancelled()?;
        let made = self.prepare(recipe).and_then(|prepared| {
            let graph = Arc::new(prepared.quantized.graph.clone());
            let verdict = Verdict::new(judge, &judge.score_by(&graph, self.due())?)?;
            Ok(Best { recipe: recipe.clone(), prepared, verdict })
        });
        self.cancelled()?;
        self.trials.push(Trial {
            what: what.into(),
            cost,
            verdict: made.as_ref().ok().map(|b| b.verdict),
            failed: made.as_ref().err().map(ToString::to_string),
            kept: false,
            seconds: self.clock.elapsed().as_secs_f64(),
        });
        Ok(made)
    }
    /// The last trial stays.
    fn keep(&mut self) {
        if let Some(last) = self.trials.last_mut() {
            last.kept = true;
        }
    }
    /// Repairs of the whole network.
    fn general(&mut self, best: &mut Best, judge: &Judge, target: f64) -> Result<()> {
        let mut tried: Vec<String> = Vec::new();
        loop {
            let next = repairs::general(&best.recipe).into_iter().find_map(|mut repair| {
                repair.ways.retain(|(text, _)| !tried.contains(text));
                (!repair.ways.is_empty()).then_some(repair)
            });
            let Some(repair) = next else { return Ok(()) };
            // What costs nothing is taken until even the upper end of the interval is within the target; everything else for the estimate only.
            let lost = if repair.cost == Cost::Nothing { best.verdict.interval[1] } else { best.verdict.drop };
            if lost <= target || self.late() {
                return Ok(());
            }
            let mut winner: Option<(usize, Best)> = None;
            for (text, recipe) in &repair.ways {
                tried.push(text.clone());
                if self.late() {
                    break;
                }
                if let Ok(candidate) = self.attempt(text, repair.cost, recipe, judge)?
                    && winner.as_ref().is_none_or(|(_, w)| candidate.verdict.noise < w.verdict.noise)
                {
                    winner = Some((self.trials.len() - 1, candidate));
                }
            }
            if let Some((i, candidate)) = winner
                && candidate.verdict.noise < best.verdict.noise * (1.0 - WORTH)
            {
                self.trials[i].kept = true;
                *best = candidate;
            }
        }
    }
    /// Spares single layers: as few as reach the target, those first that bring most for what they cost.
    fn layers(&mut self, best: &mut Best, judge: &Judge, few: &Judge, target: f64) -> Result<()> {
        let narrow = best.recipe.weight.bits < 8 || best.recipe.activation.bits < 8;
        let ways: &[Spare] =
            if narrow { &[Spare::EightBit, Spare::Wide, Spare::Float] } else { &[Spare::Wide, Spare::Float] };
        for &spare in ways {
            let order = self.order(best, few, spare)?;
            // How many it takes: double until it is enough, then halve.
            let (mut low, mut high, mut reached) = (0, 1, None);
            while low < order.len() && !self.late() {
                let n = high.min(order.len());
                match self.spared(best, &order[..n], spare, judge)? {
                    Some(candidate) if candidate.verdict.drop <= target => {
                        reached = Some(candidate);
                        high = n;
                        break;
                    }
                    _ => (low, high) = (n, 2 * n),
                }
            }
            while reached.is_some() && high - low > 1 && !self.late() {
                let n = usize::midpoint(low, high);
                match self.spared(best, &order[..n], spare, judge)? {
                    Some(candidate) if candidate.verdict.drop <= target => (reached, high) = (Some(candidate), n),
                    _ => low = n,
                }
            }
            if let Some(found) = reached {
                let text = spare.describe(&order[..high]);
                if let Some(trial) = self.trials.iter_mut().rfind(|t| t.what == text) {
                    trial.kept = true;
                }
                *best = found;
                return Ok(());
            }
        }
        Ok(())
    }
    fn spared(&mut self, best: &Best, layers: &[String], spare: Spare, judge: &Judge) -> Result<Option<Best>> {
        let recipe = spare.apply(&best.recipe, layers);
        Ok(self.attempt(&spare.describe(layers), Cost::Speed, &recipe, judge)?.ok())
    }
    /// Layers in the order of how much noise goes when each alone is spared, without looking at samples layer by layer.
    fn order(&mut self, best: &Best, few: &Judge, spare: Spare) -> Result<Vec<String>> {
        let mut plain = best.recipe.clone();
        (plain.compensate, plain.correct_bias) = (false, BiasCorrection::Off);
        plain.weight.rounding = crate::quant::rounder::Rounding::Nearest;
        let graph = best.prepared.balanced.clone();
        let products = place::place(&graph, &vec![place::Mode::Static; graph.node_count()], false).products;
        let mut gains: Vec<(f64, String)> = Vec::new();
        let total = products.len() as u64;
        for (i, &id) in products.iter().enumerate() {
            self.cancelled()?;
            (self.progress)("comparing layers", i as u64, total);
            if self.late() {
                break;
            }
            let name = graph.node(id).name.clone();
            let recipe = spare.apply(&plain, std::slice::from_ref(&name));
            let Ok(prepared) = self.prepare(&recipe) else { continue };
            let score = few.score_by(&Arc::new(prepared.quantized.graph.clone()), self.due());
            self.cancelled()?;
            if let Ok(score) = score {
                gains.push((score.close.divergence, name));
            }
        }
        gains.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(gains.into_iter().map(|(_, name)| name).collect())
    }
}
