//! Accuracy, and the confidence interval of the difference between two models on the same samples.
use super::classes::ClassMap;
use crate::{
    error::{Error, Result},
    ir::Tensor,
};

/// Counts right answers. Ties between outputs go to the lower index; an output that is NaN is never the answer.
#[derive(Clone, Debug)]
pub struct Accuracy {
    map: ClassMap,
    top1: Vec<bool>,
    top5: usize,
    restricted: Vec<bool>,
    /// Of each output.
    counts: Vec<Counts>,
}

/// How often an output was right, was the answer, and was both.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    right: usize,
    answered: usize,
    both: usize,
}

impl Counts {
    /// The harmonic mean of precision and recall; none of what neither occurs nor was answered.
    fn f1(self) -> Option<f64> {
        let all = self.right + self.answered;
        (all > 0).then(|| 2.0 * self.both as f64 / all as f64)
    }
}

impl Accuracy {
    /// Nothing counted yet.
    pub fn new(map: ClassMap) -> Self {
        Self { map, top1: Vec::new(), top5: 0, restricted: Vec::new(), counts: Vec::new() }
    }

    /// Counts a batch: `logits` of shape `[N, outputs]` (or `[N, outputs, 1, 1]`) and one label per sample.
    ///
    /// # Errors
    /// When shapes do not fit, a label is missing or outside the map.
    pub fn add(&mut self, logits: &Tensor, labels: &[Option<usize>]) -> Result<()> {
        let &[n, outputs, ref ones @ ..] = logits.shape() else {
            return Err(Error::shape(format!("logits of shape {:?}, expected [samples, outputs]", logits.shape())));
        };
        if n != labels.len() || outputs == 0 || ones.iter().any(|&d| d != 1) {
            let cause = format!("logits of shape {:?} for {} labels", logits.shape(), labels.len());
            return Err(Error::shape(cause).cure("accuracy needs one row of outputs per sample"));
        }
        if let Some(&i) = self.map.index_of_label.iter().find(|&&i| i >= outputs) {
            return Err(Error::shape(format!("the classes use output {i}, but the model has {outputs}")));
        }
        if self.counts.len() < outputs {
            self.counts.resize(outputs, Counts::default());
        }
        for (row, label) in logits.to_f32s().chunks_exact(outputs).zip(labels) {
            let label = label.ok_or_else(|| Error::usage("a sample without a label cannot be right or wrong"))?;
            let &right = self.map.index_of_label.get(label).ok_or_else(|| {
                Error::shape(format!("label {label}, but only {} classes are known", self.map.index_of_label.len()))
            })?;
            let better = |i: &usize| row[*i] > row[right] || row[*i] == row[right] && *i < right;
            let nan = row[right].is_nan();
            let above = (0..outputs).filter(better).count();
            self.top1.push(!nan && above == 0);
            self.top5 += usize::from(!nan && above < 5);
            let answer = (0..outputs).filter(|&i| !row[i].is_nan()).reduce(|a, b| if row[b] > row[a] { b } else { a });
            self.counts[right].right += 1;
            if let Some(answer) = answer {
                self.counts[answer].answered += 1;
                self.counts[answer].both += usize::from(answer == right);
            }
            self.restricted.push(!nan && !self.map.index_of_label.iter().any(better));
        }
        Ok(())
    }
    /// Samples counted.
    pub fn count(&self) -> usize {
        self.top1.len()
    }
    /// The share of samples whose class has the largest output of all; NaN when nothing is counted.
    pub fn top1(&self) -> f64 {
        share(&self.top1)
    }
    /// The share of samples whose class is among the five largest outputs; NaN when nothing is counted.
    pub fn top5(&self) -> f64 {
        self.top5 as f64 / self.top1.len() as f64
    }
    /// The share of samples whose class has the largest output among the data's classes, where that differs from
    /// [`Accuracy::top1`].
    pub fn restricted_top1(&self) -> Option<f64> {
        self.map.restrict.then(|| share(&self.restricted))
    }
    /// The mean over outputs of the harmonic mean of precision and recall (F1), of those that are right for a sample or were answered; NaN when nothing is counted.
    pub fn macro_f1(&self) -> f64 {
        let all: Vec<f64> = self.counts.iter().filter_map(|c| c.f1()).collect();
        all.iter().sum::<f64>() / all.len() as f64
    }
    /// F1 of the second of two outputs, which by custom is the one that is looked for: 0 where it neither occurs nor was answered.
    pub fn f1(&self) -> Option<f64> {
        match self.counts[..] {
            [_, second] => Some(second.f1().unwrap_or(0.0)),
            _ => None,
        }
    }
    /// For each sample in order whether [`Accuracy::top1`] counts it as right.
    pub fn correct(&self) -> &[bool] {
        &self.top1
    }
    /// For each sample in order whether [`Accuracy::restricted_top1`] counts it as right.
    pub fn correct_restricted(&self) -> &[bool] {
        &self.restricted
    }
}

