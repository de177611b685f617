//! Where most of the loss comes from, in a paragraph, and what to try.
use super::{
    Evidence,
    findings::{Finding, FindingKind, Severity},
    repair::{Repair, Trier},
};
use crate::{
    error::Result,
    quant::{
        analysis::Cause,
        range::RangeMethod,
        recipe::{Edge, SumOperands, WeightGranularity},
        rounder::Rounding,
        weights::WeightRange,
    },
    quantize::Progress,
};
use serde::Serialize;

/// A part of the loss.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// A cause, or a node.
    pub what: String,
    /// Its share of all, 0 to 1.
    pub share: f64,
}

/// What the analysis comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// For people.
    pub text: String,
    /// The loss by cause: the divergence of each layer alone (without measurements, its noise), split in proportion to the noise of its causes.
    pub causes: Vec<Share>,
    /// The loss by layer, largest first.
    pub layers: Vec<Share>,
    /// General options that fit the largest causes; after trials those that helped, best first.
    pub tries: Vec<Repair>,
}

/// The best class of fewer samples than this changes: nothing needs repair.
const GOOD: f64 = 0.01;
/// A cause of this share is worth an option.
const WORTH: f64 = 0.15;

/// Shares of causes and layers, and options.
pub(super) fn advise(e: &Evidence, findings: &[Finding]) -> Advice {
    // On wrong numbers nothing can be tried.
    let wrong = findings.iter().any(|f| f.kind == FindingKind::WrongPreprocessing);
    let weight = |i: usize| match &e.layers[i].sensitivity {
        Some(s) => s.only.close.divergence,
        None => e.losses[i].own.ratio(),
    };
    let all: f64 = (0..e.losses.len()).map(weight).sum();
    let own = |c: &&Cause| **c != Cause::Inherited;
    let mut causes: Vec<(Cause, f64)> = Cause::ALL.iter().filter(own).map(|&c| (c, 0.0)).collect();
    let mut layers: Vec<Share> = Vec::new();
    for (i, loss) in e.losses.iter().enumerate() {
        let share = if all > 0.0 { weight(i) / all } else { 0.0 };
        layers.push(Share { what: loss.unit.node.clone(), share });
        let noise: f64 = causes.iter().map(|(c, _)| loss.cause(*c).noise).sum();
        for (c, sum) in causes.iter_mut().filter(|_| noise > 0.0) {
            *sum += share * loss.cause(*c).noise / noise;
        }
    }
    layers.sort_by(|a, b| b.share.total_cmp(&a.share));
    causes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let little = e.score.close.agreement >= 1.0 - GOOD;
    let tries = if little || wrong { Vec::new() } else { options(e, &causes, &layers) };
    let causes = causes.into_iter().map(|(c, share)| Share { what: c.to_string(), share }).collect();
    Advice { text: String::new(), causes, layers, tries }
}

