//! RNN, GRU, LSTM: one product for the inputs of all times, then one for each step.
mod blocks;
mod cell;

use super::{
    Ctx, Inputs, args,
    product::{Real, Rows},
};
use crate::{
    error::{Error, Result},
    ir::{
        DType, Tensor,
        op::{Cell, Direction, RecurrentAttrs},
    },
};
pub(crate) use blocks::Blocks;
use cell::{Gates, Layer};
pub(crate) use cell::{bias, parts};

/// A product of rows with the transposed weights of one direction, and what is added to each row of it.
pub(crate) trait Product<T> {
    /// `out[i] = x[i] * w^T + start` for so many `rows`.
    ///
    /// # Errors
    /// Where the numbers have no product.
    fn run(&self, x: &[T], out: &mut [T], rows: usize, ctx: &Ctx) -> Result<()>;
}

/// The products of one direction: with the inputs of all times, and those of each step, by [`parts`].
pub(crate) struct Products<P> {
    pub input: P,
    pub state: Vec<P>,
}

/// A product in floating point: weights, what sums start from, and the sizes `[k, n]` of a row before and after.
struct Plain<'a, T> {
    weights: &'a Rows<T>,
    start: Option<Vec<T>>,
    sizes: [usize; 2],
}

impl<T: Real> Product<T> for Plain<'_, T> {
    fn run(&self, x: &[T], out: &mut [T], rows: usize, ctx: &Ctx) -> Result<()> {
        let [k, n] = self.sizes;
        self.weights.run(x, self.start.as_deref(), out, [rows, k, n], ctx);
        Ok(())
    }
}

/// Sizes, checked against all inputs.
struct Sizes {
    time: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    /// Rows of the weights of one direction.
    rows: usize,
    directions: usize,
    batch_first: bool,
}

impl Sizes {
    /// From the shapes of the inputs.
    ///
    /// # Errors
    /// When they do not fit each other.
    fn new(a: &RecurrentAttrs, x: &Inputs) -> Result<Self> {
        let (data, r) = (args::need(x, 0, "X")?, args::need(x, 2, "R")?);
        let &[first, second, input] = data.shape() else {
            return Err(Error::shape(format!("an input of shape {:?}, expected 3 axes", data.shape())));
        };
        let (time, batch) = if a.batch_first { (second, first) } else { (first, second) };
        let hidden = if a.hidden == 0 { r.shape().get(2).copied().unwrap_or(0) } else { a.hidden };
        if hidden == 0 {
            return Err(Error::shape("a state of size 0"));
        }
        let (directions, gates) = (a.direction.count(), a.cell.gates());
        let rows = hidden.checked_mul(gates).ok_or_else(|| Error::shape(format!("a state of size {hidden}")))?;
        let sizes = Self { time, batch, input, hidden, rows, directions, batch_first: a.batch_first };
        let expect = |i: usize, what: &str, want: &[usize]| match args::optional(x, i) {
            Some(t) if t.shape() != want => {
                Err(Error::shape(format!("{what} of shape {:?}, expected {want:?}", t.shape())))
            }
            // Weights may be codes: whoever reads them says what they are.
            Some(t) if !matches!(i, 1 | 2 | 4) => args::same_type(&[data, t]),
            _ => Ok(()),
        };
        args::need(x, 1, "W")?;
        expect(1, "W", &[directions, rows, input])?;
        expect(2, "R", &[directions, rows, hidden])?;
        expect(3, "B", &[directions, 2 * rows])?;
        expect(4, "sequence_lens", &[batch])?;
        expect(5, "initial_h", &sizes.state_shape())?;
        expect(6, "initial_c", &sizes.state_shape())?;
        expect(7, "P", &[directions, 3 * hidden])?;
        Ok(sizes)
    }
    fn state_shape(&self) -> Vec<usize> {
        let Self { batch, directions, hidden, .. } = *self;
        if self.batch_first { vec![batch, directions, hidden] } else { vec![directions, batch, hidden] }
    }
    fn output_shape(&self) -> Vec<usize> {
        let Self { time, batch, directions, hidden, .. } = *self;
        if self.batch_first { vec![batch, time, directions, hidden] } else { vec![time, directions, batch, hidden] }
    }
    /// Which of the input's rows.
    fn row(&self, time: usize, sample: usize) -> usize {
        if self.batch_first { sample * self.time + time } else { time * self.batch + sample }
    }
    /// Where a state begins in `initial_h` and `Y_h`.
    fn state(&self, direction: usize, sample: usize) -> usize {
        let at = if self.batch_first { sample * self.directions + direction } else { direction * self.batch + sample };
        at * self.hidden
    }
    /// Where a state begins in `Y`.
    fn output(&self, time: usize, direction: usize, sample: usize) -> usize {
        let at = if self.batch_first {
            (sample * self.time + time) * self.directions + direction
        } else {
            (time * self.directions + direction) * self.batch + sample
        };
        at * self.hidden
    }
}

