//! Values of which a large share lies outside of the grid.
use super::{Evidence, Finding, FindingKind, Repair, harm, outlier::merged};
use crate::quant::{analysis::Cause, range::RangeMethod};

/// A share of the elements that is large.
const LARGE: f64 = 0.005;
/// Clipping makes so many times the noise of rounding.
const MORE: f64 = 4.0;

/// Values whose clipping costs far more than their rounding.
#[allow(clippy::cast_precision_loss)]
pub(super) fn find(e: &Evidence) -> Vec<Finding> {
    let mut found: Vec<(f64, Finding)> = Vec::new();
    for loss in e.losses {
        let (n, of) = loss.outside;
        let share = if of == 0 { 0.0 } else { n as f64 / of as f64 };
        let (clipping, rounding) = (loss.cause(Cause::OutputClipping), loss.cause(Cause::OutputRounding));
        if share < LARGE || clipping.noise < MORE * rounding.noise {
            continue;
        }
        let sqnr = clipping.sqnr_db();
        let cause = format!(
            "{:.1} % of '{}' lie outside of its range and are clipped: that leaves {sqnr:.1} dB, rounding {:.1} dB",
            100.0 * share,
            loss.unit.output.name,
            rounding.sqnr_db()
        );
        let methods = [RangeMethod::MinMax, RangeMethod::Norm, RangeMethod::Mse { p: 2.4 }];
        let repairs = Repair::ranges(&methods, &e.job.recipe);
        let mut f = Finding::new(FindingKind::Saturated, &loss.unit.node, cause, repairs);
        f.severity = harm(e, loss, sqnr);
        f.figures = [("outside", share), ("clipping_db", sqnr), ("rounding_db", rounding.sqnr_db())].into();
        found.push((sqnr, f));
    }
    merged(found)
}
