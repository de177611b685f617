//! RNN, GRU, LSTM.
use super::fact::{Args, Fact, same, show};
use crate::{
    error::{Error, Result},
    ir::{
        DType, Dim,
        op::{Cell, RecurrentAttrs},
    },
};

/// A size times a number.
fn times(d: &Dim, n: usize) -> Dim {
    match d {
        Dim::Fixed(d) => d.checked_mul(n).map_or(Dim::Unknown, Dim::Fixed),
        d if n == 1 => d.clone(),
        _ => Dim::Unknown,
    }
}

/// Input `i` has these sizes, as far as they are known.
fn fits(x: &Args, i: usize, what: &str, want: &[Dim]) -> Result<()> {
    let Some(have) = x.get(i).and_then(Fact::dims) else { return Ok(()) };
    if have.len() != want.len() || have.iter().zip(want).any(|(a, b)| same(a, b).is_err()) {
        return Err(Error::shape(format!("{what} {}, expected {}", show(have), show(want))));
    }
    Ok(())
}

pub(super) fn run(a: &RecurrentAttrs, x: &Args) -> Result<Vec<Fact>> {
    let dtype = x.same_dtype([0, 1, 2, 3, 5, 6, 7])?;
    if let Some(d) = x.dtype(4).filter(|d| *d != DType::I32) {
        return Err(Error::shape(format!("sequence_lens of {d}, expected i32")));
    }
    let (directions, gates) = (Dim::Fixed(a.direction.count()), a.cell.gates());
    let unknown = [Dim::Unknown, Dim::Unknown, Dim::Unknown];
    let cube = |i: usize, what: &str| match x.dims(i)? {
        None => Ok(unknown.clone()),
        Some([a, b, c]) => Ok([a.clone(), b.clone(), c.clone()]),
        Some(d) => Err(Error::shape(format!("{what} of rank {}, expected 3", d.len()))),
    };
    let [first, second, input] = cube(0, "the input")?;
    let (time, batch) = if a.batch_first { (second, first) } else { (first, second) };
    let [_, _, state] = cube(2, "R")?;
    let hidden = if a.hidden == 0 { state } else { Dim::Fixed(a.hidden) };
    if hidden == Dim::Fixed(0) {
        return Err(Error::shape("a state of size 0"));
    }
    let rows = times(&hidden, gates);
    fits(x, 1, "W", &[directions.clone(), rows.clone(), input])?;
    fits(x, 2, "R", &[directions.clone(), rows, hidden.clone()])?;
    fits(x, 3, "B", &[directions.clone(), times(&hidden, 2 * gates)])?;
    fits(x, 4, "sequence_lens", std::slice::from_ref(&batch))?;
    let states = if a.batch_first {
        vec![batch.clone(), directions.clone(), hidden.clone()]
    } else {
        vec![directions.clone(), batch.clone(), hidden.clone()]
    };
    fits(x, 5, "initial_h", &states)?;
    fits(x, 6, "initial_c", &states)?;
    fits(x, 7, "P", &[directions.clone(), times(&hidden, 3)])?;
    let y = if a.batch_first { vec![batch, time, directions, hidden] } else { vec![time, directions, batch, hidden] };
    let state = Fact::new(dtype, Some(states));
    let mut out = vec![Fact::new(dtype, Some(y)), state.clone()];
    if matches!(a.cell, Cell::Lstm { .. }) {
        out.push(state);
    }
    Ok(out)
}
