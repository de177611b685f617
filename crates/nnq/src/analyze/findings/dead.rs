//! Ranges that are stretched by a few samples, and channels that are always zero.
use super::{Evidence, Finding, FindingKind, Repair, Severity, harm, outlier::merged};
use crate::{error::Result, quant::range::RangeMethod};

/// The middle sample spans less than this share of the grid.
const UNUSED: f64 = 1.0 / 8.0;
/// Samples that reach half of the grid are few: less than this share.
const FEW: f64 = 0.05;

/// Values of whose grid most samples use a small part.
#[allow(clippy::cast_precision_loss)]
pub(super) fn ranges(e: &Evidence) -> Result<Vec<Finding>> {
    let mut found: Vec<(f64, Finding)> = Vec::new();
    for loss in e.losses {
        let Some(grid) = &loss.unit.output.grid else { continue };
        let Ok(statistics) = e.stats.get(&loss.unit.output.name) else { continue };
        let sketch = statistics.tensor()?;
        let mut widths: Vec<f64> =
            sketch.samples().iter().map(|(_, [lo, hi])| f64::from(hi.max(0.0)) - f64::from(lo.min(0.0))).collect();
        if widths.len() < 8 {
            continue;
        }
        widths.sort_by(f64::total_cmp);
        let grid_width = f64::from(grid.scale) * f64::from(grid.qtype.max() - grid.qtype.min());
        let (middle, wide) = (widths[widths.len() / 2], widths.iter().filter(|&&w| w > 0.5 * grid_width).count());
        let used = middle / grid_width;
        if used > UNUSED || wide == 0 || wide as f64 > FEW * widths.len() as f64 {
            continue;
        }
        let cause = format!(
            "the middle sample uses {:.1} % of the range of '{}': {wide} of {} calibration samples stretch it",
            100.0 * used,
            loss.unit.output.name,
            widths.len()
        );
        // As many values are left out as twice the samples that stretch it have.
        let p = 100.0 - (200.0 * wide as f64 / widths.len() as f64).max(0.01);
        let methods = [RangeMethod::Percentile { p }, RangeMethod::Norm, RangeMethod::MovingAverage { c: 0.01 }];
        let repairs = Repair::ranges(&methods, &e.job.recipe);
        let mut f = Finding::new(FindingKind::DeadRange, &loss.unit.node, cause, repairs);
        f.severity = harm(e, loss, loss.own.sqnr_db());
        f.figures = [("used", used), ("stretching_samples", wide as f64), ("samples", widths.len() as f64)].into();
        found.push((used, f));
    }
    Ok(merged(found))
}

/// Channels that were zero in every sample.
#[allow(clippy::cast_precision_loss)]
pub(super) fn channels(e: &Evidence) -> Option<Finding> {
    let mut places: Vec<(usize, &str)> =
        e.layers.iter().filter(|l| l.dead_channels > 0).map(|l| (l.dead_channels, l.node.as_str())).collect();
    places.sort_by_key(|p| std::cmp::Reverse(p.0));
    let (_, first) = places.first()?;
    let total: usize = places.iter().map(|p| p.0).sum();
    let cause =
        format!("{total} channels were zero in every sample that was looked at; they cost size and time, no accuracy");
    let advice = "nothing to repair; a model that was exported without them is smaller";
    let mut f = Finding::new(FindingKind::DeadChannels, first, cause, vec![Repair::advice(advice)]);
    f.severity = Severity::Note;
    f.also = places.iter().skip(1).map(|p| p.1.to_owned()).collect();
    f.figures = [("channels", total as f64)].into();
    Some(f)
}
