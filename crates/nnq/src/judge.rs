//! A metric for networks that all come from the same float network.
use crate::{
    data::{Accuracy, ClassMap, Dataset, Kept, Settings, Tokens},
    engine::{Engine, Kind, Options},
    error::{At, Error, ErrorKind, Result},
    eval::Labelled,
    exec::lower::Profile,
    ir::{Graph, Tensor},
    quant::analysis::score::{self, Closeness},
    quantize::{Means, Progress, check, fixed_batch, in_time},
    text::{self, Inputs},
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

/// Samples that are run more than once.
enum Ready {
    Kept(Kept),
    /// Texts of the data, and those that run at once, by their places among the chosen ones.
    Texts {
        data: Arc<Dataset>,
        chosen: Vec<usize>,
        batches: Vec<Vec<usize>>,
    },
}

impl Ready {
    /// The tokens of the chosen text at this place.
    fn tokens<'a>(data: &'a Dataset, chosen: &[usize], place: usize) -> Result<&'a Tokens> {
        let tokens = chosen.get(place).and_then(|&i| data.tokens(i));
        tokens.ok_or_else(|| Error::internal(format!("sample {place} is no text")))
    }
    /// Places of the samples that run at once.
    fn batches(&self, count: usize, batch: usize) -> Vec<Vec<usize>> {
        match self {
            Self::Kept(_) => (0..count).step_by(batch).map(|from| (from..count.min(from + batch)).collect()).collect(),
            Self::Texts { batches, .. } => batches.clone(),
        }
    }
    /// The network's inputs for them.
    fn inputs(&self, graph: &Graph, places: &[usize]) -> Result<Vec<Tensor>> {
        match self {
            Self::Kept(kept) => {
                let from = places.first().copied().unwrap_or(0);
                Ok(vec![kept.batch(from..from + places.len())?])
            }
            Self::Texts { data, chosen, .. } => {
                let tokens = places.iter().map(|&p| Self::tokens(data, chosen, p)).collect::<Result<Vec<_>>>()?;
                Inputs::new(graph)?.batch(&tokens)
            }
        }
    }
}

/// Samples that are kept ready to run, with their labels and the float network's answers.
pub struct Judge {
    ready: Ready,
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
        let ready = if dataset.is_text() {
            let tokens: Vec<&Tokens> = (0..count).map(|p| Ready::tokens(dataset, &chosen, p)).collect::<Result<_>>()?;
            text::check_vocabulary(graph, tokens.iter().copied())?;
            let batches = text::batches(tokens.into_iter().enumerate(), batch);
            Ready::Texts { data: dataset.clone(), chosen, batches }
        } else {
            Ready::Kept(Kept::new(dataset.clone(), data.preprocess.clone(), chosen, settings, &mut |done| {
                progress("reading samples", done, total);
            })?)
        };
        let none = Closeness { agreement: 1.0, divergence: 0.0, sqnr_db: f64::INFINITY, same: Vec::new() };
        let float = Score { top1: None, close: none, correct: Vec::new() };
        let mut judge = Self {
            ready,
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
    /// The network's inputs for some of the samples, which run at once.
    ///
    /// # Errors
    /// When there are not as many, or they are texts of different lengths.
    pub fn inputs(&self, graph: &Graph, range: std::ops::Range<usize>) -> Result<Vec<Tensor>> {
        self.ready.inputs(graph, &range.collect::<Vec<_>>())
    }
    /// Whether the samples are texts.
    pub fn has_texts(&self) -> bool {
        matches!(self.ready, Ready::Texts { .. })
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
        let mut shape = Vec::new();
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); self.count];
        for places in self.ready.batches(self.count, self.batch) {
            check(self.cancel.as_deref())?;
            in_time(deadline)?;
            let inputs = self.ready.inputs(graph, &places)?;
            let output = engine.run(inputs.clone())?.into_iter().next();
            inputs.iter().for_each(Tensor::release);
            let output = output.ok_or_else(|| Error::usage("the model has no output"))?;
            if output.shape().first() != Some(&places.len()) {
                let (n, found) = (places.len(), output.shape());
                let cause = format!("the model answers {n} samples with an output of shape {found:?}");
                return Err(Error::shape(cause).cure("the first dimension of the output must be the batch"));
            }
            let numbers = output.as_slice::<f32>().at(|| "the model's first output")?;
            let width = numbers.len() / places.len();
            if !shape.is_empty() && shape[1..] != output.shape()[1..] {
                let cause = format!("an output of shape {:?} after one of {shape:?}", output.shape());
                return Err(Error::shape(cause).cure("judge a network whose answers do not depend on a text's length"));
            }
            shape = output.shape().to_vec();
            for (&place, row) in places.iter().zip(numbers.chunks(width.max(1))) {
                rows[place] = row.to_vec();
            }
        }
        let answers = rows.concat();
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
