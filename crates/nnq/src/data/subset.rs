//! Random choices of samples that depend on nothing but seed and size.
use std::collections::HashMap;

/// How [`subset`] chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Every sample with the same chance.
    Plain,
    /// Each class gets its share of the choice, as exactly as whole numbers allow.
    Stratified,
    /// As many samples of each class, as far as it has them.
    Balanced,
}

/// Chooses `n` of `len` samples; all of them when `n >= len`. The indices come in ascending order.
///
/// Sample `i` has the key `mix(seed, i)` (counter-based: the finaliser of SplitMix64, Steele, Lea, Flood 2014, applied to
/// seed and index), and the smallest keys are chosen. So the choice depends on nothing else, a larger choice contains the
/// smaller one, and no state is carried. Stratified, a sample that is the `r`-th smallest of the `m` of its class is
/// ordered by `(r + 1/2) / m` first; balanced, by `r`.
pub fn subset(len: usize, n: usize, seed: u64, choice: Choice, label: impl Fn(usize) -> Option<usize>) -> Vec<usize> {
    if n >= len {
        return (0..len).collect();
    }
    let mut order: Vec<(u64, usize)> = (0..len).map(|i| (mix(seed, i as u64), i)).collect();
    order.sort_unstable();
    if choice != Choice::Plain {
        let mut sizes: HashMap<Option<usize>, u64> = HashMap::new();
        order.iter().for_each(|&(_, i)| *sizes.entry(label(i)).or_default() += 1);
        let mut seen: HashMap<Option<usize>, u64> = HashMap::new();
        let mut ranked: Vec<(u64, u64, (u64, usize))> = order
            .into_iter()
            .map(|key| {
                let rank = seen.entry(label(key.1)).or_default();
                *rank += 1;
                let size = if choice == Choice::Balanced { 1 } else { sizes[&label(key.1)] };
                (2 * *rank - 1, size, key)
            })
            .collect();
        // Fractions compared exactly.
        ranked.sort_unstable_by(|a, b| {
            (u128::from(a.0) * u128::from(b.1)).cmp(&(u128::from(b.0) * u128::from(a.1))).then(a.2.cmp(&b.2))
        });
        order = ranked.into_iter().map(|(_, _, key)| key).collect();
    }
    let mut chosen: Vec<usize> = order.into_iter().take(n).map(|(_, i)| i).collect();
    chosen.sort_unstable();
    chosen
}

/// Number `index` of the stream `seed`: 64 random bits that depend on nothing else.
pub fn mix(seed: u64, index: u64) -> u64 {
    finalise(finalise(seed).wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// SplitMix64's output function.
fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_as_published() {
        // First outputs of the reference implementation for the seed 0.
        let golden = 0x9E37_79B9_7F4A_7C15u64;
        assert_eq!(finalise(golden), 0xE220_A839_7B1D_CDAF);
        assert_eq!(finalise(golden.wrapping_mul(2)), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(finalise(golden.wrapping_mul(3)), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn nested_sorted_and_dependent_on_the_seed() {
        let plain = |n, seed| subset(1000, n, seed, Choice::Plain, |_| None);
        let (small, large) = (plain(50, 7), plain(300, 7));
        assert_eq!((small.len(), large.len()), (50, 300));
        assert!(small.windows(2).all(|w| w[0] < w[1]) && small.iter().all(|i| large.contains(i)));
        assert_ne!(plain(50, 8), small);
        assert_eq!(plain(1000, 7), (0..1000).collect::<Vec<_>>());
        assert_eq!(subset(0, 5, 1, Choice::Plain, |_| None), Vec::<usize>::new());
        // No part of the range is preferred: 300 in ten tenths, 30 each, deviation 5.
        let mut tenths = [0; 10];
        large.iter().for_each(|i| tenths[i / 100] += 1);
        assert!(tenths.iter().all(|t| (12..=48).contains(t)), "{tenths:?}");
    }

    #[test]
    fn balanced_takes_as_many_of_each_class() {
        // 600 of class 0, 300 of class 1, 100 of class 2.
        let label = |i: usize| Some(if i < 600 { 0 } else { usize::from(i >= 900) + 1 });
        for (n, want) in [(30, [10, 10, 10]), (300, [100, 100, 100]), (500, [200, 200, 100]), (900, [500, 300, 100])] {
            let mut seen = [0; 3];
            subset(1000, n, 3, Choice::Balanced, label).into_iter().for_each(|i| seen[label(i).unwrap()] += 1);
            assert_eq!(seen, want);
        }
    }

    #[test]
    fn stratified_keeps_the_proportions() {
        // 600 of class 0, 300 of class 1, 100 of class 2.
        let label = |i: usize| Some(if i < 600 { 0 } else { usize::from(i >= 900) + 1 });
        for n in [10, 100, 500] {
            let chosen = subset(1000, n, 3, Choice::Stratified, label);
            let mut counts = [0; 3];
            chosen.iter().for_each(|&i| counts[label(i).unwrap()] += 1);
            assert_eq!(counts, [n * 6 / 10, n * 3 / 10, n / 10], "{n}");
            let larger = subset(1000, n + 100, 3, Choice::Stratified, label);
            assert!(chosen.iter().all(|i| larger.contains(i)));
        }
    }
}
