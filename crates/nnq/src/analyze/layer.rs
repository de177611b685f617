//! The report of one layer.
use super::Sensitivity;
use crate::quant::analysis::{Cause, UnitLoss};
use serde::Serialize;

/// How much of a layer's signal one cause turns into noise.
#[derive(Clone, Debug, Serialize)]
pub struct CauseLoss {
    /// The cause.
    pub cause: Cause,
    /// Signal-to-quantization-noise ratio with this cause alone, in dB; infinite (null) without noise.
    pub sqnr_db: f64,
}

/// A step that rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// The node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// The value that it makes.
    pub value: String,
    /// Signal-to-quantization-noise ratio of its output in dB, with everything before it quantized.
    pub sqnr_db: f64,
    /// Cosine of the angle between the float output and the quantized one.
    pub cosine: f64,
    /// As `sqnr_db`, with exact inputs: what arises here.
    pub own_sqnr_db: f64,
    /// As `cosine`, with exact inputs.
    pub own_cosine: f64,
    /// Each cause by itself, see [`crate::quant::analysis::layers`].
    pub causes: Vec<CauseLoss>,
    /// The cause with the most noise.
    pub dominant: Option<Cause>,
    /// The cause with the most noise among those that arise here.
    pub dominant_own: Option<Cause>,
    /// Share of the float output that lies outside of its grid.
    pub outside: f64,
    /// Channels that were always zero.
    pub dead_channels: usize,
    /// Channels of the output.
    pub channels: usize,
    /// Measured on the metric.
    pub sensitivity: Option<Sensitivity>,
}

impl Layer {
    /// The report of what was measured.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn new(l: &UnitLoss) -> Self {
        let cause = |&cause: &Cause| CauseLoss { cause, sqnr_db: l.cause(cause).sqnr_db() };
        Self {
            node: l.unit.node.clone(),
            op: l.unit.op.clone(),
            value: l.unit.output.name.clone(),
            sqnr_db: l.total.sqnr_db(),
            cosine: l.total.cosine(),
            own_sqnr_db: l.own.sqnr_db(),
            own_cosine: l.own.cosine(),
            causes: Cause::ALL.iter().map(cause).collect(),
            dominant: l.dominant(),
            dominant_own: l.dominant_own(),
            outside: if l.outside.1 == 0 { 0.0 } else { l.outside.0 as f64 / l.outside.1 as f64 },
            dead_channels: l.channels.iter().filter(|c| c.is_constant() && c.min == 0.0).count(),
            channels: l.channels.len(),
            sensitivity: None,
        }
    }
}
