//! Whether samples come as the network expects them.
//!
//! A batch normalisation knows mean and variance of what it read in training. Where the model still has them, they are compared with those of
//! the samples; where it has none, the float network's accuracy is. Other ways to map pixels to numbers are judged likewise.
use super::{
    Evidence, Judge,
    findings::{Finding, FindingKind, Severity},
    repair::Repair,
};
use crate::{
    data::{Color, Loader, Preprocess, Settings},
    error::{ErrorKind, Result},
    eval::Labelled,
    exec::float,
    ir::{Graph, Op, ValueId},
    quant::analysis::channels::{self, Channel},
    quantize::{Drawn, Progress, Samples, fixed_batch},
};
use std::sync::Arc;

/// Samples that are looked at.
const SAMPLES: usize = 64;
/// A distance of the statistics that means another distribution: a shift by half a standard deviation in the mean of all channels.
const FAR: f64 = 0.25;
/// By how much the statistics must be nearer with another preprocessing.
const NEARER: f64 = 4.0;
/// An earlier, simpler way is as good as the best one up to so many times its distance, or so many shares of 1 less accuracy.
const SIMPLER: f64 = 2.0;
const MORE: f64 = 0.03;
/// By how many shares of 1 accuracy must be better with another preprocessing, where there are no statistics.
const BETTER: f64 = 0.2;

/// The first batch normalisation of a model whose statistics are known: what it reads, and mean and variance of each channel there.
struct Expectation {
    prefix: Arc<Graph>,
    mean: Vec<f32>,
    variance: Vec<f32>,
    node: String,
}

impl Expectation {
    fn of(raw: &Graph) -> Option<Self> {
        let (_, node) = raw.nodes().find(|(_, n)| matches!(n.op, Op::BatchNormalization { .. }))?;
        let constant = |i: usize| Some(raw.constant(node.input(i)?)?.to_f32s());
        let (mean, variance) = (constant(3)?, constant(4)?);
        let x: ValueId = node.input(0)?;
        let mut prefix = raw.clone();
        prefix.outputs = vec![x];
        prefix.compact();
        Some(Self { prefix: Arc::new(prefix), mean, variance, node: node.name.clone() })
    }
    /// The mean over channels of `(m - m')^2 / v + ln(v / v')^2`, with the model's mean and variance `m`, `v` and the samples' `m'`, `v'`.
    fn distance(&self, samples: &Samples, e: &Evidence) -> Result<f64> {
        let dataset = &samples.dataset;
        let fixed = fixed_batch(&self.prefix);
        let batch = fixed.unwrap_or(8).max(1);
        let count = SAMPLES.max(batch) as u64;
        let chosen = Drawn::new(&self.prefix, dataset, count, e.job.recipe.seed).indices;
        let threads = e.job.threads;
        let mut session = float::Session::new(self.prefix.clone(), &float::Options { threads })?;
        let settings = Settings { batch, threads, skip_corrupt: false, cancel: e.job.cancel.clone() };
        let mut seen: Vec<Channel> = Vec::new();
        for b in Loader::new(dataset.clone(), samples.preprocess.clone(), chosen, settings)? {
            let b = b?;
            if fixed.is_none_or(|n| n == b.indices.len()) {
                let x = session.run(vec![b.input])?;
                x.first().map_or(Ok(()), |x| channels::observe(&mut seen, x, Some(1)))?;
            }
        }
        let mut sum = 0.0;
        for ((c, &m), &v) in seen.iter().zip(&self.mean).zip(&self.variance) {
            let (m, v) = (f64::from(m), f64::from(v).max(1e-12));
            sum += (c.mean() - m).powi(2) / v + libm::log(c.variance().max(1e-12) / v).powi(2);
        }
        Ok(sum / seen.len().max(1) as f64)
    }
}

