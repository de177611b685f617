//! From a float network and data to an annotated network: the pieces that quantization, analysis, search and demo share.
use super::{Progress, Samples, balanced::balanced, feed};
use crate::{
    data::{Choice, Dataset, Kept, Preprocess, Settings, subset},
    engine,
    error::{At, Error, ErrorKind, Result},
    ir::Graph,
    quant::{calibrate::Calibrator, outputs, ptq, recipe::Recipe, reconstruct, resume::Log, stats::Stats},
};
use sha2::{Digest, Sha256};
use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

/// Samples that each thread runs, some at once, before all meet.
const BATCH: usize = 8;

/// Collects the statistics of `graph` over `recipe.samples` samples chosen by `recipe.seed`.
///
/// # Errors
/// Names the sample that cannot be read, the node that cannot run, the value that cannot be observed.
pub fn calibrate(
    graph: &Arc<Graph>,
    model_sha256: [u8; 32],
    samples: &Samples,
    recipe: &Recipe,
    threads: usize,
    cancel: Option<Arc<AtomicBool>>,
    progress: &mut Progress,
) -> Result<Stats> {
    feed::suits(graph, samples)?;
    let Drawn { indices: mut chosen, fixed } = Drawn::new(graph, &samples.dataset, recipe.samples, recipe.seed);
    let mut calibrator = Calibrator::new(graph.clone(), recipe.integers(), threads)?;
    let batch = fixed.unwrap_or(BATCH * calibrator.threads());
    if batch == 0 {
        let input = graph.inputs.first().map(|&v| graph.value(v));
        let shape = input.and_then(|v| v.shape.as_ref()).map_or_else(String::new, ToString::to_string);
        return Err(Error::usage(format!("its shape is {shape}: the model runs 0 samples at once"))
            .at(format!("input '{}'", input.map_or("", |v| &v.name)))
            .cure("export the model with a free batch"));
    }
    if chosen.is_empty() {
        return Err(Error::usage("there are no samples to calibrate on").cure("name a data set that holds some"));
    }
    if fixed.is_some_and(|n| n > chosen.len()) {
        return Err(Error::usage(format!("the model runs {batch} samples at once, the data has {}", chosen.len()))
            .cure("give more calibration samples or export the model with a free batch"));
    }
    if fixed.is_some() {
        chosen.truncate(chosen.len() / batch * batch);
    }
    let total = chosen.len() as u64;
    let settings = Settings { batch, threads, skip_corrupt: false, cancel };
    let mut done = 0;
    for b in feed::batches(graph, samples, chosen.clone(), settings)? {
        let b = b?;
        let ids: Vec<u64> = b.indices.iter().map(|&i| i as u64).collect();
        calibrator.feed(b.inputs, &ids).at(|| feed::named(samples, &b.indices))?;
        done += ids.len() as u64;
        progress("calibrating", done, total);
    }
    let mut stats = Stats::new(model_sha256, toml(&samples.preprocess)?);
    for i in chosen {
        stats.meta.samples.insert(i as u64..i as u64 + 1);
    }
    stats.values = calibrator.finish()?;
    Ok(stats)
}

fn toml(p: &Preprocess) -> Result<String> {
    toml::to_string(p).map_err(|e| Error::internal(format!("the preprocessing cannot be written: {e}")))
}

/// A model and the SHA-256 of its file, both at the same time.
///
/// # Errors
/// As [`engine::load`].
pub fn open(path: &Path) -> Result<(Arc<Graph>, [u8; 32])> {
    let (graph, digest) = rayon::join(|| engine::load(path), || sha256(path));
    Ok((graph?, digest?))
}

/// SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
fn sha256(path: &Path) -> Result<[u8; 32]> {
    let bytes = nnq_kernels::mmap::map(path).map_err(|e| Error::io(path, e))?;
    Ok(Sha256::digest(&bytes).into())
}

/// Quantizes `graph`, and notes recipe and version in the result's metadata.
///
/// # Errors
/// As [`ptq::quantize`].
pub fn annotate(graph: &Arc<Graph>, stats: &Stats, recipe: &Recipe) -> Result<ptq::Quantized> {
    noted(ptq::quantize(graph, stats, recipe)?, recipe)
}

/// Recipe and version go with the graph.
///
/// # Errors
/// When the recipe cannot be written.
pub fn noted(mut q: ptq::Quantized, recipe: &Recipe) -> Result<ptq::Quantized> {
    q.graph.metadata.retain(|(k, _)| !k.starts_with("nnq."));
    q.graph.metadata.push(("nnq.version".into(), env!("CARGO_PKG_VERSION").into()));
    q.graph.metadata.push(("nnq.recipe".into(), recipe.to_toml()?));
    Ok(q)
}

