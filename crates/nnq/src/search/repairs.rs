//! What can be done for accuracy, cheapest first.
use crate::quant::{
    range::RangeMethod,
    recipe::{ActivationChange, BiasCorrection, Edge, Override, Recipe, SumOperands, WeightChange, WeightGranularity},
    rounder::Rounding,
    weights::WeightRange,
};
use serde::Serialize;

/// What a repair costs the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// Nothing but the quantization itself.
    Nothing,
    /// Quantization takes longer: layer by layer.
    Patience,
    /// The network becomes larger or slower.
    Speed,
}

/// A change of a recipe: one of several ways, of which the best is taken.
pub struct Repair {
    /// What it costs.
    pub cost: Cost,
    /// The ways, each as it is asked for.
    pub ways: Vec<(String, Recipe)>,
}

/// Repairs of the whole network that would change `recipe`, cheapest first.
pub fn general(recipe: &Recipe) -> Vec<Repair> {
    let way = |text: &str, change: &dyn Fn(&mut Recipe)| {
        let mut new = recipe.clone();
        change(&mut new);
        (text.to_owned(), new)
    };
    let narrow = recipe.weight.bits < 8 || recipe.activation.bits < 8;
    let layers = |r: &mut Recipe| {
        (r.compensate, r.correct_bias, r.weight.rounding) = (true, BiasCorrection::Empirical, Rounding::Descent)
    };
    let eight = |r: &mut Recipe| {
        (r.first, r.last, r.sum_operands) = (Edge::EightBit, Edge::EightBit, SumOperands::EightBit);
    };
    let all = [
        (
            Cost::Nothing,
            vec![way("--granularity channel", &|r| {
                if r.weight.granularity == WeightGranularity::Tensor {
                    r.weight.granularity = WeightGranularity::Channel;
                }
            })],
        ),
        (
            Cost::Nothing,
            vec![
                way("--range norm", &|r| r.activation.range = RangeMethod::Norm),
                way("--range mse", &|r| r.activation.range = RangeMethod::Mse { p: 2.4 }),
                way("--range percentile:99.99", &|r| r.activation.range = RangeMethod::Percentile { p: 99.99 }),
                way("--range output", &|r| r.activation.range = RangeMethod::Output),
                way("--range minmax", &|r| r.activation.range = RangeMethod::MinMax),
            ],
        ),
        (Cost::Nothing, vec![way("--weight-range mse", &|r| r.weight.range = WeightRange::Mse { p: 2.4 })]),
        (Cost::Nothing, vec![way("--equalize", &|r| r.equalize = true)]),
        (Cost::Patience, vec![way("--correct-bias", &|r| r.correct_bias = BiasCorrection::Empirical)]),
        (Cost::Patience, vec![way("--rounding descent --compensate --correct-bias", &layers)]),
        (Cost::Speed, if narrow { vec![way("first, last and sum_operands = \"8bit\"", &eight)] } else { Vec::new() }),
    ];
    let all = all.into_iter().map(|(cost, mut ways)| {
        ways.retain(|(_, new)| new != recipe);
        Repair { cost, ways }
    });
    all.filter(|r| !r.ways.is_empty()).collect()
}

/// How a single layer is spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spare {
    /// 8 bits for its weights and what it makes.
    EightBit,
    /// 16 bits for what it makes; what reads that runs in floating point here, and in integers on devices that have them.
    Wide,
    /// Floating point.
    Float,
}

impl Spare {
    /// `recipe` with these layers spared.
    pub fn apply(self, recipe: &Recipe, layers: &[String]) -> Recipe {
        let mut new = recipe.clone();
        new.layers.extend(layers.iter().map(|name| {
            let mut change = Override::named(name);
            match self {
                Self::Float => change.keep_float = Some(true),
                Self::Wide => {
                    change.activation = Some(ActivationChange { bits: Some(16), ..ActivationChange::default() });
                }
                Self::EightBit => {
                    change.weight = Some(WeightChange { bits: Some(8), ..WeightChange::default() });
                    change.activation = Some(ActivationChange { bits: Some(8), ..ActivationChange::default() });
                }
            }
            change
        }));
        new
    }
    /// As the user reads it.
    pub fn describe(self, layers: &[String]) -> String {
        let what = match self {
            Self::EightBit => "8 bits",
            Self::Wide => "activations of 16 bits",
            Self::Float => "floating point",
        };
        match layers {
            [one] => format!("{what} for '{one}'"),
            [first, ..] => format!("{what} for {} layers: '{first}' ...", layers.len()),
            [] => what.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_change_something_and_come_cheapest_first() {
        let bad = Recipe::from_toml("[activation]\nrange = \"minmax\"\n[weight]\ngranularity = \"tensor\"\n").unwrap();
        let repairs = general(&bad);
        assert!(repairs.iter().flat_map(|r| &r.ways).all(|(_, new)| new != &bad));
        assert!(repairs.is_sorted_by_key(|r| r.cost));
        let texts: Vec<&str> = repairs.iter().flat_map(|r| &r.ways).map(|(t, _)| t.as_str()).collect();
        assert!(texts.contains(&"--granularity channel") && !texts.contains(&"--range minmax"), "{texts:?}");
        // Everything is at 8 bits already.
        assert!(repairs.iter().all(|r| r.cost != Cost::Speed));
    }

    #[test]
    fn a_spared_layer_is_that_layer_only() {
        let recipe = Spare::Float.apply(&Recipe::default(), &["conv[0]*".into()]);
        let resolved = |name: &str| recipe.resolve(name, "Conv").unwrap().keep_float;
        assert!(resolved("conv[0]*") && !resolved("conv0x") && !resolved("conv[0]x"));
    }
}
