//! Accuracy of a model on labelled data.
use crate::{
    data::{Accuracy, ClassMap, ClassRow, Dataset, Preprocess, Settings},
    engine::{Engine, Ran},
    error::{At, Error, Result},
    ir::{Graph, Tensor},
    quantize::{Samples, feed},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

/// Labelled samples and how they become inputs.
#[derive(Clone)]
pub struct Labelled {
    /// The samples.
    pub dataset: Arc<Dataset>,
    /// What is done to each.
    pub preprocess: Preprocess,
    /// Which output each class stands for, where the model has more outputs than the data classes.
    pub classes: Option<Vec<ClassRow>>,
}

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Samples that run at once; `None`: [`usual_batch`]. A model that fixes its batch overrules this.
    pub batch: Option<usize>,
    /// Only the first so many samples.
    pub limit: Option<usize>,
    /// Threads that read and decode; 0: one per core.
    pub threads: usize,
    /// Set by others to stop: the evaluation then ends with [`crate::ErrorKind::Interrupted`].
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for Options {
    /// Usual batches, everything, one thread per core.
    fn default() -> Self {
        Self { batch: None, limit: None, threads: 0, cancel: None }
    }
}

/// How good a model is. Shares are of 1.
#[derive(Clone, Debug, Serialize)]
pub struct EvalReport {
    /// Samples that ran.
    pub samples: usize,
    /// Share of samples whose class has the largest output.
    pub top1: f64,
    /// Share of samples whose class is among the five largest outputs.
    pub top5: f64,
    /// F1 of the second class, where the model has two outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// The mean of all classes' F1.
    pub macro_f1: f64,
    /// Share of samples whose class has the largest output among the classes that the data has, where these are fewer than
    /// the outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1_restricted: Option<f64>,
    /// Wall-clock time of everything, reading included.
    pub seconds: f64,
    /// Wall-clock time inside the engine.
    pub engine_seconds: f64,
    /// SHA-256 of the first output's numbers as little-endian binary32, sample after sample in data order: equal exactly when all
    /// outputs are equal to the bit.
    pub logits_sha256: String,
    /// What ran the model.
    #[serde(flatten)]
    pub ran: Ran,
    /// Samples that ran at once.
    pub batch: usize,
    /// For each sample in data order whether `top1` counts it as right.
    #[serde(skip)]
    pub correct: Vec<bool>,
    /// The same for `top1_restricted`.
    #[serde(skip)]
    pub correct_restricted: Option<Vec<bool>>,
}

/// How many samples run at once where nobody says it: 32, and one by one where results depend on what runs together.
pub fn usual_batch(graph: &Graph) -> usize {
    if graph.is_dynamic() { 1 } else { 32 }
}

/// Counts answers.
struct Tally<'a> {
    data: &'a Labelled,
    hash: Sha256,
    accuracy: Option<Accuracy>,
}

impl Tally<'_> {
    /// Of samples that follow each other in data order.
    fn add(&mut self, logits: &Tensor, indices: &[usize]) -> Result<()> {
        hash_floats(&mut self.hash, logits.as_slice::<f32>()?);
        let Labelled { dataset, classes, .. } = self.data;
        let accuracy = match &mut self.accuracy {
            Some(accuracy) => accuracy,
            none => {
                let width = logits.shape().get(1).copied().unwrap_or(0);
                let map = ClassMap::for_outputs(width, dataset.label_count(), dataset.classes(), classes.as_deref())?;
                none.insert(Accuracy::new(map))
            }
        };
        let labels: Vec<Option<usize>> = indices.iter().map(|&i| dataset.label(i)).collect();
        accuracy.add(logits, &labels)
    }
    /// Of texts, which ran by their length.
    fn add_sorted(&mut self, all: &[(Vec<usize>, Tensor)]) -> Result<()> {
        let mut rows: Vec<(usize, &[f32])> = Vec::new();
        for (indices, logits) in all {
            let width = logits.len() / indices.len().max(1);
            rows.extend(indices.iter().copied().zip(logits.as_slice::<f32>()?.chunks(width.max(1))));
        }
        rows.sort_unstable_by_key(|row| row.0);
        let (indices, rows): (Vec<usize>, Vec<&[f32]>) = rows.into_iter().unzip();
        let width = rows.first().map_or(0, |row| row.len());
        if rows.iter().any(|row| row.len() != width) {
            return Err(Error::shape("answers of different lengths to texts of different lengths")
                .cure("accuracy needs one row of outputs per text"));
        }
        self.add(&Tensor::of(&[rows.len(), width], rows.concat()), &indices)
    }
}