/// What a flow works with besides model, data and recipe.
#[derive(Clone, Copy, Default)]
pub struct Means<'a> {
    /// 0: one per core.
    pub threads: usize,
    /// Set by others to stop.
    pub cancel: Option<&'a Arc<AtomicBool>>,
    /// When to stop by itself, as if by others.
    pub deadline: Option<Instant>,
    /// A file that keeps layers as they are done: a run that was stopped goes on after the last of them.
    pub resume: Option<&'a Path>,
}

/// As [`annotate`], for any recipe: with samples, layer by layer where the recipe says so.
///
/// # Errors
/// As [`annotate`] and [`reconstruct::quantize`].
pub fn annotate_with(
    graph: &Arc<Graph>,
    stats: &Stats,
    recipe: &Recipe,
    samples: Option<&Samples>,
    means: Means,
    progress: &mut Progress,
) -> Result<ptq::Quantized> {
    let chosen;
    let recipe = match samples {
        Some(samples) => {
            chosen = resolved(graph, stats, recipe, samples, means, progress)?;
            &chosen
        }
        None => recipe,
    };
    let Some(samples) = samples.filter(|_| recipe.layer_by_layer()) else { return annotate(graph, stats, recipe) };
    let how = how(graph, stats, recipe, samples, means, progress)?;
    let mut tick = |done, of| progress("rounding layers", done as u64, of as u64);
    noted(reconstruct::quantize(graph, stats, recipe, how, &mut tick)?, recipe)
}

/// What rounding layer by layer works with. The recipe is [`resolved`].
///
/// # Errors
/// When samples cannot be read, or kept in a temporary file.
pub fn how<'a>(
    graph: &Arc<Graph>,
    stats: &Stats,
    recipe: &Recipe,
    samples: &Samples,
    means: Means<'a>,
    progress: &mut Progress,
) -> Result<reconstruct::How<'a>> {
    let Means { threads, cancel, deadline, resume } = means;
    let Drawn { indices, fixed } = Drawn::new(graph, &samples.dataset, recipe.samples, recipe.seed);
    let total = indices.len() as u64;
    let settings = Settings { batch: KEPT, threads, skip_corrupt: false, cancel: cancel.cloned() };
    let inputs = if samples.dataset.is_text() {
        let all = feed::batches(graph, samples, indices, settings)?.map(|b| b.map(|b| b.inputs));
        reconstruct::Inputs::Batches(all.collect::<Result<_>>()?)
    } else {
        let kept = Kept::new(samples.dataset.clone(), samples.preprocess.clone(), indices, settings, &mut |done| {
            progress("reading samples", done, total);
        })?;
        let one = fixed.unwrap_or(1).max(1);
        let count = kept.len() / one * one;
        reconstruct::Inputs::Kept { kept, batch: fixed.unwrap_or(KEPT).max(1), count }
    };
    let log = resume.map(|path| Log::open(path, key(stats, recipe, &inputs)?)).transpose()?;
    let check = move || {
        check(cancel.map(AsRef::as_ref))?;
        in_time(deadline)
    };
    Ok(reconstruct::How { threads, inputs, buffer: INSIDE, log, check: Box::new(check) })
}

/// The recipe with a range method for each value that it leaves to the layers that read it ([`outputs::choose`]).
///
/// # Errors
/// As [`outputs::choose`].
pub fn resolved(
    graph: &Arc<Graph>,
    stats: &Stats,
    recipe: &Recipe,
    samples: &Samples,
    means: Means,
    progress: &mut Progress,
) -> Result<Recipe> {
    if !recipe.by_output() {
        return Ok(recipe.clone());
    }
    let Drawn { indices, fixed } = Drawn::new(graph, &samples.dataset, recipe.samples.min(JUDGING), recipe.seed);
    let batch = fixed.unwrap_or(BATCH).max(1);
    let settings = Settings { batch, threads: means.threads, skip_corrupt: false, cancel: means.cancel.cloned() };
    let total = indices.len() as u64;
    outputs::choose(graph, stats, recipe, means.threads, &mut |to| {
        let mut done = 0;
        for b in feed::batches(graph, samples, indices.clone(), settings.clone())? {
            let b = b?;
            done += b.indices.len() as u64;
            if b.indices.len() == batch || fixed.is_none() {
                in_time(means.deadline)?;
                to(b.inputs)?;
            }
            progress("choosing ranges", done, total);
        }
        Ok(())
    })
}