fn share(right: &[bool]) -> f64 {
    right.iter().filter(|&&r| r).count() as f64 / right.len() as f64
}

/// The 0.975 quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The difference of two accuracies on the same samples, `b - a`, with its 95 % confidence interval `(difference, low,
/// high)` in shares of 1.
///
/// The interval is the asymptotic score interval for paired proportions: all differences that the score test with the
/// constrained maximum-likelihood estimate does not reject. It depends only on the samples where the models disagree and
/// keeps its level for few of them, unlike Wald's; two models that never disagree get `z^2 / (n + z^2)` to both sides.
///
/// T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
/// Statistics in Medicine 17 (1998), 891-908. Recommended by M. W. Fagerland, S. Lydersen, P. Laake, Recommended tests and
/// confidence intervals for paired binomial proportions, Statistics in Medicine 33 (2014), 2850-2875.
///
/// # Errors
/// When the lengths differ or are 0.
pub fn paired_difference(a: &[bool], b: &[bool]) -> Result<(f64, f64, f64)> {
    if a.len() != b.len() || a.is_empty() {
        return Err(Error::shape(format!("{} and {} answers cannot be compared in pairs", a.len(), b.len())));
    }
    let count = |x: bool, y: bool| a.iter().zip(b).filter(|p| *p == (&x, &y)).count() as f64;
    Ok(score_interval(count(false, true), count(true, false), a.len() as f64))
}