/// Runs every sample and counts. `progress(done, of)` is called after each batch.
///
/// # Errors
/// When the data has no labels or does not suit the model's inputs, and
/// whatever reading and running answer, with the samples' names.
pub fn evaluate(
    engine: &mut Engine,
    data: &Labelled,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<EvalReport> {
    let start = Instant::now();
    let dataset = &data.dataset;
    check(engine.graph(), data)?;
    let batch = engine.batch(options.batch.unwrap_or_else(|| usual_batch(engine.graph())));
    let count = options.limit.map_or(dataset.len(), |n| n.min(dataset.len()));
    let settings = Settings { batch, threads: options.threads, skip_corrupt: false, cancel: options.cancel.clone() };
    let samples = Samples { dataset: dataset.clone(), preprocess: data.preprocess.clone() };
    let mut tally = Tally { data, hash: Sha256::new(), accuracy: None };
    let mut inside = Duration::ZERO;
    let mut texts = Vec::new();
    let mut done = 0;
    for b in feed::batches(engine.graph(), &samples, (0..count).collect(), settings)? {
        let feed::Batch { mut inputs, indices } = b?;
        let place = || match indices[..] {
            [first, .., last] if !dataset.is_text() => format!("{} to {}", dataset.name(first), dataset.name(last)),
            _ => feed::named(&samples, &indices),
        };
        let n = indices.len();
        let size = engine.batch(n);
        if size != n {
            inputs = inputs.into_iter().map(|x| fill(x, size)).collect::<Result<_>>()?;
        }
        let clock = Instant::now();
        let outputs = engine.run(inputs).at(place)?;
        inside += clock.elapsed();
        let logits = first_rows(outputs, n).at(place)?;
        if dataset.is_text() {
            if logits.shape().len() != 2 {
                return Err(Error::shape(format!("an answer of shape {:?} to {n} texts", logits.shape()))
                    .cure("a network that tells classes of texts answers [texts, classes]"))
                .at(place);
            }
            texts.push((indices, logits));
        } else {
            tally.add(&logits, &indices).at(place)?;
        }
        done += n;
        progress(done as u64, count as u64);
    }
    if !texts.is_empty() {
        tally.add_sorted(&texts)?;
    }
    let Tally { hash, accuracy, .. } = tally;
    let accuracy = accuracy.ok_or_else(|| Error::usage("the data set holds no samples"))?;
    Ok(EvalReport {
        samples: accuracy.count(),
        top1: accuracy.top1(),
        top5: accuracy.top5(),
        f1: accuracy.f1(),
        macro_f1: accuracy.macro_f1(),
        top1_restricted: accuracy.restricted_top1(),
        seconds: start.elapsed().as_secs_f64(),
        engine_seconds: inside.as_secs_f64(),
        logits_sha256: hash.finalize().iter().map(|b| format!("{b:02x}")).collect(),
        ran: engine.ran(),
        batch,
        correct: accuracy.correct().to_vec(),
        correct_restricted: accuracy.restricted_top1().map(|_| accuracy.correct_restricted().to_vec()),
    })
}

/// What can be known before thousands of samples are read: they have labels, and the first one suits the model.
///
/// # Errors
/// As [`evaluate`].
pub fn check(graph: &Graph, data: &Labelled) -> Result<()> {
    if !data.dataset.has_labels() {
        return Err(Error::usage("the data has no labels, so nothing can be right or wrong")
            .cure("use one sub-folder per class, add labels to the archive, or behind texts: text,label"));
    }
    feed::suits(graph, &Samples { dataset: data.dataset.clone(), preprocess: data.preprocess.clone() })
}

/// Repeats the last sample until there are `size`.
fn fill(input: Tensor, size: usize) -> Result<Tensor> {
    let mut shape = input.shape().to_vec();
    let n = shape.first().copied().filter(|&n| n > 0 && n <= size);
    let n = n.ok_or_else(|| Error::internal(format!("a batch of shape {shape:?} for {size} samples")))?;
    let mut values = input.into_vec::<f32>()?;
    let last = values[values.len() / n * (n - 1)..].to_vec();
    for _ in n..size {
        values.extend_from_slice(&last);
    }
    shape[0] = size;
    Ok(Tensor::of(&shape, values))
}

/// The first output, without the samples that only filled the batch.
fn first_rows(outputs: Vec<Tensor>, n: usize) -> Result<Tensor> {
    let logits = outputs.into_iter().next().ok_or_else(|| Error::usage("the model has no output"))?;
    let mut shape = logits.shape().to_vec();
    match shape.first().copied() {
        Some(rows) if rows == n => Ok(logits),
        Some(rows) if rows > n => {
            let mut values = logits.into_vec::<f32>()?;
            values.truncate(values.len() / rows * n);
            shape[0] = n;
            Ok(Tensor::of(&shape, values))
        }
        _ => Err(Error::shape(format!("the model answers {n} samples with an output of shape {shape:?}"))
            .cure("accuracy needs one row of outputs per sample")),
    }
}

fn hash_floats(hash: &mut Sha256, values: &[f32]) {
    if cfg!(target_endian = "little") {
        hash.update(bytemuck::cast_slice::<f32, u8>(values));
    } else {
        values.iter().for_each(|v| hash.update(v.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::Image,
        ir::{DType, Dim, Graph, Op, Shape},
    };
    use crate::{
        engine::{self, Kind},
        exec::lower::Profile,
    };

    /// A model that answers with the three colours of a picture of one pixel.
    fn colours(batch: Dim) -> Engine {
        let mut g = Graph::new("colours");
        let x =
            g.add_value("x", Some(DType::F32), Some(Shape([vec![batch], [3, 1, 1].map(Dim::Fixed).into()].concat())));
        let y = g.add_value("y", Some(DType::F32), None).unwrap();
        let x = x.unwrap();
        g.add_node("flat", Op::Flatten { axis: 1 }, vec![Some(x)], vec![Some(y)]);
        g.inputs = vec![x];
        g.outputs = vec![y];
        let options = engine::Options { kind: Kind::Float, profile: Profile::Dyadic, threads: 1 };
        Engine::open(Arc::new(g), options).unwrap()
    }

    fn pixels(labels: Option<Vec<usize>>) -> Labelled {
        let pixel = |p: [u8; 3]| Image::new(1, 1, 3, p.to_vec()).unwrap();
        let images = [[9, 1, 2], [0, 5, 5], [1, 2, 3], [7, 8, 9], [3, 1, 2]].map(pixel).to_vec();
        let classes = ["r", "g", "b"].map(String::from).to_vec();
        let dataset = Arc::new(Dataset::in_memory(images, labels, classes).unwrap());
        Labelled { dataset, preprocess: Preprocess::raw(), classes: None }
    }

    /// Whatever the batch, fixed by the model or not, the same samples give the same figures and hash.
    #[test]
    fn counts_and_hash() {
        let data = pixels(Some(vec![0, 1, 2, 1, 0]));
        let flat: Vec<u8> = [9, 1, 2, 0, 5, 5, 1, 2, 3, 7, 8, 9, 3, 1, 2]
            .iter()
            .flat_map(|&x| f32::from(x as u8).to_le_bytes())
            .collect();
        let want: String = Sha256::digest(&flat).iter().map(|b| format!("{b:02x}")).collect();
        for (fixed, batch) in [(None, 1), (None, 2), (None, 7), (Some(1), 4), (Some(3), 4), (Some(8), 1)] {
            let mut engine = colours(fixed.map_or(Dim::sym("N"), Dim::Fixed));
            let mut seen = Vec::new();
            let options = Options { batch: Some(batch), ..Options::default() };
            let report = evaluate(&mut engine, &data, &options, &mut |done, of| seen.push((done, of))).unwrap();
            assert_eq!(report.correct, [true, true, true, false, true], "{fixed:?} {batch}");
            assert_eq!((report.samples, report.top1, report.top5, report.top1_restricted), (5, 0.8, 1.0, None));
            assert_eq!(report.logits_sha256, want, "{fixed:?} {batch}");
            assert_eq!(seen.last(), Some(&(5, 5)));
        }
        let options = Options { limit: Some(2), ..Options::default() };
        let report = evaluate(&mut colours(Dim::sym("N")), &data, &options, &mut |_, _| {}).unwrap();
        assert_eq!(report.correct, [true, true]);
    }

    #[test]
    fn refusals() {
        let run = |data: &Labelled, options: &Options| {
            evaluate(&mut colours(Dim::sym("N")), data, options, &mut |_, _| {}).unwrap_err().to_string()
        };
        assert!(run(&pixels(None), &Options::default()).contains("no labels"));
        let mut gray = pixels(Some(vec![0; 5]));
        gray.preprocess.color = Some(crate::data::Color::Gray);
        assert!(run(&gray, &Options::default()).contains("input 'x'"));
        let cancel = Some(Arc::new(AtomicBool::new(true)));
        assert!(run(&pixels(Some(vec![0; 5])), &Options { cancel, ..Options::default() }).contains("stopped"));
    }
}
