//! One step of a recurrent layer.
use super::{
    super::{Ctx, product::Real, unary},
    Product,
};
use crate::{
    error::Result,
    ir::op::{Cell, Gate, Unary},
};
use rayon::prelude::*;

/// Multiplications that a function of a gate takes as long as.
const FUNCTION: usize = 32;

/// Gates whose products with the state are taken at once: those of a GRU's candidate state may have to wait for the others.
pub fn parts(cell: Cell) -> &'static [usize] {
    match cell {
        Cell::Rnn => &[1],
        Cell::Gru { linear_before_reset: true } => &[3],
        Cell::Gru { linear_before_reset: false } => &[2, 1],
        Cell::Lstm { .. } => &[4],
    }
}

/// Where the sums over the input start, and where those over the state do. The two biases are added up front, except where the reset
/// gate is between them.
pub fn bias<T: Real>(cell: Cell, bias: Option<&[T]>, rows: usize, hidden: usize) -> (Option<Vec<T>>, Option<Vec<T>>) {
    let Some((w, r)) = bias.map(|b| b.split_at(rows)) else { return (None, None) };
    let mut sum: Vec<T> = w.iter().zip(r).map(|(&w, &r)| w + r).collect();
    if cell != (Cell::Gru { linear_before_reset: true }) {
        return (Some(sum), None);
    }
    sum[2 * hidden..].copy_from_slice(&w[2 * hidden..]);
    let mut state = vec![T::ZERO; rows];
    state[2 * hidden..].copy_from_slice(&r[2 * hidden..]);
    (Some(sum), Some(state))
}

/// What becomes of the sums of one sample.
pub struct Gates<'a, T> {
    pub cell: Cell,
    pub functions: &'a [Gate],
    pub clip: Option<T>,
    /// Of input, output and forget gate.
    pub peepholes: Option<&'a [T]>,
    pub hidden: usize,
}

/// One direction of a layer.
pub struct Layer<'a, T, P> {
    pub gates: Gates<'a, T>,
    /// By [`parts`].
    pub weights: &'a [P],
    pub rows: usize,
    /// Room for the products with the state, a row for each sample, and for another state.
    pub sums: Vec<T>,
    pub gated: Vec<T>,
    pub ctx: &'a Ctx,
}

/// What belongs to one sample: the sums of its state, room for another state, and its states.
struct Sample<'s, T> {
    sums: &'s mut [T],
    gated: &'s mut [T],
    h: &'s mut [T],
    c: &'s mut [T],
}

impl<T: Real> Gates<'_, T> {
    /// `f(clamp(x))`.
    fn apply(&self, function: usize, x: &mut [T]) {
        if let Some(clip) = self.clip {
            let low = T::ZERO - clip;
            for x in x.iter_mut() {
                *x = if *x < low { low } else { *x };
                *x = if *x > clip { clip } else { *x };
            }
        }
        match self.functions[function] {
            Gate::Unary(u) => unary::on_slice(u, x),
            Gate::Affine { alpha, beta } => {
                let (alpha, beta) = (T::from_f32(alpha), T::from_f32(beta));
                x.iter_mut().for_each(|x| *x = alpha * *x + beta);
            }
            Gate::ScaledTanh { alpha, beta } => {
                let (alpha, beta) = (T::from_f32(alpha), T::from_f32(beta));
                x.iter_mut().for_each(|x| *x = beta * *x);
                unary::on_slice(Unary::Tanh, x);
                x.iter_mut().for_each(|x| *x = alpha * *x);
            }
        }
    }

    /// What follows the first product, for a sample with these sums over its input.
    fn first(&self, input: &[T], Sample { sums, gated, h, c }: Sample<'_, T>) {
        let hidden = self.hidden;
        match self.cell {
            Cell::Rnn => {
                add(sums, input);
                self.apply(0, sums);
                h.copy_from_slice(sums);
            }
            Cell::Lstm { input_forget } => {
                add(sums, input);
                self.lstm(input_forget, sums, gated, h, c);
            }
            Cell::Gru { linear_before_reset } => {
                let (zr, n) = sums.split_at_mut(2 * hidden);
                add(zr, &input[..2 * hidden]);
                self.apply(0, zr);
                let (z, r) = zr.split_at(hidden);
                if linear_before_reset {
                    for ((n, &r), &x) in n.iter_mut().zip(r).zip(&input[2 * hidden..]) {
                        *n = x + r * *n;
                    }
                    self.apply(1, n);
                    mix(h, z, n);
                } else {
                    for ((g, &r), &h) in gated.iter_mut().zip(r).zip(h.iter()) {
                        *g = r * h;
                    }
                }
            }
        }
    }

    /// What follows the second product of a GRU.
    fn second(&self, input: &[T], h: &mut [T], z: &[T], n: &mut [T]) {
        add(n, &input[2 * self.hidden..]);
        self.apply(1, n);
        mix(h, &z[..self.hidden], n);
    }

    /// `sums` are those of the gates `i o f n`; `room` is as large as a state.
    fn lstm(&self, input_forget: bool, sums: &mut [T], room: &mut [T], h: &mut [T], c: &mut [T]) {
        let hidden = self.hidden;
        let (gates, n) = sums.split_at_mut(3 * hidden);
        let peep = |gate: &mut [T], i: usize, c: &[T]| {
            if let Some(p) = self.peepholes {
                for ((g, &p), &c) in gate.iter_mut().zip(&p[i * hidden..]).zip(c) {
                    *g = *g + p * c;
                }
            }
        };
        peep(&mut gates[..hidden], 0, c);
        peep(&mut gates[2 * hidden..], 2, c);
        if self.peepholes.is_none() {
            self.apply(0, gates);
        } else {
            // The output gate looks at the state that is yet to come.
            self.apply(0, &mut gates[..hidden]);
            self.apply(0, &mut gates[2 * hidden..]);
        }
        self.apply(1, n);
        let (io, f) = gates.split_at_mut(2 * hidden);
        let (i, o) = io.split_at_mut(hidden);
        if input_forget {
            f.iter_mut().zip(i.iter()).for_each(|(f, &i)| *f = T::from_f32(1.0) - i);
        }
        for (((c, &f), &i), &n) in c.iter_mut().zip(f.iter()).zip(i.iter()).zip(n.iter()) {
            *c = f * *c + i * n;
        }
        if self.peepholes.is_some() {
            peep(o, 1, c);
            self.apply(0, o);
        }
        room.copy_from_slice(c);
        self.apply(2, room);
        for ((h, &o), &x) in h.iter_mut().zip(o.iter()).zip(room.iter()) {
            *h = o * x;
        }
    }
}

