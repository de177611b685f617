//! How far the answers of a network are from those of another.
use super::Energy;
use serde::Serialize;

/// Answers to the same samples, compared with those of the float network.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Closeness {
    /// Share of samples with the same best class (ties go to the lower index).
    pub agreement: f64,
    /// Mean Kullback-Leibler divergence of the answers as probabilities, `sum p ln(p / q)`, `p` the float network's.
    pub divergence: f64,
    /// Signal-to-quantization-noise ratio of the answers, in dB.
    pub sqnr_db: f64,
    /// For each sample whether the best class is the same.
    #[serde(skip)]
    pub same: Vec<bool>,
}

/// The index of the greatest number; NaN is never the greatest.
pub fn best(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, &x) in row.iter().enumerate() {
        if x > row[best] || row[best].is_nan() {
            best = i;
        }
    }
    best
}

/// Logarithms of the probabilities that a row of answers stands for: of the row itself where it is a distribution already, of its softmax
/// otherwise.
fn log_probabilities(row: &[f32], distribution: bool) -> Vec<f64> {
    if distribution {
        return row.iter().map(|&p| libm::log(f64::from(p).max(1e-30))).collect();
    }
    let most = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x.into()));
    let sum: f64 = row.iter().map(|&x| libm::exp(f64::from(x) - most)).sum();
    row.iter().map(|&x| f64::from(x) - most - libm::log(sum)).collect()
}

/// Compares rows of `width` answers; `answers` has as many as `reference`.
#[allow(clippy::cast_precision_loss)]
pub fn compare(reference: &[f32], answers: &[f32], width: usize) -> Closeness {
    let mut energy = Energy::default();
    energy.add(reference, answers);
    let rows = reference.len() / width.max(1);
    let sums_to_one = |row: &[f32]| {
        row.iter().all(|&p| (0.0..=1.0).contains(&p))
            && (row.iter().map(|&p| f64::from(p)).sum::<f64>() - 1.0).abs() < 1e-3
    };
    let distribution = width > 1 && reference.chunks_exact(width).all(sums_to_one);
    let (mut same, mut divergence) = (Vec::with_capacity(rows), 0.0);
    for (p, q) in reference.chunks_exact(width.max(1)).zip(answers.chunks_exact(width.max(1))) {
        same.push(best(p) == best(q));
        let (p, q) = (log_probabilities(p, distribution), log_probabilities(q, distribution));
        divergence += p.iter().zip(&q).map(|(p, q)| libm::exp(*p) * (p - q)).sum::<f64>();
    }
    let rows = rows.max(1) as f64;
    let agreement = same.iter().filter(|&&s| s).count() as f64 / rows;
    Closeness { agreement, divergence: (divergence / rows).max(0.0), sqnr_db: energy.sqnr_db(), same }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let ln = |x: f32| x.ln();
        // Probabilities 1/2, 1/2 against 1/4, 3/4: ln 2 / 2 + ln(2/3) / 2; and equal ones.
        let c = compare(&[ln(2.0), ln(2.0), 5.0, 1.0], &[ln(1.0), ln(3.0), 5.0, 1.0], 2);
        let want = 0.5 * (0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln());
        assert!((c.divergence - want).abs() < 1e-6, "{} {want}", c.divergence);
        assert_eq!((c.agreement, c.same), (0.5, vec![false, true]));
        let same = compare(&[0.25, 0.75], &[0.25, 0.75], 2);
        assert_eq!((same.agreement, same.divergence, same.sqnr_db), (1.0, 0.0, f64::INFINITY));
        // Distributions are taken as they are.
        let d = compare(&[0.5, 0.5], &[0.25, 0.75], 2);
        assert!((d.divergence - (0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln())).abs() < 1e-6);
        assert_eq!(best(&[f32::NAN, 1.0, 1.0]), 1);
    }
}
