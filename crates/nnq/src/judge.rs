//! A metric for networks that all come from the same float network.
use crate::{
    data::{Accuracy, ClassMap, Kept, Settings},
    engine::{Engine, Kind, Options},
    error::{At, Error, ErrorKind, Result},
    eval::Labelled,
    exec::lower::Profile,
    ir::{Graph, Tensor},
    quant::analysis::score::{self, Closeness},
    quantize::{Means, Progress, check, fixed_batch, in_time},
};
use serde::Serialize;
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

/// How good a network's answers are.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// Share of samples whose class has the largest output (among the data's classes, where these are fewer than the outputs); `None`
    /// without labels that suit the network.
    pub top1: Option<f64>,
    /// Distance to the float network's answers.
    #[serde(flatten)]
    pub close: Closeness,
    /// For each sample whether it is right.
    #[serde(skip)]
    pub correct: Vec<bool>,
}

/// Samples that are kept ready to run, with their labels and the float network's answers.
pub struct Judge {
    kept: Kept,
    labels: Vec<Option<usize>>,
    map: Option<ClassMap>,
    reference: Vec<f32>,
    width: usize,
    float: Score,
    batch: usize,
    count: usize,
    threads: usize,
    cancel: Option<Arc<AtomicBool>>,
}

/// Samples that run at once.
const BATCH: usize = 32;

