//! The extremes of each sample, for methods that average over samples.
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Minimum and maximum of each sample, keyed by the sample's index in the calibration set: of the 1024 samples with the highest indices, so that memory
/// does not grow with their number.
///
/// A moving average depends on the order of the samples. Keeping the extremes instead of the average makes merging commutative and lets every average be
/// computed afterwards in the order of the indices, whatever the sharding was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Extremes {
    /// In the order of the indices.
    samples: Vec<(u64, [f32; 2])>,
    /// There were more.
    more: bool,
}

/// As many samples are kept: a moving average with the usual weight of 0.01 gives all that came before them a share of 0.99^1024 < 0.004 %.
const MOST: usize = 1024;
/// The largest share of an average that samples which are not kept may have.
const LOST: f64 = 1e-4;
/// Room is made for so many at once.
const STEP: usize = 128;

impl Extremes {
    /// Widens sample `index` by `[min, max]`.
    pub fn insert(&mut self, index: u64, min: f32, max: f32) {
        // -0 would make the bytes depend on the order.
        let new = [min + 0.0, max + 0.0];
        let at = match self.samples.last() {
            Some(&(last, _)) if last < index => Err(self.samples.len()),
            _ => self.samples.binary_search_by_key(&index, |s| s.0),
        };
        match at {
            Ok(i) => {
                let old = &mut self.samples[i].1;
                *old = [old[0].min(new[0]), old[1].max(new[1])];
            }
            // Lower than all that are kept.
            Err(0) if self.samples.len() == MOST => self.more = true,
            Err(i) => {
                if self.samples.len() == MOST {
                    self.more = true;
                    self.samples.copy_within(1..i, 0);
                    self.samples[i - 1] = (index, new);
                } else {
                    if self.samples.len() == self.samples.capacity() {
                        self.samples.reserve_exact(STEP);
                    }
                    self.samples.insert(i, (index, new));
                }
            }
        }
    }
    /// Adds the samples of `other`; a sample that both have gets the wider extremes.
    pub fn merge(&mut self, other: &Self) {
        self.more |= other.more;
        for &(i, [min, max]) in &other.samples {
            self.insert(i, min, max);
        }
    }
    /// `(index, [min, max])` in the order of the indices.
    pub fn iter(&self) -> impl Iterator<Item = (u64, [f32; 2])> + '_ {
        self.samples.iter().copied()
    }
    /// Number of samples that are kept.
    pub fn len(&self) -> usize {
        self.samples.len()
    }
    /// No samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
    /// The exponential moving average of both extremes in the order of the indices: the first sample that is kept is copied, each
    /// further one `x` moves the average `m` to `m + c (x - m)`. `None` without samples.
    ///
    /// # Errors
    /// When samples that are not kept would have a say of more than 0.01 %: with very small `c`.
    pub fn moving_average(&self, c: f64) -> Result<Option<[f64; 2]>> {
        if self.more && (1.0 - c).powi(MOST as i32) > LOST {
            return Err(Error::usage(format!(
                "a moving average with weight {c} looks back further than the last {MOST} samples, whose extremes are kept"
            ))
            .cure("use moving-average:0.01 or more, or calibrate on fewer samples"));
        }
        let all = self.iter().map(|(_, x)| x.map(f64::from));
        Ok(all.reduce(|m, x| [m[0] + c * (x[0] - m[0]), m[1] + c * (x[1] - m[1])]))
    }
}

/// What is written: the samples, and whether there were more.
#[derive(Serialize, Deserialize)]
struct Wire(Vec<(u64, [f32; 2])>, bool);

impl From<Extremes> for Wire {
    fn from(e: Extremes) -> Self {
        Self(e.samples, e.more)
    }
}

impl TryFrom<Wire> for Extremes {
    type Error = &'static str;
    fn try_from(Wire(samples, more): Wire) -> Result<Self, Self::Error> {
        if samples.len() > MOST || more && samples.len() < MOST || samples.windows(2).any(|w| w[0].0 >= w[1].0) {
            return Err("samples are too many, too few or out of order");
        }
        let good = |&(_, [lo, hi]): &(u64, [f32; 2])| {
            lo.is_finite() && hi.is_finite() && lo <= hi && [lo, hi].iter().all(|x| x.to_bits() != 1 << 31)
        };
        if !samples.iter().all(good) {
            return Err("the extremes of a sample are not finite or not in order");
        }
        Ok(Self { samples, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn samples_stand_in_order_and_repeats_widen() {
        let mut e = Extremes::default();
        for i in [5, 7, 6, 0, u64::MAX, u64::MAX - 1] {
            e.insert(i, i as f32, i as f32 + 1.0);
        }
        e.insert(6, -3.0, 2.0);
        let got: Vec<_> = e.iter().map(|x| x.0).collect();
        assert_eq!(got, [0, 5, 6, 7, u64::MAX - 1, u64::MAX]);
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
        assert_eq!(e.moving_average(0.25).unwrap(), Some([-0.625, 1.125]));
        assert_eq!(Extremes::default().moving_average(0.25).unwrap(), None);
    }
    #[test]
    fn the_last_samples_are_kept_in_any_order() {
        let all = 3 * MOST as u64;
        let mut up = Extremes::default();
        (0..all).for_each(|i| up.insert(i, -(i as f32), i as f32));
        let mut down = Extremes::default();
        (0..all).rev().for_each(|i| down.insert(i, -(i as f32), i as f32));
        // Odd ones and even ones apart.
        let mut parts = [0, 1].map(|odd| {
            let mut e = Extremes::default();
            (0..all).filter(|i| i % 2 == odd).for_each(|i| e.insert(i, -(i as f32), i as f32));
            e
        });
        let [a, b] = &mut parts;
        a.merge(b);
        assert_eq!((up.len(), up.iter().next()), (MOST, Some((2 * MOST as u64, [-2048.0, 2048.0]))));
        assert!(up == down && up == *a);
        // Far from what is lost, the average is that of all samples; too near to it, it is refused.
        let whole = (0..all).map(|i| i as f64).reduce(|m, x| m + 0.05 * (x - m)).unwrap();
        let [lo, hi] = up.moving_average(0.05).unwrap().unwrap();
        assert!((hi - whole).abs() < 1e-9 * whole && lo == -hi);
        assert!(up.moving_average(0.001).unwrap_err().to_string().contains("1024"));
    }
    #[test]
    fn lying_wire_is_refused() {
        let x = [0.0f32, 1.0];
        for bad in [
            vec![(3, x), (3, x)],
            vec![(4, x), (3, x)],
            vec![(0, [1.0, 0.0])],
            vec![(0, [f32::NAN, 0.0])],
            vec![(0, [-0.0, 0.0])],
            (0..=MOST as u64).map(|i| (i, x)).collect(),
        ] {
            assert!(Extremes::try_from(Wire(bad.clone(), false)).is_err(), "{bad:?}");
        }
        assert_eq!(Extremes::try_from(Wire(vec![(0, x), (2, x)], false)).unwrap().len(), 2);
        assert!(Extremes::try_from(Wire(vec![(0, x), (2, x)], true)).is_err());
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
