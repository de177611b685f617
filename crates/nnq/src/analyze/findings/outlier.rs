//! Channels that span many times what the others do, on a scale that all share.
use super::{Evidence, Finding, FindingKind, Repair, harm, largest_along, readers, twin, weights_of};
use crate::{
    error::Result,
    ir::Granularity,
    quant::{
        analysis::{Cause, channels::dominance},
        recipe::WeightGranularity,
    },
};

/// A channel dominates that spans so many times what the middle one does.
const DOMINANT: f64 = 8.0;
/// Weights that are rounded better than this, in dB, need no repair.
const FINE_WEIGHTS: f64 = 30.0;
/// A channel is lost that uses less than this share of the grid.
const LOST: f64 = 1.0 / 16.0;
/// Values need no repair where rounding leaves so many dB of half of the channels.
const FINE_VALUES: f64 = 40.0;

/// Weights with one scale per tensor.
pub(super) fn weights(e: &Evidence) -> Result<Vec<Finding>> {
    let mut found: Vec<(f64, Finding)> = Vec::new();
    for loss in e.losses.iter().filter(|l| l.unit.product) {
        let (Some(&id), Some(other)) = (loss.unit.nodes.first(), twin(e.quantized, &loss.unit.node)) else { continue };
        let params = e.quantized.node(other).input(1).and_then(|v| e.quantized.value(v).quant.clone());
        if params.is_none_or(|p| p.granularity != Granularity::Tensor) {
            continue;
        }
        let Some((w, shape, axis)) = weights_of(e.float, id)? else { continue };
        let rows = largest_along(&w, &shape, axis);
        let ratio = dominance(&rows);
        let sqnr = loss.cause(Cause::Weights).sqnr_db();
        if ratio < DOMINANT || sqnr > FINE_WEIGHTS {
            continue;
        }
        let channel = (0..rows.len()).max_by(|&a, &b| rows[a].total_cmp(&rows[b])).unwrap_or(0);
        let cause = format!(
            "output channel {channel} has weights {ratio:.0} times as large as the middle channel's, and all share one scale: rounding weights \
             leaves {sqnr:.1} dB"
        );
        let repair = Repair::flag("--granularity channel", &e.job.recipe, |r| {
            r.weight.granularity = WeightGranularity::Channel;
        });
        let mut f = Finding::new(FindingKind::OutlierWeights, &loss.unit.node, cause, vec![repair]);
        f.severity = harm(e, loss, sqnr);
        f.figures = [("channel", channel as f64), ("ratio", ratio), ("sqnr_db", sqnr)].into();
        found.push((sqnr, f));
    }
    Ok(merged(found))
}

/// Values of one scale, as every value has.
pub(super) fn activations(e: &Evidence) -> Vec<Finding> {
    let mut found: Vec<(f64, Finding)> = Vec::new();
    for loss in e.losses {
        let Some(grid) = &loss.unit.output.grid else { continue };
        if loss.unit.nodes.is_empty() && loss.unit.op == "Input" {
            continue;
        }
        let width = f64::from(grid.scale) * f64::from(grid.qtype.max() - grid.qtype.min());
        let live: Vec<_> = loss.channels.iter().enumerate().filter(|(_, c)| !c.is_constant()).collect();
        let ranges: Vec<f32> = live.iter().map(|(_, c)| c.max - c.min).collect();
        let ratio = dominance(&ranges);
        let lost = ranges.iter().filter(|&&r| f64::from(r) < LOST * width).count();
        if ratio < DOMINANT || lost * 2 < ranges.len() {
            continue;
        }
        // What rounding leaves of each channel, in dB.
        let noise = f64::from(grid.scale).powi(2) / 12.0;
        let mut each: Vec<f64> = live
            .iter()
            .map(|(_, c)| 10.0 * libm::log10((c.variance() + c.mean().powi(2)).max(1e-30) / noise))
            .collect();
        each.sort_by(f64::total_cmp);
        let middle = each[each.len() / 2];
        if middle > FINE_VALUES {
            continue;
        }
        let channel = live.iter().max_by(|a, b| (a.1.max - a.1.min).total_cmp(&(b.1.max - b.1.min))).map_or(0, |c| c.0);
        let cause = format!(
            "channel {channel} spans {ratio:.0} times what the middle channel does, and all share one scale: {lost} of {} channels use less \
             than a sixteenth of the codes",
            ranges.len()
        );
        if e.float.find(&loss.unit.output.name).is_some_and(|v| super::batchnorm::reads(e.float, v)) {
            // Scaled apart right behind: that is another finding.
            continue;
        }
        let readers = e.float.find(&loss.unit.output.name).map_or_else(Vec::new, |v| readers(e.float, v));
        let mut repairs = Vec::new();
        if !e.job.recipe.equalize && e.job.stats.is_none() {
            repairs.push(Repair::flag("--equalize", &e.job.recipe, |r| r.equalize = true));
        }
        repairs.push(Repair::keep_float(&e.job.recipe, &readers));
        repairs.push(Repair::wide(&e.job.recipe, std::slice::from_ref(&loss.unit.node)));
        let mut f = Finding::new(FindingKind::OutlierChannel, &loss.unit.node, cause, repairs);
        f.severity = harm(e, loss, middle);
        f.figures =
            [("channel", channel as f64), ("ratio", ratio), ("lost", lost as f64), ("middle_db", middle)].into();
        found.push((middle, f));
    }
    merged(found)
}

/// One finding for all places that one flag repairs: the worst, with the others' names.
pub(super) fn merged(mut found: Vec<(f64, Finding)>) -> Vec<Finding> {
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut all: Vec<Finding> = Vec::new();
    for (_, f) in found {
        match all.iter_mut().find(|first| first.kind == f.kind && first.repair.option == f.repair.option) {
            Some(first) => {
                first.severity = first.severity.max(f.severity);
                first.also.push(f.place);
            }
            None => all.push(f),
        }
    }
    all
}