/// `gained` and `lost` of `n` pairs change; the difference is `(gained - lost) / n`.
fn score_interval(gained: f64, lost: f64, n: f64) -> (f64, f64, f64) {
    let estimate = (gained - lost) / n;
    // The score statistic falls with the assumed difference `d`; it is +-z at the limits.
    let score = |d: f64| {
        let half = (2.0 * n - gained + lost) * d - gained - lost;
        let root = (half * half + 8.0 * n * lost * d * (1.0 - d)).max(0.0).sqrt();
        let q = ((root - half) / (4.0 * n)).max(0.0);
        let variance = n * (2.0 * q + d * (1.0 - d));
        let distance = gained - lost - n * d;
        if distance == 0.0 { 0.0 } else { distance / variance.max(0.0).sqrt() }
    };
    let bisect = |mut low: f64, mut high: f64, target: f64| {
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if score(middle) > target { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    };
    (estimate, bisect(-1.0, estimate, Z), bisect(estimate, 1.0, -Z))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(both: usize, lost: usize, gained: usize, neither: usize) -> (Vec<bool>, Vec<bool>) {
        let mut ab = Vec::new();
        for (n, pair) in
            [(both, (true, true)), (lost, (true, false)), (gained, (false, true)), (neither, (false, false))]
        {
            ab.extend(std::iter::repeat_n(pair, n));
        }
        ab.into_iter().unzip()
    }

    /// Published: Fagerland, Lydersen, Laake (2014) and their book's package `contingencytables` on Cavo et al. (2012), the
    /// table [59, 6; 16, 80], give -0.0621 (-0.1240 to -0.0054) for first minus second.
    #[test]
    fn published_interval() {
        let (first, second) = pairs(59, 6, 16, 80);
        let (d, low, high) = paired_difference(&second, &first).unwrap();
        for (found, published) in [(d, -0.0621), (low, -0.1240), (high, -0.0054)] {
            assert!((found - published).abs() < 0.5e-4, "{found} {published}");
        }
        // The other way round mirrors it.
        let (d2, low2, high2) = paired_difference(&first, &second).unwrap();
        for (x, y) in [(d2, -d), (low2, -high), (high2, -low)] {
            assert!((x - y).abs() < 1e-12, "{x} {y}");
        }
    }

    /// No disagreement: the closed form; total disagreement: a limit at the end of the range.
    #[test]
    fn extremes() {
        let (a, b) = pairs(90, 0, 0, 10);
        let (d, low, high) = paired_difference(&a, &b).unwrap();
        let closed = Z * Z / (100.0 + Z * Z);
        assert_eq!(d, 0.0);
        assert!((low + closed).abs() < 1e-9 && (high - closed).abs() < 1e-9, "{low} {high} {closed}");
        let (a, b) = pairs(0, 0, 20, 0);
        let (d, low, high) = paired_difference(&a, &b).unwrap();
        assert_eq!(d, 1.0);
        assert!(low > 0.6 && low < 1.0 && (high - 1.0).abs() < 1e-9, "{low} {high}");
        assert!(paired_difference(&a, &b[1..]).is_err());
        assert!(paired_difference(&[], &[]).is_err());
    }

    /// `tools/golden_paired.py`: the same interval from a numeric maximum of the likelihood instead of the closed form.
    #[test]
    fn equals_numeric_likelihood() {
        for (table, limits) in [
            ((59, 16, 6, 80), (-0.124_023_431_992, -0.005_433_396_306)),
            ((1, 7, 1, 12), (-0.517_232_275_784, -0.026_003_035_741)),
            ((9000, 130, 80, 790), (-0.007_904_448_931, -0.002_179_797_593)),
        ] {
            let (a, b) = pairs(table.0, table.1, table.2, table.3);
            let (_, low, high) = paired_difference(&a, &b).unwrap();
            assert!((low - limits.0).abs() < 1e-8 && (high - limits.1).abs() < 1e-8, "{table:?}: {low} {high}");
        }
    }

    #[test]
    fn counting() {
        let map = ClassMap { index_of_label: vec![1, 4], restrict: true };
        let mut acc = Accuracy::new(map);
        #[rustfmt::skip]
        let logits = Tensor::of(&[4, 7], vec![
            0., 9., 1., 2., 3., 4., 5f32, // label 0 -> output 1: right
            9., 5., 1., 2., 4., 0., 0., // label 0: right among {1, 4} only; second of all
            9., 1., 8., 7., 0., 6., 5., // label 1 -> output 4: wrong everywhere
            3., 3., 0., 0., 3., 0., 0., // label 0: a tie with output 0, which wins; ahead of output 4
        ]);
        acc.add(&logits, &[Some(0), Some(0), Some(1), Some(0)]).unwrap();
        assert_eq!(acc.correct(), [true, false, false, false]);
        assert_eq!(acc.correct_restricted(), [true, true, false, true]);
        assert_eq!((acc.count(), acc.top1(), acc.top5(), acc.restricted_top1()), (4, 0.25, 0.75, Some(0.75)));
        let nan = Tensor::of(&[1, 7, 1, 1], vec![0., f32::NAN, 0., 0., 0., 0., 0.]);
        acc.add(&nan, &[Some(0)]).unwrap();
        assert!(!acc.correct()[4]);
        assert!(acc.add(&nan, &[None]).is_err());
        assert!(acc.add(&nan, &[Some(2)]).is_err());
        assert!(acc.add(&Tensor::of(&[1, 4], vec![0f32; 4]), &[Some(0)]).is_err());
    }
}
