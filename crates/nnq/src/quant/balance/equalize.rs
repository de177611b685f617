//! Cross-layer equalization (Nagel et al., 2019, "Data-free quantization through weight equalization and bias correction", section 4.1).
use super::chain::{Kinds, largest, links};
use crate::{error::Result, ir::Graph};
use std::collections::BTreeSet;

/// Times that all links are visited at most; they end earlier where nothing moves any more.
const SWEEPS: usize = 40;
/// Mean of `|ln s|` over all channels below which a sweep has changed nothing.
const STILL: f64 = 1e-4;

/// What became of the network.
pub struct Equalized {
    /// The network.
    pub graph: Graph,
    /// Layers that were balanced with those that read them.
    pub pairs: usize,
    /// Clips (ReLU6) between them that became ReLU, since their bound would differ from channel to channel.
    pub clips: usize,
}

/// Scales the channels between each layer and those that read it so that their ranges in the weights of both are equal: `s_i = sqrt(r1_i r2_i) /
/// r2_i` with the largest magnitudes `r1_i` in the row of the first and `r2_i` in the columns of the second (of all that read it); the row and the
/// bias are divided by it, the columns are multiplied. Sweeps over all links make a chain of three (expand, depthwise, project) end with all ranges
/// at `(r1 r2 r3)^(1/3)`. ReLU, LeakyReLU, PReLU, clips from 0 and pooling may lie between; layers that a sum reads, too, stay as they are.
///
/// # Errors
/// When balanced weights leave binary32.
pub fn equalize(graph: &Graph) -> Result<Equalized> {
    let mut graph = graph.clone();
    let (links, mut weights) = links(&graph, Kinds::default());
    let mut total: Vec<Vec<f64>> = links.iter().map(|l| vec![1.0; weights[&l.firsts[0]].outputs()]).collect();
    for _ in 0..SWEEPS {
        let (mut moved, mut channels) = (0.0, 0);
        for (link, total) in links.iter().zip(&mut total) {
            let rows = largest(&weights, &link.firsts, true);
            let columns = largest(&weights, &link.seconds, false);
            let scale: Vec<f64> = rows
                .iter()
                .zip(&columns)
                .map(|(&r1, &r2)| if r1 > 0.0 && r2 > 0.0 { (r1 * r2).sqrt() / r2 } else { 1.0 })
                .collect();
            moved += scale.iter().map(|s| libm::log(*s).abs()).sum::<f64>();
            channels += scale.len();
            total.iter_mut().zip(&scale).for_each(|(t, s)| *t /= s);
            link.scale(&mut weights, &scale);
        }
        if moved <= STILL * channels as f64 {
            break;
        }
    }
    let touched: BTreeSet<_> = links.iter().flat_map(|l| l.seconds.iter().chain(&l.firsts)).copied().collect();
    for id in touched {
        weights[&id].put(&mut graph, id)?;
    }
    let mut clips = 0;
    for (link, total) in links.iter().zip(&total) {
        link.note(&mut graph, total, &vec![0.0; total.len()]);
        clips += link.open_clips(&mut graph);
    }
    graph.compact();
    Ok(Equalized { graph, pairs: links.len(), clips })
}
