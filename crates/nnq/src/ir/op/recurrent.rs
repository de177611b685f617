//! Attributes of recurrent layers.
use super::Unary;

/// What a step of a recurrent layer computes.
///
/// With `x` the input at one time, `h` (and `c`) the state before it, `W`, `R` weights, `b` the sum of the biases of input and state, `*`
/// element by element:
/// - `Rnn`: `h' = f(W x + R h + b)`
/// - `Gru`: `z, r = f(W x + R h + b)`, `n = g(W x + R (r * h) + b)`, `h' = (1 - z) * n + z * h`; with `linear_before_reset`
///   `n = g(W x + b_w + r * (R h + b_r))` (Cho et al. 2014; the ONNX operator GRU)
/// - `Lstm`: `i, f = f(W x + R h + p * c + b)`, `n = g(W x + R h + b)`, `c' = f * c + i * n`, `o = f(W x + R h + p * c' + b)`,
///   `h' = o * h(c')`; with `input_forget` `f = 1 - i` (Hochreiter and Schmidhuber 1997, peepholes `p` by Gers and Schmidhuber 2000)
///
/// Weights lie gate by gate: `z r n` and `i o f n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cell {
    Rnn,
    Gru { linear_before_reset: bool },
    Lstm { input_forget: bool },
}

impl Cell {
    /// Gates: weights have so many times `hidden` rows.
    pub fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru { .. } => 3,
            Self::Lstm { .. } => 4,
        }
    }
    /// The operator's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rnn => "RNN",
            Self::Gru { .. } => "GRU",
            Self::Lstm { .. } => "LSTM",
        }
    }
    /// The functions of one direction unless the model names others.
    pub fn default_functions(self) -> &'static [Gate] {
        const SIGMOID: Gate = Gate::Unary(Unary::Sigmoid);
        const TANH: Gate = Gate::Unary(Unary::Tanh);
        match self {
            Self::Rnn => &[TANH],
            Self::Gru { .. } => &[SIGMOID, TANH],
            Self::Lstm { .. } => &[SIGMOID, TANH, TANH],
        }
    }
}

/// Which way a recurrent layer goes through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    Forward,
    Reverse,
    /// Forward, then reverse, each with weights of its own.
    Bidirectional,
}

impl Direction {
    /// How many directions there are.
    pub fn count(self) -> usize {
        if self == Self::Bidirectional { 2 } else { 1 }
    }
}

/// The function of a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Gate {
    Unary(Unary),
    /// `alpha * x + beta`
    Affine {
        alpha: f32,
        beta: f32,
    },
    /// `alpha * tanh(beta * x)`
    ScaledTanh {
        alpha: f32,
        beta: f32,
    },
}

/// Attributes of RNN, GRU and LSTM. Inputs: X, W, R, B?, sequence_lens?, initial_h?, and for LSTM initial_c?, P?. Outputs: Y?, Y_h?, and for
/// LSTM Y_c?.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurrentAttrs {
    /// What a step computes.
    pub cell: Cell,
    /// Which way it goes.
    pub direction: Direction,
    /// Size of the state; 0: as `R` says.
    pub hidden: usize,
    /// The functions of each direction, one direction after the other; empty: [`Cell::default_functions`].
    pub functions: Vec<Gate>,
    /// What functions are given is clamped to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// The batch is the first axis of input, output and states, not time (nor direction).
    pub batch_first: bool,
}

impl RecurrentAttrs {
    /// A layer with default functions.
    pub fn new(cell: Cell) -> Self {
        Self { cell, direction: Direction::Forward, hidden: 0, functions: Vec::new(), clip: None, batch_first: false }
    }
    /// The functions of one direction.
    pub fn functions_of(&self, direction: usize) -> &[Gate] {
        let default = self.cell.default_functions();
        self.functions.chunks_exact(default.len()).nth(direction).unwrap_or(default)
    }
}
