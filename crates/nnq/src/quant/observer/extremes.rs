//! The extremes of each sample, for methods that average over samples.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Minimum and maximum of each sample, keyed by the sample's index in the calibration set.
///
/// A moving average depends on the order of the samples. Keeping the extremes (8 bytes per sample) instead of the
/// average makes merging commutative and lets every average be computed afterwards in the order of the indices,
/// whatever the sharding was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Extremes {
    /// Runs of consecutive indices by their first; never adjacent, never empty.
    runs: BTreeMap<u64, Vec<[f32; 2]>>,
}

impl Extremes {
    /// Widens sample `index` by `[min, max]`.
    pub fn insert(&mut self, index: u64, min: f32, max: f32) {
        // -0 would make the bytes depend on the order.
        let new = [min + 0.0, max + 0.0];
        if let Some((&start, run)) = self.runs.range_mut(..=index).next_back() {
            let at = usize::try_from(index - start).unwrap_or(usize::MAX);
            if let Some(old) = run.get_mut(at) {
                *old = [old[0].min(new[0]), old[1].max(new[1])];
                return;
            }
            if at == run.len() {
                run.push(new);
                self.join(start, index);
                return;
            }
        }
        self.runs.insert(index, vec![new]);
        self.join(index, index);
    }
    /// Appends the run that begins after `last` to the one at `start`, which ends with `last`.
    fn join(&mut self, start: u64, last: u64) {
        if let Some(tail) = last.checked_add(1).and_then(|next| self.runs.remove(&next))
            && let Some(run) = self.runs.get_mut(&start)
        {
            run.extend(tail);
        }
    }
    /// Adds the samples of `other`; a sample that both have gets the wider extremes.
    pub fn merge(&mut self, other: &Self) {
        for (i, [min, max]) in other.iter() {
            self.insert(i, min, max);
        }
    }
    /// `(index, [min, max])` in the order of the indices.
    pub fn iter(&self) -> impl Iterator<Item = (u64, [f32; 2])> + '_ {
        self.runs.iter().flat_map(|(&start, run)| run.iter().enumerate().map(move |(i, x)| (start + i as u64, *x)))
    }
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.runs.values().map(Vec::len).sum()
    }
    /// No samples.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
    /// The exponential moving average of both extremes in the order of the indices: the first sample is copied, each
    /// further one `x` moves the average `m` to `m + c (x - m)`. `None` without samples.
    pub fn moving_average(&self, c: f64) -> Option<[f64; 2]> {
        self.iter().map(|(_, x)| x.map(f64::from)).reduce(|m, x| [m[0] + c * (x[0] - m[0]), m[1] + c * (x[1] - m[1])])
    }
}

/// What is written: pairs of first index and run.
#[derive(Serialize, Deserialize)]
struct Wire(Vec<(u64, Vec<[f32; 2]>)>);

impl From<Extremes> for Wire {
    fn from(e: Extremes) -> Self {
        Self(e.runs.into_iter().collect())
    }
}

impl TryFrom<Wire> for Extremes {
    type Error = &'static str;
    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        let mut last: Option<u64> = None;
        for (start, run) in &wire.0 {
            // Runs that touch would have been one.
            if last.is_some_and(|l| l.checked_add(1).is_none_or(|next| *start <= next)) {
                return Err("runs of samples overlap or touch");
            }
            let good = |&[lo, hi]: &[f32; 2]| {
                lo.is_finite() && hi.is_finite() && lo <= hi && [lo, hi].iter().all(|x| x.to_bits() != 1 << 31)
            };
            if run.is_empty() || !run.iter().all(good) {
                return Err("the extremes of a sample are not finite or not in order");
            }
            last = Some(start.checked_add(run.len() as u64 - 1).ok_or("sample indices overflow")?);
        }
        Ok(Self { runs: wire.0.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_join_and_repeats_widen() {
        let mut e = Extremes::default();
        for i in [5, 7, 6, 0, u64::MAX, u64::MAX - 1] {
            e.insert(i, i as f32, i as f32 + 1.0);
        }
        e.insert(6, -3.0, 2.0);
        let got: Vec<_> = e.runs.iter().map(|(s, r)| (*s, r.len())).collect();
        assert_eq!(got, [(0, 1), (5, 3), (u64::MAX - 1, 2)]);
        assert_eq!(e.iter().find(|x| x.0 == 6), Some((6, [-3.0, 7.0])));
        assert_eq!(e.len(), 6);
    }
    #[test]
    fn average_by_hand() {
        let mut e = Extremes::default();
        e.insert(1, -2.0, 3.0);
        e.insert(0, 0.0, 1.0);
        e.insert(2, -1.0, 0.0);
        // 0 -> -0.5 -> -0.625; 1 -> 1.5 -> 1.125
        assert_eq!(e.moving_average(0.25), Some([-0.625, 1.125]));
        assert_eq!(Extremes::default().moving_average(0.25), None);
    }
    #[test]
    fn lying_wire_is_refused() {
        let run = || vec![[0.0f32, 1.0]];
        for bad in [
            vec![(3, run()), (3, run())],
            vec![(3, run()), (4, run())],
            vec![(0, vec![])],
            vec![(0, vec![[1.0, 0.0]])],
            vec![(0, vec![[f32::NAN, 0.0]])],
            vec![(0, vec![[-0.0, 0.0]])],
            vec![(u64::MAX, run()), (u64::MAX, run())],
            vec![(u64::MAX, vec![[0.0, 1.0]; 2])],
        ] {
            assert!(Extremes::try_from(Wire(bad.clone())).is_err(), "{bad:?}");
        }
        assert_eq!(Extremes::try_from(Wire(vec![(0, run()), (2, run())])).unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn any_order_gives_the_same(list in prop::collection::vec((0u64..40, -2.0f32..2.0, 0.0f32..2.0), 0..60), cut in 0usize..60) {
            let mut forward = Extremes::default();
            for &(i, lo, w) in &list { forward.insert(i, lo, lo + w); }
            let (a, b) = list.split_at(cut.min(list.len()));
            let mut parts = [a, b].map(|part| {
                let mut e = Extremes::default();
                for &(i, lo, w) in part.iter().rev() { e.insert(i, lo, lo + w); }
                e
            });
            let [first, second] = &mut parts;
            second.merge(first);
            prop_assert_eq!(&*second, &forward);
        }
    }
}
