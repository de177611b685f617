//! Migration of difficulty from activations to weights (Xiao et al., 2023, "SmoothQuant", section 4, equation 4).
use super::chain::links;
use crate::{
    error::Result,
    ir::{Graph, ValueId},
};
use std::collections::BTreeSet;

/// What became of the network.
pub struct Smoothed {
    /// The network.
    pub graph: Graph,
    /// Activations whose channels were scaled.
    pub links: usize,
    /// Clips (ReLU6) on the way that became ReLU, since their bound would differ from channel to channel.
    pub clips: usize,
    /// Clips that stayed, with another bound.
    pub bounds: usize,
    /// Activations left alone since nothing is known of their channels.
    pub unknown: usize,
}

/// Below this a largest magnitude counts as this (the paper's code).
const LEAST: f64 = 1e-5;
/// A clip may come so much nearer than the largest magnitude on the samples: rounding of binary32.
const SLACK: f64 = 1.0 + 1e-6;
/// With `alpha = 1` a channel counts as at least this share of the largest one: what was small on the samples may be larger elsewhere.
const SHARE: f64 = 1.0 / 16.0;

/// Divides each channel `j` of an activation that products read by `s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)` and multiplies the columns of those products by
/// it, `max|W_j|` being the largest of all of them: `Y = (X / s) (s W)`. The division goes into the layer that makes the activation: scale and
/// shift of a normalisation, or rows and bias of a product with nothing but functions `f(s x) = s f(x)` in between, as in
/// [`super::equalize`]. Where neither is there, or something else reads the activation too, it stays as it is. `max|X_j|` is that of
/// [`crate::ir::Channels`], measured on samples. With `alpha = 0.5` both sides get the same largest magnitude `sqrt(max|X_j| max|W_j|)`.
///
/// With `alpha = 1` all channels of the activation get one range, as if each had a grid of its own, and the weights say nothing: what a depthwise convolution with a scale for each
/// channel wants. A channel counts as at least 1/16 of the largest there.
///
/// A clip `min(x, B)` just before those products would get a bound `B / s_j` in each channel. Where one bound `b` for all lies between what the samples
/// reach and that, `max|X_j| / s_j <= b <= B / s_j`, it stays a clip, with this bound: on the samples nothing changes, beyond them a channel is cut off where its grid ends. This is so
/// with `alpha = 1`. Elsewhere it becomes a ReLU.
///
/// # Errors
/// When scaled weights leave binary32.
pub fn smooth(graph: &Graph, alpha: f64) -> Result<Smoothed> {
    let mut out = Smoothed { graph: graph.clone(), links: 0, clips: 0, bounds: 0, unknown: 0 };
    let (links, mut weights) = links(graph, true);
    let mut touched = BTreeSet::new();
    // All scales first: a product's columns belong to one link and its rows to another, and neither should see what the other did.
    let mut scales = Vec::new();
    for link in &links {
        let channels = weights[&link.first].outputs();
        let known = link.read(graph).and_then(|v| graph.value(v).channels.as_ref());
        let Some(known) = known.filter(|k| k.largest.len() == channels) else {
            out.unknown += 1;
            continue;
        };
        let mut columns = vec![0.0f64; channels];
        for id in &link.seconds {
            columns.iter_mut().zip(weights[id].largest(false)).for_each(|(all, one)| *all = all.max(one));
        }
        let floor = if alpha == 1.0 { SHARE * known.largest.iter().copied().fold(0.0, f64::max) } else { LEAST };
        let of = |(&x, &w): (&f64, &f64)| {
            if alpha == 1.0 {
                return if floor > 0.0 { x.max(floor) } else { 1.0 };
            }
            // What is always zero, or never read, has nothing to balance.
            if x == 0.0 || w == 0.0 {
                return 1.0;
            }
            (libm::pow(x.max(floor), alpha) / libm::pow(w.max(LEAST), 1.0 - alpha)).max(LEAST)
        };
        let scale: Vec<f64> = known.largest.iter().zip(&columns).map(of).collect();
        let bound = link.last_clip(graph).and_then(|all| {
            let reached = known.largest.iter().zip(&scale).map(|(x, s)| x / s).fold(0.0, f64::max);
            let nearest = scale.iter().map(|s| all / s).fold(f64::INFINITY, f64::min);
            (reached > 0.0 && reached <= nearest * SLACK).then_some(reached)
        });
        scales.push((link, scale, bound));
    }
    for (link, scale, bound) in scales {
        if let Some(first) = weights.get_mut(&link.first) {
            first.scale(true, |i| 1.0 / scale[i]);
        }
        for id in &link.seconds {
            if let Some(second) = weights.get_mut(id) {
                second.scale(false, |i| scale[i]);
            }
        }
        touched.extend(link.seconds.iter().chain([&link.first]).copied());
        out.links += 1;
        let inverse: Vec<f64> = scale.iter().map(|s| 1.0 / s).collect();
        link.note(&mut out.graph, &inverse, &vec![0.0; inverse.len()]);
        match bound {
            Some(bound) => {
                link.set_last_clip(&mut out.graph, bound);
                out.bounds += 1;
            }
            None => out.clips += link.open_clips(&mut out.graph),
        }
    }
    for id in touched {
        weights[&id].put(&mut out.graph, id)?;
    }
    out.graph.compact();
    Ok(out)
}

/// The activations whose largest magnitudes [`smooth`] wants to know and does not.
pub(crate) fn unknown(graph: &Graph) -> Vec<ValueId> {
    let read = links(graph, true).0.into_iter().filter_map(|l| l.read(graph));
    read.filter(|&v| graph.value(v).channels.as_ref().is_none_or(|c| c.largest.is_empty())).collect()
}