fn options(e: &Evidence, causes: &[(Cause, f64)], layers: &[Share]) -> Vec<Repair> {
    let recipe = &e.job.recipe;
    let share = |wanted: &[Cause]| causes.iter().filter(|(c, _)| wanted.contains(c)).map(|c| c.1).sum::<f64>();
    let mut all = Vec::new();
    if share(&[Cause::Weights]) > WORTH {
        if recipe.weight.granularity == WeightGranularity::Tensor {
            all.push(Repair::flag("--granularity channel", recipe, |r| {
                r.weight.granularity = WeightGranularity::Channel;
            }));
        }
        if recipe.weight.bits < 8 && recipe.weight.range == WeightRange::AbsMax {
            all.push(Repair::flag("--weight-range mse", recipe, |r| r.weight.range = WeightRange::Mse { p: 2.4 }));
        }
    }
    let few = recipe.weight.bits < 8 || recipe.activation.bits < 8;
    if few && recipe.first == Edge::Same {
        all.push(Repair::line("first = \"8bit\"", recipe, |r| r.first = Edge::EightBit));
    }
    let rounding = share(&[Cause::InputRounding, Cause::OutputRounding]);
    if rounding > WORTH && recipe.activation.bits < 8 {
        if !matches!(recipe.activation.range, RangeMethod::Mse { .. }) {
            all.push(Repair::flag("--range mse", recipe, |r| r.activation.range = RangeMethod::Mse { p: 2.4 }));
        }
        if recipe.sum_operands == SumOperands::Same && e.losses.iter().any(|l| l.unit.op == "Add") {
            all.push(Repair::line("sum_operands = \"8bit\"", recipe, |r| r.sum_operands = SumOperands::EightBit));
        }
    }
    if share(&[Cause::InputClipping, Cause::OutputClipping]) > WORTH && recipe.activation.range != RangeMethod::MinMax {
        all.push(Repair::flag("--range minmax", recipe, |r| r.activation.range = RangeMethod::MinMax));
    }
    if !recipe.equalize && e.job.stats.is_none() {
        all.push(Repair::flag("--equalize", recipe, |r| r.equalize = true));
    }
    if !recipe.layer_by_layer() && e.job.samples.is_some() {
        let flags = "--weight-range mse --rounding descent --compensate --correct-bias";
        all.push(Repair::flag(flags, recipe, |r| {
            (r.weight.range, r.weight.rounding) = (WeightRange::Mse { p: 2.4 }, Rounding::Descent);
            (r.compensate, r.correct_bias) = (true, crate::quant::recipe::BiasCorrection::Empirical);
        }));
    }
    // The layers that are worth most in float: measured by leaving them out, else those that lose most.
    let mut gains: Vec<(f64, String)> = e
        .layers
        .iter()
        .filter_map(|l| Some((l.sensitivity.as_ref()?.without.as_ref()?.close.divergence, l.node.clone())))
        .collect();
    gains.sort_by(|a, b| a.0.total_cmp(&b.0));
    let worst: Vec<String> = match gains.is_empty() {
        false => gains.into_iter().take(1).map(|g| g.1).collect(),
        true => layers
            .iter()
            .filter(|s| e.losses.iter().any(|l| l.unit.product && l.unit.node == s.what))
            .take(1)
            .map(|s| s.what.clone())
            .collect(),
    };
    if !worst.is_empty() {
        all.push(Repair::keep_float(recipe, &worst));
    }
    all
}

/// Tries the general options and keeps those that help, best first.
///
/// # Errors
/// When stopped.
pub(super) fn try_all(advice: &mut Advice, trier: &mut Trier, progress: &mut Progress) -> Result<()> {
    for repair in &mut advice.tries {
        trier.attempt(repair, progress)?;
    }
    advice.tries.retain(|r| r.trial.as_ref().is_some_and(super::Trial::helps));
    let after = |r: &Repair| r.trial.as_ref().map_or(f64::INFINITY, |t| t.after.close.divergence);
    advice.tries.sort_by(|a, b| after(a).total_cmp(&after(b)));
    Ok(())
}

/// Writes the paragraph.
pub(super) fn write(advice: &mut Advice, e: &Evidence, findings: &[Finding]) {
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let close = &e.score.close;
    let mut text = match (e.judge.float().top1, e.score.top1) {
        (Some(float), Some(now)) => format!("Quantization takes top 1 from {} to {}", percent(float), percent(now)),
        _ => String::from("Quantization changes the answers"),
    };
    text += &format!(": the best class changes for {} of the samples.", percent(1.0 - close.agreement));
    let bad = findings.iter().filter(|f| f.severity > Severity::Note).count();
    if close.agreement >= 1.0 - GOOD && bad == 0 {
        text += " There is little to repair.";
        advice.text = text;
        return;
    }
    let named = |shares: &[Share], n: usize| {
        let some = shares.iter().filter(|s| s.share >= 0.05).take(n);
        some.map(|s| format!("{} ({:.0} %)", s.what, 100.0 * s.share)).collect::<Vec<_>>().join(", ")
    };
    text += &format!(" Most of the loss comes from {}", named(&advice.causes, 3));
    let places = named(&advice.layers, 3);
    if places.is_empty() {
        text += ", spread over all layers.";
    } else {
        text += &format!("; the layers that lose most are {places}.");
    }
    let first = findings.iter().find(|f| f.severity > Severity::Note).map(|f| &f.repair);
    let gain = |r: &Repair| r.trial.as_ref().map_or(f64::INFINITY, |t| t.after.close.divergence);
    let best = first.into_iter().chain(advice.tries.first()).min_by(|a, b| gain(a).total_cmp(&gain(b)));
    if let Some(r) = best {
        text += &format!(" Try {}", r.option.replace('\n', " / "));
        if let Some(t) = &r.trial {
            let after = match t.after.top1 {
                Some(top1) => format!("top 1 {}, ", percent(top1)),
                None => String::new(),
            };
            text += &format!(": {after}best class changed for {}", percent(1.0 - t.after.close.agreement));
        }
        text += ".";
    }
    advice.text = text;
}
