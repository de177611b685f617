//! Recurrent layers, step by step through time.
use super::{Values, arrange::along, elementwise, no_gradient};
use crate::backend::{self, Kernels, Var};
use burn::backend::{Autodiff, ops::FloatTensorOps as _};
use nnq::{
    Error, Result,
    ir::{
        Node,
        op::{Cell, Direction, Gate, RecurrentAttrs},
    },
};

type A<B> = Autodiff<B>;

/// Inputs of the operator that have no gradient here.
const REFUSED: [(usize, &str); 2] = [(4, "lengths of sequences"), (7, "peepholes")];

/// What one direction computes with.
struct Layer<'a, B: Kernels> {
    attrs: &'a RecurrentAttrs,
    functions: &'a [Gate],
    /// Transposed: a row for each number of the input, and of the state.
    input: Var<B>,
    state: Var<B>,
    /// Those of input and state, `[1, gates x hidden]`.
    bias: Option<[Var<B>; 2]>,
    hidden: usize,
}

impl<B: Kernels> Layer<'_, B> {
    fn gate(&self, function: usize, x: Var<B>) -> Result<Var<B>> {
        let Some(Gate::Unary(f)) = self.functions.get(function) else {
            return Err(Error::unsupported("a function of a gate that has no gradient here"));
        };
        elementwise::unary(x, *f).ok_or_else(|| Error::unsupported(format!("{f:?} as a gate has no gradient here")))
    }
    /// Columns of the gates `from..to`.
    fn columns(&self, x: &Var<B>, from: usize, to: usize) -> Var<B> {
        let s = backend::dims::<B>(x);
        A::<B>::float_slice(x.clone(), &along(&s, 1, from * self.hidden..to * self.hidden))
    }
    /// `x` times the weights of the input with its bias.
    fn inputs(&self, x: Var<B>) -> Var<B> {
        let y = A::<B>::float_matmul(x, self.input.clone());
        self.bias.as_ref().map_or(y.clone(), |[b, _]| A::<B>::float_add(y, b.clone()))
    }
    /// The next state of a sample in each row.
    fn step(&self, x: Var<B>, h: Var<B>, c: Option<Var<B>>) -> Result<(Var<B>, Option<Var<B>>)> {
        let sums = self.inputs(x);
        let bias = |from, to| self.bias.as_ref().map(|[_, b]| self.columns(b, from, to));
        let added = |x: Var<B>, b: Option<Var<B>>| b.map_or(x.clone(), |b| A::<B>::float_add(x, b));
        let product =
            |h: Var<B>, from, to| added(A::<B>::float_matmul(h, self.columns(&self.state, from, to)), bias(from, to));
        let (add, mul, sub) = (A::<B>::float_add, A::<B>::float_mul, A::<B>::float_sub);
        match self.attrs.cell {
            Cell::Rnn => Ok((self.gate(0, add(sums, product(h, 0, 1)))?, None)),
            Cell::Gru { linear_before_reset } => {
                let both = add(self.columns(&sums, 0, 2), product(h.clone(), 0, 2));
                let both = self.gate(0, both)?;
                let (z, r) = (self.columns(&both, 0, 1), self.columns(&both, 1, 2));
                let more = match linear_before_reset {
                    true => mul(r, product(h.clone(), 2, 3)),
                    false => product(mul(r, h.clone()), 2, 3),
                };
                let n = self.gate(1, add(self.columns(&sums, 2, 3), more))?;
                // (1 - z) n + z h
                Ok((add(n.clone(), mul(z, sub(h, n))), None))
            }
            Cell::Lstm { input_forget } => {
                let c = c.ok_or_else(|| Error::internal("a cell without its state"))?;
                let sums = add(sums, product(h, 0, 4));
                let gates = self.gate(0, self.columns(&sums, 0, 3))?;
                let (i, o, f) = (self.columns(&gates, 0, 1), self.columns(&gates, 1, 2), self.columns(&gates, 2, 3));
                let n = self.gate(1, self.columns(&sums, 3, 4))?;
                let kept = match input_forget {
                    // (1 - i) c
                    true => sub(c.clone(), mul(i.clone(), c)),
                    false => mul(f, c),
                };
                let c = add(kept, mul(i, n));
                Ok((mul(o, self.gate(2, c.clone())?), Some(c)))
            }
        }
    }
}

