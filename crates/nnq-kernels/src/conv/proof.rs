//! Which products cannot saturate, known from the weights.
//!
//! Where an instruction set multiplies bytes quickest by an instruction that adds two products in saturating 16 bits ([`Simd::quick`](crate::simd::Simd::quick)),
//! most pairs of weights are small enough for it whatever the activations are ([`is_safe`]): all of them with 7 bits or less, nearly all where a channel's
//! range is that of a few large ones. Small weights leave room for the sums of several steps, which are widened to 32 bits once: two with 7 bits,
//! four with up to 5. The steps of a panel are taken in an order that puts together what is multiplied alike; sums of integers do not
//! depend on it.
use super::{fields::Fields, pack::Panels, tile::Proof};
use crate::simd::{TILE_VECTORS, fits, is_safe};

/// A step in which no vector saturates.
const BOTH: u8 = (1 << TILE_VECTORS) - 1;

/// The kinds of steps that are taken alone, in the order in which they are taken, after those that are taken in pairs. Bit `j`: nothing saturates in vector `j`.
pub(super) const KINDS: [u8; 1 << TILE_VECTORS] = [BOTH, 1, 2, 0];

/// Where pairs of steps end, then each of [`KINDS`].
pub(super) type Ends = [u16; 1 + KINDS.len()];

/// How many steps may be summed in 16 bits where all weights allow it, the most first.
const RUNS: [u8; 3] = [4, 2, 1];

/// So many steps back a step finds one that makes a pair with it.
const NEAR: usize = 8;

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
    /// Nothing saturates in sums of so many steps.
    All(u8),
    /// For each panel and span its steps by their kinds, and where each kind ends.
    Steps { order: Vec<u16>, ends: Vec<Ends> },
}

impl Proofs {
    /// Looks at all weights. `spans`: runs of inputs that the tile sees.
    pub(super) fn new(panels: &Panels, spans: usize) -> Proofs {
        let steps = panels.steps / spans.max(1);
        let of = |known| Proofs { spans, steps, known };
        let run = |weights| RUNS.into_iter().find(|&run| safe_run(weights, run));
        if panels.fields != Fields::BYTES {
            return of(run(panels.fields.ends()).map_or(Known::Nothing, Known::All));
        }
        if steps > usize::from(u16::MAX) {
            return of(Known::Nothing);
        }
        let count = panels.groups * panels.panels;
        if let Some(run) = run(panels.ends()).filter(|&run| run > 1) {
            return of(Known::All(run));
        }
        let (mut order, mut ends) = (Vec::with_capacity(count * panels.steps), Vec::with_capacity(count * spans));
        let mut sums = [0; KINDS.len()];
        for panel in 0..count {
            for of_span in panels.step_bytes(panel).chunks(steps.max(1) * panels.width * 4) {
                let of_span: Vec<Step> = of_span.chunks_exact(panels.width * 4).map(Step::new).collect();
                let begin = order.len();
                let alone = pair(&of_span, &mut order);
                let mut end = [(order.len() - begin) as u16; 1 + KINDS.len()];
                for ((&kind, end), sum) in KINDS.iter().zip(&mut end[1..]).zip(&mut sums) {
                    let before = order.len();
                    order.extend(alone.iter().filter(|&&i| of_span[usize::from(i)].kind == kind));
                    *sum += order.len() - before;
                    *end = (order.len() - begin) as u16;
                }
                ends.push(end);
            }
        }
        let [both, .., none] = sums;
        of(match order.len() {
            all if both == all => Known::All(1),
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
            Known::All(run) => Proof::All(*run),
            Known::Steps { order, ends } => Proof::Steps {
                order: order[panel * self.spans * self.steps..][..self.spans * self.steps].as_ptr(),
                ends: ends[panel * self.spans..][..self.spans].as_ptr(),
            },
        }
    }
}

/// Whether sums of so many steps fit, whichever of these weights (the smallest and the largest) they have.
fn safe_run([low, high]: [i8; 2], run: u8) -> bool {
    let all = |w| is_safe(std::iter::repeat_n(w, 2 * usize::from(run)));
    all(low) && all(high)
}

/// What matters of a step: four weights of each channel.
struct Step {
    kind: u8,
    /// Of each lane of 16 bits, which has two weights, the sums of those below 0 and of those above.
    lanes: Vec<[i16; 2]>,
}

impl Step {
    fn new(step: &[i8]) -> Step {
        let vectors = step.chunks_exact(step.len() / TILE_VECTORS);
        let safe = |w: &[i8]| w.chunks_exact(2).all(|pair| is_safe(pair.iter().copied()));
        let kind = vectors.enumerate().fold(0, |kind, (j, w)| kind | u8::from(safe(w)) << j);
        let sums = |part: &[i8]| [i8::min, i8::max].map(|end| part.iter().map(|&w| i16::from(end(w, 0))).sum());
        Step { kind, lanes: step.chunks_exact(2).map(sums).collect() }
    }

