//! Other ways to quantize, as changes of a recipe.
use super::{ActivationMode, BiasCorrection, Recipe, Rounding, WeightGranularity, WeightRange};

impl Recipe {
    /// From here on only weights become codes. Below 8 bits they get what few bits need: zero points, and, where nothing else is asked for, a scale for each
    /// run of 32 inputs that makes the mean square error small.
    pub fn only_weights(&mut self, granularity: Option<WeightGranularity>, range: Option<WeightRange>) {
        self.activation.mode = ActivationMode::Float;
        if self.weight.bits < 8 {
            self.weight.symmetric = false;
            self.weight.granularity = granularity.unwrap_or(WeightGranularity::Block(32));
            self.weight.range = range.unwrap_or(WeightRange::Mse { p: 2.4 });
        }
    }
    /// From here on each weight is rounded by itself, and nothing makes up for errors: what needs no layer before it to be done.
    pub fn at_once(&mut self) {
        (self.compensate, self.reestimate, self.correct_bias) = (false, false, BiasCorrection::Off);
        self.weight.rounding = Rounding::Nearest;
        for change in self.layers.iter_mut().filter_map(|o| o.weight.as_mut()) {
            change.rounding = None;
        }
    }
}
