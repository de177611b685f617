//! What a candidate costs, on samples that no candidate was made with.
use crate::{
    data::{Accuracy, ClassMap, Kept, Loader, Settings, paired_difference},
    engine::{self, Engine, Kind},
    error::{Error, ErrorKind, Result},
    exec::lower::Profile,
    ir::{Graph, Tensor},
    quantize::{Drawn, Samples, fixed_batch},
};
use serde::Serialize;
use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

/// Samples that run at once.
const BATCH: usize = 32;

/// What right answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answers {
    /// The labels of the data.
    Labels,
    /// The float network's own.
    Agreement,
}

/// How a candidate did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Verdict {
    /// Right answers that the float network has more, in shares of 1.
    pub drop: f64,
    /// Its 95 % confidence interval.
    pub interval: [f64; 2],
    /// Mean Kullback-Leibler divergence of the softmax of the outputs from that of the float network's, in nats: a finer measure than answers, by
    /// which candidates are compared.
    pub noise: f64,
}

/// Samples to judge on, with the float network's outputs.
pub struct Judge {
    inputs: Kept,
    /// The first output of the float network for each batch.
    float: Vec<Tensor>,
    labels: Vec<Option<usize>>,
    map: ClassMap,
    right: Vec<bool>,
    /// What right answers are.
    pub answers: Answers,
    batch: usize,
    threads: usize,
}

impl Judge {
    /// Runs the float network on at most `most` samples of the data that are not in `used`. Answers are labels where the data has them for the classes of
    /// the network.
    ///
    /// # Errors
    /// When no samples are left, and as reading and running.
    pub fn new(
        graph: &Arc<Graph>,
        samples: &Samples,
        classes: Option<&[crate::data::ClassRow]>,
        (used, most, seed): (&dyn Fn(usize) -> bool, usize, u64),
        (threads, cancel): (usize, Option<Arc<AtomicBool>>),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let dataset = &samples.dataset;
        let one = fixed_batch(graph).unwrap_or(1).max(1);
        let mut indices = Drawn::apart(samples, used, most, seed);
        indices.truncate(indices.len() / one * one);
        if indices.is_empty() {
            return Err(Error::usage("calibration takes all samples, and none are left to judge on")
                .cure("calibrate on fewer: --samples"));
        }
        let labels: Vec<Option<usize>> = indices.iter().map(|&i| dataset.label(i)).collect();
        let total = indices.len() as u64;
        let settings = Settings { batch: BATCH, threads, skip_corrupt: false, cancel };
        let mut keeping = crate::data::Keeping::new()?;
        let mut done = 0;
        for some in Loader::new(dataset.clone(), samples.preprocess.clone(), indices, settings)? {
            let some = some?;
            keeping.push(&some.input)?;
            done += some.indices.len() as u64;
            progress(done, total);
        }
        let inputs = keeping.finish()?;
        let batch = if one > 1 { one } else { BATCH };
        let options = engine::Options { kind: Kind::Float, profile: Profile::default(), threads };
        let mut engine = Engine::open(graph.clone(), options)?;
        let float: Vec<Tensor> = batches(inputs.len(), batch)
            .map(|range| first(engine.run(vec![inputs.batch(range)?])?))
            .collect::<Result<_>>()?;
        let width = float.first().and_then(|t| t.shape().get(1).copied()).unwrap_or(0);
        let labelled = if dataset.has_labels() && labels.iter().all(Option::is_some) {
            ClassMap::for_outputs(width, dataset.label_count(), dataset.classes(), classes).ok()
        } else {
            None
        };
        let (answers, map, labels) = match labelled {
            Some(map) => (Answers::Labels, map, labels),
            None => {
                let best = |t: &Tensor| t.to_f32s().chunks(width.max(1)).map(best).collect::<Vec<_>>();
                let labels = float.iter().flat_map(best).map(Some).collect();
                (Answers::Agreement, ClassMap::for_outputs(width, width, &[], None)?, labels)
            }
        };
        let mut judge = Self { inputs, float, labels, map, right: Vec::new(), answers, batch, threads };
        judge.right = judge.count(&judge.float)?;
        Ok(judge)
    }
    /// How many samples.
    pub fn samples(&self) -> usize {
        self.inputs.len()
    }
    fn count(&self, outputs: &[Tensor]) -> Result<Vec<bool>> {
        let mut accuracy = Accuracy::new(self.map.clone());
        for (range, outputs) in batches(self.inputs.len(), self.batch).zip(outputs) {
            accuracy.add(outputs, &self.labels[range])?;
        }
        let restricted = accuracy.restricted_top1().is_some();
        Ok(if restricted { accuracy.correct_restricted() } else { accuracy.correct() }.to_vec())
    }
    /// Judges a quantized network, on the integer engine where it runs there.
    ///
    /// # Errors
    /// As lowering and running.
    pub fn judge(&self, graph: &Arc<Graph>, check: &dyn Fn() -> Result<()>) -> Result<Verdict> {
        let options = |kind| engine::Options { kind, profile: Profile::default(), threads: self.threads };
        let mut engine = match Engine::open(graph.clone(), options(Kind::Int)) {
            Err(e) if e.kind() == ErrorKind::Unsupported => Engine::open(graph.clone(), options(Kind::Sim))?,
            other => other?,
        };
        let mut outputs = Vec::with_capacity(self.float.len());
        for range in batches(self.inputs.len(), self.batch) {
            check()?;
            let input = self.inputs.batch(range)?;
            outputs.push(first(engine.run(vec![input.clone()])?)?);
            input.release();
        }
        let (difference, low, high) = paired_difference(&self.right, &self.count(&outputs)?)?;
        let mut sum = 0.0;
        for (float, quantized) in self.float.iter().zip(&outputs) {
            let width = float.len() / float.shape().first().copied().unwrap_or(1).max(1);
            let (p, q) = (float.to_f32s(), quantized.to_f32s());
            sum += p.chunks(width.max(1)).zip(q.chunks(width.max(1))).map(|(p, q)| divergence(p, q)).sum::<f64>();
        }
        Ok(Verdict { drop: -difference, interval: [-high, -low], noise: sum / self.inputs.len() as f64 })
    }
}

fn batches(count: usize, batch: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(batch).map(move |start| start..count.min(start + batch))
}

fn first(outputs: Vec<Tensor>) -> Result<Tensor> {
    outputs.into_iter().next().ok_or_else(|| Error::usage("the model has no output"))
}

/// The index of the largest number; the lowest of several.
fn best(row: &[f32]) -> usize {
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best }).0
}

/// The divergence of `softmax(q)` from `softmax(p)`: `sum_i p_i (log p_i - log q_i)`.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let logs = |x: &[f32]| -> Vec<f64> {
        let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted: Vec<f64> = x.iter().map(|&x| f64::from(x) - f64::from(top)).collect();
        let sum = shifted.iter().map(|x| x.exp()).sum::<f64>().ln();
        shifted.iter().map(|x| x - sum).collect()
    };
    logs(p).iter().zip(logs(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_known_distributions() {
        // softmax(0, ln 3) = (1/4, 3/4) against (1/2, 1/2).
        let p = [0.0, 3f32.ln()];
        let want = 0.25 * (0.25f64 / 0.5).ln() + 0.75 * (0.75f64 / 0.5).ln();
        assert!((divergence(&p, &[7.0, 7.0]) - want).abs() < 1e-7);
        assert!(divergence(&p, &p).abs() < 1e-12);
        assert_eq!(best(&[1.0, 3.0, 3.0]), 1);
    }
}