impl Judge {
    /// Runs the float network on these samples of the data. `strict`: labels must suit the network; otherwise, where they do not, there is no
    /// accuracy.
    ///
    /// # Errors
    /// As the loader and the float executor; when labels do not suit the network and are wanted.
    pub fn new(
        graph: &Arc<Graph>,
        data: &Labelled,
        strict: bool,
        chosen: Vec<usize>,
        means: Means,
        progress: &mut Progress,
    ) -> Result<Self> {
        let dataset = &data.dataset;
        let Means { threads, cancel, .. } = means;
        let fixed = fixed_batch(graph);
        let labels = chosen.iter().map(|&i| dataset.label(i)).collect();
        let batch = fixed.unwrap_or(BATCH).max(1);
        let count = chosen.len() / fixed.unwrap_or(1).max(1) * fixed.unwrap_or(1).max(1);
        if count == 0 {
            return Err(Error::usage(format!("the model runs {batch} samples at once, the data has {}", chosen.len()))
                .cure("give more samples or export the model with a free batch"));
        }
        let total = chosen.len() as u64;
        let settings = Settings { batch: BATCH, threads, skip_corrupt: false, cancel: cancel.cloned() };
        let kept = Kept::new(dataset.clone(), data.preprocess.clone(), chosen, settings, &mut |done| {
            progress("reading samples", done, total);
        })?;
        let none = Closeness { agreement: 1.0, divergence: 0.0, sqnr_db: f64::INFINITY, same: Vec::new() };
        let float = Score { top1: None, close: none, correct: Vec::new() };
        let mut judge = Self {
            kept,
            labels,
            map: None,
            reference: Vec::new(),
            width: 0,
            float,
            batch,
            count,
            threads,
            cancel: cancel.cloned(),
        };
        let (answers, shape) = judge.run(graph, means.deadline)?;
        judge.width = answers.len() / count;
        let classes = shape.len() >= 2 && shape[2..].iter().all(|&d| d == 1) && judge.width > 1;
        if classes && dataset.has_labels() {
            let map =
                ClassMap::for_outputs(judge.width, dataset.label_count(), dataset.classes(), data.classes.as_deref());
            judge.map = if strict { Some(map?) } else { map.ok() };
        }
        judge.float = judge.accuracy(&answers, judge.float.close.clone())?;
        judge.reference = answers;
        Ok(judge)
    }
    /// The float network's score.
    pub fn float(&self) -> &Score {
        &self.float
    }
    /// The float network's answers, row after row, and their number.
    pub fn reference(&self) -> (&[f32], usize) {
        (&self.reference, self.width)
    }
    /// Whether labels suit the network.
    pub fn has_labels(&self) -> bool {
        self.map.is_some()
    }
    /// The network's output that is right for each sample, where labels suit the network.
    pub fn right(&self) -> Option<Vec<usize>> {
        let map = self.map.as_ref()?;
        let of = |label: &Option<usize>| label.and_then(|l| map.index_of_label.get(l).copied());
        self.labels[..self.count].iter().map(of).collect()
    }
    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.count
    }
    /// Some of the samples, as they run at once.
    ///
    /// # Errors
    /// When there are not as many.
    pub fn batch(&self, range: std::ops::Range<usize>) -> Result<Tensor> {
        self.kept.batch(range)
    }
    /// Scores another network of the same input: on integers where it is quantized.
    ///
    /// # Errors
    /// As the engines; [`ErrorKind::Interrupted`].
    pub fn score(&self, graph: &Arc<Graph>) -> Result<Score> {
        self.score_by(graph, None)
    }
    /// As [`Judge::score`]; the work ends with [`ErrorKind::Interrupted`] when it is not done by then.
    ///
    /// # Errors
    /// As [`Judge::score`].
    pub fn score_by(&self, graph: &Arc<Graph>, deadline: Option<Instant>) -> Result<Score> {
        let (answers, _) = self.run(graph, deadline)?;
        if answers.len() != self.reference.len() {
            return Err(Error::internal(format!("{} answers, {} before", answers.len(), self.reference.len())));
        }
        let close = score::compare(&self.reference, &answers, self.width);
        self.accuracy(&answers, close)
    }
    fn accuracy(&self, answers: &[f32], close: Closeness) -> Result<Score> {
        let Some(map) = &self.map else { return Ok(Score { top1: None, close, correct: Vec::new() }) };
        let mut accuracy = Accuracy::new(map.clone());
        let logits = Tensor::of(&[self.count, self.width], answers.to_vec());
        accuracy.add(&logits, &self.labels[..self.count])?;
        let restricted = accuracy.restricted_top1();
        let correct = if restricted.is_some() { accuracy.correct_restricted() } else { accuracy.correct() };
        Ok(Score { top1: Some(restricted.unwrap_or(accuracy.top1())), close, correct: correct.to_vec() })
    }
    fn run(&self, graph: &Arc<Graph>, deadline: Option<Instant>) -> Result<(Vec<f32>, Vec<usize>)> {
        let options = Options { kind: Kind::for_graph(graph), profile: Profile::default(), threads: self.threads };
        let mut engine = Engine::open(graph.clone(), options)?;
        let (mut answers, mut shape) = (Vec::new(), Vec::new());
        for start in (0..self.count).step_by(self.batch) {
            check(self.cancel.as_deref())?;
            in_time(deadline)?;
            let range = start..self.count.min(start + self.batch);
            let rows = range.len();
            let input = self.kept.batch(range)?;
            let output = engine.run(vec![input.clone()])?.into_iter().next();
            input.release();
            let output = output.ok_or_else(|| Error::usage("the model has no output"))?;
            if output.shape().first() != Some(&rows) {
                let cause = format!("the model answers {rows} samples with an output of shape {:?}", output.shape());
                return Err(Error::shape(cause).cure("the first dimension of the output must be the batch"));
            }
            shape = output.shape().to_vec();
            answers.extend_from_slice(output.as_slice::<f32>().at(|| "the model's first output")?);
        }
        if let Some(i) = answers.iter().position(|x| !x.is_finite()) {
            let cause = format!(
                "answer {} of sample {} is {}",
                i % (answers.len() / self.count),
                i * self.count / answers.len(),
                answers[i]
            );
            return Err(Error::new(ErrorKind::Value, cause)
                .cure("repair the model or the sample: NaN and infinities cannot be judged"));
        }
        Ok((answers, shape))
    }
}
