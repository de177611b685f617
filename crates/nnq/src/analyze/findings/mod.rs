//! What is wrong with a quantized network, and the option that repairs it. One file for each kind of fault.
mod batchnorm;
mod bias;
mod concat;
mod dead;
mod logits;
mod outlier;
mod saturated;

use super::{
    Evidence, preprocessing,
    repair::{Repair, Trier},
};
use crate::{
    error::Result,
    ir::{Graph, NodeId, Op, ValueId},
    quant::{analysis::UnitLoss, weights},
    quantize::Progress,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// The samples do not come as the network expects them.
    WrongPreprocessing,
    /// One channel of a layer's weights spans many times what the others do, on a scale that they share.
    OutlierWeights,
    /// One channel of a value spans many times what the others do, on a scale that they share.
    OutlierChannel,
    /// A few samples stretch a range that the others hardly use.
    DeadRange,
    /// Answers of the network are rounded and clipped.
    ClippedLogits,
    /// Weight scales had to be widened so that a bias fits 32 bits.
    BiasOverflow,
    /// Parts of a concatenation share a scale, and one is far smaller than another.
    SharedScale,
    /// A normalisation stayed in the network.
    UnfoldedNormalization,
    /// A large share of a value lies outside of its grid.
    Saturated,
    /// Channels that are always zero.
    DeadChannels,
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongPreprocessing => "wrong preprocessing",
            Self::OutlierWeights => "outlier channel in weights",
            Self::OutlierChannel => "outlier channel",
            Self::DeadRange => "dead range",
            Self::ClippedLogits => "clipped logits",
            Self::BiasOverflow => "bias overflow",
            Self::SharedScale => "shared scale",
            Self::UnfoldedNormalization => "unfolded normalisation",
            Self::Saturated => "saturated",
            Self::DeadChannels => "dead channels",
        })
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know: costs time or size, hardly accuracy.
    Note,
    /// Costs accuracy.
    Warning,
    /// Costs much of it.
    Serious,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Serious => "serious",
        })
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Of what kind.
    pub kind: FindingKind,
    /// How bad.
    pub severity: Severity,
    /// The node or value; where there are several, the worst.
    pub place: String,
    /// The others of the same kind that the same option repairs, worst first.
    pub also: Vec<String>,
    /// What it is, in a sentence.
    pub cause: String,
    /// The figures behind it.
    pub figures: BTreeMap<&'static str, f64>,
    /// The option that repairs it: of those that were tried the first that is as good as any.
    pub repair: Repair,
    /// Others that could.
    #[serde(skip)]
    others: Vec<Repair>,
}

impl Finding {
    /// `repairs`: the simplest first; at least one.
    pub(super) fn new(kind: FindingKind, place: &str, cause: String, mut repairs: Vec<Repair>) -> Self {
        let others = repairs.split_off(repairs.len().min(1));
        let repair = repairs.pop().unwrap_or_else(|| Repair::advice("nothing repairs it"));
        let (severity, figures) = (Severity::Warning, BTreeMap::new());
        Self { kind, severity, place: place.into(), also: Vec::new(), cause, figures, repair, others }
    }
}

/// Everything that is wrong.
///
/// # Errors
/// What looking at the evidence answers.
pub(super) fn find(e: &Evidence, progress: &mut Progress) -> Result<Vec<Finding>> {
    let mut all = preprocessing::find(e, progress)?;
    if !all.is_empty() {
        // Whatever else is seen is seen on wrong numbers.
        return Ok(all);
    }
    all.extend(outlier::weights(e)?);
    all.extend(outlier::activations(e));
    all.extend(dead::ranges(e)?);
    all.extend(dead::channels(e));
    all.extend(logits::find(e));
    all.extend(bias::find(e)?);
    all.extend(concat::find(e));
    all.extend(batchnorm::find(e));
    all.extend(saturated::find(e));
    Ok(all)
}

/// A simpler option is as good as the best one when it gains this share of what that gains.
const AS_GOOD: f64 = 0.98;

