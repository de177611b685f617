//! Answers that are rounded and clipped.
use super::{Evidence, Finding, FindingKind, Repair, Severity};
use crate::{
    ir::{Op, ValueId, op::Unary},
    quant::{analysis::score::best, recipe::Logits},
};
use nnq_kernels::round::{dequantize_f32, quantize_f32};

/// Share of samples whose best class changes that costs accuracy.
const CHANGED: f64 = 0.002;

/// Outputs, or what the last softmax reads, on a grid.
#[allow(clippy::cast_precision_loss)]
pub(super) fn find(e: &Evidence) -> Option<Finding> {
    let producers = e.float.producers();
    let grid = |v: ValueId| {
        let twin = e.quantized.find(&e.float.value(v).name)?;
        let q = e.quantized.value(twin).quant.clone()?;
        let (scale, zero) = q.as_tensor()?;
        Some((q.qtype, scale, zero))
    };
    let output = *e.float.outputs.first()?;
    // Back through what keeps the order of answers.
    let mut v = output;
    let (qtype, scale, zero) = loop {
        if let Some(g) = grid(v) {
            break g;
        }
        let node = e.float.node(producers[v.0 as usize]?);
        let keeps = node.op.is_move()
            || matches!(node.op, Op::Softmax { .. } | Op::LogSoftmax { .. } | Op::Unary(Unary::Sigmoid));
        v = node.input(0).filter(|_| keeps)?;
    };
    let name = &e.float.value(v).name;
    let node = producers[v.0 as usize].map_or(name, |n| &e.float.node(n).name);
    let (reference, width) = e.judge.reference();
    let round = |&x: &f32| dequantize_f32(quantize_f32(x, scale, zero, qtype.min(), qtype.max()), scale, zero);
    let (lo, hi) = ((qtype.min() - zero) as f32 * scale, (qtype.max() - zero) as f32 * scale);
    let half = 0.5 * scale;
    let (mut changed, mut clipped, mut rows) = (0usize, 0usize, 0usize);
    if v == output && width > 1 {
        for row in reference.chunks_exact(width) {
            let rounded: Vec<f32> = row.iter().map(round).collect();
            let first = best(row);
            // A tie is no answer.
            let ties = rounded.iter().filter(|&&x| x == rounded[first]).count() > 1;
            changed += usize::from(best(&rounded) != first || ties);
            clipped += usize::from(row.iter().any(|&x| x < lo - half || x > hi + half));
            rows += 1;
        }
    }
    let share = |n: usize| if rows == 0 { 0.0 } else { n as f64 / rows as f64 };
    let cause = format!(
        "the network's answers '{name}' are rounded to {} bits: that alone changes or ties the best class of {:.1} % of the samples, and clips \
         answers of {:.1} %",
        qtype.bits,
        100.0 * share(changed),
        100.0 * share(clipped)
    );
    let repair = if e.job.recipe.logits == Logits::Real {
        let readers =
            e.float.consumers()[v.0 as usize].iter().map(|r| e.float.node(r.0).name.clone()).collect::<Vec<_>>();
        Repair::keep_float(&e.job.recipe, &readers)
    } else {
        Repair::line("logits = \"real\"", &e.job.recipe, |r| r.logits = Logits::Real)
    };
    let mut f = Finding::new(FindingKind::ClippedLogits, node, cause, vec![repair]);
    f.severity = match share(changed.max(clipped)) {
        s if s > 5.0 * CHANGED => Severity::Serious,
        s if s > CHANGED || rows == 0 => Severity::Warning,
        _ => Severity::Note,
    };
    f.figures = [("changed", share(changed)), ("clipped", share(clipped)), ("bits", f64::from(qtype.bits))].into();
    Some(f)
}
