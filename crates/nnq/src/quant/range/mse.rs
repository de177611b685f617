//! The range of least mean `|error|^p`, on the grid as it will be deployed.
use super::{
    Range, Scheme,
    loss::Loss,
    norm, params,
    search::{Effort, along, plane},
};
use crate::quant::observer::Segment;

/// Up to this many bits each zero point is searched on its own: with few levels the plane of both ends has a valley
/// for each.
const EACH_ZERO_POINT: u8 = 4;

/// `lo < hi` are the exact extremes of the segments.
pub(super) fn choose(p: f64, segments: &[Segment], lo: f64, hi: f64, scheme: Scheme) -> Range {
    let loss = Loss::new(segments, p);
    let [n, top] = scheme.codes();
    let zeros = scheme.zero_points(lo, hi);
    if zeros.start() == zeros.end() || scheme.qtype.bits <= EACH_ZERO_POINT {
        let each = zeros.filter_map(|z| {
            let (low, high) = (n - f64::from(z), top - f64::from(z));
            // The step at which nothing is clipped, except on a side that has no codes.
            let cover = |end: f64, codes: f64| if codes == 0.0 { 0.0 } else { end / codes };
            let max = cover(hi.max(0.0), high).max(cover(lo.min(0.0), low));
            (max > 0.0).then(|| {
                let (s, value) = along(max, Effort::statistics(segments.len()), |s| loss.at(s, low, high));
                (value, s, z)
            })
        });
        return each
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map_or(Range { lo, hi }, |(_, s, z)| Range::of_grid(scheme, s, z));
    }
    let cost = |r: Range| {
        let (s, z) = params(r, scheme);
        loss.at(s.into(), n - f64::from(z), top - f64::from(z))
    };
    // The valley that is deepest for squares is a good place to start for other exponents.
    let start = norm::choose(segments, lo, hi, scheme);
    let effort = Effort { starts: 2, ..Effort::statistics(segments.len()) };
    let [below, above] = plane([-lo, hi], effort, Some([-start.lo, start.hi]), |[b, a]| cost(Range { lo: -b, hi: a }));
    let found = Range { lo: -below, hi: above };
    // The start can lie outside the extremes, where the plane does not reach.
    if cost(start) < cost(found) { start } else { found }
}
