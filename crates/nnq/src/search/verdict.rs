//! What a candidate costs.
use crate::{
    data::paired_difference,
    error::Result,
    judge::{Judge, Score},
};
use serde::Serialize;

/// What right answers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answers {
    /// The labels of the data.
    Labels,
    /// The float network's own.
    Agreement,
}

impl Answers {
    /// Labels where the judge has some that suit the network.
    pub fn of(judge: &Judge) -> Self {
        if judge.has_labels() { Self::Labels } else { Self::Agreement }
    }
}

/// How a candidate did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Verdict {
    /// Right answers that the float network has more, in shares of 1.
    pub drop: f64,
    /// Its 95 % confidence interval.
    pub interval: [f64; 2],
    /// Mean Kullback-Leibler divergence of the answers from the float network's, in nats: a finer measure than answers, by which candidates are
    /// compared.
    pub noise: f64,
}

impl Verdict {
    /// From the score of a candidate.
    ///
    /// # Errors
    /// When there are no samples.
    pub fn new(judge: &Judge, score: &Score) -> Result<Self> {
        let (difference, low, high) = match Answers::of(judge) {
            Answers::Labels => paired_difference(&judge.float().correct, &score.correct)?,
            Answers::Agreement => paired_difference(&vec![true; score.close.same.len()], &score.close.same)?,
        };
        Ok(Self { drop: -difference, interval: [-high, -low], noise: score.close.divergence })
    }
}