/// `Y`, `Y_h` and, for LSTM, `Y_c`.
pub(super) fn run(a: &RecurrentAttrs, x: &Inputs, ctx: &Ctx) -> Result<Vec<Tensor>> {
    match args::need(x, 0, "X")?.dtype() {
        DType::F32 => typed::<f32>(a, x, ctx),
        DType::F64 => typed::<f64>(a, x, ctx),
        other => {
            args::by_f32_all(x, |x| typed::<f32>(a, x, ctx)).unwrap_or_else(|| args::not_on("a recurrent layer", other))
        }
    }
}

fn typed<T: Real>(a: &RecurrentAttrs, x: &Inputs, ctx: &Ctx) -> Result<Vec<Tensor>> {
    let sizes = Sizes::new(a, x)?;
    let Sizes { hidden, rows, directions, .. } = sizes;
    let (w, r) = (args::need(x, 1, "W")?, args::need(x, 2, "R")?);
    args::same_type(&[args::need(x, 0, "X")?, w, r])?;
    let (w, r) = (w.as_slice::<T>()?, r.as_slice::<T>()?);
    let bias = args::optional(x, 3).map(Tensor::as_slice::<T>).transpose()?;
    let pack = |w: &[T], columns: usize| -> Vec<Vec<Rows<T>>> {
        let one = |d: usize| {
            let parts = cell::parts(a.cell);
            let from = |part: usize| (d * rows + parts[..part].iter().sum::<usize>() * hidden) * columns;
            let of = |(part, &gates): (usize, &usize)| {
                Rows::pack(&w[from(part)..][..gates * hidden * columns], gates * hidden, columns)
            };
            parts.iter().enumerate().map(of).collect()
        };
        (0..directions).map(one).collect()
    };
    let whole = |w: &[T]| -> Vec<Rows<T>> {
        (0..directions)
            .map(|d| Rows::pack(&w[d * rows * sizes.input..][..rows * sizes.input], rows, sizes.input))
            .collect()
    };
    let (wx, wr) = (ctx.keep(1, || whole(w)), ctx.keep(2, || pack(r, hidden)));
    let products: Vec<Products<Plain<T>>> = (0..directions)
        .map(|d| {
            let (begin, mut recurrent) = cell::bias(a.cell, bias.map(|b| &b[d * 2 * rows..][..2 * rows]), rows, hidden);
            let input = Plain { weights: &wx[d], start: begin, sizes: [sizes.input, rows] };
            let part = |(weights, &gates): (_, &usize)| Plain {
                weights,
                start: recurrent.take(),
                sizes: [hidden, gates * hidden],
            };
            Products { input, state: wr[d].iter().zip(cell::parts(a.cell)).map(part).collect() }
        })
        .collect();
    walk(a, &sizes, x, &products, ctx)
}

/// [`run`] on binary32 with other products, one for each direction. `make` is given the rows of those with the inputs, and of those with the states;
/// inputs 1 and 2 say the shapes of the weights.
///
/// # Errors
/// As [`run`], and what products and `make` answer.
pub(crate) fn run_with<P: Product<f32>>(
    a: &RecurrentAttrs,
    x: &Inputs,
    ctx: &Ctx,
    make: impl FnOnce([usize; 2]) -> Result<Vec<Products<P>>>,
) -> Result<Vec<Tensor>> {
    let sizes = Sizes::new(a, x)?;
    args::room(&[sizes.time, sizes.batch, sizes.rows])?;
    let products = make([sizes.time * sizes.batch, sizes.batch])?;
    walk(a, &sizes, x, &products, ctx)
}