impl<T: Real, P: Product<T>> Layer<'_, T, P> {
    /// One step. `input` has a sample's sums over its input, or nothing when the sample has ended and keeps its state.
    pub fn step<'x>(
        &mut self,
        input: &(dyn Fn(usize) -> Option<&'x [T]> + Sync),
        h: &mut [T],
        c: &mut [T],
    ) -> Result<()>
    where
        T: 'x,
    {
        let (gates, hidden) = (&self.gates, self.gates.hidden);
        let batch = h.len() / hidden;
        let mut sums = std::mem::take(&mut self.sums);
        let first = parts(gates.cell)[0] * hidden;
        self.weights[0].run(h, &mut sums[..batch * first], batch, self.ctx)?;
        let mut gated = std::mem::take(&mut self.gated);
        // Samples that a task takes: functions of gates are work, too.
        let some = batch.div_ceil(self.ctx.tasks(batch * first * FUNCTION)).max(1);
        let one = |(b, sample): (usize, Sample<T>)| {
            if let Some(input) = input(b) {
                gates.first(input, sample);
            }
        };
        let sample = |((sums, gated), (h, c))| Sample { sums, gated, h, c };
        if some >= batch {
            let of = sums.chunks_exact_mut(first).zip(gated.chunks_exact_mut(hidden));
            let states = h.chunks_exact_mut(hidden).zip(c.chunks_exact_mut(hidden));
            of.zip(states).map(sample).enumerate().for_each(one);
        } else {
            let of = sums.par_chunks_exact_mut(first).zip(gated.par_chunks_exact_mut(hidden));
            let states = h.par_chunks_exact_mut(hidden).zip(c.par_chunks_exact_mut(hidden));
            of.zip(states).map(sample).enumerate().with_min_len(some).for_each(one);
        }
        if gates.cell == (Cell::Gru { linear_before_reset: false }) {
            let (zr, n) = sums.split_at_mut(batch * 2 * hidden);
            self.weights[1].run(&gated, n, batch, self.ctx)?;
            for (b, (h, n)) in h.chunks_exact_mut(hidden).zip(n.chunks_exact_mut(hidden)).enumerate() {
                let Some(input) = input(b) else { continue };
                gates.second(input, h, &zr[b * 2 * hidden..], n);
            }
        }
        debug_assert_eq!(sums.len(), batch * self.rows);
        (self.sums, self.gated) = (sums, gated);
        Ok(())
    }
}

fn add<T: Real>(to: &mut [T], x: &[T]) {
    to.iter_mut().zip(x).for_each(|(to, &x)| *to = *to + x);
}

/// `h = (1 - z) * n + z * h`.
fn mix<T: Real>(h: &mut [T], z: &[T], n: &[T]) {
    for ((h, &z), &n) in h.iter_mut().zip(z).zip(n) {
        *h = (T::from_f32(1.0) - z) * n + z * *h;
    }
}
