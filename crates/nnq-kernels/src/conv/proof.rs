//! Which products cannot saturate, known from the weights.
//!
//! Where an instruction set multiplies bytes quickest by an instruction that adds two products in saturating 16 bits ([`Simd::quick`](crate::simd::Simd::quick)),
//! most pairs of weights are small enough for it whatever the activations are ([`is_safe`]): all of them with 7 bits or less, nearly all where a channel's
//! range is that of a few large ones. The steps of a panel are taken in an order that puts together what is multiplied alike; sums of integers do not
//! depend on it.
use super::{fields::Fields, pack::Panels, tile::Proof};
use crate::simd::{TILE_VECTORS, is_safe};

/// A step in which no vector saturates.
pub(super) const BOTH: u8 = (1 << TILE_VECTORS) - 1;

/// The kinds of steps, in the order in which they are taken. Bit `j`: nothing saturates in vector `j`.
pub(super) const KINDS: [u8; 1 << TILE_VECTORS] = [BOTH, 1, 2, 0];

/// What is known of the panels of a layer.
#[derive(Clone, Debug)]
pub(super) struct Proofs {
    spans: usize,
    /// Steps of a span.
    steps: usize,
    known: Known,
}

#[derive(Clone, Debug)]
enum Known {
    /// Nothing that would help.
    Nothing,
    /// Nothing saturates.
    All,
    /// For each panel and span its steps by their kinds, and where each kind ends.
    Steps { order: Vec<u16>, ends: Vec<[u16; KINDS.len()]> },
}

impl Proofs {
    /// Looks at all weights. `spans`: runs of inputs that the tile sees.
    pub(super) fn new(panels: &Panels, spans: usize) -> Proofs {
        let steps = panels.steps / spans.max(1);
        let of = |known| Proofs { spans, steps, known };
        if panels.fields != Fields::BYTES {
            return of(if panels.fields.ends().iter().all(|&w| is_safe([w; 2])) { Known::All } else { Known::Nothing });
        }
        if steps > usize::from(u16::MAX) {
            return of(Known::Nothing);
        }
        let count = panels.groups * panels.panels;
        let (mut order, mut ends) = (Vec::with_capacity(count * panels.steps), Vec::with_capacity(count * spans));
        let mut sums = [0; KINDS.len()];
        let mut kinds = vec![0u8; steps];
        for panel in 0..count {
            let all = panels.step_bytes(panel).chunks_exact(panels.width * 4);
            let mut all = all.map(kind);
            for _ in 0..spans {
                kinds.iter_mut().zip(&mut all).for_each(|(to, kind)| *to = kind);
                let begin = order.len();
                let mut end = [0u16; KINDS.len()];
                for ((&kind, end), sum) in KINDS.iter().zip(&mut end).zip(&mut sums) {
                    let before = order.len();
                    order.extend((0..).zip(&kinds).filter(|(_, k)| **k == kind).map(|(i, _): (u16, _)| i));
                    *sum += order.len() - before;
                    *end = (order.len() - begin) as u16;
                }
                ends.push(end);
            }
        }
        let [both, .., none] = sums;
        of(match order.len() {
            all if both == all => Known::All,
            // Not worth another order.
            all if none > all / 8 * 7 => Known::Nothing,
            _ => Known::Steps { order, ends },
        })
    }

    /// Whether it was made for so many runs of inputs.
    pub(super) fn is_of(&self, spans: usize) -> bool {
        self.spans == spans
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        match &self.known {
            Known::Steps { order, ends } => size_of_val(&order[..]) + size_of_val(&ends[..]),
            _ => 0,
        }
    }

    /// Of one panel, counted through all groups.
    #[inline(always)]
    pub(super) fn of(&self, panel: usize) -> Proof {
        match &self.known {
            Known::Nothing => Proof::None,
            Known::All => Proof::All,
            Known::Steps { order, ends } => Proof::Steps {
                order: order[panel * self.spans * self.steps..][..self.spans * self.steps].as_ptr(),
                ends: ends[panel * self.spans..][..self.spans].as_ptr(),
            },
        }
    }
}

/// The kind of a step: four weights of each channel.
fn kind(step: &[i8]) -> u8 {
    let vectors = step.chunks_exact(step.len() / TILE_VECTORS);
    let safe = |w: &[i8]| w.chunks_exact(2).all(|pair| is_safe([pair[0], pair[1]]));
    vectors.enumerate().fold(0, |kind, (j, w)| kind | u8::from(safe(w)) << j)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::tests::Numbers;

    /// Against every pair of activations, for every pair of weights at the ends: sums are linear.
    #[test]
    fn safe_pairs_are_those_that_sixteen_bits_hold() {
        let all = || i8::MIN..=i8::MAX;
        for (a, b) in all().flat_map(|a| all().map(move |b| (a, b))) {
            let sums = [[0, 0], [0, 255], [255, 0], [255, 255]].map(|[x, y]| x * i32::from(a) + y * i32::from(b));
            let fits = sums.iter().all(|&s| i16::try_from(s).is_ok());
            assert_eq!(is_safe([a, b]), fits, "{a} {b}");
        }
    }

    #[test]
    fn a_step_is_of_the_kind_of_its_vectors() {
        let mut step = [64i8; 32];
        assert_eq!(kind(&step), BOTH);
        step[17] = 65;
        assert_eq!(kind(&step), 1);
        step[2] = -128;
        step[3] = -1;
        assert_eq!(kind(&step), 0);
        step[17] = -128;
        assert_eq!(kind(&step), 2);
    }

    /// The share of vectors of steps without saturation, of rows of 768 weights drawn by `one` and scaled to 127.
    fn safe_share(mut one: impl FnMut(&mut Numbers) -> f64) -> f64 {
        let mut numbers = Numbers::new(5);
        let rows: Vec<Vec<i8>> = (0..64)
            .map(|_| {
                let row: Vec<f64> = (0..768).map(|_| one(&mut numbers)).collect();
                let most = row.iter().fold(0.0f64, |most, w| most.max(w.abs()));
                row.iter().map(|w| crate::round::rne_f64(w / most * 127.0) as i8).collect()
            })
            .collect();
        let mut safe = 0;
        for (rows, k) in rows.chunks(16).flat_map(|rows| (0..768).step_by(4).map(move |k| (rows, k))) {
            let step: Vec<i8> = rows.iter().flat_map(|row| &row[k..k + 4]).copied().collect();
            safe += kind(&step).count_ones();
        }
        f64::from(safe) / (64.0 / 8.0 * 768.0 / 4.0)
    }

    #[test]
    fn most_steps_of_normal_weights_are_safe_and_hardly_any_of_uniform_ones() {
        let uniform = |n: &mut Numbers| f64::from(n.next()) / f64::from(u32::MAX) * 2.0 - 1.0;
        let normal = safe_share(|n| (0..12).map(|_| uniform(n)).sum());
        assert!((0.65..0.85).contains(&normal), "{normal}");
        let even = safe_share(uniform);
        assert!(even < 0.03, "{even}");
    }
}
