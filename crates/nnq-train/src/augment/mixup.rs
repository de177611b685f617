//! Mixup: each sample of a batch with some of another one, and its label likewise (Zhang et al., arXiv:1710.09412).
use super::Draws;

/// The draws of partners and of shares, apart from those of images.
const PARTNERS: u64 = 0x6d69_7875_7000_0000;
const SHARES: u64 = 0x6d69_7875_7000_0001;

/// What a sample holds of another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixed {
    /// The other's place in the batch.
    pub with: usize,
    /// Its share, at most a half.
    pub share: f32,
}

/// Mixes samples of `one` numbers each: `x_i` becomes `(1 - s) x_i + s x_j`, where `j` is a number of places further on that is the same for the batch, and
/// `s = min(b, 1 - b)` with `b` from Beta(alpha, alpha). What is drawn depends on seed, epoch and the indices of the samples.
pub fn mix(alpha: f32, (seed, epoch): (u64, u64), indices: &[usize], numbers: &mut [f32], one: usize) -> Vec<Mixed> {
    let n = indices.len();
    if n < 2 || one == 0 {
        return Vec::new();
    }
    let mut first = Draws::new(seed ^ PARTNERS, epoch, indices[0] as u64);
    let shift = 1 + first.below(n - 1);
    let old = numbers.to_vec();
    let mixed = |(i, &index): (usize, &usize)| {
        let mut draws = Draws::new(seed ^ SHARES, epoch, index as u64);
        Mixed { with: (i + shift) % n, share: share(alpha, &mut draws) }
    };
    let all: Vec<Mixed> = indices.iter().enumerate().map(mixed).collect();
    for (x, m) in numbers.chunks_exact_mut(one).zip(&all) {
        for (x, y) in x.iter_mut().zip(&old[m.with * one..][..one]) {
            *x = *x * (1.0 - m.share) + y * m.share;
        }
    }
    all
}

/// `min(b, 1 - b)` by Jöhnk's method: `x = u^(1/alpha)` and `y = v^(1/alpha)`, until `x + y <= 1`; then `x / (x + y)`.
fn share(alpha: f32, draws: &mut Draws) -> f32 {
    loop {
        let [x, y] = [(); 2].map(|()| draws.open().ln() / f64::from(alpha));
        if x.exp() + y.exp() <= 1.0 {
            let b = 1.0 / (1.0 + (y - x).exp());
            return b.min(1.0 - b) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(n: usize) -> Vec<f32> {
        (0..n * 3).map(|i| (i * i) as f32).collect()
    }

    #[test]
    fn samples_are_mixed_as_it_says() {
        let indices = [4, 7, 1, 0, 9];
        let (old, mut new) = (batch(5), batch(5));
        let all = mix(0.4, (3, 2), &indices, &mut new, 3);
        let shift = all[0].with;
        assert!(shift > 0);
        for (i, m) in all.iter().enumerate() {
            assert_eq!(m.with, (i + shift) % 5);
            assert!((0.0..=0.5).contains(&m.share));
            for k in 0..3 {
                let want = (1.0 - m.share) * old[i * 3 + k] + m.share * old[m.with * 3 + k];
                assert!((new[i * 3 + k] - want).abs() < 1e-4, "{i} {k}");
            }
        }
        let mut again = batch(5);
        assert_eq!(mix(0.4, (3, 2), &indices, &mut again, 3), all);
        assert_eq!(again, new);
        assert_ne!(mix(0.4, (3, 3), &indices, &mut batch(5), 3), all);
        // One sample has nobody to be mixed with.
        let mut alone = batch(1);
        assert!(mix(0.4, (3, 2), &[0], &mut alone, 3).is_empty());
        assert_eq!(alone, batch(1));
    }

    /// The variance of Beta(a, a) is 1 / (4 (2 a + 1)); folded at the middle, around which it is symmetric, the mean square distance from it stays.
    #[test]
    fn shares_have_the_moments_of_the_distribution() {
        for alpha in [0.2f32, 0.5, 1.0] {
            let n = 40_000;
            let square = |i| (0.5 - f64::from(share(alpha, &mut Draws::new(1, 2, i)))).powi(2);
            let mean = (0..n).map(square).sum::<f64>() / n as f64;
            let want = 1.0 / (4.0 * (2.0 * f64::from(alpha) + 1.0));
            // Five deviations of the mean of 40,000 numbers between 0 and 1/4.
            assert!((mean - want).abs() < 5.0 * 0.125 / (n as f64).sqrt(), "{alpha}: {mean} {want}");
        }
    }
}
