//! The threshold of least Kullback-Leibler divergence.
use super::{Range, Scheme};
use crate::quant::observer::{Segment, magnitudes};

/// Bins of the histogram of magnitudes.
const BINS: usize = 2048;
/// The least number of bins that a threshold keeps.
const LEAST: usize = 128;

/// `lo < hi` are the exact extremes.
pub(super) fn choose(segments: &[Segment], lo: f64, hi: f64, scheme: Scheme) -> Range {
    let top = hi.max(-lo);
    let histogram = linear(&magnitudes(segments), top, BINS);
    // The range that a threshold gives, and how many levels the grid then has per magnitude.
    let range =
        |t: f64| if scheme.symmetric { Range { lo: -t, hi: t } } else { Range { lo: lo.max(-t), hi: hi.min(t) } };
    let levels = |kept: usize| {
        let t = top * kept as f64 / BINS as f64;
        let [n, p] = scheme.codes();
        let step = if scheme.symmetric {
            t / p
        } else {
            let Range { lo, hi } = range(t);
            (hi.max(0.0) - lo.min(0.0)) / (p - n)
        };
        // Codes 0 to t / step.
        (t / step).round() as usize + 1
    };
    range(top * threshold(&histogram, levels) as f64 / BINS as f64)
}

/// Spreads segments over `bins` equal bins of `[0, top]`.
fn linear(segments: &[Segment], top: f64, bins: usize) -> Vec<f64> {
    let mut out = vec![0.0; bins];
    let scale = bins as f64 / top;
    let last = bins - 1;
    for s in segments {
        let (a, b) = (s.lo.max(0.0) * scale, s.hi * scale);
        let (i, j) = ((a as usize).min(last), (b as usize).min(last));
        if i == j {
            out[i] += s.count;
            continue;
        }
        for (k, bin) in (i..).zip(&mut out[i..=j]) {
            let part = b.min((k + 1) as f64) - a.max(k as f64);
            *bin += s.count * part / (b - a);
        }
    }
    out
}

/// How many bins to keep: the last of the equally good. `levels(kept)` is the number of quantization levels over the
/// kept bins.
///
/// For each number of kept bins, the reference distribution P is the kept histogram with everything beyond added to its
/// last bin; Q merges the kept histogram into `levels` equal groups of bins and spreads each group's mass over the bins
/// of it that are not empty. The first bin (a Relu's zeros) counts as much as the second.
pub(super) fn threshold(histogram: &[f64], levels: impl Fn(usize) -> usize) -> usize {
    let mut h = histogram.to_vec();
    let bins = h.len();
    if bins < 2 {
        return bins;
    }
    h[0] = h[1];
    // Prefix sums of mass, of mass times its logarithm, and of bins in use.
    let (mut mass, mut plogp, mut used) = (vec![0.0; bins + 1], vec![0.0; bins + 1], vec![0.0; bins + 1]);
    for (i, &x) in h.iter().enumerate() {
        mass[i + 1] = mass[i] + x;
        plogp[i + 1] = plogp[i] + if x > 0.0 { x * libm::log(x) } else { 0.0 };
        used[i + 1] = used[i] + f64::from(u8::from(x > 0.0));
    }
    let total = mass[bins];
    let mut best = (f64::INFINITY, bins);
    for kept in LEAST.min(bins)..=bins {
        let n = levels(kept).clamp(1, kept);
        let outside = total - mass[kept];
        let inside = mass[kept];
        if inside <= 0.0 || outside > 0.0 && h[kept - 1] == 0.0 {
            // Q is empty, or empty where P is not.
            continue;
        }
        // Sum over bins of P log Q, where P and Q are still counts.
        let mut plogq = 0.0;
        let mut from = 0;
        for g in 0..n {
            let to = ((g + 1) * kept).div_ceil(n);
            let m = mass[to] - mass[from];
            if m > 0.0 {
                let q = libm::log(m / (used[to] - used[from]));
                plogq += m * q;
                if to == kept {
                    plogq += outside * q;
                }
            }
            from = to;
        }
        let end = h[kept - 1] + outside;
        let plogp = plogp[kept - 1] + if end > 0.0 { end * libm::log(end) } else { 0.0 };
        // KL(P / total || Q / inside).
        let kl = (plogp - plogq) / total - libm::log(total / inside);
        // Equal but for rounding: the wider one.
        if kl <= best.0 + 1e-12 {
            best = (kl.min(best.0), kept);
        }
    }
    best.1
}
