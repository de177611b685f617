//! Weight scales that were widened so that a bias fits its 32 bits.
use super::{Evidence, Finding, FindingKind, Repair, Severity, harm, largest_along, outlier::merged, twin, weights_of};
use crate::{
    error::Result,
    ir::Granularity,
    quant::{analysis::Cause, ptq::BIAS_LIMIT, recipe::WeightGranularity},
};

/// Codes from here on come from widening: it leaves them a little below the limit.
const NEAR: f64 = 0.99;
/// A scale that is so many times what the weights need costs them a bit.
const MUCH: f64 = 2.0;

/// Products with biases at the limit.
#[allow(clippy::cast_precision_loss)]
pub(super) fn find(e: &Evidence) -> Result<Vec<Finding>> {
    let mut found: Vec<(f64, Finding)> = Vec::new();
    for loss in e.losses.iter().filter(|l| l.unit.product) {
        let (Some(&id), Some(other)) = (loss.unit.nodes.first(), twin(e.quantized, &loss.unit.node)) else { continue };
        let node = e.quantized.node(other);
        let (Some(w), Some(b)) = (node.input(1), node.input(2)) else { continue };
        let (Some(codes), Some(params)) = (e.quantized.constant(b), e.quantized.value(w).quant.clone()) else {
            continue;
        };
        let Ok(codes) = codes.to_i64s() else { continue };
        let over: Vec<usize> = (0..codes.len()).filter(|&c| codes[c].abs() as f64 > NEAR * BIAS_LIMIT).collect();
        let Some((real, shape, axis)) = weights_of(e.float, id)?.filter(|_| !over.is_empty()) else { continue };
        let rows = largest_along(&real, &shape, axis);
        let codes_most = f64::from(params.qtype.max().max(1));
        let shared = params.granularity == Granularity::Tensor;
        let all = rows.iter().fold(0.0f32, |m, &r| m.max(r));
        // How many times the scale that the weights need.
        let wider = |c: usize| {
            let (scale, most) = if shared { (params.scale[0], all) } else { (params.scale[c], rows[c]) };
            if most > 0.0 { f64::from(scale) * codes_most / f64::from(most) } else { 1.0 }
        };
        let factor = over.iter().map(|&c| wider(c)).fold(1.0, f64::max);
        if factor < MUCH {
            continue;
        }
        let sqnr = loss.cause(Cause::Weights).sqnr_db();
        let whom = if shared { "for the whole layer" } else { "of these channels" };
        let cause = format!(
            "the biases of {} output channels ({}) need weight scales {factor:.0} times as wide as the weights do, {whom}, to fit 32 bits: \
             rounding weights leaves {sqnr:.1} dB",
            over.len(),
            over.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ")
        );
        let mut repairs = Vec::new();
        if shared {
            repairs.push(Repair::flag("--granularity channel", &e.job.recipe, |r| {
                r.weight.granularity = WeightGranularity::Channel;
            }));
        }
        repairs.push(Repair::keep_float(&e.job.recipe, std::slice::from_ref(&loss.unit.node)));
        let mut f = Finding::new(FindingKind::BiasOverflow, &loss.unit.node, cause, repairs);
        f.severity = if shared || sqnr < 20.0 { harm(e, loss, sqnr) } else { Severity::Note };
        f.figures = [("channels", over.len() as f64), ("factor", factor), ("sqnr_db", sqnr)].into();
        found.push((sqnr, f));
    }
    Ok(merged(found))
}
