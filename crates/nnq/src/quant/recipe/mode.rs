//! When grids of activations are found.
use serde::{Deserialize, Serialize};

/// When the grid of what a product reads is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationMode {
    /// By calibration: one grid for all inputs that will ever come.
    Static,
    /// At run time, from the extremes of the numbers that a product reads (`docs/numerics.md` section 11). Needs no data; what
    /// is not a product runs in floating point.
    Dynamic,
    /// The same, but matrix products and recurrent layers find a grid for each row that they read, the numbers along the last axis: per token, and for the state
    /// of each sample at each step. Results do not depend on what runs together.
    Token,
    /// Never: products read real numbers, and only their weights are codes (`docs/numerics.md` section 13). Needs no data.
    Float,
    /// As `static`, and what lies between products in integers, too: softmax, normalisations, products of two values, factors and biases
    /// (`docs/numerics.md` section 14). What sums and normalisations read has 16 bits.
    Integer,
}

impl ActivationMode {
    /// Whether grids are found at run time.
    pub fn is_dynamic(self) -> bool {
        matches!(self, Self::Dynamic | Self::Token)
    }
    /// As recipes name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
            Self::Token => "token",
            Self::Float => "float",
            Self::Integer => "integer",
        }
    }
    /// Whether calibration finds grids.
    pub(super) fn is_calibrated(self) -> bool {
        matches!(self, Self::Static | Self::Integer)
    }
}
