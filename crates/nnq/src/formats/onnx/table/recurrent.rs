//! RNN, GRU, LSTM.
use super::{Attrs, In, Row, opt, req, row, wrong};
use crate::{
    error::{Error, Result},
    ir::{
        Op,
        op::{Cell, Direction, Gate, RecurrentAttrs, Unary},
    },
};

const STATE: &[In] = &[req("X"), req("W"), req("R"), opt("B"), opt("sequence_lens"), opt("initial_h")];
const STATES: &[In] =
    &[req("X"), req("W"), req("R"), opt("B"), opt("sequence_lens"), opt("initial_h"), opt("initial_c"), opt("P")];
const DIRECTIONS: &[(&str, Direction)] =
    &[("forward", Direction::Forward), ("reverse", Direction::Reverse), ("bidirectional", Direction::Bidirectional)];

/// What the format knows of a function: its name, the default of alpha and of beta where it has them, and how it is made.
type Known = (&'static str, Option<f32>, Option<f32>, fn(f32, f32) -> Gate);

const FUNCTIONS: &[Known] = &[
    ("Relu", None, None, |_, _| Gate::Unary(Unary::Relu)),
    ("Tanh", None, None, |_, _| Gate::Unary(Unary::Tanh)),
    ("Sigmoid", None, None, |_, _| Gate::Unary(Unary::Sigmoid)),
    ("Softsign", None, None, |_, _| Gate::Unary(Unary::Softsign)),
    ("Softplus", None, None, |_, _| Gate::Unary(Unary::Softplus)),
    ("Elu", Some(1.0), None, |alpha, _| Gate::Unary(Unary::Elu { alpha })),
    ("LeakyRelu", Some(0.01), None, |alpha, _| Gate::Unary(Unary::LeakyRelu { alpha })),
    ("ThresholdedRelu", Some(1.0), None, |alpha, _| Gate::Unary(Unary::ThresholdedRelu { alpha })),
    ("HardSigmoid", Some(0.2), Some(0.5), |alpha, beta| Gate::Unary(Unary::HardSigmoid { alpha, beta })),
    ("Affine", Some(1.0), Some(0.0), |alpha, beta| Gate::Affine { alpha, beta }),
    ("ScaledTanh", Some(1.0), Some(1.0), |alpha, beta| Gate::ScaledTanh { alpha, beta }),
];

/// Name, alpha and beta.
fn describe(gate: Gate) -> Result<(&'static str, Option<f32>, Option<f32>)> {
    Ok(match gate {
        Gate::Affine { alpha, beta } => ("Affine", Some(alpha), Some(beta)),
        Gate::ScaledTanh { alpha, beta } => ("ScaledTanh", Some(alpha), Some(beta)),
        Gate::Unary(u) => match u {
            Unary::HardSigmoid { alpha, beta } => ("HardSigmoid", Some(alpha), Some(beta)),
            Unary::Elu { alpha } | Unary::LeakyRelu { alpha } | Unary::ThresholdedRelu { alpha } => {
                (u.name(), Some(alpha), None)
            }
            Unary::Relu | Unary::Tanh | Unary::Sigmoid | Unary::Softsign | Unary::Softplus => (u.name(), None, None),
            other => return Err(Error::internal(format!("{other:?} as the function of a gate"))),
        },
    })
}

/// `activation_alpha` and `activation_beta` go, in order, to the functions that have such a parameter.
fn functions(r: &mut RecurrentAttrs, a: &mut Attrs) -> Result<()> {
    let default: Vec<Gate> = r.cell.default_functions().repeat(r.direction.count());
    let (mut names, mut alphas, mut betas) = (Vec::new(), Vec::new(), Vec::new());
    if !r.functions.is_empty() {
        for &gate in &r.functions {
            let (name, alpha, beta) = describe(gate)?;
            names.push(name.to_owned());
            alphas.extend(alpha);
            betas.extend(beta);
        }
    }
    a.words("activations", &mut names)?;
    a.floats("activation_alpha", &mut alphas)?;
    a.floats("activation_beta", &mut betas)?;
    if !a.is_reading() {
        return Ok(());
    }
    r.functions = Vec::new();
    if names.is_empty() {
        return Ok(());
    }
    if names.len() != default.len() {
        return Err(Error::malformed(format!(
            "attribute 'activations' names {} functions, expected {}",
            names.len(),
            default.len()
        )));
    }
    let (mut alphas, mut betas) = (alphas.into_iter(), betas.into_iter());
    for name in &names {
        // Runtimes do not look at the case.
        let known = FUNCTIONS.iter().find(|f| f.0.eq_ignore_ascii_case(name));
        let &(_, alpha, beta, make) = known.ok_or_else(|| {
            let known: Vec<_> = FUNCTIONS.iter().map(|f| f.0).collect();
            Error::unsupported(format!("attribute 'activations' names '{name}', known are {known:?}"))
        })?;
        let alpha = alpha.map_or(0.0, |d| alphas.next().unwrap_or(d));
        let beta = beta.map_or(0.0, |d| betas.next().unwrap_or(d));
        r.functions.push(make(alpha, beta));
    }
    if r.functions == default {
        r.functions = Vec::new();
    }
    Ok(())
}

fn recurrent(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Recurrent(r) = op else { return wrong(op) };
    a.choice("direction", Direction::Forward, DIRECTIONS, &mut r.direction)?;
    a.size("hidden_size", 0, &mut r.hidden)?;
    if a.is_reading() && r.hidden == 0 {
        // Files may leave it out; runtimes want it.
        r.hidden = a.constant(2).and_then(|t| t.shape().get(2).copied()).unwrap_or(0);
    }
    a.maybe_float("clip", &mut r.clip)?;
    a.flag(("layout", 14), false, &mut r.batch_first)?;
    match &mut r.cell {
        Cell::Rnn => {}
        Cell::Gru { linear_before_reset } => a.flag("linear_before_reset", false, linear_before_reset)?,
        Cell::Lstm { input_forget } => a.flag("input_forget", false, input_forget)?,
    }
    // Of opset 1; all outputs are optional since.
    a.ignore("output_sequence");
    functions(r, a)
}

pub(super) const ROWS: &[Row] = &[
    row("RNN", 7, STATE, || Op::Recurrent(RecurrentAttrs::new(Cell::Rnn)), recurrent).outputs(1, 2),
    row("GRU", 7, STATE, || Op::Recurrent(RecurrentAttrs::new(Cell::Gru { linear_before_reset: false })), recurrent)
        .outputs(1, 2),
    row("LSTM", 7, STATES, || Op::Recurrent(RecurrentAttrs::new(Cell::Lstm { input_forget: false })), recurrent)
        .outputs(1, 3),
];
