//! Parts of a concatenation that share a scale although one is far smaller than another.
use super::{Evidence, Finding, FindingKind, Repair, Severity, readers};
use crate::ir::Op;

/// A part is lost that uses less than this share of the grid.
const LOST: f64 = 1.0 / 16.0;

/// Concatenations of codes.
pub(super) fn find(e: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for (_, node) in e.float.nodes().filter(|(_, n)| matches!(n.op, Op::Concat { .. })) {
        let Some(y) = node.output(0) else { continue };
        let twin = e.quantized.find(&e.float.value(y).name);
        let params = twin.and_then(|v| e.quantized.value(v).quant.clone());
        let Some((qtype, (scale, _))) = params.and_then(|q| Some((q.qtype, q.as_tensor()?))) else { continue };
        let width = f64::from(scale) * f64::from(qtype.max() - qtype.min());
        let range = |name: &str| -> Option<f64> {
            let [lo, hi] = e.stats.get(name).ok()?.tensor().ok()?.extremes()?;
            Some(f64::from(hi.max(0.0)) - f64::from(lo.min(0.0)))
        };
        let names = node.inputs.iter().flatten().map(|&v| e.float.value(v).name.as_str());
        let mut parts: Vec<(f64, &str)> = names.filter_map(|n| Some((range(n)?, n))).filter(|p| p.0 > 0.0).collect();
        parts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (Some(&(least, small)), Some(&(most, large))) = (parts.first(), parts.last()) else { continue };
        if least >= LOST * width || least >= LOST * most {
            continue;
        }
        let ratio = most / least;
        let lost = parts.iter().filter(|p| p.0 < LOST * width).count();
        let cause = format!(
            "'{small}' spans {ratio:.0} times less than '{large}', and both share one scale: {:.1} of {} codes are left for it",
            least / f64::from(scale),
            i64::from(qtype.max()) - i64::from(qtype.min()) + 1
        );
        // What reads the result in floating point needs no codes, and neither do the parts then.
        let repairs = vec![
            Repair::keep_float(&e.job.recipe, &readers(e.float, y)),
            Repair::wide(&e.job.recipe, &sources(e, node)),
        ];
        let mut f = Finding::new(FindingKind::SharedScale, &node.name, cause, repairs);
        f.severity = if least < f64::from(scale) * 4.0 { Severity::Serious } else { Severity::Warning };
        f.figures = [("ratio", ratio), ("parts_lost", lost as f64), ("codes", least / f64::from(scale))].into();
        found.push(f);
    }
    found
}

/// The nodes that make the parts.
fn sources(e: &Evidence, concat: &crate::ir::Node) -> Vec<String> {
    let producers = e.float.producers();
    let makers = concat.inputs.iter().flatten().filter_map(|v| producers[v.0 as usize]);
    makers.map(|n| e.float.node(n).name.clone()).collect()
}
