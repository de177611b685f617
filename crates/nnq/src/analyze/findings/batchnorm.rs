//! Normalisations that stayed in the network: they run in floating point between codes.
use super::{Evidence, Finding, FindingKind, Repair, Severity};
use crate::{
    ir::{Graph, Node, Op, ValueId, op::Binary},
    quant::analysis::{Cause, channels::dominance},
};

/// What reads a normalisation's input, rounded, must leave so many dB of the middle channel.
const FINE: f64 = 40.0;

/// Batch normalisations, and the scaling and shifting of channels that some exporters write instead.
pub(super) fn find(e: &Evidence) -> Vec<Finding> {
    let (consumers, producers) = (e.float.consumers(), e.float.producers());
    let mut notes: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for (id, node) in e.float.nodes().filter(|(_, n)| normalises(e.float, n)) {
        let Some(x) = node.inputs.iter().flatten().copied().find(|&v| e.float.constant(v).is_none()) else { continue };
        // One of several in a row is enough.
        let before = producers[x.0 as usize].map(|n| e.float.node(n));
        if before.is_some_and(|n| normalises(e.float, n)) {
            continue;
        }
        let name = &e.float.value(x).name;
        let loss = e.losses.iter().find(|l| l.unit.output.name == *name && l.unit.output.grid.is_some());
        let Some(loss) = loss else {
            let integers = e.quantized.values().any(|(_, v)| v.quant.is_some() && v.constant.is_none());
            if integers {
                notes.push(node.name.clone());
            }
            continue;
        };
        let grid = loss.unit.output.grid.map_or(0.0, |g| f64::from(g.scale));
        let mut each: Vec<f64> =
            loss.channels.iter().map(|c| 10.0 * libm::log10(c.variance().max(1e-30) / (grid * grid / 12.0))).collect();
        each.sort_by(f64::total_cmp);
        let middle = each.get(each.len() / 4).copied().unwrap_or(f64::INFINITY);
        let ratio = dominance(&loss.channels.iter().map(|c| c.max - c.min).collect::<Vec<_>>());
        let others: Vec<String> = consumers[x.0 as usize]
            .iter()
            .filter(|(n, _)| *n != id)
            .map(|(n, _)| e.float.node(*n).name.clone())
            .collect();
        let maker = before.map_or("the input", |n| n.name.as_str());
        let cause = format!(
            "'{name}' is rounded on one scale before '{}' scales its channels apart, which vary {ratio:.0} times: {middle:.1} dB are left of a \
             quarter of them. It could not be folded into '{maker}', since {} read it too",
            node.name,
            others.iter().map(|o| format!("'{o}'")).collect::<Vec<_>>().join(", ")
        );
        let repairs = vec![Repair::keep_float(&e.job.recipe, &others)];
        let mut f = Finding::new(FindingKind::UnfoldedNormalization, &node.name, cause, repairs);
        f.severity = if middle > FINE { Severity::Note } else { super::harm(e, loss, middle) };
        f.figures =
            [("quarter_db", middle), ("ratio", ratio), ("sqnr_db", loss.cause(Cause::OutputRounding).sqnr_db())].into();
        found.push(f);
    }
    if let Some(first) = notes.first() {
        let cause = format!(
            "{} normalisations run in floating point between integers: they stand where no convolution before them can take them in",
            notes.len()
        );
        let advice = "export the model with each normalisation right behind its convolution, or fold it there before";
        let mut f = Finding::new(FindingKind::UnfoldedNormalization, first, cause, vec![Repair::advice(advice)]);
        f.severity = Severity::Note;
        f.also = notes[1..].to_vec();
        f.figures = [("nodes", notes.len() as f64)].into();
        found.push(f);
    }
    found
}

/// Whether a normalisation reads a value.
pub(super) fn reads(graph: &Graph, v: ValueId) -> bool {
    graph.consumers()[v.0 as usize].iter().any(|(n, _)| normalises(graph, graph.node(*n)))
}

/// A batch normalisation, or a product or sum with one constant for each channel of a feature map.
fn normalises(graph: &Graph, node: &Node) -> bool {
    match node.op {
        Op::BatchNormalization { .. } => true,
        Op::Binary(Binary::Mul | Binary::Add | Binary::Sub | Binary::Div) => {
            let constants: Vec<_> = node.inputs.iter().flatten().filter_map(|&v| graph.constant(v)).collect();
            let image = node.output(0).and_then(|v| graph.value(v).shape.as_ref()).is_some_and(|s| s.rank() == 4);
            image && constants.len() == 1 && constants[0].len() > 1 && {
                let shape = constants[0].shape();
                let axis = shape.len().checked_sub(3);
                axis.is_some_and(|a| shape[a] == constants[0].len())
            }
        }
        _ => false,
    }
}
