//! Correlation of two lists.

/// Pearson's correlation: `cov(a, b) / sqrt(var(a) var(b))`; none where one of them does not vary, or their lengths differ.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.is_empty() {
        return None;
    }
    let n = a.len() as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - ma, b - mb)).sum::<f64>();
    let (both, va, vb) = (sum(&|a, b| a * b), sum(&|a, _| a * a), sum(&|_, b| b * b));
    let r = both / (va * vb).sqrt();
    r.is_finite().then_some(r)
}

/// Spearman's rank correlation (1904): Pearson's of the ranks, where equal numbers share the mean of theirs.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&i, &j| x[i].total_cmp(&x[j]));
    let mut out = vec![0.0; x.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start + 1;
        while end < order.len() && x[order[end]] == x[order[start]] {
            end += 1;
        }
        let mean = (start + end - 1) as f64 / 2.0 + 1.0;
        order[start..end].iter().for_each(|&i| out[i] = mean);
        start = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_their_mean() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }

    /// Golden numbers of SciPy 1.17.
    #[test]
    fn as_scipy_has_it() {
        let a = [2.5, 0.0, 4.2, 4.2, 1.0, 3.3, 5.0, 0.4];
        let b = [0.31, 0.12, 0.77, 0.69, 0.31, 0.2, 0.93, -0.05];
        assert!((pearson(&a, &b).unwrap() - 0.8777912151338678).abs() < 1e-12);
        assert!((spearman(&a, &b).unwrap() - 0.8915662650602408).abs() < 1e-12);
        assert_eq!(spearman(&a, &[1.0; 8]), None);
        assert_eq!(pearson(&a, &b[1..]), None);
        let turned: Vec<f64> = a.iter().map(|x| -x).collect();
        assert!((spearman(&a, &turned).unwrap() + 1.0).abs() < 1e-12);
    }
}