/// Stands for everything that the layers of a run depend on: the version, the statistics (and with them the model), the recipe, the samples.
fn key(stats: &Stats, recipe: &Recipe, inputs: &reconstruct::Inputs) -> Result<[u8; 32]> {
    let stats = postcard::to_stdvec(stats).map_err(|e| Error::internal(format!("statistics: {e}")))?;
    let recipe = recipe.to_toml()?;
    let mut digest = Sha256::new();
    for part in [env!("CARGO_PKG_VERSION").as_bytes(), &stats, recipe.as_bytes()] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    match inputs {
        reconstruct::Inputs::Kept { kept, .. } => {
            for start in (0..kept.len()).step_by(KEPT) {
                let some = kept.batch(start..kept.len().min(start + KEPT))?;
                digest.update(bytemuck::cast_slice(some.as_slice::<f32>()?));
                some.release();
            }
        }
        reconstruct::Inputs::Batches(all) => {
            for tensor in all.iter().flatten() {
                digest.update(format!("{:?}", tensor.shape()));
                tensor.to_i64s()?.iter().for_each(|id| digest.update(id.to_le_bytes()));
            }
        }
    }
    Ok(digest.finalize().into())
}

/// Samples of a data set for a model.
pub(crate) struct Drawn {
    pub indices: Vec<usize>,
    /// The model's batch, where it is fixed.
    pub fixed: Option<usize>,
}

impl Drawn {
    /// At most `count`, all classes alike, by `seed`.
    pub fn new(graph: &Graph, dataset: &Dataset, count: u64, seed: u64) -> Self {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let indices = subset(dataset.len(), count, seed, Choice::Stratified, |i| dataset.label(i));
        Self { indices, fixed: fixed_batch(graph) }
    }
    /// At most `most` others than those `used`, all classes alike.
    pub fn apart(dataset: &Dataset, used: &dyn Fn(usize) -> bool, most: usize, seed: u64) -> Vec<usize> {
        let rest: Vec<usize> = (0..dataset.len()).filter(|&i| !used(i)).collect();
        let of = subset(rest.len(), most, seed, Choice::Stratified, |i| dataset.label(rest[i]));
        of.into_iter().map(|i| rest[i]).collect()
    }
}

/// The batch of a model that runs no other.
pub fn fixed_batch(graph: &Graph) -> Option<usize> {
    graph.inputs.first().and_then(|&v| graph.value(v).shape.as_ref()?.0.first()?.fixed())
}

/// The most bytes of samples that are kept at a value inside a network.
const INSIDE: u64 = 320 << 20;

/// Samples that ranges are chosen on by the layers that read them.
const JUDGING: u64 = 64;

/// Samples that run at once while layers are rounded.
const KEPT: usize = 32;

/// The network balanced as the recipe says, and the statistics of its values: from a file, which must be of the model with this digest, or collected on
/// samples.
///
/// # Errors
/// When there is neither, or a file where there can be none; as [`balanced`], [`calibrate`] and [`Stats::read`].
pub fn calibrated(
    graph: &Arc<Graph>,
    digest: [u8; 32],
    recipe: &Recipe,
    (file, samples): (Option<&Path>, Option<&Samples>),
    means: Means,
    messages: &mut Vec<String>,
    progress: &mut Progress,
) -> Result<(Arc<Graph>, Stats)> {
    let useless = |cause: &str, cure: &str| {
        let place = file.map(|f| f.display().to_string()).unwrap_or_default();
        Err(Error::usage(cause).at(place).cure(cure))
    };
    if file.is_some() && (recipe.equalize || recipe.absorb || recipe.basis || recipe.smooth.is_some()) {
        return useless(
            "the recipe balances layers, which changes what statistics are of",
            "give --data instead of --stats, or leave out equalize, smooth, basis and absorb",
        );
    }
    if file.is_some() && !recipe.needs_statistics() {
        return useless(
            "the recipe finds the grids of activations at run time: statistics are of no use",
            "leave out --stats, or the dynamic mode",
        );
    }
    let graph = balanced(graph, recipe, samples, means, progress, messages)?;
    let stats = match (file, samples) {
        (Some(path), _) => {
            let stats = Stats::read(path)?;
            if stats.meta.model != digest {
                return useless("the statistics were collected from another model file", "calibrate this model");
            }
            stats
        }
        // Nothing has to be known of activations.
        (None, _) if !recipe.needs_statistics() => Stats::new(digest, String::new()),
        (None, Some(samples)) => {
            calibrate(&graph, digest, samples, recipe, means.threads, means.cancel.cloned(), progress)?
        }
        (None, None) => {
            return Err(Error::usage("neither data nor statistics to calibrate with")
                .cure("give --data or --stats, or quantize with --dynamic, which needs neither"));
        }
    };
    Ok((graph, stats))
}

/// An error once somebody asked to stop.
///
/// # Errors
/// Then.
pub fn check(cancel: Option<&AtomicBool>) -> Result<()> {
    match cancel {
        Some(c) if c.load(std::sync::atomic::Ordering::Relaxed) => {
            Err(Error::new(ErrorKind::Interrupted, "stopped on request"))
        }
        _ => Ok(()),
    }
}

/// Whether there is time left.
pub(crate) fn in_time(deadline: Option<Instant>) -> Result<()> {
    match deadline {
        Some(d) if Instant::now() > d => Err(Error::new(ErrorKind::Interrupted, "the time is over")),
        _ => Ok(()),
    }
}
