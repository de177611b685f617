//! What each unit costs on the metric: quantized alone, and left out of the quantized network.
use super::{Judge, Score};
use crate::{
    error::{At, Result},
    ir::Graph,
    quant::analysis::{Unit, mix},
    quantize::Progress,
};
use serde::Serialize;
use std::{collections::HashSet, sync::Arc};

/// A unit's two sensitivities.
#[derive(Clone, Debug, Serialize)]
pub struct Sensitivity {
    /// Only this unit is quantized.
    pub only: Score,
    /// All but this unit are, see [`mix::without`]; `None` where it is no node that can stay float.
    pub without: Option<Score>,
}

/// Measures every unit.
///
/// # Errors
/// Names the unit.
pub fn measure(
    judge: &Judge,
    float: &Graph,
    quantized: &Graph,
    units: &[&Unit],
    progress: &mut Progress,
) -> Result<Vec<Sensitivity>> {
    let total = units.len() as u64;
    let mut all = Vec::with_capacity(units.len());
    for (i, unit) in units.iter().enumerate() {
        progress("measuring layers", i as u64, total);
        let place = || format!("node '{}'", unit.node);
        let alone = mix::only(float, quantized, &[unit]).at(place)?;
        let only = judge.score(&Arc::new(alone)).at(place)?;
        let without = if unit.nodes.is_empty() {
            None
        } else {
            let rest = mix::without(float, quantized, &HashSet::from([unit.node.as_str()])).at(place)?;
            Some(judge.score(&Arc::new(rest)).at(place)?)
        };
        all.push(Sensitivity { only, without });
    }
    progress("measuring layers", total, total);
    Ok(all)
}