fn walk<T: Real, P: Product<T>>(
    a: &RecurrentAttrs,
    sizes: &Sizes,
    x: &Inputs,
    products: &[Products<P>],
    ctx: &Ctx,
) -> Result<Vec<Tensor>> {
    let &Sizes { time, batch, hidden, rows, .. } = sizes;
    let slice = |i: usize| args::optional(x, i).map(Tensor::as_slice::<T>).transpose();
    let lengths = lengths(sizes, x)?;
    let data = args::need(x, 0, "X")?.as_slice::<T>()?;
    let peepholes = slice(7)?;
    let mut y = T::take(ctx, args::room(&sizes.output_shape())?);
    // Times behind the end of a sample's sequence.
    y.fill(T::ZERO);
    let n = args::room(&sizes.state_shape())?;
    let states = [slice(5)?, slice(6)?];
    let mut last = states.map(|_| vec![T::ZERO; n]);
    let mut inputs = T::take(ctx, args::room(&[time, batch, rows])?);
    for (d, Products { input, state }) in products.iter().enumerate() {
        input.run(data, &mut inputs, time * batch, ctx)?;
        let mut layer = Layer {
            gates: Gates {
                cell: a.cell,
                functions: a.functions_of(d),
                clip: a.clip.map(T::from_f32),
                peepholes: peepholes.map(|p| &p[d * 3 * hidden..][..3 * hidden]),
                hidden,
            },
            weights: state,
            rows,
            sums: vec![T::ZERO; batch * rows],
            gated: vec![T::ZERO; batch * hidden],
            ctx,
        };
        let start = |from: Option<&[T]>| {
            let one = |b: usize| from.map(|s| &s[sizes.state(d, b)..][..hidden]);
            (0..batch).flat_map(|b| one(b).map_or_else(|| vec![T::ZERO; hidden], <[T]>::to_vec)).collect::<Vec<T>>()
        };
        let (mut h, mut c) = (start(states[0]), start(states[1]));
        let reverse = a.direction == Direction::Reverse || d == 1;
        for step in 0..lengths.iter().copied().max().unwrap_or(0) {
            let time = |b: usize| (step < lengths[b]).then(|| if reverse { lengths[b] - 1 - step } else { step });
            let row = |b: usize| time(b).map(|t| &inputs[sizes.row(t, b) * rows..][..rows]);
            layer.step(&row, &mut h, &mut c)?;
            for b in 0..batch {
                if let Some(t) = time(b) {
                    y[sizes.output(t, d, b)..][..hidden].copy_from_slice(&h[b * hidden..][..hidden]);
                }
            }
        }
        for (last, state) in last.iter_mut().zip([&h, &c]) {
            for (b, state) in state.chunks_exact(hidden).enumerate() {
                last[sizes.state(d, b)..][..hidden].copy_from_slice(state);
            }
        }
    }
    T::give(ctx, inputs);
    let [h, c] = last.map(|v| Tensor::of(&sizes.state_shape(), v));
    let mut out = vec![Tensor::new(sizes.output_shape(), T::wrap(y.into()))?, h];
    if matches!(a.cell, Cell::Lstm { .. }) {
        out.push(c);
    }
    Ok(out)
}

/// How many steps each sample has.
fn lengths(sizes: &Sizes, x: &Inputs) -> Result<Vec<usize>> {
    let Some(t) = args::optional(x, 4) else { return Ok(vec![sizes.time; sizes.batch]) };
    let fits = |&n: &i64| usize::try_from(n).ok().filter(|&n| n <= sizes.time);
    let one =
        |n: &i64| fits(n).ok_or_else(|| Error::value(format!("a sequence of length {n} of {} times", sizes.time)));
    t.to_i64s().map_err(|e| e.at("sequence_lens"))?.iter().map(one).collect()
}