/// Tries the options of findings that cost accuracy, and chooses.
///
/// # Errors
/// When stopped.
pub(super) fn try_all(findings: &mut [Finding], trier: &mut Trier, progress: &mut Progress) -> Result<()> {
    for f in findings.iter_mut().filter(|f| f.severity > Severity::Note) {
        let mut all = vec![f.repair.clone()];
        all.append(&mut f.others);
        for repair in &mut all {
            trier.attempt(repair, progress)?;
        }
        let after = |r: &Repair| r.trial.as_ref().map_or(f64::INFINITY, |t| t.after.close.divergence);
        let best = all.iter().map(after).fold(f64::INFINITY, f64::min);
        let before = all.iter().find_map(|r| r.trial.as_ref()).map_or(best, |t| t.before.close.divergence);
        let enough = best + (1.0 - AS_GOOD) * (before - best).max(0.0);
        let chosen = all.iter().position(|r| after(r) <= enough).unwrap_or(0);
        f.repair = all.swap_remove(chosen);
        // What was tried and did not help is no repair.
        if f.repair.trial.as_ref().is_some_and(|t| !t.helps()) {
            f.severity = Severity::Note;
        }
    }
    Ok(())
}

/// Numbers in row-major order, their shape, the axis of the output channels.
type Weights = (Vec<f32>, Vec<usize>, usize);

/// A product's weights.
fn weights_of(graph: &Graph, id: NodeId) -> Result<Option<Weights>> {
    let node = graph.node(id);
    let Some(t) = node.input(1).filter(|&v| graph.constant(v).is_some()) else { return Ok(None) };
    let tensor = graph.real_constant(t)?;
    let axis = match node.op {
        Op::Conv(_) | Op::Gemm { trans_b: true, .. } => 0,
        _ => 1,
    };
    if tensor.shape().len() <= axis {
        return Ok(None);
    }
    Ok(Some((weights::reals(&tensor)?.into_owned(), tensor.shape().to_vec(), axis)))
}

/// The largest magnitude of each index of an axis.
fn largest_along(w: &[f32], shape: &[usize], axis: usize) -> Vec<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let mut most = vec![0.0f32; shape[axis]];
    for (i, x) in w.iter().enumerate() {
        let c = i / inner.max(1) % shape[axis];
        most[c] = most[c].max(x.abs());
    }
    most
}

/// The node of the same name in the quantized graph.
fn twin(quantized: &Graph, name: &str) -> Option<NodeId> {
    quantized.nodes().find(|(_, n)| n.name == name).map(|(id, _)| id)
}

/// The names of the products that read a value, through nodes that hand codes on.
fn readers(graph: &Graph, v: ValueId) -> Vec<String> {
    let consumers = graph.consumers();
    let (mut stack, mut out) = (vec![v], Vec::new());
    while let Some(v) = stack.pop() {
        for (id, place) in &consumers[v.0 as usize] {
            let node = graph.node(*id);
            let moves =
                node.op.is_move() || matches!(node.op, Op::MaxPool { .. } | Op::GlobalMaxPool | Op::Concat { .. });
            if moves && *place == 0 || matches!(node.op, Op::Concat { .. }) {
                stack.extend(node.outputs.iter().flatten());
            } else if !out.contains(&node.name) {
                out.push(node.name.clone());
            }
        }
    }
    out
}

/// How bad the noise of a cause at a layer is: by the layer's share of what quantization does to the answers where that was measured, else by
/// the noise alone.
fn harm(e: &Evidence, loss: &UnitLoss, sqnr_db: f64) -> Severity {
    let layer = e.layers.iter().find(|l| l.value == loss.unit.output.name);
    let alone = layer.and_then(|l| l.sensitivity.as_ref()).map(|s| s.only.close.divergence);
    match alone {
        Some(d) if d > 0.2 * e.score.close.divergence && e.score.close.agreement < 0.98 => Severity::Serious,
        None if sqnr_db < 12.0 => Severity::Serious,
        _ => Severity::Warning,
    }
}
