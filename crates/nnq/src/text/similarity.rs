//! How well a network's sentence embeddings tell what is alike.
use super::{Inputs, Pair, Tokenizer, Tokens, batches, check_vocabulary, pearson, spearman};
use crate::{
    engine::{Engine, Ran},
    error::{At, Error, Result},
    eval,
    ir::Tensor,
    quantize,
};
use serde::Serialize;
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

/// How to measure.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Texts of the same length that run at once; `None`: [`eval::usual_batch`].
    pub batch: Option<usize>,
    /// Only the first so many pairs.
    pub limit: Option<usize>,
    /// Set by others to stop.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// How good embeddings are.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Pairs of sentences.
    pub pairs: usize,
    /// Spearman's rank correlation of the cosines of embeddings with the scores.
    pub spearman: f64,
    /// Pearson's correlation of the same.
    pub pearson: f64,
    /// Numbers of an embedding.
    pub width: usize,
    /// Tokens of all sentences.
    pub tokens: u64,
    /// Sentences that were longer than the tokenizer allows.
    pub cut: usize,
    /// Against another network, which is usually the one that this one was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// Wall-clock time of everything.
    pub seconds: f64,
    /// Wall-clock time inside the engine.
    pub engine_seconds: f64,
    /// What ran the model.
    #[serde(flatten)]
    pub ran: Ran,
}

/// Against another network.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reference {
    /// Its rank correlation.
    pub spearman: f64,
    /// The mean cosine of its embeddings and ours, of the same sentences.
    pub mean_cosine: f64,
    /// The smallest of them.
    pub least_cosine: f64,
}

/// Embeds both sentences of every pair and compares their cosines with the scores. `progress(done, of)` counts sentences.
///
/// # Errors
/// When the network takes no text or answers no embeddings, with the sentence that failed; when all cosines or scores are equal.
pub fn measure(
    engine: &mut Engine,
    reference: Option<&mut Engine>,
    pairs: &[Pair],
    tokenizer: &Tokenizer,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let start = Instant::now();
    let pairs = &pairs[..options.limit.map_or(pairs.len(), |n| n.min(pairs.len()))];
    if pairs.len() < 2 {
        return Err(Error::usage(format!("{} pairs of sentences", pairs.len())).cure("a correlation needs two or more"));
    }
    let texts: Vec<&str> = pairs.iter().flat_map(|p| p.sentences.iter().map(String::as_str)).collect();
    let tokens = texts.iter().map(|t| tokenizer.encode(t)).collect::<Result<Vec<_>>>()?;
    for engine in [Some(&*engine), reference.as_deref()].into_iter().flatten() {
        check_vocabulary(engine.graph(), tokens.iter())?;
    }
    let all = texts.len() as u64 * if reference.is_some() { 2 } else { 1 };
    let ours = embed(engine, &texts, &tokens, options, &mut |done| progress(done, all))?;
    let other = match reference {
        Some(engine) => Some(embed(engine, &texts, &tokens, options, &mut |d| progress(texts.len() as u64 + d, all))?),
        None => None,
    };
    let scores: Vec<f64> = pairs.iter().map(|p| p.score).collect();
    let cosines = |e: &Embedded| e.rows.chunks(2).map(|two| cosine(&two[0], &two[1])).collect::<Vec<f64>>();
    let flat = || {
        Error::value("all cosines or all scores are equal, so that nothing correlates with anything")
            .cure("give pairs of different scores, and a network whose embeddings differ")
    };
    let own = cosines(&ours);
    let reference = other.map(|other| {
        let each = ours.rows.iter().zip(&other.rows);
        if ours.rows[0].len() != other.rows[0].len() {
            return Err(Error::shape(format!(
                "embeddings of {} numbers, and of {} by the reference",
                ours.rows[0].len(),
                other.rows[0].len()
            )));
        }
        let same: Vec<f64> = each.map(|(a, b)| cosine(a, b)).collect();
        Ok(Reference {
            spearman: spearman(&cosines(&other), &scores).ok_or_else(flat)?,
            mean_cosine: same.iter().sum::<f64>() / same.len() as f64,
            least_cosine: same.iter().copied().fold(1.0, f64::min),
        })
    });
    Ok(Report {
        pairs: pairs.len(),
        spearman: spearman(&own, &scores).ok_or_else(flat)?,
        pearson: pearson(&own, &scores).ok_or_else(flat)?,
        width: ours.rows.first().map_or(0, Vec::len),
        tokens: tokens.iter().map(|t| t.ids.len() as u64).sum(),
        cut: tokens.iter().filter(|t| t.cut).count(),
        reference: reference.transpose()?,
        seconds: start.elapsed().as_secs_f64(),
        engine_seconds: ours.inside.as_secs_f64(),
        ran: engine.ran(),
    })
}