    /// Whether the sum with another step fits.
    fn fits(&self, other: &Step) -> bool {
        self.lanes.iter().zip(&other.lanes).all(|(a, b)| {
            let [below, above] = [0, 1].map(|i| i32::from(a[i] + b[i]));
            fits(below, above)
        })
    }
}

/// Writes pairs of steps whose sums fit; answers the steps that are left.
fn pair(steps: &[Step], pairs: &mut Vec<u16>) -> Vec<u16> {
    let (mut left, mut near) = (Vec::new(), Vec::new());
    for (i, step) in (0u16..).zip(steps) {
        if step.kind != BOTH {
            left.push(i);
            continue;
        }
        match near.iter().position(|&j: &u16| steps[usize::from(j)].fits(step)) {
            Some(at) => pairs.extend([near.remove(at), i]),
            None => near.push(i),
        }
        if near.len() > NEAR {
            left.push(near.remove(0));
        }
    }
    left.extend(near);
    left
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
        assert_eq!(Step::new(&step).kind, BOTH);
        step[17] = 65;
        assert_eq!(Step::new(&step).kind, 1);
        step[2] = -128;
        step[3] = -1;
        assert_eq!(Step::new(&step).kind, 0);
        step[17] = -128;
        assert_eq!(Step::new(&step).kind, 2);
    }

    /// Against the definition, for steps of one weight that differs from lane to lane.
    #[test]
    fn pairs_of_steps_are_those_that_sixteen_bits_hold() {
        let steps: Vec<[i8; 8]> = (-66i8..=66).map(|w| [w, -w, w / 2, 0, -w / 2, w, 1, -1]).collect();
        let known: Vec<Step> = steps.iter().map(|step| Step::new(step)).collect();
        for (a, of_a) in steps.iter().zip(&known) {
            for (b, of_b) in steps.iter().zip(&known) {
                let lane = |i: usize| is_safe([a[i], a[i + 1], b[i], b[i + 1]]);
                assert_eq!(of_a.fits(of_b), (0..8).step_by(2).all(lane), "{a:?} {b:?}");
            }
        }
        let mut pairs = Vec::new();
        let mut left = pair(&known, &mut pairs);
        assert!(pairs.len() > steps.len() / 2);
        for two in pairs.chunks(2) {
            let [a, b] = [two[0], two[1]].map(|i| &known[usize::from(i)]);
            assert!(a.kind == BOTH && b.kind == BOTH && a.fits(b), "{two:?}");
        }
        left.extend(pairs);
        left.sort_unstable();
        assert!(left.into_iter().eq(0..steps.len() as u16));
    }

    #[test]
    fn runs_follow_from_the_ends() {
        let run = |ends| RUNS.into_iter().find(|&run| safe_run(ends, run));
        assert_eq!(
            [[-16, 16], [-17, 0], [0, 17], [-32, 32], [-33, 0], [-64, 64]].map(run),
            [4, 2, 2, 2, 1, 1].map(Some)
        );
        assert_eq!([[-65, 0], [0, 65], [-128, 127]].map(run), [None; 3]);
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
            safe += Step::new(&step).kind.count_ones();
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