/// Other ways to map the same pixels.
fn candidates(now: &Preprocess) -> Vec<Preprocess> {
    let imagenet = Preprocess::imagenet();
    let maps: [(f32, Vec<f32>, Vec<f32>); 4] = [
        (1.0, vec![], vec![]),
        (255.0, vec![], vec![]),
        (127.5, vec![1.0], vec![]),
        (255.0, imagenet.mean, imagenet.std),
    ];
    let colors = match now.color {
        Some(Color::Gray) => vec![now.color],
        Some(Color::Bgr) => vec![now.color, Some(Color::Rgb)],
        _ => vec![now.color, Some(Color::Bgr)],
    };
    let mut all = Vec::new();
    for color in colors {
        let own = (now.divide, now.mean.clone(), now.std.clone());
        for (divide, mean, std) in maps.iter().cloned().chain([own]) {
            let p = Preprocess { color, divide, mean, std, ..now.clone() };
            if p != *now && !all.contains(&p) {
                all.push(p);
            }
        }
    }
    all
}

/// Looks at the calibration data.
pub(super) fn find(e: &Evidence, progress: &mut Progress) -> Result<Vec<Finding>> {
    let Some(samples) = e.job.samples.as_ref().filter(|s| !s.dataset.is_text()) else { return Ok(Vec::new()) };
    let finding = |place: &str, cause: String, repair: Repair, figures: &[(&'static str, f64)]| {
        let mut f = Finding::new(FindingKind::WrongPreprocessing, place, cause, vec![repair]);
        (f.severity, f.figures) = (Severity::Serious, figures.iter().copied().collect());
        f
    };
    let all = candidates(&samples.preprocess);
    let total = all.len() as u64 + 1;
    let with = |p: &Preprocess| Samples { dataset: samples.dataset.clone(), preprocess: p.clone() };
    if let Some(expected) = Expectation::of(e.raw) {
        let now = expected.distance(samples, e)?;
        let mut others: Vec<(f64, &Preprocess)> = Vec::new();
        for (i, p) in all.iter().enumerate() {
            progress("checking preprocessing", i as u64, total);
            // What the data cannot be turned into is no candidate.
            match expected.distance(&with(p), e) {
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                other => others.extend(other.ok().map(|d| (d, p))),
            }
        }
        let least = others.iter().map(|o| o.0).fold(f64::INFINITY, f64::min);
        let best = others.into_iter().find(|o| o.0 <= SIMPLER * least);
        if let Some((d, p)) = best.filter(|b| now > FAR && now > NEARER * b.0) {
            let cause = format!(
                "the statistics that '{}' has of its inputs in training are far from those of the samples ({now:.2}), and near with other \
                 preprocessing ({d:.2})",
                expected.node
            );
            let figures = [("distance", now), ("distance_repaired", d)];
            return Ok(vec![finding(&expected.node, cause, Repair::preprocess(p)?, &figures)]);
        }
        return Ok(Vec::new());
    }
    let float = e.judge.float().top1;
    let same = e.job.measured_on()?.preprocess == samples.preprocess;
    let Some(now) = float.filter(|&top1| same && top1 < 1.0 - BETTER) else { return Ok(Vec::new()) };
    let mut others: Vec<(f64, &Preprocess)> = Vec::new();
    for (i, p) in all.iter().enumerate() {
        progress("checking preprocessing", i as u64, total);
        let data = Labelled { preprocess: p.clone(), ..e.job.measured_on()? };
        let chosen = Drawn::new(e.float, &data.dataset, SAMPLES.max(128) as u64, e.job.recipe.seed).indices;
        match Judge::new(e.float, &data, false, chosen, e.job.means(), &mut |_, _, _| {}) {
            Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
            other => others.extend(other.ok().and_then(|j| Some((j.float().top1?, p)))),
        }
    }
    let most = others.iter().map(|o| o.0).fold(0.0, f64::max);
    let best = others.into_iter().find(|o| o.0 >= most - MORE);
    let input = e.float.inputs.first().map_or("", |&v| &e.float.value(v).name);
    if let Some((t, p)) = best.filter(|b| b.0 > now + BETTER) {
        let cause = format!(
            "the float network is right on {:.1} % of the samples, and on {:.1} % with other preprocessing",
            100.0 * now,
            100.0 * t
        );
        return Ok(vec![finding(input, cause, Repair::preprocess(p)?, &[("top1", now), ("top1_repaired", t)])]);
    }
    Ok(Vec::new())
}