struct Embedded {
    rows: Vec<Vec<f32>>,
    inside: Duration,
}

/// The embedding of each text.
fn embed(
    engine: &mut Engine,
    texts: &[&str],
    tokens: &[Tokens],
    options: &Options,
    done: &mut dyn FnMut(u64),
) -> Result<Embedded> {
    let inputs = Inputs::new(engine.graph())?;
    let batch = options.batch.unwrap_or_else(|| eval::usual_batch(engine.graph())).max(1);
    let mut rows = vec![Vec::new(); tokens.len()];
    let (mut inside, mut count) = (Duration::ZERO, 0);
    for some in batches(tokens.iter().enumerate(), batch) {
        quantize::check(options.cancel.as_deref())?;
        let place = || format!("'{}'", super::start_of(texts[some[0]]));
        let x = inputs.batch(&some.iter().map(|&i| &tokens[i]).collect::<Vec<_>>())?;
        let clock = Instant::now();
        let y = engine.run(x).at(place)?;
        inside += clock.elapsed();
        let y = y.into_iter().next().ok_or_else(|| Error::usage("the network has no output"))?;
        for (row, &i) in pooled(&y, some.len()).at(place)?.into_iter().zip(&some) {
            rows[i] = row;
        }
        count += some.len() as u64;
        done(count);
    }
    Ok(Embedded { rows, inside })
}

/// The rows `[N, D]` of an answer, or the means over tokens of `[N, T, D]`.
fn pooled(y: &Tensor, samples: usize) -> Result<Vec<Vec<f32>>> {
    let numbers = y.as_slice::<f32>()?;
    let rows: Vec<Vec<f32>> = match *y.shape() {
        [n, d] if n == samples && d > 0 => numbers.chunks_exact(d).map(<[f32]>::to_vec).collect(),
        [n, t, d] if n == samples && t > 0 && d > 0 => {
            let mean = |one: &[f32]| {
                let mut sum = vec![0.0f64; d];
                for token in one.chunks_exact(d) {
                    sum.iter_mut().zip(token).for_each(|(s, x)| *s += f64::from(*x));
                }
                sum.iter().map(|s| (s / t as f64) as f32).collect()
            };
            numbers.chunks_exact(t * d).map(mean).collect()
        }
        _ => {
            return Err(Error::shape(format!("an answer of shape {:?} to {samples} texts", y.shape()))
                .cure("embeddings are [N, D], or [N, T, D] for each token"));
        }
    };
    match rows.iter().flatten().any(|x| !x.is_finite()) {
        true => {
            Err(Error::value("an embedding that is no number")
                .cure("run the float network on this text: does it, too?"))
        }
        false => Ok(rows),
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let length = (dot(a, a) * dot(b, b)).sqrt();
    // What has no direction is like nothing.
    if length > 0.0 { dot(a, b) / length } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_and_means_by_hand() {
        assert!((cosine(&[1.0, 0.0], &[3.0, 4.0]) - 0.6).abs() < 1e-12);
        assert_eq!(cosine(&[0.0, 0.0], &[3.0, 4.0]), 0.0);
        let y = Tensor::of(&[1, 2, 2], vec![1.0f32, 2.0, 3.0, 6.0]);
        assert_eq!(pooled(&y, 1).unwrap(), [[2.0, 4.0]]);
        let y = Tensor::of(&[2, 1], vec![1.0f32, f32::NAN]);
        assert!(pooled(&y, 2).unwrap_err().to_string().contains("no number"));
        assert!(pooled(&y, 1).unwrap_err().to_string().contains("[2, 1]"));
    }
}