/// `Y`, `Y_h` and, for LSTM, `Y_c`.
pub(super) fn run<B: Kernels>(values: &Values<B>, node: &Node, attrs: &RecurrentAttrs) -> Result<Vec<Var<B>>> {
    if let Some((_, what)) = REFUSED.iter().find(|(i, _)| node.input(*i).is_some()) {
        return Err(Error::unsupported(format!("{what} of a recurrent layer have no gradient here"))
            .cure("export the network without them, or quantize it without training: nnq quantize"));
    }
    if attrs.clip.is_some() {
        return Err(no_gradient(node));
    }
    // Time first.
    let first = |x: Var<B>| if attrs.batch_first { A::<B>::float_swap_dims(x, 0, 1) } else { x };
    let x = first(values.input(node, 0)?);
    let (w, r) = (values.input(node, 1)?, values.input(node, 2)?);
    let bias = values.optional(node, 3)?;
    let (sx, sr) = (backend::dims::<B>(&x), backend::dims::<B>(&r));
    let (&[time, batch, width], Some(&hidden)) = (&sx[..], sr.get(2)) else {
        return Err(Error::shape(format!("an input of shape {sx:?} and weights of {sr:?}, expected 3 axes")));
    };
    let (directions, rows) = (attrs.direction.count(), attrs.cell.gates() * hidden);
    let fits = backend::dims::<B>(&w) == [directions, rows, width] && sr == [directions, rows, hidden];
    if !fits || time == 0 || bias.as_ref().is_some_and(|b| backend::dims::<B>(b) != [directions, 2 * rows]) {
        let cause = format!("input {sx:?}, weights {:?} and {sr:?}, {directions} directions", backend::dims::<B>(&w));
        return Err(Error::shape(cause));
    }
    let is_lstm = matches!(attrs.cell, Cell::Lstm { .. });
    let starts = [5, 6].map(|i| values.optional(node, i));
    let [start_h, start_c] = starts;
    let (start_h, start_c) = (start_h?.map(first), start_c?.map(first));
    let state = |of: &Option<Var<B>>, d: usize| -> Result<Var<B>> {
        let Some(t) = of else {
            let zeros = backend::tensor::<B>(vec![0.0; batch * hidden], &[batch, hidden], values.forward.device);
            return Ok(backend::constant::<B>(zeros));
        };
        let s = backend::dims::<B>(t);
        // One that is the same for all samples stands in files that were traced with one.
        let wide = s.get(1).copied().unwrap_or(0);
        if s.len() != 3 || s[0] != directions || s[2] != hidden || (wide != batch && wide != 1) {
            return Err(Error::shape(format!(
                "a first state of shape {s:?}, expected {:?}",
                [directions, batch, hidden]
            )));
        }
        let one = A::<B>::float_slice(t.clone(), &along(&s, 0, d..d + 1));
        let one = backend::reshaped::<B>(one, &[wide, hidden]);
        Ok(if wide == batch { one } else { A::<B>::float_expand(one, [batch, hidden].into()) })
    };
    let (mut outputs, mut last_h, mut last_c) = (Vec::new(), Vec::new(), Vec::new());
    for d in 0..directions {
        let one = |t: &Var<B>| {
            let s = backend::dims::<B>(t);
            backend::reshaped::<B>(A::<B>::float_slice(t.clone(), &along(&s, 0, d..d + 1)), &s[1..])
        };
        let both = bias.as_ref().map(one).map(|b| {
            let b = backend::reshaped::<B>(b, &[1, 2 * rows]);
            [0, rows].map(|at| A::<B>::float_slice(b.clone(), &along(&[1, 2 * rows], 1, at..at + rows)))
        });
        let layer = Layer {
            attrs,
            functions: attrs.functions_of(d),
            input: A::<B>::float_swap_dims(one(&w), 0, 1),
            state: A::<B>::float_swap_dims(one(&r), 0, 1),
            bias: both,
            hidden,
        };
        let (mut h, mut c) = (state(&start_h, d)?, is_lstm.then(|| state(&start_c, d)).transpose()?);
        let backwards = attrs.direction == Direction::Reverse || d == 1;
        let mut steps: Vec<Option<Var<B>>> = vec![None; time];
        for k in 0..time {
            let t = if backwards { time - 1 - k } else { k };
            let x = A::<B>::float_slice(x.clone(), &along(&sx, 0, t..t + 1));
            (h, c) = layer.step(backend::reshaped::<B>(x, &[batch, width]), h, c)?;
            steps[t] = Some(backend::reshaped::<B>(h.clone(), &[1, 1, batch, hidden]));
        }
        outputs.push(A::<B>::float_cat(steps.into_iter().flatten().collect(), 0));
        let lead = |x: Var<B>| backend::reshaped::<B>(x, &[1, batch, hidden]);
        last_h.push(lead(h));
        last_c.extend(c.map(lead));
    }
    let y = A::<B>::float_cat(outputs, 1);
    let y = match attrs.batch_first {
        // Batch, time, direction.
        true => A::<B>::float_permute(y, &[2, 0, 1, 3]),
        false => y,
    };
    let states = |all: Vec<Var<B>>| first(A::<B>::float_cat(all, 0));
    let mut all = vec![y, states(last_h)];
    if !last_c.is_empty() {
        all.push(states(last_c));
    }
    Ok(all)
}
