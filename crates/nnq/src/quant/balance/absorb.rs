//! High-bias absorption (Nagel et al., 2019, "Data-free quantization through weight equalization and bias correction", section 4.1.3).
use super::chain::{Kinds, Link, links};
use crate::{
    error::Result,
    ir::{
        Graph, Op, ValueId,
        op::{AutoPad, Unary},
    },
};
use std::collections::BTreeSet;

/// Deviations below the mean that an input hardly ever falls to: 99.865 % of a normal distribution lie above.
const DEVIATIONS: f64 = 3.0;

/// What became of the network.
#[derive(Default)]
pub struct Absorbed {
    /// The network.
    pub graph: Graph,
    /// Layers that gave a part of their bias to those that read them.
    pub layers: usize,
    /// Channels of theirs that did.
    pub channels: usize,
    /// Layers left alone since those that read them pad with zeros, which the shift would turn into `-c`.
    pub padded: usize,
    /// Layers left alone since something other than a ReLU (a clip, a LeakyReLU, a sum of padded windows) lies between.
    pub bent: usize,
    /// Layers left alone since nothing is known of their outputs.
    pub unknown: usize,
}

/// Moves what is always there of a layer's output behind the ReLU into the bias of the layers that read it: `c = max(0, mean - 3 deviation)`, `b1 -= c`,
/// `b2 += W2 c`, so that the range of the activation is smaller by `c`. Since `relu(y - c) = relu(y) - c` for `y >= c`, outputs stay
/// as they are wherever `y >= c`; elsewhere (one value in 740 of a normal distribution) they are approximate. Mean and deviation are those of
/// [`crate::ir::Channels`]: of a batch normalisation that was folded, or measured.
///
/// # Errors
/// When a bias leaves binary32.
pub fn absorb(graph: &Graph) -> Result<Absorbed> {
    let mut out = Absorbed { graph: graph.clone(), ..Absorbed::default() };
    let (links, mut weights) = links(graph, Kinds::default());
    let mut touched = BTreeSet::new();
    for link in &links {
        let Some(only) = link.only_first() else { continue };
        match fitness(graph, link) {
            Fitness::Fits => {}
            Fitness::Padded => {
                out.padded += 1;
                continue;
            }
            Fitness::Bent => {
                out.bent += 1;
                continue;
            }
        }
        let channels = weights[&only].outputs();
        let Some(known) = link.known(&out.graph).filter(|k| k.mean.len() == channels && k.deviation.len() == channels)
        else {
            out.unknown += 1;
            continue;
        };
        let shift: Vec<f64> =
            known.mean.iter().zip(&known.deviation).map(|(m, d)| (m - DEVIATIONS * d).max(0.0)).collect();
        let moved = shift.iter().filter(|c| **c > 0.0).count();
        if moved == 0 {
            continue;
        }
        out.layers += 1;
        out.channels += moved;
        if let Some(first) = weights.get_mut(&only) {
            let bias = first.bias.get_or_insert_with(|| vec![0.0; channels]);
            bias.iter_mut().zip(&shift).for_each(|(b, c)| *b -= c);
        }
        for second in &link.seconds {
            if let Some(second) = weights.get_mut(second) {
                let mut more = vec![0.0; second.outputs()];
                for (i, w) in second.w.iter().enumerate() {
                    more[second.channel(i, true)] += w * shift[second.channel(i, false)];
                }
                let bias = second.bias.get_or_insert_with(|| vec![0.0; more.len()]);
                bias.iter_mut().zip(more).for_each(|(b, more)| *b += more);
            }
        }
        touched.extend(link.seconds.iter().copied().chain([only]));
        let down: Vec<f64> = shift.iter().map(|c| -c).collect();
        link.note(&mut out.graph, &vec![1.0; channels], &down);
    }
    for id in touched {
        weights[&id].put(&mut out.graph, id)?;
    }
    out.graph.compact();
    Ok(out)
}

/// The outputs whose distribution [`absorb`] wants to know and does not.
pub(crate) fn unknown(graph: &Graph) -> Vec<ValueId> {
    let (links, _) = links(graph, Kinds::default());
    let open = links.iter().filter(|l| matches!(fitness(graph, l), Fitness::Fits) && l.known(graph).is_none());
    open.filter_map(|l| graph.node(l.only_first()?).output(0)).collect()
}

enum Fitness {
    Fits,
    Padded,
    Bent,
}

fn fitness(graph: &Graph, link: &Link) -> Fitness {
    // A product without a bias input cannot take a shift in.
    let takes = |id| !matches!(graph.node(id).op, Op::MatMul);
    let relus = link.between.iter().filter(|&&id| matches!(graph.node(id).op, Op::Unary(Unary::Relu))).count();
    let shifts = |op: &Op| match op {
        Op::Unary(Unary::Relu) | Op::Identity | Op::GlobalAveragePool | Op::GlobalMaxPool => true,
        Op::MaxPool { .. } | Op::Reduce { .. } | Op::Flatten { .. } | Op::Reshape { .. } | Op::Squeeze => true,
        Op::AveragePool { count_include_pad, window } => !count_include_pad || !pads(&window.pads, window.auto_pad),
        _ => false,
    };
    if relus == 0
        || !link.between.iter().all(|&id| shifts(&graph.node(id).op))
        || !link.only_first().is_some_and(takes)
        || !link.seconds.iter().all(|&id| takes(id))
    {
        return Fitness::Bent;
    }
    let padded = |op: &Op| matches!(op, Op::Conv(a) if pads(&a.pads, a.auto_pad));
    if link.seconds.iter().any(|&id| padded(&graph.node(id).op)) { Fitness::Padded } else { Fitness::Fits }
}

fn pads(pads: &[i64], auto: AutoPad) -> bool {
    pads.iter().any(|&p| p != 0) || !matches!(auto, AutoPad::NotSet | AutoPad::Valid)
}
